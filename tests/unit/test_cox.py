"""Cox models: equal to those of all rows in one place, or a reason, and what a site lets out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy import stats
from statsmodels.duration.hazard_regression import PHReg

from cox_world import (
    AGE,
    FEATURE,
    FIVE,
    KEY,
    SEX,
    SIZES,
    Site,
    cox,
    federation,
    measured,
    patients,
)
from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell
from jipflow.analyses.cox import Point
from jipflow.analyses.facts import Limits
from jipflow.analyses.newton import newton
from jipflow.release.gate import decide
from jipflow.release.saturation import Regions

BOTH = [AGE, SEX]


@pytest.fixture(scope="module")
def frames():
    """Three sites of unequal sizes, two of which lack some values."""
    found = [patients(i, n) for i, n in enumerate(SIZES)]
    found[1].loc[:7, "age"] = np.nan
    found[2].loc[20:29, FEATURE] = np.nan
    found[2].loc[50:59, "dead"] = np.nan
    return found


def pooled(frames, covariates):
    """Return complete cases of all sites in the units of the models, the site beside them."""
    both = pd.concat([frame.assign(site=i) for i, frame in enumerate(frames)])
    columns = {"feature": both[FEATURE]}
    if AGE in covariates:
        columns["age"] = (both["age"] - 60) / 10
    if SEX in covariates:
        columns["women"] = (both["sex"] == 0) * 1.0
    return pd.DataFrame({**columns, **both[["days", "dead", "site"]]}).dropna()


def of_statsmodels(rows):
    """Return coefficients and standard errors of one place, iterated to the last digits."""
    x = rows.drop(columns=["days", "dead", "site"])
    peer = PHReg(rows["days"], x - x.mean(), rows["dead"], strata=rows["site"], ties="efron")
    beta = peer.fit(disp=0).params
    for _ in range(5):
        beta = beta - np.linalg.solve(peer.hessian(beta), peer.score(beta))
    return beta, np.sqrt(np.diag(np.linalg.inv(-peer.hessian(beta))))


def numbers(ended, name):
    return np.array([term[name] for term in ended.merged["terms"]])


@pytest.mark.parametrize("covariates", [[], [AGE], [SEX], BOTH])
def test_it_is_that_of_all_rows_in_one_place(frames, covariates):
    ended = federation(cox(covariates=covariates), frames)
    rows = pooled(frames, covariates)
    beta, se = of_statsmodels(rows)
    assert ended.merged["reason"] is None
    assert (ended.merged["n"], ended.merged["events"]) == (len(rows), rows["dead"].sum())
    np.testing.assert_allclose(numbers(ended, "estimate"), beta, rtol=1e-9)
    np.testing.assert_allclose(numbers(ended, "se"), se, rtol=1e-9)
    np.testing.assert_allclose(numbers(ended, "ratio"), np.exp(beta), rtol=1e-9)
    np.testing.assert_allclose(numbers(ended, "p"), 2 * stats.norm.sf(abs(beta / se)), rtol=1e-7)


def test_it_is_that_of_lifelines(frames):
    ended = federation(cox(covariates=BOTH), frames)
    fitter = CoxPHFitter()
    rows = pooled(frames, BOTH)
    options = {"precision": 1e-14, "r_precision": 1e-14, "step_size": 1.0}
    fitter.fit(rows, "days", "dead", strata="site", fit_options=options)
    np.testing.assert_allclose(numbers(ended, "estimate"), fitter.params_, rtol=1e-9)
    np.testing.assert_allclose(numbers(ended, "se"), fitter.standard_errors_, rtol=1e-9)


def test_a_mean_of_a_hundred_million_standard_deviations(frames):
    far = [frame.assign(**{FEATURE: frame[FEATURE] + 1e8}) for frame in frames]
    # What stands in the table is rounded to its own float64; one place has the same numbers.
    near = [frame.assign(**{FEATURE: frame[FEATURE] - 1e8}) for frame in far]
    ended = federation(cox(covariates=BOTH), far)
    beta, se = of_statsmodels(pooled(near, BOTH))
    np.testing.assert_allclose(numbers(ended, "estimate"), beta, rtol=1e-9)
    np.testing.assert_allclose(numbers(ended, "se"), se, rtol=1e-9)


def test_all_terms_together(frames):
    ended = federation(cox(covariates=BOTH), frames)
    beta, _ = of_statsmodels(rows := pooled(frames, BOTH))
    x = rows.drop(columns=["days", "dead", "site"])
    peer = PHReg(rows["days"], x - x.mean(), rows["dead"], strata=rows["site"], ties="efron")
    wald = -beta @ peer.hessian(beta) @ beta
    assert ended.merged["wald"]["statistic"] == pytest.approx(wald, rel=1e-9)
    assert ended.merged["wald"]["p"] == pytest.approx(stats.chi2.sf(wald, 3), rel=1e-7)


def test_the_unit_is_the_protocols(frames):
    one, ten = (federation(cox(scale=scale), frames) for scale in (1, 10))
    assert numbers(ten, "estimate")[0] == pytest.approx(10 * numbers(one, "estimate")[0])
    assert numbers(ten, "statistic") == pytest.approx(numbers(one, "statistic"))
    assert ten.by_site == one.by_site


def test_many_small_sites():
    found = [patients(100 + i, 24 + i) for i in range(20)]
    ended = federation(cox(), found)
    left = [found[int(name.removeprefix("site"))] for name in sorted(ended.by_site)]
    assert 3 <= len(left) <= 20
    beta, se = of_statsmodels(pooled(left, []))
    np.testing.assert_allclose(numbers(ended, "estimate"), beta, rtol=1e-9)
    np.testing.assert_allclose(numbers(ended, "se"), se, rtol=1e-9)


@pytest.mark.parametrize("effect", [0.0, 0.6, 1.5])
def test_rounds_are_few(effect):
    found = [patients(i, n, effect=effect) for i, n in enumerate(SIZES)]
    assert federation(cox(covariates=[AGE]), found).rounds <= 5


def test_rows_of_a_result(frames):
    analysis = cox(covariates=BOTH)
    ended = federation(analysis, frames)
    cell = {**KEY._asdict(), "sites": ["a", "b", "c"], **ended.merged}
    rows = analysis.conclude([cell])["estimates"]
    assert [row["term"] for row in rows] == [FEATURE, "age", "sex=F"]
    assert rows[1]["feature"] == FEATURE
    assert cell["by_site"][0] == {"site": "site0", "n": 60, "events": ended.by_site["site0"].events}


def test_a_site_that_withholds_it_leaves_the_others(frames):
    few = patients(7, 30).assign(dead=lambda f: (np.arange(30) < 3) * 1.0)
    ended = federation(cox(), [*frames, few])
    assert set(ended.by_site) == {"site0", "site1", "site2"}
    beta, _ = of_statsmodels(pooled(frames, []))
    np.testing.assert_allclose(numbers(ended, "estimate"), beta, rtol=1e-9)


def test_two_sites_are_too_few(frames):
    ended = federation(cox(), frames[:2])
    assert (ended.merged["terms"], ended.merged["reason"]) == ([], "few_sites")


def released(frames, analysis, stated=None, skip=()):
    given = None if stated is None else {analysis.settings.id: stated}
    return {
        f"site{i}": Site(frame).asked(analysis, stated=given)[analysis.settings.id]
        for i, frame in enumerate(frames)
        if i not in skip
    }


def test_a_site_that_leaves_between_rounds_ends_it(frames):
    four = [*frames, patients(9, 70)]
    analysis = cox()
    stated = analysis.advance(1, released(four, analysis))
    rest = released(four, analysis, stated, skip=[3])
    merged = analysis.merge(rest, stated)
    assert (merged["terms"], merged["reason"]) == ([], "site_left")
    assert analysis.advance(2, rest, stated) is None


def collinear(frames):
    """Let the age follow from the feature but for rounding."""
    return [frame.assign(age=2 * frame[FEATURE] + 1 + 1e-7 * frame["age"]) for frame in frames]


def test_collinear_variables_have_no_estimates(frames):
    merged = federation(cox(covariates=[AGE]), collinear(frames)).merged
    assert (merged["terms"], merged["wald"], merged["reason"]) == ([], None, "collinear")


def separated(seed, rows):
    """Return patients of whom those with the larger feature die first, one after the other."""
    frame = patients(seed, rows)
    order = np.argsort(-frame[FEATURE].to_numpy()).argsort()
    return frame.assign(days=30.0 * (order + 1), dead=(order % 3 != 2) * 1.0)


def test_events_in_the_order_of_a_feature_are_a_separation():
    """The likelihood rises for ever, and sites withhold what then rests on few."""
    ended = federation(cox(), [separated(i, 60) for i in range(3)])
    assert (ended.by_site, ended.merged["terms"]) == ({}, [])
    assert ended.merged["reason"] == "separation"


def test_a_class_without_events_is_a_separation():
    frames = [patients(i, 120) for i in range(3)]
    found = [frame.assign(dead=frame["dead"] * frame["sex"]) for frame in frames]
    ended = federation(cox(covariates=[SEX]), found)
    assert (ended.merged["terms"], ended.merged["reason"]) == ([], "separation")


def test_a_model_that_all_sites_withhold_in_a_later_round(frames):
    analysis = cox()
    stated = analysis.advance(1, released(frames, analysis))
    found = analysis.unanswered(stated)
    assert (found["n"], found["terms"], found["reason"]) == (stated.n, [], "site_left")


def newtons(score, information, start=0.0, rounds=4):
    """Return the reason why coefficients are not reached, of a likelihood by its derivatives."""
    analysis = cox(rounds=rounds)
    beta, given = start, None
    for _ in range(rounds):
        step = newton(
            np.array([beta]), np.array([score(beta)]), np.array([[information(beta)]]), 100
        )
        reason = analysis._why_over(step, given)
        if step.is_last or reason:
            return reason
        beta = float(step.beta[0])
        steps = [*(given.steps if given else []), step.size]
        given = Point(**KEY._asdict(), beta=[beta], steps=steps, grows=False, n=100, events=100)
    raise AssertionError


def test_a_likelihood_that_rises_for_ever_is_a_separation():
    assert newtons(lambda b: 90 * math.exp(-b), lambda b: 90 * math.exp(-b)) == "separation"


def test_steps_that_go_to_and_fro_do_not_converge():
    # The derivative of -|b|^1.4, whose steps of Newton lead beyond the maximum each time.
    def score(b):
        return -140 * math.copysign(abs(b) ** 0.4, b)

    assert newtons(score, lambda b: 56 * abs(b) ** -0.6, start=0.5) == "no_convergence"


def test_a_first_step_is_not_too_long():
    step = newton(np.zeros(1), np.array([5000.0]), np.array([[100.0]]), 100)
    assert step.beta[0] == pytest.approx(2)
    assert not step.is_last


def test_numbers_that_together_are_beyond_the_range(frames):
    sent = released(frames, cox())
    cells = {
        name: cell.model_copy(update={"score": [1e100], "information": [[1e-200]]})
        for name, cell in sent.items()
    }
    merged = cox().merge(cells)
    assert (merged["terms"], merged["reason"]) == ([], "out_of_range")
    assert cox().advance(1, cells) is None


def first(frames, analysis=None):
    return released(frames[:1], analysis or cox(covariates=[AGE]))["site0"]


IMPOSSIBLE = {
    "beta": {"beta": [0.1, 0.0]},
    "one coefficient": {"beta": [0.0]},
    "one score": {"score": [1.0]},
    "square": {"information": [[9.0, 0.0], [0.0, 9.0]]},
    "negative": {"information": [[9.0], [0.0, -1.0]]},
    "indefinite": {"information": [[9.0], [10.0, 9.0]]},
    "events": {"events": 61},
    "beyond the score": {"score": [1e7, 0.0]},
    "beyond the information": {"information": [[1e7], [0.0, 9.0]]},
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_hub_refuses_what_no_patients_give(frames, name):
    cell = first(frames)
    limits = Limits(5, 1, lowest=-10, highest=10)
    cox(covariates=[AGE]).verify(cell, limits)
    with pytest.raises(ImpossibleCell):
        cox(covariates=[AGE]).verify(cell.model_copy(update=IMPOSSIBLE[name]), limits)


def test_a_hub_refuses_an_indicator_beyond_its_range(frames):
    analysis = cox(covariates=[SEX])
    cell = first(frames, analysis)
    limits = Limits(5, 1)
    analysis.verify(cell, limits)
    high = [cell.information[0], [cell.information[1][0], cell.events / 4 + 0.01]]
    with pytest.raises(ImpossibleCell):
        analysis.verify(cell.model_copy(update={"information": high}), limits)


@pytest.mark.parametrize("changed", [{"events": 9}, {"events": 55}, {"events": 57, "n": 60}])
def test_a_hub_refuses_few_events(frames, changed):
    cell = first(frames)
    with pytest.raises(CellBelowMinimum):
        cox(covariates=[AGE]).verify(cell.model_copy(update=changed), Limits(10, 1))


def test_a_hub_refuses_too_many_parameters(frames):
    cell = first(frames).model_copy(update={"events": 6})
    with pytest.raises(CellBelowMinimum):
        cox(covariates=[AGE]).verify(cell, Limits(5, 1))


def point(**changes):
    content = {"beta": [0.5], "steps": [1.0], "grows": False, "n": 200, "events": 90, **changes}
    return Point(**KEY._asdict(), **content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": [0.5, 0.1]}, "2 coefficients of a model of 1"),
        ({"steps": [1.0, 0.1]}, "2 steps before round 2"),
        ({"events": 201}, "201 events of 200 patients"),
        ({"events": 14}, "fewer than of 3 sites"),
    ],
)
def test_a_site_refuses_what_no_honest_hub_states(changes, message):
    cox().check_stated(point(), 2)
    with pytest.raises(ImpossibleCell, match=message):
        cox().check_stated(point(**changes), 2)


def rule(frame, **settings):
    found = Site(frame).asked(cox(**settings))["survival"]
    return found if isinstance(found, str) else None


def test_a_site_withholds_a_model_of_few_events():
    frame = patients(0, 60)
    dead = frame["dead"].to_numpy()
    assert rule(frame) is None
    few = np.where(np.cumsum(dead) > 4, 0, dead)
    assert rule(frame.assign(dead=few)) == "few_with_event"
    censored = np.where(np.cumsum(1 - dead) > 4, 1, dead)
    assert rule(frame.assign(dead=censored)) == "few_with_event"
    assert rule(frame.assign(dead=1.0)) is None
    assert rule(frame.assign(dead=0.0)) == "too_many_parameters"


def test_a_site_withholds_too_many_parameters_for_the_events():
    frame = patients(0, 60)
    eight = np.where(np.cumsum(frame["dead"]) > 8, 0, frame["dead"])
    assert rule(frame.assign(dead=eight), covariates=[AGE]) is None
    assert rule(frame.assign(dead=eight), covariates=BOTH) == "too_many_parameters"


def test_a_site_withholds_classes_of_few_events():
    frame = patients(0, 60)
    women = np.flatnonzero((frame["sex"] == 0) & (frame["dead"] == 1))
    frame.loc[women[3:], "dead"] = 0
    assert rule(frame, covariates=[SEX]) == "few_with_event"
    assert rule(frame) is None


def test_a_site_withholds_orders_that_can_be_tried_out():
    assert rule(patients(0, 40), covariates=[SEX]) == "few_orders"
    assert rule(patients(0, 60), covariates=[SEX]) is None


def test_a_patient_with_two_cases():
    frame = patients(0, 60)
    frame.loc[1, "patient"] = frame.loc[0, "patient"]
    assert rule(frame) == "one_row"


def test_rounds_are_equations():
    """A covariate has 1 + p in the first round, and all p(p + 3)/2 numbers of each other one."""
    frame = patients(0, 33)
    (cell,) = cox(covariates=[AGE]).propose(measured(frame))
    assert [piece.equations for piece in cell.pieces] == [28, 28, 0, 1, 2]
    assert rule(frame, covariates=[AGE]) is None
    assert rule(frame.iloc[:29], covariates=[AGE]) == "saturation"
    assert rule(frame.iloc[:29], covariates=[AGE], rounds=5) is None


def test_scores_of_many_models_are_equations_of_the_events():
    frame = patients(0, 34)
    random = np.random.default_rng(8)
    many = [cox(id=f"m{i:02d}") for i in range(40)]
    people = dict(zip(frame["case_id"], frame["patient"], strict=True))
    cells = []
    for each in many:
        own = frame.assign(**{FEATURE: random.normal(size=34)})
        cells += each.propose(measured(own))
    found = decide(cells, people, FIVE, Regions())
    assert sum(d.released is not None for d in found) == 31

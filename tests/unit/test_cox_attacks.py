"""A hostile hub or protocol asks for Cox models, and learns of no few patients by any of them.

Each attack is shown to work on the numbers that a site without the rule would send.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cox_world import AGE, FEATURE, FIVE, KEY, SEX, Site, cox, measured, patients
from jipflow.analyses.cox import Point
from jipflow.analyses.design import pair_dominates
from jipflow.analyses.risk_sets import WIDEST, Stratum, sums
from jipflow.release.gate import decide
from jipflow.release.saturation import Regions


def point(*beta, rounds=1):
    """Return what a hub states."""
    steps = [0.5] * rounds
    return Point(**KEY._asdict(), beta=list(beta), steps=steps, grows=False, n=300, events=150)


def asked(site, analysis, *beta):
    """Return what leaves at coefficients that a hub states, or the rule's code."""
    id = analysis.settings.id
    return site.asked(analysis, stated={id: point(*beta)})[id]


def stratum_of(frame):
    """Return the patients of a frame with the feature alone."""
    (cell,) = cox().propose(measured(frame))
    return cell.content.stratum


def lasting(seed=0, rows=60):
    """Return patients of whom those with the least and the greatest feature live longest."""
    frame = patients(seed, rows)
    ends = frame[FEATURE].agg(["idxmin", "idxmax"]).to_numpy()
    frame.loc[ends, ["days", "dead"]] = [frame["days"].max() + 30, 0.0]
    return frame


def test_extreme_coefficients_give_least_and_greatest_value():
    frame = lasting()
    stratum = stratum_of(frame)
    widest = 0.99 * WIDEST / np.ptp(stratum.columns)
    up, down = (sums(stratum, np.array([beta])) for beta in (widest, -widest))
    # Without the rule: what two scores differ by, for each event.
    span = (down.score[0] - up.score[0]) / stratum.events.sum()
    assert span == pytest.approx(np.ptp(frame[FEATURE]), rel=0.01)
    for beta in (widest, -widest, 10 * widest, 1e100):
        assert asked(Site(frame), cox(), beta) == "rests_on_few"
    assert asked(Site(frame), cox(), 0.5).events == stratum.events.sum()


@pytest.mark.parametrize("seed", range(4))
def test_no_coefficient_comes_near_to_the_greatest_value(seed):
    """At whatever coefficients numbers leave, weights are worth the minimum of patients."""
    frame = lasting(seed)
    stratum = stratum_of(frame)
    highest = np.sort(stratum.columns[:, 0])[::-1]
    means = []
    for beta in np.linspace(-8, 8, 65):
        cell = asked(Site(frame), cox(), beta)
        if not isinstance(cell, str):
            total = stratum.columns[stratum.events, 0].sum()
            means.append((total - cell.score[0]) / stratum.events.sum())
    assert len(means) > 5
    assert max(means) < highest[:5].mean()
    assert min(means) > highest[-5:].mean()


def test_two_coefficients_whose_scores_differ_by_two_patients():
    """Each by itself rests on many; what changes between them is nearly that of two patients."""
    frame = patients(0, 30)
    frame[FEATURE] = np.random.default_rng(255).standard_t(2, 30)
    north = Site(frame)
    assert not isinstance(asked(north, cox(), 0.0), str)
    assert asked(north, cox(), 0.05) == "rests_on_few"
    # A site that remembers nothing would send both.
    assert not isinstance(asked(Site(frame), cox(), 0.05), str)
    stratum = stratum_of(frame)
    one, two = (sums(stratum, np.array([beta])) for beta in (0.0, 0.05))
    away = stratum.columns[:, 0] - np.median(stratum.columns)
    changed = np.abs((two.expected - one.expected) * away)
    assert np.sort(changed)[-2:].sum() > 0.9 * changed.sum()


def test_a_further_covariate_of_coefficient_0_makes_no_other_model():
    """The same two scores, one of them in a model with a further column whose coefficient is 0."""
    frame = patients(0, 30)
    frame[FEATURE] = np.random.default_rng(255).standard_t(2, 30)
    one, more = cox("a", rounds=5), cox("b", rounds=5, covariates=[AGE])
    stated = {"a": point(0.0), "b": point(0.05, 0.0)}
    left = Site(frame).asked(one, more, stated=stated)
    assert whether(left) == {"a": None, "b": "rests_on_few"}
    north = Site(frame)
    assert not isinstance(asked(north, one, 0.0), str)
    assert asked(north, more, 0.05, 0.0) == "rests_on_few"
    assert not isinstance(asked(Site(frame), more, 0.05, 0.0), str)


def test_further_covariates_of_coefficient_0_make_one_model_at_three_coefficients():
    """A combination of the scores is nearly that of one patient, of whatever models they are."""
    frame, random = patients(3, 90), np.random.default_rng(0)
    frame[FEATURE] = np.r_[random.normal(0, 0.5, 89), 2.6]
    north, left = Site(frame), {}
    for i, beta in enumerate((0.0, 0.6, 1.2)):
        frame[f"x{i}"] = random.normal(0, 1, 90)
        model = cox(f"m{i}", rounds=2, covariates=[{"variable": f"clinical.x{i}"}])
        stated = {f"m{i}": point(beta, 0.0)}
        left |= whether(north.asked(model, stated=stated))
    assert left == {"m0": None, "m1": None, "m2": "rests_on_few"}


def test_one_model_at_more_coefficients_than_rounds():
    """Each gives equations; two analyses of one model, and releases, count together."""
    frame = patients(0, 60)
    analysis = cox(rounds=3)
    betas = [0.0, 0.3, 0.33, 0.2, 0.4]
    north = Site(frame)
    found = [asked(north, analysis, beta) for beta in betas]
    assert [each if isinstance(each, str) else None for each in found] == [
        *[None] * 3,
        *["many_points"] * 2,
    ]
    # What left before leaves again.
    assert asked(north, analysis, 0.3) == found[1]
    several = [cox(f"m{i}", rounds=3) for i in range(5)]
    stated = {f"m{i}": point(beta) for i, beta in enumerate(betas)}
    left = Site(frame).asked(*several, stated=stated)
    assert [isinstance(left[f"m{i}"], str) for i in range(5)] == [False] * 3 + [True] * 2
    # A site that remembers nothing answers at all of them.
    assert not any(isinstance(asked(Site(frame), analysis, beta), str) for beta in betas)


@pytest.mark.parametrize("step", [0.02, 0.05])
def test_coefficients_that_are_evenly_spaced_give_no_high_powers_of_the_greatest_value(step):
    """What changes of what changes, and so on, is a sum by powers, nearly that of one or two."""
    frame = patients(1, 60)
    stratum = stratum_of(frame)
    betas = [step * i for i in range(6)]
    at = [sums(stratum, np.array([beta])) for beta in betas]
    spread = np.column_stack([np.ones(60), *(stratum.events - each.expected for each in at)])
    # Without the rule: a combination of the six scores is of two patients, to a few percent.
    assert pair_dominates(spread, 0.97, 1e-11)
    north = Site(frame)
    left = [asked(north, cox(), beta) for beta in betas]
    kept = [i for i, each in enumerate(left) if not isinstance(each, str)]
    assert {left[i] for i in range(6) if i not in kept} == {"rests_on_few"}
    assert not pair_dominates(spread[:, [0, *(i + 1 for i in kept)]], 0.9, 1e-11)
    # Steps that become shorter as Newton's do leave.
    north = Site(frame)
    for beta in (0.0, 0.5, 0.62, 0.63, 0.63005):
        assert not isinstance(asked(north, cox(), beta), str)


def test_a_protocol_of_more_rounds_has_more_equations():
    frame = patients(0, 34)
    assert not isinstance(Site(frame).asked(cox(rounds=10))["survival"], str)
    assert Site(frame.iloc[:21]).asked(cox(rounds=10))["survival"] == "saturation"
    assert not isinstance(Site(frame.iloc[:21]).asked(cox(rounds=6))["survival"], str)


def test_a_patient_who_joins_between_rounds():
    """The difference of two informations would be the patient's."""
    frame = patients(0, 61)
    north = Site(frame.iloc[:60])
    assert not isinstance(asked(north, cox(), 0.0), str)
    north.frame = frame
    assert asked(north, cox(), 0.3) == "earlier"
    assert not isinstance(asked(Site(frame), cox(), 0.3), str)


def test_a_time_or_an_event_that_was_changed_between_rounds():
    frame = patients(0, 60)
    for name, value in (("days", 3000.0), ("dead", 1 - frame.loc[7, "dead"])):
        north = Site(frame)
        assert not isinstance(asked(north, cox(), 0.0), str)
        north.frame = frame.copy()
        north.frame.loc[7, name] = value
        assert asked(north, cox(), 0.3) == "earlier"


def whether(left):
    """Return what rule withheld each analysis; None where it left."""
    return {id: cell if isinstance(cell, str) else None for id, cell in left.items()}


@pytest.mark.parametrize(("key", "name"), [("time", "days"), ("event", "dead")])
def test_times_or_events_of_two_names_that_differ_in_one_patient(key, name):
    """What two models differ by would be of that patient, as of whom alone had a relapse."""
    frame = patients(0, 80)
    frame["other"] = frame[name]
    frame.loc[7, "other"] = frame.loc[7, "days"] + 900 if key == "time" else 1 - frame.loc[7, name]
    one, two = cox("a"), cox("b", **{key: "clinical.other"})
    assert whether(Site(frame).asked(one, two)) == {"a": None, "b": "difference"}
    north = Site(frame)
    assert whether(north.asked(one)) == {"a": None}
    assert whether(north.asked(two)) == {"b": "earlier"}
    assert whether(Site(frame).asked(two)) == {"b": None}
    # Of many who differ two models are two.
    frame["other"] = patients(11, 80)[name]
    assert whether(Site(frame).asked(one, two)) == {"a": None, "b": None}


def scores_at_0(frame, features):
    """Return the score of a model of each feature at coefficients of 0."""
    times, events = frame["days"].to_numpy(), frame["dead"].to_numpy() == 1
    strata = (Stratum.of(times, events, feature[:, None]) for feature in features)
    return np.array([sums(each, np.zeros(1)).score[0] for each in strata])


def test_known_features_one_after_the_other_give_events_and_their_order():
    """Who has the images of all patients has their features, and solves for who died first."""
    frame = patients(0, 34)
    known = np.random.default_rng(3).normal(size=(34, 34))
    times, events = frame["days"].to_numpy(), frame["dead"].to_numpy() == 1
    order = np.argsort(-times, kind="stable")
    truth = np.empty(34)
    stratum = Stratum.of(times, events, known[:1].T)
    truth[order] = stratum.events - sums(stratum, np.zeros(1)).expected
    # Residuals add up to 0, and so does what they are solved from.
    centred = known - known.mean(axis=1, keepdims=True)
    system = np.vstack([centred[:33], np.ones(34)])
    solved = np.linalg.solve(system, [*scores_at_0(frame, centred[:33]), 0.0])
    np.testing.assert_allclose(solved, truth, atol=1e-9)
    people = dict(zip(frame["case_id"], frame["patient"], strict=True))
    cells = list(
        itertools.chain.from_iterable(
            cox(f"m{i:02d}").propose(measured(frame.assign(**{FEATURE: known[i]})))
            for i in range(34)
        )
    )
    left = [d for d in decide(cells, people, FIVE, Regions()) if d.released]
    # Beside their scores it is known that residuals add up to 0.
    assert len(left) + 1 == 34 - 2


def test_orders_of_a_category_that_can_be_tried_out():
    """`test_risk_sets` finds the order of eight patients by their score and information."""
    frame = patients(0, 40)
    assert Site(frame).asked(cox(covariates=[SEX]))["survival"] == "few_orders"


def test_no_time_and_no_likelihood_leaves():
    cell = asked(Site(patients(0, 60)), cox(), 0.0)
    numbers = set(type(cell).model_fields) - set(KEY._fields)
    assert numbers == {"n", "events", "beta", "score", "information"}
    later = patients(0, 60)
    later["days"] = later["days"] ** 2 + 7
    assert asked(Site(later), cox(), 0.0) == cell

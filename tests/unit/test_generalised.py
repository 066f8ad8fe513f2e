"""Logistic and Poisson regression equal the pooled ones, and a hostile hub learns of no patient."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm

from federation_world import MEAN
from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell, kinds
from jipflow.analyses.design import pair_dominates
from jipflow.analyses.evaluated import Evaluated
from jipflow.analyses.facts import Limits
from jipflow.analyses.generalised import RESTS_ON_FEW
from jipflow.analyses.likelihoods import (
    Binomial,
    Point,
    _differ,
    are_nearly_one,
    combine_to_few,
    differ_beside,
    differ_in_few,
    evaluate,
    rest_on_few,
)
from jipflow.analyses.logistic import Logistic
from jipflow.analyses.rules import Finding, Passed
from jipflow.exchange.message import checked
from jipflow.hub.merge import carried, merge
from jipflow.hub.rounds import Outlook
from jipflow.hub.tables import write_tables
from jipflow.release.candidate import _behind
from jipflow.release.contents import formats
from jipflow.release.gate import SATURATION, decide
from jipflow.release.history import History
from jipflow.release.noise import Noisy
from jipflow.release.saturation import Regions
from jipflow.report.hub import write_hub_report
from jipflow.settings.protocol import Disclosure
from jipflow.settings.resources import ConfigError
from models_rows import DEAD, TEN, WOMAN, Rows, drawn, model, start_of, through
from models_world import (
    AGE,
    STAGE,
    VOLUME,
    accepted,
    build_after,
    frame,
    lost,
    past_of,
    three,
)

OF = {
    "logistic": ("dead", sm.families.Binomial()),
    "poisson": ("visits", sm.families.Poisson()),
}


def close(found, expected, rel=1e-9):
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=rel)


def pooled(kind, rows, *columns):
    """Return the regression of all rows in one place, to the last digit."""
    outcome, family = OF[kind]
    own = [(rows[MEAN] - 60) / 5, (rows["age"] - 60) / 10, *columns]
    design = np.column_stack([np.ones(len(rows)), *own]).astype(float)
    return sm.GLM(rows[outcome].to_numpy(), design, family).fit(tol=1e-14, maxiter=100)


@pytest.fixture(scope="module", params=["logistic", "poisson"])
def world(request, tmp_path_factory):
    kind = request.param
    made, settings = three(tmp_path_factory.mktemp(kind), model(kind, AGE))
    return kind, made, settings, *through(made, settings)


def whole(made):
    """Return the rows that have an age, whatever their stage."""
    copies = []
    for one in made:
        other = copy.copy(one)
        other.clinical = one.clinical.assign(stage="I")
        copies.append(other)
    return frame(copies)


def test_a_model_over_sites_equals_the_pooled_one(world):
    kind, made, _, results, states, _ = world
    (analysis,) = results[-1]["analyses"]
    (cell,) = analysis["cells"]
    rows = whole(made)
    fit = pooled(kind, rows)
    assert cell["n"] == len(rows) == 54 + 75 + 97
    assert cell["events"] == rows[OF[kind][0]].sum()
    assert [term["term"] for term in cell["terms"]] == ["intercept", MEAN, "age"]
    for name, expected in (
        ("estimate", fit.params),
        ("se", fit.bse),
        ("low", fit.conf_int()[:, 0]),
        ("high", fit.conf_int()[:, 1]),
        ("statistic", fit.tvalues),
        ("p", fit.pvalues),
    ):
        close([term[name] for term in cell["terms"]], expected)
    close([term["ratio"] for term in cell["terms"]], np.exp(fit.params))
    assert (cell["reason"], len(analysis["estimates"])) == (None, 3)
    assert len(results) <= 6
    for before, state in zip(results[:-1], states, strict=True):
        (going_on,) = before["analyses"][0]["cells"]
        assert (going_on["terms"], going_on["reason"]) == ([], None)
        assert len(state.analyses[0].cells[0].steps) == before["round"]


@pytest.mark.parametrize("kind", OF)
def test_a_mean_of_1e8_standard_deviations_costs_nothing(kind):
    """Values have few digits, so that adding 10⁸ to them is exact, and a center takes it off."""
    sites = drawn(kind)
    rows = np.concatenate(sites)
    expected = sm.GLM(rows[:, -1], sm.add_constant(rows[:, :-1]), OF[kind][1]).fit(tol=1e-14)
    far = [each + np.array([1e8, 1e8, 0.0]) for each in sites]
    covariate = {"variable": "clinical.x1", "center": 1e8}
    found, _ = Rows(kind, far, more={"center": 1e8, "covariates": [covariate]}).result()
    close([term["estimate"] for term in found["terms"]], expected.params)
    close([term["se"] for term in found["terms"]], expected.bse)


@pytest.mark.parametrize("kind", OF)
def test_another_center_asks_for_the_very_same_numbers(kind):
    """Nobody closes in on a value by what is withheld at one center after the other."""
    sites = drawn(kind)
    found = [Rows(kind, sites, more=more).result() for more in ({}, {"center": 0.7, "scale": 3})]
    assert found[0][1] == found[1][1]
    first, second = ([t["estimate"] for t in of["terms"]] for of, _ in found)
    close(second, [first[0] + 0.7 * first[1], 3 * first[1], first[2]])


@pytest.mark.parametrize("kind", OF)
@pytest.mark.parametrize(
    "beta", [[0.0, 50.0], [30.0, 50.0], [-50.0, 20.0], [50.0, -50.0], [-8.0, 8.0], [0.0, 49.0]]
)
def test_a_hostile_hub_states_coefficients_at_which_few_have_a_weight(kind, beta):
    rows = Rows(kind, drawn(kind, slopes=(0.8,)))
    assert rows.sent(0, start_of(rows, beta)) == "rests_on_few"
    assert isinstance(rows.sent(0, start_of(rows, [0.1, 0.3])), Evaluated)


def test_a_hostile_hub_states_units_beyond_all_numbers():
    rows = Rows("logistic", drawn("logistic", slopes=(0.8,)))
    for more in ({"scales": [1e-90]}, {"centers": [1e90]}):
        assert rows.sent(0, start_of(rows, [0.1, 0.3], **more)) == "rests_on_few"


def test_two_points_that_differ_by_one_patient():
    """The weights of either are usual; the difference of the scores is an outlying patient's."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(0, 0.3, 59), [3.2]])
    outcome = (np.arange(60) % 2).astype(float)
    rows = Rows("logistic", [np.column_stack([x, outcome])])
    points = [Point((0.1, slope), (0.0,), (1.0,)) for slope in (0.0, 1e-4)]
    first, second = (rows.content(0).at(Binomial, point) for point in points)
    made = np.abs(second.means - first.means) * np.abs(x)
    assert made[-1] > 0.6 * made.sum()
    third = rows.content(0).at(Binomial, Point((0.1, 0.3), (0.0,), (1.0,)))
    changes = (second.score - first.score)[1]
    assert abs(changes) < 2 * made[-1]
    assert differ_in_few(second, [first], outcome, TEN)
    assert not differ_in_few(third, [], outcome, TEN)


def test_points_of_which_a_combination_is_one_patient():
    """No two of the points differ by few patients, and a combination of three is nearly one's."""
    x = np.concatenate([np.linspace(-1, 1, 79), [3.0]])
    outcome = (np.arange(80) % 2).astype(float)
    points = [Point((0.0, slope), (0.0,), (1.0,)) for slope in (0.0, 0.3, 0.6)]
    sums = [evaluate(Binomial, x[:, None], outcome, point) for point in points]
    known = np.column_stack([np.ones(80), outcome, *(each.means for each in sums)])
    combined = known @ np.linalg.lstsq(known, (x == 3.0).astype(float), rcond=None)[0]
    assert combined @ x / combined.sum() == pytest.approx(3.0, rel=0.1)
    assert not any(rest_on_few(each, TEN) for each in sums)
    assert not differ_in_few(sums[1], sums[:1], outcome, TEN)
    assert not _differ(sums[2], sums[0], TEN)
    assert not _differ(sums[2], sums[1], TEN)
    assert differ_in_few(sums[2], sums[:2], outcome, TEN)


@pytest.mark.parametrize("kind", ["logistic", "poisson"])
def test_points_that_are_evenly_spaced_do_not_all_leave(kind):
    """What changes of what changes between them is a sum by high powers of the covariate."""
    rows = Rows(kind, drawn(kind, slopes=(0.8,)), TEN)
    points = [start_of(rows, [0.1, 0.3 + 0.05 * i]) for i in range(4)]
    content = rows.content(0)
    sums = [content.at(rows.analysis.family, each.point) for each in points]
    known = [np.ones(60), content.outcome]
    known += [of for each in sums for of in (each.means, each.weights)]
    assert pair_dominates(np.column_stack(known), 0.9, 1e-11)
    found = [rows.sent(0, each, [p.point for p in points[:i]]) for i, each in enumerate(points)]
    assert isinstance(found[0], Evaluated)
    assert found[-1] == "rests_on_few"


def test_no_more_points_than_rounds_leave_of_a_model():
    rows = Rows("logistic", drawn("logistic", slopes=(0.8,)))
    slopes = (0.9, 0.5, 0.408, 0.40005, 0.4, 0.3)
    starts = [start_of(rows, [0.1, slope]) for slope in slopes]
    points = [each.point for each in starts[:5]]
    assert isinstance(rows.sent(0, starts[4], points[:4]), Evaluated)
    assert rows.sent(0, starts[5], points) == "many_points"
    assert isinstance(rows.sent(0, starts[2], points), Evaluated)


def test_what_left_in_an_earlier_release_counts_as_a_point(world):
    """The same model under another protocol: the hub states what it likes, round after round."""
    _, made, _, _, states, pasts = world
    one = made[2]
    known = len(states)
    left = []
    for i in range(7 - known):
        content = states[0].plain()
        (cell,) = content["analyses"][0]["cells"]
        cell["beta"] = [cell["beta"][0] + 0.02 * (i + 1), *cell["beta"][1:]]
        state = checked(formats().state, content, "state.json")
        aggregates, record = build_after(one, pasts[one.name], round_=2, state=state)
        left.append(bool(aggregates["analyses"][0]["cells"]))
        if not left[-1]:
            assert lost(record)["model"][0] in ("many_points", "rests_on_few")
        else:
            pasts[one.name].append(past_of(one))
    assert not left[-1]


def test_separated_outcomes_end_with_a_reason():
    rng = np.random.default_rng(8)
    sites = []
    for n in (60, 75, 97):
        x = np.concatenate([rng.normal(-2, 0.7, n // 2), rng.normal(2, 0.7, n - n // 2)])
        sites.append(np.column_stack([x, (np.arange(n) >= n // 2).astype(float)]))
    found, points = Rows("logistic", sites, more={"rounds": 12}).result()
    assert (found["terms"], found["reason"]) == ([], "separation")
    assert len(points) >= 1


def test_columns_that_follow_from_each_other_end_with_a_reason():
    sites = [np.insert(each, 1, 2 * each[:, 0] + 3, axis=1) for each in drawn("logistic")]
    found, _ = Rows("logistic", sites).result()
    assert (found["terms"], found["reason"]) == ([], "collinear")


def test_two_sites_have_no_model_and_one_that_leaves_ends_it():
    rows = Rows("logistic", drawn("logistic"))
    cells = {str(i): rows.sent(i) for i in range(3)}
    two = {site: cells[site] for site in "01"}
    assert rows.analysis.merge(two)["reason"] == "few_sites"
    start = rows.analysis.advance(1, cells)
    later = {str(i): rows.sent(i, start) for i in range(2)}
    assert rows.analysis.merge(later, start)["reason"] == "site_left"
    assert rows.analysis.advance(2, later, start) is None
    assert rows.analysis.unanswered(start)["reason"] == "site_left"
    far = start.model_copy(update={"beta": [0.0, 3.5, 0.0], "grows": True})
    assert rows.analysis.unanswered(far)["reason"] == "separation"


def test_rounds_that_are_too_few_end_with_a_reason():
    found, _ = Rows("poisson", drawn("poisson"), more={"rounds": 3}).result()
    assert (found["terms"], found["reason"]) == ([], "no_convergence")


@pytest.mark.parametrize(
    ("outcome", "rule"),
    [
        (lambda y: y + 0.5 * (np.arange(y.size) % 7), "outcome"),
        (lambda y: np.where(np.arange(y.size) < 56, 0.0, 1.0), "zero_variance"),
    ],
)
def test_outcomes_that_no_model_has_or_few(outcome, rule):
    sites = drawn("logistic", slopes=(0.8,))
    sites[0][:, -1] = outcome(sites[0][:, -1])
    assert Rows("logistic", sites).sent(0) == rule


def test_parameters_need_patients_of_the_smaller_class():
    slopes = np.zeros(8)
    sites = drawn("logistic", (120, 75, 97), slopes)
    sites[0][:, -1] = np.arange(120) < 12
    rows = Rows("logistic", sites, Disclosure(min_patients=5))
    assert rows.sent(0) == "too_many_parameters"


LIES = {
    "other coefficients": {"beta": [0.0, 0.0, 0.0]},
    "other units": {"scales": [1.0, 1.0]},
    "another length": {"score": [0.0]},
    "no triangle": {"information": [[1.0], [1.0], [1.0]]},
    "a negative information": {"information": [[10.0], [0.0, -1.0], [0.0, 0.0, 1.0]]},
    "no information": {"information": [[10.0], [0.0, 0.0], [0.0, 0.0, 1.0]]},
    "an information of nobody": {"information": [[10.0], [90.0, 1.0], [0.0, 0.0, 1.0]]},
    "more weight than patients": {"information": [[99.0], [0.0, 1.0], [0.0, 0.0, 1.0]]},
    "more outcomes than patients": {"score": [99.0, 0.0, 0.0]},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_hub_believes_no_numbers_that_no_patients_give(lie):
    rows = Rows("logistic", drawn("logistic"))
    cells = {str(i): rows.sent(i) for i in range(3)}
    start = rows.analysis.advance(1, cells)
    cell, limits = rows.sent(0, start), Limits(10, 1, stated=start)
    rows.analysis.verify(cell, limits)
    with pytest.raises(ImpossibleCell):
        rows.analysis.verify(cell.model_copy(update=LIES[lie]), limits)


def test_a_hub_believes_no_numbers_of_another_round():
    rows = Rows("logistic", drawn("logistic"))
    cells = {str(i): rows.sent(i) for i in range(3)}
    start = rows.analysis.advance(1, cells)
    cell, limits = rows.sent(0, start), Limits(10, 1, stated=start)
    for wrong, of_round in ((cell, Limits(10, 1)), (cells["0"], limits)):
        with pytest.raises(ImpossibleCell):
            rows.analysis.verify(wrong, of_round)
    few = {"n": 8, "score": [0.0] * 3, "information": [[1.0], [0.0, 1.0], [0.0, 0.0, 1.0]]}
    with pytest.raises(CellBelowMinimum):
        rows.analysis.verify(cell.model_copy(update=few), Limits(5, 1, stated=start))


def test_a_hub_takes_no_outcome_that_few_have():
    rows = Rows("logistic", drawn("logistic"))
    cell = rows.sent(0)
    events = round(cell.n * cell.means[-1])
    rows.analysis.verify(cell, Limits(min(events, cell.n - events), 1))
    with pytest.raises(CellBelowMinimum):
        rows.analysis.verify(cell, Limits(min(events, cell.n - events) + 1, 1))
    half = cell.model_copy(update={"means": [*cell.means[:-1], 0.4137]})
    with pytest.raises(ImpossibleCell):
        rows.analysis.verify(half, Limits(5, 1))


def test_sites_that_lie_crash_no_hub():
    rows = Rows("poisson", drawn("poisson"))
    cells = {str(i): rows.sent(i) for i in range(3)}
    start = rows.analysis.advance(1, cells)
    big = [[1e200], [0.0, 1e-200], [0.0, 0.0, 1e200]]
    for changes in ({"score": [1e100] * 3}, {"information": big}, {"score": [-1e100, 1e100, 0.0]}):
        lies = {str(i): rows.sent(i, start).model_copy(update=changes) for i in range(3)}
        found = rows.analysis.merge(lies, start)
        json.dumps(found, allow_nan=False)
        rows.analysis.advance(2, lies, start)
    far = {s: c.model_copy(update={"means": [1e100, -1e100, 3.0]}) for s, c in cells.items()}
    json.dumps(rows.analysis.merge(far), allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": [0.0]}, "1 coefficients of a model of 3"),
        ({"centers": [0.0]}, "of a model of 3"),
        ({"steps": [1.0, 1.0]}, "2 steps before round 2"),
        ({"n": 14}, "14 patients, fewer than of 3 sites"),
    ],
)
def test_a_site_answers_no_hub_that_states_nonsense(changes, message):
    rows = Rows("logistic", drawn("logistic"))
    start = rows.analysis.advance(1, {str(i): rows.sent(i) for i in range(3)})
    rows.analysis.check_stated(start, 2)
    with pytest.raises(ImpossibleCell, match=message):
        rows.analysis.check_stated(start.model_copy(update=changes), 2)


def test_a_cell_that_is_done_stays_in_the_result(world):
    """Another model of the analysis goes on for a round: the first one is not lost."""
    _, _, settings, results, _, _ = world
    (analysis,) = copy.deepcopy(results[-1]["analyses"])
    for cell in analysis["cells"]:
        cell["feature"] = "voxels"
    before = {**results[-1], "analyses": [analysis]}
    (joined,) = carried(results[-1], [before], settings)["analyses"]
    assert [cell["feature"] for cell in joined["cells"]] == [MEAN, "voxels"]
    assert len(joined["estimates"]) == 6
    assert carried(results[-1], [], settings) == results[-1]


def test_a_model_that_all_sites_withhold_has_a_reason(tmp_path, world):
    kind, made, settings, results, states, _ = world
    releases = accepted(made, settings, 2, states[0])
    for each in releases:
        analyses = [a.model_copy(update={"cells": []}) for a in each.aggregates.analyses]
        each.aggregates = each.aggregates.model_copy(update={"analyses": analyses})
    merged = merge(accepted=releases, settings=settings, round_=2, state=states[0])
    (cell,) = merged["analyses"][0]["cells"]
    assert (cell["sites"], cell["terms"], cell["reason"]) == ([], [], "site_left")
    assert carried(merged, results[:1], settings)["analyses"][0]["cells"] == [cell]
    (row,) = kinds()[kind].draw_result(merged["analyses"][0], ["site0"]).groups[0].table.rows
    assert "a site that was in an earlier round has withheld it" in str(row[4].text)
    write_tables(merged, tmp_path / "tables")


def test_pages_show_what_leaves_and_what_follows(tmp_path, world):
    kind, made, settings, results, states, _ = world
    for round_, state in ((1, None), (2, states[0])):
        releases = accepted(made, settings, round_, state)
        drawing = kinds()[kind].draw_release(releases[0].aggregates.analyses[0])
        (group,) = drawing.groups
        assert {len(row) for row in group.table.rows} == {len(group.table.head)}
        assert len(group.table.rows) == 3
    for result in (results[0], results[-1]):
        write_hub_report(
            result=result,
            accepted=releases,
            rejected=[],
            settings=settings,
            outlook=Outlook(1, [], [], further=False),
            path=tmp_path / "report.html",
        )
        page = (tmp_path / "report.html").read_text()
        assert "the feature in units of 5 from 60; age in units of 10 from 60." in page
        assert ("another round" in page) == (result is results[0])
    assert {"logistic": "Odds ratio", "poisson": "Rate ratio"}[kind] in page


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("logistic", {"outcome": {"variable": "clinical.dead", "center": 1}}, "taken as it is"),
        ("logistic", {"outcome": STAGE}, "a category of 3 values, not two"),
        ("logistic", {"outcome": {"variable": "clinical.age"}}, "number, not event or category"),
        ("logistic", {"outcome": VOLUME}, "no clinical variable"),
        ("poisson", {"outcome": WOMAN}, "of the type category, not number or days"),
        ("poisson", {"rounds": 2}, "rounds"),
        ("logistic", {"covariates": [AGE, DEAD]}, "stands twice"),
    ],
)
def test_a_protocol_says_what_is_wrong_with_an_outcome(tmp_path, kind, changes, message):
    with pytest.raises(ConfigError) as found:
        three(tmp_path, {**model(kind), **changes})
    assert message in str(found.value)


def test_a_category_of_two_values_is_an_outcome(tmp_path):
    made, settings = three(tmp_path, {**model("logistic", AGE), "outcome": WOMAN})
    results, _, _ = through(made, settings)
    (cell,) = results[-1]["analyses"][0]["cells"]
    rows = whole(made).assign(dead=lambda each: (each["sex"] == "F").astype(float))
    close([term["estimate"] for term in cell["terms"]], pooled("logistic", rows).params)
    page = str(kinds()["logistic"].draw_result(results[-1]["analyses"][0], ["site0"]).lead)
    assert "clinical.sex, F against M" in page


def test_weights_that_are_worth_fewer_patients_than_the_minimum():
    x = np.linspace(-1, 1, 60)
    outcome = (np.arange(60) % 2).astype(float)
    worth = []
    for slope in (0.5, 5.0, 20.0, 80.0):
        found = evaluate(Binomial, x[:, None], outcome, Point((0.0, slope), (0.0,), (1.0,)))
        weights = found.weights
        worth.append(weights.sum() ** 2 / np.square(weights).sum())
        assert rest_on_few(found, TEN) == (worth[-1] < 10)
    assert worth[0] > 50
    assert worth[-1] < 10


@pytest.mark.parametrize(("slopes", "patients"), [((0.3,), 30), ((0.3, 0.2), 51)])
def test_all_rounds_count_as_equations_before_the_first(slopes, patients):
    """docs/protocol-guide.md says how many patients a site needs."""
    left = []
    for n in (patients - 1, patients):
        rows = Rows("logistic", drawn("logistic", (n,), slopes), Disclosure(min_patients=5))
        (decision,) = decided(rows, rows.proposed(0))
        left.append(decision.released is not None)
        if not left[-1]:
            assert decision.findings[SATURATION] is Finding.WITHHELD
    assert left == [False, True]


def decided(rows, *cells, pasts=()):
    """Return the gate's decisions on cells, beside what left before."""
    patient_of = {case: case for cell in cells for case in cell.cases}
    return decide(cells, patient_of, rows.disclosure, Regions(), History(pasts))


def past(decisions):
    """Return what the ledger then knows, as it reads it again."""
    return _behind(decisions, Noisy(), {}, {}, {}).past()


def test_a_column_without_a_coefficient_makes_no_other_model():
    """The hub states nearly the same of a model with a further column, whose coefficient is 0."""
    rng = np.random.default_rng(3)
    n = 100
    x = np.concatenate([rng.normal(0, 0.3, n - 1), [4.0]])
    outcome = (np.arange(n) % 2).astype(float)
    one = Rows("logistic", [np.column_stack([x, outcome])])
    more = Rows("logistic", [np.column_stack([x, rng.normal(0, 1, n), outcome])])
    first = start_of(one, [0.1, 0.0])
    second = start_of(more, [0.1, 0.2, 0.0])
    sums = [rows.content(0).at(Binomial, s.point) for rows, s in ((one, first), (more, second))]
    change = (sums[0].information - sums[1].information[:2, :2])[1, 1]
    own = (sums[0].weights - sums[1].weights)[-1] * 4.0**2
    assert own == pytest.approx(change, rel=0.1)
    (alone,) = decided(more, more.proposed(0, second))
    assert alone.released is not None
    left = decided(one, one.proposed(0, first))
    assert left[0].released is not None
    (after,) = decided(more, more.proposed(0, second), pasts=[past(left)])
    assert after.findings[RESTS_ON_FEW] is Finding.WITHHELD
    both = decided(one, one.proposed(0, first), more.proposed(0, second))
    assert [each.released is not None for each in both].count(True) == 1


def test_three_models_of_one_column_are_one_at_three_points():
    """A further column of coefficient 0 differs in each; any two of the models tell of no few."""
    x = np.concatenate([np.linspace(-1, 1, 79), [3.0]])
    outcome = (np.arange(80) % 2).astype(float)
    further = np.random.default_rng(1).normal(0, 1, (3, 80))
    models = [
        Rows("logistic", [np.column_stack([x, other, outcome])], more={"rounds": 3})
        for other in further
    ]
    pasts, left = [], []
    for rows, slope in zip(models, (0.0, 0.3, 0.6), strict=True):
        (found,) = decided(rows, rows.proposed(0, start_of(rows, [0.0, slope, 0.0])), pasts=pasts)
        left.append(found.findings[RESTS_ON_FEW])
        pasts += [past([found])] if found.released else []
    assert left == [Finding.PASSED, Finding.PASSED, Finding.WITHHELD]


def test_models_whose_further_columns_count_are_not_one():
    rows = drawn("logistic", slopes=(0.8, -0.9, 0.0))[2]
    every = [Rows("logistic", [np.delete(rows, i, axis=1)]) for i in (1, 2)]
    points = [Point((0.1, 0.8, slope), (0.0,) * 2, (1.0,) * 2) for slope in (0.1, -0.9)]
    own, other = (
        each.content(0, point).fitted(Binomial) for each, point in zip(every, points, strict=True)
    )
    assert not are_nearly_one(own, other)
    assert are_nearly_one(own, own)
    few = replace(own, sums=replace(own.sums, means=np.eye(97)[0] + own.sums.means))
    assert combine_to_few(own, [few], TEN)
    assert not combine_to_few(own, [replace(few, patients=own.patients + "q")], TEN)


def test_means_and_weights_of_which_a_combination_is_one_patient():
    """Neither the means at both points nor the weights by themselves tell of few."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.7, 79), [2.8]])
    outcome = (rng.random(80) < 0.5).astype(float)
    points = [Point(beta, (0.0,), (1.0,)) for beta in ((-4.0, 1.6), (-4.2, 1.2))]
    first, second = (evaluate(Binomial, x[:, None], outcome, point) for point in points)
    parts = [first.means, first.weights, second.means, second.weights]
    known = np.column_stack([np.ones(80), *parts])
    weight = np.where(x == 2.8, 1e4, 1.0)
    made = known @ np.linalg.lstsq(known * weight[:, None], (x == 2.8) * weight, rcond=None)[0]
    assert np.square(made[-1]) > 0.99 * np.square(made).sum()
    assert not any(rest_on_few(each, TEN) for each in (first, second))
    assert not _differ(second, first, TEN)
    assert not pair_dominates(np.column_stack([known[:, [0, 1, 3]], outcome]), 0.9, 1e-3)
    assert differ_in_few(second, [first], outcome, TEN)


def test_those_who_are_left_beside_a_group_are_not_few():
    """Of all less a group at one point, nearly all that is left is of five patients."""
    rng = np.random.default_rng(5)
    inside = np.column_stack([rng.normal(0, 1, 70), np.arange(70) % 2])
    outside = np.column_stack([rng.normal(-7, 0.5, 30), np.arange(30) % 2])
    outside[:5, 0] = rng.normal(0, 0.5, 5)
    every, group = (
        Rows("logistic", [rows]) for rows in (np.concatenate([inside, outside]), inside)
    )
    start = start_of(every, [0.0, 1.2])
    cells = [rows.proposed(0, start) for rows in (every, group)]
    (leaves,) = Logistic.check_all([(cells[1], 70)], TEN)
    assert isinstance(leaves, Passed)
    both = Logistic.check_all([(cells[0], 100), (cells[1], 70)], TEN)
    assert [isinstance(each, Passed) for each in both] == [True, False]
    assert both[1].rule == RESTS_ON_FEW


def test_groups_that_share_nobody_are_not_compared():
    sites = drawn("logistic", slopes=(0.8,))
    rows = Rows("logistic", sites)
    start = start_of(rows, [0.1, 0.3])
    own = rows.content(0, start.point).fitted(Binomial)
    other = replace(own, patients=np.array([f"q{i:03d}" for i in range(60)], dtype=object))
    far = replace(own, sums=replace(own.sums, means=np.eye(60)[0] + own.sums.means))
    assert differ_beside(own, far, TEN)
    assert not differ_beside(own, replace(far, patients=other.patients), TEN)
    assert not differ_beside(own, own, TEN)

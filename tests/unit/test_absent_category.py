"""A value of a category that nobody has at a site: its models leave, and equal one place."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.duration.hazard_regression import PHReg

from combat_world import FEATURES, only_liver, two_rounds
from cox_world import FEATURE, Site, cox, federation, patients
from federation_world import ENERGY, MEAN
from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell, analyses_of, kinds
from jipflow.analyses.design import Design, broken, present
from jipflow.analyses.facts import Limits
from jipflow.hub.merge import merge
from jipflow.settings.protocol import Disclosure
from models_rows import model, through
from models_world import AGE, STAGE, accepted, entry, frame, three

FIVE = Disclosure(min_patients=5)
THREE = {"variable": "clinical.grade", "values": ["a", "b", "c"], "reference": "a"}


def without(made, value, *names):
    """Take a value of the stage from the patients of sites."""
    for one in made:
        if one.name in names:
            stage = one.clinical["stage"].to_numpy(copy=True)
            there = np.flatnonzero(stage == value)
            stage[there] = np.where(np.arange(there.size) % 2 == 0, "I", "II")
            one.clinical["stage"] = stage
            one.write()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return sites of which one has nobody of stage III, and the hub's results of all rounds."""
    made, settings = three(
        tmp_path_factory.mktemp("absent"),
        entry("linear", "line", covariates=[AGE, STAGE]),
        entry("covariance", "pairs", others=[STAGE]),
        model("logistic", STAGE, id="odds", variables=[f"CT.{ENERGY}"], center=0, scale=1),
        sizes=(90, 120, 150),
        missing=False,
    )
    without(made, "III", "site1")
    return made, settings, through(made, settings)[0], accepted(made, settings)


def cell(result, id):
    (found,) = [each for each in result["analyses"] if each["id"] == id]
    assert found["cells"][0]["sites"] == ["site0", "site1", "site2"]
    return found["cells"][0]


def columns(rows):
    return [(rows["stage"] == value) * 1.0 for value in ("II", "III")]


def agree(terms, peer):
    np.testing.assert_allclose([t["estimate"] for t in terms], peer.params, rtol=1e-9)
    np.testing.assert_allclose([t["se"] for t in terms], peer.bse, rtol=1e-9)


def test_linear_and_logistic_models_equal_one_place(world):
    made, _, results, _ = world
    rows = frame(made)
    age = (rows["age"] - 60) / 10
    x = np.column_stack([np.ones(len(rows)), age, *columns(rows)])
    agree(cell(results[-1], "line")["terms"], sm.OLS(rows[MEAN], x).fit())
    rows = frame(made, ENERGY)
    x = np.column_stack([np.ones(len(rows)), rows[ENERGY], *columns(rows)])
    peer = sm.Logit(rows["dead"], x).fit(disp=0, tol=1e-14)
    agree(cell(results[-1], "odds")["terms"], peer)


def test_covariances_have_no_correlation_of_the_site_with_a_value_of_nobody(world):
    _, _, results, releases = world
    found = cell(results[0], "pairs")
    (one,) = [each for each in found["by_site"] if each["site"] == "site1"]
    assert [value is None for value in one["correlations"]] == [False, True, True]
    json.dumps(found, allow_nan=False)
    assert found["reason"] is None
    sent = next(a for a in releases[1].aggregates.analyses if a.id == "pairs")
    assert kinds()["covariance"].draw_release(sent).groups
    (analysis,) = [a for a in results[0]["analyses"] if a["id"] == "pairs"]
    assert kinds()["covariance"].draw_result(analysis, ["site0", "site1", "site2"]).groups


def test_a_value_that_nobody_has_anywhere_is_a_reason(tmp_path):
    made, settings = three(
        tmp_path,
        entry("linear", "line", covariates=[STAGE]),
        entry("covariance", "pairs", others=[STAGE]),
        model("logistic", STAGE, id="odds", variables=[f"CT.{ENERGY}"]),
        sizes=(90, 120, 150),
        missing=False,
    )
    without(made, "III", "site0", "site1", "site2")
    result = merge(accepted=accepted(made, settings), settings=settings)
    reasons = {each["id"]: each["cells"][0]["reason"] for each in result["analyses"]}
    assert reasons == dict.fromkeys(["line", "pairs", "odds"], "collinear")


def test_a_cox_model_equals_one_place():
    frames = [patients(i, n) for i, n in enumerate((90, 120, 150))]
    for i, each in enumerate(frames):
        each["grade"] = np.random.default_rng(i).permutation(len(each)) % (2 if i == 1 else 3) * 1.0
    found = federation(cox(covariates=[THREE]), frames)
    assert sorted(found.by_site) == ["site0", "site1", "site2"]
    assert found.by_site["site1"].score[2] == 0.0
    rows = [f.assign(site=i) for i, f in enumerate(frames)]
    x, days, dead, site = (
        np.concatenate([each[name].to_numpy() for each in rows])
        for name in (FEATURE, "days", "dead", "site")
    )
    grade = np.concatenate([f["grade"].to_numpy() for f in frames])
    columns = np.column_stack([x, grade == 1, grade == 2]).astype(float)
    peer = PHReg(days, columns - columns.mean(axis=0), dead, strata=site, ties="efron")
    beta = peer.fit(disp=0).params
    for _ in range(5):
        beta = beta - np.linalg.solve(peer.hessian(beta), peer.score(beta))
    np.testing.assert_allclose([t["estimate"] for t in found.merged["terms"]], beta, rtol=1e-9)
    for each in frames:
        each["grade"] = np.arange(len(each)) % 2 * 1.0
    assert federation(cox(covariates=[THREE]), frames).merged["reason"] == "collinear"


def test_combat_preserves_a_category_of_which_a_site_lacks_a_value(tmp_path):
    made, settings = only_liver(tmp_path, covariates=[STAGE])
    without(made, "III", "site1")
    _, _, second, _ = two_rounds(made, settings)
    sent = {each.site: len(each.aggregates.analyses[0].cells) for each in second}
    assert sent == dict.fromkeys(["site0", "site1", "site2"], len(FEATURES))
    (feature,) = [c for c in second[1].aggregates.analyses[0].cells if c.feature == FEATURES[1]]
    assert feature.means[2] == 0.0


@pytest.mark.parametrize("others", [40, 36])
def test_those_who_are_left_do_not_all_have_the_value_that_the_first_lack(others):
    """All less a cohort without the value are others, of whom all would be known to have it."""
    frame = patients(3, 160)
    grade = np.random.default_rng(3).permutation(120) % 2
    frame["grade"] = np.r_[grade, np.full(others, 2), np.zeros(40 - others)]
    for first, second in ((frame[:120], frame), (frame, frame[:120])):
        north = Site(first)
        assert not isinstance(north.asked(cox(covariates=[THREE]))["survival"], str)
        north.frame = second
        assert north.asked(cox(covariates=[THREE]))["survival"] == "earlier"
    assert not isinstance(Site(frame[:120]).asked(cox(covariates=[THREE]))["survival"], str)


def rows_of(*stages):
    """Return a design of a variable and of two indicators."""
    stage = np.repeat(np.arange(3), stages)
    random = np.random.default_rng(0)
    raw = np.column_stack([random.normal(size=stage.size), stage == 1, stage == 2]).astype(float)
    raw[:, 0] = random.permutation(raw[:, 0])
    ids = np.array([f"p{i:03d}" for i in range(stage.size)], dtype=object)
    keys = tuple(range(3))
    return Design(ids, ids, keys, (-1, 0, 0), raw, np.zeros(3), np.ones(3))


@pytest.mark.parametrize(
    ("stages", "rule"),
    [
        ((20, 20, 0), None),
        ((0, 20, 20), None),
        ((36, 4, 0), "zero_variance"),
        ((4, 36, 0), "zero_variance"),
        ((40, 0, 0), "zero_variance"),
        ((0, 40, 0), "zero_variance"),
        ((0, 0, 40), "zero_variance"),
    ],
)
def test_a_category_of_which_all_or_nearly_all_have_one_value_does_not_leave(stages, rule):
    found = broken(rows_of(*stages), FIVE, 3, 40)
    assert (found.code if found else None) == rule


def test_the_columns_of_values_that_somebody_has():
    assert present(rows_of(20, 20, 0)) == [0, 1]
    assert present(rows_of(40, 0, 0)) == [0, 1, 2]


LIES = {
    "a mean without products": (lambda c: c["means"].__setitem__(3, 0.1), CellBelowMinimum),
    "a product": (lambda c: c["products"][3].__setitem__(0, 1.0), CellBelowMinimum),
    "an age of nobody": (lambda c: take_away(c, 1), CellBelowMinimum),
    "all of one value": (lambda c: take_away(c, 2), CellBelowMinimum),
    "few of a value": (lambda c: c["means"].__setitem__(2, 3 / c["n"]), ImpossibleCell),
}


def take_away(content, column):
    """Set all numbers of a column to 0."""
    content["means"][column] = content["mean_rests"][column] = 0.0
    content["products"] = [
        [0.0 if column in (i, j) else value for j, value in enumerate(row)]
        for i, row in enumerate(content["products"])
    ]


@pytest.mark.parametrize("lie", LIES)
def test_a_hub_refuses_what_looks_like_a_value_of_nobody(world, lie):
    _, settings, _, releases = world
    analysis = next(a for a in releases[1].aggregates.analyses if a.id == "line")
    honest, limits = analysis.cells[0], Limits(5, 1)
    (line,) = [a for a in analyses_of(settings.protocol) if a.settings.id == "line"]
    line.verify(honest, limits)
    content = copy.deepcopy(honest.plain())
    change, fault = LIES[lie]
    change(content)
    with pytest.raises(fault):
        line.verify(type(honest).model_validate(content), limits)

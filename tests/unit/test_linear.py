"""Linear regression equals the pooled one, and what a site sends of it tells of no few patients."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from federation_world import ENERGY, MEAN, protocol
from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell, kinds
from jipflow.analyses.estimates import term_names
from jipflow.analyses.facts import Limits
from jipflow.analyses.linear import Cell, Settings, least_squares
from jipflow.analyses.scatter import merge_scatters, scatter
from jipflow.exchange.refusals import Refused
from jipflow.hub.check import Asked, check_contents
from jipflow.hub.merge import merge
from jipflow.hub.rounds import Outlook
from jipflow.hub.tables import write_tables
from jipflow.report.hub import write_hub_report
from jipflow.settings.covariates import Covariate
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import settings_of
from models_world import (
    AGE,
    CLINICAL,
    SEX,
    STAGE,
    VOLUME,
    accepted,
    build_after,
    entry,
    frame,
    lost,
    past_of,
    three,
)

ALL = [AGE, SEX, STAGE, VOLUME]
NAMES = ["intercept", "age", "sex=F", "stage=II", "stage=III", "volume_ml"]


def pooled(rows, feature=MEAN):
    """Return the regression of all rows in one place."""
    columns = [
        (rows["age"] - 60) / 10,
        rows["sex"] == "F",
        rows["stage"] == "II",
        rows["stage"] == "III",
        rows["spleen"],
    ]
    design = np.column_stack([np.ones(len(rows)), *columns]).astype(float)
    return sm.OLS(rows[feature].to_numpy(), design).fit()


def close(found, expected, rel=1e-9):
    """Compare each by itself: a list is compared to the last of its digits."""
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=rel)


@pytest.mark.parametrize("sizes", [(60, 75, 97), (55, 60, 71, 82, 120)])
def test_a_model_over_sites_equals_the_pooled_one(tmp_path, sizes):
    made, settings = three(tmp_path, entry("linear", covariates=ALL), sizes=sizes)
    result = merge(accepted=accepted(made, settings), settings=settings)
    (analysis,) = result["analyses"]
    (cell,) = analysis["cells"]
    rows = frame(made)
    fit = pooled(rows)
    assert cell["n"] == len(rows) == sum(sizes) - 12
    assert cell["by_site"][0] == {"site": "site0", "n": sizes[0] - 12}
    assert [term["term"] for term in cell["terms"]] == NAMES
    for name, expected in (
        ("estimate", fit.params),
        ("se", fit.bse),
        ("low", fit.conf_int()[:, 0]),
        ("high", fit.conf_int()[:, 1]),
        ("statistic", fit.tvalues),
        ("p", fit.pvalues),
    ):
        close([term[name] for term in cell["terms"]], expected)
    assert cell["r_squared"] == pytest.approx(fit.rsquared, rel=1e-9)
    assert cell["residual_sd"] == pytest.approx(np.sqrt(fit.mse_resid), rel=1e-9)
    assert (cell["df"], cell["reason"]) == (fit.df_resid, None)
    assert len(analysis["estimates"]) == len(NAMES)
    assert result == merge(accepted=accepted(made[::-1], settings), settings=settings)


def test_a_mean_of_1e8_standard_deviations_costs_nothing():
    """Values have few digits, so that adding 10⁸ to them is exact, and a center takes it off."""
    rng = np.random.default_rng(1)
    sites = [np.round(rng.normal(i / 7, 1 + i / 3, (30 + 11 * i, 4)) * 2**20) for i in range(3)]
    sites = [each / 2**20 for each in sites]
    rows = np.concatenate(sites)
    fit = sm.OLS(rows[:, 0], sm.add_constant(rows[:, 1:] / 4)).fit()
    far = {str(i): scatter(each + 1e8) for i, each in enumerate(sites)}
    found = least_squares(merge_scatters(far), "abc", np.full(3, 1e8), np.full(3, 4.0))
    terms = found["terms"]
    close([term["se"] for term in terms], fit.bse)
    close([term["estimate"] for term in terms[1:]], fit.params[1:])
    assert terms[0]["estimate"] - 1e8 == pytest.approx(fit.params[0], abs=1e-7)
    assert found["r_squared"] == pytest.approx(fit.rsquared, rel=1e-9)


def test_another_center_asks_for_the_very_same_numbers(tmp_path):
    sent = []
    for i, age in enumerate((AGE, {**AGE, "center": 61.5, "scale": 3})):
        made, _ = three(tmp_path / str(i), entry("linear", covariates=[age]))
        sent.append(made[0].build()[0]["analyses"][0]["cells"])
    assert sent[0] == sent[1] != []


def test_groups_have_models_of_their_own(tmp_path):
    by = {"of": "clinical.sex", "groups": {"women": "F", "men": "M"}}
    made, settings = three(tmp_path, entry("linear", covariates=[AGE], by=by))
    result = merge(accepted=accepted(made, settings), settings=settings)
    found = {cell["group"]: cell for cell in result["analyses"][0]["cells"]}
    every = pd.concat(
        [
            one.table[one.table["segment"] == "liver"].merge(one.clinical.dropna(subset="age"))
            for one in made
        ]
    )
    for group, sex in (("women", "F"), ("men", "M")):
        rows = every[every["sex"] == sex]
        fit = sm.OLS(rows[MEAN].to_numpy(), sm.add_constant((rows["age"] - 60) / 10)).fit()
        assert found[group]["n"] == len(rows)
        close([term["estimate"] for term in found[group]["terms"]], fit.params)


def test_features_of_one_name_have_their_segments_in_the_name():
    liver, age = ({**VOLUME, "segment": "liver"}, Covariate.model_validate(AGE))
    both = [Covariate.model_validate(each) for each in (VOLUME, liver)]
    assert term_names([age, *both]) == [
        "age",
        "volume_ml · spleen · organs on CT",
        "volume_ml · liver · organs on CT",
    ]
    assert term_names([age, both[0]]) == ["age", "volume_ml"]


def test_two_sites_have_no_model(tmp_path):
    made, settings = three(tmp_path, entry("linear", covariates=ALL))
    result = merge(accepted=accepted(made[:2], settings), settings=settings)
    (cell,) = result["analyses"][0]["cells"]
    assert (cell["terms"], cell["reason"]) == ([], "few_sites")


def test_a_site_that_withholds_is_left_out(tmp_path):
    sizes = (60, 75, 97, 14)
    made, settings = three(tmp_path, entry("linear", covariates=ALL), sizes=sizes)
    releases = accepted(made, settings)
    assert lost(releases[3].disclosure.plain()) != {}
    result = merge(accepted=releases, settings=settings)
    (cell,) = result["analyses"][0]["cells"]
    assert cell["sites"] == ["site0", "site1", "site2"]
    close([t["estimate"] for t in cell["terms"]], pooled(frame(made[:3])).params)


def test_a_summary_of_more_patients_is_no_contradiction(tmp_path):
    """A model is of those who have all of its variables, a mean of all who have its own."""
    made, settings = three(
        tmp_path, entry("linear", covariates=[AGE]), entry("summary", "describe")
    )
    release = accepted(made, settings)[0]
    first = release.aggregates.analyses
    assert {a.id: a.cells[0].n for a in first} == {"describe": 60, "model": 54}
    more = first[1].model_copy(update={"cells": [first[1].cells[0].model_copy(update={"n": 70})]})
    lie = release.aggregates.model_copy(update={"analyses": [first[0], more]})
    with pytest.raises(Refused, match=f"a model: CT organs liver {MEAN} has more"):
        check_contents(lie, release.disclosure, Asked.by(settings.protocol))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (lambda y, x: np.column_stack([y, x, 2 * x]), "collinear"),
        (lambda y, x: np.column_stack([x + 1, x]), "collinear"),
        (lambda y, x: np.column_stack([y, x])[:2], "few_patients"),
    ],
)
def test_what_has_no_estimates_has_a_reason(columns, reason):
    rng = np.random.default_rng(1)
    found = columns(rng.normal(size=40), rng.normal(size=40))
    ones = np.ones(found.shape[1] - 1)
    fit = least_squares(scatter(found), ["x"] * ones.size, 0 * ones, ones)
    assert (fit["terms"], fit["reason"]) == ([], reason)


def solved(rows):
    """Return the slopes of the first of three columns on the others, without rounding."""
    exact = [[Fraction(value) for value in column] for column in rows.T.tolist()]
    y, x, z = ([value - sum(column) / len(column) for value in column] for column in exact)
    xx, xz, zz, xy, zy = (
        sum(a * b for a, b in zip(*pair, strict=True))
        for pair in ((x, x), (x, z), (z, z), (x, y), (z, y))
    )
    below = xx * zz - xz * xz
    return [float((zz * xy - xz * zy) / below), float((xx * zy - xz * xy) / below)]


@pytest.mark.parametrize("apart", [1e-2, 3e-3, 3e-4, 1e-4, 1e-6])
def test_nearly_collinear_columns_have_coefficients_to_1e_9_or_none(apart):
    """What sums lose in rounding, the tolerance of a column divides."""
    reasons = []
    for seed in range(6):
        y, x, z = np.random.default_rng(seed).normal(size=(3, 60))
        rows = np.column_stack([5 * (x + 0.3 * z) + y, x, x + apart * z])
        sites = {"a": scatter(rows[:20]), "b": scatter(rows[20:35]), "c": scatter(rows[35:])}
        fit = least_squares(merge_scatters(sites), ["x", "z"], np.zeros(2), np.ones(2))
        reasons.append(fit["reason"])
        if fit["reason"] is None:
            close([term["estimate"] for term in fit["terms"][1:]], solved(rows))
    assert set(reasons) == {None if apart > 1e-3 else "collinear"}


def test_numbers_at_the_end_of_the_format_crash_no_hub(tmp_path):
    made, settings = three(tmp_path, entry("linear", covariates=ALL))
    analysis = kinds()["linear"](settings.protocol.analyses[0])
    cells = {r.site: r.aggregates.analyses[0].cells[0] for r in accepted(made, settings)}
    for i, site in enumerate(cells):
        more = {"means": [(-1) ** i * 1e100] * 6, "products": big(1e200)}
        cells[site] = cells[site].model_copy(update=more)
    found = analysis.merge(cells)
    assert found["reason"] is not None or json.dumps(found, allow_nan=False)


def big(size):
    return [[0.0] * i + [size] for i in range(6)]


def sent(made, **changes):
    """Return a site's cell as its models have it, with changes."""
    (analysis,) = made.build()[0]["analyses"]
    (cell,) = analysis["cells"]
    return Cell.model_validate({**cell, **changes})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made, settings = three(tmp_path_factory.mktemp("linear"), entry("linear", covariates=ALL))
    return made, kinds()["linear"](settings.protocol.analyses[0]), sent(made[2])


def changed(cell, name, at, value):
    """Return a cell in which one number is another one."""
    numbers = [list(row) if name == "products" else row for row in getattr(cell, name)]
    if name == "products":
        numbers[at[0]][at[1]] = value
    else:
        numbers[at] = value
    return cell.model_copy(update={name: numbers})


LIES = {
    "a negative age beyond its rounding": ("mean_rests", 1, 1.0),
    "a correlation above 1": ("products", (1, 0), 1e9),
    "half a woman": ("means", 2, 0.4137),
    "more women and men than there are": ("means", 3, 0.9),
    "a patient of two stages": ("products", (4, 3), 0.0),
    "half a woman of a stage": ("products", (3, 2), 1.234),
    "women by a spread that they have not": ("products", (2, 2), 1.0),
    "a volume below 0": ("means", 5, -3.0),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_hub_believes_no_scatter_that_no_rows_have(world, lie):
    _, analysis, cell = world
    analysis.verify(cell, Limits(5, 1))
    with pytest.raises(ImpossibleCell):
        analysis.verify(changed(cell, *LIES[lie]), Limits(5, 1))


def test_a_hub_believes_no_lists_that_do_not_fit(world):
    _, analysis, cell = world
    for update in (
        {"means": cell.means[:-1]},
        {"mean_rests": [*cell.mean_rests, 0.0]},
        {"products": cell.products[:-1]},
        {"products": [[1.0]] * 6},
    ):
        with pytest.raises(ImpossibleCell):
            analysis.verify(cell.model_copy(update=update), Limits(5, 1))


def test_a_hub_takes_no_classes_of_few_and_not_too_many_parameters(world):
    _, analysis, cell = world
    women, second = (cell.means[i] * cell.n for i in (2, 3))
    both = cell.products[3][2] + women * second / cell.n
    fewest = round(min(both, second - both))
    analysis.verify(cell, Limits(fewest - 2, 1))
    with pytest.raises(CellBelowMinimum):
        analysis.verify(cell, Limits(fewest + 1, 1))
    with pytest.raises(CellBelowMinimum):
        analysis.verify(changed(cell, "products", (0, 0), 0.0), Limits(5, 1))


def test_indicators_that_differ_in_one_patient_are_withheld(tmp_path):
    """A hub names two categories of which the second is the first but for one woman."""
    made, _ = three(tmp_path, entry("linear", covariates=[AGE, SEX, STAGE]))
    one = made[2]
    one.clinical["stage"] = np.where(one.clinical["sex"] == "F", "II", "I")
    one.clinical.loc[one.clinical.index[one.clinical["sex"] == "F"][0], "stage"] = "I"
    one.clinical.loc[one.clinical.index[one.clinical["sex"] == "M"][:30], "stage"] = "III"
    one.write()
    aggregates, record = one.build()
    assert aggregates["analyses"][0]["cells"] == []
    assert lost(record)["model"][0] in ("few_in_class", "few_in_combination")


def test_a_feature_that_is_another_but_for_one_patient_is_withheld(tmp_path):
    """Their difference is that patient's: it would follow from the products."""
    made, _ = three(tmp_path, entry("linear", covariates=[AGE, VOLUME]))
    one = made[1]
    spleen = one.table["segment"] == "spleen"
    liver = one.table.loc[~spleen, MEAN].to_numpy()
    one.table.loc[spleen, "volume_ml"] = liver + np.where(np.arange(len(liver)) == 7, 40.0, 0.0)
    one.write()
    assert lost(one.build()[1]) == {"model": ["few_in_combination"]}


def test_covariates_in_turn_over_releases_stop_before_values_follow(tmp_path):
    """Each model adds equations of the outcome; in the end they would solve it for its values."""
    (one, *_), _ = three(
        tmp_path, entry("linear", covariates=[AGE]), sizes=(18, 20, 20), missing=False
    )
    one.clinical["stage"] = np.array(["I", "II", "III"])[np.arange(18) % 3]
    one.clinical["sex"] = np.array(["F", "M"])[np.arange(18) // 9]
    one.write()
    left, pasts = [], []
    for covariates in ([AGE], [SEX], [STAGE], [VOLUME], [AGE, SEX], [AGE, STAGE], [AGE, VOLUME]):
        analyses = [entry("linear", covariates=covariates)]
        content = protocol(analyses=analyses, clinical=CLINICAL)
        one.settings = settings_of(one.settings.site.plain(), content)
        aggregates, _ = build_after(one, pasts)
        left.append(len(aggregates["analyses"][0]["cells"]))
        pasts.append(past_of(one))
    assert left[0] == 1
    assert left[-1] == 0


def test_pages_show_what_leaves_and_what_follows(tmp_path):
    made, settings = three(tmp_path, entry("linear", covariates=ALL))
    releases = accepted(made, settings)
    drawn = kinds()["linear"].draw_release(releases[0].aggregates.analyses[0])
    rows = drawn.groups[0].table.rows
    assert [str(row[2].text) for row in rows] == [MEAN, *NAMES[1:]]
    assert {len(row) for row in rows} == {len(drawn.groups[0].table.head)}
    shown = str(rows[-1][6].text).split("; ")
    assert len(shown) == 6
    result = merge(accepted=releases, settings=settings)
    write_hub_report(
        result=result,
        accepted=releases,
        rejected=[],
        settings=settings,
        outlook=Outlook(1, [], [], further=False),
        path=tmp_path / "report.html",
    )
    page = (tmp_path / "report.html").read_text()
    assert "age in units of 10 from 60; sex against M; stage against I." in page
    assert "stage=III" in page
    write_tables(result, tmp_path / "tables")
    lines = (tmp_path / "tables" / "model.estimates.csv").read_text().splitlines()
    assert len(lines) == 1 + len(NAMES)
    assert lines[0].startswith("role,segmentation,segment,feature,group,term,estimate,se,low")


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        ([{"variable": "clinical.sex"}], "values: [F, M]"),
        ([{"variable": "clinical.hight"}], "no clinical variable"),
        ([AGE, AGE], "stands twice"),
        ([{"variable": f"CT.{MEAN}", "segmentation": "organs", "segment": "liver"}], "as well"),
        ([], "covariates"),
    ],
)
def test_a_protocol_says_what_is_wrong_with_covariates(tmp_path, covariates, message):
    with pytest.raises(ConfigError) as found:
        three(tmp_path, entry("linear", covariates=covariates))
    assert message in str(found.value)


def test_settings_have_complete_cases_as_the_only_rule():
    assert Settings.model_validate(entry("linear", covariates=[AGE])).missing == "complete"


def test_several_outcomes_are_several_models(tmp_path):
    analysis = {**entry("linear", covariates=ALL), "variables": [f"CT.{MEAN}", f"CT.{ENERGY}"]}
    made, settings = three(tmp_path, analysis)
    result = merge(accepted=accepted(made, settings), settings=settings)
    found = {cell["feature"]: cell for cell in result["analyses"][0]["cells"]}
    for feature in (MEAN, ENERGY):
        fit = pooled(frame(made, feature), feature)
        close([t["estimate"] for t in found[feature]["terms"]], fit.params)

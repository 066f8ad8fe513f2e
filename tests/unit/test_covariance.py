"""Covariances and correlations equal the pooled ones, and are of what a regression sends."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from federation_world import MEAN, protocol
from jipflow.analyses.contract import ImpossibleCell, kinds
from jipflow.analyses.covariance import Cell, Settings, correlated, described
from jipflow.analyses.estimates import REASONS
from jipflow.analyses.facts import Limits
from jipflow.analyses.scatter import merge_scatters, scatter
from jipflow.hub.merge import merge
from jipflow.hub.rounds import Outlook
from jipflow.hub.tables import TABLES, write_tables
from jipflow.report.hub import write_hub_report
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import settings_of
from models_world import CLINICAL, SEX, STAGE, VOLUME, accepted, entry, frame, lost, three

AGE = {"variable": "clinical.age"}
ALL = [AGE, SEX, STAGE, VOLUME]
NAMES = [MEAN, "age", "sex=F", "stage=II", "stage=III", "volume_ml"]


def pooled(rows):
    """Return the columns of all rows in one place."""
    classes = [(rows["sex"] == "F"), (rows["stage"] == "II"), (rows["stage"] == "III")]
    found = [rows[MEAN], rows["age"], *classes, rows["spleen"]]
    return np.column_stack([each.to_numpy(float) for each in found])


def equal(cell, columns):
    """Assert that a cell has what numpy and scipy give of all rows in one place."""
    size = columns.shape[1]
    assert [each["variable"] for each in cell["variables"]] == NAMES[:size]
    for each, column in zip(cell["variables"], columns.T, strict=True):
        assert each["mean"] == pytest.approx(column.mean(), rel=1e-9, abs=1e-9)
        assert each["variance"] == pytest.approx(column.var(ddof=1), rel=1e-9)
    covariances = np.cov(columns.T)
    pairs = [(i, j) for i in range(size) for j in range(i + 1, size)]
    for pair, (i, j) in zip(cell["pairs"], pairs, strict=True):
        assert (pair["first"], pair["second"]) == (NAMES[i], NAMES[j])
        level = np.sqrt(covariances[i, i] * covariances[j, j])
        assert pair["covariance"] == pytest.approx(covariances[i, j], rel=1e-9, abs=1e-12 * level)
        expected = stats.pearsonr(columns[:, i], columns[:, j])
        low, high = expected.confidence_interval(0.95)
        for name, value in (("correlation", expected.statistic), ("low", low), ("high", high)):
            assert pair[name] == pytest.approx(value, rel=1e-9, abs=1e-12)
        assert pair["p"] == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize("sizes", [(60, 75, 97), (55, 60, 71, 82, 93, 57, 66, 120)])
def test_columns_over_sites_equal_the_pooled_ones(tmp_path, sizes):
    """Of the patients who have all of them: the first site lacks ages and stages of twelve."""
    made, settings = three(tmp_path, entry("covariance", others=ALL), sizes=sizes)
    result = merge(accepted=accepted(made, settings), settings=settings)
    (analysis,) = result["analyses"]
    (cell,) = analysis["cells"]
    rows = frame(made)
    assert (cell["n"], cell["reason"]) == (len(rows), None)
    assert cell["n"] == sum(sizes) - 12
    equal(cell, pooled(rows))
    assert result == merge(accepted=accepted(made[::-1], settings), settings=settings)
    first = pooled(rows[rows["site"] == "site0"])
    assert cell["by_site"][0]["n"] == len(first)
    upper = np.corrcoef(first.T)[np.triu_indices(6, 1)]
    assert cell["by_site"][0]["correlations"] == pytest.approx(list(upper), rel=1e-9, abs=1e-12)


def small(seed=1, sites=3):
    """Return columns of few digits, so that adding 10⁸ to them is exact."""
    rng = np.random.default_rng(seed)
    drawn = [rng.normal(i / 7, 1 + i / 3, (30 + 11 * i, 3)) for i in range(sites)]
    for each in drawn:
        each[:, 0] += each[:, 1]
    return [np.round(each * 2**20) / 2**20 for each in drawn]


def test_a_mean_of_1e8_standard_deviations_costs_nothing():
    parts = small()
    far = merge_scatters({str(i): scatter(each + 1e8) for i, each in enumerate(parts)})
    found = described(far, NAMES[:3])
    for each in found["variables"]:
        each["mean"] -= 1e8
    near = np.concatenate(parts)
    for each, column in zip(found["variables"], near.T, strict=True):
        assert each["mean"] == pytest.approx(column.mean(), abs=2e-8)
        each["mean"] = column.mean()
    equal(found, near)


def test_nor_does_it_from_the_sites_to_the_hub(tmp_path):
    made, settings = three(tmp_path, entry("covariance", others=[AGE, SEX]))
    for one in made:
        liver = one.table["segment"] == "liver"
        one.table.loc[liver, MEAN] = np.round(one.table.loc[liver, MEAN] * 2**20) / 2**20
        one.table.loc[liver, MEAN] += 1e8
        one.write()
    result = merge(accepted=accepted(made, settings), settings=settings)
    (cell,) = result["analyses"][0]["cells"]
    rows = pd.concat(
        one.clinical.assign(**{MEAN: one.table.loc[one.table["segment"] == "liver", MEAN].values})
        for one in made
    ).dropna(subset="age")
    columns = np.column_stack([rows[MEAN] - 1e8, rows["age"], rows["sex"] == "F"]).astype(float)
    cell["variables"][0]["mean"] = columns[:, 0].mean()
    equal(cell, columns)


def test_groups_have_cells_of_their_own(tmp_path):
    by = {"of": "clinical.sex", "groups": {"women": "F", "men": "M"}}
    made, settings = three(tmp_path, entry("covariance", others=[AGE], by=by), missing=False)
    result = merge(accepted=accepted(made, settings), settings=settings)
    found = {cell["group"]: cell for cell in result["analyses"][0]["cells"]}
    rows = frame(made)
    for group, sex in (("women", "F"), ("men", "M")):
        equal(found[group], pooled(rows[rows["sex"] == sex])[:, :2])


def test_it_sends_what_a_regression_sends(tmp_path):
    both = [entry("linear", "a", covariates=ALL), entry("covariance", "b", others=ALL)]
    made, _ = three(tmp_path, *both)
    aggregates, record = made[0].build()
    first, second = (each["cells"] for each in aggregates["analyses"])
    assert first == second != []
    assert lost(record) == {}


@pytest.mark.parametrize("scale", [0.3, 1.0, 0.999999999, 1e-9])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_is_that_of_fisher(scale, sign):
    rng = np.random.default_rng(3)
    x = rng.normal(size=40)
    y = sign * scale * x + (1 - scale) * rng.normal(size=40)
    expected = stats.pearsonr(x, y)
    found = correlated(float(expected.statistic), 40)
    interval = expected.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(tuple(interval), rel=1e-9)
    assert found["low"] <= found["correlation"] <= found["high"]
    json.dumps(found, allow_nan=False)


def test_two_sites_have_no_correlation(tmp_path):
    made, settings = three(tmp_path, entry("covariance", others=ALL))
    result = merge(accepted=accepted(made[:2], settings), settings=settings)
    (cell,) = result["analyses"][0]["cells"]
    assert (cell["pairs"], cell["variables"], cell["reason"]) == ([], [], "few_sites")
    assert result["analyses"][0]["pairs"] == []
    drawing = kinds()["covariance"].draw_result(result["analyses"][0], ["site0", "site1", "site2"])
    (row,) = drawing.groups[0].table.rows
    assert REASONS["few_sites"] in row[3].text
    assert len(row) == len(drawing.groups[0].table.head)


def test_numbers_at_the_end_of_the_format_crash_no_hub(tmp_path):
    made, settings = three(tmp_path, entry("covariance", others=ALL))
    analysis = kinds()["covariance"](settings.protocol.analyses[0])
    cells = {r.site: r.aggregates.analyses[0].cells[0] for r in accepted(made, settings)}
    for size, mean in ((1e200, 1e100), (5e-324, 0.0), (1e-300, 1e100)):
        products = [[0.0] * i + [size] for i in range(6)]
        for i, site in enumerate(cells):
            more = {"means": [(-1) ** i * mean] * 6, "products": products}
            cells[site] = cells[site].model_copy(update=more)
        found = analysis.merge(cells)
        json.dumps(found, allow_nan=False)


def test_a_hub_refuses_products_that_no_correlation_has(tmp_path):
    made, settings = three(tmp_path, entry("covariance", others=[AGE]))
    analysis = kinds()["covariance"](settings.protocol.analyses[0])
    (sent,) = made[1].build()[0]["analyses"][0]["cells"]
    analysis.verify(Cell.model_validate(sent), Limits(5, 1))
    for products in (
        [[5e-324], [1e200, 5e-324]],
        [[1.0], [-1.1, 1.0]],
        [[5e-324], [5e-324, 1e200]],
    ):
        cell = Cell.model_validate({**sent, "means": [0.0, 0.0], "products": products})
        if products[1][0] != 5e-324:
            with pytest.raises(ImpossibleCell):
                analysis.verify(cell, Limits(5, 1))
        json.dumps(analysis.merge(dict.fromkeys("abc", cell)), allow_nan=False)


def test_numbers_are_compared_as_they_were_measured():
    scaled = {**AGE, "center": 60, "scale": 10}
    with pytest.raises(ConfigError, match="remove `center` and `scale`"):
        protocol(analyses=[entry("covariance", others=[scaled])], clinical=CLINICAL)


def test_one_feature_of_two_segments_has_two_names(tmp_path):
    own = entry("covariance", variables=["CT.volume_ml"], others=[VOLUME])
    made, settings = three(tmp_path, own, missing=False)
    for i, one in enumerate(made):
        rng = np.random.default_rng(i)
        liver = one.table["segment"] == "liver"
        one.table.loc[liver, "volume_ml"] = rng.lognormal(7, 0.2, liver.sum())
        one.write()
    result = merge(accepted=accepted(made, settings), settings=settings)
    (pair,) = result["analyses"][0]["pairs"]
    assert (pair["first"], pair["second"]) == ("volume_ml · liver · organs on CT", "volume_ml")


def test_a_later_one_that_lacks_a_patient_is_withheld(tmp_path, inbox):
    """All less one in a second protocol: what differs would be that patient's row."""
    made, _ = three(tmp_path, entry("linear", covariates=[{**AGE, "center": 60}]))
    made[2].send(inbox)
    content = protocol(analyses=[entry("covariance", "later", others=[AGE])], clinical=CLINICAL)
    content["protocol"]["id"] = "later"
    made[2].settings = settings_of(made[2].settings.site.plain(), content)
    made[2].write()
    assert lost(made[2].build()[1]) == {}
    made[2].clinical.loc[5, "age"] = np.nan
    made[2].write()
    assert lost(made[2].build()[1]) == {"later": ["earlier"]}


def words(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_pages_and_tables_show_each_pair(tmp_path):
    made, settings = three(tmp_path, entry("covariance", "related", others=ALL))
    releases = accepted(made, settings)
    drawn = kinds()["covariance"].draw_release(releases[0].aggregates.analyses[0])
    rows = drawn.groups[0].table.rows
    assert [str(row[2].text) for row in rows] == NAMES
    result = merge(accepted=releases, settings=settings)
    write_hub_report(
        result=result,
        accepted=releases,
        rejected=[],
        settings=settings,
        outlook=Outlook(1, [], [], further=False),
        path=tmp_path / "report.html",
    )
    page = words((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "correlation of each feature with other variables" in page
    (analysis,) = result["analyses"]
    table = kinds()["covariance"].draw_result(analysis, ["site0", "site1", "site2"]).groups[0].table
    assert {len(row) for row in table.rows} == {len(table.head)}
    assert [row[6].text for row in table.rows] == [
        *(pair["second"] for pair in analysis["pairs"]),
        "",
    ]
    write_tables(result, tmp_path / TABLES)
    for name in ("pairs", "variables"):
        with (tmp_path / TABLES / f"related.{name}.csv").open(encoding="utf-8") as stream:
            found = list(csv.DictReader(stream))
        assert len(found) == len(analysis[name]) == {"pairs": 15, "variables": 6}[name]
        assert found[0]["feature"] == MEAN
    assert float(found[1]["sd"]) == analysis["variables"][1]["sd"]


def test_a_kind_is_of_each_variable_with_the_others():
    settings = Settings.model_validate(entry("covariance", others=[AGE, SEX]))
    analysis = kinds()["covariance"](settings)
    assert analysis.names == ["age", "sex=F"]
    assert [key.feature for key in analysis.reads()] == ["age", "sex"]
    assert analysis.most_numbers == 3 + 3 + 6

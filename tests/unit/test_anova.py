"""Analysis of variance: that it equals the pooled one, what it sends, and what pages show."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.oneway import anova_oneway

from federation_world import MEAN, accept, hub_settings, protocol, site
from jipflow.analyses import anova
from jipflow.analyses.cells import CellKey
from jipflow.analyses.moments import Moments, moments
from jipflow.analyses.one_way import NOT_FINITE, ONE_GROUP, one_way
from jipflow.files import json_text
from jipflow.hub.merge import merge
from jipflow.hub.rounds import Outlook
from jipflow.hub.tables import TABLES, write_tables
from jipflow.report.hub import write_hub_report
from jipflow.settings.protocol import Disclosure
from jipflow.settings.run import settings_of
from models_world import accepted, values
from three_sites import MAKERS, MANY, leaves, livers, three, words

KEY = CellKey("CT", "organs", "liver", MEAN)
FIVE = Disclosure(min_patients=5)


def entry(id="compare", kind="anova", **more):
    return {"id": id, "kind": kind, "variables": [f"CT.{MEAN}"], "segments": ["liver"], **more}


def analysis(**more):
    return anova.Anova(anova.Settings.model_validate(entry(**more)))


def equal(test, pooled):
    """Assert that a test is that of statsmodels and scipy of all values in one place."""
    fisher = stats.f_oneway(*pooled)
    assert test["statistic"] == pytest.approx(fisher.statistic, rel=1e-9)
    assert test["p"] == pytest.approx(fisher.pvalue, rel=1e-9)
    rows = sum(map(len, pooled))
    assert test["df"] == [len(pooled) - 1, rows - len(pooled)]
    assert test["rows"] == rows
    welch = anova_oneway(pooled, use_var="unequal", welch_correction=True)
    assert test["welch"]["statistic"] == pytest.approx(welch.statistic, rel=1e-9)
    assert test["welch"]["df"] == pytest.approx(welch.df, rel=1e-9)
    assert test["welch"]["p"] == pytest.approx(welch.pvalue, rel=1e-9)
    every = np.concatenate(pooled)
    within = sum(np.square(each - each.mean()).sum() for each in pooled)
    share = 1 - within / np.square(every - every.mean()).sum()
    assert test["eta_squared"] == pytest.approx(share, rel=1e-9)
    assert test["within"] == pytest.approx(within, rel=1e-9)


@pytest.mark.parametrize("sizes", [(24, 30, 37), (22, 25, 28, 31, 35, 40, 23, 60, 27, 45)])
def test_sites_compared_equal_the_pooled_test(tmp_path, sizes):
    made, settings = three(tmp_path, entry(), sizes=sizes)
    result = merge(accepted=accepted(made, settings), settings=settings)
    (cell,) = result["analyses"][0]["cells"]
    equal(cell["test"], [livers(one) for one in made])
    assert cell["test"]["groups"] == sorted(one.name for one in made)
    assert result == merge(accepted=accepted(made[::-1], settings), settings=settings)


@pytest.mark.parametrize("lost", [0, 6])
def test_groups_in_all_sites_equal_the_pooled_test(tmp_path, lost):
    """Also where some patients have no value."""
    made, settings = three(tmp_path, entry(by=MAKERS), sizes=MANY)
    for one in made:
        rows = one.table.index[one.table["segment"] == "liver"][: lost * 5 : 5]
        one.table.loc[rows, MEAN] = np.nan
        one.write()
    result = merge(accepted=accepted(made, settings), settings=settings)["analyses"][0]
    pooled = [np.concatenate([livers(one, maker) for one in made]) for maker in ("GE 1", "SIEMENS")]
    pooled = [each[np.isfinite(each)] for each in pooled]
    assert sum(map(len, pooled)) == sum(MANY) - 3 * lost
    (test,) = result["tests"]
    equal(test, pooled)
    assert (test["groups"], test["same_sites"]) == (["ge", "siemens"], True)
    assert [test[name] for name in KEY._fields[:-1]] == list(KEY[:-1])
    cells = {cell["group"]: cell for cell in result["cells"]}
    assert cells["ge"]["sites"] == ["site0", "site1", "site2"]
    assert cells["ge"]["mean"] == pytest.approx(pooled[0].mean(), rel=1e-12)
    assert "test" not in cells["ge"]


def cell_of(numbers, group="", **changes):
    found = moments(np.asarray(numbers))
    content = {"n": found.rows, "rows": found.rows, "m2": found.m2}
    content |= {"mean": found.mean, "mean_rest": found.mean_rest}
    return anova.Cell(**KEY._replace(group=group)._asdict() | content | changes)


def small(seed, groups):
    """Return values of few digits, so that adding 10⁸ to them is exact."""
    rng = np.random.default_rng(seed)
    drawn = (rng.normal(i / 4, 1 + i / 5, 20 + 7 * i) for i in range(groups))
    return [np.round(each * 2**20) / 2**20 for each in drawn]


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_a_mean_of_1e8_standard_deviations_costs_nothing(groups):
    pooled = small(groups, groups)
    by_site = {str(i): cell_of(each + 1e8) for i, each in enumerate(pooled)}
    equal(analysis().merge(by_site)["test"], pooled)


def test_nor_does_it_where_groups_lie_in_all_sites():
    """What a mean loses in rounding is kept in the merged cell, which the test is made of."""
    by, pooled, cells = analysis(by=MAKERS), small(9, 2), []
    for name, each in zip(MAKERS["groups"], pooled, strict=True):
        parts = np.split(each + 1e8, [6, 13])
        merged = by.merge({f"s{i}": cell_of(part, name) for i, part in enumerate(parts)})
        cells.append({**KEY._replace(group=name)._asdict(), "sites": [], **merged})
    cells = json.loads(json.dumps(cells))
    equal(by.conclude(cells)["tests"][0], pooled)
    rounded = [cell | {"mean_rest": 0.0} for cell in cells]
    wrong = by.conclude(rounded)["tests"][0]["statistic"]
    assert wrong != pytest.approx(stats.f_oneway(*pooled).statistic, rel=1e-9)


def test_nor_does_it_from_the_sites_to_the_hub(tmp_path):
    made, settings = three(tmp_path, entry(by=MAKERS), sizes=MANY)
    near = []
    for one in made:
        liver = one.table["segment"] == "liver"
        one.table.loc[liver, MEAN] = np.round(one.table.loc[liver, MEAN] / 10 * 2**20) / 2**20
        near.append([livers(one, maker) for maker in ("GE 1", "SIEMENS")])
        one.table.loc[liver, MEAN] += 1e8
        one.write()
    result = merge(accepted=accepted(made, settings), settings=settings)["analyses"][0]
    equal(result["tests"][0], [np.concatenate(each) for each in zip(*near, strict=True)])


def test_values_of_one_patient_are_not_independent():
    numbers = np.linspace(40, 60, 20)
    by_site = {"a": cell_of(numbers, n=19), "b": cell_of(numbers + 3)}
    test = analysis().merge(by_site)["test"]
    assert (test["statistic"], test["p"], test["welch"]) == (None, None, None)
    assert test["reason"] == anova.REPEATED
    assert test["rows"] == 40


def test_one_group_is_no_test():
    test = analysis().merge({"a": cell_of(np.linspace(40, 60, 20))})["test"]
    assert test["statistic"] is None
    assert test["reason"] == ONE_GROUP
    assert analysis(by=MAKERS).conclude([]) == {"tests": []}


@pytest.mark.parametrize("scatter", [0.0, 5e-324, 1e-308])
@pytest.mark.parametrize("liars", [1, 3])
def test_a_site_that_lies_ends_no_merge(scatter, liars):
    """Of a mean of 0 any scatter above 0 is possible; weights and ratios then have no bounds."""
    groups = {f"s{i}": Moments(20, float(i), 0.0, 30.0) for i in range(3)}
    groups |= {f"s{i}": Moments(20, i * 1e100, 0.0, scatter) for i in range(liars)}
    found = one_way(groups)
    json_text(found)
    if scatter < 1e-308 or liars == 3:
        assert found["reason"] == NOT_FINITE
        assert (found["statistic"], found["eta_squared"], found["welch"]) == (None, None, None)


RULES = {
    "zero_variance": [60.0] * 20 + [70.0, 75.0, 50.0],
    "dominance": [*np.linspace(1, 2, 20), 900.0],
    "few_levels": [0.0] * 10 + [1.0] * 12 + [2.0] * 2,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_of_a_mean_hold(rule):
    numbers = np.array(RULES[rule])
    computed = analysis().compute(values(numbers))
    assert analysis().check(computed, numbers.size, FIVE).rule.code == rule
    assert analysis().tells_of_few(values(numbers), FIVE)


def test_it_sends_what_a_summary_sends(tmp_path):
    made, _ = three(tmp_path, entry("a"), entry("b", "summary"))
    aggregates, _ = made[0].build()
    sent, described = (each["cells"] for each in aggregates["analyses"])
    assert sent == described != []


def test_a_median_does_not_follow_beside_it(tmp_path):
    made, _ = three(tmp_path, entry("a"), entry("b", "brown_forsythe"))
    assert leaves(made[0]) == (["a"], {"b": ["difference"]})


def test_nor_does_it_by_two_releases(tmp_path, inbox):
    made, _ = three(tmp_path, entry("a", "brown_forsythe"))
    made[0].send(inbox)
    content = protocol(analyses=[entry("later")])
    content["protocol"]["id"] = "later"
    made[0].settings = settings_of(made[0].settings.site.plain(), content)
    assert leaves(made[0]) == ([], {"later": ["earlier"]})


def test_the_few_beside_a_group_stay_unknown(tmp_path):
    """All less a group of all but four are these four."""
    both = [entry("a"), entry("b", by={"of": "manufacturer", "groups": {"ge": "GE.*"}})]
    made, _ = three(tmp_path, *both)
    cases = list(made[0].scanners)
    made[0].scanners = {case: ("SIEMENS" if i < 4 else "GE 1", "") for i, case in enumerate(cases)}
    left, lost = leaves(made[0])
    assert (left, lost) == (["a"], {"b": ["difference"]})
    made[0].scanners = {case: ("SIEMENS" if i < 9 else "GE 1", "") for i, case in enumerate(cases)}
    assert leaves(made[0]) == (["a", "b"], {})


def test_a_group_below_the_minimum_stays(tmp_path):
    made, settings = three(tmp_path, entry(by=MAKERS))
    one = made[0]
    one.scanners = {
        case: ("GE 1" if i < 4 else "SIEMENS", "") for i, case in enumerate(one.scanners)
    }
    one.write()
    result = merge(accepted=accepted(made, settings), settings=settings)["analyses"][0]
    assert {cell["group"]: cell["sites"] for cell in result["cells"]} == {
        "ge": ["site1", "site2"],
        "siemens": ["site0", "site1", "site2"],
    }
    assert result["tests"][0]["same_sites"] is False
    drawing = anova.Anova.draw_result(result, ["site0", "site1", "site2"])
    assert drawing.groups[0].table.rows[0][-1].text.endswith(anova.OTHER_SITES)


def test_an_age_is_compared_between_the_sexes(tmp_path, inbox):
    """From sealed messages: a clinical number, by a clinical category."""
    sexes = {"of": "clinical.sex", "groups": {"women": "F", "men": "M"}}
    entries = [{"id": "age", "kind": "anova", "variables": ["clinical.age"], "by": sexes}]
    clinical = [
        {"name": "age", "type": "number", "unit": "a"},
        {"name": "sex", "type": "category", "values": ["F", "M"]},
    ]
    content = protocol(analyses=entries, clinical=clinical)
    made, rng = [], np.random.default_rng(4)
    for i, size in enumerate((20, 26, 31)):
        one = site(tmp_path, f"site{i}", size, i, content=content)
        cases = one.table[["case_id", "patient"]].drop_duplicates().reset_index(drop=True)
        sex = np.where(np.arange(size) % 5 < 2, "F", "M")
        age = np.round(rng.normal(60 + 4 * (sex == "F"), 9), 2)
        age[3] = np.nan
        one.clinical = cases.assign(age=age, sex=sex)
        one.send(inbox)
        made.append(one)
    settings = hub_settings(made, inbox, content)
    taken, rejected = accept(inbox=inbox, settings=settings)
    assert (len(taken), rejected) == (3, [])
    result = merge(accepted=taken, settings=settings)["analyses"][0]
    pooled = [
        np.concatenate(
            [one.clinical.loc[one.clinical["sex"] == sex, "age"].dropna() for one in made]
        )
        for sex in ("M", "F")
    ]
    (test,) = result["tests"]
    equal(test, pooled)
    (group,) = anova.Anova.draw_result(result, ["site0", "site1", "site2"]).groups
    assert group.title == "clinical data"


def page_of(tmp_path, made, messages, settings):
    result = merge(accepted=messages, settings=settings)
    write_hub_report(
        result=result,
        accepted=messages,
        rejected=[],
        outlook=Outlook(1, [one.name for one in made], [], further=False),
        settings=settings,
        path=tmp_path / "h.html",
    )
    write_tables(result, tmp_path / TABLES)
    return result["analyses"][0], words((tmp_path / "h.html").read_text(encoding="utf-8"))


def rows_of(tmp_path, name):
    with (tmp_path / TABLES / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_pages_show_the_test_of_sites(tmp_path):
    made, settings = three(tmp_path, entry())
    messages = accepted(made, settings)
    result, page = page_of(tmp_path, made, messages, settings)
    test = result["cells"][0]["test"]
    assert "liver · organs on CT" in page
    assert "The groups are the sites." in page
    assert f"2, {test['rows'] - 3}" in page
    assert f"{test['welch']['statistic']:.5f}"[:5] in page
    (row,) = rows_of(tmp_path, "compare.csv")
    assert float(row["test.statistic"]) == test["statistic"]
    assert float(row["test.welch.df.2"]) == test["welch"]["df"][1]
    drawing = anova.Anova.draw_release(messages[0].aggregates.analyses[0])
    (sent,) = drawing.groups[0].table.rows
    assert [cell.text for cell in sent][1:3] == ["24", "24"]


def test_the_pages_show_the_test_of_groups(tmp_path):
    made, settings = three(tmp_path, entry(by=MAKERS), sizes=MANY)
    result, page = page_of(tmp_path, made, accepted(made, settings), settings)
    assert re.search(r"ge \S+ ± \S+ \(\d+\) ?; siemens", page)
    (row,) = rows_of(tmp_path, "compare.tests.csv")
    assert row["groups"] == "ge siemens"
    assert float(row["eta_squared"]) == result["tests"][0]["eta_squared"]
    (group,) = anova.Anova.draw_result(result, ["site0", "site1", "site2"]).groups
    (panel,) = group.panels
    assert "ge" in panel.plot
    assert "p = " in str(panel.heading[1])


def test_a_page_shows_why_there_is_no_test(tmp_path):
    made, settings = three(tmp_path, entry())
    result = merge(accepted=accepted(made[:1], settings), settings=settings)["analyses"][0]
    (group,) = anova.Anova.draw_result(result, ["site0", "site1", "site2"]).groups
    assert ONE_GROUP in group.table.rows[0][2].text
    assert "no test" in str(group.panels[0].heading[1])

"""Survival from sites' files to the hub's page: exact, and of few patients nothing."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from statsmodels.duration.survfunc import survdiff

from jipflow.analyses.cells import CellKey
from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell
from jipflow.analyses.design import Design
from jipflow.analyses.facts import Limits
from jipflow.analyses.kaplan_meier import Cell, KaplanMeier, Released, Settings
from jipflow.analyses.rules import Passed
from jipflow.hub.rounds import Outlook
from jipflow.hub.tables import write_tables
from jipflow.report.hub import write_hub_report
from jipflow.settings.protocol import Disclosure
from jipflow.settings.resources import ConfigError
from survival_world import (
    GRID,
    SEXES,
    SITES,
    VARIABLES,
    built,
    content,
    curves,
    followed_site,
    raised,
    result_of,
    round_of,
)

KEY = CellKey("clinical", "clinical", "patient", "days")
DESCRIBED = [
    {"id": "deaths", "kind": "summary", "variables": ["clinical.dead"]},
    {"id": "times", "kind": "summary", "variables": ["clinical.days"]},
]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Return the sites, what the hub accepted, its settings and its result of all patients."""
    root = tmp_path_factory.mktemp("together")
    found = round_of(root, content(curves(), *DESCRIBED))
    return (*found, result_of(*found[1:]))


@pytest.fixture(scope="module")
def by_sex(tmp_path_factory):
    """Return the same by sex."""
    found = round_of(tmp_path_factory.mktemp("by_sex"), content(curves(by=SEXES)))
    return (*found, result_of(*found[1:]))


def analysis_of(result, id="survival"):
    return next(analysis for analysis in result["analyses"] if analysis["id"] == id)


def rows(sites):
    return pd.concat([made.clinical.assign(site=made.name) for made in sites])


def test_the_curve_of_three_sites_is_that_of_all_rows(together):
    sites, _, _, result = together
    (cell,) = analysis_of(result)["cells"]
    assert cell["n"] == sum(SITES.values()) - 3 * 6
    assert cell["sites"] == sorted(SITES)
    assert cell["edges"] == [730, 3650]
    table = raised(rows(sites), cell["edges"])
    fitted = KaplanMeierFitter().fit(table["time"], table["event"])
    points = [p for p in analysis_of(result)["curves"] if p["site"] == ""]
    assert [p["edge"] for p in points] == cell["edges"]
    at = fitted.event_table.loc[cell["edges"]]
    assert cell["at_risk"] == at["at_risk"].tolist()
    assert cell["events"] == at["observed"].tolist()
    assert cell["censored"][:-1] == at["censored"].tolist()[:-1]
    assert sum(cell["events"]) + sum(cell["censored"]) == cell["n"]
    survival = fitted.survival_function_.loc[cell["edges"]].to_numpy()[:, 0]
    assert [p["survival"] for p in points] == pytest.approx(survival, rel=1e-9)
    band = fitted.confidence_interval_.loc[cell["edges"]].to_numpy()
    assert [[p["low"], p["high"]] for p in points] == [pytest.approx(b, rel=1e-9) for b in band]
    assert cell["median"] == fitted.median_survival_time_


def test_the_curve_of_each_site_is_that_of_its_rows(together):
    sites, _, _, result = together
    (cell,) = analysis_of(result)["cells"]
    for made, part in zip(sites, cell["by_site"], strict=True):
        table = raised(made.clinical, part["edges"])
        fitted = KaplanMeierFitter().fit(table["time"], table["event"])
        points = [p for p in analysis_of(result)["curves"] if p["site"] == made.name]
        survival = fitted.survival_function_.loc[part["edges"]].to_numpy()[:, 0]
        assert [p["survival"] for p in points] == pytest.approx(survival, rel=1e-9)


def test_sites_are_compared_by_log_rank(together):
    sites, _, _, result = together
    (test,) = analysis_of(result)["tests"]
    (cell,) = analysis_of(result)["cells"]
    pieces = [raised(made.clinical, cell["edges"]).assign(site=made.name) for made in sites]
    table = pd.concat(pieces)
    peer = multivariate_logrank_test(table["time"], table["site"], table["event"])
    assert (test["over"], test["strata"], test["groups"]) == ("sites", "", sorted(SITES))
    assert test["statistic"] == pytest.approx(peer.test_statistic, rel=1e-9)
    assert (test["df"], test["p"]) == (2, pytest.approx(peer.p_value, rel=1e-9))


def test_groups_are_compared_by_log_rank_in_all_and_within_sites(by_sex):
    sites, _, _, result = by_sex
    found = analysis_of(result)
    pooled, within = found["tests"]
    assert not pooled["same_sites"]
    edges = sorted(frozenset.intersection(*(frozenset(c["edges"]) for c in found["cells"])))
    names = {"women": "F", "men": "M"}
    left = [(site, names[cell["group"]]) for cell in found["cells"] for site in cell["sites"]]
    assert ("north", "M") not in left
    everyone = rows(sites).set_index(["site", "sex"], drop=False).loc[left]
    table = raised(everyone, edges)
    peer = multivariate_logrank_test(table["time"], table["sex"], table["event"])
    assert (pooled["over"], pooled["strata"], pooled["groups"]) == ("groups", "", ["men", "women"])
    assert pooled["statistic"] == pytest.approx(peer.test_statistic, rel=1e-9)
    assert pooled["p"] == pytest.approx(peer.p_value, rel=1e-9)
    pieces = []
    for made in sites:
        parts = [p for c in found["cells"] for p in c["by_site"] if p["site"] == made.name]
        own = sorted(frozenset.intersection(*(frozenset(part["edges"]) for part in parts)))
        if len(parts) > 1:
            pieces.append(raised(made.clinical, own).assign(site=made.name))
    table = pd.concat(pieces)
    statistic, p = survdiff(table["time"], table["event"], table["sex"], strata=table["site"])
    assert within["strata"] == "sites"
    assert within["statistic"] == pytest.approx(statistic, rel=1e-9)
    assert (within["df"], within["p"]) == (1, pytest.approx(p, rel=1e-9))


@pytest.mark.parametrize("name", ["together", "by_sex"])
def test_the_page_and_the_tables_show_the_curves(name, request, tmp_path):
    _, accepted, settings, result = request.getfixturevalue(name)
    write_hub_report(
        result=result,
        accepted=accepted,
        rejected=[],
        outlook=Outlook(1, sorted(SITES), [], further=False),
        settings=settings,
        path=tmp_path / "hub.html",
    )
    page = (tmp_path / "hub.html").read_text(encoding="utf-8")
    labels = ["together", *SITES] if name == "together" else ["women", "men"]
    for label in labels:
        assert f'dominant-baseline="central">{label}</text>' in page
    assert "Survival by days of clinical data" in page
    assert "Log-rank test over" in page
    assert "half have had the event by" in page
    assert "Kaplan and Meier (1958)" in page
    write_tables(result, tmp_path / "tables")
    for table in ("curves", "tests"):
        with (tmp_path / "tables" / f"survival.{table}.csv").open(encoding="utf-8") as stream:
            found = list(csv.DictReader(stream))
        assert len(found) == len(analysis_of(result)[table])
    assert "NaN" not in json.dumps(result)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_site_sends_no_time_and_names_the_edges_that_it_merged(tmp_path):
    left, lost, record = built(followed_site(tmp_path))
    assert lost == {}
    cell = left["survival", ""]
    own = {"n", "cuts", "events", "censored"}
    assert cell.keys() - KEY._asdict().keys() == own
    (recorded,) = record["cells"]
    assert recorded["withheld_edges"] == [i for i in range(len(GRID)) if i not in cell["cuts"]]
    assert recorded["withheld_edges"]
    assert recorded["rules"]["few_events"] == "some edges withheld"


def test_the_releaser_reads_every_interval(tmp_path):
    made = followed_site(tmp_path)
    left, _, _ = built(made)
    sent = left["survival", ""]
    released = Released(
        id="survival", kind="kaplan_meier", event="clinical.dead", grid=GRID, cells=[]
    )
    (group,) = KaplanMeier.draw_release(
        released.model_copy(update={"cells": [Cell(**sent)]})
    ).groups
    ((_, n, text),) = group.table.rows
    assert n.text == str(sent["n"])
    edges = [0, *(GRID[cut] for cut in sent["cuts"])]
    for low, high, had, left_without in zip(
        edges[:-1], edges[1:], sent["events"], sent["censored"], strict=True
    ):
        assert f"{low} to {high}: {had} with the event, {left_without} left without" in text.text
    assert text.text.endswith("left without it or are observed beyond")


def test_edges_that_are_shown_have_enough_on_either_side(tmp_path):
    made = followed_site(tmp_path, minimum=8)
    left, _, _ = built(made)
    cell = left["survival", ""]
    counts = [*cell["events"], *cell["censored"]]
    assert all(n == 0 or n >= 8 for n in counts)
    assert sum(counts) == cell["n"]


def changed(tmp_path, text=None, **columns):
    made = followed_site(tmp_path, patients=40, text=text)
    for name, values in columns.items():
        made.clinical[name] = np.resize(np.asarray(values), len(made.clinical))
    return made


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"dead": 1.0, "days": np.arange(10, 3010, 75)}, "one_ending"),
        ({"dead": 0.0}, "one_ending"),
        ({"dead": [1.0] * 4 + [0.0] * 36}, "few_events"),
        ({"dead": [0.0] * 4 + [1.0] * 36}, "few_events"),
        ({"days": 3700.0}, "one_ending"),
        ({"days": [3700.0] * 4 + [50.0] * 36, "dead": [1.0] * 4 + [0.0] * 36}, "few_events"),
    ],
)
def test_curves_that_tell_of_everyone_or_of_few_are_withheld(tmp_path, columns, rule):
    left, lost, _ = built(changed(tmp_path, **columns))
    assert left == {}
    assert lost == {("survival", ""): [rule]}


def test_a_patient_with_two_cases_is_no_row(tmp_path):
    made = followed_site(tmp_path, patients=40)
    for table in (made.table, made.clinical):
        table.loc[table["patient"] == "pseudonorth0001", "patient"] = "pseudonorth0000"
    assert built(made)[1] == {("survival", ""): ["one_row"]}


def test_a_curve_of_all_and_of_groups_do_not_both_leave(tmp_path):
    text = content(curves("a", by=SEXES), curves("b"))
    left, lost, _ = built(followed_site(tmp_path, patients=140, text=text))
    assert set(left) == {("a", "men"), ("a", "women")}
    assert lost == {("b", ""): ["one_curve"]}


@pytest.mark.parametrize("more", [{"grid": [200, 365]}, {"event": "clinical.relapse"}])
def test_a_second_curve_of_the_same_times_does_not_leave(tmp_path, more):
    text = content(curves("a"), curves("b", **more))
    left, lost, _ = built(followed_site(tmp_path, patients=140, text=text))
    assert set(left) == {("a", "")}
    assert lost == {("b", ""): ["one_curve"]}


@pytest.mark.parametrize("first", ["a", "z"])
@pytest.mark.parametrize(
    "other",
    [
        {"kind": "histogram", "edges": [0, 170, 360, 4000]},
        {"kind": "quantiles", "quantiles": [0.5], "low": 0, "high": 4000},
    ],
)
def test_other_bins_of_the_times_do_not_leave_beside_a_curve(tmp_path, first, other):
    """Bins that end a few days before an edge would tell who is between the two."""
    text = content(curves(first), {"id": "m", "variables": ["clinical.days"], **other})
    made = followed_site(tmp_path, patients=140, text=text)
    made.clinical["dead"] = made.clinical["dead"].fillna(0.0)
    left, lost, _ = built(made)
    assert len(left) == 1
    assert set(left) == {(min(first, "m"), "")}
    assert list(lost.values()) == [["difference"]]


def test_bins_of_the_event_may_leave_beside_a_curve(tmp_path):
    other = {"id": "m", "kind": "histogram", "variables": ["clinical.dead"], "edges": [0, 0.5, 1]}
    made = followed_site(tmp_path, patients=140, text=content(curves(), other))
    made.clinical["dead"] = made.clinical["dead"].fillna(0.0)
    left, lost, _ = built(made)
    assert lost == {}
    assert len(left) == 2


def test_a_curve_leaves_beside_a_cox_model_and_means_of_the_same_patients(tmp_path):
    cox = {"id": "cox", "kind": "cox", "variables": ["clinical.age"]}
    cox |= {"time": "clinical.days", "event": "clinical.dead"}
    left, lost, _ = built(followed_site(tmp_path, text=content(curves(), cox, *DESCRIBED)))
    assert lost == {}
    assert {id for id, _ in left} == {"survival", "cox", "deaths", "times"}


def test_an_attack_on_the_events_beyond_the_last_edge_gives_none(tmp_path):
    """All events are known from their mean, those up to the last edge from the curve."""
    text = content(curves(), DESCRIBED[0])
    made = followed_site(tmp_path, patients=40, text=text)
    times = np.resize([100.0, 500.0, 2000.0, 4000.0], 40)
    made.clinical["days"] = times
    dead = np.where(np.arange(40) % 8 < 4, 1.0, 0.0)
    made.clinical["dead"] = np.where(times == 4000, 0.0, dead)
    made.clinical.loc[3, "dead"] = 1.0
    left, lost, _ = built(made)
    assert lost == {}
    cell, mean = left["survival", ""], left["deaths", ""]
    beyond = round(mean["n"] * mean["mean"]) - sum(cell["events"])
    assert beyond == 0 or beyond >= 5
    shown = GRID[cell["cuts"][-1]]
    assert beyond == (made.clinical["dead"] * (times > shown)).sum() == 6
    assert shown < 2000


def test_one_patient_is_not_found_by_two_groupings(tmp_path):
    """Who is in a group and in another that differs by one would be their difference."""
    groups = {"of": "clinical.sex", "groups": {"women": "F", "men": "M"}}
    text = content(curves("a", by=groups), curves("b"), DESCRIBED[0] | {"by": groups})
    made = followed_site(tmp_path, patients=40, text=text)
    made.clinical["sex"] = ["M"] + ["F"] * 39
    left, lost, _ = built(made)
    assert ("a", "men") in lost
    assert not {("a", "women"), ("b", "")} <= set(left)


ANALYSIS = KaplanMeier(Settings(**curves()))
LIMITS = Limits(5, 1, 0, 20000)


def cell(**changes):
    numbers = {"n": 36, "cuts": [1, 2, 4], "events": [10, 0, 7], "censored": [5, 8, 6]} | changes
    return Cell(**KEY._asdict(), **numbers)


def test_the_hub_takes_what_a_site_sends():
    ANALYSIS.verify(cell(), LIMITS)
    low, high = ANALYSIS.implies(cell(), LIMITS).mean
    assert low == pytest.approx((8 * 365 + 13 * 730) / 36)
    assert high == pytest.approx((15 * 365 + 8 * 730 + 7 * 1825 + 6 * 20000) / 36)


@pytest.mark.parametrize("seed", range(40))
def test_the_hub_takes_whatever_an_honest_site_sends(seed):
    random = np.random.default_rng(seed)
    size, minimum = int(random.integers(12, 150)), int(random.integers(5, 12))
    names = np.array([f"p{i:03d}" for i in range(size)], dtype=object)
    raw = np.column_stack(
        [np.ceil(random.exponential(800, size)), random.random(size) < random.random()]
    )
    rows = Design(names, names, (KEY, KEY), (-1, 0), raw, np.zeros(2), np.ones(2))
    found = ANALYSIS.check(rows, size, Disclosure(min_patients=minimum))
    if isinstance(found, Passed):
        sent = Cell(**KEY._asdict(), n=size, **found.numbers)
        ANALYSIS.verify(sent, Limits(minimum, 1, 0, 20000))
        assert ANALYSIS.parts(sent) == found.parts
        low, high = ANALYSIS.implies(sent, LIMITS).mean
        assert low <= raw[:, 0].mean() <= high


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"cuts": [1, 1, 4]}, ImpossibleCell),
        ({"cuts": [1, 2, 6]}, ImpossibleCell),
        ({"cuts": [1, 2]}, ImpossibleCell),
        ({"events": [10, 7]}, ImpossibleCell),
        ({"n": 35}, ImpossibleCell),
        ({"n": 40}, ImpossibleCell),
        ({"n": 40, "events": [10, 4, 7]}, CellBelowMinimum),
        ({"n": 31, "censored": [5, 8, 1]}, CellBelowMinimum),
        ({"n": 28, "censored": [5, 0, 6]}, CellBelowMinimum),
        ({"n": 19, "events": [0, 0, 0]}, CellBelowMinimum),
        ({"n": 30, "cuts": [1, 4], "events": [20, 10], "censored": [0, 0]}, CellBelowMinimum),
    ],
)
def test_the_hub_refuses_what_no_honest_site_sends(changes, error):
    with pytest.raises(error):
        ANALYSIS.verify(cell(**changes), LIMITS)


@pytest.mark.parametrize(("lowest", "highest"), [(400, 20000), (0, 700), (2000, 20000)])
def test_the_hub_refuses_times_that_the_protocol_does_not_have(lowest, highest):
    with pytest.raises(ImpossibleCell):
        ANALYSIS.verify(cell(), Limits(5, 1, lowest, highest))


def test_sites_without_a_common_edge_have_no_curve_together():
    one, other = cell(cuts=[0, 2, 3]), cell(n=30, cuts=[1, 4], events=[9, 9], censored=[6, 6])
    found = ANALYSIS.merge({"north": one, "south": other})
    assert (found["edges"], found["median"], found["reason"]) == ([], None, "no_common_edge")
    assert [part["edges"] for part in found["by_site"]] == [[180, 730, 1095], [365, 1825]]
    about = {**KEY._asdict(), "sites": ["north", "south"]}
    concluded = ANALYSIS.conclude([about | found])
    assert {point["site"] for point in concluded["curves"]} == {"north", "south"}
    assert concluded["tests"][0]["reason"] == "no_common_edge"
    drawing = ANALYSIS.draw_result(
        {"cells": [about | found], "grid": GRID, **concluded}, ["north", "south"]
    )
    assert "no edge in common" in drawing.groups[0].panels[0].note


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"grid": [100, 100]}, ["grid must rise"]),
        ({"grid": [300, 100]}, ["grid must rise"]),
        ({"grid": [0, 100]}, ["grid[0]", "above 0"]),
        ({"grid": [5, 1000]}, ["an interval of 5 is narrower than a hundredth"]),
        ({"grid": [500, 505, 1000]}, ["an interval of 5 is narrower"]),
        ({"event": "clinical.deed"}, ["no clinical variable", "did you mean 'dead'"]),
        ({"event": "clinical.age"}, ["no variable of the type event"]),
        ({"event": "dead"}, ["event"]),
        ({"variables": ["clinical.age"]}, ["'age' a `range` from 0"]),
        ({"variables": ["clinical.relapse"]}, ["of the type event, no time"]),
        ({"variables": ["CT.volume_ml"]}, ["no time to an event"]),
    ],
)
def test_wrong_settings_are_named(changes, parts):
    with pytest.raises(ConfigError) as error:
        content(curves(**changes))
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_time_before_the_beginning_is_none():
    wrong = [VARIABLES[0] | {"range": [-1, 100]}, *VARIABLES[1:]]
    with pytest.raises(ConfigError, match="before the beginning"):
        content(curves(), clinical=wrong)

"""Survival between edges equals that of all rows in one place: lifelines and statsmodels say so."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import median_survival_times
from statsmodels.duration.survfunc import survdiff

from jipflow.analyses.survival import Counts, common_edges, curve, log_rank, median, together

GRID = (90.0, 180.0, 365.0, 730.0, 1095.0, 1825.0)
SITES = {"north": 41, "south": 160, "west": 77}


def followed(patients, seed, mean=700.0):
    """Return times and events of patients, some beyond the last edge, some on an edge."""
    random = np.random.default_rng(seed)
    death, lost = random.exponential(mean, patients), random.uniform(30, 2600, patients)
    times = np.ceil(np.minimum(death, lost))
    times[:: max(patients // 5, 1)] = 365
    return times, death <= lost


def counted(times, events, edges=GRID):
    place = np.searchsorted(edges, times, side="left")
    had, had_not = (
        np.bincount(place[e], minlength=len(edges) + 1)[:-1].tolist() for e in (events, ~events)
    )
    had_not[-1] += int((place == len(edges)).sum())
    return Counts(tuple(edges), times.size, tuple(had), tuple(had_not))


def raised(times, events, edges=GRID):
    """Return the rows in one place: times at the next edge, later ones censored beyond the last."""
    place = np.searchsorted(edges, times, side="left")
    beyond = place == len(edges)
    return np.where(beyond, edges[-1] + 1, np.take([*edges, 0], place)), (events & ~beyond)


@pytest.fixture(scope="module")
def sites():
    return {name: followed(n, seed) for seed, (name, n) in enumerate(SITES.items())}


def pooled(sites):
    return [np.concatenate(parts) for parts in zip(*sites.values(), strict=True)]


def test_curves_of_sites_together_are_those_of_all_rows(sites):
    points = curve(together([counted(*rows) for rows in sites.values()]))
    times, events = raised(*pooled(sites))
    fitted = KaplanMeierFitter().fit(times, events)
    at = list(GRID)
    assert [p.at_risk for p in points] == fitted.event_table.loc[at, "at_risk"].tolist()
    assert [p.events for p in points] == fitted.event_table.loc[at, "observed"].tolist()
    censored = fitted.event_table["censored"].loc[:1825]
    assert [p.censored for p in points[:-1]] == censored.loc[at[:-1]].tolist()
    assert points[-1].censored == points[-1].at_risk - points[-1].events
    survival = fitted.survival_function_.loc[at].to_numpy()[:, 0]
    assert [p.survival for p in points] == pytest.approx(survival, rel=1e-9)
    band = fitted.confidence_interval_.loc[at].to_numpy()
    assert [(p.low, p.high) for p in points] == [pytest.approx(row, rel=1e-9) for row in band]
    greenwood = survival * np.sqrt(fitted._cumulative_sq_.loc[at].to_numpy())
    assert [p.se for p in points] == pytest.approx(greenwood, rel=1e-9)


def test_the_median_is_that_of_all_rows(sites):
    fitted = KaplanMeierFitter().fit(*raised(*pooled(sites)))
    found = median(curve(together([counted(*rows) for rows in sites.values()])))
    low, high = median_survival_times(fitted.confidence_interval_).to_numpy()[0]
    assert found == {
        "median": fitted.median_survival_time_,
        "median_low": low,
        "median_high": high,
    }


def test_a_median_that_is_not_reached_is_none():
    found = median(curve(Counts((10.0, 20.0), 60, (5, 0), (0, 55))))
    assert found == {"median": None, "median_low": None, "median_high": None}


def test_where_nobody_or_everybody_has_the_event_there_is_no_interval():
    first, second, last = curve(Counts((10.0, 20.0, 30.0), 20, (0, 5, 15), (0, 0, 0)))
    assert (first.survival, first.se, first.low, first.high) == (1.0, 0.0, None, None)
    assert second.low < second.survival == 0.75 < second.high
    assert (last.survival, last.se, last.low, last.high) == (0.0, None, None, None)


def test_log_rank_over_sites_is_that_of_all_rows(sites):
    found = log_rank([{name: counted(*rows) for name, rows in sites.items()}])
    times, events = raised(*pooled(sites))
    groups = np.repeat(list(SITES), list(SITES.values()))
    peer = multivariate_logrank_test(times, groups, events)
    assert found["df"] == 2
    assert found["statistic"] == pytest.approx(peer.test_statistic, rel=1e-9)
    assert found["p"] == pytest.approx(peer.p_value, rel=1e-9)
    assert sum(found["observed"]) == events.sum()
    assert sum(found["expected"]) == pytest.approx(events.sum(), rel=1e-9)


@pytest.mark.parametrize("groups", [2, 3])
def test_log_rank_within_sites_is_that_of_all_rows(sites, groups):
    strata, rows = [], []
    for site, (times, events) in sites.items():
        group = np.arange(times.size) * 7 % 11 % groups
        strata.append(
            {f"g{g}": counted(times[group == g], events[group == g]) for g in range(groups)}
        )
        rows += list(zip(*raised(times, events), group, [site] * times.size, strict=True))
    times, events, group, site = map(np.array, zip(*rows, strict=True))
    statistic, p = survdiff(times, events, group, strata=site)
    found = log_rank(strata)
    assert found["df"] == groups - 1
    assert found["statistic"] == pytest.approx(statistic, rel=1e-9)
    assert found["p"] == pytest.approx(p, rel=1e-9)


def test_a_site_that_shows_fewer_edges_leaves_those_of_all(sites):
    coarse = {"north": GRID[1::2], "south": GRID, "west": GRID[2:]}
    counts = [counted(*rows, edges=coarse[name]) for name, rows in sites.items()]
    edges = common_edges(counts)
    assert edges == [730.0, 1825.0]
    points = curve(together(counts))
    fitted = KaplanMeierFitter().fit(*raised(*pooled(sites), edges=tuple(edges)))
    survival = fitted.survival_function_.loc[edges].to_numpy()[:, 0]
    assert [p.survival for p in points] == pytest.approx(survival, rel=1e-9)


def test_why_there_is_no_test():
    one = Counts((10.0, 20.0), 20, (5, 5), (0, 10))
    without = {"statistic": None, "df": None, "p": None}
    for strata, reason in (
        ([{"a": one}], "one_group"),
        ([{"a": one}, {"b": one}], "one_group"),
        ([{"a": one, "b": Counts((15.0,), 20, (5,), (15,))}], "no_common_edge"),
        (
            [{"a": Counts((10.0,), 9, (9,), (0,)), "b": Counts((10.0,), 6, (6,), (0,))}],
            "no_variance",
        ),
    ):
        found = log_rank(strata)
        assert {name: found[name] for name in without} == without
        assert found["reason"] == reason


def test_a_group_that_is_in_no_stratum_with_another_takes_no_degree_of_freedom():
    one, other = Counts((10.0,), 20, (5,), (15,)), Counts((10.0,), 30, (20,), (10,))
    found = log_rank([{"a": one, "b": other}, {"c": one}])
    alone = log_rank([{"a": one, "b": other}])
    assert found["groups"] == ["a", "b", "c"]
    assert (found["statistic"], found["df"]) == (pytest.approx(alone["statistic"]), 1)

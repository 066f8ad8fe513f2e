"""Quantiles over rounds are those of all rows in one place, and no bin is of few patients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell
from jipflow.analyses.facts import Limits
from jipflow.analyses.quantiles import NO_EDGE, Released
from jipflow.analyses.rules import Withheld
from jipflow.settings.protocol import Disclosure
from quantile_world import FIVE, KEY, asked, federation, quantiles, sent, values_of


def simulated(sites, seed, ties=False, cases=False):
    """Return values of unequal sites: of a few patients to hundreds, shifted against each other."""
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(sites):
        patients = int(rng.integers(12, 40) * rng.choice([1, 1, 2, 10]))
        owners = np.arange(patients)
        if cases:
            owners = np.sort(np.concatenate([owners, rng.choice(owners, patients // 2)]))
        numbers = np.clip(rng.normal(40 + 10 * rng.random(), 15, owners.size), 1, 99)
        numbers = np.round(numbers / 5) * 5 if ties else numbers
        found[f"site{i:02d}"] = values_of(numbers, [f"p{owner:04d}" for owner in owners])
    return found


def pooled_estimate(quantile, sites, by_site, analysis):
    """Return the quantile of all rows, those of each site binned on its own edges."""
    knots = np.unique([0, 100, *(e for c in by_site.values() for e in edges(analysis, c))])
    total = np.zeros(knots.size)
    for name, cell in by_site.items():
        numbers, own = sites[name].numbers, edges(analysis, cell)
        below = [(numbers < edge).sum() for edge in own]
        total += np.interp(knots, [0, *own, 100], [0, *below, numbers.size])
    return np.interp(quantile * sum(s.numbers.size for s in sites.values()), total, knots)


def edges(analysis, cell):
    return [analysis.grid.edge(cut) for cut in cell.cuts]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("cases", [False, True])
@pytest.mark.parametrize("number", [3, 7, 50])
def test_each_quantile_is_that_of_all_rows_in_one_place(number, cases, ties):
    analysis = quantiles(quantiles=[0.1, 0.25, 0.5, 0.75, 0.9])
    sites = simulated(number, number, ties, cases)
    ended = federation(analysis, sites)
    assert ended.by_site.keys() == sites.keys()
    pooled = np.concatenate([values.numbers for values in sites.values()])
    assert ended.merged["rows"] == pooled.size
    for found in ended.merged["quantiles"]:
        truth = np.quantile(pooled, found["quantile"], method="inverted_cdf")
        lower = -np.inf if found["lower"] is None else found["lower"]
        upper = np.inf if found["upper"] is None else found["upper"]
        assert lower <= truth < upper
        assert lower <= found["estimate"] <= upper
        expected = pooled_estimate(found["quantile"], sites, ended.by_site, analysis)
        assert found["estimate"] == pytest.approx(expected, rel=1e-9)


def test_large_sites_close_in_on_the_median():
    rng = np.random.default_rng(4)
    sites = {f"s{i}": values_of(rng.uniform(0, 100, 5000)) for i in range(3)}
    analysis = quantiles(quantiles=[0.5])
    widths = []
    for rounds in (2, 3):
        ended = federation(quantiles(quantiles=[0.5], rounds=rounds), sites)
        (found,) = ended.merged["quantiles"]
        widths.append(found["upper"] - found["lower"])
        assert found["ended"] == "rounds"
    assert widths == pytest.approx([1, 0.1])
    ended = federation(analysis, sites)
    pooled = np.concatenate([values.numbers for values in sites.values()])
    (found,) = ended.merged["quantiles"]
    assert found["estimate"] == pytest.approx(np.quantile(pooled, 0.5), abs=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_where_all_sites_show_the_same_edges_it_is_the_pooled_histogram(seed):
    """Interpolation between edges of all rows together, as of any grouped data."""
    rng = np.random.default_rng(seed)
    analysis = quantiles(rounds=2)
    sites = {f"s{i}": values_of(rng.uniform(-10, 110, 3000 + 700 * i)) for i in range(4)}
    ended = federation(analysis, sites)
    cells = list(ended.by_site.values())
    assert all(cell.cuts == cells[0].cuts for cell in cells)
    assert {0, analysis.grid.size} < set(cells[0].cuts)
    pooled = np.concatenate([values.numbers for values in sites.values()])
    own = edges(analysis, cells[0])
    counts = [(pooled < own[0]).sum(), *np.histogram(pooled, own)[0]]
    for found in ended.merged["quantiles"]:
        expected = np.interp(found["quantile"] * pooled.size, np.cumsum(counts), own)
        assert found["estimate"] == pytest.approx(expected, rel=1e-12)
        truth = np.quantile(pooled, found["quantile"], method="inverted_cdf")
        place = np.searchsorted(own, truth, side="right")
        assert (found["lower"], found["upper"]) == (own[place - 1], own[place])


def test_a_value_at_the_upper_end_is_within_the_range():
    numbers = [*np.linspace(10, 20, 10), *[100.0] * 20]
    ended = federation(quantiles(), {f"s{i}": values_of(numbers) for i in range(3)})
    found = ended.merged["quantiles"][-1]
    assert found["lower"] <= 100
    assert found["upper"] is None
    assert found["estimate"] <= 100
    numbers = [*numbers, *[120.0] * 6]
    ended = federation(quantiles(), {f"s{i}": values_of(numbers) for i in range(3)})
    found = ended.merged["quantiles"][1]
    assert found["upper"] == 100


def test_no_site_can_split_a_bin_of_few():
    sites = {f"s{i}": values_of(np.linspace(31, 69, 12)) for i in range(3)}
    ended = federation(quantiles(), sites)
    assert ended.rounds == 1
    assert {found["ended"] for found in ended.merged["quantiles"]} == {"minimum"}


def test_a_quantile_beyond_the_range_is_not_looked_for():
    numbers = np.linspace(-60, 40, 200)
    ended = federation(quantiles(quantiles=[0.25]), {f"s{i}": values_of(numbers) for i in range(3)})
    (found,) = ended.merged["quantiles"]
    assert found == {
        "quantile": 0.25, "lower": None, "upper": 0.0, "estimate": None, "ended": "outside"
    }  # fmt: skip


def test_the_state_does_not_depend_on_the_order_of_the_sites():
    analysis, sites = quantiles(), simulated(5, 1)
    cells = {name: sent(analysis, values) for name, values in sites.items()}
    turned = dict(reversed(cells.items()))
    assert analysis.advance(1, cells) == analysis.advance(1, turned)
    assert analysis.merge(cells) == analysis.merge(turned)


def distinct(cell, analysis, values):
    """Return the patients in each bin."""
    cuts = [analysis.grid.cut(cut) for cut in cell.cuts]
    bins = np.searchsorted(cuts, values.numbers, side="right")
    return [len(set(values.patients[bins == i])) for i in range(len(cuts) + 1)]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_a_hub_asks_for_each_bin_has_the_minimum_of_patients(data):
    numbers = data.draw(st.lists(st.integers(-2, 22), min_size=5, max_size=60))
    owners = data.draw(
        st.lists(st.integers(0, 30), min_size=len(numbers), max_size=len(numbers)) | st.none()
    )
    patients = None if owners is None else [f"p{owner}" for owner in owners]
    values = values_of(numbers, patients)
    analysis = quantiles(low=0, high=20, bins=3, rounds=4)
    leaves, splits = [(1, i) for i in range(3)], []
    for _ in range(data.draw(st.integers(0, 3))):
        chosen = data.draw(st.sets(st.sampled_from(leaves), min_size=1, max_size=9).map(sorted))
        splits.append(chosen)
        children = [(level + 1, 3 * n + i) for level, n in chosen for i in range(3)]
        leaves = sorted({*leaves, *children} - set(chosen))
    stated = asked(*splits) if splits else None
    if stated:
        analysis.check_stated(stated, len(splits) + 1)
    cell = sent(analysis, values, stated)
    if cell is None:
        return
    found = distinct(cell, analysis, values)
    assert min(found) >= 5
    assert sum(cell.counts) == len(numbers)
    if splits[:-1]:
        before = sent(analysis, values, asked(*splits[:-1]))
        assert before is None or set(before.cuts) <= set(cell.cuts)


def test_without_an_edge_nothing_leaves():
    analysis = quantiles()
    for numbers in ([50.0] * 30, np.linspace(41, 49, 30), np.linspace(0, 100, 9)):
        values = values_of(numbers)
        assert analysis.check(analysis.compute(values), len(numbers), FIVE) == Withheld(NO_EDGE)


def test_patients_count_not_rows():
    """Ten rows of four patients below an edge are four patients."""
    patients = [*(f"p{i % 4}" for i in range(10)), *(f"q{i}" for i in range(10))]
    values = values_of([45.0] * 10 + [55.0] * 10, patients)
    assert sent(quantiles(), values) is None
    patients = [*(f"p{i % 5}" for i in range(10)), *(f"q{i}" for i in range(10))]
    cell = sent(quantiles(), values_of([45.0] * 10 + [55.0] * 10, patients))
    assert (cell.n, cell.rows, cell.counts) == (15, 20, [10, 10])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"low": 100}, "low must be below high."),
        ({"quantiles": [0.5, 0.25]}, "quantiles must rise."),
        ({"bins": 50, "rounds": 8}, "bins to the power of rounds must be no more than 100000."),
        (
            {"low": 1e15, "high": 1e15 + 1},
            "the range is too narrow for so many bins and rounds: edges would be equal.",
        ),
    ],
)
def test_settings_that_cannot_be_are_named(changes, problem):
    assert list(quantiles().settings.problems()) == []
    assert list(quantiles(**changes).settings.problems()) == [problem]


@pytest.mark.parametrize(
    ("round_", "splits", "problem"),
    [
        (2, [[(1, 10)]], "round 2 splits a bin that no round before it asked for"),
        (2, [[(2, 10)]], "round 2 splits a bin that no round before it asked for"),
        (3, [[(1, 4)], [(2, 35)]], "round 3 splits a bin that no round before it asked for"),
        (3, [[(1, 4)], [(1, 4)]], "round 3 splits a bin that no round before it asked for"),
        (2, [[(1, 4), (1, 4)]], "the bins that round 2 splits are not in order, or one is there"),
        (2, [[(1, 5), (1, 4)]], "the bins that round 2 splits are not in order, or one is there"),
        (2, [[(1, i) for i in range(10)]], "round 2 splits 10 bins, and 1 to 9 are possible"),
        (2, [[]], "round 2 splits 0 bins, and 1 to 9 are possible"),
        (2, [[(1, 4)], [(2, 44)]], "it splits bins in 2 rounds before this one"),
        (3, [[(1, 4)]], "it splits bins in 1 rounds before this one"),
    ],
)
def test_a_site_refuses_splits_that_no_honest_hub_asks_for(round_, splits, problem):
    with pytest.raises(ImpossibleCell, match=problem):
        quantiles().check_stated(asked(*splits), round_)
    quantiles().check_stated(asked([(1, 4), (1, 9)], [(1, 5), (2, 44)]), 3)


def changed(**changes):
    cell = sent(quantiles(), values_of(np.linspace(1, 99, 60)))
    return cell.model_copy(update=changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"rows": 61}, ImpossibleCell),
        ({"n": 59}, ImpossibleCell),
        ({"minimum": 6}, ImpossibleCell),
        ({"cuts": [1000], "counts": [20, 20, 20]}, ImpossibleCell),
        ({"cuts": [2000, 1000], "counts": [20, 20, 20]}, ImpossibleCell),
        ({"cuts": [1000, 2001], "counts": [20, 20, 20]}, ImpossibleCell),
        ({"cuts": [1000, 2000], "counts": [56, 2, 2]}, CellBelowMinimum),
        ({"cuts": [0, 1000], "counts": [20, 20, 20]}, ImpossibleCell),
    ],
)
def test_the_hub_refuses_cells_that_cannot_be(changes, error):
    limits = Limits(5, 1, lowest=1.0)
    quantiles().verify(changed(), limits)
    with pytest.raises(error):
        quantiles().verify(changed(**changes), limits)


def test_a_cell_implies_between_which_numbers_its_mean_lies():
    values = values_of(np.linspace(1, 99, 60))
    found = quantiles().implies(sent(quantiles(), values), Limits(5, 1, 0.0, 120.0))
    assert found.mean[0] <= values.numbers.mean() <= found.mean[1]
    assert found.mean[1] - found.mean[0] == pytest.approx(12)
    assert found.rows == (60, 60)


def test_both_pages_show_what_there_is():
    analysis, sites = quantiles(), simulated(3, 2)
    ended = federation(analysis, sites)
    cell = ended.by_site["site00"]
    content = {"id": "spread", "kind": "quantiles", "cells": [cell], **analysis.heading()}
    drawing = analysis.draw_release(Released.model_validate(content))
    (group,) = drawing.groups
    shown = group.table.rows[0][3].text
    assert str(shown).startswith(f"below {edges(analysis, cell)[0]:.7g}: {cell.counts[0]}; ")
    assert str(shown).count(";") == len(cell.cuts)
    merged = {**KEY._asdict(), "sites": sorted(sites), **ended.merged}
    result = {"cells": [merged], "ended": {"few_sites": 2}, **analysis.heading()}
    drawing = analysis.draw_result(result, [*sites, "other"])
    assert "2 variables of fewer than three sites end here" in drawing.lead
    (group,) = drawing.groups
    texts = [[str(entry.text) for entry in row] for row in group.table.rows]
    assert [row[1] for row in texts] == ["3 of 4"] * 3
    assert [row[3] for row in texts] == ["0.25", "0.5", "0.75"]
    few = "no: too few patients in its bin, at every site"
    assert {row[6] for row in texts} <= {"no: it was the last round", few}


def test_the_minimum_of_a_site_is_its_own():
    """A site that is stricter than the protocol says so: the hub knows when to end."""
    analysis = quantiles(quantiles=[0.5])
    sites = {f"s{i}": values_of(np.linspace(30, 70, 40)) for i in range(3)}
    strict = federation(analysis, sites, Disclosure(min_patients=15))
    assert strict.rounds == 1
    assert strict.merged["minimum"] == 15
    assert strict.merged["quantiles"][0]["ended"] == "minimum"
    assert federation(analysis, sites).rounds > 1

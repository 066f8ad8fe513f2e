"""Intervals of survival are merged until none tells of few, beside what left before as well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jipflow.analyses.cells import CellKey, Values
from jipflow.analyses.facts import LedgerCell
from jipflow.analyses.intervals import enough, halving, merged, tell_beside
from jipflow.analyses.spread import few

GRID = [100.0, 200.0, 300.0, 400.0]


def shown(rows, grid=GRID, minimum=5):
    """Return what leaves of rows of how many patients, at which time, with the event or not."""
    times = [time for number, time, _ in rows for _ in range(number)]
    events = [event for number, _, event in rows for _ in range(number)]
    found = merged(np.array(times, dtype=float), np.array(events, dtype=bool), grid, minimum)
    return found and (found.cuts, found.events, found.censored)


def test_an_interval_holds_its_upper_edge():
    rows = [(5, 0, 1), (5, 100, 0), (6, 100.5, 1), (7, 200, 1), (5, 400, 1)]
    assert shown(rows) == ([0, 1, 3], [5, 13, 5], [5, 0, 0])


def test_intervals_of_enough_are_all_shown():
    rows = [(5, edge - 1, event) for edge in GRID for event in (0, 1)]
    assert shown(rows) == ([0, 1, 2, 3], [5] * 4, [5] * 4)


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("event", [0, 1])
def test_few_of_either_kind_are_merged_with_the_interval_beside(number, event):
    rows = [(5, edge - 1, e) for edge in (100, 200, 400) for e in (0, 1)]
    cuts, had, _ = shown([*rows, (number, 250, event)])
    assert (cuts, had) == ([0, 1, 3], [5, 5, 5 + number * event])


def test_few_in_the_first_interval_are_merged_with_the_next():
    rows = [(2, 50, 1), (9, 150, 1), (6, 150, 0), (5, 350, 0)]
    assert shown(rows) == ([1, 3], [11, 0], [6, 5])


def test_nobody_in_the_first_or_the_last_intervals_does_not_show():
    assert shown([(7, 250, 1), (8, 250, 0)]) == ([3], [7], [8])


def test_who_is_beyond_the_last_edge_stays_where_empty_intervals_are_merged():
    assert shown([(6, 250, 1), (20, 900, 0)]) == ([2, 3], [6, 0], [0, 20])
    assert shown([(6, 350, 1), (20, 900, 0)]) == ([3], [6], [20])


@pytest.mark.parametrize("beyond", [0, 1, 5])
def test_who_is_observed_beyond_the_last_edge_counts_with_those_who_leave_before(beyond):
    rows = [(5, 150, 1), (6, 150, 0), (5, 350, 1), (6, 350, 0), (beyond, 900, 0)]
    assert shown(rows) == ([1, 3], [5, 5], [6, 6 + beyond])


@pytest.mark.parametrize("number", [1, 4])
def test_few_events_beyond_the_last_edge_take_it_with_them(number):
    """Beside the number of all events, those beyond the last edge follow."""
    rows = [(5, 150, 1), (6, 150, 0), (5, 350, 1), (6, 350, 0), (number, 901, 1)]
    assert shown(rows) == ([1, 2], [5, 0], [6, 11 + number])
    assert shown([*rows, (4, 900, 1)])[0] == [1, 3]


@pytest.mark.parametrize(
    "rows",
    [
        [(4, 50, 1), (20, 150, 0)],
        [(20, 150, 1), (4, 350, 0)],
        [(20, 150, 1), (4, 900, 0)],
        [(4, 50, 1), (6, 150, 0), (3, 900, 1)],
    ],
)
def test_where_all_together_are_few_nothing_leaves(rows):
    assert shown(rows) is None


def test_edges_are_tried_in_the_same_order_at_all_sites():
    assert halving(1) == [0]
    assert halving(4) == [3, 1, 0, 2]
    assert sorted(halving(17)) == list(range(17))
    assert halving(16)[:4] == [15, 7, 3, 11]


def test_sites_of_few_show_edges_that_others_show_as_well():
    """Merged from one end each site would end its intervals where its own patients are enough."""
    grid = [100.0 * i for i in range(1, 17)]
    cuts = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        times, events = random.uniform(1, 1600, 60), random.random(60) < 0.5
        cuts.append(set(merged(times, events, grid, 5).cuts))
    assert set.intersection(*cuts) >= {7, 15}


@pytest.mark.parametrize("seed", range(60))
def test_nothing_that_leaves_tells_of_few(seed):
    random = np.random.default_rng(seed)
    size = int(random.integers(10, 120))
    grid = np.cumsum(random.integers(1, 30, random.integers(1, 30))).astype(float).tolist()
    times = np.ceil(random.exponential(random.uniform(20, 200), size))
    events = random.random(size) < random.uniform(0, 1)
    minimum = int(random.integers(5, 12))
    found = merged(times, events, grid, minimum)
    if found is None:
        return
    cuts = [0.0, *(grid[cut] for cut in found.cuts)]
    for low, high, had, had_not in zip(
        cuts[:-1], cuts[1:], found.events, found.censored, strict=True
    ):
        inside = (times <= high) & ((times > low) | (low == 0))
        others = inside & ~events if high < cuts[-1] else (times > low) & ~(inside & events)
        assert (had, had_not) == ((inside & events).sum(), others.sum())
        assert enough(had, had_not, minimum)
    assert found.cuts == sorted(set(found.cuts))
    beyond = (times > cuts[-1]) & events
    assert not few(beyond.sum(), minimum)
    without = (times > cuts[-2]) & ~events
    assert not few(without.sum(), minimum)


def left(times, events, number, minimum=5, grid=GRID):
    """Return a column of a curve that left: that of the times, or of the events."""
    times, events = np.array(times, dtype=float), np.array(events, dtype=bool)
    found = merged(times, events, grid, minimum)
    names = np.array([f"p{i:03d}" for i in range(times.size)], dtype=object)
    values = Values((times, events * 1.0)[number], names, names, frozenset(names))
    released = {"n": times.size, "cuts": found.cuts}
    released |= {"events": found.events, "censored": found.censored}
    key = CellKey("clinical", "clinical", "patient", ("days", "dead")[number])
    return LedgerCell(
        analysis="a",
        kind="kaplan_meier",
        key=key,
        equations=number,
        heading={"grid": grid},
        released=released,
        values=values,
        rows=times.size,
    )


FIRST = ([50] * 10 + [150] * 10 + [350] * 10, [1, 0] * 15)


def tells(rows, before=(FIRST,), **of_first):
    """Return whether a curve tells of few beside others, by either of its columns."""
    return any(
        tell_beside(
            left(*rows, number), [left(*b, number, **of_first) for b in before], 5, number == 1
        )
        for number in (0, 1)
    )


def joined(times, events, to=FIRST):
    return (to[0] + times, to[1] + events)


def test_the_very_numbers_may_leave_again():
    assert not tells(FIRST)


def test_others_may_join_where_they_could_leave_themselves():
    assert not tells(joined([50] * 10 + [150] * 5, [1] * 5 + [0] * 10))
    assert not tells(FIRST, [joined([50] * 10 + [150] * 5, [1] * 5 + [0] * 10)])


@pytest.mark.parametrize(
    ("times", "events"),
    [
        ([50] * 10 + [150], [1, 0] * 5 + [1]),
        ([50] * 9, [1] * 5 + [0] * 4),
        ([50] * 5 + [150] * 5, [1] * 10),
        ([50] * 5 + [900] * 6, [1] * 5 + [0] * 4 + [1] * 2),
    ],
    ids=["one in an interval", "few without the event", "all with it", "few events beyond"],
)
def test_few_who_join_do_not_follow(times, events):
    assert tells(joined(times, events))


def test_who_stayed_has_the_same_time_and_event():
    times, events = joined([50] * 10 + [150] * 5, [1] * 5 + [0] * 10)
    moved = [60, *times[1:]]
    assert tells((moved, events))
    assert tells((times, [1 - events[0], *events[1:]]))


def test_another_grid_does_not_leave():
    assert tells(FIRST, grid=[100.0, 250.0, 400.0])


def test_edges_that_do_not_lie_in_each_other_do_not_leave():
    """Beside those up to one edge, those up to a later one may be few more."""
    fewer = ([50] * 10 + [250] * 10, [1, 0] * 10)
    more = joined([150] * 10 + [350] * 10, [1, 0] * 10, to=fewer)
    cuts = [left(*rows, 0, grid=[100, 200, 300, 400]).released["cuts"] for rows in (fewer, more)]
    assert cuts == [[1, 3], [0, 1, 2, 3]]
    assert not tells(more, [fewer])
    later = joined([350] * 10, [1, 0] * 5, to=([50] * 10 + [250] * 10, [1, 0] * 10))
    columns = [left(*rows, 0) for rows in (fewer, later)]
    moved = replace(columns[1], released=columns[1].released | {"cuts": [0, 2, 3]})
    assert not tell_beside(columns[1], columns[:1], 5, False)
    assert tell_beside(moved, columns[:1], 5, False)


def test_three_sets_must_lie_in_each_other():
    """The numbers of all less those of two groups are those of who is in neither."""
    everyone = joined([50] * 10 + [150] * 10, [1, 0] * 10)
    one = left(*FIRST, 0)
    group = left(*everyone, 0)
    names = frozenset(sorted(group.values.cases)[-20:])
    kept = [name in names for name in group.values.case_ids]
    cases = group.values.case_ids[kept]
    other = Values(group.values.numbers[kept], cases, cases, names)
    of_other = replace(group, values=other, released=group.released | {"n": 20})
    assert not tell_beside(group, [one], 5, False)
    assert tell_beside(group, [one, of_other], 5, False)

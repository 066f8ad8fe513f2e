"""Intervals of survival times that may leave a site: merged until none tells of few patients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jipflow.analyses.cells import only
from jipflow.analyses.facts import LedgerCell
from jipflow.analyses.spread import few
from jipflow.analyses.survival import Counts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Intervals:
    """Patients between the edges that a site shows.

    Attributes:
        cuts: positions of these edges in the grid, rising; an interval ends at each.
        events: patients who had the event, by interval.
        censored: patients whose observation ended without it, by interval; in the last one all
            others, those who are observed beyond it as well.
    """

    cuts: list[int]
    events: list[int]
    censored: list[int]


def enough(events: int, others: int, minimum: int) -> bool:
    """Return whether someone is counted, and of either kind nobody or the minimum."""
    return events + others > 0 and not few(events, minimum) and not few(others, minimum)


def merged(
    times: npt.NDArray[np.float64],
    events: npt.NDArray[np.bool_],
    grid: Sequence[float],
    minimum: int,
) -> Intervals | None:
    """Merge the intervals of a grid until each may leave.

    Edges are tried in an order that is the same at all sites (see `halving`), so that they show the
    same ones as far as they can, and each is shown where the intervals between all edges so far may
    leave. How many have the event beyond the last edge that is shown follows beside the number of
    all events, so it is nobody or the minimum as well. No interval is empty: the least time would
    show.

    Args:
        times: of each patient, shape (patients,).
        events: whether the observation ended with the event, shape (patients,).
        grid: upper edges of the intervals, rising; an interval holds its own.
        minimum: fewest patients.

    Returns:
        What leaves, or None where not even all intervals together have enough.
    """
    import numpy as np

    size = len(grid)
    place = np.searchsorted(np.asarray(grid, dtype=np.float64), times, side="left")
    had = np.bincount(place[events], minlength=size + 1).tolist()
    had_not = np.bincount(place[~events], minlength=size + 1).tolist()
    found: Intervals | None = None
    for edge in halving(size):
        cuts = sorted([*(found.cuts if found else []), edge])
        beyond = sum(had[cuts[-1] + 1 :])
        shown, left = _between_cuts(had, cuts), _between_cuts(had_not, cuts)
        left[-1] += sum(had_not[cuts[-1] + 1 :])
        pairs = zip(shown, left, strict=True)
        if not few(beyond, minimum) and all(enough(*pair, minimum) for pair in pairs):
            found = Intervals(cuts, shown, [*left[:-1], left[-1] + beyond])
    return found


def halving(size: int) -> list[int]:
    """Return positions in the order in which edges matter: the last, then those that halve.

    Args:
        size: of the grid.
    """
    order, parts = [size - 1], [(0, size)]
    while parts:
        start, end = parts.pop(0)
        middle = (start + end) // 2
        if start < middle:
            order.append(middle - 1)
            parts += [(start, middle), (middle, end)]
    return order


def _between_cuts(counts: Sequence[int], cuts: Sequence[int]) -> list[int]:
    """Return sums of counts up to each cut."""
    return [sum(counts[low + 1 : high + 1]) for low, high in itertools.pairwise([-1, *cuts])]


def tell_beside(
    cell: LedgerCell, curves: Sequence[LedgerCell], minimum: int, of_events: bool
) -> bool:
    """Return whether intervals tell of few patients beside those that left before.

    Only the very numbers may leave again, or those of the same patients and others: then each set
    of patients must hold all of the smaller ones with the same times and events, or else numbers of
    others would follow from several sets, and what is left of the larger one without the smaller
    must be what could leave itself.

    Args:
        cell: a column of a curve that would leave.
        curves: the same column of curves that left, of some of its patients.
        minimum: fewest patients.
        of_events: whether the column is that of the event, else it is that of the time.
    """
    if any(other.heading != cell.heading for other in curves):
        return True
    for one, other in itertools.pairwise(
        sorted([*curves, cell], key=lambda each: len(each.values.cases))
    ):
        if one.values.cases == other.values.cases:
            if one.released != other.released:
                return True
        elif not _grown(one, other) or _few_joined(one, other, minimum, of_events):
            return True
    return False


def _grown(one: LedgerCell, other: LedgerCell) -> bool:
    """Return whether a cell has the patients of another, with their values, and more."""
    import numpy as np

    if not one.values.cases < other.values.cases:
        return False
    there = only(other.values, one.values.cases)
    orders = [np.argsort(values.case_ids.astype(str)) for values in (one.values, there)]
    return bool(np.array_equal(one.values.numbers[orders[0]], there.numbers[orders[1]]))


def _few_joined(one: LedgerCell, other: LedgerCell, minimum: int, of_events: bool) -> bool:
    """Return whether what a curve has more than another would not leave itself."""
    cuts = [frozenset(each.released["cuts"]) for each in (one, other)]
    if not (cuts[0] <= cuts[1] or cuts[1] <= cuts[0]):
        return True
    common = sorted(cuts[0] & cuts[1])
    before, now = (_between(each, common) for each in (one, other))
    more = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(before, now, strict=True)]
    joined, had = sum(map(sum, more)), sum(events for events, _ in more)
    counts = [n for pair in more for n in pair]
    if of_events:
        beyond = int(other.values.numbers.sum() - one.values.numbers.sum()) - had
        counts += [beyond, more[-1][1] - beyond]
    return had in (0, joined) or any(n != 0 and n < minimum for n in counts)


def _between(cell: LedgerCell, cuts: Sequence[int]) -> list[tuple[int, int]]:
    """Return the events and the others of a curve that left, between some of its cuts."""
    released = cell.released
    edges, *lists = (tuple(released[name]) for name in ("cuts", "events", "censored"))
    found = Counts(edges, released["n"], *lists).on(cuts)
    return list(zip(found.events, found.censored, strict=True))

"""Bins of values: which of them may be shown, beside each other and beside those that left before.

A *cut* is a number that splits the line: a value below it is in another bin than all others. An
edge that the bin below it holds, as the last of a histogram is, is a cut just above itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from jipflow.analyses.cells import Values
from jipflow.analyses.contract import kinds
from jipflow.analyses.facts import LedgerCell, Shown
from jipflow.analyses.rules import Rule

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SAME_BINS = Rule(
    "same_bins",
    "Of variables that rise and fall together only the first has bins, of histograms and then of "
    "quantiles: where the bins of two differ by a few patients, these are known.",
    because="a variable that rises and falls with it has the bins",
)


def cuts_of(edges: Sequence[float]) -> list[float]:
    """Return the cuts that edges are.

    Bins hold their lower edge and not their upper one, except that the last bin holds both, as in
    `numpy.histogram`.

    Args:
        edges: k + 1 rising bin edges.
    """
    return [*map(float, edges[:-1]), math.nextafter(edges[-1], math.inf)]


def bin_index(values: npt.NDArray[np.float64], edges: Sequence[float]) -> npt.NDArray[np.intp]:
    """Return the bin of each value; those outside the edges have bins, so that none vanishes.

    Args:
        values: finite values, shape (rows,).
        edges: k + 1 rising bin edges, see `cuts_of`.

    Returns:
        Shape (rows,): 0 below the first edge, 1 to k in the bins, k + 1 above the last edge.
    """
    import numpy as np

    return np.searchsorted(cuts_of(edges), values, side="right")


def bins_to_hide(
    counts: Sequence[int], patients: int, minimum: int, hidden: Collection[int] = ()
) -> frozenset[int] | None:
    """Choose which bins of a histogram to withhold.

    Where a bin has fewer patients than the minimum, but some, all bins of fewer are withheld, empty
    ones too: beside empty bins that are shown, the others would say where single patients lie.
    While the rest would still tell about them (see `hides`), the bin with the fewest patients, of
    equals the first, goes as well.

    Args:
        counts: patients by bin; a patient with several cases may be in several bins.
        patients: distinct patients in the histogram, which is released beside the bins.
        minimum: fewest patients.
        hidden: positions of bins that are withheld in any case.

    Returns:
        Positions of the bins to withhold, or None where no choice leaves a bin with anyone in it.
    """
    chosen = set(hidden)
    if chosen or any(0 < count < minimum for count in counts):
        chosen |= {i for i, count in enumerate(counts) if count < minimum}
    others = sorted((n, i) for i, n in enumerate(counts) if n >= minimum and i not in chosen)
    while not hides(
        [None if i in chosen else count for i, count in enumerate(counts)], patients, minimum
    ):
        if not others:
            return None
        chosen.add(others.pop(0)[1])
    return frozenset(chosen) if others else None


def hides(counts: Sequence[int | None], patients: int, minimum: int) -> bool:
    """Return whether the withheld bins of a histogram stay unknown to whoever knows the others.

    Subtraction leaves the patients who are in the withheld bins together. They must be the minimum
    or more, and in two bins at least, of which any may be empty: then each bin may hold nobody, or
    the minimum or more. No empty bin is shown beside them. With nothing withheld the bins must
    account for everyone.

    Args:
        counts: patients by bin, None where withheld.
        patients: distinct patients in the histogram.
        minimum: fewest patients.
    """
    hidden = sum(count is None for count in counts)
    rest = patients - sum(count for count in counts if count is not None)
    if hidden == 0:
        return rest <= 0
    return hidden >= 2 and rest >= minimum and 0 not in counts


def tells(counts: Sequence[int | None], patients: int, minimum: int) -> bool:
    """Return whether the bins of a histogram tell more than the gate of a site lets out.

    Args:
        counts: patients below the edges, in the bins, above the edges; None where withheld.
        patients: distinct patients in the histogram.
        minimum: fewest patients.
    """
    shown = [count for count in counts if count is not None]
    return (
        any(0 < count < minimum for count in shown)
        or max(shown, default=0) == patients
        or len(counts) - 2 > patients
        or not hides(counts, patients, minimum)
    )


class Pieces:
    """The common refinement of the edges of several histograms of one variable.

    Args:
        histograms: edges of each, rising.

    Attributes:
        bins: for each histogram the bin that each piece is in, as `bin_index` has it.
    """

    def __init__(self, histograms: Sequence[Sequence[float]]) -> None:
        import numpy as np

        each = [cuts_of(edges) for edges in histograms]
        self._cuts = np.unique(np.concatenate(each))
        lows = np.concatenate([[-np.inf], self._cuts])
        self.bins = [np.searchsorted(cuts, lows, side="right").tolist() for cuts in each]

    @property
    def inner(self) -> int:
        """How many ranges lie between the edges."""
        return int(self._cuts.size) - 1

    def patients(self, values: Values) -> list[frozenset[str]]:
        """Return the patients in each piece."""
        import numpy as np

        piece = np.searchsorted(self._cuts, values.numbers, side="right")
        return [frozenset(values.patients[piece == i]) for i in range(self._cuts.size + 1)]


def shown(cell: LedgerCell) -> Shown | None:
    """Return the bins that a cell of any kind shows; None where it has none."""
    kind = kinds().get(cell.kind)
    return kind.shown(cell.heading, cell.released) if kind else None


def same_values(cell: LedgerCell, values: Values, rows: int) -> bool:
    """Return whether a cell has these very values, a patient a row."""
    import numpy as np

    return (
        cell.rows == rows
        and cell.values.cases == values.cases
        and np.array_equal(cell.values.numbers, values.numbers)
    )


def groups_of(cells: Iterable[Shown], numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return the group of each value that the bins of some cells of these values distinguish.

    Args:
        cells: what each shows.
        numbers: shape (rows,).

    Returns:
        Shape (rows,), from 0.
    """
    import numpy as np

    groups = np.zeros(numbers.size, dtype=np.intp)
    for cell in cells:
        labels = np.asarray(cell.groups)[np.searchsorted(cell.cuts, numbers, side="right")]
        pairs = np.stack([groups, labels])
        groups = np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1)
    return groups


def distinguish_few(cells: Sequence[LedgerCell], minimum: int) -> bool:
    """Return whether the bins of cells, all together, distinguish groups of few patients.

    Args:
        cells: each with one value a patient; patients may be in some of them only.
        minimum: fewest patients of a group.
    """
    import numpy as np

    bins = [(cell.values, found) for cell in cells if (found := shown(cell))]
    people = sorted(frozenset().union(*(values.cases for values, _ in bins)))
    places = {patient: i for i, patient in enumerate(people)}
    table = np.full((len(people), len(bins)), -1, dtype=np.intp)
    for column, (values, found) in enumerate(bins):
        rows = [places[patient] for patient in values.patients]
        table[rows, column] = groups_of([found], values.numbers)
    sizes = np.unique(table, axis=0, return_counts=True)[1]
    return bool(np.any(sizes < minimum))


def cuts_to_show(
    asked: Sequence[Sequence[float]],
    values: Values,
    groups: npt.NDArray[np.intp],
    minimum: int,
) -> list[float]:
    """Choose the cuts whose bins, with all cuts chosen before, may be shown.

    Each bin that is split by a chosen cut has the minimum of patients on either side, and so has
    each group of values on a side that it is on. Of a round, each bin is split by the cut that
    splits it most evenly (of equals the lowest) until none fits.

    Args:
        asked: cuts of each round, in their order; each rises.
        values: of the variable; a patient with several cases has several.
        groups: group of each value that is known already, shape (rows,).
        minimum: fewest patients.

    Returns:
        The cuts, rising.
    """
    import numpy as np

    order = np.argsort(values.numbers, kind="stable")
    numbers = values.numbers[order]
    owners = np.unique(values.patients.astype(str), return_inverse=True)[1][order]
    table = np.stack([groups[order], owners], axis=1)
    chosen: list[float] = []
    for cuts in asked:
        known = np.asarray(cuts, dtype=np.float64)
        bins = list(itertools.pairwise([-math.inf, *sorted(chosen), math.inf]))
        while bins:
            low, high = bins.pop()
            start, stop = np.searchsorted(numbers, [low, high], side="left")
            inside = known[(known > low) & (known < high)]
            below = np.searchsorted(numbers[start:stop], inside, side="left")
            best = _most_even(table[start:stop], below, minimum)
            if best is not None:
                cut = float(inside[best])
                chosen.append(cut)
                bins += [(low, cut), (cut, high)]
    return sorted(chosen)


def _most_even(
    table: npt.NDArray[np.intp], below: npt.NDArray[np.intp], minimum: int
) -> int | None:
    """Return which of the cuts of a bin splits it most evenly, None where none may.

    Args:
        table: group and patient of each value in the bin, in the order of the values.
        below: how many of the values are below each cut.
        minimum: fewest patients.
    """
    import numpy as np

    if below.size == 0 or len(table) < 2 * minimum:
        return None
    pairs, first = np.unique(table, axis=0, return_index=True)
    last = len(table) - 1 - np.unique(table[::-1], axis=0, return_index=True)[1]
    fits = np.ones(below.size, dtype=bool)
    left, right = np.zeros_like(below), np.zeros_like(below)
    for group in np.unique(pairs[:, 0]):
        of_group = pairs[:, 0] == group
        before = np.searchsorted(np.sort(first[of_group]), below, side="left")
        after = of_group.sum() - np.searchsorted(np.sort(last[of_group]), below, side="left")
        for side in (before, after):
            fits &= (side == 0) | (side >= minimum)
        left, right = left + before, right + after
    fewest = np.where(fits, np.minimum(left, right), 0)
    return int(np.argmax(fewest)) if fewest.max() >= minimum else None

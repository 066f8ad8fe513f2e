"""Who had an event by an edge of a curve, beside other classes of the same patients.

A survival curve counts who had the event by each of its edges. Where a category, or another event,
is of the same patients but for a few, such as deaths within 13 months beside an edge at 12, what
both counts differ by is of these few: their times lie between the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jipflow.analyses.facts import LedgerCell

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CURVE = "kaplan_meier"

Patients = frozenset[str]


class Edges:
    """Classes of patients by the edges of curves, and others that leave or have left.

    Args:
        minimum: fewest patients who are not few.
    """

    def __init__(self, minimum: int) -> None:
        self._minimum = minimum
        self._curves: list[Sequence[LedgerCell]] = []
        self._others: list[Sequence[LedgerCell]] = []
        self._known: dict[int, tuple[Sequence[LedgerCell], list[Patients]]] = {}

    def include(self, pieces: Sequence[LedgerCell]) -> None:
        """Add what leaves or has left.

        Args:
            pieces: of one cell, in their order; of a cell of one variable it is the only one.
        """
        (self._curves if _is_curve(pieces) else self._others).append(pieces)

    def tell_of_few(self, pieces: Sequence[LedgerCell]) -> bool:
        """Return whether classes of a cell differ from those of the other sort in few patients.

        They need not be of the same cells: a curve of a group may be one of all in whom a category
        names the group as well.
        """
        beside = self._others if _is_curve(pieces) else self._curves
        own = self._classes(pieces) if beside else []
        return any(
            abs(len(one) - len(other)) < self._minimum and 0 < len(one ^ other) < self._minimum
            for one in own
            for each in beside
            for other in self._classes(each)
        )

    def _classes(self, pieces: Sequence[LedgerCell]) -> list[Patients]:
        """Return the classes of a cell that are not of few patients."""
        if id(pieces) not in self._known:
            found = _by_edge(pieces) if _is_curve(pieces) else _of_two(pieces)
            both = (part for inside in found for part in (inside, ~inside))
            patients = pieces[0].values.patients
            sets = dict.fromkeys(frozenset(patients[part]) for part in both)
            large = [each for each in sets if len(each) >= self._minimum]
            # The cell is kept with them, so that no other one comes to have its id.
            self._known[id(pieces)] = (pieces, large)
        return self._known[id(pieces)][1]


def _is_curve(pieces: Sequence[LedgerCell]) -> bool:
    return pieces[0].kind == CURVE


def _by_edge(pieces: Sequence[LedgerCell]) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield who had the event by each edge that a curve shows, patients sorted."""
    time, event = (piece.values.numbers for piece in pieces[:2])
    grid = pieces[0].heading["grid"]
    for cut in pieces[0].released["cuts"]:
        yield (time <= grid[cut]) & (event == 1)


def _of_two(pieces: Sequence[LedgerCell]) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield who has the greater value of each column of two, patients sorted."""
    import numpy as np

    for piece in pieces:
        numbers = piece.values.numbers
        if piece.equations and np.unique(numbers).size == 2:
            yield np.equal(numbers, numbers.max())

"""Classes of patients by columns of models: no few of them follow from sums over several.

A product with an indicator is a sum over a class of patients. Models of two indicators that differ
in a few patients, such as deaths within one year and within two, or a model and a group, would give
the sums over these few, whatever the columns are called.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from jipflow.analyses.cells import Values
from jipflow.analyses.contract import Proposed
from jipflow.analyses.facts import LedgerCell
from jipflow.release.linked import groups_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Patients = frozenset[str]

ROUNDING = 1e-9
"""Below this a share of a group in a combination of sums counts as none."""


def summed(cell: Proposed | LedgerCell) -> bool:
    """Return whether other sums over a cell's patients or classes leave than their numbers."""
    return cell.equations > 1


class Classes:
    """The sets of patients over whom sums are known, and which few follow from them.

    Of cells by themselves `difference` and `earlier` decide what few may follow; here it is what
    follows by the classes of models in addition.

    Args:
        minimum: fewest patients who are not few.
    """

    def __init__(self, minimum: int) -> None:
        self._minimum = minimum
        self._cells: dict[Patients, None] = {}
        self._classes: dict[Patients, None] = {}
        self._known: set[Patients] = set()

    def include(self, values: Values, model: str, group: str) -> None:
        """Add what is known anyhow.

        Args:
            values: of a cell or a column.
            model: that it is a column of, if any.
            group: that it is of, if any.
        """
        self._cells |= dict.fromkeys(_cells(values, model, group))
        self._classes |= dict.fromkeys(_classes(values, model))

    def settle(self) -> None:
        """Take as known what follows from all that was included."""
        self._known = self._few([*self._cells, *self._classes])

    def add(self, values: Values, model: str, group: str) -> bool:
        """Add what would leave if no few more follow; return whether. See `include`."""
        cells = self._cells | dict.fromkeys(_cells(values, model, group))
        classes = self._classes | dict.fromkeys(_classes(values, model))
        if (cells, classes) == (self._cells, self._classes):
            return True
        few = self._few([*cells, *classes]) - self._known if classes else set()
        if few and few - self._few(cells):
            return False
        self._cells, self._classes = cells, classes
        return True

    def _few(self, sets: Iterable[Patients]) -> set[Patients]:
        """Return the groups of few of whom something follows from sums over sets.

        It is what they add to the difference of two sums, or to a combination of many in which the
        other patients cancel out.
        """
        every = list(dict.fromkeys(sets))
        found = [one ^ other for one, other in itertools.combinations(every, 2)]
        found += _left_over(every, self._minimum)
        return {group for group in found if 0 < len(group) < self._minimum}


def _left_over(sets: Sequence[Patients], minimum: int) -> Iterator[Patients]:
    """Yield of whom combinations of sums are in which all large groups of patients cancel out.

    Args:
        sets: of whom sums are known.
        minimum: fewest patients of a large group, of those that the sets tell apart.
    """
    import numpy as np
    from scipy.linalg import null_space

    groups = groups_of(sets)
    if not groups:
        return
    table = np.array([[group <= each for group in groups] for each in sets], dtype=float)
    large = np.array([len(group) >= minimum for group in groups])
    kept = table
    if large.any():
        kept = null_space(table[:, large].T, rcond=ROUNDING).T @ table
    for row in _reduced(kept):
        yield frozenset().union(*(groups[i] for i in np.flatnonzero(np.abs(row) > ROUNDING)))


def _reduced(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the rows of the reduced echelon form: combinations that have as many zeros as can be.

    Args:
        rows: combinations, shape (rows, groups).
    """
    import numpy as np

    rows = np.where(np.abs(rows) > ROUNDING, rows, 0.0)
    done = 0
    for column in range(rows.shape[1]):
        if done == len(rows):
            break
        pivot = done + int(np.abs(rows[done:, column]).argmax())
        if abs(rows[pivot, column]) <= ROUNDING:
            continue
        rows[[done, pivot]] = rows[[pivot, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= np.outer(rows[others, column], rows[done])
        rows[np.abs(rows) <= ROUNDING] = 0.0
        done += 1
    return rows[:done]


def _cells(values: Values, model: str, group: str) -> list[Patients]:
    """Return the patients of a cell, if sums over classes or groups of them are known."""
    return [frozenset(values.patients)] if model or group else []


def _classes(values: Values, model: str) -> list[Patients]:
    """Return the patients who have either value of a model's column of two."""
    import numpy as np

    numbers = values.numbers
    two = np.unique(numbers)
    if not model or two.size != 2:
        return []
    return [frozenset(values.patients[numbers == number]) for number in two]

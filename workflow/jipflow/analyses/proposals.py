"""Cells before they leave, those that have left, and what is known of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from jipflow.analyses.cells import CellKey, Values, by_patient
from jipflow.analyses.forms import StatedCell

if TYPE_CHECKING:
    from jipflow.analyses.contract import Analysis

TOLERANCE = 1e-9
"""How far rounding may carry a number beyond a bound: of 1, or of its own size."""


@dataclass(frozen=True)
class Column:
    """A variable that a cell of several is computed from.

    Attributes:
        key: what it is: of a category, an indicator has the name of its value as well.
        values: of the cases of the cell, which are those of all its columns.
        equations: numbers of the cell that are sums over functions of its values.
        among: positions of the columns that these are functions of; of all where it is empty. A
            column may stand once for each: what the same columns say in many cells counts once.
    """

    key: CellKey
    values: Values
    equations: int
    among: tuple[int, ...] = ()


@dataclass(frozen=True)
class Proposed:
    """One cell before the gate, with the people behind it.

    A cell of several columns, such as a model, leaves whole or not at all. The rules of all cells
    look at its `pieces`, one a column, as they look at cells of one variable.

    Attributes:
        analysis: what proposes it.
        key: what it is about.
        values: what it is computed from; of a cell of several columns, the first one's.
        content: what the analysis computed, for its own `Analysis.check`.
        columns: of a cell of several; the first has the key and the values of the cell.
        of: of a piece, which cell it is of and which of its columns it is.
    """

    analysis: Analysis[Any, Any, Any]
    key: CellKey
    values: Values
    content: Any
    columns: Sequence[Column] = ()
    of: PieceOf | None = None

    @property
    def equations(self) -> int:
        """How many numbers of it are sums over functions of its values."""
        return self.of.equations if self.of else self.analysis.equations

    @property
    def model(self) -> str:
        """Of a piece, what tells its cell apart from those of other columns or values."""
        return self.of.model if self.of else ""

    @cached_property
    def pieces(self) -> Sequence[Proposed]:
        """The cell as cells of one variable: itself where it is one."""
        if not self.columns:
            return (self,)
        models = {among: _digest(self, among) for among in {each.among for each in self.columns}}
        return [
            Proposed(
                self.analysis,
                column.key,
                column.values,
                self.content,
                of=PieceOf(models[column.among], number, column.equations),
            )
            for number, column in enumerate(self.columns)
        ]

    @property
    def cases(self) -> frozenset[str]:
        """Cases whose values are in it."""
        return self.values.cases

    @property
    def order(self) -> tuple[str, ...]:
        """What cells are sorted by."""
        return (self.analysis.settings.id, *self.key)


class PieceOf(NamedTuple):
    """Which cell of several columns a piece is of.

    Attributes:
        model: hash of its kind and of the values of the columns that its equations are of.
        number: of the column, from 0.
        equations: numbers of the cell that are sums over functions of the column's values.
    """

    model: str
    number: int
    equations: int


def _digest(cell: Proposed, among: tuple[int, ...]) -> str:
    """Return a hash of the kind of a cell and of the values of columns, of all if none is named."""
    found = hashlib.sha256(cell.analysis.settings.kind.encode())
    chosen = [cell.columns[i] for i in among] or [each for each in cell.columns if not each.among]
    for column in chosen:
        patients = by_patient(column.values)
        found.update(b"\0\0".join([b"", "\0".join(patients.case_ids).encode()]))
        found.update(b"\0\0" + patients.numbers.tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class LedgerCell:
    """A cell that leaves or has left, with the values behind it, as a site's ledger keeps it.

    Of a cell of several columns each piece is one; `released` is what left of the whole.

    Attributes:
        analysis: id of its analysis.
        kind: of its analysis.
        key: what it is about.
        equations: as `Analysis.equations` of its kind.
        heading: as `Analysis.heading` of its analysis.
        released: what left of it beside its key.
        values: behind it, a patient a row, as `by_patient` gives them.
        rows: how many values there were.
        model: of a piece, `Proposed.model`.
        number: of a piece, that of its column; 0 of the first one and of a cell of one.
    """

    analysis: str
    kind: str
    key: CellKey
    equations: int
    heading: Mapping[str, Any]
    released: Mapping[str, Any]
    values: Values
    rows: int
    model: str = ""
    number: int = 0


@dataclass(frozen=True)
class Limits:
    """What a hub knows of a cell before it reads it.

    Attributes:
        minimum: fewest distinct patients, the stricter of protocol and site.
        cases: most values that one patient can have.
        lowest: value that the feature can have.
        highest: value that the feature can have.
        stated: what it stated of the cell before the round; None in the first.
    """

    minimum: int
    cases: int
    lowest: float = -math.inf
    highest: float = math.inf
    stated: StatedCell | None = None


@dataclass(frozen=True)
class Implied:
    """Between which numbers lies what a cell does not hold, both included.

    Attributes:
        mean: of its values.
        rows: how many there are.
    """

    mean: tuple[float, float]
    rows: tuple[float, float]

    @classmethod
    def agree(cls, found: Sequence[Implied]) -> bool:
        """Return whether cells may be of the same values, but for rounding."""
        for ranges in ([each.mean for each in found], [each.rows for each in found]):
            low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
            if low - high > TOLERANCE * max(abs(low), abs(high)):
                return False
        return True


@dataclass(frozen=True)
class Shown:
    """The bins that a cell counts its values in, as far as it shows them.

    Attributes:
        cuts: that split the line, rising; a value below a cut is in another bin than all others.
        groups: a number for each bin, the same for bins that are withheld; one more than cuts.
    """

    cuts: Sequence[float]
    groups: Sequence[int]


def _nothing(cell: Proposed) -> Sequence[LedgerCell]:
    return ()


def _no_models() -> Sequence[Sequence[LedgerCell]]:
    return ()


@dataclass(frozen=True)
class Known:
    """What is known beside the cells of a kind: other cells of the release, and earlier ones.

    Attributes:
        proposed: cells of the kinds that were checked before, whether or not they leave.
        of: returns of a cell all that leave or have left with its very values.
        models: returns the cells of several columns that leave or have left, of whatever kind and
            values, each as its pieces in their order.
    """

    proposed: Sequence[Proposed] = ()
    of: Callable[[Proposed], Sequence[LedgerCell]] = _nothing
    models: Callable[[], Sequence[Sequence[LedgerCell]]] = _no_models


ALONE = Known()
"""Of cells beside which nothing is known."""

"""What is known of a cell: its columns, what left of it, its limits, what it implies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jipflow.analyses.cells import CellKey, Values
from jipflow.analyses.forms import StatedCell

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

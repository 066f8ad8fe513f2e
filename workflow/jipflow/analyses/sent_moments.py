"""Kinds that send the moments of values: what they compute, by which rules, and what pages show."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from jipflow.analyses.cells import CellKey, Values
from jipflow.analyses.facts import Implied, LedgerCell, Limits
from jipflow.analyses.moments import (
    DOMINANCE,
    EXACT,
    FEW_LEVELS,
    NUMBER_RANGE,
    ZERO_VARIANCE,
    Moments,
    MomentsCell,
    broken,
    in_range,
    keeps_digits,
    moments,
    tell_beside,
    verify_moments,
)
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.analyses.units import with_unit
from jipflow.blocks import Drawing, Group, Row, Table, TableCell, head, numeral
from jipflow.plots import number
from jipflow.settings.protocol import Disclosure

RULES = (NUMBER_RANGE, ZERO_VARIANCE, DOMINANCE, FEW_LEVELS)
EQUATIONS = 2
"""Sum and sum of squares."""

FIRST_FEATURES = (
    "volume_ml",
    "original_shape_MeshVolume",
    "original_firstorder_Mean",
    "original_firstorder_Entropy",
    "original_shape_Sphericity",
    "original_glcm_Contrast",
    "original_firstorder_90Percentile",
)
"""Features that a reader looks for first; a segment's plots are filled up with the next by name."""

MAX_PLOTS = 6
"""Most plots of one segment."""


@dataclass(frozen=True)
class Computed:
    """What a site computes of one cell.

    Attributes:
        moments: of its values; None where it has none.
        values: that they are of.
    """

    moments: Moments | None
    values: Values


class SendsMoments:
    """What a kind does whose cell is the moments of its values."""

    rules: ClassVar[tuple[Rule, ...]] = RULES
    equations: ClassVar[int] = EQUATIONS

    def compute(self, values: Values, stated: Any = None) -> Computed:
        """Compute the moments of a cell's values."""
        return Computed(moments(values.numbers) if values.numbers.size else None, values)

    def check(self, content: Computed, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Withhold numbers out of the format's range, and those that tell of few patients."""
        found = content.moments
        if found is None or not in_range(found):
            return Withheld(NUMBER_RANGE)
        rule = broken(content.values, disclosure)
        if rule is None and not keeps_digits(found):
            rule = NUMBER_RANGE
        return Withheld(rule) if rule else Passed(asdict(found))

    def tells_beside(
        self, cell: LedgerCell, earlier: Sequence[LedgerCell], disclosure: Disclosure
    ) -> bool:
        """Return whether a difference from other means is one that would not leave itself."""
        return tell_beside(cell, earlier, disclosure)

    def tells_of_few(self, values: Values, disclosure: Disclosure) -> bool:
        """Return whether a mean and a variance would tell of few of the patients."""
        return broken(values, disclosure) is not None

    def verify(self, cell: MomentsCell, limits: Limits) -> None:
        """Refuse moments that no values have, and values that are all equal."""
        verify_moments(cell, limits)

    def implies(self, cell: MomentsCell, limits: Limits) -> Implied:
        """Return mean and rows as they are."""
        return Implied((cell.mean, cell.mean), (cell.rows, cell.rows))


def draw_sent(cells: Sequence[MomentsCell]) -> Drawing:
    """Show the numbers of every cell that leaves, and the standard deviation that they imply."""
    groups: dict[str, list[MomentsCell]] = defaultdict(list)
    for cell in cells:
        groups[cell.key.title].append(cell)
    lead = (
        "Each row of a table is a cell: one feature of one segment, of n patients. Rows counts "
        "the values, more than n where a patient has several cases. The mean is their average; "
        "the standard deviation (SD) says how far values lie from it, and is not sent but "
        "follows from what is. Behind the switch are two numbers that the hub needs to merge "
        "without loss: M2, the sum of squared distances from the mean, and rest, what the mean "
        "lost in rounding."
    )
    columns = (
        ("n", ""),
        ("Rows", ""),
        ("Mean", ""),
        ("SD", ""),
        ("M2", EXACT),
        ("Rest", EXACT),
    )
    titles = [head("Feature"), *(head(name, f"num{css}") for name, css in columns)]
    return Drawing(
        lead,
        [
            Group(title, table=Table(f"Cells of {title}", titles, [_sent(c) for c in found]))
            for title, found in sorted(groups.items())
        ],
    )


def _sent(cell: MomentsCell) -> Row:
    """Return the row of a cell on the releaser's page."""
    return [
        TableCell(with_unit(cell.feature), scope="row"),
        numeral(str(cell.n)),
        numeral(str(cell.rows)),
        numeral(number(cell.mean, 7)),
        numeral(number(math.sqrt(cell.moments.variance), 5), "num muted"),
        numeral(number(cell.m2, 7), f"num{EXACT}"),
        numeral(number(cell.mean_rest, 2), f"num{EXACT}"),
    ]


def rank_for_readers(feature: str) -> tuple[int, str]:
    """Return what a segment's features are sorted by, so that those for plots come first."""
    known = feature in FIRST_FEATURES
    return (FIRST_FEATURES.index(feature) if known else len(FIRST_FEATURES), feature)


def key_of(cell: Mapping[str, Any]) -> CellKey:
    """Return what a merged cell is about."""
    return CellKey(*(cell[name] for name in CellKey._fields))

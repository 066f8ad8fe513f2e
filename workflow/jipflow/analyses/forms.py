"""What of an analysis crosses between a site and its hub, as models: cells and their analyses.

Nothing that these models do not name may leave a site. Each kind of analysis narrows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from jipflow.analyses.cells import CellKey
from jipflow.settings.part import AsGiven, Group, Id, Part, Role, SegmentName

FLOOR = 5
"""No protocol and no site can go below this many patients."""

LARGEST = 1e100
"""Bound far beyond any feature that keeps the hub's sums within float64, whose largest number is
1.8e308 (IEEE 754): the hub squares differences of means."""

Count = Annotated[int, Field(ge=0, le=10**9)]
Enough = Annotated[int, Field(ge=FLOOR, le=10**9)]
Value = Annotated[float, Field(ge=-LARGEST, le=LARGEST), AsGiven]
FeatureName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,99}$")]


class KeyedCell(Part):
    """A cell by what it is about."""

    role: Role
    segmentation: Id
    segment: SegmentName
    feature: FeatureName
    group: Group = ""
    """Group of patients by the protocol's name; empty where the cell is of all."""

    @property
    def key(self) -> CellKey:
        """What the cell is about."""
        return CellKey(self.role, self.segmentation, self.segment, self.feature, self.group)


class ReleasedCell(KeyedCell):
    """A cell as it leaves a site; each kind adds its numbers, and nothing else may leave."""


class CountedCell(ReleasedCell):
    """A cell of a kind whose numbers are exact: the number of its patients is one of them."""

    n: Enough
    """Patients."""


class ReleasedAnalysis(Part):
    """The cells of an analysis as they leave a site.

    Each kind narrows ``kind`` and ``cells``. Further fields are keys of its settings, which the
    release and the hub's result repeat so that they can be read without the protocol.
    """

    id: Id
    kind: str
    cells: Sequence[ReleasedCell]


class StatedCell(KeyedCell):
    """What the hub says of a cell before a later round; each kind of several adds its numbers."""


class StatedAnalysis(Part):
    """The cells of an analysis that a later round asks for.

    Each kind of several rounds narrows ``kind`` and ``cells``.
    """

    id: Id
    kind: str
    cells: Sequence[StatedCell]


class RecordedCell(KeyedCell):
    """What the gate did with a cell, without any count of patients; travels with the release."""

    analysis: Id
    kind: str
    released: bool
    rules: dict[str, str]
    """What each rule found; a rule after the one that withheld the cell was not applied."""

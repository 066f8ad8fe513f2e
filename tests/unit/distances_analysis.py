"""Distances from the mean: an analysis of two rounds, which no other file of the tree names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jipflow.analyses.cells import Values
from jipflow.analyses.contract import Analysis, ImpossibleCell
from jipflow.analyses.facts import Limits
from jipflow.analyses.forms import (
    CountedCell,
    Enough,
    ReleasedAnalysis,
    StatedAnalysis,
    StatedCell,
    Value,
)
from jipflow.analyses.rules import Passed, Withheld
from jipflow.blocks import Drawing
from jipflow.settings.protocol import AnalysisSettings, Disclosure


class Settings(AnalysisSettings):
    """The mean distance from the mean."""

    kind: Literal["distances"]


class Sums(CountedCell):
    """What the first round asks for."""

    step: Literal["sums"]
    rows: Enough
    total: Value


class Distances(CountedCell):
    """What the second round asks for."""

    step: Literal["distances"]
    distance: Value


Cell = Sums | Distances


class Released(ReleasedAnalysis):
    """What leaves a site in either round."""

    kind: Literal["distances"]
    cells: list[Cell]


class Mean(StatedCell):
    """What the hub says before the second round."""

    mean: Value


class Stated(StatedAnalysis):
    """The means of all sites together."""

    kind: Literal["distances"]
    cells: list[Mean]


class DistancesFromMean(Analysis[Settings, Any, Released]):
    """Sums of distances from the mean of all sites."""

    cell = Cell
    released = Released
    stated = Stated
    merging = "Sums of distances were added."

    @property
    def rounds(self) -> int:
        """The mean first, then the distances from it."""
        return 2

    def check_stated(self, cell: Mean, round_: int) -> None:
        """Refuse a mean of volumes that is negative."""
        if cell.mean < 0:
            raise ImpossibleCell(f"a mean of {cell.mean}")

    def compute(self, values: Values, stated: Any = None) -> dict[str, Any]:
        """Add the values, or how far they lie from the mean."""
        if stated is None:
            total = float(values.numbers.sum())
            return {"step": "sums", "rows": int(values.numbers.size), "total": total}
        distance = float(abs(values.numbers - stated.mean).sum())
        return {"step": "distances", "distance": distance}

    def check(self, content: Any, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Let everything pass."""
        return Passed(content)

    def verify(self, cell: Any, limits: Limits) -> None:
        """Refuse the step of another round."""
        if (cell.step == "sums") != (limits.stated is None):
            raise ImpossibleCell

    def merge(self, by_site: Mapping[str, Any], given: Any = None) -> dict[str, Any]:
        """Add the sites' sums."""
        if given is None:
            return {"total": sum(cell.total for cell in by_site.values())}
        return {"mean": given.mean, "distance": sum(cell.distance for cell in by_site.values())}

    def advance(self, round_: int, by_site: Mapping[str, Any], given: Any = None) -> Mean:
        """Return the mean of all sites."""
        cell = min(by_site.values(), key=lambda cell: cell.key)
        rows = sum(cell.rows for cell in by_site.values())
        mean = sum(cell.total for cell in by_site.values()) / rows
        return Mean(**cell.key._asdict(), mean=mean)

    def conclude(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Count the cells."""
        return {"merged": len(cells)}

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Say nothing."""
        return Drawing("Distances that leave.", [])

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Say nothing."""
        return Drawing("Distances of all sites.", [])

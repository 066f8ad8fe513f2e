"""Counts of rows: the third analysis, which no other file of the tree names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jipflow.analyses.cells import (
    CellKey,
    Values,
)
from jipflow.analyses.contract import Analysis, ImpossibleCell
from jipflow.analyses.facts import Limits
from jipflow.analyses.forms import CountedCell, Enough, ReleasedAnalysis
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.blocks import Drawing, Group, Table, TableCell, code, head, numeral
from jipflow.settings.part import Text
from jipflow.settings.protocol import AnalysisSettings, Disclosure

ODD_ROWS = Rule("odd_rows", "An odd number of values is withheld.")


class Settings(AnalysisSettings):
    """How many values there are."""

    kind: Literal["rows"]
    unit: Text
    """What is counted."""


class Cell(CountedCell):
    """The values of one feature of one segment."""

    rows: Enough


class Released(ReleasedAnalysis):
    """How many values each feature and segment has."""

    kind: Literal["rows"]
    unit: Text
    cells: list[Cell]


class Rows(Analysis[Settings, Cell, Released]):
    """How many values there are of each feature in each segment."""

    cell = Cell
    released = Released
    merging = "Numbers of rows were added."
    rules = (ODD_ROWS,)

    def compute(self, values: Values, stated: Any = None) -> int:
        """Count the values."""
        return int(values.numbers.size)

    def check(self, content: int, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Withhold odd numbers."""
        return Withheld(ODD_ROWS) if content % 2 else Passed({"rows": content})

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Refuse fewer values than patients."""
        if cell.rows < cell.n:
            raise ImpossibleCell

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Add the sites' values."""
        return {"rows": sum(cell.rows for cell in by_site.values())}

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show the number of each cell."""
        cells = [(cell.key, cell.rows) for cell in analysis.cells]
        return _drawing(f"Rows that leave, in {analysis.unit}.", cells)

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show the number of each merged cell."""
        cells = [
            (CellKey(*(cell[name] for name in CellKey._fields)), cell["rows"])
            for cell in analysis["cells"]
        ]
        return _drawing(f"Rows of {len(sites)} sites, in {analysis['unit']}.", cells)


def _drawing(lead: str, cells: Sequence[tuple[CellKey, int]]) -> Drawing:
    rows = [
        [TableCell(key.title), TableCell(code(key.feature)), numeral(str(n))] for key, n in cells
    ]
    columns = [head("Segment"), head("Feature"), head("Rows", "num")]
    return Drawing(lead, [Group("All segments", table=Table("Rows", columns, rows))])

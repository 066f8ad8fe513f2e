"""Sums of products with other variables: an analysis of several columns, which is no kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jipflow.analyses.cells import CellKey, Measured, Values, only
from jipflow.analyses.contract import Analysis, Proposed
from jipflow.analyses.facts import Column, Limits
from jipflow.analyses.forms import CountedCell, ReleasedAnalysis, Value
from jipflow.analyses.rules import Passed, Withheld
from jipflow.blocks import Drawing
from jipflow.settings.protocol import AnalysisSettings, Disclosure


class Settings(AnalysisSettings):
    """Sums of products with the volume."""

    kind: Literal["products"]
    others: list[str]


class Cell(CountedCell):
    """The sums of one feature."""

    sums: list[Value]


class Released(ReleasedAnalysis):
    """The sums of each feature."""

    kind: Literal["products"]
    others: list[str]
    cells: list[Cell]


class Products(Analysis[Settings, Cell, Released]):
    """Sums of products of a variable with itself and others, of the cases that have all."""

    cell = Cell
    released = Released
    merging = "Sums were added."

    def propose(self, measured: Measured, given: Any = None) -> list[Proposed]:
        """Propose a cell of several columns for each variable."""
        found = []
        for key in self.cells(measured.features, measured.places):
            keys = [key, *(key._replace(feature=name) for name in self.settings.others)]
            every = [measured.values(each) for each in keys]
            cases = frozenset.intersection(*(values.cases for values in every))
            found.append(
                cell_of(self, [(k, only(v, cases)) for k, v in zip(keys, every, strict=True)])
            )
        return found

    def compute(self, values: Values, stated: Any = None) -> list[float]:
        """Add the squares."""
        return [float(np.square(values.numbers).sum())]

    def check(self, content: Any, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Let everything pass."""
        return Passed({"sums": content})

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Believe everything."""

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Add the sums."""
        return {}

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Say nothing."""
        return Drawing("Sums.", [])

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Say nothing."""
        return Drawing("Sums.", [])


def cell_of(analysis: Products, columns: Sequence[tuple[CellKey, Values]]) -> Proposed:
    """Return the cell of variables of the same cases."""
    (key, values), *_ = columns
    sums = [float(values.numbers @ other.numbers) for _, other in columns]
    equations = 1 + len(columns)
    found = [Column(*column, equations) for column in columns]
    return Proposed(analysis, key, values, sums, tuple(found))

"""Kinds that send means and centred scatter of several columns: what they propose, and the rules.

Whatever a hub makes of the numbers, a site sends the same of the same variables.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol

from jipflow.analyses.cells import Measured
from jipflow.analyses.contract import AnyAnalysis, CellBelowMinimum, Proposed
from jipflow.analyses.design import (
    PARAMETERS,
    RULES,
    Design,
    OfColumns,
    broken,
    design,
)
from jipflow.analyses.estimates import term_names
from jipflow.analyses.facts import Implied, Limits
from jipflow.analyses.moments import EXACT, NUMBER_RANGE
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.analyses.scatter import (
    ScatterCell,
    in_range,
    ranges_of,
    scatter,
    verify_indicators,
    verify_scatter,
)
from jipflow.analyses.units import with_unit
from jipflow.blocks import Drawing, Group, Row, Table, TableCell, head, numeral
from jipflow.plots import MISSING, number
from jipflow.settings.covariates import Covariate
from jipflow.settings.protocol import AnalysisSettings, Disclosure


class HasSettings(Protocol):
    """An analysis."""

    @property
    def settings(self) -> AnalysisSettings:
        """The entry of the protocol."""


class SendsScatter(OfColumns):
    """What a kind does whose cell is a `ScatterCell` of a variable and further ones."""

    rules: ClassVar[tuple[Rule, ...]] = RULES

    @property
    def names(self: HasSettings) -> list[str]:
        """What readers call the columns of the further variables."""
        return term_names(self.settings.further())

    @property
    def most_numbers(self: HasSettings) -> int:
        """Means, their rests and a triangle of products."""
        size = 1 + len(term_names(self.settings.further()))
        return 2 * size + size * (size + 1) // 2

    def check(self, content: Design, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Withhold columns whose sums tell of few patients, and numbers beyond the format."""
        rule = broken(content, disclosure, len(content.keys), patients)
        if rule:
            return Withheld(rule)
        found = scatter(content.raw)
        return Passed(found.sent) if in_range(found) else Withheld(NUMBER_RANGE)

    def verify(self: HasSettings, cell: ScatterCell, limits: Limits) -> None:
        """Refuse a scatter that no rows have, classes of few, and too many columns."""
        ranges, categories = ranges_of(self.settings.further(), 1)
        ranges = [(limits.lowest, limits.highest), *ranges]
        verify_scatter(cell, ranges, categories)
        verify_indicators(cell, categories, limits.minimum)
        if len(ranges) > PARAMETERS * cell.n:
            raise CellBelowMinimum

    def implies(self, cell: ScatterCell, limits: Limits) -> Implied:
        """Return the mean of the first column as it is, and the patients."""
        return Implied((cell.means[0], cell.means[0]), (cell.n, cell.n))


def proposals(analysis: AnyAnalysis, measured: Measured) -> list[Proposed]:
    """Return a cell of each variable of an analysis, of the cases that have all of its columns."""
    settings, found = analysis.settings, []
    for key in analysis.cells(measured.features, measured.places):
        rows = design(measured, key, settings.further(), settings.by)
        columns = rows.scattered()
        found.append(Proposed(analysis, key, columns[0].values, rows, columns))
    return found


def draw_sent(cells: Sequence[ScatterCell], others: Sequence[Covariate], lead: str) -> Drawing:
    """Show the mean and the scatter of every column of every cell that leaves.

    Args:
        cells: that leave.
        others: their further variables.
        lead: what a cell is, in a sentence.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for cell in cells:
        groups[cell.key.title] += _sent(cell, [cell.feature, *term_names(others)])
    lead += (
        " Of each variable the mean leaves, and of each two the sum of products of their distances "
        "from the means, from which standard deviation (SD) and correlations follow. Behind the "
        "switch are these sums as they leave, each with the variables up to itself, and what the "
        "mean lost in rounding."
    )
    titles = [head("Feature"), head("n", "num"), head("Variable"), head("Mean", "num")]
    titles += [head("SD", "num"), head("Correlation with those above")]
    titles += [head(name, f"num{EXACT}") for name in ("Products", "Rest")]
    return Drawing(
        lead,
        [
            Group(title, table=Table(f"Cells of {title}", titles, rows))
            for title, rows in sorted(groups.items())
        ],
    )


def _sent(cell: ScatterCell, names: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a cell on the releaser's page, a column each."""
    found = cell.scatter
    length = [math.sqrt(found.products[i, i]) for i in range(len(names))]
    for i, name in enumerate(names):
        # Of a value of a category that nobody has at the site all numbers are 0.
        correlations = (
            number(found.products[i, j] / length[i] / length[j], 3)
            if length[i] and length[j]
            else MISSING
            for j in range(i)
        )
        about = [TableCell(with_unit(cell.feature), scope="row"), numeral(str(cell.n))]
        yield [
            *(about if i == 0 else (TableCell(""), TableCell(""))),
            TableCell(name),
            numeral(number(cell.means[i], 7)),
            numeral(number(length[i] / math.sqrt(cell.n - 1), 5), "num muted"),
            TableCell("; ".join(correlations)),
            numeral("; ".join(number(value, 7) for value in cell.products[i]), f"num{EXACT}"),
            numeral(number(cell.mean_rests[i], 2), f"num{EXACT}"),
        ]

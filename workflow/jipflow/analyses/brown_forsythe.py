"""The test of Brown and Forsythe: whether sites have equal variances, by distances from medians.

Each site sends the moments of its values' distances from its own median, which itself does not
leave. Beside a mean and a variance of the same values it would follow, and be one patient's value:
so of like values only one of them leaves.

A cell of the result has ``n``, ``rows``, ``mean``, ``variance`` and ``sd`` of the distances, in
``by_site`` the same of each ``site``, and in ``test``: ``groups``, ``rows``, ``statistic`` (W),
``df`` and ``p``, null where ``reason`` says why. They equal what all rows in one place give to
1e-9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from jipflow.analyses import deviations
from jipflow.analyses.cells import Values
from jipflow.analyses.contract import Analysis
from jipflow.analyses.facts import Implied, LedgerCell, Limits
from jipflow.analyses.forms import ReleasedAnalysis
from jipflow.analyses.moments import merged
from jipflow.blocks import Drawing
from jipflow.settings.protocol import AnalysisSettings


class Settings(AnalysisSettings):
    """Equality of variances between sites, by distances from the median (Brown and Forsythe)."""

    kind: Literal["brown_forsythe"]

    def problems(self) -> Iterator[str]:
        """Yield that groups over several sites have no median here."""
        yield from super().problems()
        if self.by is not None:
            yield (
                "by: the median of a group over several sites is not known to 1e-9, for quantiles "
                "are narrowed and never exact; use the kind levene, or leave `by` out to compare "
                "the sites."
            )


class Cell(deviations.DistancesCell):
    """The moments of the distances from the site's median."""

    of: Literal["distances"]


class Released(ReleasedAnalysis):
    """The moments of each feature and segment."""

    kind: Literal["brown_forsythe"]
    cells: list[Cell]


class BrownForsythe(deviations.SendsDistances, Analysis[Settings, Cell, Released]):
    """Moments of distances from medians, and W."""

    cell = Cell
    released = Released
    title = "Brown–Forsythe"
    merging = (
        "Each distance is from the median of its site; numbers, means and sums of squares of the"
        " distances were compared by a one-way analysis of variance (Brown and Forsythe 1974)."
    )

    def compute(self, values: Values, stated: Any = None) -> deviations.Computed:
        """Compute the moments of the distances from the median."""
        import numpy as np

        median = float(np.median(values.numbers)) if values.numbers.size else 0.0
        return deviations.from_centre(values, median)

    @staticmethod
    def excludes(cell: LedgerCell, other: LedgerCell) -> bool:
        """Return whether the median, or what lies between two centres, would follow.

        With the sum of squared distances from the median d and from the mean, n values have
        n (mean - median)² for the difference of the two; the mean then gives the median.
        """
        common = not cell.values.cases.isdisjoint(other.values.cases)
        sums = bool(other.equations) and other.released.get("of") != "distances"
        return (common and sums) or deviations.exclude(cell, other)

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Refuse moments that no distances have."""
        deviations.verify(cell, limits)

    def implies(self, cell: Cell, limits: Limits) -> Implied:
        """Return how many values there are."""
        return deviations.implies(limits, cell.rows)

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Merge the moments, and test the sites' distances."""
        groups = {site: cell.moments for site, cell in by_site.items()}
        return {"of": "distances", **merged(by_site), "test": deviations.equal_variances(groups)}

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show the moments of every cell."""
        return deviations.draw_release(analysis.cells, "the site's median")

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show every test."""
        return deviations.draw_tests(
            "The test of equal variances of Brown and Forsythe: W compares how far values lie from "
            "their site's median. A small p says that the sites' variances differ.",
            deviations.drawn_by_site(analysis),
        )

"""Levene's test: whether groups have equal variances, by distances from their means.

Without ``by`` the groups are the sites, and one round is enough: each site sends the moments of its
values' distances from its own mean, which itself does not leave. With ``by`` the groups lie in all
sites. In the first round these send the moments of the values of each group, in the second those of
the distances from the group's mean over all sites, which the hub states.

A cell of the result has ``n``, ``rows``, ``mean``, ``variance`` and ``sd`` of the distances (in the
first of two rounds of the values), and in ``by_site`` the same of each ``site``; without ``by``
also ``test``: ``groups``, ``rows``, ``statistic`` (W), ``df`` and ``p``, null where ``reason`` says
why. With ``by`` the analysis has ``tests``, the same over the groups of each feature of each
segment. They equal what all rows in one place give to 1e-9.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jipflow.analyses import deviations
from jipflow.analyses.cells import CellKey, Values
from jipflow.analyses.contract import Analysis, ImpossibleCell
from jipflow.analyses.facts import Implied, LedgerCell, Limits
from jipflow.analyses.forms import (
    FLOOR,
    Enough,
    ReleasedAnalysis,
    StatedAnalysis,
    StatedCell,
    Value,
)
from jipflow.analyses.moments import (
    Moments,
    merge_moments,
    merged,
    moments,
    verify_moments,
)
from jipflow.analyses.sent_moments import key_of
from jipflow.blocks import Drawing
from jipflow.exchange.roster import FEWEST_SITES
from jipflow.settings.bounds import bounds
from jipflow.settings.protocol import AnalysisSettings

SITE_LEFT = "a site that is in the mean of a group has withheld its distances"
"""Why there is no test: the means are not those of the values whose distances are there."""


class Settings(AnalysisSettings):
    """Equality of variances, by distances from the mean (Levene)."""

    kind: Literal["levene"]


class Cell(deviations.DistancesCell):
    """The moments of the distances from the mean, or of the values in the first of two rounds."""


class Released(ReleasedAnalysis):
    """The moments of each feature and segment."""

    kind: Literal["levene"]
    cells: list[Cell]


class Centre(StatedCell):
    """The mean of a group over all sites."""

    mean: Value
    """From which the distances are."""
    mean_rest: Value
    """What the mean lost in rounding to float64."""
    rows: Enough
    """Values behind it."""


class Stated(StatedAnalysis):
    """The means from which the second round takes the distances."""

    kind: Literal["levene"]
    cells: list[Centre]


class Levene(deviations.SendsDistances, Analysis[Settings, Cell, Released]):
    """Moments of distances from means, and Levene's W."""

    cell = Cell
    released = Released
    stated = Stated
    merging = (
        "Each distance is from its group's mean, of all sites where groups lie in several; "
        "numbers, means and sums of squares of the distances were merged and compared by a one-"
        "way analysis of variance (Levene 1960)."
    )

    @property
    def rounds(self) -> int:
        """Means first where groups lie in several sites."""
        return 2 if self.settings.by else 1

    def compute(self, values: Values, stated: Any = None) -> deviations.Computed:
        """Compute the moments of the values, or of their distances from the mean."""
        if self.settings.by is None and values.numbers.size:
            own = moments(values.numbers)
            return deviations.from_centre(values, own.mean, own.mean_rest)
        if stated is None:
            return deviations.of_values(values)
        return deviations.from_centre(values, stated.mean, stated.mean_rest)

    @staticmethod
    def excludes(cell: LedgerCell, other: LedgerCell) -> bool:
        """Return whether distances from another centre leave of the same patients."""
        return deviations.exclude(cell, other)

    def check_stated(self, cell: Any, round_: int) -> None:
        """Refuse a mean that no values of the feature have.

        Where it lies among the values of this site, `deviations.few_beside` looks at.
        """
        if self.settings.by is None:
            raise ImpossibleCell("the groups are the sites, whose means are their own")
        lowest, highest = bounds(cell.role, cell.feature)
        if not lowest <= cell.mean <= highest:
            raise ImpossibleCell(f"a mean of {cell.mean:g}, which no values of the feature have")
        if cell.mean + cell.mean_rest != cell.mean:
            raise ImpossibleCell("a mean whose rest is none")
        if cell.rows < FEWEST_SITES * FLOOR:
            raise ImpossibleCell(
                f"a mean of {cell.rows} values, fewer than of {FEWEST_SITES} sites"
            )

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Refuse moments of another round, and those that no values have."""
        first = self.settings.by is not None and limits.stated is None
        if cell.of != ("values" if first else "distances"):
            raise ImpossibleCell
        if first:
            verify_moments(cell, limits)
        else:
            centre = limits.stated.mean if isinstance(limits.stated, Centre) else None
            deviations.verify(cell, limits, centre)

    def continues(self, cell: Cell, before: Cell | None) -> bool:
        """Return whether the values are as many as those of which the mean was."""
        return before is not None and (cell.n, cell.rows) == (before.n, before.rows)

    def implies(self, cell: Cell, limits: Limits) -> Implied:
        """Return the mean of values as it is, and how many there are."""
        if cell.of == "values":
            return Implied((cell.mean, cell.mean), (cell.rows, cell.rows))
        return deviations.implies(limits, cell.rows)

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Merge the moments, and test the sites' distances where the groups are the sites."""
        found = merged(by_site)
        if self.settings.by is None:
            groups = {site: cell.moments for site, cell in by_site.items()}
            return {"of": "distances", **found, "test": deviations.equal_variances(groups)}
        if given is None:
            return {"of": "values", **found}
        return {"of": "distances", **found, "centre": given.mean, "centre_rows": given.rows}

    def advance(self, round_: int, by_site: Mapping[str, Cell], given: Any = None) -> Centre:
        """Return the mean of a group over all sites."""
        key = next(iter(by_site.values())).key
        found = merge_moments({site: cell.moments for site, cell in by_site.items()})
        return Centre(**key._asdict(), mean=found.mean, mean_rest=found.mean_rest, rows=found.rows)

    def conclude(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Test the groups of each feature of each segment, once their distances are there."""
        if self.settings.by is None:
            return {}
        groups: dict[CellKey, dict[str, Mapping[str, Any]]] = defaultdict(dict)
        for cell in cells:
            if cell["of"] == "distances":
                groups[key_of(cell)._replace(group="")][cell["group"]] = cell
        return {"tests": [_test(key, found) for key, found in sorted(groups.items())]}

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show the moments of every cell."""
        return deviations.draw_release(analysis.cells, "the group's mean")

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show every test."""
        lead = (
            "Levene's test of equal variances: W compares how far values lie from their group's "
            "mean. A small p says that the groups' variances differ."
        )
        if "tests" not in analysis:
            return deviations.draw_tests(
                f"{lead} The groups are the sites.", deviations.drawn_by_site(analysis)
            )
        cells = {key_of(cell): cell for cell in analysis["cells"]}
        tests = []
        for test in analysis["tests"]:
            key = CellKey(*(test[name] for name in CellKey._fields[:-1]))
            parts = {name: cells[key._replace(group=name)] for name in test["groups"]}
            means = {name: (part["mean"], part["rows"]) for name, part in parts.items()}
            tests.append(deviations.Drawn(key.title, key.feature, test, means))
        more = "" if tests else " The means of the groups are known; their distances come next."
        return deviations.draw_tests(lead + more, tests)


def _test(key: CellKey, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the test of the groups of one feature of one segment."""
    about = {name: value for name, value in key._asdict().items() if name != "group"}
    found = deviations.equal_variances({name: _moments(cell) for name, cell in groups.items()})
    if any(cell["rows"] != cell["centre_rows"] for cell in groups.values()):
        found |= deviations.without_test(SITE_LEFT)
    return about | found


def _moments(cell: Mapping[str, Any]) -> Moments:
    """Return the moments of a merged cell; distances lose nothing by the rounding of their mean."""
    rows, mean, variance = cell["rows"], cell["mean"], cell["variance"]
    return Moments(rows, mean, 0.0, 0.0 if math.isnan(variance) else variance * (rows - 1))

"""Mean and variance of a feature, merged over sites as if all values lay in one place.

See `jipflow.analyses.moments` for how sites merge.

A cell of the result has ``n``, ``rows``, ``mean``, ``variance`` and ``sd``, and in ``by_site`` the
same of each ``site``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from markupsafe import Markup

from jipflow.analyses.contract import Analysis
from jipflow.analyses.forms import ReleasedAnalysis
from jipflow.analyses.moments import MomentsCell, merged
from jipflow.analyses.sent_moments import (
    MAX_PLOTS,
    SendsMoments,
    draw_sent,
    key_of,
    rank_for_readers,
)
from jipflow.analyses.units import with_unit
from jipflow.blocks import (
    Drawing,
    Group,
    Panel,
    Row,
    Table,
    TableCell,
    bold,
    head,
    numeral,
    span,
)
from jipflow.plots import Interval, count, dot_plot, number
from jipflow.settings.protocol import AnalysisSettings


class Settings(AnalysisSettings):
    """Mean and variance."""

    kind: Literal["summary"]


class Cell(MomentsCell):
    """The moments of one feature of one segment."""


class Released(ReleasedAnalysis):
    """The moments of each feature and segment."""

    kind: Literal["summary"]
    cells: list[Cell]


class Summary(SendsMoments, Analysis[Settings, Cell, Released]):
    """Mean and variance of each feature in each segment."""

    cell = Cell
    released = Released
    merging = (
        "Number, mean and sum of squared distances from the mean were merged by the formula of "
        "Chan, Golub and LeVeque (1983), which gives what all values in one place give; the "
        "standard deviation divides by one less than the number of values."
    )

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Merge the moments; the sites' patients are distinct, so their numbers add."""
        return merged(by_site)

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show the numbers of every cell and the standard deviation that they imply."""
        return draw_sent(analysis.cells)

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show each segment's first features as plots, and all of them in a table."""
        groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for cell in analysis["cells"]:
            groups[key_of(cell).title].append(cell)
        return Drawing(
            "Mean ± standard deviation of each site, and of those that released it together "
            "(the diamond).",
            [_merged(title, cells, sites) for title, cells in groups.items()],
        )


def _merged(title: str, cells: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> Group:
    """Return the plots and the table of one segment on the hub's page."""
    first = sorted(cells, key=lambda cell: rank_for_readers(cell["feature"]))[:MAX_PLOTS]
    panels = [
        Panel(
            (with_unit(cell["feature"]), span(f"n = {count(cell['n'])}", "muted small")),
            _forest(cell, sites),
        )
        for cell in first
    ]
    columns = [head("Feature"), head("n", "num"), head("Mean", "num"), head("SD", "num")]
    table = Table(
        f"Summary of {title}",
        [*columns, *(head(site, "num") for site in sites)],
        [_of_sites(cell, sites) for cell in cells],
        caption=Markup(
            "Patients, mean and standard deviation of all these sites together, then each site's "
            "mean ± standard deviation, with its patients."
        ),
        summary=f"All {len(cells)} features",
    )
    return Group(title, panels, table)


def _of_sites(cell: Mapping[str, Any], sites: Sequence[str]) -> Row:
    parts = {part["site"]: part for part in cell["by_site"]}
    return [
        TableCell(with_unit(cell["feature"]), scope="row"),
        numeral(count(cell["n"])),
        numeral(bold(number(cell["mean"], 5))),
        numeral(number(cell["sd"])),
        *(
            numeral(
                f"{number(parts[site]['mean'])} ± {number(parts[site]['sd'], 3)}"
                + span(f" n {count(parts[site]['n'])}", "muted small")
            )
            if site in parts
            else numeral(span("withheld", "muted"))
            for site in sites
        ),
    ]


def _forest(cell: Mapping[str, Any], sites: Sequence[str]) -> Any:
    parts = {part["site"]: part for part in cell["by_site"]}
    rows = [
        Interval(site, parts[site]["mean"], parts[site]["sd"], parts[site]["n"])
        if site in parts
        else Interval(site, None, None, None)
        for site in sites
    ]
    rows.append(Interval("together", cell["mean"], cell["sd"], cell["n"], pooled=True))
    return dot_plot(f"{cell['feature']} of {key_of(cell).title}, mean and SD by site", rows)

"""Mean and variance of a feature, merged over sites as if all values lay in one place.

See `jipflow.analyses.moments` for how sites merge.

A cell of the result has ``n``, ``rows``, ``mean``, ``variance`` and ``sd``, and in ``by_site`` the
same of each ``site``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from jipflow.analyses.cells import CellKey, Values
from jipflow.analyses.contract import Analysis, Implied, LedgerCell, Limits, Passed, Withheld
from jipflow.analyses.forms import ReleasedAnalysis
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
    merged,
    moments,
    tell_beside,
    verify_moments,
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
from jipflow.settings.protocol import AnalysisSettings, Disclosure

if TYPE_CHECKING:
    pass


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


class Settings(AnalysisSettings):
    """Mean and variance."""

    kind: Literal["summary"]


class Cell(MomentsCell):
    """The moments of one feature of one segment."""


class Released(ReleasedAnalysis):
    """The moments of each feature and segment."""

    kind: Literal["summary"]
    cells: list[Cell]


@dataclass(frozen=True)
class Computed:
    """What a site computes of one cell.

    Attributes:
        moments: of its values; None where it has none.
        values: that they are of.
    """

    moments: Moments | None
    values: Values


class Summary(Analysis[Settings, Cell, Released]):
    """Mean and variance of each feature in each segment."""

    cell = Cell
    released = Released
    merging = (
        "Number, mean and sum of squared distances from the mean were merged by the formula of "
        "Chan, Golub and LeVeque (1983), which gives what all values in one place give; the "
        "standard deviation divides by one less than the number of values."
    )
    rules = (NUMBER_RANGE, ZERO_VARIANCE, DOMINANCE, FEW_LEVELS)
    equations = 2

    def compute(self, values: Values, stated: Any = None) -> Computed:
        """Compute the moments of a cell's values."""
        return Computed(moments(values.numbers) if values.numbers.size else None, values)

    def check(self, content: Computed, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Withhold numbers out of the format's range, and those that tell of few patients."""
        found = content.moments
        if found is None or not in_range(found):
            return Withheld(NUMBER_RANGE)
        rule = broken(content.values, disclosure)
        return Withheld(rule) if rule else Passed(asdict(found))

    def tells_beside(
        self, cell: LedgerCell, earlier: Sequence[LedgerCell], disclosure: Disclosure
    ) -> bool:
        """Return whether a difference from other means is one that would not leave itself."""
        return tell_beside(cell, earlier, disclosure)

    def tells_of_few(self, values: Values, disclosure: Disclosure) -> bool:
        """Return whether a mean and a variance would tell of few of the patients."""
        return broken(values, disclosure) is not None

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Refuse moments that no values have, and values that are all equal."""
        verify_moments(cell, limits)

    def implies(self, cell: Cell, limits: Limits) -> Implied:
        """Return mean and rows as they are."""
        return Implied((cell.mean, cell.mean), (cell.rows, cell.rows))

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Merge the moments; the sites' patients are distinct, so their numbers add."""
        return merged(by_site)

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show the numbers of every cell and the standard deviation that they imply."""
        groups: dict[str, list[Cell]] = defaultdict(list)
        for cell in analysis.cells:
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
                Group(title, table=Table(f"Cells of {title}", titles, [_sent(c) for c in cells]))
                for title, cells in sorted(groups.items())
            ],
        )

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show each segment's first features as plots, and all of them in a table."""
        groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for cell in analysis["cells"]:
            groups[_key(cell).title].append(cell)
        return Drawing(
            "Mean ± standard deviation of each site, and of those that released it together "
            "(the diamond).",
            [_merged(title, cells, sites) for title, cells in groups.items()],
        )


def _key(cell: Mapping[str, Any]) -> CellKey:
    return CellKey(*(cell[name] for name in CellKey._fields))


def _sent(cell: Cell) -> Row:
    """Return the row of a cell on the releaser's page."""
    sd = math.sqrt(cell.m2 / (cell.rows - 1)) if cell.rows > 1 else None
    return [
        TableCell(with_unit(cell.feature), scope="row"),
        numeral(str(cell.n)),
        numeral(str(cell.rows)),
        numeral(number(cell.mean, 7)),
        numeral(number(sd, 5), "num muted"),
        numeral(number(cell.m2, 7), f"num{EXACT}"),
        numeral(number(cell.mean_rest, 2), f"num{EXACT}"),
    ]


def _merged(title: str, cells: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> Group:
    """Return the plots and the table of one segment on the hub's page."""
    first = sorted(cells, key=lambda cell: _priority(cell["feature"]))[:MAX_PLOTS]
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


def _priority(name: str) -> tuple[int, str]:
    known = name in FIRST_FEATURES
    return (FIRST_FEATURES.index(name) if known else len(FIRST_FEATURES), name)


def _forest(cell: Mapping[str, Any], sites: Sequence[str]) -> Any:
    parts = {part["site"]: part for part in cell["by_site"]}
    rows = [
        Interval(site, parts[site]["mean"], parts[site]["sd"], parts[site]["n"])
        if site in parts
        else Interval(site, None, None, None)
        for site in sites
    ]
    rows.append(Interval("together", cell["mean"], cell["sd"], cell["n"], pooled=True))
    return dot_plot(f"{cell['feature']} of {_key(cell).title}, mean and SD by site", rows)

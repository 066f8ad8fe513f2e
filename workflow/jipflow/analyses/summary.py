"""Mean and variance of a feature, merged over sites as if all values lay in one place.

A site sends count, mean and centred scatter, which merge by the formula of Chan, Golub and LeVeque
(1983). ``mean_rest`` is what the mean lost when it was rounded to 64 bits: where the mean is 10⁸
times the standard deviation, a rounded mean is wrong by 10⁻⁸ standard deviations, which the merged
variance would inherit; with the rest it equals the pooled one to 1e-9. Values are all equal where
they differ by no more than 10⁻⁹ of their size.

A cell of the result has ``n``, ``rows``, ``mean``, ``variance`` and ``sd``, and in ``by_site`` the
same of each ``site``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, Literal

from markupsafe import Markup
from pydantic import Field

from jipflow.analyses.cells import CellKey, Values, follow
from jipflow.analyses.contract import (
    LARGEST,
    TOLERANCE,
    Analysis,
    CellBelowMinimum,
    Enough,
    Implied,
    ImpossibleCell,
    LedgerCell,
    Limits,
    Passed,
    ReleasedAnalysis,
    ReleasedCell,
    Rule,
    StatedCell,
    Value,
    Withheld,
)
from jipflow.analyses.spread import SPREAD, dominated, few_differ, few_levels
from jipflow.blocks import (
    Drawing,
    Group,
    Panel,
    Row,
    Table,
    TableCell,
    bold,
    feature,
    head,
    numeral,
    span,
)
from jipflow.plots import Interval, count, dot_plot, number
from jipflow.settings.part import AsGiven
from jipflow.settings.protocol import AnalysisSettings, Disclosure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LARGEST_SCATTER = 1e200
"""Bound of what squared differences of means are added to, likewise; see `LARGEST`."""

NUMBER_RANGE = Rule("number_range", "A number must be finite and within the range of the format.")
ZERO_VARIANCE = Rule(
    "zero_variance",
    "Where all values are equal, the mean would be the value of every patient; where all but those "
    "of fewer patients than the minimum are, it would tell of these.",
)
DOMINANCE = Rule(
    "dominance",
    "The two patients with the most must not make nearly all of a mean or of its scatter, or else "
    "the value of the first follows to a few percent.",
)
FEW_LEVELS = Rule(
    "few_levels",
    "Where values are whole steps between narrow bounds, mean and scatter tell how many patients "
    "have each of them, and none may be fewer than the minimum.",
)

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

EXACT = " exact"
"""Class of a column that the releaser's page shows on demand."""

MAX_PLOTS = 6
"""Most plots of one segment."""


class Settings(AnalysisSettings):
    """Mean and variance."""

    kind: Literal["summary"]


class Cell(ReleasedCell):
    """The moments of one feature of one segment."""

    rows: Enough
    """Values; more than patients where some have several cases."""
    mean: Value
    """Their mean."""
    mean_rest: Value
    """What the mean lost in rounding to float64."""
    m2: Annotated[float, Field(ge=0, le=LARGEST_SCATTER), AsGiven]
    """Sum of squared deviations from the mean; the variance is m2 / (rows - 1)."""


class Released(ReleasedAnalysis):
    """The moments of each feature and segment."""

    kind: Literal["summary"]
    cells: list[Cell]


@dataclass(frozen=True)
class Moments:
    """Count, mean and centred scatter of one variable.

    Attributes:
        rows: values; more than patients where some have several cases.
        mean: mean of the values.
        mean_rest: what `mean` lost when it was rounded to float64.
        m2: sum of the squared deviations from the mean.
    """

    rows: int
    mean: float
    mean_rest: float
    m2: float

    @property
    def variance(self) -> float:
        """Sample variance, m2 / (rows - 1); NaN for a single row, which has none."""
        return self.m2 / (self.rows - 1) if self.rows > 1 else math.nan


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
    rules = (NUMBER_RANGE, ZERO_VARIANCE, DOMINANCE, FEW_LEVELS)
    equations = 2

    def compute(self, values: Values, stated: StatedCell | None = None) -> Computed:
        """Compute the moments of a cell's values."""
        return Computed(moments(values.numbers) if values.numbers.size else None, values)

    def check(self, content: Computed, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Withhold numbers out of the format's range, and those that tell of few patients."""
        found, values = content.moments, content.values
        if found is None or not _in_range(found):
            return Withheld(NUMBER_RANGE)
        if few_differ(values, disclosure.min_patients):
            return Withheld(ZERO_VARIANCE)
        if dominated(values, disclosure.largest_two, disclosure.p_percent):
            return Withheld(DOMINANCE)
        if few_levels(values, disclosure.min_patients):
            return Withheld(FEW_LEVELS)
        return Passed(asdict(found))

    def tells_beside(
        self, cell: LedgerCell, earlier: Sequence[LedgerCell], disclosure: Disclosure
    ) -> bool:
        """Return whether a difference from other means is one that would not leave itself."""
        others = [other.values for other in earlier if other.equations]
        return any(self.tells_of_few(v, disclosure) for v in follow(cell.values, others))

    def tells_of_few(self, values: Values, disclosure: Disclosure) -> bool:
        """Return whether a mean and a variance would tell of few of the patients."""
        minimum = disclosure.min_patients
        return (
            few_differ(values, minimum)
            or dominated(values, disclosure.largest_two, disclosure.p_percent)
            or few_levels(values, minimum)
        )

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Refuse moments that no values have, and values that are all equal."""
        if not cell.n <= cell.rows <= cell.n * limits.cases:
            raise ImpossibleCell
        # What rounding to the nearest float64 takes off does not change that number.
        if cell.mean + cell.mean_rest != cell.mean:
            raise ImpossibleCell
        above, below = cell.mean - limits.lowest, limits.highest - cell.mean
        if min(above, below) < -TOLERANCE or cell.m2 > largest_scatter(cell.rows, above, below):
            raise ImpossibleCell
        if cell.m2 <= least_scatter(cell.mean):
            raise CellBelowMinimum

    def implies(self, cell: Cell, limits: Limits) -> Implied:
        """Return mean and rows as they are."""
        return Implied((cell.mean, cell.mean), (cell.rows, cell.rows))

    def merge(self, by_site: Mapping[str, Cell], given: StatedCell | None = None) -> dict[str, Any]:
        """Merge the moments; the sites' patients are distinct, so their numbers add."""
        of_site = {
            site: Moments(cell.rows, cell.mean, cell.mean_rest, cell.m2)
            for site, cell in sorted(by_site.items())
        }
        patients = sum(cell.n for cell in by_site.values())
        return {
            **_describe(patients, merge_moments(of_site)),
            "by_site": [
                {"site": site, **_describe(by_site[site].n, moment)}
                for site, moment in of_site.items()
            ],
        }

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


def _in_range(found: Moments) -> bool:
    finite = math.isfinite(found.mean) and math.isfinite(found.mean_rest)
    return finite and abs(found.mean) <= LARGEST and 0 <= found.m2 <= LARGEST_SCATTER


def largest_scatter(rows: int, above: float, below: float) -> float:
    """Return the largest m2 of values that have bounds.

    Both bounds together give the inequality of Bhatia and Davis (2000, "A better bound on the
    variance", The American Mathematical Monthly 107:353-357): a variance is at most `above` times
    `below`. One bound by itself is reached where a single value makes up for all others, which lie
    at it.

    Args:
        rows: number of the values.
        above: how far their mean lies above the lower bound; infinite where there is none.
        below: how far it lies below the upper bound.
    """
    above, below = max(above, 0) + TOLERANCE, max(below, 0) + TOLERANCE
    return min(rows * above * below, rows * (rows - 1) * min(above, below) ** 2) * (1 + TOLERANCE)


def least_scatter(mean: float) -> float:
    """Return an m2 that no values have which are not all equal (see `all_equal`).

    Two values that differ by d lie d²/2 or more from any mean, and those of m2 differ by more than
    `SPREAD` times their largest magnitude, which is no less than their mean's. A little is left for
    rounding.
    """
    return 0.49 * (SPREAD * mean) ** 2


def moments(values: npt.NDArray[np.float64]) -> Moments:
    """Compute the moments of values in two passes.

    The second pass corrects the rounding of the first pass's mean (Chan, Golub and LeVeque 1983,
    "Algorithms for computing the sample variance", The American Statistician 37:242-247).

    Args:
        values: finite values, shape (rows,), at least one.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    import numpy as np

    values = np.asarray(values, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("moments need at least one value, all finite")
    first = float(values.mean())
    deviations = values - first
    correction = float(deviations.mean())
    mean, rest = _two_sum(first, correction)
    m2 = float(np.square(deviations - correction).sum())
    return Moments(int(values.size), mean, rest, m2)


def merge_moments(by_site: Mapping[str, Moments]) -> Moments:
    """Merge the moments of sites whose patients are distinct.

    Sites are merged in the order of their ids, so that the order of arrival cannot show.

    Args:
        by_site: moments by the site's id, at least one.
    """
    return reduce(_merge_pair, (by_site[site] for site in sorted(by_site)))


def _merge_pair(a: Moments, b: Moments) -> Moments:
    """Merge two groups by the updating formula of Chan, Golub and LeVeque (1983), eq. 2.1."""
    rows = a.rows + b.rows
    delta = (b.mean - a.mean) + (b.mean_rest - a.mean_rest)
    mean, rest = _two_sum(a.mean, a.mean_rest + delta * (b.rows / rows))
    m2 = a.m2 + b.m2 + delta * delta * (a.rows * (b.rows / rows))
    return Moments(rows, mean, rest, m2)


def _two_sum(a: float, b: float) -> tuple[float, float]:
    """Return a + b rounded, and the rounding error exactly (Knuth, TAOCP vol. 2, 4.2.2)."""
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)


def _describe(n: int, moment: Moments) -> dict[str, Any]:
    return {
        "n": n,
        "rows": moment.rows,
        "mean": moment.mean,
        "variance": moment.variance,
        "sd": math.sqrt(moment.variance),
    }


def _key(cell: Mapping[str, Any]) -> CellKey:
    return CellKey(*(cell[name] for name in CellKey._fields))


def _sent(cell: Cell) -> Row:
    """Return the row of a cell on the releaser's page."""
    sd = math.sqrt(cell.m2 / (cell.rows - 1)) if cell.rows > 1 else None
    return [
        TableCell(feature(cell.feature), scope="row"),
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
            (feature(cell["feature"]), span(f"n = {count(cell['n'])}", "muted small")),
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
            "mean ± standard deviation."
        ),
        summary=f"All {len(cells)} features",
    )
    return Group(title, panels, table)


def _of_sites(cell: Mapping[str, Any], sites: Sequence[str]) -> Row:
    parts = {part["site"]: part for part in cell["by_site"]}
    return [
        TableCell(feature(cell["feature"]), scope="row"),
        numeral(count(cell["n"])),
        numeral(bold(number(cell["mean"], 5))),
        numeral(number(cell["sd"])),
        *(
            numeral(f"{number(parts[site]['mean'])} ± {number(parts[site]['sd'], 3)}")
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

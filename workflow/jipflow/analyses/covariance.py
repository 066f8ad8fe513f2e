"""Means, covariances and correlations of a variable and further ones, as if all rows lay together.

A site sends means and centred scatter of the columns, as they were measured, of the patients who
have all of them; the hub merges them in one round. Correlations are those of Pearson, with the
95 % interval of Fisher (1921, "On the 'probable error' of a coefficient of correlation deduced from
a small sample", Metron 1:3-32): tanh(artanh r ± z / √(n - 3)). Their p is of Student's t with n - 2
degrees of freedom, r √((n - 2) / (1 - r²)), in both tails. Of a category each value but the
reference is a variable of 0 and 1.

A cell of the result has ``n``; in ``variables`` ``variable``, ``mean``, ``variance`` and ``sd`` of
each; in ``pairs`` of each two, ``first`` and ``second``, ``covariance`` and ``correlation`` with
``low``, ``high`` and ``p``; in ``by_site`` ``n`` and the ``correlations`` of each ``site``, in the
order of the pairs, null of a value of a category that nobody has there; where there are none
``reason`` says why. The analysis has ``variables`` and ``pairs`` of all cells. They equal those of
all rows in one place to 1e-9.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from jipflow.analyses.cells import CellKey, Measured
from jipflow.analyses.contract import Analysis, Proposed
from jipflow.analyses.estimates import (
    COLLINEAR,
    FEW_SITES,
    LEVEL,
    MAX_PLOTS,
    OUT_OF_RANGE,
    REASONS,
)
from jipflow.analyses.forms import ReleasedAnalysis
from jipflow.analyses.scatter import Scatter, ScatterCell, merge_scatters
from jipflow.analyses.sent_moments import key_of
from jipflow.analyses.sent_scatter import SendsScatter, draw_sent, proposals
from jipflow.analyses.units import with_unit
from jipflow.blocks import Drawing, Group, Panel, Row, Table, TableCell, bold, head, numeral, span
from jipflow.exchange.roster import FEWEST_SITES
from jipflow.plots import MISSING, Effect, count, forest_plot, number
from jipflow.settings.covariates import Covariate
from jipflow.settings.protocol import AnalysisSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_OTHERS = 20


class Settings(AnalysisSettings):
    """Covariance and correlation of each variable with others, and of these with each other."""

    kind: Literal["covariance"]
    others: Annotated[list[Covariate], Field(min_length=1, max_length=MOST_OTHERS)]
    """What each variable is compared with."""
    missing: Literal["complete"] = "complete"
    """A case counts if it has every variable."""

    def further(self) -> Sequence[Covariate]:
        """Return the other variables."""
        return self.others

    def problems(self) -> Iterator[str]:
        """Yield that numbers are compared as they were measured."""
        yield from super().problems()
        for each in self.others:
            if (each.center, each.scale) != (0, 1):
                yield (
                    f"others: {each.variable!r}: covariances are of numbers as they were measured; "
                    "remove `center` and `scale`."
                )


class Cell(ScatterCell):
    """Means and centred scatter of a variable, which is first, and of the columns of others."""


class Released(ReleasedAnalysis):
    """Means and scatter of each variable with the others."""

    kind: Literal["covariance"]
    cells: list[Cell]
    others: list[Covariate]


class Covariance(SendsScatter, Analysis[Settings, Cell, Released]):
    """Means and scatter of several columns, and their covariances and correlations."""

    cell = Cell
    released = Released
    merging = (
        "Means and sums of products of deviations from the means, of the patients who have every "
        "variable, were merged by the formula of Chan, Golub and LeVeque (1983); correlations are "
        "those of Pearson, with 95 % intervals by Fisher's transformation (1921)."
    )

    def propose(self, measured: Measured, given: Any = None) -> list[Proposed]:
        """Propose a cell of each variable, of the cases that have all of its columns."""
        return proposals(self, measured)

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Merge the scatter of all sites, and return what follows of each two columns."""
        import numpy as np

        scatters = {site: cell.scatter for site, cell in by_site.items()}
        about = {
            "n": sum(cell.n for cell in by_site.values()),
            "by_site": [
                {"site": site, "n": found.rows, "correlations": _upper(_correlations(found))}
                for site, found in sorted(scatters.items())
            ],
        }
        if len(by_site) < FEWEST_SITES:
            return about | without(FEW_SITES)
        key, names = next(iter(by_site.values())).key, self.names
        own = key.feature if key.feature not in names else f"{key.feature} · {key.title}"
        with np.errstate(all="ignore"):
            together = merge_scatters(scatters)
            return about | described(together, [own, *names])

    def conclude(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the variables and the pairs of all cells."""
        return {name: _rows_of(name, cells) for name in ("variables", "pairs")}

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show the mean and the scatter of every column of every cell."""
        lead = "Each cell is of n patients who have all of its variables."
        return draw_sent(analysis.cells, analysis.others, lead)

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show the correlations of every cell."""
        lead = (
            "Pearson's correlation of each feature with other variables, and of these with each "
            "other, with the 95 % confidence interval (CI) of Fisher, of the patients who have all "
            "of them, as if the rows of all sites lay in one place. Mean and standard deviation "
            "(SD) of each variable are of these patients."
        )
        groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for cell in analysis["cells"]:
            groups[key_of(cell).title].append(cell)
        return Drawing(lead, [_group(title, found, sites) for title, found in groups.items()])


def described(together: Scatter, names: Sequence[str]) -> dict[str, Any]:
    """Return what a result says of columns and of each two of them.

    Args:
        together: of the columns; more than three rows.
        names: of the columns.

    Returns:
        ``variables``, ``pairs`` and ``reason``, which says why there are none.
    """
    import numpy as np

    df = together.rows - 1
    if not np.diag(together.products).all():
        return without(COLLINEAR)
    correlations = _correlations(together)
    if not (np.isfinite(together.products).all() and np.isfinite(correlations).all()):
        return without(OUT_OF_RANGE)
    variances = np.diag(together.products) / df
    variables = [
        {"variable": name, "mean": mean, "variance": variance, "sd": math.sqrt(variance)}
        for name, mean, variance in zip(
            names, together.means.tolist(), variances.tolist(), strict=True
        )
    ]
    pairs = [
        {
            "first": names[i],
            "second": names[j],
            "covariance": float(together.products[i, j]) / df,
            **correlated(float(correlations[i, j]), together.rows),
        }
        for i, j in combinations(range(len(names)), 2)
    ]
    return {"variables": variables, "pairs": pairs, "reason": None}


def without(reason: str) -> dict[str, Any]:
    """Return what stands in place of variables and pairs."""
    return {"variables": [], "pairs": [], "reason": reason}


def correlated(r: float, rows: int) -> dict[str, Any]:
    """Return a correlation with its interval and p.

    Args:
        r: from -1 to 1.
        rows: that it is of, four or more.

    Returns:
        ``correlation``, ``low``, ``high`` and ``p``; of -1 and 1 both ends of the interval are it.
    """
    from scipy import stats

    if abs(r) == 1:
        return {"correlation": r, "low": r, "high": r, "p": 0.0}
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) / math.sqrt(rows - 3)
    # (1 - r) (1 + r) keeps the digits of 1 - r².
    t = r * math.sqrt((rows - 2) / ((1 - r) * (1 + r)))
    return {
        "correlation": r,
        "low": math.tanh(math.atanh(r) - half),
        "high": math.tanh(math.atanh(r) + half),
        "p": float(2 * stats.t.sf(abs(t), rows - 2)),
    }


def _correlations(found: Scatter) -> npt.NDArray[np.float64]:
    """Return the correlations of columns, shape (columns, columns); rounding ends at 1."""
    import numpy as np

    with np.errstate(all="ignore"):
        length = np.sqrt(np.diag(found.products))
        return np.clip(found.products / length[:, None] / length[None], -1, 1)


def _upper(matrix: npt.NDArray[np.float64]) -> list[float | None]:
    """Return each two columns' number, in the order of the pairs; none of one without variance."""
    numbers = (float(matrix[i, j]) for i, j in combinations(range(len(matrix)), 2))
    return [value if math.isfinite(value) else None for value in numbers]


def _rows_of(name: str, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a list that all cells have as one, each row with what its cell is about and of."""
    about = (*CellKey._fields, "n")
    return [{**{key: cell[key] for key in about}, **row} for cell in cells for row in cell[name]]


def _group(title: str, cells: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> Group:
    """Return the plots of the first cells of a segment, and the table of all."""
    panels = []
    for cell in [cell for cell in cells if cell["pairs"]][:MAX_PLOTS]:
        effects = [
            Effect(pair["second"], pair["correlation"], pair["low"], pair["high"])
            for pair in cell["pairs"][: len(cell["variables"]) - 1]
        ]
        heading = (with_unit(cell["feature"]), span(f"n = {count(cell['n'])}", "muted small"))
        name = f"Correlation of {cell['feature']} of {title} with each other variable"
        panels.append(Panel(heading, forest_plot(name, effects)))
    columns = [head("Feature"), head("Sites", "num"), head("Patients", "num"), head("Variable")]
    columns += [head(name, "num") for name in ("Mean", "SD")]
    columns += [head("With"), head("Covariance", "num"), head("Correlation", "num")]
    columns += [head("95 % CI", "num"), head("p", "num")]
    rows = [row for cell in cells for row in _rows(cell, sites, len(columns))]
    table = Table(f"Correlations of {title}", columns, rows, summary=f"All {len(cells)} features")
    return Group(title, panels or None, table)


def _rows(cell: Mapping[str, Any], sites: Sequence[str], width: int) -> Iterator[Row]:
    """Yield the rows of a cell: each variable, with those that come after it."""
    about = [
        TableCell(with_unit(cell["feature"]), scope="row"),
        numeral(f"{len(cell['sites'])} of {len(sites)}"),
        numeral(count(cell["n"])),
    ]
    if cell["reason"] is not None:
        reason = TableCell(span(f"none: {REASONS[cell['reason']]}", "muted"))
        yield [*about, reason, *(numeral(MISSING) for _ in range(width - len(about) - 1))]
        return
    pairs = iter(cell["pairs"])
    for place, variable in enumerate(cell["variables"]):
        own = [
            TableCell(variable["variable"]),
            numeral(number(variable["mean"], 5)),
            numeral(number(variable["sd"])),
        ]
        later = [_numbers(pair) for pair in islice(pairs, len(cell["variables"]) - place - 1)]
        for line, numbers in enumerate(later or [_blank(width - len(about) - len(own))]):
            yield [
                *(about if place == line == 0 else _blank(len(about))),
                *(own if line == 0 else _blank(len(own))),
                *numbers,
            ]


def _blank(cells: int) -> Row:
    return [TableCell("") for _ in range(cells)]


def _numbers(pair: Mapping[str, Any]) -> Row:
    return [
        TableCell(pair["second"]),
        numeral(number(pair["covariance"])),
        numeral(bold(number(pair["correlation"], 3))),
        numeral(f"{number(pair['low'], 3)} to {number(pair['high'], 3)}"),
        numeral(number(pair["p"], 3)),
    ]

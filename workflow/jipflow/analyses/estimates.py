"""Coefficients of models as a result has them, and how the hub's page draws them.

A term has ``term``, its name, ``estimate``, ``se``, ``low`` and ``high`` (the 95 % confidence
interval of Wald), ``statistic`` (estimate / se) and ``p`` (of both tails); models of a logarithm
also have ``ratio``, ``ratio_low`` and ``ratio_high``, their exponentials. Where a model has no
estimates its cell has a ``reason`` out of `REASONS` and no terms.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jipflow.analyses.cells import CellKey
from jipflow.analyses.design import column_names
from jipflow.analyses.units import with_unit
from jipflow.blocks import Drawing, Group, Panel, Row, Table, TableCell, bold, head, numeral, span
from jipflow.plots import MISSING, Effect, count, forest_plot, number

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from jipflow.settings.covariates import Covariate

LEVEL = 0.95
"""Coverage of the confidence intervals."""

LEAST_TOLERANCE = 1e-6
"""A column is collinear where the others leave less than this share of its sum of squares: its
tolerance, 1 / VIF. Sums lose 1e-16 of themselves in rounding, and coefficients as much divided by
the tolerance: below this they would differ from those of one place by more than 1e-9."""

INTERCEPT = "intercept"
"""Name of the term that every model has whose columns are all zero."""

COLLINEAR = "collinear"
SEPARATION = "separation"
NO_CONVERGENCE = "no_convergence"
FEW_SITES = "few_sites"
FEW_PATIENTS = "few_patients"
SITE_LEFT = "site_left"
OUT_OF_RANGE = "out_of_range"

REASONS: Mapping[str, str] = {
    COLLINEAR: "a variable follows from the others",
    SEPARATION: "a combination of the variables separates the outcomes",
    NO_CONVERGENCE: "the steps did not converge",
    FEW_SITES: "fewer than three sites have released it",
    FEW_PATIENTS: "too few patients for so many terms",
    SITE_LEFT: "a site that was in an earlier round has withheld it, or has other patients",
    OUT_OF_RANGE: "sites sent numbers that no data give together",
}
"""Why a model has no estimates, in words."""

MAX_PLOTS = 6
"""Most plots of one segment."""


def inverse(information: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """Return the inverse of a matrix of sums of squares and products, such as an information.

    Rows and columns are first scaled so that the diagonal is 1, and units do not matter.

    Args:
        information: symmetric, shape (terms, terms).

    Returns:
        None where it is not positive definite, or a column is collinear (see `LEAST_TOLERANCE`).
    """
    import numpy as np

    squares = np.diag(information)
    if not (np.isfinite(information).all() and (squares > 0).all()):
        return None
    length = np.sqrt(squares)
    try:
        lower = np.linalg.cholesky(information / length[:, None] / length[None])
    except np.linalg.LinAlgError:
        return None
    factor = np.linalg.inv(lower)
    scaled = factor.T @ factor
    if not np.isfinite(scaled).all() or (np.diag(scaled) * LEAST_TOLERANCE > 1).any():
        return None
    found: npt.NDArray[np.float64] = scaled / length[:, None] / length[None]
    return found


def estimates(
    names: Sequence[str],
    coefficients: npt.NDArray[np.float64],
    covariance: npt.NDArray[np.float64],
    df: float | None = None,
    ratio: bool = False,
) -> list[dict[str, Any]]:
    """Return the terms of a model.

    Args:
        names: of the terms.
        coefficients: shape (terms,).
        covariance: of the coefficients, shape (terms, terms).
        df: degrees of freedom of the t distribution; None for the normal one.
        ratio: whether the exponential of a coefficient is a ratio, as of odds, rates or hazards.

    Returns:
        A term each. Statistic and p are null where the standard error is 0, and an exponential is
        null where it is beyond float64.

    Raises:
        ValueError: a number is not finite, or a variance is negative.
    """
    import numpy as np
    from scipy import stats

    variances = np.diag(covariance)
    if not (np.isfinite(coefficients).all() and np.isfinite(variances).all()):
        raise ValueError("coefficients and their variances must be finite")
    if (variances < 0).any():
        raise ValueError("a variance must not be negative")
    law = stats.norm() if df is None else stats.t(df)
    half = float(law.ppf((1 + LEVEL) / 2))
    terms = []
    for name, estimate, variance in zip(
        names, coefficients.tolist(), variances.tolist(), strict=True
    ):
        se = math.sqrt(variance)
        statistic = estimate / se if se else None
        term = {
            "term": name,
            "estimate": estimate,
            "se": se,
            "low": estimate - half * se,
            "high": estimate + half * se,
            "statistic": statistic,
            "p": None if statistic is None else float(2 * law.sf(abs(statistic))),
        }
        if ratio:
            ends = {"ratio": "estimate", "ratio_low": "low", "ratio_high": "high"}
            term |= {key: _exponential(term[of]) for key, of in ends.items()}
        terms.append(term)
    return terms


def _exponential(value: float) -> float | None:
    try:
        return math.exp(value)
    except OverflowError:
        return None


def term_names(covariates: Sequence[Covariate]) -> list[str]:
    """Return the names of the columns of covariates, each once.

    Features of one name, as of two segments, have their segments in the name.
    """
    found = []
    for each in covariates:
        names = column_names("", [each])[1:]
        twice = [other for other in covariates if other.feature == each.feature]
        place = f" · {each.segment} · {each.segmentation} on {each.role}"
        found += [f"{name}{place}" if len(twice) > 1 and each.segment else name for name in names]
    return found


def units_of(
    covariates: Sequence[Mapping[str, Any]], variable: tuple[float, float] = (0, 1)
) -> str:
    """Return in words what coefficients are of; empty where of one unit each.

    Args:
        covariates: as a heading has them.
        variable: center and scale of the variable that a model is a cell of.
    """
    found = [_unit("the feature", *variable)]
    for each in covariates:
        name = each["variable"].partition(".")[2]
        if "reference" in each:
            found.append(f"{name} against {each['reference']}")
        else:
            found.append(_unit(name, each["center"], each["scale"]))
    known = [text for text in found if text]
    return f"Coefficients are of {'; '.join(known)}." if known else ""


def _unit(name: str, center: float, scale: float) -> str:
    if (center, scale) == (0, 1):
        return ""
    return f"{name} in units of {scale:g}" + (f" from {center:g}" if center else "")


def rows_of(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the terms of all models, a row each, with what the model is about.

    A kind gives them as ``estimates`` in its `Analysis.conclude`, which is a table of the result.

    Args:
        cells: as ``result.json`` has them, each with ``terms``.
    """
    return [
        {**{name: cell[name] for name in CellKey._fields}, **term}
        for cell in cells
        for term in cell["terms"]
    ]


@dataclass(frozen=True)
class Wording:
    """What the page calls the numbers of a kind.

    Attributes:
        estimate: a coefficient.
        statistic: what its test is called, t or z.
        ratio: its exponential, such as ``Odds ratio``; empty where it means nothing.
        of: a key of the cell that is shown beside the patients, such as ``events``, if any.
    """

    estimate: str
    statistic: str
    ratio: str = ""
    of: str = ""


def draw_estimates(
    lead: str, cells: Sequence[Mapping[str, Any]], sites: Sequence[str], wording: Wording
) -> Drawing:
    """Show the models of an analysis: forest plots of the first ones, and a table of all terms.

    Args:
        lead: what a reader must know to read it.
        cells: as ``result.json`` has them: ``n``, ``terms``, ``reason`` and what the cell is about.
        sites: ids of all sites of the round, also of those that withheld a cell.
        wording: of the kind.
    """
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        groups[CellKey(*(cell[name] for name in CellKey._fields)).title].append(cell)
    return Drawing(
        lead, [_group(title, found, sites, wording) for title, found in sorted(groups.items())]
    )


def _group(
    title: str, cells: Sequence[Mapping[str, Any]], sites: Sequence[str], wording: Wording
) -> Group:
    """Return the plots and the table of one segment."""
    panels = []
    for cell in [cell for cell in cells if cell["terms"]][:MAX_PLOTS]:
        plot = forest_plot(
            f"{wording.ratio or wording.estimate} of each term, {cell['feature']} of {title}",
            [_effect(term, wording) for term in cell["terms"] if term["term"] != INTERCEPT],
            logarithmic=bool(wording.ratio),
        )
        heading = (with_unit(cell["feature"]), span(f"n = {count(cell['n'])}", "muted small"))
        panels.append(Panel(heading, plot))
    columns = [head("Feature"), head("Sites", "num"), head("Patients", "num")]
    columns += [head(wording.of.capitalize(), "num")] if wording.of else []
    columns += [head("Term")]
    columns += [head(t, "num") for t in (wording.ratio, "95 % CI") if wording.ratio]
    columns += [head(wording.estimate, "num"), head("SE", "num")]
    columns += [] if wording.ratio else [head("95 % CI", "num")]
    columns += [head(wording.statistic, "num"), head("p", "num")]
    rows = [row for cell in cells for row in _rows(cell, sites, wording, len(columns))]
    table = Table(f"Models of {title}", columns, rows, summary=f"All {len(cells)} models")
    return Group(title, panels or None, table)


def _effect(term: Mapping[str, Any], wording: Wording) -> Effect:
    names = ("ratio", "ratio_low", "ratio_high") if wording.ratio else ("estimate", "low", "high")
    return Effect(term["term"], *(term[name] for name in names))


def _rows(
    cell: Mapping[str, Any], sites: Sequence[str], wording: Wording, width: int
) -> Iterator[Row]:
    """Yield the rows of a model; the first says what it is about."""
    about = [
        TableCell(with_unit(cell["feature"]), scope="row"),
        numeral(f"{len(cell['sites'])} of {len(sites)}"),
        numeral(count(cell["n"])),
        *([numeral(count(cell[wording.of]))] if wording.of else []),
    ]
    if cell["reason"] is not None:
        reason = TableCell(span(f"no estimates: {REASONS[cell['reason']]}", "muted"))
        yield [*about, reason, *(numeral(MISSING) for _ in range(width - len(about) - 1))]
    elif not cell["terms"]:
        going_on = TableCell(span("goes on in another round", "muted"))
        yield [*about, going_on, *(numeral(MISSING) for _ in range(width - len(about) - 1))]
    for place, term in enumerate(cell["terms"]):
        first = about if place == 0 else [TableCell("") for _ in about]
        yield [*first, TableCell(term["term"]), *_numbers(term, wording)]


def _numbers(term: Mapping[str, Any], wording: Wording) -> Iterator[TableCell]:
    if wording.ratio:
        yield numeral(bold(number(term["ratio"])))
        yield numeral(_interval(term["ratio_low"], term["ratio_high"]))
        yield numeral(number(term["estimate"]))
        yield numeral(number(term["se"], 3), "num muted")
    else:
        yield numeral(bold(number(term["estimate"])))
        yield numeral(number(term["se"], 3), "num muted")
        yield numeral(_interval(term["low"], term["high"]))
    yield numeral(number(term["statistic"]))
    yield numeral(number(term["p"], 3))


def _interval(low: float | None, high: float | None) -> str:
    return f"{number(low)} to {number(high)}"

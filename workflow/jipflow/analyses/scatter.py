"""Means and centred scatter of several columns: what leaves of them, and how sites merge.

What `jipflow.analyses.moments` is for one variable: the formula of Chan, Golub and LeVeque (1983)
holds for sums of products as it does for those of squares, and the rests of the means keep what
their rounding would lose. Columns are sent as they were measured, so that whoever chooses another
center or scale of a variable asks for the very same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell
from jipflow.analyses.facts import TOLERANCE
from jipflow.analyses.forms import LARGEST, CountedCell, Value
from jipflow.analyses.moments import (
    LARGEST_SCATTER,
    LEAST_SCATTER,
    largest_scatter,
    least_scatter,
    two_sum,
)
from jipflow.settings.bounds import Bounds, bounds
from jipflow.settings.clinical import ROLE
from jipflow.settings.covariates import Covariate
from jipflow.settings.part import AsGiven

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Product = Annotated[float, Field(ge=-LARGEST_SCATTER, le=LARGEST_SCATTER), AsGiven]


class ScatterCell(CountedCell):
    """Means and centred scatter of the columns of a model; a patient is one row."""

    means: Annotated[list[Value], Field(min_length=1)]
    """Mean of each column, as it was measured."""
    mean_rests: Annotated[list[Value], Field(min_length=1)]
    """What each mean lost in rounding to float64."""
    products: Annotated[list[list[Product]], Field(min_length=1)]
    """Sums of products of deviations from the means, of each column with those up to itself."""

    @property
    def scatter(self) -> Scatter:
        """The same as arrays; the lists fit each other, see `verify_scatter`."""
        import numpy as np

        means, rests = (np.array(of, dtype=np.float64) for of in (self.means, self.mean_rests))
        return Scatter(self.n, means, rests, symmetric(self.products))


def symmetric(rows: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    """Return a symmetric matrix of which each row is given up to the diagonal.

    Args:
        rows: the first has one number, each next one more.
    """
    import numpy as np

    found = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        found[i, : i + 1] = found[: i + 1, i] = row
    return found


@dataclass(frozen=True)
class Scatter:
    """Number, means and centred scatter of columns.

    Attributes:
        rows: how many.
        means: of the columns, shape (columns,).
        rests: what each mean lost when it was rounded to float64.
        products: sums of products of deviations from the means, shape (columns, columns).
    """

    rows: int
    means: npt.NDArray[np.float64]
    rests: npt.NDArray[np.float64]
    products: npt.NDArray[np.float64]

    @property
    def sent(self) -> dict[str, Any]:
        """What leaves, as `ScatterCell` has it."""
        return {
            "means": self.means.tolist(),
            "mean_rests": self.rests.tolist(),
            "products": [row[: i + 1] for i, row in enumerate(self.products.tolist())],
        }


def scatter(columns: npt.NDArray[np.float64]) -> Scatter:
    """Compute means and centred scatter in two passes, as `moments` does of one column.

    Args:
        columns: finite, shape (rows, columns), at least one row.

    Raises:
        ValueError: no row, or a number that is not finite.
    """
    import numpy as np

    if not columns.size or not np.isfinite(columns).all():
        raise ValueError("a scatter needs at least one row, all finite")
    first = columns.mean(axis=0)
    deviations = columns - first
    correction = deviations.mean(axis=0)
    means, rests = two_sum(first, correction)
    deviations -= correction
    return Scatter(len(columns), means, rests, deviations.T @ deviations)


def in_range(found: Scatter) -> bool:
    """Return whether the numbers are within the range of the format, and have all their digits.

    Of a column that is 0 in everyone all numbers are 0.
    """
    import numpy as np

    squares = np.diag(found.products)
    if ((squares < LEAST_SCATTER) & ((squares > 0) | (found.means != 0))).any():
        return False
    parts = ((found.means, LARGEST), (found.rests, LARGEST), (found.products, LARGEST_SCATTER))
    return all(bool((np.abs(part) <= most).all()) for part, most in parts)


def merge_scatters(by_site: Mapping[str, Scatter]) -> Scatter:
    """Merge sites whose patients are distinct, in the order of their ids.

    Args:
        by_site: of the same columns, by the site's id, at least one.
    """
    return reduce(_merge_pair, (by_site[site] for site in sorted(by_site)))


def _merge_pair(a: Scatter, b: Scatter) -> Scatter:
    """Merge two groups by the updating formula of Chan, Golub and LeVeque (1983), eq. 2.1."""
    import numpy as np

    rows = a.rows + b.rows
    delta = (b.means - a.means) + (b.rests - a.rests)
    means, rests = two_sum(a.means, a.rests + delta * (b.rows / rows))
    between = np.outer(delta, delta) * (a.rows * (b.rows / rows))
    return Scatter(rows, means, rests, a.products + b.products + between)


def are_same(one: Scatter, other: Scatter) -> bool:
    """Return whether two scatters of the same columns are one, but for rounding.

    Means may differ by `TOLERANCE` of a standard deviation, and sums of products by as much of the
    lengths of both columns: another processor adds in another order.
    """
    import numpy as np

    if one.rows != other.rows or one.means.shape != other.means.shape:
        return False
    length = np.sqrt(np.diag(other.products))
    apart = np.abs((one.means - other.means) + (one.rests - other.rests))
    changed = np.abs(one.products - other.products)
    return bool(
        (apart * math.sqrt(other.rows) <= TOLERANCE * length).all()
        and (changed <= TOLERANCE * np.outer(length, length)).all()
    )


def verify_scatter(
    cell: ScatterCell, ranges: Sequence[Bounds], categories: Sequence[Sequence[int]] = ()
) -> None:
    """Refuse means and a scatter that no rows have.

    Args:
        cell: as a site sent it.
        ranges: between which values each column lies.
        categories: of each, the positions of the indicators of all values but its reference; of one
            value that nobody has at the site all numbers are 0.

    Raises:
        ImpossibleCell: numbers contradict each other, or the bounds.
        CellBelowMinimum: the values of a column are all equal.
    """
    size = len(ranges)
    fits = len(cell.means) == len(cell.mean_rests) == len(cell.products) == size
    if not fits or any(len(row) != i + 1 for i, row in enumerate(cell.products)):
        raise ImpossibleCell
    absent = _absent(cell, categories)
    for i, (lowest, highest) in enumerate(ranges):
        if i in absent:
            continue
        mean, m2 = cell.means[i], cell.products[i][i]
        if mean + cell.mean_rests[i] != mean:
            raise ImpossibleCell
        above, below = mean - lowest, highest - mean
        if min(above, below) < -TOLERANCE or m2 > largest_scatter(cell.n, above, below):
            raise ImpossibleCell
        if m2 <= least_scatter(mean):
            raise CellBelowMinimum
    kept = [i for i in range(size) if i not in absent]
    if not is_positive(cell.scatter.products[kept][:, kept]):
        raise ImpossibleCell


def _absent(cell: ScatterCell, categories: Sequence[Sequence[int]]) -> set[int]:
    """Return the positions of the indicators of values that nobody has at a site."""
    found = cell.scatter
    numbers = abs(found.means) + abs(found.rests) + abs(found.products).sum(axis=0)
    several = [columns for columns in categories if len(columns) > 1]
    return {i for columns in several for i in columns if numbers[i] == 0}


def is_positive(products: npt.NDArray[np.float64]) -> bool:
    """Return whether no combination of columns has a negative sum of squares, but for rounding.

    Args:
        products: sums of squares and products, of which the former are above 0.
    """
    import numpy as np

    length = np.sqrt(np.diag(products))
    correlations = products / length[:, None] / length[None]
    return bool(np.linalg.eigvalsh(correlations)[0] >= -TOLERANCE * len(length))


def verify_indicators(cell: ScatterCell, categories: Sequence[Sequence[int]], minimum: int) -> None:
    """Refuse numbers of indicators that no patients have.

    Sums and products of indicators are the numbers of patients in each value of each category, and
    in each value of two.

    Args:
        cell: as a site sent it, verified as by `verify_scatter`.
        categories: of each, the positions of the indicators of all values but its reference.
        minimum: fewest patients.

    Raises:
        ImpossibleCell: an indicator has other values than 0 and 1, or a patient has two values.
        CellBelowMinimum: fewer than the minimum have a value, or two, or the reference, or all have
            one value.
    """
    import numpy as np

    found, n = cell.scatter, cell.n
    near = TOLERANCE * n
    for place, columns in enumerate(categories):
        for others in categories[: place + 1]:
            own, other = (n * (found.means + found.rests)[list(of)] for of in (columns, others))
            both = found.products[np.ix_(columns, others)] + np.outer(own, other) / n
            if others is columns and (np.abs(both - np.diag(own)) > near).any():
                raise ImpossibleCell
            table = _with_reference(both, own, other, n)
            if (np.abs(table - np.rint(table)) > near).any() or (table < -near).any():
                raise ImpossibleCell
            if (np.rint(table)[table > 0.5] < minimum).any():
                raise CellBelowMinimum
            if others is columns and (table.diagonal() > 0.5).sum() < 2:
                raise CellBelowMinimum


def _with_reference(
    both: npt.NDArray[np.float64],
    own: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64],
    n: int,
) -> npt.NDArray[np.float64]:
    """Return numbers of patients by the values of two categories, their references last."""
    import numpy as np

    totals = np.block([[both, own[:, None]], [other[None], np.array([[float(n)]])]])
    totals[:-1, -1] -= both.sum(axis=1)
    totals[-1, :-1] -= both.sum(axis=0)
    totals[-1, -1] -= own.sum() + other.sum() - both.sum()
    return totals


def units(covariates: Sequence[Covariate]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the centers and the scales of the columns of covariates."""
    import numpy as np

    widths = [len(each.compared) if each.values else 1 for each in covariates]
    centers = np.repeat([float(each.center) for each in covariates], widths)
    return centers, np.repeat([float(each.scale) for each in covariates], widths)


def ranges_of(
    covariates: Sequence[Covariate], first: int
) -> tuple[list[Bounds], list[Sequence[int]]]:
    """Return between which values the columns of covariates lie, as far as a hub knows.

    Args:
        covariates: of a model.
        first: position of their first column.

    Returns:
        The bounds of each column, and of each category the positions of its indicators.
    """
    ranges: list[Bounds] = []
    categories: list[Sequence[int]] = []
    for each in covariates:
        if each.values is not None:
            start = first + len(ranges)
            categories.append(range(start, start + len(each.compared)))
            ranges += [(0.0, 1.0)] * len(each.compared)
        else:
            clinical = each.role == ROLE
            unknown = (-math.inf, math.inf)
            ranges.append(unknown if clinical else bounds(each.role, each.feature))
    return ranges, categories

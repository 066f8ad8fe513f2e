"""Count, mean and centred scatter: what leaves of them, by which rules, and how sites merge.

A site sends count, mean and centred scatter, which merge by the formula of Chan, Golub and LeVeque
(1983). ``mean_rest`` is what the mean lost when it was rounded to 64 bits: where the mean is 10⁸
times the standard deviation, a rounded mean is wrong by 10⁻⁸ standard deviations, which the merged
variance would inherit; with the rest it equals the pooled one to 1e-9. Values are all equal where
they differ by no more than 10⁻⁹ of their size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from jipflow.analyses.cells import Values, follow
from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell
from jipflow.analyses.facts import TOLERANCE, LedgerCell, Limits
from jipflow.analyses.forms import LARGEST, CountedCell, Enough, Value
from jipflow.analyses.rules import Rule
from jipflow.analyses.spread import SPREAD, dominated, few_differ, few_levels
from jipflow.settings.part import AsGiven
from jipflow.settings.protocol import Disclosure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

F = TypeVar("F", float, "npt.NDArray[np.float64]")

LARGEST_SCATTER = 1e200
"""Bound of what squared differences of means are added to, likewise; see `LARGEST`."""

LEAST_SCATTER = 1e-280
"""Below, squares of deviations are near the least number of float64, 2.2e-308 (IEEE 754), and lose
their digits, or are none."""

EXACT = " exact"
"""Class of a column that the releaser's page shows on demand."""

NUMBER_RANGE = Rule(
    "number_range",
    "A number must be finite and within the range of the format.",
    because="a number is not finite or beyond the range",
)
ZERO_VARIANCE = Rule(
    "zero_variance",
    "Where all values are equal, the mean would be the value of every patient; where all but those "
    "of fewer patients than the minimum are, it would tell of these.",
    because="all patients, or nearly all, have one value",
)
DOMINANCE = Rule(
    "dominance",
    "The two patients with the most must not make nearly all of a mean or of its scatter, or else "
    "the value of the first follows to a few percent.",
    because="one or two patients make most of the mean or of its scatter",
)
FEW_LEVELS = Rule(
    "few_levels",
    "Where values are whole steps between narrow bounds, mean and scatter tell how many patients "
    "have each of them, and none may be fewer than the minimum.",
    because="mean and scatter tell how many patients have each of a few values",
)


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


class MomentsCell(CountedCell):
    """The moments of values."""

    rows: Enough
    """Values; more than patients where some have several cases."""
    mean: Value
    """Their mean."""
    mean_rest: Value
    """What the mean lost in rounding to float64."""
    m2: Annotated[float, Field(ge=0, le=LARGEST_SCATTER), AsGiven]
    """Sum of squared deviations from the mean; the variance is m2 / (rows - 1)."""

    @property
    def moments(self) -> Moments:
        """The moments by themselves."""
        return Moments(self.rows, self.mean, self.mean_rest, self.m2)


def in_range(found: Moments) -> bool:
    """Return whether moments are within the range of the format."""
    finite = math.isfinite(found.mean) and math.isfinite(found.mean_rest)
    return finite and abs(found.mean) <= LARGEST and 0 <= found.m2 <= LARGEST_SCATTER


def keeps_digits(found: Moments) -> bool:
    """Return whether the scatter of values that are not all equal has all its digits."""
    return found.m2 >= LEAST_SCATTER


def broken(values: Values, disclosure: Disclosure) -> Rule | None:
    """Return the first rule by which a mean and a variance of values would tell of few patients."""
    minimum = disclosure.min_patients
    if few_differ(values, minimum):
        return ZERO_VARIANCE
    if dominated(values, disclosure.largest_two, disclosure.p_percent):
        return DOMINANCE
    return FEW_LEVELS if few_levels(values, minimum) else None


def tell_beside(cell: LedgerCell, earlier: Sequence[LedgerCell], disclosure: Disclosure) -> bool:
    """Return whether what follows from a cell's sums and earlier ones would not leave itself."""
    others = [other.values for other in earlier if other.equations]
    return any(broken(values, disclosure) for values in follow(cell.values, others))


def verify_moments(cell: MomentsCell, limits: Limits) -> None:
    """Refuse moments that no values have, and values that are all equal.

    Raises:
        ImpossibleCell: the moments contradict each other, or the limits.
        CellBelowMinimum: the values are all equal.
    """
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
    mean, rest = two_sum(first, correction)
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
    mean, rest = two_sum(a.mean, a.mean_rest + delta * (b.rows / rows))
    m2 = a.m2 + b.m2 + delta * delta * (a.rows * (b.rows / rows))
    return Moments(rows, mean, rest, m2)


def two_sum(a: F, b: F) -> tuple[F, F]:
    """Return a + b rounded, and the rounding error exactly (Knuth, TAOCP vol. 2, 4.2.2)."""
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)


def merged(by_site: Mapping[str, MomentsCell]) -> dict[str, Any]:
    """Return what a result says of moments: of all sites together, and in ``by_site`` of each."""
    patients = sum(cell.n for cell in by_site.values())
    together = merge_moments({site: cell.moments for site, cell in by_site.items()})
    return {
        **_describe(patients, together),
        "by_site": [
            {"site": site, **_describe(cell.n, cell.moments)}
            for site, cell in sorted(by_site.items())
        ],
    }


def _describe(n: int, moment: Moments) -> dict[str, Any]:
    return {
        "n": n,
        "rows": moment.rows,
        "mean": moment.mean,
        "variance": moment.variance,
        "sd": math.sqrt(moment.variance),
    }

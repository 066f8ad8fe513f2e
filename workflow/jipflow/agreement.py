"""How far repeated measurements of the same cases agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """An intraclass correlation.

    Attributes:
        icc: the estimate, at most 1.
        lower: lower bound of its 95 % confidence interval.
        upper: upper bound.
        cases: how many cases it is of.
        measurements: how many of each case.
    """

    icc: float
    lower: float
    upper: float
    cases: int
    measurements: int


def intraclass_correlation(values: NDArray[np.float64]) -> Agreement | None:
    """Compute the intraclass correlation of single measurements, one-way random, ICC(1,1).

    Shrout and Fleiss 1979, "Intraclass correlations: uses in assessing rater reliability",
    Psychological Bulletin 86:420-428: the first case, whose raters differ from case to case, with
    its confidence interval from the F distribution.

    Args:
        values: finite, shape (cases, measurements).

    Returns:
        None where it is not defined: fewer than two cases or measurements, or no variance at all.
    """
    import numpy as np
    from scipy.stats import f

    cases, k = values.shape
    if cases < 2 or k < 2:
        return None
    means = values.mean(axis=1)
    between = k * ((means - values.mean()) ** 2).sum() / (cases - 1)
    within = ((values - means[:, np.newaxis]) ** 2).sum() / (cases * (k - 1))
    if not between + within:
        return None
    if not within:
        return Agreement(1.0, 1.0, 1.0, cases, k)
    ratio = between / within
    low = ratio / f.ppf(0.975, cases - 1, cases * (k - 1))
    high = ratio * f.ppf(0.975, cases * (k - 1), cases - 1)
    icc, lower, upper = ((r - 1) / (r + k - 1) for r in (ratio, low, high))
    return Agreement(float(icc), float(lower), float(upper), cases, k)

"""The empirical Bayes of ComBat: how far one site's features are shifted and stretched.

Johnson, Li and Rabinovic (2007, "Adjusting batch effects in microarray expression data using
empirical Bayes methods", Biostatistics 8:118-127), of which Fortin et al. (2018, "Harmonization of
cortical thickness measurements across scanners and sites", NeuroImage 167:104-120) made the
harmonisation of images. A feature of a site has the shift gamma and the variance delta in units of
the standard deviation that all sites share. Both are drawn towards priors over the features of the
site: gamma is normal, delta inverse gamma, with moments taken from the features (ibid. 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FEWEST_FEATURES = 2
"""Fewest features that have a variance over themselves."""

SPREAD = 1e-18
"""Share of the squared mean of the features' variances below which these count as equal: they then
differ by no more than 10⁻⁹ of their size."""

STOP = 1e-4
"""Relative step below which the posterior means count as found, as in ComBat of the R package sva
and in neuroCombat. It is part of the method: another one gives other numbers in the fourth digit.
"""

MOST_STEPS = 10_000
"""Steps after which there is no solution; a few dozen are usual."""


LARGEST = 1e30
"""Bound far beyond any shift or variance in units of what all sites share; products of several stay
within float64."""


class NoPriors(Exception):
    """The features of a site have no priors, or no posterior means were found."""


@dataclass(frozen=True)
class Batch:
    """What is known of the features of a site, in units of what all sites share.

    Attributes:
        rows: values of each feature, shape (features,).
        shifts: their means, likewise.
        spreads: their sample variances, likewise.
    """

    rows: npt.NDArray[np.float64]
    shifts: npt.NDArray[np.float64]
    spreads: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Priors:
    """What the features of a site have in common.

    Attributes:
        mean: of the shifts.
        variance: of the shifts.
        shape: of the inverse gamma of the variances.
        scale: likewise.
    """

    mean: float
    variance: float
    shape: float
    scale: float


def priors(batch: Batch) -> Priors:
    """Return the priors by the method of moments (Johnson et al. 2007, 3.2).

    An inverse gamma of the mean m and the variance s² has the shape (2 s² + m²) / s² and the scale
    (m s² + m³) / s².

    Raises:
        NoPriors: there are fewer than two features, their variances are all equal, or a number is
            beyond the range.
    """
    import numpy as np

    if batch.shifts.size < FEWEST_FEATURES:
        raise NoPriors("fewer than two features")
    if not all((np.abs(each) <= LARGEST).all() for each in (batch.shifts, batch.spreads)):
        raise NoPriors("a shift or a variance is beyond the range")
    mean, variance = float(batch.spreads.mean()), float(batch.spreads.var(ddof=1))
    if variance <= SPREAD * mean**2:
        raise NoPriors("the variances of all features are equal")
    return Priors(
        float(batch.shifts.mean()),
        float(batch.shifts.var(ddof=1)),
        (2 * variance + mean**2) / variance,
        (mean * variance + mean**3) / variance,
    )


def posterior(batch: Batch) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return gamma and delta of each feature: their posterior means, each given the other.

    The steps stop where the largest relative change over all features is below `STOP`. As published
    and as all implementations have it, the change is taken relative to the value with its sign, so
    that of a negative shift it never is the largest.

    Args:
        batch: of a site.

    Returns:
        Two arrays of shape (features,).

    Raises:
        NoPriors: see `priors`; or the steps do not end.
    """
    import numpy as np

    prior = priors(batch)
    n, shifts, squares = batch.rows, batch.shifts, (batch.rows - 1) * batch.spreads
    gamma, delta = shifts, batch.spreads
    with np.errstate(all="ignore"):
        for _ in range(MOST_STEPS):
            pull = prior.variance * n
            shifted = (pull * shifts + delta * prior.mean) / (pull + delta)
            about = squares + n * (shifts - shifted) ** 2
            stretched = (0.5 * about + prior.scale) / (n / 2 + prior.shape - 1)
            change = max(
                float((np.abs(shifted - gamma) / gamma).max()),
                float((np.abs(stretched - delta) / delta).max()),
            )
            gamma, delta = shifted, stretched
            if not change > STOP:
                break
        else:
            raise NoPriors("no posterior means were found")
    if not (np.isfinite(gamma).all() and np.isfinite(delta).all() and (delta > 0).all()):
        raise NoPriors("the posterior means are beyond the range")
    return gamma, delta

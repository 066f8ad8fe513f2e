"""ComBat in two halves: what all sites share, from sums, and what a site does with its own values.

A feature y of a row with the covariates c at site i is y = alpha + c·beta + sigma (gamma_i +
sqrt(delta_i) e) (Johnson et al. 2007, see `jipflow.analyses.shrinkage`). alpha, beta and sigma are
least squares with a constant for each site, and follow from the sites' means and centred sums of
products; gamma_i and delta_i are of one site. Harmonised is
alpha + c·beta + sigma (z - gamma_i) / sqrt(delta_i), with z = (y - alpha - c·beta) / sigma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jipflow.analyses.estimates import COLLINEAR, LEAST_TOLERANCE, OUT_OF_RANGE, inverse
from jipflow.analyses.forms import LARGEST
from jipflow.analyses.moments import LARGEST_SCATTER, Moments, moments, two_sum
from jipflow.analyses.scatter import Scatter, merge_scatters
from jipflow.analyses.shrinkage import Batch, posterior

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_ROWS = 10**9
"""Most rows of all sites that the hub states."""


class NotEstimated(Exception):
    """The sums of the sites have no common parameters; the message is the reason's code."""


@dataclass(frozen=True)
class Common:
    """What all sites have in common of one feature.

    Attributes:
        rows: of all sites.
        mean: of the feature where the covariates are at `centers`.
        rest: what the mean lost in rounding to float64.
        centers: of the covariates, shape (covariates,).
        slopes: change of the feature for each unit of a covariate, likewise.
        variance: mean squared residual within the sites.
    """

    rows: int
    mean: float
    rest: float
    centers: npt.NDArray[np.float64]
    slopes: npt.NDArray[np.float64]
    variance: float

    @property
    def sd(self) -> float:
        """The square root of the variance."""
        return math.sqrt(self.variance)


def common(by_site: Mapping[str, Scatter]) -> Common:
    """Return what the sites have in common.

    Alpha, the mean of the sites' constants weighted by their rows, is the feature's mean less the
    slopes times the covariates' means, all over all rows. The variance divides by all rows.

    Args:
        by_site: means and products of feature and covariates, in this order.

    Raises:
        NotEstimated: covariates follow from each other, or explain the feature wholly, or numbers
            are beyond the range.
    """
    import numpy as np

    with np.errstate(all="ignore"):
        together = merge_scatters(by_site)
        within = within_sites(by_site)
        slopes = _slopes(within)
        left = float(within[0, 0] - within[0, 1:] @ slopes)
        rest = float(together.rests[0] - together.rests[1:] @ slopes)
    mean, rest = two_sum(float(together.means[0]), rest)
    if not (np.abs([mean, rest, *slopes]) <= LARGEST).all() or together.rows > MOST_ROWS:
        raise NotEstimated(OUT_OF_RANGE)
    if not left > LEAST_TOLERANCE * float(within[0, 0]):
        raise NotEstimated(COLLINEAR)
    variance = left / together.rows
    if not 0 < variance <= LARGEST_SCATTER:
        raise NotEstimated(OUT_OF_RANGE)
    return Common(together.rows, mean, rest, together.means[1:], slopes, variance)


def within_sites(by_site: Mapping[str, Scatter]) -> npt.NDArray[np.float64]:
    """Return the sums of products of deviations from each site's means, over all sites."""
    import numpy as np

    parts = [by_site[site].products for site in sorted(by_site)]
    found: npt.NDArray[np.float64] = np.sum(parts, axis=0)
    return found


def _slopes(products: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the slopes of the first variable on the others, by least squares.

    Raises:
        NotEstimated: the others follow from each other.
    """
    import numpy as np

    if products.shape[0] == 1:
        return np.zeros(0)
    inverted = inverse(products[1:, 1:])
    if inverted is None:
        raise NotEstimated(COLLINEAR)
    among, beside = products[1:, 1:], products[1:, 0]
    found: npt.NDArray[np.float64] = inverted @ beside
    found += inverted @ (beside - among @ found)
    return found


def standardised(
    columns: npt.NDArray[np.float64], shared: Common
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return z, and what the covariates expect of each row, alpha + c·beta, less the mean.

    Args:
        columns: feature and covariates, shape (rows, 1 + covariates).
        shared: of the feature.

    Returns:
        Two arrays of shape (rows,).
    """
    expected = (columns[:, 1:] - shared.centers) @ shared.slopes
    away = (columns[:, 0] - shared.mean) - shared.rest
    return (away - expected) / shared.sd, expected


@dataclass(frozen=True)
class Harmonised:
    """A feature at one site.

    Attributes:
        values: harmonised, shape (rows,).
        moments: of them, before they were rounded to float64.
        shift: gamma.
        spread: delta.
    """

    values: npt.NDArray[np.float64]
    moments: Moments
    shift: float
    spread: float


def harmonise(
    features: Sequence[tuple[npt.NDArray[np.float64], Common]],
) -> list[Harmonised]:
    """Harmonise the features of one site, over which the priors are taken.

    Args:
        features: of each its columns, as in `standardised`, and what is shared.

    Raises:
        NoPriors: they have none.
    """
    import numpy as np

    with np.errstate(all="ignore"):
        standard = [standardised(columns, shared) for columns, shared in features]
        batch = Batch(
            np.array([float(z.size) for z, _ in standard]),
            np.array([z.mean() for z, _ in standard]),
            np.array([z.var(ddof=1) for z, _ in standard]),
        )
    shifts, spreads = posterior(batch)
    return [
        _harmonised(*each, shared, float(shift), float(spread))
        for each, (_, shared), shift, spread in zip(
            standard, features, shifts, spreads, strict=True
        )
    ]


def _harmonised(
    z: npt.NDArray[np.float64],
    expected: npt.NDArray[np.float64],
    shared: Common,
    shift: float,
    spread: float,
) -> Harmonised:
    """Return a feature whose rows are z and what covariates expect of them."""
    away = shared.rest + ((z - shift) / math.sqrt(spread) * shared.sd + expected)
    found = moments(away)
    mean, rest = two_sum(shared.mean, found.mean + found.mean_rest)
    return Harmonised(shared.mean + away, replace(found, mean=mean, mean_rest=rest), shift, spread)


def scatter_after(before: Scatter, shared: Common, shift: float, spread: float) -> Scatter:
    """Return means and products of a site once its feature is harmonised.

    A harmonised value is linear in the value and the covariates, so that these follow from the sums
    before: what a site measures of its harmonised values is nothing new.

    Args:
        before: of the site.
        shared: of the feature.
        shift: gamma of the site.
        spread: delta of the site.
    """
    import numpy as np

    kept = 1 / math.sqrt(spread)
    change = np.eye(before.means.size)
    means, rests = before.means.copy(), before.rests.copy()
    with np.errstate(all="ignore"):
        change[0] = [kept, *((1 - kept) * shared.slopes)]
        expected = (before.means[1:] - shared.centers) @ shared.slopes
        expected += before.rests[1:] @ shared.slopes
        away = (before.means[0] - shared.mean) + (before.rests[0] - shared.rest) - expected
        offset = expected + kept * (away - shift * shared.sd)
        means[0], rests[0] = two_sum(shared.mean, shared.rest + float(offset))
        products = change @ before.products @ change.T
    return Scatter(before.rows, means, rests, products)


def site_effect(by_site: Mapping[str, Scatter]) -> dict[str, Any]:
    """Return how much the sites differ in a feature, beyond what covariates explain.

    F compares the residual sums of squares of the covariates alone and of covariates and sites, the
    analysis of covariance; without covariates it is the one-way analysis of variance.

    Args:
        by_site: means and products of feature and covariates, of two sites at least.

    Returns:
        ``statistic``, ``df``, ``p``, ``share`` (of the residual sum of squares that the sites
        explain, partial eta²) and ``variance_ratio`` (the greatest variance of a site by the
        least).

    Raises:
        NotEstimated: covariates follow from each other, or explain the feature wholly, or numbers
            are beyond the range.
    """
    import numpy as np
    from scipy.stats import f

    with np.errstate(all="ignore"):
        together = merge_scatters(by_site)
        within = _left(within_sites(by_site))
        total = max(_left(together.products), within)
        df = [len(by_site) - 1, together.rows - len(by_site) - (together.means.size - 1)]
        statistic = (total - within) / df[0] / (within / df[1])
        variances = np.array([each.products[0, 0] / (each.rows - 1) for each in by_site.values()])
        ratio = float(variances.max() / variances.min())
    if not math.isfinite(total + statistic + ratio):
        raise NotEstimated(OUT_OF_RANGE)
    return {
        "statistic": statistic,
        "df": df,
        "p": float(f.sf(statistic, *df)),
        "share": (total - within) / total,
        "variance_ratio": ratio,
    }


def _left(products: npt.NDArray[np.float64]) -> float:
    """Return the sum of squares of the first variable that the others leave."""
    left = float(products[0, 0] - products[0, 1:] @ _slopes(products))
    if not math.isfinite(left):
        raise NotEstimated(OUT_OF_RANGE)
    if not left > 0:
        raise NotEstimated(COLLINEAR)
    return left

"""What crosses between a site and its hub in the two rounds of ComBat."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from jipflow.analyses.contract import ImpossibleCell
from jipflow.analyses.forms import Enough, StatedCell, Value
from jipflow.analyses.harmonise import Common, scatter_after
from jipflow.analyses.moments import LARGEST_SCATTER, Moments
from jipflow.analyses.scatter import Scatter, ScatterCell
from jipflow.settings.part import AsGiven

CLOSE = 1e-6
"""How far moments that a site measured may be from those that follow from its sums, of a standard
deviation or of their size: harmonised values are rounded, and means may be 10⁸ times their spread.
"""


class Sums(ScatterCell):
    """Means and sums of products of a feature and the covariates."""

    step: Literal["sums"]
    """Of the first round."""


class After(ScatterCell):
    """The same again, and the feature once it is harmonised."""

    step: Literal["harmonised"]
    """Of the second round."""
    shift: Value
    """How far the site's values lie from what is common, in its standard deviations (gamma)."""
    spread: Annotated[float, Field(gt=0, le=LARGEST_SCATTER), AsGiven]
    """Their variance, in that of all sites (delta)."""
    mean: Value
    """Mean of the harmonised values."""
    mean_rest: Value
    """What the mean lost in rounding to float64."""
    m2: Annotated[float, Field(ge=0, le=LARGEST_SCATTER), AsGiven]
    """Sum of squared deviations of the harmonised values from their mean."""

    @property
    def moments(self) -> Moments:
        """The moments of the harmonised values."""
        return Moments(self.n, self.mean, self.mean_rest, self.m2)


class Shared(StatedCell):
    """What all sites have in common of a feature."""

    rows: Enough
    """Patients of all sites."""
    mean: Value
    """Mean of the feature where each covariate has its mean."""
    mean_rest: Value
    """What the mean lost in rounding to float64."""
    centers: Annotated[list[Value], Field(max_length=1000)]
    """Means of the covariates."""
    slopes: Annotated[list[Value], Field(max_length=1000)]
    """Change of the feature for each unit of a covariate."""
    variance: Annotated[float, Field(gt=0, le=LARGEST_SCATTER), AsGiven]
    """Mean squared residual within the sites."""

    @property
    def common(self) -> Common:
        """The same as arrays."""
        import numpy as np

        centers, slopes = (np.array(of, dtype=np.float64) for of in (self.centers, self.slopes))
        return Common(self.rows, self.mean, self.mean_rest, centers, slopes, self.variance)


def verify_after(cell: After, shared: Common) -> None:
    """Check that moments follow from the sums, shift and spread."""
    import numpy as np

    with np.errstate(all="ignore"):
        expected = first_moments(scatter_after(cell.scatter, shared, cell.shift, cell.spread))
        size = max(expected.m2, cell.m2)
        apart = (cell.mean - expected.mean) + (cell.mean_rest - expected.mean_rest)
    if cell.mean + cell.mean_rest != cell.mean:
        raise ImpossibleCell
    near = apart * apart * cell.n <= CLOSE**2 * size
    if not (math.isfinite(size) and near and abs(cell.m2 - expected.m2) <= CLOSE * size):
        raise ImpossibleCell


def first_moments(found: Scatter) -> Moments:
    """Return the moments of the first variable."""
    numbers = (found.means[0], found.rests[0], found.products[0, 0])
    return Moments(found.rows, *map(float, numbers))

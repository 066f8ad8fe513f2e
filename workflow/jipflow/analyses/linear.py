"""Linear regression by least squares, as if the rows of all sites lay in one place.

Each variable is the outcome of a model of its own, of the covariates and an intercept. A site sends
means and centred scatter of its columns, as they were measured, and the hub merges them in one
round; the protocol's centers and scales are applied there.

A cell of the result has ``n`` and ``terms`` (see `jipflow.analyses.estimates`; statistics are t),
``df``, ``r_squared`` and ``residual_sd``, and in ``by_site`` the ``n`` of each ``site``; without
terms ``reason`` says why. The analysis has ``estimates``, all terms of all models. They equal those
of all rows in one place to 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from jipflow.analyses.cells import Measured
from jipflow.analyses.contract import Analysis, Proposed
from jipflow.analyses.estimates import (
    COLLINEAR,
    FEW_PATIENTS,
    FEW_SITES,
    INTERCEPT,
    LEAST_TOLERANCE,
    OUT_OF_RANGE,
    Wording,
    draw_estimates,
    estimates,
    inverse,
    rows_of,
    units_of,
)
from jipflow.analyses.forms import ReleasedAnalysis
from jipflow.analyses.scatter import Scatter, ScatterCell, merge_scatters, units
from jipflow.analyses.sent_scatter import SendsScatter, draw_sent, proposals
from jipflow.blocks import Drawing
from jipflow.exchange.roster import FEWEST_SITES
from jipflow.settings.covariates import Covariate
from jipflow.settings.protocol import AnalysisSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_COVARIATES = 20


class Settings(AnalysisSettings):
    """Linear regression of each variable on covariates."""

    kind: Literal["linear"]
    covariates: Annotated[list[Covariate], Field(min_length=1, max_length=MOST_COVARIATES)]
    """What each variable is explained by, beside an intercept."""
    missing: Literal["complete"] = "complete"
    """A case counts if it has every variable of the model."""

    def further(self) -> Sequence[Covariate]:
        """Return the covariates."""
        return self.covariates


class Cell(ScatterCell):
    """Means and centred scatter of an outcome, which is first, and of the covariates' columns."""


class Released(ReleasedAnalysis):
    """Means and scatter of each model."""

    kind: Literal["linear"]
    cells: list[Cell]
    covariates: list[Covariate]


class Linear(SendsScatter, Analysis[Settings, Cell, Released]):
    """Means and scatter of the columns of models, and their least squares."""

    cell = Cell
    released = Released
    title = "Linear regression"
    merging = (
        "Means and sums of products of deviations from the means, of the patients who have every "
        "variable of the model, were merged by the formula of Chan, Golub and LeVeque (1983); "
        "coefficients and their covariance are those of ordinary least squares on all rows."
    )

    def propose(self, measured: Measured, given: Any = None) -> list[Proposed]:
        """Propose a model of each variable, of the cases that have all of its columns."""
        return proposals(self, measured)

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Merge the scatter of all sites, and solve for the coefficients."""
        import numpy as np

        about = {
            "n": sum(cell.n for cell in by_site.values()),
            "by_site": [{"site": site, "n": cell.n} for site, cell in sorted(by_site.items())],
        }
        if len(by_site) < FEWEST_SITES:
            return about | without_estimates(FEW_SITES)
        centers, scales = units(self.settings.covariates)
        with np.errstate(all="ignore"):
            together = merge_scatters({site: cell.scatter for site, cell in by_site.items()})
            return about | least_squares(together, self.names, centers, scales)

    def conclude(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return all terms of all models."""
        return {"estimates": rows_of(cells)}

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show the mean and the scatter of every column of every model."""
        lead = (
            "Each model is of n patients who have all of its variables, the first of which is the "
            "outcome."
        )
        return draw_sent(analysis.cells, analysis.covariates, lead)

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show the coefficients of every model."""
        lead = (
            "Linear regression of each feature on the covariates by ordinary least squares, with "
            "95 % confidence intervals (CI), as if the rows of all sites lay in one place. "
        )
        wording = Wording("Coefficient", "t")
        lead += units_of(analysis["covariates"])
        return draw_estimates(lead.rstrip(), analysis["cells"], sites, wording)


def least_squares(
    together: Scatter,
    names: Sequence[str],
    centers: npt.NDArray[np.float64],
    scales: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """Return the regression of the first column on the others and an intercept.

    With the centred scatter Sxx of the covariates and Sxy with the outcome, the slopes are
    Sxx⁻¹ Sxy and the residuals have the sum of squares Syy - Sxyᵀ Sxx⁻¹ Sxy (Searle, Linear Models,
    Wiley 1971, 3.2 on deviations from means).

    Args:
        together: of outcome and covariates.
        names: of the columns of covariates.
        centers: of these columns, which coefficients are of as (x - center) / scale.
        scales: likewise.

    Returns:
        ``terms``, ``df``, ``r_squared`` and ``residual_sd``, and ``reason`` where there are none.
    """
    import numpy as np

    products, df = together.products, together.rows - len(together.means)
    if df < 1:
        return without_estimates(FEW_PATIENTS)
    if not np.isfinite(products).all():
        return without_estimates(OUT_OF_RANGE)
    among, beside, total = products[1:, 1:], products[1:, 0], float(products[0, 0])
    inverted = inverse(among)
    if inverted is None:
        return without_estimates(COLLINEAR)
    slopes = inverted @ beside
    slopes += inverted @ (beside - among @ slopes)
    rest = total - float(beside @ slopes)
    if rest <= LEAST_TOLERANCE * total:
        return without_estimates(COLLINEAR)
    variance = rest / df
    apart = ((together.means - [0.0, *centers]) + together.rests) / [1.0, *scales]
    slopes = slopes * scales
    spread = inverted * np.outer(scales, scales)
    beside_intercept = spread @ apart[1:]
    covariance = variance * np.block(
        [
            [1 / together.rows + apart[1:] @ beside_intercept, -beside_intercept[None]],
            [-beside_intercept[:, None], spread],
        ]
    )
    coefficients = np.array([apart[0] - slopes @ apart[1:], *slopes])
    if not (np.isfinite(coefficients).all() and np.isfinite(covariance).all()):
        return without_estimates(OUT_OF_RANGE)
    return {
        "terms": estimates([INTERCEPT, *names], coefficients, covariance, df),
        "df": df,
        "r_squared": 1 - rest / total,
        "residual_sd": math.sqrt(variance),
        "reason": None,
    }


def without_estimates(reason: str) -> dict[str, Any]:
    """Return what stands in place of a model's estimates."""
    return {"terms": [], "df": None, "r_squared": None, "residual_sd": None, "reason": reason}

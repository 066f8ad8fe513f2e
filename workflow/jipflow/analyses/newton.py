"""Newton's method at a hub, a step a round: where it goes, and whether it has arrived."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jipflow.analyses.estimates import inverse

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ARRIVED = 1e-9
"""A step that is shorter, as a share of the coefficient or of its standard error, is the last."""

FARTHEST = 2.0
"""Most by which a step may change the linear predictor, in its standard deviations over the weights
of the information: the first step may lead far beyond the maximum."""

AWAY = 0.05
"""Coefficients that still grow by a larger share in the last round are on their way to infinity."""


@dataclass(frozen=True, eq=False)
class Step:
    """A step of Newton's method.

    Attributes:
        beta: where it leads, shape (terms,).
        covariance: inverse of the information where it began, shape (terms, terms).
        size: largest change of a coefficient, as a share of it or of its standard error.
        grows: whether the coefficient that changes most goes away from 0 by more than `AWAY`.
    """

    beta: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    size: float
    grows: bool

    @property
    def is_last(self) -> bool:
        """Whether the maximum is reached."""
        return self.size < ARRIVED


def newton(
    beta: npt.NDArray[np.float64],
    score: npt.NDArray[np.float64],
    information: npt.NDArray[np.float64],
    weight: float,
) -> Step | None:
    """Return the step from coefficients towards the maximum of a likelihood.

    Args:
        beta: the coefficients, shape (terms,).
        score: first derivatives of the logarithm of the likelihood, shape (terms,).
        information: its second derivatives, negative; shape (terms, terms).
        weight: how many observations the information is of.

    Returns:
        None where the information has no inverse.
    """
    import numpy as np

    covariance = inverse(information)
    if covariance is None:
        return None
    change = covariance @ score
    change += covariance @ (score - information @ change)
    far = math.sqrt(max(float(change @ information @ change), 0.0) / weight)
    if far > FARTHEST:
        change = change * (FARTHEST / far if math.isfinite(far) else math.inf)
    units = np.maximum(np.abs(beta), np.sqrt(np.diag(covariance)))
    most = int(np.argmax(np.abs(change) / units))
    after = beta + change
    grows = beta[most] * change[most] > 0 and abs(change[most]) > AWAY * abs(after[most])
    return Step(after, covariance, float(abs(change[most]) / units[most]), bool(grows))

"""Generalised linear models with canonical link: score and information at some coefficients.

With the linear predictor eta of a row its outcome has the mean mu and the variance w, both
functions of eta: of a binary outcome mu = 1 / (1 + exp(-eta)) and w = mu (1 - mu), of a count
mu = w = exp(eta). The score is Xᵀ(y - mu), the information Xᵀ diag(w) X (McCullagh and Nelder,
Generalized Linear Models, 2nd edition, Chapman and Hall 1989, section 2.5).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jipflow.analyses.design import pair_dominates
from jipflow.settings.bounds import Bounds
from jipflow.settings.protocol import Disclosure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FARTHEST_ETA = 200.0
"""Largest magnitude of a linear predictor that is evaluated."""

REST = 0.1
"""Share of the largest contribution that all but few patients must reach together: the p% rule with
p = 10 (Hundepool et al., Statistical Disclosure Control, Wiley 2012, 4.2)."""

SEPARATE = 1e-3
"""Combinations of means at several points that leave a smaller share of their length are not looked
at: Newton's last steps differ by less, and how many there are `saturation` limits."""

SEPARATE_WEIGHTS = 2e-2
"""The same where weights are combined as well, which are nearly functions of the means."""

EXACTLY = 1e-11
"""The same where points come near to each other otherwise than Newton's do: numbers leave with all
their digits, so that whoever chose the points has a combination as small as that."""

NEAR = 1.0
"""Root mean square of what linear predictors at two points differ by, below which Newton's method
converges quadratically: the next step is no longer than the square of the last one, nor its half.
"""

NEARLY = 1e-3
"""Share of a linear predictor's variance: where columns of another model leave no more of it, the
other columns hardly count, and the two are one model to who combines their numbers. What they add
beyond hides a patient in such combinations, whose factors are large."""


@dataclass(frozen=True)
class Point:
    """Where a likelihood is evaluated.

    Attributes:
        beta: intercept and coefficients of (x - center) / scale.
        centers: of the columns.
        scales: of the columns.
    """

    beta: tuple[float, ...]
    centers: tuple[float, ...]
    scales: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Sums:
    """A likelihood at a point.

    Attributes:
        columns: ones, and the columns in the units of the point; shape (rows, terms).
        predictor: linear predictor of each row, shape (rows,).
        means: of the outcome by the model, shape (rows,).
        weights: its variances, likewise.
        residuals: outcome less its mean, likewise.
    """

    columns: npt.NDArray[np.float64]
    predictor: npt.NDArray[np.float64]
    means: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    residuals: npt.NDArray[np.float64]

    @property
    def score(self) -> npt.NDArray[np.float64]:
        """First derivatives of the logarithm of the likelihood, shape (terms,)."""
        found: npt.NDArray[np.float64] = self.columns.T @ self.residuals
        return found

    @property
    def information(self) -> npt.NDArray[np.float64]:
        """Its second derivatives, negative; shape (terms, terms)."""
        weighted = self.columns * self.weights[:, None]
        found: npt.NDArray[np.float64] = self.columns.T @ weighted
        return found


@dataclass(frozen=True, eq=False)
class Fitted:
    """A likelihood at a point, with the patients that it is of.

    Attributes:
        patients: pseudonyms, sorted, shape (rows,).
        raw: columns as they were measured, shape (rows, terms - 1).
        sums: the likelihood.
    """

    patients: npt.NDArray[np.object_]
    raw: npt.NDArray[np.float64]
    sums: Sums

    @property
    def predictor(self) -> npt.NDArray[np.float64]:
        """Linear predictor of each row, shape (rows,)."""
        return self.sums.predictor


class Binomial:
    """Outcomes of 0 and 1.

    Attributes:
        is_indicator: whether they are nothing else.
        range: between which values they lie.
        most_weight: greatest variance of one.
    """

    is_indicator = True
    range: Bounds = (0.0, 1.0)
    most_weight = 0.25

    @staticmethod
    def start(mean: float) -> tuple[float, float]:
        """Return the intercept that gives a mean, and the variance; NaN where none does."""
        if not 0 < mean < 1:
            return math.nan, math.nan
        return math.log(mean / (1 - mean)), mean * (1 - mean)

    @staticmethod
    def moments(
        eta: npt.NDArray[np.float64],
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return means and variances."""
        import numpy as np

        small = np.exp(-np.abs(eta))
        return np.where(eta >= 0, 1.0, small) / (1 + small), small / np.square(1 + small)

    @staticmethod
    def fits(outcome: npt.NDArray[np.float64]) -> bool:
        """Return whether outcomes are of the family."""
        import numpy as np

        return bool(np.isin(outcome, (0.0, 1.0)).all())

    @staticmethod
    def rest_on(outcome: npt.NDArray[np.float64]) -> int:
        """Return how many patients the parameters rest on: those of the smaller class."""
        return Binomial.rest_on_at_most(outcome.size, int((outcome > 0).sum()))

    @staticmethod
    def rest_on_at_most(n: int, events: int) -> int:
        """Return the same, as a hub knows it."""
        return min(events, n - events)


class Poisson:
    """Outcomes that are counts; for the attributes see `Binomial`."""

    is_indicator = False
    range: Bounds = (0.0, math.inf)
    most_weight = math.inf

    @staticmethod
    def start(mean: float) -> tuple[float, float]:
        """Return the intercept that gives a mean, and the variance; NaN where none does."""
        return (math.log(mean), mean) if mean > 0 else (math.nan, math.nan)

    @staticmethod
    def moments(
        eta: npt.NDArray[np.float64],
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return means and variances."""
        import numpy as np

        mean = np.exp(eta)
        return mean, mean

    @staticmethod
    def fits(outcome: npt.NDArray[np.float64]) -> bool:
        """Return whether outcomes are of the family."""
        import numpy as np

        return bool(((outcome >= 0) & (outcome == np.rint(outcome))).all())

    @staticmethod
    def rest_on(outcome: npt.NDArray[np.float64]) -> int:
        """Return how many patients the parameters rest on: those who have an event."""
        return int((outcome > 0).sum())

    @staticmethod
    def rest_on_at_most(n: int, events: int) -> int:
        """Return no less than that, as a hub knows it."""
        return min(n, events)


Family = type[Binomial] | type[Poisson]


def evaluate(
    family: Family, raw: npt.NDArray[np.float64], outcome: npt.NDArray[np.float64], point: Point
) -> Sums | None:
    """Return a likelihood at a point; None where a linear predictor is too large for any number.

    Args:
        family: of the outcome.
        raw: columns as they were measured, shape (rows, terms - 1).
        outcome: shape (rows,).
        point: where.
    """
    import numpy as np

    scaled = (raw - np.array(point.centers)) / np.array(point.scales)
    columns = np.column_stack([np.ones(len(raw)), scaled])
    eta = columns @ np.array(point.beta)
    if not (np.abs(eta) <= FARTHEST_ETA).all():
        return None
    means, weights = family.moments(eta)
    return Sums(columns, eta, means, weights, outcome - means)


def rest_on_few(found: Sums, disclosure: Disclosure) -> bool:
    """Return whether few patients make most of the numbers at a point.

    The information is a sum over patients by their weights, which must be worth the minimum of
    patients (Kish 1965, Survey Sampling, section 11.7: the squared sum over the sum of squares).

    Args:
        found: at the point.
        disclosure: the limits that hold.
    """
    import numpy as np

    weights = found.weights
    squares = float(np.square(weights).sum())
    worth = float(weights.sum()) ** 2 / squares if squares else 0.0
    return (
        worth < disclosure.min_patients
        or pair_dominates(np.sqrt(weights)[:, None] * found.columns, disclosure.largest_two)
        or two_make(_beside(found, found.residuals), disclosure)
    )


def differ_in_few(
    found: Sums,
    others: Sequence[Sums],
    outcome: npt.NDArray[np.float64],
    disclosure: Disclosure,
) -> bool:
    """Return whether few patients make what the numbers at a point are beside those at others.

    They are compared with those at each other point, and for sums of means and of weights with any
    combination of all of them, as pairs of patients.

    Args:
        found: at the point.
        others: of the same patients, at other points.
        outcome: of the patients, shape (rows,).
        disclosure: the limits that hold.
    """

    if any(_differ(found, other, disclosure) for other in others):
        return True
    return _are_of_few(found, others, outcome, disclosure)


def converge(predictor: npt.NDArray[np.float64], others: Sequence[npt.NDArray[np.float64]]) -> bool:
    """Return whether other points come nearer to one as the steps of Newton's method do.

    At points that are as far from each other as they are near, such as 0, h and 2h, differences of
    differences of numbers are sums by high powers of the covariates, which are the greatest one's.

    Args:
        predictor: linear predictor at the point, shape (rows,); of a Cox model its mean is 0.
        others: at the other ones.
    """
    import numpy as np

    squares = (float(np.square(predictor - other).mean()) for other in others)
    distances = sorted(map(math.sqrt, squares), reverse=True)
    near = [distance for distance in distances if distance < NEAR]
    return all(
        closer <= min(further**2, further / 2) for further, closer in itertools.pairwise(near)
    )


def _are_of_few(
    found: Sums,
    others: Sequence[Sums],
    outcome: npt.NDArray[np.float64],
    disclosure: Disclosure,
) -> bool:
    """Return whether a combination of means and weights at points is that of two patients."""
    import numpy as np

    every = (*others, found)
    usual = converge(found.predictor, [other.predictor for other in others])
    known = np.column_stack([np.ones(len(outcome)), outcome, *(each.means for each in every)])
    if pair_dominates(known, disclosure.largest_two, SEPARATE if usual else EXACTLY):
        return True
    together = np.column_stack([known, *(each.weights for each in every)])
    separate = SEPARATE_WEIGHTS if usual else EXACTLY
    return pair_dominates(together, disclosure.largest_two, separate)


def combine_to_few(found: Fitted, left: Sequence[Fitted], disclosure: Disclosure) -> bool:
    """Return whether a combination of numbers of several models is that of two patients.

    Models whose further columns hardly count are one model at several points, see
    `differ_in_few`.

    Args:
        found: a model.
        left: all that have left or leave.
        disclosure: the limits that hold.
    """
    alike = [other.sums for other in left if are_nearly_one(found, other)]
    if not alike:
        return False
    outcome = found.sums.means + found.sums.residuals
    return _are_of_few(found.sums, alike, outcome, disclosure)


class Model(Protocol):
    """A model at some coefficients, as `Fitted` has it."""

    @property
    def patients(self) -> npt.NDArray[np.object_]:
        """Pseudonyms, sorted."""

    @property
    def raw(self) -> npt.NDArray[np.float64]:
        """Columns as they were measured."""

    @property
    def predictor(self) -> npt.NDArray[np.float64]:
        """Linear predictor of each row."""


def are_nearly_one(found: Model, other: Model) -> bool:
    """Return whether columns that two models of the same patients share make both predictors."""
    import numpy as np

    if not np.array_equal(found.patients, other.patients):
        return False
    varied = [column for column in found.raw.T if np.ptp(column)]
    shared = [c for c in varied if any(np.array_equal(c, like) for like in other.raw.T)]
    if not shared:
        return False
    columns = np.column_stack(shared)
    away = columns - columns.mean(axis=0)
    basis = np.linalg.svd(away / np.linalg.norm(away, axis=0), full_matrices=False)[0]
    for model in (found, other):
        rest = model.predictor - model.predictor.mean()
        left = rest - basis @ (basis.T @ rest)
        if left @ left > NEARLY * (rest @ rest):
            return False
    return True


def _differ(found: Sums, other: Sums, disclosure: Disclosure) -> bool:
    """Return whether the numbers at two points differ by what few patients add."""
    import numpy as np

    away = _beside(found, np.ones(len(found.columns)))
    products = (away[:, :, None] * away[:, None]).reshape(len(away), -1)
    means, weights = found.means - other.means, found.weights - other.weights
    return (
        fewer_make(means, disclosure)
        or fewer_make(weights, disclosure)
        or two_make(away * means[:, None], disclosure)
        or two_make(products * weights[:, None], disclosure)
    )


def differ_beside(found: Fitted, other: Fitted, disclosure: Disclosure) -> bool:
    """Return whether few patients make what the numbers of two models differ by.

    Models of one column and others with coefficients of 0 are one and the same to who subtracts
    their numbers, and so are those of all patients and of a group at one point. Where they have
    columns in common, their sums of products with these are compared as well.

    Args:
        found: a model.
        other: another one; of patients whom both have, the same columns have the same values.
        disclosure: the limits that hold.
    """
    import numpy as np

    everyone, own = np.unique([*found.patients, *other.patients], return_inverse=True)
    here, there = own[: len(found.patients)], own[len(found.patients) :]
    common = np.intersect1d(here, there)
    if not common.size:
        return False

    def all_of(values: npt.NDArray[np.float64], rows: npt.NDArray[np.intp]) -> Any:
        every = np.zeros(len(everyone))
        every[rows] = values
        return every

    means = all_of(found.sums.means, here) - all_of(other.sums.means, there)
    weights = all_of(found.sums.weights, here) - all_of(other.sums.weights, there)
    if fewer_make(means, disclosure) or fewer_make(weights, disclosure):
        return True
    for column in found.raw.T:
        for like in other.raw.T:
            own_values, values = all_of(column, here), all_of(like, there)
            if np.array_equal(own_values[common], values[common]):
                values[here] = column
                away = values - np.median(values)
                parts = np.column_stack([away * means, np.square(away) * weights])
                if two_make(parts, disclosure):
                    return True
    return False


def _beside(found: Sums, factors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what each row adds to sums of factors, and of their products with columns."""
    import numpy as np

    away = found.columns[:, 1:] - np.median(found.columns[:, 1:], axis=0)
    both = np.column_stack([np.ones(len(away)), away])
    products: npt.NDArray[np.float64] = both * factors[:, None]
    return products


def two_make(parts: npt.NDArray[np.float64], disclosure: Disclosure) -> bool:
    """Return whether two rows make most of a column by magnitude; of one of zeros none do.

    The rules are those of `jipflow.analyses.spread.dominated`.
    """
    import numpy as np

    sizes = -np.sort(-np.abs(parts), axis=0)
    total, two = sizes.sum(axis=0), sizes[:2].sum(axis=0)
    most = two > disclosure.largest_two * total
    known = total - two < disclosure.p_percent / 100 * sizes[0]
    return bool(((most | known) & (total > 0)).any())


def fewer_make(parts: npt.NDArray[np.float64], disclosure: Disclosure) -> bool:
    """Return whether fewer rows than the minimum make most of a sum, by `REST`; of zeros none."""
    import numpy as np

    sizes = -np.sort(-np.abs(parts))
    return bool(sizes[disclosure.min_patients - 1 :].sum() < REST * sizes[0])

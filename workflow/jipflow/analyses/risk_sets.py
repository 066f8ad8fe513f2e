"""Score and information of Cox's partial likelihood in one stratum, and what they tell of few.

Cox (1972, "Regression models and life-tables", J. R. Stat. Soc. B 34:187-220) models the hazard of
a patient as that of the stratum times exp(x β). Events at the same time count by the approximation
of Efron (1977, "The efficiency of Cox's likelihood function for censored data", J. Am. Stat. Assoc.
72:557-565): of d events at a time the l-th, from 0, has the risk set in which these d count by
1 - l/d each. Of a time nothing but its rank enters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jipflow.analyses.design import INDEPENDENT, pair_dominates
from jipflow.analyses.likelihoods import EXACTLY, converge, fewer_make, two_make
from jipflow.analyses.spread import steps_of
from jipflow.settings.protocol import Disclosure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

WIDEST = 30.0
"""Largest difference of x β within a stratum: a patient who has the hazard of another times 1e13
leaves nothing of the other in float64."""

SEPARATE = 1e-2
"""Combinations of residuals at several coefficients that leave a smaller share of their
length are not looked at: Newton's last steps differ by less, and how many there are `saturation`
limits."""

ORDERS = 80
"""Binary logarithm of the fewest orders in which values and events can follow each other: who tries
them from both ends and meets in the middle keeps 2 to the power of half of it."""


@dataclass(frozen=True, eq=False)
class Stratum:
    """Patients by their times, the latest first.

    Attributes:
        columns: covariates less their means, which the likelihood does not depend on; shape
            (rows, columns).
        events: whether the time is that of an event, shape (rows,).
        group: number of the time of each row, 0 of the latest; shape (rows,).
        order: position of each row before they were sorted, shape (rows,).
    """

    columns: npt.NDArray[np.float64]
    events: npt.NDArray[np.bool_]
    group: npt.NDArray[np.intp]
    order: npt.NDArray[np.intp]

    @classmethod
    def of(
        cls,
        times: npt.NDArray[np.float64],
        events: npt.NDArray[np.bool_],
        columns: npt.NDArray[np.float64],
    ) -> Stratum:
        """Return the stratum of patients in any order.

        Args:
            times: until the event or the last contact, shape (rows,).
            events: whether it is the event, shape (rows,).
            columns: covariates, shape (rows, columns).
        """
        import numpy as np

        _, rising = np.unique(times, return_inverse=True)
        order = np.argsort(-times, kind="stable")
        group = (rising.max(initial=-1) - rising)[order]
        middle = columns.mean(axis=0) if times.size else 0.0
        return cls((columns - middle)[order], events[order], group, order)


@dataclass(frozen=True, eq=False)
class Sums:
    """What a stratum says of coefficients, with what each patient adds.

    Attributes:
        score: first derivatives of the logarithm of the partial likelihood, shape (columns,).
        information: second derivatives, negative; shape (columns, columns).
        expected: events that are expected of each row, shape (rows,).
        parts: what each row adds to the information, shape (rows, columns, columns).
        predictor: logarithm of the hazard of each row, but for a constant, shape (rows,).
    """

    score: npt.NDArray[np.float64]
    information: npt.NDArray[np.float64]
    expected: npt.NDArray[np.float64]
    parts: npt.NDArray[np.float64]
    predictor: npt.NDArray[np.float64]


def sums(stratum: Stratum, beta: npt.NDArray[np.float64]) -> Sums | None:
    """Return score and information of a stratum.

    Args:
        stratum: with an event at least.
        beta: coefficients of the columns, shape (columns,).

    Returns:
        None where x β differs between patients by more than `WIDEST`.
    """
    import numpy as np

    x = stratum.columns
    # A product of a large number and a large coefficient is beyond the range, and so too wide.
    with np.errstate(over="ignore", invalid="ignore"):
        predictor = x @ beta
        if not np.ptp(predictor) <= WIDEST:
            return None
    sets = _RiskSets(stratum, np.exp(predictor - predictor.max()))
    squares = x[:, :, None] * x[:, None, :]
    mean = sets.means(x)
    crossed = mean[:, :, None] * mean[:, None, :]
    score = x[stratum.events].sum(axis=0) - mean.sum(axis=0)
    information = (sets.means(squares) - crossed).sum(axis=0)
    expected = sets.shares(np.ones(mean.shape[0]))
    apart = x[:, :, None] * sets.shares(mean)[:, None, :]
    parts = expected[:, None, None] * squares - apart - apart.swapaxes(1, 2) + sets.shares(crossed)
    return Sums(score, information, expected, parts, predictor)


class _RiskSets:
    """The risk sets of a stratum, one for each event: of d events at a time the l-th has its own.

    Args:
        stratum: of patients.
        weight: hazard of each row, as a share of the largest, shape (rows,).
    """

    def __init__(self, stratum: Stratum, weight: npt.NDArray[np.float64]) -> None:
        import numpy as np

        self._weight = weight
        self._events = stratum.events
        self._group = stratum.group
        self._ends = np.flatnonzero(np.diff(self._group, append=self._group.max() + 1))
        deaths = np.bincount(self._group[self._events], minlength=self._ends.size)
        first = np.repeat(np.cumsum(deaths) - deaths, deaths)
        self._time = np.repeat(np.arange(deaths.size), deaths)
        number = np.arange(first.size) - first
        self._less = (number / deaths[self._time]).astype(np.float64)
        self._total = self._sums(np.ones(weight.size))

    def means(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the weighted mean over each risk set, shape (events, ...).

        Args:
            values: of the patients, shape (rows, ...).
        """
        return self._sums(values) / _rowwise(self._total, values)

    def shares(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return of each patient the sum over risk sets of a value times the patient's share.

        Args:
            values: of the risk sets, shape (events, ...).
        """
        import numpy as np

        each: npt.NDArray[np.float64] = values / _rowwise(self._total, values)
        tied = self._by_time(each * _rowwise(self._less, each))[self._group]
        so_far: npt.NDArray[np.float64] = np.cumsum(self._by_time(each)[::-1], axis=0)[::-1][
            self._group
        ]
        found: npt.NDArray[np.float64] = (
            so_far - _rowwise(self._events.astype(np.float64), so_far) * tied
        )
        return found * _rowwise(self._weight, found)

    def _sums(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        import numpy as np

        weighted = values * _rowwise(self._weight, values)
        dying = np.zeros((self._ends.size, *values.shape[1:]))
        np.add.at(dying, self._group[self._events], weighted[self._events])
        # The latest are first, so that small sums are not differences of large ones.
        whole: npt.NDArray[np.float64] = np.cumsum(weighted, axis=0)[self._ends][self._time]
        return whole - _rowwise(self._less, whole) * dying[self._time]

    def _by_time(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        import numpy as np

        found = np.zeros((self._ends.size, *values.shape[1:]))
        np.add.at(found, self._time, values)
        return found


def _rowwise(
    values: npt.NDArray[np.float64], other: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return a number a row so that it multiplies all that another array has in the row."""
    return values.reshape(-1, *[1] * (other.ndim - 1))


def rest_on_few(stratum: Stratum, found: Sums, disclosure: Disclosure) -> bool:
    """Return whether few patients make most of the numbers at some coefficients.

    The means of risk sets add up to a sum over patients that are weighted by their expected events.
    These weights must be worth the minimum of patients (Kish 1965, Survey Sampling, section 11.7:
    the squared sum over the sum of squares). In a model that holds they are about half of all.
    """
    import numpy as np

    worth = np.square(found.expected.sum()) / np.square(found.expected).sum()
    return (
        bool(worth < disclosure.min_patients)
        or two_make(_residuals(stratum, stratum.events - found.expected), disclosure)
        or _pair_makes(found, disclosure.largest_two)
    )


def differ_in_few(
    stratum: Stratum, found: Sums, others: Sequence[Sums], disclosure: Disclosure
) -> bool:
    """Return whether few patients make what numbers at some coefficients are beside others.

    They are compared with those at each other coefficients, and residuals (events less those
    expected) with any combination of all of them, as pairs of patients: combinations of the scores
    and of a covariate's sum are sums of the covariate by such weights. At coefficients that come
    near to each other otherwise than Newton's do, any combination counts however small, also of
    informations.

    Args:
        stratum: of patients.
        found: at the coefficients.
        others: of the same patients, at other ones.
        disclosure: the limits that hold.
    """
    import numpy as np

    if any(_differ(stratum, found, other, disclosure) for other in others):
        return True
    residuals = [stratum.events - each.expected for each in (*others, found)]
    every = np.column_stack([np.ones(stratum.events.size), *residuals])
    if converge(found.predictor, [other.predictor for other in others]):
        return pair_dominates(every, disclosure.largest_two, SEPARATE)
    parts = np.stack([each.parts for each in (*others, found)], axis=-1)
    columns = range(parts.shape[1])
    return any(
        pair_dominates(combined, disclosure.largest_two, EXACTLY)
        for combined in (every, *(parts[:, i, j] for i in columns for j in range(i + 1)))
    )


def _differ(stratum: Stratum, found: Sums, other: Sums, disclosure: Disclosure) -> bool:
    """Return whether the numbers at two coefficients differ by what few patients add."""
    changed = found.expected - other.expected
    rows, columns = stratum.columns.shape
    return (
        fewer_make(changed, disclosure)
        or two_make(_residuals(stratum, changed), disclosure)
        or two_make((found.parts - other.parts).reshape(rows, columns**2), disclosure)
    )


def _residuals(stratum: Stratum, factors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what each row adds to sums of covariates by factors that add up to 0."""
    import numpy as np

    away = stratum.columns - np.median(stratum.columns, axis=0)
    found: npt.NDArray[np.float64] = away * factors[:, None]
    return found


def _pair_makes(found: Sums, limit: float) -> bool:
    """Return whether two rows make more than a share of the information of a combination.

    In units in which the information is 1 in each direction, it is the greatest eigenvalue of what
    both add.
    """
    import numpy as np

    # A column that is the same in everyone adds nothing; one that differs has an information.
    there = found.parts.any(axis=(0, 2))
    information, own_parts = found.information[there][:, there], found.parts[:, there][:, :, there]
    length = np.sqrt(np.diag(information))
    if not (length.size and (length > 0).all()):
        return True
    values, vectors = np.linalg.eigh(information / length / length[:, None])
    kept = values > INDEPENDENT * values[-1]
    units = vectors[:, kept] / np.sqrt(values[kept]) / length[:, None]
    parts = units.T @ own_parts @ units
    own = np.linalg.eigvalsh(parts)[:, -1]
    for high in np.flatnonzero(own > limit / 2):
        others = np.delete(np.arange(own.size), high)
        likely = others[own[others] > limit - own[high]]
        both = np.linalg.eigvalsh(parts[high] + parts[likely])[:, -1]
        if float(both.max(initial=own[high])) > limit:
            return True
    return False


def few_events(
    events: npt.NDArray[np.bool_], columns: npt.NDArray[np.float64], minimum: int
) -> bool:
    """Return whether too few have the event, or too few have not, of all or of a class.

    Args:
        events: of each patient, shape (rows,).
        columns: covariates, shape (rows, columns); one of two values divides them into classes.
        minimum: fewest patients. Nobody without the event is enough, and of a class nobody with it.
    """
    import numpy as np

    two = [column == column.max() for column in columns.T if np.unique(column).size == 2]
    classes = [high for each in two for high in (each, ~each)]
    numbers = [int(events.sum()), int((~events).sum())]
    numbers += [int((each & chosen).sum()) for chosen in classes for each in (events, ~events)]
    return not numbers[0] or any(0 < number < minimum for number in numbers)


def few_orders(events: npt.NDArray[np.bool_], columns: npt.NDArray[np.float64]) -> bool:
    """Return whether a covariate has so few values that its order in time can be tried out.

    At coefficients of 0 the score of a covariate is a function of which of its values follow each
    other, and where events are: with all digits it fits few of the orders, and one of them only if
    these are few. See `ORDERS`.
    """
    import numpy as np

    for column in columns.T:
        steps = steps_of(column)
        # The score of a value of a category that nobody has is 0, whatever the order.
        if steps is None or not steps.any():
            continue
        highest = int(steps.max())
        _, counts = np.unique(np.column_stack([steps, events]), axis=0, return_counts=True)
        ways = _log_binomial(steps.size + highest, highest) + math.lgamma(steps.size + 1)
        ways -= sum(math.lgamma(int(number) + 1) for number in counts)
        if ways < ORDERS * math.log(2):
            return True
    return False


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

"""A Cox model at a site: its patients, what leaves of it, and by which rules it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from jipflow.analyses import design
from jipflow.analyses.design import Design, broken, pair_dominates
from jipflow.analyses.facts import LedgerCell
from jipflow.analyses.forms import LARGEST
from jipflow.analyses.generalised import MANY_POINTS, RESTS_ON_FEW
from jipflow.analyses.likelihoods import EXACTLY, are_nearly_one, converge, two_make
from jipflow.analyses.moments import LARGEST_SCATTER, NUMBER_RANGE
from jipflow.analyses.risk_sets import (
    SEPARATE,
    Stratum,
    Sums,
    differ_in_few,
    few_events,
    few_orders,
    rest_on_few,
    sums,
)
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.settings.protocol import Disclosure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

KIND = "cox"

FEW_WITH_EVENT = Rule(
    "few_with_event",
    "Patients with the event must be the minimum, and those without it nobody or the minimum; of "
    "each class of a variable of two values either must be nobody or the minimum.",
    because="too few patients have the event, or too few have not",
)
FEW_ORDERS = Rule(
    "few_orders",
    "The score of a variable of few values depends on the order in which these and the events "
    "follow each other: there must be so many orders that nobody can try them all.",
    because="so few orders of values and events are possible that they could be tried out",
)
RULES = (*design.RULES, FEW_WITH_EVENT, FEW_ORDERS, MANY_POINTS, RESTS_ON_FEW)


@dataclass(frozen=True, eq=False)
class Content:
    """A model at a site.

    Attributes:
        rows: of the predictor and the covariates.
        times: until the event or the last contact, shape (rows,).
        events: whether it is the event, shape (rows,).
        beta: coefficients that were stated.
    """

    rows: Design
    times: npt.NDArray[np.float64]
    events: npt.NDArray[np.bool_]
    beta: tuple[float, ...]

    @cached_property
    def stratum(self) -> Stratum:
        """The patients by their times."""
        return Stratum.of(self.times, self.events, self.rows.raw)

    def at(self, beta: Sequence[float]) -> Sums | None:
        """Return the sums at coefficients; None where these are too large."""
        import numpy as np

        return sums(self.stratum, np.array(beta))


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model at some coefficients, with what each patient adds.

    Attributes:
        patients: pseudonyms, sorted, shape (rows,).
        raw: columns as they were measured, shape (rows, columns).
        endings: number of its time and whether it is that of the event, shape (rows, 2).
        predictor: logarithm of the hazard of each row, but for a constant, shape (rows,).
        residuals: events less those that are expected, shape (rows,).
        parts: of the information of each column, shape (rows, columns).
    """

    patients: npt.NDArray[np.object_]
    raw: npt.NDArray[np.float64]
    endings: npt.NDArray[np.float64]
    predictor: npt.NDArray[np.float64]
    residuals: npt.NDArray[np.float64]
    parts: npt.NDArray[np.float64]


def fitted(content: Content) -> Fitted | None:
    """Return a model at its coefficients; None where these are too large."""
    import numpy as np

    found, stratum = content.at(content.beta), content.stratum
    if found is None:
        return None
    before = np.argsort(stratum.order)
    sorted_ = np.argsort(content.rows.patients.astype(str), kind="stable")
    rows = before[sorted_]
    return Fitted(
        content.rows.patients[sorted_],
        content.rows.raw[sorted_],
        np.column_stack([stratum.group, stratum.events])[rows],
        (stratum.columns @ np.array(content.beta))[rows],
        (stratum.events - found.expected)[rows],
        np.diagonal(found.parts, axis1=1, axis2=2)[rows],
    )


def differ_beside(found: Fitted, other: Fitted, disclosure: Disclosure) -> bool:
    """Return whether one or two patients make what the numbers of two models differ by.

    A model with a further column whose coefficient is 0 is the same to who subtracts its numbers of
    the columns that both have, and so may be a model of a group.

    Args:
        found: a model.
        other: another one; of patients whom both have, the same columns have the same values.
        disclosure: the limits that hold.
    """
    import numpy as np

    everyone, place = np.unique([*found.patients, *other.patients], return_inverse=True)
    here, there = place[: len(found.patients)], place[len(found.patients) :]
    common = np.intersect1d(here, there)
    if not common.size:
        return False
    values, values_there, ours, theirs = np.zeros((4, len(everyone)))
    ours[here], theirs[there] = found.residuals, other.residuals
    for i, column in enumerate(found.raw.T):
        for j, like in enumerate(other.raw.T):
            values[here], values_there[there] = column, like
            if not np.array_equal(values[common], values_there[common]):
                continue
            away = np.where(np.isin(np.arange(len(everyone)), here), values, values_there)
            parts = np.zeros((2, len(everyone)))
            parts[0][here], parts[1][there] = found.parts[:, i], other.parts[:, j]
            differences = [(away - np.median(away)) * (ours - theirs), parts[0] - parts[1]]
            if two_make(np.column_stack(differences), disclosure):
                return True
    return False


def combine_to_few(found: Fitted, left: Sequence[Fitted], disclosure: Disclosure) -> bool:
    """Return whether a combination of scores of several models is nearly that of two patients.

    Models of the same times and events whose further columns hardly count are one model at several
    coefficients, see `jipflow.analyses.risk_sets.differ_in_few`.

    Args:
        found: a model.
        left: all that have left or leave.
        disclosure: the limits that hold.
    """
    import numpy as np

    alike = [
        other
        for other in left
        if np.array_equal(other.endings, found.endings) and are_nearly_one(found, other)
    ]
    if not alike:
        return False
    residuals = [each.residuals for each in (*alike, found)]
    every = np.column_stack([np.ones(len(found.patients)), *residuals])
    usual = converge(found.predictor, [other.predictor for other in alike])
    return pair_dominates(every, disclosure.largest_two, SEPARATE if usual else EXACTLY)


def content_of(every: Design, beta: Sequence[float] | None) -> Content:
    """Return a model of rows whose last two columns are the time and the event."""
    rows = replace(
        every,
        keys=every.keys[:-2],
        of=every.of[:-2],
        raw=every.raw[:, :-2],
        centers=every.centers[:-2],
        scales=every.scales[:-2],
    )
    times, events = every.raw[:, -2], every.raw[:, -1] == 1
    return Content(rows, times, events, tuple(beta) if beta else (0.0,) * len(rows.keys))


def left_of(model: Sequence[LedgerCell]) -> Content | None:
    """Return a Cox model that left as its pieces; None of one of another kind.

    Args:
        model: as `Known.models` gives it.
    """
    import numpy as np

    first = model[0]
    if first.kind != KIND or first.number != 0:
        return None
    beta = tuple(first.released["beta"])
    size = len(beta)
    raw = np.column_stack([piece.values.numbers for piece in model[: size + 2]])
    people = first.values.patients
    keys = tuple(piece.key for piece in model[: size + 2])
    ones = np.ones(size + 2)
    every = Design(people, people, keys, tuple(range(-1, size + 1)), raw, 0 * ones, ones)
    return content_of(every, beta)


def beside(
    content: Content,
    points: set[tuple[float, ...]],
    most: int,
    disclosure: Disclosure,
    left: Sequence[Fitted] = (),
) -> Passed | Withheld:
    """Withhold numbers that tell of few patients, by themselves or beside others.

    Args:
        content: the model.
        points: coefficients at which numbers of it have left or leave.
        most: how many these may be.
        disclosure: the limits that hold.
        left: all models that have left or leave, whatever their columns.
    """
    import numpy as np

    rows, events = content.rows, content.events
    rule = broken(rows, disclosure, rows.raw.shape[1], int(events.sum()))
    if rule is None and few_events(events, rows.raw, disclosure.min_patients):
        rule = FEW_WITH_EVENT
    if rule is None and few_orders(events, rows.raw):
        rule = FEW_ORDERS
    if rule is None and len(points | {content.beta}) > max(most, len(points)):
        rule = MANY_POINTS
    if rule is not None:
        return Withheld(rule)
    found = content.at(content.beta)
    if found is None or rest_on_few(content.stratum, found, disclosure):
        return Withheld(RESTS_ON_FEW)
    # The same numbers once more tell nothing new.
    if content.beta not in points and _beside_others(content, found, points, disclosure, left):
        return Withheld(RESTS_ON_FEW)
    if np.abs(found.score).max() > LARGEST or np.abs(found.information).max() > LARGEST_SCATTER:
        return Withheld(NUMBER_RANGE)
    return Passed(
        {
            "events": int(events.sum()),
            "beta": list(content.beta),
            "score": found.score.tolist(),
            "information": [row[: i + 1].tolist() for i, row in enumerate(found.information)],
        }
    )


def _beside_others(
    content: Content,
    found: Sums,
    points: set[tuple[float, ...]],
    disclosure: Disclosure,
    left: Sequence[Fitted],
) -> bool:
    """Return whether few patients make what numbers are beside all that have left or leave."""
    others = [content.at(point) for point in sorted(points)]
    known = [other for other in others if other is not None]
    if differ_in_few(content.stratum, found, known, disclosure):
        return True
    own = fitted(content)
    if own is None or any(differ_beside(own, each, disclosure) for each in left):
        return True
    return combine_to_few(own, left, disclosure)

"""How the values of a cell are spread over patients: what a mean and a scatter tell of few of them.

The measures are those of statistical disclosure control for sums over persons (Hundepool et al.,
Statistical Disclosure Control, Wiley 2012, section 4.2; the manual of tau-ARGUS calls them
sensitivity rules): dominance of the largest contributors, and the p% rule.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jipflow.analyses.cells import Values

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SPREAD = 1e-9
"""Values whose range is at most this share of their largest magnitude count as equal."""

GUESSES = 10
"""Fewer ways than these in which whole numbers give the same mean and scatter count as known."""


def few(number: int, minimum: int) -> bool:
    """Return whether a number of patients is that of someone, but of fewer than the minimum."""
    return 0 < number < minimum


def few_differ(values: Values, minimum: int) -> bool:
    """Return whether all patients have one and the same value, or all but fewer than the minimum.

    With most at one value (0, where a finding is absent) the mean is the sum of the few others.

    Args:
        values: of a cell.
        minimum: fewest patients; where fewer have the commonest value, none is the value of most.
    """
    import numpy as np

    numbers = np.sort(values.numbers)
    level = SPREAD * float(np.abs(numbers).max(initial=0.0))
    starts = np.flatnonzero(np.diff(numbers, prepend=-np.inf) > level)
    longest = int(np.diff(starts, append=numbers.size).argmax()) if numbers.size else 0
    lowest = numbers[starts[longest]] if numbers.size else 0.0
    ends = starts[longest + 1] if longest + 1 < starts.size else numbers.size
    common = (values.numbers >= lowest) & (values.numbers <= numbers[ends - 1])
    others = len(set(values.patients[~common]))
    return others < minimum <= len(set(values.patients)) - others


def dominated(values: Values, largest_two: float, p_percent: float) -> bool:
    """Return whether one or two patients make most of the mean, or most of the scatter.

    Contributions are magnitudes of values, summed by patient; likewise distances from the median,
    which show one patient beside others who all have one value that is not 0. With contributions
    x1 >= x2 >= ... of the sum X, the values are dominated if x1 + x2 > `largest_two` X (of the
    magnitudes only), or if X - x1 - x2 < `p_percent`/100 x1: then who knows x2 knows x1 to p%.

    Args:
        values: of a cell, at least one.
        largest_two: share of X, the (n,k) rule with n = 2.
        p_percent: the p of the p% rule.
    """
    import numpy as np

    numbers = values.numbers
    magnitudes = _by_patient(np.abs(numbers), values.patients)
    distances = _by_patient(np.abs(numbers - np.median(numbers)), values.patients)
    p = p_percent / 100
    return (
        float(magnitudes[:2].sum()) > largest_two * float(magnitudes.sum())
        or float(magnitudes[2:].sum()) < p * float(magnitudes[0])
        or float(distances[2:].sum()) < p * float(distances[0])
    )


def _by_patient(
    parts: npt.NDArray[np.float64], patients: npt.NDArray[np.object_]
) -> npt.NDArray[np.float64]:
    """Return the sums of parts by patient, the largest first."""
    import numpy as np

    _, owner = np.unique(patients.astype(str), return_inverse=True)
    return np.sort(np.bincount(owner, weights=parts).astype(np.float64))[::-1]


def few_levels(values: Values, minimum: int) -> bool:
    """Return whether the values lie on so few levels that mean and scatter give away how many each.

    Sum and sum of squares of whole numbers are whole numbers. The k values between 0 and R can be
    chosen in C(k + R, R) ways, which share about k² R³ pairs of the two sums; where a pair has only
    a handful of ways, whoever solves it has the values. Then each level is a number of patients
    that is given away, and must be that of nobody or of the minimum.

    Args:
        values: of a cell.
        minimum: fewest patients.
    """
    import numpy as np

    levels = steps_of(values.numbers)
    if levels is None:
        return False
    k, highest = levels.size, int(levels.max())
    ways = math.lgamma(k + highest + 1) - math.lgamma(k + 1) - math.lgamma(highest + 1)
    if ways - 2 * math.log(k) - 3 * math.log(max(highest, 1)) >= math.log(GUESSES):
        return False
    there = (len(set(values.patients[levels == level])) for level in np.unique(levels))
    return any(number < minimum for number in there)


def steps_of(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """Return values in steps above the lowest, or None where they have no step in common."""
    import numpy as np

    above = numbers - numbers.min()
    steps = np.diff(np.unique(above))
    steps = steps[steps > SPREAD * np.abs(numbers).max()]
    if steps.size == 0:
        return np.zeros_like(numbers)
    whole = np.all(above == np.rint(above)) and above.max() < 2**53
    step = float(np.gcd.reduce(above.astype(np.int64))) if whole else float(steps.min())
    levels: npt.NDArray[np.float64] = above / step
    fits = np.abs(levels - np.rint(levels)) <= 1e-6 * np.maximum(levels, 1)
    return np.rint(levels) if fits.all() else None

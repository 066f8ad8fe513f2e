"""Variables that are one and the same to who subtracts their sums or nests their bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jipflow.analyses.cells import Values

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FEWEST = 3
"""Common cases below which two variables have no correlation that means anything."""

CHUNK = 1000
"""Variables that are compared with all others at once, which bounds the memory."""


def alike(these: Sequence[Values], those: Sequence[Values]) -> npt.NDArray[np.bool_]:
    """Return which variables are alike: in value but for scale and offset, or in order.

    Where they have the correlation r in n cases, the sum of n values of one is known from that of
    the other with an error of sqrt(n (1 - r²)) standard deviations of a value. They are alike where
    that is less than one: better than to guess a value by the mean.

    Pearson's correlation finds volumes in mm³ and in ml or of two segmentations of one region;
    Spearman's whatever rises or falls with the other, such as volume and diameter. Where one of
    them is constant in the common cases, they count as alike.

    Args:
        these: variables of one set of cases.
        those: variables of another one, or the same.

    Returns:
        Shape (these, those).
    """
    import numpy as np
    from scipy.stats import rankdata

    found = np.zeros((len(these), len(those)), dtype=bool)
    if not these or not those:
        return found
    common = np.array(sorted(these[0].cases & those[0].cases), dtype=object)
    if common.size < FEWEST:
        return found
    left, right = _table(these, common), _table(those, common)
    for of in (lambda table: table, lambda table: rankdata(table, axis=1)):
        a, b = _standard(of(left)), _standard(of(right))
        for start in range(0, len(these), CHUNK):
            part = np.abs(a[start : start + CHUNK] @ b.T)
            found[start : start + CHUNK] |= ~(common.size * (1 - part**2) > 1)
    return found


def like_an_earlier(variables: Sequence[Values]) -> list[bool]:
    """Return of each variable whether one before it is like it."""
    import numpy as np

    groups: dict[frozenset[str], list[int]] = {}
    for i, values in enumerate(variables):
        groups.setdefault(values.cases, []).append(i)
    found = np.zeros(len(variables), dtype=bool)
    for these in groups.values():
        for those in groups.values():
            pairs = alike([variables[i] for i in these], [variables[i] for i in those])
            before = np.array(those)[None, :] < np.array(these)[:, None]
            found[these] |= (pairs & before).any(axis=1)
    return found.tolist()


def _table(variables: Sequence[Values], cases: npt.NDArray[np.object_]) -> npt.NDArray[np.float64]:
    """Return the values of the cases, shape (variables, cases)."""
    import numpy as np

    rows = []
    for values in variables:
        order = np.argsort(values.case_ids)
        there = np.searchsorted(values.case_ids[order], cases)
        rows.append(values.numbers[order[there]])
    return np.array(rows)


def _standard(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rows with mean 0 and length 1; NaN where a row is constant."""
    import numpy as np

    scale = np.abs(table).max(axis=1, keepdims=True)
    table = table / np.where(scale > 0, scale, 1)
    centred = table - table.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled: npt.NDArray[np.float64] = np.where(length > 1e-12, centred / length, np.nan)
    return scaled

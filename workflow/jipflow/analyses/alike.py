"""Variables that are one and the same to who subtracts their sums or nests their bins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    Spearman's whatever rises or falls with the other, such as volume and diameter. One that is
    constant in the common cases is like none.

    Args:
        these: variables of one set of cases.
        those: variables of another one, or the same.

    Returns:
        Shape (these, those).
    """
    import numpy as np

    found = np.zeros((len(these), len(those)), dtype=bool)
    if not these or not those:
        return found
    common = np.array(sorted(these[0].cases & those[0].cases), dtype=object)
    if common.size < FEWEST:
        return found
    left, right = _table(these, common), _table(those, common)
    for of in (lambda table: table, _ranks):
        a, b = _standard(of(left)), _standard(of(right))
        for start in range(0, len(these), CHUNK):
            part = np.abs(a[start : start + CHUNK] @ b.T)
            found[start : start + CHUNK] |= common.size * (1 - part**2) < 1
    return found


def like_an_earlier(variables: Sequence[Values]) -> list[bool]:
    """Return of each variable whether one before it is like it."""
    import numpy as np

    found = np.zeros(len(variables), dtype=bool)
    for first, second in _pairs(variables):
        found[np.maximum(first, second)[first != second]] = True
    return found.tolist()


def like_ones(variables: Sequence[Values]) -> list[int]:
    """Return a number for each variable, the same for those that are alike or like a third one."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = len(variables)
    pairs = np.concatenate([np.zeros((2, 0), dtype=np.intp), *map(np.array, _pairs(variables))], 1)
    links = coo_array((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), shape=(size, size))
    return connected_components(links, directed=False)[1].tolist() if size else []


def _pairs(
    variables: Sequence[Values],
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Yield the positions of variables that are alike, each with itself as well."""
    import numpy as np

    sets: dict[frozenset[str], list[int]] = {}
    for i, values in enumerate(variables):
        sets.setdefault(values.cases, []).append(i)
    groups = [np.array(group) for group in sets.values()]
    for n, these in enumerate(groups):
        for those in groups[n:]:
            left, right = ([variables[i] for i in group] for group in (these, those))
            row, column = np.nonzero(alike(left, right))
            yield these[row], those[column]


def _table(variables: Sequence[Values], cases: npt.NDArray[np.object_]) -> npt.NDArray[np.float64]:
    """Return the values of the cases, shape (variables, cases)."""
    import numpy as np

    rows = []
    for values in variables:
        order = np.argsort(values.case_ids)
        there = np.searchsorted(values.case_ids[order], cases)
        rows.append(values.numbers[order[there]])
    return np.array(rows)


def _ranks(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the ranks of the values in each row, the mean one of those that are equal.

    `scipy.stats.rankdata` gives the same, and takes half a second to import.
    """
    import numpy as np
    import pandas as pd

    return np.ascontiguousarray(pd.DataFrame(table).rank(axis=1))


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

"""Tables of counts: which of them may be shown to whoever knows the sums of rows and columns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from jipflow.analyses.bins import bins_to_hide, hides
from jipflow.analyses.spread import few

Counts = Sequence[Sequence[int]]
Shown = Sequence[Sequence[int | None]]
Positions = frozenset[tuple[int, int]]

WITHHELD = "withheld"
ONE_GROUP = "one_group"


def counts_to_hide(table: Counts, minimum: int) -> Positions | None:
    """Choose which counts of a table to withhold.

    Of a table of one column they are the bins of a histogram, see `bins_to_hide`. Else they are all
    where some rows and some columns cross, two of either at least. Then no number of patients
    follows of these but the sums of each row and of each column among them (a function of row and
    column that is 0 or 1, and the sum of one of the row and one of the column, is one of either),
    which must be nobody or the minimum. A count is no less than 0 or what its row and its column
    have above all together, and no more than the lesser of the two (Fréchet's bounds; Dobra and
    Fienberg 2000, "Bounds for cell entries in contingency tables given marginal totals", PNAS
    97:11885-11892): one of few may be nobody, or the minimum.

    Args:
        table: patients by row and column; each patient is in one of them.
        minimum: fewest patients.

    Returns:
        Rows and columns of the counts, or None where no choice leaves any count.
    """
    if len(table[0]) == 1:
        numbers = [row[0] for row in table]
        bins = bins_to_hide(numbers, sum(numbers), minimum)
        return None if bins is None else frozenset((i, 0) for i in bins)
    places = list(itertools.product(range(len(table)), range(len(table[0]))))
    small = [(i, j) for i, j in places if few(table[i][j], minimum)]
    if not small:
        return frozenset()
    totals = [sum(row) for row in table], [sum(column) for column in zip(*table, strict=True)]
    if any(few(total, minimum) for of in totals for total in of):
        return None
    chosen = {i for i, _ in small}, {j for _, j in small}
    while (grown := _lacking(table, small, chosen, minimum)) is not None:
        found = _next(totals, chosen, grown)
        if found is None:
            return None
        axis, number = found
        chosen[axis].add(number)
    hidden = frozenset(itertools.product(*chosen))
    return hidden if len(hidden) < len(places) else None


def _lacking(
    table: Counts,
    small: Sequence[tuple[int, int]],
    chosen: tuple[set[int], set[int]],
    minimum: int,
) -> int | None:
    """Return whether rows (0) or columns (1) must be added to what is withheld; None if none."""
    rows, columns = (sorted(of) for of in chosen)
    of_row = {i: sum(table[i][j] for j in columns) for i in rows}
    of_column = {j: sum(table[i][j] for i in rows) for j in columns}
    total = sum(of_row.values())
    if len(rows) < 2 or any(few(number, minimum) for number in of_column.values()):
        return 0
    if len(columns) < 2 or any(few(number, minimum) for number in of_row.values()):
        return 1
    return 0 if any(of_row[i] + of_column[j] > total for i, j in small) else None


def _next(
    totals: tuple[list[int], list[int]], chosen: tuple[set[int], set[int]], axis: int
) -> tuple[int, int] | None:
    """Return the row or column with the fewest patients that is not withheld yet.

    Args:
        totals: patients of each row and of each column.
        chosen: rows and columns that are withheld.
        axis: of which one is needed; one of the other axis is next where none of it is left.
    """
    for of in (axis, 1 - axis):
        left = [(n, i) for i, n in enumerate(totals[of]) if i not in chosen[of]]
        if left:
            return of, min(left)[1]
    return None


def tells(table: Shown, patients: int, minimum: int) -> bool:
    """Return whether a table of counts tells more than the gate of a site lets out.

    Args:
        table: by row and column, None where withheld.
        patients: in all of it.
        minimum: fewest patients.
    """
    shown = [number for row in table for number in row if number is not None]
    if any(few(number, minimum) for number in shown) or not any(shown):
        return True
    if len(table[0]) == 1:
        return max(shown) == patients or not hides([row[0] for row in table], patients, minimum)
    hidden = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) if n is None]
    if not hidden:
        lines = (*table, *zip(*table, strict=True))
        return any(_known(line) in (*range(1, minimum), patients) for line in lines)
    rows, columns = {i for i, _ in hidden}, {j for _, j in hidden}
    crossed = len(hidden) == len(rows) * len(columns) and min(len(rows), len(columns)) > 1
    return not crossed or patients - sum(shown) < minimum


def _known(line: Sequence[int | None]) -> int:
    return sum(number for number in line if number is not None)


def one_value(table: Counts) -> bool:
    """Return whether all patients are in one row, or, of several columns, in one of these."""
    patients = sum(map(sum, table))
    return any(patients == n for n in _lines(table))


def _lines(table: Counts) -> Iterator[int]:
    yield from (sum(row) for row in table)
    if len(table[0]) > 1:
        yield from (sum(column) for column in zip(*table, strict=True))


def chi_square(table: Shown) -> dict[str, Any]:
    """Test whether rows and columns of a table are independent.

    Pearson's statistic (1900, Phil. Mag. 50:157-175) without a correction, of rows and columns that
    have anyone, and Cramér's V (Mathematical Methods of Statistics, 1946, section 21.9).

    Args:
        table: by row and column, None where withheld.

    Returns:
        ``statistic``, ``df``, ``p``, ``v`` and ``least_expected``; they are null where ``reason``
        says why.
    """
    import numpy as np
    from scipy.stats import chi2

    without = dict.fromkeys(("statistic", "df", "p", "v", "least_expected"))
    if any(number is None for row in table for number in row):
        return {**without, "reason": WITHHELD}
    counts = np.array(table, dtype=np.float64)
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    rows, columns = counts.shape
    if min(rows, columns) < 2:
        return {**without, "reason": ONE_GROUP}
    n = counts.sum()
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / n
    statistic = float((np.square(counts - expected) / expected).sum())
    df = (rows - 1) * (columns - 1)
    return {
        "statistic": statistic,
        "df": df,
        "p": float(chi2.sf(statistic, df)),
        "v": math.sqrt(statistic / (n * (min(rows, columns) - 1))),
        "least_expected": float(expected.min()),
    }

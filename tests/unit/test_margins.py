"""No count of few follows from a table and the sums of its rows and columns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from scipy.stats.contingency import association

from jipflow.analyses.margins import chi_square, counts_to_hide, one_value, tells
from jipflow.analyses.spread import few


def hidden(table, minimum=5):
    found = counts_to_hide(table, minimum)
    return None if found is None else sorted(found)


def without(table, positions):
    return [
        [None if (i, j) in positions else n for j, n in enumerate(row)]
        for i, row in enumerate(table)
    ]


def test_counts_of_enough_and_of_nobody_are_shown():
    assert hidden([[5, 0, 7], [9, 12, 0]]) == []


def test_a_count_of_few_is_withheld_with_those_where_its_rows_and_columns_cross():
    table = [[30, 20, 3], [25, 9, 14], [40, 33, 21]]
    assert hidden(table) == [(0, 1), (0, 2), (1, 1), (1, 2)]


@pytest.mark.parametrize("table", [[[30, 2], [3, 0]], [[20, 4], [20, 0]], [[9, 9], [1, 2]]])
def test_a_row_or_a_column_of_few_keeps_the_table(table):
    assert hidden(table) is None


def test_a_table_of_which_no_count_is_left_is_withheld():
    assert hidden([[30, 3], [20, 40]]) is None


def test_of_one_column_few_are_withheld_with_another():
    assert hidden([[40], [3], [9], [20]]) == [(1, 0), (2, 0)]
    assert hidden([[40], [3], [0]]) is None
    assert hidden([[40], [5], [0]]) == []


def with_sums(rows, columns):
    """Yield all tables of whole numbers that have these sums."""
    if len(rows) == 1:
        if sum(columns) == rows[0]:
            yield [list(columns)]
        return
    for first in itertools.product(*(range(n + 1) for n in columns)):
        if sum(first) == rows[0]:
            left = [n - m for n, m in zip(columns, first, strict=True)]
            yield from ([list(first), *rest] for rest in with_sums(rows[1:], left))


@pytest.mark.parametrize("seed", range(60))
def test_whoever_knows_all_sums_finds_no_count_of_few(seed):
    random = np.random.default_rng(seed)
    minimum = 3
    shape = random.integers(2, 5, 2)
    table = random.choice([0, 1, 2, 3, 4, 5, 6], shape, p=[0.1, 0.12, 0.1, 0.2, 0.2, 0.18, 0.1])
    found = counts_to_hide(table.tolist(), minimum)
    if found is None or one_value(table.tolist()):
        return
    shown = without(table.tolist(), found)
    assert not tells(shown, int(table.sum()), minimum)
    if not found:
        assert not any(few(n, minimum) for n in table.flat)
        return
    rows, columns = (sorted({place[axis] for place in found}) for axis in (0, 1))
    inside = table[np.ix_(rows, columns)]
    sums = [*inside.sum(axis=0), *inside.sum(axis=1)]
    assert not any(few(n, minimum) for n in sums)
    if inside.sum() > 30 or inside.size > 9:
        return
    every = np.array(list(with_sums(inside.sum(axis=1).tolist(), inside.sum(axis=0).tolist())))
    assert len(every) > 1
    for i, j in zip(*np.nonzero((inside > 0) & (inside < minimum)), strict=True):
        assert every[:, i, j].min() == 0
        assert every[:, i, j].max() >= minimum


@pytest.mark.parametrize(
    ("table", "patients"),
    [
        ([[4, 20], [20, 20]], 64),
        ([[None, 20], [20, 20]], 70),
        ([[None, None], [20, 20]], 70),
        ([[None, 20], [20, None]], 70),
        ([[None, None, 9], [None, None, 9], [9, 9, 9]], 49),
        ([[20, 0], [3, 0]], 23),
        ([[20, 20], [0, 0]], 40),
        ([[None, None], [None, None]], 40),
        ([[None], [20]], 40),
        ([[20], [0]], 20),
    ],
)
def test_tables_that_no_gate_lets_out(table, patients):
    assert tells(table, patients, 5)


def test_tables_that_a_gate_lets_out():
    assert not tells([[None, None, 9], [None, None, 9], [9, 9, 9]], 80, 5)
    assert not tells([[5, 0], [0, 9]], 14, 5)
    assert not tells([[None], [None], [20]], 30, 5)


@pytest.mark.parametrize("shape", [(2, 2), (3, 4), (5, 2)])
def test_chi_square_is_that_of_scipy(shape):
    table = np.random.default_rng(sum(shape)).integers(0, 40, shape)
    table[0, 0] = 0
    peer = chi2_contingency(table, correction=False)
    found = chi_square(table.tolist())
    assert found["statistic"] == pytest.approx(peer.statistic, rel=1e-9)
    assert (found["df"], found["p"]) == (peer.dof, pytest.approx(peer.pvalue, rel=1e-9))
    assert found["v"] == pytest.approx(association(table, method="cramer"), rel=1e-9)
    assert found["least_expected"] == pytest.approx(peer.expected_freq.min(), rel=1e-9)


def test_an_empty_row_counts_nothing():
    assert chi_square([[5, 9], [0, 0], [8, 7]]) == chi_square([[5, 9], [8, 7]])


@pytest.mark.parametrize(
    ("table", "reason"), [([[5, None], [8, 9]], "withheld"), ([[5, 8], [0, 0]], "one_group")]
)
def test_why_there_is_no_test(table, reason):
    found = chi_square(table)
    assert found.pop("reason") == reason
    assert set(found.values()) == {None}

"""Variables are alike where one tells the sum, or the order, of the other."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import rankdata

from jipflow.analyses.alike import _ranks, alike, like_an_earlier, like_ones
from jipflow.analyses.cells import Values

RNG = np.random.default_rng(5)
BASE = RNG.normal(1250, 120, 20)


def values_of(numbers, first=0):
    """Return values of the cases from one on, in an order of their own."""
    ids = np.array([f"c{i:04d}" for i in range(first, first + len(numbers))], dtype=object)
    order = np.random.default_rng(len(numbers)).permutation(len(numbers))
    return Values(np.asarray(numbers, float)[order], ids[order], ids[order], frozenset(ids))


def pair(a, b):
    return bool(alike([a], [b])[0, 0])


@pytest.mark.parametrize(
    "other",
    [
        BASE,
        1000 * BASE,
        3 - BASE,
        BASE**3,
        1 / BASE,
        np.exp(BASE / 100),
        1e-200 * BASE,
        1e90 * BASE,
        BASE + RNG.normal(0, 10, 20),
    ],
)
def test_alike(other):
    assert pair(values_of(BASE), values_of(other))


@pytest.mark.parametrize(
    "other",
    [
        RNG.normal(0, 1, 20),
        BASE + RNG.normal(0, 100, 20),
        np.full(20, 3.0),
        np.zeros(20),
        np.abs(BASE - np.median(BASE)),
    ],
)
def test_not_alike(other):
    assert not pair(values_of(BASE), values_of(other))


@pytest.mark.parametrize("decimals", [0, 1, 17])
def test_values_have_the_ranks_that_scipy_gives_them(decimals):
    table = np.round(RNG.normal(0, 3, (200, 30)), decimals)
    ranks = _ranks(table)
    np.testing.assert_array_equal(ranks, rankdata(table, axis=1))
    assert ranks.flags["C_CONTIGUOUS"]


def test_the_library_of_statistics_is_not_loaded_for_ranks():
    """Its import takes longer than all that a small release computes."""
    look = (
        "import sys, numpy as np\n"
        "from jipflow.analyses.alike import alike\n"
        "from jipflow.analyses.cells import Values\n"
        "ids = np.array(['a', 'b', 'c'], dtype=object)\n"
        "values = Values(np.array([1.0, 2.0, 4.0]), ids, ids, frozenset(ids))\n"
        "assert alike([values], [values]).all()\n"
        "print('scipy.stats' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_common_cases_count_and_their_order_does_not():
    other = np.concatenate([BASE[3:], [5000.0, -5000.0, 0.0, 100.0]])
    assert pair(values_of(BASE), values_of(other, first=3))
    assert not pair(values_of(BASE), values_of(BASE, first=1))
    assert not pair(values_of(BASE), values_of(BASE[18:], first=18))
    assert not pair(values_of(BASE), values_of(BASE, first=30))


def test_the_limit_is_where_a_sum_tells_a_value_no_better_than_a_guess():
    """With r = sqrt(1 - 1/n) the error of a sum of n values is one standard deviation."""
    n = 20
    x, noise = RNG.normal(0, 1, n), RNG.normal(0, 1, n)
    x -= x.mean()
    x /= np.linalg.norm(x)
    noise -= noise.mean() + x * (noise @ x)
    noise /= np.linalg.norm(noise)
    for r, expected in ((np.sqrt(1 - 1.05 / n), False), (np.sqrt(1 - 0.95 / n), True)):
        y = r * x + np.sqrt(1 - r * r) * noise
        ranks = np.corrcoef(x.argsort().argsort(), y.argsort().argsort())[0, 1]
        assert ranks**2 < 1 - 1 / n
        assert pair(values_of(x), values_of(y)) is expected


def test_groups_and_repeats():
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(0, 1, 20) for _ in range(3))
    variables = [values_of(v) for v in (a, b, 2 * a, c, 1 - b)]
    variables.append(values_of(np.append(a[5:], [3, 1, 4]), first=5))
    numbers = like_ones(variables)
    assert [numbers.index(n) for n in numbers] == [0, 1, 0, 3, 1, 0]
    assert like_an_earlier(variables) == [False, False, True, False, True, True]
    assert like_ones([]) == like_an_earlier([]) == []


def test_blocks_of_variables_are_compared_with_all(monkeypatch):
    monkeypatch.setattr("jipflow.analyses.alike.CHUNK", 2)
    variables = [values_of(np.random.default_rng(i % 5).normal(0, 1, 20)) for i in range(15)]
    assert like_ones(variables) == [i % 5 for i in range(15)]

"""Merged moments equal pooled ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jipflow.analyses.moments import merge_moments, moments


def split(values, sites, seed):
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, sites, values.size)
    return {f"site-{s:03d}": values[owner == s] for s in range(sites) if (owner == s).any()}


def merged(parts):
    return merge_moments({site: moments(part) for site, part in parts.items()})


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(2, 300),
    sites=st.integers(1, 60),
    ratio=st.sampled_from([0.0, 1.0, 1e3, 1e6, 1e8]),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
    seed=st.integers(0, 2**32 - 1),
)
def test_merged_moments_equal_pooled(rows, sites, ratio, scale, seed):
    values = np.random.default_rng(seed).normal(ratio, 1.0, rows) * scale
    result = merged(split(values, sites, seed))
    described = stats.describe(values)
    assert result.rows == rows
    assert result.mean == pytest.approx(described.mean, rel=1e-9, abs=1e-9 * scale)
    assert result.variance == pytest.approx(described.variance, rel=1e-9)


def test_sites_that_differ_at_a_mean_of_1e8_standard_deviations():
    rng = np.random.default_rng(1)
    for _ in range(50):
        parts = {f"s{i}": 1e8 + i % 3 + rng.normal(0, 1, 7) for i in range(20)}
        pooled = np.concatenate(list(parts.values()))
        assert merged(parts).variance == pytest.approx(np.var(pooled, ddof=1), rel=1e-9)


def test_the_rest_of_the_mean_is_what_makes_it_exact():
    """Without it the same data miss the tolerance, so the field is not decoration."""
    rng = np.random.default_rng(1)
    errors = {True: 0.0, False: 0.0}
    for _ in range(50):
        parts = {f"s{i}": 1e8 + i % 3 + rng.normal(0, 1, 7) for i in range(20)}
        truth = np.var(np.concatenate(list(parts.values())), ddof=1)
        for keep in errors:
            cells = {s: moments(v) for s, v in parts.items()}
            if not keep:
                cells = {s: type(m)(m.rows, m.mean, 0.0, m.m2) for s, m in cells.items()}
            errors[keep] = max(errors[keep], abs(merge_moments(cells).variance / truth - 1))
    assert errors[True] < 1e-12
    assert errors[False] > 1e-9


def test_order_of_sites_does_not_show():
    parts = split(np.random.default_rng(3).lognormal(3, 2, 500), 12, 3)
    cells = {site: moments(v) for site, v in parts.items()}
    backwards = dict(reversed(list(cells.items())))
    assert merge_moments(cells) == merge_moments(backwards)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_rows_within_tolerance(seed):
    rng = np.random.default_rng(seed)
    values = rng.lognormal(0, 3, 200)
    shuffled = rng.permutation(values)
    a, b = moments(values), moments(shuffled)
    assert a.mean == pytest.approx(b.mean, rel=1e-12)
    assert a.m2 == pytest.approx(b.m2, rel=1e-12)


def test_one_row_a_site():
    values = np.array([3.0, 5.0, 10.0])
    result = merge_moments({f"s{i}": moments(values[i : i + 1]) for i in range(3)})
    assert result.mean == 6.0
    assert result.variance == pytest.approx(13.0)
    assert np.isnan(moments(values[:1]).variance)


def test_constant_values_have_no_scatter():
    assert moments(np.full(9, 0.1)).m2 == 0.0


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_moments_refuse_what_has_none(values):
    with pytest.raises(ValueError, match="finite"):
        moments(np.array(values))

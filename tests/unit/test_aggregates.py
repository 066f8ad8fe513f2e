"""Merged equals pooled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jipflow.analyses.aggregates import (
    CellKey,
    bin_index,
    cells_of,
    in_analysis,
    merge_moments,
    moments,
)


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


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-50, 50) | st.integers(-5, 5).map(float), min_size=1, max_size=200),
    edges=st.lists(st.integers(-5, 5), min_size=2, max_size=8, unique=True).map(sorted),
)
def test_bins_are_those_of_numpy_and_nothing_vanishes(values, edges):
    values = np.array(values)
    counts = np.bincount(bin_index(values, edges), minlength=len(edges) + 1)
    inside = values[(values >= edges[0]) & (values <= edges[-1])]
    assert counts[1:-1].tolist() == np.histogram(inside, edges)[0].tolist()
    assert counts[0] == (values < edges[0]).sum()
    assert counts[-1] == (values > edges[-1]).sum()


def test_edges_belong_to_the_upper_bin_save_the_last():
    assert bin_index(np.array([0.0, 1.0, 2.0, 2.1, -0.1]), [0, 1, 2]).tolist() == [1, 2, 2, 3, 0]


PROTOCOL = {
    "segmentations": [
        {"id": "organs", "segments": [{"name": "liver"}, {"name": "spleen"}]},
        {"id": "gtv", "segments": [{"name": "gtv"}]},
    ],
    "radiomics": [
        {"segmentation": "organs", "role": "CT", "settings": "pyradiomics_ct"},
        {"segmentation": "gtv", "role": "PT", "settings": "pt"},
    ],
}


def test_variables_expand_over_the_segments_of_their_role():
    analysis = {"variables": ["CT.original_shape_*"]}
    features = ["original_shape_MeshVolume", "original_firstorder_Mean"]
    assert cells_of(PROTOCOL, analysis, features) == [
        CellKey("CT", "organs", "liver", "original_shape_MeshVolume"),
        CellKey("CT", "organs", "spleen", "original_shape_MeshVolume"),
    ]
    assert cells_of(PROTOCOL, {**analysis, "segments": ["spleen"]}, features) == [
        CellKey("CT", "organs", "spleen", "original_shape_MeshVolume")
    ]


def test_in_analysis():
    analysis = {"variables": ["PT.original_firstorder_*"]}
    mean = "original_firstorder_Mean"
    assert in_analysis(PROTOCOL, analysis, CellKey("PT", "gtv", "gtv", mean))
    assert not in_analysis(PROTOCOL, analysis, CellKey("CT", "organs", "liver", mean))
    assert not in_analysis(PROTOCOL, analysis, CellKey("PT", "gtv", "gtv", "original_glcm_Idn"))

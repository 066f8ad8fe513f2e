"""How far masks agree, against values found by hand and by another library."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from jipflow.images.overlap import dice, hausdorff_95

SPACING = (4.0, 3.0, 2.0)


def cube(*corner):
    mask = np.zeros((12, 12, 12), bool)
    z, y, x = corner
    mask[z : z + 4, y : y + 4, x : x + 4] = True
    return mask


def test_masks_moved_by_a_known_distance():
    assert hausdorff_95(cube(1, 1, 1), cube(1, 1, 4), SPACING) == pytest.approx(6)
    assert hausdorff_95(cube(1, 1, 1), cube(3, 1, 1), SPACING) == pytest.approx(8)
    assert hausdorff_95(cube(1, 1, 1), cube(1, 1, 1), SPACING) == 0
    assert dice(cube(1, 1, 1), cube(1, 1, 3)) == pytest.approx(0.5)


def test_nothing_is_measured_where_there_is_nothing():
    nothing = np.zeros((12, 12, 12), bool)
    assert dice(nothing, nothing) is None
    assert dice(nothing, cube(1, 1, 1)) == 0
    assert hausdorff_95(nothing, cube(1, 1, 1), SPACING) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_as_another_library_and_as_all_pairs_give_it(seed):
    draw = np.random.default_rng(seed)
    one, other = draw.random((2, 5, 6, 7)) > 0.6
    images = [SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (one, other)]
    measure = SimpleITK.LabelOverlapMeasuresImageFilter()
    measure.Execute(*images)
    assert dice(one, other) == pytest.approx(measure.GetDiceCoefficient(1))

    surfaces = []
    for mask in (one, other):
        padded = np.pad(mask, 1)
        inner = np.ones_like(mask)
        for axis in range(3):
            for step in (-1, 1):
                inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
        surfaces.append(np.argwhere(mask & ~inner) * SPACING)
    pairs = cdist(*surfaces)
    directed = [np.percentile(pairs.min(axis=axis), 95) for axis in (0, 1)]
    assert hausdorff_95(one, other, SPACING) == pytest.approx(max(directed))

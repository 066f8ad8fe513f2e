"""The measuring grid is IBSI's, and a value on it does not depend on what else is asked."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from jipflow.images.volume import Volume
from jipflow.radiomics.grid import GridAxis, MeasuringGrid
from regions import grid, textured

SIZES = st.integers(1, 40)
SPACINGS = st.sampled_from([0.5, 0.7, 0.976562, 1.0, 2.0, 3.27, 5.0])


@given(SIZES, SPACINGS, SPACINGS)
def test_both_grids_share_their_centre_and_the_new_one_covers_the_old(size, old, new):
    axis = GridAxis.centred(size, new / old)
    middle = axis.start + (axis.size - 1) / 2 * axis.step
    assert middle == pytest.approx((size - 1) / 2)
    assert axis.size * new >= size * old - 1e-6
    assert (axis.size - 1) * new < size * old
    assert axis.same == (old == new)


@pytest.mark.parametrize(
    ("size", "old", "new", "expected"),
    [(161, 0.976562, 1, 158), (48, 3.27, 1, 157), (30, 5.46875, 3, 55), (48, 3.27, 3, 53)],
)
def test_sizes_are_those_of_ibsis_validation(size, old, new, expected):
    assert GridAxis.centred(size, new / old).size == expected


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(["linear", "cubic"]))
def test_a_value_is_the_same_in_any_box(data, interpolation):
    volume = textured((9, 17, 15))
    measuring = MeasuringGrid.of(volume.grid, (1.3, 1.1, None))
    whole = measuring.image(
        volume.array, tuple(slice(0, n) for n in measuring.shape), interpolation
    )
    box = []
    for size in measuring.shape:
        start = data.draw(st.integers(0, size - 1))
        box.append(slice(start, data.draw(st.integers(start + 1, size))))
    part = measuring.image(volume.array, tuple(box), interpolation)
    np.testing.assert_array_equal(part, whole[tuple(box)])


@pytest.mark.parametrize(
    ("interpolation", "kind"), [("linear", sitk.sitkLinear), ("cubic", sitk.sitkBSpline)]
)
def test_values_are_those_of_itk_where_both_have_neighbours(interpolation, kind):
    volume = textured((12, 30, 28))
    measuring = MeasuringGrid.of(volume.grid, (2.0, 1.0, 1.0))
    image = Volume(volume.array.astype(float), volume.grid).image()
    size = [int(n) for n in measuring.shape[::-1]]
    starts = [a.start * s for a, s in zip(measuring.axes, volume.grid.spacing, strict=True)]
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(
            image, size, sitk.Transform(), kind, starts[::-1], measuring.spacing[::-1],
            image.GetDirection(),
        )
    )  # fmt: skip
    ours = measuring.image(volume.array, tuple(slice(0, n) for n in measuring.shape), interpolation)
    inner = np.s_[1:-1, 2:-2, 2:-2]
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=1e-6)


def test_a_mask_keeps_voxels_that_it_covers_by_half():
    measuring = MeasuringGrid.of(grid((1, 1, 8), (1.0, 1.0, 1.0)), (None, None, 2.0))
    inside = np.zeros((1, 1, 8), bool)
    inside[0, 0, 1:4] = True
    mask, box = measuring.mask(inside, (0, 0, 0))
    whole = np.zeros(measuring.shape, bool)
    whole[box] = mask
    # New voxels lie between 0 and 1, 2 and 3, 4 and 5, 6 and 7.
    assert whole[0, 0].tolist() == [True, True, False, False]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(0, 9), st.integers(0, 9))
def test_a_mask_is_the_same_whether_cropped_or_not(z, y, x):
    volume = textured((9, 17, 15))
    measuring = MeasuringGrid.of(volume.grid, (1.3, 1.1, 1.0))
    whole = np.zeros(volume.array.shape, bool)
    whole[z : z + 3, y : y + 5, x : x + 4] = True
    expected = np.zeros(measuring.shape, bool)
    mask, box = measuring.mask(whole, (0, 0, 0))
    expected[box] = mask
    found = np.zeros(measuring.shape, bool)
    mask, box = measuring.mask(whole[z : z + 3, y : y + 5, x : x + 4], (z, y, x))
    found[box] = mask
    assert expected.any()
    np.testing.assert_array_equal(found, expected)


def test_the_images_own_grid_gives_the_images_own_values():
    volume = textured((5, 6, 7))
    measuring = MeasuringGrid.of(volume.grid, (None, None, None))
    assert measuring.same
    box = np.s_[1:3, 2:6, 0:7]
    np.testing.assert_array_equal(measuring.image(volume.array, box, "cubic"), volume.array[box])

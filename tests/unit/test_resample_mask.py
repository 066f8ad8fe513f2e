"""Masks of one series on the grid of another: exact where grids are parallel, and turned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from jipflow.images import resample
from jipflow.images.resample import resample_mask
from jipflow.images.volume import Grid, Volume


def grid(shape, spacing, first=(0.0, 0.0, 0.0), turn=None):
    """A grid whose axes (z, y, x) run along LPS z, y, x, then turned about the origin."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[::-1]
    affine[:3, 3] = first
    if turn is not None:
        affine[:3] = turn @ affine[:3]
    return Grid(shape, affine)


def turned(degrees, axis=(1.0, 1.0, 0.0)):
    """A rotation about an axis (Rodrigues' formula)."""
    a, n = np.deg2rad(degrees), np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -n[2], n[1]], [n[2], 0, -n[0]], [-n[1], n[0], 0]])
    return np.eye(3) + np.sin(a) * cross + (1 - np.cos(a)) * cross @ cross


def positions(of):
    """LPS millimetres of each voxel's centre, shape (z, y, x, 3)."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in of.shape), indexing="ij"), axis=-1)
    return index @ of.affine[:3, :3].T + of.affine[:3, 3]


def ball(of, centre, radius):
    return np.linalg.norm(positions(of) - centre, axis=-1) <= radius


FINE = grid((16, 24, 24), (1.0, 1.0, 1.0))
# Each of its voxels holds 4 × 4 × 4 of the fine ones.
COARSE = grid((4, 6, 6), (4.0, 4.0, 4.0), (1.5, 1.5, 1.5))


def test_the_same_grid_gives_the_same_mask():
    mask = ball(FINE, (12, 12, 8), 6)
    assert resample_mask(mask, FINE, grid((16, 24, 24), (1.0, 1.0, 1.0))) is mask


def test_a_voxel_is_kept_from_one_half_on():
    mask = np.zeros(FINE.shape, bool)
    mask[0:8, 4:12, 4:12] = True
    mask[8:10, 4:8, 4:8] = True  # half of coarse voxel (2, 1, 1)
    mask[8:9, 8:12, 8:12] = True  # a quarter of (2, 2, 2)
    found = resample_mask(mask, FINE, COARSE)
    wanted = np.zeros(COARSE.shape, bool)
    wanted[0:2, 1:3, 1:3] = True
    wanted[2, 1, 1] = True
    np.testing.assert_array_equal(found, wanted)


def test_structures_thinner_than_a_voxel_count_by_their_volume():
    """A sample at the centre alone would see or miss a plate by where it happens to lie."""
    for first in range(4, 8):
        thin, thick = np.zeros((2, *FINE.shape), bool)
        thin[first : first + 1] = True
        thick[4:7] = True
        assert not resample_mask(thin, FINE, COARSE).any()
        np.testing.assert_array_equal(resample_mask(thick, FINE, COARSE).any((1, 2)), [0, 1, 0, 0])


def test_a_thin_plate_counts_by_its_volume_along_whichever_axis():
    """The target's first axis is the source's last, and the only one that is coarser."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag((4.0, 1.0, 1.0))
    affine[0, 3] = 1.5
    target = Grid((6, 24, 16), affine)
    thin, thick = np.zeros((2, *FINE.shape), bool)
    thin[:, :, 6] = True
    thick[:, :, 4:7] = True
    assert not resample_mask(thin, FINE, target).any()
    np.testing.assert_array_equal(
        resample_mask(thick, FINE, target).any((1, 2)), [0, 1, 0, 0, 0, 0]
    )


def test_of_voxels_no_larger_the_field_at_the_centre_counts():
    """By scipy's linear interpolation, on a grid that is turned by 45 degrees."""
    mask = np.random.default_rng(0).random(FINE.shape) < 0.5
    target = grid((16, 30, 30), (1.0, 1.0, 1.0), (-15.0, -15.0, 0.0), turned(45, (0.0, 0.0, 1.0)))
    index = np.moveaxis(positions(target) @ np.linalg.inv(FINE.affine[:3, :3]).T, -1, 0)
    field = map_coordinates(mask.astype(float), index, order=1, mode="grid-constant")
    sure = np.abs(field - 0.5) > 1e-3
    found = resample_mask(mask, FINE, target)
    np.testing.assert_array_equal(found[sure], field[sure] > 0.5)
    assert found.mean() > 0.1


def test_a_quotient_of_three_but_for_rounding_takes_three_samples():
    """5 of 9 voxels are more than one half; samples that lie between voxels would find 0.49."""
    fine, coarse = 0.1, 3 * 0.1
    assert coarse / fine > 3
    source = grid((1, 9, 9), (1.0, fine, fine))
    target = grid((1, 3, 3), (1.0, coarse, coarse), (fine, fine, 0.0))
    mask = np.zeros(source.shape, bool)
    mask[0, 3:6, 3:6] = [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    found = resample_mask(mask, source, target)
    np.testing.assert_array_equal(found[0], [[0, 0, 0], [0, 1, 0], [0, 0, 0]])


def test_a_coarse_mask_on_a_fine_grid_fills_the_same_space():
    mask = np.zeros(COARSE.shape, bool)
    mask[1:3, 1:4, 2:4] = True
    found = resample_mask(mask, COARSE, FINE)
    wanted = np.zeros(FINE.shape, bool)
    wanted[4:12, 4:16, 8:16] = True
    # Between voxel centres the field is linear, so that only edges and corners are cut.
    assert not (found & ~wanted).any()
    assert found[5:11, 5:15, 9:15].all()
    np.testing.assert_array_equal(found[8, 10], wanted[8, 10])


@pytest.mark.parametrize("degrees", [7, 30, 90, 143])
def test_a_ball_stays_where_it_is_on_a_turned_grid(degrees):
    source = grid((60, 50, 50), (1.0, 1.2, 1.2), (-30.0, -30.0, -30.0))
    target = grid((30, 30, 30), (2.5, 2.0, 2.0), (-30.0, -30.0, -36.0), turned(degrees))
    found = resample_mask(ball(source, (3, -2, 1), 18), source, target)
    away = np.linalg.norm(positions(target) - (3, -2, 1), axis=-1)
    assert found[away < 16.5].all()
    assert not found[away > 19.5].any()
    volume = np.count_nonzero(found) * target.voxel_volume
    assert volume == pytest.approx(4 / 3 * np.pi * 18**3, rel=0.02)


def test_axes_in_another_order_give_the_same_voxels():
    mask = ball(FINE, (9, 11, 6), 5)
    coronal = np.eye(4)[[1, 0, 2, 3]]  # array axes (z, y, x) become (y, z, x)
    affine = FINE.affine @ coronal
    found = resample_mask(mask, FINE, Grid((24, 16, 24), affine))
    np.testing.assert_array_equal(found, mask.transpose(1, 0, 2))
    flipped = Volume(mask.astype(np.uint8), FINE).with_axes_of(
        Grid(FINE.shape, FINE.affine @ np.diag([-1.0, -1.0, 1.0, 1.0]))
    )
    found = resample_mask(mask, FINE, flipped.grid)
    np.testing.assert_array_equal(found, flipped.array)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*(st.integers(-8, 8) for _ in range(3))),
    st.tuples(*(st.sampled_from([0.7, 1.0, 3.3]) for _ in range(3))),
)
def test_a_grid_moved_by_whole_voxels_moves_the_mask(shift, spacing):
    source = grid((10, 12, 14), spacing)
    mask = ball(source, np.array([6, 5, 4]) * spacing[::-1], 3 * max(spacing))
    affine = source.affine.copy()
    affine[:3, 3] += source.affine[:3, :3] @ shift
    found = resample_mask(mask, source, Grid(source.shape, affine))
    index = np.indices(mask.shape) + np.reshape(shift, (3, 1, 1, 1))
    size = np.reshape(mask.shape, (3, 1, 1, 1))
    inside = ((index >= 0) & (index < size)).all(axis=0)
    wanted = inside & mask[tuple(np.clip(index, 0, size - 1))]
    np.testing.assert_array_equal(found, wanted)


def test_slabs_give_the_same_voxels_as_the_whole(monkeypatch):
    mask = ball(FINE, (12, 12, 8), 6)
    whole = resample_mask(mask, FINE, COARSE)
    monkeypatch.setattr(resample, "SAMPLES", 1)
    np.testing.assert_array_equal(resample_mask(mask, FINE, COARSE), whole)


def test_what_lies_elsewhere_or_is_empty_gives_nothing():
    far = grid((4, 4, 4), (4.0, 4.0, 4.0), (500.0, 0.0, 0.0))
    assert not resample_mask(np.ones(FINE.shape, bool), FINE, far).any()
    assert not resample_mask(np.zeros(FINE.shape, bool), FINE, COARSE).any()

"""Images on the grid of another, to the voxel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from jipflow.images.resample import covered as inside
from jipflow.images.resample import resample
from jipflow.images.volume import Grid, Volume


def grid(shape, spacing, origin, degrees=(0, 0, 0)):
    """A grid turned about its origin; its axes z, y, x run along z, y, x where it is not."""
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    affine[:3, :3] = turned[:, ::-1] * np.asarray(spacing)
    affine[:3, 3] = origin
    return Grid(shape, affine)


@pytest.fixture
def image():
    rng = np.random.default_rng(3)
    values = rng.normal(40, 300, (9, 11, 13)).astype(np.float32)
    return Volume(values, grid((9, 11, 13), (4, 2.5, 2), (-12, 7, 30), (20, -35, 50)))


def test_its_own_grid_changes_nothing(image):
    found, covered = resample(image, image.grid)
    np.testing.assert_array_equal(found.array, image.array)
    assert covered == 1


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAI", "RPI"])
def test_swapped_and_flipped_axes_give_the_same_voxels(image, axes):
    turned = image.canonical(axes)
    for axis, way in enumerate(axes):
        towards = turned.grid.affine[axis, 2 - axis]
        assert towards > 0 if way in "LPS" else towards < 0
    found, covered = resample(image, turned.grid)
    np.testing.assert_allclose(found.array, turned.array, rtol=1e-5, atol=1e-3)
    assert covered == 1


@pytest.mark.parametrize("degrees", [(0, 0, 0), (0, 180, 0), (12, 30, -70)])
def test_a_field_that_is_linear_in_space_is_met_exactly(image, degrees):
    def field(space):
        indices = np.stack([*np.indices(space.shape), np.ones(space.shape)], axis=-1)
        return (indices @ space.affine.T)[..., :3] @ np.array([0.7, -1.3, 2.1]) + 5

    centre = image.grid.affine @ [4, 5, 6, 1]
    target = grid((3, 4, 5), (1.5, 1.2, 0.9), centre[:3], degrees)
    found, covered = resample(Volume(field(image.grid), image.grid), target)
    assert covered == 1
    np.testing.assert_allclose(found.array, field(target), rtol=1e-5)


def test_an_oblique_grid_gets_the_values_of_an_independent_interpolation(image):
    target = grid((6, 7, 8), (3.1, 2.2, 2.7), image.grid.affine[:3, 3] + 5, (-15, 40, 8))
    found, covered = resample(image, target)
    indices = np.stack([*np.indices(target.shape), np.ones(target.shape)])
    there = np.tensordot(np.linalg.inv(image.grid.affine) @ target.affine, indices, 1)[:3]
    last = np.array(image.grid.shape)[:, None, None, None] - 1
    inside = ((there >= -0.5) & (there <= last + 0.5)).all(axis=0)
    expected = map_coordinates(image.array, there, order=1, mode="nearest")
    np.testing.assert_allclose(found.array[inside], expected[inside], rtol=1e-4, atol=1e-2)
    assert (found.array[~inside] == image.array.min()).all()
    assert covered == pytest.approx(inside.mean())
    assert 0 < covered < 1


def test_an_image_elsewhere_covers_nothing(image):
    affine = image.grid.affine.copy()
    affine[2, 3] += 1000
    found, covered = resample(image, Grid(image.grid.shape, affine))
    assert covered == 0
    assert (found.array == image.array.min()).all()


@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, -35, 50), (80, 10, -5)])
def test_the_voxels_in_an_image_are_those_that_its_resampling_reaches(image, degrees):
    target = grid((14, 15, 16), (3.1, 2.9, 3.3), (-30, -5, 22), degrees)
    found = inside(image.grid, target)
    _, covered = resample(image, target)
    assert 0 < covered < 1
    assert found.mean() == pytest.approx(covered, abs=1e-12)
    assert inside(image.grid, image.grid).all()
    assert inside(image.grid, image.canonical("RAI").grid).all()


@pytest.mark.parametrize("axis", range(3))
def test_an_image_ends_half_a_voxel_beyond_its_outermost_centres(axis):
    source = Grid((4, 4, 4), np.eye(4))
    shape = [1, 1, 1]
    shape[axis] = 2
    for first, last, wanted in ((-0.4999, 3.4999, [True, True]), (-0.5001, 3.5001, [False, False])):
        affine = np.eye(4)
        affine[axis, axis] = last - first
        affine[axis, 3] = first
        assert inside(source, Grid(tuple(shape), affine)).ravel().tolist() == wanted

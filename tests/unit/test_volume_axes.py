"""Axes that are swapped and flipped come back to the voxel, at every angle."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jipflow.images.volume import Grid, Volume
from jipflow.reasons import CaseFault, Reason


def oblique_grids():
    """Grids at angles where an axis is as near to one of the patient's as to another, as headers
    state them: to 15 decimals, or to 6."""
    for angles in product((0, 30, 45, -45, 90, 135), repeat=3):
        turn = Rotation.from_euler("ZXY", angles, degrees=True).as_matrix()
        for spacing, decimals in product(((1, 1, 1), (3, 1, 1), (3, 0.8, 1.2)), (15, 6)):
            row, column = turn[:, 0].round(decimals), turn[:, 1].round(decimals)
            affine = np.eye(4)
            affine[:3, :3] = np.column_stack([np.cross(row, column), column, row]) * spacing
            affine[:3, 3] = (-100.0, 20.0, 700.0)
            yield Grid((3, 4, 5), affine)


def test_a_turn_of_axes_is_undone_at_every_angle():
    array = np.arange(60).reshape(3, 4, 5)
    count = 0
    for grid in oblique_grids():
        volume = Volume(array, grid)
        for axes in ("LPS", "RAS", "LAS", "PIL"):
            turned = volume.canonical(axes)
            back = turned.with_axes_of(grid)
            assert np.array_equal(back.array, array)
            assert back.grid.matches(grid, 1e-9)
            assert np.array_equal(turned.array_on(grid), array)
            count += 1
    assert count == 6**3 * 6 * 4


def test_every_order_of_axes_is_undone():
    array = np.arange(60).reshape(3, 4, 5)
    for grid in list(oblique_grids())[::37]:
        for order, ways in product(permutations(range(3)), product((1, -1), repeat=3)):
            index = np.zeros((4, 4))
            index[3, 3] = 1
            for new, (old, way) in enumerate(zip(order, ways, strict=True)):
                index[old, new] = way
                index[old, 3] = array.shape[old] - 1 if way < 0 else 0
            changed = array.transpose(order)[tuple(slice(None, None, way) for way in ways)]
            other = Volume(changed, Grid(changed.shape, grid.affine @ index))
            assert np.array_equal(other.array_on(grid), array)


def test_a_mask_on_another_grid_is_not_laid_on_this_one():
    grid = next(oblique_grids())
    mask = np.ones(grid.shape, np.uint8)
    for shift, inside in ((0.0009, True), (0.0011, False)):
        moved = grid.affine.copy()
        moved[0, 3] += shift
        volume = Volume(mask, Grid(grid.shape, moved))
        if inside:
            assert volume.array_on(grid).all()
        else:
            with pytest.raises(CaseFault, match="does not lie on the image's grid"):
                volume.array_on(grid)
    with pytest.raises(CaseFault) as refused:
        Volume(np.ones((3, 4, 6), np.uint8), Grid((3, 4, 6), grid.affine)).array_on(grid)
    assert refused.value.reason is Reason.GRID_MISMATCH

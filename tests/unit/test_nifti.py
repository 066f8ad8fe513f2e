"""Where a NIfTI header puts its voxels: sform and qform, and what is no place."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from jipflow.images.nifti import stated_grid

SHAPE = (4, 5, 6)
AFFINE = np.array([[2.0, 0, 0, 10], [0, 2.0, 0, 20], [0, 0, 3.0, 30], [0, 0, 0, 1]])


def header(shape=SHAPE, sform=None, qform=None):
    made = nibabel.Nifti1Header()
    made.set_data_shape(shape)
    made.set_sform(sform, code=0 if sform is None else 1)
    made.set_qform(qform, code=0 if qform is None else 1)
    return made


def moved(axis, distance):
    affine = AFFINE.copy()
    affine[axis, 3] += distance
    return affine


@pytest.mark.parametrize("forms", [{"sform": AFFINE}, {"qform": AFFINE}])
def test_right_and_front_become_left_and_back(forms):
    grid = stated_grid(header(**forms))
    assert grid.shape == SHAPE
    np.testing.assert_allclose(grid.affine @ (0, 0, 0, 1), [-10, -20, 30, 1])
    np.testing.assert_allclose(grid.affine @ (1, 2, 3, 1), [-12, -24, 39, 1])


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("apart", "sound"), [(0.098, True), (0.102, False)])
def test_both_forms_agree_within_a_twentieth_of_a_voxel(axis, apart, sound):
    made = header(sform=AFFINE, qform=moved(axis, apart))
    if sound:
        np.testing.assert_allclose(stated_grid(made).affine[:3, 3], [-10, -20, 30])
    else:
        with pytest.raises(ValueError, match="an sform and a qform"):
            stated_grid(made)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 2)])
def test_three_dimensions_make_a_place(shape):
    with pytest.raises(ValueError, match=f"has {len(shape)} dimensions"):
        stated_grid(header(shape, sform=AFFINE))


def test_no_form_is_no_place():
    with pytest.raises(ValueError, match="neither sform nor qform"):
        stated_grid(header())


@pytest.mark.parametrize(("index", "value"), [((0, 0), np.nan), ((2, 2), 0.0)])
def test_an_affine_that_is_no_geometry_is_no_place(index, value):
    affine = AFFINE.copy()
    affine[index] = value
    with pytest.raises(ValueError, match="no geometry"):
        stated_grid(header(sform=affine))


def test_a_unit_of_space_that_nobody_knows_is_no_place():
    made = header(sform=AFFINE)
    made["xyzt_units"] = 7
    with pytest.raises(ValueError, match="has a unit of space that NIfTI does not know"):
        stated_grid(made)

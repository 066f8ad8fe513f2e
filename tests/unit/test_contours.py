"""Contours to voxels by the pixel-centre rule."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from jipflow.cases import CaseFault, Reason
from jipflow.images.contours import rasterise
from jipflow.images.series import read_series_volume
from jipflow.images.volume import Grid, Volume
from series_factory import series_of

AFFINE = np.array([[0, 0, 2.0, -5], [0, 2.0, 0, -7], [3.0, 0, 0, 10], [0, 0, 0, 1]])
GRID = Grid((4, 12, 14), AFFINE)


def square(low, high, k):
    """A square from pixel index `low` to `high` (edges between pixels) on slice k, in LPS mm."""
    corners = [(low, low), (low, high), (high, high), (high, low)]
    return np.array([(GRID.affine @ [k, j, i, 1])[:3] for j, i in corners])


def test_a_square_covers_the_pixels_whose_centre_is_inside():
    mask = rasterise([square(1.5, 5.5, 2)], GRID, "test")
    expected = np.zeros(GRID.shape, bool)
    expected[2, 2:6, 2:6] = True
    np.testing.assert_array_equal(mask, expected)


def test_an_inner_contour_cuts_a_hole_and_an_island_fills_it():
    contours = [square(0.5, 9.5, 1), square(2.5, 7.5, 1), square(3.5, 6.5, 1)]
    mask = rasterise(contours, GRID, "test")
    assert mask[1].sum() == 81 - 25 + 9
    assert not mask[1, 3, 3]
    assert mask[1, 5, 5]


def test_oblique_grids_work_too():
    angle = np.radians(30)
    turn = np.eye(4)
    turn[:3, :3] = [
        [np.cos(angle), 0, np.sin(angle)],
        [0, 1, 0],
        [-np.sin(angle), 0, np.cos(angle)],
    ]
    turned = Grid(GRID.shape, turn @ GRID.affine)
    contour = square(1.5, 5.5, 2) @ turn[:3, :3].T
    np.testing.assert_array_equal(
        rasterise([contour], turned, "test"), rasterise([square(1.5, 5.5, 2)], GRID, "test")
    )


@pytest.mark.parametrize("k", [1.5, -1.0, 4.0], ids=["between", "below", "above"])
def test_a_contour_off_the_slices_is_refused(k):
    with pytest.raises(CaseFault) as caught:
        rasterise([square(1.5, 5.5, k)], GRID, "ROI 3")
    assert caught.value.reason is Reason.CONTOUR_GEOMETRY
    assert "ROI 3" in caught.value.message


def test_identical_to_the_reference_masks_of_real_patients(shared_data):
    sarcoma = shared_data / "sarcoma"
    patients = sorted(sarcoma.glob("STS_*"))
    assert len(patients) == 15
    differences = {}
    for patient in patients:
        for name in ("CT", "MR_T1", "PET"):
            grid = read_series_volume(series_of((patient / name / "image").glob("*.dcm"))).grid
            structure = pydicom.dcmread(next((patient / name / "mask").glob("*.dcm")))
            contours = [
                np.array(contour.ContourData, float).reshape(-1, 3)
                for contour in structure.ROIContourSequence[0].ContourSequence
            ]
            mask = rasterise(contours, grid, name)
            image = sitk.ReadImage(str(sarcoma / "masks" / patient.name / f"{name}.nii.gz"))
            reference = Volume.from_image(image).with_axes_of(grid)
            assert reference.grid.matches(grid, 0.01)
            differences[patient.name, name] = int((mask != (reference.array > 0)).sum())
    assert differences == dict.fromkeys(differences, 0)

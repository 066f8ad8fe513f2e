"""A series becomes the volume its header describes, or the outcome says why not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import SecondaryCaptureImageStorage

from jipflow.cases import CaseFault, Reason
from jipflow.images.series import read_series, read_series_volume
from jipflow.images.volume import Grid, Volume, read_volume, write_volume
from jipflow.phantom import dicom
from jipflow.phantom.grid import Grid as PhantomGrid
from series_factory import ct_datasets, series_of, write

OBLIQUE = PhantomGrid(
    (5, 6, 7),
    (4.0, 3.5, 3.0),
    (10.0, -20.0, 30.0),
    row=(0.8, 0.6, 0.0),
    column=(-0.48, 0.64, 0.6),
)


def values(grid):
    return (np.arange(np.prod(grid.shape)).reshape(grid.shape) - 100).astype(np.int16)


@pytest.mark.parametrize(
    "grid",
    [
        PhantomGrid((5, 6, 7), (4.0, 3.5, 3.0), (1.0, 2.0, 3.0)),
        PhantomGrid((5, 6, 7), (4.0, 3.5, 3.0), (1.0, 2.0, 3.0), (-1.0, 0.0, 0.0)),
        PhantomGrid((5, 6, 7), (2.0, 0.7, 0.7), (0.0, 0.0, 0.0), (1, 0, 0), (0, 0, -1)),
        OBLIQUE,
    ],
    ids=["axial", "mirrored", "coronal", "oblique"],
)
def test_every_voxel_is_where_the_header_says(tmp_path, grid):
    hu = values(grid)
    paths = write(dicom.ct_series(hu, grid), tmp_path)
    volume = read_series_volume(series_of(paths))
    assert volume.array.shape == grid.shape
    np.testing.assert_array_equal(volume.array, hu)
    for index in [(0, 0, 0), (4, 0, 0), (0, 5, 0), (0, 0, 6), (2, 3, 4)]:
        position = volume.grid.affine @ [*index, 1.0]
        np.testing.assert_allclose(position[:3], grid.position(*index), atol=1e-4)
    np.testing.assert_allclose(volume.grid.spacing, grid.spacing, atol=1e-6)


def test_order_of_files_and_instance_numbers_do_not_matter(tmp_path):
    def shuffle(datasets):
        datasets[:] = [datasets[i] for i in (3, 0, 5, 1, 4, 2)]
        for dataset in datasets:
            dataset.InstanceNumber = None

    straight = read_series_volume(series_of(write(ct_datasets(), tmp_path / "a")))
    shuffled = read_series_volume(series_of(write(ct_datasets(), tmp_path / "b", shuffle)))
    np.testing.assert_array_equal(straight.array, shuffled.array)
    np.testing.assert_array_equal(straight.grid.affine, shuffled.grid.affine)


def test_each_slice_keeps_its_own_rescale(tmp_path):
    def rescale(datasets):
        for number, dataset in enumerate(datasets):
            dataset.RescaleSlope = f"{number + 1}.5"

    datasets = ct_datasets()
    stored = {float(d.ImagePositionPatient[2]): d.pixel_array.astype(float) for d in datasets}
    slopes = {float(d.ImagePositionPatient[2]): n + 1.5 for n, d in enumerate(datasets)}
    volume = read_series_volume(series_of(write(datasets, tmp_path, rescale)))
    for k, z in enumerate(sorted(stored)):
        np.testing.assert_allclose(volume.array[k], stored[z] * slopes[z] - 1024, atol=1e-2)


def drop_third(datasets):
    del datasets[2]


def repeat_position(datasets):
    datasets[1].ImagePositionPatient = datasets[0].ImagePositionPatient


def turn_one(datasets):
    datasets[3].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def tilt(datasets):
    for number, dataset in enumerate(sorted(datasets, key=lambda d: d.ImagePositionPatient[2])):
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, float(y) + 0.8 * number, z]


def jitter(datasets):
    x, y, z = datasets[2].ImagePositionPatient
    datasets[2].ImagePositionPatient = [x, y, float(z) + 1.3]


def smaller_pixels(datasets):
    datasets[0].PixelSpacing = [1.0, 1.0]


def other_frame(datasets):
    datasets[0].FrameOfReferenceUID = dicom.uid("another frame")


def no_position(datasets):
    del datasets[0].ImagePositionPatient


def no_pixels(datasets):
    del datasets[0].PixelData


def cut_pixels(datasets):
    datasets[0].PixelData = datasets[0].PixelData[:50]


def no_rescale(datasets):
    del datasets[4].RescaleSlope


def secondary_capture(datasets):
    datasets[0].SOPClassUID = SecondaryCaptureImageStorage


def only_one(datasets):
    del datasets[1:]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop_third, Reason.MISSING_SLICES),
        (repeat_position, Reason.DUPLICATE_SLICES),
        (turn_one, Reason.MIXED_ORIENTATION),
        (tilt, Reason.GANTRY_TILT),
        (jitter, Reason.IRREGULAR_SPACING),
        (smaller_pixels, Reason.MIXED_MATRIX),
        (other_frame, Reason.MIXED_FRAME_OF_REFERENCE),
        (no_position, Reason.MISSING_GEOMETRY),
        (no_pixels, Reason.NO_PIXEL_DATA),
        (cut_pixels, Reason.TRUNCATED_PIXELS),
        (no_rescale, Reason.MISSING_RESCALE),
        (secondary_capture, Reason.UNSUPPORTED_OBJECT),
        (only_one, Reason.TOO_FEW_SLICES),
    ],
)
def test_each_defect_has_its_reason(tmp_path, damage, reason):
    paths = write(ct_datasets(), tmp_path, damage)
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(paths))
    assert caught.value.reason is reason
    assert str(tmp_path) in caught.value.message or "series 2.25." in caught.value.message


def test_a_file_that_is_no_dicom_has_its_reason(tmp_path):
    paths = write(ct_datasets(), tmp_path)
    paths[0].write_text("not DICOM")
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(paths))
    assert caught.value.reason is Reason.UNREADABLE


def test_headers_are_sorted_as_the_volume_is(tmp_path):
    paths = write(ct_datasets(), tmp_path)
    headers = read_series(series_of(paths), pixels=False)
    grid = read_series_volume(series_of(paths)).grid
    for k, header in enumerate(headers):
        np.testing.assert_allclose(header.ImagePositionPatient, (grid.affine @ [k, 0, 0, 1])[:3])


@given(
    perm=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    spacing=st.tuples(*[st.floats(0.4, 7.0)] * 3),
    origin=st.tuples(*[st.floats(-900, 900)] * 3),
)
@settings(max_examples=40, deadline=None)
def test_reorientation_moves_no_voxel(perm, signs, spacing, origin):
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, perm] * signs * np.array(spacing)
    affine[:3, 3] = origin
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    volume = Volume(array, Grid(array.shape, affine))
    canonical = volume.canonical()
    # Axes now run towards superior, posterior and left.
    directions = canonical.grid.affine[:3, :3]
    assert directions[2, 0] > 0
    assert directions[1, 1] > 0
    assert directions[0, 2] > 0
    for value in (0, 7, 23):
        here = np.argwhere(volume.array == value)[0]
        there = np.argwhere(canonical.array == value)[0]
        np.testing.assert_allclose(
            volume.grid.affine @ [*here, 1], canonical.grid.affine @ [*there, 1], atol=1e-6
        )
    back = canonical.with_axes_of(volume.grid)
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.grid.matches(volume.grid, 1e-9)


def test_files_keep_geometry_and_values(tmp_path):
    paths = write(dicom.ct_series(values(OBLIQUE), OBLIQUE), tmp_path / "dicom")
    volume = read_series_volume(series_of(paths))
    write_volume(tmp_path / "volume.nrrd", volume)
    again = read_volume(tmp_path / "volume.nrrd")
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.grid.affine, volume.grid.affine, atol=1e-12)
    assert again.array.dtype == volume.array.dtype

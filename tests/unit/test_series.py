"""A series becomes the volume its header describes, or the outcome says why not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jipflow.images.series import read_planes, read_series_volume
from jipflow.images.volume import Grid, Volume, read_volume, write_volume
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
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


def test_the_copy_that_is_used_does_not_depend_on_file_names(tmp_path):
    def repeat(datasets):
        again = ct_datasets()[3]
        again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
        datasets.insert(first, again)

    for first in (0, 6):
        paths = write(ct_datasets(), tmp_path / str(first), repeat)
        planes = read_planes(series_of(paths))
        assert len(planes) == 6
        assert planes[3].header.SOPInstanceUID == "2.25.1"


def test_a_small_whole_volume_is_int16_and_any_other_float32(tmp_path):
    def change_last(datasets):
        datasets[-1].RescaleSlope = "0.5"

    whole = read_series_volume(series_of(write(ct_datasets(), tmp_path / "a")))
    part = read_series_volume(series_of(write(ct_datasets(), tmp_path / "b", change_last)))
    assert (whole.array.dtype, part.array.dtype) == (np.int16, np.float32)
    np.testing.assert_array_equal(part.array[:-1], whole.array[:-1])
    np.testing.assert_array_equal(part.array[-1], (whole.array[-1] + 1024) * 0.5 - 1024)


def test_headers_are_sorted_as_the_volume_is(tmp_path):
    paths = write(ct_datasets(), tmp_path)
    headers = [plane.header for plane in read_planes(series_of(paths))]
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

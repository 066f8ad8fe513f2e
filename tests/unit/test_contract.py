"""What an algorithm gets is exact to the voxel; what it leaves is taken only if it is sound."""

from __future__ import annotations

import gzip
import json
import os

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from jipflow.images.volume import Grid, Volume
from jipflow.reasons import CaseFault, Reason
from jipflow.segment.containers.contract import read_result, write_case, write_job, write_nifti

KNOWN = [1, 3]


def oblique_grid(shape=(4, 5, 6)):
    """Return a left-handed grid that is turned about two axes."""
    a, b = np.radians([20, 35])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (about_z @ about_x)[:, [2, 1, 0]] * [3.3, 0.7, 0.9]
    affine[:3, 3] = [-210.123, 345.678, -1234.567]
    return Grid(shape, affine)


@pytest.fixture
def case(tmp_path):
    """A case and its output folder."""
    grid = oblique_grid()
    images = {
        "PT": Volume(np.random.default_rng(1).random(grid.shape, np.float32), grid),
        "CT": Volume(np.arange(120, dtype=np.int16).reshape(grid.shape), grid),
    }
    parcel = write_case(tmp_path / "input", "0001", images, {"PT": "PT", "CT": "CT"})
    output = tmp_path / "output"
    write_job(tmp_path / "input", output, [parcel], {"liver": 1}, "PT", "cpu", 2)
    return parcel, output, images


def leave(output, labels, affine=None):
    """Leave a label map as an algorithm would, on the grid of the case unless another is given."""
    if affine is None:
        affine = nibabel.load(output.parent / "input/cases/0001/PT.nii").affine
    image = nibabel.Nifti1Image(labels, affine)
    nibabel.save(image, output / "cases/0001/segmentation.nii.gz")


def problem(case, reason=Reason.INVALID_OUTPUT):
    parcel, output, _ = case
    with pytest.raises(CaseFault) as caught:
        read_result(output, parcel, KNOWN, "x")
    assert caught.value.reason is reason
    return caught.value.message


@pytest.mark.parametrize("role", ["PT", "CT"])
def test_two_libraries_find_each_voxel_where_it_was(case, tmp_path, role):
    _, _, images = case
    path = tmp_path / f"input/cases/0001/{role}.nii"
    read = Volume.from_image(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(read.array, images[role].array)
    assert read.grid.matches(images[role].grid, 1e-3)
    image = nibabel.load(path)
    index = np.array([3, 1, 2])
    ras = image.affine @ [*index[::-1], 1]
    lps = images[role].grid.affine @ [*index, 1]
    np.testing.assert_allclose(ras * [-1, -1, 1, 1], lps, atol=1e-3)
    assert image.dataobj[tuple(index[::-1])] == images[role].array[tuple(index)]


def test_the_job_says_all_that_an_algorithm_needs_and_nothing_of_the_case(case, tmp_path):
    job = json.loads((tmp_path / "input/job.json").read_text())
    assert job == {
        "contract": 1,
        "grid": "PT",
        "labels": {"liver": 1},
        "device": "cpu",
        "threads": 2,
        "seed": 0,
        "cases": [
            {
                "name": "0001",
                "images": {
                    "PT": {
                        "file": "cases/0001/PT.nii",
                        "modality": "PT",
                        "unit": "SUVbw in g/mL",
                    },
                    "CT": {"file": "cases/0001/CT.nii", "modality": "CT", "unit": "HU"},
                },
                "segmentation": "cases/0001/segmentation.nii.gz",
                "error": "cases/0001/error.txt",
            }
        ],
    }
    assert (tmp_path / "output/cases/0001").is_dir()


@pytest.mark.parametrize("library", ["nibabel", "SimpleITK"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
def test_labels_come_back_on_the_grid_of_the_role(case, tmp_path, library, kind):
    parcel, output, images = case
    labels = np.random.default_rng(2).choice([0, 1, 3], images["PT"].array.shape).astype(kind)
    if library == "nibabel":
        leave(output, labels.T)
    else:
        image = sitk.GetImageFromArray(labels)
        image.CopyInformation(sitk.ReadImage(str(tmp_path / "input/cases/0001/PT.nii")))
        sitk.WriteImage(image, str(output / "cases/0001/segmentation.nii.gz"))
    found = read_result(output, parcel, KNOWN, "x")
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == np.uint8


def test_what_does_not_meet_the_contract_is_refused_by_name(case):
    _, output, images = case
    shape = images["PT"].array.T.shape
    path = output / "cases/0001/segmentation.nii.gz"
    zeros = np.zeros(shape, np.uint8)
    assert "is missing" in problem(case)
    leave(output, zeros.astype(np.float32))
    assert "type float32" in problem(case)
    leave(output, zeros[:-1])
    assert "has the shape (5, 5, 4)" in problem(case)
    leave(output, zeros[..., None])
    assert "has the shape (6, 5, 4, 1)" in problem(case)
    leave(output, zeros, np.eye(4))
    assert "another affine" in problem(case)
    leave(output, zeros + np.uint8(2))
    assert "has the label 2; known are [1, 3]" in problem(case)
    leave(output, zeros + np.uint8(4))
    assert "labels from 4 to 4" in problem(case)
    leave(output, zeros.astype(np.int16) - 1)
    assert "labels from -1" in problem(case)
    leave(output, zeros)
    whole = path.read_bytes()
    scaled = bytearray(gzip.decompress(whole))
    scaled[112:116] = np.float32(2).tobytes()
    path.write_bytes(gzip.compress(scaled))
    assert "has a scale" in problem(case)
    path.write_bytes(whole[:-6])
    assert "damaged" in problem(case)
    path.write_bytes(whole[:-8] + bytes(8))
    assert "damaged" in problem(case)
    path.write_bytes(gzip.decompress(whole))
    assert "not gzip" in problem(case)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    assert "fewer or more voxels" in problem(case)
    path.write_bytes(gzip.compress(gzip.decompress(whole) + b"\0"))
    assert "fewer or more voxels" in problem(case)
    path.write_bytes(gzip.compress(b"not an image"))
    assert "NIfTI-1 header" in problem(case)


def test_a_header_that_promises_much_costs_nothing(case):
    _, output, images = case
    path = output / "cases/0001/segmentation.nii.gz"
    leave(output, np.zeros(images["PT"].array.T.shape, np.uint8))
    header = bytearray(gzip.decompress(path.read_bytes()))
    header[108:112] = np.float32(2**31 - 1e5).tobytes()
    path.write_bytes(gzip.compress(header))
    assert "has its voxels at byte" in problem(case)


def test_links_and_what_is_no_file_are_not_read(case, tmp_path):
    _, output, images = case
    path = output / "cases/0001/segmentation.nii.gz"
    leave(output, np.ones(images["PT"].array.T.shape, np.uint8))
    path.rename(tmp_path / "segmentation.nii.gz")
    path.symlink_to(tmp_path / "segmentation.nii.gz")
    assert "is refused" in problem(case)
    path.unlink()
    os.mkfifo(path)
    assert "is refused" in problem(case)
    path.unlink()
    path.mkdir()
    assert "is refused" in problem(case)
    path.rmdir()
    (output / "cases/0001").rmdir()
    (output / "cases/0001").symlink_to(tmp_path)
    assert "is refused" in problem(case)
    (tmp_path / "error.txt").write_text("secret of the host")
    assert "secret" not in problem(case)


def test_an_error_is_the_algorithms_own_words_on_one_line(case):
    _, output, _ = case
    (output / "cases/0001/error.txt").write_bytes(b"no\n\x1b[31m\xff brain " + 9999 * b"!")
    message = problem(case, Reason.ALGORITHM_FAILED)
    assert "the algorithm says: no [31m" in message
    assert message.isprintable()
    assert len(message) < 300


def test_a_volume_of_any_kind_can_be_written(tmp_path):
    for kind in (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64):
        image = Volume(np.ones((2, 3, 4), kind), oblique_grid((2, 3, 4)))
        write_nifti(tmp_path / "v.nii", image)
        assert nibabel.load(tmp_path / "v.nii").get_data_dtype() == kind

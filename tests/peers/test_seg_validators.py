"""dciodvfy and dcmqi validate and read the DICOM-SEGs of real and of synthetic series."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage

from jipflow.images.masks import Region, pack
from jipflow.images.series import read_planes, read_series_volume
from jipflow.objects.seg_writer import build_seg
from jipflow.objects.terms import read_terms
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.settings.resources import ROOT

sys.path.insert(0, str(ROOT / "tests" / "unit"))

from series_factory import (
    concatenation,
    ct_datasets,
    enhanced,
    legacy_converted,
    mosaic,
    mr_datasets,
    pt_datasets,
    series_of,
    write,
)

TOOLS = Path(sys.executable).parent
ENCODINGS = ("binary", "labelmap")

RETIRED_NAME = "Warning - Value dubious .* PN Patient's Name .* - Retired Person Name form"
"""Message of names without a caret. The name is the source's, and another one another patient's."""

NOT_LISTED = "Warning - .* needed to build DICOMDIR - (Patient ID|Study Date|Study Time)$"
"""Message where the source has no such value, and nobody can know it."""


def validate(path, allowed=()):
    """The errors and warnings of dciodvfy but the allowed; its exit code says none of them."""
    done = subprocess.run([TOOLS / "dciodvfy", path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert any("Segmentation" in line for line in lines), f"dciodvfy says nothing about {path}"
    messages = [line for line in lines if line.startswith(("Error", "Warning"))]
    return [line for line in messages if not any(re.match(pattern, line) for pattern in allowed)]


def by_dcmqi(path, grid):
    """What dcmqi says of a file, and each segment's voxels on a grid as it reads them."""
    folder = path.with_suffix("")
    folder.mkdir()
    done = subprocess.run(
        [
            *(TOOLS / "segimage2itkimage", "--mergeSegments", "--inputDICOM", path),
            *("--outputDirectory", folder, "--prefix", "x"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    masks = {}
    for file in sorted(folder.glob("*.nrrd")):
        image = sitk.ReadImage(str(file))
        array = sitk.GetArrayFromImage(image)
        drawn = np.argwhere(array)
        direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        points = drawn[:, ::-1] @ direction.T + image.GetOrigin()
        index = np.linalg.inv(grid.affine) @ np.c_[points, np.ones(len(points))].T
        places = np.rint(index[:3]).astype(int)
        # Geometry is stated in DS of 16 characters.
        assert np.abs(index[:3] - places).max() < 1e-3
        for number in np.unique(array[array > 0]).tolist():
            mask = masks.setdefault(number, np.zeros(grid.shape, bool))
            mask[tuple(places[:, array[tuple(drawn.T)] == number])] = True
    complaints = [line for line in done.stderr.splitlines() if line.startswith(("W:", "E:"))]
    return complaints, masks


def encoded(paths, grid, regions, encoding, path):
    """Write a DICOM-SEG of these masks, as the stage does."""
    dataset = build_seg(
        pack([Region(*region, "AUTOMATIC", "phantom", "abc") for region in regions], grid),
        read_planes(series_of(paths)),
        read_terms(),
        encoding=encoding,
        description="validated organs",
        series_number=9001,
        identity=("protocol", "organs"),
        notes=[],
    )
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def grid_of(paths):
    return read_series_volume(series_of(paths)).grid


def ball(shape, centre, radius):
    """Voxels of an ellipsoid, centre and radius in parts of the grid."""
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    return sum(((a / n - c) / radius) ** 2 for a, n, c in zip(axes, shape, centre, strict=True)) < 1


def organs(grid):
    """Two segments, apart from each other, with empty slices before, between and after."""
    return [
        ("liver", "liver", ball(grid.shape, (0.35, 0.4, 0.3), 0.2)),
        ("lesion", "lesion", ball(grid.shape, (0.75, 0.5, 0.7), 0.15)),
    ]


def check(paths, grid, regions, encoding, folder, allowed=()):
    path = folder / f"{encoding}.dcm"
    encoded(paths, grid, regions, encoding, path)
    assert validate(path, allowed) == []
    complaints, masks = by_dcmqi(path, grid)
    assert complaints == []
    assert sorted(masks) == list(range(1, len(regions) + 1))
    for number, (name, _, drawn) in enumerate(regions, start=1):
        np.testing.assert_array_equal(masks[number], drawn, err_msg=name)


def test_the_validators_can_fail(tmp_path):
    paths = write(ct_datasets(), tmp_path / "ct")
    grid = grid_of(paths)
    good, bad = tmp_path / "good.dcm", tmp_path / "bad.dcm"
    encoded(paths, grid, organs(grid), "binary", good)
    assert validate(good) == []
    dataset = pydicom.dcmread(good)
    del dataset.SegmentSequence[0].SegmentLabel
    del dataset.ContentCreatorName
    dataset.PixelData = bytes(len(dataset.PixelData) - 2) + b"\x01\0"
    dataset.save_as(bad)
    assert any("SegmentLabel" in line for line in validate(bad))
    complaints, masks = by_dcmqi(bad, grid)
    assert any("ContentCreatorName" in line for line in complaints)
    assert 1 not in masks or not np.array_equal(masks[1], organs(grid)[0][2])


PATIENTS = ("002", "003", "008", "012", "017", "019", "023", "024")
PATIENTS += ("025", "032", "034", "035", "038", "042", "047")


@pytest.mark.parametrize("patient", PATIENTS)
def test_real_series(patient, shared_data, tmp_path):
    """Each patient with one modality, so that each vendor of MR and each modality is there."""
    modality = ("MR_T1", "CT", "PET")[PATIENTS.index(patient) % 3]
    paths = sorted((shared_data / "sarcoma" / f"STS_{patient}" / modality / "image").glob("*.dcm"))
    grid = grid_of(paths)
    for encoding in ENCODINGS:
        check(paths, grid, organs(grid), encoding, tmp_path, [RETIRED_NAME])


def oblique(folder):
    grid = PhantomGrid(
        (9, 11, 13), (4.0, 3.5, 3.0), (1.0, 2.0, 3.0), (0.8, 0.6, 0.0), (-0.48, 0.64, 0.6)
    )
    return write(dicom.ct_series(np.zeros(grid.shape, np.int16), grid), folder)


def sagittal(folder):
    grid = PhantomGrid(
        (9, 11, 14), (4.0, 3.5, 3.0), (5.0, -7.0, 9.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)
    )
    return write(dicom.ct_series(np.zeros(grid.shape, np.int16), grid), folder)


def enhanced_ct(folder):
    return write([enhanced(ct_datasets((9, 11, 14))[::-1], EnhancedCTImageStorage)], folder)


def enhanced_mr(folder):
    return write([enhanced(mr_datasets(), EnhancedMRImageStorage)], folder)


def split_ct(folder):
    image = enhanced(ct_datasets((9, 11, 14))[::-1], EnhancedCTImageStorage)
    return write(concatenation(image, [4, 5]), folder)


def siemens_mosaic(folder):
    return write([mosaic(mr_datasets()[::-1])], folder)


def legacy_pt(folder):
    return write([legacy_converted(pt_datasets())], folder)


def sparse(folder):
    """Instances without a patient, dates or a slice thickness, and with blank UIDs."""

    def strip(datasets):
        for dataset in datasets:
            for element in list(dataset):
                known = element.tag.group in {0x0020, 0x0028, 0x7FE0}
                if not known and element.keyword not in {"SOPClassUID", "Modality"}:
                    del dataset[element.tag]
            dataset.StudyInstanceUID = dataset.SeriesInstanceUID = ""

    return write(ct_datasets(), folder, strip)


def japanese(folder):
    def name(datasets):
        for dataset in datasets:
            dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
            dataset.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"

    return write(ct_datasets(), folder, name)


def spoilt(folder):
    """Text in no stated character set, values against their representations."""

    def spoil(datasets):
        for dataset in datasets:
            dataset.PatientName = "Müller^Jörg"
            dataset.StudyDescription = "A description of far more than sixty-four letters " * 2
            dataset.StudyID = "a study id of far more than sixteen letters"
            dataset.PatientSex, dataset.PatientBirthDate = "X", "12.03.1960"
            dataset.PatientAge, dataset.StudyTime = "60", "noon"
            dataset.ContentDate = "yesterday"
            dataset.SpecificCharacterSet = "ISO_IR 192"

    with pydicom.config.disable_value_validation():
        paths = write(ct_datasets(), folder, spoil)
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 192", b"ISO_IR 6  "))
    return paths


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "make",
    [
        oblique,
        sagittal,
        enhanced_ct,
        split_ct,
        enhanced_mr,
        siemens_mosaic,
        legacy_pt,
        sparse,
        japanese,
        spoilt,
    ],
)
def test_made_series(make, encoding, tmp_path):
    paths = make(tmp_path / "source")
    grid = grid_of(paths)
    check(paths, grid, organs(grid), encoding, tmp_path, [NOT_LISTED])


def test_overlapping_segments(tmp_path):
    paths = write(ct_datasets((9, 11, 14)), tmp_path / "ct")
    grid = grid_of(paths)
    shape = grid.shape
    regions = [
        ("liver", "liver", ball(shape, (0.4, 0.4, 0.4), 0.3)),
        ("lesion", "lesion", ball(shape, (0.5, 0.5, 0.5), 0.2)),
        ("second", "lesion", ball(shape, (0.6, 0.4, 0.5), 0.2)),
    ]
    check(paths, grid, regions, "binary", tmp_path)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_term(encoding, tmp_path):
    paths = write(ct_datasets((9, 11, 14)), tmp_path / "ct")
    numbers = np.zeros((9, 11, 14), int)
    terms = read_terms()
    places = numbers[1:8:2, :, 1::2]
    assert len(terms) <= places.size
    places[:] = np.resize(np.arange(1, len(terms) + 1), places.shape)
    regions = [(key, key, numbers == number) for number, key in enumerate(terms, start=1)]
    check(paths, grid_of(paths), regions, encoding, tmp_path)

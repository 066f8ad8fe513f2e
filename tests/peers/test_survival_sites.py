"""Simulated patients of the survival guide: whole patients, of known size and uptake."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIZE, UPTAKE = 1.25, 0.5


@pytest.fixture(scope="module")
def both(shared_data, tmp_path_factory):
    """The files of a real patient and of the simulated one, by modality."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from survival_sites import Sibling, write_sibling
    finally:
        sys.path.remove(str(BENCHMARKS))
    folder, real = tmp_path_factory.mktemp("siblings"), shared_data / "sarcoma" / "STS_002"
    write_sibling(folder, real, Sibling("002-00", SIZE, UPTAKE, gain=1.5, seed=1))
    paths = [path for name in ("PET", "MR_T1") for path in sorted((real / name).rglob("*.dcm"))]
    made = sorted((folder / "002-00").iterdir())
    assert len(made) == len(paths)
    return [(pydicom.dcmread(a), pydicom.dcmread(b)) for a, b in zip(paths, made, strict=True)]


def of(both, modality):
    return [pair for pair in both if pair[0].Modality == modality]


def numbers(values):
    return np.array([float(value) for value in values])


def test_all_lengths_have_the_factor_of_size(both):
    for modality in ("PT", "MR"):
        for real, made in of(both, modality):
            for name in ("ImagePositionPatient", "PixelSpacing"):
                expected = numbers(real[name].value) * SIZE
                assert np.allclose(numbers(made[name].value), expected, rtol=1e-6)
    for real, made in of(both, "RTSTRUCT"):
        contours = [
            numbers(each.ROIContourSequence[0].ContourSequence[0].ContourData)
            for each in (real, made)
        ]
        assert np.allclose(contours[1], contours[0] * SIZE, rtol=1e-6)


def test_uptake_has_its_factor_but_for_the_noise(both):
    real, made = (
        np.concatenate(
            [each[k].pixel_array * float(each[k].RescaleSlope) for each in of(both, "PT")]
        )
        for k in (0, 1)
    )
    high = real > np.quantile(real, 0.9)
    assert np.mean(made[high] / real[high]) == pytest.approx(UPTAKE, rel=0.01)
    assert np.std(made[high] / real[high]) == pytest.approx(0.03 * UPTAKE, rel=0.2)


def test_a_patient_has_uids_of_their_own_that_refer_to_each_other(both):
    uids = [{str(each[k].SOPInstanceUID) for each in both} for k in (0, 1)]
    assert not uids[0] & uids[1]
    for real, made in of(both, "RTSTRUCT"):
        # The collection's contours refer to slices of images that it has cut since.
        for mine, theirs in zip(referenced(real), referenced(made), strict=True):
            assert mine != theirs
        frames = [each.ReferencedFrameOfReferenceSequence[0] for each in (real, made)]
        assert frames[0].FrameOfReferenceUID != frames[1].FrameOfReferenceUID
        assert frames[1].FrameOfReferenceUID in {
            each.get("FrameOfReferenceUID") for _, each in both
        }
    assert len({made.StudyInstanceUID for _, made in both}) == 1
    assert {made.PatientID for _, made in both} == {"002-00"}
    assert all(made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID for _, made in both)


def referenced(item: Dataset) -> list[str]:
    """The instances that an object refers to."""
    keyword = "ReferencedSOPInstanceUID"
    return [str(element.value) for element in item.iterall() if element.keyword == keyword]

"""The DICOM-SEG holds the mask, its codes and its references, and is the same on every run."""

from __future__ import annotations

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from jipflow.encode.seg import build_seg
from jipflow.encode.terms import read_terms
from jipflow.images.masks import Region, pack
from jipflow.images.series import read_planes, read_series_volume
from jipflow.phantom import dicom
from series_factory import ct_datasets, series_of, write


@pytest.fixture
def source(tmp_path):
    return write(ct_datasets(), tmp_path / "ct")


def encode(source, method="AUTOMATIC", **regions):
    grid = read_series_volume(series_of(source)).grid
    segmentation = pack(
        [Region(n, n.split("_")[0], m, method, "phantom-ct", "abc") for n, m in regions.items()],
        grid,
    )
    return build_seg(
        segmentation,
        read_planes(series_of(source)),
        read_terms(),
        encoding="binary",
        description="demo organs",
        series_number=9001,
        identity=("protocol", "organs"),
        notes=[],
    )


def masks(source):
    shape = read_series_volume(series_of(source)).array.shape
    liver = np.zeros(shape, bool)
    liver[1:4, 2:5, 1:9] = True
    lesion = np.zeros(shape, bool)
    lesion[2, 3:4, 3:6] = True
    return {"liver": liver, "lesion": lesion}


def test_the_mask_comes_back_where_it_was(source, tmp_path):
    regions = masks(source)
    path = tmp_path / "seg.dcm"
    pydicom.dcmwrite(path, encode(source, **regions), enforce_file_format=True)
    seg = highdicom.seg.segread(path)
    grid = read_series_volume(series_of(source)).grid
    geometry = highdicom.VolumeGeometry(
        grid.affine,
        grid.shape,
        coordinate_system="PATIENT",
        frame_of_reference_uid=seg.FrameOfReferenceUID,
    )
    volume = seg.get_volume(combine_segments=False).match_geometry(geometry)
    for number, mask in enumerate(regions.values()):
        np.testing.assert_array_equal(volume.array[..., number], mask)


def test_codes_tracking_and_references(source):
    seg = encode(source, **masks(source))
    liver, lesion = seg.SegmentSequence
    assert liver.SegmentedPropertyTypeCodeSequence[0] == codes.SCT.Liver
    assert liver.SegmentedPropertyCategoryCodeSequence[0] == codes.CID7150.AnatomicalStructure
    assert lesion.SegmentedPropertyTypeCodeSequence[0] == codes.SCT.Lesion
    assert liver.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("phantom-ct", "abc")
    assert liver.TrackingUID != lesion.TrackingUID
    assert liver.TrackingID == "liver"
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in source]
    referenced = {
        item.ReferencedSOPInstanceUID
        for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referenced == {header.SOPInstanceUID for header in headers}
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == headers[0].SeriesInstanceUID
    assert seg.StudyInstanceUID == headers[0].StudyInstanceUID
    assert seg.FrameOfReferenceUID == headers[0].FrameOfReferenceUID


def test_a_manual_segment_names_no_algorithm(source):
    seg = encode(source, "MANUAL", **masks(source))
    assert "SegmentationAlgorithmIdentificationSequence" not in seg.SegmentSequence[0]


def test_the_same_input_gives_the_same_bytes_at_another_time(source, tmp_path, monkeypatch):
    import time

    first, second = tmp_path / "1.dcm", tmp_path / "2.dcm"
    pydicom.dcmwrite(first, encode(source, **masks(source)), enforce_file_format=True)
    time.sleep(1.1)
    pydicom.dcmwrite(second, encode(source, **masks(source)), enforce_file_format=True)
    assert first.read_bytes() == second.read_bytes()


def test_another_mask_is_another_object(source):
    regions = masks(source)
    one = encode(source, **regions)
    regions["liver"][0, 0, 0] = True
    other = encode(source, **regions)
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert one[name].value != other[name].value


def test_uids_are_valid_and_keep_parts_apart():
    uids = {stable_uid("a", "bc"), stable_uid("ab", "c"), stable_uid("abc")}
    assert len(uids) == 3
    assert all(pydicom.uid.UID(uid).is_valid and uid.startswith("2.25.") for uid in uids)


def test_text_too_long_for_its_representation_is_shortened_but_no_identifier():
    dataset = ct_datasets()[0]
    with pydicom.config.disable_value_validation():
        dataset.StudyID = "a study id of far more than sixteen letters"
        dataset.PatientID = "P" * 70
    note = mend_lengths([dataset])
    assert len(dataset.StudyID) <= 16
    assert len(dataset.PatientID) == 70
    assert "StudyID" in note
    assert "PatientID" not in note
    assert mend_lengths(ct_datasets()) == ""


def test_oblique_series_too(tmp_path):
    from jipflow.phantom.grid import Grid

    grid = Grid((4, 6, 7), (4.0, 3.5, 3.0), (0.0, 0.0, 0.0), (0.8, 0.6, 0.0), (-0.48, 0.64, 0.6))
    source = write(dicom.ct_series(np.zeros(grid.shape, np.int16), grid), tmp_path / "oblique")
    mask = np.zeros(grid.shape, bool)
    mask[1, 2:4, 3] = True
    seg = encode(source, liver=mask)
    item = seg.PerFrameFunctionalGroupsSequence[0]
    np.testing.assert_allclose(
        item.PlanePositionSequence[0].ImagePositionPatient, grid.position(1, 0, 0), atol=1e-4
    )

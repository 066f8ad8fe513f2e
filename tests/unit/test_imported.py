"""Contours and segmentations of the archive become masks, or the outcome says why not."""

from __future__ import annotations

import copy

import numpy as np
import pydicom
import pytest

from jipflow.cases import CaseFault, Reason
from jipflow.encode.seg import build_seg
from jipflow.encode.terms import read_terms
from jipflow.images.masks import Region, pack
from jipflow.images.series import read_series, read_series_volume
from jipflow.phantom import dicom
from jipflow.phantom.grid import Grid
from jipflow.segment.imported import Target, import_regions
from series_factory import series_of, write

GRID = Grid((5, 12, 14), (3.0, 2.0, 2.0), (-10.0, -12.0, 5.0))
SPEC = {
    "id": "gtv",
    "from": "RTSTRUCT",
    "segments": [{"name": "gtv", "match": "GTV.*", "term": "lesion", "required": True}],
}


def box(*bounds):
    mask = np.zeros(GRID.shape, bool)
    mask[tuple(slice(*b) for b in bounds)] = True
    return mask


TUMOUR = box((1, 4), (3, 8), (4, 10))
NODE = box((0, 2), (9, 11), (1, 4))


@pytest.fixture
def archive(tmp_path):
    images = dicom.ct_series(np.zeros(GRID.shape, np.int16), GRID)
    paths = write(images, tmp_path / "ct")
    grid = read_series_volume(series_of(paths)).grid
    target = Target(
        "case1", str(images[0].SeriesInstanceUID), str(images[0].FrameOfReferenceUID), grid
    )
    return tmp_path, images, paths, target


def structure(archive, masks, name="rt", change=lambda dataset: None):
    folder, images, _, _ = archive
    dataset = dicom.rtstruct(masks, GRID, images)
    dataset.SOPInstanceUID = dicom.uid(name)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    change(dataset)
    return write([dataset], folder / name)[0]


def forget_series(dataset):
    for frame in dataset.ReferencedFrameOfReferenceSequence:
        del frame.RTReferencedStudySequence


def other_frame(dataset):
    forget_series(dataset)
    for frame in dataset.ReferencedFrameOfReferenceSequence:
        frame.FrameOfReferenceUID = dicom.uid("elsewhere")
    for roi in dataset.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = dicom.uid("elsewhere")
    dataset.FrameOfReferenceUID = dicom.uid("elsewhere")


def test_contours_become_the_voxels_they_were_drawn_round(archive):
    path = structure(archive, {"GTV_1": TUMOUR, "Heart": NODE})
    (region,) = import_regions([path], SPEC, archive[3])
    np.testing.assert_array_equal(region.mask, TUMOUR)


def test_all_regions_that_match_are_united(archive):
    path = structure(archive, {"GTV_1": TUMOUR, "GTV_2": NODE})
    (region,) = import_regions([path], SPEC, archive[3])
    np.testing.assert_array_equal(region.mask, TUMOUR | NODE)


def test_the_frame_of_reference_serves_where_no_series_is_referenced(archive):
    path = structure(archive, {"GTV": TUMOUR}, change=forget_series)
    (region,) = import_regions([path], SPEC, archive[3])
    np.testing.assert_array_equal(region.mask, TUMOUR)


def test_a_reference_to_the_series_beats_the_frame_of_reference(archive):
    right = structure(archive, {"GTV": TUMOUR}, "right")
    wrong = structure(archive, {"GTV": NODE}, "wrong", forget_series)
    (region,) = import_regions([wrong, right], SPEC, archive[3])
    np.testing.assert_array_equal(region.mask, TUMOUR)


def refusal(archive, paths, spec=SPEC):
    with pytest.raises(CaseFault) as caught:
        import_regions(paths, spec, archive[3])
    assert "case1" in caught.value.message
    return caught.value.reason


def test_what_does_not_fit_is_refused(archive):
    named = structure(archive, {"Heart": TUMOUR}, "other-name")
    placed = structure(archive, {"GTV": TUMOUR}, "other-frame", other_frame)
    first = structure(archive, {"GTV": TUMOUR}, "first")
    second = structure(archive, {"GTV": NODE}, "second")
    assert refusal(archive, []) is Reason.NO_CONTOURS
    assert refusal(archive, [named]) is Reason.NO_CONTOURS
    assert refusal(archive, [placed]) is Reason.NO_CONTOURS
    assert refusal(archive, [first, second]) is Reason.AMBIGUOUS_CONTOURS


def test_a_region_without_contours_is_empty(archive):
    def erase(dataset):
        del dataset.ROIContourSequence[0].ContourSequence

    path = structure(archive, {"GTV": TUMOUR}, change=erase)
    assert refusal(archive, [path]) is Reason.EMPTY_SEGMENT
    optional = copy.deepcopy(SPEC)
    optional["segments"][0]["required"] = False
    assert refusal(archive, [path], optional) is Reason.EMPTY_SEGMENTATION


def seg_file(archive, masks, segments=("GTV", "Node")):
    folder, _, paths, target = archive
    regions = [
        Region(name, "lesion", mask, "MANUAL", "a person")
        for name, mask in zip(segments, masks, strict=True)
    ]
    dataset = build_seg(
        pack(regions, target.grid),
        read_series(series_of(paths), pixels=False),
        read_terms(),
        description="test",
        series_number=1,
        identity=("test",),
    )
    path = folder / "seg.dcm"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def test_a_dicom_seg_comes_back_voxel_for_voxel(archive):
    overlapping = TUMOUR | box((2, 3), (0, 12), (0, 14))
    path = seg_file(archive, [TUMOUR, overlapping])
    spec = {
        "id": "both",
        "from": "SEG",
        "segments": [
            {"name": "tumour", "match": "GTV", "term": "lesion", "required": True},
            {"name": "slab", "match": "Node", "term": "lesion", "required": True},
        ],
    }
    tumour, slab = import_regions([path], spec, archive[3])
    np.testing.assert_array_equal(tumour.mask, TUMOUR)
    np.testing.assert_array_equal(slab.mask, overlapping)


def test_a_dicom_seg_on_another_grid_is_refused(archive):
    path = seg_file(archive, [TUMOUR, NODE])
    _, _, _, target = archive
    shifted = target.grid.affine.copy()
    shifted[0, 3] += 0.7
    moved = Target(
        target.case_id,
        target.series_uid,
        target.frame_of_reference_uid,
        type(target.grid)(target.grid.shape, shifted),
    )
    spec = {**SPEC, "from": "SEG"}
    with pytest.raises(CaseFault) as caught:
        import_regions([path], spec, moved)
    assert caught.value.reason is Reason.GRID_MISMATCH

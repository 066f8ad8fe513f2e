"""Contours of the archive become masks, or the outcome says why not."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

import typed
from jipflow.cases import Case, Series
from jipflow.images.masks import read_segmentation
from jipflow.images.series import read_series_volume
from jipflow.images.volume import volume_path, write_volume
from jipflow.outcomes import Status
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.reasons import CaseFault, Reason, StageError
from jipflow.segment import stage
from jipflow.segment.engine import Machine
from jipflow.segment.engines.imported.engine import Imported, import_regions, target_of
from series_factory import series_of, write

GRID = PhantomGrid((6, 12, 14), (3.0, 2.0, 2.0), (-10.0, -12.0, 5.0))
SPEC = {
    "id": "gtv",
    "engine": "imported",
    "from": "RTSTRUCT",
    "role": "CT",
    "segments": [{"name": "gtv", "match": "GTV.*", "term": "lesion", "required": True}],
}

PLAIN = re.compile(r"\S+ was taken by the (images|series) that it references\.")
"""The note of an object that names the series or its images there: nothing else was decided."""


def box(*bounds):
    mask = np.zeros(GRID.shape, bool)
    mask[tuple(slice(*b) for b in bounds)] = True
    return mask


TUMOUR = box((1, 4), (3, 8), (4, 10))
NODE = box((0, 2), (9, 11), (1, 4))


class Archive:
    """A CT series and what is drawn on it, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.images = dicom.ct_series(np.zeros(GRID.shape, np.int16), GRID)
        self.series = series_of(write(self.images, folder / "ct"))
        self.volume = read_series_volume(self.series)
        self.target = target_of("case1", self.series, self.volume.grid)

    def structure(self, masks, *changes, name="rt"):
        dataset = dicom.rtstruct(masks, GRID, self.images)
        dataset.SOPInstanceUID = dicom.uid(name)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        for change in changes:
            change(dataset)
        return write([dataset], self.folder / name)[0]

    def regions(self, *paths, spec=SPEC):
        notes = []
        regions = list(import_regions(paths, typed.segmentation(spec), self.target, notes))
        return regions, " ".join(notes)

    def mask(self, *paths, spec=SPEC):
        (region,), notes = self.regions(*paths, spec=spec)
        return region.mask, notes

    def refusal(self, *paths, spec=SPEC):
        with pytest.raises(CaseFault) as caught:
            self.regions(*paths, spec=spec)
        assert "case1" in caught.value.message
        return caught.value.reason, caught.value.message


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


def without(archive, *gone):
    """The same archive without some images of the series."""
    kept = [path for n, path in enumerate(archive.series.paths) if n not in gone]
    series = Series(archive.series.series_uid, archive.series.modality, tuple(kept))
    archive.target = target_of("case1", series, archive.volume.grid)


def test_contours_on_images_that_are_not_there_are_refused(archive):
    """Their planes would be left out, and the region be smaller than it is."""
    path = archive.structure({"GTV": TUMOUR})
    without(archive, 0, 1)
    reason, message = archive.refusal(path)
    assert reason is Reason.MISSING_SLICES
    assert "ROI 1: 1 of 3 contours lie on images that are not there (2 of 6 images" in message


def test_images_without_contours_that_are_not_there_are_noted(archive):
    path = archive.structure({"GTV": TUMOUR})
    without(archive, 0)
    mask, notes = archive.mask(path)
    np.testing.assert_array_equal(mask, TUMOUR)
    assert "1 of 6 images of the series that the structure set names are not there." in notes


def referenced_series(dataset):
    (study,) = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    return study.RTReferencedSeriesSequence[0]


def forget_images(dataset):
    """Contours and series name images that are not in the archive, as after de-identification."""
    items = list(referenced_series(dataset).ContourImageSequence)
    for roi in dataset.ROIContourSequence:
        for contour in roi.ContourSequence:
            items += contour.ContourImageSequence
    for item in items:
        item.ReferencedSOPInstanceUID = dicom.uid("gone", item.ReferencedSOPInstanceUID)


def rename_series(dataset):
    referenced_series(dataset).SeriesInstanceUID = dicom.uid("renamed")


def forget_series(dataset):
    forget_images(dataset)
    del dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence


def forget_frame(dataset):
    """Nothing names a frame of reference either."""
    forget_series(dataset)
    for item in (*dataset.ReferencedFrameOfReferenceSequence, dataset):
        item.FrameOfReferenceUID = ""
    for roi in dataset.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = ""


ELSEWHERE = dicom.uid("elsewhere")


def rois_elsewhere(dataset):
    for roi in dataset.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = ELSEWHERE


def set_elsewhere(dataset):
    """The ROIs name no frame, and the set another one."""
    for roi in dataset.StructureSetROISequence:
        del roi.ReferencedFrameOfReferenceUID
    dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = ELSEWHERE


def whole_elsewhere(dataset):
    """Only the object itself names a frame."""
    forget_frame(dataset)
    dataset.FrameOfReferenceUID = ELSEWHERE


def second_frame(dataset):
    """The set names a second frame with images of its own; the ROIs name none."""
    second = copy.deepcopy(dataset.ReferencedFrameOfReferenceSequence[0])
    second.FrameOfReferenceUID = ELSEWHERE
    for series in second.RTReferencedStudySequence[0].RTReferencedSeriesSequence:
        for item in series.ContourImageSequence:
            item.ReferencedSOPInstanceUID = dicom.uid("there", item.ReferencedSOPInstanceUID)
    dataset.ReferencedFrameOfReferenceSequence.append(second)
    for roi in dataset.StructureSetROISequence:
        del roi.ReferencedFrameOfReferenceUID


def drawn_there(dataset):
    """The contours reference the images of the second frame."""
    second_frame(dataset)
    for roi in dataset.ROIContourSequence:
        for contour in roi.ContourSequence:
            for item in contour.ContourImageSequence:
                item.ReferencedSOPInstanceUID = dicom.uid("there", item.ReferencedSOPInstanceUID)


def drawn_anywhere(dataset):
    """The contours reference no image, so that either frame may be theirs."""
    second_frame(dataset)
    for roi in dataset.ROIContourSequence:
        for contour in roi.ContourSequence:
            del contour.ContourImageSequence


def stating(values):
    """A change of attributes."""
    return lambda dataset: [setattr(dataset, name, value) for name, value in values.items()]


def other_study(dataset):
    dataset.StudyInstanceUID = dicom.uid("another study")


def other_date(dataset):
    dataset.StudyDate = "20200101"


def moved(millimetres):
    def change(dataset):
        for roi in dataset.ROIContourSequence:
            for contour in roi.ContourSequence:
                points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
                contour.ContourData = [round(v, 4) for v in (points + millimetres).ravel()]

    return change


def each_contour(change):
    def apply(dataset):
        for roi in dataset.ROIContourSequence:
            for contour in roi.ContourSequence:
                change(contour)

    return apply


class TestRegions:
    def test_contours_become_the_voxels_they_were_drawn_round(self, archive):
        mask, notes = archive.mask(archive.structure({"GTV_1": TUMOUR, "Heart": NODE}))
        np.testing.assert_array_equal(mask, TUMOUR)
        assert PLAIN.fullmatch(notes)

    def test_all_that_match_are_united(self, archive):
        mask, notes = archive.mask(archive.structure({"GTV_1": TUMOUR, "GTV_2": NODE}))
        np.testing.assert_array_equal(mask, TUMOUR | NODE)
        assert "'gtv' unites ROIs 1, 2" in notes

    def test_all_of_one_name_are_united(self, archive):
        def same_name(dataset):
            dataset.StructureSetROISequence[1].ROIName = "GTV"

        mask, notes = archive.mask(archive.structure({"GTV": TUMOUR, "other": NODE}, same_name))
        np.testing.assert_array_equal(mask, TUMOUR | NODE)
        assert "unites ROIs 1, 2" in notes

    def test_points_and_lines_are_left_out_and_counted(self, archive):
        def loosen(dataset):
            first, second = dataset.ROIContourSequence[0].ContourSequence[:2]
            first.ContourGeometricType = "OPEN_PLANAR"
            second.ContourGeometricType = "POINT"

        mask, notes = archive.mask(archive.structure({"GTV": TUMOUR}, loosen))
        np.testing.assert_array_equal(mask, TUMOUR & box((3, 6), (0, 12), (0, 14)))
        assert "2 of 3 contours enclose nothing (OPEN_PLANAR, POINT)" in notes

    def test_contours_of_two_points_are_left_out_and_counted(self, archive):
        def shorten(dataset):
            contour = dataset.ROIContourSequence[0].ContourSequence[0]
            contour.ContourData = list(contour.ContourData)[:6]

        mask, notes = archive.mask(archive.structure({"GTV": TUMOUR}, shorten))
        np.testing.assert_array_equal(mask, TUMOUR & box((2, 6), (0, 12), (0, 14)))
        assert "1 of 3 contours have fewer than three points" in notes

    def test_contours_of_type_xor_are_combined_so(self, archive):
        def xor(dataset):
            for contour in dataset.ROIContourSequence[0].ContourSequence:
                contour.ContourGeometricType = "CLOSEDPLANAR_XOR"

        ring = TUMOUR & ~box((1, 4), (5, 7), (6, 8))
        mask, _ = archive.mask(archive.structure({"GTV": ring}, xor))
        np.testing.assert_array_equal(mask, ring)

    @pytest.mark.parametrize("damage", ["1.0\\2.0", "1.0\\2.0\\what", "nan\\1.0\\2.0"])
    def test_contour_data_that_are_no_triplets_of_numbers_are_refused(self, archive, damage):
        path = archive.structure({"GTV": TUMOUR})
        content = path.read_bytes()
        dataset = pydicom.dcmread(path)
        data = dataset.ROIContourSequence[0].ContourSequence[0].get_item("ContourData").value
        assert content.count(data) >= 1
        path.write_bytes(content.replace(data, damage.encode().ljust(len(data)), 1))
        reason, message = archive.refusal(path)
        assert reason is Reason.CONTOUR_GEOMETRY
        assert "ROI 1" in message
        assert "no triplets of numbers" in message

    def test_an_unstated_method_is_recorded_as_manual_with_a_note(self, archive):
        def unstated(dataset):
            dataset.StructureSetROISequence[0].ROIGenerationAlgorithm = ""

        (region,), notes = archive.regions(archive.structure({"GTV": TUMOUR}, unstated))
        assert region.method == "MANUAL"
        assert "stated as nothing" in notes


class TestOddContours:
    def test_that_are_to_be_moved_are_refused(self, archive):
        def offset(contour):
            contour.ContourOffsetVector = [0.0, 0.0, 3.0]

        reason, message = archive.refusal(archive.structure({"GTV": TUMOUR}, each_contour(offset)))
        assert reason is Reason.CONTOUR_GEOMETRY
        assert "3 contours have a Contour Offset Vector" in message

    def test_that_are_moved_by_nothing_are_drawn(self, archive):
        def offset(contour):
            contour.ContourOffsetVector = [0.0, 0.0, 0.0]

        mask, notes = archive.mask(archive.structure({"GTV": TUMOUR}, each_contour(offset)))
        np.testing.assert_array_equal(mask, TUMOUR)
        assert PLAIN.fullmatch(notes)

    def test_that_have_other_points_than_they_state_are_noted(self, archive):
        def fewer(dataset):
            dataset.ROIContourSequence[0].ContourSequence[1].NumberOfContourPoints += 1
            del dataset.ROIContourSequence[0].ContourSequence[2].NumberOfContourPoints

        mask, notes = archive.mask(archive.structure({"GTV": TUMOUR}, fewer))
        np.testing.assert_array_equal(mask, TUMOUR)
        assert "1 of 3 contours have another number of points than they state" in notes

    def test_of_two_types_are_noted(self, archive):
        def mixed(dataset):
            first = dataset.ROIContourSequence[0].ContourSequence[0]
            first.ContourGeometricType = "CLOSEDPLANAR_XOR"

        mask, notes = archive.mask(archive.structure({"GTV": TUMOUR}, mixed))
        np.testing.assert_array_equal(mask, TUMOUR)
        assert "some of its contours are of type CLOSEDPLANAR_XOR and some are not" in notes


class TestNoVoxel:
    def erase(self, dataset):
        del dataset.ROIContourSequence[0].ContourSequence

    def disown(self, dataset):
        dataset.ROIContourSequence[0].ReferencedROINumber = 77

    @pytest.mark.parametrize("change", [erase, disown])
    def test_a_region_without_contours_is_empty(self, archive, change):
        path = archive.structure({"GTV": TUMOUR}, lambda dataset: change(self, dataset))
        reason, message = archive.refusal(path)
        assert reason is Reason.EMPTY_SEGMENT
        assert "ROI 1: it has no contours" in message

    def test_of_any_segment_is_an_empty_segmentation(self, archive):
        optional = copy.deepcopy(SPEC)
        optional["segments"][0]["required"] = False
        path = archive.structure({"GTV": TUMOUR}, lambda dataset: self.erase(dataset))
        assert archive.refusal(path, spec=optional)[0] is Reason.EMPTY_SEGMENTATION

    def test_an_optional_region_that_cannot_be_placed_is_left_out_with_a_note(self, archive):
        def tilt(dataset):
            contour = dataset.ROIContourSequence[1].ContourSequence[0]
            contour.ContourData = [*list(contour.ContourData)[:-1], 30.0]

        spec = copy.deepcopy(SPEC)
        spec["segments"].append(
            {"name": "node", "match": "Node", "term": "lymph-node", "required": False}
        )
        path = archive.structure({"GTV": TUMOUR, "Node": NODE}, tilt)
        regions, notes = archive.regions(path, spec=spec)
        assert [region.name for region in regions] == ["gtv"]
        assert "'node' was left out" in notes
        assert "another orientation" in notes


OPTIONAL = {**copy.deepcopy(SPEC), "may_be_empty": True}
OPTIONAL["segments"][0]["required"] = False


class TestNoAbsence:
    """What is drawn and cannot be used is no finding of nothing."""

    def test_contours_that_enclose_no_voxel_fail(self, archive):
        def shrink(dataset):
            for contour in dataset.ROIContourSequence[0].ContourSequence:
                x, y, z = list(map(float, contour.ContourData))[:3]
                ends = [(0.6, 0.6), (0.7, 0.6), (0.7, 0.7)]
                contour.ContourData = [v for a, b in ends for v in (x + a, y + b, z)]
                contour.NumberOfContourPoints = 3

        reason, message = archive.refusal(archive.structure({"GTV": TUMOUR}, shrink), spec=OPTIONAL)
        assert reason is Reason.EMPTY_SEGMENT
        assert "its contours enclose no voxel" in message

    def test_contours_that_cannot_be_placed_fail(self, archive):
        path = archive.structure({"GTV": TUMOUR}, moved([0, 0, -90.0]))
        assert archive.refusal(path, spec=OPTIONAL)[0] is Reason.CONTOUR_GEOMETRY

    @pytest.mark.parametrize("wanted", ["GTV", "Node"])
    @pytest.mark.parametrize("spec", [SPEC, OPTIONAL], ids=["required", "optional"])
    def test_regions_of_one_number_are_refused(self, archive, wanted, spec):
        def same(dataset):
            dataset.StructureSetROISequence[1].ROINumber = 1
            dataset.ROIContourSequence[1].ReferencedROINumber = 1

        spec = copy.deepcopy(spec)
        spec["segments"][0]["match"] = wanted
        path = archive.structure({"GTV": TUMOUR, "Node": NODE}, same)
        reason, message = archive.refusal(path, spec=spec)
        assert reason is Reason.AMBIGUOUS_CONTOURS
        assert "2 ROIs have the number 1" in message


class TestChoice:
    def test_goes_by_the_images_that_contours_reference_where_the_series_is_another(self, archive):
        mask, notes = archive.mask(archive.structure({"GTV": TUMOUR}, rename_series))
        np.testing.assert_array_equal(mask, TUMOUR)
        assert f"though it names them in series {dicom.uid('renamed')} and not in" in notes

    def test_goes_by_the_series_where_its_images_are_others(self, archive):
        mask, notes = archive.mask(archive.structure({"GTV": TUMOUR}, forget_images))
        np.testing.assert_array_equal(mask, TUMOUR)
        assert PLAIN.fullmatch(notes)

    def test_goes_by_the_frame_of_reference_where_no_series_is_referenced(self, archive):
        mask, notes = archive.mask(archive.structure({"GTV": TUMOUR}, forget_series))
        np.testing.assert_array_equal(mask, TUMOUR)
        assert "was taken by its frame of reference" in notes

    def test_leaves_out_regions_in_another_frame_of_reference(self, archive):
        def split(dataset):
            forget_series(dataset)
            second = dataset.StructureSetROISequence[1]
            second.ReferencedFrameOfReferenceUID = dicom.uid("elsewhere")

        mask, _ = archive.mask(archive.structure({"GTV 1": TUMOUR, "GTV 2": NODE}, split))
        np.testing.assert_array_equal(mask, TUMOUR)

    def test_goes_by_geometry_where_no_uid_fits(self, archive):
        mask, notes = archive.mask(archive.structure({"GTV": TUMOUR}, forget_frame))
        np.testing.assert_array_equal(mask, TUMOUR)
        assert "was taken by its geometry" in notes

    def test_goes_by_geometry_where_only_the_date_of_the_study_fits(self, archive):
        mask, notes = archive.mask(archive.structure({"GTV": TUMOUR}, forget_frame, other_study))
        np.testing.assert_array_equal(mask, TUMOUR)
        assert "was taken by its geometry" in notes

    @pytest.mark.parametrize(
        "change",
        [rois_elsewhere, set_elsewhere, whole_elsewhere, drawn_there, drawn_anywhere],
    )
    def test_refuses_another_frame_of_reference_whatever_else_fits(self, archive, change):
        """The very images may be named, the series, the study, and the planes be the same."""
        path = archive.structure({"GTV": TUMOUR}, change)
        reason, message = archive.refusal(path)
        assert reason is Reason.OTHER_FRAME_OF_REFERENCE
        assert ELSEWHERE in message
        assert archive.target.frame_of_reference_uid in message

    def test_finds_the_frame_by_the_images_that_contours_reference(self, archive):
        mask, notes = archive.mask(archive.structure({"GTV": TUMOUR}, second_frame))
        np.testing.assert_array_equal(mask, TUMOUR)
        assert "frame" not in notes

    def test_goes_by_what_the_roi_names_and_not_by_what_the_set_does(self, archive):
        def set_alone(dataset):
            dataset.FrameOfReferenceUID = ELSEWHERE
            dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = ELSEWHERE

        mask, _ = archive.mask(archive.structure({"GTV": TUMOUR}, set_alone))
        np.testing.assert_array_equal(mask, TUMOUR)

    def test_goes_by_what_the_roi_names_where_the_set_names_several(self, archive):
        def named(dataset):
            frame = dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
            drawn_anywhere(dataset)
            dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = frame

        mask, _ = archive.mask(archive.structure({"GTV": TUMOUR}, named))
        np.testing.assert_array_equal(mask, TUMOUR)

    @pytest.mark.parametrize("forget", [len, forget_series])
    def test_draws_the_rois_of_its_frame_alone_and_names_the_others(self, archive, forget):
        def split(dataset):
            forget(dataset)
            dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = ELSEWHERE

        mask, notes = archive.mask(archive.structure({"GTV 1": TUMOUR, "GTV 2": NODE}, split))
        np.testing.assert_array_equal(mask, TUMOUR)
        assert f"1 of 2 ROIs of 'gtv' lie in another frame of reference ({ELSEWHERE})" in notes

    def test_refuses_a_segment_that_lies_elsewhere_beside_one_that_does_not(self, archive):
        def split(dataset):
            dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = ELSEWHERE

        spec = copy.deepcopy(SPEC)
        spec["segments"].append({"name": "node", "match": "N", "term": "lesion", "required": True})
        path = archive.structure({"GTV": TUMOUR, "N": NODE}, split)
        reason, message = archive.refusal(path, spec=spec)
        assert reason is Reason.OTHER_FRAME_OF_REFERENCE
        assert f"'node' lies in frame of reference {ELSEWHERE}" in message

    def test_passes_over_one_in_another_frame_beside_one_in_this(self, archive):
        wrong = archive.structure({"GTV": NODE}, rois_elsewhere, name="wrong")
        right = archive.structure({"GTV": TUMOUR}, forget_series, name="right")
        mask, _ = archive.mask(wrong, right)
        np.testing.assert_array_equal(mask, TUMOUR)

    @pytest.mark.parametrize(
        "change", [moved([0, 0, 1.0]), moved([0, 0, -9.0]), moved([-30.0, 0, 0])]
    )
    def test_refuses_geometry_that_does_not_fit(self, archive, change):
        path = archive.structure({"GTV": TUMOUR}, forget_frame, change)
        reason, message = archive.refusal(path)
        assert reason is Reason.NO_CONTOURS
        assert archive.target.series_uid in message

    def test_refuses_the_geometry_of_another_examination(self, archive):
        path = archive.structure({"GTV": TUMOUR}, forget_frame, other_study, other_date)
        assert archive.refusal(path)[0] is Reason.NO_CONTOURS

    @pytest.mark.parametrize(
        ("better", "worse"),
        [
            ([], [rename_series]),
            ([rename_series], [forget_images]),
            ([forget_images], [forget_series]),
            ([forget_series], [forget_frame]),
        ],
    )
    def test_takes_the_object_with_the_stronger_evidence(self, archive, better, worse):
        right = archive.structure({"GTV": TUMOUR}, *better, name="right")
        wrong = archive.structure({"GTV": NODE}, *worse, name="wrong")
        mask, _ = archive.mask(wrong, right)
        np.testing.assert_array_equal(mask, TUMOUR)

    def test_of_equal_ones_is_refused(self, archive):
        paths = [
            archive.structure({"GTV": TUMOUR}, name="first"),
            archive.structure({"GTV": NODE}, name="second"),
        ]
        reason, message = archive.refusal(*paths)
        assert reason is Reason.AMBIGUOUS_CONTOURS
        assert dicom.uid("first") in message
        assert dicom.uid("second") in message
        assert "in the protocol by `prefer: [approved, latest]`, or narrow its `match`" in message

    @pytest.mark.parametrize(
        ("prefer", "first", "second"),
        [
            (["approved"], {"ApprovalStatus": "APPROVED"}, {}),
            (["approved"], {"ApprovalStatus": "APPROVED"}, {"ApprovalStatus": "REJECTED"}),
            (["latest"], {"StructureSetDate": "20210303"}, {}),
            (["latest"], {"StructureSetTime": "110001"}, {}),
            (["latest"], {"StructureSetTime": "110000.01"}, {"StructureSetTime": "110000"}),
            (["latest"], {"StructureSetTime": "1101"}, {"StructureSetTime": "110059.9"}),
            (
                ["approved", "latest"],
                {"ApprovalStatus": "APPROVED", "StructureSetDate": "20000101"},
                {"StructureSetDate": "20210303"},
            ),
            (
                ["latest", "approved"],
                {"StructureSetDate": "20210303"},
                {"ApprovalStatus": "APPROVED", "StructureSetDate": "20000101"},
            ),
            (
                ["approved", "latest"],
                {"ApprovalStatus": "APPROVED", "StructureSetDate": "20210303"},
                {"ApprovalStatus": "APPROVED"},
            ),
            (["approved", "latest"], {"StructureSetDate": "20210303"}, {}),
        ],
        ids=str,
    )
    def test_of_equal_ones_goes_by_what_the_protocol_prefers(self, archive, prefer, first, second):
        paths = [
            archive.structure({"GTV": TUMOUR}, stating(first), name="first"),
            archive.structure({"GTV": NODE}, stating(second), name="second"),
        ]
        mask, notes = archive.mask(*paths, spec={**SPEC, "prefer": prefer})
        np.testing.assert_array_equal(mask, TUMOUR)
        assert f"Of 2 objects that fit equally {dicom.uid('first')} is preferred as" in notes

    @pytest.mark.parametrize(
        ("prefer", "both"),
        [
            (["approved"], {"ApprovalStatus": "UNAPPROVED"}),
            (["approved", "latest"], {"ApprovalStatus": "APPROVED"}),
            (["latest"], {"StructureSetDate": ""}),
            (["latest"], {"StructureSetDate": "2021"}),
        ],
    )
    def test_of_equal_ones_that_the_protocol_cannot_choose_from_is_refused(
        self, archive, prefer, both
    ):
        paths = [
            archive.structure({"GTV": TUMOUR}, stating(both), name="first"),
            archive.structure({"GTV": NODE}, stating(both), name="second"),
        ]
        reason, message = archive.refusal(*paths, spec={**SPEC, "prefer": prefer})
        assert reason is Reason.AMBIGUOUS_CONTOURS
        assert f"`prefer` ({', '.join(prefer)}) does not distinguish them" in message

    def test_of_which_one_has_no_date_the_latest_is_not_known(self, archive):
        paths = [
            archive.structure({"GTV": TUMOUR}, name="first"),
            archive.structure({"GTV": NODE}, stating({"StructureSetDate": ""}), name="second"),
        ]
        assert archive.refusal(*paths, spec={**SPEC, "prefer": ["latest"]})[0] is (
            Reason.AMBIGUOUS_CONTOURS
        )

    def test_prefers_only_among_those_of_the_strongest_evidence(self, archive):
        paths = [
            archive.structure({"GTV": TUMOUR}, name="first"),
            archive.structure(
                {"GTV": NODE}, forget_series, stating({"ApprovalStatus": "APPROVED"}), name="second"
            ),
        ]
        mask, _ = archive.mask(*paths, spec={**SPEC, "prefer": ["approved"]})
        np.testing.assert_array_equal(mask, TUMOUR)

    @pytest.mark.parametrize(("status", "rejected"), [("REJECTED", True), ("UNAPPROVED", False)])
    def test_notes_what_was_rejected(self, archive, status, rejected):
        path = archive.structure({"GTV": TUMOUR}, stating({"ApprovalStatus": status}))
        _, notes = archive.mask(path)
        assert ("was rejected in its review" in notes) == rejected

    def test_counts_an_instance_that_lies_there_twice_once(self, archive):
        path = archive.structure({"GTV": TUMOUR})
        again = shutil.copy(path, archive.folder / "again.dcm")
        mask, _ = archive.mask(path, again)
        np.testing.assert_array_equal(mask, TUMOUR)

    def test_does_not_take_what_was_drawn_anew_under_one_uid_for_a_copy(self, archive):
        first = archive.structure({"GTV": TUMOUR}, name="first")
        changed = archive.structure({"GTV": NODE}, name="second")
        dataset = pydicom.dcmread(changed)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = dicom.uid("first")
        dataset.save_as(changed)
        assert archive.refusal(first, changed)[0] is Reason.AMBIGUOUS_CONTOURS

    def test_needs_the_names(self, archive):
        path = archive.structure({"Heart": TUMOUR})
        reason, message = archive.refusal(path)
        assert reason is Reason.NO_CONTOURS
        assert "names there: Heart" in message
        assert archive.refusal()[0] is Reason.NO_CONTOURS


def cut(path):
    path.write_bytes(path.read_bytes()[:300])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not found")


def cut_in_the_contours(path):
    path.write_bytes(path.read_bytes()[:2500])


def without_rois(path):
    dataset = pydicom.dcmread(path)
    del dataset.StructureSetROISequence
    dataset.save_as(path)


def without_contours(path):
    dataset = pydicom.dcmread(path)
    del dataset.ROIContourSequence
    dataset.save_as(path)


def an_image(path):
    dataset = dicom.ct_series(np.zeros(GRID.shape, np.int16), GRID)[0]
    path.write_bytes(dicom.to_bytes(dataset))


DAMAGES = {
    cut: Reason.UNREADABLE,
    empty: Reason.UNREADABLE,
    text: Reason.UNREADABLE,
    cut_in_the_contours: Reason.UNREADABLE,
    without_rois: Reason.UNREADABLE,
    without_contours: Reason.UNREADABLE,
    an_image: Reason.UNSUPPORTED_OBJECT,
}


def with_delimiters(dataset):
    """Write sequences of undefined length, as many systems do."""
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                with_delimiters(item)


class TestDamagedObjects:
    @pytest.mark.parametrize("change", [len, with_delimiters], ids=["lengths", "delimiters"])
    def test_cut_off_anywhere_never_give_a_part_of_a_region(self, archive, change):
        path = archive.structure({"GTV 1": TUMOUR, "GTV 2": NODE}, change)
        content = path.read_bytes()
        outcomes = set()
        for length in range(0, len(content), 101):
            path.write_bytes(content[:length])
            try:
                mask, _ = archive.mask(path)
            except CaseFault as fault:
                outcomes.add(fault.reason)
            else:
                np.testing.assert_array_equal(mask, TUMOUR | NODE)
        assert outcomes == {Reason.UNREADABLE}

    @pytest.mark.parametrize(("damage", "reason"), DAMAGES.items())
    def test_are_recorded_with_the_file(self, archive, damage, reason):
        path = archive.structure({"GTV": TUMOUR})
        damage(path)
        found, message = archive.refusal(path)
        assert found is reason
        assert str(path) in message

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_do_not_keep_a_sound_one_from_being_used(self, archive, damage):
        broken = archive.structure({"GTV": NODE}, name="broken")
        damage(broken)
        mask, notes = archive.mask(broken, archive.structure({"GTV": TUMOUR}))
        np.testing.assert_array_equal(mask, TUMOUR)
        assert str(broken) in notes

    @pytest.mark.parametrize("sound", [True, False])
    def test_one_that_is_gone_ends_the_job_even_beside_a_sound_one(self, archive, sound):
        gone = archive.structure({"GTV": NODE}, name="gone")
        paths = (gone, *([archive.structure({"GTV": TUMOUR})] if sound else []))
        gone.unlink()
        with pytest.raises(StageError, match=r"gone.*No such file.*--forcerun catalog"):
            segment(archive, SPEC, Series("1.2", "RTSTRUCT", paths))


def segment(archive, spec, *annotations):
    """The stage's own way: a case in, an outcome out, masks on disk."""
    volumes, masks = archive.folder / "volumes", archive.folder / "masks"
    write_volume(volume_path(volumes, "case1", "CT"), archive.volume)
    case = Case("case1", "patient1", "s1", {"CT": archive.series}, tuple(annotations))
    engine = Imported(typed.segmentation(spec), Machine(1, "cpu", archive.folder))
    (item,) = stage.segment(engine, [case], volumes, masks)
    return item.outcome, masks / "case1" / spec["id"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (len, "object_by_instances"),
        (rename_series, "object_by_images"),
        (forget_images, "object_by_series"),
        (forget_series, "object_by_frame_of_reference"),
        (forget_frame, "object_by_geometry"),
    ],
)
def test_the_outcome_has_the_code_of_what_the_choice_went_by(archive, change, code):
    approved = {"ApprovalStatus": "APPROVED", "StructureSetDate": "20210303"}
    paths = [
        archive.structure({"GTV": TUMOUR}, change, stating(approved), name="right"),
        archive.structure(
            {"GTV": NODE}, change, stating({**approved, "StructureSetDate": "20210302"}), name="old"
        ),
        archive.structure({"GTV": NODE}, change, name="draft"),
    ]
    spec = {**copy.deepcopy(SPEC), "prefer": ["approved", "latest"]}
    outcome, _ = segment(archive, spec, Series("1.2", "RTSTRUCT", tuple(paths)))
    assert outcome.decisions == ["approved_preferred", "latest_preferred", code]
    assert f"{dicom.uid('right')} " in outcome.message


def registration(archive, *frames):
    """A Spatial Registration of the image's frame with others."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.1"
    dataset.SOPInstanceUID = dicom.uid("registration")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Modality = "REG"
    dataset.FrameOfReferenceUID = frames[0]
    dataset.RegistrationSequence = []
    for frame in frames:
        item = pydicom.Dataset()
        item.FrameOfReferenceUID = frame
        dataset.RegistrationSequence.append(item)
    return write([dataset], archive.folder / "reg")[0]


@pytest.mark.parametrize("related", [True, False])
def test_a_registration_of_the_two_frames_is_named_and_not_applied(archive, related):
    here = archive.target.frame_of_reference_uid
    frames = (here, ELSEWHERE) if related else (dicom.uid("third"), ELSEWHERE)
    path = registration(archive, *frames)
    broken = archive.folder / "broken.dcm"
    broken.write_bytes(path.read_bytes()[:700])
    structure = archive.structure({"GTV": TUMOUR}, rois_elsewhere)
    outcome, folder = segment(
        archive, SPEC, Series("1.2", "RTSTRUCT", (structure,)), Series("1.4", "REG", (broken, path))
    )
    assert outcome.reason == Reason.OTHER_FRAME_OF_REFERENCE
    says = f"not applied here: {dicom.uid('registration')} relates it to {ELSEWHERE}"
    assert (says in outcome.message) == related
    assert ("there is a registration" in outcome.message) == related
    assert not folder.exists()


def test_the_outcome_of_a_case_says_what_a_reader_should_know(archive):
    spec = copy.deepcopy(SPEC)
    spec["segments"].append({"name": "node", "match": "N", "term": "lesion", "required": False})
    series = Series("1.2", "RTSTRUCT", (archive.structure({"GTV": TUMOUR}, forget_series),))
    other = Series("1.3", "SEG", (Path("not-asked-for.dcm"),))
    outcome, folder = segment(archive, spec, series, other)
    assert outcome.status is Status.OK
    assert "by its frame of reference" in outcome.message
    assert "No voxel of: node." in outcome.message
    assert "not-asked-for" not in outcome.message
    segmentation = read_segmentation(folder)
    np.testing.assert_array_equal(segmentation.mask(segmentation.segments[0]), TUMOUR)


def test_a_case_without_contours_has_an_outcome_and_no_mask(archive):
    outcome, folder = segment(archive, SPEC)
    assert outcome.status is Status.FAILED
    assert outcome.reason == Reason.NO_CONTOURS
    assert not folder.exists()


def test_contours_of_nothing_may_be_a_finding(archive):
    spec = {**copy.deepcopy(SPEC), "may_be_empty": True}
    spec["segments"][0]["required"] = False
    drawn = archive.structure({"GTV": np.zeros_like(TUMOUR)})
    outcome, folder = segment(archive, spec, Series("1.2", "RTSTRUCT", (drawn,)))
    assert outcome.status is Status.OK, outcome.message
    assert "No voxel of: gtv." in outcome.message
    assert not read_segmentation(folder).layers[0].any()


def test_real_structure_sets_are_found_and_drawn(shared_data, tmp_path):
    """Their contours reference images that are not in the data, but the right series."""
    patient = shared_data / "sarcoma" / "STS_035"
    for name in ("CT", "MR_T1", "PET"):
        series = series_of((patient / name / "image").glob("*.dcm"))
        target = target_of("case1", series, read_series_volume(series).grid)
        paths = sorted(patient.glob("*/mask/*.dcm"))
        spec = copy.deepcopy(SPEC)
        spec["segments"][0]["match"] = "GTV_Mass_.*"
        notes = []
        (region,) = import_regions(paths, typed.segmentation(spec), target, notes)
        assert region.mask.any()
        assert region.producer == "MIM"
        assert all("pixel centre" in note or PLAIN.fullmatch(note) for note in notes)


@pytest.mark.parametrize("patient", ["STS_002", "STS_038", "STS_047"])
def test_contours_of_another_series_give_the_same_voxels(shared_data, patient):
    """The tumour was drawn once and moved to each series; on STS_019 alone the CT differs."""
    folder = shared_data / "sarcoma" / patient
    series = series_of((folder / "CT" / "image").glob("*.dcm"))
    target = target_of("case1", series, read_series_volume(series).grid)
    masks = []
    for name in ("CT", "PET", "MR_T1"):
        spec = copy.deepcopy(SPEC)
        spec["segments"][0]["match"] = f"GTV_Mass_{name}"
        paths = sorted(folder.glob("*/mask/*.dcm"))
        (region,) = import_regions(paths, typed.segmentation(spec), target, [])
        masks.append(region.mask)
    assert masks[0].any()
    np.testing.assert_array_equal(masks[1], masks[0])
    np.testing.assert_array_equal(masks[2], masks[0])

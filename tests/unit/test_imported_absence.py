"""What the archive holds and nobody can use, or nobody asked for by its name, is no absence."""

from __future__ import annotations

import copy

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
from jipflow.reasons import CaseFault, Reason
from jipflow.segment import stage
from jipflow.segment.engine import Machine
from jipflow.segment.engines.imported.engine import Imported, import_regions
from seg_archive import NODE, TUMOUR, Archive, on_grid, stacked


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


def wanted(ignore=None, source="SEG", **matches):
    """Segments of which absence is a finding."""
    segments = [
        {"name": name, "match": match, "term": "lesion", "required": False}
        for name, match in (matches or {"gtv": "GTV", "node": "Node"}).items()
    ]
    return typed.segmentation(
        {
            "id": "organs", "engine": "imported", "from": source, "role": "CT",
            "segments": segments, "may_be_empty": True,
            **({"ignore": ignore} if ignore else {}),
        }
    )  # fmt: skip


def regions(archive, paths, spec):
    notes = []
    found = {
        r.name: on_grid(r, archive.grid) for r in import_regions(paths, spec, archive.target, notes)
    }
    return found, " ".join(notes)


def refusal(archive, paths, spec):
    with pytest.raises(CaseFault) as fault:
        regions(archive, paths, spec)
    return fault.value.reason, fault.value.message


def named(archive, path, **changes):
    """Give an object a name of its own among files and instances."""
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = dicom.uid(*changes)
    for name, value in changes.items():
        if name != "file":
            setattr(dataset, name, value)
    renamed = archive.folder / f"{len(list(archive.folder.glob('*.dcm')))}-named.dcm"
    pydicom.dcmwrite(renamed, dataset, enforce_file_format=True)
    path.unlink()
    return renamed


def label(index, text):
    def change(dataset):
        dataset.SegmentSequence[index].SegmentLabel = text

    return change


def shift(z):
    def change(dataset):
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            plane = frame.PlanePositionSequence[0]
            x, y, old = map(float, plane.ImagePositionPatient)
            plane.ImagePositionPatient = [x, y, old + z]

    return change


def cut_pixels(dataset):
    dataset.PixelData = dataset.PixelData[:20]


def not_scaled(archive):
    return archive.seg(
        np.where(TUMOUR, 1 / 255, 0.0), "FRACTIONAL", ("GTV",), fractional_type="PROBABILITY"
    )


def same_number(dataset):
    dataset.SegmentSequence[1].SegmentNumber = 1


def unknown_owner(dataset):
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shift(1.5), Reason.GRID_MISMATCH),
        (shift(300.0), Reason.GRID_MISMATCH),
        (cut_pixels, Reason.UNDECODABLE_PIXELS),
        (same_number, Reason.AMBIGUOUS_CONTOURS),
        (unknown_owner, Reason.AMBIGUOUS_CONTOURS),
    ],
)
def test_a_segment_that_cannot_be_used_fails(archive, damage, reason):
    path = archive.write(archive.seg(stacked(TUMOUR, NODE)), damage)
    assert refusal(archive, [path], wanted())[0] is reason


def test_fractions_below_one_half_fail(archive):
    path = archive.write(not_scaled(archive))
    reason, message = refusal(archive, [path], wanted(gtv="GTV"))
    assert reason is Reason.EMPTY_SEGMENT
    assert "its values reach 1 of 255" in message


def test_without_a_finding_of_absence_they_are_left_out_with_a_note(archive):
    other = wanted().model_copy(update={"may_be_empty": False})
    path = archive.write(not_scaled(archive))
    notes = []
    with pytest.raises(CaseFault) as fault:
        list(import_regions([path], other, archive.target, notes))
    assert fault.value.reason is Reason.EMPTY_SEGMENTATION
    assert "its values reach 1 of 255" in fault.value.message


class TestEmpty:
    """A segment that is described and has no voxel says so itself."""

    def test_without_a_frame_is_a_finding_with_a_note(self, archive):
        dataset = archive.seg(stacked(TUMOUR))

        def add(dataset):
            extra = copy.deepcopy(dataset.SegmentSequence[0])
            extra.SegmentNumber, extra.SegmentLabel = 2, "Node"
            dataset.SegmentSequence.append(extra)

        found, notes = regions(archive, [archive.write(dataset, add)], wanted())
        assert list(found) == ["gtv"]
        assert "segment 2 is described and has no frame" in notes

    def test_with_blank_frames_is_a_finding_with_a_note(self, archive):
        dataset = archive.seg(stacked(TUMOUR, np.zeros_like(TUMOUR)), omit_empty_frames=False)
        found, notes = regions(archive, [archive.write(dataset)], wanted())
        assert list(found) == ["gtv"]
        assert "segment 2 is described and has 6 frames, all blank" in notes

    def test_label_is_a_finding_with_a_note(self, archive):
        dataset = archive.seg(TUMOUR.astype(np.uint8), "LABELMAP", ("GTV", "Node"))
        found, notes = regions(archive, [archive.write(dataset)], wanted())
        assert list(found) == ["gtv"]
        assert "segment 2 is described and has no pixel" in notes


class TestNames:
    @pytest.mark.parametrize("misspelt", ["GVT", "GTV 1", "", "lesion"])
    def test_that_nothing_matches_fail_where_a_segment_is_missing(self, archive, misspelt):
        path = archive.write(archive.seg(stacked(TUMOUR, NODE)), label(0, misspelt))
        reason, message = refusal(archive, [path], wanted())
        assert reason is Reason.NO_CONTOURS
        assert f"has {misspelt!r}, which nothing matches" in message
        assert "'gtv'" in message

    def test_that_nothing_matches_do_not_matter_where_none_is_missing(self, archive):
        path = archive.write(archive.seg(stacked(TUMOUR, NODE, TUMOUR)))
        assert list(regions(archive, [path], wanted())[0]) == ["gtv", "node"]

    def test_that_are_known_are_no_missing_segment(self, archive):
        path = archive.write(archive.seg(stacked(TUMOUR, NODE)), label(0, "Liver"))
        assert list(regions(archive, [path], wanted(ignore="Liver|Spleen"))[0]) == ["node"]
        assert refusal(archive, [path], wanted(ignore="Live"))[0] is Reason.NO_CONTOURS

    def test_a_segment_that_is_not_there_at_all_is_a_finding(self, archive):
        path = archive.write(archive.seg(stacked(NODE), labels=("Node",)))
        assert list(regions(archive, [path], wanted())[0]) == ["node"]


class TestOtherObjects:
    def two(self, archive, change=lambda dataset: None, **changes):
        """One object with the node, and one with the tumour."""
        node = named(archive, archive.write(archive.seg(stacked(NODE), labels=("Node",))), a=1)
        other = archive.write(archive.seg(stacked(TUMOUR)), change)
        return [node, named(archive, other, **changes) if changes else other]

    def test_that_cannot_be_read_may_hold_the_missing_segment(self, archive):
        def forget(dataset):
            del dataset.SegmentSequence

        paths = self.two(archive, forget)
        reason, message = refusal(archive, paths, wanted())
        assert reason is Reason.UNREADABLE
        assert "that 'gtv' is missing from" in message
        assert "no finding" in message

    def test_that_hold_the_missing_segment_are_named(self, archive):
        def weaker(dataset):
            del dataset.ReferencedSeriesSequence
            for frame in dataset.PerFrameFunctionalGroupsSequence:
                del frame.DerivationImageSequence

        reason, message = refusal(archive, self.two(archive, weaker), wanted())
        assert reason is Reason.NO_CONTOURS
        assert "has 'gtv', too" in message

    def test_of_the_image_with_a_name_that_nothing_matches_are_named(self, archive):
        reason, message = refusal(archive, self.two(archive, label(0, "GVT")), wanted())
        assert reason is Reason.NO_CONTOURS
        assert "'GVT', which nothing matches" in message

    def test_of_the_same_frame_of_reference_alone_may_have_names_of_their_own(self, archive):
        """They are of another series as like as not: only a missing segment's own name counts."""

        def weaker(dataset):
            label(0, "Liver")(dataset)
            del dataset.ReferencedSeriesSequence
            for frame in dataset.PerFrameFunctionalGroupsSequence:
                del frame.DerivationImageSequence

        assert list(regions(archive, self.two(archive, weaker), wanted())[0]) == ["node"]

    def test_of_another_image_do_not_matter(self, archive):
        def elsewhere(dataset):
            dataset.SegmentSequence[0].SegmentLabel = "GVT"
            dataset.FrameOfReferenceUID = dicom.uid("elsewhere")
            dataset.StudyInstanceUID = dicom.uid("another study")
            dataset.StudyDate = "19990101"
            del dataset.ReferencedSeriesSequence
            for frame in dataset.PerFrameFunctionalGroupsSequence:
                del frame.DerivationImageSequence

        assert list(regions(archive, self.two(archive, elsewhere), wanted())[0]) == ["node"]

    def test_that_the_protocol_does_not_prefer_do_not_matter(self, archive):
        paths = self.two(archive)
        for path, date in zip(paths, ("20240102", "20240101"), strict=True):
            dataset = pydicom.dcmread(path)
            dataset.ContentDate = date
            dataset.SOPInstanceUID = dicom.uid("dated", date)
            dataset.save_as(path)
        latest = wanted().model_copy(update={"prefer": ["latest"]})
        assert list(regions(archive, paths, latest)[0]) == ["node"]
        assert refusal(archive, paths, wanted())[0] is Reason.AMBIGUOUS_CONTOURS

    def test_that_jipflow_made_do_not_matter(self, archive):
        for change in (lambda dataset: None, label(0, "GVT")):
            paths = self.two(archive, change, Manufacturer="jipflow")
            assert list(regions(archive, paths, wanted())[0]) == ["node"]
            for path in paths:
                path.unlink()


def test_the_case_fails_and_nothing_is_written(archive, tmp_path):
    """End to end: a broken lesion was 0 ml, and no failure."""
    volumes, masks = tmp_path / "volumes", tmp_path / "masks"
    volume_path(volumes, "case1", "CT").parent.mkdir(parents=True)
    masks.mkdir()
    write_volume(volume_path(volumes, "case1", "CT"), read_series_volume(archive.series))
    protocol = wanted()
    for damage, status in ((shift(1.5), Status.FAILED), (lambda dataset: None, Status.OK)):
        path = archive.write(archive.seg(stacked(TUMOUR, NODE)), damage)
        case = Case(
            "case1", "patient1", "s1", {"CT": archive.series}, (Series("1", "SEG", (path,)),)
        )
        engine = Imported(protocol, Machine(1, "cpu", tmp_path))
        (item,) = stage.segment(engine, [case], volumes, masks)
        assert item.outcome.status is status
        assert (masks / "case1" / "organs").exists() == (status is Status.OK)
    assert read_segmentation(masks / "case1" / "organs").layers[0].any()

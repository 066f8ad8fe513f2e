"""What readers send back: what is taken, what is refused, and how several readings make one."""

from __future__ import annotations

import copy
import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.sr.codedict import codes

import typed
from jipflow.annotate.inbox import check_inbox, inbox_state, open_inbox, returned
from jipflow.annotate.readings import Reading
from jipflow.annotate.stage import combined, run
from jipflow.annotate.worklist import write_worklist
from jipflow.cases import Case
from jipflow.images.masks import Region, cropped, pack, read_segmentation, write_segmentation
from jipflow.images.series import read_series_volume
from jipflow.images.volume import Volume, volume_path, write_volume
from jipflow.outcomes import Outcome, Status, blocked, waiting_with
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.reasons import Flag, PlaceError, Reason
from other_account import bound_python
from series_factory import series_of, write

OBLIQUE = PhantomGrid(
    (9, 20, 24),
    (3.0, 1.5, 1.25),
    (-12.0, 40.0, -7.5),
    row=(0.8, 0.6, 0.0),
    column=(0.0, 0.0, -1.0),
)
LIVER = (slice(2, 7), slice(3, 12), slice(4, 15))
SPLEEN = (slice(3, 6), slice(13, 18), slice(16, 22))


def box(region, shape=OBLIQUE.shape):
    mask = np.zeros(shape, bool)
    mask[region] = True
    return mask


def spec(**keys):
    return {
        "id": "read",
        "engine": "annotated",
        "role": "CT",
        "encoding": "binary",
        "may_be_empty": False,
        "proposal": "organs",
        "when": "always",
        "readers": 1,
        "combine": "majority",
        "segments": [
            {"name": "liver", "match": "(?i)liver.*", "term": "liver", "required": True},
            {"name": "spleen", "term": "spleen", "required": False},
        ],
        **keys,
    }


OPTIONAL = [{**segment, "required": False} for segment in spec()["segments"]]


class Site:
    """One case on an oblique grid, whose liver and spleen are proposed with another region."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = dicom.ct_series(np.zeros(OBLIQUE.shape, np.int16), OBLIQUE)
        self.series = series_of(write(self.images, folder / "ct"))
        self.volume = read_series_volume(self.series)
        self.case = Case("case1", "patient1", "s00001", {"CT": self.series})
        write_volume(volume_path(folder / "volumes", "case1", "CT"), self.volume)
        self.proposal = {"liver": box(LIVER), "lung": box(np.s_[8:, :2]), "spleen": box(SPLEEN)}
        self.propose(self.proposal)
        self.flags: list[str] = []

    def propose(self, masks):
        regions = [Region(n, "lung", m, "AUTOMATIC", "a model", "7") for n, m in masks.items()]
        target = self.folder / "automatic" / "case1" / "organs"
        write_segmentation(target, pack(regions, self.volume.grid))

    def nothing(self, reader="ada", name="nothing.txt"):
        (self.to(reader) / name).touch()
        return self.to(reader) / name

    def to(self, reader="ada"):
        folder = self.folder / "results" / "inbox" / "read" / "case1" / reader
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def nifti(self, labels, reader="ada", name="labels.nii.gz", change=lambda image: image):
        image = Volume(labels.astype(np.uint8), self.volume.grid).image()
        sitk.WriteImage(change(image), str(self.to(reader) / name))
        return self.to(reader) / name

    def seg(self, masks, reader="ada", name="seg.dcm", change=lambda dataset: None):
        described = [
            highdicom.seg.SegmentDescription(
                number, label, codes.SCT.AnatomicalStructure, codes.SCT.Liver, "AUTOMATIC",
                highdicom.AlgorithmIdentificationSequence(
                    "a model", codes.DCM.ArtificialIntelligence, "7"
                ),
            )
            for number, label in enumerate(masks, start=1)
        ]  # fmt: skip
        dataset = highdicom.seg.Segmentation(
            self.images, np.stack(list(masks.values()), axis=-1).astype(np.uint8), "BINARY",
            described, highdicom.UID(), 1, highdicom.UID(), 1, "A Viewer", "Viewer 3D", "5", "1",
        )  # fmt: skip
        plain = pydicom.Dataset(dataset)
        plain.file_meta = dataset.file_meta
        change(plain)
        path = self.to(reader) / name
        pydicom.dcmwrite(path, plain, enforce_file_format=True)
        return path

    def read(self, proposed=Status.OK, **keys):
        """The stage and its worklist, as the command line runs them."""
        settings = typed.settings([{"id": "organs", "engine": "nnunet"}, spec(**keys)])
        outcome = Outcome("case1", "segment", "organs", proposed, flags=self.flags)
        results = self.folder / "results"
        inbox = settings.inbox(results)
        automatic = self.folder / "automatic"
        tables = run(
            cases=[self.case],
            prepared={("case1", "CT")},
            segmented=[outcome],
            settings=settings,
            volumes=self.folder / "volumes",
            automatic=automatic,
            inbox=inbox,
            masks=self.folder / "masks",
            threads=1,
        )
        write_worklist(
            cases=[self.case],
            outcomes=tables.outcomes,
            settings=settings,
            automatic=automatic,
            inbox=inbox,
            results=results,
            threads=1,
        )
        (self.outcome,) = tables.outcomes
        self.readings = tables.readings.to_pylist()
        self.agreement = tables.agreement.to_pylist()
        self.quality = tables.quality.to_pylist()
        return self.outcome

    def result(self):
        found = read_segmentation(self.folder / "masks" / "case1" / "read")
        return {segment.name: (found.mask(segment), segment) for segment in found.segments}

    @property
    def worklist(self):
        return self.folder / "results" / "worklist" / "read" / "case1"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


class TestWhoWaits:
    def test_a_case_waits_with_all_that_its_reader_needs(self, site):
        outcome = site.read()
        assert (outcome.status, outcome.reason) == (Status.WAITING, Reason.AWAITING_READER)
        assert "0 of 1 readings" in outcome.message
        files = sorted(path.name for path in site.worklist.rglob("*") if path.is_file())
        assert files == [f"IM{n:04d}.dcm" for n in range(1, 10)] + ["README.txt", "proposal.dcm"]
        assert (site.folder / "results" / "inbox" / "read" / "case1").is_dir()
        places = [
            pydicom.dcmread(path).ImagePositionPatient
            for path in sorted((site.worklist / "series").iterdir())
        ]
        steps = np.diff(np.array(places, float), axis=0)
        np.testing.assert_allclose(steps, steps[:1].repeat(len(steps), axis=0), atol=1e-6)

    def test_the_proposal_shows_what_is_asked_for_under_the_terms_of_the_protocol(self, site):
        site.read()
        shown = highdicom.seg.segread(site.worklist / "proposal.dcm")
        named = [
            (s.SegmentLabel, s.SegmentedPropertyTypeCodeSequence[0].CodeMeaning)
            for s in shown.SegmentSequence
        ]
        assert named == [("liver", "Liver"), ("spleen", "Spleen")]

    def test_a_proposal_without_a_flag_is_taken_over(self, site):
        site.flags = ["lung:touches_border"]
        outcome = site.read(when="flagged")
        assert outcome.status is Status.OK
        assert "Taken over" in outcome.message
        result = site.result()
        assert result.keys() == {"liver", "spleen"}
        for name, (mask, segment) in result.items():
            np.testing.assert_array_equal(mask, site.proposal[name])
            assert (segment.method, segment.producer, segment.version) == (
                ("AUTOMATIC", "a model", "7")
            )
            assert segment.term == name
        assert not site.worklist.exists()

    def test_a_flag_on_a_segment_sends_the_case_to_a_person(self, site):
        site.flags = ["spleen:implausible_volume"]
        outcome = site.read(when="flagged")
        assert outcome.status is Status.WAITING
        assert Flag.IMPLAUSIBLE_VOLUME.meaning in outcome.message
        assert "spleen" in (site.worklist / "README.txt").read_text()

    @pytest.mark.parametrize("when", ["always", "flagged"])
    def test_a_proposal_of_nothing_is_looked_at_where_nothing_may_not_be(self, site, when):
        site.propose({"lung": box(LIVER), "liver": box(np.s_[:0])})
        outcome = site.read(when=when, segments=OPTIONAL)
        assert outcome.status is Status.WAITING
        assert "'organs' has found nothing" in outcome.message
        assert not (site.worklist / "proposal.dcm").exists()
        readme = (site.worklist / "README.txt").read_text()
        assert "There is no proposal, as 'organs' found none" in readme
        assert "nothing.txt" not in readme

    def test_what_lacks_a_required_segment_is_not_taken_over(self, site):
        site.propose({"spleen": box(SPLEEN)})
        outcome = site.read(when="flagged")
        assert outcome.status is Status.WAITING
        assert "'organs' has no 'liver'" in outcome.message

    def test_a_file_for_a_case_without_a_flag_counts(self, site):
        site.nifti(box(LIVER).astype(int))
        assert site.read(when="flagged").status is Status.OK
        assert site.result().keys() == {"liver"}

    @pytest.mark.parametrize("when", ["always", "flagged"])
    def test_where_the_proposal_failed_a_person_starts_from_nothing(self, site, when):
        outcome = site.read(Status.FAILED, when=when)
        assert outcome.status is Status.WAITING
        assert "There is no proposal by 'organs'" in outcome.message

    def test_a_case_that_is_read_leaves_the_worklist(self, site):
        site.read()
        path = site.nifti(box(LIVER).astype(int))
        assert site.read().status is Status.OK
        assert not site.worklist.exists()
        path.unlink()
        assert site.read().status is Status.WAITING
        assert (site.worklist / "proposal.dcm").is_file()

    def test_automatic_masks_stand_beside_those_that_were_drawn(self, site):
        site.read()
        link = site.folder / "masks" / "case1" / "organs"
        assert not Path(os.readlink(link)).is_absolute()
        assert [s.name for s in read_segmentation(link).segments] == ["liver", "lung", "spleen"]

    def test_what_is_blocked_by_a_waiting_case_waits(self):
        waits = Outcome("a", "annotate", "read", Status.WAITING, "awaiting_reader")
        failed = Outcome("a", "encode", "read", Status.FAILED)
        (found,) = waiting_with([blocked("a", "measure", "read", "x")], [waits])
        assert (found.status, found.reason) == (Status.WAITING, Reason.DEPENDS_ON_WAITING)
        assert found.follows
        for other in (blocked("a", "measure", "organs", "x"), blocked("b", "measure", "read", "x")):
            assert waiting_with([other], [waits]) == [other]
        (found,) = waiting_with([blocked("a", "document", "read", "x")], [waits, failed])
        assert found.status is Status.FAILED


class TestQuality:
    def test_is_that_of_the_result_and_its_flags_send_nothing_back(self, site):
        segments = [{**s, "expect": {"volume_ml": [0, 0.1], "border": False}} for s in OPTIONAL]
        site.nifti(box(np.s_[0:7, 3:12, 4:15]))
        outcome = site.read(segments=segments)
        assert outcome.status is Status.OK
        assert outcome.flags == ["liver:implausible_volume", "liver:touches_border"]
        liver, spleen = site.quality
        assert liver["volume_ml"] == pytest.approx(7 * 9 * 11 * 3.0 * 1.5 * 1.25 / 1000)
        assert (liver["segmentation"], liver["touches_border"], liver["components"]) == (
            ("read", True, 1)
        )
        assert (spleen["volume_ml"], spleen["flags"]) == (0, [])

    def test_is_known_of_what_is_taken_over_and_of_nothing_that_waits(self, site):
        assert site.read(when="flagged").status is Status.OK
        assert [row["segment"] for row in site.quality] == ["liver", "spleen"]
        assert site.read().status is Status.WAITING
        assert site.quality == []


class TestNothing:
    def test_found_by_the_proposal_is_taken_over(self, site):
        site.propose({"lung": box(LIVER), "liver": box(np.s_[:0])})
        outcome = site.read(when="flagged", segments=OPTIONAL, may_be_empty=True)
        assert outcome.status is Status.OK
        assert "Taken over" in outcome.message
        assert "No voxel of: liver, spleen." in outcome.message
        assert {segment.method for _, segment in site.result().values()} == {"AUTOMATIC"}

    def test_found_by_a_person_is_a_segmentation_without_voxels(self, site):
        site.read(segments=OPTIONAL, may_be_empty=True)
        assert "file of the name nothing.txt" in (site.worklist / "README.txt").read_text()
        site.nothing(name="Nothing.txt")
        (site.to() / "also empty.txt").touch()
        outcome = site.read(segments=OPTIONAL, may_be_empty=True)
        assert outcome.status is Status.OK
        assert "No voxel of: liver, spleen." in outcome.message
        for mask, segment in site.result().values():
            assert not mask.any()
            assert segment.method == "MANUAL"
        assert [row["volume_ml"] for row in site.quality] == [0, 0]
        (row,) = site.readings
        assert (row["kind"], row["used"], row["unchanged"]) == ("NOTHING", True, False)
        assert {row["dice"] for row in site.agreement} == {0.0}

    def test_accepts_a_proposal_of_nothing(self, site):
        site.propose({"lung": box(LIVER)})
        site.nothing()
        outcome = site.read(segments=OPTIONAL, may_be_empty=True)
        assert outcome.status is Status.OK
        assert "accepted the proposal unchanged" in outcome.message
        assert {row["dice"] for row in site.agreement} == {None}

    @pytest.mark.parametrize("readers", [2, 3])
    def test_is_a_vote_against_what_others_mark(self, site, readers):
        site.nothing("ada")
        site.nifti(box(LIVER), "ben")
        site.nifti(box(LIVER), "carl")
        if readers == 2:
            (site.to("carl") / "labels.nii.gz").unlink()
        outcome = site.read(readers=readers, segments=OPTIONAL, may_be_empty=True)
        assert outcome.status is Status.OK
        assert site.result()["liver"][0].sum() == (readers == 3) * box(LIVER).sum()

    @pytest.mark.parametrize("beside", ["a mask", "a file that cannot be used"])
    def test_does_not_count_beside_another_file(self, site, beside):
        site.nothing()
        path = site.nifti(box(LIVER))
        if beside != "a mask":
            cut(path)
        outcome = site.read(segments=OPTIONAL, may_be_empty=True)
        assert outcome.status is Status.WAITING
        assert "labels.nii.gz, nothing.txt; leave that one" in outcome.message

    def test_is_not_taken_where_the_protocol_does_not_know_it(self, site):
        site.nothing()
        outcome = site.read(segments=OPTIONAL)
        assert outcome.status is Status.WAITING
        assert "'read' may not be empty" in outcome.message

    @pytest.mark.parametrize("may_be_empty", [True, False])
    def test_is_not_stated_by_masks_without_a_voxel(self, site, may_be_empty):
        """They may have been saved too early, or under other names."""
        site.nifti(box(np.s_[:0]), "ada")
        site.seg({"liver": box(np.s_[:1, :1, :1]), "lung": box(LIVER)}, "ben", change=no_frames)
        outcome = site.read(segments=OPTIONAL, may_be_empty=may_be_empty)
        assert outcome.status is Status.WAITING
        assert [row["reason"] for row in site.readings] == ["empty_segmentation"] * 2
        assert ("send nothing.txt instead" in outcome.message) == may_be_empty


def no_frames(dataset):
    """Call the first segment, which has a voxel, as no one asks for, and another what one does."""
    dataset.SegmentSequence[0].SegmentLabel = "other"
    dataset.SegmentSequence[1].SegmentLabel = "lung"
    extra = copy.deepcopy(dataset.SegmentSequence[1])
    extra.SegmentNumber, extra.SegmentLabel = 3, "liver"
    dataset.SegmentSequence.append(extra)


class TestWhatComesBack:
    def test_one_of_several_that_are_optional_is_enough(self, site):
        site.seg({"spleen": box(SPLEEN)})
        assert site.read(segments=OPTIONAL).status is Status.OK
        assert site.result().keys() == {"spleen"}

    @pytest.mark.parametrize("flips", [(False, False, False), (True, False, True)])
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
    def test_a_label_map_may_have_its_axes_in_any_order(self, site, flips, order):
        labels = box(LIVER) + 2 * box(SPLEEN)
        site.nifti(labels, change=lambda i: sitk.PermuteAxes(sitk.Flip(i, flips), order))
        assert site.read().status is Status.OK
        result = site.result()
        np.testing.assert_array_equal(result["liver"][0], box(LIVER))
        np.testing.assert_array_equal(result["spleen"][0], box(SPLEEN))
        assert result["liver"][1].method == "AUTOMATIC"
        assert site.readings[0]["unchanged"] is True

    def test_the_proposal_itself_means_that_it_is_accepted(self, site):
        site.read()
        target = site.to() / "proposal.dcm"
        target.write_bytes((site.worklist / "proposal.dcm").read_bytes())
        outcome = site.read()
        assert outcome.status is Status.OK
        assert "who accepted the proposal unchanged" in outcome.message
        assert site.result()["liver"][1].producer == "a model"
        (row,) = site.readings
        assert (row["manufacturer"], row["unchanged"], row["used"]) == ("jipflow", True, True)
        assert {(r["other"], r["dice"]) for r in site.agreement} == {("proposal", 1.0)}

    def test_what_a_person_changed_is_not_automatic_though_the_viewer_says_so(self, site):
        wider = box(np.s_[2:8, 3:12, 4:15])
        site.seg({"Liver corrected": wider, "spleen": box(SPLEEN), "other": box(np.s_[:1, :1])})
        assert site.read().status is Status.OK
        result = site.result()
        np.testing.assert_array_equal(result["liver"][0], wider)
        assert result["liver"][1].method == "SEMIAUTOMATIC"
        assert result["spleen"][1].method == "AUTOMATIC"
        assert site.readings[0]["unchanged"] is False
        (liver,) = [r for r in site.agreement if r["segment"] == "liver"]
        assert liver["dice"] == pytest.approx(2 * 5 / (5 + 6))

    def test_an_absent_segment_has_no_distance_and_a_reason(self, site):
        site.nifti(box(LIVER).astype(int))
        site.read()
        (spleen,) = [r for r in site.agreement if r["segment"] == "spleen"]
        assert (spleen["dice"], spleen["hausdorff95_mm"]) == (0.0, None)
        assert spleen["reason"] == Reason.EMPTY_SEGMENT


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_numbers(dataset):
    del dataset.SegmentSequence[0].SegmentNumber


def other_patient(dataset):
    dataset.PatientID = "someone else"


def other_series(dataset):
    """Not this image, though of the same patient: nothing that it names is there."""
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = dicom.uid("other")
    for item in dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence:
        item.ReferencedSOPInstanceUID = dicom.uid("gone", item.ReferencedSOPInstanceUID)
    dataset.FrameOfReferenceUID = dicom.uid("other")
    dataset.StudyInstanceUID = dicom.uid("other")
    dataset.StudyDate = "19990101"


def mirrored(path, form):
    """Mirror one of the two geometries that a NIfTI header states, or flatten both."""
    image = nibabel.load(path)
    labels = nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    other = image.affine @ np.diag([-1.0, 1, 1, 1])
    labels.set_sform(image.affine, 1)
    labels.set_qform(image.affine, 1)
    if form == "sform":
        labels.set_sform(other, 2)
    elif form == "qform":
        labels.set_qform(other, 1)
    elif form == "none":
        labels.set_qform(None, 0)
        labels.set_sform(None, 0)
    else:
        labels.set_qform(None, 0)
        labels.set_sform(np.diag([0.0, 1, 1, 1]), 1)
    nibabel.save(labels, path)


UNUSABLE = {
    "cut NIfTI": (lambda s: cut(s.nifti(box(LIVER))), "unreadable"),
    "cut SEG": (lambda s: cut(s.seg({"liver": box(LIVER)})), "unreadable"),
    "text as NIfTI": (lambda s: (s.to() / "a.nii").write_text("no image"), "unreadable"),
    "malformed SEG": (lambda s: s.seg({"liver": box(LIVER)}, change=without_numbers), "unreadable"),
    "another patient": (lambda s: s.seg({"liver": box(LIVER)}, change=other_patient),
                        "mixed_patients"),
    "another series": (lambda s: s.seg({"liver": box(LIVER)}, change=other_series),
                       "other_frame_of_reference"),
    "another grid": (lambda s: s.nifti(box(LIVER), change=lambda i: i[:, :, 1:]), "grid_mismatch"),
    "sform against qform": (lambda s: mirrored(s.nifti(box(LIVER)), "sform"), "grid_mismatch"),
    "qform against sform": (lambda s: mirrored(s.nifti(box(LIVER)), "qform"), "grid_mismatch"),
    "no form": (lambda s: mirrored(s.nifti(box(LIVER)), "none"), "grid_mismatch"),
    "no geometry": (lambda s: mirrored(s.nifti(box(LIVER)), "flat"), "grid_mismatch"),
    "moved": (lambda s: s.nifti(box(LIVER), change=lambda i: (i.SetOrigin((0, 0, 0)), i)[1]),
              "grid_mismatch"),
    "no such segment": (lambda s: s.seg({"kidney": box(LIVER)}), "no_contours"),
    "required is missing": (lambda s: s.nifti(2 * box(SPLEEN)), "empty_segment"),
    "unknown value": (lambda s: s.nifti(3 * box(LIVER)), "invalid_output"),
    "two that count": (lambda s: (s.nifti(box(LIVER)), s.seg({"liver": box(LIVER)})),
                       "ambiguous_contours"),
}  # fmt: skip


class TestWhatCannotBeUsed:
    @pytest.mark.parametrize("form", ["sform", "qform"])
    def test_one_geometry_alone_is_taken(self, site, form):
        path = site.nifti(box(LIVER))
        image = nibabel.load(path)
        labels = nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
        labels.set_qform(image.affine, int(form == "qform"))
        labels.set_sform(image.affine, int(form == "sform"))
        nibabel.save(labels, path)
        assert site.read(segments=OPTIONAL).status is Status.OK
        np.testing.assert_array_equal(site.result()["liver"][0], box(LIVER))

    @pytest.mark.parametrize(
        ("masks", "reason", "words"),
        [
            ({"liver": LIVER, "splen": SPLEEN}, "no_contours",
             "'splen' is the name of no segment, and there is no 'spleen'"),
            ({"liver": LIVER, "spleen": np.s_[:0]}, "empty_segment",
             "'spleen' is marked and has no voxel that can be used"),
        ],
        ids=["misspelt", "blank"],
    )  # fmt: skip
    @pytest.mark.parametrize("may_be_empty", [False, True])
    def test_what_a_reader_marked_is_never_nothing(self, site, masks, reason, words, may_be_empty):
        site.seg({name: box(place) for name, place in masks.items()})
        outcome = site.read(segments=OPTIONAL, may_be_empty=may_be_empty)
        assert outcome.status is Status.WAITING
        assert words in outcome.message
        assert site.readings[0]["reason"] == reason

    def test_what_was_not_asked_for_is_named(self, site):
        masks = {"liver": LIVER, "spleen": SPLEEN, "kidney": np.s_[0:1, 0:2, 0:2]}
        site.seg({name: box(place) for name, place in masks.items()})
        outcome = site.read()
        assert outcome.status is Status.OK
        assert "Not asked for, and left out: 'kidney'." in outcome.message

    @pytest.mark.parametrize("name", UNUSABLE)
    def test_keeps_the_case_waiting_with_file_and_reason(self, site, name):
        make, reason = UNUSABLE[name]
        make(site)
        outcome = site.read()
        assert outcome.status is Status.WAITING
        row = site.readings[0]
        assert (row["used"], row["reason"]) == (False, reason)
        assert row["message"] in outcome.message
        assert row["file"] in outcome.message
        assert "someone else" not in outcome.message
        assert not (site.folder / "masks" / "case1" / "read").exists()

    def test_is_passed_over_beside_one_that_can(self, site):
        site.nifti(3 * box(LIVER), name="first try.nii.gz")
        site.nifti(box(LIVER))
        outcome = site.read()
        assert outcome.status is Status.OK
        assert "'first try.nii.gz' of ada cannot be used" in outcome.message

    def test_names_links_and_strays_are_named_and_not_followed(self, site):
        outside = site.nifti(box(LIVER)).rename(site.folder / "outside.nii.gz")
        (site.to() / "link.nii.gz").symlink_to(outside)
        (site.to().parent / "linked").symlink_to(site.folder)
        (site.to("proposal") / "a.nii").write_text("x")
        (site.to("a b") / "a.nii").write_text("x")
        (site.to("ben") / "a{b}<c>.nii").write_text("x")
        (site.to("carl") / "notes.txt").write_text("x")
        (site.to().parent / "stray.nii").write_text("x")
        outcome = site.read()
        assert outcome.status is Status.WAITING
        for word in ("'proposal' cannot be", "'a b' cannot be", "'a{b}<c>.nii' of ben",
                     "No file of carl", "'stray.nii' lies beside"):  # fmt: skip
            assert word in outcome.message
        assert "link" not in outcome.message
        assert site.readings == []


@pytest.mark.parametrize(
    ("reader", "file", "taken"),
    [
        ("r" * 40, "a.nii", True),
        ("r" * 41, "a.nii", False),
        ("-ada", "a.nii", False),
        ("ada", f"{'a' * 200}", True),
        ("ada", f"{'a' * 201}", False),
        ("ada", "a;b.nii", False),
        ("ada", "$HOME.nii", False),
        ("ada", ".hidden.nii", None),
        ("ada", "sub$/a.nii", False),
    ],
)
def test_names_in_the_inbox_hold_no_sign_that_means_something(tmp_path, reader, file, taken):
    path = tmp_path / reader / file
    path.parent.mkdir(parents=True)
    path.write_text("x")
    found = returned(tmp_path)
    assert bool(found.files) == bool(taken)
    assert bool(found.problems) == (taken is False)


@pytest.mark.parametrize("closed", ["reader", "file", "case", "folder in the reader's"])
def test_what_may_not_be_read_lets_its_case_wait_and_no_other(site, monkeypatch, closed):
    """Another reader's good file beside it decides nothing: this one may say otherwise."""
    site.nifti(box(LIVER))
    shut = {
        "reader": site.to("ben"),
        "file": site.to("ben") / "a.nii",
        "case": site.to().parent,
        "folder in the reader's": site.to("ben") / "export",
    }[closed]
    if closed == "file":
        shut.write_text("x")
    else:
        shut.mkdir(exist_ok=True)
    inbox = site.folder / "results" / "inbox"
    before = inbox_state(inbox, ["read"], ["case1"])
    iterdir, access = Path.iterdir, os.access

    def refuse(path):
        if path == shut:
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: path != shut and access(path, mode))
    assert inbox_state(inbox, ["read"], ["case1"]) != before
    outcome = site.read()
    assert outcome.status is Status.WAITING
    assert "cannot be read: permission denied; let the account" in outcome.message
    monkeypatch.undo()
    assert inbox_state(inbox, ["read"], ["case1"]) == before


CLOSED = """
import sys
from pathlib import Path
from jipflow.annotate.inbox import case_folder, inbox_state, returned
inbox, cases = Path(sys.argv[1]), ["case1", "case2"]
there = {case: returned(case_folder(inbox, "read", case)) for case in cases}
print([case for case in cases if any(there[case].files.values())], end=" ")
print([case for case in cases if there[case].closed], len(inbox_state(inbox, ["read"], cases)))
"""


def test_a_folder_without_permission_does_not_end_the_run(tmp_path):
    for case in ("case1", "case2"):
        (tmp_path / "read" / case / "ada").mkdir(parents=True)
        (tmp_path / "read" / case / "ada" / "a.nii").write_text("x")
    (tmp_path / "read" / "case1" / "ada").chmod(0o000)
    found = bound_python(CLOSED, tmp_path)
    (tmp_path / "read" / "case1" / "ada").chmod(0o755)
    assert found.stdout == "['case2'] ['case1'] 64\n", found.stderr


def test_a_file_that_is_taken_away_meanwhile_ends_nothing(site, monkeypatch):
    """Between the listing and the reading of a share that people work on."""
    path = site.nifti(box(LIVER))
    inbox = site.folder / "results" / "inbox"
    listing = Path.iterdir

    def late(folder):
        found = list(listing(folder))
        path.unlink(missing_ok=True)
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", late)
    assert len(inbox_state(inbox, ["read"], ["case1"])) == 64
    site.nifti(box(LIVER))
    outcome = site.read()
    assert outcome.status is Status.WAITING
    assert "0 of 1 readings" in outcome.message


class TestSeveralReaders:
    def test_are_waited_for_and_kept_apart(self, site):
        site.nifti(box(LIVER))
        outcome = site.read(readers=2)
        assert outcome.status is Status.WAITING
        assert "1 of 2 readings of 'read' are there (by ada)" in outcome.message
        site.nifti(box(np.s_[2:7, 3:12, 5:16]), reader="ben")
        assert site.read(readers=2).status is Status.OK
        mask, segment = site.result()["liver"]
        np.testing.assert_array_equal(mask, box(np.s_[2:7, 3:12, 5:15]))
        assert segment.producer == "majority of 2 readers"
        pairs = {(r["reader"], r["other"]) for r in site.agreement}
        assert pairs == {("ada", "ben"), ("ada", "proposal"), ("ben", "proposal")}

    def test_the_majority_of_three_has_what_two_have(self):
        found = votes("majority", [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0])
        assert found == [1, 1, 1, 0]

    def test_staple_trusts_the_two_who_agree(self):
        """With majority, the third reader's voxels that no one else has are lost as well."""
        good = [0, 1, 1, 1, 1, 0, 0, 0]
        bad = [0, 0, 0, 0, 1, 1, 1, 1]
        assert votes("staple", good, good, bad) == good
        assert votes("staple", good, good) == good

    @pytest.mark.parametrize("how", ["majority", "staple"])
    def test_a_segment_that_no_more_than_half_of_them_have_is_absent(self, how):
        """STAPLE alone would trust one of two who see something, against three who see nothing."""
        assert votes(how, [1], [0], [0]) == []
        assert votes(how, [1], [0]) == []
        nothing = [0] * 28
        assert votes(how, [1] * 8 + [0] * 20, [0] * 2 + [1] * 8 + [0] * 18, *[nothing] * 3) == []
        assert votes(how, [0, 1, 1], [0, 1, 1], [0, 0, 0]) == [0, 1, 1]


def votes(how, *rows):
    """Combine masks of one row of voxels."""
    readings = []
    for number, row in enumerate(rows):
        mask = np.zeros((3, 3, len(row)), bool)
        mask[1, 1] = row
        region = Region("liver", "liver", mask, "MANUAL", "a person")
        regions = {"liver": cropped(region)} if mask.any() else {}
        readings.append(Reading(f"r{number}", "f", {}, regions))
    found = list(combined(readings, typed.segmentation(spec(combine=how))))
    if not found:
        return []
    (region,) = found
    row = np.zeros(len(rows[0]), int)
    first = region.corner[2]
    row[first : first + region.mask.shape[2]] = region.mask[0, 0]
    return row.tolist()


READ_ONLY = """
import sys
from pathlib import Path
from jipflow.annotate.inbox import check_inbox, open_inbox
inbox, results = map(Path, sys.argv[1:])
open_inbox(inbox, results)
check_inbox(inbox, results)
print((results / "inbox.json").exists())
"""


def test_an_inbox_that_is_away_is_not_one_that_is_empty(tmp_path):
    inbox, results = tmp_path / "share" / "lung", tmp_path / "results" / "lung"
    check_inbox(inbox, results)
    for _ in range(2):
        open_inbox(inbox, results)
        assert inbox.is_dir()
        check_inbox(inbox, results)
    shutil.rmtree(inbox)
    # The folder that the disk covers may have been made by hand.
    inbox.mkdir()
    away = r"share/lung, where .* is gone, or its file "
    for damage in (None, b"", b'{"inbox', b"[1]", b"\xff"):
        if damage is not None:
            (results / "inbox.json").write_bytes(damage)
        for look in (check_inbox, open_inbox):
            with pytest.raises(PlaceError, match=away):
                look(inbox, results)
    assert not list(inbox.iterdir())
    (results / "inbox.json").unlink()
    open_inbox(inbox, results)
    check_inbox(inbox, results)
    # What the disk covers has a mark of its own where a job once ran without the disk.
    shutil.move(inbox, tmp_path / "covered")
    (results / "inbox.json").unlink()
    open_inbox(inbox, results)
    shutil.rmtree(inbox)
    shutil.move(tmp_path / "covered", inbox)
    for look in (check_inbox, open_inbox):
        with pytest.raises(PlaceError, match=away):
            look(inbox, results)
    (results / "inbox.json").write_bytes(b"\xff")
    open_inbox(inbox, results)
    (results / "inbox.json").unlink()
    (inbox / ".jipflow").write_text("")
    with pytest.raises(PlaceError, match="is empty; run the same command again"):
        open_inbox(inbox, results)
    (inbox / ".jipflow").unlink()
    open_inbox(inbox, results)
    assert [path.name for path in inbox.iterdir()] == [".jipflow"]
    check_inbox(inbox, results)
    open_inbox(tmp_path / "another", results)
    assert (tmp_path / "another").is_dir()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_an_inbox_on_a_disk_without_links_has_a_mark(tmp_path, monkeypatch, number):
    def link(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    inbox, results = tmp_path / "inbox", tmp_path / "results"
    for _ in range(2):
        open_inbox(inbox, results)
        check_inbox(inbox, results)
    assert [path.name for path in inbox.iterdir()] == [".jipflow"]


def test_jobs_that_begin_together_see_one_inbox(tmp_path):
    inbox, results = tmp_path / "inbox", [tmp_path / "lung", tmp_path / "liver"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(open_inbox, inbox), results * 20))
    for each in results:
        check_inbox(inbox, each)


def test_an_inbox_that_may_only_be_read_is_not_missed(tmp_path):
    share, results = tmp_path / "share", tmp_path / "results"
    (share / "lung").mkdir(parents=True)
    results.mkdir()
    for folder in (share / "lung", share):
        folder.chmod(0o555)
    found = bound_python(READ_ONLY, share / "lung", results)
    # One that is not there may be on a disk that is away.
    other = bound_python(READ_ONLY, share / "liver", results)
    for folder in (share, share / "lung"):
        folder.chmod(0o755)
    assert (found.stdout, found.stderr) == ("False\n", "")
    assert other.stdout == ""
    assert "PermissionError" in other.stderr
    assert not list((share / "lung").iterdir())


def test_the_state_of_the_inbox_knows_a_file_that_was_replaced_by_an_older_one(site):
    inbox = site.folder / "results" / "inbox"
    path = site.to() / "a.nii"
    states = [inbox_state(inbox, ["read"], ["case1"])]
    for content, seconds in (("one", 5000), ("two", 5000), ("two", 4000)):
        path.write_text(content)
        os.utime(path, (seconds, seconds))
        states.append(inbox_state(inbox, ["read"], ["case1"]))
    assert len(set(states)) == 3
    (site.to() / "<odd>.nii").write_text("x")
    assert inbox_state(inbox, ["read"], ["case1"]) != states[-1]

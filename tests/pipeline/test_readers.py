"""Cases that wait for persons: the run goes on with the others, and later exactly there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
import yaml
from pydicom.sr.codedict import codes

from harness import ONE_CORE, Site, make_site, seg_errors, snakemake
from jipflow.agreement import overlap
from jipflow.files import sha256_file
from jipflow.images.masks import read_segmentation
from jipflow.images.volume import Volume
from jipflow.phantom.cohort import write_site
from jipflow.phantom.dicom import Study, rtstruct, to_bytes
from jipflow.phantom.grid import PhantomGrid

PROTOCOL = {
    "protocol": {"id": "readers", "version": "1.0.0", "title": "Lesions read by two persons"},
    "cohort": {
        "where": "Modality = 'PT'",
        "case": {"roles": {"PT": {"where": "Modality = 'PT'"}}},
    },
    "segmentations": [
        {
            "id": "found",
            "engine": "imported",
            "role": "PT",
            "segments": [
                {
                    "name": "gtv",
                    "match": "GTV.*",
                    "term": "gross-tumour-volume",
                    "expect": {"volume_ml": [1, 30]},
                }
            ],
        },
        {
            "id": "read",
            "engine": "annotated",
            "proposal": "found",
            "role": "PT",
            "readers": 2,
            "segments": [
                {"name": "gtv", "match": "gtv|GTV.*", "term": "gross-tumour-volume"},
            ],
        },
        {
            "id": "checked",
            "engine": "annotated",
            "proposal": "found",
            "when": "flagged",
            "may_be_empty": True,
            "role": "PT",
            "segments": [
                {
                    "name": "gtv",
                    "term": "gross-tumour-volume",
                    "required": False,
                    "expect": {"volume_ml": [1, 100]},
                }
            ],
        },
    ],
    "radiomics": [{"segmentation": "read", "role": "PT", "settings": "pyradiomics_pet"}],
    "analyses": [
        {"id": "volume", "kind": "summary", "variables": ["PT.original_shape_MeshVolume"]}
    ],
    "disclosure": {"min_patients": 5},
}


SEED = 21
LARGE = "READERS-0002"
"""The patient whose lesion has 41 ml; the others' have 19 and 15 ml."""
SECRET = "00" * 32
"""Puts that patient into the first shard."""
STAGES = ("prepare", "segment", "annotate", "encode", "measure", "document", "overlay")


class Correspondence:
    """What readers take from a site and send back to it."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def proposal(self, case: str) -> Volume:
        """The proposed mask; the folder of the masks is there after the first run."""
        (folder,) = (self.site.out / "work").glob(f"*/automatic/{case}/found")
        segmentation = read_segmentation(folder)
        return Volume(segmentation.mask(segmentation.segments[0]), segmentation.grid)

    def to(self, case: str, reader: str, segmentation: str = "read") -> Path:
        folder = self.site.out / "inbox" / segmentation / case / reader
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def images(self, case: str) -> list[pydicom.Dataset]:
        folder = self.site.out / "worklist" / "read" / case / "series"
        return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]

    def send_nifti(self, case: str, reader: str, mask: Volume) -> None:
        """A label map whose axes run another way, as many programs write them."""
        image = Volume(mask.array.astype(np.uint8), mask.grid).image()
        sitk.WriteImage(
            sitk.Flip(image, [False, True, True]), str(self.to(case, reader) / "a.nii.gz")
        )

    def send_seg(self, case: str, reader: str, mask: Volume) -> None:
        """A DICOM-SEG of another maker with the proposal's label."""
        described = highdicom.seg.SegmentDescription(
            1, "gtv", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm, "AUTOMATIC",
            highdicom.AlgorithmIdentificationSequence(
                "found", codes.DCM.ArtificialIntelligence, "1"
            ),
        )  # fmt: skip
        dataset = highdicom.seg.Segmentation(
            self.images(case), mask.array.astype(np.uint8), "BINARY", [described],
            highdicom.UID(), 1, highdicom.UID(), 1, "A Viewer", "Viewer 3D", "5.9", "1",
            content_creator_name="Reader^Ada",
        )  # fmt: skip
        dataset.save_as(self.to(case, reader) / "IMG 0001.dcm")

    def send_rtstruct(self, case: str, reader: str, mask: Volume) -> None:
        """Contours under a name that the protocol allows."""
        images = self.images(case)
        grid = PhantomGrid(
            mask.grid.shape, mask.grid.spacing, tuple(float(v) for v in mask.grid.affine[:3, 3])
        )
        study = Study(patient_id=str(images[0].PatientID))
        dataset = rtstruct({"GTV corrected": mask.array}, grid, images, study)
        frame = images[0].FrameOfReferenceUID
        dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = frame
        for roi in dataset.StructureSetROISequence:
            roi.ReferencedFrameOfReferenceUID = frame
        (self.to(case, reader) / "RS.dcm").write_bytes(to_bytes(dataset))


def grown(mask: Volume, steps: int) -> Volume:
    from scipy.ndimage import binary_dilation, binary_erosion

    change = binary_dilation if steps > 0 else binary_erosion
    return Volume(change(mask.array, iterations=abs(steps)), mask.grid)


def moved(mask: Volume, voxels: int) -> Volume:
    return Volume(np.roll(mask.array, voxels, axis=2), mask.grid)


def stamps(site: Site) -> dict[str, int]:
    """When each stage of each shard last wrote its outcomes."""
    return {
        f"{shard} {stage}": (site.out / "shards" / shard / stage / "outcomes.parquet")
        .stat()
        .st_mtime_ns
        for shard in ("s00001", "s00002")
        for stage in STAGES
    }


def mask_of(path: Path, like: Volume) -> np.ndarray:
    """The first segment of a DICOM-SEG on the grid of the images."""
    seg = highdicom.seg.segread(path)
    geometry = highdicom.VolumeGeometry(
        like.grid.affine,
        like.grid.shape,
        coordinate_system="PATIENT",
        frame_of_reference_uid=seg.FrameOfReferenceUID,
    )
    volume = seg.get_volume(segment_numbers=[1], combine_segments=False)
    return volume.match_geometry(geometry, tol=1e-2).array[..., 0] > 0


@dataclass
class Story:
    """What was seen between the runs."""

    site: Site
    waiting: tuple[str, str]
    done: str
    large: str
    proposals: dict[str, Volume]
    sent: dict[tuple[str, str], Volume]
    first: subprocess.CompletedProcess[str]
    first_outcomes: pd.DataFrame
    first_report: str
    first_files: set[str]
    readme: str
    dicom_errors: list[str]
    read_by_dcmqi: np.ndarray
    before: dict[str, int]
    after: dict[str, int]
    third: str
    fourth: str
    away: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Two cases in one shard and one in another; two readers are wanted for each.

    One of the first two has a flag on its proposal, which a third reader answers: nothing is there.
    The readings of the third case are there from the start. A cut file comes for the second. Then
    the readings of the first two come in, and last a file is replaced by an older one.
    """
    folder = tmp_path_factory.mktemp("readers")
    write_site(folder / "phantom", "readers", 3, SEED, defects=False)
    protocol = folder / "readers.yaml"
    protocol.write_text(yaml.safe_dump(PROTOCOL))
    shards = {"shard_size": 2, "device": "cpu"}
    site = make_site(folder, "here", "readers", [folder / "phantom" / "dicom"], processing=shards)
    key = folder / "here-secrets" / "identity.key"
    key.parent.mkdir()
    key.write_text(SECRET)
    key.chmod(0o600)
    arguments = [a.replace("protocol=readers", f"protocol={protocol}") for a in site.arguments]
    snakemake(str(site.out / "cohort" / "cases.tsv"), *ONE_CORE, *arguments)
    table = pd.read_csv(site.out / "cohort" / "cases.tsv", sep="\t", dtype=str)
    cases = table.groupby("shard")["case_id"].apply(sorted)
    (one, two), (three,) = cases["s00001"], cases["s00002"]
    (large,) = table.loc[table["series_uid"] == series_of(folder / "phantom", LARGE), "case_id"]
    work = Correspondence(site)
    truth = truth_of(folder / "phantom", table.set_index("case_id").loc[three, "series_uid"])
    work.send_nifti(three, "ada", truth)
    work.send_nifti(three, "ben", grown(truth, 1))
    (work.to(two, "ada") / "cut.dcm").write_bytes(bytes(128) + b"DICM" + bytes(40))

    first = snakemake(*ONE_CORE, *arguments, check=False)
    worklist = site.out / "worklist" / "read"
    proposals = {case: work.proposal(case) for case in (one, two, three)}
    report = site.out / "report" / "index.html"
    seen = {
        "first": first,
        "first_outcomes": site.table("outcomes.parquet"),
        "first_report": report.read_text(),
        "first_files": {str(p.relative_to(site.out)) for p in site.out.rglob("*") if p.is_file()},
        "readme": (worklist / one / "README.txt").read_text(),
        "dicom_errors": seg_errors([worklist / one / "proposal.dcm"]),
        "read_by_dcmqi": by_dcmqi(worklist / one / "proposal.dcm", folder / "dcmqi"),
        "before": stamps(site),
    }
    sent = {
        (one, "ada"): grown(proposals[one], 2),
        (one, "ben"): proposals[one],
        (two, "ada"): grown(proposals[two], 1),
        (two, "ben"): moved(proposals[two], 2),
        (three, "ada"): truth,
        (three, "ben"): grown(truth, 1),
    }
    (work.to(two, "ada") / "cut.dcm").unlink()
    work.send_seg(one, "ada", sent[one, "ada"])
    shutil.copy(worklist / one / "proposal.dcm", work.to(one, "ben"))
    work.send_seg(two, "ada", sent[two, "ada"])
    work.send_rtstruct(two, "ben", sent[two, "ben"])
    (work.to(large, "carl", "checked") / "nothing.txt").touch()
    snakemake(*arguments)
    after = stamps(site)
    third = snakemake("--dry-run", *arguments).stdout
    path = work.to(three, "ben") / "a.nii.gz"
    path.write_bytes((work.to(three, "ada") / "a.nii.gz").read_bytes())
    os.utime(path, (10**9, 10**9))
    fourth = snakemake("--dry-run", *arguments).stdout
    inbox = site.out / "inbox"
    inbox.rename(folder / "elsewhere")
    away = snakemake("--dry-run", *arguments, check=False)
    (folder / "elsewhere").rename(inbox)
    return Story(
        site, (one, two), three, large, proposals, sent, after=after, third=third, fourth=fourth,
        away=away, **seen,
    )  # fmt: skip


def entries(phantom: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((phantom / "truth" / "truth.json").read_text())[
        "patients"
    ]
    return found


def truth_of(phantom: Path, series_uid: str) -> Volume:
    (entry,) = [e for e in entries(phantom) if e["PT"]["series_uid"] == series_uid]
    image = sitk.ReadImage(str(phantom / "truth" / entry["PT"]["truth"]))
    mask = Volume.from_image(image)
    return Volume(mask.array > 0, mask.grid)


def series_of(phantom: Path, patient_id: str) -> str:
    (entry,) = [e for e in entries(phantom) if e["patient_id"] == patient_id]
    return str(entry["PT"]["series_uid"])


def by_dcmqi(path: Path, folder: Path) -> np.ndarray:
    """The first segment as dcmqi reads it, on the box of its frames."""
    folder.mkdir()
    subprocess.run(
        [
            str(Path(sys.executable).parent / "segimage2itkimage"),
            *("--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nrrd"),
        ],
        check=True,
        capture_output=True,
    )
    (file,) = folder.glob("*.nrrd")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file))) > 0


def test_the_first_run_waits_for_two_cases_and_finishes_the_other(story: Story):
    assert story.first.returncode != 0
    assert "2 of 3 cases wait for a person (67%)" in story.first.stdout
    assert "worklist.tsv" in story.first.stdout
    table = story.first_outcomes
    read = table[table["item"] == "read"]
    for case in story.waiting:
        status = (
            read[read["case_id"] == case]
            .set_index("stage")[["status", "reason"]]
            .agg(tuple, axis=1)
        )
        assert status["annotate"] == ("waiting", "awaiting_reader")
        for stage in ("encode", "measure", "document"):
            assert status[stage] == ("waiting", "depends_on_waiting"), stage
    assert set(read[read["case_id"] == story.done]["status"]) == {"ok"}
    assert set(table[table["item"] == "found"]["status"]) == {"ok"}
    made = {f for f in story.first_files if f.startswith("seg/") and f.endswith("read.dcm")}
    assert made == {f"seg/{story.done}/read.dcm"}
    assert not [f for f in story.first_files if f.startswith(("release", "accepted"))]


def test_the_worklist_has_the_images_a_proposal_that_opens_and_what_to_do(story: Story):
    one, two = story.waiting
    files = [f for f in story.first_files if f.startswith(f"worklist/read/{one}/")]
    assert len([f for f in files if "/series/IM0" in f]) == len(story.proposals[one].array)
    assert story.dicom_errors == []
    mask = story.proposals[one].array
    assert story.read_by_dcmqi.sum() == mask.sum()
    for word in (f"inbox/read/{one}", "0 of 2 readings", "3D SLICER", "MITK", "OHIF", "gtv"):
        assert word in story.readme
    assert not [f for f in story.first_files if f.startswith(f"worklist/read/{story.done}/")]
    message = story.first_outcomes.query(
        f"case_id == '{two}' and stage == 'annotate' and item == 'read'"
    )["message"]
    # A reader may have named the file after the patient: `jipflow whois` names it.
    assert re.search(r"'‹file \w+›' of ada cannot be used: it cannot be read", message.item())
    assert "cannot be read" in message.item()
    assert not (story.site.out / "worklist" / "read" / one).exists()


def test_what_the_protocol_does_not_expect_of_a_proposal_sends_it_to_a_person(story: Story):
    table = story.first_outcomes.set_index(["stage", "item", "case_id"]).sort_index()
    checked = table.loc[("annotate", "checked")]
    for case in (*story.waiting, story.done):
        flags = list(table.loc[("segment", "found", case), "flags"])
        assert flags == (["gtv:implausible_volume"] if case == story.large else [])
        status, message = checked.loc[case, ["status", "message"]]
        assert status == ("waiting" if case == story.large else "ok")
        assert ("Flag on 'gtv': The volume" if case == story.large else "Taken over") in message


def test_a_reader_who_finds_nothing_leaves_a_segmentation_without_a_voxel(story: Story):
    table = story.site.table("outcomes.parquet").query(f"case_id == '{story.large}'")
    checked = table[table["item"] == "checked"].set_index("stage")
    assert set(checked["status"]) == {"ok"}
    assert "Read by carl. No voxel of: gtv." in checked.loc["annotate", "message"]
    assert list(checked.loc["annotate", "flags"]) == ["gtv:implausible_volume"]
    made = {path.name for path in (story.site.out / "seg" / story.large).iterdir()}
    assert made == {"found.dcm", "read.dcm"}
    quality = story.site.table("features/quality.parquet")
    quality = quality.set_index(["segmentation", "case_id"])
    assert len(quality) == 3 * 3
    assert quality.loc[("checked", story.large), "volume_ml"] == 0
    assert quality.loc[("found", story.large), "volume_ml"] > 30
    report = (story.site.out / "report" / "index.html").read_text()
    section = report.split('<section id="quality">')[1].split("</section>")[0]
    assert section.count(story.large) == 2
    assert "(checked)" in section


def test_the_first_report_shows_who_waits(story: Story):
    assert "The run waits for readers" in story.first_report
    assert "2 of 3 cases wait" in story.first_report
    assert 'data-status="waiting"' in story.first_report


def test_the_second_run_goes_on_exactly_there(story: Story):
    ran = {key for key, stamp in story.after.items() if stamp != story.before[key]}
    assert ran == {f"s00001 {stage}" for stage in STAGES if stage not in ("prepare", "segment")}
    verdict = json.loads((story.site.out / "verdict.json").read_text())
    assert (verdict["ok"], verdict["waiting"], verdict["acceptable"]) == (3, 0, True)
    assert "Nothing to be done" in story.third


def test_an_older_file_in_the_place_of_another_is_noticed(story: Story):
    counts = story.fourth.split("Job stats:")[1].split("\n\n")[0]
    planned = {line.split()[0]: line.split()[1] for line in counts.splitlines()[3:]}
    assert planned["annotate"] == "1"
    assert not planned.keys() & {"prepare", "segment", "cohort"}


def test_what_both_readers_marked_is_the_result_to_the_voxel(story: Story):
    for case in (*story.waiting, story.done):
        like = story.proposals[case]
        both = story.sent[case, "ada"].array & story.sent[case, "ben"].array
        found = mask_of(story.site.out / "seg" / case / "read.dcm", like)
        np.testing.assert_array_equal(found, both)
        features = story.site.table("features/features.parquet").set_index("case_id")
        assert features.loc[case, "voxels"] == both.sum()


def test_the_readers_agreement_is_that_of_their_masks(story: Story):
    table = story.site.table("features/agreement.parquet").query("segmentation == 'read'")
    assert len(table) == 3 * 3
    for row in table.itertuples():
        masks = [
            story.proposals[row.case_id] if name == "proposal" else story.sent[row.case_id, name]
            for name in (row.reader, row.other)
        ]
        true = overlap(masks[0].array, masks[1].array, story.proposals[row.case_id].grid.spacing)
        found = (row.dice, row.mean_surface_distance_mm, row.hausdorff95_mm)
        expected = (true.dice, true.mean_surface_distance, true.hausdorff_95)
        assert found == pytest.approx(expected, rel=1e-12)
    assert 0 < table["dice"].min() < 1


def test_who_when_and_with_what_is_recorded(story: Story):
    one, two = story.waiting
    table = story.site.table("features/readings.parquet").set_index(["case_id", "reader"])
    assert len(table) == 7
    assert table["used"].all()
    assert table.loc[(story.large, "carl"), "kind"] == "NOTHING"
    ada, ben = table.loc[(one, "ada")], table.loc[(one, "ben")]
    assert (ada["kind"], ada["manufacturer"], ada["model"]) == ("SEG", "A Viewer", "Viewer 3D")
    assert (ada["creator"], ada["unchanged"]) == ("Reader^Ada", False)
    assert (ben["manufacturer"], ben["unchanged"]) == ("jipflow", True)
    assert table.loc[(two, "ben"), "kind"] == "RTSTRUCT"
    assert table.loc[(story.done, "ada"), "kind"] == "NIFTI"
    path = story.site.out / "inbox" / "read" / one / "ada" / ada["file"]
    assert sha256_file(path) == ada["sha256"]
    assert ada["received"].startswith("20")


def test_the_report_has_the_readers(story: Story):
    report = (story.site.out / "report" / "index.html").read_text()
    assert 'id="readers"' in report
    for word in ("ada", "ben", "accepted unchanged"):
        assert word in report
    assert "Reader^Ada" not in report


def test_where_the_inbox_is_away_nothing_is_taken_back(story: Story):
    assert story.away.returncode != 0
    assert f"{story.site.out / 'inbox'}, where readers put" in story.away.stdout
    assert "see whether its disk is mounted" in story.away.stdout
    assert "Traceback" not in story.away.stdout


def test_nothing_of_the_readers_is_in_the_release(story: Story):
    files = [p for p in (story.site.out / "release").rglob("*") if p.is_file()]
    assert files
    for path in files:
        text = path.read_text()
        assert not [w for w in ("ada", "ben", "Reader^Ada", "agreement") if f'"{w}"' in text], path

"""A finished run exported: what leaves names no patient, what stays is on record."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from harness import ROOT, Site
from jipflow.cases import Case, Series, read_cases
from jipflow.cli import main
from jipflow.export.folder import PARTIAL, REPORT
from jipflow.export.stage import OUTCOMES, export
from jipflow.files import canonical_digest, read_json, sha256_file, write_json
from jipflow.images.series import read_series_volume
from jipflow.outcomes import Status, read_outcomes
from jipflow.privacy.erased import add_erased
from jipflow.privacy.pseudonyms import known_secret, pseudonym
from jipflow.reasons import StageError
from jipflow.settings.run import read_settings

PET, CONTOURS, SEG, SR = "PT", "RTSTRUCT", "SEG", "SR"


@dataclass(frozen=True)
class Made:
    """A run, one of its PET slices has text burned in, and what was exported of it."""

    site: Site
    source: Path
    out: Path

    def objects(self) -> list[pydicom.Dataset]:
        return [pydicom.dcmread(path) for path in sorted(self.out.rglob("*.dcm"))]


@pytest.fixture(scope="module")
def made(contours_run, two_patients, tmp_path_factory, monkeypatch_module) -> Made:
    folder = tmp_path_factory.mktemp("export")
    shutil.copytree(contours_run.results, folder / "results")
    shutil.copytree(two_patients, folder / "dicom")
    site = replace(contours_run, results=folder / "results")
    for path in (site.out / "cohort" / "shards").glob("*.parquet"):
        table = pd.read_parquet(path)
        table["path"] = [p.replace(str(two_patients), str(folder / "dicom")) for p in table["path"]]
        table.to_parquet(path)
    files = _cases(site)
    second = files[(files["case_id"] == files["case_id"].max()) & (files["role"] == PET)]
    slice_file = min(second["path"])
    image = pydicom.dcmread(slice_file)
    image.BurnedInAnnotation = "YES"
    image.save_as(slice_file)
    settings = read_json(site.out / "settings.json")
    identity = settings["site"]["identity"]
    # Other tests count the events of the run's own trail.
    identity["audit_file"] = shutil.copy2(identity["audit_file"], str(folder / "audit.jsonl"))
    write_json(site.out / "settings.json", settings)
    words = ["export", "--results", str(site.out), "--out", str(folder / "out")]
    (site.results / "audit.json").unlink()
    before = os.umask(0o022)
    try:
        assert main(words) == 0
    finally:
        os.umask(before)
    return Made(site, folder / "dicom", folder / "out")


@pytest.fixture(scope="module")
def monkeypatch_module():
    """The folder that a run is started in, of which the settings name paths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield patch


def _cases(site: Site) -> pd.DataFrame:
    shards = sorted((site.out / "cohort" / "shards").glob("*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in shards])


def test_a_series_that_may_show_text_stays_with_its_reason_and_all_that_is_of_it(made):
    outcomes = read_outcomes(made.site.out / OUTCOMES)
    first, second = sorted({outcome.case_id for outcome in outcomes})
    kinds = {(o.case_id, o.item.split()[0]): (o.status, o.reason) for o in outcomes}
    whole = dict.fromkeys((PET, CONTOURS, SEG, SR), (Status.OK, ""))
    assert {kind: kinds[first, kind] for kind in whole} == whole
    assert kinds[second, PET] == (Status.FAILED, "burned_in_text")
    assert kinds[second, SEG] == kinds[second, SR] == (Status.FAILED, "depends_on_failed")
    assert kinds[second, CONTOURS] == (Status.OK, "")
    assert len(outcomes) == 8
    report = read_json(made.out / REPORT)
    assert report["refused"] == {"burned_in_text": 1, "depends_on_failed": 2}
    assert report["items"] == 5
    assert report["files"] == len(made.objects())


def test_no_byte_and_no_name_of_what_leaves_is_of_a_patient(made):
    headers = [pydicom.dcmread(path) for path in made.source.rglob("*") if path.is_file()]
    identifying = {
        str(header.get(name))
        for header in headers
        for name in ("PatientName", "PatientID", "AccessionNumber", "InstitutionName")
        if header.get(name)
    }
    identifying |= {str(h.get(n)) for h in headers for n in ("StudyDate", "SOPInstanceUID")}
    assert len(identifying) > 40
    # Two letters are among pixels by chance.
    short = {text for text in identifying if len(text) < 5}
    identifying -= short
    for path in made.out.rglob("*"):
        content = str(path.relative_to(made.out)).encode()
        content += path.read_bytes() if path.is_file() else b""
        assert [text for text in identifying if text.encode() in content] == []
    words = {
        word
        for made_of in made.objects()
        for element in made_of.iterall()
        if element.VR in {"LO", "SH", "PN", "ST", "LT", "UT", "CS", "AE"}
        for word in re.findall(r"[^\W_]+", str(element.value))
    }
    assert short.isdisjoint(words)


def test_references_hold_between_images_contours_segmentation_and_report(made):
    objects = made.objects()
    outcomes = {o.item.split()[0]: o for o in read_outcomes(made.site.out / OUTCOMES) if o.outputs}
    images = {str(o.SOPInstanceUID) for o in objects if o.Modality == PET}
    assert len(images) == len(outcomes[PET].outputs) > 10
    study = {str(o.StudyInstanceUID) for o in objects if o.Modality == PET}
    for modality in (CONTOURS, SEG, SR):
        (one,) = [o for o in objects if o.Modality == modality and str(o.StudyInstanceUID) in study]
        named = {str(e.value) for e in one.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
        assert named & images
    (seg,) = [o for o in objects if o.Modality == SEG]
    (report,) = [o for o in objects if o.Modality == SR]
    tracked = {str(segment.TrackingUID) for segment in seg.SegmentSequence}
    assert tracked & {str(e.value) for e in report.iterall() if e.keyword == "UID"}
    assert str(seg.SOPInstanceUID) in str(report)
    assert {o.PatientID for o in objects if str(o.StudyInstanceUID) in study} == {seg.PatientID}


def test_files_lie_by_pseudonyms_are_for_their_owner_and_have_the_hashes_on_record(made):
    for path in made.out.rglob("*.dcm"):
        header = pydicom.dcmread(path)
        uids = (header.StudyInstanceUID, header.SeriesInstanceUID, f"{header.SOPInstanceUID}.dcm")
        assert path.relative_to(made.out).parts == (header.PatientID, *uids)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        date(int(header.StudyDate[:4]), int(header.StudyDate[4:6]), int(header.StudyDate[6:]))
    for outcome in read_outcomes(made.site.out / OUTCOMES):
        for name, digest in zip(outcome.outputs, outcome.sha256, strict=True):
            assert sha256_file(made.out / name) == digest


def test_what_the_command_writes_is_its_owner_s_alone_whatever_the_shell_s_umask(made):
    written = [made.out, *made.out.rglob("*"), made.site.out / OUTCOMES]
    written.append(made.site.results / "audit.json")
    assert {path.name for path in written if path.stat().st_mode & 0o077} == set()


def test_the_export_is_noted_in_the_audit_trail(made):
    trail = Path(read_json(made.site.out / "settings.json")["site"]["identity"]["audit_file"])
    lines = [json.loads(line)["entry"] for line in trail.read_text().splitlines()]
    (noted, *_) = [line["facts"] for line in lines if line["event"] == "data_exported"]
    assert (noted["format"], noted["files"]) == ("dicom", len(made.objects()))


def test_pixels_are_those_of_the_archive(made):
    stored = {pydicom.dcmread(p).get("PixelData") for p in made.source.rglob("*") if p.is_file()}
    images = [o for o in made.objects() if o.Modality == PET]
    assert all(image.PixelData in stored for image in images)


def test_the_suv_of_what_leaves_is_that_of_the_archive(made):
    outcomes = read_outcomes(made.site.out / OUTCOMES)
    (pet,) = [o for o in outcomes if o.item == PET and o.outputs]
    (case,) = [c for c in _read(made.site) if c.case_id == pet.case_id]
    left = tuple(made.out / name for name in sorted(pet.outputs))
    series = Series(left[0].parent.name, PET, left)
    ours, theirs = read_series_volume(case.roles[PET]), read_series_volume(series)
    assert np.array_equal(ours.array, theirs.array)
    assert np.array_equal(ours.grid.affine, theirs.grid.affine)


def _read(site: Site) -> list[Case]:
    shards = sorted((site.out / "cohort" / "shards").glob("*.parquet"))
    return [case for shard in shards for case in read_cases(shard, {})]


def test_an_export_again_gives_the_same_bytes_and_another_folder_is_not_replaced(made):
    before = _hashes(made.out)
    export(results=made.site.out, out=made.out)
    assert _hashes(made.out) == before
    other = made.out.parent / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    with pytest.raises(StageError, match="is not empty"):
        export(results=made.site.out, out=other)
    assert (other / "letter.txt").read_text() == "mine"


def test_an_export_that_was_killed_is_made_anew_by_the_same_command(made):
    out = made.out.parent / "again"
    words = ["export", "--results", str(made.site.out), "--out", str(out), "--threads", "2"]
    command = [sys.executable, "-m", "jipflow", *words]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and not list(out.parent.glob(f"{PARTIAL}*/*/*/*/*.dcm")):
        time.sleep(0.01)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    assert list(out.parent.glob(f"{PARTIAL}*"))
    assert not out.exists()
    assert main(words) == 0
    assert not list(out.parent.glob(f"{PARTIAL}*"))
    assert _hashes(out) == _hashes(made.out)


def _hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


@pytest.mark.parametrize("name", ["release", "../exchange/out/x", "../.."])
def test_a_folder_that_runs_read_or_send_is_refused(made, name):
    with pytest.raises(StageError, match="name a folder of its own"):
        export(results=made.site.out, out=made.site.out / name)


@pytest.mark.parametrize(
    ("protocol", "site_says", "reason"),
    [
        (None, "deface", "recognisable_face"),
        ("refuse", "deface", "recognisable_face"),
        ("deface", "refuse", "recognisable_face"),
        # A PET without a CT or MR shows no brain.
        ("deface", "deface", "face_not_cut"),
    ],
)
def test_a_face_is_cut_away_where_the_protocol_says_so_and_the_site_does_not_refuse(
    made, tmp_path, protocol, site_says, reason
):
    results = shutil.copytree(made.site.results, tmp_path / "results") / made.site.out.name
    files = _cases(made.site)
    first = files[(files["case_id"] == files["case_id"].min()) & (files["role"] == PET)]
    image = pydicom.dcmread(min(first["path"]))
    image.BodyPartExamined = "HEAD"
    image.save_as(tmp_path / "head.dcm")
    for path in (results / "cohort" / "shards").glob("*.parquet"):
        table = pd.read_parquet(path)
        table["path"] = table["path"].replace(min(first["path"]), str(tmp_path / "head.dcm"))
        table.to_parquet(path)
    settings = read_json(results / "settings.json")
    if protocol:
        settings["protocol"]["export"] = {"heads": protocol}
    settings["site"]["export"]["heads"] = site_says
    write_json(results / "settings.json", settings)
    export(results=results, out=tmp_path / "out")
    outcomes = read_outcomes(results / OUTCOMES)
    assert {o.reason for o in outcomes if o.item == PET} == {reason, "burned_in_text"}


def test_the_report_names_what_was_done_and_no_patient(made):
    report = read_json(made.out / REPORT)
    assert report["profile"] == "DICOM PS3.15 2026d annex E"
    assert report["elements"]["emptied"]["PatientName"] == report["files"]
    hashes = {str(p.relative_to(made.out)): sha256_file(p) for p in made.out.rglob("*.dcm")}
    assert report["sha256"] == canonical_digest(hashes)
    pseudonyms = {path.relative_to(made.out).parts[0] for path in made.out.rglob("*.dcm")}
    assert len(pseudonyms) == 2
    assert not [name for name in pseudonyms if name in json.dumps(report)]


def test_nothing_leaves_of_an_erased_patient_whose_results_came_back(made, tmp_path):
    results, secrets = tmp_path / "results", tmp_path / "secrets"
    shutil.copytree(made.site.results, results)
    file = results / made.site.protocol / "settings.json"
    content = read_json(file)
    identity = content["site"]["identity"]
    shutil.copytree(Path(identity["secret_file"]).parent, secrets)
    for key, path in identity.items():
        identity[key] = str(secrets / Path(path).name)
    write_json(file, content)
    add_erased(read_settings(file).site.identity, results, ["Q7"])
    exported = export(results=file.parent, out=tmp_path / "out")
    assert exported.patients == 1
    secret = known_secret(secrets / "identity.key")
    (left,) = (path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert left == pseudonym(secret, "patient", "Äß-4")
    cases = {outcome.case_id for outcome in read_outcomes(file.parent / OUTCOMES)}
    assert len(cases) == 1

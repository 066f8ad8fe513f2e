"""The cohort comes from running PACSes and the results go back to one."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
import pytest

from harness import ONE_CORE, ROOT, Sarcoma, Site, copied, environment, jipflow, make_site
from orthanc import Orthanc, private_network

pytestmark = pytest.mark.long

PATIENTS = Sarcoma.PATIENTS["philips"]
PROTOCOL = "sarcoma-ct"
ARRIVAL = 12112

HELD = {"dicomweb": PATIENTS[:2], "get": PATIENTS[2:4], "move": PATIENTS[4:]}
"""The patients of each PACS, by the way in which they are asked for."""


def source(way: str, pacs: Orthanc, name: str, **limits: int) -> dict[str, Any]:
    """An entry of ``sources``."""
    if way == "dicomweb":
        return {"name": name, "kind": "dicomweb", "url": pacs.url, **limits}
    made = {
        "name": name,
        "kind": "dimse",
        "host": pacs.host,
        "port": pacs.port,
        "called_aet": pacs.aet,
        "calling_aet": "JIPFLOW",
    }
    moved = {"retrieve": "move", "listen_port": ARRIVAL, "listen_address": "127.0.0.1"}
    return made | (moved if way == "move" else {}) | limits


@pytest.fixture(scope="module")
def images(shared_data: Path) -> list[Path]:
    """Three modalities with their contours, of which the protocol wants one."""
    return [
        path
        for number in PATIENTS
        for path in sorted((shared_data / "sarcoma" / f"STS_{number}").rglob("*.dcm"))
    ]


def of_patients(images: Iterable[Path], numbers: Iterable[str]) -> list[Path]:
    names = {f"STS_{number}" for number in numbers}
    return [path for path in images if names & set(path.parts)]


@pytest.fixture(scope="module")
def archives(
    images: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Orthanc]]:
    """A PACS for each way, with its patients."""
    with private_network(), ExitStack() as stack:
        made = {}
        for number, (way, patients) in enumerate(HELD.items()):
            pacs = Orthanc(
                tmp_path_factory.mktemp(way),
                http_port=8042 + number,
                dicom_port=4242 + number,
                modalities={"JIPFLOW": ARRIVAL},
            )
            made[way] = stack.enter_context(pacs)
            pacs.upload(of_patients(images, patients))
            assert pacs.count() == len(of_patients(images, patients))
        yield made


@pytest.fixture(scope="module")
def from_files(sarcoma: Sarcoma) -> Site:
    """The same patients, read from their folder."""
    return sarcoma.run(PROTOCOL, "philips")["philips"]


@pytest.fixture(scope="module")
def folder(from_files: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sites with a PACS, which have one secret, so that they give one pseudonym to a
    patient: that of the site with files."""
    folder = tmp_path_factory.mktemp("sites")
    shutil.copyfile(from_files.folder / "philips-secrets" / "identity.key", folder / "identity.key")
    (folder / "identity.key").chmod(0o600)
    return folder


def pacs_site(folder: Path, name: str, sources: Sequence[dict[str, Any]], to: str) -> Site:
    return make_site(
        folder,
        name,
        PROTOCOL,
        sources,
        publish={"to": to},
        identity={
            "secret_file": str(folder / "identity.key"),
            "signing_key_file": str(folder / "site.key"),
            "ledger_folder": str(folder / "ledger"),
            "audit_file": str(folder / "audit.jsonl"),
        },
        processing={"shard_size": 3, "device": "cpu"},
    )


def objects(site: Site) -> dict[str, Path]:
    """The DICOM objects that a run made, by name."""
    made = [p for kind in ("seg", "sr") for p in sorted((site.out / kind).rglob("*.dcm"))]
    return {str(path.relative_to(site.out)): path for path in made}


def data_set(content: bytes) -> bytes:
    """The bytes of a DICOM file after its meta information, which each storing system rewrites.

    The meta information starts after 132 bytes with its own length (PS3.10 section 7.1).
    """
    assert content[128:132] == b"DICM"
    (length,) = struct.unpack("<I", content[140:144])
    return content[144 + length :]


def same_results(site: Site, reference: Site) -> None:
    for name in ("features/features.parquet", "features/failures.parquet"):
        pd.testing.assert_frame_equal(site.table(name), reference.table(name), check_exact=True)
    made, wanted = objects(site), objects(reference)
    assert len(made) == 2 * len(PATIENTS)
    assert {name: path.read_bytes() for name, path in made.items()} == {
        name: path.read_bytes() for name, path in wanted.items()
    }
    outcomes = site.table("outcomes.parquet")
    assert set(outcomes["status"]) == {"ok"}
    assert {"retrieve", "publish"} <= set(outcomes["stage"])
    assert (outcomes["stage"] == "publish").sum() == len(PATIENTS)


def published(pacs: Orthanc, site: Site) -> None:
    for name, path in objects(site).items():
        stored = pacs.file(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID))
        assert data_set(stored) == data_set(path.read_bytes()), name


def test_pacses_give_what_a_folder_gives(
    archives: dict[str, Orthanc], images: list[Path], folder: Path, from_files: Site
) -> None:
    pacs = archives["get"]
    held = pacs.count()
    sources = [source(way, archive, way) for way, archive in archives.items()]
    site = pacs_site(folder, "asks", sources, to="get")
    site.run(*ONE_CORE)
    same_results(site, from_files)
    for way, patients in HELD.items():
        kept_as_sent(site, way, of_patients(images, patients))

    published(pacs, site)
    assert pacs.count() == held + 2 * len(PATIENTS)
    before = pacs.get("/changes?last").json()["Last"]
    assert "Nothing to be done" in site.run().stdout
    trail = (folder / "audit.jsonl").read_bytes()
    events = {json.loads(line)["entry"]["event"] for line in trail.splitlines()}
    assert {"archives_queried", "series_retrieved", "objects_published"} <= events
    site.run("--forcerun", "publish", *ONE_CORE)
    assert (folder / "audit.jsonl").read_bytes() == trail
    assert pacs.get("/changes?last").json()["Last"] == before
    assert set(site.table("outcomes.parquet")["status"]) == {"ok"}
    corrected(archives["dicomweb"], of_patients(images, PATIENTS[:1]), site)


def corrected(pacs: Orthanc, images: Iterable[Path], site: Site) -> None:
    """What is corrected in a PACS under its UIDs comes in where somebody asks for it."""
    kept = {path.stem for path in (site.results / "retrieved").rglob("*.dcm")}
    headers = [pydicom.dcmread(path) for path in images]
    (patient,) = {header.PatientID for header in headers}
    for contours in headers:
        if contours.Modality == "RTSTRUCT" and contours.SOPInstanceUID in kept:
            for roi in contours.ROIContourSequence:
                roi.ContourSequence = list(roi.ContourSequence)[: len(roi.ContourSequence) // 2]
            content = BytesIO()
            contours.save_as(content)
            pacs.replace(contours.SOPInstanceUID, content.getvalue())
    before = volumes(site)
    site.run("--forcerun", "query", *ONE_CORE)
    assert volumes(site).equals(before)

    segs = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in objects(site).values()}
    (case,) = {path.parent.name for path, h in segs.items() if h.PatientID == patient}
    words = ("retry", "--results", str(site.results), "--case", case, "--fetch", "--apply")
    assert "of a PACS fetched again" in jipflow(*words).stdout
    site.run(*ONE_CORE)
    changed = volumes(site) / before
    assert 0.2 < changed.pop(case) < 0.8
    assert (changed == 1).all()
    assert set(site.table("outcomes.parquet")["status"]) == {"ok"}


def volumes(site: Site) -> pd.Series:
    return site.table("features/features.parquet").set_index("case_id")["volume_ml"]


def kept_as_sent(site: Site, way: str, images: Iterable[Path]) -> None:
    """What was retrieved are the images of the cohort and contours, as the PACS has them."""
    kept = sorted((site.results / "retrieved" / way).rglob("*.dcm"))
    originals = {
        str(header.SOPInstanceUID): path
        for path in images
        for header in [pydicom.dcmread(path, stop_before_pixels=True)]
        if header.Modality in {"CT", "RTSTRUCT"}
    }
    assert {path.stem for path in kept} <= set(originals)
    cohort = {uid for uid, path in originals.items() if path.parts[-3] == "CT"}
    assert cohort
    assert cohort <= {path.stem for path in kept}
    for path in kept:
        original = originals[path.stem]
        if way == "dicomweb":
            assert path.read_bytes() == original.read_bytes()
        else:
            # By DIMSE Orthanc writes the lengths of sequences in its own way.
            assert pydicom.dcmread(path) == pydicom.dcmread(original)


def test_the_pacs_dies_in_mid_retrieval_and_in_mid_publish(images, folder, from_files, tmp_path):
    with private_network():
        pacs = Orthanc(tmp_path, modalities={"JIPFLOW": ARRIVAL}).start()
        try:
            pacs.upload(p for p in images if p.parts[-3] == "CT")
            loaded = pacs.count()
            slow = source("dicomweb", pacs, "pacs", bytes_per_second=2_500_000, parallel=1)
            site = pacs_site(folder, "cut", [slow], to="pacs")
            kept = site.results / "retrieved" / "pacs"

            cut_off(site, pacs, lambda: len(list(kept.rglob("*.dcm"))) >= 60)
            first = {path: path.stat().st_mtime_ns for path in kept.rglob("*.dcm")}
            assert 60 <= len(first) < loaded
            assert not list(kept.rglob(".partial-*"))

            pacs.start()
            cut_off(site, pacs, lambda: pacs.count() > loaded)
            assert {path: path.stat().st_mtime_ns for path in first} == first

            pacs.start()
            assert loaded <= pacs.count() < loaded + 2 * len(PATIENTS)
            site.run(*ONE_CORE)
            same_results(site, from_files)
            published(pacs, site)
            assert pacs.count() == loaded + 2 * len(PATIENTS)
            lines = [
                json.loads(line)
                for file in sorted((site.out / "published").glob("*.jsonl"))
                for line in file.read_text().splitlines()
            ]
            assert len({line["sop_instance_uid"] for line in lines}) == 2 * len(PATIENTS)
        finally:
            pacs.stop()


def cut_off(site: Site, pacs: Orthanc, reached: Callable[[], bool]) -> None:
    """Run the workflow, kill the PACS when a point is reached, and see the workflow fail."""
    with subprocess.Popen(
        [*copied(*ONE_CORE, *site.arguments), "--retries", "0"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + 600
        while not reached():
            assert process.poll() is None, process.communicate()[0][-4000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pacs.kill()
        output = process.communicate(timeout=300)[0]
    assert process.returncode != 0
    assert "source 'pacs'" in output, output[-4000:]
    assert "Traceback" not in output

"""Query, retrieve and publish with a real Orthanc and real patients."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
import pytest
import requests
import yaml
from pydicom.filereader import read_file_meta_info

from jipflow.catalog import cohort, scan
from jipflow.files import sha256_file
from jipflow.outcomes import Outcome, Status
from jipflow.pacs import publish, query, retrieve
from jipflow.pacs.archive import UIDS
from jipflow.pacs.retrieve import fault
from jipflow.reasons import StageError
from jipflow.settings.run import Settings, load_settings
from jipflow.settings.site import Folder
from jipflow.uids import stable_uid
from orthanc import Orthanc, private_network

PATIENTS = ("002", "008", "024")
ARRIVAL = 11112
DIMSE = {
    "kind": "dimse",
    "host": "127.0.0.1",
    "port": 4242,
    "called_aet": "ARCHIVE",
    "calling_aet": "JIPFLOW",
}
WAYS: dict[str, dict[str, Any]] = {
    "dicomweb": {"kind": "dicomweb", "url": "http://127.0.0.1:8042/dicom-web"},
    "get": DIMSE,
    "move": {**DIMSE, "retrieve": "move", "listen_port": ARRIVAL, "listen_address": "127.0.0.1"},
}
SENT = """
function ReceivedInstanceFilter(dicom)
  local log = io.open("{folder}/sent", "a")
  log:write(dicom.SOPInstanceUID, "\\n")
  log:close()
  return {keep}
end
"""


@pytest.fixture(scope="module")
def images(shared_data: Path) -> list[Path]:
    """Three modalities of each patient with a structure set each."""
    folders = [shared_data / "sarcoma" / f"STS_{number}" for number in PATIENTS]
    return [path for folder in folders for path in sorted(folder.rglob("*.dcm"))]


def of_ct(images: list[Path]) -> list[Path]:
    """The CT images and all structure sets."""
    return [path for path in images if "CT" in path.parts or "mask" in path.parts]


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    with private_network():
        yield


@pytest.fixture(scope="module")
def pacs(
    network: None, images: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc"), modalities={"JIPFLOW": ARRIVAL}) as orthanc:
        orthanc.upload(images)
        yield orthanc


@pytest.fixture
def other_pacs(network: None, tmp_path: Path) -> Callable[..., Orthanc]:
    """Makes a PACS of the test's own that notes what it is sent, and keeps it where `keep` says."""

    def make(keep: str = "true") -> Orthanc:
        script = tmp_path / "sent.lua"
        script.write_text(SENT.format(folder=tmp_path, keep=keep))
        return Orthanc(
            tmp_path / "other",
            http_port=8043,
            dicom_port=4243,
            modalities={"JIPFLOW": 1},
            options={"LuaScripts": [str(script)], "MaximumStorageCacheSize": 0},
        )

    return make


def at(orthanc: Orthanc, way: str) -> dict[str, Any]:
    """The source that reaches a PACS in one of the ways."""
    place = {"url": orthanc.url} if way == "dicomweb" else {"port": orthanc.port}
    return WAYS[way] | place


def sent(folder: Path) -> list[str]:
    """The SOPInstanceUIDs of all that the test's own PACS was ever sent, in order."""
    path = folder / "sent"
    return path.read_text().splitlines() if path.is_file() else []


def settings_of(
    folder: Path, sources: list[dict[str, Any]], protocol: str = "sarcoma-ct", **site: Any
) -> Settings:
    return load_settings(
        {
            "site": {"id": "lab", "name": "Laboratory"},
            "sources": [{"name": f"source-{n}", **each} for n, each in enumerate(sources)],
            "identity": {"secret_file": str(folder / "identity.key")},
            "protocol": protocol,
            **site,
        }
    )


def of_cohort(settings: Settings, catalog: Path, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cohort of a catalog: its cases and the instances of its shard."""
    cohort.run(settings=settings, catalog_dirs=[catalog], out_dir=out, results=out.parent)
    shards = [pd.read_parquet(path) for path in sorted((out / "shards").glob("*.parquet"))]
    return pd.read_csv(out / "cases.tsv", sep="\t", dtype=str), pd.concat(shards)


@pytest.fixture(scope="module")
def reference(
    shared_data: Path, images: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[pd.DataFrame, pd.DataFrame]]:
    """The cohort of a protocol from the same patients' files."""
    folder = tmp_path_factory.getbasetemp()
    sources = [
        {"kind": "folder", "path": str(shared_data / "sarcoma" / f"STS_{number}")}
        for number in PATIENTS
    ]

    catalog = folder / "catalog-of-files"
    folders = [s for s in settings_of(folder, sources).site.sources if isinstance(s, Folder)]
    scan.run(sources=folders, out_dir=catalog, threads=1)

    def of(protocol: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        settings = settings_of(folder, sources, protocol)
        return of_cohort(settings, catalog, folder / f"cohort-{settings.protocol_sha256}")

    return of


def queried(
    settings: Settings, folder: Path
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame, Path]:
    """Ask the PACS: its report, cases, the shard's instances and the shard's file."""
    query.run(settings=settings, store=folder / "store", out_dir=folder / "pacs")
    report = json.loads((folder / "pacs" / "queries.json").read_text())["sources"]["source-0"]
    cases, instances = of_cohort(settings, folder / "pacs", folder / "cohort")
    (shard,) = (folder / "cohort" / "shards").glob("*.parquet")
    return report, cases, instances, shard


def stored(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted((folder / "store").rglob("*.dcm"))}


def data_set(path: Path) -> tuple[str, bytes]:
    """The transfer syntax and the bytes after the file meta information, which a PACS rewrites."""
    meta = read_file_meta_info(path)
    start = 132 + 12 + meta.FileMetaInformationGroupLength
    return str(meta.TransferSyntaxUID), path.read_bytes()[start:]


def same_objects(kept: dict[str, Path], wanted: pd.DataFrame) -> None:
    """The retrieved files hold what the shard's own files hold, and nothing else is there."""
    originals = dict(zip(wanted["sop_uid"], wanted["path"], strict=True))
    assert kept.keys() == originals.keys()
    for uid, path in kept.items():
        original = Path(originals[uid])
        # By DIMSE, this PACS writes sequences with other lengths, and so other bytes.
        if data_set(path) != data_set(original):
            assert pydicom.dcmread(path) == pydicom.dcmread(original)


@pytest.mark.parametrize(
    ("way", "protocol"),
    [*((way, "sarcoma-ct") for way in WAYS), ("dicomweb", "sarcoma-pet")],
)
def test_a_pacs_gives_the_cases_that_its_files_give(
    way: str, protocol: str, pacs: Orthanc, reference: Any, tmp_path: Path
) -> None:
    cases, instances = reference(protocol)
    settings = settings_of(tmp_path.parent, [WAYS[way]], protocol)
    report, found, planned, shard = queried(settings, tmp_path)

    pd.testing.assert_frame_equal(found, cases)
    modality = "CT" if protocol == "sarcoma-ct" else "PT"
    assert report["queries"] == [{"keys": {"Modality": modality}, "series": 3}]
    assert report["series"] == 3 + 9  # each patient has three structure sets
    keys = ["case_id", "role", "series_uid", "sop_uid"]
    assert set(planned[keys].itertuples(index=False)) == set(
        instances[keys].itertuples(index=False)
    )

    outcomes = retrieve.run(shard_file=shard, settings=settings)
    assert [(o.stage, o.item, o.status) for o in outcomes] == 3 * [
        ("retrieve", "annotations", Status.OK),
        ("retrieve", modality, Status.OK),
    ]
    same_objects(stored(tmp_path), instances)
    assert sum(retrieved(o)[0] for o in outcomes) == len(instances)

    before = {path: path.stat().st_mtime_ns for path in stored(tmp_path).values()}
    assert sum(retrieved(o)[0] for o in retrieve.run(shard_file=shard, settings=settings)) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def retrieved(outcome: Outcome) -> tuple[int, int]:
    """Instances that an outcome says were retrieved, and were here already."""
    words = outcome.message.split()
    return int(words[0]), int(words[words.index("were") - 2])


@pytest.fixture
def protocol_file(tmp_path: Path) -> Callable[..., str]:
    """Writes a protocol of another cohort and returns its path."""

    def write(where: str | list[str], roles: dict[str, Any]) -> str:
        text = (Path(__file__).parents[2] / "config/protocols/sarcoma-ct.yaml").read_text()
        content = yaml.safe_load(text)
        content["cohort"] = {"where": where, "case": {"by": "study", "roles": roles}}
        role = next(iter(roles))
        content["segmentations"][0]["role"] = role
        content["radiomics"], content["analyses"] = [], []
        path = tmp_path / "protocol.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


@pytest.mark.parametrize(("way", "described"), [("dicomweb", 0), ("get", 3)])
def test_what_the_pacs_does_not_state_of_a_series_is_read_from_one_instance(
    way: str,
    described: int,
    pacs: Orthanc,
    reference: Any,
    protocol_file: Any,
    tmp_path: Path,
) -> None:
    protocol = protocol_file(
        ["Modality IN ('CT', 'PT') AND SliceThickness < 3.5", "Rows > 60"],
        {"CT": {"where": "Modality = 'CT' AND PixelSpacingRow < 2"}},
    )
    cases, instances = reference(protocol)
    report, found, planned, _ = queried(
        settings_of(tmp_path.parent, [WAYS[way]], protocol), tmp_path
    )
    pd.testing.assert_frame_equal(found, cases)
    assert set(planned["sop_uid"]) == set(instances["sop_uid"])
    # PET can take no role, so it was not asked for.
    assert report["queries"] == [{"keys": {"Modality": "CT"}, "series": 3}]
    # By DICOMweb, this PACS tells of a series what it finds in one of its instances.
    assert report["described"] == described


def test_a_filter_that_no_query_can_express_gives_the_same_cohort(
    pacs: Orthanc, reference: Any, protocol_file: Any, tmp_path: Path
) -> None:
    protocol = protocol_file(
        ["lower(Modality) = 'mr'", "SliceThickness > 3 OR EchoTime < 1"],
        {"MR": {"where": "contains(Manufacturer, 'Philips') AND NumberOfInstances > 30"}},
    )
    cases, instances = reference(protocol)
    settings = settings_of(tmp_path.parent, [WAYS["get"]], protocol)
    report, found, planned, _ = queried(settings, tmp_path)
    pd.testing.assert_frame_equal(found, cases)
    assert len(found) == 2
    assert set(planned["sop_uid"]) == set(instances["sop_uid"])
    assert report["queries"] == [{"keys": {}, "series": 18}]
    # Only what may still pass is asked for more: of three MR series, one has too few instances.
    assert report["described"] == 2
    catalog = pd.read_parquet(tmp_path / "pacs" / "series.parquet")
    assert len(catalog) == 18
    listed = pd.read_parquet(tmp_path / "pacs" / "instances.parquet")
    assert set(listed["SeriesInstanceUID"]) == set(instances["series_uid"])


def test_no_patient_is_named_in_the_record_of_queries(pacs: Orthanc, tmp_path: Path) -> None:
    queried(settings_of(tmp_path.parent, [WAYS["dicomweb"]]), tmp_path)
    text = (tmp_path / "pacs" / "queries.json").read_text()
    patients = pd.read_parquet(tmp_path / "pacs" / "series.parquet")["PatientID"]
    assert len(set(patients)) == 3
    assert not any(patient in text for patient in patients)


def kill_when(orthanc: Orthanc, reached: Callable[[], bool]) -> threading.Thread:
    """Kill a PACS by SIGKILL as soon as a condition holds."""

    def watch() -> None:
        while not reached():
            time.sleep(0.002)
        orthanc.kill()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.long
@pytest.mark.parametrize("way", ["dicomweb", "get"])
def test_a_pacs_killed_in_mid_retrieval_gives_the_rest_when_it_is_back(
    way: str,
    other_pacs: Any,
    images: list[Path],
    reference: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retrieve, "PAUSES", (0.05, 0.05))
    _, instances = reference("sarcoma-ct")
    orthanc = other_pacs()
    settings = settings_of(tmp_path.parent, [{**at(orthanc, way), "parallel": 2}])
    with orthanc:
        orthanc.upload(of_ct(images))
        *_, shard = queried(settings, tmp_path)
        watcher = kill_when(orthanc, lambda: len(stored(tmp_path)) >= 20)
        with pytest.raises(StageError, match="source-0"):
            retrieve.run(shard_file=shard, settings=settings)
        watcher.join()
        first = {path: path.stat().st_mtime_ns for path in stored(tmp_path).values()}
        assert 20 <= len(first) < len(instances)

        orthanc.start()
        outcomes = retrieve.run(shard_file=shard, settings=settings)
    assert {o.status for o in outcomes} == {Status.OK}
    assert sum(retrieved(o)[0] for o in outcomes) == len(instances) - len(first)
    assert sum(retrieved(o)[1] for o in outcomes) == len(first)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    same_objects(stored(tmp_path), instances)
    assert not list((tmp_path / "store").rglob(".partial*"))


def delete(orthanc: Orthanc, instance: str) -> None:
    """Remove an instance from a PACS."""
    requests.delete(f"{orthanc.base}/instances/{instance}", timeout=30).raise_for_status()


def lose(orthanc: Orthanc, instance: str) -> None:
    """Remove the file of an instance from a PACS's disk; the PACS goes on listing it."""
    uuid = orthanc.get(f"/instances/{instance}/attachments/dicom/info").json()["Uuid"]
    next((orthanc.folder / "storage").rglob(uuid)).unlink()


@pytest.mark.parametrize(
    ("way", "harm"), [("dicomweb", delete), ("dicomweb", lose), ("get", delete), ("get", lose)]
)
def test_an_instance_that_does_not_come_costs_its_case_alone(
    way: str,
    harm: Callable[[Orthanc, str], None],
    other_pacs: Any,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retrieve, "PAUSES", (0.05, 0.05))
    with other_pacs() as orthanc:
        orthanc.upload(of_ct(images))
        settings = settings_of(tmp_path.parent, [at(orthanc, way)])
        *_, instances, shard = queried(settings, tmp_path)
        lost = instances[instances["role"] == "CT"].iloc[7]
        (entry,) = orthanc.post("/tools/lookup", lost["sop_uid"]).json()
        harm(orthanc, entry["ID"])
        outcomes = {
            (o.case_id, o.item): o for o in retrieve.run(shard_file=shard, settings=settings)
        }
    failed = outcomes.pop((lost["case_id"], "CT"))
    assert (failed.status, failed.reason) == (Status.FAILED, "not_retrieved")
    listed = sum(instances["series_uid"] == lost["series_uid"])
    assert f"series {lost['series_uid']}: " in failed.message
    assert f" of {listed} instances did not come" in failed.message
    assert len(outcomes) == 5
    assert {o.status for o in outcomes.values()} == {Status.OK}
    others = set(instances["sop_uid"][instances["series_uid"] != lost["series_uid"]])
    assert others <= stored(tmp_path).keys() <= set(instances["sop_uid"]) - {lost["sop_uid"]}


def test_a_series_that_the_pacs_fails_to_list_is_not_passed_over(
    other_pacs: Any, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "PAUSES", (0.05,))
    with other_pacs() as orthanc:
        orthanc.upload(of_ct(images))
        image = pydicom.dcmread(of_ct(images)[7], stop_before_pixels=True)
        (entry,) = orthanc.post("/tools/lookup", image.SOPInstanceUID).json()
        lose(orthanc, entry["ID"])
        settings = settings_of(tmp_path.parent, [at(orthanc, "dicomweb")])
        report, cases, instances, shard = queried(settings, tmp_path)
        outcomes = {
            (o.case_id, o.item): o for o in retrieve.run(shard_file=shard, settings=settings)
        }
    assert report["remarks"] == {"series of which the PACS listed no instance": 1}
    assert len(cases) == 3
    (case_id,) = cases["case_id"][cases["series_uid"] == image.SeriesInstanceUID]
    failed = outcomes.pop((case_id, "CT"))
    assert failed.reason == "not_retrieved"
    assert "the PACS listed no instance of it" in failed.message
    assert {o.status for o in outcomes.values()} == {Status.OK}
    assert len(stored(tmp_path)) == len(instances) - 1


class Hindered(BaseHTTPRequestHandler):
    """A proxy of a PACS that hinders what it is asked for by addresses with a word in them."""

    protocol_version = "HTTP/1.1"
    pacs: Orthanc
    word: str
    harm: str
    over: threading.Event

    def do_GET(self) -> None:
        harm = self.harm if self.word and self.word in self.path else ""
        if harm == "stall":
            self.over.wait(30)
        elif harm == "busy":
            self.answer(503, b"")
        else:
            accept = {"Accept": self.headers["Accept"]}
            answer = requests.get(self.pacs.base + self.path, headers=accept, timeout=30)
            kind = answer.headers.get("Content-Type", "")
            self.answer(answer.status_code, answer.content, kind, cut=harm == "cut")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.over.wait(30)

    def answer(self, status: int, content: bytes, kind: str = "", cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut or self.close_connection

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def hindered(orthanc: Orthanc, harm: str) -> Iterator[tuple[type[Hindered], dict[str, Any]]]:
    """Run such a proxy; gives its handler, whose word can be set, and the source that asks it."""
    over = threading.Event()
    members = {"pacs": orthanc, "word": "", "harm": harm, "over": over}
    handler = type("Handler", (Hindered,), members)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/dicom-web"
        try:
            yield handler, {"kind": "dicomweb", "url": url, "timeout": 1}
        finally:
            over.set()
            server.shutdown()


@pytest.mark.parametrize("harm", ["stall", "cut", "busy"])
def test_a_series_that_the_network_holds_back_is_no_outcome(
    harm: str, pacs: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The PACS answers every query meanwhile: that says nothing of the way that pixels take."""
    monkeypatch.setattr(retrieve, "PAUSES", (0.05,))
    with hindered(pacs, harm) as (handler, source):
        settings = settings_of(tmp_path.parent, [source])
        *_, instances, shard = queried(settings, tmp_path)
        handler.word = f"/series/{instances['series_uid'].iloc[0]}"
        with pytest.raises(StageError, match=instances["series_uid"].iloc[0]):
            retrieve.run(shard_file=shard, settings=settings)
        handler.word = ""
        outcomes = retrieve.run(shard_file=shard, settings=settings)
    assert {o.status for o in outcomes} == {Status.OK}
    assert stored(tmp_path).keys() == set(instances["sop_uid"])


def test_a_series_whose_list_is_held_back_is_no_outcome(
    pacs: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "PAUSES", (0.05,))
    with hindered(pacs, "stall") as (handler, source):
        settings = settings_of(tmp_path.parent, [source])
        handler.word = "/instances?"
        with pytest.raises(StageError, match="no answer within 1"):
            queried(settings, tmp_path)
        handler.word = ""
        *_, instances, _ = queried(settings, tmp_path)
    assert "" not in set(instances["sop_uid"])


def test_an_object_whose_storing_times_out_is_no_outcome(
    other_pacs: Any, made: list[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "PAUSES", (0.05,))
    results, receipts = tmp_path / "results", tmp_path / "s00001.jsonl"
    arguments = {"made": made, "results": results, "receipts": receipts}
    with other_pacs() as orthanc:
        with hindered(orthanc, "stall") as (_, source):
            settings = settings_of(
                tmp_path, [source], publish={"to": "source-0", "objects": ["seg", "sr"]}
            )
            with pytest.raises(StageError, match=r"seg/case-00/gtv\.dcm: .* no answer within 1"):
                publish.run(**arguments, settings=settings)
        outcomes = publish.run(**arguments, settings=publishing(orthanc, tmp_path, "dicomweb"))
        assert orthanc.count() == 24
    assert {o.status for o in outcomes} == {Status.OK}


@pytest.mark.parametrize("way", ["dicomweb", "get"])
def test_a_store_that_cannot_be_written_stops_the_job(
    way: str, pacs: Orthanc, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path.parent, [WAYS[way]])
    *_, instances, shard = queried(settings, tmp_path)
    folder = Path(instances["path"].iloc[0]).parent
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where a folder should be")
    with pytest.raises(StageError, match="cannot be written"):
        retrieve.run(shard_file=shard, settings=settings)


@pytest.mark.parametrize("way", list(WAYS))
def test_a_pacs_that_is_down_stops_the_query(way: str, other_pacs: Any, tmp_path: Path) -> None:
    settings = settings_of(tmp_path.parent, [at(other_pacs(), way)])
    with pytest.raises(StageError, match="source-0"):
        query.run(settings=settings, store=tmp_path / "store", out_dir=tmp_path / "pacs")
    assert not (tmp_path / "pacs").exists()


def test_what_arrives_is_the_whole_instance_that_was_asked_for(shared_data: Path) -> None:
    path = shared_data / "highdicom" / "data" / "test_files" / "ct_image.dcm"
    content = path.read_bytes()
    header = pydicom.dcmread(path)
    study, series, instance = uids = tuple(str(header[keyword].value) for keyword in UIDS)
    assert fault(content, uids) == ""
    assert fault(content[:-2], uids) == "it is cut short"
    assert fault(content[128:], uids) == "it is no DICOM file"
    assert fault(content, ("1.2.3", series, instance)) == "it belongs to another study"
    assert fault(content, (study, "1.2.3", instance)) == "it belongs to another series"
    assert fault(content, (study, series, "1.2.3")) == "it is another instance"
    compressed = (shared_data / "highdicom/data/test_files/sm_image_jpegls.dcm").read_bytes()
    header = pydicom.dcmread(BytesIO(compressed), stop_before_pixels=True)
    uids = tuple(str(header[keyword].value) for keyword in UIDS)
    assert fault(compressed, uids) == ""
    assert fault(compressed[:-5000], uids) != ""


def test_a_path_outside_the_store_is_refused(pacs: Orthanc, tmp_path: Path) -> None:
    settings = settings_of(tmp_path.parent, [WAYS["dicomweb"]])
    *_, shard = queried(settings, tmp_path)
    table = pd.read_parquet(shard)
    for path in ("/etc/cron.d/x.dcm", str(tmp_path / "store/../x.dcm"), "x.dcm"):
        table.loc[3, "path"] = path
        table.to_parquet(shard)
        with pytest.raises(StageError, match="outside the store"):
            retrieve.run(shard_file=shard, settings=settings)
    assert not stored(tmp_path)


@pytest.fixture
def made(shared_data: Path, tmp_path: Path) -> list[Outcome]:
    """Twelve cases' objects as `encode` and `document` leave them."""
    folder = shared_data / "highdicom" / "data" / "test_files"
    samples = {
        "seg": ("encode", pydicom.dcmread(folder / "seg_image_ct_binary.dcm")),
        "sr": ("document", pydicom.dcmread(folder / "sr_document.dcm")),
    }
    outcomes = []
    for number in range(12):
        for kind, (stage, dataset) in samples.items():
            output = f"{kind}/case-{number:02d}/gtv.dcm"
            path = tmp_path / "results" / output
            path.parent.mkdir(parents=True)
            dataset.SOPInstanceUID = stable_uid("test", kind, str(number))
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.save_as(path)
            outcomes.append(
                Outcome(
                    f"case-{number:02d}",
                    stage,
                    "gtv",
                    outputs=[output],
                    sha256=[sha256_file(path)],
                )
            )
    return outcomes


def publishing(orthanc: Orthanc, folder: Path, way: str = "dicomweb", **publish: Any) -> Settings:
    return settings_of(folder, [at(orthanc, way)], publish={"to": "source-0", **publish})


@pytest.mark.parametrize("way", ["dicomweb", "get"])
def test_objects_are_published_once(
    way: str, other_pacs: Any, made: list[Outcome], tmp_path: Path
) -> None:
    results, receipts = tmp_path / "results", tmp_path / "published" / "s00001.jsonl"
    with other_pacs() as orthanc:
        settings = publishing(orthanc, tmp_path, way)
        outcomes = publish.run(made=made, settings=settings, results=results, receipts=receipts)
        assert [(o.case_id, o.item, o.status) for o in outcomes] == [
            (f"case-{number:02d}", "gtv", Status.OK) for number in range(12)
        ]
        assert orthanc.count() == 24
        lines = [json.loads(line) for line in receipts.read_text().splitlines()]
        assert [line["output"] for line in lines] == [o.outputs[0] for o in made]
        assert [line["sha256"] for line in lines] == [o.sha256[0] for o in made]

        before, text = sent(tmp_path), receipts.read_bytes()
        assert before == [line["sop_instance_uid"] for line in lines]
        again = publish.run(made=made, settings=settings, results=results, receipts=receipts)
        assert {o.status for o in again} == {Status.OK}
        assert "was sent at" in again[0].message
        assert (sent(tmp_path), receipts.read_bytes()) == (before, text)

        # Without receipts, the PACS itself is asked.
        receipts.unlink()
        publish.run(made=made, settings=settings, results=results, receipts=receipts)
        assert sent(tmp_path) == before
        notes = {json.loads(line)["note"] for line in receipts.read_text().splitlines()}
        assert notes == {"was there already"}

        # A PACS that crashes may lose what it has acknowledged.
        lost = orthanc.post("/tools/lookup", before[0]).json()
        orthanc.post("/tools/bulk-delete", json.dumps({"Resources": [e["ID"] for e in lost]}))
        assert orthanc.count() == 23
        again = publish.run(made=made, settings=settings, results=results, receipts=receipts)
        assert "was sent again" in again[0].message
        assert sent(tmp_path) == [*before, before[0]]
        assert orthanc.count() == 24


@pytest.mark.long
def test_a_pacs_killed_in_mid_publish_gets_the_rest_when_it_is_back(
    other_pacs: Any, made: list[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "PAUSES", (0.05,))
    results, receipts = tmp_path / "results", tmp_path / "s00001.jsonl"
    with other_pacs() as orthanc:
        settings = publishing(orthanc, tmp_path)
        watcher = kill_when(
            orthanc, lambda: receipts.is_file() and receipts.read_bytes().count(b"\n") >= 5
        )
        with pytest.raises(StageError, match="source-0"):
            publish.run(made=made, settings=settings, results=results, receipts=receipts)
        watcher.join()
        acknowledged = receipts.read_bytes()
        assert 5 <= acknowledged.count(b"\n") < 24

        orthanc.start()
        # Of what was acknowledged it may have lost the last; one may have come without an answer.
        assert orthanc.count() <= acknowledged.count(b"\n") + 1
        with open(receipts, "ab") as stream:
            stream.write(b'{"sop_instance_uid": "1.2.3", "sha2')
        outcomes = publish.run(made=made, settings=settings, results=results, receipts=receipts)
        assert {o.status for o in outcomes} == {Status.OK}
        assert receipts.read_bytes().startswith(acknowledged)
        sent = {json.loads(line)["output"] for line in receipts.read_text().splitlines()}
        assert sent == {o.outputs[0] for o in made}
        assert orthanc.count() == 24


@pytest.mark.parametrize("way", ["dicomweb", "get"])
def test_an_object_that_the_pacs_drops_is_an_outcome(
    way: str,
    other_pacs: Any,
    made: list[Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publish, "LISTED_AFTER", (0, 0.1))
    results, receipts = tmp_path / "results", tmp_path / "s00001.jsonl"
    with other_pacs(keep="dicom.Modality ~= 'SR'") as orthanc:
        outcomes = publish.run(
            made=made,
            settings=publishing(orthanc, tmp_path, way),
            results=results,
            receipts=receipts,
        )
        assert orthanc.count() == 12
    assert len(outcomes) == 12
    assert {(o.status, o.reason) for o in outcomes} == {(Status.FAILED, "publish_rejected")}
    assert outcomes[3].message.startswith("sr/case-03/gtv.dcm: source 'source-0': the PACS")
    assert receipts.read_bytes().count(b"\n") == 12  # the segmentations went all the same


@pytest.mark.parametrize("way", ["dicomweb", "get"])
def test_an_object_that_the_pacs_refuses_is_an_outcome(
    way: str, other_pacs: Any, made: list[Outcome], tmp_path: Path
) -> None:
    results, receipts = tmp_path / "results", tmp_path / "s00001.jsonl"
    path = results / made[6].outputs[0]
    dataset = pydicom.dcmread(path)
    del dataset.SOPClassUID, dataset.StudyInstanceUID
    dataset.save_as(path)
    made[6].sha256 = [sha256_file(path)]
    with other_pacs() as orthanc:
        outcomes = publish.run(
            made=made,
            settings=publishing(orthanc, tmp_path, way),
            results=results,
            receipts=receipts,
        )
        assert orthanc.count() == 23 - 1  # the report on a refused segmentation is not sent
    refused = outcomes.pop(3)
    assert (refused.status, refused.reason) == (Status.FAILED, "publish_rejected")
    assert refused.message.startswith("seg/case-03/gtv.dcm: ")
    assert {o.status for o in outcomes} == {Status.OK}


@pytest.mark.parametrize(
    ("damage", "words"),
    [("changed", "was changed after"), ("gone", "is gone"), ("outside", "lies outside")],
)
def test_only_what_was_made_as_recorded_is_sent(
    damage: str, words: str, other_pacs: Any, made: list[Outcome], tmp_path: Path
) -> None:
    results, receipts = tmp_path / "results", tmp_path / "s00001.jsonl"
    if damage == "changed":
        (results / made[0].outputs[0]).write_bytes(b"changed")
    elif damage == "gone":
        (results / made[0].outputs[0]).unlink()
    else:
        made[0].outputs = ["../results/seg/../../secret.dcm"]
    with other_pacs() as orthanc:
        settings = publishing(orthanc, tmp_path, objects=["seg"])
        with pytest.raises(StageError, match=words):
            publish.run(made=made, settings=settings, results=results, receipts=receipts)
        assert orthanc.count() == 0


def test_what_failed_before_is_not_sent(
    other_pacs: Any, made: list[Outcome], tmp_path: Path
) -> None:
    made[2].status, made[2].outputs, made[2].sha256 = Status.FAILED, [], []
    with other_pacs() as orthanc:
        settings = publishing(orthanc, tmp_path, objects=["seg"])
        outcomes = publish.run(
            made=made,
            settings=settings,
            results=tmp_path / "results",
            receipts=tmp_path / "s00001.jsonl",
        )
        assert orthanc.count() == 11
    assert [o.reason for o in outcomes[:3]] == ["", "depends_on_failed", ""]
    assert "the DICOM-SEG is not there" in outcomes[1].message


def test_a_damaged_receipt_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "s00001.jsonl"
    path.write_bytes(b"{}\n")
    with pytest.raises(StageError, match="line 1 is damaged"):
        publish.Receipts(path)

"""The clients of a PACS against a real one (Orthanc), with real images."""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pydicom
import pynetdicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless
from pynetdicom import AE, evt

import jipflow
from jipflow.pacs.archive import Archive, ArchiveDown, Receipt, Rejected, with_uids
from jipflow.pacs.connect import open_archive
from jipflow.pacs.dicomweb.multipart import parts as parts_of
from jipflow.pacs.echo import echo
from jipflow.pacs.limits import Limits
from jipflow.settings.resources import ConfigError
from jipflow.settings.site import DicomWeb, Dimse
from needs import unavailable
from orthanc import Orthanc, private_network

ARRIVAL = 11112
WAYS = ("dicomweb", "get", "move")
PATIENTS = ("STS_002", "STS_023")
RADIOPHARMACEUTICAL = b"\x54\x00\x16\x00"
"""The tag of the Radiopharmaceutical Information Sequence in a file of PET."""


@dataclass(frozen=True)
class Uploaded:
    """A series that the PACS was given: the file of each instance."""

    study_uid: str
    series_uid: str
    modality: str
    files: Mapping[str, Path]

    @property
    def sop_uids(self) -> list[str]:
        return sorted(self.files)

    def bytes_of(self, sop_uid: str) -> bytes:
        return self.files[sop_uid].read_bytes()


def series_in(paths: Sequence[Path]) -> list[Uploaded]:
    found: dict[str, tuple[Dataset, dict[str, Path]]] = {}
    for path in paths:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        found.setdefault(header.SeriesInstanceUID, (header, {}))[1][header.SOPInstanceUID] = path
    return [
        Uploaded(header.StudyInstanceUID, uid, header.Modality, files)
        for uid, (header, files) in sorted(found.items())
    ]


def source(way: str, pacs: Orthanc, **keys: Any) -> DicomWeb | Dimse:
    """The configuration of a source."""
    common = {"name": "pacs", "parallel": 4, "timeout": 10}
    if way == "dicomweb":
        return DicomWeb.model_validate({**common, "kind": "dicomweb", "url": pacs.url, **keys})
    content = {
        **common,
        "kind": "dimse",
        "host": pacs.host,
        "port": pacs.port,
        "called_aet": pacs.aet,
        "calling_aet": "JIPFLOW",
        "retrieve": way,
        "listen_port": ARRIVAL,
        "listen_address": "127.0.0.1",
        **keys,
    }
    return Dimse.model_validate(content)


def fetched(archive: Archive, series: Uploaded, sop_uids: Sequence[str] = ()) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    archive.fetch(
        series.study_uid, series.series_uid, sop_uids or series.sop_uids, files.__setitem__
    )
    return files


def assert_same(way: str, content: bytes, uploaded: bytes) -> None:
    """DICOMweb gives the very file. Orthanc's DIMSE writes the lengths of sequences anew and leaves
    out padding behind the data set: every element, every pixel byte and the encoding are the same.
    """
    if way == "dicomweb":
        assert content == uploaded
        return
    ours, theirs = pydicom.dcmread(BytesIO(content)), pydicom.dcmread(BytesIO(uploaded))
    if "DataSetTrailingPadding" in theirs:
        del theirs.DataSetTrailingPadding
    assert ours == theirs
    assert ours.get("PixelData") == theirs.get("PixelData")
    assert ours.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[None]:
    with private_network():
        yield


@pytest.fixture(scope="module")
def uploaded(shared_data: Path) -> list[Uploaded]:
    sarcoma = shared_data / "sarcoma"
    folders = [sarcoma / name / kind for name in PATIENTS for kind in ("CT", "PET")]
    folders.append(sarcoma / PATIENTS[0] / "MR_T1")
    return series_in(sorted(path for folder in folders for path in folder.rglob("*.dcm")))


@pytest.fixture(scope="module")
def pacs(uploaded: list[Uploaded], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("pacs")
    with Orthanc(folder, http_port=8040, dicom_port=4240) as orthanc:
        orthanc.upload(path for series in uploaded for path in series.files.values())
        yield orthanc


@pytest.mark.parametrize("way", ["dicomweb", "get"])
def test_an_echo_says_whether_the_pacs_lets_us_in(way: str, pacs: Orthanc) -> None:
    echo(source(way, pacs))
    away: dict[str, Any] = {"url": "http://127.0.0.1:9"} if way == "dicomweb" else {"port": 9}
    with pytest.raises(ArchiveDown):
        echo(source(way, pacs, **away))
    if way == "get":
        with pytest.raises(ConfigError, match="goes by another name; fix called_aet"):
            echo(source(way, pacs, called_aet="OTHER"))


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def archive(way: str, pacs: Orthanc) -> Iterator[Archive]:
    with open_archive(source(way, pacs)) as opened:
        yield opened


def test_every_way_finds_every_series_with_what_its_headers_say(
    archive: Archive, uploaded: list[Uploaded]
) -> None:
    rows = archive.find_series({})
    assert [row["SeriesInstanceUID"] for row in rows] == [each.series_uid for each in uploaded]
    for row, series in zip(rows, uploaded, strict=True):
        assert row["StudyInstanceUID"] == series.study_uid
        assert row["NumberOfSeriesRelatedInstances"] == str(len(series.files))
        header = pydicom.dcmread(next(iter(series.files.values())), stop_before_pixels=True)
        for key in (
            "PatientID",
            "PatientSex",
            "StudyDate",
            "Modality",
            "SeriesNumber",
            "SeriesDescription",
            "SeriesDate",
            "BodyPartExamined",
            "Manufacturer",
            "ManufacturerModelName",
            "FrameOfReferenceUID",
        ):
            assert row.get(key, "") == str(header.get(key, "")), key
        assert "PatientName" not in row


@pytest.mark.parametrize(
    "keys",
    [
        {"PatientID": "STS_002"},
        {"PatientID": "STS_0*", "Modality": "PT"},
        {"StudyDate": "20060101-20061231", "Modality": "CT"},
        {"StudyDate": "-20060128"},
        {"SeriesDescription": "*_CT_image"},
        {"PatientID": "NOBODY"},
        {"Modality": "XA"},
    ],
)
def test_every_way_narrows_alike(pacs: Orthanc, keys: dict[str, str]) -> None:
    answers = []
    for way in WAYS:
        with open_archive(source(way, pacs)) as archive:
            answers.append([row["SeriesInstanceUID"] for row in archive.find_series(keys)])
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) < 10


def test_lists_of_uids_find_each(archive: Archive, uploaded: list[Uploaded]) -> None:
    wanted = sorted([uploaded[0].series_uid, uploaded[-1].series_uid])
    keys = {"SeriesInstanceUID": "\\".join(wanted)}
    assert [row["SeriesInstanceUID"] for row in archive.find_series(keys)] == wanted
    studies = sorted({series.study_uid for series in uploaded})
    found = archive.find_series({"StudyInstanceUID": "\\".join(studies), "Modality": "PT"})
    assert {row["StudyInstanceUID"] for row in found} == set(studies)


def test_every_way_gives_every_instance_of_a_ct_a_pet_and_an_rtstruct(
    archive: Archive, way: str, uploaded: list[Uploaded]
) -> None:
    for modality in ("CT", "PT", "RTSTRUCT"):
        series = next(each for each in uploaded if each.modality == modality)
        sop_uids = archive.find_instances(series.study_uid, series.series_uid)
        assert sop_uids == series.sop_uids
        files = fetched(archive, series)
        assert sorted(files) == sop_uids
        for sop_uid, content in files.items():
            assert_same(way, content, series.bytes_of(sop_uid))


def test_only_what_was_asked_for_comes(archive: Archive, uploaded: list[Uploaded]) -> None:
    series = next(each for each in uploaded if each.modality == "CT")
    for number in (1, 2, len(series.files) - 1):
        wanted = series.sop_uids[:number]
        assert sorted(fetched(archive, series, wanted)) == wanted


def test_a_header_comes_without_its_pixels(
    archive: Archive, way: str, uploaded: list[Uploaded]
) -> None:
    for modality in ("CT", "RTSTRUCT"):
        series = next(each for each in uploaded if each.modality == modality)
        sop_uid = series.sop_uids[0]
        header = archive.describe(series.study_uid, series.series_uid, sop_uid)
        truth = pydicom.dcmread(series.files[sop_uid])
        assert "PixelData" not in header
        assert header.SOPClassUID == truth.SOPClassUID
        for keyword in ("KVP", "SliceThickness", "Rows", "BitsStored"):
            assert header.get(keyword) == truth.get(keyword), keyword
        assert list(header.get("PixelSpacing") or []) == list(truth.get("PixelSpacing") or [])


def test_instances_are_known_or_not(archive: Archive, uploaded: list[Uploaded]) -> None:
    series = uploaded[0]
    assert archive.contains(series.study_uid, series.series_uid, series.sop_uids[0])
    assert not archive.contains(series.study_uid, series.series_uid, "1.2.3")


def test_an_instance_that_is_not_there_is_refused_after_the_others_came(
    archive: Archive, uploaded: list[Uploaded]
) -> None:
    series = next(each for each in uploaded if each.modality == "PT")
    files: dict[str, bytes] = {}
    wanted = [*series.sop_uids, "1.2.3.4"]
    with pytest.raises(Rejected, match="'pacs'"):
        archive.fetch(series.study_uid, series.series_uid, wanted, files.__setitem__)
    assert sorted(files) == series.sop_uids


def test_what_receive_raises_reaches_the_caller(archive: Archive, uploaded: list[Uploaded]) -> None:
    series = next(each for each in uploaded if each.modality == "CT")

    def full(sop_uid: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        archive.fetch(series.study_uid, series.series_uid, series.sop_uids, full)
    assert len(fetched(archive, series)) == len(series.files)


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2/3", "", "..", "1" * 65, "1.2\\1.3"])
def test_what_is_no_uid_never_reaches_the_pacs(archive: Archive, uid: str) -> None:
    with pytest.raises(Rejected, match="no UID"):
        archive.find_instances(uid, "1.2")
    with pytest.raises(Rejected, match="no UID"):
        archive.fetch("1.2", "1.3", [uid], lambda *_: None)


@pytest.fixture(scope="module")
def encoded(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One file in each of several transfer syntaxes."""
    folder = tmp_path_factory.mktemp("encoded")
    truth = min((shared_data / "sarcoma" / "STS_023" / "CT" / "image").rglob("*.dcm"))
    paths = [
        Path(str(get_testdata_file(name)))
        for name in ("JPEG2000.dcm", "JPEG-lossy.dcm", "image_dfl.dcm", "CT_small.dcm")
    ]
    for number, syntax in enumerate((JPEG2000Lossless, RLELossless, "little", "big")):
        dataset = pydicom.dcmread(truth)
        dataset.SeriesInstanceUID = f"1.2.826.0.1.3680043.10.9.{number}"
        dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.10.9.{number}.1"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        if syntax in {"little", "big"}:
            dataset = explicit(dataset, big=syntax == "big")
        else:
            dataset.compress(syntax, generate_instance_uid=False)
        paths.append(folder / f"{number}.dcm")
        dataset.save_as(paths[-1])
    return paths


def explicit(dataset: Dataset, *, big: bool) -> Dataset:
    """The data set in explicit VR; in big endian the pixels are swapped too."""
    if big:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2" if big else "1.2.840.10008.1.2.1"
    stream = BytesIO()
    pydicom.dcmwrite(stream, dataset, implicit_vr=False, little_endian=not big)
    return pydicom.dcmread(BytesIO(stream.getvalue()))


def test_images_come_in_the_encoding_that_the_pacs_keeps(
    archive: Archive, way: str, pacs: Orthanc, encoded: list[Path]
) -> None:
    pacs.upload(encoded)
    syntaxes = set()
    for series in series_in(encoded):
        for sop_uid, content in fetched(archive, series).items():
            assert_same(way, content, series.bytes_of(sop_uid))
            syntaxes.add(pydicom.dcmread(BytesIO(content)).file_meta.TransferSyntaxUID)
    assert syntaxes == {
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.4.51",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.5",
    }


@pytest.fixture
def fresh(shared_data: Path, tmp_path: Path) -> list[Path]:
    """Objects that no PACS has yet: three slices, one compressed, and an RTSTRUCT."""
    images = sorted((shared_data / "sarcoma" / "STS_002" / "PET").rglob("*.dcm"))
    paths = []
    for number, path in enumerate([*images[:3], images[-1]]):
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = pydicom.uid.generate_uid()
        dataset.SeriesInstanceUID = pydicom.uid.generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        if number == 1:
            dataset.compress(RLELossless, generate_instance_uid=False)
        paths.append(tmp_path / f"{number}.dcm")
        dataset.save_as(paths[-1])
    return paths


@pytest.mark.parametrize("way", ["dicomweb", "get"])
def test_what_is_sent_is_acknowledged_and_read_back_the_same(
    archive: Archive, way: str, pacs: Orthanc, fresh: list[Path]
) -> None:
    before = pacs.count()
    for series in series_in(fresh):
        (sop_uid,) = series.sop_uids
        assert not archive.contains(series.study_uid, series.series_uid, sop_uid)
        receipt = archive.send(series.files[sop_uid])
        assert (receipt.sop_instance_uid, receipt.note) == (sop_uid, "")
        assert archive.contains(series.study_uid, series.series_uid, sop_uid)
        assert_same(way, fetched(archive, series)[sop_uid], series.bytes_of(sop_uid))
        assert archive.send(series.files[sop_uid]).sop_instance_uid == sop_uid
    assert pacs.count() == before + len(fresh)


@pytest.mark.parametrize("way", ["dicomweb", "get"])
@pytest.mark.parametrize("fault", ["no study", "cut in two", "cut in a sequence", "text"])
def test_an_object_that_the_pacs_refuses_is_rejected(
    way: str, pacs: Orthanc, fresh: list[Path], fault: str
) -> None:
    path, before = fresh[0], pacs.count()
    if fault == "no study":
        dataset = pydicom.dcmread(path)
        del dataset.StudyInstanceUID
        dataset.save_as(path)
    elif fault == "cut in two":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif fault == "cut in a sequence":
        content = path.read_bytes()
        path.write_bytes(content[: content.index(RADIOPHARMACEUTICAL) + 12])
    else:
        path.write_text("not DICOM")
    # Orthanc waits for the end of a data set that is cut in two.
    with (
        open_archive(source(way, pacs, timeout=1)) as archive,
        pytest.raises(Rejected, match="'pacs'") as refused,
    ):
        archive.send(path)
    assert "STS_002" not in str(refused.value)
    assert pacs.count() == before


class Peer:
    """A storage service of another make, which notes who calls and what it says."""

    def __init__(self, port: int) -> None:
        self.files: list[bytes] = []
        self.calls: list[tuple[str, str, str]] = []
        self.ends: list[str] = []
        entity = AE("PEER")
        entity.supported_contexts = pynetdicom.AllStoragePresentationContexts
        for context in entity.supported_contexts:
            entity.add_supported_context(context.abstract_syntax, RLELossless)
        self.port = port
        self.server = entity.start_server(
            ("127.0.0.1", port),
            block=False,
            evt_handlers=[
                (evt.EVT_ACCEPTED, self.accept),
                (evt.EVT_C_STORE, self.store),
                (evt.EVT_RELEASED, lambda event: self.ends.append("released")),
                (evt.EVT_ABORTED, lambda event: self.ends.append("aborted")),
            ],
        )

    def accept(self, event: evt.Event) -> None:
        caller = event.assoc.requestor
        version = caller.implementation_version_name or ""
        self.calls.append((caller.ae_title, caller.primitive.called_ae_title, version))

    def store(self, event: evt.Event) -> int:
        self.files.append(event.encoded_dataset(include_meta=False))
        return 0xB000 if len(self.files) == 3 else 0x0000


def test_c_store_sends_the_bytes_of_the_file_on_one_association_that_it_releases(
    pacs: Orthanc, fresh: list[Path]
) -> None:
    peer = Peer(4243)
    try:
        same_kind = [fresh[0], fresh[2], fresh[0]]
        with open_archive(source("get", pacs, port=peer.port, called_aet="PEER")) as archive:
            notes = [archive.send(path).note for path in same_kind]
        deadline = time.monotonic() + 5
        while not peer.ends and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        peer.server.shutdown()
    assert notes == ["", "", "warning 0xB000"]
    for sent, path in zip(peer.files, same_kind, strict=True):
        assert path.read_bytes().endswith(sent)
        assert len(sent) > path.stat().st_size - 1000
    assert peer.calls == [("JIPFLOW", "PEER", f"JIPFLOW_{jipflow.__version__}"[:16])]
    assert peer.ends == ["released"]


@pytest.fixture(scope="module")
def large(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Uploaded:
    """A series of 24 slices of 1 MiB, more than the buffers between here and the PACS hold."""
    folder = tmp_path_factory.mktemp("large")
    dataset = pydicom.dcmread(
        min((shared_data / "sarcoma" / "STS_002" / "CT" / "image").rglob("*.dcm"))
    )
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.10.7"
    dataset.Rows, dataset.Columns = 1024, 512
    random = np.random.default_rng(3)
    for number in range(24):
        dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.10.7.{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.PixelData = random.integers(0, 4096, (1024, 512), np.uint16).tobytes()
        dataset.save_as(folder / f"{number}.dcm")
    (series,) = series_in(sorted(folder.iterdir()))
    return series


@pytest.mark.long
def test_a_pacs_killed_in_mid_retrieval_leaves_whole_files_and_the_rest_comes_later(
    way: str, large: Uploaded, tmp_path: Path
) -> None:
    files: dict[str, bytes] = {}
    with Orthanc(tmp_path) as pacs, open_archive(source(way, pacs)) as archive:
        pacs.upload(large.files.values())

        def receive(sop_uid: str, content: bytes) -> None:
            files[sop_uid] = content
            if len(files) == 5:
                pacs.kill()

        with pytest.raises(ArchiveDown, match="'pacs'"):
            archive.fetch(large.study_uid, large.series_uid, large.sop_uids, receive)
        assert 5 <= len(files) < len(large.files)
        pacs.start()
        archive.fetch(
            large.study_uid, large.series_uid, sorted(set(large.files) - set(files)), receive
        )
    assert sorted(files) == large.sop_uids
    for sop_uid, content in files.items():
        assert_same(way, content, large.bytes_of(sop_uid))


@pytest.mark.long
def test_a_pacs_that_falls_silent_counts_as_down(way: str, large: Uploaded, tmp_path: Path) -> None:
    # A machine with much else to do takes more than a second for a first answer.
    with Orthanc(tmp_path) as pacs, open_archive(source(way, pacs, timeout=3)) as archive:
        pacs.upload(large.files.values())
        stopped: list[float] = []

        def receive(sop_uid: str, content: bytes) -> None:
            if not stopped:
                assert pacs.process is not None
                pacs.process.send_signal(signal.SIGSTOP)
                stopped.append(time.monotonic())

        with pytest.raises(ArchiveDown, match="'pacs'"):
            archive.fetch(large.study_uid, large.series_uid, large.sop_uids, receive)
        assert 2.7 < time.monotonic() - stopped[0] < 15


@pytest.mark.long
@pytest.mark.parametrize("way", ["dicomweb", "get"])
def test_what_was_acknowledged_before_the_pacs_was_killed_is_there_afterwards(
    way: str, large: Uploaded, tmp_path: Path
) -> None:
    acknowledged: list[str] = []
    with Orthanc(tmp_path) as pacs, open_archive(source(way, pacs)) as archive:

        def send_all() -> None:
            for sop_uid in large.sop_uids:
                acknowledged.append(archive.send(large.files[sop_uid]).sop_instance_uid)
                if len(acknowledged) == 3:
                    threading.Timer(0.02, pacs.kill).start()

        with pytest.raises(ArchiveDown, match="'pacs'"):
            send_all()
        while pacs.process is not None:
            time.sleep(0.01)
        pacs.start()
        assert len(acknowledged) >= 3
        for sop_uid in acknowledged:
            assert archive.contains(large.study_uid, large.series_uid, sop_uid)
            assert pydicom.dcmread(BytesIO(pacs.file(sop_uid))) == pydicom.dcmread(
                large.files[sop_uid]
            )
        remaining = [uid for uid in large.sop_uids if uid not in acknowledged]
        assert archive.send(large.files[remaining[0]]).sop_instance_uid == remaining[0]


@pytest.mark.parametrize("asked", ["find", "store"])
def test_a_connection_that_the_pacs_ended_before_it_was_asked_is_down(
    pacs: Orthanc, fresh: list[Path], asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may end between the moment when it is lent and the first message."""
    with open_archive(source("get", pacs)) as archive:
        for name in ("send_c_find", "send_c_store"):
            first = getattr(pynetdicom.association.Association, name)

            def ended(self: Any, *arguments: Any, first: Any = first) -> Any:
                self.abort()
                return first(self, *arguments)

            monkeypatch.setattr(pynetdicom.association.Association, name, ended)
        with pytest.raises(ArchiveDown, match="before it was asked anything"):
            archive.send(fresh[0]) if asked == "store" else archive.contains("1.2", "1.3", "1.4")


def test_a_connection_whose_end_nobody_has_seen_is_asked_for_ever_by_none(
    pacs: Orthanc, fresh: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The association's own thread may take the sign of the end just before it is asked."""
    store = pynetdicom.association.Association.send_c_store
    taken: list[tuple[None, None]] = []

    def ended(self: Any, *arguments: Any) -> Any:
        if taken:
            return store(self, *arguments)
        self._reactor_checkpoint.clear()
        while not self._is_paused:
            time.sleep(0.001)
        self.dimse.msg_queue.put = taken.append
        self.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        while not taken:
            time.sleep(0.001)
        del self.dimse.msg_queue.put
        return store(self, *arguments)

    monkeypatch.setattr(pynetdicom.association.Association, "send_c_store", ended)
    receipts: list[Receipt] = []
    with open_archive(source("get", pacs, timeout=2)) as archive:
        sending = threading.Thread(target=lambda: receipts.append(archive.send(fresh[0])))
        sending.daemon = True
        sending.start()
        sending.join(30)
    assert taken == [(None, None)]
    assert len(receipts) == 1


def test_a_pacs_that_is_not_there_counts_as_down(
    way: str, pacs: Orthanc, fresh: list[Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    keys = {"url": f"http://127.0.0.1:{port}/dicom-web"} if way == "dicomweb" else {"port": port}
    with open_archive(source(way, pacs, **keys)) as archive:
        for ask in (
            lambda: archive.find_series({"PatientID": "STS_002"}),
            lambda: archive.find_instances("1.2", "1.3"),
            lambda: archive.fetch("1.2", "1.3", ["1.4"], lambda *_: None),
            lambda: archive.send(fresh[0]),
        ):
            with pytest.raises(ArchiveDown, match=r"'pacs'.*Connection refused") as down:
                ask()
            assert "STS_002" not in str(down.value)


@pytest.mark.parametrize("way", WAYS)
def test_bytes_a_second_hold_for_what_comes(
    way: str, pacs: Orthanc, uploaded: list[Uploaded]
) -> None:
    series = next(each for each in uploaded if each.modality == "PT")
    size = sum(path.stat().st_size for path in series.files.values())
    rate = size // 2
    with open_archive(source(way, pacs, bytes_per_second=rate)) as archive:
        start = time.monotonic()
        files = fetched(archive, series)
        elapsed = time.monotonic() - start
    # What one request brings may be on its way when time is up: about one second's worth.
    assert sorted(files) == series.sop_uids
    assert 0.9 <= elapsed <= 6


@pytest.mark.parametrize("way", ["dicomweb", "get"])
def test_bytes_a_second_hold_for_what_is_sent(way: str, pacs: Orthanc, fresh: list[Path]) -> None:
    size = fresh[0].stat().st_size
    with open_archive(source(way, pacs, bytes_per_second=size * 4)) as archive:
        start = time.monotonic()
        for _ in range(5):
            archive.send(fresh[0])
        assert 0.95 <= time.monotonic() - start <= 6


def test_images_move_in_the_hours_of_the_configuration_and_queries_at_any_time(
    way: str, pacs: Orthanc, uploaded: list[Uploaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [datetime.datetime(2026, 3, 4, 18, 0)]

    def sleep(seconds: float) -> None:
        moment[0] += datetime.timedelta(seconds=seconds)

    def limits(source: DicomWeb | Dimse) -> Limits:
        return Limits(None, source.hours, "pacs", now=lambda: moment[0], sleep=sleep)

    monkeypatch.setattr(Limits, "of", limits)
    series = next(each for each in uploaded if each.modality == "PT")
    arrivals: dict[str, datetime.datetime] = {}

    def receive(sop_uid: str, content: bytes) -> None:
        arrivals[sop_uid] = moment[0]
        if len(arrivals) == 5:
            moment[0] = datetime.datetime(2026, 3, 5, 6, 0)

    with open_archive(source(way, pacs, hours="19:00-06:00")) as archive:
        assert archive.find_instances(series.study_uid, series.series_uid) == series.sop_uids
        assert moment[0].hour == 18
        archive.fetch(series.study_uid, series.series_uid, series.sop_uids, receive)
    assert sorted(arrivals) == series.sop_uids
    times = list(arrivals.values())
    assert times[0] == datetime.datetime(2026, 3, 4, 19, 0)
    # What one C-GET or C-MOVE has asked for still comes; an answer by DICOMweb is left.
    late = datetime.datetime(2026, 3, 5, 19 if way == "dicomweb" else 6, 0)
    assert times[5:] == [late] * (len(times) - 5)


def connections(port: int) -> int:
    """How many connections from here to a port are open."""
    lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(1 for each in fields if each[3] == "01" and int(each[2].split(":")[1], 16) == port)


@contextmanager
def most_connections(port: int) -> Iterator[list[int]]:
    """Note the number of open connections all the time."""
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            seen.append(connections(port))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def test_never_more_connections_than_allowed(
    way: str, pacs: Orthanc, uploaded: list[Uploaded], fresh: list[Path]
) -> None:
    port = pacs.http_port if way == "dicomweb" else pacs.port
    images = [series for series in uploaded if series.modality in {"CT", "PT", "MR"}]
    before = connections(port)
    with (
        most_connections(port) as seen,
        open_archive(source(way, pacs, parallel=2)) as archive,
        ThreadPoolExecutor(6) as pool,
    ):
        tasks = [pool.submit(fetched, archive, series) for series in images]
        tasks += [pool.submit(archive.find_series, {"Modality": "CT"}) for _ in range(3)]
        tasks += [pool.submit(archive.send, path) for path in fresh[:2]]
        for task in tasks:
            task.result()
    assert max(seen) - before == 2


def test_only_the_pacs_may_bring_images_and_only_those_asked_for(
    pacs: Orthanc, uploaded: list[Uploaded], fresh: list[Path]
) -> None:
    series = next(each for each in uploaded if each.modality == "PT")
    dataset = pydicom.dcmread(fresh[0])
    with open_archive(source("move", pacs)) as archive:
        assert len(fetched(archive, series, series.sop_uids[:2])) == 2
        statuses = {}
        for calling, called in (
            ("STRANGER", "JIPFLOW"),
            ("ARCHIVE", "OTHER"),
            ("ARCHIVE", "JIPFLOW"),
        ):
            entity = AE(calling)
            entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
            association = entity.associate("127.0.0.1", ARRIVAL, ae_title=called)
            if association.is_established:
                statuses[calling, called] = association.send_c_store(dataset).Status
                association.release()
            else:
                assert association.is_rejected
                statuses[calling, called] = None
    assert statuses == {
        ("STRANGER", "JIPFLOW"): None,
        ("ARCHIVE", "OTHER"): None,
        ("ARCHIVE", "JIPFLOW"): 0x0124,
    }


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"called_aet": "OTHER"}, ConfigError, "goes by another name; fix called_aet"),
        # Orthanc takes the association of a stranger and ends it at the first request.
        ({"calling_aet": "NOBODY"}, ArchiveDown, "NOBODY may not do this"),
    ],
)
def test_a_pacs_that_does_not_take_our_names_gives_a_message(
    pacs: Orthanc, keys: dict[str, str], error: type[Exception], message: str
) -> None:
    with (
        open_archive(source("get", pacs, **keys)) as archive,
        pytest.raises(error, match=message),
    ):
        archive.find_series({})


@pytest.mark.parametrize("modalities", [{"OTHER": ARRIVAL}, {"JIPFLOW": ARRIVAL + 1}])
def test_a_pacs_that_does_not_know_where_to_move_images_gives_a_message(
    modalities: dict[str, int], uploaded: list[Uploaded], tmp_path: Path
) -> None:
    series = next(each for each in uploaded if each.modality == "RTSTRUCT")
    anybody = {"DicomAlwaysAllowFind": True, "DicomAlwaysAllowMove": True}
    with (
        Orthanc(tmp_path, modalities=modalities, options=anybody) as pacs,
        open_archive(source("move", pacs)) as archive,
    ):
        pacs.upload(series.files.values())
        with pytest.raises(ArchiveDown, match=r"never called this machine's port 11112.*JIPFLOW"):
            fetched(archive, series)


@pytest.fixture
def small_pacs(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A PACS of another make, DCMTK's, that knows no more than the standard demands.

    It answers no relational queries, and knows neither a series' description nor its images' rows.
    Yields what differs in the configuration of its source.
    """
    if shutil.which("dcmqrscp") is None:
        unavailable("dcmqrscp is missing; install dcmtk")
    (tmp_path / "db").mkdir()
    file = tmp_path / "dcmqrscp.cfg"
    file.write_text(
        "NetworkTCPPort = 4244\nMaxPDUSize = 131072\nMaxAssociations = 16\n"
        f"HostTable BEGIN\njipflow = (JIPFLOW, 127.0.0.1, {ARRIVAL})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nSMALL {tmp_path / 'db'} RW (500, 1024mb) ANY\nAETable END\n"
    )
    with open(tmp_path / "dcmqrscp.log", "wb") as log:
        process = subprocess.Popen(
            ["dcmqrscp", "--config", str(file)],
            env={**os.environ, "TCP_NODELAY": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield {"port": 4244, "called_aet": "SMALL"}
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it has a process for each association
        process.wait()


@pytest.mark.parametrize("way", ["get", "move"])
def test_a_pacs_that_knows_no_more_than_the_standard_demands(
    way: str, small_pacs: dict[str, Any], pacs: Orthanc, uploaded: list[Uploaded]
) -> None:
    patient = next(each.study_uid for each in uploaded if each.modality == "PT")
    kept = [
        each
        for each in uploaded
        if each.modality in {"PT", "RTSTRUCT"} and each.study_uid == patient
    ]
    with open_archive(source(way, pacs, **small_pacs)) as archive:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(ArchiveDown):
                assert archive.find_series({}) == []
                break
        for series in kept:
            for path in series.files.values():
                archive.send(path)
        found = [row["SeriesInstanceUID"] for row in archive.find_series({})]
        assert found == [series.series_uid for series in kept]
        series = next(each for each in kept if each.modality == "PT")
        (row,) = archive.find_series({"StudyInstanceUID": series.study_uid, "Modality": "PT"})
        assert row["PatientID"] == pydicom.dcmread(series.files[series.sop_uids[0]]).PatientID
        assert "SeriesDescription" not in row
        sop_uids = archive.find_instances(series.study_uid, series.series_uid)
        assert sop_uids == series.sop_uids
        header = archive.describe(series.study_uid, series.series_uid, sop_uids[0])
        assert header.Units == "GML"
        assert "TransferSyntaxUID" in header.file_meta
        for sop_uid, content in fetched(archive, series).items():
            assert pydicom.dcmread(BytesIO(content)) == pydicom.dcmread(series.files[sop_uid])
        with pytest.raises(Rejected, match=r"did not send instance 1\.2\.3"):
            archive.fetch(series.study_uid, series.series_uid, ["1.2.3"], lambda *_: None)
    if way == "move":
        stranger = source(way, pacs, **small_pacs, calling_aet="NOBODY")
        with (
            open_archive(stranger) as archive,
            pytest.raises(ConfigError, match="does not know where NOBODY is"),
        ):
            fetched(archive, kept[0])


def test_answers_whose_uids_are_of_no_use_are_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [{"SeriesInstanceUID": uid} for uid in ("1.2.03 ", "1.2/..", "", "1.2.A")]
    assert with_uids(rows, ("SeriesInstanceUID",), "pacs") == [{"SeriesInstanceUID": "1.2.03"}]
    assert "3 answers are left out" in caplog.text


class Answer:
    """A multipart answer that arrives in chunks of some size."""

    headers: ClassVar = {
        "Content-Type": 'multipart/related; type="application/dicom"; boundary="B-"'
    }

    def __init__(self, content: bytes, size: int) -> None:
        self.chunks = [content[start : start + size] for start in range(0, len(content), size)]

    def iter_content(self, chunk_size: int) -> Iterator[bytes]:
        yield from self.chunks


@pytest.mark.parametrize("start", [b"", b"\r\n", b"preamble\r\n"])
def test_parts_are_found_wherever_the_network_cuts_them(start: bytes) -> None:
    parts = [b"one", b"", b"\r\n--B\r\n\r\nthree\r\n", bytes(range(256))]
    content = start + b"".join(
        b"--B-\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts
    )
    content += b"--B---\r\nepilogue"
    for size in range(1, len(content)):
        assert list(parts_of(Answer(content, size), 1000)) == parts  # type: ignore[arg-type]
    for end in range(len(content) - len(b"--\r\nepilogue")):
        with pytest.raises(EOFError):
            list(parts_of(Answer(content[:end] or b"-", 50), 1000))  # type: ignore[arg-type]


def test_an_address_without_dicomweb_gives_a_message(pacs: Orthanc) -> None:
    with (
        open_archive(source("dicomweb", pacs, url=pacs.base)) as archive,
        pytest.raises(Rejected, match=f"check that url {pacs.base} is that of DICOMweb"),
    ):
        archive.find_series({})
    with (
        open_archive(source("dicomweb", pacs, url=f"{pacs.base}/nowhere")) as archive,
        pytest.raises(Rejected, match="HTTP status 404"),
    ):
        archive.find_series({})


def test_proxies_and_passwords_of_the_environment_do_not_apply(
    pacs: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with open_archive(source("dicomweb", pacs)) as archive:
        assert archive.find_series({"PatientID": "STS_002"})


class CappingProxy(BaseHTTPRequestHandler):
    """A server that answers queries for series with two of the PACS's results at a time."""

    pacs: Orthanc
    queries: list[str]

    def do_GET(self) -> None:
        self.queries.append(self.path)
        answer = self.pacs.get(f"{self.path}{'&' if '?' in self.path else '?'}limit=2")
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_server_that_caps_its_answers_is_asked_until_it_has_no_more(
    pacs: Orthanc, uploaded: list[Uploaded]
) -> None:
    handler = type("Handler", (CappingProxy,), {"pacs": pacs, "queries": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/dicom-web"
        with open_archive(source("dicomweb", pacs, url=url)) as archive:
            found = archive.find_series({"PatientID": "STS_*"})
            series = next(each for each in uploaded if each.modality == "PT")
            sop_uids = archive.find_instances(series.study_uid, series.series_uid)
        server.shutdown()
    assert {row["SeriesInstanceUID"] for row in found} >= {each.series_uid for each in uploaded}
    assert sop_uids == series.sop_uids
    assert len(handler.queries) > len(uploaded) // 2 + len(sop_uids) // 2


def test_a_bearer_token_is_shown_to_the_pacs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "token.lua"
    script.write_text(
        "function IncomingHttpRequestFilter(method, uri, ip, username, headers)\n"
        "  return uri == '/system' or headers['authorization'] == 'Bearer abc.def'\n"
        "end\n"
    )
    with Orthanc(tmp_path, options={"LuaScripts": [str(script)]}) as pacs:
        monkeypatch.setenv("PACS_TOKEN", "abc.def")
        with open_archive(source("dicomweb", pacs, token_env="PACS_TOKEN")) as archive:
            assert archive.find_series({}) == []
        monkeypatch.setenv("PACS_TOKEN", "another")
        with (
            open_archive(source("dicomweb", pacs, token_env="PACS_TOKEN")) as archive,
            pytest.raises((Rejected, ConfigError), match=r"HTTP status 40[13]") as refused,
        ):
            archive.find_series({})
        assert "another" not in str(refused.value)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two certificates for 127.0.0.1 with their keys, each signed by itself: ours and another."""
    folder = tmp_path_factory.mktemp("certificates")
    return certificate(folder / "pacs.pem"), certificate(folder / "other.pem")


def certificate(path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.touch(0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(scope="module")
def guarded(
    uploaded: list[Uploaded],
    certificates: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Orthanc]:
    """A PACS that encrypts and knows its users."""
    with Orthanc(
        tmp_path_factory.mktemp("guarded"),
        http_port=8041,
        dicom_port=4241,
        users={"reader": "geheim: ä"},
        certificate=certificates[0],
    ) as orthanc:
        orthanc.upload(uploaded[0].files.values())
        yield orthanc


@pytest.fixture(scope="module")
def https(guarded: Orthanc, certificates: tuple[Path, Path]) -> Iterator[str]:
    """The address of a server before the PACS that ends the encryption, as hospitals have it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates[0])

    class Front(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError),
                socket.create_connection((guarded.host, guarded.http_port)) as inside,
                context.wrap_socket(self.request, server_side=True) as outside,
            ):
                back = threading.Thread(target=pass_on, args=(inside, outside))
                back.start()
                pass_on(outside, inside)
                back.join()

    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Front) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_address[1]}/dicom-web"
        server.shutdown()


def pass_on(start: socket.socket, end: socket.socket) -> None:
    with suppress(OSError):
        while data := start.recv(65536):
            end.sendall(data)
        end.shutdown(socket.SHUT_WR)


def secured(
    way: str, certificate: Path, https: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    if way != "dicomweb":
        return {"tls": {"ca_file": str(certificate), "cert_file": str(certificate)}}
    monkeypatch.setenv("PACS_PASSWORD", "geheim: ä")
    return {
        "url": https,
        "ca_file": str(certificate),
        "user": "reader",
        "password_env": "PACS_PASSWORD",
    }


def test_encrypted_every_way_gives_the_same(
    way: str,
    guarded: Orthanc,
    https: str,
    uploaded: list[Uploaded],
    certificates: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = secured(way, certificates[0], https, monkeypatch)
    with open_archive(source(way, guarded, **keys)) as archive:
        (row,) = archive.find_series({})
        assert row["SeriesInstanceUID"] == uploaded[0].series_uid
        for sop_uid, content in fetched(archive, uploaded[0]).items():
            assert_same(way, content, uploaded[0].bytes_of(sop_uid))


def test_a_certificate_of_nobody_is_not_trusted(
    way: str,
    guarded: Orthanc,
    https: str,
    certificates: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = secured(way, certificates[1], https, monkeypatch)
    with (
        open_archive(source(way, guarded, **keys)) as archive,
        pytest.raises(ConfigError, match=r"certificate .*is not trusted"),
    ):
        archive.find_series({})


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_password_is_a_matter_of_the_configuration(
    guarded: Orthanc,
    https: str,
    certificates: tuple[Path, Path],
    password: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = secured("dicomweb", certificates[0], https, monkeypatch)
    if password:
        monkeypatch.setenv("PACS_PASSWORD", password)
    else:
        del keys["user"], keys["password_env"]
    with (
        open_archive(source("dicomweb", guarded, **keys)) as archive,
        pytest.raises(ConfigError, match="does not accept the credentials") as refused,
    ):
        archive.find_series({})
    assert "wrong" not in str(refused.value)

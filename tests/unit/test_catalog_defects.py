"""What archives' folders hold beside sound files, and what the catalog makes of each."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import signal
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from deadly_readers import (
    lost,
    read_carelessly,
    read_or_die,
    read_or_leave,
    read_or_leave_again,
)
from jipflow.catalog import scan
from jipflow.catalog.headers import read_header
from jipflow.catalog.pool import ReadingPool
from jipflow.catalog.walk import Walk
from jipflow.phantom import dicom
from jipflow.reasons import PlaceError
from jipflow.settings.site import Folder
from series_factory import ct_datasets, write

SOUND = 2
"""Sound images beside each defect, to see that they are read all the same."""


@dataclass
class Archive:
    """A folder with two sound images of one series, and room for a defect."""

    folder: Path
    images: list[Path]

    @property
    def one(self) -> bytes:
        """A third image of the same series."""
        return self.images[2].read_bytes()

    def add(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


@pytest.fixture
def archive(tmp_path):
    images = write(ct_datasets((3, 6, 6)), tmp_path / "images")
    folder = tmp_path / "archive"
    folder.mkdir()
    for path in images[:SOUND]:
        shutil.copy(path, folder / path.name)
    return Archive(folder, images)


def encoded(archive: Archive, syntax: str) -> bytes:
    dataset = pydicom.dcmread(archive.images[2])
    dataset.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    little = syntax != ExplicitVRBigEndian
    if not little:
        dataset.PixelData = bytes(
            byte
            for pair in zip(dataset.PixelData[1::2], dataset.PixelData[::2], strict=True)
            for byte in pair
        )
    pydicom.dcmwrite(
        stream,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=little,
        enforce_file_format=True,
    )
    return stream.getvalue()


def with_change(archive: Archive, **values: object) -> bytes:
    dataset = pydicom.dcmread(archive.images[2])
    for name, value in values.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def without_uids(archive: Archive) -> None:
    blank = dict.fromkeys(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"), "")
    archive.add("x.dcm", with_change(archive, **blank))


def without_any_sop_uid(archive: Archive) -> None:
    dataset = pydicom.dcmread(archive.images[2])
    del dataset.SOPInstanceUID
    del dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.save_as(archive.folder / "x.dcm", enforce_file_format=False)


def without_meta(archive: Archive) -> None:
    """As PS3.10 forbids and archives have: neither preamble nor file meta information."""
    dataset = pydicom.dcmread(archive.images[2])
    dataset.preamble, dataset.file_meta = None, pydicom.dataset.FileMetaDataset()
    stream = io.BytesIO()
    pydicom.dcmwrite(
        stream, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False
    )
    archive.add("x.dcm", stream.getvalue())


def huge_private(archive: Archive) -> None:
    dataset = pydicom.dcmread(archive.images[2])
    block = dataset.private_block(0x0009, "HUGE 1.0", create=True)
    block.add_new(0x10, "OB", bytes(8_000_000))
    dataset.save_as(archive.folder / "x.dcm")


def zipped(archive: Archive) -> None:
    with zipfile.ZipFile(archive.folder / "x.zip", "w") as file:
        file.writestr("x.dcm", archive.one)


def special_socket(archive: Archive) -> None:
    here = os.getcwd()
    os.chdir(archive.folder)  # the path of a socket may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x")
    finally:
        os.chdir(here)


def latin_name(archive: Archive) -> None:
    with open(os.path.join(os.fsencode(archive.folder), b"M\xfcller.dcm"), "wb") as stream:
        stream.write(archive.one)


def latin_folder(archive: Archive) -> None:
    folder = os.path.join(os.fsencode(archive.folder), b"M\xfcller")
    os.mkdir(folder)
    for name in (b"1.dcm", b"2.dcm"):
        with open(os.path.join(folder, name), "wb") as stream:
            stream.write(archive.one)


def linked_loop(archive: Archive) -> None:
    (archive.folder / "deep").mkdir()
    (archive.folder / "deep" / "loop").symlink_to(archive.folder)


def linked_twice(archive: Archive) -> None:
    archive.add("a/x.dcm", archive.one)
    (archive.folder / "b").symlink_to(archive.folder / "a")


def linked_outside(archive: Archive) -> None:
    outside = archive.folder.parent / "outside"
    outside.mkdir()
    (outside / "x.dcm").write_bytes(archive.one)
    (outside / "back").symlink_to(archive.folder)
    (outside / "self").symlink_to(outside)
    (archive.folder / "l1").symlink_to(outside)
    (archive.folder / "l2").symlink_to(outside)


def dicomdir(archive: Archive) -> None:
    shutil.copy(get_testdata_file("DICOMDIR"), archive.folder / "DICOMDIR")


READ, REPAIRED = "read", "repaired"
Make = Callable[[Archive], object]

DEFECTS: dict[str, tuple[Make, list[str], str]] = {
    "DICOMDIR": (dicomdir, ["not_dicom"], "DICOMDIR"),
    "zero-length file": (lambda a: a.add("x.dcm", b""), ["not_dicom"], "empty"),
    "file of one byte": (lambda a: a.add("x.dcm", b"\0"), ["not_dicom"], "no DICOM"),
    "cut inside the header": (
        lambda a: a.add("x.dcm", a.one[:900]),
        ["unreadable"],
        "cut short",
    ),
    "cut inside the pixels": (lambda a: a.add("x.dcm", a.one[:-20]), [READ], ""),
    "no preamble, no file meta": (without_meta, [READ], ""),
    "text file": (lambda a: a.add("x.txt", b"see letter"), ["not_dicom"], "no DICOM"),
    "gzip": (lambda a: a.add("x.gz", gzip.compress(a.one)), ["not_dicom"], "gzip file; unpack"),
    "zip": (zipped, ["not_dicom"], "zip file; unpack"),
    "blank UIDs": (without_uids, [REPAIRED], "SOPInstanceUID is taken"),
    "no SOPInstanceUID anywhere": (without_any_sop_uid, ["unreadable"], "SOPInstanceUID"),
    "no SeriesInstanceUID": (
        lambda a: a.add("x.dcm", with_change(a, SeriesInstanceUID=None)),
        [REPAIRED],
        "SeriesInstanceUID is derived",
    ),
    "no Modality and no UIDs": (
        lambda a: a.add("x.dcm", with_change(a, SeriesInstanceUID=None, Modality=None)),
        ["unreadable"],
        "Modality",
    ),
    "private element of 8 MB": (huge_private, [READ], ""),
    "implicit little endian": (
        lambda a: a.add("x.dcm", encoded(a, ImplicitVRLittleEndian)),
        [READ],
        "",
    ),
    "explicit little endian": (
        lambda a: a.add("x.dcm", encoded(a, ExplicitVRLittleEndian)),
        [READ],
        "",
    ),
    "big endian": (lambda a: a.add("x.dcm", encoded(a, ExplicitVRBigEndian)), [READ], ""),
    "deflated": (
        lambda a: a.add("x.dcm", encoded(a, DeflatedExplicitVRLittleEndian)),
        [READ],
        "",
    ),
    "spaces, quotes and newlines in names": (
        lambda a: a.add("a 'b\"\n/c\td.dcm", a.one),
        [READ],
        "",
    ),
    "name that is not UTF-8": (latin_name, ["unreadable"], "not UTF-8"),
    "folder whose name is not UTF-8": (latin_folder, ["unreadable", "unreadable"], "not UTF-8"),
    "no suffix, hidden": (lambda a: a.add(".IM1", a.one), [READ], ""),
    "still being copied": (lambda a: a.add(".partial-7-x.dcm", a.one), ["not_dicom"], "written"),
    "the same image twice": (
        lambda a: (a.add("x.dcm", a.one), a.add("y.dcm", a.one)),
        [READ, "duplicate"],
        "same SOP Instance UID and content",
    ),
    "dangling link": (
        lambda a: (a.folder / "x.dcm").symlink_to("nowhere"),
        ["unreadable"],
        "a link to nothing",
    ),
    "link to itself": (
        lambda a: (a.folder / "x.dcm").symlink_to("x.dcm"),
        ["unreadable"],
        "back to itself",
    ),
    "link to a file": (lambda a: (a.folder / "x.dcm").symlink_to(a.images[2]), [READ], ""),
    "link to a folder above": (linked_loop, ["link"], "looked at"),
    "link to a folder of the archive": (linked_twice, [READ, "link"], "in its own place"),
    "links to folders elsewhere, and back": (
        linked_outside,
        [READ, "link", "link", "link"],
        "looked at",
    ),
    "named pipe": (lambda a: os.mkfifo(a.folder / "x.dcm"), ["not_dicom"], "a named pipe"),
    "socket": (special_socket, ["not_dicom"], "a socket"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_read_right_or_recorded(archive, tmp_path, defect):
    make, expected, reason = DEFECTS[defect]
    make(archive)
    with time_limit(60):
        summary = scan.run(sources=[source(archive.folder)], out_dir=tmp_path / "out", threads=1)
    series = pd.read_parquet(tmp_path / "out" / "series.parquet")
    instances = pd.read_parquet(tmp_path / "out" / "instances.parquet")
    skipped = pd.read_parquet(tmp_path / "out" / "skipped.parquet")
    repaired = pd.read_parquet(tmp_path / "out" / "mended.parquet")
    taken = [kind for kind in expected if kind in (READ, REPAIRED)]
    assert sorted(skipped["kind"]) == sorted(set_aside := [k for k in expected if k not in taken])
    assert len(repaired) == expected.count(REPAIRED)
    assert len(instances) == SOUND + len(taken)
    assert summary["files"] == len(instances) + len(set_aside) - set_aside.count("link")
    assert summary["mended"] == len(repaired)
    assert series["NumberOfInstances"].sum() == len(instances)
    assert all(reason in text for text in [*skipped["reason"], *repaired["reason"]])
    if expected == [READ]:
        (row,) = series.to_dict("records")
        assert row["Rows"] == 6, "read right: the same series as its neighbours"
        assert row["PatientID"] == pydicom.dcmread(archive.images[0]).PatientID
    for path in instances["path"]:
        assert Path(path).is_file(), "later stages open it by this name"


@pytest.mark.parametrize("copies", [("0 derived",), ("z derived",), ("0 derived", "z derived")])
def test_series_that_share_sop_instance_uids_are_all_there(archive, tmp_path, copies):
    """A derived series that kept the UIDs of its source must not hide it, nor the other way."""
    for number, path in enumerate(archive.images[:SOUND]):
        for copy in copies:
            dataset = pydicom.dcmread(path)
            dataset.SeriesInstanceUID = dicom.uid(copy)
            archive.add(f"{copy}/{number}.dcm", dicom.to_bytes(dataset))
            archive.add(f"{copy}/again/{number}.dcm", dicom.to_bytes(dataset))
    summary = scan.run(sources=[source(archive.folder)], out_dir=tmp_path / "out", threads=1)
    series = pd.read_parquet(tmp_path / "out" / "series.parquet")
    assert list(series["NumberOfInstances"]) == [SOUND] * (1 + len(copies))
    instances = pd.read_parquet(tmp_path / "out" / "instances.parquet")
    assert instances["SOPInstanceUID"].nunique() == SOUND
    assert (instances.groupby("SeriesInstanceUID")["SOPInstanceUID"].nunique() == SOUND).all()
    skipped = pd.read_parquet(tmp_path / "out" / "skipped.parquet")
    assert list(skipped["kind"]) == ["duplicate"] * len(copies) * SOUND
    for row in skipped.to_dict("records"):
        assert row["reason"].endswith(str(Path(row["path"]).parents[1] / Path(row["path"]).name))
    noted = pd.read_parquet(tmp_path / "out" / "mended.parquet")
    assert list(noted["path"]) == sorted(instances["path"])
    assert noted["reason"].str.endswith(f"files of other series, too: {len(copies)}").all()
    assert summary["mended"] == (1 + len(copies)) * SOUND
    assert summary["duplicates"] == len(copies) * SOUND


def test_of_one_uid_only_what_is_a_copy_is_left_out(archive, tmp_path):
    """What was written anew under the same UID is another file, of which stages must know."""
    dataset = pydicom.dcmread(archive.images[0])
    dataset.SeriesDescription = "drawn anew under the same UID"
    archive.add("anew.dcm", dicom.to_bytes(dataset))
    archive.add("copy.dcm", archive.images[0].read_bytes())
    scan.run(sources=[source(archive.folder)], out_dir=tmp_path / "out", threads=1)
    (series,) = pd.read_parquet(tmp_path / "out" / "series.parquet").to_dict("records")
    assert series["NumberOfInstances"] == SOUND
    instances = pd.read_parquet(tmp_path / "out" / "instances.parquet")
    assert len(instances) == SOUND + 1
    assert str(archive.folder / "anew.dcm") in set(instances["path"])
    (skipped,) = pd.read_parquet(tmp_path / "out" / "skipped.parquet").to_dict("records")
    assert skipped["kind"] == "duplicate"
    assert skipped["path"].endswith("copy.dcm")
    assert len(pd.read_parquet(tmp_path / "out" / "mended.parquet")) == 0


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_encoding_gives_the_same_row(archive, syntax):
    plain = read_header(str(archive.images[2]))
    other = read_header(str(archive.add("x.dcm", encoded(archive, syntax))))
    assert other.pop("TransferSyntaxUID") == syntax
    plain.pop("TransferSyntaxUID")
    assert other == plain


def test_what_may_not_be_read_is_no_file_that_cannot_be_read():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write(ct_datasets((1, 4, 4)), folder / "closed")
        (path,) = write(ct_datasets((1, 4, 4)), folder / "open")
        path.chmod(0o000)
        (folder / "closed").chmod(0o000)
        try:
            with unprivileged():
                found = list(Walk([source(folder)]))
                row = read_header(str(path))
        finally:
            (folder / "closed").chmod(0o755)
    assert [(Path(f.path).name, f.kind) for f in found] == [
        ("closed", "place_fault"),
        (path.name, ""),
    ]
    assert "Permission denied" in found[0].reason
    assert (row["kind"], "Permission denied" in row["reason"]) == ("place_fault", True)


def test_sources_that_lie_in_each_other_are_looked_at_once(archive, tmp_path):
    archive.add("inner/x.dcm", archive.one)
    sources = [
        source(archive.folder, "outer"),
        source(archive.folder / "inner", "inner"),
        source(archive.folder, "again"),
    ]
    summary = scan.run(sources=sources, out_dir=tmp_path / "out", threads=1)
    instances = pd.read_parquet(tmp_path / "out" / "instances.parquet")
    assert instances["Source"].value_counts().to_dict() == {"outer": 2, "inner": 1}
    assert (summary["links"], summary["duplicates"]) == (2, 0)


def test_a_file_that_kills_its_reader_takes_no_other_with_it(archive):
    """The empty file is a real one: dicomsdl aborts the process on it."""
    empty = archive.add("empty.dcm", b"")
    fatal = archive.add("fatal.dcm", b"die")
    paths = [str(path) for path in [archive.images[0], empty, archive.images[1], fatal]]
    with ReadingPool(read_carelessly, read_or_die, lost, processes=2) as pool:
        submitted = [pool.submit(paths), pool.submit(paths[:1])]
        rows = pool.rows(paths, submitted[0])
        other = pool.rows(paths[:1], submitted[1])
    assert rows[0] == other[0] == read_header(paths[0])
    assert rows[2] == read_header(paths[2])
    assert rows[1]["reason"] == "an empty file"
    assert rows[3] == {"kind": "unreadable", "reason": "lost"}


def test_readers_that_end_by_themselves_are_no_fault_of_the_files(archive):
    """As where they cannot be started: each file would be one that crashes its reader."""
    path = str(archive.images[0])
    with (
        ReadingPool(read_or_leave, read_or_leave_again, lost, processes=1) as pool,
        pytest.raises(PlaceError, match=r"ended with exit code 1; see why in the log"),
    ):
        pool.rows([path], pool.submit([path]))


def source(folder: Path, name: str = "archive") -> Folder:
    return Folder(name=name, kind="folder", path=str(folder))


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be somebody whom permissions bind, where the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def fail(*_: object) -> None:
        pytest.fail(f"still running after {seconds} s")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)

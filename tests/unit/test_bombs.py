"""Small files that would take much memory or time to read are refused, or read without it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

import series_factory
from jipflow import datasets
from jipflow.catalog.headers import read_header
from jipflow.images.read import read_instance, readable
from jipflow.phantom import dicom
from jipflow.reasons import CaseFault

DESCRIPTION = 0x0008103E
"""Series Description."""


def encoded(dataset: Dataset, first: int, last: int) -> bytes:
    """The elements from one tag up to another one, in explicit VR little endian."""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    part = Dataset()
    for element in dataset:
        if first <= element.tag < last:
            part.add(element)
    write_dataset(stream, part)
    return stream.getvalue()


def with_bytes(path: Path, tag: int, element: bytes) -> Path:
    """Write a CT slice of which an element is these bytes."""
    dataset = series_factory.ct_datasets()[0]
    meta = dicom.to_bytes(dataset)
    meta = meta[: meta.index(encoded(dataset, 0x00080000, 0x00080020)[:8], 132)]
    path.write_bytes(
        meta + encoded(dataset, 0x00080000, tag) + element + encoded(dataset, tag + 1, 0xFFFFFFFF)
    )
    return path


@pytest.fixture
def deflated(tmp_path: Path) -> Path:
    """A slice with 64 MiB of zeros in a file of 70 kB."""
    dataset = series_factory.ct_datasets()[0]
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.PixelData = bytes(64 << 20)
    plain = dicom.to_bytes(series_factory.ct_datasets()[0])
    begin = plain.index(encoded(dataset, 0x00080000, 0x00080020)[:8], 132)
    meta = plain[:begin].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    at = meta.index(b"1.2.840.10008.1.2.1.99") - 2
    meta = meta[:at] + struct.pack("<H", 22) + meta[at + 2 :]
    # The group's length (0002,0000) is that of the longer syntax.
    length = struct.unpack_from("<I", meta, 140)[0] + 2
    meta = meta[:140] + struct.pack("<I", length) + meta[144:]
    squeezer = zlib.compressobj(9, wbits=-15)
    body = squeezer.compress(encoded(dataset, 0x00080000, 0xFFFFFFFF)) + squeezer.flush()
    path = tmp_path / "deflated.dcm"
    path.write_bytes(meta + body)
    return path


def test_a_deflated_file_is_read_up_to_its_limit(deflated, monkeypatch):
    assert read_header(str(deflated))["Rows"] == 8
    assert len(read_instance(deflated, pixels=True).PixelData) == 64 << 20
    monkeypatch.setattr(datasets, "MOST_INFLATED", 32 << 20)
    row = read_header(str(deflated))
    assert row["kind"] == "unreadable"
    assert row["reason"] == "TooLarge: its deflated data set has more than 32 MiB"
    with pytest.raises(CaseFault, match="more than 32 MiB"), readable("it"):
        read_instance(deflated, pixels=True)


@pytest.mark.parametrize("vr", [b"UT", b"UC", b"UN"])
def test_a_text_longer_than_any_is_left_out(tmp_path, vr):
    value = b"a\\" * (datasets.LONGEST // 2 + 1)
    element = struct.pack("<HH2sHI", 0x0008, 0x103E, vr, 0, len(value)) + value
    path = with_bytes(tmp_path / "long.dcm", DESCRIPTION, element)
    row = read_header(str(path))
    assert row["SeriesDescription"] == ""
    assert "has more than 1048576 bytes; it was left out" in row["mended"]
    damaged: list[str] = []
    assert "SeriesDescription" not in read_instance(path, pixels=True, damaged=damaged)
    assert len(damaged) == 1


def test_the_longest_contours_are_read(tmp_path):
    value = b"-123.4567890123\\" * (datasets.LONGEST // 16)
    element = struct.pack("<HH2sHI", 0x0008, 0x103E, b"UT", 0, len(value)) + value
    path = with_bytes(tmp_path / "long.dcm", DESCRIPTION, element)
    assert read_instance(path, pixels=True).SeriesDescription == value.decode()


@pytest.mark.parametrize("depth", [100, 5000])
def test_sequences_within_sequences_have_an_end(tmp_path, depth):
    """So many that a parser in Python has no stack for them cost the file, not the run."""
    begin = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    begin += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    path = with_bytes(tmp_path / "deep.dcm", 0x00081140, begin * depth + end * depth)
    assert read_header(str(path))["Rows"] == 8
    with readable("it"):
        assert bool(read_instance(path, pixels=True).get("Rows")) == (depth == 100)

"""Read what the catalog needs of one file's header: dicomsdl first, pydicom where it is in doubt.

dicomsdl maps the file and parses it in C++, which is many times faster than pydicom. Only the raw
bytes of the elements are taken from it: its own decoding never ends on text that is not valid in
its character set. What is not plain is read again by pydicom, whose values count.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import dicomsdl
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    MediaStorageDirectoryStorage,
    PrivateTransferSyntaxes,
)

from jipflow import datasets
from jipflow.columns import COLUMNS
from jipflow.place import place_error
from jipflow.uids import series_stand_in, study_stand_in

ATTRIBUTES = tuple(
    name
    for name in COLUMNS
    if name
    not in {
        "NumberOfInstances",
        "Source",
        "PixelSpacingRow",
        "PixelSpacingColumn",
        "TransferSyntaxUID",
    }
)
"""The columns that are attributes of the data set under the same name."""

HEADER_COLUMNS = (*ATTRIBUTES, "PixelSpacingRow", "PixelSpacingColumn", "TransferSyntaxUID")
"""The columns of the catalog that a header fills."""

NOT_DICOM, UNREADABLE = "not_dicom", "unreadable"
PLACE_FAULT = "place_fault"
"""Kind of what the place does not let be read; no catalog holds one."""

LAST_TAG = 0x00541002
"""dicomsdl stops here: just after Units (0054,1001), the last attribute of an ordinary image."""

LAST_ENHANCED_TAG = 0x52009229
"""pydicom stops after the Shared Functional Groups Sequence, which holds enhanced spacing."""

SMALLEST = 132
"""Bytes of the preamble and its prefix (PS3.10 section 7.1). An empty file crashes dicomsdl."""

PADDING = "\0 \t\n\v\f\r"
"""What may stand around a value and means nothing."""

CODECS = {b"": "latin-1", b"ISO_IR 6": "latin-1", b"ISO_IR 100": "latin-1", b"ISO_IR 192": "utf-8"}
"""Specific Character Sets (PS3.3 C.12.1.1.2) that one Python codec decodes as pydicom does."""

WITHOUT_PIXELS = frozenset({"RTSTRUCT", "RTPLAN", "RTRECORD", "SR", "PR", "KO", "REG", "DOC"})
"""Modalities (PS3.3 C.7.3.1.1.1) whose objects have no Rows."""

ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf": "7-zip",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""First bytes of compressed files, in which people keep images that the catalog cannot see."""


class Doubt(Exception):
    """The fast reader is not sure of a value; pydicom decides."""


class Text(NamedTuple):
    """A column of text: its name, its tag and its value representation in the dictionary."""

    name: str
    tag: int
    vr: Any


class Number(NamedTuple):
    """A column of numbers: its name, its tag and what turns raw bytes into a value."""

    name: str
    tag: int
    read: Callable[[bytes], float | int | None]


def read_header(path: str) -> dict[str, Any]:
    """Read the catalog's columns of one file, without its pixels.

    Args:
        path: a regular file.

    Returns:
        SOPInstanceUID, the columns `HEADER_COLUMNS`, and ``mended``: what was put in for a missing
        UID or left out as no number, empty where all was well. Of a file that is not taken in,
        ``kind`` (``not_dicom`` or ``unreadable``) and ``reason`` instead; of one that the place
        does not let be read, ``kind`` `PLACE_FAULT` and what the system says.
    """
    try:
        return read_fast(path)
    except (Doubt, dicomsdl.DicomException, ValueError, OSError, MemoryError):
        return read_surely(path)


def read_fast(path: str) -> dict[str, Any]:
    """Read a header by dicomsdl.

    Raises:
        Doubt: a value is not plain; `read_surely` decides.
        dicomsdl.DicomException: the file cannot be parsed.
        ValueError: a number or a text cannot be decoded.
        OSError: the file is gone.
    """
    with open(path, "rb") as stream:
        start = stream.read(datasets.START)
    # dicomsdl inflates what is deflated, however large it becomes.
    if len(start) < SMALLEST or datasets.is_deflated(start):
        raise Doubt
    element = dicomsdl.open_file(path, LAST_TAG).getDataElement
    charset = element(0x00080005).toBytes().rstrip(b"\0 ")
    codec = CODECS.get(charset)
    row: dict[str, Any] = {}
    for name, tag, vr in _TEXTS:
        found = element(tag)
        raw = found.toBytes()
        if len(raw) > datasets.LONGEST:
            raise Doubt
        text = raw.decode("latin-1").strip(PADDING)
        if text and (codec is None or "\\" in text or not (raw.isascii() and text.isprintable())):
            text = _decoded_text(found, raw, vr, codec)
        row[name] = text
    for name, tag, read in _NUMBERS:
        raw = element(tag).toBytes()
        if len(raw) > datasets.LONGEST:
            raise Doubt
        row[name] = read(raw) if raw else None
    spacing = element(0x00280030).toBytes()
    if not spacing.strip(b"\0 "):
        row["PixelSpacingRow"] = row["PixelSpacingColumn"] = None
    else:
        first, second = spacing.rstrip(b"\0").split(b"\\")
        row["PixelSpacingRow"], row["PixelSpacingColumn"] = _number(first), _number(second)
    syntax = element(0x00020010).toBytes().decode("latin-1").strip(PADDING)
    row["TransferSyntaxUID"] = syntax
    # A damaged length makes dicomsdl end early, which shows by what an image cannot be without.
    # Spacing of multi-frame objects stands in sequences that are beyond LAST_TAG.
    plain = (
        syntax not in _SLOW_SYNTAXES
        and element(0x00020002).toBytes().rstrip(b"\0 ") != _DIRECTORY
        and row["SOPInstanceUID"]
        and row["SeriesInstanceUID"]
        and row["StudyInstanceUID"]
        and "\\" not in row["SOPInstanceUID"] + row["SeriesInstanceUID"] + row["StudyInstanceUID"]
        and (row["Rows"] is not None or row["Modality"] in WITHOUT_PIXELS)
        and row["Modality"] != "SEG"
        and not element(_NUMBER_OF_FRAMES).toBytes()
    )
    if not plain:
        raise Doubt
    row["mended"] = ""
    return row


def read_surely(path: str) -> dict[str, Any]:
    """Read a header by pydicom; see `read_header`."""
    try:
        # Its warnings quote values, which may be a patient's, and the log keeps no such thing.
        with warnings.catch_warnings(), open(path, "rb") as stream:
            warnings.simplefilter("ignore")
            start = stream.read(132)
            stream.seek(0)
            if not datasets.begins_as_dicom(start):
                return skip(NOT_DICOM, _foreign(start))
            dataset, damaged = datasets.read_from(stream, stop=_beyond)
            row = _checked_row(dataset, path, damaged)
            return row if row.get("kind") != UNREADABLE else {**row, **_sound_columns(path)}
    except Exception as error:  # a damaged file: pydicom raises whatever its parser met
        if place_error(error):
            return skip(PLACE_FAULT, _without_path(error) or "no memory")
        reason = f"{type(error).__name__}: {_without_path(error)}"
        return {**skip(UNREADABLE, reason), **_sound_columns(path)}


def _sound_columns(path: str) -> dict[str, Any]:
    """Return what the header says before the damage that keeps a file from being read.

    It tells whose file is lost. What comes behind the damage is unknown, and so are numbers that
    are none.
    """
    try:
        with open(path, "rb") as stream:
            dataset = datasets.sound_part(stream)
        last = max(dataset.keys(), default=0)
        row, broken = header_row(dataset)
    except Exception as error:  # a damaged file: pydicom raises whatever its parser met
        if place_error(error):
            raise
        return {}
    return {
        name: row[name]
        for name in HEADER_COLUMNS
        if _TAGS.get(name, LAST_ENHANCED_TAG) <= last and name not in broken
    }


def skip(kind: str, reason: str) -> dict[str, Any]:
    """Return the row of a file that is not taken in."""
    return {"kind": kind, "reason": reason}


def header_row(dataset: Dataset) -> tuple[dict[str, Any], list[str]]:
    """Return the catalog's columns of a data set, and the names of those that are no numbers.

    Enhanced multi-frame objects state thickness and spacing once for all frames in the Pixel
    Measures of their Shared Functional Groups (PS3.3 C.7.6.16.2.1); these fill the columns too.
    """
    broken: list[str] = []

    def take(source: Dataset, name: str, kind: str, column: str, position: int = 0) -> Any:
        try:
            return _value(source.get(name), kind, position)
        except Exception:  # a damaged value: pydicom raises whatever its decoder met
            broken.append(column)
            return None

    row = {name: take(dataset, name, COLUMNS[name], name) for name in ATTRIBUTES}
    row["SOPInstanceUID"] = take(dataset, "SOPInstanceUID", "VARCHAR", "SOPInstanceUID")
    measures = _pixel_measures(dataset)
    spaced = dataset if dataset.get("PixelSpacing") else measures
    row["PixelSpacingRow"] = take(spaced, "PixelSpacing", "DOUBLE", "PixelSpacingRow")
    row["PixelSpacingColumn"] = take(spaced, "PixelSpacing", "DOUBLE", "PixelSpacingColumn", 1)
    for name in ("SliceThickness", "SpacingBetweenSlices"):
        if row[name] is None and name not in broken:
            row[name] = take(measures, name, "DOUBLE", name)
    meta = getattr(dataset, "file_meta", Dataset())
    row["TransferSyntaxUID"] = str(meta.get("TransferSyntaxUID") or "")
    return row, broken


def _checked_row(dataset: FileDataset, path: str, damaged: list[str]) -> dict[str, Any]:
    """Turn a data set into the file's row: repair its UIDs, or say why it is not taken in."""
    if dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return skip(NOT_DICOM, "a DICOMDIR, which lists files but holds none")
    last = max(dataset.keys(), default=0)
    odd = datasets.odd_elements(dataset)
    if odd:
        return skip(
            UNREADABLE,
            f"{datasets.name_of(odd[0])} has an impossible value representation, and what follows "
            "cannot be found",
        )
    if _is_cut(dataset.get_item(last) if last else None):
        return skip(UNREADABLE, "the file is cut short, inside its header")
    row, broken = header_row(dataset)
    notes = [*damaged, *(f"{name} is no number and is left empty" for name in broken)]
    if not row["SOPInstanceUID"]:
        row["SOPInstanceUID"] = str(dataset.file_meta.get("MediaStorageSOPInstanceUID") or "")
        notes.append("SOPInstanceUID is taken from the file meta information")
    absent = [name for name in ("StudyInstanceUID", "SeriesInstanceUID") if not row[name]]
    if not row["SOPInstanceUID"]:
        return skip(UNREADABLE, "SOPInstanceUID is missing, in the file meta information too")
    if absent and last < 0x0020000E:
        return skip(UNREADABLE, f"{' and '.join(absent)} missing; is the file cut short?")
    if absent and not row["Modality"]:
        return skip(UNREADABLE, f"{', '.join(absent)} and Modality missing; no object of a study")
    if "StudyInstanceUID" in absent:
        row["StudyInstanceUID"] = study_stand_in(
            *(str(dataset.get(name) or "") for name in ("PatientID", "StudyDate", "StudyTime"))
        )
        notes.append("StudyInstanceUID is derived from PatientID, StudyDate and StudyTime")
    if "SeriesInstanceUID" in absent:
        number = "" if row["SeriesNumber"] is None else str(row["SeriesNumber"])
        row["SeriesInstanceUID"] = series_stand_in(
            os.path.dirname(path), row["PatientID"], row["StudyInstanceUID"], number
        )
        notes.append("SeriesInstanceUID is derived from the folder, the study and SeriesNumber")
    row["mended"] = "; ".join(notes)
    return row


def _is_cut(element: DataElement | RawDataElement | None) -> bool:
    """Whether an element has fewer bytes than its length says, which pydicom does not mind."""
    return (
        isinstance(element, RawDataElement)
        and element.value is not None
        and element.length != 0xFFFFFFFF
        and len(element.value) < element.length
    )


def _beyond(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag > LAST_ENHANCED_TAG


def _foreign(start: bytes) -> str:
    """Say what a file is that does not begin as DICOM does."""
    if not start:
        return "an empty file"
    for magic, name in ARCHIVES.items():
        if start.startswith(magic):
            return f"a {name} file; unpack it if it holds images"
    return "no DICOM file meta information"


def _without_path(error: Exception) -> str:
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error)


def _pixel_measures(dataset: Dataset) -> Dataset:
    """Return the first shared Pixel Measures of a multi-frame image; empty where there are none."""
    for shared in dataset.get("SharedFunctionalGroupsSequence") or ():
        for measures in shared.get("PixelMeasuresSequence") or ():
            return measures
    return Dataset()


def _value(value: Any, kind: str, position: int = 0) -> Any:
    """Return a header value as the column's type; an absent one as empty text or None.

    Raises:
        ValueError: it is no finite number, or one that 64 bits cannot hold.
    """
    if kind == "VARCHAR":
        if value is None:
            return ""
        values = value if isinstance(value, MultiValue) else [value]
        return _unpadded("\\".join(map(str, values)))
    if isinstance(value, MultiValue | list):
        value = value[position] if len(value) else None
    elif position and value is not None and value != "":
        raise ValueError("one value where two belong")
    if value is None or value == "":
        return None
    number = float(value) if kind == "DOUBLE" else int(value)
    if not math.isfinite(number) or (kind == "BIGINT" and abs(number) >= 2**63):
        raise ValueError("not a number that the column can hold")
    return number


def _number(raw: bytes) -> float:
    number = float(raw)
    if not math.isfinite(number):
        raise Doubt
    return number


def _decimal(raw: bytes) -> float | None:
    raw = raw.rstrip(b"\0 ")
    return _number(raw) if raw else None


def _integer(raw: bytes) -> int | None:
    raw = raw.rstrip(b"\0 ")
    if not raw:
        return None
    number = int(raw)
    if abs(number) >= 2**31:
        raise Doubt
    return number


def _short(raw: bytes) -> int:
    if len(raw) != 2:
        raise Doubt
    return int.from_bytes(raw, "little")


def _decoded_text(element: dicomsdl.DataElement, raw: bytes, vr: Any, codec: str | None) -> str:
    """Return text that is not plain ASCII, or several values.

    The character set changes LO and SH, not the others (PS3.5 section 6.1.2.2).
    """
    if element.vr() != vr:
        raise Doubt
    if vr not in (dicomsdl.VR.LO, dicomsdl.VR.SH):
        return _unpadded(raw.decode("latin-1"))
    if b"\x1b" in raw or (codec is None and (b"~" in raw or not raw.isascii())):
        raise Doubt
    return _unpadded(raw.decode(codec or "ascii"))


def _unpadded(text: str) -> str:
    """Return text without the white space around its values, which means nothing (PS3.5 6.2).

    dicomsdl leaves out some of it and pydicom other.
    """
    return "\\".join(value.strip(PADDING) for value in text.split("\\"))


_NUMBER_OF_FRAMES = 0x00280008

_DIRECTORY = MediaStorageDirectoryStorage.encode()

_SLOW_SYNTAXES = frozenset(
    {"", ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, *PrivateTransferSyntaxes}
)


def _tag(name: str) -> int:
    tag = tag_for_keyword(name)
    assert tag is not None, name
    return tag


_VRS = {name: dictionary_VR(_tag(name)) for name in ("SOPInstanceUID", *ATTRIBUTES)}

_TAGS = {name: _tag(name) for name in ATTRIBUTES}

_READERS = {"DS": _decimal, "IS": _integer, "US": _short}

_TEXTS = tuple(
    Text(name, _tag(name), getattr(dicomsdl.VR, vr))
    for name, vr in _VRS.items()
    if vr not in _READERS
)

_NUMBERS = tuple(
    Number(name, _tag(name), _READERS[vr]) for name, vr in _VRS.items() if vr in _READERS
)

dicomsdl.set_loglevel(dicomsdl.LogLevel.DISABLE)

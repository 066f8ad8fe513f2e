"""The numbers of a report: what a feature has in every report is built and encoded once.

A report has hundreds of numbers, each with a name, a unit and a method that are those of its
feature. Built and encoded one by one, they take most of the time of a report.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import highdicom
from highdicom.sr import CodedConcept
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_sequence_item
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import DSfloat

CONTENT = Tag("ContentSequence")
MEASURED = Tag("MeasuredValueSequence")
UNIT = Tag("MeasurementUnitsCodeSequence")
DOUBLE = Tag("FloatingPointValue")
NUMBER = Tag("NumericValue")


@dataclass(frozen=True)
class Form:
    """A measurement without its value, in Explicit VR Little Endian (PS3.5 7.1.2).

    Attributes:
        before: the elements before the Measured Value Sequence.
        unit: the Measurement Units Code Sequence.
        after: the elements after the Measured Value Sequence.
    """

    before: bytes
    unit: bytes
    after: bytes

    def of(self, value: float) -> bytes:
        """Return the item of a value; a whole number has no Floating Point Value."""
        text = str(DSfloat(value, auto_format=True))
        measured = [self.unit]
        if isinstance(value, float):
            measured.append(_short(DOUBLE, b"FD", struct.pack("<d", value)))
        measured.append(_short(NUMBER, b"DS", (text + " " * (len(text) % 2)).encode("ascii")))
        value_item = _item(b"".join(measured))
        head = struct.pack("<HH2sHI", MEASURED.group, MEASURED.elem, b"SQ", 0, len(value_item))
        return _item(b"".join((self.before, head, value_item, self.after)))


def form(name: CodedConcept, unit: CodedConcept, method: CodedConcept | None = None) -> Form:
    """Return the form of a measurement (PS3.16 TID 300), as highdicom builds it.

    Args:
        name: of what is measured.
        unit: of its values.
        method: by which it is measured; None where nothing is stated.
    """
    (item,) = highdicom.sr.Measurement(name=name, value=0.0, unit=unit, method=method)
    (measured,) = item.MeasuredValueSequence
    return Form(
        _elements(item, (tag for tag in item.keys() if tag < MEASURED)),  # noqa: SIM118
        _elements(measured, [UNIT]),
        _elements(item, (tag for tag in item.keys() if tag > MEASURED)),  # noqa: SIM118
    )


def insert_numbers(
    report: Dataset, groups: Sequence[Dataset], places: Sequence[int], numbers: Sequence[bytes]
) -> None:
    """Put measurements into the groups of a report, which can then only be written.

    Args:
        report: whose last content item (Imaging Measurements) has the groups.
        groups: containers.
        places: by group, before which of its items its measurements come.
        numbers: by group, its measurements (`Form.of`), one after the other.
    """
    stated = report.get("SpecificCharacterSet")
    charset = convert_encodings(stated) if stated else default_encoding
    for group, place, inserted in zip(groups, places, numbers, strict=True):
        items = group.ContentSequence
        content = b"".join(
            (_items(items[:place], charset), inserted, _items(items[place:], charset))
        )
        group[CONTENT] = RawDataElement(CONTENT, "SQ", len(content), content, 0, False, True)
    # So marked, pydicom writes what is encoded as it stands; items inherit the character set.
    report.set_original_encoding(False, True, charset)
    for each in (report.ContentSequence[-1], *groups):
        each.set_original_encoding(False, True, default_encoding)


def _items(items: Iterable[Dataset], stated: str | Sequence[str] | None) -> bytes:
    charset = [stated] if isinstance(stated, str) else list(stated or [default_encoding])
    stream = _stream()
    for each in items:
        write_sequence_item(stream, each, charset)
    return stream.getvalue()


def _elements(dataset: Dataset, tags: Iterable[BaseTag]) -> bytes:
    chosen = Dataset()
    for tag in tags:
        chosen[tag] = dataset[tag]
    stream = _stream()
    write_dataset(stream, chosen)
    return stream.getvalue()


def _stream() -> DicomBytesIO:
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    return stream


def _short(tag: BaseTag, vr: bytes, value: bytes) -> bytes:
    """Return an element whose length has two bytes."""
    return struct.pack("<HH2sH", tag.group, tag.elem, vr, len(value)) + value


def _item(content: bytes) -> bytes:
    """Return an item of a sequence (PS3.5 7.5)."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content

"""Answers in DICOM JSON (PS3.18 annex F)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, BinaryIO

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.filereader import read_partial

from jipflow.pacs.archive import file_uid, text_of

SOP_INSTANCE_UID = 0x00080018

Item = Mapping[str, Mapping[str, Any]]
"""One data set: elements by tag."""


def sequence_items(answer: Mapping[str, Any], keyword: str) -> list[Item]:
    """Return the items of a sequence; none where it is not there."""
    tag = f"{tag_for_keyword(keyword):08X}"
    items: list[Item] = answer.get(tag, {}).get("Value") or []
    return items


def attributes_of(item: Item, wanted: Sequence[str]) -> dict[str, str]:
    """Return the wanted attributes of an item of DICOM JSON (PS3.18 annex F) as text."""
    return {
        # Half a surrogate, which JSON can spell, is no character of any table.
        keyword: text_of(element.get("Value")).encode("utf-8", "replace").decode("utf-8")
        for tag, element in item.items()
        if (keyword := keyword_for_tag(tag)) in wanted
    }


def reason_code(text: str) -> str:
    """Return a reason, given as a decimal number, as the standard writes it."""
    return f"0x{int(text):04X}" if text.isdecimal() else "unknown"


def uid_in(file: bytes | BinaryIO) -> str:
    """Return the SOPInstanceUID of a DICOM file, reading no further."""
    stream = BytesIO(file) if isinstance(file, bytes) else file
    return file_uid(read_partial(stream, stop_when=lambda tag, *_: tag > SOP_INSTANCE_UID))

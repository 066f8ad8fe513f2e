"""Numbers of headers, also in private elements, found by their creator and not by its block."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from jipflow.images.read import BROKEN

UNREADABLE = tuple(kind for kind in BROKEN if kind is not OSError)


def private_value(header: Dataset, group: int, element: int, *creators: str) -> Any:
    """Return the value of a private element; None where no block of the creators has it.

    Args:
        header: of an image plane.
        group: of the element.
        element: its last two digits.
        creators: whose block of the group it is in, wherever that lies (PS3.5 7.8.1), in any
            spelling of letters.
    """
    wanted = {creator.casefold() for creator in creators}
    for block in _blocks(header, group, wanted):
        tag = (group, block << 8 | element)
        if tag not in header:
            continue
        try:
            return header[tag].value
        except UNREADABLE:
            return None
    return None


def _blocks(header: Dataset, group: int, creators: set[str]) -> Iterator[int]:
    """Yield the numbers of the blocks that creators reserve."""
    # Shifted tags are plain numbers, which compare ten times as fast.
    for tag in [tag for tag in header.keys() if tag >> 16 == group]:  # noqa: SIM118 not decoded
        if not 0x10 <= tag & 0xFFFF <= 0xFF:
            continue
        try:
            name = header[tag].value
        except UNREADABLE:
            continue
        text = name.decode("latin-1") if isinstance(name, bytes) else str(name)
        if text.strip("\0 ").casefold() in creators:
            yield int(tag) & 0xFF


def numbers(value: Any) -> list[float]:
    """Return the numbers of an element; none where it holds something else.

    Args:
        value: a number or a text, or several; or the bytes of either, which a reader that does
            not know the element keeps as they are (VR UN, in little endian, PS3.5 6.2.2).
    """
    if isinstance(value, bytes):
        value = _of_bytes(value)
    several = isinstance(value, MultiValue | list | tuple)
    try:
        found = [float(each) for each in (value if several else [value])]
    except (TypeError, ValueError, OverflowError):
        return []
    return found if all(map(math.isfinite, found)) else []


def numbers_of(header: Dataset, keyword: str) -> list[float]:
    """Return the numbers of a public element; none where it is not there or cannot be read.

    Args:
        header: of an image plane.
        keyword: of the element.
    """
    try:
        return numbers(header.get(keyword))
    except UNREADABLE:
        return []


def number_of(header: Dataset, keyword: str) -> float | None:
    """Return the first of `numbers_of`; None where there is none."""
    found = numbers_of(header, keyword)
    return found[0] if found else None


def _of_bytes(value: bytes) -> Sequence[Any]:
    """Return numbers that are written as text (IS, DS), else as doubles (FD) or floats (FL)."""
    text = value.strip(b"\0 ")
    if text and all(chr(byte) in "0123456789+-.eE\\ " for byte in text):
        return [part.strip() for part in text.decode("ascii").split("\\")]
    for size, kind in ((8, "d"), (4, "f")):
        if value and len(value) % size == 0:
            return struct.unpack(f"<{len(value) // size}{kind}", value)
    return ()

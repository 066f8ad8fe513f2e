"""DICOM files as every stage reads them: data sets without preamble, and damaged elements, too.

pydicom reads a file from element to element, so that one whose value representation does not exist
hides all that follow. Here such an element costs itself: its value is read as the data dictionary
has it, or left out, and a sentence names it.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from jipflow.inflate import is_within
from jipflow.place import raise_place_error

Stop = Callable[[BaseTag, str | None, int], bool]

KNOWN = frozenset(VR) - {VR.OB_OW, VR.US_OW, VR.US_SS, VR.US_SS_OW}
"""The value representations of PS3.5 6.2."""
UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
"""Tags that have a length and no value representation (PS3.5 7.5)."""
PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
START = 2048
"""Bytes within which a file says how it is encoded: preamble and file meta (PS3.10 section 7.1)."""
MOST_INFLATED = 1 << 30
"""Most bytes of a data set that is deflated; a thousandth of it may stand in the file."""
TEXTS = frozenset(
    {VR.AE, VR.AS, VR.CS, VR.DA, VR.DT, VR.LO, VR.LT, VR.PN, VR.SH, VR.ST, VR.TM, VR.UC, VR.UI}
    | {VR.UR, VR.UT, VR.DS, VR.IS}
)
LETTERS = frozenset({VR.LO, VR.LT, VR.PN, VR.SH, VR.ST, VR.UC, VR.UT})
"""Value representations that Specific Character Set applies to (PS3.5 6.1.2.2)."""
LONGEST = 1 << 20
"""Most bytes of an element of text that is read. One with a backslash becomes a value a character,
which takes a hundred times as much memory; contours, the longest texts of use, have half of it."""
META = 0x0002
LENGTHS = {True: "<I", False: ">I"}
SHORTS = {True: "<H", False: ">H"}


class Read(NamedTuple):
    """A data set, and what of it could not be read as it stands."""

    dataset: FileDataset
    damaged: list[str]


class Place(NamedTuple):
    """Where an element lies in a file.

    Attributes:
        tag: of the element.
        vr: its value representation as it stands.
        begin: of its tag.
        end: behind its value.
        is_open: whether its length is undefined.
    """

    tag: int
    vr: bytes
    begin: int
    end: int
    is_open: bool


class TooLarge(ValueError):
    """A file would take much more memory than its size lets expect."""


class Lost(Exception):
    """An element does not say where the next one begins."""


def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    """Stop before the pixels."""
    return int(tag) in PIXELS


def begins_as_dicom(start: bytes) -> bool:
    """Return whether a file begins as DICOM does, with or without a preamble.

    Without one it begins as a data set does: group 0002 or 0008, in either byte order, with a small
    element number (PS3.10 section 7.1 asks for the preamble).

    Args:
        start: the first 132 bytes, or all.
    """
    little = start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00"
    big = start[:2] == b"\x00\x08" and start[2:3] == b"\x00"
    return start[128:132] == b"DICM" or (len(start) >= 8 and (little or big))


def read(path: Path | str, *, stop: Stop | None = None, defer: int | None = None) -> Read:
    """Read a file, or a data set alone.

    Args:
        path: the file.
        stop: tells from tag, value representation and length whether to read no further.
        defer: bytes from which on a value is left in the file until it is asked for.

    Raises:
        OSError: the file cannot be read.
        TooLarge: it is deflated, and more than `MOST_INFLATED`.
        Exception: what pydicom raises for a file that it cannot parse and that cannot be repaired.
    """
    with open(path, "rb") as stream:
        return read_from(stream, stop=stop, defer=defer)


def read_from(stream: BinaryIO, *, stop: Stop | None = None, defer: int | None = None) -> Read:
    """Read what `read` does, from an open file at its begin."""
    check_deflated(stream)
    tags: list[BaseTag] = []

    def listing(tag: BaseTag, vr: str | None, length: int) -> bool:
        tags.append(tag)
        return stop is not None and stop(tag, vr, length)

    try:
        dataset = read_partial(stream, listing, defer_size=defer, force=True)
        if not odd_elements(dataset) and not _is_cut(dataset):
            return Read(dataset, [*_without_twice(dataset, tags), *_without_overlong(dataset)])
    except Exception as error:  # pydicom raises whatever its parser met
        raise_place_error(error)
        stream.seek(0)
        content, damaged = _repaired(stream.read())
        if not damaged:
            raise
        return _of_repaired(content, stop, damaged)
    stream.seek(0)
    content, damaged = _repaired(stream.read())
    if not damaged:
        return Read(dataset, _without_overlong(dataset))
    return _of_repaired(content, stop, damaged)


def _of_repaired(content: bytes, stop: Stop | None, damaged: list[str]) -> Read:
    dataset = read_partial(BytesIO(content), stop, force=True)
    return Read(dataset, damaged + _without_overlong(dataset))


def is_deflated(start: bytes) -> bool:
    """Return whether a file names the deflated transfer syntax (PS3.5 annex A.5).

    Args:
        start: its first `START` bytes, or all.
    """
    return DeflatedExplicitVRLittleEndian.encode() in start


def check_deflated(stream: BinaryIO) -> None:
    """Check that a file is no small one that inflates to an enormous one.

    Args:
        stream: an open file at its begin, where it is left.

    Raises:
        TooLarge: it has more than `MOST_INFLATED` bytes.
    """
    deflated = is_deflated(stream.read(START))
    stream.seek(0)
    if deflated and not is_within(stream.read(), MOST_INFLATED):
        raise TooLarge(f"its deflated data set has more than {MOST_INFLATED >> 20} MiB")
    stream.seek(0)


def _without_overlong(dataset: Dataset) -> list[str]:
    """Leave out the texts that are longer than any is; returns a sentence for each."""
    overlong = [
        element.tag
        for element in dataset.values()
        if isinstance(element, RawDataElement)
        and element.value is not None
        and len(element.value) > LONGEST
        and _true_vr(element) in TEXTS
    ]
    for tag in overlong:
        del dataset[tag]
    return [f"{name_of(tag)} has more than {LONGEST} bytes; it was left out" for tag in overlong]


def _true_vr(element: RawDataElement) -> str:
    """Return an element's value representation, the dictionary's where the file has none.

    A text too long for its own is written as UN (PS3.5 6.2.2).
    """
    if element.VR not in (None, VR.UN):
        return str(element.VR)
    try:
        return dictionary_VR(element.tag)
    except KeyError:
        return VR.UN


def _without_twice(dataset: Dataset, tags: Sequence[BaseTag]) -> list[str]:
    """Leave out the elements that stand twice in a data set, of which pydicom takes the last.

    Nobody knows which of their values is right (PS3.5 7.1: each tag stands once).

    Args:
        dataset: as it was read.
        tags: of its elements, in the order of the file.

    Returns:
        A sentence for each.
    """
    # pydicom asks of the first one twice where the syntax is another than it says.
    tags = tags[1:] if list(tags[:1]) == list(tags[1:2]) else tags
    if len(set(tags)) == len(tags):
        return []
    twice = sorted(tag for tag, count in Counter(tags).items() if count > 1 and tag in dataset)
    for tag in twice:
        del dataset[tag]
    return [f"{name_of(tag)} stands there more than once; it was left out" for tag in twice]


def sound_part(stream: BinaryIO) -> Dataset:
    """Read the elements before the first one that cannot be read; none where nothing is sure.

    Args:
        stream: an open file at its begin, of which `read_from` gives nothing.
    """
    data = stream.read()
    start, little = _encoding(data)
    end = start
    for place in _places(data, start, little) if start >= 0 else ():
        if place.vr not in _CODES or place.end > len(data):
            break
        end = place.end
    if end <= 0:
        return Dataset()
    return read_partial(BytesIO(data[:end]), at_pixels, force=True)


def odd_elements(dataset: Dataset) -> list[BaseTag]:
    """Return the tags of the elements whose value representation does not exist.

    Args:
        dataset: whose elements are not decoded yet.
    """
    return [
        element.tag
        for element in dataset.values()
        if isinstance(element, RawDataElement)
        and not element.is_implicit_VR
        and element.VR not in KNOWN
    ]


def _is_cut(dataset: Dataset) -> bool:
    """Return whether the last element has fewer bytes than its length, as a wrong one has."""
    last = max(dataset.values(), key=lambda element: element.tag, default=None)
    return (
        isinstance(last, RawDataElement)
        and last.value is not None
        and last.length != UNDEFINED_LENGTH
        and len(last.value) < last.length
    )


def name_of(tag: int) -> str:
    """Return a tag as the standard writes it."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _repaired(data: bytes) -> tuple[bytes, list[str]]:
    """Return a file whose elements can be parsed, and what was wrong with it; nothing if lost."""
    start, little = _encoding(data)
    if start < 0:
        return data, []
    parts = [data[:start]]
    damaged = []
    for place in _places(data, start, little):
        element = data[place.begin : place.end]
        if place.vr not in _CODES:
            element, what = _by_dictionary(element, place, little)
            damaged.append(f"{name_of(place.tag)} has an impossible value representation; {what}")
        elif place.is_open and not _parses(element, little):
            damaged.append(f"{name_of(place.tag)} cannot be parsed; it was left out")
            element = b""
        parts.append(element)
    return b"".join(parts), damaged


_CODES = frozenset(vr.encode() for vr in KNOWN)


def _encoding(data: bytes) -> tuple[int, bool]:
    """Return where a data set with explicit value representations begins, and its byte order.

    The place is -1 where it has none, or is deflated.
    """
    start = 132 if data[128:132] == b"DICM" else 0
    syntax = b""
    for place in _places(data, start, True):
        if place.tag >> 16 != META:
            break
        start = place.end
        if place.tag == 0x00020010:
            syntax = data[place.begin + 8 : place.end].rstrip(b"\0 ")
    if syntax == DeflatedExplicitVRLittleEndian.encode() or data[start + 4 : start + 6] not in (
        _CODES
    ):
        return -1, True
    return start, data[start : start + 2] != b"\x00\x08"


def _places(data: bytes, start: int, little: bool) -> Iterator[Place]:
    """Iterate over the elements of a data set, as far as one leads to the next."""
    position = start
    while position + 8 <= len(data):
        try:
            place = _place(data, position, little)
        except (Lost, struct.error):
            return
        yield place
        position = place.end


def _place(data: bytes, begin: int, little: bool) -> Place:
    """Return where an element lies.

    Raises:
        Lost: its end cannot be found.
    """
    tag = _tag(data, begin, little)
    vr = data[begin + 4 : begin + 6]
    if vr not in _CODES:
        return Place(tag, vr, begin, _plausible_end(data, begin, tag, little), False)
    if vr.decode() not in EXPLICIT_VR_LENGTH_32:
        end = begin + 8 + _short(data, begin + 6, little)
    else:
        length = _long(data, begin + 8, little)
        if length == UNDEFINED_LENGTH:
            return Place(tag, vr, begin, _end_of_items(data, begin + 12, little, tag), True)
        end = begin + 12 + length
    if not _ends_well(data, end, tag, little):
        # A representation that exists, but of another kind of length, hides what follows as well.
        try:
            return Place(tag, b"", begin, _plausible_end(data, begin, tag, little), False)
        except Lost:
            pass
    return Place(tag, vr, begin, end, False)


def _ends_well(data: bytes, end: int, tag: int, little: bool) -> bool:
    """Return whether the data set ends there, or a later tag follows, such as an item's end."""
    if end + 8 > len(data):
        return end == len(data)
    return _tag(data, end, little) > tag


def _plausible_end(data: bytes, begin: int, tag: int, little: bool) -> int:
    """Return the end of an element without a value representation: where another one begins.

    Raises:
        Lost: none begins where a short or a long length would put it.
    """
    for end in (
        begin + 8 + _short(data, begin + 6, little),
        begin + 12 + _long(data, begin + 8, little),
    ):
        if _is_followed(data, end, tag, little):
            return end
    raise Lost


def _end_of_items(data: bytes, position: int, little: bool, tag: int) -> int:
    """Return the end of a sequence or of fragments of undefined length.

    Where an item cannot be parsed, it is the first delimiter that another element of the data set
    follows.

    Raises:
        Lost: there is none.
    """
    try:
        return _end_by_parsing(data, position, little)
    except (Lost, struct.error, RecursionError):
        pass
    group, element = SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF
    delimiter = struct.pack("<HHI" if little else ">HHI", group, element, 0)
    place = data.find(delimiter, position)
    while place >= 0:
        end = place + 8
        if _is_followed(data, end, tag, little):
            return end
        place = data.find(delimiter, end)
    raise Lost


def _is_followed(data: bytes, end: int, tag: int, little: bool) -> bool:
    """Return whether the data set ends there, or another element of it begins."""
    if end + 8 > len(data):
        return end == len(data)
    vr = data[end + 4 : end + 6]
    return _tag(data, end, little) > tag and (vr in _CODES or _tag(data, end, little) == ITEM_END)


def _end_by_parsing(data: bytes, position: int, little: bool) -> int:
    """Return the end of a sequence of undefined length, going from item to item."""
    while True:
        tag = _tag(data, position, little)
        length = _long(data, position + 4, little)
        position += 8
        if tag == SEQUENCE_END:
            return position
        if tag != ITEM:
            raise Lost
        if length != UNDEFINED_LENGTH:
            position += length
            continue
        while _tag(data, position, little) != ITEM_END:
            position = _place(data, position, little).end
        position += 8


def _by_dictionary(element: bytes, place: Place, little: bool) -> tuple[bytes, str]:
    """Return an element with the value representation of the data dictionary, or nothing of it."""
    try:
        vr = dictionary_VR(place.tag)
    except KeyError:
        return b"", "it was left out"
    is_long = len(element) != 8 + _short(element, 6, little)
    if vr.encode() not in _CODES or (vr in EXPLICIT_VR_LENGTH_32) != is_long:
        return b"", "it was left out"
    return element[:4] + vr.encode() + element[6:], f"it was read as {vr}"


def _parses(element: bytes, little: bool) -> bool:
    """Return whether pydicom can parse an element of undefined length."""
    try:
        found = read_dataset(BytesIO(element), False, little)
    except Exception:  # pydicom raises whatever its parser met
        return False
    return len(found) == 1


def _tag(data: bytes, position: int, little: bool) -> int:
    return _short(data, position, little) << 16 | _short(data, position + 2, little)


def _short(data: bytes, position: int, little: bool) -> int:
    return int(struct.unpack_from(SHORTS[little], data, position)[0])


def _long(data: bytes, position: int, little: bool) -> int:
    return int(struct.unpack_from(LENGTHS[little], data, position)[0])

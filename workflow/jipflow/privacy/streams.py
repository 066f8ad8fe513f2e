"""Compressed pixels without what is no part of a picture: comments, thumbnails, what follows it."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

START_OF_JPEG, START_OF_JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
END = b"\xff\xd9"
SCAN, COMMENT = 0xDA, 0xFE
APPLICATION = range(0xE0, 0xF0)
STANDALONE = (0x01, *range(0xD0, 0xD8))
"""Markers of JPEG and JPEG-LS (ITU-T T.81 table B.1, T.87 annex C)."""
COLOURS = (b"Adobe", b"mrfx")
"""Application data by which decoders know the colours (T.872 6.5.3, and HP's for JPEG-LS)."""
JFIF = b"JFIF\0"
TILE_PART, TILE_DATA, COMMENT_OF_JPEG_2000 = 0x90, 0x93, 0x64
"""Markers of JPEG 2000 (ITU-T T.800 table A.2)."""


def without_comments(stream: bytes) -> bytes | None:
    """Return a codestream of JPEG, JPEG-LS or JPEG 2000 without what is no part of its picture.

    Args:
        stream: of one frame.

    Returns:
        The stream, the same where it holds nothing else; None where it is not known how to take it
            out, so that the frame is to be decoded.
    """
    end = stream.rfind(END)
    if end < 0:
        return None
    trimmed = stream[: end + len(END)]
    # Padding to an even length is no content.
    tail = stream[len(trimmed) :]
    padded = tail if not tail.strip(b"\0") and len(tail) < 2 else b""
    if stream.startswith(START_OF_JPEG):
        kept = b"".join(_jpeg(trimmed))
    elif stream.startswith(START_OF_JPEG_2000):
        found = _jpeg_2000(trimmed)
        if found is None:
            return None
        kept = found
    else:
        return None
    return kept + padded if kept == trimmed else kept + b"\0" * (len(kept) % 2)


def clean_streams(dataset: Dataset) -> bool:
    """Take out of an instance's encapsulated frames what is no part of their pictures.

    Args:
        dataset: the instance, which is changed.

    Returns:
        Whether it could be done; else the instance is as it was.
    """
    cleaned = [without_comments(frame) for frame in _frames(dataset)]
    frames = [frame for frame in cleaned if frame is not None]
    if not frames or len(frames) < len(cleaned):
        return False
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if name in dataset:
            del dataset[name]
    return True


def holds_comments(dataset: Dataset) -> bool:
    """Return whether encapsulated frames hold more than their pictures, or may."""
    return any(without_comments(frame) != frame for frame in _frames(dataset))


def _frames(dataset: Dataset) -> Iterator[bytes]:
    count = int(dataset.get("NumberOfFrames") or 1)
    return generate_frames(dataset.PixelData, number_of_frames=count)


def _jpeg(stream: bytes) -> Iterator[bytes]:
    """Yield the parts of a stream of JPEG or JPEG-LS that stay."""
    yield stream[:2]
    place = 2
    while place + 4 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in STANDALONE:
            yield stream[place : place + 2]
            place += 2
            continue
        if marker == SCAN:
            break
        after = place + 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
        segment = stream[place:after]
        place = after
        if marker == COMMENT:
            continue
        if marker in APPLICATION and not segment[4:].startswith(COLOURS):
            if segment[4:].startswith(JFIF):
                # Two bytes of its own length, and a thumbnail of no pixels.
                yield segment[:2] + b"\0\x10" + segment[4:16] + b"\0\0"
            continue
        yield segment
    yield from _scans(stream[place:])


def _scans(rest: bytes) -> Iterator[bytes]:
    """Yield coded data without comments between scans: within them no such marker can be."""
    mark = bytes((0xFF, COMMENT))
    while (found := rest.find(mark)) >= 0:
        yield rest[:found]
        rest = rest[found + 2 + int.from_bytes(rest[found + 2 : found + 4], "big") :]
    yield rest


def _jpeg_2000(stream: bytes) -> bytes | None:
    """Return a stream of JPEG 2000 without comments; None where one is in a part of a tile."""
    kept = [stream[:2]]
    place = 2
    while place + 4 <= len(stream) and stream[place + 1] != TILE_PART:
        after = place + 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
        if stream[place + 1] != COMMENT_OF_JPEG_2000:
            kept.append(stream[place:after])
        place = after
    kept.append(stream[place:])
    while place + 12 <= len(stream) and stream[place + 1] == TILE_PART:
        length = int.from_bytes(stream[place + 6 : place + 10], "big")
        header = place + 12
        while header + 4 <= len(stream) and stream[header + 1] != TILE_DATA:
            if stream[header + 1] == COMMENT_OF_JPEG_2000:
                return None
            header += 2 + int.from_bytes(stream[header + 2 : header + 4], "big")
        if not length:
            break
        place += length
    return b"".join(kept)

"""The pixels of a DICOM-SEG, frame by frame, as their bits and bytes are laid out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import parse_basic_offsets, parse_fragments
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from jipflow.images.pixels import DECODERS

LOSSLESS = (
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
)
"""Encapsulated syntaxes that change no value, and so no label."""
BITS = {"BINARY": (1, 8), "FRACTIONAL": (8,), "LABELMAP": (8, 16)}
"""Bits Allocated by Segmentation Type (PS3.3 table C.8.20-2), and what older objects have."""
INTERPRETATIONS = ("", "MONOCHROME2", "PALETTE COLOR")


def layout_flaw(dataset: Dataset) -> str:
    """Return what keeps the pixels of a segmentation from being what it says; empty where nothing.

    Args:
        dataset: a segmentation of a type in `BITS`.
    """
    kind, allocated = str(dataset.SegmentationType), int(dataset.BitsAllocated)
    stored = int(dataset.get("BitsStored") or allocated)
    highest = dataset.get("HighBit")
    interpretation = str(dataset.get("PhotometricInterpretation") or "")
    syntax = dataset.file_meta.TransferSyntaxUID
    if allocated not in BITS[kind]:
        listed = " or ".join(map(str, BITS[kind]))
        return f"a {kind} segmentation has {listed} bits a pixel, and it says {allocated}"
    if stored != allocated or (highest is not None and int(highest) != stored - 1):
        return (
            f"Bits Stored {stored} and High Bit {highest} do not fill the {allocated} bits of a "
            "pixel"
        )
    if int(dataset.get("PixelRepresentation") or 0) or int(dataset.get("SamplesPerPixel") or 1) > 1:
        return "its pixels are signed or coloured"
    if interpretation not in INTERPRETATIONS:
        return f"Photometric Interpretation {interpretation} does not say what is inside"
    if syntax.is_encapsulated and syntax not in LOSSLESS:
        return f"{syntax.name} may have changed its values, which are numbers and no intensities"
    return ""


def decoded(
    dataset: Dataset, frames: Sequence[int], shape: tuple[int, int], count: int
) -> Iterator[tuple[int, NDArray[np.unsignedinteger[Any]]]]:
    """Decode frames one by one.

    Args:
        dataset: the segmentation.
        frames: their numbers, from 0.
        shape: rows and columns.
        count: how many frames the functional groups describe.

    Yields:
        The number of a frame and its pixels.

    Raises:
        Exception: of any kind, where they cannot be decoded.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        yield from _native(dataset, frames, shape, count)
        return
    there = _compressed_frames(dataset)
    if there != count:
        raise ValueError(f"it has {there} compressed frames and describes {count}")
    found = get_decoder(syntax).iter_array(
        dataset, indices=frames, raw=True, decoding_plugin=DECODERS.get(syntax, "")
    )
    for frame, (pixels, _) in zip(frames, found, strict=True):
        yield frame, pixels.reshape(shape)


def _compressed_frames(dataset: Dataset) -> int:
    """Return how many frames encapsulated Pixel Data hold (PS3.5 section A.4).

    An offset table has one offset a frame; without one, each frame is one fragment.
    """
    if dataset.get("ExtendedOffsetTable"):
        return len(dataset.ExtendedOffsetTable) // 8
    with BytesIO(dataset.PixelData) as buffer:
        offsets = parse_basic_offsets(buffer)
        return len(offsets) or int(parse_fragments(buffer)[0])


def _native(
    dataset: Dataset, frames: Sequence[int], shape: tuple[int, int], count: int
) -> Iterator[tuple[int, NDArray[np.unsignedinteger[Any]]]]:
    """Read frames that are not compressed."""
    bits = int(dataset.BitsAllocated)
    data = _bytes_in_order(dataset)
    size = shape[0] * shape[1]
    needed = (count * size * bits + 7) // 8
    # Pixel Data has an even number of bytes (PS3.5 section 8.1.1).
    if len(data) != needed and len(data) != needed + needed % 2:
        raise ValueError(
            f"it has {len(data)} bytes of pixels where its frames, rows and columns take {needed}"
        )
    # Software that pads frames or segments to whole bytes may come out at the same length. A byte
    # that is added to an odd number says nothing: highdicom makes it 0x30.
    if bits == 1 and data[needed - 1] >> ((count * size - 1) % 8 + 1):
        raise ValueError("it has bits beyond its last pixel, as where each frame fills whole bytes")
    for frame in frames:
        if bits == 1:
            yield frame, _bits(data, frame, size).reshape(shape)
        else:
            kind = np.dtype(f"<u{bits // 8}")
            yield (
                frame,
                np.frombuffer(data, kind, size, frame * size * kind.itemsize).reshape(shape),
            )


def _bytes_in_order(dataset: Dataset) -> bytes:
    """Return Pixel Data with its bytes as in a little endian data set.

    Of words (OW), a big endian data set has the two bytes of each swapped, and with them 8 pixels
    of 1 bit or 1 of 8 bits (PS3.5 section 7.3 and 8.1.1, annex A.3).

    Raises:
        ValueError: the bytes are not known to be words or not, or are no whole words.
    """
    data: bytes = dataset.PixelData
    if dataset.file_meta.TransferSyntaxUID.is_little_endian:
        return data
    kind = dataset["PixelData"].VR
    words = {"OW": True, "OB": False}.get(kind)
    if words is None or len(data) % 2:
        raise ValueError(f"big endian pixels of VR {kind} in {len(data)} bytes have no known order")
    return np.frombuffer(data, ">u2").astype("<u2").tobytes() if words else data


def _bits(data: bytes, frame: int, count: int) -> NDArray[np.uint8]:
    """Return a frame of 1-bit pixels, which need not start at a byte (PS3.5 section 8.1.1)."""
    start = frame * count
    chunk = np.frombuffer(data, np.uint8)[start // 8 : (start + count + 7) // 8]
    return np.unpackbits(chunk, bitorder="little")[start % 8 : start % 8 + count]

"""Data sets that are deflated (PS3.5 annex A.5), which may become a thousand times as large."""

from __future__ import annotations

import zlib
from io import BytesIO

from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

STEP = 1 << 20
"""Bytes that are inflated at a time."""
START = 132
"""Where the file meta begins: behind preamble and prefix (PS3.10 section 7.1)."""


def is_within(content: bytes, most: int) -> bool:
    """Return whether a DICOM file has at most so many bytes once it is inflated.

    pydicom inflates the whole data set before it reads the first element.

    Args:
        content: the file (PS3.10); what is none, or cannot be inflated, holds nothing.
        most: bytes of the data set.
    """
    stream = BytesIO(content)
    stream.seek(START)
    try:
        meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return True
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        left, size = content[stream.tell() :], 0
        while left and not inflater.eof and size <= most:
            size += len(inflater.decompress(left, STEP))
            left = inflater.unconsumed_tail
    except MemoryError:
        raise
    except Exception:  # whatever pydicom's parser meets; what reads the file says what is wrong
        return True
    return size <= most

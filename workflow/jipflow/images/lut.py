"""The Modality LUT of an image (PS3.3 C.11.1): a table from stored values to the modality's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.images.bits import refused

ENTRIES = 2**16
"""How many entries 0 stands for in a LUT Descriptor, and the values of its 16 bits."""


def looked_up(path: Path, header: Dataset, stored: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return what a Modality LUT makes of stored values.

    Values below the first one that is mapped have the first entry, those above the last one the
    last entry. The first value that is mapped is signed as the pixels are (C.11.1.1), whatever the
    value representation of the descriptor, in which writers err.

    Args:
        path: the image's file.
        header: of the plane, with one item in its Modality LUT Sequence.
        stored: stored values.

    Raises:
        CaseFault: the table has another number of entries than its descriptor says.
    """
    item = header.ModalityLUTSequence[0]
    entries, first, _ = (int(value) % ENTRIES for value in item.LUTDescriptor)
    entries = entries or ENTRIES
    if int(header.PixelRepresentation) == 1 and first >= ENTRIES // 2:
        first -= ENTRIES
    table = _table(item, entries, header.file_meta.TransferSyntaxUID.is_little_endian)
    if len(table) != entries:
        raise refused(path, f"its Modality LUT has {len(table)} entries in place of {entries}")
    index = np.clip(stored.astype(np.int64) - first, 0, entries - 1)
    return table[index].astype(np.float64)


def _table(item: Dataset, entries: int, little: bool) -> NDArray[np.generic]:
    """Return LUT Data: words, or bytes where there are as many of them as entries."""
    data = item.LUTData
    if not isinstance(data, bytes):
        return np.asarray(data, np.int64).ravel() % ENTRIES
    if len(data) < 2 * entries:
        # An odd number of bytes has one more to be even.
        return np.frombuffer(data, "u1")[: entries if len(data) - entries == entries % 2 else None]
    return np.frombuffer(data, "<u2" if little else ">u2")

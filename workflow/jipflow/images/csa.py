"""The CSA header, in which Siemens' MR keeps what it has no public element for."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydicom.dataset import Dataset

from jipflow.images.private import private_value

CREATOR = "SIEMENS CSA HEADER"
GROUP, IMAGE = 0x0029, 0x10
"""Group of the CSA headers, and element of the one that is of the image."""
LONGEST = 1 << 20
"""Bytes of a header that are read; those of scanners are some ten thousand."""

DAMAGED = (
    struct.error,
    ValueError,
    TypeError,
    AssertionError,
    LookupError,
    AttributeError,
    NameError,
    OverflowError,
)
"""What nibabel raises, beside its own error, on bytes that are no such header."""


def csa_values(header: Dataset, name: str) -> Sequence[Any]:
    """Return the values of an item of the image's CSA header; none where it or the header lacks.

    Args:
        header: of an image plane.
        name: of the item, such as ``B_value``.
    """
    raw = private_value(header, GROUP, IMAGE, CREATOR)
    if not isinstance(raw, bytes) or len(raw) > LONGEST or name.encode() not in raw:
        return ()
    return tuple(_items(raw).get(name, ()))


@lru_cache(maxsize=64)
def _items(raw: bytes) -> Mapping[str, Sequence[Any]]:
    """Return the items of a CSA header by name; none of one that is damaged."""
    with warnings.catch_warnings():
        # nibabel warns of its readers of images, which are not used.
        warnings.simplefilter("ignore")
        from nibabel.nicom.csareader import CSAError, read
    try:
        _check_lengths(raw)
        return {name: tag["items"] for name, tag in read(raw)["tags"].items()}
    except (CSAError, *DAMAGED):
        return {}


def _check_lengths(raw: bytes) -> None:
    """Refuse a header by which nibabel's reader would go back, and read bytes again and again.

    That of the second kind, which begins with SV10, states the length of each item with a sign
    (https://nipy.org/nibabel/dicom/siemens_csa.html).

    Raises:
        ValueError: a length is below 0.
        struct.error: it breaks off.
    """
    if not raw.startswith(b"SV10"):
        return
    (tags,) = struct.unpack_from("<I", raw, 8)
    place = 16
    for _ in range(tags):
        (items,) = struct.unpack_from("<i", raw, place + 76)
        place += 84
        for _ in range(items):
            (length,) = struct.unpack_from("<i", raw, place + 4)
            if length < 0:
                raise ValueError(f"an item has {length} bytes")
            place += 16 + -(-length // 4) * 4

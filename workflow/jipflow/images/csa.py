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


class DamagedCsa(ValueError):
    """A CSA header cannot be parsed; the text says why."""


def csa_values(header: Dataset, name: str) -> Sequence[Any]:
    """Return the values of an item of the image's CSA header; none where it or the header lacks.

    Args:
        header: of an image plane.
        name: of the item, such as ``B_value``.
    """
    try:
        return tuple(csa_items(header, name).get(name, ()))
    except DamagedCsa:
        return ()


def csa_items(header: Dataset, *names: str) -> Mapping[str, Sequence[Any]]:
    """Return the values of the items of the image's CSA header by name.

    Args:
        header: of an image plane.
        names: of items; a header in which none of them is named is not parsed.

    Returns:
        The values; none where there is no header.

    Raises:
        DamagedCsa: the header cannot be parsed.
    """
    raw = private_value(header, GROUP, IMAGE, CREATOR)
    if not isinstance(raw, bytes) or not raw.strip(b"\0 "):
        return {}
    if names and not any(name.encode() in raw for name in names):
        return {}
    if len(raw) > LONGEST:
        raise DamagedCsa(f"it has {len(raw)} bytes")
    return _items(raw)


@lru_cache(maxsize=64)
def _items(raw: bytes) -> Mapping[str, Sequence[Any]]:
    """Return the items of a CSA header by name.

    Raises:
        DamagedCsa: it cannot be parsed.
    """
    with warnings.catch_warnings():
        # nibabel warns of its readers of images, which are not used.
        warnings.simplefilter("ignore")
        from nibabel.nicom import csareader
    try:
        _check_lengths(raw)
        tags = csareader.read(raw)["tags"]
    except (csareader.CSAError, *DAMAGED) as error:
        raise DamagedCsa(str(error) or type(error).__name__) from error
    return {str(name): tag["items"] for name, tag in tags.items()}


def _check_lengths(raw: bytes) -> None:
    """Refuse a CSA header by which nibabel's reader would go back, and read bytes again and again.

    That of the second kind, which begins with SV10, states the length of each item with a sign.

    Raises:
        ValueError: a length is below 0.
        struct.error: the header breaks off.
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

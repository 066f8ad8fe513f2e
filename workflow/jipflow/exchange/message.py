"""The message between site and hub: its members, its manifest, its bytes.

A bundle is a zip with four members. ``manifest.json`` names everything else and is canonical JSON
(RFC 8785); ``signatures.json`` holds the signatures of the manifest's bytes by the site's machine
and by the person who approved it. Members are stored, not compressed, with fixed attributes in a
fixed order, so that the same content is the same file to the last bit.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any

FORMAT = "jipflow-bundle-1"

ROUND = 1
"""The round that a release belongs to: analyses so far need one exchange."""

CONTENT = ("aggregates.json", "disclosure.json")
MEMBERS = ("manifest.json", "signatures.json", *CONTENT)

LIMITS = {
    "manifest.json": 16 * 1024,
    "signatures.json": 4 * 1024,
    "aggregates.json": 128 * 1024**2,
    "disclosure.json": 256 * 1024**2,
}
"""Most bytes of each member. A cell is about 300 bytes in either file."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_REGULAR_FILE = 0o100644 << 16
_UNIX = 3


def canonical(content: Any) -> bytes:
    """Return canonical JSON (RFC 8785): one content, one sequence of bytes."""
    import rfc8785

    return rfc8785.dumps(content)


def describe(data: bytes) -> dict[str, Any]:
    """Return what the manifest says about a file: its size and SHA-256."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def bundle_name(protocol: str, site: str, round_: int, attempt: int) -> str:
    """Return the file name of a bundle, such as ``demo-north-r01-a1.zip``."""
    return f"{protocol}-{site}-r{round_:02d}-a{attempt}.zip"


def pack(members: Mapping[str, bytes]) -> bytes:
    """Return the zip of a bundle.

    Args:
        members: content by name, exactly `MEMBERS`.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in MEMBERS:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = _UNIX
            info.external_attr = _REGULAR_FILE
            archive.writestr(info, members[name])
    return buffer.getvalue()

"""Pseudonyms: keyed hashes that only the holder of the site's secret can make again."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from jipflow.reasons import StageError

SECRET_BYTES = 32
PSEUDONYM_CHARACTERS = 16
"""80 bits of base32: among a million patients, a chance below 1e-12 that two share one."""


def site_secret(path: Path) -> bytes:
    """Read the site's secret; on first use make it, with mode 0600.

    Args:
        path: the secret file, 64 hexadecimal digits.

    Raises:
        StageError: others may read the file, or it is damaged.
    """
    path = Path(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _make_secret(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise StageError(f"{path}: others may read the site's secret; run: chmod 600 {path}")
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise StageError(
            f"{path}: is no secret of {SECRET_BYTES} bytes in hexadecimal; restore it from the "
            "backup. A new secret would give every case a new pseudonym."
        )
    return secret


def _make_secret(path: Path) -> None:
    """Write a new secret beside the path and link it there, so that no job ever sees half of it.

    Of several jobs that start at once the first one's secret stays.
    """
    descriptor, partial = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(SECRET_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        os.unlink(partial)


def pseudonym(secret: bytes, purpose: str, *parts: str) -> str:
    """Return the pseudonym of an identifier: HMAC-SHA256 (RFC 2104), in lower-case base32.

    Args:
        secret: from `site_secret`.
        purpose: ``patient`` or ``case``, so that pseudonyms of different things never meet.
        parts: what identifies the thing; the split into parts counts.
    """
    message = b"".join(
        len(part).to_bytes(8, "big") + part for part in (p.encode() for p in (purpose, *parts))
    )
    digest = hmac.new(secret, message, hashlib.sha256).digest()
    return base64.b32encode(digest).decode("ascii").lower()[:PSEUDONYM_CHARACTERS]

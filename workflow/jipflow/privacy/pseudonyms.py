"""Pseudonyms: keyed hashes that only the holder of the site's secret can make again.

A results folder keeps the secret's fingerprint, so that no other secret, and no new one in place of
one that is lost, gives the same patients other pseudonyms beside those that are there.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import stat
import string
import unicodedata
from contextlib import suppress
from pathlib import Path

from jipflow.files import read_json, write_json, write_new_private
from jipflow.privacy.rights import why_replaceable
from jipflow.reasons import StageError

FINGERPRINT = "identity.json"
"""Name of the file of a results folder that holds the fingerprint."""

SECRET_BYTES = 32
PSEUDONYM_CHARACTERS = 16
"""80 bits of base32: among a million patients, a chance below 1e-12 that two share one."""


def site_secret(path: Path, results: Path) -> bytes:
    """Read the site's secret; on first use make it, with mode 0600, and keep its fingerprint.

    Args:
        path: the secret file, 64 hexadecimal digits.
        results: folder for the results of all protocols.

    Raises:
        StageError: as by `check_secret`.
    """
    path = Path(path)
    check_secret(path, results)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _read_secret(path) is None:
        with suppress(FileExistsError):
            write_new_private(path, f"{secrets.token_hex(SECRET_BYTES)}\n".encode("ascii"))
    secret = _read_secret(path)
    if secret is None:
        raise StageError(f"{path} is a link to a file that does not exist; correct it.")
    if not (results / FINGERPRINT).is_file():
        write_json(results / FINGERPRINT, {"secret": fingerprint(secret)})
    return secret


def known_secret(path: Path) -> bytes:
    """Read the site's secret, which earlier stages have used.

    Args:
        path: the secret file.

    Raises:
        StageError: it is missing, others may read it, we may not, or it is damaged.
    """
    secret = _read_secret(Path(path))
    if secret is None:
        raise StageError(f"{path} is missing: restore it, or correct identity.secret_file.")
    return secret


def one_form(patient: str) -> str:
    """Return a PatientID in one form, however its letters are composed and whatever pads it.

    Unicode writes an umlaut as one character or as two (UAX #15); both are the same ID.
    """
    return unicodedata.normalize("NFC", patient.strip("\0" + string.whitespace)).strip()


def check_secret(path: Path, results: Path) -> None:
    """Check that a site's secret, if it has one yet, is that behind the results' pseudonyms.

    Args:
        path: the secret file.
        results: folder for the results of all protocols; need not be there.

    Raises:
        StageError: results are there, but not the secret that made their pseudonyms; others may
            read the file, we may not, or it is damaged.
    """
    kept = results / FINGERPRINT
    used = kept.is_file() or any(results.glob("*/cohort/assignment.tsv"))
    secret = _read_secret(path)
    if secret is None and used:
        raise StageError(
            f"{path} is missing, and the pseudonyms in {results} were made with it: restore it "
            "from the backup, correct identity.secret_file, or name new results."
        )
    if secret is not None and used and _kept(kept) != fingerprint(secret):
        raise StageError(
            f"The pseudonyms in {results} were made with another secret than {path}: restore that "
            "one, correct identity.secret_file, or name new results."
        )


def fingerprint(secret: bytes) -> str:
    """Return what distinguishes a secret without giving it away.

    HMAC-SHA256 (RFC 2104) of a constant, which is no identifier's message in `pseudonym`.
    """
    return hmac.new(secret, b"jipflow: fingerprint of the secret", hashlib.sha256).hexdigest()


def _kept(path: Path) -> str:
    """Return the fingerprint that results keep."""
    try:
        return str(read_json(path)["secret"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        raise StageError(
            f"{path} is missing or damaged, so that nothing says which secret made the pseudonyms "
            "beside it: restore it from a backup, or name new results."
        ) from None


def _read_secret(path: Path) -> bytes | None:
    """Read a site's secret; None where there is no such file."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StageError(
            f"{path}: the site's secret cannot be read ({error.strerror}); run as the account that "
            "owns it, or correct identity.secret_file."
        ) from None
    if mode & 0o077:
        raise StageError(f"{path}: others may read the site's secret; run: chmod 600 {path}")
    if why := why_replaceable(path):
        raise StageError(f"{path}: {why}")
    try:
        secret = bytes.fromhex(text.strip())
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise StageError(
            f"{path}: is no secret of {SECRET_BYTES} bytes in hexadecimal; restore it from the "
            "backup. A new secret would give every case a new pseudonym."
        )
    return secret


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


def pseudonym_uid(secret: bytes, uid: str) -> str:
    """Return the UID that stands for another one: HMAC-SHA256 as a UUID under the root 2.25.

    The UUID is of version 8, whose bits are free (RFC 9562 section 5.8; PS3.5 B.2).

    Args:
        secret: from `site_secret`.
        uid: without padding.
    """
    digest = hmac.new(secret, b"jipflow: uid\0" + uid.encode(), hashlib.sha256).digest()
    bits = int.from_bytes(digest[:16], "big")
    bits = bits & ~(0xF << 76) | 0x8 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    return f"2.25.{bits}"

"""Ed25519 keys of sites and approvers: made, read, shown and used."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from jipflow.files import write_new_private
from jipflow.privacy.rights import why_replaceable
from jipflow.reasons import StageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PUBLIC_KEY_PATTERN = r"^ed25519:[0-9a-f]{64}$"
SIGNATURE_PATTERN = r"^[0-9a-f]{128}$"

WEAK = tuple(
    bytes.fromhex(digits)
    for digits in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)
"""Points of small order, without the sign of their x: of such a key anyone can make signatures that
verify. As in libsodium's ge25519_has_small_order; see Chalkias, Garillot and Nikolaenko (2020,
"Taming the many EdDSAs", table 1)."""


class KeyFault(StageError):
    """A key file is missing, open to others, or holds no Ed25519 key."""


def new_key(path: Path) -> str:
    """Make a private key (RFC 8032) in a file that only its owner can read.

    Args:
        path: file to make, mode 0600; a missing folder is made with mode 0700.

    Returns:
        The public key, as `public_text` writes it.

    Raises:
        KeyFault: the file is there already. A key is never replaced: the hub's roster names it.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = Path(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        write_new_private(path, pem)
    except FileExistsError:
        raise KeyFault(f"{path} exists already; give another name or use that key.") from None
    return public_text(key)


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key made by `new_key`.

    Raises:
        KeyFault: the file is missing, is readable or writable by others than its owner, lies in a
            folder that others may write to, or holds no Ed25519 private key in PEM.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = Path(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise KeyFault(f"{path} is missing; make a key with: jipflow keys new {path}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise KeyFault(f"{path} is no file; name the file of a private key.")
    with os.fdopen(descriptor, "rb") as stream:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o077:
            raise KeyFault(
                f"{path} has mode {mode:04o}, so others may use the key; if nobody did: "
                f"chmod 600 {path}"
            )
        pem = stream.read()
    if why := why_replaceable(path):
        raise KeyFault(f"{path}: {why}")
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise KeyFault(f"{path} is not an unencrypted private key in PEM.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFault(f"{path} holds another kind of key than Ed25519.")
    return key


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key, and make it first where there is none.

    Of several jobs that start at once the first one's key stays.
    """
    if not Path(path).exists():
        try:
            new_key(path)
        except KeyFault:
            if not Path(path).exists():
                raise
    return load_key(path)


def public_text(key: Ed25519PrivateKey) -> str:
    """Return the public half as ``ed25519:`` and 64 lower-case hexadecimal digits.

    Hexadecimal, because a text then stands for one key and a key for one text.
    """
    return "ed25519:" + key.public_key().public_bytes_raw().hex()


def sign(key: Ed25519PrivateKey, message: bytes) -> str:
    """Return the signature of a message as 128 lower-case hexadecimal digits."""
    return key.sign(message).hex()


def is_weak(public: str) -> bool:
    """Return whether a public key is one for which no private key is needed (see `WEAK`)."""
    raw = bytearray.fromhex(public.removeprefix("ed25519:"))
    raw[31] &= 0x7F
    return bytes(raw) in WEAK


def verifies(public: str, signature: str, message: bytes) -> bool:
    """Return whether a signature of a message was made with the private half of a public key.

    Text that is no key or no signature verifies nothing, and neither does a weak key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if not (
        re.fullmatch(PUBLIC_KEY_PATTERN, public) and re.fullmatch(SIGNATURE_PATTERN, signature)
    ):
        return False
    if is_weak(public):
        return False
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public.removeprefix("ed25519:")))
    try:
        key.verify(bytes.fromhex(signature), message)
    except InvalidSignature:
        return False
    return True

"""Messages sealed for one recipient by age: who carries them learns no more than their size.

A machine has one key: it signs by Ed25519, and age takes its public half as an ``ssh-ed25519``
recipient (C2SP age specification, "The ssh-ed25519 recipient type"). That one key may do both is
shown by Thormarker (2021, "On using the same key pair for Ed25519 and an X25519 based KEM").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jipflow.exchange.refusals import Refusal, Refused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SUFFIX = ".age"
"""How the names of sealed messages end."""

MAGIC = b"age-encryption.org/v1\n"
"""How a sealed message begins."""


def seal(message: bytes, public: str) -> bytes:
    """Encrypt a message to the holder of a key; each time to other bytes.

    Args:
        message: any bytes.
        public: the recipient's key, as `jipflow.exchange.keys.public_text` writes it.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from pyrage import encrypt, ssh

    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public.removeprefix("ed25519:")))
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return bytes(encrypt(message, [ssh.Recipient.from_str(line.decode("ascii"))]))


def unseal(sealed: bytes, key: Ed25519PrivateKey) -> bytes:
    """Decrypt a message.

    Args:
        sealed: as `seal` returns it.
        key: of the recipient.

    Raises:
        Refused: it is no sealed message, is for another key, or was changed or cut short.
    """
    from cryptography.hazmat.primitives import serialization
    from pyrage import DecryptError, decrypt, ssh

    if not sealed.startswith(MAGIC):
        raise Refused(Refusal.NOT_SEALED)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    try:
        return bytes(decrypt(sealed, [ssh.Identity.from_buffer(private)]))
    except DecryptError as error:
        raise Refused(Refusal.OTHER_SEAL, str(error)) from None

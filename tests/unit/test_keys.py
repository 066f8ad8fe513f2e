"""Keys are private, stable and say who they are."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from jipflow.exchange import keys

# RFC 8032, section 7.1, test 2.
SECRET = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_a_new_key_is_private_and_stays(tmp_path):
    path = tmp_path / "secrets" / "site.key"
    shown = keys.new_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert keys.public_text(keys.load_key(path)) == shown
    assert keys.public_text(keys.load_or_create_key(path)) == shown


def test_a_key_is_never_replaced(tmp_path):
    path = tmp_path / "site.key"
    keys.new_key(path)
    before = path.read_bytes()
    with pytest.raises(keys.KeyFault, match="exists already"):
        keys.new_key(path)
    assert path.read_bytes() == before


def test_of_jobs_that_start_at_once_the_first_ones_key_is_that_of_all(tmp_path, monkeypatch):
    """The other job makes its key when this one has just seen that there is none."""
    path = tmp_path / "site.key"
    seen = Path.exists
    made = []

    def exists(self):
        found = seen(self)
        if not made:
            made.append(keys.new_key(path))
        return found

    monkeypatch.setattr(Path, "exists", exists)
    assert keys.public_text(keys.load_or_create_key(path)) == made[0]
    assert [p.name for p in tmp_path.iterdir()] == ["site.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_that_others_reach_is_refused(tmp_path, mode):
    path = tmp_path / "site.key"
    keys.new_key(path)
    path.chmod(mode)
    with pytest.raises(keys.KeyFault, match="chmod 600"):
        keys.load_key(path)


def test_a_folder_that_others_write_to_is_refused(tmp_path):
    path = tmp_path / "open" / "site.key"
    keys.new_key(path)
    path.parent.chmod(0o770)
    with pytest.raises(keys.KeyFault, match="chmod go-w"):
        keys.load_key(path)
    path.parent.chmod(0o777)
    with pytest.raises(keys.KeyFault, match="chmod go-w"):
        keys.load_key(path)


def test_a_missing_key_says_how_to_make_one(tmp_path):
    with pytest.raises(keys.KeyFault, match="jipflow keys new"):
        keys.load_key(tmp_path / "none.key")


def test_other_files_are_no_keys(tmp_path):
    path = tmp_path / "other.key"
    path.write_text("not a key")
    path.chmod(0o600)
    with pytest.raises(keys.KeyFault, match="PEM"):
        keys.load_key(path)
    other = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(other)
    with pytest.raises(keys.KeyFault, match="Ed25519"):
        keys.load_key(path)


def test_the_vector_of_rfc_8032():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SECRET))
    assert keys.public_text(key) == f"ed25519:{PUBLIC}"
    assert keys.sign(key, b"\x72") == SIGNATURE
    assert keys.verifies(f"ed25519:{PUBLIC}", SIGNATURE, b"\x72")


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize("point", [point.hex() for point in keys.WEAK])
def test_a_key_that_needs_no_private_half_verifies_nothing(point, sign):
    """The signature (R, S) = (1, 0) verifies any message for the key 1, and some for the others."""
    raw = bytearray.fromhex(point)
    raw[31] |= sign
    public, forged = f"ed25519:{raw.hex()}", "01" + "00" * 63
    assert keys.is_weak(public)
    assert not any(keys.verifies(public, forged, bytes([i])) for i in range(16))


def test_a_key_that_was_made_is_not_weak(tmp_path):
    assert not keys.is_weak(keys.new_key(tmp_path / "a.key"))


@pytest.mark.parametrize(
    ("public", "signature", "message"),
    [
        (f"ed25519:{PUBLIC}", SIGNATURE, b"\x73"),
        (f"ed25519:{PUBLIC}", "0" * 128, b"\x72"),
        (f"ed25519:{PUBLIC}", SIGNATURE.upper(), b"\x72"),
        (f"ed25519:{PUBLIC}", SIGNATURE + "\n", b"\x72"),
        (f"ed25519:{PUBLIC.upper()}", SIGNATURE, b"\x72"),
        (PUBLIC, SIGNATURE, b"\x72"),
        ("ed25519:" + "0" * 64, SIGNATURE, b"\x72"),
        ("", "", b""),
    ],
)
def test_what_is_not_right_verifies_nothing(public, signature, message):
    assert not keys.verifies(public, signature, message)

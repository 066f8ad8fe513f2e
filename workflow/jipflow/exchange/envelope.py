"""A message opened and verified as far as both ends do: its zip, its manifest, its signature."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from jipflow import archives
from jipflow.exchange.keys import verifies
from jipflow.exchange.message import (
    FILES,
    FRAME,
    LIMITS,
    WITHOUT_EXPONENT,
    FileName,
    Kind,
    Manifest,
    ProtocolVersion,
    Signature,
    canonical,
    checked,
    describe,
    digest,
    whole,
    zipped,
)
from jipflow.exchange.refusals import Refusal, Refused
from jipflow.settings.part import Part
from jipflow.settings.resources import ConfigError

P = TypeVar("P", bound=Part)

LARGEST_WHOLE = 2**63 - 1
LONGEST_WHOLE = len("-") + len(str(WITHOUT_EXPONENT)) - 1


@dataclass(frozen=True)
class Envelope:
    """A message that its sender has signed.

    Attributes:
        sha256: the hash that names it.
        manifest: what it says about itself.
        files: the files that the manifest names.
    """

    sha256: str
    manifest: Manifest
    files: Mapping[str, bytes]


def opened(raw: bytes, keys: Mapping[str, str] | None, kinds: Collection[Kind]) -> Envelope:
    """Open a message.

    The signature is checked before anything that it protects is interpreted further than its form.

    Args:
        raw: its bytes, unsealed.
        keys: public key of each sender that is known, by its id; None of a message that was
            verified when it came.
        kinds: that these may send.

    Raises:
        Refused: anything is not as it must be.
    """
    members = _open_zip(raw)
    manifest = _manifest(members["manifest.json"])
    if tuple(members) != (*FRAME, *FILES[manifest.kind]):
        raise Refused(Refusal.MANIFEST_INVALID, f"manifest.json: kind: {manifest.kind}")
    signature = _signature(members["signature.json"])
    if keys is not None:
        if manifest.sender not in keys:
            raise Refused(Refusal.UNKNOWN_SENDER, manifest.sender)
        if not verifies(keys[manifest.sender], signature.signature, members["manifest.json"]):
            raise Refused(Refusal.SENDER_SIGNATURE, manifest.sender)
    if manifest.kind not in kinds:
        raise Refused(Refusal.UNEXPECTED_KIND, manifest.kind)
    for name in FILES[manifest.kind]:
        if describe(members[name]) != manifest.files.get(name):
            raise Refused(Refusal.FILE_CHANGED, name)
    if len(manifest.files) != len(FILES[manifest.kind]):
        raise Refused(Refusal.MANIFEST_INVALID, "manifest.json: files")
    files = {str(name): members[name] for name in FILES[manifest.kind]}
    return Envelope(digest(raw), manifest, files)


def addressed(manifest: Manifest, *, recipient: str, protocol: ProtocolVersion) -> None:
    """Check that a message is for whom it has reached, and of the protocol there.

    Args:
        manifest: of the message.
        recipient: id of the hub or site that has it.
        protocol: the text of the protocol there.

    Raises:
        Refused: it is for another, or of another text of the protocol.
    """
    sent = manifest.protocol
    if manifest.recipient != recipient:
        detail = f"addressed to {manifest.recipient}, this is {recipient}"
        raise Refused(Refusal.WRONG_RECIPIENT, detail)
    if sent.id != protocol.id:
        raise Refused(Refusal.WRONG_PROTOCOL, f"of {sent.id}, here it is {protocol.id}")
    if sent != protocol:
        versions = f"version {sent.version}, here it is {protocol.version}"
        names = sorted(sent.parts.keys() | protocol.parts.keys())
        differing = [name for name in names if sent.parts.get(name) != protocol.parts.get(name)]
        what = ", ".join(differing) or "nothing that is named"
        raise Refused(Refusal.PROTOCOL_CHANGED, f"{versions}; what differs: {what}")


def content(model: type[P], files: Mapping[str, bytes], name: FileName, refusal: Refusal) -> P:
    """Return a file of a message as its model.

    Raises:
        Refused: with the refusal given; it is no strict JSON, or does not fit.
    """
    try:
        return checked(model, strict_json(files[name]), name)
    except (ValueError, ConfigError) as error:
        raise Refused(refusal, str(error)) from None


def strict_json(data: bytes) -> Any:
    """Parse JSON, refusing what parsers read differently or cannot write again.

    These are doubled keys, numbers that are not finite, whole numbers beyond 64 bits and halves of
    surrogate pairs (RFC 8259, sections 4, 6 and 8.2).

    Raises:
        ValueError: it is not such JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            raise ValueError("a key occurs twice")
        return content

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("a number is not finite")
        return number

    def bounded(text: str) -> int | float:
        number = whole(text) if len(text) <= LONGEST_WHOLE else LARGEST_WHOLE + 1
        if isinstance(number, int) and abs(number) > LARGEST_WHOLE:
            raise ValueError("a whole number is beyond 64 bits")
        return number

    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_int=bounded,
            parse_float=finite,
            parse_constant=finite,
        )
        # Bytes of UTF-8 hold no half: only an escape can.
        if b"\\u" in data:
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a surrogate pair") from None
    return content


def _open_zip(raw: bytes) -> dict[str, bytes]:
    """Return the members of a message's zip; refuse every other zip than `zipped` would write."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
            kind = _check_entries(entries)
            members = {}
            for entry in entries:
                try:
                    members[entry.filename] = archive.read(entry)
                except zipfile.BadZipFile:
                    raise Refused(Refusal.CORRUPT_MEMBER, entry.filename) from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError):
        raise Refused(Refusal.NOT_A_ZIP) from None
    if zipped(kind, members) != raw:
        raise Refused(Refusal.ZIP_NOT_CANONICAL)
    return members


def _check_entries(entries: Sequence[zipfile.ZipInfo]) -> Kind:
    """Check the members by their names and sizes; return the kind that has them."""
    names = [entry.filename for entry in entries]
    for name in names:
        if archives.climbs(name):
            raise Refused(Refusal.UNSAFE_PATH, repr(name))
    for name in names:
        if names.count(name) > 1:
            raise Refused(Refusal.DUPLICATE_MEMBER, repr(name))
        if name not in LIMITS:
            raise Refused(Refusal.UNEXPECTED_MEMBER, repr(name))
    kind = _kind(names)
    for entry in entries:
        if (
            entry.compress_type != zipfile.ZIP_STORED
            or entry.compress_size != entry.file_size
            or entry.flag_bits & 1
        ):
            raise Refused(Refusal.COMPRESSED_MEMBER, entry.filename)
        if entry.file_size > LIMITS[entry.filename]:
            raise Refused(Refusal.OVERSIZED_MEMBER, f"{entry.filename}: {entry.file_size} bytes")
    return kind


def _kind(names: Sequence[str]) -> Kind:
    """Return the kind of message that has members of these names."""
    expected = {kind: {*FRAME, *FILES[kind]} for kind in get_args(Kind)}
    for kind, needed in expected.items():
        if set(names) == needed:
            return kind
    nearest = min(expected.values(), key=lambda needed: len(needed.symmetric_difference(names)))
    for name in sorted(nearest.difference(names)):
        raise Refused(Refusal.MISSING_MEMBER, name)
    raise Refused(Refusal.UNEXPECTED_MEMBER, repr(sorted(set(names) - nearest)[0]))


def _manifest(data: bytes) -> Manifest:
    try:
        read = strict_json(data)
    except ValueError as error:
        raise Refused(Refusal.MANIFEST_NOT_JSON, str(error)) from None
    try:
        manifest = checked(Manifest, read, "manifest.json")
    except ConfigError as error:
        raise Refused(Refusal.MANIFEST_INVALID, str(error)) from None
    if canonical(manifest.plain()) != data:
        raise Refused(Refusal.MANIFEST_NOT_CANONICAL)
    return manifest


def _signature(data: bytes) -> Signature:
    try:
        signature = checked(Signature, strict_json(data), "signature.json")
    except (ValueError, ConfigError) as error:
        raise Refused(Refusal.SIGNATURE_INVALID, str(error)) from None
    if canonical(signature.plain()) != data:
        raise Refused(Refusal.SIGNATURE_INVALID)
    return signature

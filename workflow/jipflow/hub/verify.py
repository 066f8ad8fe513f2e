"""One bundle verified, from the outside to the inside."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from jipflow import archives
from jipflow.exchange.keys import verifies
from jipflow.exchange.message import (
    CONTENT,
    LIMITS,
    LISTED,
    MEMBERS,
    ROUND,
    ContentName,
    Manifest,
    Signatures,
    canonical,
    checked,
    describe,
    pack,
)
from jipflow.exchange.roster import find_member
from jipflow.hub.approvals import check_approvals
from jipflow.hub.check import Asked, check_contents
from jipflow.hub.refusals import Refusal, Refused
from jipflow.hub.settings import HubSettings
from jipflow.release.approval import Signed, signed_list
from jipflow.release.contents import Aggregates, Disclosure, formats
from jipflow.release.terms import analyses_sha256
from jipflow.settings.hub import Member
from jipflow.settings.part import Part
from jipflow.settings.resources import ConfigError

P = TypeVar("P", bound=Part)

LARGEST_WHOLE = 2**63 - 1


@dataclass(frozen=True)
class Verified:
    """A bundle that is beyond doubt.

    Attributes:
        manifest: what it says about itself.
        approvals: what persons at the site have stated.
        aggregates: its numbers.
        disclosure: the record of the site's gate.
    """

    manifest: Manifest
    approvals: list[Signed]
    aggregates: Aggregates
    disclosure: Disclosure


def verify(raw: bytes, settings: HubSettings) -> Verified:
    """Verify one bundle.

    Signatures are checked before anything that they protect is interpreted further than its form.

    Args:
        raw: bytes of the bundle.
        settings: of the hub.

    Raises:
        Refused: anything is not as it must be.
    """
    members = _open_zip(raw)
    manifest = _verified_manifest(members, settings.hub.roster)
    _check_addressing(manifest, settings)
    for name in LISTED:
        if describe(members[name]) != manifest.files[name]:
            raise Refused(Refusal.FILE_CHANGED, name)
    approvals = _approvals(members["approvals.json"])
    asked = Asked.by(settings.protocol)
    _check_sizes(members, asked)
    known = formats()
    aggregates = _content(known.aggregates, members, "aggregates.json", Refusal.AGGREGATES_INVALID)
    disclosure = _content(known.disclosure, members, "disclosure.json", Refusal.DISCLOSURE_INVALID)
    _check_headers(manifest, aggregates, disclosure)
    check_contents(aggregates, disclosure, asked)
    member = find_member(settings.hub.roster, manifest.sender)
    assert member is not None
    known_settings = analyses_sha256(settings.protocol)
    check_approvals(
        approvals,
        protocol=manifest.protocol,
        site=manifest.sender,
        recipient=manifest.recipient,
        round_=manifest.round,
        issued=manifest.issued,
        files={name: manifest.files[name] for name in CONTENT},
        analyses={sent.id: known_settings[sent.id] for sent in aggregates.analyses if sent.cells},
        member=member,
    )
    return Verified(manifest, approvals, aggregates, disclosure)


def _approvals(data: bytes) -> list[Signed]:
    try:
        approvals = signed_list(_strict_json(data), "approvals.json")
    except (ValueError, ConfigError) as error:
        raise Refused(Refusal.APPROVALS_INVALID, str(error)) from None
    if canonical([each.plain() for each in approvals]) != data:
        raise Refused(Refusal.APPROVALS_INVALID)
    return approvals


def _open_zip(raw: bytes) -> dict[str, bytes]:
    """Return the members of a bundle's zip; refuse every other zip than `pack` would write."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
            _check_entries(entries)
            members = {}
            for entry in entries:
                try:
                    members[entry.filename] = archive.read(entry)
                except zipfile.BadZipFile:
                    raise Refused(Refusal.CORRUPT_MEMBER, entry.filename) from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError):
        raise Refused(Refusal.NOT_A_ZIP) from None
    if pack(members) != raw:
        raise Refused(Refusal.ZIP_NOT_CANONICAL)
    return members


def _check_entries(entries: Sequence[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    for name in names:
        if archives.climbs(name):
            raise Refused(Refusal.UNSAFE_PATH, repr(name))
    for name in names:
        if names.count(name) > 1:
            raise Refused(Refusal.DUPLICATE_MEMBER, repr(name))
        if name not in MEMBERS:
            raise Refused(Refusal.UNEXPECTED_MEMBER, repr(name))
    for name in MEMBERS:
        if name not in names:
            raise Refused(Refusal.MISSING_MEMBER, name)
    for entry in entries:
        if (
            entry.compress_type != zipfile.ZIP_STORED
            or entry.compress_size != entry.file_size
            or entry.flag_bits & 1
        ):
            raise Refused(Refusal.COMPRESSED_MEMBER, entry.filename)
        if entry.file_size > LIMITS[entry.filename]:
            raise Refused(Refusal.OVERSIZED_MEMBER, f"{entry.filename}: {entry.file_size} bytes")


def _strict_json(data: bytes) -> Any:
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

    def whole(text: str) -> int:
        if len(text) > len(str(LARGEST_WHOLE)) or abs(int(text)) > LARGEST_WHOLE:
            raise ValueError("a whole number is beyond 64 bits")
        return int(text)

    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_int=whole,
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


def _verified_manifest(members: Mapping[str, bytes], roster: Sequence[Member]) -> Manifest:
    """Return the manifest after its signature has been verified by the roster's key."""
    signed = members["manifest.json"]
    try:
        content = _strict_json(signed)
    except ValueError as error:
        raise Refused(Refusal.MANIFEST_NOT_JSON, str(error)) from None
    try:
        manifest = checked(Manifest, content, "manifest.json")
    except ConfigError as error:
        raise Refused(Refusal.MANIFEST_INVALID, str(error)) from None
    if canonical(manifest.plain()) != signed:
        raise Refused(Refusal.MANIFEST_NOT_CANONICAL)
    signatures = _signatures(members["signatures.json"])
    sender = find_member(roster, manifest.sender)
    if sender is None:
        raise Refused(Refusal.UNKNOWN_SITE, manifest.sender)
    if not verifies(sender.key, signatures.site, signed):
        raise Refused(Refusal.SITE_SIGNATURE, manifest.sender)
    return manifest


def _signatures(data: bytes) -> Signatures:
    try:
        signatures = checked(Signatures, _strict_json(data), "signatures.json")
    except (ValueError, ConfigError) as error:
        raise Refused(Refusal.SIGNATURES_INVALID, str(error)) from None
    if canonical(signatures.plain()) != data:
        raise Refused(Refusal.SIGNATURES_INVALID)
    return signatures


def _check_addressing(manifest: Manifest, settings: HubSettings) -> None:
    here = settings.protocol.protocol
    if manifest.recipient != settings.hub.hub.id:
        detail = f"addressed to {manifest.recipient}, this hub is {settings.hub.hub.id}"
        raise Refused(Refusal.WRONG_RECIPIENT, detail)
    if manifest.protocol.id != here.id:
        raise Refused(Refusal.WRONG_PROTOCOL, f"of {manifest.protocol.id}, this hub has {here.id}")
    if manifest.protocol.sha256 != settings.protocol_sha256:
        versions = f"version {manifest.protocol.version}, the hub has {here.version}"
        parts = _differing(manifest.protocol.parts, settings.protocol_parts)
        raise Refused(Refusal.PROTOCOL_CHANGED, f"{versions}; what differs: {', '.join(parts)}")
    if manifest.protocol.parts != settings.protocol_parts:
        raise Refused(Refusal.HEADER_MISMATCH, "manifest.json: protocol.parts")
    if manifest.round != ROUND:
        raise Refused(Refusal.WRONG_ROUND, f"of {manifest.round}, this hub has {ROUND}")


def _differing(sent: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return the parts of the protocol that are not alike; none are given where all are."""
    names = sorted(sent.keys() | here.keys())
    return [name for name in names if sent.get(name) != here.get(name)] or ["nothing that is named"]


def _check_sizes(members: Mapping[str, bytes], asked: Asked) -> None:
    """Refuse files that are larger than any release of the protocol, before they are read."""
    most = asked.most_bytes()
    for name in CONTENT:
        if len(members[name]) > most:
            detail = f"{name}: {len(members[name])} bytes, the protocol's cells need at most {most}"
            raise Refused(Refusal.OVERSIZED_MEMBER, detail)


def _content(
    model: type[P], members: Mapping[str, bytes], name: ContentName, refusal: Refusal
) -> P:
    try:
        return checked(model, _strict_json(members[name]), name)
    except (ValueError, ConfigError) as error:
        raise Refused(refusal, str(error)) from None


def _check_headers(manifest: Manifest, aggregates: Aggregates, disclosure: Disclosure) -> None:
    claims = {
        "protocol": manifest.protocol,
        "site": manifest.sender,
        "recipient": manifest.recipient,
        "round": manifest.round,
        "version": manifest.version,
        "min_patients": aggregates.min_patients,
    }
    for name, content in zip(CONTENT, (aggregates, disclosure), strict=True):
        for key, value in claims.items():
            if getattr(content, key) != value:
                raise Refused(Refusal.HEADER_MISMATCH, f"{name}: {key}")
    if disclosure.aggregates_sha256 != manifest.files["aggregates.json"].sha256:
        raise Refused(Refusal.HEADER_MISMATCH, "disclosure.json: aggregates_sha256")

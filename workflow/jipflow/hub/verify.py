"""A site's release verified at the hub, from the outside to the inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jipflow.exchange.envelope import Envelope, addressed, content, opened, strict_json
from jipflow.exchange.message import CONTENT, Manifest, canonical
from jipflow.exchange.refusals import Refusal, Refused
from jipflow.exchange.roster import Roster, find_member
from jipflow.hub.approvals import check_approvals
from jipflow.hub.check import Asked, check_contents
from jipflow.hub.settings import HubSettings
from jipflow.release.approval import Signed, signed_list
from jipflow.release.contents import Aggregates, Disclosure, State, formats
from jipflow.release.terms import analyses_sha256
from jipflow.settings.resources import ConfigError


@dataclass(frozen=True)
class Open:
    """The round that releases are accepted for.

    Attributes:
        round: its number.
        roster: in force.
        state: what the hub asked for.
        previous: hash of the hub's last message to each site, which a release must follow.
        earlier: hashes of the messages to each site before that.
        ended: whether the rounds were ended.
    """

    round: int
    roster: Roster
    state: State
    previous: dict[str, str]
    earlier: dict[str, frozenset[str]]
    ended: bool = False


@dataclass(frozen=True)
class Verified:
    """A release that is beyond doubt.

    Attributes:
        envelope: the message.
        aggregates: its numbers.
        disclosure: the record of the site's gate.
        approvals: of the persons who approved it.
    """

    envelope: Envelope
    aggregates: Aggregates
    disclosure: Disclosure
    approvals: list[Signed]


def verify(raw: bytes, settings: HubSettings, now: Open) -> Verified:
    """Verify one message of a site.

    Args:
        raw: its bytes, unsealed.
        settings: of the hub.
        now: the round that is open.

    Raises:
        Refused: anything is not as it must be.
    """
    envelope = opened(raw, now.roster.keys(), ["release"])
    manifest, files = envelope.manifest, envelope.files
    addressed(manifest, recipient=settings.hub.hub.id, protocol=settings.text)
    _check_thread(manifest, now)
    asked = Asked.by(settings.protocol, now.round, now.state)
    _check_sizes(files, asked)
    known = formats()
    aggregates = content(known.aggregates, files, "aggregates.json", Refusal.AGGREGATES_INVALID)
    disclosure = content(known.disclosure, files, "disclosure.json", Refusal.DISCLOSURE_INVALID)
    _check_headers(manifest, aggregates, disclosure)
    check_contents(aggregates, disclosure, asked)
    approvals = _approvals(files["approvals.json"])
    member = find_member(now.roster.members, manifest.sender)
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
    return Verified(envelope, aggregates, disclosure, approvals)


def _approvals(data: bytes) -> list[Signed]:
    """Return the statements of the persons who approved a release."""
    try:
        approvals = signed_list(strict_json(data), "approvals.json")
    except (ValueError, ConfigError) as error:
        raise Refused(Refusal.APPROVALS_INVALID, str(error)) from None
    if canonical([each.plain() for each in approvals]) != data:
        raise Refused(Refusal.APPROVALS_INVALID)
    return approvals


def _check_thread(manifest: Manifest, now: Open) -> None:
    """Check that a release is of the round that is open, and follows what the hub said last."""
    if manifest.round != now.round:
        late = manifest.round < now.round
        detail = f"of round {manifest.round}, open is {now.round}"
        raise Refused(Refusal.LATE if late else Refusal.EARLY, detail)
    if manifest.roster != now.roster.sha256:
        raise Refused(Refusal.OTHER_ROSTER, f"in force is roster {now.roster.number}")
    if manifest.previous == now.previous.get(manifest.sender):
        return
    if manifest.previous in now.earlier.get(manifest.sender, ()):
        raise Refused(Refusal.OUT_OF_THREAD)
    raise Refused(Refusal.MISSING_BEFORE, "it follows a message that this hub has not sent")


def _check_sizes(files: Mapping[str, bytes], asked: Asked) -> None:
    """Refuse files that are larger than any release of the protocol, before they are read."""
    most = asked.most_bytes()
    for name in CONTENT:
        if len(files[name]) > most:
            detail = f"{name}: {len(files[name])} bytes, the protocol's cells need at most {most}"
            raise Refused(Refusal.OVERSIZED_MEMBER, detail)


def _check_headers(manifest: Manifest, aggregates: Aggregates, disclosure: Disclosure) -> None:
    claims = {
        "protocol": manifest.protocol,
        "site": manifest.sender,
        "recipient": manifest.recipient,
        "round": manifest.round,
        "version": manifest.version,
        "min_patients": aggregates.min_patients,
    }
    for name, found in zip(CONTENT, (aggregates, disclosure), strict=True):
        for key, value in claims.items():
            if getattr(found, key) != value:
                raise Refused(Refusal.HEADER_MISMATCH, f"{name}: {key}")
    if disclosure.aggregates_sha256 != manifest.files["aggregates.json"].sha256:
        raise Refused(Refusal.HEADER_MISMATCH, "disclosure.json: aggregates_sha256")

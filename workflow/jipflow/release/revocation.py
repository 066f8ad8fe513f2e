"""A person takes back, in writing, what they have approved: no later round leaves by it any more.

The audit trail keeps it, signed by the person's own key. It holds wherever it stands in the trail,
also before a line by which somebody has let the trail go on: it needs no chain to be the person's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from jipflow.exchange import keys
from jipflow.exchange.message import canonical, checked, digest, now_text
from jipflow.files import read_json, write_json
from jipflow.privacy.audit.decisions import Revocation
from jipflow.privacy.audit.events import ApprovalRevoked, Event
from jipflow.privacy.audit.trail import Trail, signed_lines
from jipflow.release.approval import NAME, Signed, Statement, signed_list
from jipflow.release.contents import ReleaseError, read_release
from jipflow.release.ledger import Kept
from jipflow.settings.resources import ConfigError

Revoked = Mapping[tuple[str, str], Revocation]
"""Revocations by the hash of the statement and the key of the person."""

NOBODY: Revoked = MappingProxyType({})
"""No revocation."""


@dataclass(frozen=True)
class TakenBack:
    """What a person has taken back.

    Attributes:
        statements: that hold no more.
        left: entries of the ledger that left by one of them.
    """

    statements: Sequence[Statement]
    left: Sequence[Kept]


def revoked_in(trail: Path) -> Revoked:
    """Return what persons have revoked by an audit trail, whole or not; nothing without a file."""
    facts = (line.facts for line in signed_lines(trail, Event.APPROVAL_REVOKED))
    return {
        (each.revocation.statement, each.revocation.key): each.revocation
        for each in facts
        if isinstance(each, ApprovalRevoked)
        and keys.verifies(each.revocation.key, each.signature, canonical(each.revocation.plain()))
    }


def why_revoked(signed: Sequence[Signed], revoked: Revoked) -> str:
    """Return who has revoked one of the statements, when and why, in a line; empty if nobody.

    One is enough: who has taken it back wants nothing to leave by it, whoever else approved it.
    """
    for each in signed:
        found = revoked.get(_named(each.statement))
        if found is not None:
            return (
                f"{found.person} revoked the approval of round {found.round} on "
                f"{found.issued[:10]}: {found.reason}"
            )
    return ""


def revoke(
    *,
    release_dir: Path,
    trail: Trail,
    entries: Sequence[Kept],
    name: str,
    key_file: Path,
    reason: str,
    now: datetime | None = None,
) -> TakenBack:
    """Take back each statement of a person that reaches the round of a release, for all its rounds.

    Statements are those beside the releases and those of the ledger, since a file may be gone.

    Args:
        release_dir: folder of the release that the person has read.
        trail: of the site.
        entries: of its ledger.
        name: the person's name, as in the approval.
        key_file: the person's private key.
        reason: why, in the person's words.
        now: time, the clock's by default.

    Raises:
        ReleaseError: there is no such approval, or it has been revoked.
        TrailFault: the trail is not as it was written; then nothing leaves either.
        ConfigError: name or reason is none.
        KeyFault: the key is missing or open to others.
    """
    header = read_release(release_dir).disclosure
    key = keys.load_key(key_file)
    person = (name, keys.public_text(key))
    files = {path: _listed(path) for path in sorted(release_dir.parent.glob(f"r*/{NAME}"))}
    packed = [kept.entry.release for kept in entries if kept.entry.release]
    known = [each for held in files.values() for each in held]
    known += [each for release in packed for each in release.approvals]
    own = {
        _named(each.statement): each.statement
        for each in known
        if (each.statement.person.name, each.statement.person.key) == person
        and each.statement.round <= header.round <= each.statement.last_round
        and each.statement.protocol.sha256 == header.protocol.sha256
    }
    earlier = revoked_in(trail.path)
    new = {named: statement for named, statement in own.items() if named not in earlier}
    if not new:
        was = " and is not revoked" if own else ""
        raise ReleaseError(
            f"Neither {release_dir.parent} nor the ledger has an approval by {name} with this key "
            f"that reaches round {header.round}{was}; give your name as the approval has it."
        )
    time = now_text((now or datetime.now(UTC)).astimezone(UTC))
    happened = []
    for (sha256, public), statement in new.items():
        content = {
            "person": name,
            "key": public,
            "reason": reason,
            "protocol": statement.protocol.id,
            "round": statement.round,
            "last_round": statement.last_round,
            "statement": sha256,
            "issued": time,
        }
        revocation = checked(Revocation, content, "revocation")
        signature = keys.sign(key, canonical(revocation.plain()))
        facts = {"revocation": revocation.plain(), "signature": signature}
        happened.append((Event.APPROVAL_REVOKED, facts))
    trail.record_all(happened)
    for path, listed in files.items():
        rest = [each for each in listed if _named(each.statement) not in own]
        if len(rest) < len(listed):
            _write(path, rest)
    left = [
        kept
        for kept in entries
        if kept.entry.release
        and any(_named(each.statement) in own for each in kept.entry.release.approvals)
    ]
    return TakenBack(list(new.values()), left)


def _named(statement: Statement) -> tuple[str, str]:
    """Return the hash of a statement, and the key of its person."""
    return digest(canonical(statement.plain())), statement.person.key


def _listed(path: Path) -> list[Signed]:
    """Return the statements of an ``approval.json``; none of a file that lets nothing leave."""
    try:
        return signed_list(read_json(path), str(path))
    except (ValueError, ConfigError):
        return []


def _write(path: Path, signed: Sequence[Signed]) -> None:
    if signed:
        write_json(path, [each.plain() for each in signed])
    else:
        path.unlink()

"""The messages of an inbox: which count, and why the others do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jipflow.analyses.contract import kinds
from jipflow.analyses.rules import Finding
from jipflow.exchange.inbox import messages, one_line, read_message
from jipflow.exchange.message import FILES, FRAME, LIMITS, digest
from jipflow.exchange.refusals import Refusal, Refused
from jipflow.exchange.sealing import unseal
from jipflow.hub.before import going_on
from jipflow.hub.check import Asked
from jipflow.hub.decisions import Accepted, RejectedBundle
from jipflow.hub.memory import Remembered, remember, remembered
from jipflow.hub.merge import merge
from jipflow.hub.settings import HubSettings
from jipflow.hub.verify import Open, verify
from jipflow.release.contents import Aggregates, Disclosure

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

OVERHEAD = 64 * 1024
"""Most bytes of a bundle beside its members."""

READ_ANYHOW = 16 * 1024**2
"""A bundle of so many bytes is read however few the protocol needs, so that one of another protocol
is refused as such."""


@dataclass(frozen=True)
class Sound:
    """A bundle that is beyond doubt, whether or not it counts.

    Attributes:
        file: its name in the inbox.
        sha256: its hash.
        site: who sent it.
        attempt: counts what the site sent in this round.
        message: what it says; None where that is not held.
        raw: its bytes, likewise.
    """

    file: str
    sha256: str
    site: str
    attempt: int
    message: Accepted | None
    raw: bytes

    @classmethod
    def of(cls, message: Accepted, raw: bytes) -> Sound:
        """Return a bundle with all that it says."""
        return cls(message.file, message.sha256, message.site, message.attempt, message, raw)

    def without_content(self) -> Sound:
        """Return what is known of it without what it says."""
        return replace(self, message=None, raw=b"")


@dataclass(frozen=True)
class Reader:
    """What a hub reads messages with.

    Attributes:
        settings: of the hub.
        now: the round that is open.
        key: of the hub's machine.
        settled: hashes of the messages that counted in earlier rounds.
        before: the numbers of the messages that counted in the round before, by site.
    """

    settings: HubSettings
    now: Open
    key: Ed25519PrivateKey
    settled: Collection[str] = ()
    before: Mapping[str, Aggregates] = field(default_factory=dict)

    @cached_property
    def largest(self) -> int:
        """Bytes that a file may have: a larger one is not read, to spare memory."""
        return largest_message(Asked.by(self.settings.protocol, self.now.round, self.now.state))


def accept(
    *, inbox: Path, received: Path, reader: Reader
) -> tuple[list[Accepted], list[RejectedBundle]]:
    """Verify every message of the inbox, and keep a copy of each that counts.

    A bad one is rejected as a whole and never stops the others. What was accepted once counts
    until a later attempt of the site is accepted, whether or not its file stays in the inbox, as
    long as it is still beyond doubt by the settings and the roster. The result is a function of the
    files in the two folders, of the settings and of the hub's thread alone: the same files give the
    same result again.

    Args:
        inbox: folder; its files ``*.age`` are the messages, their names do not matter.
        received: folder of the copies of the round: see `jipflow.hub.memory`.
        reader: what messages are read with.

    Returns:
        The messages that count sorted by site, and the rejected files sorted by name.

    Raises:
        OSError: a file cannot be read, which says nothing about what the site sent.
        MemoryError: likewise.
        MemoryFault: the copies are not as the hub left them.
    """
    latest = remembered(received)
    sound: dict[str, list[Sound]] = defaultdict(list)
    rejected: list[RejectedBundle] = []
    for path in messages(inbox):
        try:
            found = _examined(path, reader)
        except FileNotFoundError:
            continue
        if isinstance(found, RejectedBundle):
            rejected.append(found)
        elif found is not None:
            _hold(sound[found.site], found)
    if reader.now.ended:
        rejected += _after_the_end(sound, latest)
    known = {entry.sha256 for entry in rejected}
    counting: list[Accepted] = []
    for site in sorted(sound.keys() | latest.keys()):
        chosen, refused = _choose(sound[site], latest.get(site))
        rejected += refused
        if chosen is not None and chosen.message is not None:
            remember(received, site, chosen.attempt, chosen.raw)
            counting.append(chosen.message)
        elif site in latest:
            kept = _examined_copy(latest[site], sound[site], reader)
            if isinstance(kept, Accepted):
                counting.append(kept)
            elif kept.sha256 not in known:
                rejected.append(kept)
    return counting, sorted(rejected, key=lambda entry: entry.file)


def _after_the_end(
    sound: dict[str, list[Sound]], latest: Mapping[str, Remembered]
) -> list[RejectedBundle]:
    """Take away what came after the rounds were ended, and return it as rejected."""
    rejected = []
    for site, entries in sound.items():
        kept = latest[site].sha256 if site in latest else None
        new = [entry for entry in entries if entry.sha256 != kept]
        rejected += [RejectedBundle.of(e.file, e.sha256, Refusal.ENDED, "") for e in new]
        entries[:] = [entry for entry in entries if entry.sha256 == kept]
    return rejected


def _hold(entries: list[Sound], entry: Sound) -> None:
    """Add a bundle to those of its site, of which one at most keeps what it says.

    The others cannot count, and a member may send as many as there are attempts.
    """
    if all(other.attempt < entry.attempt for other in entries):
        entries[:] = [*(other.without_content() for other in entries), entry]
    else:
        entries.append(entry.without_content())


def largest_message(asked: Asked) -> int:
    """Return the bytes that a message may have.

    Args:
        asked: by the protocol.
    """
    needed = sum(min(LIMITS[name], asked.most_bytes()) for name in (*FRAME, *FILES["release"]))
    return max(READ_ANYHOW, needed + OVERHEAD)


def _examined(path: Path, reader: Reader) -> Sound | RejectedBundle | None:
    """Return the message in a file of the inbox, or why it is refused whatever others there are.

    None where it has counted in an earlier round.
    """
    found = None
    try:
        sealed = read_message(path, reader.largest)
        found = digest(sealed)
        raw = unseal(sealed, reader.key)
        found = digest(raw)
        if found in reader.settled:
            return None
        return Sound.of(_message(path.name, found, raw, reader), raw)
    except Refused as refused:
        return RejectedBundle.of(path.name, found, refused.refusal, refused.detail)
    except (OSError, MemoryError):
        raise
    # What a hostile file may raise in a parser cannot be listed; it must not stop the others.
    except Exception as error:
        return RejectedBundle.of(path.name, found, Refusal.UNREADABLE, type(error).__name__)


def _examined_copy(
    copy: Remembered, sound: Sequence[Sound], reader: Reader
) -> Accepted | RejectedBundle:
    """Return the message of a copy, or why it does not count by the settings of now.

    Args:
        copy: of the latest message of a site that was accepted.
        sound: the messages of the site in the inbox; this one is named after one with its bytes.
        reader: what messages are read with.
    """
    same = [entry for entry in sound if entry.sha256 == copy.sha256]
    for entry in same:
        if entry.message is not None:
            return entry.message
    name = same[0].file if same else copy.path.name
    try:
        return _message(name, copy.sha256, copy.read(), reader)
    except Refused as refused:
        return RejectedBundle.of(name, copy.sha256, refused.refusal, refused.detail)


def _kept(record: Disclosure) -> Disclosure:
    """Return what a round needs of a record that was verified; a hub has hundreds of them."""
    cells = [cell for cell in record.cells if not set(cell.rules.values()) <= set(Finding)]
    return record.model_copy(update={"cells": cells})


def _message(file: str, sha256: str, raw: bytes, reader: Reader) -> Accepted:
    """Return a message that can be verified, merged and drawn."""
    release = verify(raw, reader.settings, reader.now)
    manifest = release.envelope.manifest
    aggregates = release.aggregates
    left_out: list[str] = []
    if reader.now.round > 1:
        before = reader.before.get(manifest.sender)
        aggregates, left_out = going_on(aggregates, before, reader.settings.protocol)
    message = Accepted(
        file=one_line(file),
        sha256=sha256,
        site=manifest.sender,
        attempt=manifest.attempt,
        key=reader.now.roster.keys()[manifest.sender],
        approvals=[
            {
                "person": each.statement.person.name,
                "key": each.statement.person.key,
                "issued": each.statement.issued,
            }
            for each in release.approvals
        ],
        issued=manifest.issued,
        version=manifest.version,
        aggregates=aggregates,
        disclosure=_kept(release.disclosure),
        left_out=left_out,
    )
    alone = merge(
        accepted=[message],
        settings=reader.settings,
        round_=reader.now.round,
        state=reader.now.state,
    )
    for analysis in alone["analyses"]:
        kinds()[analysis["kind"]].draw_result(analysis, [message.site])
    return message


def _choose(
    sound: Sequence[Sound], accepted: Remembered | None
) -> tuple[Sound | None, list[RejectedBundle]]:
    """Return the bundle of a site that counts from now on, and why others of it do not.

    Args:
        sound: the bundles of the site in the inbox.
        accepted: the latest that was accepted before.

    Returns:
        None in place of a bundle where what was accepted before stands.
    """
    newest = max((entry.attempt for entry in sound), default=0)
    before = accepted.attempt if accepted else 0
    current = [entry for entry in sound if entry.attempt == newest > before]
    conflict = len({entry.sha256 for entry in current}) > 1
    chosen = current[0] if current and not conflict else None
    standing = _Standing(before, accepted.sha256 if accepted else "")
    if chosen is not None:
        standing = _Standing(newest, chosen.sha256)
    seen: set[str] = set()
    rejected = []
    for entry in sound:
        again = entry.sha256 in seen
        seen.add(entry.sha256)
        found = _outdated(entry, standing, max(newest, before), again=again)
        if found is not None:
            rejected.append(RejectedBundle.of(entry.file, entry.sha256, *found))
    return chosen, rejected


@dataclass(frozen=True)
class _Standing:
    """The attempt of a site that counts, and its hash; 0 where there is none."""

    attempt: int
    sha256: str


def _outdated(
    entry: Sound, standing: _Standing, last: int, *, again: bool
) -> tuple[Refusal, str] | None:
    """Return why a sound bundle does not count, None where it does.

    Args:
        entry: the bundle.
        standing: of its site.
        last: latest attempt of the site that was seen.
        again: whether another file of the inbox has its bytes.
    """
    if entry.sha256 == standing.sha256:
        return (Refusal.REPLAY, "the same bytes as another file") if again else None
    if entry.attempt < last:
        return Refusal.SUPERSEDED, f"attempt {last} of {entry.site} is there"
    detail = f"attempt {last} of {entry.site}; the site must send attempt {last + 1}"
    if standing.attempt == last:
        detail += ", for another one was accepted"
    return Refusal.ATTEMPT_CONFLICT, detail

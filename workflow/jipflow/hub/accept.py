"""The bundles of an inbox: which count, and why the others do not."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jipflow.analyses.contract import kinds
from jipflow.exchange.message import LIMITS
from jipflow.hub.check import Asked
from jipflow.hub.decisions import Accepted, RejectedBundle, one_line
from jipflow.hub.inbox import bundles
from jipflow.hub.memory import Remembered, remember, remembered
from jipflow.hub.merge import merge
from jipflow.hub.refusals import Refusal, Refused
from jipflow.hub.settings import HubSettings
from jipflow.hub.verify import verify
from jipflow.release.approval import names_of

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


def accept(
    *, inbox: Path, messages: Path, settings: HubSettings
) -> tuple[list[Accepted], list[RejectedBundle]]:
    """Verify every bundle of the inbox, and keep a copy of each that counts.

    A bad bundle is rejected as a whole and never stops the others. What was accepted once counts
    until a later attempt of the site is accepted, whether or not its file stays in the inbox, as
    long as it is still beyond doubt by the settings. The result is a function of the files in the
    two folders and of the settings alone: the same files give the same result again.

    Args:
        inbox: folder; its files ``*.zip`` are the bundles, their names do not matter.
        messages: folder of the copies, by protocol: see `jipflow.hub.memory`.
        settings: of the hub.

    Returns:
        The messages that count sorted by site, and the rejected files sorted by name.

    Raises:
        OSError: a file cannot be read, which says nothing about what the site sent.
        MemoryError: likewise.
        MemoryFault: the copies are not as the hub left them.
    """
    copies = messages / settings.protocol_sha256
    latest = remembered(copies)
    sound: dict[str, list[Sound]] = defaultdict(list)
    rejected: list[RejectedBundle] = []
    largest = largest_bundle(Asked.by(settings.protocol))
    for path in bundles(inbox):
        try:
            found = _examined(path, settings, largest)
        except FileNotFoundError:
            continue
        if isinstance(found, RejectedBundle):
            rejected.append(found)
        else:
            _hold(sound[found.site], found)
    known = {entry.sha256 for entry in rejected}
    counting: list[Accepted] = []
    for site in sorted(sound.keys() | latest.keys()):
        chosen, refused = _choose(sound[site], latest.get(site))
        rejected += refused
        if chosen is not None and chosen.message is not None:
            remember(copies, site, chosen.attempt, chosen.raw)
            counting.append(chosen.message)
        elif site in latest:
            kept = _examined_copy(latest[site], sound[site], settings, largest)
            if isinstance(kept, Accepted):
                counting.append(kept)
            elif kept.sha256 not in known:
                rejected.append(kept)
    return counting, sorted(rejected, key=lambda entry: entry.file)


def _hold(entries: list[Sound], entry: Sound) -> None:
    """Add a bundle to those of its site, of which one at most keeps what it says.

    The others cannot count, and a member may send as many as there are attempts.
    """
    if all(other.attempt < entry.attempt for other in entries):
        entries[:] = [*(other.without_content() for other in entries), entry]
    else:
        entries.append(entry.without_content())


def largest_bundle(asked: Asked) -> int:
    """Return the bytes that a bundle may have: a larger one is not read, to spare memory.

    Args:
        asked: by the protocol.
    """
    needed = sum(min(most, asked.most_bytes()) for most in LIMITS.values())
    return max(READ_ANYHOW, needed + OVERHEAD)


def _examined(path: Path, settings: HubSettings, largest: int) -> Sound | RejectedBundle:
    """Return the bundle in a file of the inbox, or why it is refused whatever others there are."""
    digest = None
    try:
        raw = _read_bundle(path, largest)
        digest = hashlib.sha256(raw).hexdigest()
        return Sound.of(_message(path.name, digest, raw, settings), raw)
    except Refused as refused:
        return RejectedBundle.of(path.name, digest, refused.refusal, refused.detail)
    except (OSError, MemoryError):
        raise
    # What a hostile file may raise in a parser cannot be listed; it must not stop the others.
    except Exception as error:
        return RejectedBundle.of(path.name, digest, Refusal.UNREADABLE, type(error).__name__)


def _examined_copy(
    copy: Remembered, sound: Sequence[Sound], settings: HubSettings, largest: int
) -> Accepted | RejectedBundle:
    """Return the message of a copy, or why it does not count by the settings of now.

    Args:
        copy: of the latest message of a site that was accepted.
        sound: the bundles of the site in the inbox; the message is named after one with its bytes.
        settings: of the hub.
        largest: bytes that a bundle may have.
    """
    same = [entry for entry in sound if entry.sha256 == copy.sha256]
    for entry in same:
        if entry.message is not None:
            return entry.message
    copy.read()
    found = _examined(copy.path, settings, largest)
    if isinstance(found, RejectedBundle):
        return found
    assert found.message is not None
    return replace(found.message, file=same[0].file) if same else found.message


def _message(file: str, digest: str, raw: bytes, settings: HubSettings) -> Accepted:
    """Return the message of a bundle that can be verified, merged and drawn."""
    bundle = verify(raw, settings)
    manifest = bundle.manifest
    message = Accepted(
        file=one_line(file),
        sha256=digest,
        site=manifest.sender,
        attempt=manifest.attempt,
        approver=names_of(bundle.approvals),
        issued=manifest.issued,
        version=manifest.version,
        aggregates=bundle.aggregates,
        disclosure=bundle.disclosure,
    )
    alone = merge(accepted=[message], settings=settings)
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


def _read_bundle(path: Path, largest: int) -> bytes:
    """Return the bytes of a file, whatever takes its place while it is looked at.

    Raises:
        Refused: it is no plain file, too large, or another account's that keeps it closed: a member
            may not stop the hub so.
        OSError: the hub's own machine does not give it.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise Refused(Refusal.NOT_A_FILE)
    try:
        # A pipe that came meanwhile would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise Refused(Refusal.NOT_A_FILE) from None
        if error.errno == errno.EACCES and found.st_uid != os.geteuid():
            raise Refused(Refusal.CLOSED_FILE, "chmod a+r, or have it sent again") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused(Refusal.NOT_A_FILE)
    with open(descriptor, "rb") as stream:
        raw = stream.read(largest + 1)
    if len(raw) > largest:
        raise Refused(Refusal.OVERSIZED_BUNDLE, f"more than {largest} bytes")
    return raw

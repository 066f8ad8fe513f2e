"""The hub's audit trail: what is noted of rounds, messages and results, and what may not lack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jipflow.exchange.message import digest
from jipflow.files import sha256_file
from jipflow.hub.decisions import Accepted, RejectedBundle
from jipflow.hub.memory import copies
from jipflow.hub.rounds import hub_thread
from jipflow.hub.settings import HubSettings
from jipflow.hub.thread import Thread
from jipflow.privacy.audit.at_hub import RoundOpened
from jipflow.privacy.audit.events import Event
from jipflow.privacy.audit.lines import Line, fault
from jipflow.privacy.audit.trail import Trail

Happened = tuple[Event, dict[str, Any]]


def hub_trail(settings: HubSettings) -> Trail:
    """Return the audit trail of a hub, of all its protocols."""
    identity = settings.hub.identity
    return Trail(
        Path(identity.audit_file), Path(identity.signing_key_file), Path(settings.hub.results)
    )


def record_thread(settings: HubSettings, thread: Thread) -> None:
    """Have the trail know every event of the thread and every message that follows from one.

    It is called before messages leave, so that nothing leaves beside a trail that is not whole.

    Raises:
        TrailFault: the trail is not as it was written, or lacks what it must have had.
        OSError: it cannot be written.
    """
    trail = hub_trail(settings)
    lines = trail.lines()
    known = {sha256 for line in lines for sha256 in _names(line)}
    events = list(zip(thread.hashes, _events(settings, thread), strict=True))
    missing = [sha256 for sha256, _ in events if sha256 not in known]
    # Of the last event a job that was killed may not have written the line.
    if events and events[0][0] in known and missing and missing != [events[-1][0]]:
        number = thread.hashes.index(missing[0]) + 1
        raise fault(trail.path, f"no entry is of event {number} in {thread.folder / 'events'}")
    new = [each for sha256, held in events if sha256 in missing for each in held]
    trail.record_all([*new, *_messages(settings, thread)])


def record_decisions(
    settings: HubSettings,
    round_: int,
    accepted: Iterable[Accepted],
    rejected: Iterable[RejectedBundle],
) -> None:
    """Note which messages of the inbox count, and why the others do not."""
    taken = [
        (
            Event.RELEASE_ACCEPTED,
            {
                **_about(settings, round_),
                "site": each.site,
                "attempt": each.attempt,
                "key": each.key,
                "message": each.sha256,
                "cells": sum(len(sent.cells) for sent in each.aggregates.analyses)
                + len(each.left_out),
                "left_out": len(each.left_out),
                "approvals": list(each.approvals),
            },
        )
        for each in accepted
    ]
    refused = [
        (
            Event.MESSAGE_REFUSED,
            {
                **_about(settings, round_),
                "file": digest(each.file.encode()),
                "message": each.sha256,
                "reason": each.reason,
            },
        )
        for each in rejected
    ]
    hub_trail(settings).record_all([*taken, *refused])


def record_result(
    settings: HubSettings, round_: int, accepted: Iterable[Accepted], result: Path
) -> None:
    """Note of which messages a result was made.

    Args:
        settings: of the hub.
        round_: the round.
        accepted: what it was made of.
        result: ``result.json``.
    """
    taken = sorted(accepted, key=lambda each: each.site)
    facts = {
        **_about(settings, round_),
        "sites": [each.site for each in taken],
        "messages": [each.sha256 for each in taken],
        "result": sha256_file(result),
    }
    hub_trail(settings).record(Event.ROUND_MERGED, facts)


def check_hub(path: Path, lines: Sequence[Line], settings: HubSettings) -> None:
    """Check that a trail and the hub's memory of a protocol know the same.

    Args:
        path: of the trail.
        lines: of it.
        settings: of the hub.

    Raises:
        TrailFault: an event or a message has no line, or a line is of one that is not there.
        ThreadFault: the memory is not as the hub left it.
        MemoryFault: likewise.
    """
    thread = hub_thread(settings)
    text = settings.protocol_sha256
    about = [line for line in lines if line.facts.plain().get("protocol_sha256") == text]
    there = _there(thread)
    noted = {sha256: line for line in about for sha256 in _names(line)}
    excused = lines[0].resumes if lines else False
    over = {
        f.round for f in (line.facts for line in about) if isinstance(f, RoundOpened) and f.over
    }
    for sha256, known in there.items():
        late = known.accepted and (excused or known.round in over)
        if sha256 not in noted and not late:
            raise fault(
                path,
                f"no entry is of {known.what} in {thread.folder}. If a job was killed, snakemake "
                "hub adds it",
            )
    for sha256, line in noted.items():
        if sha256 not in there:
            raise fault(
                path,
                f"entry {line.entry.number} is of what {thread.folder} does not have any more, as "
                "if an older copy had been put there; then it is that folder that must be restored",
            )


@dataclass(frozen=True)
class _Known:
    """Something that the hub's memory has: what, of which round, and whether a site sent it."""

    what: str
    round: int
    accepted: bool = False


def _there(thread: Thread) -> dict[str, _Known]:
    """Return what the hub's memory of a text of a protocol has, by its hash."""
    found = {
        sha256: _Known(f"event {number}", event.round)
        for number, (event, sha256) in enumerate(zip(thread.events, thread.hashes, strict=True), 1)
    }
    for site in sorted(thread.keys()):
        for sent in thread.messages(site):
            found[sent.sha256] = _Known(f"message {sent.number} to {site}", sent.round)
    for round_ in range(1, thread.round + 1):
        for kept in copies(thread.received(round_)):
            found[kept.sha256] = _Known(f"{kept.path.name}, accepted", round_, accepted=True)
    return found


def _names(line: Line) -> set[str]:
    """Return the hash of the event or message of the hub's memory that a line is of."""
    facts = line.facts.plain()
    if line.entry.event in {Event.ROSTER_CHANGED, Event.ROUND_OPENED, Event.ROUNDS_ENDED}:
        return {facts["event"]}
    if line.entry.event in {Event.MESSAGE_WRITTEN, Event.RELEASE_ACCEPTED}:
        return {facts["message"]}
    return set()


def _about(settings: HubSettings, round_: int) -> dict[str, Any]:
    text = settings.text
    return {"protocol": text.id, "protocol_sha256": text.sha256, "round": round_}


def _events(settings: HubSettings, thread: Thread) -> Iterator[list[Happened]]:
    """Yield the lines of each of a thread's events: roster, round, end."""
    before = ""
    for event, sha256 in zip(thread.events, thread.hashes, strict=True):
        about = {**_about(settings, event.round), "event": sha256, "issued": event.issued}
        roster, lines = event.roster, []
        if roster.sha256 != before:
            own = {"number": roster.number, "roster": roster.sha256, "because": roster.because}
            members = [member.plain() for member in roster.members]
            lines.append((Event.ROSTER_CHANGED, {**about, **own, "members": members}))
        if event.kind == "round":
            counts = {"sites": len(roster.members), "over": event.round < thread.round}
            lines.append((Event.ROUND_OPENED, {**about, "roster": roster.sha256, **counts}))
        if event.kind == "end":
            because = str(event.content["because"])
            lines.append((Event.ROUNDS_ENDED, {**about, "because": because}))
        before = roster.sha256
        yield lines


def _messages(settings: HubSettings, thread: Thread) -> Iterator[Happened]:
    """Yield the lines of the messages to the sites, each with the key that it is sealed to."""
    for known, key, _ in thread.outgoing(settings.outbox):
        yield (
            Event.MESSAGE_WRITTEN,
            {
                **_about(settings, known.round),
                "site": known.path.parent.name,
                "kind": known.kind,
                "message": known.sha256,
                "sealed_to": key,
            },
        )

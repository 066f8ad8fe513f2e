"""The rounds of a hub: opened, closed when every site has answered, and ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jipflow.analyses.contract import analyses_of
from jipflow.exchange.inbox import inbox_digest
from jipflow.exchange.message import End, checked, now_text
from jipflow.exchange.roster import FEWEST_SITES, first_roster, next_roster
from jipflow.files import canonical_digest
from jipflow.hub.accept import Reader
from jipflow.hub.before import answers
from jipflow.hub.decisions import Accepted
from jipflow.hub.memory import remembered
from jipflow.hub.merge import advance
from jipflow.hub.settings import HubSettings
from jipflow.hub.thread import Event, Thread
from jipflow.hub.verify import Open
from jipflow.reasons import StageError
from jipflow.release.contents import State, formats
from jipflow.settings.resources import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class RosterDiffers(StageError):
    """The roster of the settings is not the one in force."""


@dataclass(frozen=True)
class Outlook:
    """What a round waits for.

    Attributes:
        round: that is open, or the last one.
        sites: of the roster in force.
        missing: sites whose release has not been accepted.
        further: whether another round follows when all have answered.
        ended: why the rounds were ended; empty where they were not.
    """

    round: int
    sites: Sequence[str]
    missing: Sequence[str]
    further: bool
    ended: str = ""


def hub_thread(settings: HubSettings) -> Thread:
    """Return the hub's thread with its sites about the protocol's text of now."""
    folder = Path(settings.results) / "messages" / settings.protocol_sha256
    return Thread(folder, settings.hub.hub.id, settings.text)


def open_first(settings: HubSettings, thread: Thread, issued: str | None = None) -> None:
    """Open the first round where none was opened; check that the roster is the one in force.

    Raises:
        RosterDiffers: the settings have another roster than is in force.
        ConfigError: there are fewer than three sites, and the protocol has rounds.
    """
    members = settings.hub.roster
    if thread.roster is not None:
        if thread.roster.hub != thread.hub:
            raise RosterDiffers(
                f"the rounds were opened by the hub {thread.roster.hub}, and hub.id of the "
                f"settings is {thread.hub}; restore it, for the sites know this hub by it."
            )
        differing = sorted(
            {m.site for m in members if m not in thread.roster.members}
            | {m.site for m in thread.roster.members if m not in members}
        )
        if differing:
            raise RosterDiffers(
                f"the roster of the settings is not roster {thread.roster.number}, which is in "
                f"force; what differs: {', '.join(differing)}. Put it into force with: jipflow "
                "rounds roster ... --because WHY, or restore it."
            )
        return
    rounds = most_rounds(settings)
    if rounds > 1 and len(members) < FEWEST_SITES:
        raise ConfigError(
            f"the roster has {len(members)} sites, and a protocol of {rounds} rounds needs "
            f"{FEWEST_SITES}: of two, each could subtract its own numbers from what comes back."
        )
    time = issued or now_text()
    thread.add(
        Event(
            kind="round",
            round=1,
            version=settings.version,
            issued=time,
            roster=first_roster(settings.hub.hub.id, members, time),
            content={"protocol": settings.text.plain(), "round": 1, "analyses": []},
        )
    )


def hub_state(settings: HubSettings, thread: Thread) -> str:
    """Return the hash of what decides on what the hub says: its events, and what is not sent."""
    waiting = thread.waiting(settings.outbox)
    return canonical_digest([thread.digest(), waiting])


def accept_state(settings: HubSettings, thread: Thread) -> str:
    """Return the hash of what decides on what is accepted, beside the settings."""
    return canonical_digest([thread.digest(), inbox_digest(settings.inbox)])


def most_rounds(settings: HubSettings) -> int:
    """Return how many rounds the protocol's analyses may take."""
    return max((analysis.rounds for analysis in analyses_of(settings.protocol)), default=1)


def state_of(thread: Thread, round_: int) -> State:
    """Return what the hub asks for in a round that was opened."""
    return formats().state.model_validate(thread.state(round_))


def open_round(thread: Thread) -> Open:
    """Return the round that releases are accepted for.

    Raises:
        StageError: no round was opened.
    """
    roster = thread.roster
    if roster is None:
        raise StageError("No round was opened yet; run: snakemake hub")
    # What came before the end stays what it was.
    known = {
        site: [message.sha256 for message in thread.messages(site) if message.kind != "end"]
        for site in roster.sites
    }
    return Open(
        round=thread.round,
        roster=roster,
        state=state_of(thread, thread.round),
        previous={site: hashes[-1] for site, hashes in known.items() if hashes},
        earlier={site: frozenset(hashes[:-1]) for site, hashes in known.items()},
        ended=thread.end is not None,
    )


def check_round(thread: Thread, round_: int) -> None:
    """Check that the round that a run was planned for is the one that is open.

    Args:
        thread: of the hub.
        round_: that the run was planned for.

    Raises:
        StageError: it is another one, into which nothing may be written by this name.
    """
    if thread.round != round_:
        raise StageError(
            f"This run was planned for round {round_}, and round {thread.round} is open by "
            f"{thread.folder / 'events'}; run snakemake hub again."
        )


def reader(settings: HubSettings, thread: Thread, key: Ed25519PrivateKey) -> Reader:
    """Return what messages of the open round are read with."""
    now = open_round(thread)
    settled: set[str] = set()
    for earlier in range(1, now.round):
        folder = thread.received(earlier)
        settled.update(kept.sha256 for kept in remembered(folder).values())
    before = answers(thread.received(now.round - 1)) if now.round > 1 else {}
    return Reader(settings, now, key, settled, before)


def outlook(
    settings: HubSettings, thread: Thread, accepted: Collection[str], round_: int | None = None
) -> Outlook:
    """Return what a round waits for.

    Args:
        settings: of the hub.
        thread: of the hub.
        accepted: sites whose release counts.
        round_: of the releases; the one that is open by default.
    """
    sites = thread.roster.sites if thread.roster else [m.site for m in settings.hub.roster]
    round_ = round_ or max(thread.round, 1)
    end = thread.end
    return Outlook(
        round=round_,
        sites=sites,
        missing=[site for site in sites if site not in accepted],
        further=round_ < most_rounds(settings),
        ended=str(end.content["because"]) if end else "",
    )


def close(settings: HubSettings, thread: Thread, accepted: Sequence[Accepted], round_: int) -> bool:
    """Open the next round if every site has answered in this one and an analysis needs it.

    What it asks for is a pure function of this round's state and the messages sorted by site; so is
    its time, which is that of the latest of them. A round is closed once: a job that was stopped
    after that is tried again, and its messages are no answers to the round that it opened.

    Args:
        settings: of the hub.
        thread: of the hub.
        accepted: messages of the round.
        round_: the round.

    Returns:
        Whether a round was opened, now or before.
    """
    if thread.round > round_:
        return True
    waits = outlook(settings, thread, {entry.site for entry in accepted}, round_)
    if waits.missing or waits.ended:
        return False
    messages = sorted(accepted, key=lambda entry: entry.site)
    state = state_of(thread, waits.round)
    content = advance(accepted=messages, settings=settings, round_=waits.round, state=state)
    if content is None:
        return False
    assert thread.roster is not None
    issued = max([entry.issued for entry in messages] + [thread.events[-1].issued])
    thread.add(
        Event(
            kind="round",
            round=waits.round + 1,
            version=settings.version,
            issued=issued,
            roster=thread.roster,
            content=content,
        )
    )
    return True


def change_roster(settings: HubSettings, thread: Thread, because: str) -> Event:
    """Put the roster of the settings into force.

    Raises:
        ConfigError: it may not follow the one in force, or no round was opened.
        StageError: the rounds were ended.
    """
    before = thread.roster
    if before is None:
        raise StageError("No round was opened yet; snakemake hub opens it with this roster.")
    if thread.end is not None:
        raise StageError("The rounds of this protocol were ended; its roster changes no more.")
    issued = now_text()
    roster = next_roster(
        before, settings.hub.roster, because=because, issued=issued, round_=thread.round
    )
    event = Event(
        kind="roster",
        round=thread.round,
        version=settings.version,
        issued=issued,
        roster=roster,
        content={},
    )
    thread.add(event)
    return event


def end_rounds(settings: HubSettings, thread: Thread, because: str) -> Event:
    """End the rounds before they are over. What sites sent, and results made of it, stays.

    Raises:
        StageError: no round was opened, or they were ended before.
        ConfigError: the reason is none.
    """
    if thread.roster is None:
        raise StageError("No round was opened yet; there is nothing to end.")
    if thread.end is not None:
        raise StageError(f"The rounds were ended before: {thread.end.content['because']}")
    end = checked(End, {"because": because}, "--because")
    event = Event(
        kind="end",
        round=thread.round,
        version=settings.version,
        issued=now_text(),
        roster=thread.roster,
        content=end.plain(),
    )
    thread.add(event)
    return event

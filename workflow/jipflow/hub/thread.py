"""What a hub has sent to its sites, and what it has in force: rosters, rounds, and their end.

A hub's thread with its sites about one text of a protocol is a list of events: a round was opened,
the roster was changed, the rounds were ended. Each is a file that is written once, has its hash in
its name and names the hash of the one before; all messages follow from them, so that a hub that was
killed says the rest when it runs again, with the same bytes, whichever version it runs by then.
What sites sent and was accepted lies beside, by round (`jipflow.hub.memory`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jipflow.exchange.message import (
    FILES,
    FIRST,
    FORMAT,
    Kind,
    Manifest,
    ProtocolVersion,
    Round,
    Sha256,
    Time,
    Version,
    canonical,
    checked,
    describe,
    digest,
    pack,
    whole,
)
from jipflow.exchange.roster import Roster
from jipflow.exchange.sealing import SUFFIX, seal
from jipflow.files import atomic_path, canonical_digest, read_json, sha256_file, write_json
from jipflow.reasons import StageError
from jipflow.settings.part import Part
from jipflow.settings.resources import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

EVENT = re.compile(
    r"(?P<number>[0-9]{4})-(?P<kind>round|roster|end)-r(?P<round>[0-9]{2})-(?P<sha256>[0-9a-f]{64})\.json"
)
OUT = re.compile(
    r"(?P<number>[0-9]{4})-(?P<kind>round|roster|end)-r(?P<round>[0-9]{2})-(?P<sha256>[0-9a-f]{64})\.zip"
)


class ThreadFault(StageError):
    """What the hub sent before is not as it left it."""


class Event(Part):
    """Something that the hub did, of which its sites hear."""

    format: Literal["jipflow-event-1"] = "jipflow-event-1"
    kind: Literal["round", "roster", "end"]
    round: Round
    """The round that is opened, or open."""
    version: Version
    """jipflow's version that its messages name, whichever one writes them."""
    issued: Time
    roster: Roster
    """In force from then on."""
    content: dict[str, Any]
    """Of ``state.json`` where a round is opened, of ``end.json`` where the rounds are ended."""
    previous: Sha256 = FIRST
    """Hash of the event before, of its file; `Thread.add` writes it."""

    def file(self) -> tuple[str, dict[str, Any]] | None:
        """Return name and content of the file that only this kind of message has."""
        names = {"round": "state.json", "end": "end.json"}
        return (names[self.kind], self.content) if self.kind in names else None


@dataclass(frozen=True)
class HubMessage:
    """A message to a site.

    Attributes:
        number: of its event.
        kind: of the message.
        round: that it opens, or that was open.
        sha256: the hash that names it.
        path: of its bytes.
    """

    number: int
    kind: Kind
    round: int
    sha256: str
    path: Path

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            ThreadFault: they are others than those that were written.
        """
        raw = self.path.read_bytes()
        if digest(raw) != self.sha256:
            raise ThreadFault(f"{self.path} was changed; restore it from a backup.")
        return raw


class Thread:
    """A hub's memory of its thread with the sites about one text of a protocol.

    Args:
        folder: of the memory; it need not be there.
        hub: id of the hub.
        protocol: the text of the protocol.
    """

    def __init__(self, folder: Path, hub: str, protocol: ProtocolVersion) -> None:
        self.folder = Path(folder)
        self.hub = hub
        self.protocol = protocol

    @cached_property
    def events(self) -> list[Event]:
        """The events in their order.

        Raises:
            ThreadFault: one is missing, or not as it was written.
        """
        found: list[Event] = []
        before = FIRST
        for path in sorted((self.folder / "events").glob("[!.]*")):
            again = f"restore {path.parent} from a backup."
            name = EVENT.fullmatch(path.name)
            if name is None or int(name["number"]) != len(found) + 1:
                raise ThreadFault(f"{path} does not follow the event before it; {again}")
            if sha256_file(path) != name["sha256"]:
                raise ThreadFault(f"{path} was changed; {again}")
            try:
                content = json.loads(path.read_bytes(), parse_int=whole)
                event = checked(Event, content, str(path))
            except (ValueError, ConfigError) as error:
                raise ThreadFault(f"{path} is not as it was written: {error}; {again}") from None
            if (event.kind, event.round) != (name["kind"], int(name["round"])):
                raise ThreadFault(f"{path} is another event; {again}")
            if event.previous != before:
                raise ThreadFault(f"{path} does not follow the event before it; {again}")
            before = name["sha256"]
            found.append(event)
        return found

    @property
    def hashes(self) -> list[str]:
        """The hash of each event, of its file."""
        return [digest(_written(event)) for event in self.events]

    @property
    def files(self) -> list[Path]:
        """The file of each event."""
        return [self._file(number, event) for number, event in enumerate(self.events, 1)]

    def _file(self, number: int, event: Event) -> Path:
        name = f"{number:04d}-{event.kind}-r{event.round:02d}-{digest(_written(event))}.json"
        return self.folder / "events" / name

    @property
    def round(self) -> int:
        """The round that is open, or the last one; 0 where none was opened."""
        return self.events[-1].round if self.events else 0

    @property
    def roster(self) -> Roster | None:
        """The roster in force; None where no round was opened."""
        return self.events[-1].roster if self.events else None

    @property
    def end(self) -> Event | None:
        """The event that ended the rounds; None where none did."""
        last = self.events[-1] if self.events else None
        return last if last and last.kind == "end" else None

    def state(self, round_: int) -> dict[str, Any]:
        """Return the content of ``state.json`` of a round that was opened."""
        opened = (e for e in self.events if e.kind == "round" and e.round == round_)
        return next(opened).content

    def received(self, round_: int) -> Path:
        """Return the folder of what was accepted in a round."""
        return self.folder / "in" / f"r{round_:02d}"

    def add(self, event: Event) -> None:
        """Add an event, which is then in force."""
        number = len(self.events) + 1
        before = _written(self.events[-1]) if self.events else b""
        linked = event.model_copy(update={"previous": digest(before) if before else FIRST})
        with atomic_path(self._file(number, linked)) as partial:
            partial.write_bytes(_written(linked))
        del self.events

    def messages(self, site: str) -> list[HubMessage]:
        """Return the messages to a site, in their order.

        Raises:
            ThreadFault: a file that the hub did not write, or of an event that is not there.
        """
        found = []
        for path in sorted((self.folder / "out" / site).glob("[!.]*")):
            name = OUT.fullmatch(path.name)
            if name is None:
                raise ThreadFault(f"{path} is no message of this hub; move it away.")
            kind: Any = name["kind"]
            number, round_ = int(name["number"]), int(name["round"])
            of = self.events[number - 1] if 0 < number <= len(self.events) else None
            if of is None or (of.kind, of.round) != (kind, round_):
                raise ThreadFault(
                    f"{path} is of an event that is not in {self.folder / 'events'}; restore "
                    f"{self.folder} from a backup."
                )
            found.append(HubMessage(number, kind, round_, name["sha256"], path))
        return found

    def speak(self, key: Ed25519PrivateKey) -> list[HubMessage]:
        """Write the messages that follow from the events and are not there yet.

        Args:
            key: of the hub's machine.

        Returns:
            The new messages.
        """
        made = []
        for number, event in enumerate(self.events, 1):
            for site in self._hears(number):
                known = self.messages(site)
                if any(message.number == number for message in known):
                    continue
                before = [message.sha256 for message in known if message.number < number]
                raw = self._message(event, site, before[-1] if before else FIRST, key)
                name = f"{number:04d}-{event.kind}-r{event.round:02d}-{digest(raw)}.zip"
                path = self.folder / "out" / site / name
                with atomic_path(path) as partial:
                    partial.write_bytes(raw)
                made.append(HubMessage(number, event.kind, event.round, digest(raw), path))
        return made

    def _hears(self, number: int) -> list[str]:
        """Return the sites that hear of an event: those of its roster, and those it drops."""
        event = self.events[number - 1]
        before = self.events[number - 2].roster.sites if number > 1 else []
        dropped = before if event.kind == "roster" else []
        return sorted({*event.roster.sites, *dropped})

    def _message(self, event: Event, site: str, previous: str, key: Ed25519PrivateKey) -> bytes:
        known = {"roster.json": event.roster.canonical()}
        own = event.file()
        if own is not None:
            known[own[0]] = canonical(own[1])
        files = {name: known[name] for name in FILES[event.kind]}
        manifest = Manifest(
            format=FORMAT,
            kind=event.kind,
            protocol=self.protocol,
            version=event.version,
            round=event.round,
            attempt=1,
            sender=self.hub,
            recipient=site,
            previous=previous,
            roster=event.roster.sha256,
            issued=event.issued,
            files={name: describe(data) for name, data in files.items()},
        )
        return pack(manifest, key, files)

    def keys(self) -> dict[str, str]:
        """Return the key of each site that ever was on a roster, the latest of each."""
        return {site: key for event in self.events for site, key in event.roster.keys().items()}

    def outgoing(self, outbox: Path) -> Iterator[tuple[HubMessage, str, Path]]:
        """Yield each message to each site, the site's key, and where it is sent from.

        A site takes a message only after the one before it, which may have been lost on its way or
        with the site's machine. The name of a file depends on the key that it is sealed to: what
        was sealed to a key that is replaced can be opened by nobody.

        Args:
            outbox: folder that has one a site.
        """
        for site, key in sorted(self.keys().items()):
            for known in self.messages(site):
                named = digest(f"{known.sha256} {key}".encode())[:16]
                yield known, key, outbox / site / f"{self.protocol.id}-{self.hub}-{named}{SUFFIX}"

    def send(self, outbox: Path) -> list[Path]:
        """Put the messages to each site, sealed, into the outbox where they are not there whole.

        One that got lost on its way, or was cut short there, is sent again so.

        Returns:
            The new files.

        Raises:
            ThreadFault: a message is not as it was written.
        """
        made = []
        for known, key, path in self.outgoing(outbox):
            if self._is_whole(path):
                continue
            sealed = seal(known.read(), key)
            # First the note: a whole file always has one, and is not written again.
            write_json(self._note(path), {"bytes": len(sealed), "sha256": digest(sealed)})
            _make_passable(path.parent, outbox)
            with atomic_path(path) as partial:
                partial.write_bytes(sealed)
                # Whoever carries it may have another account, and reads nothing of what is sealed.
                partial.chmod(0o644)
            made.append(path)
        return made

    def _note(self, path: Path) -> Path:
        """Return the file that keeps what a message became when it was sealed."""
        return self.folder / "sealed" / path.parent.name / f"{path.stem}.json"

    def _is_whole(self, path: Path) -> bool:
        """Return whether a sealed message lies in the outbox as it was sealed."""
        try:
            known = read_json(self._note(path))
            found = {"bytes": path.stat().st_size, "sha256": known["sha256"]}
            return bool(found == known and sha256_file(path) == known["sha256"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False

    def waiting(self, outbox: Path) -> list[str]:
        """Return the names of messages that `send` would put into the outbox."""
        return [path.name for _, _, path in self.outgoing(outbox) if not self._is_whole(path)]

    def digest(self) -> str:
        """Return the hash of all events."""
        return canonical_digest([event.plain() for event in self.events])


def _make_passable(folder: Path, outbox: Path) -> None:
    """Make the folder of a site's messages, whatever the umask, so that others can carry them."""
    outbox.parent.mkdir(parents=True, exist_ok=True)
    for each in (outbox, folder):
        if not each.is_dir():
            each.mkdir()
            each.chmod(0o755)


def _written(event: Event) -> bytes:
    """Return the bytes of an event's file."""
    return canonical(event.plain())

"""What the hub has sent to a site: the round that is open, what it asks for, and the roster.

The hub's messages about one text of a protocol are a thread. Those that were accepted are kept in
their order; each names the one before it. So what stands is a function of them alone, and a message
that is late, forged, repeated or of another thread changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from jipflow.exchange.envelope import Envelope, addressed, content, opened
from jipflow.exchange.inbox import inbox_digest, messages, one_line, read_message
from jipflow.exchange.keys import load_or_create_key
from jipflow.exchange.message import (
    FIRST,
    LIMITS,
    End,
    Kind,
    ProtocolVersion,
    Round,
    Sha256,
    checked,
)
from jipflow.exchange.refusals import Refusal, Refused
from jipflow.exchange.roster import FEWEST_SITES, Roster, follows
from jipflow.exchange.sealing import unseal
from jipflow.files import atomic_path, canonical_digest, json_text, read_json, write_json
from jipflow.reasons import StageError
from jipflow.release.contents import State, formats, protocol_text
from jipflow.release.ledger import LAST, site_ledger
from jipflow.settings.part import Id, Part
from jipflow.settings.run import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEPT = re.compile(
    r"(?P<number>[0-9]{4})-(?P<kind>round|roster|end)-r[0-9]{2}-(?P<sha256>[0-9a-f]{64})\.zip"
)
HUBS: tuple[Kind, ...] = ("round", "roster", "end")
"""Kinds of messages that a hub sends."""

LARGEST = sum(LIMITS.values())
"""Bytes of the largest message that is read."""


class RoundFault(StageError):
    """The hub's messages that were accepted are not as they were kept."""


class RefusedMessage(Part):
    """A file of the inbox that does not count."""

    file: str
    reason: str
    """Code of the `Refusal`."""
    meaning: str
    detail: str


class Standing(Part):
    """Where a site stands in its thread with the hub."""

    hub: Id
    protocol: ProtocolVersion
    round: Round = 1
    """The round that is open; the first one before any message has come."""
    previous: Sha256 = FIRST
    """Hash of the hub's last message; `FIRST` where none has come."""
    roster: Roster | None = None
    """In force; None where no message has come."""
    ended: Annotated[str, Field(max_length=500)] | None = None
    """Why the hub has ended the rounds, in its words; None where it has not."""
    refused: list[RefusedMessage] = Field(default=[])

    @property
    def heard(self) -> bool:
        """Whether any message of the hub has come."""
        return self.previous != FIRST


@dataclass(frozen=True)
class Site:
    """Who receives.

    Attributes:
        id: of the site.
        hub: id of the hub.
        hub_key: public key of the hub that the settings name; None where they name none.
        key: of the site's machine.
        protocol: the text of the protocol.
        sent: rounds in which the site has packed a release.
    """

    id: str
    hub: str
    hub_key: str | None
    key: Ed25519PrivateKey
    protocol: ProtocolVersion
    sent: Collection[int] = ()


@dataclass(frozen=True)
class Heard:
    """A message of the hub that is in its form.

    Attributes:
        file: its name in the inbox, or in the thread.
        raw: its bytes.
        envelope: the message.
        roster: that it names; None where it ends the rounds.
        state: that it opens a round with; None otherwise.
        end: why the rounds end; None otherwise.
    """

    file: str
    raw: bytes
    envelope: Envelope
    roster: Roster | None = None
    state: State | None = None
    end: End | None = None

    @classmethod
    def of(cls, file: str, raw: bytes, envelope: Envelope) -> Heard:
        """Return a message with what its files say.

        Raises:
            Refused: a file does not fit its form.
        """
        manifest, files = envelope.manifest, envelope.files
        roster = state = end = None
        if "roster.json" in files:
            roster = content(Roster, files, "roster.json", Refusal.ROSTER_INVALID)
            if roster.sha256 != manifest.roster or roster.hub != manifest.sender:
                raise Refused(Refusal.ROSTER_INVALID, "it is not the one that the manifest names")
        if manifest.kind == "round":
            state = content(formats().state, files, "state.json", Refusal.STATE_INVALID)
            if (state.round, state.protocol) != (manifest.round, manifest.protocol):
                raise Refused(Refusal.STATE_INVALID, "it contradicts the manifest")
        if manifest.kind == "end":
            end = content(End, files, "end.json", Refusal.END_INVALID)
        return cls(file, raw, envelope, roster, state, end)


def thread_folder(settings: Settings, results: Path) -> Path:
    """Return the folder of the messages of the site's hub about the protocol's text of now.

    Args:
        settings: of the run.
        results: of the protocol.
    """
    return results / "rounds" / "messages" / settings.site.hub.id / settings.protocol_sha256


def state_file(results: Path, round_: int) -> Path:
    """Return the file of what the hub asks for in a round."""
    return results / "rounds" / f"r{round_:02d}" / "state.json"


def read_standing(path: Path) -> Standing:
    """Read what `receive` found."""
    return checked(Standing, read_json(path), str(path))


def read_state(path: Path) -> State:
    """Read what the hub asks for in a round."""
    return checked(formats().state, read_json(path), str(path))


def heard_state(settings: Settings, results: Path) -> str:
    """Return the hash of what decides on where a site stands, beside its settings.

    Args:
        settings: of the run.
        results: of the protocol.
    """
    inbox, _ = settings.site.exchange.folders(results.parent)
    kept = thread_folder(settings, results)
    ledger = results.parent / LAST
    standing = results / "rounds" / "standing.json"
    # What the site has packed decides on a message alone that came too early.
    early = standing.is_file() and any(
        entry.reason == Refusal.EARLY.value for entry in read_standing(standing).refused
    )
    return canonical_digest(
        [
            inbox_digest(inbox) if inbox.is_dir() else "",
            sorted(path.name for path in kept.glob("[!.]*")),
            sorted(str(path.relative_to(results)) for path in results.glob("rounds/r*/state.json")),
            ledger.read_text() if early and ledger.is_file() else "",
        ]
    )


def receive_for(settings: Settings, results: Path) -> Standing:
    """Take the hub's messages from a site's inbox, and write what the open round asks for.

    Args:
        settings: of the run; its ``identity.signing_key_file`` is made on first use.
        results: of the protocol.

    Raises:
        LedgerFault: what left before is not known.
        RoundFault: the messages that were accepted are not as they were kept.
    """
    site = settings.site
    ledger = site_ledger(settings, results.parent)
    text = protocol_text(settings)
    about = (text, site.hub.id)
    manifests = [entry.manifest for entry in ledger.packed()]
    sent = {m.round for m in manifests if (m.protocol, m.recipient) == about}
    inbox, _ = site.exchange.folders(results.parent)
    standing, state = receive(
        inbox=inbox,
        folder=thread_folder(settings, results),
        site=Site(
            id=site.site.id,
            hub=site.hub.id,
            hub_key=site.hub.key,
            key=load_or_create_key(Path(site.identity.signing_key_file)),
            protocol=text,
            sent=sent,
        ),
    )
    asked = state or formats().state(protocol=text, round=1, analyses=[])
    path = state_file(results, standing.round)
    content = asked.plain()
    # The release of a round is made again where its time is new.
    if not path.is_file() or path.read_text(encoding="utf-8") != json_text(content):
        write_json(path, content)
    return standing


def receive(*, inbox: Path, folder: Path, site: Site) -> tuple[Standing, State | None]:
    """Take the hub's messages from an inbox, and keep those that follow what has come before.

    Args:
        inbox: the folder; it need not be there, as before the first message.
        folder: of the messages that were accepted, for this text of the protocol.
        site: who receives.

    Returns:
        Where the site stands, and what the open round asks for; None before any message has come.

    Raises:
        OSError: a file cannot be read, which says nothing about what the hub sent.
        RoundFault: what was accepted is not as it was kept.
    """
    standing = Standing(hub=site.hub, protocol=site.protocol)
    state = None
    kept = _kept(folder)
    for heard in kept:
        standing, state = _after(standing, state, heard)
    known = {heard.envelope.sha256 for heard in kept}
    found, refused = _examined(inbox, site) if inbox.is_dir() else ([], [])
    new = [heard for heard in found if heard.envelope.sha256 not in known]
    while True:
        following = [h for h in new if h.envelope.manifest.previous == standing.previous]
        if not following:
            break
        heard = following[0]
        new = [other for other in new if other.envelope.sha256 != heard.envelope.sha256]
        try:
            _check_follows(standing, heard, site)
        except Refused as found_wrong:
            refused.append(_refused(heard.file, found_wrong))
            continue
        _keep(folder, len(known) + 1, heard)
        known.add(heard.envelope.sha256)
        standing, state = _after(standing, state, heard)
    for heard in new:
        before = heard.envelope.manifest.previous
        refusal = Refusal.OUT_OF_THREAD if before in {*known, FIRST} else Refusal.MISSING_BEFORE
        refused.append(_refused(heard.file, Refused(refusal)))
    refused.sort(key=lambda entry: entry.file)
    return standing.model_copy(update={"refused": refused}), state


def _kept(folder: Path) -> list[Heard]:
    """Return the messages that were accepted, in their order."""
    found: list[Heard] = []
    for path in sorted(folder.glob("[!.]*")):
        name = KEPT.fullmatch(path.name)
        raw = path.read_bytes()
        if name is None or int(name["number"]) != len(found) + 1:
            raise RoundFault(f"{path} does not follow the message before it; restore {folder}.")
        try:
            # A hub's key may have been changed since.
            envelope = opened(raw, None, HUBS)
            heard = Heard.of(path.name, raw, envelope)
        except Refused as refused:
            raise RoundFault(f"{path} was changed ({refused.refusal.value}); restore it.") from None
        if envelope.sha256 != name["sha256"]:
            raise RoundFault(f"{path} was changed; restore it from a backup.")
        found.append(heard)
    return found


def _keep(folder: Path, number: int, heard: Heard) -> None:
    manifest = heard.envelope.manifest
    name = f"{number:04d}-{manifest.kind}-r{manifest.round:02d}-{heard.envelope.sha256}.zip"
    with atomic_path(folder / name) as partial:
        partial.write_bytes(heard.raw)


def _examined(inbox: Path, site: Site) -> tuple[list[Heard], list[RefusedMessage]]:
    """Return the messages of an inbox that the hub has signed for this protocol, and the others."""
    found, refused = [], []
    for path in messages(inbox):
        try:
            raw = unseal(read_message(path, LARGEST), site.key)
            envelope = opened(raw, {site.hub: site.hub_key} if site.hub_key else {}, HUBS)
            addressed(envelope.manifest, recipient=site.id, protocol=site.protocol)
            found.append(Heard.of(path.name, raw, envelope))
        except FileNotFoundError:
            continue
        except Refused as wrong:
            # The inbox is that of all protocols.
            if wrong.refusal != Refusal.WRONG_PROTOCOL:
                refused.append(_refused(path.name, wrong))
        except (OSError, MemoryError):
            raise
        # What a hostile file may raise in a parser cannot be listed; it must not stop the others.
        except Exception as error:
            unreadable = Refused(Refusal.UNREADABLE, type(error).__name__)
            refused.append(_refused(path.name, unreadable))
    return found, refused


def _refused(file: str, refused: Refused) -> RefusedMessage:
    refusal = refused.refusal
    detail = one_line(refused.detail)[:300]
    return RefusedMessage(
        file=one_line(file), reason=refusal.value, meaning=refusal.meaning, detail=detail
    )


def _check_follows(standing: Standing, heard: Heard, site: Site) -> None:
    """Check that a message that names the last one may follow it.

    Raises:
        Refused: it may not.
    """
    manifest = heard.envelope.manifest
    if standing.ended is not None:
        raise Refused(Refusal.ENDED)
    opens = manifest.kind == "round"
    expected = standing.round + 1 if opens and standing.heard else standing.round
    if manifest.round != expected:
        late = manifest.round < expected
        raise Refused(Refusal.LATE if late else Refusal.EARLY, f"of round {manifest.round}")
    if not standing.heard and not opens:
        raise Refused(Refusal.MISSING_BEFORE)
    if manifest.round > 1 and opens and manifest.round - 1 not in site.sent:
        detail = f"this site has sent nothing in round {manifest.round - 1}"
        raise Refused(Refusal.EARLY, detail)
    if heard.roster is None:
        return
    wrong = follows(heard.roster, standing.roster, standing.round)
    if wrong:
        raise Refused(Refusal.ROSTER_INVALID, wrong)
    if opens and manifest.round > 1 and len(heard.roster.members) < FEWEST_SITES:
        detail = (
            f"{len(heard.roster.members)} sites, and what comes back is of {FEWEST_SITES} at least"
        )
        raise Refused(Refusal.ROSTER_INVALID, detail)


def _after(standing: Standing, state: State | None, heard: Heard) -> tuple[Standing, State | None]:
    """Return where a site stands after a message."""
    changes: dict[str, object] = {
        "round": heard.envelope.manifest.round,
        "previous": heard.envelope.sha256,
    }
    if heard.roster is not None:
        changes["roster"] = heard.roster
    if heard.end is not None:
        changes["ended"] = heard.end.because
    return standing.model_copy(update=changes), heard.state or state

"""A hub and three sites in a real thread: rosters, seals, rounds; nothing is faked."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation_world import (
    HERE,
    HUB_KEY,
    ISSUED,
    NOW,
    hub_content,
    hub_settings,
    protocol,
    site,
    unpack,
)
from jipflow.exchange import keys, message
from jipflow.exchange.roster import first_roster, next_roster
from jipflow.exchange.sealing import SUFFIX, seal
from jipflow.hub.accept import accept
from jipflow.hub.rounds import close, hub_thread, open_first, reader
from jipflow.hub.thread import Event, Thread
from jipflow.release.approval import approve
from jipflow.release.contents import protocol_text
from jipflow.release.packing import Folders, bundle
from jipflow.release.rounds import Site, receive
from jipflow.settings.hub import Member
from jipflow.settings.run import settings_of

NAMES = ("north", "south", "west")
TEXT = protocol_text(settings_of(HERE, protocol()))
MEDIAN = {
    "id": "median",
    "kind": "quantiles",
    "variables": ["CT.volume_ml"],
    "segments": ["liver"],
    "quantiles": [0.5],
    "low": 0,
    "high": 400,
    "bins": 4,
    "rounds": 2,
}


def key_of(name):
    """Return a machine's key, the same for the same name."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b".")[:32])


def member(name, key=None):
    """Return what a roster says of a site."""
    person = {"name": "Ada Roe", "key": keys.public_text(key_of(f"{name} person"))}
    public = keys.public_text(key_of(key or name))
    return Member.model_validate({"site": name, "key": public, "approvers": [person]})


class Hub:
    """A hub that says what it likes to sites of which only the names and keys are there.

    Args:
        folder: for its memory and the sites' inboxes.
        names: of the sites on the first roster.
    """

    def __init__(self, folder, names=NAMES, text=TEXT):
        self.folder = folder
        self.thread = Thread(folder / "hub", "hub", text)
        self.text = text
        self.roster = first_roster("hub", [member(name) for name in names], ISSUED)

    def add(self, kind, round_, content=None):
        """Let something happen, whether or not an honest hub would do so."""
        opened = {"protocol": self.text.plain(), "round": round_, "analyses": []}
        content = content or {"round": opened, "roster": {}, "end": {}}[kind]
        event = Event(
            kind=kind,
            round=round_,
            version="1.0.0",
            issued=ISSUED,
            roster=self.roster,
            content=content,
        )
        self.thread.add(event)

    def change(self, members, round_, /, **changes):
        """Put another roster into force; `changes` forge it."""
        new = next_roster(
            self.roster, members, because="A key was lost.", issued=ISSUED, round_=round_
        )
        self.roster = new.model_copy(update=changes)
        self.add("roster", round_)

    def messages(self, name, key=HUB_KEY):
        """Return the bytes of all messages to a site, before they are sealed."""
        self.thread.speak(key)
        return [known.path.read_bytes() for known in self.thread.messages(name)]

    def put(self, name, raw, file, to=None):
        """Seal a message into a site's inbox; return the file."""
        path = self.folder / name / "inbox" / f"{file}{SUFFIX}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(seal(raw, keys.public_text(key_of(to or name))))
        return path

    def receive(self, name, sent=(), hub_key=HUB_KEY):
        """Let a site take what lies in its inbox; return its standing, its state and reasons."""
        public = None if hub_key is None else keys.public_text(hub_key)
        standing, state = receive(
            inbox=self.folder / name / "inbox",
            folder=self.folder / name / "thread",
            site=Site(name, "hub", public, key_of(name), self.text, sent),
        )
        return standing, state, {entry.file: entry.reason for entry in standing.refused}


def four(folder):
    """Return a hub that has sent four messages: round 1, a roster, round 2, the end."""
    hub = Hub(folder)
    hub.add("round", 1)
    hub.change([member("north"), member("south", "south 2"), member("west")], 1)
    hub.add("round", 2)
    hub.add("end", 2, {"format": "jipflow-end-1", "because": "The protocol has an error."})
    return hub, hub.messages("north")


def resigned(raw, key=HUB_KEY, **changes):
    """Return a message of the hub whose manifest is changed and signed again."""
    members = unpack(raw)
    manifest = message.Manifest.model_validate(json.loads(members["manifest.json"]) | changes)
    files = {name: members[name] for name in message.FILES[manifest.kind]}
    described = {name: message.describe(data) for name, data in files.items()}
    return message.pack(manifest.model_copy(update={"files": described}), key, files)


class Federation:
    """Three sites with patients and their hub, who meet in two folders."""

    def __init__(self, folder):
        self.content = protocol(analyses=[*protocol()["analyses"][1:], MEDIAN])
        self.folder, self.inbox = folder, folder / "inbox"
        self.inbox.mkdir(parents=True)
        self.sites = {
            name: site(folder, name, 30 + i, seed=i, content=self.content)
            for i, name in enumerate(NAMES)
        }
        self.hub = hub_content(self.sites.values(), self.inbox) | {
            "results": str(folder / "hub"),
            "outbox": str(folder / "out"),
        }
        for one in self.sites.values():
            one.write()
        open_first(self.settings, self.thread, ISSUED)
        self.speak()

    @property
    def settings(self):
        return hub_settings((), self.inbox, self.content, self.hub)

    @property
    def thread(self):
        return hub_thread(self.settings)

    def speak(self):
        self.thread.speak(HUB_KEY)
        self.thread.send(self.folder / "out")

    def receive(self, name, sent=()):
        """Let a site take what the hub has put into its folder."""
        one = self.sites[name]
        return receive(
            inbox=self.folder / "out" / name,
            folder=one.root / "thread",
            site=Site(name, "hub", HERE["hub"]["key"], one.key, protocol_text(one.settings), sent),
        )

    def build(self, name, sent=()):
        """Receive, build and approve; return the standing."""
        one = self.sites[name]
        standing, state = self.receive(name, sent)
        one.build(round_=standing.round, state=state)
        (one.release / "approval.json").unlink(missing_ok=True)
        approve(release_dir=one.release, name="Ada Roe", key_file=one.approver_key, now=NOW)
        return standing

    def pack(self, name, standing):
        """Pack what was approved into the hub's inbox; return the sealed message."""
        one = self.sites[name]
        folders = Folders(one.release, one.behind, one.bundles, self.inbox)
        path = bundle(
            settings=one.settings, standing=standing, ledger=one.ledger, folders=folders, now=NOW
        )
        return self.inbox / Path(path).with_suffix(SUFFIX).name

    def send(self, *names, sent=()):
        """Let sites answer."""
        return [self.pack(name, self.build(name, sent)) for name in names]

    def accept(self):
        """Let the hub verify its inbox; return whom it accepted, and its reasons by file."""
        self.round = self.thread.round
        self.accepted, rejected = accept(
            inbox=self.inbox,
            received=self.thread.received(self.round),
            reader=reader(self.settings, self.thread, HUB_KEY),
        )
        return [a.site for a in self.accepted], {r.file: r.reason for r in rejected}

    def close(self):
        """Let the hub open the next round if it may."""
        opened = close(self.settings, self.thread, self.accepted, self.round)
        self.speak()
        return opened

    def rosters(self, edit):
        """Change the roster of hub.yaml; return the settings."""
        edit(self.hub["roster"])
        return self.settings

"""The hub's trail: what it received, accepted, refused, merged and answered, and what lacks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from federation_world import HUB_KEY
from jipflow.cli import main
from jipflow.exchange import keys
from jipflow.exchange.message import digest
from jipflow.exchange.sealing import seal, unseal
from jipflow.files import json_text
from jipflow.hub.audited import check_hub, hub_trail, record_thread
from jipflow.privacy.audit.events import Event
from jipflow.privacy.audit.lines import Line, TrailFault
from jipflow.privacy.audit.trail import LAST
from thread_world import Federation, resigned

NAMED = "NORTH-0017 Roe^Ada.age"
REASON = "The disk of the trail was lost, and no backup is there."


class Hub:
    """A hub whose jobs are called as the workflow calls them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.world = folder, Federation(folder)
        key = folder / "hub.key"
        key.write_bytes(HUB_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)
        (folder / "demo.yaml").write_text(yaml.safe_dump(self.world.content))
        self.world.hub |= {
            "protocol": str(folder / "demo.yaml"),
            "identity": {"signing_key_file": str(key), "audit_file": str(folder / "audit.jsonl")},
        }
        self.results = folder / "hub" / "demo"
        self.write()

    def write(self) -> None:
        (self.folder / "hub.yaml").write_text(yaml.safe_dump(self.world.hub))
        self.results.mkdir(parents=True, exist_ok=True)
        (self.results / "settings.json").write_text(json_text(self.world.settings.plain()))

    def jipflow(self, *words: str | Path) -> int:
        return main([str(word) for word in words])

    def job(self, stage: str, *words: str | Path) -> int:
        record = self.of(f"hub_{stage}.provenance.json")
        settings = ("--settings", self.results / "settings.json", "--record", record)
        return self.jipflow("hub", stage, *settings, *words)

    def of(self, name: str, round_: int = 1) -> Path:
        return self.results / "rounds" / f"r{round_:02d}" / name

    def run(self) -> None:
        """Open, accept, merge and close round 1."""
        tables = ("--accepted", self.of("accepted.json"), "--rejected", self.of("rejected.json"))
        assert self.job("open") == 0
        assert self.job("accept", "--round", "1", *tables) == 0
        made = ("--made-of", self.of("hub_accept.provenance.json"))
        given = ("--round", "1", "--accepted", self.of("accepted.json"))
        assert self.job("merge", *given, *made, "--out", self.of("result.json")) == 0
        made = (*made, self.of("hub_merge.provenance.json"))
        assert self.job("close", *given, *made, "--out", self.of("outlook.json")) == 0

    @property
    def lines(self) -> list[Line]:
        return hub_trail(self.world.settings).lines()

    def facts(self, event: Event) -> list[dict[str, Any]]:
        return [line.facts.plain() for line in self.lines if line.entry.event == event]

    def audit(self, command: str, *words: str | Path) -> int:
        path, key = self.folder / "audit.jsonl", keys.public_text(HUB_KEY)
        return self.jipflow("audit", command, path, *words, "--key", key)

    def verify(self) -> int:
        return self.audit("verify", "--hub", self.folder / "hub.yaml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """A hub that has closed round 1, with a file that it refused, and opened round 2."""
    hub = Hub(tmp_path_factory.mktemp("hub") / "world")
    hub.world.send("north", "south", "west")
    (hub.world.inbox / NAMED).write_bytes(b"no message")
    hub.run()
    return hub


@pytest.fixture
def hub(made: Hub) -> Iterator[Hub]:
    """The same, whose files are as they were after the test."""
    kept = made.folder.with_name("kept")
    shutil.copytree(made.folder, kept)
    yield made
    shutil.rmtree(made.folder)
    kept.rename(made.folder)


def test_what_a_hub_did_stands_there_in_its_order(hub: Hub) -> None:
    happened = [line.entry.event for line in hub.lines]
    assert happened == [
        *(Event.ROSTER_CHANGED, Event.ROUND_OPENED, *[Event.MESSAGE_WRITTEN] * 3),
        *([Event.RELEASE_ACCEPTED] * 3), Event.MESSAGE_REFUSED, Event.ROUND_MERGED,
        *(Event.ROUND_OPENED, *[Event.MESSAGE_WRITTEN] * 3),
    ]  # fmt: skip
    assert {line.entry.key for line in hub.lines} == {keys.public_text(HUB_KEY)}


def test_whose_keys_count_and_who_approved_stands_there(hub: Hub) -> None:
    (roster,) = hub.facts(Event.ROSTER_CHANGED)
    assert roster["members"] == hub.world.settings.plain()["hub"]["roster"]
    north = hub.facts(Event.RELEASE_ACCEPTED)[0]
    world = hub.world.sites["north"]
    assert (north["site"], north["key"]) == ("north", keys.public_text(world.key))
    person = keys.public_text(keys.load_key(world.approver_key))
    assert [(a["person"], a["key"]) for a in north["approvals"]] == [("Ada Roe", person)]
    accepted = json.loads(hub.of("accepted.json").read_text())
    assert north["message"] == accepted[0]["sha256"]
    (merged,) = hub.facts(Event.ROUND_MERGED)
    assert merged["messages"] == [entry["sha256"] for entry in accepted]
    assert merged["result"] == digest(hub.of("result.json").read_bytes())
    written = hub.facts(Event.MESSAGE_WRITTEN)
    assert [w["sealed_to"] for w in written[:3]] == [m["key"] for m in roster["members"]]


def test_a_name_that_somebody_gave_a_file_of_the_inbox_is_not_there(hub: Hub) -> None:
    (refused,) = hub.facts(Event.MESSAGE_REFUSED)
    assert (refused["reason"], refused["message"]) == ("not_sealed", digest(b"no message"))
    assert refused["file"] == digest(NAMED.encode())
    assert b"0017" not in (hub.folder / "audit.jsonl").read_bytes()
    assert NAMED in hub.of("rejected.json").read_text()


def test_a_hub_that_runs_again_adds_no_line(hub: Hub) -> None:
    before = (hub.folder / "audit.jsonl").read_bytes()
    assert hub.job("open") == 0
    assert (hub.folder / "audit.jsonl").read_bytes() == before


def test_a_new_roster_and_the_end_stand_there(hub: Hub) -> None:
    hub.world.hub["roster"][0]["key"] = keys.new_key(hub.folder / "new.key")
    hub.write()
    settings = hub.folder / "hub.yaml"
    assert hub.jipflow("rounds", "roster", settings, "--because", "North has a new machine.") == 0
    changed = hub.facts(Event.ROSTER_CHANGED)[1]
    assert (changed["number"], changed["because"]) == (2, "North has a new machine.")
    assert changed["members"][0]["key"] == hub.world.hub["roster"][0]["key"]
    # What was sealed to the key before is sealed again.
    sealed = [w["sealed_to"] for w in hub.facts(Event.MESSAGE_WRITTEN) if w["site"] == "north"]
    assert sealed.count(changed["members"][0]["key"]) == 3
    assert hub.jipflow("rounds", "end", settings, "--because", "The edges were wrong.") == 0
    assert [f["because"] for f in hub.facts(Event.ROUNDS_ENDED)] == ["The edges were wrong."]
    assert hub.verify() == 0


def test_verify_and_the_page_are_those_of_a_site(hub: Hub, capsys: Any, tmp_path: Path) -> None:
    assert hub.audit("verify") == 0
    assert "was not looked for: name --hub." in capsys.readouterr().out
    assert hub.verify() == 0
    assert "was not looked for" not in capsys.readouterr().out
    settings = ("--hub", hub.folder / "hub.yaml")
    page = hub.results / "audit.html"
    assert hub.audit("page", page, *settings) == 0
    assert page.stat().st_mode & 0o077 == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("approved by Ada Roe with ed25519:") == 6
    assert "What this hub has received" in text
    assert "Erased" not in text
    with pytest.raises(SystemExit):
        hub.audit("verify", *settings, "--results", hub.results.parent)
    path = hub.folder / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"not_sealed", b"other_seal"))
    assert hub.verify() == 1
    assert "line 9 is not as it was written" in capsys.readouterr().err


def test_nothing_is_answered_beside_a_trail_that_is_not_whole(hub: Hub, capsys: Any) -> None:
    path = hub.folder / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"not_sealed", b"other_seal"))
    before = hub.world.thread.digest()
    shutil.rmtree(hub.folder / "out")
    end = ("rounds", "end", hub.folder / "hub.yaml", "--because", "The edges were wrong.")
    assert hub.jipflow(*end) == 1
    assert hub.job("open") == 1
    assert "line 9 is not as it was written" in capsys.readouterr().err
    assert hub.world.thread.digest() == before
    assert not (hub.folder / "out").exists()


def cut(hub: Hub, left: int) -> None:
    """Remove lines at the end, and what the results keep of them."""
    path = hub.folder / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:left]))
    (hub.folder / "hub" / LAST).unlink()


@pytest.mark.parametrize(
    ("left", "what"),
    [
        (10, "event 2"),
        (11, "message 2 to north"),
        (7, "west-a1-.*, accepted|event 2"),
        (1, "event 2"),
    ],
)
def test_lines_missing_at_the_end_are_found_by_what_the_hub_has(
    hub: Hub, left: int, what: str
) -> None:
    cut(hub, left)
    with pytest.raises(TrailFault, match=f"no entry is of {what}"):
        check_hub(hub.folder / "audit.jsonl", hub.lines, hub.world.settings)
    assert hub.verify() == 1


def test_a_run_says_that_lines_of_earlier_events_are_missing(hub: Hub, capsys: Any) -> None:
    end = ("rounds", "end", hub.folder / "hub.yaml", "--because", "The edges were wrong.")
    assert hub.jipflow(*end) == 0
    # A job may have been killed before it wrote the line of the last event.
    cut(hub, 14)
    assert hub.job("open") == 0
    assert [f["because"] for f in hub.facts(Event.ROUNDS_ENDED)] == ["The edges were wrong."]
    assert hub.verify() == 0
    cut(hub, 10)
    assert hub.job("open") == 1
    assert "no entry is of event 2 in" in capsys.readouterr().err


def test_an_older_copy_of_the_messages_is_found(hub: Hub, capsys: Any) -> None:
    folder = hub.world.thread.folder
    (last,) = (folder / "events").glob("0002-*")
    last.unlink()
    for path in folder.glob("out/*/0002-*"):
        path.unlink()
    assert hub.verify() == 1
    assert "as if an older copy had been put there" in capsys.readouterr().err


def test_a_trail_that_is_lost_goes_on_by_a_persons_word(hub: Hub, capsys: Any) -> None:
    person = hub.world.sites["north"].approver_key
    (hub.folder / "audit.jsonl").unlink()
    assert hub.job("open") == 1
    who = ("--name", "Ada Roe", "--key", person, "--because", REASON)
    resume = ("audit", "resume", hub.folder / "audit.jsonl", *who)
    with pytest.raises(SystemExit):
        hub.jipflow(*resume)
    assert hub.jipflow(*resume, "--hub", hub.folder / "hub.yaml") == 0
    assert hub.job("open") == 0
    assert hub.verify() == 0
    events = [line.entry.event for line in hub.lines]
    assert events[:4] == [
        *(Event.TRAIL_RESUMED, Event.ROSTER_CHANGED, Event.ROUND_OPENED, Event.ROUND_OPENED)
    ]
    assert [f["over"] for f in hub.facts(Event.ROUND_OPENED)] == [True, False]


def test_a_hub_from_before_it_had_a_trail_begins_one(hub: Hub) -> None:
    (hub.folder / "audit.jsonl").unlink()
    (hub.folder / "hub" / LAST).unlink()
    record_thread(hub.world.settings, hub.world.thread)
    assert [f["over"] for f in hub.facts(Event.ROUND_OPENED)] == [True, False]
    assert hub.verify() == 0


def test_a_message_of_a_key_that_is_on_no_roster_is_refused_in_the_trail(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "world")
    (path,) = hub.world.send("north")
    forged = resigned(unseal(path.read_bytes(), HUB_KEY), key=HUB_KEY)
    path.write_bytes(seal(forged, keys.public_text(HUB_KEY)))
    hub.run()
    (refused,) = hub.facts(Event.MESSAGE_REFUSED)
    assert (refused["reason"], refused["message"]) == ("sender_signature", digest(forged))
    assert hub.facts(Event.RELEASE_ACCEPTED) == []
    assert hub.facts(Event.ROUND_MERGED)[0]["sites"] == []

"""What a hub accepted stays accepted until the site sends a later attempt."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from federation_world import accept, hub_content, hub_settings, plain, public, sent, site
from jipflow.exchange.inbox import inbox_state
from jipflow.files import atomic_path
from jipflow.hub.memory import MemoryFault, remember, remembered
from jipflow.hub.merge import merge


@pytest.fixture
def north(tmp_path, inbox):
    return sent(site(tmp_path, "north"), inbox)


@pytest.fixture
def settings(north, inbox):
    return hub_settings([north], inbox)


def attempt(world, inbox, number, patients=11):
    """Send another attempt, of fewer patients, which the gate of an honest site would withhold.

    The site has no memory of what it sent. Return the file.
    """
    for path in (Path(world.settings.site.identity.ledger_folder), world.root / "results"):
        shutil.rmtree(path)
    world.table = world.table[world.table["case_id"] < f"case{world.name}{patients:04d}"]
    return world.send(inbox, attempt=number)


def round_of(inbox, settings):
    """Return the attempts that count, and the reason of each file that does not."""
    accepted, rejected = accept(inbox=inbox, settings=settings)
    return [a.attempt for a in accepted], {r.file: r.reason for r in rejected}


A1, A2, A3 = (f"demo-north-r01-a{n}.age" for n in (1, 2, 3))


def test_the_latest_attempt_counts(north, inbox, settings):
    attempt(north, inbox, 2)
    assert round_of(inbox, settings) == ([2], {A1: "superseded"})


def test_a_replay_does_not_count_twice(north, inbox, settings):
    (inbox / "again.age").write_bytes(north.path.read_bytes())
    for _ in range(2):
        accepted, rejected = accept(inbox=inbox, settings=settings)
        assert [a.site for a in accepted] == ["north"]
        assert [r.reason for r in rejected] == ["replay"]


def test_two_messages_of_one_attempt_are_both_refused(north, inbox, settings):
    north.path.rename(inbox / "first.age")
    attempt(north, inbox, 1)
    for _ in range(2):
        assert round_of(inbox, settings) == ([], dict.fromkeys(("first.age", A1), CONFLICT))
    attempt(north, inbox, 2, 10)
    assert round_of(inbox, settings)[0] == [2]


CONFLICT = "attempt_conflict"


def test_an_attempt_that_was_withdrawn_does_not_come_back(north, inbox, settings):
    assert round_of(inbox, settings) == ([1], {})
    second = attempt(north, inbox, 2)
    accepted, _ = accept(inbox=inbox, settings=settings)
    result = merge(accepted=accepted, settings=settings)
    second.unlink()
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert [a.attempt for a in accepted] == [2]
    assert [(r.file, r.reason) for r in rejected] == [(A1, "superseded")]
    assert rejected[0].detail == "attempt 2 of north is there"
    assert merge(accepted=accepted, settings=settings) == result
    north.path.unlink()
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert merge(accepted=accepted, settings=settings) == result
    assert rejected == []


def test_an_attempt_that_was_never_accepted_is_no_later_one(north, inbox, settings):
    """An attempt whose bundle is refused takes nothing from the one before."""
    round_of(inbox, settings)
    attempt(north, inbox, 2).write_bytes(b"damaged")
    assert round_of(inbox, settings) == ([1], {A2: "not_sealed"})


def test_another_message_of_an_accepted_attempt_is_refused(north, inbox, settings):
    first = north.path.read_bytes()
    round_of(inbox, settings)
    attempt(north, inbox, 1)
    accepted, (refused,) = accept(inbox=inbox, settings=settings)
    assert (accepted[0].attempt, refused.reason) == (1, CONFLICT)
    assert refused.detail == (
        "attempt 1 of north; the site must send attempt 2, for another one was accepted"
    )
    (inbox / "first.age").write_bytes(first)
    assert round_of(inbox, settings) == ([1], {A1: CONFLICT})


def test_a_conflict_of_later_attempts_leaves_what_was_accepted(north, inbox, settings):
    round_of(inbox, settings)
    attempt(north, inbox, 2).rename(inbox / "other.age")
    attempt(north, inbox, 2, 10)
    expected = ([1], dict.fromkeys(("other.age", A2), CONFLICT))
    assert round_of(inbox, settings) == expected
    north.path.unlink()
    assert round_of(inbox, settings) == expected
    attempt(north, inbox, 3, 9)
    assert round_of(inbox, settings) == ([3], dict.fromkeys(("other.age", A2), "superseded"))


def test_an_unaccepted_attempt_does_not_count_beside_a_conflict_of_later_ones(
    north, inbox, settings
):
    attempt(north, inbox, 2).rename(inbox / "other.age")
    attempt(north, inbox, 2, 10)
    assert round_of(inbox, settings)[0] == []
    assert round_of(inbox, settings)[1][A1] == "superseded"


def test_who_is_no_longer_on_the_roster_does_not_count(tmp_path, north, inbox, settings):
    round_of(inbox, settings)
    content = hub_content([north], inbox)
    content["roster"][0]["key"] = public(tmp_path / "new.key")
    renewed = hub_settings([north], inbox, hub=content)
    assert round_of(inbox, renewed) == ([], {A1: "sender_signature"})
    north.path.unlink()
    counting, refused = round_of(inbox, renewed)
    assert (counting, list(refused.values())) == ([], ["sender_signature"])
    assert all(name.startswith("north-a1-") for name in refused)
    assert round_of(inbox, settings) == ([1], {})


def test_another_text_of_the_protocol_begins_anew(tmp_path, north, inbox, settings):
    attempt(north, inbox, 7)
    assert round_of(inbox, settings)[0] == [7]
    changed = settings.model_copy(update={"protocol_sha256": "1" * 64})
    assert round_of(inbox, changed)[0] == []
    assert round_of(inbox, settings)[0] == [7]


def test_a_run_that_is_killed_goes_on(tmp_path, inbox, monkeypatch):
    """Whichever copy it died at, the next run accepts the same."""
    sites = [sent(site(tmp_path, name, seed=i), inbox) for i, name in enumerate(("a", "b", "c"))]
    settings = hub_settings(sites, inbox)
    copies = []

    def dies(path):
        copies.append(path)
        if len(copies) == 2:
            raise KeyboardInterrupt
        return atomic_path(path)

    with monkeypatch.context() as patched:
        patched.setattr("jipflow.hub.memory.atomic_path", dies)
        with pytest.raises(KeyboardInterrupt):
            accept(inbox=inbox, settings=settings)
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert ([a.site for a in accepted], rejected) == (["a", "b", "c"], [])
    assert len(list((tmp_path / "messages" / settings.protocol_sha256).iterdir())) == 3


def test_copies_that_were_touched_stop_the_run(tmp_path, north, inbox, settings):
    round_of(inbox, settings)
    (copy,) = (tmp_path / "messages" / settings.protocol_sha256).iterdir()
    raw = copy.read_bytes()
    north.path.unlink()
    copy.write_bytes(raw[:-1])
    with pytest.raises(MemoryFault, match="restore it from a backup"):
        accept(inbox=inbox, settings=settings)
    copy.write_bytes(raw)
    assert round_of(inbox, settings) == ([1], {})
    other = copy.with_name("notes.zip")
    other.write_bytes(b"")
    with pytest.raises(MemoryFault, match="move it away"):
        accept(inbox=inbox, settings=settings)
    other.rename(copy.with_name(f"north-a1-{'0' * 64}.zip"))
    with pytest.raises(MemoryFault, match="of one attempt"):
        accept(inbox=inbox, settings=settings)


def test_a_half_written_copy_is_none(tmp_path):
    (tmp_path / ".partial-host-0-north-a1.zip").write_bytes(b"half")
    assert remembered(tmp_path) == {}
    remember(tmp_path, "north", 9, b"nine")
    remember(tmp_path, "north", 10, b"ten")
    remember(tmp_path, "north-west", 1, b"one")
    latest = remembered(tmp_path)
    assert {name: entry.attempt for name, entry in latest.items()} == {"north": 10, "north-west": 1}
    assert latest["north"].read() == b"ten"


def test_what_the_hub_keeps_is_what_the_site_sent(tmp_path, north, inbox, settings):
    for _ in range(2):
        accepted, rejected = accept(inbox=inbox, settings=settings)
        assert ([entry.file for entry in accepted], rejected) == ([A1], [])
    (copy,) = (tmp_path / "messages" / settings.protocol_sha256).iterdir()
    assert copy.read_bytes() == plain(north.path.read_bytes())
    assert copy.name == f"north-a1-{accepted[0].sha256}.zip"
    north.path.unlink()
    assert accept(inbox=inbox, settings=settings)[0][0].file == copy.name


def test_the_state_of_an_inbox_changes_with_its_bundles(tmp_path):
    assert inbox_state(tmp_path) == []
    bundle = tmp_path / "a.age"
    bundle.write_bytes(b"one")
    (tmp_path / "notes.txt").write_text("no bundle")
    (tmp_path / os.fsdecode(b"\xff.age")).symlink_to("nowhere")
    first = inbox_state(tmp_path)
    assert [entry["name"] for entry in first] == ["a.age", "\\udcff.age"]
    assert inbox_state(tmp_path) == first
    bundle.write_bytes(b"other")
    second = inbox_state(tmp_path)
    assert second != first
    os.utime(bundle, ns=(0, 0))
    assert inbox_state(tmp_path) not in (first, second)


def test_a_bundle_that_goes_while_the_inbox_is_read_is_not_there(tmp_path, monkeypatch):
    for name in ("a.age", "b.age"):
        (tmp_path / name).write_bytes(b"one")
    looks = Path.lstat

    def gone(path):
        if path.name == "a.age":
            raise FileNotFoundError
        return looks(path)

    monkeypatch.setattr(Path, "lstat", gone)
    assert [entry["name"] for entry in inbox_state(tmp_path)] == ["b.age"]

"""What a site hears of its hub: in order, from nobody else, and no other answer twice."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from federation_world import HUB_KEY, ISSUED, unpack
from jipflow.exchange import keys, message
from jipflow.exchange.message import FIRST, digest
from jipflow.exchange.sealing import unseal
from jipflow.hub.thread import ThreadFault
from jipflow.release import rounds
from jipflow.release.rounds import RoundFault, Site, receive
from thread_world import NAMES, TEXT, Hub, four, key_of, member, resigned

SENT = (1, 2)


@pytest.fixture
def hub(tmp_path):
    """A hub that has opened round 1."""
    hub = Hub(tmp_path)
    hub.add("round", 1)
    return hub


def kept(hub, name="north"):
    return sorted(path.name for path in (hub.folder / name / "thread").glob("*"))


def test_before_any_message_nothing_is_open(tmp_path):
    standing, state, refused = Hub(tmp_path).receive("north")
    assert (standing.round, standing.previous, standing.roster, state) == (1, FIRST, None, None)
    assert (standing.heard, refused) == (False, {})


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_where_a_site_stands_does_not_depend_on_the_order_of_arrival(tmp_path, order):
    """Each message counts as soon as all before it have come, and not before."""
    hub, known = four(tmp_path)
    came = set()
    for number in order:
        hub.put("north", known[number], f"m{number}")
        came.add(number)
        standing, state, refused = hub.receive("north", SENT)
        heard = next(i for i in range(5) if i not in came)
        assert len(kept(hub)) == heard
        assert standing.previous == ([FIRST] + [digest(raw) for raw in known])[heard]
        assert standing.round == (1, 1, 1, 2, 2)[heard]
        assert (standing.ended is not None) == (heard == 4)
        early = {f"m{i}.age": "missing_before" for i in came if i >= heard}
        assert refused == early
        again = hub.receive("north", SENT)
        assert again == (standing, state, refused)
    for path in (tmp_path / "north" / "inbox").iterdir():
        path.unlink()
    assert hub.receive("north", SENT) == (standing, state, {})
    assert standing.roster == hub.roster
    assert standing.ended == "The protocol has an error."


def test_a_message_that_comes_again_changes_nothing(hub):
    (raw,) = hub.messages("north")
    hub.put("north", raw, "a")
    first = hub.receive("north")
    hub.put("north", raw, "b")
    assert hub.receive("north") == first
    assert len(kept(hub)) == 1


def refused_alone(hub, name="north", **options):
    """Return the reasons of what lies in an inbox of which nothing counts."""
    standing, state, refused = hub.receive(name, **options)
    assert (standing.round, standing.previous, standing.roster) == (1, FIRST, None)
    assert (state, kept(hub, name)) == (None, [])
    return list(refused.values())


def test_what_another_hub_says_does_not_count(hub):
    (raw,) = hub.messages("north")
    hub.put("north", resigned(raw, key_of("other hub")), "a")
    assert refused_alone(hub) == ["sender_signature"]
    hub.put("north", resigned(raw, sender="elsewhere"), "a")
    assert refused_alone(hub) == ["unknown_sender"]
    hub.put("north", raw, "a")
    assert refused_alone(hub, hub_key=None) == ["unknown_sender"]
    assert refused_alone(hub, hub_key=key_of("new hub")) == ["sender_signature"]


def test_what_is_sealed_or_addressed_to_another_does_not_count(hub):
    (raw,) = hub.messages("north")
    hub.put("north", raw, "a", to="south")
    assert refused_alone(hub) == ["other_seal"]
    hub.put("north", hub.messages("south")[0], "a")
    assert refused_alone(hub) == ["wrong_recipient"]
    hub.put("north", raw, "a").write_bytes(raw)
    assert refused_alone(hub) == ["not_sealed"]


def test_a_site_takes_no_release_for_a_message_of_its_hub(hub):
    (raw,) = hub.messages("north")
    members = unpack(raw)
    manifest = json.loads(members["manifest.json"]) | {"kind": "release"}
    files = dict.fromkeys(message.FILES["release"], b"{}")
    manifest["files"] = {name: message.describe(data) for name, data in files.items()}
    forged = message.pack(message.Manifest.model_validate(manifest), HUB_KEY, files)
    hub.put("north", forged, "a")
    assert refused_alone(hub) == ["unexpected_kind"]


def test_no_changed_byte_of_a_sealed_message_passes(hub):
    (raw,) = hub.messages("north")
    path = hub.put("north", raw, "a")
    sealed = path.read_bytes()
    for position in range(0, len(sealed), 97):
        changed = bytearray(sealed)
        changed[position] ^= 1
        path.write_bytes(changed)
        assert refused_alone(hub)[0] in {"other_seal", "not_sealed"}
    for length in (0, 10, len(sealed) // 2, len(sealed) - 1):
        path.write_bytes(sealed[:length])
        assert refused_alone(hub)[0] in {"other_seal", "not_sealed"}


def test_no_changed_byte_of_what_was_sealed_passes(hub):
    (raw,) = hub.messages("north")
    reasons = set()
    for position in range(0, len(raw), 41):
        changed = bytearray(raw)
        changed[position] ^= 0x10
        hub.put("north", bytes(changed), "a")
        reasons.update(refused_alone(hub))
    assert "corrupt_member" in reasons


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("manifest.json", "sender_signature"),
        ("signature.json", "sender_signature"),
        ("roster.json", "file_changed"),
        ("state.json", "file_changed"),
    ],
)
def test_a_changed_member_in_a_sound_zip(hub, name, reason):
    members = unpack(hub.messages("north")[0])
    data = bytearray(members[name])
    digit = max(i for i, byte in enumerate(data) if chr(byte) in "12345678")
    data[digit] += 1
    hub.put("north", message.zipped("round", members | {name: bytes(data)}), "a")
    assert refused_alone(hub) == [reason]


def test_a_message_beyond_all_sizes_is_not_read(hub, monkeypatch):
    path = hub.put("north", hub.messages("north")[0], "a")
    monkeypatch.setattr(rounds, "LARGEST", path.stat().st_size - 1)
    assert refused_alone(hub) == ["oversized_message"]
    monkeypatch.setattr(rounds, "LARGEST", path.stat().st_size)
    assert hub.receive("north")[2] == {}


def test_another_text_of_the_protocol_is_refused_and_another_protocol_is_not_looked_at(tmp_path):
    for number, (changes, reasons) in enumerate(
        [
            ({"sha256": "0" * 64}, ["protocol_changed"]),
            ({"version": "2.0.0"}, ["protocol_changed"]),
            ({"id": "other"}, []),
        ]
    ):
        hub = Hub(tmp_path / f"{number}", text=TEXT.model_copy(update=changes))
        hub.add("round", 1)
        (raw,) = hub.messages("north")
        hub.text = TEXT
        hub.put("north", raw, "a")
        assert refused_alone(hub) == reasons


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"number": 3}, "roster_invalid"),
        ({"previous": "0" * 64}, "roster_invalid"),
        ({"because": " "}, "roster_invalid"),
        ({"members": [member("north"), member("south")]}, "roster_invalid"),
        ({"hub": "elsewhere"}, "roster_invalid"),
    ],
)
def test_a_roster_that_may_not_follow_changes_nothing(hub, changes, reason):
    hub.put("north", hub.messages("north")[0], "a")
    before = hub.receive("north")[0]
    hub.change([member("north"), member("south"), member("west", "west 2")], 1, **changes)
    hub.put("north", hub.messages("north")[1], "b")
    standing, _, refused = hub.receive("north")
    assert refused == {"b.age": reason}
    assert standing.model_copy(update={"refused": []}) == before


def test_no_site_joins_after_the_first_round(tmp_path):
    joined = [member(name) for name in (*NAMES, "east")]
    for round_, reasons in ((1, {}), (2, {"c.age": "roster_invalid"})):
        hub = Hub(tmp_path / f"{round_}")
        hub.add("round", 1)
        if round_ == 2:
            hub.add("round", 2)
        hub.roster = hub.roster.model_copy(
            update={
                "number": 2,
                "previous": hub.roster.sha256,
                "because": "One more.",
                "members": joined,
            }
        )
        hub.add("roster", round_)
        for file, raw in zip(
            "abc"[-len(hub.messages("north")) :], hub.messages("north"), strict=True
        ):
            hub.put("north", raw, file)
        standing, _, refused = hub.receive("north", SENT)
        assert refused == reasons
        assert len(standing.roster.members) == (4 if round_ == 1 else 3)


def test_two_sites_get_nothing_back(tmp_path):
    hub = Hub(tmp_path, NAMES[:2])
    hub.add("round", 1)
    hub.add("round", 2)
    for file, raw in zip("ab", hub.messages("north"), strict=True):
        hub.put("north", raw, file)
    standing, _, refused = hub.receive("north", SENT)
    assert (standing.round, refused) == (1, {"b.age": "roster_invalid"})


def follow(hub, *events):
    """Let a hub say more, and put all into the inbox of north; return the reasons."""
    for event in events:
        hub.add(*event)
    for number, raw in enumerate(hub.messages("north")):
        hub.put("north", raw, f"m{number}")


def test_a_round_that_is_not_next_is_refused(hub):
    follow(hub, ("round", 3))
    standing, _, refused = hub.receive("north", SENT)
    assert (standing.round, refused) == (1, {"m1.age": "early"})


def test_a_round_that_is_over_does_not_come_back(hub):
    follow(hub, ("round", 2), ("round", 1))
    standing, _, refused = hub.receive("north", SENT)
    assert (standing.round, refused) == (2, {"m2.age": "late"})


def test_a_round_waits_until_the_site_has_answered_in_the_one_before(hub):
    """Else a hub could ask a site for rounds that it never took part in."""
    follow(hub, ("round", 2))
    standing, _, refused = hub.receive("north", ())
    assert (standing.round, refused) == (1, {"m1.age": "early"})
    standing, state, refused = hub.receive("north", (1,))
    assert (standing.round, state.round, refused) == (2, 2, {})


def test_after_the_end_nothing_is_opened(hub):
    end = {"format": "jipflow-end-1", "because": "The protocol has an error."}
    follow(hub, ("end", 1, end), ("round", 2))
    standing, _, refused = hub.receive("north", SENT)
    assert standing.ended == "The protocol has an error."
    assert (standing.round, refused) == (1, {"m2.age": "ended"})


def test_a_hub_that_says_two_things_after_one_is_heard_once(tmp_path):
    """A fork: what came first stays, and the other is named."""
    hubs = [Hub(tmp_path / name) for name in "ab"]
    for hub, key in zip(hubs, ("south 2", "south 3"), strict=True):
        hub.add("round", 1)
        hub.change([member("north"), member("south", key), member("west")], 1)
    first, second = (hub.messages("north") for hub in hubs)
    assert first[0] == second[0]
    for number, raw in enumerate(first):
        hubs[0].put("north", raw, f"m{number}")
    before, *_ = hubs[0].receive("north")
    hubs[0].put("north", second[1], "fork")
    standing, _, refused = hubs[0].receive("north")
    assert refused == {"fork.age": "out_of_thread"}
    assert standing.model_copy(update={"refused": []}) == before


def flip(path: Path) -> None:
    """Change the last byte, whichever it is."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


DAMAGE = {
    "a byte": lambda paths: flip(paths[1]),
    "another message": lambda paths: paths[1].write_bytes(paths[0].read_bytes()),
    "a name": lambda paths: paths[1].rename(paths[1].with_name("notes.zip")),
    "the first is gone": lambda paths: paths[0].unlink(),
    "one is gone": lambda paths: paths[1].unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_memory_of_the_site_is_named(tmp_path, damage):
    hub, known = four(tmp_path)
    for number, raw in enumerate(known):
        hub.put("north", raw, f"m{number}")
    hub.receive("north", SENT)
    folder = tmp_path / "north" / "thread"
    damage(sorted(folder.iterdir()))
    with pytest.raises(RoundFault, match=str(folder)):
        hub.receive("north", SENT)


def edited(path):
    """Write another time into an event, which stays valid."""
    text = path.read_text()
    assert ISSUED in text
    path.write_text(text.replace(ISSUED, "2031-01-01T00:00:00Z"))
    return digest(path.read_bytes())


@pytest.mark.parametrize("position", range(4))
def test_a_valid_event_that_was_edited_is_named(tmp_path, position):
    four(tmp_path)
    path = sorted((tmp_path / "hub" / "events").iterdir())[position]
    edited(path)
    with pytest.raises(ThreadFault, match=f"{path} was changed; restore .* from a backup"):
        Hub(tmp_path).messages("north")


def test_an_event_under_the_name_of_its_new_content_breaks_the_chain(tmp_path):
    four(tmp_path)
    paths = sorted((tmp_path / "hub" / "events").iterdir())
    stem, _, _ = paths[1].stem.rpartition("-")
    paths[1].rename(paths[1].with_name(f"{stem}-{edited(paths[1])}.json"))
    with pytest.raises(ThreadFault, match=f"{paths[2]} does not follow the event before it"):
        Hub(tmp_path).messages("north")


def test_the_last_event_that_was_sent_is_missed(tmp_path):
    four(tmp_path)
    sorted((tmp_path / "hub" / "events").iterdir())[-1].unlink()
    with pytest.raises(ThreadFault, match="of an event that is not in"):
        Hub(tmp_path).thread.send(tmp_path / "out")


def test_another_version_says_the_same_of_an_event_to_the_last_bit(tmp_path):
    """As a hub does that was upgraded before it spoke, and restored from the events."""
    event, before = Hub(tmp_path), {}
    event.add("round", 1)
    for name in NAMES:
        (before[name],) = event.messages(name)
        manifest = json.loads(unpack(before[name])["manifest.json"])
        assert manifest["version"] == event.thread.events[0].version == "1.0.0"
    shutil.rmtree(tmp_path / "hub" / "out")
    assert {name: Hub(tmp_path).messages(name)[0] for name in NAMES} == before


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_what_the_outbox_has_no_more_whole_is_sealed_again_and_nothing_else(hub, tmp_path, damage):
    hub.messages("north")
    first, *others = hub.thread.send(tmp_path / "out")
    known = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in others}
    sealed = first.read_bytes()
    if damage == "gone":
        first.unlink()
    else:
        half = sealed[: len(sealed) // 2]
        first.write_bytes(half if damage == "cut" else half + sealed[: len(sealed) - len(half)])
    assert hub.thread.waiting(tmp_path / "out") == [first.name]
    assert hub.thread.send(tmp_path / "out") == [first]
    assert unseal(first.read_bytes(), key_of("north")) == hub.messages("north")[0]
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in others} == known
    assert hub.thread.waiting(tmp_path / "out") == []
    assert hub.thread.send(tmp_path / "out") == []


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_memory_of_the_hub_is_named(tmp_path, damage):
    four(tmp_path)
    folder = tmp_path / "hub" / "events"
    damage(sorted(folder.iterdir()))
    with pytest.raises(ThreadFault, match=str(folder)):
        Hub(tmp_path).messages("north")


def test_a_damaged_message_of_the_hub_is_not_sent(tmp_path):
    hub, _ = four(tmp_path)
    last = hub.thread.messages("north")[-1].path
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(ThreadFault, match=str(last)):
        hub.thread.send(tmp_path / "out")


def test_a_site_that_has_lost_its_machine_hears_the_whole_thread_again(tmp_path):
    """With the key, what lies in the outbox is lost to it, and with the results what it had."""
    hub = Hub(tmp_path)
    hub.add("round", 1)
    hub.messages("north")
    (first,) = [path for path in hub.thread.send(tmp_path / "out") if path.parent.name == "north"]
    hub.change([member("north", "north 2"), member("south"), member("west")], 1)
    hub.messages("north")
    hub.thread.send(tmp_path / "out")
    standing, _ = receive(
        inbox=tmp_path / "out" / "north",
        folder=tmp_path / "thread",
        site=Site("north", "hub", keys.public_text(HUB_KEY), key_of("north 2"), TEXT),
    )
    assert standing.roster.number == 2
    assert {entry.file: entry.reason for entry in standing.refused} == {first.name: "other_seal"}
    assert hub.thread.waiting(tmp_path / "out") == []

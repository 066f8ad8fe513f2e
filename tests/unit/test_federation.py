"""A hub and three sites with patients go through rounds, and what goes wrong on the way."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from federation_world import plain, remanifest, sealed, unpack, zipped
from jipflow.exchange import keys
from jipflow.exchange.roster import RosterFault
from jipflow.exchange.sealing import seal
from jipflow.hub import rounds, thread
from jipflow.hub.merge import merge
from jipflow.hub.rounds import (
    RosterDiffers,
    change_roster,
    check_round,
    end_rounds,
    open_first,
    state_of,
)
from jipflow.reasons import StageError
from jipflow.release.contents import ReleaseError
from thread_world import MEDIAN, NAMES, Federation

LOST = "The key of the machine was lost."


@pytest.fixture
def federation(tmp_path):
    return Federation(tmp_path)


def second(federation):
    """Go through the first round."""
    federation.send(*NAMES)
    assert federation.accept() == (list(NAMES), {})
    assert federation.close()


def test_three_sites_go_through_two_rounds(federation):
    federation.send("south")
    assert federation.accept() == (["south"], {})
    assert not federation.close()
    federation.send("west", "north")
    assert federation.accept() == (list(NAMES), {})
    assert federation.close()
    assert federation.thread.round == 2
    federation.send(*NAMES, sent=(1,))
    assert federation.accept() == (list(NAMES), {})
    assert not federation.close()
    result = merge(
        accepted=federation.accepted,
        settings=federation.settings,
        round_=2,
        state=state_of(federation.thread, 2),
    )
    (median,) = (analysis for analysis in result["analyses"] if analysis["id"] == "median")
    (cell,) = median["cells"]
    table = pd.concat([one.table for one in federation.sites.values()])
    volumes = table.loc[table["segment"] == "liver", "volume_ml"]
    assert cell["n"] == len(volumes) == 93
    (found,) = cell["quantiles"]
    assert found["lower"] <= np.quantile(volumes, 0.5, method="inverted_cdf") <= found["upper"]


def test_a_round_that_is_closed_again_opens_no_other(tmp_path, monkeypatch):
    """As where the disk is full after the event was written, and Snakemake tries the job again."""
    monkeypatch.setitem(MEDIAN, "rounds", 3)
    federation = Federation(tmp_path)
    second(federation)
    assert federation.close()
    assert federation.thread.round == 2


def test_the_next_round_is_a_pure_function_of_what_was_accepted(tmp_path):
    """In whichever order sites answer, and with whatever names: the same bytes to each."""
    known = []
    federation = Federation(tmp_path)
    federation.send(*NAMES)
    files = sorted(federation.inbox.iterdir())
    for number, order in enumerate(((0, 1, 2), (2, 0, 1))):
        federation.hub["results"] = str(tmp_path / f"hub{number}")
        open_first(federation.settings, federation.thread, "2026-11-01T12:00:00Z")
        federation.speak()
        federation.inbox = tmp_path / f"inbox{number}"
        for place, file in enumerate(order):
            sealed(federation.inbox / f"{place}.age", plain(files[file].read_bytes()))
            federation.accept()
        assert federation.close()
        known.append([m.read() for name in NAMES for m in federation.thread.messages(name)])
    assert known[0] == known[1]
    assert len(known[0]) == 6


def test_what_counted_in_an_earlier_round_is_silent_and_what_is_late_is_refused(federation):
    (north,) = federation.send("north")
    raw = plain(north.read_bytes())
    federation.send("south", "west")
    federation.accept()
    federation.close()
    assert federation.accept() == ([], {})
    again = remanifest(unpack(raw), federation.sites["north"], attempt=2)
    sealed(federation.inbox / "late.age", zipped(again))
    assert federation.accept() == ([], {"late.age": "late"})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": 2}, "early"),
        ({"roster": "0" * 64}, "other_roster"),
        ({"previous": "0" * 64}, "missing_before"),
        ({"recipient": "elsewhere"}, "wrong_recipient"),
    ],
)
def test_a_release_of_another_place_in_the_thread(federation, changes, reason):
    (path,) = federation.send("north")
    changed = remanifest(unpack(path.read_bytes()), federation.sites["north"], **changes)
    sealed(path, zipped(changed))
    assert federation.accept() == ([], {path.name: reason})


def test_a_release_to_another_hub_or_in_the_name_of_another_site(federation):
    (path,) = federation.send("north")
    raw = plain(path.read_bytes())
    path.write_bytes(seal(raw, keys.public_text(federation.sites["south"].key)))
    assert federation.accept() == ([], {path.name: "other_seal"})
    forged = remanifest(unpack(raw), federation.sites["south"])
    sealed(path, zipped(forged))
    assert federation.accept() == ([], {path.name: "sender_signature"})
    sealed(path, raw)
    assert federation.accept() == (["north"], {})


def renewed(federation, name):
    """Give a site a new key, which its roster names from now on; return the settings."""
    one = federation.sites[name]
    path = one.root / "keys" / "site.key"
    path.unlink()
    public = keys.new_key(path)

    def edit(roster):
        next(member for member in roster if member["site"] == name).update(key=public)

    return federation.rosters(edit)


def test_a_key_is_replaced_by_a_new_roster(federation):
    """The old key is refused from then on; what was packed before is packed again and counts."""
    old = federation.sites["south"].key
    paths = federation.send(*NAMES)
    settings = renewed(federation, "south")
    with pytest.raises(RosterDiffers, match="what differs: south"):
        open_first(settings, federation.thread)
    change_roster(settings, federation.thread, LOST)
    federation.speak()
    reasons = dict(zip((p.name for p in paths), ("other_roster", "x", "other_roster"), strict=True))
    reasons["demo-south-r01-a1.age"] = "sender_signature"
    assert federation.accept() == ([], reasons)
    for name in ("north", "west"):
        standing, _ = federation.receive(name)
        assert standing.roster.number == 2
        assert federation.pack(name, standing).name == f"demo-{name}-r01-a2.age"
    south, _ = federation.receive("south")
    again = federation.pack("south", south)
    accepted, _ = federation.accept()
    assert accepted == list(NAMES)
    members = unpack(again.read_bytes())
    signature = keys.sign(old, members["manifest.json"])
    members["signature.json"] = json.dumps({"signature": signature}, separators=(",", ":")).encode()
    sealed(federation.inbox / "old.age", zipped(members))
    assert federation.accept()[1]["old.age"] == "sender_signature"
    assert federation.close()


def test_a_site_whose_key_the_roster_does_not_have_packs_nothing(federation):
    federation.build("south")
    renewed(federation, "south")
    standing, _ = federation.receive("south")
    with pytest.raises(ReleaseError, match="has another key for this site"):
        federation.pack("south", standing)


def test_no_roster_leaves_two_sites_or_takes_one_in_later(federation):
    west = federation.hub["roster"][2]
    settings = federation.rosters(lambda roster: roster.pop())
    with pytest.raises(RosterFault, match="only 2 sites would be left"):
        change_roster(settings, federation.thread, LOST)
    federation.rosters(lambda roster: roster.append(west))
    second(federation)
    with pytest.raises(RosterFault, match="what roster 1 says"):
        change_roster(federation.settings, federation.thread, LOST)
    more = west | {"site": "east"}
    with pytest.raises(RosterFault, match="east cannot join in round 2"):
        change_roster(
            federation.rosters(lambda roster: roster.append(more)), federation.thread, LOST
        )


def test_a_dropped_site_hears_why_and_packs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("thread_world.NAMES", (*NAMES, "east"))
    federation = Federation(tmp_path)
    federation.send("east", *NAMES)
    assert federation.accept()[0] == ["east", *NAMES]
    settings = federation.rosters(lambda roster: roster.pop())
    change_roster(settings, federation.thread, "Its scanner was not calibrated.")
    federation.speak()
    federation.accept()
    standing, _ = federation.receive("east")
    assert standing.roster.sites == list(NAMES)
    with pytest.raises(ReleaseError, match="reason: Its scanner was not calibrated"):
        federation.pack("east", standing)
    accepted, reasons = federation.accept()
    assert "east" not in accepted
    assert reasons["demo-east-r01-a1.age"] == "unknown_sender"


def test_ended_rounds_keep_what_was_accepted_and_take_nothing_new(federation):
    federation.send("north", "south")
    federation.accept()
    west = federation.build("west")
    end_rounds(federation.settings, federation.thread, "The protocol has an error.")
    federation.speak()
    federation.pack("west", west)
    accepted, reasons = federation.accept()
    assert (accepted, reasons) == (["north", "south"], {"demo-west-r01-a1.age": "ended"})
    for path in federation.inbox.iterdir():
        path.unlink()
    assert federation.accept() == (["north", "south"], {})
    assert not federation.close()
    with pytest.raises(ReleaseError, match="has ended the rounds"):
        federation.pack("north", federation.receive("north")[0])


def test_a_run_that_was_planned_for_another_round_is_refused(federation):
    check_round(federation.thread, 1)
    with pytest.raises(StageError, match=r"planned for round 2, and round 1 is open .* hub again"):
        check_round(federation.thread, 2)


@pytest.mark.parametrize("dies_at", [1, 2, 3, 4, 5])
def test_a_hub_that_is_killed_says_the_rest_with_the_same_bytes(tmp_path, monkeypatch, dies_at):
    """Between the event and its messages, or between two of them, or while they are sent."""
    known = []
    federation = Federation(tmp_path)
    federation.send(*NAMES)
    for number, dies in enumerate((dies_at, None)):
        federation.hub |= {"results": str(tmp_path / f"hub{number}")}
        open_first(federation.settings, federation.thread, "2026-11-01T12:00:00Z")
        federation.speak()
        federation.accept()
        writes, whole = [], thread.atomic_path

        def killed(path, *, dies=dies, writes=writes, whole=whole):
            writes.append(path)
            if len(writes) == dies:
                raise KeyboardInterrupt
            return whole(path)

        with monkeypatch.context() as patched:
            patched.setattr(thread, "atomic_path", killed)
            if dies:
                with pytest.raises(KeyboardInterrupt):
                    federation.close()
        if federation.thread.round == 1:
            assert federation.close()
        federation.speak()
        assert federation.thread.round == 2
        known.append([m.read() for name in NAMES for m in federation.thread.messages(name)])
    assert known[0] == known[1]
    for name in NAMES:
        assert federation.receive(name, (1,))[0].round == 2


def test_a_message_that_was_lost_on_its_way_is_sent_again(federation):
    for path in (federation.folder / "out" / "north").iterdir():
        path.unlink()
    assert federation.receive("north")[0].roster is None
    lacking = rounds.hub_state(federation.settings, federation.thread)
    federation.speak()
    assert federation.receive("north")[0].round == 1
    assert rounds.hub_state(federation.settings, federation.thread) != lacking


def test_a_hub_under_another_name_does_not_go_on_with_the_thread(federation):
    federation.hub["hub"] = {**federation.hub["hub"], "id": "elsewhere"}
    with pytest.raises(RosterDiffers, match=r"opened by the hub hub, and hub\.id"):
        open_first(federation.settings, federation.thread)

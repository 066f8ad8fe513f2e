"""What a person takes back in writing lets nothing leave any more, and what has left is listed."""

from __future__ import annotations

import os
import shutil
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from federation_world import NOW, site
from jipflow.cli import main
from jipflow.exchange import keys
from jipflow.exchange.keys import public_text
from jipflow.privacy.audit.events import Event
from jipflow.privacy.audit.trail import site_trail
from jipflow.release import packing, revocation
from jipflow.release.approval import NAME
from jipflow.release.contents import ReleaseError
from jipflow.release.packing import packed_state
from jipflow.release.revocation import revoked_in
from jipflow.report.release import State, standing_of
from jipflow.settings.run import write_settings
from test_cover import LAST_DAY, approve, as_round, held

WHY = "The ethics vote was withdrawn."
SAYS = f"Ada Roe revoked the approval of round 1 on 2026-11-04: {WHY}"


@pytest.fixture
def north(tmp_path):
    """A site whose round 1 has left by an approval up to round 4, and that has built round 2."""
    world = site(tmp_path, "north")
    world.write()
    world.build()
    approve(world, rounds=4, until=LAST_DAY)
    world.pack(tmp_path / "out")
    return world


def trail_of(world):
    return site_trail(world.settings, world.root / "results")


def revoke(world, **options):
    given = {"name": "Ada Roe", "key_file": world.approver_key, "reason": WHY} | options
    return revocation.revoke(
        release_dir=world.release,
        trail=trail_of(world),
        entries=world.ledger.entries(),
        now=NOW + timedelta(days=1),
        **given,
    )


def second_round(world):
    (world.release / NAME).unlink(missing_ok=True)
    as_round(world, 2)


def test_later_rounds_stop_and_the_line_says_who_when_and_why(north):
    made = revoke(north)
    assert [(each.round, each.last_round) for each in made.statements] == [(1, 4)]
    assert [kept.entry.release.manifest.round for kept in made.left] == [1]
    second_round(north)
    with pytest.raises(ReleaseError) as caught:
        held(north)
    assert SAYS in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ReleaseError, match="Ada Roe revoked the approval of round 1"):
        north.pack(north.root / "outbox", round=2)
    assert len(north.ledger.entries()) == 1


def test_it_is_signed_and_dated_in_the_trail(north):
    revoke(north)
    line = trail_of(north).lines()[-1]
    assert line.entry.event == Event.APPROVAL_REVOKED
    facts = line.facts.plain()["revocation"]
    assert (facts["person"], facts["issued"]) == ("Ada Roe", "2026-11-04T12:00:00Z")
    assert facts["key"] == public_text(keys.load_key(north.approver_key))
    assert (
        "approval of demo, round 1 up to round 4, revoked by Ada Roe on 2026-11-04" in line.text()
    )


def test_a_page_says_so_of_a_round_that_was_covered_when_it_was_built(north):
    from test_review import as_round as built_round

    (north.release / NAME).unlink()
    built_round(north, 2)
    assert standing_of(north.release, north.bundles, NOW).progress.state is State.COVERED
    revoke(north)
    revoked = revoked_in(trail_of(north).path)
    found = standing_of(north.release, north.bundles, NOW, revoked)
    assert found.progress.state is State.BUILT
    assert any(SAYS in sentence for sentence in found.sentences())
    assert "Nobody needs to approve it." not in found.sentences()


def test_a_job_that_packs_runs_again(north):
    before = packed_state(north.settings, north.root / "results" / "demo")
    revoke(north)
    assert packed_state(north.settings, north.root / "results" / "demo") != before


def test_an_approval_that_is_put_back_lets_nothing_leave(north):
    kept = (north.release / NAME).read_bytes()
    revoke(north)
    assert not (north.release / NAME).exists()
    (north.release / NAME).write_bytes(kept)
    with pytest.raises(ReleaseError, match="revoked the approval of round 1 on"):
        held(north)


def test_the_same_person_may_approve_a_later_round_anew(north):
    revoke(north)
    second_round(north)
    own = approve(north, rounds=3, until=LAST_DAY, now=NOW + timedelta(days=2))
    assert held(north) == own


def test_of_two_persons_one_is_enough(north, tmp_path):
    world = site(tmp_path / "two", "south")
    world.write()
    world.build()
    keys.new_key(tmp_path / "second.key")
    second = {"name": "Bea Coe", "key_file": tmp_path / "second.key"}
    approve(world, rounds=4, until=LAST_DAY)
    approve(world, rounds=4, until=LAST_DAY, **second)
    world.pack(tmp_path / "out")
    revoke(world, **second)
    assert [s.statement.person.name for s in approve(world, rounds=4, until=LAST_DAY)] == [
        "Ada Roe"
    ]
    second_round(world)
    with pytest.raises(ReleaseError, match="Bea Coe revoked the approval of round 1"):
        held(world)


def test_nobody_revokes_for_another(north, tmp_path):
    keys.new_key(tmp_path / "thief.key")
    for given in ({"key_file": tmp_path / "thief.key"}, {"name": "Bea Coe"}):
        with pytest.raises(ReleaseError, match="has an approval by"):
            revoke(north, **given)
    revoke(north)
    with pytest.raises(ReleaseError, match="reaches round 1 and is not revoked"):
        revoke(north)
    assert len(trail_of(north).lines()) == 2


def test_it_holds_after_a_trail_that_was_resumed(north):
    revoke(north)
    trail = trail_of(north)
    trail.path.write_bytes(trail.path.read_bytes().replace(b"release_packed", b"release_pucked"))
    trail.resume(name="Ada Roe", key_file=north.approver_key, reason="A disk had a bad block.")
    second_round(north)
    with pytest.raises(ReleaseError, match="revoked the approval of round 1"):
        held(north)


def test_a_line_that_another_signed_in_a_persons_name_revokes_nothing(north):
    revoke(north)
    (line,) = trail_of(north).lines()[1:]
    signature = line.facts.signature
    other = signature[:-1] + ("0" if signature[-1] != "0" else "1")
    facts = line.facts.plain() | {"signature": other}
    path = trail_of(north).path
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    (north.root / "results" / "audit.json").unlink()
    trail_of(north).record(Event.APPROVAL_REVOKED, facts)
    assert revoked_in(path) == {}


def test_what_is_taken_back_while_a_job_packs_does_not_leave(north, tmp_path, monkeypatch):
    north.write()
    (north.release / NAME).unlink()
    north.build()
    approve(north)
    append = packing.Ledger.append

    def meanwhile(ledger, *given):
        append(ledger, *given)
        revoke(north)

    with monkeypatch.context() as patched:
        patched.setattr(packing.Ledger, "append", meanwhile)
        with pytest.raises(ReleaseError, match="revoked the approval of round 1"):
            north.pack(tmp_path / "late", previous="2" * 64)
    assert not (tmp_path / "late").exists()


@pytest.fixture
def release(north):
    """The release where a run has it."""
    folder = north.root / "results" / "demo" / "release" / "r01"
    shutil.copytree(north.release, folder)
    write_settings(folder.parents[1] / "settings.json", north.settings)
    return folder


def test_approving_and_revoking_write_for_the_owner_alone(north, release):
    (release / NAME).unlink()
    kept = north.root / "results" / "audit.json"
    kept.unlink()
    given = [str(release), "--name", "Ada Roe", "--key", str(north.approver_key)]
    before = os.umask(0o022)
    try:
        assert main(["release", "approve", *given]) == 0
        pages = [release / NAME, release / "index.html"]
        assert [stat.S_IMODE(path.stat().st_mode) for path in pages] == [0o600] * 2
        assert main(["release", "revoke", *given, "--because", WHY]) == 0
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (pages[1], kept)] == [0o600] * 2


def test_the_command_lists_what_has_left(north, release, capsys):
    given = ["--name", "Ada Roe", "--key", str(north.approver_key), "--because"]
    assert main(["release", "revoke", str(release), *given, "no"]) == 1
    assert "revocation: reason" in capsys.readouterr().err
    assert main(["release", "revoke", str(release), *given, WHY]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("revoked: the approval of rounds 1 to 4 of demo, which Ada Roe")
    assert printed[1].startswith("has left by it: 000001 ")
    assert "round 1, attempt 1, 5 cells, approved by Ada Roe" in printed[1]
    assert not (release / NAME).exists()
    assert "revoked the approval of round 1" not in Path(release, "index.html").read_text()
    assert main(["release", "revoke", str(release), *given, WHY]) == 1

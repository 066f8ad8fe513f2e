"""The audit trail beside releases and the ledger, and what a steward calls to read it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from federation_world import site
from jipflow.cli import main
from jipflow.exchange import keys
from jipflow.files import read_json
from jipflow.privacy.audit.events import AT_HUB, Event
from jipflow.privacy.audit.lines import TrailFault
from jipflow.privacy.audit.trail import LAST, Trail, site_trail
from jipflow.reasons import StageError
from jipflow.release import packing
from jipflow.release.audited import record_ledger
from jipflow.release.ledger import Kept
from jipflow.report.audit import HUB_PARTS, SITE_PARTS

SAYS = {number: f"{number}" * 64 for number in range(1, 5)}
"""Hash of what the hub has sent before each attempt, which makes it another one."""

REASON = "The disk of the ledger was lost, and no backup is there."


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A site that has packed two attempts of a release."""
    folder = tmp_path_factory.mktemp("packed")
    world = site(folder, "north", patients=20)
    for attempt in (1, 2):
        world.send(folder / "outbox", attempt, previous=SAYS[attempt])
    return world


@pytest.fixture
def north(packed: Any) -> Any:
    """The same, whose files are as they were after the test."""
    kept = packed.root.with_name("kept")
    shutil.copytree(packed.root, kept)
    yield packed
    shutil.rmtree(packed.root)
    kept.rename(packed.root)


def trail_of(world: Any) -> Trail:
    return site_trail(world.settings, world.root / "results")


def verify(world: Any, *more: str, command: str = "verify") -> int:
    """Call the command with the site's own key, unless another is named."""
    given = [] if "--key" in more else ["--key", keys.public_text(world.key)]
    return main(["audit", command, str(trail_of(world).path), *more, *given])


def ledger(world: Any) -> list[str]:
    identity = world.settings.site.identity
    results = str(world.root / "results")
    named = {"--ledger": identity.ledger_folder, "--secret": identity.secret_file}
    return [word for pair in {**named, "--results": results}.items() for word in pair]


def cut(world: Any, lines: int) -> None:
    """Remove lines at the end, and what the results keep of them."""
    path = trail_of(world).path
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-lines]))
    (world.root / "results" / LAST).unlink()


def test_what_was_packed_stands_there_with_who_approved_it(north: Any) -> None:
    first, second = trail_of(north).lines()
    assert [line.entry.event for line in (first, second)] == [Event.RELEASE_PACKED] * 2
    facts = second.facts.plain()
    assert (facts["attempt"], facts["cells"]) == (2, 5)
    assert [each["person"] for each in facts["approvals"]] == ["Ada Roe"]
    entries = north.ledger.entries()
    assert facts["ledger"] == entries[1].sha256
    assert [kept.entry.audit for kept in entries] == [None, first.anchor]


def test_nothing_of_a_patient_is_in_it(north: Any) -> None:
    assert b"pseudo" in (Path(north.ledger.folder) / "000001.values.parquet").read_bytes()
    assert b"pseudo" not in trail_of(north).path.read_bytes()


def test_packing_the_same_again_adds_no_line(north: Any) -> None:
    before = trail_of(north).path.read_bytes()
    north.pack(north.root / "again", previous=SAYS[2])
    assert trail_of(north).path.read_bytes() == before


def test_a_job_killed_between_ledger_and_trail_writes_the_line_when_it_runs_again(
    north: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(trail: Trail, entries: Sequence[Kept]) -> None:
        if len(entries) > 2:
            raise KeyboardInterrupt
        record_ledger(trail, entries)

    with monkeypatch.context() as patched:
        patched.setattr(packing, "record_ledger", killed)
        with pytest.raises(KeyboardInterrupt):
            north.send(north.root / "outbox", 3, previous=SAYS[3])
    assert (len(north.ledger.entries()), len(trail_of(north).lines())) == (3, 2)
    north.pack(north.root / "outbox", previous=SAYS[3])
    assert (len(north.ledger.entries()), len(trail_of(north).lines())) == (3, 3)


def test_nothing_is_packed_beside_a_trail_that_is_not_whole(north: Any) -> None:
    path = trail_of(north).path
    path.write_bytes(path.read_bytes().replace(b"Ada Roe", b"Eve Roe", 1))
    with pytest.raises(TrailFault, match="line 1 is not as it was written"):
        north.send(north.root / "outbox", 3, previous=SAYS[3])
    assert len(north.ledger.entries()) == 2


def test_a_ledger_that_was_resumed_stands_there(north: Any) -> None:
    shutil.rmtree(north.ledger.folder)
    north.ledger.resume(name="Ada Roe", key_file=north.approver_key, reason=REASON)
    north.send(north.root / "outbox", 3, previous=SAYS[3])
    resumed = trail_of(north).lines()[2]
    assert resumed.entry.event == Event.LEDGER_RESUMED
    assert resumed.facts.plain()["person"] == "Ada Roe"


def test_verify_says_what_it_found_and_what_it_did_not_look_for(north: Any, capsys: Any) -> None:
    assert verify(north) == 0
    found = capsys.readouterr().out
    assert "The trail is whole: entries 1 to 2" in found
    assert trail_of(north).lines()[-1].sha256 in found
    assert "name --results and --ledger" in found
    assert verify(north, *ledger(north)) == 0
    assert "was not looked for" not in capsys.readouterr().out


def test_verify_fails_and_names_the_line(north: Any, capsys: Any) -> None:
    path = trail_of(north).path
    path.write_bytes(path.read_bytes().replace(b'"attempt":2', b'"attempt":3'))
    assert verify(north) == 1
    assert "line 2 is not as it was written" in capsys.readouterr().err


def test_lines_missing_at_the_end_are_found_by_the_ledger(north: Any, capsys: Any) -> None:
    cut(north, 1)
    assert verify(north, "--results", str(north.root / "results")) == 0
    assert verify(north, *ledger(north)) == 1
    assert "no entry is of entry 2 of the ledger" in capsys.readouterr().err
    missing = "entry 1 is missing, which entry 2 of the ledger speaks of"
    trail_of(north).path.write_bytes(b"")
    assert verify(north, *ledger(north)) == 1
    assert missing in capsys.readouterr().err
    with pytest.raises(TrailFault, match=missing):
        north.send(north.root / "outbox", 3, previous=SAYS[3])
    assert len(north.ledger.entries()) == 2
    key_file = ["--site-key", north.settings.site.identity.signing_key_file]
    who = ["--name", "Ada Roe", "--key", str(north.approver_key), "--because", REASON]
    resume = ["audit", "resume", str(trail_of(north).path), *key_file, *who]
    assert main([*resume, "--results", str(north.root / "results")]) == 1
    assert "Nothing is wrong" in capsys.readouterr().err
    assert main([*resume, *ledger(north)]) == 0
    north.send(north.root / "outbox", 3, previous=SAYS[3])
    assert verify(north, *ledger(north)) == 0
    assert [line.entry.number for line in trail_of(north).lines()] == [2, 3, 4, 5]


def test_a_trail_of_other_keys_than_the_sites_is_refused(north: Any, capsys: Any) -> None:
    other = keys.new_key(north.root / "other.key")
    own = keys.public_text(north.key)
    assert verify(north, "--key", other) == 1
    assert f"entry 1 is signed by {own}, which is none" in capsys.readouterr().err
    assert verify(north, "--key", own, "--key", other) == 1
    assert f"not signed by {other}" in capsys.readouterr().err
    assert verify(north, "--key", other, "--key", own) == 0


def test_a_trail_that_is_not_there_is_none(north: Any, capsys: Any) -> None:
    trail_of(north).path.unlink()
    (north.root / "results" / LAST).unlink()
    assert verify(north) == 1
    assert "No such file" in capsys.readouterr().err


def test_an_older_copy_of_all_secrets_with_the_ledger_stops_every_release(
    north: Any, capsys: Any
) -> None:
    folder = trail_of(north).path.parent
    older = folder.with_name("older")
    shutil.copytree(folder, older)
    north.send(north.root / "outbox", 3, previous=SAYS[3])
    shutil.rmtree(folder)
    older.rename(folder)
    assert verify(north, *ledger(north)) == 1
    assert "entry 3 is missing" in capsys.readouterr().err
    with pytest.raises(StageError):
        north.send(north.root / "outbox", 4, previous=SAYS[4])
    # Who has put back what the results keep of both as well is found by what they packed.
    (north.root / "results" / LAST).unlink()
    (north.root / "results" / "ledger.json").unlink()
    with pytest.raises(StageError, match="bundle"):
        north.send(north.root / "outbox", 4, previous=SAYS[4])


def test_every_event_has_a_part_of_the_page_of_a_site_or_a_hub() -> None:
    drawn = [
        {event for _, events in parts.values() for event in events}
        for parts in (SITE_PARTS, HUB_PARTS)
    ]
    assert drawn[0] | drawn[1] == set(Event)
    assert drawn[1] - drawn[0] == AT_HUB


def test_the_page_has_every_entry_and_no_script_of_a_persons_words(
    north: Any, capsys: Any, tmp_path: Path
) -> None:
    page = tmp_path / "audit.html"
    assert verify(north, str(page), command="page") == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("approved by Ada Roe on ") == 2
    assert "The trail is whole" in text
    path = trail_of(north).path
    path.write_bytes(path.read_bytes().replace(b'"attempt":1', b'"attempt":4'))
    assert verify(north, str(page), command="page") == 1
    broken = page.read_text(encoding="utf-8")
    assert "The trail is not whole" in broken
    assert broken.count("approved by Ada Roe on ") == 1
    words = "<script>alert(1)</script> is what I say"
    who = ["--name", "Ada Roe", "--key", str(north.approver_key), "--because", words]
    where = ["--results", str(north.root / "results")]
    key_file = ["--site-key", north.settings.site.identity.signing_key_file]
    assert main(["audit", "resume", str(path), *where, *key_file, *who]) == 0
    assert verify(north, str(page), command="page") == 0
    resumed = page.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in resumed
    assert "<script>alert" not in resumed
    capsys.readouterr()


def test_the_page_and_what_a_resumption_writes_are_the_owner_s_alone(
    north: Any, tmp_path: Path
) -> None:
    page, path, kept = tmp_path / "a.html", trail_of(north).path, north.root / "results" / LAST
    before = os.umask(0o022)
    try:
        assert verify(north, str(page), command="page") == 0
        path.write_bytes(path.read_bytes().replace(b'"attempt":1', b'"attempt":4'))
        who = ["--name", "Ada Roe", "--key", str(north.approver_key), "--because", REASON]
        key_file = ["--site-key", north.settings.site.identity.signing_key_file]
        where = ["--results", str(kept.parent)]
        assert main(["audit", "resume", str(path), *where, *key_file, *who]) == 0
    finally:
        os.umask(before)
    assert [each.stat().st_mode & 0o077 for each in (page, kept)] == [0, 0]


def test_what_the_results_keep_may_be_damaged_until_a_person_decides(north: Any) -> None:
    trail = trail_of(north)
    kept = trail.results / LAST
    kept.write_text("{")
    with pytest.raises(TrailFault, match=r"audit\.json is damaged"):
        trail.lines()
    trail.resume(name="Ada Roe", key_file=north.approver_key, reason=REASON)
    assert read_json(kept)["number"] == 3
    assert [line.entry.number for line in trail.lines()] == [3]

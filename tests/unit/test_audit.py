"""The audit trail: whatever is done to its file is found, and what happens to its writers heals."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jipflow.exchange import keys
from jipflow.exchange.message import canonical
from jipflow.privacy.audit import trail as trails
from jipflow.privacy.audit.events import FACTS, Event
from jipflow.privacy.audit.lines import Signed, TrailFault
from jipflow.privacy.audit.trail import LAST, Trail, read_trail, record
from jipflow.reasons import StageError
from jipflow.settings.resources import ConfigError

REASON = "The disk was lost, and its backup with it."


def trail_in(folder: Path, name: str = "secrets") -> Trail:
    return Trail(folder / name / "audit.jsonl", folder / name / "site.key", folder / "results")


def catalogued(number: int) -> dict[str, Any]:
    read = {"archive": {"files": number, "dicom_files": number}}
    return {"sources": read, "series": number, "sha256": f"{number:064x}"}


def write(trail: Trail, *numbers: int) -> None:
    for number in numbers:
        assert record(trail, Event.SOURCES_CATALOGUED, catalogued(number))


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    """A trail of four lines."""
    made = trail_in(tmp_path)
    write(made, 1, 2, 3, 4)
    return made


def test_a_line_has_its_number_the_hash_before_it_time_account_and_version(trail: Trail) -> None:
    lines = trail.path.read_bytes().splitlines()
    entries = [json.loads(line)["entry"] for line in lines]
    assert [entry["number"] for entry in entries] == [1, 2, 3, 4]
    assert [line.sha256 for line in trail.lines()[:-1]] == [e["previous"] for e in entries[1:]]
    assert entries[0].keys() == {
        *("format", "number", "previous", "time", "clock_set_back", "actor", "version", "key"),
        *("event", "facts"),
    }
    assert entries[0]["key"] == keys.public_text(keys.load_key(trail.key_file))
    assert trail.path.stat().st_mode & 0o077 == 0


def test_what_is_known_is_not_written_again(trail: Trail) -> None:
    before = trail.path.read_bytes()
    assert not record(trail, Event.SOURCES_CATALOGUED, catalogued(4))
    assert trail.path.read_bytes() == before
    assert record(trail, Event.SOURCES_CATALOGUED, catalogued(3))


def test_each_subject_has_a_last_line_of_its_own(tmp_path: Path) -> None:
    trail = trail_in(tmp_path)
    rosters = [
        {"protocol": name, "hub": "hub", "number": 1, "sites": 3, "sha256": "a" * 64}
        for name in ("lung", "liver")
    ]
    assert [record(trail, Event.ROSTER_IN_FORCE, facts) for facts in rosters * 2] == [
        *(True, True, False, False)
    ]


def test_two_erasures_of_as_many_are_two_lines_and_one_tried_again_is_one(tmp_path: Path) -> None:
    trail = trail_in(tmp_path)
    erased = {"protocols": ["lung"], "patients": 1, "cases": 2, "files": 9}
    erased |= {"listed": 1, "list_sha256": "a" * 64}
    wrote = [
        record(trail, Event.PATIENTS_ERASED, {"erasure": name * 64, **erased}) for name in "abba"
    ]
    assert wrote == [True, True, False, False]


def test_every_event_has_facts_and_takes_no_other(tmp_path: Path) -> None:
    assert set(FACTS) == set(Event)
    with pytest.raises(ConfigError, match="PatientID"):
        record(trail_in(tmp_path), Event.SECRET_IN_USE, {"fingerprint": "a" * 64, "PatientID": "7"})
    with pytest.raises(ValueError, match="itself"):
        record(trail_in(tmp_path), Event.LINE_CUT, {"bytes": 1, "sha256": "a" * 64})


def test_each_byte_that_is_changed_is_found_and_its_line_named(tmp_path: Path) -> None:
    trail = trail_in(tmp_path)
    write(trail, 1, 2)
    content = trail.path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        trail.path.write_bytes(changed)
        place = content.count(b"\n", 0, position) + 1
        with pytest.raises(TrailFault, match=f"line {place} is") as found:
            read_trail(trail.path)
        assert ("cut off" in str(found.value)) == (position == len(content) - 1), position
    trail.path.write_bytes(content)
    assert len(trail.lines()) == 2


@pytest.mark.parametrize(
    ("order", "place"),
    [
        ((1, 0, 2, 3), 1),
        ((0, 2, 1, 3), 2),
        ((1, 2, 3), 1),
        ((0, 2, 3), 2),
        ((0, 1, 1, 2, 3), 3),
        ((0, 1, 2, 3, 3), 5),
        ((0, 1, 2, 3, 0), 5),
    ],
)
def test_lines_that_are_moved_removed_or_doubled_are_found(
    trail: Trail, order: tuple[int, ...], place: int
) -> None:
    lines = trail.path.read_bytes().splitlines(keepends=True)
    trail.path.write_bytes(b"".join(lines[number] for number in order))
    with pytest.raises(TrailFault, match=f"line {place} is entry"):
        read_trail(trail.path)


@pytest.mark.parametrize("left", [0, 1, 3])
def test_lines_missing_at_the_end_are_found_by_what_the_results_keep(
    trail: Trail, left: int
) -> None:
    lines = trail.path.read_bytes().splitlines(keepends=True)
    trail.path.write_bytes(b"".join(lines[:left]))
    assert len(read_trail(trail.path)) == left
    with pytest.raises(TrailFault, match=r"entry 4 is missing, which .*audit\.json speaks of"):
        trail.lines()
    with pytest.raises(TrailFault, match="entry 4 is missing"):
        record(trail, Event.SOURCES_CATALOGUED, catalogued(9))


def test_a_file_that_is_gone_is_found(trail: Trail) -> None:
    trail.path.unlink()
    with pytest.raises(TrailFault, match=r"it is not there, and .*audit\.json speaks of it"):
        trail.lines()
    with pytest.raises(TrailFault, match="it is not there"):
        record(trail, Event.SOURCES_CATALOGUED, catalogued(4))
    assert not trail.path.exists()


def test_a_trail_of_another_key_is_another_one(trail: Trail, tmp_path: Path) -> None:
    other = trail_in(tmp_path, "other")
    other.results = tmp_path / "elsewhere"
    write(other, 1, 2, 3, 4)
    trail.path.write_bytes(other.path.read_bytes())
    with pytest.raises(TrailFault, match="entry 4 is another one than"):
        trail.lines()


def test_a_line_of_another_key_in_the_middle_is_found(trail: Trail, tmp_path: Path) -> None:
    own = trail.path.read_bytes()
    keys.new_key(tmp_path / "thief.key")
    write(Trail(trail.path, tmp_path / "thief.key", trail.results), 5)
    lines = trail.path.read_bytes().splitlines(keepends=True)
    assert [line.entry.event for line in trail.lines()][4:] == [
        *(Event.KEY_CHANGED, Event.SOURCES_CATALOGUED)
    ]
    trail.path.write_bytes(own + lines[5])
    with pytest.raises(TrailFault, match="line 5 is entry 6"):
        read_trail(trail.path)


def test_a_line_that_only_names_another_key_is_found(trail: Trail, tmp_path: Path) -> None:
    keys.new_key(tmp_path / "thief.key")
    thief = keys.load_key(tmp_path / "thief.key")
    last = trail.lines()[-1]
    changes = {"number": 5, "previous": last.sha256, "key": keys.public_text(thief)}
    entry = last.entry.model_copy(update=changes)
    signed = Signed(entry=entry, signature=keys.sign(thief, canonical(entry.plain())))
    trail.path.write_bytes(trail.path.read_bytes() + canonical(signed.plain()) + b"\n")
    with pytest.raises(TrailFault, match="line 5 is signed by another key than the line before"):
        read_trail(trail.path)


def test_a_line_that_the_site_wrote_in_another_copy_does_not_fit(trail: Trail) -> None:
    lines = trail.path.read_bytes().splitlines(keepends=True)
    copy = Trail(trail.path.with_name("copy.jsonl"), trail.key_file, trail.results / "other")
    copy.path.write_bytes(b"".join(lines[:2]))
    write(copy, 9)
    other = copy.path.read_bytes().splitlines(keepends=True)[2]
    trail.path.write_bytes(b"".join([*lines[:2], other, lines[3]]))
    with pytest.raises(TrailFault, match="line 4 is entry 4, and does not follow entry 3"):
        read_trail(trail.path)


def test_a_new_key_of_the_site_is_noted_first(trail: Trail) -> None:
    old = keys.public_text(keys.load_key(trail.key_file))
    trail.key_file.unlink()
    write(trail, 5)
    changed = trail.lines()[4]
    assert changed.entry.event == Event.KEY_CHANGED
    assert changed.facts.plain() == {"old": old, "new": changed.entry.key}


@pytest.mark.parametrize("rest", [b"{", b"\0" * 700, b'{"entry":{"actor":"root"'])
def test_a_line_that_was_cut_off_is_reported_then_noted(trail: Trail, rest: bytes) -> None:
    before = trail.path.read_bytes()
    trail.path.write_bytes(before + rest)
    with pytest.raises(TrailFault, match="line 5 is cut off"):
        read_trail(trail.path)
    trail.key_file.unlink()
    assert [line.entry.number for line in trail.lines()] == [1, 2, 3, 4, 5, 6]
    write(trail, 5)
    assert trail.path.read_bytes().startswith(before + rest + b"\n")
    assert [line.entry.event for line in trail.lines()[4:]] == [
        *(Event.KEY_CHANGED, Event.LINE_CUT, Event.SOURCES_CATALOGUED)
    ]
    trail.path.write_bytes(trail.path.read_bytes().replace(rest + b"\n", rest + b"x\n"))
    with pytest.raises(TrailFault, match="line 5 is not as it was written"):
        trail.lines()


def test_a_line_that_others_know_was_not_cut_off_by_a_kill(trail: Trail) -> None:
    trail.path.write_bytes(trail.path.read_bytes()[:-1])
    with pytest.raises(TrailFault, match="entry 4 is missing"):
        record(trail, Event.SOURCES_CATALOGUED, catalogued(9))


def test_a_full_disk_fails_the_job_and_leaves_the_trail_whole(trail: Trail) -> None:
    before = trail.path.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(OSError, match="large"):
            record(trail, Event.SOURCES_CATALOGUED, catalogued(5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert trail.path.read_bytes() == before
    write(trail, 5)
    assert len(trail.lines()) == 5


def test_of_several_lines_at_once_a_full_disk_leaves_none(trail: Trail) -> None:
    before = trail.path.read_bytes()
    several = [(Event.SOURCES_CATALOGUED, catalogued(number)) for number in range(5, 9)]
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for two lines and a half.
    room = len(before) + len(before.splitlines()[-1]) * 5 // 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError, match="large"):
            trail.record_all(several)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert trail.path.read_bytes() == before
    assert trail.record_all(several) == 4
    assert len(trail.lines()) == 8


KILLED = """
import os, signal, sys
from pathlib import Path
from jipflow.privacy.audit import trail as trails
from jipflow.privacy.audit.events import Event
folder, place = Path(sys.argv[1]), sys.argv[2]
def die(*given):
    os.kill(os.getpid(), signal.SIGKILL)
if place == "before the results keep it":
    trails.write_json = die
elif place == "within a line":
    write = os.write
    def half(descriptor, data):
        write(descriptor, bytes(data)[: len(data) // 2])
        die()
    trails.os.write = half
else:
    trails.os.fsync = die
trail = trails.Trail(folder / "secrets" / "audit.jsonl", folder / "secrets" / "site.key",
                     folder / "results")
trails.record(trail, Event.SECRET_IN_USE, {"fingerprint": "a" * 64})
"""


@pytest.mark.parametrize(
    ("place", "noted"),
    [
        ("before the results keep it", []),
        ("before it is on the disk", []),
        ("within a line", [Event.LINE_CUT]),
    ],
)
def test_a_job_that_is_killed_while_it_writes_runs_again(
    trail: Trail, tmp_path: Path, place: str, noted: list[Event]
) -> None:
    job = [sys.executable, "-c", KILLED, str(tmp_path), place]
    assert subprocess.run(job, check=False).returncode == -signal.SIGKILL
    record(trail, Event.SECRET_IN_USE, {"fingerprint": "a" * 64})
    lines = trail.lines()
    assert [line.entry.event for line in lines[4:]] == [*noted, Event.SECRET_IN_USE]
    assert json.loads((trail.results / LAST).read_text()) == lines[-1].anchor.plain()


def test_an_older_copy_of_the_trail_is_found(trail: Trail) -> None:
    older = trail.path.read_bytes()
    write(trail, 5)
    trail.path.write_bytes(older)
    with pytest.raises(TrailFault, match="entry 5 is missing"):
        write(trail, 6)


def test_a_clock_that_was_set_back_is_noted(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trails, "now_text", lambda: "2001-01-01T00:00:00Z")
    write(trail, 5, 6)
    assert [line.entry.clock_set_back for line in trail.lines()[3:]] == [False, True, False]
    assert "set back" in trail.lines()[4].text()


WRITER = """
import sys
from pathlib import Path
from jipflow.privacy.audit.events import Event
from jipflow.privacy.audit.trail import Trail, record
folder, start = Path(sys.argv[1]), int(sys.argv[2])
trail = Trail(folder / "s" / "audit.jsonl", folder / "s" / "site.key", folder / "results")
for number in range(start, start + 10):
    record(trail, Event.SECRET_IN_USE, {"fingerprint": f"{number:064x}"})
"""


def test_two_processes_that_write_at_once_take_turns(tmp_path: Path) -> None:
    jobs = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(start)])
        for start in (0, 100)
    ]
    assert [job.wait(60) for job in jobs] == [0, 0]
    lines = trail_in(tmp_path, "s").lines()
    assert len(lines) == 20
    assert {line.entry.key for line in lines} == {lines[0].entry.key}


def test_a_trail_that_is_not_whole_goes_on_by_a_persons_word(trail: Trail, tmp_path: Path) -> None:
    person = tmp_path / "person.key"
    keys.new_key(person)
    with pytest.raises(StageError, match="Nothing is wrong"):
        trail.resume(name="Ada", key_file=person, reason=REASON)
    broken = trail.path.read_bytes().replace(b"archive", b"archivf", 1)
    trail.path.write_bytes(broken)
    trail.resume(name="Ada", key_file=person, reason=REASON)
    assert trail.path.read_bytes().startswith(broken)
    (resumed,) = trail.lines()
    assert resumed.entry.number == 5
    assert "line 1 is not as it was written" in resumed.facts.sentence()
    write(trail, 4)
    trail.path.write_bytes(trail.path.read_bytes().replace(b"archivf", b"archive", 1))
    with pytest.raises(TrailFault, match="line 5 is a resumption of other bytes"):
        trail.lines()


def test_a_trail_that_is_lost_goes_on_with_numbers_that_it_never_had(
    trail: Trail, tmp_path: Path
) -> None:
    keys.new_key(tmp_path / "person.key")
    trail.path.unlink()
    trail.resume(name="Ada", key_file=tmp_path / "person.key", reason=REASON)
    write(trail, 4)
    assert [line.entry.number for line in trail.lines()] == [5, 6]
    assert json.loads((trail.results / LAST).read_text())["number"] == 6


def test_a_reader_needs_no_right_to_write(trail: Trail) -> None:
    trail.path.chmod(0o400)
    os.chmod(trail.path.parent, 0o500)
    try:
        assert len(read_trail(trail.path)) == 4
    finally:
        os.chmod(trail.path.parent, 0o700)

"""How runs stand, by their files: before, during, after, and where nothing may be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from jipflow.files import write_json
from jipflow.outcomes import Outcome, Status, write_outcomes
from jipflow.reasons import StageError
from jipflow.repair.sentences import sentences
from jipflow.repair.standing import protocols_of, read_standing
from repair_world import STAGES, write_cohort, write_shard, write_stage

HOLD = """
import sys
from pathlib import Path
from jipflow.lock import hold
hold(Path(sys.argv[1]), "a run")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def a_run(results):
    """A process that has the results as a run has them."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(results)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def results(tmp_path):
    """Two shards; of the second one stage has ended."""
    folder = tmp_path / "lung"
    write_cohort(folder, {"s00001": ["aaa", "bbb", "ccc"], "s00002": ["ddd", "eee"]}, ["xxx"])
    write_shard(folder, "s00001", ["aaa", "bbb", "ccc"], {"bbb": ("prepare", "missing_slices")})
    write_stage(folder, "s00002", "prepare", [Outcome(c, "prepare", "gtv") for c in ("ddd", "eee")])
    return tmp_path


def one(results):
    (found,) = read_standing(results).protocols
    return found


def test_cases_are_counted_by_what_became_of_them(results):
    found = one(results)
    counts = found.ok, found.failed, found.waiting, found.open, found.excluded
    assert (found.cases, counts) == (5, (2, 1, 0, 2, 1))
    assert (found.shards, found.shards_done) == (2, 1)
    prepare, segment = found.stages["prepare"], found.stages["segment"]
    assert (prepare.ok, prepare.failed, prepare.blocked, prepare.jobs) == (4, 1, 0, 2)
    assert (segment.ok, segment.failed, segment.blocked, segment.jobs) == (2, 0, 1, 1)
    assert [(r.stage, r.status, r.reason, r.cases) for r in found.reasons] == [
        ("cohort", "excluded", "missing_role", 1),
        ("prepare", "failed", "missing_slices", 1),
    ]
    text = "\n".join(sentences(read_standing(results)))
    assert "lung: 5 cases: 2 ok, 1 failed, 0 waiting for a person, 2 to do; 1 more excl" in text
    assert "  failed at prepare: missing_slices, 1 case\n" in text
    assert text.endswith("last release: none")


def test_a_table_of_cases_may_be_cut_off_anywhere(results):
    cases = results / "lung" / "cohort" / "cases.tsv"
    content = cases.read_bytes()
    for left in range(len(content)):
        cases.write_bytes(content[:left])
        assert one(results).shards <= 2
    cases.write_bytes(content.partition(b"eee")[0] + b"eee")
    assert (one(results).cases, one(results).shards) == (4, 2)


def test_a_case_that_waits_for_a_person_has_not_failed(results):
    waits = Outcome("ddd", "segment", "gtv", Status.WAITING, "awaiting_reader")
    write_stage(results / "lung", "s00002", "segment", [waits, Outcome("eee", "segment", "gtv")])
    found = one(results)
    assert (found.waiting, found.open, found.stages["segment"].waiting) == (1, 1, 1)


def test_jobs_that_go_on_are_those_of_the_run_that_have_no_record_yet(results):
    log = results / "lung" / "logs" / "segment" / "s00002.log"
    log.write_text("ddd segment gtv: ok\n")
    os.utime(log, (1, 1))
    assert (one(results).running, one(results).stopped) == ([], [("segment", "s00002")])
    with a_run(results) as run:
        assert one(results).stopped == [("segment", "s00002")]
        # The run begins the log anew.
        log.write_text("ddd segment gtv: ok\n")
        standing = read_standing(results)
        assert standing.protocols[0].running == [("segment", "s00002")]
        assert (standing.lock.state, standing.lock.pid) == ("run", str(run.pid))
        assert standing.lock.sentence().startswith(f"held by the run of process {run.pid} on ")
        log.write_text("ddd segment gtv: ok\njipflow: no room on the disk.\n")
        assert one(results).stopped == [("segment", "s00002")]
    assert read_standing(results).lock.state == "killed"
    assert "was killed" in read_standing(results).lock.sentence()


def test_a_run_of_another_machine_is_believed_to_go_on(results):
    left = {"host": "elsewhere", "pid": "7", "boot": "other", "machine": "other", "started": ""}
    (results / ".lock").write_text(json.dumps(left))
    assert read_standing(results).lock.state == "elsewhere"
    assert "as far as can be seen" in read_standing(results).lock.sentence()


def test_before_the_first_run_there_is_nothing(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert list(sentences(read_standing(folder))) == [
            f"results: {folder}",
            "lock: free",
            "no run yet: nothing of a protocol is here",
        ]
    assert list(tmp_path.iterdir()) == []
    write_json(tmp_path / "lung" / "settings.json", {})
    assert "lung: no cohort yet" in list(sentences(read_standing(tmp_path)))


def test_a_table_that_was_cut_off_or_is_being_replaced_is_not_there_yet(results):
    place = results / "lung" / "shards" / "s00001"
    (place / "measure" / "outcomes.parquet").write_bytes(b"PAR1")
    (place / "overlay" / "outcomes.parquet").unlink()
    assert one(results).cases == 5
    (results / "lung" / "cohort" / "cases.tsv").unlink()
    assert one(results).cases == 0


def test_the_last_release_says_how_far_it_has_come(results):
    folder = results / "lung" / "release"
    write_json(folder / "r01" / "aggregates.json", {})
    write_json(folder / "r02" / "aggregates.json", {})
    assert (one(results).release["round"], one(results).release["state"]) == (2, "candidate")
    write_json(folder / "r02" / "approval.json", {})
    assert one(results).release["state"] == "approved"
    (results / "lung" / "bundles").mkdir()
    (results / "lung" / "bundles" / "lung-north-r02-a1.zip").touch()
    assert one(results).release["state"] == "packed"
    line = list(sentences(read_standing(results)))[-1]
    assert "round 2, packed as lung-north-r02-a1.zip" in line


def test_a_protocol_that_is_not_there_is_refused_with_those_that_are(results):
    assert protocols_of(results, "lung") == [results / "lung"]
    with pytest.raises(StageError, match="no results of protocol 'lnug'; did you mean 'lung'"):
        read_standing(results, "lnug")


def test_json_has_the_same_and_nothing_is_written(results):
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    for path in (results, *(p for p in before if p.is_dir())):
        path.chmod(0o555)
    try:
        words = ["status", "--results", str(results), "--json"]
        command = [sys.executable, "-m", "jipflow", *words]
        if os.geteuid() == 0:
            # Root may write everywhere; an account that may not reads the same.
            command = ["setpriv", "--reuid=65534", "--clear-groups", *command]
            for path in (results, *results.parents):
                if path.stat().st_uid == 0 and not path.stat().st_mode & 0o001:
                    path.chmod(path.stat().st_mode | 0o011)
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        for path in (results, *(p for p in before if p.is_dir())):
            path.chmod(0o755)
    content = json.loads(printed)
    assert content["protocols"]["lung"]["failed"] == 1
    assert content["lock"]["state"] == "free"
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before


def test_ten_thousand_cases_are_counted(tmp_path):
    folder = tmp_path / "lung"
    cases = [f"c{number:05d}" for number in range(10_000)]
    shards = {f"s{n // 50 + 1:05d}": cases[n : n + 50] for n in range(0, len(cases), 50)}
    write_cohort(folder, shards)
    for shard, members in shards.items():
        for stage in STAGES:
            rows = [Outcome(c, stage, item) for c in members for item in ("organs", "gtv")]
            place = folder / "shards" / shard / stage
            write_outcomes(place / "outcomes.parquet", rows)
            (place / "provenance.json").touch()
    words = ["status", "--results", str(tmp_path), "--json"]
    command = [sys.executable, "-m", "jipflow", *words]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed)["protocols"]["lung"]["ok"] == 10_000

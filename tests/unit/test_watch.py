"""Runs watched: the estimate, the terminal, the page, the metrics, the log and the command."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from jipflow.cli.watching import keep_watch
from jipflow.files import read_frame, read_parquet, write_parquet
from jipflow.lock import Holder
from jipflow.outcomes import Outcome
from jipflow.repair import after_run, counted, standing
from jipflow.repair.after_run import counts_after, secret_variables, tell
from jipflow.repair.estimate import Work, estimate
from jipflow.repair.events import RunLog
from jipflow.repair.metrics import metrics_text, write_metrics
from jipflow.repair.sentences import sentences
from jipflow.repair.standing import read_standing
from jipflow.settings.after_run import AfterRun
from jipflow.settings.resources import ROOT
from jipflow.settings.schema import load
from jipflow.settings.site import Site
from repair_world import STAGES, write_cohort, write_shard, write_stage

CASES = {"s00001": ["aaa", "bbb", "ccc"], "s00002": ["ddd", "eee"], "s00003": ["fff"]}

SAMPLE = re.compile(
    r'jipflow_[a-z_]+(\{[a-z]+="[^"\\\n]*"(,[a-z]+="[^"\\\n]*")*\})? -?\d+(\.\d+)?(e[+-]\d+)?'
)
"""A line of Prometheus' text format that is no comment."""


@pytest.fixture
def results(tmp_path):
    """Of three shards the first is done; of its three cases one failed."""
    folder = tmp_path / "lung"
    write_cohort(folder, CASES, ["xxx"])
    write_shard(folder, "s00001", CASES["s00001"], {"bbb": ("prepare", "missing_slices")})
    return tmp_path


@pytest.fixture
def a_run_of_a_minute(results, monkeypatch):
    """A run that began a minute ago, and whose items took a second each."""
    now = time.time()
    os.utime(results / "lung" / "cohort" / "provenance.json", (now - 60, now - 60))
    for stage in STAGES:
        rows = [Outcome(case, stage, "gtv", seconds=1.0) for case in CASES["s00001"]]
        write_stage(results / "lung", "s00001", stage, rows)
    holds = Holder("run", "node", "7", time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(0)), "/")
    monkeypatch.setattr(standing, "holder", lambda folder: holds)
    return results


def test_what_is_left_of_each_stage_is_counted(results):
    write_stage(results / "lung", "s00002", "prepare", [Outcome("ddd", "prepare", "gtv")])
    (found,) = read_standing(results).protocols
    assert [found.stages[stage].left for stage in STAGES] == [1, 3, 3, 3, 3, 3]
    assert found.stages["cohort"].left == 0


def test_the_rest_is_estimated_by_the_pace_of_the_run(a_run_of_a_minute):
    # 18 items of a second were made in 60 s; 3 cases have 6 stages left.
    (found,) = read_standing(a_run_of_a_minute).protocols
    assert found.estimate.done == 0.5
    assert found.estimate.seconds == pytest.approx(60, rel=0.1)
    lines = list(sentences(read_standing(a_run_of_a_minute)))
    assert any(re.fullmatch(r"  work: 50 % done, about (1 min 0\d|5\d) ?s left", x) for x in lines)


def test_what_an_earlier_run_made_is_work_but_no_pace(a_run_of_a_minute):
    for path in (a_run_of_a_minute / "lung" / "shards").rglob("provenance.json"):
        os.utime(path, (1, 1))
    (found,) = read_standing(a_run_of_a_minute).protocols
    assert (found.estimate.done, found.estimate.seconds) == (0.5, None)
    assert found.estimate.why == "no job of this run has ended yet"


@pytest.mark.parametrize(
    ("stages", "elapsed", "why"),
    [
        ({"prepare": Work(3, 3, 1), "segment": Work(0, 0, 4)}, 9.0, "no shard has been through se"),
        ({"prepare": Work(3, 3, 1)}, None, "no run goes on"),
        ({}, 9.0, "there are no settings yet"),
    ],
)
def test_where_the_rest_is_not_known_it_gives_the_reason(stages, elapsed, why):
    found = estimate(stages, 3.0, elapsed)
    assert found.seconds is None
    assert found.why.startswith(why)


def test_a_stage_whose_cases_take_longer_weighs_more():
    stages = {"prepare": Work(10, 10, 0), "segment": Work(50, 5, 5)}
    found = estimate(stages, 60.0, 30.0)
    assert (found.done, found.seconds) == (pytest.approx(60 / 110), pytest.approx(25))


def test_a_table_is_read_once_while_it_stays_the_same(results, monkeypatch):
    read_standing(results)
    read = []
    before = counted._read
    monkeypatch.setattr(counted, "_read", lambda path: read.append(path) or before(path))
    first = read_standing(results)
    assert read == []
    rows = [Outcome(case, "measure", "gtv") for case in CASES["s00001"]]
    write_stage(results / "lung", "s00001", "measure", rows)
    assert read_standing(results).protocols[0].stages["measure"].ok == 3
    assert [path.parent.name for path in read] == ["measure"]
    assert first.protocols[0].stages["measure"].ok == 2


def test_metrics_have_the_numbers_of_status_and_name_nobody(results):
    text = metrics_text(read_standing(results), "a", 1234.0)
    assert 'jipflow_cases{results="a",protocol="lung",state="failed"} 1\n' in text
    left = 'jipflow_stage_cases{results="a",protocol="lung",stage="segment",state="left"} 3\n'
    assert left in text
    assert 'jipflow_results_state{results="a",state="free"} 1\n' in text
    assert "jipflow_left_seconds" not in text
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(SAMPLE.fullmatch(line) for line in samples)
    assert len(set(samples)) == len(samples)
    for name in {line.partition("{")[0].partition(" ")[0] for line in samples}:
        assert f"# TYPE {name} gauge" in text
    for secret in ("aaa", "bbb", "s00001", str(results)):
        assert secret not in text


def test_one_look_writes_page_and_metrics_whole(results, tmp_path):
    page, metrics = tmp_path / "page.html", tmp_path / "collector" / "jipflow.prom"
    words = ["watch", "--once", "--results", str(results), "--page", str(page)]
    command = [sys.executable, "-m", "jipflow", *words, "--metrics", str(metrics)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, umask=0o077)
    status = [sys.executable, "-m", "jipflow", "status", "--results", str(results)]
    assert ended.stdout.rstrip() == subprocess.check_output(status, text=True).rstrip()
    text = page.read_text()
    assert '<meta http-equiv="refresh" content="60">' in text
    assert "missing_slices" in text
    for secret in ("aaa", "bbb", "s00001", str(results)):
        # The commit in the foot may have such letters.
        assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text)
    # The collector's own account reads it.
    assert metrics.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in metrics.parent.iterdir()] == ["jipflow.prom"]


def test_two_results_folders_of_a_host_have_series_of_their_own(results, tmp_path):
    files = [tmp_path / "collector" / name for name in ("a.prom", "b.prom")]
    for file in files:
        write_metrics(read_standing(results), file)
    series = [
        {line.rpartition(" ")[0] for line in file.read_text().splitlines() if line[0] != "#"}
        for file in files
    ]
    assert series[0]
    assert not series[0] & series[1]


def test_a_half_written_file_of_metrics_is_none_to_the_collector(results, tmp_path, monkeypatch):
    path = tmp_path / "collector" / "a.prom"
    path.parent.mkdir()
    left, fresh = (path.with_name(f".a.prom.partial-{number}") for number in (1, 2))
    for file in (left, fresh):
        file.write_text("half")
    os.utime(left, (1, 1))
    seen = []
    replace = os.replace

    def look(partial, target):
        seen.extend(path.parent.iterdir())
        replace(partial, target)

    monkeypatch.setattr(os, "replace", look)
    write_metrics(read_standing(results), path)
    assert len(seen) == 2
    assert not [file for file in seen if file.name.endswith(".prom")]
    # What another process may be writing stays.
    assert sorted(path.parent.iterdir()) == [fresh, path]


def test_it_is_watched_until_the_run_is_over(results, tmp_path, monkeypatch, capsys):
    states = iter(["free", "run", "run", "free"])
    monkeypatch.setattr(standing, "holder", lambda folder: Holder(next(states), "node", "7"))
    page, waited = tmp_path / "page.html", []
    keep_watch(results, None, 5, page, None, waited.append)
    assert waited == [5, 5, 5]
    assert "refresh" not in page.read_text()
    # What has not changed is not printed again.
    assert capsys.readouterr().out.count("lung: 6 cases") == 3


@pytest.mark.parametrize("name", ["jipflow", "of Doe.prom"])
def test_metrics_that_no_collector_reads_are_refused(results, name):
    words = ["watch", "--once", "--results", str(results), "--metrics", str(results / name)]
    command = [sys.executable, "-m", "jipflow", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode
    assert f"{name!r} is no name of metrics: take letters, digits" in ended.stderr


def logged(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def event(**values):
    return logging.makeLogRecord(values)


def test_the_log_of_a_run_has_its_jobs_and_neither_paths_nor_cases(tmp_path):
    path = tmp_path / "logs" / "run.jsonl"
    log = RunLog(path, "r1", 4)
    about = {"rule_name": "prepare", "threads": 2, "input": "/data/DOE", "reason": "/data/DOE"}
    part = {"shard": "s00001-h5vyk3pasoe2gi4u"}
    log.handle(event(event="job_info", jobid=3, wildcards=part, **about))
    log.handle(event(event="job_error", jobid=3, **about))
    log.handle(event(event="job_info", jobid=3, wildcards=part, **about))
    log.handle(event(event="job_finished", job_id=3))
    log.handle(event(event="progress", done=1, total=2))
    log.handle(event(msg="shell command"))
    log.finish("ended")
    lines = logged(path)
    assert [line["event"] for line in lines] == [
        *("run_started", "job_started", "job_failed", "job_started", "job_ended", "run_ended"),
    ]
    assert {line["run"] for line in lines} == {"r1"}
    assert lines[1].items() >= {"rule": "prepare", "shard": "s00001", "threads": 2}.items()
    assert lines[4]["seconds"] >= 0
    assert (lines[-1]["jobs_ended"], lines[-1]["jobs_failed"]) == (1, 1)
    assert "DOE" not in path.read_text()
    assert "h5vyk3pasoe2gi4u" not in path.read_text()
    RunLog(path, "r2", 0)
    assert len(logged(path)) == 7


def test_a_log_that_cannot_be_written_says_so_once(tmp_path, capsys):
    log = RunLog(tmp_path / "run.jsonl", "r1", 1)
    log.path = Path("/dev/full")
    log.finish("ended")
    log.finish("ended")
    assert capsys.readouterr().err.count("the log of the run has gaps") == 1


def test_the_command_after_a_run_gets_counts_and_no_case(results, tmp_path):
    script = tmp_path / "given.sh"
    script.write_text('cat > "$1"\nenv | grep ^JIPFLOW_ > "$2"\n')
    out = [str(tmp_path / "stdin.json"), str(tmp_path / "env")]
    command = AfterRun(command=["sh", str(script), *out])
    assert tell(command, counts_after(results, "north", "lung", "ended")) == ""
    given = json.loads(Path(out[0]).read_text())
    assert given.items() >= {"state": "ended", "cases": 6, "failed": 1, "open": 3}.items()
    assert given["stages"]["segment"]["blocked"] == 1
    assert given["reasons"][-1]["reason"] == "missing_slices"
    variables = Path(out[1]).read_text()
    assert "JIPFLOW_STATE=ended\n" in variables
    assert "JIPFLOW_FAILED=1\n" in variables
    assert "JIPFLOW_RUN" not in variables
    for secret in ("aaa", "bbb", "s00001", str(results)):
        assert secret not in Path(out[0]).read_text()
        assert f"={secret}" not in variables


def test_a_command_that_fails_changes_nothing_and_is_named(results):
    about = counts_after(results, "north", "lung", "failed")
    assert tell(AfterRun(command=["false"]), about) == "after_run: false ended with status 1."
    assert "cannot be run" in tell(AfterRun(command=["/nowhere/tell"]), about)
    slow = AfterRun(command=["sleep", "9"], seconds=1)
    assert tell(slow, about) == "after_run: sleep was ended after 1 s."
    assert "embedded null byte" in tell(AfterRun(command=["true", "a\0b"]), about)


def test_what_the_command_has_started_ends_with_it(tmp_path):
    file = tmp_path / "pid"
    script = 'sleep 60 & echo $! > "$0"; wait'
    slow = AfterRun(command=["sh", "-c", script, str(file)], seconds=1)
    assert tell(slow, {}) == "after_run: sh was ended after 1 s."
    status = Path("/proc", file.read_text().strip(), "stat")
    for _ in range(50):
        # One that nobody has waited for yet is dead, too.
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process of the command goes on")


def test_the_command_after_a_run_gets_no_secret_of_the_site(tmp_path, monkeypatch):
    deletion = {"by": "dicomweb", "password_env": "DELETING"}
    archive = {"name": "pacs", "kind": "dicomweb", "url": "https://pacs.example.org/dicom-web"}
    content = {
        "site": {"id": "north", "name": "North"},
        "sources": [archive | {"token_env": "ASKING", "deletion": deletion}],
        "clinical": {
            "kind": "omop",
            "database": "postgresql://reader@db.example.org/omop",
            "password_env": "READING",
            "map": "map.yaml",
        },
    }
    names = {"ASKING", "DELETING", "READING"}
    secrets = secret_variables(load(Site, content, "site.yaml"))
    assert secrets == names
    of_the_place = {"SNAKEMAKE_STORAGE_WEBDAV_PASSWORD", "AWS_SECRET_ACCESS_KEY"}
    for name in names | of_the_place:
        monkeypatch.setenv(name, "geheim")
    command = AfterRun(command=["sh", "-c", 'env > "$0"', str(tmp_path / "env")])
    assert tell(command, {"state": "ended"}, secrets) == ""
    variables = (tmp_path / "env").read_text()
    assert "JIPFLOW_STATE=ended" in variables
    assert "geheim" not in variables


def test_before_the_first_cohort_the_command_is_given_how_the_run_ended(tmp_path):
    assert counts_after(tmp_path, "north", "lung", "failed") == {
        "state": "failed",
        "site": "north",
        "protocol": "lung",
    }


def test_a_damaged_table_of_the_protocol_is_none(results):
    path = results / "lung" / "shards" / "s00001" / "segment" / "outcomes.parquet"
    whole = path.read_bytes()
    # The pages; the footer, which is read first, stays.
    path.write_bytes(whole[:4] + bytes(len(whole) // 4) + whole[4 + len(whole) // 4 :])
    with pytest.raises(ValueError, match="thrift"):
        read_parquet(path)
    assert counts_after(results, "north", "lung", "ended")["stages"]["segment"]["ok"] == 0


def test_the_damage_of_another_protocol_keeps_no_count_from_the_command(results):
    shutil.copytree(results / "lung", results / "brain")
    spoilt = [Outcome("aaa", "measure", "gtv")]
    write_stage(results / "brain", "s00001", "measure", spoilt)
    path = results / "brain" / "shards" / "s00001" / "measure" / "outcomes.parquet"
    table = read_frame(path)
    write_parquet(path, table.assign(status="unheard of"))
    assert counts_after(results, "north", "lung", "ended")["cases"] == 6
    assert "cases" not in counts_after(results, "north", "brain", "ended")


def test_what_cannot_be_counted_ends_no_run(results, monkeypatch):
    def stale(*arguments):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(after_run, "read_standing", stale)
    assert counts_after(results, "north", "lung", "ended").keys() == {"state", "site", "protocol"}


@pytest.mark.parametrize(("block", "state"), [("onsuccess", "ended"), ("onerror", "failed")])
def test_the_command_is_run_where_the_last_words_of_a_run_fail(block, state):
    text = (ROOT / "workflow" / "Snakefile").read_text()
    code = re.search(rf"^{block}:\n((?:    .*\n|\n)+)", text, re.M)[1]
    states = []

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        exec(textwrap.dedent(code), {"is_hub": full, "config": {}, "end_log": states.append})
    assert states == [state]

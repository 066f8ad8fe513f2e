"""Of two runs on one results folder the second refuses; a killed one leaves no lock behind."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jipflow import lock
from jipflow.reasons import PlaceError, StageError

HOLD = """
import sys
from pathlib import Path
from jipflow.lock import hold
print(hold(Path(sys.argv[1])), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def another(tmp_path):
    """Another process that holds the results, started in a folder of its own."""
    (tmp_path / "clone").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "results"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path / "clone",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout.readline() == "False\n"
        try:
            yield process
        finally:
            process.kill()
            lock.release(tmp_path / "results")


def test_the_second_run_refuses_by_whatever_path(another, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "results")
    for results in (tmp_path / "results", tmp_path / "link"):
        with pytest.raises(StageError) as caught:
            lock.hold(results)
        text = str(caught.value)
        assert "\n" not in text
        assert f"{tmp_path / 'results'} is in use by the run of process {another.pid} on " in text
        assert os.uname().nodename in text
        assert f"in {tmp_path / 'clone'}: wait" in text


def test_a_run_that_was_killed_leaves_no_lock(another, tmp_path):
    another.kill()
    another.wait()
    assert lock.hold(tmp_path / "results")
    lock.release(tmp_path / "results")
    assert not lock.hold(tmp_path / "results")


def test_a_run_that_ended_well_leaves_no_mark(another, tmp_path):
    another.communicate("\n")
    assert another.returncode == 0
    assert (tmp_path / "results" / ".lock").read_bytes() == b""
    assert not lock.hold(tmp_path / "results")


def test_one_process_may_hold_a_folder_for_several_modules(tmp_path):
    assert not lock.hold(tmp_path)
    assert not lock.hold(tmp_path / "x" / "..")
    lock.release(tmp_path)
    lock.release(tmp_path)


def left_by(tmp_path, **changes):
    """Leave the mark of a run that was killed."""
    lock.hold(tmp_path)
    record = json.loads((tmp_path / ".lock").read_text())
    lock.release(tmp_path)
    (tmp_path / ".lock").write_text(json.dumps(record | changes))


@pytest.mark.parametrize(
    "changes",
    [{"host": "other", "machine": "1", "boot": "2"}, {"machine": "1", "boot": "2"}],
    ids=["other host", "other host of the same name"],
)
def test_a_run_of_another_machine_that_has_not_ended_is_believed(changes, tmp_path):
    left_by(tmp_path, **changes)
    for _ in range(2):
        with pytest.raises(StageError, match=rf"If it was killed.*: rm {tmp_path}/\.lock, and run"):
            lock.hold(tmp_path)
    (tmp_path / ".lock").unlink()
    assert not lock.hold(tmp_path)
    lock.release(tmp_path)


def test_a_run_of_before_the_machine_was_started_anew_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_line", lambda path: "1" if "machine" in path else "2")
    left_by(tmp_path, boot="0")
    assert lock.hold(tmp_path)
    lock.release(tmp_path)


def test_a_mark_that_is_damaged_is_no_owner(tmp_path):
    (tmp_path / ".lock").write_text("{")
    assert not lock.hold(tmp_path)
    lock.release(tmp_path)


WORK = """
import sys
from pathlib import Path
from jipflow.lock import at_work
with at_work(Path(sys.argv[1])):
    print("at work", flush=True)
    sys.stdin.readline()
"""


def job(results):
    """A job that goes on, and that its run has not waited for."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, results / "protocol" / "shards" / "provenance.json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "at work\n"
    return process


def test_jobs_that_outlive_their_run_are_waited_for(tmp_path):
    lock.hold(tmp_path)
    lock.release(tmp_path)
    heard = []
    with job(tmp_path) as first, job(tmp_path) as second:

        def end(sentence):
            heard.append(sentence)
            assert first.poll() is None
            first.communicate("\n")
            second.communicate("\n")

        lock.hold(tmp_path, "second", end)
        assert (first.returncode, second.returncode) == (0, 0)
    lock.release(tmp_path)
    (sentence,) = heard
    assert sentence.startswith(f"{tmp_path}: jobs of an earlier run go on, process ")
    assert str(first.pid) in sentence or str(second.pid) in sentence


def test_a_job_that_was_killed_and_one_of_no_run_hold_nothing_up(tmp_path):
    with job(tmp_path) as alone:
        assert not lock.hold(tmp_path, "second", pytest.fail)
        alone.kill()
    lock.release(tmp_path)
    with job(tmp_path) as killed:
        killed.kill()
    assert not lock.hold(tmp_path, "second", pytest.fail)
    lock.release(tmp_path)


def test_a_job_that_comes_late_of_a_run_that_is_over_changes_nothing(tmp_path):
    file = tmp_path / "protocol" / "provenance.json"
    lock.hold(tmp_path, "second")
    with pytest.raises(StageError, match=r"is over, and the run of process \d+ on .* has "):
        lock.at_work(file, "first").__enter__()
    for run in ("second", None):
        with lock.at_work(file, run):
            pass
    lock.release(tmp_path)
    assert lock.holder(tmp_path).state == "free"
    with pytest.raises(StageError, match=rf"is over, and another one has since had {tmp_path}: "):
        lock.at_work(file, "first").__enter__()
    with lock.at_work(file, "second"):
        pass
    assert not lock.hold(tmp_path, "third")
    lock.release(tmp_path)


STAY = """
import sys
from pathlib import Path
from jipflow.lock import stay_at_work
stay_at_work(Path(sys.argv[1]), sys.argv[2])
print("at work", flush=True)
sys.stdin.readline()
"""


def test_a_job_of_a_cluster_is_at_work_until_its_process_ends(tmp_path):
    lock.hold(tmp_path, "first")
    lock.release(tmp_path)
    words = [sys.executable, "-c", STAY, tmp_path, "first"]
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    heard = []
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=given
    ) as job:
        assert job.stdout.readline() == "at work\n"

        def end(sentence):
            heard.append(sentence)
            job.communicate("\n")

        lock.hold(tmp_path, "second", end)
    (sentence,) = heard
    assert str(job.pid) in sentence
    late = subprocess.run(words, capture_output=True, text=True, env=given)
    assert late.returncode
    assert "is over, and the run of process" in late.stderr
    lock.release(tmp_path)
    with tempfile.TemporaryDirectory() as folder, pytest.raises(PlaceError):
        lock.stay_at_work(Path(folder), "first")


def test_to_ask_who_has_the_results_takes_them_from_nobody(tmp_path):
    results = tmp_path / "results"
    lock.hold(results)
    assert lock.holder(results).state == "run"
    words = [sys.executable, "-c", HOLD, results]
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run(words, capture_output=True, text=True, env=given, input="\n")
    assert other.returncode
    assert "is in use by the run of process" in other.stderr
    lock.release(results)


def test_a_run_whose_results_went_away_with_their_disk_says_so(tmp_path):
    results = tmp_path / "results"
    assert lock.away(results) == ""
    lock.hold(results)
    assert lock.away(results) == ""
    # As a mount that goes leaves the folder below it, with what was written into it since.
    results.rename(tmp_path / "disk")
    for _ in range(2):
        assert lock.away(results).startswith(f"{results} is no longer what it was when this run")
        results.mkdir(exist_ok=True)
        (results / ".lock").touch()
    lock.release(results)


def test_a_job_whose_results_went_away_with_their_disk_writes_nothing_below_the_empty_folder():
    # Above a folder of pytest's lies a file of this name, too.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "protocol", "provenance.json")
        with pytest.raises(PlaceError, match=r"see whether its disk is mounted, and run the same"):
            lock.at_work(file, "first").__enter__()
        with lock.at_work(file):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks_is_refused_in_a_line(number, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    with pytest.raises(StageError, match=rf"^{tmp_path}: its disk has no locks .*name other res"):
        lock.hold(tmp_path)
    monkeypatch.undo()
    assert not lock.hold(tmp_path)
    lock.release(tmp_path)

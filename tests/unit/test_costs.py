"""What a job took counts its processes, and is there only where the job ended well."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import pandas as pd
import psutil
import pytest

from jipflow.costs import cost_file, measured
from needs import unavailable

HOLD = "import time; held = bytearray(300 << 20); time.sleep(1.5)"


def test_memory_of_what_a_job_starts_counts(tmp_path):
    record = tmp_path / "fit_0.provenance.json"
    with measured(record):
        subprocess.run([sys.executable, "-c", HOLD], check=True)
    cost = pd.read_csv(tmp_path / "fit_0.cost.tsv", sep="\t").iloc[0]
    assert cost["peak_mb"] > 300
    assert cost["seconds"] > 1.5


def test_time_that_is_slept_is_no_computing_time(tmp_path):
    record = tmp_path / "provenance.json"
    with measured(record):
        began = time.process_time()
        while time.process_time() - began < 0.5:
            pass
        time.sleep(0.5)
    cost = pd.read_csv(cost_file(record), sep="\t").iloc[0]
    assert cost["cpu_seconds"] > 0.5
    assert cost["seconds"] > 1.0


def test_nothing_is_put_beside_releases(tmp_path):
    (tmp_path / "release").mkdir()
    with measured(tmp_path / "release" / "r01.provenance.json"):
        pass
    assert not list((tmp_path / "release").iterdir())


def test_a_job_that_fails_leaves_none(tmp_path):
    with pytest.raises(ValueError, match="no"), measured(tmp_path / "provenance.json"):
        raise ValueError("no")
    assert not list(tmp_path.iterdir())


def test_a_process_that_ends_while_it_is_looked_at_fails_no_job(tmp_path):
    """It is there when processes are listed, and gone when its time is asked for.

    That is so at one of five times.
    """
    over = Event()

    def start_and_end():
        while not over.is_set():
            subprocess.run(["true"], check=True)

    threads = [Thread(target=start_and_end) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            with measured(tmp_path / "provenance.json"):
                pass
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert pd.read_csv(tmp_path / "cost.tsv", sep="\t")["peak_mb"][0] > 1


JOB = """
import sys
from pathlib import Path
from jipflow.costs import measured
with measured(Path(sys.argv[1], "provenance.json")):
    pass
"""


@pytest.fixture
def open_folder():
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def test_a_machine_that_hides_processes_of_others_measures_ours(open_folder):
    """As by hidepid=1 in its fstab, which root is not bound by."""
    enter = ["unshare", "--mount"]
    if os.geteuid() or subprocess.run([*enter, "true"], check=False).returncode:
        unavailable("only root may mount a /proc")
    script = (
        'mount -t proc -o hidepid=1 proc /proc && exec setpriv --reuid=65534 --regid=65534 "$@"'
    )
    job = [sys.executable, "-c", JOB, open_folder]
    done = subprocess.run(
        [*enter, "sh", "-c", script, "sh", "--clear-groups", *job],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cost = pd.read_csv(open_folder / "cost.tsv", sep="\t").iloc[0]
    assert cost["peak_mb"] > 1
    assert 0 < cost["seconds"] < 30


def test_a_clock_that_is_set_changes_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with measured(tmp_path / "provenance.json"):
        pass
    seconds = pd.read_csv(tmp_path / "cost.tsv", sep="\t")["seconds"][0]
    age = time.clock_gettime(time.CLOCK_REALTIME) - psutil.Process().create_time()
    assert seconds == pytest.approx(age, abs=5)


@contextmanager
def no_more_files():
    """Have all descriptors taken that this process may have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_where_nothing_can_be_looked_at_the_job_ends_well_without_its_cost(tmp_path):
    (tmp_path / "cost.tsv").write_text("of an earlier try")
    with no_more_files(), measured(tmp_path / "provenance.json"):
        pass
    assert not list(tmp_path.iterdir())

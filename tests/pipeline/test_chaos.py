"""A short form of `make chaos`: files cut off, a run killed, and the same command after it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chaos_compare import differences
from chaos_ground import FINISHED, GROUNDS, STARTS, Ground
from chaos_plan import KINDS, plan
from harness import ONE_CORE, ROOT, command, environment, planned


@pytest.fixture
def site(contours_run, tmp_path):
    """A copy of the finished run of two shards with a case each."""
    shutil.copytree(contours_run.results, tmp_path / "results")
    return replace(contours_run, results=tmp_path / "results")


def test_files_that_were_cut_off_are_made_again_by_a_run_that_is_killed_once(site, contours_run):
    report, _ = sorted(site.out.glob("sr/*/gtv.dcm"))
    for path in (report, site.out / "features" / "features.parquet"):
        os.truncate(path, path.stat().st_size // 2)
    with subprocess.Popen(
        command(*ONE_CORE, *site.arguments),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout
        printed = ""
        # The report is whole then, the table is not.
        while not FINISHED.search(printed):
            line = run.stdout.readline()
            assert line, printed
            printed += line
        os.killpg(run.pid, signal.SIGKILL)
    assert "document runs again: its file gtv.dcm was cut off or changed." in printed
    site.run(*ONE_CORE)
    assert differences(contours_run.results, site.results) == []
    assert planned(site) == {}


def test_the_scripts_of_rounds_find_what_they_import_by_themselves():
    """Without the folders that pytest adds."""
    words = [sys.executable, "-c", "import chaos, chaos_round"]
    subprocess.run(words, cwd=Path(__file__).parent, env=environment(), check=True)


def test_a_round_is_drawn_by_its_seed_and_number_alone(tmp_path):
    """So that one that failed can be repeated."""
    jobs, sizes = dict.fromkeys(STARTS, 20), dict.fromkeys(STARTS, 1_000_000)
    grounds = {name: Ground(tmp_path / name, jobs, sizes) for name in GROUNDS}
    rounds = [plan(1, number, list(KINDS), grounds) for number in range(100)]
    assert rounds == [plan(1, number, list(KINDS), grounds) for number in range(100)]
    assert rounds != [plan(2, number, list(KINDS), grounds) for number in range(100)]
    assert {drawn["kind"] for drawn in rounds} == set(KINDS)

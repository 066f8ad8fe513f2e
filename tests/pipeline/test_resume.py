"""A run killed in the middle, and taken up again, gives what an undisturbed run gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from harness import ROOT, Site, command, environment

pytestmark = pytest.mark.long

RECORD = Path("release", "r01.provenance.json")


def at_work(site: Site) -> bool:
    """Whether a segment job has masks of a case and has not ended."""
    started = {path.parents[3].name for path in site.out.glob("work/*/masks/*/*/segments.json")}
    ended = {path.parents[1].name for path in site.out.glob("shards/*/segment/outcomes.parquet")}
    return bool(started - ended)


def refusal(site: Site, clone: Path) -> str:
    """What a second run of the results says that is started in another folder."""
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    second = subprocess.run(
        [*start, "--cores", "1", *site.arguments],
        cwd=clone,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert second.returncode == 1
    return second.stdout


@pytest.fixture(scope="module")
def resumed(tiny_run, tmp_path_factory):
    site = Site(
        tiny_run.folder, tiny_run.name, tiny_run.protocol, tmp_path_factory.mktemp("killed")
    )
    log = site.results / "first.log"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            command(*site.arguments),
            cwd=os.getcwd(),
            env=environment(),
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        # Some stages are done then, one is half way.
        while not at_work(site):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        (site.results / "second.log").write_text(refusal(site, tmp_path_factory.mktemp("clone")))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (site.out / "verdict.json").exists()
    # Snakemake's own lock is of a whole clone: the end of one run would take another's away.
    assert not list((ROOT / ".snakemake").glob("locks/*"))
    site.run()
    return site


def test_a_second_run_of_the_same_results_was_refused_in_one_line(resumed):
    lines = (resumed.results / "second.log").read_text().splitlines()
    assert lines[-1].startswith(f"{resumed.results} is in use by the run of process ")
    assert lines[-2] == "Building DAG of jobs..."


def test_the_same_tables_to_the_last_bit(tiny_run, resumed):
    for name in ("features/features.parquet", "features/failures.parquet"):
        pd.testing.assert_frame_equal(tiny_run.table(name), resumed.table(name), check_exact=True)
    timings = ["seconds", "max_rss_mb"]
    pd.testing.assert_frame_equal(
        tiny_run.table("outcomes.parquet").drop(columns=timings),
        resumed.table("outcomes.parquet").drop(columns=timings),
        check_exact=True,
    )


def content(site: Site, name: str) -> bytes:
    """A file's bytes; the releaser's page names the folder in the commands that it gives."""
    return (site.out / name).read_bytes().replace(str(site.results).encode(), b"RESULTS")


def test_the_same_files_to_the_last_byte(tiny_run, resumed):
    names = {
        str(path.relative_to(tiny_run.out))
        for folder in ("seg", "sr", "overlays", "release", "cohort")
        for path in (tiny_run.out / folder).rglob("*")
        # The record leads back to outcomes, in which the seconds differ, as they do in costs.
        if path.is_file() and path.relative_to(tiny_run.out) != RECORD and path.name != "cost.tsv"
    }
    assert len(names) > 30
    different = [
        name for name in sorted(names) if content(tiny_run, name) != content(resumed, name)
    ]
    assert different == []

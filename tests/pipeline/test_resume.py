"""A run killed in the middle, and taken up again, gives what an undisturbed run gives."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pandas as pd
import pytest

from harness import Site, command, environment

pytestmark = pytest.mark.long


def at_work(site: Site) -> bool:
    """Whether a segment job has masks of a case and has not ended."""
    started = {path.parents[3].name for path in site.out.glob("work/*/masks/*/*/segments.json")}
    ended = {path.parents[1].name for path in site.out.glob("shards/*/segment/outcomes.parquet")}
    return bool(started - ended)


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
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (site.out / "verdict.json").exists()
    site.run("--unlock")
    site.run()
    return site


def test_the_same_tables_to_the_last_bit(tiny_run, resumed):
    for name in ("features/features.parquet", "features/failures.parquet"):
        pd.testing.assert_frame_equal(tiny_run.table(name), resumed.table(name), check_exact=True)
    timings = ["seconds", "max_rss_mb"]
    pd.testing.assert_frame_equal(
        tiny_run.table("outcomes.parquet").drop(columns=timings),
        resumed.table("outcomes.parquet").drop(columns=timings),
        check_exact=True,
    )


def test_the_same_files_to_the_last_byte(tiny_run, resumed):
    names = {
        str(path.relative_to(tiny_run.out))
        for folder in ("seg", "sr", "overlays", "release", "cohort")
        for path in (tiny_run.out / folder).rglob("*")
        if path.is_file()
    }
    assert len(names) > 30
    different = [
        name
        for name in sorted(names)
        if (tiny_run.out / name).read_bytes() != (resumed.out / name).read_bytes()
    ]
    assert different == []

"""Two patients on a real SLURM, whose controller is restarted, give a local run's tables."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass, replace

import pandas as pd
import pytest

import slurm_cluster
from harness import ONE_CORE, ROOT, Site, command, environment, make_site
from jipflow.cli.slurm import waiting_in_vain
from needs import unavailable

pytestmark = pytest.mark.long

OFTEN = ("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2")
"""The profile asks a busy cluster seldom; this one has nothing else to do."""

LIMIT = 900
"""Seconds after which the run counts as hung."""


@dataclass(frozen=True)
class Ran:
    """A run on SLURM: its site, what it printed, what its jobs asked for, what it holds."""

    site: Site
    printed: str
    asked: str
    held: list[str]


@pytest.fixture(scope="module")
def on_slurm(contours_run, tmp_path_factory) -> Ran:
    reason = slurm_cluster.missing()
    if reason:
        unavailable(reason)
    site = replace(contours_run, results=tmp_path_factory.mktemp("slurm"))
    printed = site.results.with_suffix(".txt")
    folder = tmp_path_factory.mktemp("cluster")
    # All jobs are still known at the end, however slow the machine.
    options = {"limits": not slurm_cluster.no_memory_limit(), "extra": "MinJobAge=3600"}
    with slurm_cluster.slurm_cluster(folder, **options) as cluster:
        with open(printed, "wb") as stream:
            run = subprocess.Popen(
                command("collect", *OFTEN, *site.arguments, profile="slurm"),
                cwd=ROOT,
                env=environment(),
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        try:
            while run.poll() is None and not cluster.open_jobs():
                time.sleep(0.5)
            cluster.end("slurmctld")
            time.sleep(20)
            cluster.start("slurmctld")
            run.wait(LIMIT)
            slurm_cluster.say("sbatch", "--hold", "--job-name=held", "--wrap=true")
            slurm_cluster.say("sbatch", "--begin=now+1hour", "--job-name=held", "--wrap=true")
            held = waiting_in_vain("held")
        except subprocess.TimeoutExpired:
            logs = (ROOT / ".snakemake" / "slurm_logs", site.out / "logs")
            where = cluster.standing(*logs)
            pytest.fail(f"no end after {LIMIT} s:\n{printed.read_text()[-3000:]}\n{where}")
        finally:
            run.kill()
        asked = slurm_cluster.say("scontrol", "show", "job")
    text = printed.read_text()
    assert run.returncode == 0, text[-6000:]
    return Ran(site, text, asked, held)


def test_jobs_went_through_slurm(on_slurm):
    submitted = re.findall(r"submitted with SLURM jobid (\d+)", on_slurm.printed)
    completed = re.findall(r"JobId=(\d+) .*?JobState=COMPLETED", on_slurm.asked, re.DOTALL)
    assert set(submitted) <= set(completed)
    assert len(submitted) >= 5


def test_the_stages_of_a_shard_are_one_job_without_a_gpu(on_slurm):
    for stage in ("prepare", "segment", "encode", "measure", "document", "overlay"):
        assert on_slurm.printed.count(f"(Rule: {stage})") == 2
    assert len(re.findall("Comment=rule_shard_", on_slurm.asked)) == 2
    assert not re.findall("Comment=rule_(?:prepare|segment|encode)", on_slurm.asked)
    assert "gpu" not in on_slurm.asked


def test_a_gpu_is_asked_for_by_segment_which_shares_its_job_with_no_stage(
    two_patients, contours_run, tmp_path
):
    use = {"shard_size": 1, "device": "cuda"}
    site = make_site(tmp_path, "site", "demo", [two_patients], processing=use)
    shutil.copytree(contours_run.results / "catalog", site.results / "catalog")
    site.run(*ONE_CORE, "--until", "cohort")
    plan = site.run("--dry-run", profile="slurm").stdout.split("Building DAG of jobs...")[-1]
    # Jobs that share one of SLURM's are set in.
    jobs = re.findall(r"^( *)(?:rule|checkpoint) (\w+):\n(.*?)\n(?=\[| *\[|\n)", plan, re.M | re.S)
    with_gpu = {(rule, bool(indent)) for indent, rule, text in jobs if "gpu=1" in text}
    together = {rule for indent, rule, _ in jobs if indent}
    assert with_gpu == {("segment", False)}
    assert together == {"encode", "measure", "document", "overlay"}


def test_a_job_that_slurm_holds_is_reported(on_slurm):
    (message,) = on_slurm.held
    assert re.match(r"SLURM does not start job \d+ by itself \(JobHeldUser\)", message)


def test_tables_are_those_of_a_local_run(contours_run, on_slurm):
    pd.testing.assert_frame_equal(
        contours_run.table("features/features.parquet"),
        on_slurm.site.table("features/features.parquet"),
        check_exact=True,
    )
    timings = ["seconds", "max_rss_mb"]
    pd.testing.assert_frame_equal(
        contours_run.table("outcomes.parquet").drop(columns=timings),
        on_slurm.site.table("outcomes.parquet").drop(columns=timings),
        check_exact=True,
    )

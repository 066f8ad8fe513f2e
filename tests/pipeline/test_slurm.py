"""Two patients on a real SLURM, whose controller is restarted, give a local run's tables."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pandas as pd
import pytest

import slurm_cluster
from harness import ONE_CORE, ROOT, Site, command, environment, make_site
from jipflow.cli.slurm import waiting_in_vain
from jipflow.outcomes import read_outcomes
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


ON_CPU = """#!{python}
import os, sys
from pathlib import Path
words, folder = sys.argv[1:], Path(__file__).parent
if words[0] == "segment":
    place = words.index("--settings") + 1
    job = os.environ["SLURM_JOB_ID"]
    (folder / f"{{job}}.gpu").write_text(os.environ.get("SLURM_GPUS_ON_NODE", ""))
    settings = Path(words[place]).read_text().replace('"device": "cuda"', '"device": "cpu"')
    words[place] = str(folder / f"{{job}}.json")
    Path(words[place]).write_text(settings)
os.execv(sys.executable, [sys.executable, "-m", "jipflow", *words])
"""
"""Stands before jipflow where the cluster's GPU is a file: the model computes on the CPU."""


@dataclass(frozen=True)
class Job:
    """What SLURM says of a job that has ended, and how many GPUs its step had."""

    rule: str
    asked: str
    start: str
    end: str
    seen: str


@pytest.fixture(scope="module")
def gpu_jobs(two_patients, contours_run, tmp_path_factory) -> list[Job]:
    reason = slurm_cluster.missing()
    if reason:
        unavailable(reason)
    folder = tmp_path_factory.mktemp("gpus")
    use = {"shard_size": 1, "device": "cuda"}
    site = make_site(folder, "site", "demo", [two_patients], processing=use)
    shutil.copytree(contours_run.results / "catalog", site.results / "catalog")
    site.run(*ONE_CORE, "--until", "cohort")
    stand_in = folder / "bin" / "jipflow"
    stand_in.parent.mkdir()
    stand_in.write_text(ON_CPU.format(python=sys.executable))
    stand_in.chmod(0o755)
    path = os.pathsep.join([str(stand_in.parent), os.environ["PATH"]])
    options = {"gpus": 1, "extra": "MinJobAge=3600"}
    with slurm_cluster.slurm_cluster(tmp_path_factory.mktemp("gpu-cluster"), **options):
        run = subprocess.run(
            command("--until", "segment", *OFTEN, *site.arguments, profile="slurm"),
            cwd=ROOT,
            env=environment() | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        shown = slurm_cluster.say("scontrol", "show", "job")
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    outcomes = [read_outcomes(path) for path in site.out.glob("shards/*/segment/outcomes.parquet")]
    assert [{each.status.value for each in table} for table in outcomes] == [{"ok"}, {"ok"}]
    jobs = []
    for job in re.split(r"\n(?=JobId=)", shown):
        state = dict(re.findall(r"(\w+)=(\S*)", job))
        seen = stand_in.with_name(f"{state['JobId']}.gpu")
        rule = state["Comment"].removeprefix("rule_").partition("_")[0]
        asked = state.get("TresPerNode") or state.get("TresPerJob", "")
        gpus = seen.read_text() if seen.is_file() else ""
        jobs.append(Job(rule, asked, state["StartTime"], state["EndTime"], gpus))
    return jobs


def test_segment_alone_gets_a_gpu_and_one_job_at_a_time_has_it(gpu_jobs):
    asked = sorted((job.rule, bool(re.fullmatch(r"gres.gpu:1", job.asked))) for job in gpu_jobs)
    assert asked == [("prepare", False), ("prepare", False), ("segment", True), ("segment", True)]
    first, second = sorted((j for j in gpu_jobs if j.rule == "segment"), key=lambda j: j.start)
    assert first.start < first.end <= second.start < second.end
    assert first.seen == second.seen == "1"


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

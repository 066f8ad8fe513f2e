"""Faults of a SLURM cluster in the middle of a run, and what became of the run.

For each fault a one-node cluster is started on this machine, with memory held by cgroups, a run of
a few synthetic patients is submitted to it, and while its jobs run one thing breaks. The tables of
the shards must at the end be those of a local run, or the run says what to do and the same command
makes them.

    python benchmarks/slurm_faults.py                   # all, as root, some twenty minutes
    python benchmarks/slurm_faults.py scancel drained   # some of them

It starts and stops SLURM's daemons: run it on no machine that belongs to a cluster.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "pipeline"))

from harness import ONE_CORE, ROOT, Site, command, contours_only, environment, make_site
from jipflow.phantom.cohort import write_site
from slurm_cluster import Cluster, below, job_steps, missing, no_memory_limit, say, slurm_cluster

RESULTS = ROOT / "benchmarks" / "results" / "slurm_faults.json"
PATIENTS = 2
LIMIT = 600
"""Seconds after which a run counts as hung."""

STAGES = ("prepare", "segment", "encode", "measure", "document", "overlay")

OFTEN = (
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--seconds-between-status-checks",
    "2",
)


@dataclass
class Run:
    """A run that goes on.

    Attributes:
        cluster: that its jobs go to.
        process: of snakemake.
        printed: file of what it prints.
    """

    cluster: Cluster
    process: subprocess.Popen[bytes]
    printed: Path

    def wait_for_job(self) -> str:
        """Wait until a job of a shard runs and has processes of its own; its number."""
        until = time.monotonic() + 240
        while time.monotonic() < until and self.process.poll() is None:
            listed = say("squeue", "--noheader", "--states=RUNNING", "--format=%i %M")
            for number, ran in re.findall(r"^(\d+) (\S+)", listed, re.M):
                if ran >= "0:04":
                    return str(number)
            time.sleep(0.3)
        raise AssertionError(f"no job of a shard ran: {self.printed.read_text()}")


@dataclass(frozen=True)
class Fault:
    """One thing that breaks.

    Attributes:
        what: a sentence of the table.
        strike: breaks it, and where that is part of it repairs it.
        options: of the cluster.
        needs: what rules ask for, in place of what profiles/default says.
        groups: stages that are submitted together, where not those of the rules.
    """

    what: str
    strike: Callable[[Run], object]
    options: dict[str, Any] = field(default_factory=dict)
    needs: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)


def scancel(run: Run) -> None:
    say("scancel", run.wait_for_job())


def nothing(run: Run) -> None:
    pass


def restart_slurmd(run: Run) -> None:
    run.wait_for_job()
    run.cluster.end("slurmd", signal.SIGKILL)
    time.sleep(10)
    run.cluster.start("slurmd")
    computing_time(run.cluster)


def lose_node(run: Run) -> None:
    """As where a machine is switched off: its daemon and all that its jobs have started."""
    run.wait_for_job()
    run.cluster.end("slurmd", signal.SIGKILL)
    for step in job_steps():
        kill_tree(step)
    time.sleep(40)
    run.cluster.start("slurmd", "-b")
    computing_time(run.cluster)


def drain(run: Run) -> None:
    run.wait_for_job()
    say("scontrol", "update", f"NodeName={NODE}", "State=DRAIN", "Reason=test")
    time.sleep(30)
    say("scontrol", "update", f"NodeName={NODE}", "State=RESUME")


def restart_slurmctld(run: Run) -> None:
    run.wait_for_job()
    run.cluster.end("slurmctld")
    time.sleep(45)
    run.cluster.start("slurmctld")


def kill_slurmctld(run: Run) -> None:
    """Kill it before it has written down which jobs run, and do what an administrator does then.

    Of jobs that it believes not to run it starts a second copy, which slurmd refuses.
    """
    run.wait_for_job()
    run.cluster.end("slurmctld", signal.SIGKILL)
    time.sleep(45)
    run.cluster.start("slurmctld")
    until = time.monotonic() + 120
    while run.process.poll() is None and time.monotonic() < until:
        held = re.findall(r"SLURM does not start job (\d+)", run.printed.read_text())
        if held:
            say("scontrol", "update", f"NodeName={NODE}", "State=RESUME")
            for job in held:
                say("scontrol", "release", job)
            return
        time.sleep(1)


def lose_state(run: Run) -> None:
    run.wait_for_job()
    run.cluster.end("slurmctld")
    run.cluster.start("slurmctld", "-c")


def stop_job(run: Run) -> None:
    """Have a job neither work nor end, and its time be over, for which nobody would wait here."""
    run.wait_for_job()
    until = time.monotonic() + 240
    while time.monotonic() < until:
        for step in job_steps():
            job = re.search(r"\[(\d+)\.", Path(f"/proc/{step}/cmdline").read_text())
            for number in below(step):
                with suppress(OSError):
                    words = Path(f"/proc/{number}/cmdline").read_text()
                    if job and "/bin/jipflow\0measure" in words:
                        os.kill(number, signal.SIGSTOP)
                        say("scontrol", "update", f"JobId={job[1]}", "TimeLimit=1")
                        return
        time.sleep(0.05)
    raise AssertionError("no job of measure was seen at work")


def kill_snakemake(run: Run) -> None:
    run.wait_for_job()
    run.process.kill()


def kill_snakemake_early(run: Run) -> None:
    """Kill it while its jobs wait, so that they begin beside those of the next run."""
    say("scontrol", "update", f"NodeName={NODE}", "State=DRAIN", "Reason=test")
    _until(lambda: len(run.cluster.open_jobs()) == PATIENTS)
    run.process.kill()

    def resume() -> None:
        _until(lambda: len(run.cluster.open_jobs()) == 2 * PATIENTS)
        say("scontrol", "update", f"NodeName={NODE}", "State=RESUME")

    Thread(target=resume, daemon=True).start()


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 240
    while not done() and time.monotonic() < end:
        time.sleep(0.5)


NODE = os.uname().nodename
APART = {stage: stage for stage in STAGES}
"""Groups of which each is one stage, as if there were none."""

USED = Path("/sys/fs/cgroup/cpuacct/jipflow-test")
"""Counts the computing time of all that SLURM starts."""

FAULTS = {
    "none": Fault("nothing", nothing),
    "apart": Fault("nothing; each stage of a shard is a job of its own", nothing, groups=APART),
    "scancel": Fault("a job is cancelled (`scancel`)", scancel),
    "memory": Fault(
        "a job takes more memory than it asked for",
        nothing,
        # Three stages go side by side; the job takes some 640 MB.
        needs={stage: {"mem_mb": "attempt * 150"} for stage in STAGES},
    ),
    "hung": Fault(
        "a job neither works nor ends until its `runtime` is over",
        stop_job,
        {"extra": "KillWait=5"},
    ),
    "slurmd": Fault("slurmd is killed and started again after 10 s", restart_slurmd),
    "node": Fault(
        "a node is lost with its jobs and comes back after 40 s",
        lose_node,
        {"extra": "SlurmdTimeout=20"},
    ),
    "drained": Fault("the node is drained and resumed after 30 s", drain),
    "slurmctld": Fault("slurmctld is ended, and started again after 45 s", restart_slurmctld),
    "killed": Fault(
        "slurmctld is killed as jobs begin, and started again after 45 s; a node that it drains is "
        "resumed, and jobs that it holds are released",
        kill_slurmctld,
    ),
    "state": Fault("slurmctld is restarted and has lost its state", lose_state),
    "snakemake": Fault("snakemake itself is killed", kill_snakemake),
    "waiting": Fault(
        "snakemake itself is killed while its jobs wait for a node; they begin beside those of the "
        "next run",
        kill_snakemake_early,
    ),
}


def kill_tree(number: int) -> None:
    """Kill a process and all below it, which it can no more start anew."""
    os.kill(number, signal.SIGSTOP)
    for each in [number, *below(number)]:
        with suppress(OSError):
            os.kill(each, signal.SIGKILL)


def computing_time(cluster: Cluster) -> float:
    """Seconds that jobs have computed; from the first call on what slurmd starts is counted."""
    if not USED.parent.is_dir():
        return float("nan")
    USED.mkdir(exist_ok=True)
    if "slurmd" in cluster.processes:
        (USED / "cgroup.procs").write_text(str(cluster.processes["slurmd"].pid))
    return int((USED / "cpuacct.usage").read_text()) / 1e9


def tables(site: Site) -> dict[str, pd.DataFrame]:
    """The tables of all shards, without what jobs took."""
    found = {}
    for path in sorted((site.out / "shards").rglob("*.parquet")):
        table = pd.read_parquet(path)
        name = str(path.relative_to(site.out))
        found[name] = table.drop(columns=["seconds", "max_rss_mb"], errors="ignore")
    return found


def same_tables(site: Site, local: Site) -> bool:
    """Whether the tables of two runs are the same."""
    ours, theirs = tables(site), tables(local)
    return ours.keys() == theirs.keys() and all(ours[name].equals(theirs[name]) for name in ours)


def start(
    site: Site, printed: Path, profile: Path | None, *options: str
) -> subprocess.Popen[bytes]:
    """Start a run on SLURM."""
    words = [*OFTEN, "--until", "document", "overlay", *site.arguments]
    if profile is not None:
        words += ["--workflow-profile", str(profile)]
    with open(printed, "wb") as stream:
        return subprocess.Popen(
            command(*words, profile="slurm"),
            cwd=ROOT,
            env=environment(),
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def own_profile(folder: Path, fault: Fault) -> Path | None:
    """A copy of profiles/default in which rules ask for something else."""
    if not fault.needs and not fault.groups:
        return None
    content = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text())
    if fault.groups:
        content["groups"] = [f"{rule}={name}" for rule, name in fault.groups.items()]
    for rule, asked in fault.needs.items():
        content.setdefault("set-resources", {}).setdefault(rule, {}).update(asked)
    profile = folder / "profile"
    profile.mkdir()
    (profile / "config.yaml").write_text(yaml.safe_dump(content))
    return profile


def strike(name: str, site: Site, local: Site, folder: Path) -> dict[str, Any]:
    """Make a run with a fault in it, and again if it ended badly; return a row of the table."""
    fault = FAULTS[name]
    profile = own_profile(folder, fault)
    printed, again = folder / "printed.txt", folder / "again.txt"
    options = {"limits": not no_memory_limit(), **fault.options}
    with slurm_cluster(folder, **options) as cluster:
        used = computing_time(cluster)
        began = time.monotonic()
        run = Run(cluster, start(site, printed, profile), printed)
        try:
            fault.strike(run)
            code: int | str = run.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            run.process.kill()
            print(cluster.standing(ROOT / ".snakemake" / "slurm_logs"))
            code = "hung"
        row: dict[str, Any] = {"fault": name, "what": fault.what, "code": code}
        row["seconds"] = round(time.monotonic() - began)
        if code:
            healing = time.monotonic()
            row["code again"] = start(site, again, profile).wait(LIMIT)
            row["seconds again"] = round(time.monotonic() - healing)
        row["computing"] = round(computing_time(cluster) - used)
        row["load"] = round(os.getloadavg()[0], 1)
    text = printed.read_text()
    if code:
        text += again.read_text()
        print(text)
    row["jobs"] = text.count("has been submitted with SLURM jobid")
    row["tried again"] = text.count("Trying to restart job")
    row["same tables"] = same_tables(site, local)
    return row


def line(row: dict[str, Any]) -> str:
    """The line of docs/slurm.md of a row."""
    again = row.get("code again")
    healed = "went on to its end" if again == 0 else f"ended with {again}"
    end = f"ended with {row['code']}; the same command {healed}"
    cells = [
        row["what"],
        "went on to its end" if row["code"] == 0 else end,
        "the same" if row["same tables"] else "others",
        row["jobs"],
        row["tried again"],
        row["computing"],
        row["seconds"] + row.get("seconds again", 0),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main(names: list[str]) -> None:
    """Make the runs, and write what became of them."""
    reason = missing()
    if reason:
        sys.exit(reason)
    print(f"memory limits: {no_memory_limit() or 'cgroup v1'}")
    work = Path(tempfile.mkdtemp(prefix="slurm-faults-"))
    write_site(work, "small", PATIENTS, 7, defects=False)
    protocol = work / "contours.yaml"
    protocol.write_text(yaml.safe_dump(contours_only()))
    local = make_site(work, "site", "contours", [work / "dicom"], processing={"shard_size": 1})
    local = replace(local, protocol_file=protocol)
    chosen = replace(local, results=work / "chosen")
    chosen.run(*ONE_CORE, "--until", "cohort")
    shutil.copytree(chosen.results, local.results)
    local.run(*ONE_CORE, "--until", "document", "overlay")
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names or FAULTS:
        folder = work / name
        folder.mkdir()
        site = replace(local, results=folder / "results")
        shutil.copytree(chosen.results, site.results)
        row = strike(name, site, local, folder)
        print(json.dumps(row, indent=1), flush=True)
        rows[name] = row
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])

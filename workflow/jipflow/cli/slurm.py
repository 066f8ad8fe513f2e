"""What SLURM says of the jobs of a run, so that the run waits for none in vain.

Snakemake's plugin asks for the states of all jobs at once. Where SLURM gives no answer, as while
slurmctld is restarted, the plugin (snakemake-executor-plugin-slurm 2.8.0) forgets the jobs that it
has asked about; and it waits for ever for one that SLURM itself has forgotten: of a job that has
ended after MinJobAge, of all where slurmctld has lost its state. Either way the run never ended.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from logging import Logger
from typing import Any

NEVER = 10**9
"""Seconds: what slurmctld keeps jobs for where its MinJobAge is 0."""

PATIENCE = 600
"""Seconds for which a job that is to be submitted waits for slurmctld."""

LONGEST = 60
"""Seconds after which a program of SLURM has not answered."""

OF_PLUGIN = (
    "query_job_status",
    "query_job_status_squeue",
    "get_min_job_age",
    "SubmittedJobInfo",
)
OF_EXECUTOR = ("check_active_jobs", "run_job", "cancel", "report_job_error")
"""What is replaced or called."""

OTHER_PLUGIN = (
    "The plugin for SLURM that is installed has no {names}. A run on SLURM may wait in vain where "
    "slurmctld is restarted or forgets a job; install the version that envs/constraints.txt names."
)

NO_SUCH_JOB = "Invalid job id specified"
"""What scontrol says of a job that slurmctld does not know."""

SILENT = (
    "SLURM does not say how the jobs stand. They go on without that, and it is asked again until "
    "it answers."
)
CLOSED = (
    "slurmctld does not answer (scontrol ping); jobs that are ready wait for it, {minutes} minutes "
    "at most."
)
FORGOTTEN = (
    "SLURM knows job {job} no more, so that nobody can tell how it has ended: either slurmctld has "
    "lost its state, or it keeps jobs that have ended for less time than passes between two "
    "questions (MinJobAge). "
)
NOT_SUBMITTED = "A job could not be submitted to SLURM: {error}"
HELD = (
    "SLURM does not start job {job} by itself ({reason}), and the run waits for it. Have it "
    "released (scontrol release {job}), and a node that is drained resumed, or cancel it (scancel "
    "{job}): then it is tried again."
)
WAITS_IN_VAIN = re.compile("held|DependencyNeverSatisfied", re.I)
"""Reasons of a pending job that no waiting ends, but a person may."""

TOO_MUCH = (
    "SLURM never starts job {job} ({reason}): it asks for more than its partition, QOS or account "
    "gives. End the run, lower runtime or mem_mb of its rules by set-resources of your profile or "
    "name another partition, and start anew with the same command."
)
LIMITS = re.compile(
    r"Bad|PartitionTimeLimit|PartitionNodeLimit|(?:QOS|Assoc)Max\w*Per(?:Job|Node)", re.I
)
"""Reasons of a pending job that would exceed a limit by itself, whatever else runs."""

TIMED_OUT = (
    " It took longer than its runtime, and a second try has no more: if it fails again, raise "
    "runtime of its rules by set-resources of your profile."
)


@dataclass
class _Answers:
    """What SLURM has answered to this process.

    Attributes:
        known: numbers of all jobs of the run that slurmctld knows by its last answer; None where
            there was none, or it came from the accounting database, which learns of jobs late.
        silent: whether the last question had no answer.
        age: seconds for which slurmctld keeps a job that has ended; None where that is unknown.
        cancelled: whether a person has ended the run.
        reported: what was reported of jobs that wait in vain.
    """

    known: set[str] | None = None
    silent: bool = False
    age: int | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    reported: set[str] = field(default_factory=set)


def watch_jobs() -> str:
    """Have Snakemake's plugin for SLURM ask again where it has no answer, and end lost jobs.

    A job that SLURM knows no more has failed, and is tried again like any. Calling it twice is of
    no further effect.

    Returns:
        What is wrong with the plugin, which is then left as it is; empty for nothing.
    """
    import snakemake_executor_plugin_slurm as plugin

    if hasattr(plugin, "jipflow_watches"):
        return ""
    missing = [name for name in OF_PLUGIN if not hasattr(plugin, name)]
    missing += [name for name in OF_EXECUTOR if not hasattr(plugin.Executor, name)]
    if missing:
        return OTHER_PLUGIN.format(names=", ".join(missing))
    plugin.jipflow_watches = answers = _Answers()
    # What a person has squeue leave out otherwise would be missing here.
    for name in [name for name in os.environ if name.startswith("SQUEUE_")]:
        del os.environ[name]
    query, min_job_age = plugin.query_job_status, plugin.get_min_job_age
    executors = plugin.Executor
    check, submit, cancel = executors.check_active_jobs, executors.run_job, executors.cancel
    report = executors.report_job_error

    def age() -> int | None:
        # Without an answer the plugin would ask the accounting database, which may not be there.
        found = min_job_age()
        if found is not None:
            answers.age = found or NEVER
        return answers.age

    async def ask(command: str, logger: Logger) -> tuple[dict[str, str], float]:
        if command.startswith("squeue"):
            command += " --all"
        states, seconds = await query(command, logger)
        if states is None and command.startswith("sacct"):
            command = plugin.query_job_status_squeue(_run(command)) + " --all"
            states, seconds = await query(command, logger)
        if states is None and not answers.silent:
            logger.warning(SILENT)
        answers.silent = states is None
        if states is None:
            return {}, 0.0
        if command.startswith("squeue"):
            answers.known = {_number(job) for job in states}
        return states, seconds

    async def check_jobs(executor: Any, jobs: list[Any]) -> AsyncIterator[Any]:
        answers.known = None
        async for job in check(executor, jobs):
            known = answers.known is None or _number(job.external_jobid) in answers.known
            if known or not _is_gone(job):
                yield job
            else:
                message = FORGOTTEN.format(job=job.external_jobid)
                executor.report_job_error(job, msg=message)
        if answers.known:
            for held in set(waiting_in_vain(executor.run_uuid)) - answers.reported:
                answers.reported.add(held)
                executor.logger.warning(held)
        if answers.age is not None:
            often = max(1, answers.age // 3)
            executor.next_seconds_between_status_checks = min(
                often, executor.next_seconds_between_status_checks
            )

    def run_job(executor: Any, job: Any) -> None:
        _wait_for_slurm(executor.logger, answers.cancelled)
        if answers.cancelled.is_set():
            return
        try:
            submit(executor, job)
        except Exception as error:
            # The plugin states the rule of the job it could not submit, and a group has none.
            message = NOT_SUBMITTED.format(error=error.__context__ or error)
            executor.report_job_error(plugin.SubmittedJobInfo(job), msg=message)

    def report_error(executor: Any, job: Any, msg: str | None = None, **more: Any) -> None:
        if msg and "'TIMEOUT'" in msg:
            msg += TIMED_OUT
        # Snakemake prints no message of a group.
        if msg and job.job.is_group():
            executor.logger.error(msg)
        report(executor, job, msg=msg, **more)

    def cancel_all(executor: Any) -> None:
        answers.cancelled.set()
        cancel(executor)

    plugin.get_min_job_age, plugin.query_job_status = age, ask
    executors.check_active_jobs, executors.run_job, executors.cancel = (
        check_jobs,
        run_job,
        cancel_all,
    )
    executors.report_job_error = report_error
    return ""


def _is_gone(job: Any) -> bool:
    """Return whether slurmctld knows a job no more, that of its own cluster; then it is cancelled.

    squeue alone may leave out a job that is alive, and two tries would write the same files.
    """
    asked = job.job.resources
    clusters = [asked.get(name) for name in ("cluster", "clusters", "slurm_cluster")]
    cluster = next((["-M", str(name)] for name in clusters if name), [])
    if NO_SUCH_JOB not in _say("scontrol", *cluster, "show", "job", job.external_jobid):
        return False
    _say("scancel", *cluster, job.external_jobid)
    return True


def waiting_in_vain(run: str) -> list[str]:
    """Return a sentence for each pending job that SLURM will not start by itself.

    Args:
        run: the name that all jobs of a run have.
    """
    asked = _say(
        "squeue", "--all", "--noheader", "--states=PENDING", "--format=%i|%r", f"--name={run}"
    )
    pending = [each.partition("|") for each in asked.splitlines()]
    return [
        (TOO_MUCH if LIMITS.match(reason) else HELD).format(job=job, reason=reason)
        for job, _, reason in pending
        if LIMITS.match(reason) or WAITS_IN_VAIN.search(reason)
    ]


def _wait_for_slurm(logger: Logger, cancelled: threading.Event) -> None:
    """Wait until slurmctld can take a job, for as long as its restart may take."""
    end = time.monotonic() + PATIENCE
    stated = False
    while not _answers() and time.monotonic() < end:
        if not stated:
            logger.warning(CLOSED.format(minutes=PATIENCE // 60))
            stated = True
        if cancelled.wait(5):
            return


def _answers() -> bool:
    """Return whether slurmctld, or the one that stands in for it, answers; if that can be asked."""
    return shutil.which("scontrol") is None or " is UP" in _say("scontrol", "ping")


def _say(*words: str) -> str:
    """Return what a program of SLURM prints, errors too.

    Nothing where it is not there or does not end in time.
    """
    try:
        asked = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=LONGEST,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout


def _number(job: str) -> str:
    """Return the number of a job; of a task of an array that of the array, as squeue joins them."""
    return job.split("_")[0]


def _run(command: str) -> str:
    """Return the name of the run, which all its jobs have, of a command that asks for them."""
    found = re.search(r"--name (\S+)", command)
    assert found is not None
    return found[1]

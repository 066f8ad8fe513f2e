"""No job of a run on SLURM is lost where SLURM does not answer, as here, where it is not."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import snakemake_executor_plugin_slurm as plugin

from jipflow.cli import slurm
from jipflow.cli.slurm import SILENT, watch_jobs

PATCHED = ("query_job_status", "get_min_job_age")
OF_EXECUTOR = ("check_active_jobs", "run_job", "cancel", "report_job_error")


class _Limiter:
    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *error: object) -> None:
        pass


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plugin's, where none of SLURM's programs is found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in PATCHED:
        monkeypatch.setattr(plugin, name, getattr(plugin, name))
    for name in OF_EXECUTOR:
        monkeypatch.setattr(plugin.Executor, name, getattr(plugin.Executor, name))
    monkeypatch.setattr(plugin, "is_query_tool_available", lambda name: True)
    monkeypatch.setattr(slurm, "PATIENCE", 1)
    made = object.__new__(plugin.Executor)
    settings = SimpleNamespace(
        status_command="squeue", status_attempts=5, init_seconds_before_status_checks=10
    )
    made.failed = []
    scheduler = SimpleNamespace(error_callback=made.failed.append)
    made.workflow = SimpleNamespace(executor_settings=settings, scheduler=scheduler)
    made._main_event_loop = None
    made.logger = logging.getLogger("slurm")
    made.run_uuid = "run"
    made.status_rate_limiter = _Limiter()
    made.next_seconds_between_status_checks = 10
    made._status_query_calls = made._status_query_failures = 0
    made._status_query_total_seconds = made._status_query_max_seconds = 0.0
    made._status_query_min_seconds = None
    made._status_query_cycle_rows = []
    yield made
    if hasattr(plugin, "jipflow_watches"):
        del plugin.jipflow_watches


def program(folder: Path, name: str, script: str) -> None:
    """Write a program of SLURM; what each is called with stands in `calls` beside it."""
    path = folder / name
    calls = shlex.quote(str(folder / "calls"))
    path.write_text(f"#!/bin/sh\necho {name} $* >> {calls}\n{script}\n")
    path.chmod(0o755)


def still_active(executor: Any, *, group: bool = False, **resources: str) -> list[str]:
    """The jobs that are asked about again after a question."""
    job = SimpleNamespace(
        resources=resources, is_group=lambda: group, log_error=lambda msg, **_: print(msg)
    )
    jobs = [SimpleNamespace(job=job, external_jobid="7", aux={})]

    async def asked() -> list[str]:
        return [job.external_jobid async for job in executor.check_active_jobs(jobs)]

    return asyncio.run(asked())


def test_a_job_is_asked_about_again_which_the_plugin_would_forget(executor, caplog):
    assert still_active(executor) == []
    watch_jobs()
    watch_jobs()
    assert still_active(executor) == ["7"]
    assert still_active(executor) == ["7"]
    assert [record.message for record in caplog.records].count(SILENT) == 1


def test_a_controller_that_is_down_is_none_whatever_its_name(tmp_path, executor, monkeypatch):
    program(tmp_path, "scontrol", "echo 'Slurmctld(primary) at BACKUP1 is DOWN'")
    assert not slurm._answers()
    program(tmp_path, "scontrol", "echo 'Slurmctld(primary) at DOWN1 is UP'")
    assert slurm._answers()
    monkeypatch.setattr(slurm, "LONGEST", 0.2)
    program(tmp_path, "scontrol", "exec /bin/sleep 5")
    program(tmp_path, "squeue", "exec /bin/sleep 5")
    assert not slurm._answers()
    assert slurm.waiting_in_vain("run") == []


def test_what_a_person_has_ended_submits_no_job_that_waited(executor, monkeypatch):
    submitted: list[object] = []
    monkeypatch.setattr(plugin.Executor, "run_job", lambda _, job: submitted.append(job))
    monkeypatch.setattr(plugin.Executor, "cancel", lambda _: None)
    watch_jobs()
    executor.run_job("before")
    executor.cancel()
    executor.run_job("after")
    assert submitted == ["before"]


def test_a_plugin_of_another_version_is_left_as_it_is(executor, monkeypatch):
    monkeypatch.delattr(plugin, "query_job_status")
    before = plugin.Executor.run_job
    assert "has no query_job_status." in watch_jobs()
    assert plugin.Executor.run_job is before


def test_a_group_that_cannot_be_submitted_has_failed_and_says_why(tmp_path, executor, caplog):
    (tmp_path / "slurm_logs").touch()
    executor.slurm_logdir = tmp_path / "slurm_logs" / "shard"
    group = SimpleNamespace(name="shard", is_group=lambda: True, log_error=lambda msg: None)
    watch_jobs()
    executor.run_job(group)
    assert executor.failed == [group]
    (message,) = [record.message for record in caplog.records if "submitted" in record.message]
    assert "Not a directory" in message


@pytest.mark.parametrize(
    "answer",
    [
        "echo JobId=7 JobState=RUNNING",
        "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1",
        "echo scontrol: error: No cluster 'north' known by database. >&2; exit 1",
    ],
)
def test_a_job_that_squeue_leaves_out_has_not_failed_for_that(answer, tmp_path, executor):
    program(tmp_path, "squeue", "echo '8|RUNNING'")
    program(tmp_path, "scontrol", answer)
    watch_jobs()
    assert still_active(executor, slurm_cluster="north") == ["7"]
    assert executor.failed == []
    assert "scontrol -M north show job 7" in (tmp_path / "calls").read_text().splitlines()


def test_a_job_that_slurm_knows_no_more_is_cancelled_and_has_failed(tmp_path, executor, capsys):
    program(tmp_path, "squeue", "echo '8|RUNNING'")
    refused = "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1"
    program(tmp_path, "scontrol", refused)
    program(tmp_path, "scancel", "")
    watch_jobs()
    assert still_active(executor) == []
    assert len(executor.failed) == 1
    assert "SLURM knows job 7 no more" in capsys.readouterr().out
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls.index("scancel 7") == calls.index("scontrol show job 7") + 1


def test_squeue_leaves_out_no_job_by_a_hidden_partition_or_the_environment(
    tmp_path, executor, monkeypatch
):
    monkeypatch.setenv("SQUEUE_PARTITION", "other")
    program(tmp_path, "squeue", '[ -z "$SQUEUE_PARTITION" ] && echo "7|RUNNING"')
    watch_jobs()
    assert still_active(executor) == ["7"]
    questions = [
        line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("squeue")
    ]
    assert len(questions) == 2
    assert all(" --all" in question for question in questions)
    assert "scontrol show job 7" not in (tmp_path / "calls").read_text()


def test_a_job_that_asks_for_more_than_there_is_is_distinguished_from_one_that_is_held(
    tmp_path, executor
):
    reasons = {
        "1": "PartitionTimeLimit",
        "2": "BadConstraints",
        "3": "QOSMaxWallDurationPerJobLimit",
        "4": "AssocMaxMemPerJob",
        "5": "JobHeldAdmin",
        "6": "QOSMaxJobsPerUserLimit",
        "7": "AssocGrpCpuLimit",
        "8": "Resources",
    }
    lines = "\n".join(f"echo '{job}|{reason}'" for job, reason in reasons.items())
    program(tmp_path, "squeue", lines)
    *limited, held = slurm.waiting_in_vain("run")
    assert [re.search(r"job (\d)", sentence)[1] for sentence in limited] == ["1", "2", "3", "4"]
    assert all("lower runtime or mem_mb" in sentence for sentence in limited)
    assert held.startswith("SLURM does not start job 5 by itself (JobHeldAdmin)")


def test_a_group_whose_time_is_over_names_its_runtime(tmp_path, executor, caplog):
    program(tmp_path, "squeue", "echo '7|TIMEOUT'")
    watch_jobs()
    assert still_active(executor, group=True) == []
    (message,) = [record.message for record in caplog.records if "TIMEOUT" in record.message]
    assert "It took longer than its runtime" in message

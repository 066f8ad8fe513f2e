"""The log of runs for programs: a line of JSON for each job that begins, ends or fails.

It is of what Snakemake tells its loggers, without what these print of paths, commands and cases.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jipflow.place import sentence
from jipflow.subset import whole_of
from jipflow.version import full_version

FILE = "logs/run.jsonl"
"""The log, below the results of a protocol; each run adds to it."""

ENDS = {"job_finished": "job_ended", "job_error": "job_failed"}
"""Events of Snakemake, by whose names the ends of jobs are logged."""


class RunLog(logging.Handler):
    """Writes the log of a run.

    Args:
        path: of the log.
        run: name of the run.
        jobs: how many jobs it has planned so far.
    """

    def __init__(self, path: Path, run: str, jobs: int) -> None:
        super().__init__()
        self.path = path
        self.run = run
        self._of_job: dict[int, tuple[dict[str, Any], float]] = {}
        self._counts = {"job_ended": 0, "job_failed": 0}
        self._gone = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write("run_started", version=full_version(), pid=os.getpid(), jobs_planned=jobs)

    def emit(self, record: logging.LogRecord) -> None:
        """Log an event of Snakemake; whatever else it says is none."""
        event = str(getattr(record, "event", ""))
        known: Any = record
        if event == "job_info":
            about = {"job": known.jobid, "rule": known.rule_name, "threads": known.threads}
            if "shard" in known.wildcards:
                # A part of a shard has the name of a case.
                about["shard"] = whole_of(known.wildcards["shard"])
            self._of_job[known.jobid] = about, time.monotonic()
            self._write("job_started", **about)
        elif event in ENDS:
            self._ended(ENDS[event], known.job_id if event == "job_finished" else known.jobid)

    def _ended(self, event: str, job: int) -> None:
        about, began = self._of_job.pop(job, ({"job": job}, None))
        seconds = {} if began is None else {"seconds": round(time.monotonic() - began, 3)}
        self._counts[event] += 1
        self._write(event, **about, **seconds)

    def finish(self, state: str) -> None:
        """Log the end of the run.

        Args:
            state: ``ended`` or ``failed``.
        """
        counts = {"jobs_ended": self._counts["job_ended"]}
        self._write(f"run_{state}", **counts, jobs_failed=self._counts["job_failed"])

    def _write(self, event: str, **about: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "run": self.run, "event": event, **about})
        try:
            with open(self.path, "a", encoding="ascii") as stream:
                stream.write(f"{line}\n")
        except OSError as error:
            # The jobs themselves say more of a place that fails.
            if not self._gone:
                print(f"jipflow: the log of the run has gaps: {sentence(error)}", file=sys.stderr)
            self._gone = True

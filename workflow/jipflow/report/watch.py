"""The page that shows how runs stand while they go on."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from jipflow.repair.standing import Standing
from jipflow.report.pages import write_page

COLUMNS = ("ok", "failed", "waiting", "excluded", "blocked", "left", "jobs")


def write_watch_page(standing: Standing, path: Path, every: int) -> None:
    """Write the page: counts, with neither cases nor paths.

    Args:
        standing: of a results folder.
        path: of the page.
        every: seconds after which a browser loads it again; 0 for never.
    """
    lock = standing.lock
    whose = "No run goes on."
    if lock.state in {"run", "elsewhere"}:
        whose = f"The run of process {lock.pid} on {lock.host}, started {lock.started}, goes on."
    elif lock.state in {"killed", "jobs"}:
        whose = f"The run of process {lock.pid} on {lock.host}, started {lock.started}, was killed."
    write_page(
        path,
        "watch.html.j2",
        protocols=standing.protocols,
        lock=whose,
        every=every,
        columns=COLUMNS,
        counted=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    )

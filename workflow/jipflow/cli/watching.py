"""A results folder looked at again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from jipflow.repair.metrics import write_metrics
from jipflow.repair.sentences import sentences
from jipflow.repair.standing import Standing, read_standing
from jipflow.report.watch import write_watch_page

CLEAR = "\x1b[H\x1b[J"
"""Moves a terminal's cursor to its first line, and clears what follows."""

TIMER = 60
"""Seconds after which a page is loaded again that a timer of the system has written."""

GOES_ON = frozenset({"run", "elsewhere"})


def keep_watch(
    results: Path,
    protocol: str | None,
    every: int,
    page: Path | None,
    metrics: Path | None,
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Print how a results folder stands until the run that has it is over.

    Args:
        results: folder for the results of all protocols.
        protocol: id of the only protocol; None for all.
        every: seconds between two looks; 0 for one look.
        page: the same for a browser; None for none.
        metrics: the same for Prometheus; None for none.
        wait: waits for so many seconds.
    """
    seen = False
    before = ""
    while True:
        standing = read_standing(results, protocol)
        goes_on = standing.lock.state in GOES_ON
        over = bool(every) and seen and not goes_on
        if page is not None:
            write_watch_page(standing, page, 0 if over else every or TIMER)
        if metrics is not None:
            write_metrics(standing, metrics)
        before = _print(standing, before)
        if over or not every:
            return
        seen = seen or goes_on
        wait(every)


def _print(standing: Standing, before: str) -> str:
    """Print how it stands: on a terminal in place, elsewhere where it has changed."""
    text = "\n".join(sentences(standing))
    if sys.stdout.isatty():
        print(f"{CLEAR}{time.strftime('%H:%M:%S')}\n{text}", flush=True)
    elif text != before:
        print(f"{text}\n", flush=True)
    return text

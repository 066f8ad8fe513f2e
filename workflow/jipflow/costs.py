"""Time and memory of a job and of all processes that it starts, written beside its record.

Snakemake's own ``benchmark`` watches the processes below the shell of a rule, in which no work is
done where a job is a copy of the run's server (`jipflow.forked`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import psutil

from jipflow.files import atomic_path
from jipflow.provenance import NAME

ENDING = "cost.tsv"
"""End of the file's name, where that of a record ends with `provenance.NAME`."""

RELEASES = "release"
"""Folder of the releases of a protocol."""

COLUMNS = ("seconds", "cpu_seconds", "peak_mb")

FIRST, LONGEST, GROWTH = 0.2, 10.0, 1.5
"""Seconds between two looks: at the beginning, at most, and how they grow from look to look."""


@contextmanager
def measured(record: Path) -> Iterator[None]:
    """Measure what the block takes, and write it when the block has ended well.

    ``seconds`` count from the start of this process, ``cpu_seconds`` are of all its processes, and
    ``peak_mb`` is the most memory in MiB that these held together, as often as it was looked:
    memory that several share counts once (the proportional set size of Linux). A process that ends
    while it is looked at, or is not to be seen, counts no more, and fails no job.

    Args:
        record: of the job; nothing is written where its name does not end with `provenance.NAME`,
            nor beside releases, where nothing lies that a person does not read before approving.
    """
    watch = _Watch()
    with watch.running():
        yield
    if record.name.endswith(NAME) and record.parent.name != RELEASES:
        file = cost_file(record)
        try:
            values = (watch.seconds(), watch.cpu_seconds(), watch.peak / 2**20)
        except OSError:
            # No file can be opened to look; the job may have ended well all the same.
            file.unlink(missing_ok=True)
            return
        with atomic_path(file) as partial:
            lines = ["\t".join(COLUMNS), "\t".join(f"{value:.2f}" for value in values)]
            partial.write_text("\n".join([*lines, ""]), encoding="ascii")


def cost_file(record: Path) -> Path:
    """Return the file of what the job of a record took."""
    return record.with_name(record.name.removesuffix(NAME) + ENDING)


class _Watch:
    """Looks at this process and those below it."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = Thread(target=self._look_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            self._look()

    def seconds(self) -> float:
        """Return the age of this process, by a clock that nobody sets."""
        # proc(5): the 22nd field, and the 20th after the name, is when it began.
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began

    def cpu_seconds(self) -> float:
        """Return what the processes that live, and those that they waited for, have computed."""
        found = 0.0
        for process in _family():
            # It may have ended since.
            with suppress(psutil.Error):
                found += sum(process.cpu_times()[:4])
        return found

    def _look_on(self) -> None:
        pause = FIRST
        while not self._over.wait(pause):
            self._look()
            pause = min(pause * GROWTH, LONGEST)

    def _look(self) -> None:
        with suppress(OSError):
            self.peak = max(self.peak, sum(map(_memory, _family())))


def _family() -> list[psutil.Process]:
    """Return this process and those below it.

    `psutil.Process.children` fails where the system hides the processes of others (hidepid).
    """
    parents = {each: each.info["ppid"] for each in psutil.process_iter(["ppid"])}
    found = [psutil.Process()]
    for process in found:
        found += [each for each, parent in parents.items() if parent == process.pid]
    return found


def _memory(process: psutil.Process) -> int:
    """Return the memory of a process in bytes; 0 of one that has ended."""
    with suppress(psutil.Error):
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", memory.rss))
    return 0

"""What a command costs with all the processes that it starts."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from report import Cost, measure


@dataclass
class Watch:
    """What a command cost, and the most memory that all its processes held together.

    Attributes:
        costs: of the command's runs.
        together_mb: proportional set size in MiB, looked at each second: each look stops every
            process for some milliseconds.
    """

    costs: list[Cost] = field(default_factory=list)
    together_mb: float = 0.0

    def run(self, command: Sequence[str]) -> Cost:
        """Run a command once more."""
        done = threading.Event()
        watcher = threading.Thread(target=self._look, args=(done,))
        watcher.start()
        try:
            self.costs.append(measure(command))
        finally:
            done.set()
            watcher.join()
        return self.costs[-1]

    def _look(self, done: threading.Event) -> None:
        while not done.wait(1):
            self.together_mb = max(self.together_mb, memory_below(os.getpid()))


def memory_below(ancestor: int) -> float:
    """Memory in MiB of all processes that a process started, what they share counted once."""
    parents, total = {}, 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    for pid in parents:
        above = parents[pid]
        while above in parents and above != ancestor:
            above = parents[above]
        if above == ancestor:
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(float(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024

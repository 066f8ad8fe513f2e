"""What a machine lets this process use: cores, memory and GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 30
"""Seconds that a program of the machine may take to answer."""

NO_LIMIT = 1 << 60
"""From so many bytes on a limit of memory is none: cgroups of version 1 give nearly 2⁶³."""


@dataclass(frozen=True)
class Amount:
    """A number, and what it follows from."""

    number: int
    why: str


def cores(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Amount:
    """Return how many cores this process may use: of its affinity and its cgroup the fewer.

    Args:
        proc: where Linux shows its processes.
        cgroups: where its control groups are mounted.
    """
    allowed = len(os.sched_getaffinity(0))
    why = f"{allowed} of the machine's {os.cpu_count()} are this process's (affinity)"
    quotas = [quota for folder in _groups("cpu", proc, cgroups) if (quota := _quota(folder))]
    if quotas and min(quotas) < allowed:
        return Amount(max(1, int(min(quotas))), f"{why}, and its cgroup gives {min(quotas):g}")
    return Amount(allowed, why)


def memory_mb(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Amount:
    """Return how many MB (10⁶ bytes) of memory this process may use.

    Args:
        proc: where Linux shows its processes.
        cgroups: where its control groups are mounted.
    """
    (line,) = (
        line
        for line in (proc / "meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemTotal:")
    )
    whole = int(line.split()[1]) * 1024
    limits = [limit for folder in _groups("memory", proc, cgroups) if (limit := _limit(folder))]
    if limits and min(limits) < whole:
        why = f"a cgroup's limit, of the machine's {whole // 10**6} MB"
        return Amount(min(limits) // 10**6, why)
    return Amount(whole // 10**6, "all of the machine's; no cgroup limits it")


def gpus() -> tuple[list[str], str]:
    """Return the names of the GPUs that NVIDIA's driver lists, and why there are none."""
    if shutil.which("nvidia-smi") is None:
        return [], "nvidia-smi is not installed"
    answer = asked("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    if answer is None:
        return [], "nvidia-smi ends with an error, or does not answer"
    return answer.split("\n") if answer else [], "nvidia-smi lists none"


def asked(*command: str) -> str | None:
    """Return what a program prints, without blanks around it; None where it fails.

    Args:
        command: the program and its arguments.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _groups(controller: str, proc: Path, cgroups: Path) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those above it, of both versions."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, names, path = line.split(":", 2)
        if number == "0" and not names:
            root = cgroups
        elif controller in names.split(","):
            root = next((p for n in (names, controller) if (p := cgroups / n).is_dir()), cgroups)
        else:
            continue
        folder = Path(path.lstrip("/"))
        # In a container the path may be one of the host's, of which only the root is mounted.
        yield from (root / part for part in (folder, *folder.parents) if (root / part).is_dir())


def _quota(folder: Path) -> float | None:
    """Return the cores that a group may use; None for no limit."""
    if text := _read(folder / "cpu.max"):
        quota, _, period = text.partition(" ")
    else:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    try:
        given, every = int(quota), int(period)
    except ValueError:
        return None
    return given / every if given > 0 and every > 0 else None


def _limit(folder: Path) -> int | None:
    """Return the bytes of memory that a group may use; None for no limit."""
    text = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
    return int(text) if text.isdecimal() and 0 < int(text) < NO_LIMIT else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""

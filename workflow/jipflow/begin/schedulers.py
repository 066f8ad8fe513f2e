"""Which scheduler a machine submits to: SLURM, LSF or Grid Engine, and the partitions of SLURM."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import Literal

from jipflow.begin.machine import asked

Name = Literal["none", "slurm", "lsf", "sge", "pbs"]
"""A scheduler; none where jobs run on one machine."""

QUEUE = re.compile(r"[A-Za-z0-9_.-]+")
"""A name of a partition or queue."""

ACCOUNT = re.compile(r"[A-Za-z0-9_.@+-]+")
"""A name of an account: nothing that ends the quoted text of one of Snakemake's expressions."""

SINFO = ("sinfo", "--noheader", "--exact", "--format=%P|%a|%l|%m|%G")
"""Partition, whether it is up, its time limit, and MB and devices of its nodes."""

TIME = re.compile(r"(?:(?P<days>\d+)-)?(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+)")
"""A time limit as sinfo prints it; others are ``infinite``, ``UNLIMITED`` and ``n/a``."""

SHARD_MINUTES, SHARD_MB = 840, 18_000
"""What the longest job of a shard asks for: all stages one after the other, those that run side by
side with the memory of each. It is of a protocol without a model, whose stages are one job."""

LISTS: dict[Name, tuple[str, ...]] = {"lsf": ("bqueues", "-w"), "sge": ("qconf", "-sql")}
"""What prints the queues of other schedulers, a line each."""


@dataclass(frozen=True)
class Partition:
    """A partition of SLURM.

    Attributes:
        name: as ``sbatch --partition`` takes it.
        default: whether jobs go there that name none.
        up: whether it takes jobs.
        limit: most time of a job, as SLURM writes it.
        memory_mb: of its largest node; None where SLURM does not say.
        gpus: whether some of its nodes have GPUs.
    """

    name: str
    default: bool
    up: bool
    limit: str
    memory_mb: int | None
    gpus: bool

    @property
    def minutes(self) -> float:
        """Most time of a job; infinite where there is no limit."""
        found = TIME.fullmatch(self.limit)
        if found is None:
            return float("inf")
        days, hours, minutes = (int(found[name] or 0) for name in ("days", "hours", "minutes"))
        return (days * 24 + hours) * 60 + minutes

    def too_little(self) -> list[str]:
        """Return what of `SHARD_MINUTES` and `SHARD_MB` the partition does not give a job."""
        found = []
        if self.minutes < SHARD_MINUTES:
            hours = SHARD_MINUTES // 60
            found.append(f"it ends jobs after {self.limit}, and a shard's asks for {hours} hours")
        if self.memory_mb is not None and self.memory_mb < SHARD_MB:
            found.append(
                f"its nodes have {self.memory_mb} MB, and a shard's job asks for {SHARD_MB}"
            )
        return found


@dataclass(frozen=True)
class Found:
    """A scheduler that answers.

    Attributes:
        name: of the scheduler; ``none`` where jobs run on this machine.
        why: what was seen.
        partitions: of SLURM.
        queues: names of the partitions or queues.
    """

    name: Name
    why: str
    partitions: tuple[Partition, ...] = ()
    queues: tuple[str, ...] = ()


def find() -> Found:
    """Ask this machine's schedulers, SLURM first, and return the one that answers."""
    seen = []
    slurm = _slurm()
    if slurm.name == "slurm":
        return slurm
    seen.append(slurm.why)
    for name, command in LISTS.items():
        if shutil.which(command[0]) is None:
            seen.append(f"{command[0]} is not installed")
            continue
        answer = asked(*command)
        queues = _queues(answer or "")
        if queues:
            return Found(name, f"{command[0]} lists {', '.join(queues)}", queues=queues)
        seen.append(f"{command[0]} {_failed(answer)}")
    return Found("none", "; ".join(seen))


def named(name: Name) -> Found:
    """Return the scheduler of that name, with the partitions of SLURM where it answers.

    Args:
        name: that a person has given.
    """
    found = _slurm() if name == "slurm" else None
    return found if found and found.partitions else Found(name, "as --scheduler states")


def default(found: Found) -> str | None:
    """Return the partition that takes jobs which name none, or the only one; None for none."""
    up = [each for each in found.partitions if each.up]
    chosen = [each for each in up if each.default] or (up if len(up) == 1 else [])
    return chosen[0].name if chosen else None


def parse_sinfo(answer: str) -> list[Partition]:
    """Return the partitions of an answer to `SINFO`.

    Raises:
        ValueError: a line is of something else.
    """
    found: dict[str, Partition] = {}
    for line in answer.splitlines():
        fields = line.split("|")
        name = fields[0].removesuffix("*")
        if len(fields) != 5 or not QUEUE.fullmatch(name):
            raise ValueError(line)
        _, state, limit, memory, devices = (field.strip() for field in fields)
        amounts = [int(digits[0])] if (digits := re.fullmatch(r"\d+", memory)) else []
        gpus = any(device.startswith("gpu") for device in devices.split(","))
        if (earlier := found.get(name)) is not None:
            gpus = gpus or earlier.gpus
            amounts += [] if earlier.memory_mb is None else [earlier.memory_mb]
        largest = max(amounts, default=None)
        found[name] = Partition(name, fields[0].endswith("*"), state == "up", limit, largest, gpus)
    return list(found.values())


def _slurm() -> Found:
    if shutil.which("sinfo") is None:
        return Found("none", "sinfo is not installed")
    answer = asked(*SINFO)
    try:
        partitions = parse_sinfo(answer or "")
    except ValueError as error:
        line = re.sub(r"[^ -~]", "?", str(error))[:40]
        return Found("none", f"sinfo answers something else than partitions: {line!r}")
    if not partitions:
        return Found("none", f"sinfo {_failed(answer)}")
    names = tuple(each.name for each in partitions)
    return Found("slurm", f"sinfo lists {', '.join(names)}", tuple(partitions), names)


def _failed(answer: str | None) -> str:
    return "ends with an error, or does not answer" if answer is None else "lists nothing"


def _queues(answer: str) -> tuple[str, ...]:
    """Return the first word of each line that is a name, but that of the head of a table."""
    words = [line.split()[0] for line in answer.splitlines() if line.strip()]
    return tuple(word for word in words if QUEUE.fullmatch(word) and word != "QUEUE_NAME")

"""How long a run will still take, by what it has done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Work(NamedTuple):
    """What is done and what is left of a stage.

    Attributes:
        seconds: that the items of all jobs that have ended took together.
        cases: of these jobs.
        left: cases of the jobs that have not ended.
    """

    seconds: float
    cases: int
    left: int


@dataclass(frozen=True)
class Estimate:
    """How much of the work is done, and how long the rest will take.

    Attributes:
        done: share of the work, from 0 to 1; None where a stage is unknown that is left.
        seconds: that are left; None where it is not known.
        why: it is not known; else empty.
    """

    done: float | None
    seconds: float | None
    why: str = ""


def estimate(stages: Mapping[str, Work], made: float, elapsed: float | None) -> Estimate:
    """Estimate what is left by the mean time of a case at each stage, and the pace of the run.

    Work is what the items of cases take, added up; the pace is how much of it the jobs made that
    have ended since the run began with the first stage, in each second since then. So it has the
    cores of the run in it, and the time that jobs start, wait and idle; jobs that go on are not in
    it, which makes an estimate too long until several have ended.

    Args:
        stages: that the shards go through.
        made: seconds that the items of jobs took which have ended in this run.
        elapsed: seconds since this run began with the first stage; None where none goes on.
    """
    unknown = [name for name, work in stages.items() if work.left and not work.cases]
    if unknown:
        return Estimate(None, None, f"no shard has been through {unknown[0]} yet")
    done = sum(work.seconds for work in stages.values())
    left = sum(work.left * work.seconds / work.cases for work in stages.values() if work.left)
    if not any(work.left for work in stages.values()):
        return Estimate(1.0, 0.0) if stages else Estimate(None, None, "there are no settings yet")
    share = done / (done + left) if done + left else None
    if elapsed is None:
        return Estimate(share, None, "no run goes on")
    if made <= 0 or elapsed <= 0:
        return Estimate(share, None, "no job of this run has ended yet")
    return Estimate(share, left * elapsed / made)

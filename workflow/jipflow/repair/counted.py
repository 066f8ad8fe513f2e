"""The outcomes of a job, counted once while their file stays the same."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from jipflow.files import read_parquet
from jipflow.outcomes import Status
from jipflow.reasons import Reason

FOLLOWS = frozenset({Reason.DEPENDS_ON_FAILED.value, Reason.DEPENDS_ON_WAITING.value})
"""Reasons that merely repeat an earlier outcome of the case."""

RANKS = ("ok", "blocked", "excluded", "waiting", "failed")
"""What becomes of a case at a stage, the worst last."""


class Row(NamedTuple):
    """An outcome, as far as it says what became of an item."""

    case_id: str
    item: str
    status: str
    reason: str


@dataclass(frozen=True)
class Counted:
    """What the outcomes of a job say of its cases, each counted by the worst of its items.

    Attributes:
        cases: how many there are of each of `RANKS`.
        reasons: cases and items of each status and reason.
        stopped: the worst status of each case that failed or waits, those included that follow
            from an earlier outcome.
        excluded: items that the cohort left out.
        seconds: that the items took together.
    """

    cases: Counter[str] = field(default_factory=Counter)
    reasons: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)
    excluded: int = 0
    seconds: float = 0.0


def rows_of(path: Path) -> list[Row]:
    """Return the outcomes of a file; none where it is not there, or is none.

    A job that runs again removes it first, and a power cut may have left a damaged one.
    """
    return _read(path)[0]


def counted(path: Path) -> Counted:
    """Return what the outcomes of a file say; nothing where it is not there, or is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Counted()
    key = (found.st_ino, found.st_size, found.st_mtime_ns)
    known = _COUNTED.get(str(path))
    if known is None or known[0] != key:
        known = _COUNTED[str(path)] = key, count(*_read(path))
    return known[1]


_COUNTED: dict[str, tuple[tuple[int, int, int], Counted]] = {}


def count(rows: Iterable[Row], seconds: float = 0.0) -> Counted:
    """Count the outcomes of a job.

    Args:
        rows: the outcomes.
        seconds: that the items took together.
    """
    ranks: dict[str, int] = {}
    items: Counter[tuple[str, str]] = Counter()
    cases: dict[tuple[str, str], set[str]] = defaultdict(set)
    found = Counted(seconds=seconds)
    excluded = 0
    for row in rows:
        follows = row.reason in FOLLOWS
        rank = 1 if follows else RANKS.index(row.status)
        ranks[row.case_id] = max(rank, ranks.get(row.case_id, 0))
        if row.reason and not follows:
            items[row.status, row.reason] += 1
            cases[row.status, row.reason].add(row.case_id)
        if row.status == Status.FAILED:
            found.stopped[row.case_id] = row.status
        elif row.status == Status.WAITING:
            found.stopped.setdefault(row.case_id, row.status)
        excluded += row.status == Status.EXCLUDED
    found.cases.update(RANKS[rank] for rank in ranks.values())
    found.reasons.update({key: (len(cases[key]), number) for key, number in items.items()})
    return replace(found, excluded=excluded)


def _read(path: Path) -> tuple[list[Row], float]:
    """Return the outcomes of a file, and the seconds that they took together."""
    columns = ["case_id", "item", "status", "reason"]
    try:
        read = read_parquet(path, [*columns, "seconds"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return [], 0.0
    values = zip(*(read[name].to_pylist() for name in columns), strict=True)
    return [Row(*each) for each in values], sum(read["seconds"].to_pylist())

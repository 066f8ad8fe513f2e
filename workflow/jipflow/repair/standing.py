"""How the runs of a results folder stand, from their files alone.

Nothing is written and no lock is taken, so that a run that goes on is not disturbed, and what it
writes meanwhile may or may not be seen.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jipflow.files import read_json
from jipflow.lock import Holder, holder
from jipflow.outcomes import STAGES, Status
from jipflow.provenance import NAME as RECORD
from jipflow.reasons import StageError
from jipflow.repair.counted import Counted, counted
from jipflow.repair.estimate import Estimate, Work, estimate
from jipflow.settings.names import among
from jipflow.subset import Jobs, jobs_of

LOG_END = 4096
"""Bytes at the end of a log in which the message of a job that failed stands."""


NO_COHORT = Estimate(None, None, "there is no cohort yet")


@dataclass
class StageStanding:
    """What became of the cases at a stage, each counted by the worst of its items.

    Attributes:
        ok: cases.
        failed: cases.
        waiting: cases that wait for a person.
        excluded: cases.
        blocked: cases that did not come to the stage, since they failed or wait before it.
        jobs: shards that have been through the stage.
        left: cases of the others.
    """

    ok: int = 0
    failed: int = 0
    waiting: int = 0
    excluded: int = 0
    blocked: int = 0
    jobs: int = 0
    left: int = 0


@dataclass(frozen=True)
class ReasonStanding:
    """How many cases and items have a reason at a stage."""

    stage: str
    status: str
    reason: str
    cases: int
    items: int


@dataclass
class ProtocolStanding:
    """How the results of a protocol stand.

    Attributes:
        protocol: its id.
        cases: of the cohort.
        ok: those that are through every stage.
        failed: those of which an item failed at a stage.
        waiting: those that wait for a person, and have not failed.
        open: those of which a stage is still to come.
        excluded: those beside them that the cohort left out.
        shards: that the cohort is processed in.
        shards_done: those that are through every stage.
        stages: by stage.
        reasons: the most frequent first.
        running: stage and shard of each job that goes on.
        stopped: stage and shard of each job that has begun and not ended, and does not go on.
        subset: how many of how many cases the last try was of; None where there was none.
        release: the newest candidate; None where there is none.
        estimate: how much is done, and how long the rest will take.
    """

    protocol: str
    cases: int = 0
    ok: int = 0
    failed: int = 0
    waiting: int = 0
    open: int = 0
    excluded: int = 0
    shards: int = 0
    shards_done: int = 0
    stages: dict[str, StageStanding] = field(default_factory=dict)
    reasons: list[ReasonStanding] = field(default_factory=list)
    running: list[tuple[str, str]] = field(default_factory=list)
    stopped: list[tuple[str, str]] = field(default_factory=list)
    subset: dict[str, int] | None = None
    release: dict[str, Any] | None = None
    estimate: Estimate = NO_COHORT


@dataclass
class Standing:
    """How a results folder stands.

    Attributes:
        results: the folder.
        lock: who has it.
        protocols: whose results are in it.
    """

    results: Path
    lock: Holder
    protocols: list[ProtocolStanding]

    def plain(self) -> dict[str, Any]:
        """Return the same as JSON has it."""
        protocols = {each.protocol: asdict(each) for each in self.protocols}
        for content in protocols.values():
            del content["protocol"]
        lock = {**asdict(self.lock), "says": self.lock.sentence()}
        return {"results": str(self.results), "lock": lock, "protocols": protocols}


def protocols_of(results: Path, wanted: str | None = None) -> list[Path]:
    """Return the results folders of the protocols that a folder holds, sorted.

    Args:
        results: folder for the results of all protocols; it need not be there.
        wanted: id of the only one; None for all.

    Raises:
        StageError: there is none of that id.
    """
    marks = ("settings.json", "cohort", "shards")
    folders = sorted(results.iterdir()) if results.is_dir() else []
    found = [path for path in folders if any((path / mark).exists() for mark in marks)]
    if wanted is None:
        return found
    ids = [path.name for path in found]
    if wanted not in ids:
        raise StageError(f"{results} has no results of protocol {wanted!r}{among(wanted, ids)}")
    return [results / wanted]


def read_standing(results: Path, wanted: str | None = None) -> Standing:
    """Return how a results folder stands.

    Args:
        results: folder for the results of all protocols; it need not be there.
        wanted: id of the only protocol; None for all.

    Raises:
        StageError: there is no such protocol.
        OSError: a file cannot be read.
    """
    lock = holder(results)
    found = [_protocol(path, lock) for path in protocols_of(results, wanted)]
    return Standing(results, lock, found)


def shard_jobs(protocol: Path) -> Jobs:
    """Return the shards that the cohort of a protocol is processed in; none where there is none."""
    try:
        return jobs_of(protocol)
    except (FileNotFoundError, NotADirectoryError, KeyError):
        return Jobs({}, frozenset())


def _protocol(folder: Path, lock: Holder) -> ProtocolStanding:
    found = ProtocolStanding(folder.name)
    jobs = shard_jobs(folder).cases
    stages = _stages(folder)
    tables = {("cohort", ""): counted(folder / "cohort" / "outcomes.parquet")}
    ended: dict[str, dict[str, float]] = {}
    for job in jobs:
        ended[job] = _ended(folder / "shards" / job)
        for stage in ended[job]:
            tables[stage, job] = counted(folder / "shards" / job / stage / "outcomes.parquet")
    complete = {job for job in jobs if stages and stages <= ended[job].keys()}
    found.stages = _by_stage(tables, stages, jobs)
    found.reasons = _by_reason(tables)
    worst = _worst_of_cases(tables)
    for job, cases in jobs.items():
        for case in cases:
            status = worst.get(case, Status.OK.value)
            if status in (Status.FAILED.value, Status.WAITING.value):
                setattr(found, status, getattr(found, status) + 1)
            elif job in complete:
                found.ok += 1
            else:
                found.open += 1
    found.cases = sum(map(len, jobs.values()))
    found.excluded = tables["cohort", ""].excluded
    found.shards, found.shards_done = len(jobs), len(complete)
    found.running, found.stopped = _begun(folder, ended, lock)
    found.subset = mapping_of(folder / "subset" / "verdict.json").get("subset")
    found.release = _release(folder)
    if jobs:
        began = _began(folder, lock)
        found.estimate = estimate(
            {stage: _work(stage, tables, jobs) for stage in STAGES if stage in stages},
            sum(
                tables[stage, job].seconds
                for job, times in ended.items()
                for stage, end in times.items()
                if began is not None and end >= began
            ),
            None if began is None else time.time() - began,
        )
    return found


def _ended(folder: Path) -> dict[str, float]:
    """Return the stages that a shard has been through, and when each ended, in seconds of Unix."""
    found = {}
    for stage in _entries(folder):
        try:
            record = os.stat(f"{folder}/{stage}/{RECORD}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        found[stage] = record.st_mtime
    return found


def _began(folder: Path, lock: Holder) -> float | None:
    """Return when the run that goes on began with the first stage; None where none goes on."""
    if lock.state not in {"run", "elsewhere"}:
        return None
    try:
        started = datetime.fromisoformat(lock.started).timestamp()
        chosen = os.stat(folder / "cohort" / RECORD).st_mtime
    except (ValueError, FileNotFoundError, NotADirectoryError):
        return None
    return max(started, chosen)


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def mapping_of(path: Path) -> dict[str, Any]:
    """Return a mapping that a file holds; an empty one where there is none."""
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _stages(folder: Path) -> set[str]:
    """Return the stages that a shard goes through, by the settings of the last run."""
    settings = mapping_of(folder / "settings.json")
    if not settings:
        return set()
    site = settings["site"]
    stages = {"prepare", "segment", "encode", "measure", "document", "overlay"}
    if any(source["kind"] != "folder" for source in site["sources"]):
        stages.add("retrieve")
    if site.get("publish"):
        stages.add("publish")
    if any(spec["engine"] == "annotated" for spec in settings["protocol"]["segmentations"]):
        stages.add("annotate")
    return stages


def _by_stage(
    tables: Mapping[tuple[str, str], Counted],
    stages: Collection[str],
    jobs: Mapping[str, Collection[str]],
) -> dict[str, StageStanding]:
    """Count the cases of each stage, of those to come as well."""
    found = {stage: StageStanding() for stage in STAGES if stage in {"cohort", *stages}}
    for (stage, _), table in tables.items():
        standing = found.setdefault(stage, StageStanding())
        standing.jobs += 1
        for rank, number in table.cases.items():
            setattr(standing, rank, getattr(standing, rank) + number)
    for stage in found.keys() - {"cohort"}:
        found[stage].left = _work(stage, tables, jobs).left
    return found


def _work(
    stage: str, tables: Mapping[tuple[str, str], Counted], jobs: Mapping[str, Collection[str]]
) -> Work:
    seconds, cases, left = 0.0, 0, 0
    for job, members in jobs.items():
        table = tables.get((stage, job))
        if table is None:
            left += len(members)
        else:
            seconds, cases = seconds + table.seconds, cases + len(members)
    return Work(seconds, cases, left)


def _by_reason(tables: Mapping[tuple[str, str], Counted]) -> list[ReasonStanding]:
    cases: Counter[tuple[str, str, str]] = Counter()
    items: Counter[tuple[str, str, str]] = Counter()
    for (stage, _), table in tables.items():
        for (status, reason), (of_cases, of_items) in table.reasons.items():
            cases[stage, status, reason] += of_cases
            items[stage, status, reason] += of_items
    found = [ReasonStanding(*key, number, items[key]) for key, number in cases.items()]
    return sorted(found, key=lambda each: (-each.cases, each.stage, each.reason))


def _worst_of_cases(tables: Mapping[tuple[str, str], Counted]) -> dict[str, str]:
    """Return the worst status of each case that is not ok."""
    worst: dict[str, str] = {}
    for table in tables.values():
        for case, status in table.stopped.items():
            if status == Status.FAILED:
                worst[case] = status
            else:
                worst.setdefault(case, status)
    return worst


def _begun(
    folder: Path, ended: Mapping[str, Collection[str]], lock: Holder
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return stage and shard of the jobs that go on, and of those that stopped, by their logs.

    A job begins its log anew, and writes its record last; one that failed has its message at the
    end of the log.
    """
    running: list[tuple[str, str]] = []
    stopped: list[tuple[str, str]] = []
    for stage in STAGES[1:]:
        names = {name.removesuffix(".log") for name in _entries(folder / "logs" / stage)}
        for job in sorted(names & ended.keys()):
            if stage in ended[job]:
                continue
            log = folder / "logs" / stage / f"{job}.log"
            goes_on = lock.state in {"run", "jobs", "elsewhere"} and _is_of(log, lock)
            (running if goes_on else stopped).append((stage, job))
    return running, stopped


def _is_of(log: Path, lock: Holder) -> bool:
    """Return whether a log is of the run that has the results, and of a job that has not failed."""
    try:
        changed = log.stat().st_mtime
        with open(log, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - LOG_END))
            end = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        started = datetime.fromisoformat(lock.started).timestamp()
    except ValueError:
        started = 0.0
    return changed >= started and not re.search(rb"(?:^|\n)jipflow: [^\n]*\n?\Z", end)


def _release(folder: Path) -> dict[str, Any] | None:
    """Return the newest candidate, and how far it has come."""
    rounds = [name for name in _entries(folder / "release") if re.fullmatch(r"r\d{2,}", name)]
    made = [name for name in rounds if (folder / "release" / name / "aggregates.json").is_file()]
    if not made:
        return None
    name = max(made, key=lambda each: int(each[1:]))
    path = folder / "release" / name
    bundles = [each for each in _entries(folder / "bundles") if f"-{name}-a" in each]
    state = (
        "packed" if bundles else "approved" if (path / "approval.json").is_file() else "candidate"
    )
    changed = datetime.fromtimestamp((path / "aggregates.json").stat().st_mtime).astimezone()
    return {
        "round": int(name[1:]),
        "state": state,
        "made": changed.isoformat(sep=" ", timespec="seconds"),
        "bundles": sorted(bundles),
    }

"""How the runs of a results folder stand, from their files alone.

Nothing is written and no lock is taken, so that a run that goes on is not disturbed, and what it
writes meanwhile may or may not be seen.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from jipflow.files import read_json
from jipflow.lock import Holder, holder
from jipflow.outcomes import STAGES, Status
from jipflow.reasons import Reason, StageError
from jipflow.settings.names import among
from jipflow.subset import Jobs, jobs_of
from jipflow.words import number_of

FOLLOWS = frozenset({Reason.DEPENDS_ON_FAILED.value, Reason.DEPENDS_ON_WAITING.value})
"""Reasons that merely repeat an earlier outcome of the case."""

LOG_END = 4096
"""Bytes at the end of a log in which the message of a job that failed stands."""


class Row(NamedTuple):
    """An outcome, as far as it says what became of an item."""

    case_id: str
    item: str
    status: str
    reason: str


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
    """

    ok: int = 0
    failed: int = 0
    waiting: int = 0
    excluded: int = 0
    blocked: int = 0
    jobs: int = 0


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


def rows_of(path: Path) -> list[Row]:
    """Return the outcomes of a file; none where it is not there, or is none.

    A job that runs again removes it first, and a power cut may have left a damaged one.
    """
    import pyarrow.parquet as pq

    columns = ["case_id", "item", "status", "reason"]
    try:
        with pq.ParquetFile(path) as table:
            read = table.read(columns, use_threads=False)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return []
    return [
        Row(*values) for values in zip(*(read[name].to_pylist() for name in columns), strict=True)
    ]


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
    rows = {("cohort", ""): rows_of(folder / "cohort" / "outcomes.parquet")}
    ended: dict[str, set[str]] = {}
    for job in jobs:
        there = _entries(folder / "shards" / job)
        ended[job] = {
            stage
            for stage in there
            if (folder / "shards" / job / stage / "provenance.json").is_file()
        }
        for stage in ended[job]:
            rows[stage, job] = rows_of(folder / "shards" / job / stage / "outcomes.parquet")
    complete = {job for job in jobs if stages and stages <= ended[job]}
    found.stages = _by_stage(rows)
    found.reasons = _by_reason(rows)
    worst = _worst_of_cases(rows)
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
    found.excluded = sum(row.status == Status.EXCLUDED for row in rows["cohort", ""])
    found.shards, found.shards_done = len(jobs), len(complete)
    found.running, found.stopped = _begun(folder, ended, lock)
    found.subset = _of_json(folder / "subset" / "verdict.json").get("subset")
    found.release = _release(folder)
    return found


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _of_json(path: Path) -> dict[str, Any]:
    """Return a mapping that a file holds; an empty one where there is none."""
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _stages(folder: Path) -> set[str]:
    """Return the stages that a shard goes through, by the settings of the last run."""
    settings = _of_json(folder / "settings.json")
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


def _by_stage(rows: Mapping[tuple[str, str], list[Row]]) -> dict[str, StageStanding]:
    """Count the cases of each stage."""
    found: dict[str, StageStanding] = {}
    cases: dict[str, dict[str, int]] = defaultdict(dict)
    order = [Status.OK, "blocked", Status.EXCLUDED, Status.WAITING, Status.FAILED]
    for (stage, _), listed in rows.items():
        found.setdefault(stage, StageStanding()).jobs += 1
        for row in listed:
            rank = 1 if row.reason in FOLLOWS else order.index(row.status)
            cases[stage][row.case_id] = max(rank, cases[stage].get(row.case_id, 0))
    for stage, ranks in cases.items():
        for rank, number in Counter(ranks.values()).items():
            setattr(found[stage], str(order[rank]), number)
    place = {stage: number for number, stage in enumerate(STAGES)}
    return dict(sorted(found.items(), key=lambda each: place.get(each[0], len(place))))


def _by_reason(rows: Mapping[tuple[str, str], list[Row]]) -> list[ReasonStanding]:
    items: Counter[tuple[str, str, str]] = Counter()
    cases: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for (stage, _), listed in rows.items():
        for row in listed:
            if row.reason and row.reason not in FOLLOWS:
                key = stage, row.status, row.reason
                items[key] += 1
                cases[key].add(row.case_id)
    found = [ReasonStanding(*key, len(cases[key]), number) for key, number in items.items()]
    return sorted(found, key=lambda each: (-each.cases, each.stage, each.reason))


def _worst_of_cases(rows: Mapping[tuple[str, str], list[Row]]) -> dict[str, str]:
    """Return the worst status of each case that is not ok."""
    worst: dict[str, str] = {}
    for listed in rows.values():
        for row in listed:
            if row.status == Status.FAILED:
                worst[row.case_id] = row.status
            elif row.status == Status.WAITING:
                worst.setdefault(row.case_id, row.status)
    return worst


def _begun(
    folder: Path, ended: Mapping[str, set[str]], lock: Holder
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


def sentences(standing: Standing) -> Iterator[str]:
    """Yield the lines that say to a person how a results folder stands."""
    yield f"results: {standing.results}"
    yield f"lock: {standing.lock.sentence()}"
    if not standing.protocols:
        yield "no run yet: nothing of a protocol is here"
    for each in standing.protocols:
        yield ""
        yield from _of_protocol(each)


def _of_protocol(each: ProtocolStanding) -> Iterator[str]:
    if not each.cases and not each.stages["cohort"].excluded:
        yield f"{each.protocol}: no cohort yet"
    else:
        yield (
            f"{each.protocol}: {number_of(each.cases, 'case')}: {each.ok} ok, "
            f"{each.failed} failed, {each.waiting} waiting for a person, {each.open} to do; "
            f"{each.excluded} more excluded"
        )
        yield f"  shards: {each.shards_done} of {each.shards} done"
    for word, jobs in (("running", each.running), ("stopped", each.stopped)):
        if jobs:
            yield f"  {word}: {', '.join(f'{stage} of {job}' for stage, job in jobs)}"
    names = ("ok", "failed", "waiting", "excluded", "blocked", "jobs")
    if any(stage.jobs for name, stage in each.stages.items() if name != "cohort"):
        yield f"  {'stage':10}{''.join(f'{name:>10}' for name in names)}"
        for name, stage in each.stages.items():
            counts = asdict(stage)
            yield f"  {name:10}{''.join(f'{counts[key]:>10}' for key in names)}"
    for reason in each.reasons:
        items = f" ({number_of(reason.items, 'item')})" if reason.items > reason.cases else ""
        yield (
            f"  {reason.status} at {reason.stage}: {reason.reason}, "
            f"{number_of(reason.cases, 'case')}{items}"
        )
    if each.subset:
        yield f"  last try: subset, {each.subset['cases']} of {each.subset['of']} cases"
    if each.release:
        packed = f" as {', '.join(each.release['bundles'])}" if each.release["bundles"] else ""
        yield (
            f"  last release: round {each.release['round']}, {each.release['state']}{packed}, made "
            f"{each.release['made']}"
        )
    else:
        yield "  last release: none"

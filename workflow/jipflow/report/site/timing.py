"""Time and memory of jobs and items; a part of the section of the provenance."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jipflow import plots
from jipflow.outcomes import Outcome
from jipflow.report.site.run import STAGES, Run, read_tsv

RULES = (
    "catalog",
    "query",
    "cohort",
    "clinical",
    *(stage for stage in STAGES if stage != "cohort"),
    "collect",
)
"""The rules that end before the report begins, so that a report made again is the same."""


@dataclass(frozen=True)
class JobCost:
    """Jobs of a rule: total and longest time in s, peak memory in MB; None if never measured."""

    rule: str
    jobs: int
    total: float
    longest: float
    peak_mb: float | None


@dataclass(frozen=True)
class ItemCost:
    """Items of a stage: total, median and longest time in s, peak memory in MB."""

    stage: str
    items: int
    total: float
    median: float
    longest: float
    peak_mb: float


@dataclass(frozen=True)
class Timing:
    """What the section shows."""

    jobs: list[JobCost]
    items: list[ItemCost]


def section(run: Run) -> Timing:
    """Sum up the benchmarks of the jobs and the outcomes of the items."""
    return Timing(list(job_costs(run.results)), list(item_costs(run.outcomes)))


def job_costs(results: Path) -> Iterator[JobCost]:
    """Sum up Snakemake's benchmark files by rule."""
    folder = results / "benchmarks"
    for rule in RULES:
        files = [folder / f"{rule}.tsv", *sorted((folder / rule).glob("*.tsv"))]
        if rule == "catalog":
            files = [results.parent / "catalog" / "catalog.tsv", *files]
        rows = [row for file in files if file.is_file() for row in read_tsv(file)]
        memory = [value for row in rows if (value := _measured(row.get("max_rss"))) is not None]
        seconds = [float(row["s"]) for row in rows]
        if rows:
            yield JobCost(
                rule, len(rows), math.fsum(seconds), max(seconds), max(memory, default=None)
            )


def _measured(text: str | None) -> float | None:
    """Return a number of a benchmark file, None where the job was too short to be measured."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def item_costs(outcomes: Iterable[Outcome]) -> Iterator[ItemCost]:
    """Sum up the outcomes by stage, without those that merely followed from an earlier one."""
    by_stage: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if not outcome.follows and outcome.stage != "cohort":
            by_stage[outcome.stage].append(outcome)
    for stage in (stage for stage in STAGES if stage in by_stage):
        seconds = sorted(o.seconds for o in by_stage[stage])
        yield ItemCost(
            STAGES[stage],
            items=len(seconds),
            total=math.fsum(seconds),
            median=plots.quantile(seconds, 0.5),
            longest=seconds[-1],
            peak_mb=max(o.max_rss_mb for o in by_stage[stage]),
        )

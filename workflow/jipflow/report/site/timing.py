"""Time and memory of jobs and items; a part of the section of the provenance."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jipflow import plots
from jipflow.costs import ENDING
from jipflow.files import read_tsv
from jipflow.outcomes import Outcome
from jipflow.report.site.run import STAGES, Run

RULES = (
    "catalog",
    "query",
    "cohort",
    "clinical",
    *(stage for stage in STAGES if stage != "cohort"),
    "collect",
)
"""The rules that end before the report begins, so that a report made again is the same."""

PLACES = {
    "catalog": "../catalog",
    "query": "pacs",
    "cohort": "cohort",
    "clinical": "clinical",
    "collect": "features",
}
"""Where a rule that has one job leaves its record, below the results of the protocol."""


@dataclass(frozen=True)
class JobCost:
    """Jobs of a rule: total and longest time in s, peak memory in MiB."""

    rule: str
    jobs: int
    total: float
    longest: float
    peak_mb: float


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
    """Sum up the costs of the jobs and the outcomes of the items."""
    return Timing(list(job_costs(run.results)), list(item_costs(run.outcomes)))


def job_costs(results: Path) -> Iterator[JobCost]:
    """Sum up what the jobs of each rule took."""
    for rule in RULES:
        folders = [PLACES[rule]] if rule in PLACES else sorted(results.glob(f"shards/*/{rule}"))
        files = [results / folder / ENDING for folder in folders]
        rows = [row for file in files if file.is_file() for row in read_tsv(file)]
        if rows:
            seconds = [float(row["seconds"]) for row in rows]
            memory = max(float(row["peak_mb"]) for row in rows)
            yield JobCost(rule, len(rows), math.fsum(seconds), max(seconds), memory)


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

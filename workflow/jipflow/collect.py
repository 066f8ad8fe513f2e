"""Stage `collect`: the shards' tables into one, and whether the run is acceptable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from jipflow.cases import Outcome, StageError, Status, read_outcomes, write_outcomes
from jipflow.files import read_json, write_json, write_parquet
from jipflow.tables import FAILURE_COLUMNS, FEATURE_COLUMNS, FEATURE_KEYS


def run(
    outcome_files: Sequence[Path],
    feature_files: Sequence[Path],
    failure_files: Sequence[Path],
    max_failed_fraction: float,
    results: Path,
) -> dict[str, Any]:
    """Join the tables of all shards and judge the run.

    Writes ``outcomes.parquet``, ``features/features.parquet``, ``features/failures.parquet`` and
    ``verdict.json`` into `results`.

    Args:
        outcome_files: outcomes of the cohort and of every shard and stage.
        feature_files: features of every shard.
        failure_files: failures of every shard.
        max_failed_fraction: the protocol's tolerance.
        results: the protocol's results folder.

    Returns:
        The verdict.
    """
    outcomes = [o for path in outcome_files for o in read_outcomes(path)]
    write_outcomes(results / "outcomes.parquet", outcomes)
    write_parquet(
        results / "features" / "features.parquet",
        _join(feature_files, FEATURE_COLUMNS, list(FEATURE_KEYS)),
    )
    write_parquet(
        results / "features" / "failures.parquet",
        _join(failure_files, FAILURE_COLUMNS, list(FAILURE_COLUMNS)),
    )
    result = verdict(outcomes, max_failed_fraction)
    write_json(results / "verdict.json", result)
    return result


def _join(paths: Sequence[Path], columns: Sequence[str], order: list[str]) -> pd.DataFrame:
    tables = [table for table in map(pd.read_parquet, paths) if len(table)]
    if not tables:
        return pd.DataFrame(columns=list(columns)).astype("str")
    joined = pd.concat(tables, ignore_index=True)
    extra = sorted(set(joined.columns) - set(columns))
    return joined[[*columns, *extra]].sort_values(order).reset_index(drop=True)


def verdict(outcomes: Iterable[Outcome], max_failed_fraction: float) -> dict[str, Any]:
    """Count the cases and compare the share of failed ones with the tolerance.

    A case is excluded when it left at the cohort, failed when any item of it failed at any stage,
    and ok otherwise. The share is of the cases that were not excluded.
    """
    excluded: set[str] = set()
    failed: set[str] = set()
    cases: set[str] = set()
    for outcome in outcomes:
        cases.add(outcome.case_id)
        if outcome.status is Status.EXCLUDED:
            excluded.add(outcome.case_id)
        elif outcome.status is Status.FAILED:
            failed.add(outcome.case_id)
    entered = len(cases) - len(excluded)
    fraction = len(failed) / entered if entered else 0.0
    return {
        "cases": entered,
        "ok": entered - len(failed),
        "failed": len(failed),
        "excluded": len(excluded),
        "failed_fraction": fraction,
        "max_failed_fraction": max_failed_fraction,
        "acceptable": entered > 0 and fraction <= max_failed_fraction,
    }


def accept(path: Path) -> None:
    """Let a run pass whose verdict is acceptable.

    Raises:
        StageError: it is not.
    """
    result = read_json(path)
    if result["acceptable"]:
        return
    if not result["cases"]:
        raise StageError(
            f"{path}: the cohort has no case; the flow in the report shows which filter step "
            "removed them."
        )
    raise StageError(
        f"{path}: {result['failed']} of {result['cases']} cases failed "
        f"({result['failed_fraction']:.0%}), more than the protocol's tolerance of "
        f"{result['max_failed_fraction']:.0%}. The report names each with its reason; mend the "
        "cases or raise tolerance.max_failed_fraction in a new version of the protocol."
    )

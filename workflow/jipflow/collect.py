"""Stage `collect`: the shards' tables into one, and whether the run is acceptable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from jipflow.agreement import intraclass_correlation
from jipflow.cases import Outcome, StageError, Status, read_outcomes, write_outcomes
from jipflow.files import read_json, write_json, write_parquet
from jipflow.tables import (
    FAILURE_COLUMNS,
    FEATURE_COLUMNS,
    FEATURE_KEYS,
    PERTURBED_KEYS,
    QUALITY_COLUMNS,
    STABILITY_COLUMNS,
)


@dataclass(frozen=True)
class Shards:
    """The files of all shards.

    Attributes:
        outcomes: of the cohort and of every shard and stage.
        features: of every shard.
        failures: why features are null.
        perturbed: features of changed outlines.
        quality: what the segments are like.
    """

    outcomes: Sequence[Path]
    features: Sequence[Path] = ()
    failures: Sequence[Path] = ()
    perturbed: Sequence[Path] = ()
    quality: Sequence[Path] = ()


def run(shards: Shards, max_failed_fraction: float, results: Path) -> dict[str, Any]:
    """Join the tables of all shards and judge the run.

    Writes ``outcomes.parquet``, ``verdict.json``, and ``features.parquet``, ``failures.parquet``,
    ``stability.parquet`` and ``quality.parquet`` in ``features``, into `results`.

    Args:
        shards: what is joined.
        max_failed_fraction: the protocol's tolerance.
        results: the protocol's results folder.

    Returns:
        The verdict.
    """
    outcomes = [o for path in shards.outcomes for o in read_outcomes(path)]
    write_outcomes(results / "outcomes.parquet", outcomes)
    folder = results / "features"
    features = _join(shards.features, FEATURE_COLUMNS, list(FEATURE_KEYS))
    failures = _join(shards.failures, FAILURE_COLUMNS, list(FAILURE_COLUMNS))
    perturbed = _join(shards.perturbed, PERTURBED_KEYS, list(PERTURBED_KEYS))
    write_parquet(folder / "features.parquet", features)
    write_parquet(folder / "failures.parquet", failures)
    write_parquet(folder / "stability.parquet", stability(features, perturbed))
    quality = _join(shards.quality, QUALITY_COLUMNS, list(QUALITY_COLUMNS[:3]))
    write_parquet(folder / "quality.parquet", quality)
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


def stability(features: pd.DataFrame, perturbed: pd.DataFrame) -> pd.DataFrame:
    """Return how far the features of changed outlines agree with each other, case by case.

    Args:
        features: the measured regions.
        perturbed: the same regions with changed outlines.

    Returns:
        One row per role, segmentation, segment and feature, with its intraclass correlation over
        the cases that have the feature for every outline; null where it is not defined.
    """
    key = ["role", "segmentation", "segment"]
    rows = []
    for names, changed in perturbed.groupby(key):
        columns = [c for c in changed.columns if c not in PERTURBED_KEYS]
        columns = [c for c in columns if changed[c].notna().any()]
        measured = features.merge(pd.DataFrame([names], columns=key), on=key)
        known = measured.reindex(columns=["case_id", *columns]).assign(perturbation="")
        both = pd.concat([known, changed[["case_id", "perturbation", *columns]]])
        for column in columns:
            table = both.pivot(index="case_id", columns="perturbation", values=column)
            values = table.dropna().to_numpy(dtype=float)
            found = intraclass_correlation(values)
            rows.append(
                {
                    **dict(zip(key, names, strict=True)),
                    "feature": column,
                    "cases": len(values),
                    "measurements": table.shape[1],
                    "icc": found.icc if found else None,
                    "lower": found.lower if found else None,
                    "upper": found.upper if found else None,
                }
            )
    columns = [*STABILITY_COLUMNS, "cases", "measurements", "icc", "lower", "upper"]
    types = dict.fromkeys(STABILITY_COLUMNS, "str") | dict.fromkeys(columns[4:6], "int64")
    types |= dict.fromkeys(columns[6:], "float64")
    return pd.DataFrame(rows, columns=columns).astype(types)


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

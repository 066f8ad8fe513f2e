"""Stage `collect`: the shards' tables into one, and whether the run is acceptable."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from jipflow.agreement import intraclass_correlation
from jipflow.catalog.nothing import why_no_case
from jipflow.files import atomic_path, read_frame, read_json, write_json, write_parquet
from jipflow.outcomes import Outcome, Status, read_outcomes, write_outcomes
from jipflow.outputs import remove_leftovers
from jipflow.reasons import Reason, StageError
from jipflow.settings.protocol import Tolerance
from jipflow.subset import Subset, read_members
from jipflow.tables import (
    AGREEMENT_COLUMNS,
    AGREEMENT_KEYS,
    FAILURE_COLUMNS,
    FEATURE_COLUMNS,
    FEATURE_KEYS,
    PERTURBED_KEYS,
    QUALITY_COLUMNS,
    READING_COLUMNS,
    READING_KEYS,
    STABILITY_COLUMNS,
)


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The files of all shards.

    Attributes:
        outcomes: of the cohort and of every shard and stage.
        features: of every shard.
        failures: why features are null.
        perturbed: features of changed outlines.
        readings: files that came back from readers, where the protocol asks for them.
        agreement: of these.
        quality: what the segments are like.
    """

    outcomes: Sequence[Path]
    features: Sequence[Path] = ()
    failures: Sequence[Path] = ()
    perturbed: Sequence[Path] = ()
    readings: Sequence[Path] = ()
    agreement: Sequence[Path] = ()
    quality: Sequence[Path] = ()

    @classmethod
    def of(cls, results: Path, stages: Collection[str], names: Iterable[str]) -> Shards:
        """Return what the stages of shards have written.

        Args:
            results: the protocol's results folder.
            stages: that shards go through.
            names: of the shards.
        """
        shards = [results / "shards" / name for name in sorted(names)]

        def tables(table: str, *wanted: str) -> list[Path]:
            made = [stage for stage in wanted if stage in stages]
            return [shard / stage / f"{table}.parquet" for shard in shards for stage in made]

        cohort = results / "cohort" / "outcomes.parquet"
        return cls(
            outcomes=[cohort, *tables("outcomes", *stages)],
            quality=tables("quality", "segment", "annotate"),
            features=tables("features", "measure"),
            failures=tables("failures", "measure"),
            perturbed=tables("perturbed", "measure"),
            readings=tables("readings", "annotate"),
            agreement=tables("agreement", "annotate"),
        )

    @property
    def tables(self) -> list[Path]:
        """All of them."""
        return [file for each in fields(self) for file in getattr(self, each.name)]


def written(shards: Shards, out: Path) -> list[Path]:
    """Return the tables that `run` writes of these, without the worklist for persons."""
    persons = ("readings", "agreement") if shards.readings else ()
    names = ("features", "failures", "stability", "quality", *persons)
    tables = [out / "features" / f"{name}.parquet" for name in names]
    return [out / "outcomes.parquet", *tables, out / "verdict.json"]


def run(
    *,
    shards: Shards,
    tolerance: Tolerance,
    results: Path,
    out: Path | None = None,
    subset: Subset | None = None,
) -> dict[str, Any]:
    """Join the tables of all shards and check the run against the tolerance.

    Writes ``outcomes.parquet``, ``verdict.json``, and ``features.parquet``, ``failures.parquet``,
    ``stability.parquet`` and ``quality.parquet`` in ``features``, into `out`; where persons
    read cases, also ``readings.parquet`` and ``agreement.parquet`` in ``features``, and
    ``worklist/worklist.tsv``. Removes DICOM objects and overlays that no outcome lists any more,
    but where the tables are of a subset.

    Args:
        shards: what is joined.
        tolerance: the protocol's.
        results: the protocol's results folder.
        out: where the tables are written; by default `results`.
        subset: the cases that the tables are of; None for all.

    Returns:
        The verdict; of a subset with how many of the cohort's cases it is of.
    """
    out = out or results
    members = read_members(results / "cohort" / "cases.tsv") if subset else {}
    cases = subset.chosen(members) if subset else None
    outcomes = [o for path in shards.outcomes for o in read_outcomes(path)]
    outcomes = [o for o in outcomes if cases is None or o.case_id in cases]
    write_outcomes(out / "outcomes.parquet", outcomes)
    folder = out / "features"
    features = _join(shards.features, FEATURE_COLUMNS, FEATURE_KEYS, cases)
    failures = _join(shards.failures, FAILURE_COLUMNS, FAILURE_COLUMNS, cases)
    perturbed = _join(shards.perturbed, PERTURBED_KEYS, PERTURBED_KEYS, cases)
    write_parquet(folder / "features.parquet", features)
    write_parquet(folder / "failures.parquet", failures)
    write_parquet(folder / "stability.parquet", stability(features, perturbed))
    quality = _join(shards.quality, QUALITY_COLUMNS, QUALITY_COLUMNS[:3], cases)
    write_parquet(folder / "quality.parquet", quality)
    if shards.readings:
        readings = _join(shards.readings, READING_COLUMNS, READING_KEYS, cases)
        agreement = _join(shards.agreement, AGREEMENT_COLUMNS, AGREEMENT_KEYS, cases)
        write_parquet(folder / "readings.parquet", readings)
        write_parquet(folder / "agreement.parquet", agreement)
        _write_worklist(out / "worklist" / "worklist.tsv", outcomes)
    result = verdict(outcomes, tolerance)
    if cases is None:
        remove_leftovers(results, outcomes)
    else:
        result["subset"] = {"cases": len(cases), "of": len(members)}
    write_json(out / "verdict.json", result)
    return result


def _join(
    paths: Sequence[Path],
    columns: Sequence[str],
    order: Sequence[str],
    cases: Collection[str] | None,
) -> pd.DataFrame:
    """Join tables and sort their rows; of some cases alone where these are given."""
    tables = [table for table in map(read_frame, paths) if len(table)]
    if cases is not None:
        tables = [of for table in tables if len(of := table[table["case_id"].isin(cases)])]
    if not tables:
        return pd.DataFrame(columns=list(columns)).astype("str")
    joined = pd.concat(tables, ignore_index=True)
    extra = sorted(set(joined.columns) - set(columns))
    return joined[[*columns, *extra]].sort_values(list(order)).reset_index(drop=True)


def _write_worklist(path: Path, outcomes: Iterable[Outcome]) -> None:
    """List the cases that wait for a person, and what each waits for."""
    waiting = sorted(
        (o.case_id, o.item, f"worklist/{o.item}/{o.case_id}", o.message)
        for o in outcomes
        if o.status is Status.WAITING and not o.follows
    )
    table = pd.DataFrame(waiting, columns=["case_id", "segmentation", "folder", "message"])
    with atomic_path(path) as partial:
        table.to_csv(partial, sep="\t", index=False)


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


def verdict(outcomes: Iterable[Outcome], tolerance: Tolerance) -> dict[str, Any]:
    """Count the cases and compare the shares of those that failed or wait with the tolerance.

    A case is excluded when it left at the cohort, failed when any item of it failed at any stage,
    waiting when any waits for a person and none failed, and ok otherwise. The shares are of the
    cases that were not excluded. An error that a stage does not know is no property of a case,
    and no run is acceptable with one.

    Args:
        outcomes: of the cohort and of every shard and stage.
        tolerance: the protocol's.
    """
    found: dict[Status, set[str]] = {status: set() for status in Status}
    unexpected = set()
    for outcome in outcomes:
        found[outcome.status].add(outcome.case_id)
        if outcome.reason == Reason.UNEXPECTED_ERROR:
            unexpected.add(outcome.case_id)
    excluded, failed = found[Status.EXCLUDED], found[Status.FAILED]
    waiting = found[Status.WAITING] - failed
    entered = len(set().union(*found.values())) - len(excluded)
    limits = tolerance.plain()
    shares = {
        f"{word}_fraction": len(cases) / entered if entered else 0.0
        for word, cases in (("failed", failed), ("waiting", waiting))
    }
    return {
        "cases": entered,
        "ok": entered - len(failed) - len(waiting),
        "failed": len(failed),
        "waiting": len(waiting),
        "excluded": len(excluded),
        "unexpected": len(unexpected),
        **shares,
        **limits,
        "acceptable": entered > 0
        and not unexpected
        and all(share <= limits[f"max_{word}"] for word, share in shares.items()),
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
        results = path.parent
        raise StageError(
            f"The cohort has no case: {why_no_case(results)} "
            f"The report shows each step: {results.absolute() / 'report' / 'index.html'}"
        )
    sentences = []
    if result["unexpected"]:
        sentences.append(
            f"{result['unexpected']} of {result['cases']} cases met an error that jipflow does not "
            "know (unexpected_error), and no run is accepted with one. The same command tries "
            "these again; if they stay, report the mistake, without patient data, and leave the "
            "cases out by the protocol's cohort until it is fixed."
        )
    if result["failed_fraction"] > result["max_failed_fraction"]:
        sentences.append(
            f"{result['failed']} of {result['cases']} cases failed "
            f"({result['failed_fraction']:.0%}), more than the protocol's tolerance of "
            f"{result['max_failed_fraction']:.0%}. The report names each with its reason; fix the "
            "cases or raise tolerance.max_failed_fraction in a new version of the protocol."
        )
    if result["waiting_fraction"] > result["max_waiting_fraction"]:
        sentences.append(
            f"{result['waiting']} of {result['cases']} cases wait for a person "
            f"({result['waiting_fraction']:.0%}), more than the protocol's tolerance of "
            f"{result['max_waiting_fraction']:.0%}. {path.parent / 'worklist' / 'worklist.tsv'} "
            "lists them, and the folder of each says what to do; run again when the results are "
            "in the inbox."
        )
    raise StageError(f"{path}: {' '.join(sentences)}")

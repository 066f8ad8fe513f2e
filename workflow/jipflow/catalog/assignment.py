"""Which shard a case is in: for ever, so that a growing cohort computes nothing again."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pandas as pd

from jipflow.files import atomic_path, read_parquet
from jipflow.reasons import StageError
from jipflow.subset import SHARD_NAME

MOST = 99_999
"""The last number that a shard can have: names sort as numbers do."""

USUAL = 50
"""Cases of a shard where a cohort is small."""

MOST_USUAL = 84
"""Cases of a shard whose stages, without readers, ask a cluster for less than a day: 23.5 hours."""


def usual_size(cases: int) -> int:
    """Return how many cases a shard takes where the site has set no number.

    Up to 35,000 cases it is 50. Planning goes by the number of shards; what is lost with a job, and
    the time that it asks for, by their size. Above, both grow as the square root of the cohort,
    until a job would ask for a day, or there are no names for more shards.
    """
    return max(USUAL, min(MOST_USUAL, math.isqrt(cases // 14)), -(-cases // MOST))


def assigned(path: Path, case_ids: list[str], size: int) -> dict[str, str]:
    """Return each case's shard; cases not seen before open new shards.

    What a table has lost that was cut off is read from the cohort's other files and from what its
    shards have come to, so that its cases keep their shards; a number that a shard has had is never
    given again.

    Args:
        path: ``assignment.tsv``, the append-only table of case_id and shard, in the cohort's
            folder.
        case_ids: the cases of this run, sorted.
        size: most cases a new shard takes.

    Raises:
        StageError: the new cases need more shards than there are numbers left.
    """
    known, whole = _read(path)
    last = max(known.values(), default="s00000")
    files = {file.stem: file for file in sorted((path.parent / "shards").glob("s*.parquet"))}
    made = path.parent.with_name("shards")
    begun = [folder.name for folder in made.glob("s*") if SHARD_NAME.fullmatch(folder.name)]
    opened = max(int(shard[1:]) for shard in (last, *files, *begun))
    # A table that was cut off at the end of a line looks whole; its last rows are missing.
    whole = whole and max(files, default="") <= last
    whole = whole and known.keys() >= set(_cases_in(files[last]) if last in files else ())
    if not whole:
        known = _read(path.with_name("cases.tsv"))[0] | known
        for shard, file in files.items():
            known = dict.fromkeys(_cases_in(file), shard) | known
        for shard in begun:
            for file in sorted(made.glob(f"{shard}/*/outcomes.parquet")):
                known = dict.fromkeys(_cases_in(file), shard) | known
    new = [case_id for case_id in case_ids if case_id not in known]
    _check_room(len(new), size, MOST - opened)
    for position, case_id in enumerate(new):
        known[case_id] = f"s{opened + position // size + 1:05d}"
    if new or not whole:
        # In the order in which shards were opened, as they are when nothing is restored.
        rows = sorted(known.items(), key=lambda row: (row[1], row[0]))
        with atomic_path(path) as partial:
            pd.DataFrame(rows, columns=["case_id", "shard"]).to_csv(partial, sep="\t", index=False)
    return {case_id: known[case_id] for case_id in case_ids}


def _check_room(cases: int, size: int, left: int) -> None:
    """Check that new cases find a shard each, where `left` can still be opened."""
    if cases <= left * size:
        return
    fix = (
        f"set processing.shard_size of site.yaml to {-(-cases // left)} or more (it is {size})"
        if left
        else "name new results"
    )
    raise StageError(
        f"{cases} new cases need {-(-cases // size)} new shards of {size}, and {left} are left of "
        f"the {MOST} that a cohort can have; {fix}."
    )


def _read(path: Path) -> tuple[dict[str, str], bool]:
    """Read the shard of each case from a table, and say whether the table is whole.

    Of one that was cut off the rows are read that are left.
    """
    if not path.is_file():
        return {}, False
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    known: dict[str, str] = {}
    for row in rows:
        if row.get("case_id") and SHARD_NAME.fullmatch(row.get("shard") or ""):
            known.setdefault(row["case_id"], row["shard"])
    return known, text.endswith("\n") and len(known) == len(rows)


def _cases_in(shard: Path) -> list[str]:
    """Return the cases of a shard's file; none where it is damaged."""
    try:
        found = read_parquet(shard, ["case_id"])["case_id"]
    except ValueError:
        return []
    return sorted(set(found.to_pylist()))

"""Files that a stage wrote beside its outcomes, and whether they are still there.

The name of a shard is in no path of them, so that no rule can declare them; what the outcomes list
is compared with the disk instead.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jipflow.reasons import Reason

SHOWN = 3
"""Most files that a sentence names."""


def missing_outputs(outcomes: Path, results: Path) -> list[str]:
    """Return the files that are not there of those that a stage wrote for a shard.

    Args:
        outcomes: ``shards/<shard>/<stage>/outcomes.parquet``; where it is not there, the stage has
            not run and nothing is missing.
        results: the protocol's results folder, which the outcomes' outputs are relative to.

    Returns:
        Paths relative to `results`, sorted. For a case that waits for a person it is the
        instruction in its folder of the worklist.
    """
    if not outcomes.is_file():
        return []
    root = str(results)
    return [path for path in _written(outcomes) if not _is_there(f"{root}/{path}")]


def _is_there(path: str) -> bool:
    """Return whether there is such a file; a disk that does not answer is an error, no absence."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _written(outcomes: Path) -> list[str]:
    """Return what the outcomes list, sorted."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    waits = outcomes.parent.name == "annotate"
    columns = ["outputs", *(["case_id", "item", "status"] if waits else [])]
    # One of thousands of small files: threads cost more than they save.
    table = pq.ParquetFile(outcomes).read(columns, use_threads=False)
    written = pc.list_flatten(table["outputs"]).to_pylist()
    if waits:
        written += [
            f"worklist/{row['item']}/{row['case_id']}/README.txt"
            for row in table.to_pylist()
            if row["status"] == "waiting"
        ]
    return sorted(written)


def unexpected(shard: Path) -> list[Path]:
    """Return the outcomes of a shard's stages in which an error stands that the stage did not know.

    Args:
        shard: ``shards/<shard>``.
    """
    import pyarrow.parquet as pq

    return [
        path
        for path in sorted(shard.glob("*/outcomes.parquet"))
        if Reason.UNEXPECTED_ERROR.value
        in pq.ParquetFile(path).read(["reason"], use_threads=False)["reason"].to_pylist()
    ]


def named(files: Sequence[str]) -> str:
    """Name some of many files in a sentence."""
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return f"{', '.join(files[:SHOWN])}{more}"

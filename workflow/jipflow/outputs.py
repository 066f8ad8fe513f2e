"""Files that a stage wrote beside its outcomes, and whether they are still there.

The name of a shard is in no path of them, so that no rule can declare them; what the outcomes list
is compared with the disk instead.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable
from pathlib import Path

RECORD = re.compile(r"files gone (\d+) times\b.*")
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


def times_gone(missing: Iterable[str], recorded: Iterable[str]) -> str:
    """Say how often files of a job were gone, in words that differ when some are gone again.

    Snakemake runs a job again whose parameter differs from the one it recorded when the job ended.
    What is missing now can be no such parameter: it would be recorded before the job fixes it, and
    differ again afterwards. A count that goes on from the recorded one stays.

    Args:
        missing: files that are gone now.
        recorded: `repr` of the parameters that Snakemake recorded of the job's last run, the
            returned one among them if there was any.

    Returns:
        The recorded words, or the next ones, which name the missing files.
    """
    before, count = "files gone 0 times", 0
    for text in recorded:
        if match := RECORD.fullmatch(text[1:-1]):
            before, count = ast.literal_eval(text), int(match[1])
    files = sorted(missing)
    if not files:
        return before
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return f"files gone {count + 1} times: {', '.join(files[:SHOWN])}{more}"

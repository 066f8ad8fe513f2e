"""Files that a stage wrote beside its outcomes, and whether they are still there.

The name of a shard is in no path of them, so that no rule can declare them; what the outcomes list
is compared with the disk instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jipflow.files import read_parquet, read_tsv
from jipflow.outcomes import Outcome, Status
from jipflow.reasons import Reason

if TYPE_CHECKING:
    import pyarrow as pa

DAMAGED = (ValueError, KeyError)
"""What reading a table raises that is none (`pyarrow.ArrowInvalid`), or lacks columns."""

FOLDERS = {"seg": "encode", "sr": "document", "overlays": "overlay"}
"""Folders of ``<case_id>/<segmentation>.*``, and the stage that writes them."""

SUFFIXES = (".dcm", ".png")
"""How the names of these files end."""

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
        instruction in its folder of the worklist. Outcomes that a power cut has damaged are missing
        themselves.
    """
    if not outcomes.is_file():
        return []
    root = str(results)
    try:
        written = _written(outcomes)
    except DAMAGED:
        return [os.path.relpath(outcomes, results)]
    return [path for path in written if not _is_there(f"{root}/{path}")]


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

    waits = outcomes.parent.name == "annotate"
    columns = ["outputs", *(["case_id", "item", "status"] if waits else [])]
    table = _columns(outcomes, columns)
    written = pc.list_flatten(table["outputs"]).to_pylist()
    if waits:
        written += [
            f"worklist/{row['item']}/{row['case_id']}/README.txt"
            for row in table.to_pylist()
            if row["status"] == "waiting"
        ]
    return sorted(written)


def _columns(path: Path, columns: list[str]) -> pa.Table:
    """Return columns of one of thousands of small files, each read at once."""
    import pyarrow as pa

    return read_parquet(pa.BufferReader(path.read_bytes()), columns)


def remove_leftovers(results: Path, outcomes: Iterable[Outcome]) -> list[str]:
    """Remove the objects and pictures of cases that left the cohort, or that have none any more.

    A person who takes all of a folder would take them for results of this run. What is none of
    jipflow's, by the names of file and folder, stays.

    Args:
        results: the protocol's results folder.
        outcomes: of the cohort, and of the stages of all its shards.

    Returns:
        The paths that were removed, relative to `results`, sorted.
    """
    listed: set[str] = set()
    members: set[str] = set()
    written: set[tuple[str, str]] = set()
    for outcome in outcomes:
        listed.update(outcome.outputs)
        written.add((outcome.stage, outcome.case_id))
        if outcome.stage == "cohort" and outcome.status is Status.OK:
            members.add(outcome.case_id)
    removed = []
    for case in _cases_ever(results / "cohort" / "assignment.tsv"):
        for folder, stage in FOLDERS.items():
            if case not in members or (stage, case) in written:
                removed += _remove(results, f"{folder}/{case}", listed)
    return sorted(removed)


def _cases_ever(path: Path) -> list[str]:
    """Return every case that the results have had."""
    if not path.is_file():
        return []
    return [row["case_id"] for row in read_tsv(path)]


def _remove(results: Path, folder: str, listed: set[str]) -> list[str]:
    """Remove the files of a case's folder that are not listed, and the folder where it is empty."""
    place = results / folder
    if not place.is_dir():
        return []
    ours = (name for name in os.listdir(place) if name.endswith(SUFFIXES))
    removed = [name for name in ours if f"{folder}/{name}" not in listed]
    for name in removed:
        (place / name).unlink()
    if not any(place.iterdir()):
        place.rmdir()
    return [f"{folder}/{name}" for name in removed]


def unexpected(shard: Path) -> list[Path]:
    """Return the outcomes of a shard's stages in which an error stands that the stage did not know.

    Those that a power cut has damaged are among them.

    Args:
        shard: ``shards/<shard>``.
    """
    return [path for path in sorted(shard.glob("*/outcomes.parquet")) if met_unexpected(path)]


def met_unexpected(outcomes: Path) -> bool:
    """Return whether outcomes are damaged, or hold an error that their stage did not know.

    Args:
        outcomes: of a stage.
    """
    try:
        reasons = _columns(outcomes, ["reason"])["reason"].to_pylist()
    except DAMAGED:
        return True
    return Reason.UNEXPECTED_ERROR.value in reasons


def named(files: Sequence[str]) -> str:
    """Name some of many files in a sentence."""
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return f"{', '.join(files[:SHOWN])}{more}"

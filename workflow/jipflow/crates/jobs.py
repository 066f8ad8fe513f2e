"""The jobs that a crate describes, read off their records."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jipflow.costs import COLUMNS, cost_file
from jipflow.provenance import NAME, Provenance, read_provenance
from jipflow.reasons import StageError

OWN = ".site/"
"""Stands for the path of a file that a job read and that is not among the results."""


@dataclass(frozen=True)
class Job:
    """A job that has run.

    Attributes:
        name: of its record's folder, or of the record without its common end, below the results.
        made: its record.
        ended: when the record was written, in seconds since 1970.
        took: its `COLUMNS`; empty where nothing was measured.
        reads: names of the jobs whose files it read.
        inputs: SHA-256 of the other files that it read, by path below the results; by `OWN`
            and the hash where they are the site's, such as its table of clinical data.
        outputs: SHA-256 of the tables that it wrote, by path below the results.
    """

    name: str
    made: Provenance
    ended: float
    took: Mapping[str, float]
    reads: Sequence[str]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def jobs_of(results: Path, records: Iterable[Path]) -> Iterator[Job]:
    """Yield the jobs that records lead to, each once.

    Args:
        results: folder of the results of all protocols.
        records: of the last jobs.

    Raises:
        StageError: a record is missing or leads out of the results.
    """
    seen: set[Path] = set()
    waiting = [_plain(path) for path in records]
    root = _plain(results)
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        made = read_provenance(path)
        if made is None:
            raise StageError(f"{path}: no record of a job; run the same snakemake command again.")
        inputs = {_plain(path.parent / name): digest for name, digest in made.inputs.items()}
        earlier = [file for file in inputs if file.name.endswith(NAME)]
        waiting += earlier
        yield Job(
            name=_job_name(path, root),
            made=made,
            ended=path.stat().st_mtime,
            took=_took(path),
            reads=[_job_name(file, root) for file in earlier],
            inputs={
                _below(file, root) if file.is_relative_to(root) else OWN + digest: digest
                for file, digest in inputs.items()
                if file not in earlier
            },
            outputs={
                _below(_plain(path.parent / name), root): digest
                for name, digest in made.outputs.items()
            },
        )


def _plain(path: Path) -> Path:
    """Return an absolute path without ``..``; a folder of the results may be a link, and stays."""
    return Path(os.path.normpath(os.path.abspath(path)))


def _job_name(record: Path, root: Path) -> str:
    return _below(record, root).removesuffix(NAME).rstrip("/.")


def _below(path: Path, root: Path) -> str:
    """Return a path below the results; one of a job that leads out of them could name a person."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        raise StageError(
            "A record names a file outside the results, which a crate does not show; run the same "
            "snakemake command again with --forceall."
        ) from None


def _took(record: Path) -> dict[str, float]:
    """Return what a job took; empty where it was not measured, or where the file is damaged."""
    try:
        names, values = cost_file(record).read_text(encoding="ascii").splitlines()
        took = dict(zip(names.split("\t"), map(float, values.split("\t")), strict=True))
    except (FileNotFoundError, ValueError):
        return {}
    return took if took.keys() == set(COLUMNS) else {}

"""What commands of the workflow share: outcomes read and written, and records of what made them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from jipflow.cli.redacted import redact

if TYPE_CHECKING:
    import pyarrow as pa

    from jipflow.outcomes import Outcome


class Parted(Protocol):
    """Settings of a site or a hub."""

    def parts(self, stage: str) -> dict[str, str]:
        """Return the hash of each part that a stage depends on."""


Record = Annotated[Path, "what the files were computed with, which is written: provenance.json"]
MadeOf = Annotated[Sequence[Path], "records of the jobs that came before"]


def records(tables: Iterable[Path]) -> list[Path]:
    """Return the records of the jobs that wrote tables, each once."""
    from jipflow.provenance import beside

    return list(dict.fromkeys(map(beside, tables)))


@contextmanager
def recorded(
    record: Path,
    settings: Parted,
    stage: str,
    *,
    inputs: Iterable[Path] = (),
    outputs: Iterable[Path],
    passing: Iterable[Path] = (),
    state: str = "",
) -> Iterator[list[Path]]:
    """Write what a job computed its files with and what that took, when the block has ended well.

    While it runs, no other run begins on these results, even if the job's own is killed.

    Args:
        record: the file.
        settings: of the run.
        stage: the job's stage.
        inputs: records of earlier stages, and files that have none.
        outputs: tables that are there at the end of the block.
        passing: folders that go once the jobs have run that read them.
        state: hash of what else decides.

    Yields:
        A list to which the block adds what other files it has written that stay.
    """
    from jipflow.cli.attempts import RUN
    from jipflow.costs import measured
    from jipflow.lock import at_work, results_above
    from jipflow.place import wait_for_clock
    from jipflow.provenance import Making

    read = list(inputs)
    with at_work(record, os.environ.get(RUN)), measured(record):
        making = Making(stage, settings.parts(stage), read, state)
        wait_for_clock(record.parent, read, results_above(record) or record.parent)
        others: list[Path] = []
        yield others
        making.finish(record, outputs, others, passing)


def check_made(settings: Parted, tables: Mapping[Path, Iterable[Path]]) -> None:
    """Check that tables are as they would be computed now; see `provenance.check_provenance`."""
    from jipflow.provenance import check_provenance

    check_provenance(tables, cache(settings.parts))


def read_all(paths: Sequence[Path]) -> list[Outcome]:
    """Read the outcomes of several files."""
    from jipflow.outcomes import read_outcomes

    return [outcome for path in paths for outcome in read_outcomes(path)]


def redacted_messages(table: pa.Table) -> pa.Table:
    """Return a table without what may identify a patient in its column ``message``."""
    import pyarrow as pa

    place = table.column_names.index("message")
    texts = [text and redact(text) for text in table["message"].to_pylist()]
    return table.set_column(place, table.field(place), pa.array(texts, table.field(place).type))


def files_of(outcomes: Iterable[Outcome], root: Path) -> list[Path]:
    """Return the files that outcomes list, below the folder that these are named relative to."""
    return [root / name for outcome in outcomes for name in outcome.outputs]


def finish(path: Path, outcomes: Sequence[Outcome], earlier: Sequence[Outcome] = ()) -> None:
    """Write a stage's outcomes and print a line for each, without what may identify a patient.

    Args:
        path: the file.
        outcomes: of the stage.
        earlier: of the stages before it, for whose waiting items it waits, too.
    """
    from jipflow.outcomes import waiting_with, write_outcomes

    written = [replace(each, message=redact(each.message)) for each in outcomes]
    outcomes = waiting_with(written, earlier)
    for outcome in outcomes:
        reason = f" {outcome.reason}: {outcome.message}" if outcome.reason else ""
        print(f"{outcome.case_id} {outcome.stage} {outcome.item}: {outcome.status.value}{reason}")
    write_outcomes(path, outcomes)

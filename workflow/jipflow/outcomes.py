"""What became of each item of a case at each stage, and the frame in which stages try one."""

from __future__ import annotations

import resource
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from jipflow.files import read_parquet, write_parquet
from jipflow.place import place_error, sentence
from jipflow.reasons import CaseFault, Decision, PlaceError, Reason, StageError

STAGES = (
    *("cohort", "retrieve", "prepare", "segment", "annotate", "encode", "measure", "document"),
    *("publish", "overlay"),
)
"""The stages of a run that write outcomes, in their order."""


class Status(StrEnum):
    """What happened to an item of a case at a stage."""

    OK = "ok"
    WAITING = "waiting"
    FAILED = "failed"
    EXCLUDED = "excluded"


@dataclass
class Outcome:
    """What happened to one item of one case at one stage.

    Attributes:
        case_id: pseudonym of the case.
        stage: ``cohort``, ``retrieve``, ``prepare``, ``segment``, ``annotate``, ``encode``,
            ``measure``, ``document``, ``publish``, ``overlay``, ``train`` or ``export``.
        item: the role at ``retrieve`` and ``prepare``, the segmentation's id later, empty at
            ``cohort``.
        status: ok, waiting (for a person), failed or excluded.
        reason: empty when ok, else a code of `Reason`.
        message: a sentence for a person; may hold local paths and so never leaves the site.
        seconds: wall time.
        max_rss_mb: peak memory of the process up to then, in MiB.
        outputs: files made, relative to the results folder.
        sha256: the hash of each of `outputs`.
        flags: ``<segment>:<code of Flag>`` of what was made but should be looked at.
        decisions: codes of `Decision`, of which the message has the ground.
    """

    case_id: str
    stage: str
    item: str = ""
    status: Status = Status.OK
    reason: str = ""
    message: str = ""
    seconds: float = 0.0
    max_rss_mb: float = 0.0
    outputs: list[str] = field(default_factory=list)
    sha256: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)

    @property
    def follows(self) -> bool:
        """Whether it merely follows from an earlier outcome of the case."""
        return self.reason in {Reason.DEPENDS_ON_FAILED, Reason.DEPENDS_ON_WAITING}


OUTCOME_COLUMNS = tuple(Outcome.__dataclass_fields__)


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write outcomes as Parquet, sorted by case, stage and item, so that order never matters."""
    import pyarrow as pa

    text = pa.string()
    schema = pa.schema(
        [(name, text) for name in ("case_id", "stage", "item", "status", "reason", "message")]
        + [("seconds", pa.float64()), ("max_rss_mb", pa.float64())]
        + [(name, pa.list_(text)) for name in ("outputs", "sha256", "flags", "decisions")]
    )
    rows = sorted(outcomes, key=lambda o: (o.case_id, o.stage, o.item))
    table = pa.Table.from_pylist(
        [{name: getattr(row, name) for name in OUTCOME_COLUMNS} for row in rows], schema=schema
    )
    write_parquet(path, table)


def read_outcomes(path: Path) -> list[Outcome]:
    """Read outcomes written by `write_outcomes`."""
    rows = read_parquet(path).to_pylist()
    return [Outcome(**{**row, "status": Status(row["status"])}) for row in rows]


def passed(outcomes: Iterable[Outcome]) -> set[tuple[str, str]]:
    """Return the (case_id, item) pairs whose outcome is ok."""
    return {(o.case_id, o.item) for o in outcomes if o.status is Status.OK}


def failed(outcomes: Iterable[Outcome]) -> set[tuple[str, str]]:
    """Return the (case_id, item) pairs whose outcome is failed."""
    return {(o.case_id, o.item) for o in outcomes if o.status is Status.FAILED}


@dataclass(frozen=True)
class Made:
    """What the work on an item gave.

    Attributes:
        paths: files that are kept.
        note: what a person should know though all went well, such as a repaired header.
        flags: as in `Outcome`.
        decisions: as in `Outcome`.
    """

    paths: tuple[Path, ...] = ()
    note: str = ""
    flags: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()


class Waiting(Exception):
    """Raised when an item of a case needs a person; becomes an outcome that is not a failure.

    Args:
        message: a sentence for a person: what is to be done, and where.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[type[Waiting], tuple[str]]:
        return Waiting, (self.message,)


Result = TypeVar("Result")


class Trial:
    """One item of a case on its way through a stage, in steps that may run in several threads.

    A `CaseFault` becomes its own reason, `Waiting` a waiting outcome, and any other error
    ``unexpected_error`` with the place it was raised. A `StageError`, and whatever came of an error
    of the place (see `jipflow.place`), are not the case's fault: they are raised, for the workflow
    to retry the job.

    Args:
        case_id: pseudonym of the case.
        stage: name of the stage.
        item: role or segmentation.
    """

    def __init__(self, case_id: str, stage: str, item: str) -> None:
        self.outcome = Outcome(case_id, stage, item)

    @property
    def going(self) -> bool:
        """Whether no step has failed."""
        return self.outcome.status is Status.OK

    def step(self, work: Callable[[], Result]) -> Result | None:
        """Do the next piece of work; None where it ended the trial, or an earlier one had.

        Raises:
            StageError: the work did, or the place failed it.
            MemoryError: there is too little memory.
        """
        if not self.going:
            return None
        start = time.perf_counter()
        try:
            return work()
        except StageError:
            raise
        except Exception as error:
            self._end(error)
        finally:
            self.outcome.seconds += time.perf_counter() - start
        return None

    def _end(self, error: Exception) -> None:
        """Let an error end the trial, or the job where the place is to blame."""
        outcome = self.outcome
        if cause := place_error(error):
            kind = MemoryError if isinstance(cause, MemoryError) else PlaceError
            what = f"case {outcome.case_id}: {outcome.stage} of {outcome.item!r}"
            named = isinstance(cause, OSError) and cause.filename
            own = f"{error.message} " if isinstance(error, CaseFault) and not named else ""
            raise kind(f"{what}: {own}{sentence(cause)}") from error
        if isinstance(error, Waiting):
            outcome.status, outcome.reason = Status.WAITING, Reason.AWAITING_READER.value
            outcome.message = error.message
            return
        outcome.status = Status.FAILED
        if isinstance(error, CaseFault):
            outcome.reason, outcome.message = error.reason.value, error.message
            return
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome.reason = Reason.UNEXPECTED_ERROR.value
        outcome.message = (
            f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        )
        traceback.print_exc()

    def finish(self, made: Made | None, root: Path) -> Outcome:
        """Complete the outcome with what was made.

        Args:
            made: None where the trial ended before.
            root: folder that the outcome's outputs are named relative to.
        """
        from jipflow.files import sha256_file

        if made is not None and self.going:
            self.outcome.message = made.note
            self.outcome.outputs = [str(path.relative_to(root)) for path in made.paths]
            self.outcome.sha256 = [sha256_file(path) for path in made.paths]
            self.outcome.flags = list(made.flags)
            self.outcome.decisions = [decision.value for decision in made.decisions]
        self.outcome.max_rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return self.outcome


def attempt(case_id: str, stage: str, item: str, work: Callable[[], Made], root: Path) -> Outcome:
    """Run the work on one item of a case and turn what happens into its outcome; see `Trial`.

    Args:
        case_id: pseudonym of the case.
        stage: name of the stage.
        item: role or segmentation.
        work: does it, and says what it made.
        root: folder that the outcome's outputs are named relative to.
    """
    trial = Trial(case_id, stage, item)
    return trial.finish(trial.step(work), root)


def blocked(case_id: str, stage: str, item: str, needed: str) -> Outcome:
    """Return the outcome of an item whose input failed at an earlier stage.

    Args:
        case_id: pseudonym of the case.
        stage: the stage that cannot start.
        item: role or segmentation.
        needed: what is not there, such as ``the volume of role CT``.
    """
    return Outcome(
        case_id,
        stage,
        item,
        Status.FAILED,
        Reason.DEPENDS_ON_FAILED.value,
        f"case {case_id}: {needed} is not there; an earlier outcome of this case says why.",
    )


def waiting_with(outcomes: Iterable[Outcome], earlier: Iterable[Outcome]) -> list[Outcome]:
    """Let the items wait that a stage could not start because an earlier one waits for them.

    Args:
        outcomes: of a stage.
        earlier: of the stages that it depends on.

    Returns:
        The outcomes, in which an item that is blocked waits where it waits in `earlier`, and has
        failed in none of these.
    """
    by_item: dict[tuple[str, str], set[Status]] = {}
    for outcome in earlier:
        by_item.setdefault((outcome.case_id, outcome.item), set()).add(outcome.status)
    result = []
    for outcome in outcomes:
        before = by_item.get((outcome.case_id, outcome.item), set())
        blocked_here = outcome.reason == Reason.DEPENDS_ON_FAILED.value
        if blocked_here and Status.WAITING in before and Status.FAILED not in before:
            outcome = replace(
                outcome,
                status=Status.WAITING,
                reason=Reason.DEPENDS_ON_WAITING.value,
                message=f"case {outcome.case_id}: {outcome.item!r} waits for a person.",
            )
        result.append(outcome)
    return result

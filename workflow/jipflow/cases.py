"""The unit of work and what became of it: `Case`, `Outcome` and the frame every stage runs in."""

from __future__ import annotations

import logging
import resource
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import Self, TypeVar


class Status(StrEnum):
    """What happened to an item of a case at a stage."""

    OK = "ok"
    WAITING = "waiting"
    FAILED = "failed"
    EXCLUDED = "excluded"


class Coded(StrEnum):
    """Codes that are stable, each with a `meaning`: the sentence that people read."""

    meaning: str

    def __new__(cls, code: str, meaning: str = "") -> Self:
        """Make the member whose value is `code`."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class Reason(Coded):
    """Why an item of a case failed or was excluded."""

    MISSING_PATIENT_ID = (
        "missing_patient_id",
        "No PatientID, so the series cannot be given to a case",
    )
    MISSING_ROLE = ("missing_role", "No series for a role that the protocol requires")
    SEVERAL_SERIES_FOR_ROLE = (
        "several_series_for_role",
        "More than one series fits a role and the protocol does not say which to prefer",
    )
    DEPENDS_ON_FAILED = ("depends_on_failed", "An earlier stage failed for the input of this one")
    DEPENDS_ON_WAITING = (
        "depends_on_waiting",
        "An earlier stage waits for a person to make the input of this one",
    )

    NOT_RETRIEVED = (
        "not_retrieved",
        "The PACS did not give the series, or fewer instances than it lists",
    )

    UNREADABLE = ("unreadable", "A file cannot be read, or ends too early")
    NO_PIXEL_DATA = ("no_pixel_data", "An instance of the series has no pixel data")
    TRUNCATED_PIXELS = ("truncated_pixels", "An instance has fewer pixels than its header says")
    UNDECODABLE_PIXELS = ("undecodable_pixels", "The compressed pixels cannot be decoded")
    UNSUPPORTED_OBJECT = (
        "unsupported_object",
        "Neither CT, MR or PET slices or one multi-frame image of them, nor an RT Structure Set or"
        " a segmentation of voxels",
    )
    MISSING_GEOMETRY = ("missing_geometry", "Position, orientation or spacing is missing")
    MIXED_PATIENTS = (
        "mixed_patients",
        "Slices of one series belong to different patients or studies",
    )
    MIXED_ORIENTATION = ("mixed_orientation", "Slices of one series lie in different orientations")
    MIXED_MATRIX = ("mixed_matrix", "Slices of one series differ in rows, columns or pixel spacing")
    MIXED_FRAME_OF_REFERENCE = (
        "mixed_frame_of_reference",
        "Slices of one series differ in frame of reference",
    )
    GANTRY_TILT = ("gantry_tilt", "Slices are sheared against their normal")
    MIXED_ACQUISITIONS = (
        "mixed_acquisitions",
        "Several phases, echoes or acquisitions share one series",
    )
    DUPLICATE_SLICES = ("duplicate_slices", "Several slices lie at one position")
    MISSING_SLICES = ("missing_slices", "The distance between slices has gaps")
    IRREGULAR_SPACING = ("irregular_spacing", "The distance between slices varies")
    TOO_FEW_SLICES = ("too_few_slices", "Fewer than two slices make no volume")
    GEOMETRY_REFUSED = ("geometry_refused", "The slices do not make a regular volume")
    MISSING_RESCALE = ("missing_rescale", "Rescale slope or intercept is missing or 0")
    UNSUPPORTED_UNITS = ("unsupported_units", "PET units that cannot be turned into SUVbw")
    MISSING_SUV_FIELD = (
        "missing_suv_field",
        "A header field that SUVbw needs is missing or absurd",
    )

    NO_CONTOURS = ("no_contours", "No structure set or segmentation of the patient fits")
    AMBIGUOUS_CONTOURS = ("ambiguous_contours", "More than one structure set fits")
    CONTOUR_GEOMETRY = ("contour_geometry", "A contour cannot be placed on the image's grid")
    IMAGES_APART = (
        "images_apart",
        "The image of a role lies wholly outside the one that is segmented",
    )
    OUT_OF_MEMORY = (
        "out_of_memory",
        "The case does not fit into the memory of the GPU or of the machine",
    )
    ALGORITHM_FAILED = ("algorithm_failed", "The algorithm's container ended with an error")
    INVALID_OUTPUT = ("invalid_output", "The algorithm's output does not meet the contract")
    AWAITING_READER = ("awaiting_reader", "A person is to draw or to correct the segmentation")
    EMPTY_SEGMENT = ("empty_segment", "A segment has no voxel")
    EMPTY_SEGMENTATION = ("empty_segmentation", "No segment of the segmentation has a voxel")
    NO_REFERENCE = (
        "no_reference",
        "The region that a threshold is taken from has no uptake on the image",
    )
    GRID_MISMATCH = ("grid_mismatch", "The segmentation does not lie on the image's grid")

    ENCODING_REFUSED = (
        "encoding_refused",
        "The DICOM object cannot be built from the source series",
    )
    OVERLAPPING_SEGMENTS = (
        "overlapping_segments",
        "Segments overlap, which a label map cannot hold",
    )
    PUBLISH_REJECTED = ("publish_rejected", "The PACS refused the object")
    CHANGED_OUTPUT = (
        "changed_output",
        "A file is missing or was changed after the stage that made it",
    )
    FEATURE_FAILED = ("feature_failed", "The feature's calculation raised an error")
    NOT_FINITE = ("not_finite", "The feature's value is not a finite number")
    UNDEFINED_FEATURE = (
        "undefined_feature",
        "The feature's definition gives no value for this region, such as one of equal intensities",
    )
    TOO_MANY_GREY_LEVELS = (
        "too_many_grey_levels",
        "The bins make more grey levels of the region than texture matrices can hold",
    )
    UNEXPECTED_ERROR = ("unexpected_error", "An error that the stage does not know")


class Flag(Coded):
    """Why a segment that was made should be looked at."""

    IMPLAUSIBLE_VOLUME = (
        "implausible_volume",
        "The volume lies outside the range that the protocol expects",
    )
    IMPLAUSIBLE_INTENSITY = (
        "implausible_intensity",
        "The mean intensity lies outside the range that the protocol expects",
    )
    MANY_COMPONENTS = ("many_components", "More pieces than the protocol expects")
    TOUCHES_BORDER = ("touches_border", "The segment reaches the border of the image")
    FOLDS_DISAGREE = ("folds_disagree", "The folds of the model differ in what they find")


class CaseFault(Exception):
    """Raised by a stage when one item of a case cannot go on; becomes an outcome.

    Args:
        reason: the stable code.
        message: a sentence for a person: which file or series, what is wrong, what would mend it.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[CaseFault], tuple[Reason, str]]:
        return CaseFault, (self.reason, self.message)


class StageError(Exception):
    """A stage as a whole cannot run; the message names what is wrong and the mend."""


@dataclass(frozen=True)
class Series:
    """One DICOM series of a case, as the catalog saw it.

    Attributes:
        series_uid: SeriesInstanceUID.
        modality: the DICOM Modality, such as ``CT``.
        paths: the files of its instances, sorted.
    """

    series_uid: str
    modality: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Case:
    """One patient at one time point.

    Attributes:
        case_id: pseudonym of the case.
        patient: pseudonym of the patient, the same in all cases of a patient.
        shard: name of the shard that the case belongs to for ever.
        roles: the image series by role.
        annotations: RTSTRUCT and SEG series of the same patient.
    """

    case_id: str
    patient: str
    shard: str
    roles: dict[str, Series]
    annotations: tuple[Series, ...] = ()


@dataclass
class Outcome:
    """What happened to one item of one case at one stage.

    Attributes:
        case_id: pseudonym of the case.
        stage: ``cohort``, ``retrieve``, ``prepare``, ``segment``, ``annotate``, ``encode``,
            ``measure``, ``document``, ``publish``, ``overlay`` or ``train``.
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

    @property
    def follows(self) -> bool:
        """Whether it merely follows from an earlier outcome of the case."""
        return self.reason in {Reason.DEPENDS_ON_FAILED, Reason.DEPENDS_ON_WAITING}


OUTCOME_COLUMNS = tuple(Outcome.__dataclass_fields__)


def read_cases(path: Path) -> list[Case]:
    """Read the cases of one shard as `jipflow cohort` wrote them.

    Args:
        path: ``cohort/shards/<shard>.parquet``: one row per instance, with columns case_id,
            patient, shard, role (empty for annotations), series_uid, modality, path, bytes and
            modified_ns.

    Returns:
        The cases, sorted by case_id.
    """
    import pandas as pd

    cases = []
    for _, rows in pd.read_parquet(path).groupby("case_id"):
        roles: dict[str, Series] = {}
        annotations: list[Series] = []
        for _, files in rows.groupby(["role", "series_uid"]):
            first = files.iloc[0]
            paths = tuple(Path(p) for p in sorted(files["path"]))
            series = Series(first["series_uid"], first["modality"], paths)
            if first["role"]:
                roles[first["role"]] = series
            else:
                annotations.append(series)
        first = rows.iloc[0]
        cases.append(
            Case(first["case_id"], first["patient"], first["shard"], roles, tuple(annotations))
        )
    return sorted(cases, key=lambda case: case.case_id)


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write outcomes as Parquet, sorted by case, stage and item, so that order never matters."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jipflow.files import atomic_path

    text = pa.string()
    schema = pa.schema(
        [(name, text) for name in ("case_id", "stage", "item", "status", "reason", "message")]
        + [("seconds", pa.float64()), ("max_rss_mb", pa.float64())]
        + [(name, pa.list_(text)) for name in ("outputs", "sha256", "flags")]
    )
    rows = sorted(outcomes, key=lambda o: (o.case_id, o.stage, o.item))
    table = pa.Table.from_pylist(
        [{name: getattr(row, name) for name in OUTCOME_COLUMNS} for row in rows], schema=schema
    )
    with atomic_path(path) as partial:
        pq.write_table(table, partial)


def read_outcomes(path: Path) -> list[Outcome]:
    """Read outcomes written by `write_outcomes`."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
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
        note: what a person should know though all went well, such as a mended header.
        flags: as in `Outcome`.
    """

    paths: tuple[Path, ...] = ()
    note: str = ""
    flags: tuple[str, ...] = ()


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
    ``unexpected_error`` with the place it was raised. Running out of memory and a `StageError` are
    not the case's fault: they are raised again, for the workflow to retry the job.

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
        """Do the next piece of work; None where it ended the trial, or an earlier one had."""
        if not self.going:
            return None
        start = time.perf_counter()
        outcome = self.outcome
        try:
            return work()
        except CaseFault as fault:
            outcome.status, outcome.reason = Status.FAILED, fault.reason.value
            outcome.message = fault.message
        except Waiting as waiting:
            outcome.status, outcome.reason = Status.WAITING, Reason.AWAITING_READER.value
            outcome.message = waiting.message
        except (MemoryError, StageError):
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcome.status, outcome.reason = Status.FAILED, Reason.UNEXPECTED_ERROR.value
            outcome.message = (
                f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
            )
            traceback.print_exc()
        finally:
            outcome.seconds += time.perf_counter() - start
        return None

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


def silence_libraries() -> None:
    """Keep this process's libraries from quoting header values in warnings and log lines.

    pydicom and highdicom warn of odd values by printing them, patients' names among them.
    """
    warnings.filterwarnings("ignore")
    logging.getLogger("pydicom").setLevel(logging.ERROR)


def for_each_case(
    cases: Sequence[Case], function: Callable[[Case], list[Result]], threads: int
) -> list[Result]:
    """Apply a stage's function to each case in up to `threads` processes.

    Args:
        cases: the shard's cases.
        function: a module-level function, or a `functools.partial` of one, so that it can be sent
            to another process; returns the results of the case's items.
        threads: processes; 1 runs in this one.

    Returns:
        All results, in the order of the cases.
    """
    if threads <= 1 or len(cases) <= 1:
        batches = [function(case) for case in cases]
    else:
        # A fork of a process in which a library has started threads may hang.
        context = get_context("forkserver")
        with ProcessPoolExecutor(
            min(threads, len(cases)), mp_context=context, initializer=silence_libraries
        ) as pool:
            batches = list(pool.map(function, cases))
    return [result for batch in batches for result in batch]

"""Stage `retrieve`: fetch the files of a shard that lie in a PACS and are not here yet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path

import pandas as pd
import pydicom

from jipflow.cases import ANNOTATIONS
from jipflow.files import atomic_path, read_frame
from jipflow.outcomes import Made, Outcome, attempt
from jipflow.pacs.archive import Archive, ArchiveDown, Rejected, checked_uid, is_of_object
from jipflow.pacs.connect import open_archive
from jipflow.pacs.limits import sole_mover
from jipflow.place import raise_place_error
from jipflow.privacy.pseudonyms import known_secret, pseudonym
from jipflow.reasons import CaseFault, Reason, StageError
from jipflow.settings.run import Settings

STAGE = "retrieve"
PAUSES = (2.0, 10.0)
"""Seconds before each time that a series is asked for again."""


@dataclass
class Arrival:
    """What became of a series.

    Attributes:
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        wanted: where the file of each SOPInstanceUID belongs.
        is_of: whether a PatientID is of the patient of whom the PACS listed the series.
        present: how many files were here already.
        size: bytes that were retrieved.
        seconds: wall time.
        faults: why an instance did not come, by SOPInstanceUID.
        refusal: what the PACS answered to the request for the series, if it refused.
        unwritten: why a file could not be written here, if so.
    """

    study_uid: str
    series_uid: str
    wanted: dict[str, Path]
    is_of: Callable[[str], bool] = lambda _: True
    present: int = 0
    size: int = 0
    seconds: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)
    refusal: str = ""
    unwritten: str = ""

    def missing(self) -> list[str]:
        """Return the instances whose files are not here, sorted."""
        return sorted(uid for uid, path in self.wanted.items() if not _is_here(path))


def run(*, shard_file: Path, settings: Settings) -> list[Outcome]:
    """Retrieve the series of a shard that lie in a PACS.

    Each file is written whole, under the path that the catalog planned, so that a run that was cut
    goes on with the missing ones. A series of several cases is retrieved once.

    Args:
        shard_file: ``cohort/shards/<shard>.parquet``.
        settings: of the site and the protocol.

    Returns:
        An outcome for each case and role whose series lies in a PACS, and one for the case's
        ``annotations``; its message says how much was retrieved.

    Raises:
        StageError: a PACS does not answer, or files cannot be written here.
    """
    sources = {s.name: s for s in settings.site.archives}
    table = read_frame(shard_file)
    table = table[table["source"].isin(sources)]
    arrivals: dict[str, Arrival] = {}
    secret = known_secret(Path(settings.site.identity.secret_file)) if len(table) else b""
    for name, files in table.groupby("source"):
        planned = [_plan(str(name), rows, secret) for _, rows in files.groupby("series_uid")]
        source = sources[str(name)]
        with sole_mover(source), open_archive(source) as archive:
            _retrieve(archive, planned, source.parallel)
        arrivals |= {arrival.series_uid: arrival for arrival in planned}
    outcomes = []
    for (case_id, role), rows in table.groupby(["case_id", "role"]):
        series = [arrivals[uid] for uid in sorted(set(rows["series_uid"]))]
        work = partial(_check, series)
        item = str(role) or ANNOTATIONS
        outcome = attempt(str(case_id), STAGE, item, work, shard_file.parent)
        outcome.seconds = sum(arrival.seconds for arrival in series)
        outcomes.append(outcome)
    return outcomes


def _plan(source: str, rows: pd.DataFrame, secret: bytes) -> Arrival:
    """Return what shall arrive of a series, with each path checked to be where it belongs.

    Args:
        source: name of the PACS.
        rows: of the shard, one for each case and instance.
        secret: the site's, behind the patients' pseudonyms in the rows.
    """
    first = rows.iloc[0]
    study_uid = checked_uid(first["study_uid"], source)
    series_uid = checked_uid(first["series_uid"], source)
    wanted = {}
    for sop_uid, text in zip(rows["sop_uid"], rows["path"], strict=True):
        if not sop_uid:
            continue  # the PACS listed no instance of the series
        path = Path(text)
        place = (source, series_uid, f"{checked_uid(sop_uid, source)}.dcm")
        if not path.is_absolute() or path.parts[-3:] != place or ".." in path.parts:
            raise StageError(
                f"series {series_uid}: a file is planned outside the store of source {source!r}; "
                "ask the PACS again: snakemake ... --forcerun query"
            )
        wanted[sop_uid] = path
    patients = frozenset(rows["patient"])

    def is_of(patient_id: str) -> bool:
        return pseudonym(secret, "patient", patient_id) in patients

    return Arrival(study_uid, series_uid, wanted, is_of)


def _retrieve(archive: Archive, planned: Sequence[Arrival], parallel: int) -> None:
    """Fetch several series at a time; what is under way ends before an error is raised."""
    pool = ThreadPoolExecutor(parallel)
    try:
        list(pool.map(partial(_fetch, archive), planned))
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch(archive: Archive, arrival: Arrival) -> None:
    """Fetch what is missing of a series.

    Raises:
        StageError: the PACS does not answer, after some tries, or a file cannot be written.
    """
    start = time.perf_counter()
    missing, down = arrival.missing(), None
    arrival.present = len(arrival.wanted) - len(missing)
    for pause in (0.0, *PAUSES):
        if not missing or arrival.refusal:
            break
        time.sleep(pause)
        try:
            receive = partial(_keep, arrival)
            archive.fetch(arrival.study_uid, arrival.series_uid, missing, receive)
        except Rejected as error:
            arrival.refusal, down = str(error), None
        except ArchiveDown as error:
            down = error
        else:
            down = None
        if arrival.unwritten:
            raise StageError(arrival.unwritten)
        missing = arrival.missing()
    if missing and down is not None:
        if not is_of_object(down, archive):
            raise StageError(f"series {arrival.series_uid}: {down}") from down
        arrival.refusal = f"{down} It answers other queries."
    arrival.seconds = time.perf_counter() - start
    came = len(arrival.wanted) - arrival.present - len(missing)
    print(
        f"series {arrival.series_uid}: {came} of {len(arrival.wanted)} instances came, "
        f"{arrival.present} were here, {arrival.size / 2**20:.1f} MiB in {arrival.seconds:.1f} s",
        flush=True,
    )


def _keep(arrival: Arrival, sop_uid: str, content: bytes) -> None:
    """Write an instance under its planned path, if it is the one and whole."""
    path = arrival.wanted.get(sop_uid)
    if path is None or _is_here(path):
        return
    wrong = fault(content, (arrival.study_uid, arrival.series_uid, sop_uid), arrival.is_of)
    if wrong:
        arrival.faults[sop_uid] = wrong
        return
    try:
        with atomic_path(path) as partial_path, open(partial_path, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:  # raised in a thread of the connection it would be lost
        arrival.unwritten = f"{path.parent} cannot be written: {error.strerror}; make room there."
        return
    arrival.faults.pop(sop_uid, None)
    arrival.size += len(content)


def fault(
    content: bytes, asked: tuple[str, str, str], is_of: Callable[[str], bool] = lambda _: True
) -> str:
    """Return what is wrong with a file that arrived; empty if nothing.

    Args:
        content: the file.
        asked: StudyInstanceUID, SeriesInstanceUID and SOPInstanceUID.
        is_of: whether a PatientID is of the patient of whom the PACS listed the series. A file
            without one contradicts nothing, and letters beyond ASCII depend on how each side takes
            its character set.
    """
    if content[128:132] != b"DICM":
        return "it is no DICOM file"
    try:
        dataset = pydicom.dcmread(BytesIO(content))
        last = dataset.get_item(max(dataset.keys()))
    except MemoryError:
        raise
    except Exception as error:  # a damaged file: pydicom raises whatever its parser met
        raise_place_error(error)
        return f"it cannot be read ({type(error).__name__})"
    meta = dataset.file_meta.get("MediaStorageSOPInstanceUID")
    if (dataset.get("SOPInstanceUID") or meta) != asked[2]:
        return "it is another instance"
    if meta not in (None, "", asked[2]):
        return "its file meta is of another instance"
    if dataset.get("SeriesInstanceUID") != asked[1]:
        return "it belongs to another series"
    if dataset.get("StudyInstanceUID") != asked[0]:
        return "it belongs to another study"
    patient_id = str(dataset.get("PatientID") or "").rstrip(" \0")
    if patient_id.strip() and patient_id.isascii() and not is_of(patient_id):
        return "it is of another patient than the PACS listed it for"
    length = getattr(last, "length", None)
    if length not in (None, 0xFFFFFFFF) and len(last.value or b"") < length:
        return "it is cut short"
    return ""


def _is_here(path: Path) -> bool:
    # A file of a machine that lost power may have its name and no content.
    return path.is_file() and path.stat().st_size > 0


def _check(series: Sequence[Arrival]) -> Made:
    """Check that all instances of an item of a case are here, and return how many came.

    Raises:
        CaseFault: instances are missing.
    """
    for arrival in series:
        missing = arrival.missing()
        if not missing and arrival.wanted:
            continue
        if not arrival.wanted:
            problem = "the PACS listed no instance of it"
        else:
            problem = f"{len(missing)} of {len(arrival.wanted)} instances did not come"
            named = [f"{uid}: {arrival.faults[uid]}" for uid in missing if uid in arrival.faults]
            problem += f", such as {named[0]}" if named else ""
        fix = "Look for the series in the PACS, then run snakemake ... --forcerun query retrieve"
        parts = [f"series {arrival.series_uid}: {problem}.", arrival.refusal, fix]
        raise CaseFault(Reason.NOT_RETRIEVED, " ".join(part for part in parts if part))
    instances = sum(len(arrival.wanted) for arrival in series)
    present = sum(arrival.present for arrival in series)
    size = sum(arrival.size for arrival in series)
    return Made(
        note=f"{instances - present} instances, {size} bytes retrieved; "
        f"{present} instances were here already"
    )

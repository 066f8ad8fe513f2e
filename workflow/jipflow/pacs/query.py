"""Stage `query`: ask the PACS for the series of the cohort, as a catalog of what can be retrieved.

A PACS is asked by the narrowest queries that cover the protocol's filter. Columns that the filter
reads and the PACS does not state of a series are read from the header of one of its instances, but
only where the series may still pass. Instances are listed for the series of the cohort alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from jipflow.catalog.headers import HEADER_COLUMNS, header_row
from jipflow.columns import ANNOTATIONS, COLUMNS, IMAGES
from jipflow.expressions import (
    FilterError,
    columns_used,
    conjuncts,
    connect,
    filter_steps,
    select_series,
)
from jipflow.files import write_json, write_parquet
from jipflow.pacs.archive import COUNT, Archive, ArchiveDown, Rejected, checked_uid, is_of_object
from jipflow.pacs.connect import open_archive
from jipflow.pacs.narrow import exactly, narrow
from jipflow.privacy.erased import Erased
from jipflow.reasons import StageError
from jipflow.settings.protocol import Cohort
from jipflow.settings.run import Settings
from jipflow.settings.site import DicomWeb, Dimse

NOBODY = Erased()

LOGGER = logging.getLogger(__name__)

INSTANCE_COLUMNS = ("SOPInstanceUID", "SeriesInstanceUID", "path", "bytes", "modified_ns", "Source")
REPORTED = frozenset({"Manufacturer", "ManufacturerModelName"})
"""What the cohort's table states of each series, whether the filter reads it or not."""
ALWAYS_ANSWERED = frozenset({"PatientID", "StudyDate", "Modality", "SeriesNumber", "Source"})
"""Columns that a PACS must answer with (PS3.4 section C.6.1.1): empty means that it has no value.
Others that come empty may only be unknown to its index."""
PAUSES = (2.0,)
"""Seconds before each time that a series is asked for again."""
UNLISTED = "unlisted"
"""Stands for the file of a series whose instances the PACS did not list; none has that name."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Filter:
    """A protocol's cohort, in parts that can be checked one by one.

    Attributes:
        condition: what every series of the cohort meets, as one expression.
        steps: the conditions that all must be met.
        roles: those of each role, of which one must be met.
        needed: the columns that all of them and the roles' order read.
    """

    condition: str
    steps: list[str]
    roles: list[list[str]]
    needed: frozenset[str]


@dataclass
class PacsCatalog:
    """What a PACS answered.

    Attributes:
        rows: of the catalog, by SeriesInstanceUID.
        known: the columns that are no guess, by SeriesInstanceUID.
        listed: the SOPInstanceUIDs of the series whose instances were asked for; none where the
            PACS refused to list them.
        counts: of headers that were read, of refusals, of values that are no number.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    known: dict[str, set[str]] = field(default_factory=dict)
    listed: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def table(self) -> pd.DataFrame:
        """Return the rows with the types of the catalog."""
        types = {"VARCHAR": "str", "DOUBLE": "float64", "BIGINT": "Int64"}
        frame = pd.DataFrame([self.rows[uid] for uid in sorted(self.rows)], columns=list(COLUMNS))
        return frame.astype({name: types[kind] for name, kind in COLUMNS.items()})


def run(*, settings: Settings, store: Path, out_dir: Path, erased: Erased = NOBODY) -> None:
    """Write the catalog of what the site's PACS have for a protocol.

    Writes into `out_dir`:

    * ``series.parquet``: every series that a PACS answered with. What it did not state is null, or
      empty text, as where a file has no value.
    * ``instances.parquet``: the instances of the series that meet the filter and a role, and of the
      structure sets or segmentations of their patients where the protocol imports such; ``path`` is
      where stage `retrieve` puts the file: ``<store>/<source>/<series>/<instance>.dcm``.
    * ``queries.json``: by source, the queries sent and how many series each gave.

    Args:
        settings: of the site and the protocol.
        store: absolute folder of the retrieved files.
        out_dir: folder of the catalog.
        erased: patients whose series are left out and counted.

    Raises:
        StageError: a PACS does not answer, or refuses a query for series.
        FilterError: an expression cannot be evaluated on what the PACS answered.
    """
    cohort = settings.protocol.cohort
    wanted = _filter(cohort)
    sources = settings.site.archives
    found: dict[str, PacsCatalog] = {}
    report: dict[str, Any] = {}
    chosen: dict[str, set[str]] = {}
    for source in sources:
        taken = {uid for other in found.values() for uid in other.rows}
        with open_archive(source) as archive:
            queries = narrow(
                cohort.where,
                [role.where for role in cohort.case.roles.values()],
                source.match,
            )
            found[source.name], answers = _ask(archive, source, queries, taken)
            _leave_out(found[source.name], erased)
            chosen[source.name] = _choose(archive, source, found[source.name], wanted)
        report[source.name] = {"queries": answers}
    patients = {
        found[name].rows[uid]["PatientID"] for name, uids in chosen.items() for uid in uids
    } - {""}
    kinds = _imported(settings)
    for source in sources if kinds and patients else []:
        name = source.name
        taken = {uid for other in found.values() for uid in other.rows}
        with open_archive(source) as archive:
            report[name]["annotations"] = _ask_annotations(
                archive, source, found[name], chosen[name], (kinds, sorted(patients)), taken
            )
    _write(found, chosen, store, out_dir)
    for name, each in found.items():
        report[name] |= {
            "series": len(each.rows),
            "listed": len(chosen[name]),
            "described": each.counts.pop("described", 0),
            "erased": each.counts.pop("erased", 0),
            "remarks": dict(sorted(each.counts.items())),
        }
    write_json(out_dir / "queries.json", {"sources": report})


def _leave_out(found: PacsCatalog, erased: Erased) -> None:
    """Take out the series of patients who were erased, and count them."""
    for uid in [uid for uid, row in found.rows.items() if row["PatientID"] in erased]:
        del found.rows[uid], found.known[uid]
        found.counts["erased"] += 1


def _filter(cohort: Cohort) -> Filter:
    """Take a protocol's cohort apart into conditions that can be tried one by one."""
    where = filter_steps(cohort.where)
    roles = cohort.case.roles.values()
    condition = " AND ".join(f"(\n{step}\n)" for step in [IMAGES, *where])
    either = " OR ".join(f"(\n{role.where}\n)" for role in roles)
    order = [role.prefer for role in roles if role.prefer is not None]
    needed = columns_used(f"({condition}) AND ({either})").union(
        *(columns_used(terms, "order") for terms in order)
    )
    return Filter(
        f"({condition}) AND ({either})",
        [part for step in [IMAGES, *where] for part in conjuncts(step)],
        [conjuncts(role.where) for role in roles],
        frozenset(needed),
    )


def _ask(
    archive: Archive, source: DicomWeb | Dimse, queries: list[dict[str, str]], taken: set[str]
) -> tuple[PacsCatalog, list[dict[str, Any]]]:
    """Send the queries; series that an earlier source has are left to it."""
    found = PacsCatalog()
    answers = []
    if not queries:
        LOGGER.warning("source %r: no series can meet both the filter and a role.", source.name)
    for keys in queries:
        if not keys:
            LOGGER.warning(
                "source %r: the filter holds nothing that a PACS can be asked for; it is asked for "
                "all its series.",
                source.name,
            )
        series = _find(archive, keys)
        answers.append({"keys": keys, "series": len(series)})
        for answer in series:
            if answer["SeriesInstanceUID"] not in taken:
                _add(found, answer, source.name)
    return found, answers


def _find(archive: Archive, keys: dict[str, str]) -> list[dict[str, str]]:
    try:
        return archive.find_series(keys)
    except Rejected as error:
        raise StageError(str(error)) from None


def _add(found: PacsCatalog, answer: dict[str, str], source: str) -> None:
    """Take over what a PACS states of a series, unless it is there."""
    uid = answer["SeriesInstanceUID"]
    if uid in found.rows:
        return
    row: dict[str, Any] = {}
    known = {"Source"}
    for name, kind in COLUMNS.items():
        keyword, position = {
            "NumberOfInstances": (COUNT, 0),
            "TransferSyntaxUID": ("AvailableTransferSyntaxUID", 0),
            "PixelSpacingRow": ("PixelSpacing", 0),
            "PixelSpacingColumn": ("PixelSpacing", 1),
        }.get(name, (name, 0))
        text = answer.get(keyword, "")
        row[name] = _unpadded(text) if kind == "VARCHAR" else _number(text, kind, position)
        if row[name] not in ("", None) or (keyword in answer and name in ALWAYS_ANSWERED):
            known.add(name)
    if "\\" in row["TransferSyntaxUID"]:  # the PACS can give it in several, and keeps one of them
        row["TransferSyntaxUID"] = ""
        known.discard("TransferSyntaxUID")
    found.rows[uid] = {**row, "Source": source}
    found.known[uid] = known


def _unpadded(text: str) -> str:
    return "\\".join(value.rstrip(" \0") for value in text.split("\\"))


def _number(text: str, kind: str, position: int) -> float | int | None:
    """Return one of the numbers in a text; None where there is none."""
    values = text.split("\\")
    try:
        number = float(values[position]) if kind == "DOUBLE" else int(values[position])
    except (ValueError, IndexError):
        return None
    return number if math.isfinite(number) and (kind == "DOUBLE" or abs(number) < 2**63) else None


def _choose(
    archive: Archive, source: DicomWeb | Dimse, found: PacsCatalog, wanted: Filter
) -> set[str]:
    """Return the series that meet the filter and a role, with their instances listed."""
    possible = _possible(found, wanted)
    _complete(archive, source, found, possible, wanted.needed)
    with connect(found.table()) as connection:
        chosen = set(select_series(connection, wanted.condition))
    _complete(archive, source, found, chosen, REPORTED)
    _list(archive, source, found, chosen)
    return chosen


def _possible(found: PacsCatalog, wanted: Filter) -> set[str]:
    """Return the series that do not fail by what is known of them."""
    with connect(found.table()) as connection:

        def left(clauses: Iterable[str], series: set[str]) -> set[str]:
            for clause in clauses:
                columns = columns_used(clause)
                checked = {uid for uid in series if columns <= found.known[uid]}
                try:
                    met = set(select_series(connection, clause)) if checked else set()
                except FilterError:
                    continue  # a value that is not known yet may be what it stumbles over
                series = (series - checked) | (checked & met)
            return series

        series = left(wanted.steps, set(found.rows))
        return set().union(*(left(role, series) for role in wanted.roles))


def _complete(
    archive: Archive,
    source: DicomWeb | Dimse,
    found: PacsCatalog,
    series: set[str],
    columns: frozenset[str],
) -> None:
    """Read the columns that the PACS did not state from the first instance of each series."""
    lacking = sorted(uid for uid in series if not columns <= found.known[uid])
    _list(archive, source, found, lacking)

    def describe(uid: str) -> tuple[dict[str, Any], list[str]] | None:
        if not found.listed[uid]:
            return None
        ask = partial(
            archive.describe, found.rows[uid]["StudyInstanceUID"], uid, found.listed[uid][0]
        )
        if (header := _patiently(archive, ask)) is None:
            return None
        row, broken = header_row(header)
        syntax = header.get("AvailableTransferSyntaxUID") or ""
        if not row["TransferSyntaxUID"] and isinstance(syntax, str):
            row["TransferSyntaxUID"] = str(syntax)
        return row, broken

    asked = [uid for uid in lacking if not columns <= found.known[uid]]
    for uid, answer in zip(asked, _each(source, describe, asked), strict=True):
        if answer is None:
            found.counts["series of which the PACS gave no header"] += 1
            continue
        row, broken = answer
        found.counts["described"] += 1
        found.counts.update(f"{name} is no number" for name in broken)
        unknown = set(HEADER_COLUMNS) - found.known[uid]
        for name in unknown:
            empty = "" if COLUMNS[name] == "VARCHAR" else None
            found.rows[uid][name] = empty if row[name] is None else row[name]
        found.known[uid] |= unknown


def _list(
    archive: Archive, source: DicomWeb | Dimse, found: PacsCatalog, series: Iterable[str]
) -> None:
    """List the instances of series, where that was not done yet."""

    def instances(uid: str) -> list[str]:
        study = found.rows[uid]["StudyInstanceUID"]
        return _patiently(archive, partial(archive.find_instances, study, uid)) or []

    asked = sorted(set(series) - found.listed.keys())
    for uid, listed in zip(asked, _each(source, instances, asked), strict=True):
        found.listed[uid] = listed
        if not listed:
            found.counts["series of which the PACS listed no instance"] += 1
        elif "NumberOfInstances" not in found.known[uid]:
            found.rows[uid]["NumberOfInstances"] = len(listed)
            found.known[uid].add("NumberOfInstances")


def _patiently(archive: Archive, ask: Callable[[], Result]) -> Result | None:
    """Ask for one series; None where the PACS refuses, or says that it fails at this one.

    Raises:
        ArchiveDown: it does not answer, or not to this question.
    """
    down = None
    for pause in (0.0, *PAUSES):
        time.sleep(pause)
        try:
            return ask()
        except Rejected:
            return None
        except ArchiveDown as error:
            down = error
    assert down is not None
    if not is_of_object(down, archive):
        raise down
    return None


def _each(
    source: DicomWeb | Dimse, function: Callable[[Item], Result], items: Sequence[Item]
) -> list[Result]:
    """Apply a function that asks the PACS to each item, several at a time, in order."""
    pool = ThreadPoolExecutor(source.parallel)
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(cancel_futures=True)


def _imported(settings: Settings) -> list[str]:
    """Return the kinds of annotations that the protocol takes over."""
    kinds = {kind for spec in settings.protocol.segmentations for kind in spec.annotations()}
    return [kind for kind in ANNOTATIONS if kind in kinds]


def _ask_annotations(
    archive: Archive,
    source: DicomWeb | Dimse,
    found: PacsCatalog,
    chosen: set[str],
    wanted: tuple[list[str], list[str]],
    taken: set[str],
) -> dict[str, Any]:
    """Find and list the annotations of the cohort's patients; add them to what was chosen.

    Their study may be another than the image's, so they are asked for by patient.

    Returns:
        What the queries were and how many series they gave; without the patients.
    """
    kinds, patients = wanted
    match = set(source.match)
    per_patient = [
        {key: value for key, value in keys.items() if key in match and value}
        for kind in kinds
        for patient in patients
        for keys in [{"PatientID": exactly("PatientID", patient), "Modality": kind}]
    ]
    queries = [dict(keys) for keys in sorted({tuple(keys.items()) for keys in per_patient})]
    count = 0
    for series in _each(source, partial(_find, archive), queries):
        for answer in series:
            uid = answer["SeriesInstanceUID"]
            mine = _unpadded(answer.get("PatientID", "")) in patients
            mine &= answer.get("Modality") in kinds
            if mine and uid not in taken - found.rows.keys():
                _add(found, answer, source.name)
                count += uid not in chosen
                chosen.add(uid)
    _list(archive, source, found, chosen)
    keys = {"Modality": kinds}
    if "PatientID" in match:
        keys["PatientID"] = ["each patient of the cohort"]
    return {"keys": keys, "queries": len(queries), "series": count}


def _write(
    found: dict[str, PacsCatalog], chosen: dict[str, set[str]], store: Path, out_dir: Path
) -> None:
    """Write the catalog of what the PACS have; see `run`."""
    instances = []
    for name, each in found.items():
        for uid in sorted(chosen[name]):
            folder = store / name / checked_uid(uid, name)
            for sop_uid in each.listed[uid] or [""]:
                stem = checked_uid(sop_uid, name) if sop_uid else UNLISTED
                path = str(folder / f"{stem}.dcm")
                instances.append((sop_uid, uid, path, 0, 0, name))
    tables = [each.table() for each in found.values()]
    series = pd.concat(tables, ignore_index=True) if tables else PacsCatalog().table()
    write_parquet(
        out_dir / "instances.parquet", pd.DataFrame(instances, columns=list(INSTANCE_COLUMNS))
    )
    write_parquet(
        out_dir / "series.parquet",
        series.sort_values("SeriesInstanceUID").reset_index(drop=True),
    )

"""Stage `cohort`: the protocol's filter over the catalog, cases with roles, stable shards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydicom.uid import ParametricMapStorage

from jipflow.catalog.assignment import assigned, usual_size
from jipflow.catalog.consented import keep_consented
from jipflow.catalog.lost import Lost, find_lost, with_lost
from jipflow.catalog.query import count_series, open_catalogs, store_series
from jipflow.columns import GIVEN, IMAGES
from jipflow.expressions import filter_steps
from jipflow.files import (
    atomic_path,
    read_parquet,
    scratch_folder,
    write_json,
    write_parquet,
)
from jipflow.outcomes import Outcome, Status, write_outcomes
from jipflow.privacy.consent import read_consents
from jipflow.privacy.pseudonyms import pseudonym, site_secret
from jipflow.reasons import Reason
from jipflow.settings.protocol import CaseOf, SeriesRole
from jipflow.settings.run import Settings
from jipflow.syntaxes import MAP

STAGE = "cohort"
CASE_COLUMNS = (
    "case_id",
    "patient",
    "shard",
    "role",
    "series_uid",
    "modality",
    "manufacturer",
    "model",
    "protocol_name",
    "instances",
)
SHARD_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in (
            "case_id",
            "patient",
            "shard",
            "role",
            "series_uid",
            "study_uid",
            "modality",
            "source",
            "sop_uid",
            "path",
        )
    ]
    + [("bytes", pa.int64()), ("modified_ns", pa.int64())]
)
"""One row per instance; the role of annotations is empty. Size and time of each file stand there so
that a file fixed in place is noticed."""


ROWS = 65536
"""Rows of the shards that are held in memory at once."""


@dataclass(frozen=True)
class Candidate:
    """A patient at a time point, before roles are settled.

    Attributes:
        case_id: pseudonym.
        patient: pseudonym of the patient.
        key: PatientID, and StudyInstanceUID where a case is a study.
    """

    case_id: str
    patient: str
    key: tuple[str, ...]


MEASURED = f"CASE WHEN SOPClassUID = '{ParametricMapStorage}' THEN '{MAP}' ELSE Modality END"
"""What the values of a series are of. A map has the Modality of its source, not its units."""


@dataclass(frozen=True)
class Choice:
    """What a case has for a role.

    Attributes:
        series: the columns SeriesInstanceUID, StudyInstanceUID, Modality, Manufacturer,
            ManufacturerModelName and NumberOfInstances of the series that comes first.
        fitting: the SeriesInstanceUIDs that meet the role, as text; empty where it is one.
    """

    series: dict[str, Any]
    fitting: str


def run(
    *,
    settings: Settings,
    catalog_dirs: Sequence[Path],
    out_dir: Path,
    results: Path,
    redact: Callable[[str], str] = str,
) -> None:
    """Select the cohort and deal its cases to shards.

    Writes into `out_dir`: ``cases.tsv`` (one row per case and role), ``flow.json``,
    ``outcomes.parquet``, ``assignment.tsv`` (append-only: the shard of every case ever seen) and
    ``shards/<shard>.parquet`` (one row per instance; `SHARD_SCHEMA`). A shard's file is left
    untouched when its content is the same, so that nothing that depends on it is computed again.

    Args:
        settings: of the site and the protocol.
        catalog_dirs: folders with ``series.parquet`` and ``instances.parquet``: of the site's
            folders, of its PACS, or of both. A series in both is taken from the first.
        out_dir: folder of the cohort.
        results: folder for the results of all protocols, which keeps the secret's fingerprint.
        redact: takes what may identify a patient out of a message.

    Raises:
        StageError: the list of consents, where the protocol asks for it, is none or contradicts
            itself.
        OSError: a file cannot be read.
    """
    cohort = settings.protocol.cohort
    secret = site_secret(Path(settings.site.identity.secret_file), results)
    with scratch_folder(out_dir) as spill, open_catalogs(catalog_dirs, spill) as connection:
        found = _step(connection, "found", "Series found", ["TRUE"])
        consented = []
        if cohort.consent is not None:
            assert settings.site.consent is not None
            consents = read_consents(Path(settings.site.consent.file), cohort.consent.scope)
            consented = [keep_consented(connection, consents, cohort.consent, date.today())]
        flow = [found, *consented, *_filter(connection, cohort.where)]
        candidates, outcomes = _candidates(connection, cohort.case.by, secret)
        chosen, excluded = _choose_roles(connection, candidates, cohort.case)
        outcomes += excluded
        conditions = [role.where for role in cohort.case.roles.values()]
        lost = find_lost(connection, filter_steps(cohort.where), conditions)
        flow = [*with_lost(flow[0], lost), *flow[1:]]
        _note_lost(lost, chosen, {o.case_id: o for o in outcomes}, candidates)
        outcomes += _cases_of_lost(lost, candidates, cohort.case.by, secret)
        flow.append(_count_cases(chosen))
        shards = assigned(
            out_dir / "assignment.tsv",
            sorted(case.case_id for case in chosen),
            settings.site.processing.shard_size or usual_size(len(chosen)),
        )
        _write_shards(connection, out_dir / "shards", _role_entries(chosen, shards))
    rows = _case_rows(chosen, shards)
    written = [replace(outcome, message=redact(outcome.message)) for outcome in outcomes]
    write_outcomes(out_dir / "outcomes.parquet", written)
    write_json(out_dir / "flow.json", {"steps": flow})
    with atomic_path(out_dir / "cases.tsv") as partial:
        pd.DataFrame(rows, columns=list(CASE_COLUMNS)).to_csv(partial, sep="\t", index=False)


def _filter(connection: duckdb.DuckDBPyConnection, where: str | list[str]) -> list[dict[str, Any]]:
    """Make the table ``members`` of the series that pass the filter; count what each step keeps.

    Returns:
        The steps of the flow, from the images on.
    """
    steps = filter_steps(where)
    labels = [("images", "Image series, no contours or segmentations")]
    labels += [(f"where-{number}", step) for number, step in enumerate(steps, start=1)]
    conditions = ["TRUE", IMAGES, *steps]
    flow = [
        _step(connection, step, label, conditions[:number])
        for number, (step, label) in enumerate(labels, start=2)
    ]
    store_series(connection, "passed", conditions)
    connection.execute(
        "CREATE TABLE members AS SELECT SeriesInstanceUID, coalesce(PatientID, '') AS PatientID,"
        f" StudyInstanceUID, {MEASURED} AS Modality, Manufacturer, ManufacturerModelName,"
        " ProtocolName, NumberOfInstances"
        " FROM catalog WHERE SeriesInstanceUID IN (SELECT SeriesInstanceUID FROM passed)"
        " ORDER BY SeriesInstanceUID"
    )
    return flow


def _step(
    connection: duckdb.DuckDBPyConnection, step: str, label: str, conditions: Sequence[str]
) -> dict[str, Any]:
    """Return a step of the flow: what meets all of some conditions."""
    series, patients = count_series(connection, conditions)
    return {"step": step, "label": label, "series": series, "patients": patients}


def _candidates(
    connection: duckdb.DuckDBPyConnection, by: str, secret: bytes
) -> tuple[list[Candidate], list[Outcome]]:
    """Group the cohort's series into cases; exclude series without PatientID."""
    # What white space is, Python says, as it does where the headers are read.
    identities = _rows(
        connection, f"SELECT DISTINCT {', '.join(_keys(by))} FROM members ORDER BY ALL"
    )
    nameless = sorted({row["PatientID"] for row in identities if not row["PatientID"].strip()})
    outcomes = [
        _excluded(
            pseudonym(secret, "series", row["SeriesInstanceUID"]),
            Reason.MISSING_PATIENT_ID,
            f"series {row['SeriesInstanceUID']} has no PatientID; fix it in the archive.",
        )
        for row in _rows(
            connection,
            "SELECT SeriesInstanceUID FROM members WHERE list_contains($1, PatientID)"
            " ORDER BY SeriesInstanceUID",
            nameless,
        )
    ]
    candidates = []
    for row in identities:
        key = tuple(row[name] for name in _keys(by))
        if key[0].strip():
            candidates.append(
                Candidate(
                    pseudonym(secret, "case", *key), pseudonym(secret, "patient", key[0]), key
                )
            )
    return sorted(candidates, key=lambda c: c.case_id), outcomes


def _keys(by: str) -> tuple[str, ...]:
    return ("PatientID", "StudyInstanceUID") if by == "study" else ("PatientID",)


def _choose_roles(
    connection: duckdb.DuckDBPyConnection, candidates: Iterable[Candidate], case: CaseOf
) -> tuple[dict[Candidate, dict[str, Choice]], list[Outcome]]:
    """Give each case one series per role, or exclude it with the reason."""
    roles = case.roles
    fitting = {
        role: _fitting(connection, f"role_{position}", spec, _keys(case.by))
        for position, (role, spec) in enumerate(roles.items())
    }
    listed = _listed(connection, fitting)
    chosen: dict[Candidate, dict[str, Choice]] = {}
    outcomes: list[Outcome] = []
    for candidate in candidates:
        picked: dict[str, Choice] = {}
        fault = None
        for role, spec in roles.items():
            choice = fitting[role].get(candidate.key)
            if choice is None and spec.required:
                fault = _excluded(
                    candidate.case_id,
                    Reason.MISSING_ROLE,
                    f"no series meets role {role}: {spec.where}",
                )
            elif choice is not None and choice.fitting and spec.prefer is None:
                fault = _excluded(
                    candidate.case_id,
                    Reason.SEVERAL_SERIES_FOR_ROLE,
                    f"{choice.fitting.count(',') + 1} series meet role {role}: {choice.fitting}; "
                    "narrow the role's filter or give it a `prefer`.",
                )
            elif choice is not None and choice.series["SeriesInstanceUID"] not in listed:
                fault = _excluded(
                    candidate.case_id,
                    Reason.NOT_RETRIEVED,
                    f"the catalog lists no instance of series "
                    f"{choice.series['SeriesInstanceUID']} for role {role}.",
                )
            elif choice is not None:
                picked[role] = choice
        if fault is not None:
            outcomes.append(fault)
        elif picked:
            chosen[candidate] = picked
            outcomes.append(Outcome(candidate.case_id, STAGE))
        else:
            outcomes.append(
                _excluded(candidate.case_id, Reason.MISSING_ROLE, "no series meets any role")
            )
    return chosen, outcomes


def _fitting(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    spec: SeriesRole,
    keys: tuple[str, ...],
) -> dict[tuple[str, ...], Choice]:
    """Return what each case has for a role."""
    store_series(connection, table, [spec.where], spec.prefer or "SeriesInstanceUID", "members")
    key = ", ".join(keys)
    rows = _rows(
        connection,
        f"WITH ranked AS (SELECT m.*, row_number() OVER (PARTITION BY {key} ORDER BY r.rowid) AS"
        f" rank, count(*) OVER (PARTITION BY {key}) AS n"
        f" FROM {table} r JOIN members m USING (SeriesInstanceUID)),"
        f" several AS (SELECT {key}, string_agg(SeriesInstanceUID, ', ' ORDER BY rank) AS fitting"
        f" FROM ranked WHERE n > 1 GROUP BY {key})"
        f" SELECT ranked.* EXCLUDE (rank, n), coalesce(fitting, '') AS fitting"
        f" FROM ranked LEFT JOIN several USING ({key}) WHERE rank = 1",
    )
    return {tuple(row[name] for name in keys): Choice(row, row.pop("fitting")) for row in rows}


def _listed(
    connection: duckdb.DuckDBPyConnection, fitting: dict[str, dict[tuple[str, ...], Choice]]
) -> set[str]:
    """Return those of the chosen series of which the catalog lists instances."""
    uids = sorted(
        {c.series["SeriesInstanceUID"] for role in fitting.values() for c in role.values()}
    )
    connection.register("chosen", pa.table({"uid": pa.array(uids, pa.string())}))
    rows = _rows(
        connection,
        "SELECT uid FROM chosen WHERE uid IN (SELECT SeriesInstanceUID FROM instances)",
    )
    connection.unregister("chosen")
    return {row["uid"] for row in rows}


def _rows(
    connection: duckdb.DuckDBPyConnection, query: str, *parameters: Any
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        connection.sql(query, params=parameters).to_arrow_table().to_pylist()
    )
    return rows


def _note_lost(
    lost: Iterable[Lost],
    chosen: dict[Candidate, dict[str, Choice]],
    outcomes: dict[str, Outcome],
    candidates: Sequence[Candidate],
) -> None:
    """Say in the outcome of each case which of its files cannot be read."""
    of_patient = defaultdict(list)
    for case in candidates:
        of_patient[case.key[0]].append(case)
    for one in lost:
        for case in of_patient[one.patient]:
            used = {c.series["SeriesInstanceUID"] for c in chosen.get(case, {}).values()}
            of_case = one.series in used if one.partly else (one.image or one.drawn)
            if not of_case or not _may_be_of(one, case):
                continue
            outcome = outcomes[case.case_id]
            if outcome.reason == Reason.MISSING_ROLE and one.image:
                outcome.reason = Reason.UNREADABLE.value
            outcome.message = f"{outcome.message} {one.sentence()}".strip()


def _cases_of_lost(
    lost: Iterable[Lost], candidates: Sequence[Candidate], by: str, secret: bytes
) -> list[Outcome]:
    """Return the outcomes of cases of which no file can be read."""
    outcomes: dict[str, Outcome] = {}
    there = {case.key for case in candidates}
    patients = {case.key[0] for case in candidates}
    for one in lost:
        known = (one.patient, one.study)[: len(_keys(by))]
        if not one.image or not one.whole:
            continue
        if known in there or (not all(known) and one.patient in patients):
            continue
        identity = ("case", *known) if one.patient else ("series", one.series)
        case_id = pseudonym(secret, *identity)
        outcome = outcomes.setdefault(case_id, _excluded(case_id, Reason.UNREADABLE, ""))
        outcome.message = f"{outcome.message} {one.sentence()}".strip()
    return list(outcomes.values())


def _may_be_of(lost: Lost, case: Candidate) -> bool:
    """Return whether files that cannot be read may be of a case, by what is known of them."""
    known = (lost.patient, lost.study)
    return bool(lost.patient) and all(
        not mine or mine == theirs for mine, theirs in zip(known, case.key, strict=False)
    )


def _count_cases(chosen: dict[Candidate, dict[str, Choice]]) -> dict[str, Any]:
    return {
        "step": "cases",
        "label": "Cases with every required role",
        "series": sum(len(roles) for roles in chosen.values()),
        "patients": len({case.patient for case in chosen}),
        "cases": len(chosen),
    }


def _excluded(case_id: str, reason: Reason, message: str) -> Outcome:
    return Outcome(case_id, STAGE, "", Status.EXCLUDED, reason.value, message)


def _case_rows(
    chosen: dict[Candidate, dict[str, Choice]], shards: dict[str, str]
) -> list[dict[str, Any]]:
    """Return the rows of the cohort's table: one line of the file for each role of each case."""
    return [
        {
            "case_id": case.case_id,
            "patient": case.patient,
            "shard": shards[case.case_id],
            "role": role,
            "series_uid": _in_line(choice.series["SeriesInstanceUID"]),
            "modality": _in_line(choice.series["Modality"]),
            "manufacturer": _in_line(choice.series["Manufacturer"]),
            "model": _in_line(choice.series["ManufacturerModelName"]),
            "protocol_name": _in_line(choice.series["ProtocolName"]),
            "instances": choice.series["NumberOfInstances"],
        }
        for case, roles in chosen.items()
        for role, choice in sorted(roles.items())
    ]


def _in_line(text: str | None) -> str | None:
    """Return a header's text without what would end a cell or a line of the table."""
    return None if text is None else "".join(c if c.isprintable() else " " for c in text).strip()


def _role_entries(chosen: dict[Candidate, dict[str, Choice]], shards: dict[str, str]) -> pa.Table:
    """Return the series of each case's roles, with the patient's identity, for `_write_shards`."""
    fields = ("case_id", "patient", "shard", "role", "series_uid", "study_uid", "modality")
    rows = [
        (
            case.case_id,
            case.patient,
            shards[case.case_id],
            role,
            choice.series["SeriesInstanceUID"],
            choice.series["StudyInstanceUID"],
            choice.series["Modality"],
            case.key[0],
        )
        for case, roles in chosen.items()
        for role, choice in roles.items()
    ]
    columns = zip(*rows, strict=True) if rows else [()] * (len(fields) + 1)
    return pa.table(
        [pa.array(column, pa.string()) for column in columns], names=[*fields, "PatientID"]
    )


def _write_shards(connection: duckdb.DuckDBPyConnection, folder: Path, roles: pa.Table) -> None:
    """Write the instances of each shard, unless its file already says the same.

    RTSTRUCT, SEG and REG series are given to every case of their patient: which one fits an image
    is for the engine to find by reference and geometry, for study and series UIDs of contours are
    often wrong.

    Args:
        connection: to the catalogs.
        folder: of the shards' files.
        roles: from `_role_entries`.
    """
    connection.register("roles", roles)
    connection.execute(
        "CREATE TABLE entries AS SELECT * EXCLUDE (PatientID) FROM roles UNION ALL SELECT"
        " cases.case_id, cases.patient, cases.shard, '', c.SeriesInstanceUID, c.StudyInstanceUID,"
        " c.Modality FROM catalog c JOIN"
        " (SELECT DISTINCT case_id, patient, shard, PatientID FROM roles) cases USING (PatientID)"
        f" WHERE c.Modality IN {GIVEN}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    for shard, table in _by_shard(
        connection.sql(
            "SELECT e.*, i.Source AS source, i.SOPInstanceUID AS sop_uid, i.path, i.bytes,"
            " i.modified_ns FROM entries e JOIN instances i ON i.SeriesInstanceUID = e.series_uid"
            " ORDER BY shard, case_id, role, series_uid, path"
        ).to_arrow_reader(ROWS)
    ):
        written.add(shard)
        path = folder / f"{shard}.parquet"
        if not _holds(path, table):
            write_parquet(path, table)
    for path in folder.glob("*.parquet"):
        if path.stem not in written:
            path.unlink()


def _holds(path: Path, table: pa.Table) -> bool:
    """Return whether a shard's file is there, whole, and has this table."""
    try:
        return path.is_file() and bool(read_parquet(path).equals(table))
    except ValueError:
        return False


def _by_shard(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, pa.Table]]:
    """Gather sorted rows that come in batches into one table a shard."""
    held: list[pa.RecordBatch] = []
    shard = ""
    for batch in batches:
        names = batch.column("shard")
        runs = pc.run_end_encode(names)
        start = 0
        for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if held and name != shard:
                yield shard, _shard_table(held)
                held = []
            shard = name
            held.append(batch.slice(start, end - start))
            start = end
    if held:
        yield shard, _shard_table(held)


def _shard_table(batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches).cast(SHARD_SCHEMA).combine_chunks()

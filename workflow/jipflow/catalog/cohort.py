"""Stage `cohort`: the protocol's filter over the catalog, cases with roles, stable shards."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from jipflow.cases import Outcome, Reason, Status, write_outcomes
from jipflow.catalog.query import connect, filter_steps, select_series
from jipflow.config import Settings
from jipflow.files import atomic_path, write_json, write_parquet
from jipflow.privacy.pseudonyms import pseudonym, site_secret

STAGE = "cohort"
ANNOTATIONS = ("RTSTRUCT", "SEG")
IMAGES = f"Modality NOT IN {ANNOTATIONS}"
CASE_COLUMNS = (
    "case_id",
    "patient",
    "shard",
    "role",
    "series_uid",
    "modality",
    "manufacturer",
    "model",
    "instances",
)


@dataclass(frozen=True)
class Candidate:
    """A patient at a time point, before roles are settled.

    Attributes:
        case_id: pseudonym.
        patient: pseudonym of the patient.
        series: SeriesInstanceUIDs of the cohort that belong to it.
    """

    case_id: str
    patient: str
    series: frozenset[str]


def run(settings: Settings, catalog_dir: Path, out_dir: Path) -> None:
    """Select the cohort and deal its cases to shards.

    Writes into `out_dir`: ``cases.tsv`` (one row per case and role), ``flow.json``,
    ``outcomes.parquet``, ``assignment.tsv`` (append-only: the shard of every case ever seen) and
    ``shards/<shard>.parquet`` (one row per instance). A shard's file is left untouched when its
    content is the same, so that nothing that depends on it is computed again.

    Args:
        settings: of the site and the protocol.
        catalog_dir: folder written by `jipflow.catalog.scan.scan`.
        out_dir: folder of the cohort.
    """
    catalog = pd.read_parquet(catalog_dir / "series.parquet")
    secret = site_secret(Path(settings.site["identity"]["secret_file"]))
    flow: list[dict[str, Any]] = []
    with connect(catalog) as connection:
        selected = _filter(connection, catalog, settings.protocol["cohort"]["where"], flow)
        candidates, outcomes = _candidates(
            catalog[catalog["SeriesInstanceUID"].isin(selected)],
            settings.protocol["cohort"]["case"]["by"],
            secret,
        )
        chosen, excluded = _choose_roles(
            connection, candidates, settings.protocol["cohort"]["case"]["roles"]
        )
    outcomes += excluded
    roles = {uid: (case, role) for case in chosen for role, uid in chosen[case].items()}
    in_cases = catalog[catalog["SeriesInstanceUID"].isin(roles)]
    flow.append(
        {**_count("cases", "Cases with every required role", in_cases), "cases": len(chosen)}
    )
    shards = _assign(
        out_dir / "assignment.tsv",
        sorted(case.case_id for case in chosen),
        settings.site["processing"]["shard_size"],
    )
    rows = _case_rows(catalog.set_index("SeriesInstanceUID"), chosen, shards)
    instances = pd.read_parquet(catalog_dir / "instances.parquet")
    _write_shards(out_dir / "shards", rows, _annotations(catalog, chosen, secret), instances)
    write_outcomes(out_dir / "outcomes.parquet", outcomes)
    write_json(out_dir / "flow.json", {"steps": flow})
    with atomic_path(out_dir / "cases.tsv") as partial:
        pd.DataFrame(rows, columns=list(CASE_COLUMNS)).to_csv(partial, sep="\t", index=False)


def _count(step: str, label: str, series: pd.DataFrame) -> dict[str, Any]:
    return {
        "step": step,
        "label": label,
        "series": len(series),
        "patients": int(series["PatientID"].replace("", None).nunique()),
    }


def _filter(
    connection: duckdb.DuckDBPyConnection,
    catalog: pd.DataFrame,
    where: str | list[str],
    flow: list[dict[str, Any]],
) -> list[str]:
    """Apply the filter's steps one on top of the other; count what each keeps in `flow`."""
    flow.append(_count("found", "Series found", catalog))
    condition = IMAGES
    selected = select_series(connection, condition)
    images = catalog[catalog["SeriesInstanceUID"].isin(selected)]
    flow.append(_count("images", "Image series, no contours or segmentations", images))
    for number, step in enumerate(filter_steps(where), start=1):
        condition = f"({condition}\n) AND (\n{step}\n)"
        selected = select_series(connection, condition)
        kept = catalog[catalog["SeriesInstanceUID"].isin(selected)]
        flow.append(_count(f"where-{number}", step, kept))
    return selected


def _candidates(
    series: pd.DataFrame, by: str, secret: bytes
) -> tuple[list[Candidate], list[Outcome]]:
    """Group the cohort's series into cases."""
    outcomes = [
        _excluded(
            pseudonym(secret, "series", str(row.SeriesInstanceUID)),
            Reason.MISSING_PATIENT_ID,
            f"series {row.SeriesInstanceUID} has no PatientID; mend it in the archive.",
        )
        for row in series[series["PatientID"].str.strip() == ""].itertuples()
    ]
    series = series[series["PatientID"].str.strip() != ""]
    keys = ["PatientID", "StudyInstanceUID"] if by == "study" else ["PatientID"]
    candidates = []
    for identity, rows in series.groupby(keys):
        parts = [str(part) for part in identity] if isinstance(identity, tuple) else [str(identity)]
        candidates.append(
            Candidate(
                pseudonym(secret, "case", *parts),
                pseudonym(secret, "patient", parts[0]),
                frozenset(rows["SeriesInstanceUID"]),
            )
        )
    return sorted(candidates, key=lambda c: c.case_id), outcomes


def _choose_roles(
    connection: duckdb.DuckDBPyConnection,
    candidates: Iterable[Candidate],
    roles: dict[str, dict[str, Any]],
) -> tuple[dict[Candidate, dict[str, str]], list[Outcome]]:
    """Give each case one series per role, or exclude it with the reason."""
    fitting = {
        role: select_series(connection, spec["where"], spec.get("prefer", "SeriesInstanceUID"))
        for role, spec in roles.items()
    }
    chosen: dict[Candidate, dict[str, str]] = {}
    outcomes: list[Outcome] = []
    for case in candidates:
        picked: dict[str, str] = {}
        fault = None
        for role, spec in roles.items():
            series = [uid for uid in fitting[role] if uid in case.series]
            if not series and spec["required"]:
                fault = _excluded(
                    case.case_id,
                    Reason.MISSING_ROLE,
                    f"no series meets role {role}: {spec['where']}",
                )
            elif len(series) > 1 and "prefer" not in spec:
                fault = _excluded(
                    case.case_id,
                    Reason.SEVERAL_SERIES_FOR_ROLE,
                    f"{len(series)} series meet role {role}: {', '.join(series)}; narrow the "
                    "role's filter or give it a `prefer`.",
                )
            elif series:
                picked[role] = series[0]
        if fault is not None:
            outcomes.append(fault)
        elif picked:
            chosen[case] = picked
            outcomes.append(Outcome(case.case_id, STAGE))
        else:
            outcomes.append(
                _excluded(case.case_id, Reason.MISSING_ROLE, "no series meets any role")
            )
    return chosen, outcomes


def _excluded(case_id: str, reason: Reason, message: str) -> Outcome:
    return Outcome(case_id, STAGE, "", Status.EXCLUDED, reason.value, message)


def _assign(path: Path, case_ids: list[str], size: int) -> dict[str, str]:
    """Return each case's shard; cases not seen before open new shards.

    Args:
        path: the append-only table of case_id and shard.
        case_ids: the cases of this run, sorted.
        size: most cases a new shard takes.
    """
    known: dict[str, str] = {}
    if path.is_file():
        with open(path, encoding="utf-8", newline="") as stream:
            known = {row["case_id"]: row["shard"] for row in csv.DictReader(stream, delimiter="\t")}
    new = [case_id for case_id in case_ids if case_id not in known]
    opened = len(Counter(known.values()))
    for position, case_id in enumerate(new):
        known[case_id] = f"s{opened + position // size + 1:05d}"
    if new or not path.is_file():
        with atomic_path(path) as partial:
            pd.DataFrame(known.items(), columns=["case_id", "shard"]).to_csv(
                partial, sep="\t", index=False
            )
    return {case_id: known[case_id] for case_id in case_ids}


def _case_rows(
    catalog: pd.DataFrame, chosen: dict[Candidate, dict[str, str]], shards: dict[str, str]
) -> list[dict[str, Any]]:
    rows = []
    for case, roles in chosen.items():
        for role, uid in sorted(roles.items()):
            series = catalog.loc[uid]
            rows.append(
                {
                    "case_id": case.case_id,
                    "patient": case.patient,
                    "shard": shards[case.case_id],
                    "role": role,
                    "series_uid": uid,
                    "modality": series["Modality"],
                    "manufacturer": series["Manufacturer"],
                    "model": series["ManufacturerModelName"],
                    "instances": series["NumberOfInstances"],
                }
            )
    return rows


def _annotations(
    catalog: pd.DataFrame, chosen: dict[Candidate, dict[str, str]], secret: bytes
) -> dict[str, list[tuple[str, str]]]:
    """Return (SeriesInstanceUID, Modality) of RTSTRUCT and SEG series by patient pseudonym.

    They are given to every case of their patient: which one fits an image is for the engine to
    find by reference and geometry, for study and series UIDs of contours are often wrong.
    """
    patients = {case.patient for case in chosen}
    found: dict[str, list[tuple[str, str]]] = {}
    for row in catalog[catalog["Modality"].isin(ANNOTATIONS)].itertuples():
        patient = pseudonym(secret, "patient", str(row.PatientID))
        if patient in patients:
            found.setdefault(patient, []).append((str(row.SeriesInstanceUID), str(row.Modality)))
    return found


def _write_shards(
    folder: Path,
    rows: list[dict[str, Any]],
    annotations: dict[str, list[tuple[str, str]]],
    instances: pd.DataFrame,
) -> None:
    """Write a shard's instances, unless its file already says the same.

    Size and time of each file stand there too, so that a file mended in place is noticed.
    """
    files = {
        str(uid): rows.sort_values("path").to_dict("records")
        for uid, rows in instances.groupby("SeriesInstanceUID")
    }
    by_shard: dict[str, list[dict[str, Any]]] = {}
    seen = set()
    for row in rows:
        entries = [(row["role"], row["series_uid"], row["modality"])]
        if row["case_id"] not in seen:
            seen.add(row["case_id"])
            entries += [("", uid, kind) for uid, kind in annotations.get(row["patient"], [])]
        for role, uid, modality in entries:
            for file in files[uid]:
                by_shard.setdefault(row["shard"], []).append(
                    {
                        "case_id": row["case_id"],
                        "patient": row["patient"],
                        "shard": row["shard"],
                        "role": role,
                        "series_uid": uid,
                        "modality": modality,
                        "path": file["path"],
                        "bytes": file["bytes"],
                        "modified_ns": file["modified_ns"],
                    }
                )
    for shard, entries_of_shard in sorted(by_shard.items()):
        path = folder / f"{shard}.parquet"
        table = pd.DataFrame(entries_of_shard)
        if not path.is_file() or not pd.read_parquet(path).equals(table):
            write_parquet(path, table)
    for path in folder.glob("*.parquet"):
        if path.stem not in by_shard:
            path.unlink()

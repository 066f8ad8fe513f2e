"""Imaging features as tables of the OMOP CDM, for the site's own warehouse.

The tables are those of the imaging extension (MI-CDM, Park et al. 2024, doi
10.1007/s10278-024-00982-6) and MEASUREMENT of the CDM v5.4. They name patients' persons, studies
and dates, so that they go nowhere but into a folder that the site names.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import duckdb
import pandas as pd

import jipflow
from jipflow.catalog.query import open_catalogs
from jipflow.expressions import quoted
from jipflow.files import canonical_digest, read_frame, scratch_folder
from jipflow.objects.feature_codes import FeatureName, name_feature
from jipflow.objects.terms import Term, coded
from jipflow.omop.maps import ConceptMap
from jipflow.outcomes import passed, read_outcomes
from jipflow.privacy.erased import read_erased
from jipflow.privacy.pseudonyms import known_secret, pseudonym
from jipflow.reasons import StageError
from jipflow.settings.run import Settings, read_settings
from jipflow.settings.site import DicomWeb, Folder
from jipflow.tables import FEATURE_COLUMNS

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept

Form = Literal["csv", "parquet"]

MEASUREMENT_TABLE = 1147330
"""Concept of the table MEASUREMENT, which MI-CDM's image_feature_event_field_concept_id names."""

ALGORITHM = 32880
"""Type concept "Standard algorithm": where a measurement comes from."""

BODY_PART = "BodyPartExamined"
"""Code system of the values of Body Part Examined (0018,0015), which DICOM has as words."""

REGION = ("case_id", "role", "segmentation", "segment")
OF_SERIES = ("modality", "image_occurrence_id")
TABLES = ("image_occurrence", "image_feature", "measurement", "source_code", "left_out")


@dataclass(frozen=True)
class Maps:
    """What the site's warehouse has.

    Attributes:
        persons: person_id by PatientID.
        studies: visit_occurrence_id and procedure_occurrence_id by StudyInstanceUID.
        concepts: of codes.
    """

    persons: Mapping[str, int]
    studies: Mapping[str, tuple[int | None, int | None]]
    concepts: ConceptMap


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        rows: by table.
        left_out: series by reason.
        failed: features without a value, which have no row.
        without_procedure: series without procedure_occurrence_id.
        unmapped: rows by code that has no concept.
    """

    rows: dict[str, int]
    left_out: dict[str, int]
    failed: int
    without_procedure: int
    unmapped: dict[tuple[str, str], int]


def export(*, results: Path, out: Path, maps: Maps, first_id: int, form: Form = "csv") -> Exported:
    """Write a protocol's results as tables of the OMOP CDM.

    Ids count from `first_id` in the order of series, regions and features, so that the same
    results and maps give the same bytes.

    Args:
        results: the protocol's results folder, of a run that has ended.
        out: folder for the tables; it is made, with mode 0700, and its files have mode 0600.
        maps: of the site's warehouse.
        first_id: of each table; the ids from there on must be free.
        form: of the files.

    Raises:
        StageError: the folder is one whose files leave the site, or the results do not belong to
            each other.
    """
    settings = read_settings(results / "settings.json")
    check_folder(out, settings, results)
    secret = known_secret(Path(settings.site.identity.secret_file))
    series = _series(results, settings, secret)
    occurrences, left_out = _occurrences(series, maps, first_id)
    features = _features(results, settings)
    kept = features.merge(occurrences[["case_id", "role", "modality", "image_occurrence_id"]])
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    out.chmod(0o700)
    connection = duckdb.connect(":memory:", config={"threads": 1})
    with scratch_folder(out) as spill:
        connection.execute(f"SET temp_directory = {quoted(spill)}")
        regions, codes = _described(kept, settings, maps.concepts, first_id)
        _fill(connection, occurrences, kept, regions, codes, first_id)
        codes_table = _source_codes(codes, maps.concepts)
        connection.register("source_code", codes_table)
        connection.register("left_out", left_out)
        rows = {table: _write(connection, table, spill, form) for table in TABLES}
        for table in TABLES:
            os.replace(spill / f"{table}.{form}", out / f"{table}.{form}")
    return Exported(
        rows=rows,
        left_out=dict(Counter(left_out["reason"])),
        failed=len(read_frame(results / "features" / "failures.parquet")),
        without_procedure=_count(
            connection, "image_occurrence WHERE procedure_occurrence_id IS NULL"
        ),
        unmapped=maps.concepts.unmapped(),
    )


def check_folder(out: Path, settings: Settings, results: Path) -> None:
    """Refuse a folder whose files leave the site.

    Raises:
        StageError: it is, or lies in, ``release``, ``bundles`` or a folder of the exchange.
    """
    real = out.resolve()
    folders = [results / "release", results / "bundles"]
    folders += settings.site.exchange.folders(results.parent)
    inside = any(real.is_relative_to(folder.resolve()) for folder in folders)
    if inside or {"release", "bundles"} & set(real.parts):
        raise StageError(
            f"{out}: what lies there leaves the site, and these tables name patients; name a "
            "folder of the warehouse's import."
        )


def _series(results: Path, settings: Settings, secret: bytes) -> pd.DataFrame:
    """Return the series of the cohort's roles, with what the catalog says of them."""
    shards = sorted((results / "cohort" / "shards").glob("*.parquet"))
    if not shards:
        raise StageError(f"{results}: its cohort has no case; run the workflow first.")
    listed = ", ".join(quoted(path) for path in shards)
    roles = duckdb.execute(
        "SELECT case_id, patient, role, series_uid, any_value(study_uid) AS study_uid,"
        " any_value(modality) AS modality, min(source) AS source, min(path) AS path"
        f" FROM read_parquet([{listed}]) WHERE role <> '' GROUP BY ALL ORDER BY ALL"
    ).df()
    folders = [f for f in (results.parent / "catalog", results / "pacs") if _is_catalog(f)]
    with (
        scratch_folder(results / "work" / "omop") as spill,
        open_catalogs(folders, spill) as connection,
    ):
        headers = connection.execute(
            "SELECT SeriesInstanceUID AS series_uid, PatientID, Modality, StudyDate,"
            " BodyPartExamined"
            " FROM catalog"
        ).df()
    found = roles.merge(headers, on="series_uid", how="left").sort_values(
        ["series_uid", "case_id", "role"], ignore_index=True
    )
    sources = {source.name: source for source in settings.site.sources}
    rows = [{str(key): value for key, value in row.items()} for row in found.to_dict("records")]
    for row in rows:
        identifier = row["PatientID"]
        if not isinstance(identifier, str) or (
            pseudonym(secret, "patient", identifier) != row["patient"]
        ):
            raise StageError(
                f"case {row['case_id']}: the catalog has series {row['series_uid']} no more, or "
                "of another patient; run the workflow again."
            )
    erased = read_erased(settings.site.identity, results.parent)
    stay = [row["PatientID"] not in erased for row in rows]
    found = found[stay].reset_index(drop=True)
    rows = [row for row, stays in zip(rows, stay, strict=True) if stays]
    found["wadors_uri"] = [_address(sources.get(row["source"]), row) for row in rows]
    found["local_path"] = [
        str(Path(row["path"]).parent) if isinstance(sources.get(row["source"]), Folder) else None
        for row in rows
    ]
    return found


def _is_catalog(folder: Path) -> bool:
    return (folder / "series.parquet").is_file()


def _address(source: Any, row: Mapping[str, str]) -> str | None:
    """Return where a series is by WADO-RS (PS3.18 section 10.4), if its PACS speaks it."""
    if not isinstance(source, DicomWeb):
        return None
    return f"{source.url.rstrip('/')}/studies/{row['study_uid']}/series/{row['series_uid']}"


def _occurrences(
    series: pd.DataFrame, maps: Maps, first_id: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a row for each role of a case with the ids of its series, and what is left out."""
    kept, left = [], []
    for row in series.to_dict("records"):
        date = _date(row["StudyDate"])
        person = maps.persons.get(row["PatientID"])
        if person is None or date is None:
            reason, message = (
                ("no_person", "The map of persons does not have the patient; add a row.")
                if person is None
                else ("no_date", "StudyDate is missing or no date; correct it in the archive.")
            )
            left.append((row["case_id"], row["series_uid"], reason, message))
            continue
        visit, procedure = maps.studies.get(row["study_uid"], (None, None))
        kept.append(
            row | {"person_id": person, "date": date, "visit": visit, "procedure": procedure}
        )
    names = [*series.columns, "person_id", "date", "visit", "procedure"]
    table = pd.DataFrame(kept, columns=names).astype(
        {"person_id": "int64", "visit": "Int64", "procedure": "Int64"}
    )
    uids = {uid: first_id + n for n, uid in enumerate(sorted(set(table["series_uid"])))}
    table["image_occurrence_id"] = table["series_uid"].map(uids).astype("int64")
    once = ~table.duplicated("series_uid")
    for column, system, name in (
        ("Modality", "DCM", "modality_concept_id"),
        ("BodyPartExamined", BODY_PART, "anatomic_site_concept_id"),
    ):
        table[name] = [
            maps.concepts.find(system, code, int(first)) if isinstance(code, str) and code else 0
            for code, first in zip(table[column], once, strict=True)
        ]
    columns = ["case_id", "series_uid", "reason", "message"]
    absent = pd.DataFrame(left, columns=columns).astype("str")
    return table, absent.drop_duplicates(["series_uid", "reason"])


def _date(text: Any) -> str | None:
    """Return a DA (PS3.5 section 6.2) as ISO writes it."""
    try:
        return datetime.strptime(str(text).strip(), "%Y%m%d").date().isoformat()
    except ValueError:
        return None


def _features(results: Path, settings: Settings) -> pd.DataFrame:
    """Read the regions whose measurement was ok, and check that they were measured as now set."""
    table = read_frame(results / "features" / "features.parquet")
    outcomes = read_outcomes(results / "outcomes.parquet")
    measured = passed(o for o in outcomes if o.stage == "measure")
    pairs = zip(table["case_id"], table["segmentation"], strict=True)
    table = table[[pair in measured for pair in pairs]]
    digests = {
        (entry.segmentation, entry.role): canonical_digest(settings.radiomics(entry).plain())
        for entry in settings.protocol.radiomics
    }
    for row in table[[*REGION, "settings_sha256"]].to_dict("records"):
        if digests.get((row["segmentation"], row["role"])) != row["settings_sha256"]:
            raise StageError(
                f"case {row['case_id']}: {row['segmentation']} was measured with other settings "
                "than settings.json has; run the workflow again."
            )
    return table.sort_values(list(REGION), ignore_index=True)


def _described(
    kept: pd.DataFrame,
    settings: Settings,
    concepts: ConceptMap,
    first_id: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what the regions are, and what the features of each radiomics entry are, in codes."""
    terms = coded(settings.named.terms)
    of = {
        (spec.id, segment.name): terms[segment.term]
        for spec in settings.protocol.segmentations
        for segment in spec.segments
    }
    features = [name for name in kept.columns if name not in (*FEATURE_COLUMNS, *OF_SERIES)]
    counts = kept.groupby(["segmentation", "role", "modality"])[features].count()
    regions = kept[[*REGION, *OF_SERIES]].copy()
    regions["image_finding_id"] = range(first_id, first_id + len(regions))
    rows = kept[features].notna().sum(axis=1)
    described = [
        _finding(of[r["segmentation"], r["segment"]], concepts, int(n))
        for r, n in zip(regions.to_dict("records"), rows, strict=True)
    ]
    names = ("finding", "finding_concept", "site", "site_concept")
    regions[list(names)] = pd.DataFrame(described, columns=list(names), index=regions.index)
    regions["alg_system"] = [_system(row, settings) for row in kept.to_dict("records")]
    codes = []
    for key, part in counts.to_dict("index").items():
        segmentation, role, modality = map(str, key)  # type: ignore[call-overload]
        entry = next(
            e
            for e in settings.protocol.radiomics
            if (e.segmentation, e.role) == (segmentation, role)
        )
        parameters, suv = settings.radiomics(entry), settings.protocol.roles[str(role)].suv_type
        for feature, number in part.items():
            if number:
                named = name_feature(str(feature), parameters, str(modality), suv)
                codes.append(
                    {"segmentation": segmentation, "role": role, "modality": modality}
                    | {"feature": feature}
                    | _coded_feature(named, concepts, int(number))
                )
    columns = ["segmentation", "role", "modality", "feature", *_FEATURE_CODES]
    return regions, pd.DataFrame(codes, columns=columns)


_FEATURE_CODES = ("system", "code", "meaning", "concept", "unit", "unit_concept", "rows")


def _coded_feature(named: FeatureName, concepts: ConceptMap, rows: int) -> dict[str, Any]:
    """Return the codes of a feature; of a filtered image it is another one than of the image."""
    concept, code, meaning = named.concept, named.concept.value, named.concept.meaning
    if named.method is not None:
        code, meaning = f"{code}|{named.method.value}", f"{meaning}, {named.method.meaning}"
    system = concept.scheme_designator
    return {
        "system": system,
        "code": code,
        "meaning": meaning,
        "concept": concepts.find(system, code, rows),
        "unit": named.unit.value,
        "unit_concept": concepts.find("UCUM", named.unit.value, rows),
        "rows": rows,
    }


def _finding(term: Term, concepts: ConceptMap, rows: int) -> tuple[str, int, str, int]:
    """Return the codes of what a region is and of where it lies, with their concepts."""
    finding = _side(term.type, term) if term.region is None else _key(term.type)
    site = _side(term.site, term) if term.site is not None else None
    found = concepts.find(*finding, rows)
    place = concepts.find(*site, rows) if site else 0
    return ":".join(finding), found, ":".join(site) if site else "", place


def _key(code: CodedConcept) -> tuple[str, str]:
    return str(code.scheme_designator), str(code.value)


def _side(code: CodedConcept, term: Term) -> tuple[str, str]:
    """Return a code with its laterality, which the CDM has no column for."""
    system, value = _key(code)
    return system, f"{value}|{term.laterality.value}" if term.laterality else value


def _system(row: Mapping[Any, Any], settings: Settings) -> str:
    """Return what made a region's features, which no concept of a private code would say."""
    protocol = settings.protocol.protocol
    return (
        f"jipflow {jipflow.__version__}; protocol {protocol.id} {protocol.version}; segmentation"
        f" {row['segmentation']}; segment {row['segment']}; role {row['role']}; radiomics"
        f" {row['settings_sha256'][:12]}"
    )


def _fill(
    connection: duckdb.DuckDBPyConnection,
    occurrences: pd.DataFrame,
    kept: pd.DataFrame,
    regions: pd.DataFrame,
    codes: pd.DataFrame,
    first_id: int,
) -> None:
    """Make the tables in the database from the parts that are joined."""
    features = [name for name in kept.columns if name not in (*FEATURE_COLUMNS, *OF_SERIES)]
    occurrence = occurrences.drop_duplicates("series_uid").sort_values("series_uid")
    for name, table in (
        ("occurrence", occurrence),
        ("region", regions),
        ("code", codes.assign(feature=codes["feature"].astype("str"))),
        ("wide", kept[[*REGION, *features]].astype(dict.fromkeys(features, "float64"))),
    ):
        connection.register(name, table)
    listed = ", ".join('"' + name.replace('"', '""') + '"' for name in features)
    connection.execute(
        f"CREATE TABLE long AS SELECT row_number() OVER (ORDER BY {', '.join(REGION)}, feature)"
        f" - 1 + {first_id} AS id, * FROM"
        f" (UNPIVOT wide ON {listed} INTO NAME feature VALUE value)"
        if features
        else "CREATE TABLE long AS SELECT *, 0 AS id, '' AS feature, 0.0 AS value FROM wide LIMIT 0"
    )
    connection.execute(
        f"CREATE TABLE joined AS SELECT * FROM long JOIN region USING ({', '.join(REGION)})"
        " JOIN code USING (segmentation, role, modality, feature)"
        " JOIN (SELECT image_occurrence_id, person_id, date, visit FROM occurrence)"
        " USING (image_occurrence_id) ORDER BY id"
    )
    for name, query in _QUERIES.items():
        connection.execute(f"CREATE TABLE {name} AS {query}")


_QUERIES = {
    "image_occurrence": """
        SELECT image_occurrence_id, person_id, procedure AS procedure_occurrence_id,
            visit AS visit_occurrence_id, anatomic_site_concept_id, wadors_uri, local_path,
            CAST(date AS DATE) AS image_occurrence_date, study_uid AS image_study_uid,
            series_uid AS image_series_uid, modality_concept_id
        FROM occurrence ORDER BY image_occurrence_id""",
    "image_feature": f"""
        SELECT id AS image_feature_id, person_id, image_occurrence_id,
            {MEASUREMENT_TABLE} AS image_feature_event_field_concept_id,
            id AS image_feature_event_id, concept AS image_feature_concept_id,
            {ALGORITHM} AS image_feature_type_concept_id,
            finding_concept AS image_finding_concept_id, image_finding_id,
            site_concept AS anatomic_site_concept_id, alg_system,
            CAST(NULL AS TIMESTAMP) AS alg_datetime
        FROM joined ORDER BY id""",
    "measurement": f"""
        SELECT id AS measurement_id, person_id, concept AS measurement_concept_id,
            CAST(date AS DATE) AS measurement_date, CAST(NULL AS TIMESTAMP) AS measurement_datetime,
            CAST(NULL AS VARCHAR) AS measurement_time, {ALGORITHM} AS measurement_type_concept_id,
            CAST(NULL AS BIGINT) AS operator_concept_id, value AS value_as_number,
            CAST(NULL AS BIGINT) AS value_as_concept_id, unit_concept AS unit_concept_id,
            CAST(NULL AS DOUBLE) AS range_low, CAST(NULL AS DOUBLE) AS range_high,
            CAST(NULL AS BIGINT) AS provider_id, visit AS visit_occurrence_id,
            CAST(NULL AS BIGINT) AS visit_detail_id,
            system || ':' || code AS measurement_source_value, 0 AS measurement_source_concept_id,
            unit AS unit_source_value, 0 AS unit_source_concept_id,
            CAST(NULL AS VARCHAR) AS value_source_value,
            CAST(NULL AS BIGINT) AS measurement_event_id,
            CAST(NULL AS BIGINT) AS meas_event_field_concept_id
        FROM joined ORDER BY id""",
}


def _source_codes(codes: pd.DataFrame, concepts: ConceptMap) -> pd.DataFrame:
    """List every code that the tables stand for, with its concept; 0 where it has none."""
    meanings = {(c["system"], c["code"]): c["meaning"] for c in codes.to_dict("records")}
    rows = [
        (system, code, meanings.get((system, code), ""), concepts.find(system, code, 0), number)
        for (system, code), number in sorted(concepts.asked.items())
    ]
    columns = ["code_system", "code", "meaning", "concept_id", "rows"]
    return pd.DataFrame(rows, columns=columns)


def _count(connection: duckdb.DuckDBPyConnection, what: str) -> int:
    found = connection.execute(f"SELECT count(*) FROM {what}").fetchone()
    assert found is not None
    return int(found[0])


def _write(connection: duckdb.DuckDBPyConnection, table: str, spill: Path, form: Form) -> int:
    """Write a table, readable by its owner alone from the first byte on; return its rows."""
    kind = "FORMAT parquet" if form == "parquet" else "FORMAT csv, HEADER"
    partial = spill / f"{table}.{form}"
    os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
    connection.execute(f"COPY (SELECT * FROM {table}) TO {quoted(partial)} ({kind})")
    partial.chmod(0o600)
    return _count(connection, table)

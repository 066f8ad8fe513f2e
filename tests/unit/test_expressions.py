"""Expressions over the series catalog: one each, over the catalog alone, read as DuckDB does."""

from __future__ import annotations

import re
import time
import traceback
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from jipflow.catalog.query import count_series, open_catalogs, store_series
from jipflow.columns import COLUMNS
from jipflow.expressions import (
    FUNCTIONS,
    FilterError,
    check_expression,
    columns_used,
    conjuncts,
    connect,
    select_series,
    values_kept,
    where_clause,
)
from jipflow.files import write_parquet
from jipflow.reasons import StageError

SAME_STUDY = (
    "EXISTS (SELECT 1 FROM catalog AS other WHERE other.Modality = 'PT'"
    " AND other.StudyInstanceUID = catalog.StudyInstanceUID)"
)
ELSEWHERE = "the function {} is not possible here"


@pytest.mark.parametrize(
    "where",
    [
        "TRUE) OR (TRUE",
        "(TRUE)) OR ((TRUE)",
        "FALSE) UNION SELECT PatientID FROM catalog WHERE (TRUE",
        "TRUE UNION SELECT PatientID FROM catalog",
        "TRUE; SELECT 1",
        "TRUE;",
        "TRUE; --",
        "TRUE) -- ",
        "TRUE) /*",
        "TRUE /* no end",
        "(TRUE",
        "TRUE)",
        "TRUE, FALSE",
        "SELECT TRUE",
        "TRUE ORDER BY Modality",
        "TRUE LIMIT 1",
        "TRUE GROUP BY Modality",
        "TRUE QUALIFY TRUE",
        "TRUE AS met",
        "",
        "-- nothing",
    ],
)
def test_a_condition_is_one_expression(where: str) -> None:
    with pytest.raises(FilterError):
        check_expression(where)
    with pytest.raises(FilterError):
        where_clause(where)


@pytest.mark.parametrize(
    "order",
    [
        "Rows) FROM catalog UNION SELECT (PatientID",
        "Rows) + (Columns",
        "Rows), max(Columns",
        "Rows UNION SELECT PatientID FROM catalog",
        "Rows; SELECT 1",
        "Rows;",
        "Rows LIMIT 1",
        "Rows OFFSET 1",
        "Rows IGNORE NULLS",
        "Rows) FILTER (WHERE TRUE",
        "(Rows",
        "Rows)",
        "Rows /* no end",
        "Rows,",
        "",
        "-- nothing",
    ],
)
def test_an_order_is_terms_and_nothing_else(order: str) -> None:
    with pytest.raises(FilterError):
        check_expression(order, "order")


def test_what_is_more_than_one_expression_is_refused_with_the_fix() -> None:
    for where in ("TRUE; SELECT 1", "TRUE LIMIT 1", "TRUE UNION SELECT PatientID FROM catalog"):
        with pytest.raises(FilterError, match="not exactly one expression; keep one"):
            check_expression(where)
    with pytest.raises(FilterError, match=r'syntax error at or near "\)"'):
        check_expression("TRUE) OR (TRUE")


@pytest.mark.parametrize(
    "where",
    [
        "Modality = 'CT' -- of the chest",
        "Modality = /* a ) in a comment */ 'CT'",
        "SeriesDescription = ') OR ('",
        "SeriesDescription = $$) OR ($$",
        "(\"Modality\" = 'CT')",
        "SeriesDescription = '{0} {x}'",
        "catalog.Modality = 'CT' AND \"rows\" > 5",
        "try_strptime(StudyDate, '%Y%m%d') >= DATE '2020-01-01' + INTERVAL 3 DAYS",
        "extract(year FROM strptime(StudyDate, '%Y%m%d')) = 2020",
        "list_contains(string_split(ImageType, '\\'), 'AXIAL') OR ImageType[1:4] = 'ORIG'",
        "lower(SeriesDescription) SIMILAR TO '.*(t1|t2).*' AND Modality IN ['CT', 'PT']",
        "replace(coalesce(SeriesDescription, ''), '_', ' ') COLLATE NOCASE = 't1 mprage'",
        "CASE WHEN KVP IS NULL THEN FALSE ELSE round(KVP / 10, 0)::INTEGER BETWEEN 8 AND 14 END",
        "TRY(SeriesDescription::DECIMAL(3, 1)) > 1.5 AND -Rows % 2 = 0",
        f"SeriesInstanceUID IN ('1.2', {', '.join(map(str, range(3000)))})",
    ],
)
def test_one_expression_passes_whatever_it_computes(where: str) -> None:
    check_expression(where)


@pytest.mark.parametrize(
    "order",
    [
        "Rows DESC NULLS LAST, lower(Modality)",
        "Rows -- most first",
        "row_number() OVER (PARTITION BY StudyInstanceUID ORDER BY SliceThickness)",
    ],
)
def test_terms_of_an_order_pass(order: str) -> None:
    check_expression(order, "order")


@pytest.mark.parametrize(
    "query",
    [
        "Modality IN (SELECT 'CT')",
        "(SELECT count(*) FROM catalog) > 3",
        "Rows IN (SELECT unnest([256, 512]))",
        "EXISTS (SELECT 1 FROM duckdb_settings())",
        "EXISTS (WITH RECURSIVE n AS (SELECT 1 AS i UNION SELECT i + 1 FROM N) FROM n)",
        "Modality = ANY(['CT'])",
        "Rows > ALL (SELECT 5)",
        "list_contains(ARRAY(SELECT Modality FROM catalog), 'CT')",
        SAME_STUDY,
    ],
)
def test_no_expression_holds_a_query(query: str) -> None:
    for expression, kind in (
        (query, "where"),
        (f"NOT (Rows > 5 AND ({query}))", "where"),
        (f"lower(CASE WHEN {query} THEN 'a' END) = 'a'", "where"),
        (f"CASE WHEN {query} THEN 1 END", "order"),
        (f"row_number() OVER (PARTITION BY {query})", "order"),
    ):
        with pytest.raises(FilterError, match="it holds a query") as error:
            check_expression(expression, kind)
        assert "condition over the columns" in str(error.value)


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        *((f"{name} IS NULL", ELSEWHERE.format(re.escape(name.split("(")[0]))) for name in (
            "error(PatientID)", "getenv('HOME')", "current_setting('threads')", "getvariable('a')",
            "read_text('/etc/passwd')", "random()", "uuid()", "now()", "get_current_timestamp()",
            "current_user()", "version()", "txid_current()", "nextval('s')", "hash(PatientID)",
            "main.lower(Modality)", "system.main.error(PatientID)", "repeat(PatientID, 9)",
            "lpad(Modality, 1000000000, 'x')", "format('{:>999999999}', 1)", "range(99999999999)",
            "regexp_replace(PatientID, '', 'xxxx', 'g')", "list_transform([1], lambda x: x)",
            "age(strptime(StudyDate, '%Y%m%d'))", "sum(Rows)", "unnest([1])", "write_log('a')",
            "add_parquet_key('a', 'b')", "sleep_ms(100000)", "Modality.lower()", "query('a')",
            "timezone('UTC', DATE '2020-01-01')", "getbit('1'::BIT, 0)", "strptime_('a', 'b')",
        )),
        ("current_date > DATE '2020-01-01'", "no column current_date"),
        ("localtimestamp IS NULL", "no column localtimestamp"),
        ("user = 'root'", "no column user"),
        ("catalog IS NULL", "no column catalog"),
        ("rowid > 5", "no column rowid"),
        ("Modalty = 'CT'", "no column Modalty; did you mean Modality?"),
        ("main.catalog.Modality = 'CT'", "no column main.catalog.Modality"),
        ("Rows > $1", "not exactly one"),
        ("Rows > ?", "not exactly one"),
        ("#1 = 'CT'", "positional_reference is not possible"),
        ("COLUMNS(*) = 'CT'", "star is not possible"),
        ("* = 'CT'", "star is not possible"),
        ("(x -> x) IS NULL", "lambda is not possible"),
        ("row_number() OVER () > 1", "window is not possible"),
        ("StudyDate::TIMESTAMPTZ IS NULL", "type TIMESTAMPTZ is not possible"),
        ("StudyDate::main.VARCHAR = ''", "is not possible"),
        ("TRY_CAST(StudyDate AS ENUM('a')) IS NULL", "type ENUM is not possible"),
        ("Modality COLLATE de = 'CT'", "COLLATE de is not possible"),
        ("lower(DISTINCT Modality) = 'ct'", "takes its arguments alone"),
        ("lower(Modality ORDER BY Rows) = 'ct'", "takes its arguments alone"),
        ("lower(Modality) FILTER (WHERE TRUE) = 'ct'", "takes its arguments alone"),
        ("lower(a := Modality) = 'ct'", "without names"),
        ("regexp_matches(Modality, PatientID)", "takes constants behind"),
        ("Modality SIMILAR TO PatientID", "takes constants behind"),
        ("strftime(DATE '2020-01-01', strftime(NULL, '%c%c')) = ''", "takes constants"),
        ("replace(PatientID, '1', '11') = ''", "no more characters than"),
        ("replace(PatientID, '1', Modality) = ''", "takes constants behind"),
        ("NOT " * 101 + "TRUE", "nested more than 100 deep"),
        ("NOT " * 900 + "TRUE", "nested more than 100 deep"),
        ("+".join(["Rows"] * 5000) + " > 0", "nested more than 100 deep"),
        ("'" + "x" * (1 << 20) + "' = ''", "more than 1,048,576 characters"),
        (f"regexp_matches(Modality, '{'a?' * 5001}')", "texts of at most 10,000 characters"),
        (f"strftime(DATE '2026-01-01', '{'%c' * 5001}') = ''", "texts of at most 10,000"),
    ],
)  # fmt: skip
def test_what_is_not_known_to_be_harmless_is_refused(expression: str, named: str) -> None:
    with pytest.raises(FilterError, match=named):
        check_expression(expression)


def test_an_order_takes_a_few_windows_alone() -> None:
    for order in (
        "sum(Rows) OVER ()",
        "random()",
        "main.min(Rows) OVER ()",
        "lag(PatientID) OVER ()",
    ):
        with pytest.raises(FilterError, match="is not possible here"):
            check_expression(order, "order")


def rows_of(**values: Any) -> pd.DataFrame:
    empty = {name: "" if kind == "VARCHAR" else None for name, kind in COLUMNS.items()}
    return pd.DataFrame([{**empty, "SeriesInstanceUID": "1.2", **values}], columns=list(COLUMNS))


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("PatientID::INTEGER = 1", "cannot be converted"),
        ("CAST(PatientID AS DATE) IS NULL", "cannot be converted"),
        ("PatientID::BOOLEAN", "cannot be converted"),
        ("PatientID = 5", "cannot be converted"),
        ("NOT (KVP > 100 AND PatientID::TIMESTAMP IS NULL)", "cannot be converted"),
        ("strptime(PatientID, '%Y') IS NULL", "not written as a function expects"),
        ("date_part(PatientID, DATE '2020-01-01') = 1", "cannot be converted"),
        ("Rows * Rows > 0", "out of range"),
        ("Rows // (Rows - Rows) = 1", "not written as"),
        ("PatientID LIKE 'a' ESCAPE PatientID", "cannot be computed"),
    ],
)
def test_no_message_holds_a_value_of_a_series(where: str, why: str, tmp_path: Path) -> None:
    table = rows_of(PatientID="DOE^JOHN", Rows=4611686018427387904, KVP=120.0)
    write_parquet(tmp_path / "series.parquet", table)
    write_parquet(tmp_path / "instances.parquet", pd.DataFrame({"SeriesInstanceUID": ["1.2"]}))
    with connect(table) as memory, open_catalogs([tmp_path], tmp_path / "spill") as files:
        for compute in (
            lambda: select_series(memory, where),
            lambda: select_series(memory, "TRUE", f"CASE WHEN {where} THEN 1 END"),
            lambda: count_series(files, ["TRUE", where]),
            lambda: store_series(files, "stored", [where]),
            lambda: store_series(files, "stored", ["TRUE"], f"CASE WHEN {where} THEN 1 END"),
        ):
            with pytest.raises(FilterError, match=why) as error:
                compute()
            shown = "".join(traceback.format_exception(error.value))
            assert "DOE" not in shown.replace(where, "")
            assert "4611686018427387904" not in shown
            assert where in str(error.value)
            assert "TRY_CAST" in str(error.value)


def test_the_guide_lists_the_functions() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "user-guide.md").read_text()
    (listed,) = [line for line in guide.splitlines() if line.startswith("`abs`")]
    assert [name.strip("`") for name in listed.split(", ")] == sorted(FUNCTIONS)


def test_a_full_disk_is_no_fault_of_an_expression() -> None:
    with pytest.raises(StageError, match="make room") as error, values_kept(["TRUE"]):
        raise duckdb.IOException("No space left on device: /results/DOE^JOHN")
    assert not isinstance(error.value, FilterError)
    assert "DOE" not in str(error.value)


def test_times_are_read_the_same_in_every_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    where = "strptime(SeriesTime, '%Y-%m-%d %H %z')::TIMESTAMP = TIMESTAMP '2020-01-01 00:00:00'"
    table = rows_of(SeriesTime="2020-01-01 02 +02")
    for zone in ("Asia/Tokyo", "America/New_York", "UTC"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        with connect(table) as connection:
            assert select_series(connection, where) == ["1.2"], zone
    monkeypatch.undo()
    time.tzset()


PIECES = (
    *("TRUE", "Rows > 0", "(TRUE", "TRUE)", "OR", "AND", "NOT"),
    *("'", "--", "\n", "/*", "*/", "$$", ";", ","),
    *("UNION SELECT 1 FROM catalog WHERE", "ORDER BY 1", "LIMIT 1", "GROUP BY ALL"),
)


def test_what_passes_cannot_escape_its_parentheses() -> None:
    row = {name: ["1" if kind == "VARCHAR" else 1] for name, kind in COLUMNS.items()}
    passed = 0
    with connect(pd.DataFrame(row)) as connection:
        for pieces in (p for length in (1, 2, 3) for p in product(PIECES, repeat=length)):
            where = " ".join(pieces)
            try:
                check_expression(where)
                selected = connection.sql(f"SELECT 1 FROM catalog WHERE (\n{where}\n) AND FALSE")
            except (FilterError, duckdb.Error):
                continue
            passed += 1
            assert selected.fetchall() == [], where
    assert passed > 50


def test_conditions_that_must_all_be_met_can_be_tried_one_by_one() -> None:
    parts = conjuncts("Modality = 'CT' AND (Rows > 5 OR lower(Modality) = 'x') AND KVP < 1e2")
    assert [sorted(columns_used(part)) for part in parts] == [
        ["Modality"],
        ["Modality", "Rows"],
        ["KVP"],
    ]
    assert conjuncts("Modality = 'CT' OR Rows = 1") == ["Modality = 'CT' OR Rows = 1"]
    assert columns_used("SliceThickness DESC, rows", "order") == {"SliceThickness", "Rows"}
    assert columns_used("catalog.kvp > 1 AND Modality = 'Rows'") == {"KVP", "Modality"}


COLUMN = {"class": "COLUMN_REF", "column_names": ["StudyDate"]}
TEXT = {"class": "CONSTANT", "literal": {"kind": "STRING", "text": "2020"}}


def compared(kind: str, left: Any = COLUMN, right: Any = TEXT) -> dict[str, Any]:
    return {"class": "COMPARISON", "type": kind, "left": left, "right": right}


def called(name: str, *arguments: Any) -> dict[str, Any]:
    return {
        "class": "FUNCTION",
        "function_name": name,
        "arguments": [{"expression": argument} for argument in arguments],
    }


def number(text: str) -> dict[str, Any]:
    return {"class": "CONSTANT", "literal": {"kind": "INTEGER", "text": text}}


def cast(child: Any, kind: str) -> dict[str, Any]:
    return {"class": "CAST", "child": child, "type_expr": {"type_name": kind}}


def has_shape(node: Any, shape: Any) -> bool:
    """Return whether a tree holds what a shape says of it, and lists are as long."""
    if isinstance(shape, dict):
        return isinstance(node, dict) and all(
            key in node and has_shape(node[key], each) for key, each in shape.items()
        )
    if isinstance(shape, list):
        return (
            isinstance(node, list)
            and len(node) == len(shape)
            and all(has_shape(*pair) for pair in zip(node, shape, strict=True))
        )
    return bool(node == shape)


@pytest.mark.parametrize(
    ("where", "shape"),
    [
        ("StudyDate = '2020'", compared("COMPARE_EQUAL")),
        ("StudyDate <> '2020'", compared("COMPARE_NOTEQUAL")),
        ("StudyDate < '2020'", compared("COMPARE_LESSTHAN")),
        ("StudyDate <= '2020'", compared("COMPARE_LESSTHANOREQUALTO")),
        ("StudyDate > '2020'", compared("COMPARE_GREATERTHAN")),
        ("StudyDate >= '2020'", compared("COMPARE_GREATERTHANOREQUALTO")),
        ("StudyDate IS NOT DISTINCT FROM '2020'", compared("COMPARE_NOT_DISTINCT_FROM")),
        (
            "catalog.StudyDate = '2020'",
            compared("COMPARE_EQUAL", {**COLUMN, "column_names": ["catalog", "StudyDate"]}),
        ),
        (
            "StudyDate = '2020' AND StudyDate = '2020' AND StudyDate = '2020'",
            {
                "class": "CONJUNCTION",
                "type": "CONJUNCTION_AND",
                "children": [compared("COMPARE_EQUAL")] * 3,
            },
        ),
        (
            "StudyDate = '2020' OR StudyDate < '2020'",
            {
                "class": "CONJUNCTION",
                "type": "CONJUNCTION_OR",
                "children": [compared("COMPARE_EQUAL"), compared("COMPARE_LESSTHAN")],
            },
        ),
        (
            "NOT StudyDate = '2020'",
            {"type": "OPERATOR_NOT", "children": [compared("COMPARE_EQUAL")]},
        ),
        ("TRUE", {"class": "CONSTANT", "literal": {"kind": "BOOLEAN", "text": "true"}}),
        ("FALSE", {"class": "CONSTANT", "literal": {"kind": "BOOLEAN", "text": "false"}}),
        (
            "StudyDate BETWEEN '2020' AND '2020'",
            {"class": "BETWEEN", "input": COLUMN, "lower": TEXT, "upper": TEXT},
        ),
        (
            "StudyDate NOT BETWEEN '2020' AND '2020'",
            {"type": "OPERATOR_NOT", "children": [{"class": "BETWEEN", "input": COLUMN}]},
        ),
        ("StudyDate IN ('2020')", {"type": "COMPARE_IN", "children": [COLUMN, TEXT]}),
        (
            "StudyDate NOT IN ('2020')",
            {"type": "OPERATOR_NOT", "children": [{"type": "COMPARE_IN"}]},
        ),
        ("StudyDate LIKE '2020'", called("~~", COLUMN, TEXT)),
        ("StudyDate NOT LIKE '2020'", called("!~~", COLUMN, TEXT)),
        ("StudyDate ^@ '2020'", called("^@", COLUMN, TEXT)),
        ("starts_with(StudyDate, '2020')", called("starts_with", COLUMN, TEXT)),
        (
            "left(StudyDate, 4) = '2020'",
            compared("COMPARE_EQUAL", called("left", COLUMN, number("4"))),
        ),
        (
            "substr(StudyDate, 1, 4) = '2020'",
            compared("COMPARE_EQUAL", called("substr", COLUMN, number("1"), number("4"))),
        ),
        (
            "StudyDate[1:4] = '2020'",
            compared(
                "COMPARE_EQUAL",
                {"type": "ARRAY_SLICE", "children": [COLUMN, number("1"), number("4")]},
            ),
        ),
        (
            "TRY_CAST(StudyDate AS INTEGER) = 20200101",
            compared("COMPARE_EQUAL", cast(COLUMN, "INTEGER"), number("20200101")),
        ),
        (
            "try_strptime(StudyDate, '2020')::DATE = DATE '2020'",
            compared(
                "COMPARE_EQUAL",
                cast(called("try_strptime", COLUMN, TEXT), "DATE"),
                cast(TEXT, "DATE"),
            ),
        ),
    ],
)
def test_duckdbs_parse_tree_has_the_shape_that_is_read(where: str, shape: dict[str, Any]) -> None:
    """Fails first where an upgrade of DuckDB changes the tree, which it does not promise.

    What reads it must follow then: `jipflow.pacs.narrow`, and `columns_used`, `conjuncts` and
    `check_expression` of `jipflow.expressions`.
    """
    assert has_shape(where_clause(where), shape), where_clause(where)


def test_parts_of_a_condition_mean_what_they_meant_within_it() -> None:
    whole = "Modality IN ('CT') AND NOT (Rows = 1 OR Rows IS NULL) AND StudyDate[1:4] LIKE '20_%'"
    rows = [
        {"Modality": modality, "Rows": number, "StudyDate": date}
        for modality in ("CT", "PT")
        for number in (1, 2, None)
        for date in ("", "1999", "20200101")
    ]
    empty = {name: "" if kind == "VARCHAR" else None for name, kind in COLUMNS.items()}
    table = pd.DataFrame(
        [{**empty, "SeriesInstanceUID": f"1.{n:02}", **row} for n, row in enumerate(rows)],
        columns=list(COLUMNS),
    )
    with connect(table) as connection:
        parts = [set(select_series(connection, part)) for part in conjuncts(whole)]
        assert len(parts) == 3
        assert set.intersection(*parts) == set(select_series(connection, whole)) != set()


def test_nothing_unlocks_the_database() -> None:
    with connect() as connection:
        for statement in ("SET threads = 2", "SET TimeZone = 'Asia/Tokyo'", "RESET threads"):
            with pytest.raises(duckdb.InvalidInputException, match="locked"):
                connection.execute(statement)

"""Expressions over the series catalog: one each, over the catalog alone, read as DuckDB does."""

from __future__ import annotations

from itertools import product
from typing import Any

import duckdb
import pandas as pd
import pytest

from jipflow.columns import COLUMNS
from jipflow.expressions import (
    FilterError,
    check_expression,
    check_single,
    columns_used,
    conjuncts,
    connect,
    has_subquery,
    select_series,
    where_clause,
)

SAME_STUDY = (
    "EXISTS (SELECT 1 FROM catalog AS other WHERE other.Modality = 'PT'"
    " AND other.StudyInstanceUID = catalog.StudyInstanceUID)"
)


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
    with pytest.raises(FilterError, match="not exactly one expression; keep one"):
        check_expression("TRUE) OR (TRUE")
    with pytest.raises(FilterError, match='syntax error at or near ";"'):
        check_expression("TRUE; SELECT 1")


@pytest.mark.parametrize(
    "where",
    [
        "Modality = 'CT' -- of the chest",
        "Modality = /* a ) in a comment */ 'CT'",
        "SeriesDescription = ') OR ('",
        "SeriesDescription = $$) OR ($$",
        "(\"Modality\" = 'CT')",
        "Modality IN (SELECT 'CT')",
        "(SELECT count(*) FROM catalog) > 3",
        "Rows IN (SELECT unnest([256, 512]))",
        "EXISTS (WITH wide AS (SELECT * FROM catalog WHERE Rows > 5) SELECT * FROM wide)",
        "EXISTS (WITH Wide AS (FROM catalog), few AS (FROM WIDE LIMIT 3) FROM (FROM few))",
        "EXISTS (WITH RECURSIVE n AS (SELECT 1 AS i UNION SELECT i + 1 FROM N WHERE i < 9) FROM n)",
        SAME_STUDY,
    ],
)
def test_one_expression_passes_whatever_it_holds(where: str) -> None:
    check_expression(where)


@pytest.mark.parametrize("order", ["Rows DESC NULLS LAST, lower(Modality)", "Rows -- most first"])
def test_terms_of_an_order_pass(order: str) -> None:
    check_expression(order, "order")


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ("instances", "instances"),
        ("information_schema.tables", "information_schema.tables"),
        ("duckdb_tables", "duckdb_tables"),
        ("duckdb_settings()", "duckdb_settings()"),
        ("query('SELECT 1')", "query()"),
        ("query_table('catalog')", "query_table()"),
        ("memory.main.catalog", "memory.main.catalog"),
        ("(SHOW TABLES)", "tables"),
        ("(SELECT * FROM duckdb_types())", "duckdb_types()"),
        ("catalog AS other JOIN duckdb_types() ON TRUE", "duckdb_types()"),
        ("(SELECT 1 UNION SELECT 2 FROM duckdb_types())", "duckdb_types()"),
        ("unnest([(SELECT count(*) FROM duckdb_types())])", "duckdb_types()"),
        ("(WITH seen AS (FROM duckdb_types()) SELECT * FROM seen)", "duckdb_types()"),
        ("(WITH duckdb_tables AS (FROM duckdb_tables) FROM duckdb_tables)", "duckdb_tables"),
        ("(WITH a AS (FROM duckdb_views), duckdb_views AS (SELECT 1) FROM a)", "duckdb_views"),
        ("(WITH RECURSIVE duckdb_views AS (FROM duckdb_views) FROM duckdb_views)", "duckdb_views"),
        (
            "(WITH RECURSIVE duckdb_views AS (SELECT sql FROM duckdb_views"
            " UNION SELECT sql FROM duckdb_views) FROM duckdb_views)",
            "duckdb_views",
        ),
    ],
)
def test_a_subquery_reads_the_catalog_alone(table: str, named: str) -> None:
    subquery = f"EXISTS (SELECT 1 FROM {table})"
    for expression, kind in (
        (subquery, "where"),
        (f"NOT ({subquery} AND Rows > 5)", "where"),
        (f"CASE WHEN {subquery} THEN 1 END", "order"),
    ):
        with pytest.raises(FilterError) as error:
            check_expression(expression, kind)
        assert named in str(error.value)


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
                check_single(connection, where, "where")
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
    assert columns_used("length(COLUMNS(*)::VARCHAR) > 0") == set(COLUMNS)


def test_a_subquery_is_found_at_any_depth() -> None:
    assert has_subquery(f"NOT (Rows > 5 AND {SAME_STUDY})")
    assert has_subquery("Rows > (SELECT 5)")
    assert not has_subquery("Rows > 5 AND Modality IN ('CT', 'PT')")


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
        ("StudyDate IN (SELECT '2020')", {"class": "SUBQUERY"}),
        (
            "length(COLUMNS(*)::VARCHAR) > 0",
            {"left": called("length", cast({"class": "STAR"}, "VARCHAR"))},
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

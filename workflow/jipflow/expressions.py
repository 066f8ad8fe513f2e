"""Expressions over the series catalog: DuckDB's SQL, as protocols share it between sites."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from jipflow.columns import COLUMNS

if TYPE_CHECKING:
    import pandas as pd


SINGLE = {
    "where": (
        "SELECT 1 FROM catalog WHERE (\n{}\n)",
        "SELECT 1 FROM catalog WHERE\n{}\n",
    ),
    "order": (
        "SELECT array_agg(1 ORDER BY\n{}\n) FROM catalog",
        "SELECT 1 FROM catalog ORDER BY\n{}\n, SeriesInstanceUID",
        "SELECT 1 FROM catalog ORDER BY\n{}\n",
    ),
}
"""By kind, queries that are all one statement around a single condition, or around terms of ORDER
BY, and not around anything else. None would do alone: within parentheses a text may close them and
open others, without parentheses it may go on with other clauses."""

TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series"})
"""Functions in FROM that read no table, file or setting."""


class FilterError(Exception):
    """An expression is not valid over the series catalog."""


NOT_ONE = "it is not exactly one expression; keep one."


def filter_steps(where: str | list[str]) -> list[str]:
    """Return a protocol's ``cohort.where`` as a list of expressions."""
    return [where] if isinstance(where, str) else list(where)


def connect(catalog: pd.DataFrame | None = None) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database with the table ``catalog`` that can reach nothing outside.

    A protocol comes from outside the site, so its expressions must not read files, load extensions
    or change settings.

    Args:
        catalog: rows with the columns of `COLUMNS`; None makes an empty table.
    """
    connection = duckdb.connect(":memory:", config={"threads": 1})
    fields = ", ".join(f'"{name}" {kind}' for name, kind in COLUMNS.items())
    connection.execute(f"CREATE TABLE catalog ({fields})")
    if catalog is not None:
        connection.register("rows", catalog[list(COLUMNS)])
        connection.execute("INSERT INTO catalog SELECT * FROM rows")
        connection.unregister("rows")
    lock(connection, [])
    return connection


@cache
def _empty_catalog() -> duckdb.DuckDBPyConnection:
    """Return one database for all that is parsed and checked without data."""
    return connect()


def quoted(path: Path) -> str:
    """Return a path as a string of SQL."""
    return "'" + str(path).replace("'", "''") + "'"


def lock(connection: duckdb.DuckDBPyConnection, readable: Sequence[Path]) -> None:
    """Let a database reach nothing outside but the files that are named."""
    paths = ", ".join(quoted(path) for path in readable)
    connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def check_expression(expression: str, kind: str = "where") -> None:
    """Check an expression on an empty catalog.

    Args:
        expression: a condition, or terms of ORDER BY.
        kind: ``where`` or ``order``.

    Raises:
        FilterError: DuckDB refuses it, it is not one expression, or it reads another table than
            the series catalog.
    """
    with _empty_catalog().cursor() as connection:
        where, order = expression, "SeriesInstanceUID"
        if kind == "order":
            where, order = "TRUE", expression
        try:
            # Not as an Arrow table, whose library takes longer to load than all the rest.
            connection.execute(series_query(connection, where, order)).fetchall()
        except duckdb.Error as error:
            raise explained(error) from None
        others = sorted(set(_tables(_select_node(connection, expression, kind))) - {"catalog"})
    if others:
        raise FilterError(f"it reads {', '.join(others)}; the only table is catalog.")


def check_single(connection: duckdb.DuckDBPyConnection, expression: str, kind: str) -> None:
    """Check by DuckDB's parser that a text is one expression, which no query can take for more.

    Args:
        connection: any.
        expression: a condition, or terms of ORDER BY.
        kind: ``where`` or ``order``.

    Raises:
        FilterError: DuckDB cannot parse it, or it is more or less than that.
    """
    errors = []
    for query in SINGLE[kind]:
        try:
            if len(connection.extract_statements(query.format(expression))) != 1:
                errors.append(FilterError(NOT_ONE))
        except duckdb.Error as error:
            errors.append(explained(error))
    if len(errors) == len(SINGLE[kind]):
        raise errors[0]
    if errors:
        raise FilterError(NOT_ONE)


def select_series(
    connection: duckdb.DuckDBPyConnection, where: str, order: str = "SeriesInstanceUID"
) -> list[str]:
    """Return the SeriesInstanceUIDs of the catalog's series that meet a condition, in an order.

    Args:
        connection: from `connect` or `jipflow.catalog.query.open_catalogs`.
        where: a condition over the columns of the catalog.
        order: terms of ORDER BY; ties are broken by SeriesInstanceUID.

    Raises:
        FilterError: an expression is not valid.
    """
    try:
        table = connection.sql(series_query(connection, where, order)).to_arrow_table()
    except duckdb.Error as error:
        raise explained(error) from None
    uids: list[str] = table.column(0).to_pylist()
    return uids


def series_query(connection: duckdb.DuckDBPyConnection, where: str, order: str) -> str:
    """Return the query for the series that meet a condition, once it is sure to be one."""
    check_single(connection, where, "where")
    check_single(connection, order, "order")
    return (
        f"SELECT SeriesInstanceUID FROM catalog WHERE (\n{where}\n) "
        f"ORDER BY {order}\n, SeriesInstanceUID"
    )


def where_clause(expression: str) -> dict[str, Any]:
    """Return a condition as the tree of DuckDB's parser.

    DuckDB does not promise the tree's shape; `tests/unit/test_expressions.py` states it.

    Raises:
        FilterError: it is not a valid condition.
    """
    with _empty_catalog().cursor() as connection:
        tree: dict[str, Any] = _select_node(connection, expression, "where")["where_clause"]
    return tree


def conjuncts(expression: str) -> list[str]:
    """Split a condition into conditions that must all be met.

    Raises:
        FilterError: it is not a valid condition.
    """
    with _empty_catalog().cursor() as connection:
        statement = _parsed(connection, expression, "where")
        node = statement["statements"][0]["node"]
        tree = node["where_clause"]
        if tree["type"] != "CONJUNCTION_AND":
            return [expression]
        parts = []
        for child in tree["children"]:
            node["where_clause"] = child
            text = json.dumps(statement)
            (sql,) = connection.execute("SELECT json_deserialize_sql(?)", [text]).fetchall()[0]
            parts.append(sql.partition(" WHERE ")[2])
    return parts


def columns_used(expression: str, kind: str = "where") -> set[str]:
    """Return the columns of the catalog that an expression reads.

    Args:
        expression: a condition, or terms of ORDER BY.
        kind: ``where`` or ``order``.

    Raises:
        FilterError: it is not a valid expression.
    """
    names = {name.lower(): name for name in COLUMNS}
    used: set[str] = set()
    with _empty_catalog().cursor() as connection:
        tree = _select_node(connection, expression, kind)
    for node in _nodes(tree):
        if node.get("class") == "STAR":
            used.update(COLUMNS)
        if node.get("class") == "COLUMN_REF":
            used.update(names[n.lower()] for n in node["column_names"] if n.lower() in names)
    return used


def has_subquery(expression: str) -> bool:
    """Return whether a condition holds a query, whose answer may depend on any series.

    Raises:
        FilterError: it is not a valid condition.
    """
    return any(node.get("class") == "SUBQUERY" for node in _nodes(where_clause(expression)))


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Iterate over every node of a parse tree."""
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(child, dict | list):
            yield from _nodes(child)


def _select_node(
    connection: duckdb.DuckDBPyConnection, expression: str, kind: str
) -> dict[str, Any]:
    """Return the parse tree of a query of the catalog with one expression in it."""
    node: dict[str, Any] = _parsed(connection, expression, kind)["statements"][0]["node"]
    return node


def _parsed(connection: duckdb.DuckDBPyConnection, expression: str, kind: str) -> dict[str, Any]:
    """Return the parse tree of the statement of a query with one expression in it."""
    check_single(connection, expression, kind)
    query = SINGLE[kind][-1].format(expression)
    (text,) = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0]
    tree: dict[str, Any] = json.loads(text)
    if tree["error"]:
        raise FilterError(tree["error_message"])
    return tree


def _tables(node: Any, named: frozenset[str] = frozenset()) -> Iterator[str]:
    """Iterate over what the queries of a parse tree read.

    Args:
        node: of the tree.
        named: queries that WITH has given a name around it, in small letters.
    """
    if isinstance(node, dict):
        # A query knows those before it; itself only in what a recursive one repeats.
        for entry in node.get("cte_map", {}).get("map", ()):
            yield from _tables(entry["value"], named)
            named = named | {entry["key"].lower()}
        if "from_table" in node:
            yield from _read(node["from_table"], named)
        if node.get("type") == "RECURSIVE_CTE_NODE":
            yield from _tables(node["right"], named | {node["cte_name"].lower()})
            node = {key: child for key, child in node.items() if key != "right"}
        node = [child for key, child in node.items() if key not in {"from_table", "cte_map"}]
    for child in node if isinstance(node, list) else ():
        yield from _tables(child, named)


def _read(table: Any, named: frozenset[str]) -> Iterator[str]:
    """Iterate over what a FROM clause reads; what is not known here counts, too."""
    match table:
        case {"type": "BASE_TABLE", "catalog_name": "", "schema_name": "", "table_name": name}:
            if name.lower() not in named:
                yield name.lower()
        case {"type": "JOIN", "left": left, "right": right, **others}:
            yield from _read(left, named)
            yield from _read(right, named)
            yield from _tables(others, named)
        case {"type": "TABLE_FUNCTION", "function": {"function_name": name} as function}:
            if name not in TABLE_FUNCTIONS:
                yield f"{name}()"
            yield from _tables(function, named)
        case {"type": "EMPTY" | "EXPRESSION_LIST" | "SUBQUERY", **others}:
            yield from _tables(others, named)
        case _:
            yield ".".join(table.get("qualified_name", {}).get("path", [table["type"]]))


def explained(error: duckdb.Error) -> FilterError:
    """Return the first lines of what DuckDB says against an expression."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return FilterError(" ".join(lines[:2]))

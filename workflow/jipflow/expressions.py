"""Expressions over the series catalog: DuckDB's SQL, as protocols share it between sites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from jipflow.columns import COLUMNS

if TYPE_CHECKING:
    import pandas as pd


class FilterError(Exception):
    """An expression is not valid over the series catalog."""


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


def quoted(path: Path) -> str:
    """Return a path as a string of SQL."""
    return "'" + str(path).replace("'", "''") + "'"


def lock(connection: duckdb.DuckDBPyConnection, readable: Sequence[Path]) -> None:
    """Let a database reach nothing outside but the files that are named."""
    paths = ", ".join(quoted(path) for path in readable)
    connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def check_expression(
    expression: str, kind: str = "where", connection: duckdb.DuckDBPyConnection | None = None
) -> None:
    """Check an expression on an empty catalog.

    Args:
        expression: a condition, or terms of ORDER BY.
        kind: ``where`` or ``order``.
        connection: from `connect`, where several are checked.

    Raises:
        FilterError: DuckDB refuses it, or it is more than one expression.
    """
    if connection is None:
        with connect() as connection:
            check_expression(expression, kind, connection)
        return
    where, order = ("TRUE", expression) if kind == "order" else (expression, "SeriesInstanceUID")
    try:
        # Not as an Arrow table, whose library takes longer to load than all the rest.
        connection.execute(series_query(connection, where, order)).fetchall()
    except duckdb.Error as error:
        raise explained(error) from None


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
    query = (
        f"SELECT SeriesInstanceUID FROM catalog WHERE (\n{where}\n) "
        f"ORDER BY {order}\n, SeriesInstanceUID"
    )
    if len(connection.extract_statements(query)) != 1:
        raise FilterError("it is more than one expression; keep one.")
    return query


def explained(error: duckdb.Error) -> FilterError:
    """Return the first lines of what DuckDB says against an expression."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return FilterError(" ".join(lines[:2]))

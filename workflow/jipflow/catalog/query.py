"""Filters over the series catalog: DuckDB expressions that a protocol shares between sites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from jipflow.catalog.columns import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

MEMORY = "1GB"
"""What DuckDB may hold; the rest lies in a temporary folder."""


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
    _lock(connection, [])
    return connection


def open_catalogs(folders: Sequence[Path], spill: Path) -> duckdb.DuckDBPyConnection:
    """Open a database with the views ``catalog`` and ``instances`` over the files of catalogs.

    Nothing is copied: a query reads the columns that it needs from the files. A series that is in
    several catalogs, and its instances, are taken from the first. As with `connect`, expressions
    can reach nothing else: of all files, these alone may be read.

    Args:
        folders: of catalogs, each with ``series.parquet`` and ``instances.parquet``.
        spill: folder for what does not fit into `MEMORY`; the caller removes it.
    """
    connection = duckdb.connect(
        ":memory:", config={"threads": 1, "memory_limit": MEMORY, "temp_directory": str(spill)}
    )
    series = [folder.resolve() / "series.parquet" for folder in folders]
    instances = [folder.resolve() / "instances.parquet" for folder in folders]
    fields = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in COLUMNS.items())
    connection.execute(f"CREATE VIEW catalog AS {_merged(fields, series, series)}")
    connection.execute(f"CREATE VIEW instances AS {_merged('*', instances, series)}")
    _lock(connection, [*series, *instances])
    return connection


def _merged(fields: str, files: Sequence[Path], series: Sequence[Path]) -> str:
    """Return the query for the rows of files, without series that an earlier catalog has."""
    queries = []
    for position, file in enumerate(files):
        query = f"SELECT {fields} FROM read_parquet({_quoted(file)})"
        if position:
            earlier = ", ".join(_quoted(path) for path in series[:position])
            query += (
                " WHERE SeriesInstanceUID NOT IN"
                f" (SELECT SeriesInstanceUID FROM read_parquet([{earlier}], union_by_name = true))"
            )
        queries.append(query)
    return " UNION ALL BY NAME ".join(queries)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _lock(connection: duckdb.DuckDBPyConnection, readable: Sequence[Path]) -> None:
    paths = ", ".join(_quoted(path) for path in readable)
    connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def check_expression(expression: str, kind: str = "where") -> None:
    """Check an expression on an empty catalog.

    Args:
        expression: a condition, or terms of ORDER BY.
        kind: ``where`` or ``order``.

    Raises:
        FilterError: DuckDB refuses it, or it is more than one expression.
    """
    with connect() as connection:
        if kind == "order":
            select_series(connection, "TRUE", expression)
        else:
            select_series(connection, expression)


def select_series(
    connection: duckdb.DuckDBPyConnection, where: str, order: str = "SeriesInstanceUID"
) -> list[str]:
    """Return the SeriesInstanceUIDs of the catalog's series that meet a condition, in an order.

    Args:
        connection: from `connect` or `open_catalogs`.
        where: a condition over the columns of the catalog.
        order: terms of ORDER BY; ties are broken by SeriesInstanceUID.

    Raises:
        FilterError: an expression is not valid.
    """
    try:
        table = connection.sql(_query(connection, where, order)).to_arrow_table()
    except duckdb.Error as error:
        raise _explained(error) from None
    uids: list[str] = table.column(0).to_pylist()
    return uids


def store_series(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    where: str,
    order: str = "SeriesInstanceUID",
) -> None:
    """Put what `select_series` returns into a table of the database, in that order.

    Args:
        connection: from `open_catalogs`.
        table: name of the table; its column is ``SeriesInstanceUID``, its ``rowid`` the order.
        where: a condition over the columns of the catalog.
        order: terms of ORDER BY; ties are broken by SeriesInstanceUID.

    Raises:
        FilterError: an expression is not valid.
    """
    try:
        connection.execute(f"CREATE TABLE {table} AS {_query(connection, where, order)}")
    except duckdb.Error as error:
        raise _explained(error) from None


def count_series(connection: duckdb.DuckDBPyConnection, where: str) -> tuple[int, int]:
    """Return how many series of the catalog meet a condition, and how many patients they have.

    Series without PatientID count as series only.

    Raises:
        FilterError: the condition is not valid.
    """
    try:
        _query(connection, where, "SeriesInstanceUID")
        counts = connection.execute(
            "SELECT count(*), count(DISTINCT nullif(PatientID, ''))"
            f" FROM catalog WHERE (\n{where}\n)"
        ).fetchone()
    except duckdb.Error as error:
        raise _explained(error) from None
    assert counts is not None
    return counts[0], counts[1]


def _query(connection: duckdb.DuckDBPyConnection, where: str, order: str) -> str:
    """Return the query for the series that meet a condition, once it is sure to be a single one."""
    query = (
        f"SELECT SeriesInstanceUID FROM catalog WHERE (\n{where}\n) "
        f"ORDER BY {order}\n, SeriesInstanceUID"
    )
    if len(connection.extract_statements(query)) != 1:
        raise FilterError("it is more than one expression; keep one.")
    return query


def _explained(error: duckdb.Error) -> FilterError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return FilterError(" ".join(lines[:2]))

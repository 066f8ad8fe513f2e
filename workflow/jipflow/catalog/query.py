"""Queries over the files of catalogs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from jipflow.columns import COLUMNS
from jipflow.expressions import explained, lock, quoted, series_query

MEMORY = "1GB"
"""What DuckDB may hold; the rest lies in a temporary folder."""


def open_catalogs(folders: Sequence[Path], spill: Path) -> duckdb.DuckDBPyConnection:
    """Open a database with the views ``catalog`` and ``instances`` over the files of catalogs.

    Nothing is copied: a query reads the columns that it needs from the files. A series that is in
    several catalogs, and its instances, are taken from the first. As with
    `jipflow.expressions.connect`, expressions can reach nothing else: of all files, these alone
    may be read.

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
    lock(connection, [*series, *instances])
    return connection


def _merged(fields: str, files: Sequence[Path], series: Sequence[Path]) -> str:
    """Return the query for the rows of files, without series that an earlier catalog has."""
    queries = []
    for position, file in enumerate(files):
        query = f"SELECT {fields} FROM read_parquet({quoted(file)})"
        if position:
            earlier = ", ".join(quoted(path) for path in series[:position])
            query += (
                " WHERE SeriesInstanceUID NOT IN"
                f" (SELECT SeriesInstanceUID FROM read_parquet([{earlier}], union_by_name = true))"
            )
        queries.append(query)
    return " UNION ALL BY NAME ".join(queries)


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
        connection.execute(f"CREATE TABLE {table} AS {series_query(connection, where, order)}")
    except duckdb.Error as error:
        raise explained(error) from None


def count_series(connection: duckdb.DuckDBPyConnection, where: str) -> tuple[int, int]:
    """Return how many series of the catalog meet a condition, and how many patients they have.

    Series without PatientID count as series only.

    Raises:
        FilterError: the condition is not valid.
    """
    try:
        series_query(connection, where, "SeriesInstanceUID")
        counts = connection.execute(
            "SELECT count(*), count(DISTINCT nullif(PatientID, ''))"
            f" FROM catalog WHERE (\n{where}\n)"
        ).fetchone()
    except duckdb.Error as error:
        raise explained(error) from None
    assert counts is not None
    return counts[0], counts[1]

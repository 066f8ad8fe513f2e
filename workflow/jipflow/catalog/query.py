"""Queries over the files of catalogs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from jipflow.catalog.lost import create_lost
from jipflow.columns import COLUMNS
from jipflow.expressions import lock, quoted, series_query, values_kept

MEMORY = "1GB"
"""What DuckDB may hold; the rest lies in a temporary folder."""


def open_catalogs(folders: Sequence[Path], spill: Path) -> duckdb.DuckDBPyConnection:
    """Open a database with the views ``catalog``, ``instances`` and ``lost`` over catalogs' files.

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
    # A PACS lists what it holds; only folders have files that cannot be read.
    lost = [path for folder in folders if (path := folder.resolve() / "lost.parquet").is_file()]
    create_lost(connection, [quoted(path) for path in lost])
    lock(connection, [*series, *instances, *lost])
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
    where: Sequence[str],
    order: str = "SeriesInstanceUID",
    among: str = "catalog",
) -> None:
    """Put the series that meet all of some conditions into a table of the database, in an order.

    Args:
        connection: from `open_catalogs`.
        table: name of the table; its column is ``SeriesInstanceUID``, its ``rowid`` the order.
        where: conditions over the columns of the catalog.
        order: terms of ORDER BY; ties are broken by SeriesInstanceUID.
        among: table of the database whose series alone count.

    Raises:
        FilterError: an expression is not valid, or fails at a value.
    """
    query = series_query(where, order, among)
    with values_kept([*where[-1:], order]):
        connection.execute(f"CREATE TABLE {table} AS {query}")


def count_series(connection: duckdb.DuckDBPyConnection, where: Sequence[str]) -> tuple[int, int]:
    """Return how many series of the catalog meet some conditions, and how many patients they have.

    Series without PatientID count as series only.

    Args:
        connection: from `open_catalogs`.
        where: conditions over the columns of the catalog, of which the earlier ones were computed
            before.

    Raises:
        FilterError: a condition is not valid, or the last one fails at a value.
    """
    query = series_query(where)
    with values_kept(where[-1:]):
        counts = connection.execute(
            "SELECT count(*), count(DISTINCT nullif(PatientID, '')) FROM catalog"
            f" WHERE SeriesInstanceUID IN (SELECT SeriesInstanceUID FROM ({query}))"
        ).fetchone()
    assert counts is not None
    return counts[0], counts[1]

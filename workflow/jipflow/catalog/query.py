"""Filters over the series catalog: DuckDB expressions that a protocol shares between sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from jipflow.catalog.columns import COLUMNS

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
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def check_expression(expression: str, kind: str = "where") -> None:
    """Check an expression on an empty catalog.

    Args:
        expression: a condition, or terms of ORDER BY.
        kind: ``where`` or ``order``.

    Raises:
        FilterError: DuckDB refuses it, or it is more than one expression.
    """
    with connect() as connection:
        _select(connection, "TRUE" if kind == "order" else expression,
                expression if kind == "order" else "SeriesInstanceUID")  # fmt: skip


def select_series(
    connection: duckdb.DuckDBPyConnection, where: str, order: str = "SeriesInstanceUID"
) -> list[str]:
    """Return the SeriesInstanceUIDs of the catalog's series that meet a condition, in an order.

    Args:
        connection: from `connect`.
        where: a condition over the columns of the catalog.
        order: terms of ORDER BY; ties are broken by SeriesInstanceUID.

    Raises:
        FilterError: an expression is not valid.
    """
    return [row[0] for row in _select(connection, where, order)]


def _select(connection: duckdb.DuckDBPyConnection, where: str, order: str) -> list[tuple[str, ...]]:
    query = (
        f"SELECT SeriesInstanceUID FROM catalog WHERE (\n{where}\n) "
        f"ORDER BY {order}\n, SeriesInstanceUID"
    )
    try:
        if len(connection.extract_statements(query)) != 1:
            raise FilterError("it is more than one expression; keep one.")
        return connection.execute(query).fetchall()
    except duckdb.Error as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise FilterError(" ".join(lines[:2])) from None

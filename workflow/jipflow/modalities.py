"""Which modality a series can have that meets conditions over the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import get_args

import duckdb

from jipflow.columns import COLUMNS, Modality
from jipflow.expressions import connect


@cache
def _database() -> duckdb.DuckDBPyConnection:
    return connect()


def may_be(conditions: Sequence[str], modality: str) -> bool:
    """Return whether a series of a modality can meet all of some conditions.

    They are computed on a series of which nothing but the modality is known: what is false then is
    false of every series of it, by SQL's logic of three values. Where no modality at all meets
    them so, as where a condition reads what is unknown as a text of its own, any may.

    Args:
        conditions: those that `jipflow.expressions.check_expression` lets pass.
        modality: of `jipflow.columns.Modality`.
    """
    all_of_them = " AND ".join(f"(\n{condition}\n)" for condition in conditions)
    unknown = ", ".join(
        f'CAST(NULL AS {kind}) AS "{name}"' for name, kind in COLUMNS.items() if name != "Modality"
    )
    listed = ", ".join(f"('{each}')" for each in get_args(Modality))
    query = (
        f'SELECT "Modality" FROM (SELECT *, {unknown} FROM (VALUES {listed}) AS m("Modality")) '
        f"AS catalog WHERE ({all_of_them}) IS DISTINCT FROM FALSE"
    )
    with _database().cursor() as connection:
        try:
            possible = {row[0] for row in connection.execute(query).fetchall()}
        except duckdb.Error:
            return True  # it fails at what is unknown
    return not possible or modality in possible

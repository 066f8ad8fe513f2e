"""Expressions over the series catalog: DuckDB's SQL, as protocols share it between sites."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from jipflow.columns import COLUMNS
from jipflow.reasons import StageError

if TYPE_CHECKING:
    import pandas as pd


CONTEXTS = {
    "where": ("SELECT 1 FROM catalog WHERE\n{}\n", "SELECT 1 FROM catalog WHERE (\n{}\n)"),
    "order": (
        "SELECT 1 FROM catalog ORDER BY\n{}\n",
        "SELECT 1 FROM catalog ORDER BY\n{}\n, SeriesInstanceUID",
    ),
}
"""By kind, a query around a condition, or around terms of ORDER BY, and the same as it is used: in
parentheses, or before another term. A text is one expression if both hold the same tree in the same
place, and nothing else. One alone would not do: within parentheses a text may close them and open
others, without them it may go on with other clauses."""
NOTHING = {"where": "TRUE", "order": "SeriesInstanceUID"}
"""By kind, what stands in its place where only the rest of the query counts."""

LONGEST = 1 << 20
"""Characters of an expression; lists of some thousand UIDs fit in."""
DEEPEST = 100
"""Levels of an expression."""
LONGEST_PATTERN = 10_000
"""Characters of a pattern or a format: the time to compile a regular expression grows with the
square of its length, and a format may write a line for every two of its characters."""

CLASSES = frozenset(
    {
        *("COLUMN_REF", "CONSTANT", "CONJUNCTION", "COMPARISON", "BETWEEN", "OPERATOR", "CASE"),
        *("CAST", "TYPE", "COLLATE", "FUNCTION"),
    }
)
"""Nodes of DuckDB's parse tree that look at one series and at nothing else."""
OPERATORS = frozenset(
    {
        *("COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_NOT", "OPERATOR_IS_NULL"),
        *("OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE", "OPERATOR_TRY", "OPERATOR_NULLIF"),
        *("OPERATOR_CAST", "ARRAY_EXTRACT", "ARRAY_SLICE"),
    }
)
TYPES = frozenset(
    {
        *("BOOLEAN", "BOOL", "VARCHAR", "TEXT", "STRING", "CHAR"),
        *("TINYINT", "SMALLINT", "INTEGER", "INT", "BIGINT", "LONG", "HUGEINT"),
        *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
        *("FLOAT", "REAL", "DOUBLE", "DECIMAL", "NUMERIC"),
        *("DATE", "TIME", "TIMESTAMP", "DATETIME", "INTERVAL"),
    }
)
"""What a value may be cast to: nothing that depends on the place's time zone."""
SYMBOLS = frozenset(
    {
        *("+", "-", "*", "/", "//", "%", "^", "**", "@", "||", "^@"),
        *("~~", "!~~", "~~*", "!~~*", "~~~"),
        *("like_escape", "not_like_escape", "ilike_escape", "not_ilike_escape"),
    }
)
"""Functions that are written as operators, such as LIKE."""
FUNCTIONS = frozenset(
    {
        *("lower", "lcase", "upper", "ucase", "length", "len", "strlen", "reverse", "concat"),
        *("left", "right", "substr", "substring", "trim", "ltrim", "rtrim", "replace"),
        *("contains", "starts_with", "prefix", "ends_with", "suffix"),
        *("position", "strpos", "instr", "split_part"),
        *("string_split", "str_split", "split", "list_value", "list_contains", "array_contains"),
        *("list_has", "array_has", "list_extract", "array_extract"),
        *("regexp_matches", "regexp_full_match", "regexp_extract"),
        *("abs", "ceil", "ceiling", "floor", "round", "trunc", "sign", "mod"),
        *("sqrt", "pow", "power", "exp", "ln", "log", "log2", "log10"),
        *("isnan", "isinf", "isfinite", "greatest", "least", "nullif", "ifnull", "if"),
        *("strptime", "try_strptime", "strftime", "make_date", "year", "month", "day"),
        *("date_part", "datepart", "date_diff", "datediff", "date_sub", "datesub"),
        *("date_trunc", "datetrunc", "date_add"),
        *("to_years", "to_months", "to_weeks", "to_days", "to_hours", "to_minutes", "to_seconds"),
    }
)
"""Functions of the values of one series: the same for the same values wherever they are computed,
with nothing read but their arguments, no error of the protocol's own words, and no text that grows
beyond bounds."""
FIXED_PATTERN = frozenset(
    {"regexp_matches", "regexp_full_match", "regexp_extract", "strptime", "try_strptime"}
    | {"strftime", "replace"}
)
"""Functions whose arguments after the first are constants: from data, they could be anything."""
WINDOWS = frozenset({"row_number", "rank", "dense_rank", "count", "count_star", "min", "max"})
"""Functions that an order may compute over the series of a PARTITION."""

IN_PLACE = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.InterruptException)
"""Errors of disk and memory, which no expression causes."""


FAILURES: dict[type[duckdb.Error], str] = {
    duckdb.ConversionException: "it cannot be converted to the type that is asked for",
    duckdb.OutOfRangeException: "a number is out of range",
    duckdb.InvalidInputException: "it is not written as a function expects it",
}


class FilterError(StageError):
    """An expression is not valid over the series catalog."""


NOT_ONE = "it is not exactly one expression; keep one."
TOO_DEEP = f"it is nested more than {DEEPEST} deep; write it flatter."


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
    connection.execute("SET TimeZone = 'UTC'")
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
        FilterError: DuckDB refuses it, it is not one expression, or it does more than to compute
            with the columns of a series.
    """
    if len(expression) > LONGEST:
        raise FilterError(f"it has more than {LONGEST:,} characters; shorten it.")
    order = expression if kind == "order" else "SeriesInstanceUID"
    query = series_query([expression] if kind == "where" else [], order)
    with _empty_catalog().cursor() as connection:
        try:
            # Not as an Arrow table, whose library takes longer to load than all the rest.
            connection.execute(query).fetchall()
        except duckdb.Error as error:
            raise _explained(error) from None


def select_series(
    connection: duckdb.DuckDBPyConnection, where: str, order: str = "SeriesInstanceUID"
) -> list[str]:
    """Return the SeriesInstanceUIDs of the catalog's series that meet a condition, in an order.

    Args:
        connection: from `connect` or `jipflow.catalog.query.open_catalogs`.
        where: a condition over the columns of the catalog.
        order: terms of ORDER BY; ties are broken by SeriesInstanceUID.

    Raises:
        FilterError: an expression is not valid, or fails at a value.
    """
    query = series_query([where], order)
    with values_kept([where, order]):
        table = connection.sql(query).to_arrow_table()
    uids: list[str] = table.column(0).to_pylist()
    return uids


def series_query(
    where: Sequence[str], order: str = "SeriesInstanceUID", among: str = "catalog"
) -> str:
    """Return the query for the series that meet all of some conditions.

    Args:
        where: conditions over the columns of the catalog.
        order: terms of ORDER BY; ties are broken by SeriesInstanceUID.
        among: table of the database whose series alone count.

    Raises:
        FilterError: an expression is not one, or does more than to compute with columns.
    """
    for condition in where:
        _tree(condition, "where")
    _tree(order, "order")
    parts = (
        []
        if among == "catalog"
        else [f"SeriesInstanceUID IN (SELECT SeriesInstanceUID FROM {among})"]
    )
    parts += [f"(\n{condition}\n)" for condition in where]
    return (
        f"SELECT SeriesInstanceUID FROM catalog WHERE {' AND '.join(parts) or 'TRUE'} "
        f"ORDER BY {order}\n, SeriesInstanceUID"
    )


@contextmanager
def values_kept(expressions: Sequence[str]) -> Iterator[None]:
    """Turn DuckDB's errors within the block into messages without a value of a series.

    Its own words quote the value that cannot be converted, which may be a patient's.

    Args:
        expressions: what is computed in the block, as the protocol has it.

    Raises:
        FilterError: an expression fails at a value.
        StageError: disk or memory do not suffice.
    """
    try:
        yield
    except IN_PLACE as error:
        raise StageError(
            f"DuckDB cannot compute the cohort ({type(error).__name__}); make room on the disk "
            "of the results, or in memory, and run it again."
        ) from None
    except duckdb.Error as error:
        shown = "; ".join(e for e in expressions if e not in {"TRUE", "SeriesInstanceUID"})
        raise FilterError(
            f"cohort: a value of the catalog does not suit the filter `{shown}`: "
            f"{FAILURES.get(type(error), 'it cannot be computed')}; use TRY_CAST or try_strptime, "
            "which give NULL instead, in a new version of the protocol."
        ) from None


def where_clause(expression: str) -> dict[str, Any]:
    """Return a condition as the tree of DuckDB's parser.

    DuckDB does not promise the tree's shape; `tests/unit/test_expressions.py` states it.

    Raises:
        FilterError: it is not a valid condition.
    """
    tree: dict[str, Any] = _tree(expression, "where")
    return tree


def conjuncts(expression: str) -> list[str]:
    """Split a condition into conditions that must all be met.

    Raises:
        FilterError: it is not a valid condition.
    """
    tree = where_clause(expression)
    if tree["type"] != "CONJUNCTION_AND":
        return [expression]
    parts = []
    with _empty_catalog().cursor() as connection:
        statement = _parsed(connection, CONTEXTS["where"][0].format("TRUE"))
        for child in tree["children"]:
            statement["statements"][0]["node"]["where_clause"] = child
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
    return {
        names[node["column_names"][-1].lower()]
        for node in _nodes(_tree(expression, kind))
        if node.get("class") == "COLUMN_REF"
    }


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Iterate over every node of a parse tree."""
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(child, dict | list):
            yield from _nodes(child)


def _tree(expression: str, kind: str) -> Any:
    """Return the parse tree of one expression that computes with a series' columns alone.

    Raises:
        FilterError: it is something else.
    """
    alone, as_used = CONTEXTS[kind]
    try:
        tree, rest = _parts(alone, expression, kind)
        if rest != _rest(kind):
            raise FilterError(NOT_ONE)
        _check_tree(tree, kind)
        again, rest = _used(as_used, expression, kind)
    except RecursionError:
        raise FilterError(TOO_DEEP) from None
    if again != tree or rest != _rest(kind):
        raise FilterError(NOT_ONE)
    return tree


def _used(query: str, expression: str, kind: str) -> tuple[Any, Any]:
    """Return what `_parts` does of the query as it is used; of an order, without our own term."""
    try:
        tree, rest = _parts(query, expression, kind)
    except FilterError:
        raise FilterError(NOT_ONE) from None
    return (tree if kind == "where" else tree[:-1]), rest


@cache
def _rest(kind: str) -> Any:
    """Return the tree of a query without its expression."""
    return _parts(CONTEXTS[kind][0], NOTHING[kind], kind)[1]


def _parts(query: str, expression: str, kind: str) -> tuple[Any, Any]:
    """Return the tree of an expression in a query, and that of the query without it."""
    with _empty_catalog().cursor() as connection:
        statements = _without_places(_parsed(connection, query.format(expression))["statements"])
    match statements:
        case [{"node": {"type": "SELECT_NODE", "where_clause": tree} as node}] if kind == "where":
            del node["where_clause"]
        case [{"node": {"modifiers": [{"orders": tree} as modifier]}}] if kind == "order":
            del modifier["orders"]
        case _:
            raise FilterError(NOT_ONE)
    return tree, statements


def _without_places(tree: Any) -> Any:
    """Return a tree without the places in the text."""
    if isinstance(tree, list):
        return [_without_places(child) for child in tree]
    if isinstance(tree, dict):
        return {
            key: _without_places(child)
            for key, child in tree.items()
            if key not in {"query_location", "query_location_length"}
        }
    return tree


def _parsed(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, Any]:
    """Return the parse tree of a query."""
    try:
        (text,) = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0]
    except duckdb.Error as error:
        raise _explained(error) from None
    tree: dict[str, Any] = json.loads(text)
    if tree["error"]:
        message = tree["error_message"]
        if "expression depth" in message:
            message = TOO_DEEP
        elif "Only SELECT statements" in message:
            message = NOT_ONE
        raise FilterError(message)
    return tree


def _check_tree(tree: Any, kind: str, level: int = 0) -> None:
    """Check every node of a parse tree; see `_check_node`."""
    if level > DEEPEST:
        raise FilterError(TOO_DEEP)
    if isinstance(tree, dict) and "class" in tree:
        _check_node(tree, kind)
        level += 1
    for child in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(child, dict | list):
            _check_tree(child, kind, level)


def _check_node(node: dict[str, Any], kind: str) -> None:
    """Check that a node of a parse tree computes with the columns of one series alone.

    Raises:
        FilterError: it does something else, or is not known here.
    """
    match node:
        case {"class": "COLUMN_REF", "column_names": names}:
            _check_column([name.lower() for name in names], ".".join(names))
        case {"class": "FUNCTION"}:
            _check_function(node)
        case {"class": "WINDOW", "function_name": name} if kind == "order":
            if name not in WINDOWS or len(node["qualified_name"]["path"]) != 1:
                raise FilterError(f"{name}() over a window is not possible here.")
        case {"class": "TYPE", "type_name": name}:
            if name.upper() not in TYPES or len(node["qualified_name"]["path"]) != 1:
                raise FilterError(f"the type {name} is not possible here.")
        case {"class": "COLLATE", "collation": collation}:
            if collation.lower() != "nocase":
                raise FilterError(f"COLLATE {collation} is not possible here; NOCASE is.")
        case {"class": "OPERATOR", "type": name} if name not in OPERATORS:
            raise FilterError(f"{name} is not possible here.")
        case {"class": "SUBQUERY"}:
            raise FilterError(
                "it holds a query, and an expression looks at one series alone; write a condition "
                "over the columns of the series."
            )
        case {"class": name} if name not in CLASSES:
            raise FilterError(f"{name.lower()} is not possible here.")


def _check_column(names: list[str], shown: str) -> None:
    known = {column.lower() for column in COLUMNS}
    if names[-1] not in known or names[:-1] not in ([], ["catalog"]):
        close = get_close_matches(names[-1], sorted(known), 1)
        columns = {column.lower(): column for column in COLUMNS}
        hint = f"; did you mean {columns[close[0]]}?" if close else "."
        raise FilterError(f"the catalog has no column {shown}{hint}")


def _check_function(node: dict[str, Any]) -> None:
    name, arguments = node["function_name"].lower(), node["arguments"]
    if name not in FUNCTIONS | SYMBOLS or len(node["qualified_name"]["path"]) != 1:
        raise FilterError(
            f"the function {'.'.join(node['qualified_name']['path'])} is not possible here; "
            "docs/user-guide.md lists those that are."
        )
    if node["distinct"] or node["filter"] is not None or node["order_bys"]["orders"]:
        raise FilterError(f"{name} takes its arguments alone.")
    if any(argument.get("name") for argument in arguments):
        raise FilterError(f"{name} takes arguments without names.")
    if name in FIXED_PATTERN:
        texts = [_text(argument["expression"]) for argument in arguments[1:]]
        if None in texts:
            raise FilterError(f"{name} takes constants behind its first argument.")
        if max(len(text or "") for text in ("", *texts)) > LONGEST_PATTERN:
            raise FilterError(f"{name} takes texts of at most {LONGEST_PATTERN:,} characters.")
        if name == "replace" and len(texts) == 2 and len(texts[1] or "") > len(texts[0] or ""):
            raise FilterError("replace puts in no more characters than it takes out.")


def _text(node: Any) -> str | None:
    """Return the text of a constant; None for anything else."""
    if node.get("class") != "CONSTANT":
        return None
    return str(node["literal"].get("text", ""))


def _explained(error: duckdb.Error) -> FilterError:
    """Return the first lines of what DuckDB says against an expression over no series."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return FilterError(" ".join(lines[:2]))

"""The narrowest queries of a PACS that still cover a protocol's filter.

A filter is read by DuckDB's own parser, which is the one that applies it: another reader of SQL
that took a condition otherwise would lose series without a word. What a PACS cannot be asked
(PS3.4 section C.2.2.2), and what is not known here of the parser's tree, is left out, which widens
the query; the filter itself is applied to the answer. A StudyDate is taken to be a date (PS3.5
section 6.2) or empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any, Literal

from jipflow.columns import COLUMNS
from jipflow.expressions import filter_steps, where_clause
from jipflow.pacs.conditions import (
    LAST_CHARACTER,
    Conjunction,
    TextRange,
    both,
    covering_text,
    either,
    minimal,
    value_representation,
)

DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)")

REVERSED = {
    "COMPARE_EQUAL": "COMPARE_EQUAL",
    "COMPARE_NOTEQUAL": "COMPARE_NOTEQUAL",
    "COMPARE_NOT_DISTINCT_FROM": "COMPARE_NOT_DISTINCT_FROM",
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHAN",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHAN",
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHANOREQUALTO",
}
"""Comparisons with their sides swapped."""
NEGATED = {
    "COMPARE_NOTEQUAL": "COMPARE_EQUAL",
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHAN",
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHANOREQUALTO",
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHAN",
}
WHOLE_NUMBERS = {"INTEGER", "INT", "BIGINT", "UINTEGER", "UBIGINT", "HUGEINT"}

PIECES: dict[str, Callable[[str], list[str]]] = {
    "~~": lambda text: re.split("[%_]", text),
    "!~~": lambda text: re.split("[%_]", text),
    "starts_with": lambda text: [text, ""],
    "prefix": lambda text: [text, ""],
    "^@": lambda text: [text, ""],
    "contains": lambda text: ["", text, ""],
    "ends_with": lambda text: ["", text],
    "suffix": lambda text: ["", text],
}
"""Functions that compare text (``~~`` is LIKE), and what their pattern fixes of it."""


@dataclass(frozen=True)
class Operand:
    """What a comparison is about.

    Attributes:
        column: of the catalog.
        form: the column's text itself, its start, the number that it writes, or the day.
    """

    column: str
    form: Literal["text", "start", "number", "day"]


def narrow(
    where: str | list[str], roles: Iterable[str], match: Sequence[str]
) -> list[dict[str, str]]:
    """Turn a protocol's filter into queries that together cover it.

    Args:
        where: the steps that every series must meet, expressions over the series catalog.
        roles: the conditions of the roles, of which a series must meet at least one.
        match: the columns by which the PACS can narrow a query.

    Returns:
        The matching keys of each query: every series that the filter accepts is matched by at
        least one of them. An empty mapping asks for all that the PACS has; an empty list says that
        no series can meet the filter.

    Raises:
        FilterError: an expression is not valid.
    """
    steps, alternatives = filter_steps(where), list(roles)
    covers = [_cover(where_clause(step), match) for step in steps]
    covers.append(either([_cover(where_clause(role), match) for role in alternatives]))
    askable: list[Conjunction] = [
        {key: condition for key, condition in conjunction.items() if condition.values()}
        for conjunction in reduce(both, covers)
    ]
    queries = []
    for conjunction in minimal(askable):
        values = product(*(condition.values() for condition in conjunction.values()))
        queries += [dict(zip(conjunction, each, strict=True)) for each in values]
    return sorted(queries, key=lambda query: sorted(query.items()))


def exactly(key: str, value: str) -> str:
    """Return a value of a matching key that covers this text, or empty where there is none."""
    condition = covering_text(key, [value]).get(key)
    return condition.values()[0] if condition is not None and condition.values() else ""


def _cover(node: Any, match: Sequence[str], negated: bool = False) -> list[Conjunction]:
    """Return conjunctions that cover a condition, or its negation."""
    match node:
        case {"class": "CONJUNCTION", "type": kind, "children": children}:
            parts = [_cover(child, match, negated) for child in children]
            return reduce(both, parts) if (kind == "CONJUNCTION_AND") != negated else either(parts)
        case {"type": "OPERATOR_NOT", "children": [child]}:
            return _cover(child, match, not negated)
        case {"class": "CONSTANT", "literal": {"kind": "BOOLEAN", "text": text}}:
            return [{}] if (text == "true") != negated else []
        case {"class": "COMPARISON", "type": kind, "left": left, "right": right}:
            kind = NEGATED.get(kind, "") if negated else kind
            if _operand(left) is None:
                left, right, kind = right, left, REVERSED.get(kind, "")
            return [_within(match, _compare(kind, left, right))]
        case {"class": "BETWEEN", "input": operand, "lower": lower, "upper": upper}:
            return _between(operand, lower, upper, match, negated)
        case {"type": "COMPARE_IN", "children": [operand, *values]} if not negated:
            # With a value of another type, DuckDB would compare all of them as that type.
            if any(_constant(operand, value) is None for value in values):
                return [{}]
            equals = [_compare("COMPARE_EQUAL", operand, value) for value in values]
            return either([[_within(match, condition)] for condition in equals])
        case {"class": "FUNCTION", "function_name": name, "arguments": arguments}:
            return [_within(match, _like(name, arguments, negated))]
    return [{}]


def _within(match: Sequence[str], conjunction: Conjunction) -> Conjunction:
    """Leave out of a conjunction the keys that the PACS is not to be asked."""
    return {key: value for key, value in conjunction.items() if key in match}


def _between(
    operand: Any, lower: Any, upper: Any, match: Sequence[str], negated: bool
) -> list[Conjunction]:
    """Return what covers BETWEEN, or its negation."""
    low = "COMPARE_LESSTHAN" if negated else "COMPARE_GREATERTHANOREQUALTO"
    high = "COMPARE_GREATERTHAN" if negated else "COMPARE_LESSTHANOREQUALTO"
    if any(_constant(operand, bound) is None for bound in (lower, upper)):
        return [{}]
    parts = [
        [_within(match, _compare(low, operand, lower))],
        [_within(match, _compare(high, operand, upper))],
    ]
    return either(parts) if negated else reduce(both, parts)


def _operand(node: Any) -> Operand | None:
    """Return the column that one side of a comparison is made of; None if not of one alone."""
    match node:
        case {"class": "COLUMN_REF", "column_names": [*table, name]}:
            columns = {column.lower(): column for column in COLUMNS}
            if name.lower() in columns and [t.lower() for t in table] in ([], ["catalog"]):
                return Operand(columns[name.lower()], "text")
        case {"class": "CAST", "child": child, "type_expr": {"type_name": kind}}:
            return _cast(_operand(child), kind)
        case {
            "class": "FUNCTION",
            "function_name": name,
            "arguments": [{"expression": first}, *others],
        }:
            return _called(name, _operand(first), [_literal(other) for other in others])
        case {"type": "ARRAY_SLICE", "children": [child, {"literal": {"text": "1"}}, _]}:
            return _start(_operand(child))
    return None


def _literal(argument: Any) -> str | None:
    """Return the text of a function's argument; None where it is no constant."""
    text: str | None = argument["expression"].get("literal", {}).get("text")
    return text


def _cast(operand: Operand | None, kind: str) -> Operand | None:
    """Return an operand cast to another type; None where that loses what it is about."""
    match operand:
        case Operand(column, "text") if kind in WHOLE_NUMBERS:
            return Operand(column, "number")
        case Operand(_, "text" | "start") if kind == "VARCHAR":
            return operand
        case Operand(_, "day") if kind in ("DATE", "TIMESTAMP"):
            return operand
    return None


def _called(name: str, operand: Operand | None, others: list[str | None]) -> Operand | None:
    """Return what a function makes of an operand and its other arguments."""
    if name in ("strptime", "try_strptime") and others == ["%Y%m%d"]:
        return Operand(operand.column, "day") if operand and operand.form == "text" else None
    from_first = name in ("substr", "substring") and others[:1] == ["1"]
    if from_first or (name == "left" and len(others) == 1):
        return _start(operand)
    return None


def _start(operand: Operand | None) -> Operand | None:
    """Return the start of a text, however long."""
    return Operand(operand.column, "start") if operand and operand.form == "text" else None


def _constant(operand: Any, node: Any) -> str | None:
    """Return the text that a constant stands for beside an operand; None where unknown."""
    beside = _operand(operand)
    form = beside.form if beside else ""
    match node:
        case {"class": "CONSTANT", "literal": {"kind": "STRING", "text": str(text)}}:
            if form == "day":
                return "".join(day.groups()) if (day := DAY.fullmatch(text)) else None
            return text if form in ("text", "start") else None
        case {"class": "CONSTANT", "literal": {"kind": "INTEGER", "text": str(text)}}:
            return text if form == "number" and re.fullmatch(r"\d{8}", text) else None
        case {"class": "CAST", "child": child, "type_expr": {"type_name": "DATE" | "TIMESTAMP"}}:
            return _constant(operand, child) if form == "day" else None
    return None


def _compare(kind: str, operand: Any, constant: Any) -> Conjunction:
    """Return what covers a comparison of a column with a constant."""
    about, value = _operand(operand), _constant(operand, constant)
    if about is None or value is None or kind not in REVERSED or kind == "COMPARE_NOTEQUAL":
        return {}
    equal = kind in ("COMPARE_EQUAL", "COMPARE_NOT_DISTINCT_FROM")
    start = about.form == "start"
    if equal and about.form in ("text", "start"):
        return covering_text(about.column, [value, ""] if start else [value])
    if value_representation(about.column) != "DA":
        return {}
    after = value + (LAST_CHARACTER if start else "\0")
    # An empty text is no number and no day, so that a comparison with it is never true.
    floor = "0" if about.form in ("number", "day") else ""
    ranges = {
        "COMPARE_LESSTHAN": TextRange(floor, after if start else value),
        "COMPARE_LESSTHANOREQUALTO": TextRange(floor, after),
        "COMPARE_GREATERTHAN": TextRange(value if start else after, None),
        "COMPARE_GREATERTHANOREQUALTO": TextRange(value, None),
    }
    return {about.column: TextRange(value, after) if equal else ranges[kind]}


def _like(name: str, arguments: Sequence[Mapping[str, Any]], negated: bool) -> Conjunction:
    """Return what covers a function that compares text, or its negation."""
    nodes = [argument["expression"] for argument in arguments]
    if len(nodes) != 2 or name not in PIECES or (name == "!~~") != negated:
        return {}
    about, value = _operand(nodes[0]), _constant(*nodes)
    if about is None or about.form != "text" or value is None:
        return {}
    return covering_text(about.column, PIECES[name](value))

"""The narrowest queries of a PACS that still cover a protocol's filter.

A filter is read by DuckDB's own parser. What a PACS cannot be asked (PS3.4 section C.2.2.2) is left
out, which widens the query; the filter itself is applied to the answer. A StudyDate is taken to be
a date (PS3.5 section 6.2) or empty.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce
from itertools import product
from typing import Any, Self

import duckdb
from pydicom.datadict import dictionary_VR

from jipflow.columns import COLUMNS
from jipflow.expressions import FilterError, filter_steps
from jipflow.pacs.archive import ANY_UID

MOST_QUERIES = 64
"""Most queries that a filter is split into; beyond it they are joined to wider ones."""
UIDS_A_QUERY = 50
"""Most UIDs in one key: they stand in the address of a DICOMweb query."""
LONGEST = {"CS": 16, "LO": 64}
"""Characters that a value may have (PS3.5 table 6.2-1)."""
UNSAFE = {"CS": re.compile(r"[^A-Z0-9 _]"), "LO": re.compile(r"[^ -~]|[*?,\"]")}
"""Characters that some PACS would match otherwise than as themselves."""
DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)")
LAST_CHARACTER = "\U0010ffff"


@dataclass(frozen=True)
class Wildcard:
    """Text in which ``*`` stands for any text; it never holds another ``*``."""

    pattern: str

    def meet(self, other: Self) -> Self | None:
        """Return a condition that covers what meets both; None where nothing can."""
        if self.within(other):
            return self
        if other.within(self):
            return other
        mine, theirs = self.pattern.partition("*"), other.pattern.partition("*")
        shorter = min(len(mine[0]), len(theirs[0]))
        if not (mine[1] and theirs[1]) or mine[0][:shorter] != theirs[0][:shorter]:
            return None
        return max(self, other, key=lambda each: len(each.pattern))

    def join(self, other: Self) -> Self | None:
        """Return a condition that covers both; None where only none at all would."""
        pairs = zip(self.pattern, other.pattern, strict=False)
        same = [a == b != "*" for a, b in pairs]
        prefix = self.pattern[: same.index(False) if False in same else len(same)].rstrip()
        return type(self)(f"{prefix}*") if prefix else None

    def within(self, other: Self) -> bool:
        """Tell whether all that meets this meets the other."""
        parts = map(re.escape, other.pattern.split("*"))
        return re.fullmatch(".*".join(parts), self.pattern) is not None

    def values(self) -> list[str]:
        """Return the key's values, one a query; none where the PACS cannot be asked."""
        return [self.pattern]


class _Dates(Sequence[str]):
    """Every date as DICOM writes it, in order."""

    def __len__(self) -> int:
        return date.max.toordinal()

    def __getitem__(self, index: Any) -> Any:
        return date.fromordinal(index + 1).isoformat().replace("-", "")


DATES = _Dates()


@dataclass(frozen=True)
class Interval:
    """Text from `low` up to, but without, `end` in DuckDB's order; None has no end."""

    low: str
    end: str | None

    def meet(self, other: Self) -> Self | None:
        """Return what meets both; None where nothing can."""
        ends = [end for end in (self.end, other.end) if end is not None]
        low, end = max(self.low, other.low), min(ends, default=None)
        return None if end is not None and low >= end else type(self)(low, end)

    def join(self, other: Self) -> Self:
        """Return the least interval that covers both."""
        end = None if self.end is None or other.end is None else max(self.end, other.end)
        return type(self)(min(self.low, other.low), end)

    def within(self, other: Self) -> bool:
        """Tell whether all that meets this meets the other."""
        return other.low <= self.low and (
            other.end is None or (self.end is not None and self.end <= other.end)
        )

    def values(self) -> list[str]:
        """Return the range of dates; none where it holds empty text too, or no date."""
        first = bisect_left(DATES, self.low)
        last = len(DATES) - 1 if self.end is None else bisect_left(DATES, self.end) - 1
        if not self.low or first > last or last - first == len(DATES) - 1:
            return []
        if first == last:
            return [DATES[first]]
        low = DATES[first] if first else ""
        return [f"{low}-{DATES[last] if last < len(DATES) - 1 else ''}"]


@dataclass(frozen=True)
class Uids:
    """Any of these UIDs."""

    uids: frozenset[str]

    def meet(self, other: Self) -> Self | None:
        """Return what meets both; None where nothing can."""
        common = self.uids & other.uids
        return type(self)(common) if common else None

    def join(self, other: Self) -> Self:
        """Return what covers both."""
        return type(self)(self.uids | other.uids)

    def within(self, other: Self) -> bool:
        """Tell whether all that meets this meets the other."""
        return self.uids <= other.uids

    def values(self) -> list[str]:
        """Return lists of UIDs, one a query."""
        uids = sorted(self.uids)
        parts = range(0, len(uids), UIDS_A_QUERY)
        return ["\\".join(uids[start : start + UIDS_A_QUERY]) for start in parts]


Conjunction = Mapping[str, Any]
"""The condition on each key; without any, all that the PACS has."""


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
    covers = [_cover(where_clause(step), match) for step in filter_steps(where)]
    covers.append(_either([_cover(where_clause(role), match) for role in roles]))
    askable: list[Conjunction] = [
        {key: condition for key, condition in conjunction.items() if condition.values()}
        for conjunction in reduce(_both, covers)
    ]
    queries = []
    for conjunction in _minimal(askable):
        values = product(*(condition.values() for condition in conjunction.values()))
        queries += [dict(zip(conjunction, each, strict=True)) for each in values]
    return sorted(queries, key=lambda query: sorted(query.items()))


def exactly(key: str, value: str) -> str:
    """Return a value of a matching key that covers this text, or empty where there is none."""
    condition = _text(key, [value]).get(key)
    return condition.values()[0] if condition is not None and condition.values() else ""


def where_clause(expression: str) -> dict[str, Any]:
    """Return a condition over the series catalog as the tree of DuckDB's parser.

    Raises:
        FilterError: it is not valid.
    """
    statement = _parse(f"SELECT 1 FROM catalog WHERE (\n{expression}\n)")
    tree: dict[str, Any] = statement["statements"][0]["node"]["where_clause"]
    return tree


def conjuncts(expression: str) -> list[str]:
    """Split a condition into conditions that must all be met."""
    statement = _parse(f"SELECT 1 FROM catalog WHERE (\n{expression}\n)")
    node = statement["statements"][0]["node"]
    tree = node["where_clause"]
    if tree["type"] != "CONJUNCTION_AND":
        return [expression]
    parts = []
    with duckdb.connect(":memory:") as connection:
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
    """
    clause = f"WHERE (\n{expression}\n)" if kind == "where" else f"ORDER BY {expression}\n"
    names = {name.lower(): name for name in COLUMNS}
    used: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, list):
            for child in node:
                visit(child)
        elif isinstance(node, dict):
            if node.get("class") == "STAR":
                used.update(COLUMNS)
            if node.get("class") == "COLUMN_REF":
                used.update(names[n.lower()] for n in node["column_names"] if n.lower() in names)
            for child in node.values():
                visit(child)

    visit(_parse(f"SELECT 1 FROM catalog {clause}"))
    return used


def _parse(query: str) -> dict[str, Any]:
    with duckdb.connect(":memory:") as connection:
        (text,) = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0]
    tree: dict[str, Any] = json.loads(text)
    if tree["error"]:
        raise FilterError(tree["error_message"])
    return tree


REVERSED = {
    "COMPARE_EQUAL": "COMPARE_EQUAL",
    "COMPARE_NOTEQUAL": "COMPARE_NOTEQUAL",
    "COMPARE_NOT_DISTINCT_FROM": "COMPARE_NOT_DISTINCT_FROM",
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHAN",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHAN",
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHANOREQUALTO",
}
NEGATED = {
    "COMPARE_NOTEQUAL": "COMPARE_EQUAL",
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHAN",
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHANOREQUALTO",
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHAN",
}
WHOLE_NUMBERS = {"INTEGER", "INT", "BIGINT", "UINTEGER", "UBIGINT", "HUGEINT"}


def _cover(node: Any, match: Sequence[str], negated: bool = False) -> list[Conjunction]:
    """Return conjunctions that cover a condition, or its negation."""
    match node:
        case {"class": "CONJUNCTION", "type": kind, "children": children}:
            parts = [_cover(child, match, negated) for child in children]
            if (kind == "CONJUNCTION_AND") != negated:
                return reduce(_both, parts)
            return _either(parts)
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
            low = "COMPARE_LESSTHAN" if negated else "COMPARE_GREATERTHANOREQUALTO"
            high = "COMPARE_GREATERTHAN" if negated else "COMPARE_LESSTHANOREQUALTO"
            parts = [
                [_within(match, _compare(low, operand, lower))],
                [_within(match, _compare(high, operand, upper))],
            ]
            if any(_constant(operand, bound) is None for bound in (lower, upper)):
                return [{}]
            return _either(parts) if negated else reduce(_both, parts)
        case {"type": "COMPARE_IN", "children": [operand, *values]} if not negated:
            # With a value of another type, DuckDB would compare all of them as that type.
            if any(_constant(operand, value) is None for value in values):
                return [{}]
            equals = [_compare("COMPARE_EQUAL", operand, value) for value in values]
            return _either([[_within(match, condition)] for condition in equals])
        case {"class": "FUNCTION", "function_name": name, "arguments": arguments}:
            return [_within(match, _like(name, arguments, negated))]
    return [{}]


def _within(match: Sequence[str], conjunction: Conjunction) -> Conjunction:
    return {key: value for key, value in conjunction.items() if key in match}


def _operand(node: Any) -> tuple[str, str] | None:
    """Return the column that an operand is made of, and how: text, start, number or day."""
    match node:
        case {"class": "COLUMN_REF", "column_names": [*table, name]}:
            columns = {column.lower(): column for column in COLUMNS}
            if name.lower() in columns and [t.lower() for t in table] in ([], ["catalog"]):
                return columns[name.lower()], "text"
        case {"class": "CAST", "child": child, "type_expr": {"type_name": kind}}:
            column, how = _operand(child) or ("", "")
            if how == "text" and kind in WHOLE_NUMBERS:
                return column, "number"
            if how in ("text", "start") and kind == "VARCHAR":
                return column, how
            if how == "day" and kind in ("DATE", "TIMESTAMP"):
                return column, how
        case {"class": "FUNCTION", "function_name": name, "arguments": arguments}:
            parts = [argument["expression"] for argument in arguments]
            column, how = (_operand(parts[0]) if parts else None) or ("", "")
            others = [part.get("literal", {}).get("text") for part in parts[1:]]
            if how == "text" and name in ("strptime", "try_strptime") and others == ["%Y%m%d"]:
                return column, "day"
            if how == "text" and name == "left" and len(parts) == 2:
                return column, "start"
            if how == "text" and name in ("substr", "substring") and others[:1] == ["1"]:
                return column, "start"
        case {"type": "ARRAY_SLICE", "children": [child, {"literal": {"text": "1"}}, _]}:
            column, how = _operand(child) or ("", "")
            return (column, "start") if how == "text" else None
    return None


def _constant(operand: Any, node: Any) -> str | None:
    """Return the text that a constant stands for beside an operand; None where unknown."""
    _, how = _operand(operand) or ("", "")
    match node:
        case {"class": "CONSTANT", "literal": {"kind": "STRING", "text": str(text)}}:
            if how == "day":
                return "".join(day.groups()) if (day := DAY.fullmatch(text)) else None
            return text if how in ("text", "start") else None
        case {"class": "CONSTANT", "literal": {"kind": "INTEGER", "text": str(text)}}:
            return text if how == "number" and re.fullmatch(r"\d{8}", text) else None
        case {"class": "CAST", "child": child, "type_expr": {"type_name": "DATE" | "TIMESTAMP"}}:
            return _constant(operand, child) if how == "day" else None
    return None


def _compare(kind: str, operand: Any, constant: Any) -> Conjunction:
    """Return what covers a comparison of a column with a constant."""
    column, how = _operand(operand) or ("", "")
    value = _constant(operand, constant)
    equal = kind in ("COMPARE_EQUAL", "COMPARE_NOT_DISTINCT_FROM")
    if value is None or kind not in REVERSED or kind == "COMPARE_NOTEQUAL":
        return {}
    if equal and how in ("text", "start"):
        return _text(column, [value] if how == "text" else [value, ""])
    if column not in COLUMNS or _vr(column) != "DA":
        return {}
    after = value + (LAST_CHARACTER if how == "start" else "\0")
    # An empty text is no number and no day, so that a comparison with it is never true.
    floor = "0" if how in ("number", "day") else ""
    intervals = {
        "COMPARE_LESSTHAN": Interval(floor, after if how == "start" else value),
        "COMPARE_LESSTHANOREQUALTO": Interval(floor, after),
        "COMPARE_GREATERTHAN": Interval(value if how == "start" else after, None),
        "COMPARE_GREATERTHANOREQUALTO": Interval(value, None),
    }
    return {column: Interval(value, after) if equal else intervals[kind]}


def _like(name: str, arguments: list[dict[str, Any]], negated: bool) -> Conjunction:
    """Return what covers a function that compares text."""
    nodes = [argument["expression"] for argument in arguments]
    if len(nodes) != 2 or (name != "!~~" and negated) or (name == "!~~" and not negated):
        return {}
    column, how = _operand(nodes[0]) or ("", "")
    value = _constant(*nodes)
    if how != "text" or value is None:
        return {}
    pieces: dict[str, Callable[[str], list[str]]] = {
        "~~": lambda text: re.split("[%_]", text),
        "!~~": lambda text: re.split("[%_]", text),
        "starts_with": lambda text: [text, ""],
        "prefix": lambda text: [text, ""],
        "^@": lambda text: [text, ""],
        "contains": lambda text: ["", text, ""],
        "ends_with": lambda text: ["", text],
        "suffix": lambda text: ["", text],
    }
    return _text(column, pieces[name](value)) if name in pieces else {}


def _vr(column: str) -> str:
    try:
        return dictionary_VR(column)
    except KeyError:
        return ""


def _text(column: str, pieces: list[str]) -> Conjunction:
    """Return what covers text made of these pieces, with any text between them.

    Empty text has no key: as the value of a matching key it stands for any (C.2.2.2.3). What is
    longer than a value can be, and what is no plain character, becomes a wildcard.
    """
    vr = _vr(column)
    if vr == "DA":
        if len(pieces) == 1:
            return {column: Interval(pieces[0], pieces[0] + "\0")}
        return {column: Interval(pieces[0], pieces[0] + LAST_CHARACTER)} if pieces[0] else {}
    if vr == "UI":
        known = len(pieces) == 1 and ANY_UID.fullmatch(pieces[0])
        return {column: Uids(frozenset(pieces))} if known else {}
    # A backslash parts values, and a key is compared with each of them.
    if vr not in LONGEST or any("\\" in piece for piece in pieces):
        return {}
    pattern = "*".join(UNSAFE[vr].sub("*", piece) for piece in pieces)
    # Leading and trailing spaces are padding to a PACS and not to DuckDB.
    pattern = re.sub(r"^ +| +$", "*", pattern)
    if len(pattern) > LONGEST[vr]:
        pattern = pattern[: LONGEST[vr] - 1].rstrip() + "*"
    pattern = re.sub(r"\*+", "*", pattern)
    return {column: Wildcard(pattern)} if pattern not in ("", "*") else {}


def _either(covers: list[list[Conjunction]]) -> list[Conjunction]:
    """Return what covers any of several conditions."""
    return _bounded([conjunction for cover in covers for conjunction in cover])


def _both(one: list[Conjunction], other: list[Conjunction]) -> list[Conjunction]:
    """Return what covers two conditions at once."""
    met = [meet for a in one for b in other if (meet := _meet(a, b)) is not None]
    if len(met := _minimal(met)) <= MOST_QUERIES:
        return met
    smaller, larger = sorted((one, other), key=len)
    return _both(smaller, [reduce(_join, larger)])


def _meet(one: Conjunction, other: Conjunction) -> Conjunction | None:
    met = {**one, **other}
    for key in one.keys() & other.keys():
        met[key] = one[key].meet(other[key])
    return None if None in met.values() else met


def _join(one: Conjunction, other: Conjunction) -> Conjunction:
    joined = {key: one[key].join(other[key]) for key in one.keys() & other.keys()}
    return {key: value for key, value in joined.items() if value is not None}


def _bounded(cover: list[Conjunction]) -> list[Conjunction]:
    cover = _minimal(cover)
    return cover if len(cover) <= MOST_QUERIES else [reduce(_join, cover)]


def _minimal(cover: list[Conjunction]) -> list[Conjunction]:
    """Leave out what another conjunction covers."""
    kept: list[Conjunction] = []
    for conjunction in sorted(cover, key=len):
        if not any(_covers(wider, conjunction) for wider in kept):
            kept = [each for each in kept if not _covers(conjunction, each)]
            kept.append(conjunction)
    return kept


def _covers(wider: Conjunction, narrower: Conjunction) -> bool:
    return wider.keys() <= narrower.keys() and all(
        narrower[key].within(wider[key]) for key in wider
    )

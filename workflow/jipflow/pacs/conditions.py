"""What a matching key of a query can say (PS3.4 section C.2.2.2), and how such conditions combine.

A *cover* of a condition is a list of conjunctions that together hold for all that meets it, and
perhaps for more.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce
from typing import Any, Self

from pydicom.datadict import dictionary_VR

from jipflow.pacs.archive import ANY_UID

MOST_QUERIES = 64
"""Most queries that a filter is split into; beyond it they are joined to wider ones."""
UIDS_A_QUERY = 50
"""Most UIDs in one key: they stand in the address of a DICOMweb query."""
LONGEST = {"CS": 16, "LO": 64}
"""Characters that a value may have (PS3.5 table 6.2-1)."""
UNSAFE = {"CS": re.compile(r"[^A-Z0-9 _]"), "LO": re.compile(r"[^ -~]|[*?,\"]")}
"""Characters that some PACS would match otherwise than as themselves."""
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
        """Return whether all that meets this meets the other."""
        first, *rest = other.pattern.split("*")
        if not rest:
            return self.pattern == first
        *middle, last = rest
        text = self.pattern.removeprefix(first)
        if not self.pattern.startswith(first) or not text.endswith(last):
            return False
        text = text[: len(text) - len(last)]
        for part in middle:
            _, found, text = text.partition(part) if part else ("", "*", text)
            if not found:
                return False
        return True

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
class TextRange:
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
        """Return whether all that meets this meets the other."""
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
        """Return whether all that meets this meets the other."""
        return self.uids <= other.uids

    def values(self) -> list[str]:
        """Return lists of UIDs, one a query."""
        uids = sorted(self.uids)
        parts = range(0, len(uids), UIDS_A_QUERY)
        return ["\\".join(uids[start : start + UIDS_A_QUERY]) for start in parts]


Conjunction = Mapping[str, Any]
"""The condition on each key; without any, all that the PACS has."""


def value_representation(column: str) -> str:
    """Return the VR of a column's attribute (PS3.6); empty where the column is no attribute."""
    try:
        return dictionary_VR(column)
    except KeyError:
        return ""


def covering_text(column: str, pieces: list[str]) -> Conjunction:
    """Return what covers text made of these pieces, with any text between them.

    Empty text has no key: as the value of a matching key it stands for any (C.2.2.2.3). What is
    longer than a value can be, and what is no plain character, becomes a wildcard.
    """
    vr = value_representation(column)
    if vr == "DA":
        if len(pieces) == 1:
            return {column: TextRange(pieces[0], pieces[0] + "\0")}
        return {column: TextRange(pieces[0], pieces[0] + LAST_CHARACTER)} if pieces[0] else {}
    if vr == "UI":
        known = len(pieces) == 1 and ANY_UID.fullmatch(pieces[0])
        return {column: Uids(frozenset(pieces))} if known else {}
    # A backslash parts values, and a key is compared with each of them.
    if vr not in LONGEST or any("\\" in piece for piece in pieces):
        return {}
    pattern = "*".join(UNSAFE[vr].sub("*", piece) for piece in pieces)
    # Leading and trailing spaces are padding to a PACS and not to DuckDB; a wildcard beside them
    # may stand for nothing.
    pattern = re.sub(r"^[ *]+|[ *]+$", "*", pattern)
    if len(pattern) > LONGEST[vr]:
        pattern = pattern[: LONGEST[vr] - 1].rstrip() + "*"
    pattern = re.sub(r"\*+", "*", pattern)
    return {column: Wildcard(pattern)} if pattern not in ("", "*") else {}


def either(covers: list[list[Conjunction]]) -> list[Conjunction]:
    """Return what covers any of several conditions."""
    return _bounded([conjunction for cover in covers for conjunction in cover])


def both(one: list[Conjunction], other: list[Conjunction]) -> list[Conjunction]:
    """Return what covers two conditions at once."""
    met = [meet for a in one for b in other if (meet := _meet(a, b)) is not None]
    if len(met := minimal(met)) <= MOST_QUERIES:
        return met
    smaller, larger = sorted((one, other), key=len)
    return both(smaller, [reduce(_join, larger)])


def _meet(one: Conjunction, other: Conjunction) -> Conjunction | None:
    met = {**one, **other}
    for key in one.keys() & other.keys():
        met[key] = one[key].meet(other[key])
    return None if None in met.values() else met


def _join(one: Conjunction, other: Conjunction) -> Conjunction:
    joined = {key: one[key].join(other[key]) for key in one.keys() & other.keys()}
    return {key: value for key, value in joined.items() if value is not None}


def _bounded(cover: list[Conjunction]) -> list[Conjunction]:
    cover = minimal(cover)
    return cover if len(cover) <= MOST_QUERIES else [reduce(_join, cover)]


def minimal(cover: list[Conjunction]) -> list[Conjunction]:
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

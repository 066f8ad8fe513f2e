"""What the rules of the gate kept back of a release, counted and named for readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jipflow.analyses.contract import kinds
from jipflow.analyses.forms import RecordedCell, ReleasedAnalysis
from jipflow.analyses.rules import Finding
from jipflow.release.contents import Disclosure

WHOLE = frozenset(Finding)
"""What a rule finds that keeps no part back."""


@dataclass(frozen=True)
class WithheldParts:
    """Parts of a cell that leaves, which a rule keeps back.

    Attributes:
        analysis: id of the analysis.
        cell: the cell in the record.
        rules: codes of the rules that keep them back.
        parts: what they are, in the plural, such as ``bins``.
        names: which, for readers.
    """

    analysis: str
    cell: RecordedCell
    rules: list[str]
    parts: str
    names: list[str]


def disclosure_summary(disclosure: Disclosure) -> dict[str, Any]:
    """Return how many cells leave and what each rule withheld.

    Returns:
        ``kept``, ``withheld`` (cells), ``parts`` (what rules withheld of cells that leave, by what
        it is called), ``min_patients`` and ``rules``: code, meaning and cells of each rule that
        withheld any.
    """
    summary = disclosure.summary
    return {
        "kept": summary.released,
        "withheld": summary.cells - summary.released,
        "parts": _count_parts(disclosure),
        "min_patients": disclosure.min_patients,
        "rules": [
            {"rule": rule, "meaning": disclosure.rules[rule], "cells": count}
            for rule, count in sorted(summary.withheld.items())
            if count
        ],
    }


def _count_parts(disclosure: Disclosure) -> dict[str, int]:
    counted: dict[str, int] = {}
    for cell in disclosure.cells:
        for parts, names in _parts_of(cell):
            counted[parts] = counted.get(parts, 0) + len(names)
    return counted


def withheld_parts(
    disclosure: Disclosure, analyses: Sequence[ReleasedAnalysis]
) -> Iterator[WithheldParts]:
    """Yield what rules keep back of cells that leave.

    Args:
        disclosure: the record of the gate.
        analyses: what leaves, which says what the parts are called.
    """
    by_id = {analysis.id: analysis for analysis in analyses}
    for cell in disclosure.cells:
        if not cell.released or cell.analysis not in by_id:
            continue
        rules = [rule for rule, found in sorted(cell.rules.items()) if found not in WHOLE]
        for parts, withheld in _parts_of(cell):
            if withheld:
                analysis = by_id[cell.analysis]
                known = kinds()[analysis.kind].part_names(analysis)
                names = [known.get(name, str(name)) for name in withheld]
                yield WithheldParts(cell.analysis, cell, rules, parts, names)


def _parts_of(cell: RecordedCell) -> Iterator[tuple[str, Sequence[str | int]]]:
    """Yield what a cell's parts are called, and those that were withheld."""
    for name in type(cell).model_fields:
        if name.startswith("withheld_"):
            yield name.removeprefix("withheld_"), getattr(cell, name) or ()

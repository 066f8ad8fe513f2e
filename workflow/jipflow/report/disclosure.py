"""The page that a person reads before approving a release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jipflow.analyses.contract import Finding, ReleasedAnalysis, Rule, kinds, rules_of_kinds
from jipflow.reasons import StageError
from jipflow.release.contents import Aggregates, Disclosure
from jipflow.report.pages import write_page


def write_disclosure_page(*, aggregates: Aggregates, disclosure: Disclosure, path: Path) -> None:
    """Write the page that shows every value that would leave, and what the rules withheld.

    The page may travel with the release, so it holds nothing that the two files do not,
    but for the version in its footer.

    Args:
        aggregates: content of ``aggregates.json``.
        disclosure: content of ``disclosure.json``.
        path: the HTML file.

    Raises:
        StageError: the two do not speak of the same cells.
    """
    _check_same_cells(aggregates, disclosure)
    write_page(
        path,
        "disclosure.html.j2",
        aggregates=aggregates,
        summary=disclosure_summary(disclosure.plain()),
        analyses=[_drawn(analysis) for analysis in aggregates.analyses],
        withheld=_withheld(disclosure),
        aggregates_sha256=disclosure.aggregates_sha256,
    )


def disclosure_summary(disclosure: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many cells leave and how many each rule withheld.

    Args:
        disclosure: content of ``disclosure.json``, which another version may have written.

    Returns:
        ``kept``, ``withheld`` (cells), ``parts`` (what rules may withhold of cells that leave: its
        ``name``, what such cells are called (``of``), and how many are ``withheld``),
        ``min_patients`` and ``rules``: code, meaning and cells of each rule that withheld any.
    """
    summary, cells = disclosure["summary"], disclosure["cells"]
    return {
        "kept": summary["released"],
        "withheld": summary["cells"] - summary["released"],
        "parts": [_parts(rule, cells) for rule in rules_of_kinds() if rule.parts],
        "min_patients": disclosure["min_patients"],
        "rules": [
            {"rule": rule, "meaning": disclosure["rules"][rule], "cells": count}
            for rule, count in sorted(summary["withheld"].items())
            if count
        ],
    }


def _parts(rule: Rule, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    withheld = sum(len(cell.get(f"withheld_{rule.parts}", ())) for cell in cells)
    return {"name": rule.parts, "of": rule.of, "withheld": withheld}


def _drawn(analysis: ReleasedAnalysis) -> dict[str, Any]:
    drawing = kinds()[analysis.kind].draw_release(analysis)
    return {"id": analysis.id, "kind": analysis.kind, "drawing": drawing}


def _check_same_cells(aggregates: Aggregates, disclosure: Disclosure) -> None:
    leaving = {(sent.id, *cell.key) for sent in aggregates.analyses for cell in sent.cells}
    released = {(cell.analysis, *cell.key) for cell in disclosure.cells if cell.released}
    for cell in sorted(leaving ^ released):
        name = "disclosure.json" if cell in leaving else "aggregates.json"
        raise StageError(
            f"{' '.join(cell)} is not in {name}, but in the other file; build the release again."
        )


def _withheld(disclosure: Disclosure) -> list[dict[str, Any]]:
    return [
        {
            "analysis": cell.analysis,
            **cell.key._asdict(),
            "why": [r for r, finding in sorted(cell.rules.items()) if finding == Finding.WITHHELD],
        }
        for cell in disclosure.cells
        if not cell.released
    ]

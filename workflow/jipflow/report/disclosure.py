"""The page that a person reads before approving a release."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from jipflow.plots import histogram_plot
from jipflow.reasons import StageError
from jipflow.report.pages import write_page

WITHHELD = "withheld"


def write_disclosure_page(
    *, aggregates: Mapping[str, Any], disclosure: Mapping[str, Any], path: Path
) -> None:
    """Write the page that shows every value that would leave, and what the rules withheld.

    The page may travel with the release, so it holds nothing that the two files do not.

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
        summary=disclosure_summary(disclosure),
        summaries=[_summary(a) for a in aggregates["analyses"] if a["kind"] == "summary"],
        histograms=[_histogram(a) for a in aggregates["analyses"] if a["kind"] == "histogram"],
        withheld=_withheld(disclosure),
        aggregates_sha256=disclosure["aggregates_sha256"],
    )


def disclosure_summary(disclosure: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many cells leave and how many each rule withheld.

    Args:
        disclosure: content of ``disclosure.json``.

    Returns:
        ``kept``, ``withheld`` (cells), ``bins`` (withheld in histograms that leave),
        ``min_patients`` and ``rules``: code, meaning and cells of each rule that withheld any.
    """
    summary = disclosure["summary"]
    return {
        "kept": summary["released"],
        "withheld": summary["cells"] - summary["released"],
        "bins": sum(len(cell.get("withheld_bins", ())) for cell in disclosure["cells"]),
        "min_patients": disclosure["min_patients"],
        "rules": [
            {"rule": rule, "meaning": disclosure["rules"][rule], "cells": cells}
            for rule, cells in sorted(summary["withheld"].items())
            if cells
        ],
    }


def _key(analysis: str, cell: Mapping[str, Any]) -> tuple[str, ...]:
    return (analysis, cell["role"], cell["segmentation"], cell["segment"], cell["feature"])


def _check_same_cells(aggregates: Mapping[str, Any], disclosure: Mapping[str, Any]) -> None:
    leaving = {_key(a["id"], cell) for a in aggregates["analyses"] for cell in a["cells"]}
    released = {_key(cell["analysis"], cell) for cell in disclosure["cells"] if cell["released"]}
    for cell in sorted(leaving ^ released):
        where = "disclosure.json" if cell in leaving else "aggregates.json"
        raise StageError(
            f"{' '.join(cell)} is not in {where}, but in the other file; build the release again."
        )


def _summary(analysis: Mapping[str, Any]) -> dict[str, Any]:
    """Group a summary's cells by segment and add the standard deviation that they imply."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cell in analysis["cells"]:
        sd = math.sqrt(cell["m2"] / (cell["rows"] - 1)) if cell["rows"] > 1 else None
        place = f"{cell['segment']} · {cell['segmentation']} on {cell['role']}"
        groups[place].append({**cell, "sd": sd})
    return {"id": analysis["id"], "groups": dict(sorted(groups.items()))}


def _histogram(analysis: Mapping[str, Any]) -> dict[str, Any]:
    edges = analysis["edges"]
    names = ["below", *(f"{a:g} to {b:g}" for a, b in pairwise(edges)), "above"]
    cells = []
    for cell in analysis["cells"]:
        title = f"{cell['feature']} of {cell['segment']}"
        counts = [cell["under"], *cell["counts"], cell["over"]]
        plot = histogram_plot(title, edges, cell["counts"], cell["under"], cell["over"])
        cells.append({**cell, "plot": plot, "bins": list(zip(names, counts, strict=True))})
    return {"id": analysis["id"], "cells": cells}


def _withheld(disclosure: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {**cell, "why": [r for r, finding in sorted(cell["rules"].items()) if finding == WITHHELD]}
        for cell in disclosure["cells"]
        if not cell["released"]
    ]

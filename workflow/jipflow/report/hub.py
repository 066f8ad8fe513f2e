"""The hub's report: which sites took part, what was refused, and the merged result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jipflow.plots import Interval, dot_plot, histogram_plot
from jipflow.report.pages import write_page

# Features that a reader looks for first; a segment's plots are filled up with the next by name.
FIRST_FEATURES = (
    "volume_ml",
    "original_shape_MeshVolume",
    "original_firstorder_Mean",
    "original_firstorder_Entropy",
    "original_shape_Sphericity",
    "original_glcm_Contrast",
    "original_firstorder_90Percentile",
)
MAX_PLOTS = 6  # of one segment


def write_hub_report(
    *,
    result: Mapping[str, Any],
    accepted: Sequence[Mapping[str, Any]],
    rejected: Sequence[Mapping[str, Any]],
    path: Path,
) -> None:
    """Write the report of a round at the hub as one self-contained page.

    Args:
        result: content of ``result.json``: protocol, round, sites and analyses with merged cells.
        accepted: the messages that count, one a site, with their ``disclosure``.
        rejected: the files that do not, with reason, meaning and detail.
        path: the HTML file.
    """
    sites = [site["id"] for site in result["sites"]]
    write_page(
        path,
        "hub.html.j2",
        result=result,
        accepted={entry["site"]: entry for entry in accepted},
        rejected=rejected,
        sites=sites,
        cells=sum(len(analysis["cells"]) for analysis in result["analyses"]),
        analyses=[
            _summary(analysis, sites) if analysis["kind"] == "summary" else _histogram(analysis)
            for analysis in result["analyses"]
        ],
        withheld=withheld_by_rule(accepted),
    )


def withheld_by_rule(accepted: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each rule of disclosure how many cells it withheld at each site."""
    meanings: dict[str, str] = {}
    by_rule: dict[str, dict[str, int]] = defaultdict(dict)
    for entry in accepted:
        record = entry["disclosure"]
        meanings |= record["rules"]
        for rule, cells in record["summary"]["withheld"].items():
            by_rule[rule][entry["site"]] = cells
    return [
        {"rule": rule, "meaning": meanings[rule], "sites": counts}
        for rule, counts in sorted(by_rule.items())
        if any(counts.values())
    ]


def _place(cell: Mapping[str, Any]) -> str:
    return f"{cell['segment']} · {cell['segmentation']} on {cell['role']}"


def _summary(analysis: Mapping[str, Any], sites: Sequence[str]) -> dict[str, Any]:
    """Group merged cells by segment: a plot of the first features, a table of all."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for cell in analysis["cells"]:
        groups[_place(cell)].append(cell)
    prepared = []
    for place, cells in groups.items():
        chosen = sorted(cells, key=lambda cell: _priority(cell["feature"]))[:MAX_PLOTS]
        prepared.append(
            {
                "place": place,
                "panels": [
                    {"feature": c["feature"], "n": c["n"], "plot": _forest(c, sites)}
                    for c in chosen
                ],
                "rows": [
                    {**cell, "of_site": {part["site"]: part for part in cell["by_site"]}}
                    for cell in cells
                ],
            }
        )
    return {"id": analysis["id"], "kind": "summary", "groups": prepared}


def _priority(feature: str) -> tuple[int, str]:
    known = feature in FIRST_FEATURES
    return (FIRST_FEATURES.index(feature) if known else len(FIRST_FEATURES), feature)


def _forest(cell: Mapping[str, Any], sites: Sequence[str]) -> Any:
    parts = {part["site"]: part for part in cell["by_site"]}
    rows = [
        Interval(site, parts[site]["mean"], parts[site]["sd"], parts[site]["n"])
        if site in parts
        else Interval(site, None, None, None)
        for site in sites
    ]
    rows.append(Interval("all sites", cell["mean"], cell["sd"], cell["n"], pooled=True))
    return dot_plot(f"{cell['feature']} of {_place(cell)}, mean and SD by site", rows)


def _histogram(analysis: Mapping[str, Any]) -> dict[str, Any]:
    edges = analysis["edges"]
    bins = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    cells = []
    for cell in analysis["cells"]:
        title = f"{cell['feature']} of {_place(cell)}, all sites"
        rows = [*({"name": part["site"], **part} for part in cell["by_site"])]
        rows.append({"name": "all sites", **cell})
        cells.append(
            {
                "place": _place(cell),
                "feature": cell["feature"],
                "n": cell["n"],
                "plot": histogram_plot(title, edges, cell["counts"], cell["under"], cell["over"]),
                "rows": [
                    (row["name"], row["n"], [row["under"], *row["counts"], row["over"]])
                    for row in rows
                ],
                "withheld": cell["withheld"],
            }
        )
    names = ["below", *bins, "above"]
    return {"id": analysis["id"], "kind": "histogram", "bins": names, "cells": cells}

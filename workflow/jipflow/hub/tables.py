"""The merged result as tables for spreadsheets and statistics programs."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jipflow.analyses.cells import CellKey
from jipflow.files import atomic_path
from jipflow.hub.patients import Behind, patients_behind

TABLES = "tables"
"""Folder of the files beside the report."""

BY_SITE, SITES, PATIENTS = "by_site", "accepted_sites", "patients_behind"
"""Files of no analysis, whose ids have no underscore."""


def write_tables(result: Mapping[str, Any], folder: Path) -> None:
    """Write each analysis as CSV files with a heading row, decimal points and all digits.

    * ``<analysis>.csv``: a merged cell a row;
    * ``<analysis>.by_site.csv``: the cells of each site, a cell and site a row;
    * ``<analysis>.<name>.csv``: what follows from all cells, such as ``tests``.

    ``accepted_sites.csv`` has the sites, ``patients_behind.csv`` a cell and site a row with the
    patients behind it. What is no single number stands in several columns:
    ``counts.1`` is the first of ``counts``. An empty field is a number that is not there.

    Args:
        result: content of ``result.json``.
        folder: made anew.
    """
    with atomic_path(folder) as partial:
        partial.mkdir()
        _write(partial / f"{SITES}.csv", result["sites"])
        _write(partial / f"{PATIENTS}.csv", [_behind(each) for each in patients_behind(result)])
        for analysis in result["analyses"]:
            for name, rows in _tables(analysis):
                _write(partial / f"{name}.csv", rows)


def table_names(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of the files of `write_tables`, by the analysis that they are of."""
    return {
        analysis["id"]: [f"{name}.csv" for name, _ in _tables(analysis)]
        for analysis in result["analyses"]
    }


def _tables(analysis: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the name and the rows of each table of an analysis."""
    cells = analysis["cells"]
    yield analysis["id"], [{k: v for k, v in cell.items() if k != BY_SITE} for cell in cells]
    of_sites = [
        {**{name: cell[name] for name in CellKey._fields}, **part}
        for cell in cells
        for part in cell.get(BY_SITE, ())
    ]
    if of_sites:
        yield f"{analysis['id']}.{BY_SITE}", of_sites
    for name, rows in analysis.items():
        if name != "cells" and isinstance(rows, list) and rows and isinstance(rows[0], dict):
            yield f"{analysis['id']}.{name}", rows


def _behind(each: Behind) -> dict[str, Any]:
    about = {"analysis": each.analysis, **each.key._asdict(), "site": each.site}
    return {**about, "n": each.n, "fewer": each.fewer}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one table; its columns are those of all rows, first those that say what a row is about.

    Without any row it has these alone.
    """
    flat = [dict(_columns(row)) for row in rows]
    there = dict.fromkeys(name for row in flat for name in row)
    about = [name for name in CellKey._fields if name in there or not there]
    names = [*about, *(name for name in there if name not in about)]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def _columns(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the columns of a value with their names; lists of names are one, with spaces."""
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        yield name, " ".join(value)
    elif isinstance(value, Mapping | list):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value, 1)
        for part, inner in parts:
            yield from _columns(inner, f"{name}.{part}".lstrip("."))
    else:
        yield name, _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    """Return a text that no spreadsheet takes for a formula: OWASP's rule on CSV injection."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value

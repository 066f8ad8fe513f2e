"""The patients of each site who are behind each merged cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jipflow.analyses.cells import CellKey
from jipflow.analyses.noise import has_noise


@dataclass(frozen=True)
class Behind:
    """The patients of a site who are behind a cell.

    Attributes:
        analysis: id of the analysis.
        key: what the cell is about.
        site: id of the site.
        n: patients; None where the site withheld the cell.
        fewer: than the most behind any cell of the site: patients who have no value, or not all
            that a model needs, as far as released numbers tell. None of a group, which others are
            not in.
    """

    analysis: str
    key: CellKey
    site: str
    n: int | None
    fewer: int | None


def patients_behind(result: Mapping[str, Any]) -> list[Behind]:
    """Return the patients of each site behind each cell, in the order of the result.

    Nothing is known here but what the sites have released. Cells with noise have no exact number.

    Args:
        result: content of ``result.json``.
    """
    found = list(_numbers(result))
    most: dict[str, int] = {}
    for _, _, numbers in found:
        for site, n in numbers.items():
            most[site] = max(n, most.get(site, 0))
    sites = [site["id"] for site in result["sites"]]
    return [
        Behind(
            analysis,
            key,
            site,
            numbers.get(site),
            most[site] - numbers[site] if site in numbers and not key.group else None,
        )
        for analysis, key, numbers in found
        for site in sites
    ]


def _numbers(result: Mapping[str, Any]) -> Iterator[tuple[str, CellKey, dict[str, int]]]:
    """Yield each cell's analysis, what it is about and its patients by site.

    A kind may say of its cells as it likes what each site sent, or nothing.
    """
    for analysis in result["analyses"]:
        if has_noise(analysis["kind"]):
            continue
        for cell in analysis["cells"]:
            key = CellKey(*(cell[name] for name in CellKey._fields))
            numbers = {part["site"]: part.get("n") for part in cell.get("by_site", ())}
            if numbers and None not in numbers.values():
                yield analysis["id"], key, numbers

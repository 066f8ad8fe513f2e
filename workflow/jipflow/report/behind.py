"""The tables of the patients behind each number, for the hub's page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from markupsafe import Markup

from jipflow.blocks import Group, Row, Table, TableCell, feature, head, numeral, span
from jipflow.hub.patients import Behind
from jipflow.plots import count

Numbers = tuple[tuple[int | None, int | None], ...]
"""Of each site, the patients and how many fewer they are than the most."""


def tables_behind(found: Sequence[Behind], sites: Sequence[str]) -> list[Group]:
    """Return a table of each segment; none where there are no numbers.

    Features of one analysis whose patients are as many at every site share a row.

    Args:
        found: patients of each cell and site, all sites of a cell after each other.
        sites: ids of all sites.
    """
    rows: dict[str, dict[tuple[str, Numbers], list[str]]] = defaultdict(lambda: defaultdict(list))
    for start in range(0, len(found), len(sites) or 1):
        cell = found[start : start + len(sites)]
        numbers = tuple((each.n, each.fewer) for each in cell)
        key = cell[0].key
        rows[key.title][cell[0].analysis, numbers].append(key.feature)
    titles = [head("Feature"), *(head(site, "num") for site in sites), head("Analysis")]
    return [
        Group(
            title,
            table=Table(
                f"Patients behind the numbers of {title}",
                titles,
                [_row(*about, features) for about, features in found_here.items()],
            ),
        )
        for title, found_here in sorted(rows.items())
    ]


def _row(analysis: str, numbers: Numbers, features: Sequence[str]) -> Row:
    more = len(features) - 1
    others = span(f" and {count(more)} more", "muted") if more else ""
    return [
        TableCell(feature(features[0]) + others, scope="row"),
        *(numeral(_number(n, fewer)) for n, fewer in numbers),
        TableCell(analysis),
    ]


def _number(n: int | None, fewer: int | None) -> Markup:
    if n is None:
        return span("withheld", "muted")
    return Markup(count(n)) + (span(f" {count(fewer)} fewer", "muted small") if fewer else "")

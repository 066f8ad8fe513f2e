"""What pages show of patients without a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from jipflow.absences import Absence
from jipflow.analyses.cells import CellKey
from jipflow.blocks import Drawing, Group, Row, Table, TableCell, bold, feature, head, numeral, span
from jipflow.plots import count

Numbers = Mapping[str, Any]
"""``n``, and ``counts`` by reason; of all sites ``by_site`` and ``withheld`` as well."""

ALL = "All"
"""In the place of a site: all of them. No site has the name, as it is no id."""


WITHHELD = span("withheld", "muted")


def draw_numbers(
    lead: str,
    cells: Sequence[tuple[CellKey, Mapping[str, Numbers | None]]],
    reasons: Mapping[str, Sequence[Absence]],
) -> Drawing:
    """Show the numbers of cells, a table for each segment, the first with what the reasons mean.

    Features of a segment that have the same numbers share their rows.

    Args:
        lead: what a reader must know.
        cells: what each is about, and its numbers by site, or by none where there is one; None
            where the site withheld them.
        reasons: that there can be, by the title of the segment.
    """
    alike: dict[str, list[tuple[list[str], list[Row]]]] = {}
    for key, numbers in cells:
        rows = [_row(site, of, reasons[key.title]) for site, of in numbers.items()]
        of_title = alike.setdefault(key.title, [])
        same = next((features for features, others in of_title if others == rows), None)
        if same is None:
            of_title.append(([key.feature], rows))
        else:
            same.append(key.feature)
    groups = []
    unexplained = {tuple(of) for of in reasons.values()}
    for title, variables in sorted(alike.items()):
        heads = [head("Variable"), *([head("Site")] if _of_sites(cells) else [])]
        heads += [head("With a value", "num")]
        heads += [head(_words(reason), "num") for reason in reasons[title]]
        lines = [line for features, rows in variables for line in _lines(features, rows)]
        own = tuple(reasons[title])
        note = _explained(own) if own in unexplained else Markup("")
        unexplained.discard(own)
        table = Table(f"Missing values of {title}", heads, lines, note)
        groups.append(Group(title, table=table))
    return Drawing(lead, groups)


def _explained(reasons: Sequence[Absence]) -> Markup:
    """Return what the reasons mean, in a line."""
    words = [f"{bold(_words(reason))}: {escape(reason.meaning)}." for reason in reasons]
    return Markup(" ".join(words))


def _words(reason: Absence) -> str:
    return reason.replace("_", " ")


def _lines(features: Sequence[str], rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows of variables that have the same numbers, named in the first one."""
    more = len(features) - 1
    others = span(f" and {count(more)} more", "muted") if more else ""
    name = TableCell(feature(features[0]) + others, scope="row")
    for number, row in enumerate(rows):
        yield [TableCell("") if number else name, *row]


def _of_sites(cells: Sequence[tuple[CellKey, Mapping[str, Numbers | None]]]) -> bool:
    return any(site for _, numbers in cells for site in numbers)


def _row(site: str, numbers: Numbers | None, reasons: Sequence[Absence]) -> Row:
    """Return the numbers of a site."""
    title = [TableCell(bold(site) if site == ALL else site)] if site else []
    if numbers is None:
        return [*title, *(numeral(WITHHELD) for _ in range(1 + len(reasons)))]
    counts, found = numbers["counts"], [numeral(count(numbers["n"]))]
    for reason in reasons:
        n, silent = counts[reason], numbers.get("withheld", {}).get(reason, ())
        text = WITHHELD if n is None else Markup(count(n))
        if n is not None and silent:
            showing = len(numbers["by_site"]) - len(silent)
            text += span(f" of {showing} site{'s' * (showing > 1)}", "muted small")
        found.append(numeral(text))
    return [*title, *found]

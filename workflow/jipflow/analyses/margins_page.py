"""What pages show of tables of counts, and of the tests of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jipflow.analyses.cells import CellKey
from jipflow.analyses.units import with_unit
from jipflow.blocks import Drawing, Group, Row, Table, TableCell, bold, head, numeral, span
from jipflow.plots import count, number

Shown = Sequence[Sequence[int | None]]

REASONS = {
    "withheld": "a site withheld a count",
    "one_group": "there is one row or one column only",
}
"""Why there is no test, in words."""


def draw_tables(
    lead: str,
    cells: Sequence[tuple[CellKey, int, Shown]],
    values: Sequence[str],
    columns: Sequence[str],
) -> Drawing:
    """Show tables, a group each.

    Args:
        lead: what a reader must know.
        cells: what each is about, its patients and its counts.
        values: of the category, a row each.
        columns: values of the other category; one that is empty where there is none.
    """
    return Drawing(lead, [_group(*cell, values, columns) for cell in cells])


def _group(
    key: CellKey, n: int, counts: Shown, values: Sequence[str], columns: Sequence[str]
) -> Group:
    """Return a table with the sums that it shows."""
    titles = [head(with_unit(key.feature))]
    titles += [head(column or "Patients", "num") for column in columns]
    rows: list[Row] = []
    for value, row in zip(values, counts, strict=True):
        rows.append([TableCell(value, scope="row"), *map(_cell, row)])
    if len(columns) > 1:
        titles.append(head("All", "num"))
        rows = [[*row, _sum(found)] for row, found in zip(rows, counts, strict=True)]
    sums = [_sum(column) for column in zip(*counts, strict=True)]
    last = [TableCell("All", scope="row"), *sums] if len(columns) > 1 else [TableCell("All")]
    rows.append([*last, numeral(bold(count(n)))])
    return Group(
        f"{key.feature} · {key.title}", table=Table(f"Counts of {key.title}", titles, rows)
    )


def _cell(found: int | None) -> TableCell:
    return numeral(span("withheld", "muted") if found is None else count(found))


def _sum(line: Sequence[int | None]) -> TableCell:
    """Return the sum of a row or a column; nothing where some of it is withheld."""
    known = [found for found in line if found is not None]
    return numeral(count(sum(known)) if len(known) == len(line) else "")


def draw_tests(tests: Sequence[tuple[CellKey, str, Mapping[str, Any]]]) -> Iterator[Group]:
    """Yield the tests as a table, if there are any.

    Args:
        tests: of what each is, over what, and its numbers.
    """
    if not tests:
        return
    titles = [head("Category"), head("Chi-square test over")]
    titles += [head(name, "num") for name in ("χ²", "df", "p", "Cramér's V", "Least expected")]
    rows = [
        [TableCell(with_unit(key.feature), scope="row"), TableCell(over), *_numbers(test)]
        for key, over, test in tests
    ]
    yield Group("Tests of independence", table=Table("Tests of independence", titles, rows))


def _numbers(test: Mapping[str, Any]) -> Row:
    if test["statistic"] is None:
        reason = numeral(span(REASONS[test["reason"]], "muted"))
        return [reason, *(numeral("–") for _ in range(4))]
    return [
        numeral(number(test["statistic"], 5)),
        numeral(count(test["df"])),
        *(numeral(number(test[name])) for name in ("p", "v", "least_expected")),
    ]

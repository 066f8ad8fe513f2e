"""What pages show of survival: counts as they leave, curves as steps, and log-rank tests."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jipflow.analyses.cells import CellKey
from jipflow.analyses.survival import Counts
from jipflow.analyses.units import with_unit
from jipflow.blocks import (
    Drawing,
    Group,
    Panel,
    Row,
    Table,
    TableCell,
    bold,
    head,
    numeral,
    span,
)
from jipflow.curves import Steps, step_plot
from jipflow.palette import LINE_COLOURS
from jipflow.plots import MISSING, count, number

TOGETHER = "together"
INK = "var(--ink)"

REASONS = {
    "one_group": "there is one group only",
    "no_common_edge": "the groups have no edge in common",
    "no_variance": "nobody who could have had the event had it while another group was observed",
}
"""Why there is no test, in words."""

OTHER_SITES = "; these are not of the same sites, which may make the difference"
WITHOUT_CURVE = "The sites have no edge in common, so there is no curve of all."


def draw_counts(cells: Sequence[tuple[CellKey, Counts]], event: str) -> Drawing:
    """Show what leaves of every interval.

    Args:
        cells: what each is about, and its counts.
        event: name of the event.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for key, counts in cells:
        edges = itertools.pairwise([0, *counts.edges])
        rows = zip(edges, counts.events, counts.censored, strict=True)
        intervals = [
            f"{low:g} to {high:g}: {events} with the event, {censored} left without it"
            for (low, high), events, censored in rows
        ]
        intervals[-1] += " or are observed beyond"
        groups[key.title].append(
            [
                TableCell(with_unit(key.feature), scope="row"),
                numeral(str(counts.n)),
                TableCell("; ".join(intervals)),
            ]
        )
    lead = (
        "How many patients had the event, and how many left observation without it, between the "
        "edges that the protocol fixes. Intervals are merged until neither number is one of few; "
        "no time of anyone leaves. The event is "
    )
    columns = [head("Time"), head("n", "num"), head("Patients in each interval")]
    return Drawing(
        f"{lead}{event}.",
        [
            Group(title, table=Table(f"Intervals of {title}", columns, rows))
            for title, rows in sorted(groups.items())
        ],
    )


def draw_curves(analysis: Mapping[str, Any]) -> Drawing:
    """Show the curves of each time as steps, and the tests below them.

    Args:
        analysis: as ``result.json`` has it.
    """
    times: dict[CellKey, list[Mapping[str, Any]]] = defaultdict(list)
    for cell in analysis["cells"]:
        key = CellKey(*(cell[name] for name in CellKey._fields))
        times[key._replace(group="")].append(cell)
    points: dict[tuple[CellKey, str], list[Mapping[str, Any]]] = defaultdict(list)
    for point in analysis["curves"]:
        points[CellKey(*(point[name] for name in CellKey._fields)), point["site"]].append(point)
    panels = [
        _panel(key, [_lines(cell, key, points) for cell in cells], cells, analysis["grid"][-1])
        for key, cells in times.items()
    ]
    lead = (
        "The share of patients who have not had the event, by Kaplan and Meier, as if the rows of "
        "all sites lay in one place. It falls at those edges of the protocol's grid that all sites "
        "show, by all events since the edge before; the pale bands are intervals of 95 %."
    )
    tests = [_row(test) for test in analysis["tests"]]
    table = Table("Log-rank tests", TITLES, tests) if tests else None
    groups = [Group(panels=panels)]
    return Drawing(lead, [*groups, Group("Log-rank tests", table=table)] if table else groups)


Lines = list[tuple[str, list[Mapping[str, Any]]]]
"""Label of each line, and its points."""


def _lines(
    cell: Mapping[str, Any],
    key: CellKey,
    points: Mapping[tuple[CellKey, str], list[Mapping[str, Any]]],
) -> Lines:
    """Return the lines of a cell: that of a group, or of all sites together and of each."""
    of = key._replace(group=cell["group"])
    if cell["group"]:
        return [(cell["group"], points.get((of, ""), []))]
    sites = [(part["site"], points[of, part["site"]]) for part in cell["by_site"]]
    return [(TOGETHER, points.get((of, ""), [])), *sites]


def _panel(
    key: CellKey, found: Sequence[Lines], cells: Sequence[Mapping[str, Any]], end: float
) -> Panel:
    """Return the panel of a time."""
    lines = list(itertools.chain.from_iterable(found))
    colours = itertools.cycle(LINE_COLOURS)
    steps = [
        Steps(
            label,
            INK if label == TOGETHER else next(colours),
            [point["edge"] for point in of],
            [point["survival"] for point in of],
            [(point["low"], point["high"]) for point in of if not point["site"]],
        )
        for label, of in lines
    ]
    patients = sum(cell["n"] for cell in cells)
    heading = (with_unit(key.feature), span(f"n = {count(patients)}", "muted small"))
    plot = step_plot(f"Survival by {key.feature} of {key.title}", steps, end)
    notes = [_median(cell) for cell in cells]
    return Panel(heading, plot, " ".join(notes), _table(key, lines))


def _median(cell: Mapping[str, Any]) -> str:
    """Return a sentence on the median of a cell."""
    name = cell["group"] or TOGETHER
    if cell["reason"]:
        return f"{name.capitalize()}: {WITHOUT_CURVE}"
    if cell["median"] is None:
        return f"{name.capitalize()}: half have not had the event by {cell['edges'][-1]:g}."
    low, high = (cell[f"median_{end}"] for end in ("low", "high"))
    within = f"{MISSING if low is None else f'{low:g}'}, {MISSING if high is None else f'{high:g}'}"
    return f"{name.capitalize()}: half have had the event by {cell['median']:g} ({within})."


def _table(key: CellKey, lines: Lines) -> Table:
    """Return what the curves have at each edge."""
    rows = []
    for label, points in lines:
        for point in points:
            ends = [number(point[end], 3) for end in ("low", "high")]
            rows.append(
                [
                    TableCell(label, scope="row"),
                    numeral(f"{point['edge']:g}"),
                    numeral(count(point["at_risk"])),
                    numeral(count(point["events"])),
                    numeral(count(point["censored"])),
                    numeral(bold(number(point["survival"], 3))),
                    numeral(f"{ends[0]} to {ends[1]}"),
                ]
            )
    titles = ["By", "At risk", "Events", "Left without", "Survival", "95 %"]
    return Table(
        f"Patients at risk of {key.title}",
        [head("Curve"), *(head(title, "num") for title in titles)],
        rows,
        summary="Numbers at risk",
    )


TITLES = [
    head("Time"),
    head("Log-rank test over"),
    head("Events (expected)"),
    *(head(title, "num") for title in ("χ²", "df", "p")),
]


def _row(test: Mapping[str, Any]) -> Row:
    """Return the row of a test."""
    over = "groups, within sites" if test["strata"] else test["over"]
    if not test.get("same_sites", True) and not test["strata"]:
        over += OTHER_SITES
    return [
        TableCell(with_unit(test["feature"]), scope="row"),
        TableCell(over),
        TableCell("; ".join(_observed(test))),
        *_numbers(test),
    ]


def _observed(test: Mapping[str, Any]) -> Iterator[str]:
    for name, n, expected in zip(test["groups"], test["observed"], test["expected"], strict=True):
        yield f"{name} {count(n)} ({number(expected, 4)})"


def _numbers(test: Mapping[str, Any]) -> list[TableCell]:
    if test["statistic"] is None:
        return [numeral(span(REASONS[test["reason"]], "muted")), numeral("–"), numeral("–")]
    return [
        numeral(number(test["statistic"], 5)),
        numeral(count(test["df"])),
        numeral(number(test["p"])),
    ]

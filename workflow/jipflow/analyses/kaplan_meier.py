"""Survival by Kaplan and Meier between fixed edges, and the log-rank test.

For each interval between two edges of the protocol's grid a site sends how many patients had the
event and how many left without it; no time of anyone leaves. Where too few would show, the site
merges intervals, so the curve over all sites has the edges that all of them show. Curves and tests
equal what all rows in one place give whose times were raised to the next of these edges, to 1e-9.

A cell of the result has ``n``, the ``edges``, ``at_risk``, ``events`` and ``censored`` of the
intervals that end at them, the ``median`` with its interval of 95 % (the first edge at which half
have had the event; null where it is not reached), a ``reason`` where there is no curve, and in
``by_site`` the same of each ``site``. The analysis has ``curves``, an edge a row, of all sites
together and of each ``site``, with ``survival``, its standard error ``se`` by Greenwood and its
interval of 95 % by log(-log); and ``tests``: the log-rank test over the groups of all sites, the
same within sites (``strata``), or, without ``by``, over the sites. ``same_sites`` says whether all
groups are of the same sites, for else what differs between sites differs between groups.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from jipflow.analyses import moments
from jipflow.analyses.alike import like_an_earlier
from jipflow.analyses.bins import shown
from jipflow.analyses.cells import CellKey, Measured
from jipflow.analyses.contract import (
    ALONE,
    Analysis,
    CellBelowMinimum,
    ImpossibleCell,
    Known,
    Proposed,
)
from jipflow.analyses.design import ONE_ROW, Design, OfColumns, design
from jipflow.analyses.facts import Implied, LedgerCell, Limits
from jipflow.analyses.forms import Count, CountedCell, RecordedCell, ReleasedAnalysis
from jipflow.analyses.intervals import enough, merged, tell_beside
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.analyses.survival import (
    NO_COMMON_EDGE,
    Counts,
    curve,
    log_rank,
    median,
    together,
)
from jipflow.analyses.survival_page import draw_counts, draw_curves
from jipflow.settings.clinical import ROLE, VARIABLE, ClinicalVariable
from jipflow.settings.covariates import Covariate
from jipflow.settings.part import Maybe, Positive
from jipflow.settings.protocol import AnalysisSettings, Disclosure
from jipflow.settings.survival import event_problems, time_problems

if TYPE_CHECKING:
    from jipflow.blocks import Drawing

NARROWEST = 0.01
"""Least width of an interval, as a share of the last edge: where intervals are merged, someone's
time is known to lie in the leftmost of them."""

EVENT = 1
"""Number of the column of the event; that of the time is 0."""

Edge = Annotated[int, Field(ge=0, lt=100)]
"""Position of an edge in the grid, from 0."""

ONE_CURVE = Rule(
    "one_curve",
    "Of times that rise and fall together only the first has a survival curve, of all patients or "
    "of groups that have none in common: where the intervals of two differ by a few patients, "
    "these are known.",
    because="a time that rises and falls with it has the curve",
)
ONE_ENDING = Rule(
    "one_ending",
    "Where all patients have had the event by the last edge, or none has, it would be known of "
    "every patient.",
    because="all patients end alike",
)
FEW_EVENTS = Rule(
    "few_events",
    "Intervals are merged until in each nobody or the minimum of patients has the event and nobody "
    "or the minimum leaves without it, and none has it beyond the last or the minimum; where all "
    "together are fewer, no curve leaves.",
    parts="edges",
    of="survival curves",
    because="too few patients have the event, or leave without it, between two edges",
)


class Settings(AnalysisSettings):
    """Survival between fixed edges (Kaplan-Meier, log-rank)."""

    kind: Literal["kaplan_meier"]
    event: Annotated[str, Field(pattern=rf"^{ROLE}\.{VARIABLE}$")]
    """clinical.<name> of the event by which the time of `variables` ends, or does not."""
    grid: Annotated[list[Positive], Field(min_length=1, max_length=100)]
    """Edges of the intervals in days, rising, fixed by the protocol so that sites can be added; the
    first interval begins at 0. None is narrower than a hundredth of the last edge."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the grid."""
        yield from super().problems()
        widths = [high - low for low, high in itertools.pairwise([0.0, *self.grid])]
        if min(widths) <= 0:
            yield "grid must rise strictly."
        elif min(widths) < NARROWEST * self.grid[-1] * (1 - 1e-9):
            yield (
                f"grid: an interval of {min(widths):g} is narrower than a hundredth of the last "
                f"edge, {self.grid[-1]:g}; leave out edges."
            )

    def clinical_problems(self, known: Mapping[str, ClinicalVariable]) -> Iterator[str]:
        """Yield what is wrong with the time and the event."""
        yield from time_problems(self.variables, known)
        yield from event_problems(self.event, known)

    def further(self) -> Sequence[Covariate]:
        """Return the event."""
        return [Covariate(variable=self.event)]


class Cell(CountedCell):
    """How many patients had the event, and how many left without it, in each interval."""

    cuts: Annotated[list[Edge], Field(min_length=1)]
    """Positions in the grid, from 0 and rising, of the edges at which intervals end."""
    events: list[Count]
    """Patients who had the event, by interval."""
    censored: list[Count]
    """Patients whose observation ended without it, by interval; in the last one all others, those
    who are observed beyond it as well."""

    def on(self, grid: Sequence[float]) -> Counts:
        """Return its counts between the edges of a grid."""
        edges = tuple(float(grid[cut]) for cut in self.cuts)
        return Counts(edges, self.n, tuple(self.events), tuple(self.censored))


class Released(ReleasedAnalysis):
    """The intervals of each time to the event."""

    kind: Literal["kaplan_meier"]
    event: str
    grid: list[Positive]
    cells: list[Cell]


class Recorded(RecordedCell):
    """What the gate did with a survival curve."""

    withheld_edges: Maybe[list[Edge]] = None
    """Positions of the edges of the grid that a released curve does not show, from 0."""


class KaplanMeier(OfColumns, Analysis[Settings, Cell, Released]):
    """Events and ends without one in each interval of a time, and survival by these."""

    cell = Cell
    released = Released
    recorded = Recorded
    title = "Kaplan–Meier"
    merging = (
        "Patients at risk, with the event and censored were added between the edges of the "
        "protocol that all sites show; survival was estimated by Kaplan and Meier (1958) with "
        "Greenwood's variance and log(-log) intervals, and compared by the log-rank test (Mantel "
        "1966)."
    )
    rules = (ONE_ROW, ONE_CURVE, FEW_EVENTS, ONE_ENDING)
    heading_decides = True

    def propose(self, measured: Measured, given: Any = None) -> list[Proposed]:
        """Propose a curve of each time, of the cases that have the time and the event."""
        settings, found = self.settings, []
        for key in self.cells(measured.features, measured.places):
            rows = design(measured, key, settings.further(), settings.by)
            # Counts are no sums of times, and all events are their sum.
            time, event = rows.columns(0)[0], rows.columns(1)[EVENT]
            found.append(Proposed(self, key, time.values, rows, (time, event)))
        return found

    def check(self, content: Design, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Merge intervals until none tells of few, or withhold the curve."""
        if len(set(content.patients)) < content.patients.size:
            return Withheld(ONE_ROW)
        times, had = content.raw[:, 0], content.raw[:, EVENT] == 1
        found = merged(times, had, self.settings.grid, disclosure.min_patients)
        if found is None:
            return Withheld(FEW_EVENTS)
        if sum(found.events) in (0, patients):
            return Withheld(ONE_ENDING)
        left_out = [i for i in range(len(self.settings.grid)) if i not in found.cuts]
        numbers = {"cuts": found.cuts, "events": found.events, "censored": found.censored}
        return Passed(numbers, {FEW_EVENTS: left_out})

    @classmethod
    def check_all(
        cls,
        cells: Sequence[tuple[Proposed, int]],
        disclosure: Disclosure,
        known: Known = ALONE,
    ) -> list[Passed | Withheld]:
        """Check each curve; of like times of the same patients the first alone may leave."""
        repeats = like_an_earlier([cell.values for cell, _ in cells])
        found: list[Passed | Withheld] = []
        for i, (cell, patients) in enumerate(cells):
            before = [other for other, _ in cells[:i]]
            checked = cell.analysis.check(cell.content, patients, disclosure)
            again = repeats[i] or any(_same_time(cell, other) for other in before)
            found.append(Withheld(ONE_CURVE) if again and checked != Withheld(ONE_ROW) else checked)
        return found

    def tells_beside(
        self, cell: LedgerCell, earlier: Sequence[LedgerCell], disclosure: Disclosure
    ) -> bool:
        """Return whether the intervals or the events of few follow beside those that left."""
        if cell.number == EVENT and moments.tell_beside(cell, earlier, disclosure):
            return True
        curves = [
            other
            for other in earlier
            if (other.kind, other.number) == (cell.kind, cell.number)
            and not other.values.cases.isdisjoint(cell.values.cases)
        ]
        return tell_beside(cell, curves, disclosure.min_patients, cell.number == EVENT)

    @staticmethod
    def excludes(cell: LedgerCell, other: LedgerCell) -> bool:
        """Return whether other bins of the time leave, or of the event in other patients."""
        if other.kind == cell.kind or shown(other) is None:
            return False
        if cell.number == EVENT and other.values.cases == cell.values.cases:
            return False
        return not other.values.cases.isdisjoint(cell.values.cases)

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Refuse counts that contradict each other or the bounds, and those of few patients."""
        rising = all(a < b for a, b in itertools.pairwise(cell.cuts))
        if not rising or cell.cuts[-1] >= len(self.settings.grid):
            raise ImpossibleCell
        if not len(cell.cuts) == len(cell.events) == len(cell.censored):
            raise ImpossibleCell
        if sum(cell.events) + sum(cell.censored) != cell.n:
            raise ImpossibleCell
        for (low, high), number in self._reaches(cell):
            # An interval holds its upper edge and not its lower one, but 0.
            if number and (high < limits.lowest or low >= limits.highest > 0):
                raise ImpossibleCell
        pairs = zip(cell.events, cell.censored, strict=True)
        if not all(enough(*pair, limits.minimum) for pair in pairs):
            raise CellBelowMinimum
        if sum(cell.events) in (0, cell.n):
            raise CellBelowMinimum

    def _reaches(self, cell: Cell) -> list[tuple[tuple[float, float], int]]:
        """Return between which times patients lie, and how many."""
        edges = [0.0, *(self.settings.grid[cut] for cut in cell.cuts)]
        open_ = [*edges[:-1], math.inf]
        return [
            *zip(itertools.pairwise(edges), cell.events, strict=True),
            *zip(itertools.pairwise(open_), cell.censored, strict=True),
        ]

    def implies(self, cell: Cell, limits: Limits) -> Implied:
        """Return what follows from the intervals: every time is in one of them."""
        lows, highs = 0.0, 0.0
        for (low, high), number in self._reaches(cell):
            if number:
                lows += number * max(low, limits.lowest)
                highs += number * min(high, limits.highest)
        return Implied((lows / cell.n, highs / cell.n), (cell.n, cell.n))

    def parts(self, cell: Cell) -> dict[Rule, list[str | int]]:
        """Return the edges that are not shown."""
        return {FEW_EVENTS: [i for i in range(len(self.settings.grid)) if i not in cell.cuts]}

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Add the counts between the edges that all sites show."""
        grid = self.settings.grid
        sites = {site: cell.on(grid) for site, cell in sorted(by_site.items())}
        found = _described(together(list(sites.values())))
        return {
            **found,
            "reason": None if found["edges"] else NO_COMMON_EDGE,
            "by_site": [{"site": site, **_described(each)} for site, each in sites.items()],
        }

    def conclude(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the curves, an edge a row, and the log-rank tests."""
        curves = [
            {**_about(cell), "site": part.get("site", ""), **vars(point)}
            for cell in cells
            for part in (cell, *cell["by_site"])
            for point in curve(counts_of(part))
        ]
        return {"curves": curves, "tests": list(self._tests(cells))}

    def _tests(self, cells: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the tests of each time."""
        times: dict[CellKey, dict[str, Mapping[str, Any]]] = defaultdict(dict)
        for cell in cells:
            times[CellKey(**_about(cell))._replace(group="")][cell["group"]] = cell
        for key, groups in sorted(times.items()):
            about: dict[str, Any] = key._asdict()
            del about["group"]
            sites: dict[str, dict[str, Counts]] = defaultdict(dict)
            for name, cell in groups.items():
                for part in cell["by_site"]:
                    sites[part["site"]][name] = counts_of(part)
            if self.settings.by is None:
                over = {site: counts[""] for site, counts in sites.items()}
                yield {**about, "over": "sites", "strata": "", **log_rank([over])}
                continue
            over = {name: counts_of(cell) for name, cell in groups.items()}
            same = len({tuple(cell["sites"]) for cell in groups.values()}) == 1
            about |= {"over": "groups", "same_sites": same}
            yield {**about, "strata": "", **log_rank([over])}
            strata = [sites[site] for site in sorted(sites)]
            yield {**about, "strata": "sites", **log_rank(strata)}

    @staticmethod
    def part_names(analysis: Released) -> Mapping[str | int, str]:
        """Return the edges."""
        return {i: f"{edge:g}" for i, edge in enumerate(analysis.grid)}

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show the counts of every interval."""
        return draw_counts(
            [(cell.key, cell.on(analysis.grid)) for cell in analysis.cells], analysis.event
        )

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show the curves, and the tests below them."""
        return draw_curves(analysis)


def _same_time(cell: Proposed, other: Proposed) -> bool:
    """Return whether two cells are of one time, and of some of the same patients."""
    same = cell.key._replace(group="") == other.key._replace(group="")
    return same and not cell.cases.isdisjoint(other.cases)


def _about(cell: Mapping[str, Any]) -> dict[str, str]:
    return {name: cell[name] for name in CellKey._fields}


def counts_of(part: Mapping[str, Any]) -> Counts:
    """Return the counts of a merged cell, or of one of its sites."""
    lists = (tuple(part[name]) for name in ("events", "censored"))
    return Counts(tuple(part["edges"]), part["n"], *lists)


def _described(counts: Counts) -> dict[str, Any]:
    return {
        "n": counts.n,
        "edges": list(counts.edges),
        "at_risk": list(counts.at_risk),
        "events": list(counts.events),
        "censored": list(counts.censored),
        **median(curve(counts)),
    }

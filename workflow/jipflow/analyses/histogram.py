"""Patients between fixed edges.

Bins hold their lower edge and not their upper one, except that the last bin holds both. Patients
outside the edges are counted as well. A patient with several cases may be in several bins.

A cell of the result has ``n``, ``under``, ``counts`` and ``over``, the sums over its sites, and in
``by_site`` the same of each ``site``. A bin that one of them withheld is null in the sum, and
``withheld`` lists it: ``bin`` and ``sites``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from jipflow.analyses.alike import like_an_earlier
from jipflow.analyses.bins import (
    SAME_BINS,
    Pieces,
    bin_index,
    bins_to_hide,
    cuts_of,
    distinguish_few,
    same_values,
    shown,
    tells,
)
from jipflow.analyses.cells import (
    CellKey,
    Values,
)
from jipflow.analyses.contract import (
    ALONE,
    Analysis,
    CellBelowMinimum,
    ImpossibleCell,
    Known,
    Proposed,
)
from jipflow.analyses.facts import Implied, LedgerCell, Limits, Shown
from jipflow.analyses.forms import Count, CountedCell, RecordedCell, ReleasedAnalysis, Value
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.analyses.units import with_unit
from jipflow.blocks import (
    Drawing,
    Group,
    Panel,
    Table,
    TableCell,
    bold,
    head,
    numeral,
    span,
)
from jipflow.plots import count, histogram_plot
from jipflow.settings.part import Maybe, Number
from jipflow.settings.protocol import AnalysisSettings, Disclosure

if TYPE_CHECKING:
    from markupsafe import Markup

Bin = Annotated[int, Field(ge=0)] | Literal["under", "over"]
"""Number of a bin between the edges, from 0, or one of the two outside of them."""

MANY_BINS = Rule(
    "many_bins",
    "All histograms of a variable together must have no more bins than there are patients.",
    because="there are more bins than patients",
)
ONE_BIN = Rule(
    "one_bin",
    "Where all patients are in one bin, the bin would be known of every patient.",
    because="all patients are in one bin",
)
SMALL_BINS = Rule(
    "small_bins",
    "Where a bin has fewer patients than the minimum, it is withheld, empty bins are as well, and "
    "so are other bins until it cannot be calculated from the rest, by no histogram of the "
    "variable.",
    parts="bins",
    of="histograms",
    because="too few patients are in a bin, or would be in a difference of bins",
)


class Settings(AnalysisSettings):
    """Counts between fixed edges."""

    kind: Literal["histogram"]
    edges: Annotated[list[Number], Field(min_length=3)]
    """Bin edges of a histogram, rising, fixed by the protocol so that sites can be added."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the edges."""
        yield from super().problems()
        if any(low >= high for low, high in itertools.pairwise(self.edges)):
            yield "edges must rise strictly."


class Cell(CountedCell):
    """How many patients are in each bin; null is withheld."""

    under: Count | None
    """Patients below the first edge."""
    counts: list[Count | None]
    """Patients by bin."""
    over: Count | None
    """Patients above the last edge."""

    @property
    def bins(self) -> list[int | None]:
        """Patients below the edges, in the bins, above the edges."""
        return [self.under, *self.counts, self.over]


class Released(ReleasedAnalysis):
    """The histograms of each feature and segment."""

    kind: Literal["histogram"]
    edges: Annotated[list[Value], Field(min_length=2)]
    cells: list[Cell]


class Recorded(RecordedCell):
    """What the gate did with a histogram."""

    withheld_bins: Maybe[list[Bin]] = None
    """Bins of a released histogram that were withheld, small ones and those that hide them alike.
    """


class Histogram(Analysis[Settings, Cell, Released]):
    """Patients in each bin of each feature in each segment."""

    cell = Cell
    released = Released
    recorded = Recorded
    merging = (
        "Counts between the edges that the protocol fixes were added; a bin that a site withheld"
        " has no total."
    )
    rules = (MANY_BINS, SAME_BINS, ONE_BIN, SMALL_BINS)
    has_bins = True
    heading_decides = True

    def compute(self, values: Values, stated: Any = None) -> Values:
        """Return the values: their bins are those of all histograms of the variable."""
        return values

    def check(self, content: Values, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Withhold small bins and those that hide them, or the whole histogram."""
        return _check_variable([self.settings.edges], content, patients, disclosure.min_patients)[0]

    @classmethod
    def check_all(
        cls,
        cells: Sequence[tuple[Proposed, int]],
        disclosure: Disclosure,
        known: Known = ALONE,
    ) -> list[Passed | Withheld]:
        """Check the histograms of each variable together, and those of like variables."""
        variables: dict[tuple[CellKey, frozenset[str]], list[int]] = {}
        for i, (cell, _) in enumerate(cells):
            variables.setdefault((cell.key, cell.cases), []).append(i)
        repeats = like_an_earlier([cells[places[0]][0].values for places in variables.values()])
        found: dict[int, Passed | Withheld] = {}
        for places, repeat in zip(variables.values(), repeats, strict=True):
            first, patients = cells[places[0]]
            edges = [cells[i][0].analysis.settings.edges for i in places]
            results = _check_variable(edges, first.values, patients, disclosure.min_patients)
            if repeat:
                results = [r if r == Withheld(MANY_BINS) else Withheld(SAME_BINS) for r in results]
            found.update(zip(places, results, strict=True))
        return [found[i] for i in range(len(cells))]

    @classmethod
    def shown(cls, heading: Mapping[str, Any], released: Mapping[str, Any]) -> Shown:
        """Return the bins; those that are withheld are one group."""
        bins = [released["under"], *released["counts"], released["over"]]
        groups = [-1 if number is None else i for i, number in enumerate(bins)]
        return Shown(cuts_of(heading["edges"]), groups)

    def tells_beside(
        self, cell: LedgerCell, earlier: Sequence[LedgerCell], disclosure: Disclosure
    ) -> bool:
        """Return whether other bins of the patients leave than before, or bins that few came into.

        Of the same values only the very bins that left may leave again. Of other patients the edges
        must be the same, and each bin must have lost and won nobody or the minimum; where a patient
        has several cases, it is not known which bin has changed. Beside bins of another kind, which
        must be of the same values, no group of few may be distinguished.
        """
        before = [other for other in earlier if other.kind == cell.kind]
        if any((o.released, o.heading) == (cell.released, cell.heading) for o in before):
            return False
        if self._tells_beside_others(cell, earlier, disclosure.min_patients):
            return True
        return any(
            other.values.cases == cell.values.cases
            or other.heading != cell.heading
            or any(each.rows > each.values.numbers.size for each in (cell, other))
            or self._moved_few(cell.values, other.values, disclosure.min_patients)
            for other in before
        )

    @staticmethod
    def _tells_beside_others(cell: LedgerCell, earlier: Sequence[LedgerCell], minimum: int) -> bool:
        """Return whether few patients are distinguished beside bins of other kinds."""
        others = [other for other in earlier if other.kind != cell.kind and shown(other)]
        if not others:
            return False
        return (
            cell.rows > cell.values.numbers.size
            or not all(same_values(other, cell.values, cell.rows) for other in others)
            or distinguish_few([cell, *others], minimum)
        )

    def _moved_few(self, values: Values, others: Values, minimum: int) -> bool:
        """Return whether a bin has lost or won patients, but fewer than the minimum."""
        edges = self.settings.edges
        bins, before = (bin_index(v.numbers, edges) for v in (values, others))
        for number in range(len(edges) + 1):
            now = set(values.case_ids[bins == number])
            then = set(others.case_ids[before == number])
            if any(0 < len(moved) < minimum for moved in (now - then, then - now)):
                return True
        return False

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Refuse counts that contradict each other or the bounds, and bins that say too much."""
        shown = [number for number in cell.bins if number is not None]
        if len(cell.counts) != len(self.settings.edges) - 1 or any(n > cell.n for n in shown):
            raise ImpossibleCell
        if not any(shown) or sum(shown) > cell.n * limits.cases:
            raise ImpossibleCell
        if len(shown) == len(cell.bins) and sum(shown) < cell.n:
            raise ImpossibleCell
        if any(number for number, reach in self._reaches(cell, limits) if reach is None):
            raise ImpossibleCell
        if tells(cell.bins, cell.n, limits.minimum):
            raise CellBelowMinimum

    def implies(self, cell: Cell, limits: Limits) -> Implied:
        """Return what follows from the bins that someone is in, or may be in.

        A patient is once in a bin, or in several of them.
        """
        reaches = [reach for number, reach in self._reaches(cell, limits) if number != 0 and reach]
        lows, highs = zip(*reaches, strict=True)
        numbers = [number for number in cell.bins if number]
        rows = (max(cell.n, sum(numbers)), cell.n * limits.cases)
        if limits.cases > 1 or None in cell.bins:
            return Implied((min(lows), max(highs)), rows)
        return Implied((_weighted(numbers, lows), _weighted(numbers, highs)), rows)

    def parts(self, cell: Cell) -> dict[Rule, list[str | int]]:
        """Return the names of the bins that are null."""
        names = _names(len(cell.bins))
        return {SMALL_BINS: [name for name, n in zip(names, cell.bins, strict=True) if n is None]}

    def _reaches(
        self, cell: Cell, limits: Limits
    ) -> list[tuple[int | None, tuple[float, float] | None]]:
        """Return each bin's patients and its edges within the bounds, None where it lies outside.

        An edge counts to the bin above it.
        """
        edges = [-math.inf, *self.settings.edges, math.inf]
        reaches: list[tuple[int | None, tuple[float, float] | None]] = []
        for number, (low, high) in zip(cell.bins, itertools.pairwise(edges), strict=True):
            possible = low <= limits.highest and high > limits.lowest
            reach = (max(low, limits.lowest), min(high, limits.highest)) if possible else None
            reaches.append((number, reach))
        return reaches

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Add the bins that every contributing site shows.

        A bin that a contributing site withheld is null and listed in ``withheld`` with those sites.
        """
        sites = sorted(by_site)
        totals: list[int | None] = []
        withheld = []
        for i, name in enumerate(_names(len(by_site[sites[0]].bins))):
            of_site = {site: by_site[site].bins[i] for site in sites}
            silent = [site for site, number in of_site.items() if number is None]
            totals.append(None if silent else sum(n for n in of_site.values() if n is not None))
            if silent:
                withheld.append({"bin": name, "sites": silent})
        return {
            "n": sum(by_site[site].n for site in sites),
            "under": totals[0],
            "counts": totals[1:-1],
            "over": totals[-1],
            "withheld": withheld,
            "by_site": [
                {
                    "site": site,
                    "n": by_site[site].n,
                    "under": by_site[site].under,
                    "counts": by_site[site].counts,
                    "over": by_site[site].over,
                }
                for site in sites
            ],
        }

    @staticmethod
    def part_names(analysis: Released) -> Mapping[str | int, str]:
        """Return the range of each bin."""
        names = _names(len(analysis.edges) + 1)
        return dict(zip(names, _ranges(analysis.edges), strict=True))

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show every histogram with its counts."""
        names = _ranges(analysis.edges)
        panels = []
        for cell in analysis.cells:
            plot = histogram_plot(
                f"{cell.feature} of {cell.key.title}",
                analysis.edges,
                cell.counts,
                cell.under,
                cell.over,
            )
            shown = (
                f"{name}: {'withheld' if number is None else number}"
                for name, number in zip(names, cell.bins, strict=True)
            )
            note = f"{cell.n} patients; {'; '.join(shown)}."
            panels.append(Panel(_heading(cell.key), plot, note))
        lead = (
            "How many patients have a value between the edges that the protocol fixes. Each bin "
            "holds its lower edge; a patient with several cases may be in several bins."
        )
        return Drawing(lead, [Group(panels=panels)])

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show every merged histogram, and below it the counts of each site."""
        panels = []
        for cell in analysis["cells"]:
            key = CellKey(*(cell[name] for name in CellKey._fields))
            title = f"{key.feature} of {key.title}, sites together"
            plot = histogram_plot(
                title, analysis["edges"], cell["counts"], cell["under"], cell["over"]
            )
            table = _table(key, analysis["edges"], cell)
            panels.append(Panel(_heading(key), plot, table=table))
        return Drawing(
            "Patients between the edges that the protocol fixes, over the sites that released it. "
            "A bin that one of them withheld has no total.",
            [Group(panels=panels)],
        )


def _check_variable(
    histograms: Sequence[Sequence[float]], values: Values, patients: int, minimum: int
) -> list[Passed | Withheld]:
    """Check all histograms of one variable by one histogram on the edges of all of them.

    What leaves then follows from bins that may all leave at once: a bin of a histogram is shown if
    all pieces that it consists of are.

    Args:
        histograms: edges of each.
        values: of the variable.
        patients: distinct patients in it.
        minimum: fewest patients.
    """
    pieces = Pieces(histograms)
    if pieces.inner > patients:
        return [Withheld(MANY_BINS)] * len(histograms)
    within = pieces.patients(values)
    hidden = bins_to_hide([len(piece) for piece in within], patients, minimum)
    found: list[Passed | Withheld] = []
    for bins in pieces.bins:
        counts = _counts(bins, within)
        if max(counts) == patients:
            found.append(Withheld(ONE_BIN))
        elif hidden is None:
            found.append(Withheld(SMALL_BINS))
        else:
            found.append(_shown(counts, patients, minimum, {int(bins[i]) for i in hidden}))
    return found


def _counts(bins: Sequence[int], pieces: Sequence[frozenset[str]]) -> list[int]:
    """Return the patients in each bin, by the bin that each piece is in."""
    patients: list[set[str]] = [set() for _ in range(bins[-1] + 1)]
    for bin_, piece in zip(bins, pieces, strict=True):
        patients[bin_] |= piece
    return [len(found) for found in patients]


def _shown(
    counts: Sequence[int], patients: int, minimum: int, hidden: Collection[int]
) -> Passed | Withheld:
    """Return what leaves of a histogram of which some bins are withheld in any case."""
    chosen = bins_to_hide(counts, patients, minimum, hidden)
    if chosen is None:
        return Withheld(SMALL_BINS)
    shown = [None if i in chosen else number for i, number in enumerate(counts)]
    names = _names(len(counts))
    return Passed(
        {"under": shown[0], "counts": shown[1:-1], "over": shown[-1]},
        {SMALL_BINS: [names[i] for i in sorted(chosen)]},
    )


def _weighted(numbers: Sequence[int], values: Sequence[float]) -> float:
    return sum(n * value for n, value in zip(numbers, values, strict=True)) / sum(numbers)


def _names(bins: int) -> list[str | int]:
    """Return what the record and the result call the bins, those outside the edges included."""
    return ["under", *range(bins - 2), "over"]


def _ranges(edges: Sequence[float]) -> list[str]:
    """Return what pages call the bins."""
    between = (f"{a:g} to {b:g}" for a, b in itertools.pairwise(edges))
    return [f"below {edges[0]:g}", *between, f"above {edges[-1]:g}"]


def _heading(key: CellKey) -> tuple[Markup, Markup]:
    return span(key.title), with_unit(key.feature)


def _table(key: CellKey, edges: Sequence[float], cell: Mapping[str, Any]) -> Table:
    """Return the counts of each site and of them together, a bin a row."""
    columns = [*((part["site"], part) for part in cell["by_site"]), ("together", cell)]
    bins = [[part["under"], *part["counts"], part["over"]] for _, part in columns]
    rows = [
        [
            TableCell(name, "nowrap", "row"),
            *(numeral(span("withheld", "muted") if n is None else count(n)) for n in numbers),
        ]
        for name, *numbers in zip(_ranges(edges), *bins, strict=True)
    ]
    patients = (numeral(bold(count(part["n"]))) for _, part in columns)
    return Table(
        f"Counts by site of {key.title}",
        [head("Bin"), *(head(name, "num") for name, _ in columns)],
        [*rows, [TableCell("patients", scope="row"), *patients]],
        summary="By site",
    )

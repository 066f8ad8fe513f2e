"""Quantiles of a feature over all sites, on bins that are narrowed round by round.

The first round asks for the values below even edges of a range that the protocol fixes, each later
one splits the bins in which a quantile may lie. A site counts its values between those of the edges
that leave the minimum of patients in every bin, so that no least and no greatest value is asked
for. The rank of a quantile is that of the sorted values of all sites' patients together.

A cell of the result has ``n``, ``rows``, ``minimum`` (the largest of its sites'), ``quantiles`` and
in ``by_site`` ``n``, ``rows``, ``edges`` and ``counts`` of each ``site``: values below the first
edge, between each two, and from the last on. Of each ``quantile`` there are ``lower`` and
``upper``, between which it surely lies (null where no edge is known), the ``estimate`` if the
values of each site lie evenly between its edges, null outside the range, and ``ended``: null while
another round can narrow it, ``minimum`` if no site can split its bin any more, ``rounds`` if no
round is left, ``outside`` if it lies beyond the range.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from jipflow.analyses.alike import like_an_earlier
from jipflow.analyses.bins import (
    SAME_BINS,
    cuts_to_show,
    distinguish_few,
    groups_of,
    same_values,
    shown,
)
from jipflow.analyses.cells import CellKey, Values, by_patient
from jipflow.analyses.contract import (
    ALONE,
    Analysis,
    CellBelowMinimum,
    ImpossibleCell,
    Known,
    Proposed,
)
from jipflow.analyses.facts import Implied, LedgerCell, Limits, Shown
from jipflow.analyses.forms import (
    CountedCell,
    Enough,
    ReleasedAnalysis,
    StatedAnalysis,
    StatedCell,
    Value,
)
from jipflow.analyses.grid import FINEST, Grid, Leaf
from jipflow.analyses.ranks import Counts, Ranks, Search
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.analyses.units import with_unit
from jipflow.blocks import Drawing, Group, Row, Table, TableCell, bold, head, numeral, span
from jipflow.plots import count, number
from jipflow.settings.part import AsGiven, Part, Unique
from jipflow.settings.protocol import AnalysisSettings, Disclosure

Inside = Annotated[float, Field(gt=0, lt=1), AsGiven]
Position = Annotated[int, Field(ge=0, le=FINEST)]

MOST_QUANTILES = 9
LEAVES = 3
"""Bins that a round may split for each quantile: where it surely lies at least and at most, and
where its estimate lies."""

NO_EDGE = Rule(
    "no_edge",
    "An edge of a quantile is counted only if each bin that it makes, beside all edges that were "
    "shown of the values before, has the minimum of patients; without any edge nothing leaves.",
    because="no edge parts the patients into bins of the minimum each",
)


class Settings(AnalysisSettings):
    """Quantiles on bins that are narrowed by rounds."""

    kind: Literal["quantiles"]
    quantiles: Annotated[list[Inside], Field(min_length=1, max_length=MOST_QUANTILES), Unique]
    """Shares of the values that lie below, rising, such as 0.5 for the median."""
    low: Value
    """Lower end of the range that is split into bins: below it only few values are plausible."""
    high: Value
    """Upper end, likewise."""
    bins: Annotated[int, Field(ge=2, le=50)] = 10
    """Into how many bins each round splits the range, and then the bins of the quantiles."""
    rounds: Annotated[int, Field(ge=2, le=8)] = 4
    """Most rounds; edges are never closer than the range divided by bins to this power."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the range."""
        yield from super().problems()
        if any(a > b for a, b in itertools.pairwise(self.quantiles)):
            yield "quantiles must rise."
        if self.low >= self.high:
            yield "low must be below high."
        elif self.bins**self.rounds > FINEST:
            yield f"bins to the power of rounds must be no more than {FINEST}."
        elif not self.grid.resolves:
            yield "the range is too narrow for so many bins and rounds: edges would be equal."

    @property
    def grid(self) -> Grid:
        """The edges that rounds may ask for."""
        return Grid(self.low, self.high, self.bins, self.rounds)


class Cell(CountedCell):
    """Values of one feature of one segment between edges."""

    rows: Enough
    """Values; more than patients where some have several cases."""
    minimum: Enough
    """Fewest patients in any bin at the site."""
    cuts: Annotated[list[Position], Field(min_length=1)]
    """Edges, rising: number of the finest bins, from 0 at low, of which there are bins to the power
    of rounds."""
    counts: Annotated[list[Enough], Field(min_length=2)]
    """Values below the first edge, between each two, and from the last edge on."""


class Released(ReleasedAnalysis):
    """The counts of each feature and segment."""

    kind: Literal["quantiles"]
    quantiles: list[Inside]
    low: Value
    high: Value
    bins: int
    rounds: int
    cells: list[Cell]


class Split(Part):
    """A bin that a round splits."""

    level: Annotated[int, Field(ge=1, le=8)]
    """How often the range was split to get it."""
    bin: Position
    """Its number among the bins of that level."""


class Asked(StatedCell):
    """The bins that each round after the first splits."""

    splits: Annotated[
        list[Annotated[list[Split], Field(max_length=MOST_QUANTILES * LEAVES)]],
        Field(min_length=1, max_length=8),
    ]
    """Bins that each round after the first splits: `level`, how often the range was split to get
    the bin, and `bin`, its number among those of that level, from 0."""

    @property
    def leaves(self) -> list[list[Leaf]]:
        """The bins by round."""
        return [[Leaf(split.level, split.bin) for split in round_] for round_ in self.splits]


class Stated(StatedAnalysis):
    """The bins that are split, of each feature and segment."""

    kind: Literal["quantiles"]
    cells: list[Asked]


@dataclass(frozen=True)
class Content:
    """What a site needs for a cell.

    Attributes:
        values: of the cell.
        asked: positions by round.
    """

    values: Values
    asked: Sequence[Sequence[int]]


class Quantiles(Analysis[Settings, Cell, Released]):
    """Values between edges that close in on the quantiles."""

    cell = Cell
    released = Released
    stated = Stated
    merging = (
        "Values were counted between edges, which were narrowed from round to round around the "
        "quantiles of all sites together; each quantile is known between two edges."
    )
    rules = (SAME_BINS, NO_EDGE)
    has_bins = True
    heading_decides = True

    @property
    def rounds(self) -> int:
        """As the settings have it."""
        return self.settings.rounds

    @property
    def most_numbers(self) -> int:
        """Edges and counts of all rounds."""
        inner = (self.rounds - 1) * LEAVES * len(self.settings.quantiles)
        return 2 * (inner + 1) * (self.settings.bins + 1)

    @cached_property
    def grid(self) -> Grid:
        """The edges that rounds may ask for."""
        return self.settings.grid

    def check_stated(self, cell: Asked, round_: int) -> None:
        """Refuse splits that are no bins of the round before, or more than the quantiles need."""
        if len(cell.splits) != round_ - 1:
            raise ImpossibleCell(f"it splits bins in {len(cell.splits)} rounds before this one")
        problem = self.grid.problem(cell.leaves, LEAVES * len(self.settings.quantiles))
        if problem:
            raise ImpossibleCell(problem)

    def compute(self, values: Values, stated: Asked | None = None) -> Content:
        """Return the values, and the edges that all rounds asked for."""
        return Content(values, self.grid.asked(stated.leaves if stated else []))

    def check(self, content: Content, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Choose the edges between which values are counted."""
        return self.choose(content, [], disclosure.min_patients)

    @classmethod
    def check_all(
        cls,
        cells: Sequence[tuple[Proposed, int]],
        disclosure: Disclosure,
        known: Known = ALONE,
    ) -> list[Passed | Withheld]:
        """Choose edges beside those of the same values; like values have them once."""
        variables: dict[tuple[CellKey, frozenset[str]], Values] = {}
        others = [cell for cell in known.proposed if cell.analysis.has_bins]
        for cell in [*others, *(cell for cell, _ in cells)]:
            variables.setdefault((cell.key, cell.cases), cell.values)
        repeats = dict(zip(variables, like_an_earlier(list(variables.values())), strict=True))
        found: list[Passed | Withheld] = []
        here: dict[tuple[CellKey, frozenset[str]], list[Shown]] = defaultdict(list)
        for cell, _ in cells:
            variable = (cell.key, cell.cases)
            if repeats[variable]:
                found.append(Withheld(SAME_BINS))
                continue
            beside = [*_bins_of(cell, known.of(cell)), *here[variable]]
            analysis: Quantiles = cell.analysis  # type: ignore[assignment]
            result = analysis.choose(cell.content, beside, disclosure.min_patients)
            if isinstance(result, Passed):
                here[variable].append(cls.shown(analysis.heading(), result.numbers))
            found.append(result)
        return found

    def choose(self, content: Content, beside: Sequence[Shown], minimum: int) -> Passed | Withheld:
        """Return what leaves beside bins that are known of the values.

        Args:
            content: of the cell.
            beside: the bins.
            minimum: fewest patients.
        """
        import numpy as np

        values, grid = content.values, self.grid
        position = {grid.cut(place): place for places in content.asked for place in places}
        asked = [[grid.cut(place) for place in places] for places in content.asked]
        cuts = cuts_to_show(asked, values, groups_of(beside, values.numbers), minimum)
        if not cuts:
            return Withheld(NO_EDGE)
        bins = np.searchsorted(cuts, values.numbers, side="right")
        return Passed(
            {
                "rows": int(values.numbers.size),
                "minimum": minimum,
                "cuts": [position[cut] for cut in cuts],
                "counts": np.bincount(bins, minlength=len(cuts) + 1).tolist(),
            }
        )

    @classmethod
    def shown(cls, heading: Mapping[str, Any], released: Mapping[str, Any]) -> Shown:
        """Return the bins, of which none is withheld."""
        grid = _grid(heading)
        cuts = [grid.cut(position) for position in released["cuts"]]
        return Shown(cuts, range(len(cuts) + 1))

    def tells_beside(
        self, cell: LedgerCell, earlier: Sequence[LedgerCell], disclosure: Disclosure
    ) -> bool:
        """Return whether the bins of all that left and of the cell distinguish few patients.

        Edges were chosen beside the bins of the very same values (see `check_all`). Of other values
        only the same analysis may have left, of other patients, each of whom has one case.
        """
        before = [other for other in earlier if shown(other)]
        others = [o for o in before if not same_values(o, cell.values, cell.rows)]
        if not others:
            return cell.rows == cell.values.numbers.size and distinguish_few(
                [cell, *before], disclosure.min_patients
            )
        return (
            any(each.rows > each.values.numbers.size for each in (cell, *before))
            or any((o.kind, o.heading) != (cell.kind, cell.heading) for o in others)
            or any(o.values.cases == cell.values.cases for o in others)
            or distinguish_few([cell, *before], disclosure.min_patients)
        )

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Refuse edges that were not asked for, and counts that contradict others."""
        if not cell.n <= cell.rows <= cell.n * limits.cases or sum(cell.counts) != cell.rows:
            raise ImpossibleCell
        stated = limits.stated.leaves if isinstance(limits.stated, Asked) else []
        asked = set(itertools.chain.from_iterable(self.grid.asked(stated)))
        rising = all(a < b for a, b in itertools.pairwise(cell.cuts))
        if not rising or not asked.issuperset(cell.cuts):
            raise ImpossibleCell
        if len(cell.counts) != len(cell.cuts) + 1 or cell.minimum != limits.minimum:
            raise ImpossibleCell
        if any(low > limits.highest or high < limits.lowest for low, high in self._ranges(cell)):
            raise ImpossibleCell
        if min(cell.counts) < limits.minimum:
            raise CellBelowMinimum

    def _ranges(self, cell: Cell) -> list[tuple[float, float]]:
        edges = [self.grid.edge(cut) for cut in cell.cuts]
        return list(itertools.pairwise([float("-inf"), *edges, float("inf")]))

    def implies(self, cell: Cell, limits: Limits) -> Implied:
        """Return what follows from the bins: every value is in one of them."""
        lows, highs = (
            sum(n * edge for n, edge in zip(cell.counts, edges, strict=True)) / cell.rows
            for edges in (
                [max(low, limits.lowest) for low, _ in self._ranges(cell)],
                [min(high, limits.highest) for _, high in self._ranges(cell)],
            )
        )
        return Implied((lows, highs), (cell.rows, cell.rows))

    def merge(self, by_site: Mapping[str, Cell], given: Asked | None = None) -> dict[str, Any]:
        """Find each quantile among the values of all sites."""
        sites = sorted(by_site)
        search = self._search(by_site, given)
        return {
            "n": sum(by_site[site].n for site in sites),
            "rows": search.ranks.rows,
            "minimum": max(by_site[site].minimum for site in sites),
            "quantiles": [search.found(quantile) for quantile in self.settings.quantiles],
            "by_site": [
                {
                    "site": site,
                    "n": by_site[site].n,
                    "rows": by_site[site].rows,
                    "edges": [self.grid.edge(cut) for cut in by_site[site].cuts],
                    "counts": by_site[site].counts,
                }
                for site in sites
            ],
        }

    def advance(
        self, round_: int, by_site: Mapping[str, Cell], given: Asked | None = None
    ) -> Asked | None:
        """Split the bins in which quantiles may lie, as far as any site can."""
        search = self._search(by_site, given)
        leaves = sorted(set().union(*map(search.leaves, self.settings.quantiles)))
        if not leaves:
            return None
        splits = [
            *(given.splits if given else []),
            [Split(level=leaf.level, bin=leaf.bin) for leaf in leaves],
        ]
        key = next(iter(by_site.values())).key
        return Asked(**key._asdict(), splits=splits)

    def _search(self, by_site: Mapping[str, Cell], given: Asked | None) -> Search:
        sites = [Counts(cell.cuts, cell.counts, cell.minimum) for cell in by_site.values()]
        return Search(self.grid, Ranks(sites, self.grid.size), given.leaves if given else [])

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show every bin with its count."""
        groups: dict[str, list[Row]] = defaultdict(list)
        grid = _grid(analysis.model_dump(include={"low", "high", "bins", "rounds"}))
        for cell in analysis.cells:
            names = _names([grid.edge(cut) for cut in cell.cuts])
            bins = "; ".join(f"{name}: {n}" for name, n in zip(names, cell.counts, strict=True))
            groups[cell.key.title].append(
                [
                    TableCell(with_unit(cell.feature), scope="row"),
                    numeral(str(cell.n)),
                    numeral(str(cell.rows)),
                    TableCell(bins),
                ]
            )
        lead = (
            "How many values lie between edges. Each bin has the minimum of patients at least; "
            "edges that the hub asks for and that would make a smaller one are left out. The hub "
            f"adds the counts of all sites, finds the bins in which the quantiles "
            f"{_listed(analysis.quantiles)} of all values lie, and asks for finer edges there, in "
            f"{analysis.rounds} rounds at most."
        )
        columns = [head("Feature"), head("n", "num"), head("Rows", "num"), head("Values in bins")]
        return Drawing(
            lead,
            [
                Group(title, table=Table(f"Bins of {title}", columns, rows))
                for title, rows in sorted(groups.items())
            ],
        )

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show each quantile with the range in which it surely lies."""
        groups: dict[str, list[Row]] = defaultdict(list)
        for cell in analysis["cells"]:
            key = CellKey(*(cell[name] for name in CellKey._fields))
            for found in cell["quantiles"]:
                groups[key.title].append(_row(cell, found, sites))
        columns = [
            head("Feature"),
            head("Sites", "num"),
            head("Values", "num"),
            head("Quantile", "num"),
            head("Estimate", "num"),
            head("Surely within"),
            head("Can be narrowed"),
        ]
        few = analysis.get("ended", {}).get("few_sites", 0)
        lead = (
            "Quantiles of the values of all sites that released them, as if these lay in one "
            "place. Each surely lies within its range; the estimate takes the values of a site as "
            "evenly spread between the edges that it shows."
            + (f" {count(few)} variables of fewer than three sites end here." if few else "")
        )
        return Drawing(
            lead,
            [
                Group(title, table=Table(f"Quantiles of {title}", columns, rows))
                for title, rows in groups.items()
            ],
        )


def _bins_of(cell: Proposed, cells: Sequence[LedgerCell]) -> list[Shown]:
    """Return the bins that were shown of the very values of a cell."""
    rows = int(cell.values.numbers.size)
    values = by_patient(cell.values) if cells else cell.values
    return [found for c in cells if same_values(c, values, rows) and (found := shown(c))]


def _grid(heading: Mapping[str, Any]) -> Grid:
    return Grid(heading["low"], heading["high"], heading["bins"], heading["rounds"])


def _names(edges: Sequence[float]) -> list[str]:
    """Return what pages call the bins."""
    between = (f"{a:.7g} to {b:.7g}" for a, b in itertools.pairwise(edges))
    return [f"below {edges[0]:.7g}", *between, f"from {edges[-1]:.7g}"]


def _listed(quantiles: Sequence[float]) -> str:
    return ", ".join(f"{quantile:g}" for quantile in quantiles)


ENDED = {
    None: "by another round",
    "minimum": "no: too few patients in its bin, at every site",
    "rounds": "no: it was the last round",
    "outside": "no: beyond the range of the protocol",
}
"""What a page says of whether a quantile can be narrowed further."""


def _row(cell: Mapping[str, Any], found: Mapping[str, Any], sites: Sequence[str]) -> Row:
    """Return the row of a quantile on the hub's page."""
    lower, upper = found["lower"], found["upper"]
    if lower is None or upper is None:
        ends = [f"from {lower:.7g}"] if lower is not None else []
        ends += [f"below {upper:.7g}"] if upper is not None else []
        within = span(*ends) if ends else span("unknown", "muted")
    else:
        within = span(f"{lower:.7g} to {upper:.7g}")
    return [
        TableCell(with_unit(cell["feature"]), scope="row"),
        numeral(f"{len(cell['sites'])} of {len(sites)}"),
        numeral(count(cell["rows"])),
        numeral(f"{found['quantile']:g}"),
        numeral(bold(number(found["estimate"], 5))),
        TableCell(within),
        TableCell(ENDED[found["ended"]]),
    ]

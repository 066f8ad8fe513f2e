"""Counts of a category, alone or across another one, and the chi-square test.

A site sends how many patients have each value, or each pair of values. Where a count is that of
few, the site withholds it with others, so that none follows from the rest and from the sums of rows
and columns, whoever may have these.

A cell of the result has ``n``, ``counts`` (a list a value, in the protocol's order, with a number
for each value of ``across``, or one), in ``by_site`` the same of each ``site``, and ``test``:
Pearson's chi-square, or, without ``across``, that of the sites. A count that a site withheld is
null, and ``withheld`` says at which ``sites``. The analysis has the same as ``table``, a count a
row; with ``by`` and without ``across`` it has ``tests``, over the groups of all sites. A test has
``statistic``, ``df``, ``p``, Cramér's ``v`` and the ``least_expected`` count; they are null where
``reason`` says why.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from jipflow.analyses.cells import CLINICAL, CellKey, Measured, Values, only
from jipflow.analyses.contract import (
    ALONE,
    Analysis,
    CellBelowMinimum,
    ImpossibleCell,
    Known,
    Proposed,
)
from jipflow.analyses.design import ONE_ROW, OfColumns
from jipflow.analyses.facts import Column, LedgerCell, Limits
from jipflow.analyses.forms import Count, CountedCell, RecordedCell, ReleasedAnalysis
from jipflow.analyses.margins import chi_square, counts_to_hide, one_value, tells
from jipflow.analyses.margins_page import draw_tables, draw_tests
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.blocks import Drawing
from jipflow.settings.clinical import ROLE, VARIABLE, ClinicalVariable, Value
from jipflow.settings.names import among
from jipflow.settings.part import Maybe, Part, Unique
from jipflow.settings.protocol import AnalysisSettings, Disclosure

MOST_COUNTS = 100

Levels = Annotated[list[Value], Field(min_length=2, max_length=50), Unique]
Position = Annotated[int, Field(ge=0, lt=MOST_COUNTS)]

ONE_VALUE = Rule(
    "one_value",
    "Where all patients have one value of a category, it would be known of every patient.",
    because="all patients have one value",
)
FEW_IN_TABLE = Rule(
    "few_in_table",
    "Where a count is that of fewer patients than the minimum, it is withheld, and so are others "
    "of its row and its column, until none of few follows from the rest and from the sums of rows "
    "and columns; a table leaves not at all where a row or column has fewer in all, or no count "
    "would be left.",
    parts="counts",
    of="tables",
    because="too few patients are in a count, or would follow from the others",
)


class Across(Part):
    """Another category."""

    variable: Annotated[str, Field(pattern=rf"^{ROLE}\.{VARIABLE}$")]
    """clinical.<name> of it."""
    values: Levels
    """All its values, in the order in which the protocol's `clinical` has them."""


class Settings(AnalysisSettings):
    """Counts of categories, and of one across another (chi-square)."""

    takes_categories: ClassVar[bool] = True

    kind: Literal["crosstab"]
    values: Levels
    """All values of the variables, in the order in which the protocol's `clinical` has them."""
    across: Maybe[Across] = None
    """Another category, a column of the table for each of its values."""

    @property
    def columns(self) -> list[str]:
        """What the columns of a table are called; one that is empty without another category."""
        return self.across.values if self.across else [""]

    def problems(self) -> Iterator[str]:
        """Yield that a table is too large."""
        yield from super().problems()
        if len(self.values) * len(self.columns) > MOST_COUNTS:
            yield f"a table has more than {MOST_COUNTS} counts; choose categories of fewer values."

    def clinical_problems(self, known: Mapping[str, ClinicalVariable]) -> Iterator[str]:
        """Yield which variables are no categories of these values."""
        for variable in self.variables:
            role, _, name = variable.partition(".")
            if role != ROLE:
                yield f"variable {variable!r} is no category; name a clinical variable."
            for each in known.values() if role == ROLE else ():
                if fnmatchcase(each.name, name):
                    yield from _other_values(variable, each, self.values)
        if self.across is None:
            return
        name = self.across.variable.partition(".")[2]
        if name not in known:
            yield f"across: {self.across.variable!r} is no clinical variable{among(name, known)}"
            return
        yield from _other_values(f"across: {name}", known[name], self.across.values)
        if any(fnmatchcase(self.across.variable, variable) for variable in self.variables):
            yield f"across: {name!r} is among `variables` as well; name those otherwise."


def _other_values(context: str, variable: ClinicalVariable, values: Sequence[str]) -> Iterator[str]:
    if variable.values is None:
        yield f"{context}: {variable.name!r} is of the type {variable.type}, and no category."
    elif list(values) != variable.values:
        yield f"{context}: {variable.name!r} has other values: [{', '.join(variable.values)}]."


class Cell(CountedCell):
    """How many patients have each value, or each pair of values; null is withheld."""

    counts: list[list[Count | None]]
    """Patients by value of the variable, and in each by value of the other category, if any."""


class Released(ReleasedAnalysis):
    """The tables of each category."""

    kind: Literal["crosstab"]
    values: Levels
    across: Maybe[Across] = None
    cells: list[Cell]

    @property
    def names(self) -> list[str]:
        """What readers call the counts, row by row."""
        return count_names(self.values, self.across.values if self.across else [""])


class Recorded(RecordedCell):
    """What the gate did with a table."""

    withheld_counts: Maybe[list[Position]] = None
    """Counts of a released table that were withheld, by number from 0, row by row."""


@dataclass(frozen=True)
class Content:
    """What a site needs for a cell.

    Attributes:
        table: patients by row and column.
        repeated: whether a patient has several cases.
    """

    table: list[list[int]]
    repeated: bool


class Crosstab(OfColumns, Analysis[Settings, Cell, Released]):
    """Patients by value of a category, or by pair of values of two."""

    cell = Cell
    released = Released
    recorded = Recorded
    title = "Cross table"
    merging = (
        "Counts of patients were added; a count that a site withheld has no total. Tables without "
        "such were tested by Pearson's chi-square, without a correction for continuity."
    )
    rules = (ONE_ROW, ONE_VALUE, FEW_IN_TABLE)

    def reads(self) -> Sequence[CellKey]:
        """Return the other category, if there is one."""
        across = self.settings.across
        return [CellKey(*CLINICAL, across.variable.partition(".")[2])] if across else []

    @property
    def most_numbers(self) -> int:
        """Its counts."""
        return len(self.settings.values) * len(self.settings.columns)

    def propose(self, measured: Measured, given: Any = None) -> list[Proposed]:
        """Propose a table of each category, of the cases that have the other one as well."""
        settings, found = self.settings, []
        others = [measured.values(key) for key in self.reads()]
        for key in self.cells(measured.features, measured.places):
            every = [measured.values(key, settings.by), *others]
            cases = frozenset.intersection(*(values.cases for values in every))
            found.append(self._proposed(key, [only(values, cases) for values in every]))
        return found

    def _proposed(self, key: CellKey, categories: Sequence[Values]) -> Proposed:
        """Return the table of a category, alone or with the other one.

        Each count is a column, and so are the sums of rows and columns, as each is the sum of an
        indicator: the rules of all cells then see what follows beside those of other patients.

        Args:
            key: what the table is about.
            categories: positions of the values, of the same cases in the same order.
        """
        import numpy as np

        first, settings = categories[0], self.settings
        place = first.numbers.astype(np.intp)
        across = categories[1].numbers.astype(np.intp) if settings.across else np.zeros_like(place)
        number = place * len(settings.columns) + across
        names = count_names(settings.values, settings.columns)
        counted = [(number == i, key, name) for i, name in enumerate(names)]
        if settings.across:
            other = self.reads()[0]._replace(group=key.group)
            counted += [(place == i, key, name) for i, name in enumerate(settings.values)]
            counted += [(across == i, other, name) for i, name in enumerate(settings.columns)]
        columns = [Column(key, first, 0)]
        for there, of, name in counted:
            values = Values(there * 1.0, first.patients, first.case_ids, first.cases)
            columns.append(Column(of._replace(feature=f"{of.feature}={name}"), values, 1))
        counts = np.bincount(number, minlength=len(names)).reshape(len(settings.values), -1)
        repeated = len(set(first.patients)) < first.patients.size
        return Proposed(self, key, first, Content(counts.tolist(), repeated), columns)

    def check(self, content: Content, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Withhold counts of few and those from which they follow, or the table."""
        if content.repeated:
            return Withheld(ONE_ROW)
        if one_value(content.table):
            return Withheld(ONE_VALUE)
        hidden = counts_to_hide(content.table, disclosure.min_patients)
        if hidden is None:
            return Withheld(FEW_IN_TABLE)
        counts = [
            [None if (i, j) in hidden else n for j, n in enumerate(row)]
            for i, row in enumerate(content.table)
        ]
        return Passed({"counts": counts}, {FEW_IN_TABLE: _hidden(counts)})

    @classmethod
    def check_all(
        cls,
        cells: Sequence[tuple[Proposed, int]],
        disclosure: Disclosure,
        known: Known = ALONE,
    ) -> list[Passed | Withheld]:
        """Check each table; none that withholds counts leaves beside those of more or fewer.

        The counts of all and of a group give those of the other group, whatever it withholds.
        """
        found: list[Passed | Withheld] = []
        kept: list[tuple[Proposed, bool]] = []
        for cell, patients in cells:
            checked = cell.analysis.check(cell.content, patients, disclosure)
            if isinstance(checked, Passed):
                hides = any(checked.parts.values())
                if any((hides or hid) and _overlap(cell, other) for other, hid in kept):
                    checked = Withheld(FEW_IN_TABLE)
                else:
                    kept.append((cell, hides))
            found.append(checked)
        return found

    @staticmethod
    def excludes(cell: LedgerCell, other: LedgerCell) -> bool:
        """Return whether the same counts leave in two tables that withhold different ones."""
        if other.kind != cell.kind or not (cell.number and other.number):
            return False
        if (other.heading, other.released) == (cell.heading, cell.released):
            return False
        apart = cell.values.cases.isdisjoint(other.values.cases)
        return not apart and any(_hidden(each.released["counts"]) for each in (cell, other))

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Refuse tables of another shape, and counts that contradict each other or are of few."""
        width = len(self.settings.columns)
        if [len(row) for row in cell.counts] != [width] * len(self.settings.values):
            raise ImpossibleCell
        shown = sum(number for row in cell.counts for number in row if number is not None)
        if shown > cell.n or (shown < cell.n and not _hidden(cell.counts)):
            raise ImpossibleCell
        if tells(cell.counts, cell.n, limits.minimum):
            raise CellBelowMinimum

    def parts(self, cell: Cell) -> dict[Rule, list[str | int]]:
        """Return the numbers of the counts that are null."""
        return {FEW_IN_TABLE: list(_hidden(cell.counts))}

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Add the counts that every contributing site shows."""
        sites = sorted(by_site)
        names = count_names(self.settings.values, self.settings.columns)
        silent = {
            name: [site for site in sites if number in _hidden(by_site[site].counts)]
            for number, name in enumerate(names)
        }
        counts = [
            [_total(numbers) for numbers in zip(*rows, strict=True)]
            for rows in zip(*(by_site[site].counts for site in sites), strict=True)
        ]
        found: dict[str, Any] = {"n": sum(by_site[site].n for site in sites), "counts": counts}
        if self.settings.across:
            found["test"] = chi_square(counts)
        elif self.settings.by is None:
            found["test"] = chi_square([[n for (n,) in by_site[site].counts] for site in sites])
        return {
            **found,
            "withheld": [{"count": name, "sites": of} for name, of in silent.items() if of],
            "by_site": [
                {"site": site, "n": by_site[site].n, "counts": by_site[site].counts}
                for site in sites
            ],
        }

    def conclude(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the counts, one a row, and the tests over groups."""
        table = [
            {**_about(cell), "site": part.get("site", ""), **count}
            for cell in cells
            for part in (cell, *cell["by_site"])
            for count in self._rows(part["counts"])
        ]
        if self.settings.by is None or self.settings.across:
            return {"table": table}
        return {"table": table, "tests": list(_tests(cells))}

    def _rows(self, counts: Sequence[Sequence[int | None]]) -> Iterator[dict[str, Any]]:
        """Yield each count with its values."""
        for value, row in zip(self.settings.values, counts, strict=True):
            for across, number in zip(self.settings.columns, row, strict=True):
                yield {"value": value, "across": across, "count": number}

    @staticmethod
    def part_names(analysis: Released) -> Mapping[str | int, str]:
        """Return the values of each count."""
        return dict(enumerate(analysis.names))

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show every table."""
        lead = (
            "How many patients have each value of a category, or each pair of values of two. "
            "Counts of few are withheld with others, so that none follows from the sums of rows "
            "and columns."
        )
        cells = [(cell.key, cell.n, cell.counts) for cell in analysis.cells]
        across = analysis.across
        columns = across.values if across else [""]
        return draw_tables(lead, cells, analysis.values, columns)

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show every merged table, and the tests."""
        lead = (
            "Patients of all sites that released the table, by their values. A count that one of "
            "these withheld has no total."
        )
        cells = [(_key(cell), cell["n"], cell["counts"]) for cell in analysis["cells"]]
        across = analysis.get("across")
        drawing = draw_tables(lead, cells, analysis["values"], across["values"] if across else [""])
        over = across["variable"] if across else "sites"
        tests = [(_key(c), over, c["test"]) for c in analysis["cells"] if "test" in c]
        for test in analysis.get("tests", ()):
            tests.append((_key({**test, "group": ""}), "groups", test))
        return Drawing(lead, [*drawing.groups, *draw_tests(tests)])


def count_names(values: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return what readers call the counts of a table, row by row."""
    return [", ".join(filter(None, pair)) for pair in itertools.product(values, columns)]


def _overlap(cell: Proposed, other: Proposed) -> bool:
    """Return whether tables share a category, and some of their patients but not all."""
    categories = [{c.key._replace(group=""), *c.analysis.reads()} for c in (cell, other)]
    apart = cell.cases == other.cases or cell.cases.isdisjoint(other.cases)
    return not apart and not categories[0].isdisjoint(categories[1])


def _hidden(counts: Sequence[Sequence[int | None]]) -> list[int]:
    """Return the numbers of the counts that are null, row by row."""
    every = itertools.chain.from_iterable(counts)
    return [i for i, number in enumerate(every) if number is None]


def _total(numbers: Sequence[int | None]) -> int | None:
    shown = [number for number in numbers if number is not None]
    return sum(shown) if len(shown) == len(numbers) else None


def _about(cell: Mapping[str, Any]) -> dict[str, str]:
    return {name: cell[name] for name in CellKey._fields}


def _key(cell: Mapping[str, Any]) -> CellKey:
    return CellKey(**_about(cell))


def _tests(cells: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the test over the groups of each category."""
    categories: dict[CellKey, list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        categories[_key(cell)._replace(group="")].append(cell)
    for key, groups in sorted(categories.items()):
        about = {name: value for name, value in key._asdict().items() if name != "group"}
        yield {
            **about,
            "groups": [cell["group"] for cell in groups],
            "same_sites": len({tuple(cell["sites"]) for cell in groups}) == 1,
            **chi_square([[number for (number,) in cell["counts"]] for cell in groups]),
        }

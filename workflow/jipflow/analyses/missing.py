"""Patients of the cohort without a value of a variable, by reason.

A site sends how many patients have a value, and how many of its cohort have none for each of a few
reasons (see `jipflow.absences`). Each patient counts once: with a value where any case has one,
else by the case that was closest to one. A number of fewer than the minimum is withheld, and so is
that of nobody; as neither the cohort nor all who have no value are counted, none follows.

A cell of the result has ``n`` (with a value) and ``counts`` by reason, of the sites that show it,
and in ``by_site`` the same of each ``site``. A count that a site withheld is null there, and
``withheld`` says by reason at which sites; of all sites it is null where none shows it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jipflow.absences import OF_CLINICAL, OF_FEATURES, Absence
from jipflow.analyses.cells import CLINICAL, CellKey, Cohort, Measured, Place, Values, Whom
from jipflow.analyses.contract import Analysis, CellBelowMinimum, ImpossibleCell, Proposed
from jipflow.analyses.facts import Column, Limits
from jipflow.analyses.forms import CountedCell, Enough, RecordedCell, ReleasedAnalysis
from jipflow.analyses.missing_page import ALL, Numbers, draw_numbers
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.blocks import Drawing
from jipflow.settings.part import Maybe
from jipflow.settings.protocol import AnalysisSettings, Disclosure

if TYPE_CHECKING:
    ReasonName = str
else:
    ReasonName = Literal[tuple(reason.value for reason in Absence)]

FEW_MISSING = Rule(
    "few_missing",
    "Of a reason for which fewer patients than the minimum have no value, or nobody, the number is "
    "withheld. How large the cohort is does not leave, so that none follows.",
    parts="reasons",
    of="counts of patients without a value",
    because="too few patients have no value for a reason, or nobody",
)


class Settings(AnalysisSettings):
    """Patients without a value of a variable, by reason."""

    takes_categories: ClassVar[bool] = True

    kind: Literal["missing"]

    def problems(self) -> Iterator[str]:
        """Yield that groups are asked for."""
        yield from super().problems()
        if self.by is not None:
            yield "by: the kind missing counts all patients of the cohort; leave it out."


class Cell(CountedCell):
    """How many patients have a value (`n`), and how many have none, by reason."""

    counts: dict[ReasonName, Enough | None]
    """Patients without a value by each reason that there can be; null is withheld."""


class Released(ReleasedAnalysis):
    """The numbers of each variable."""

    kind: Literal["missing"]
    cells: list[Cell]


class Recorded(RecordedCell):
    """What the gate did with the numbers of a variable."""

    withheld_reasons: Maybe[list[ReasonName]] = None
    """Reasons of a released cell whose numbers were withheld."""


@dataclass(frozen=True)
class Content:
    """What a site needs for a cell.

    Attributes:
        key: what it is about.
        having: the values of those who have one.
        lacking: the cases of the patients who have none, by reason; the number of each is 1.
    """

    key: CellKey
    having: Values
    lacking: Mapping[Absence, Values]


class Missing(Analysis[Settings, Cell, Released]):
    """Patients without a value, by reason."""

    cell = Cell
    released = Released
    recorded = Recorded
    title = "Missing values"
    merging = "Numbers of patients were added over the sites that showed them."
    rules = (FEW_MISSING,)
    counts_sets = True

    @property
    def most_numbers(self) -> int:
        """The number of each reason."""
        return len(Absence)

    def whom(self, key: CellKey) -> Whom | None:
        """Return of whom a column says that it is; parts of those without a value share nobody."""
        return None if "=" in key.feature else super().whom(key)

    def compute(self, values: Values, stated: Any = None) -> Any:
        """Refuse values by themselves: a cell is of the whole cohort."""
        raise NotImplementedError("who has no value is known of the cohort alone")

    def propose(self, measured: Measured, given: Any = None) -> list[Proposed]:
        """Propose the numbers of each variable.

        Raises:
            ValueError: the cohort is not known.
        """
        if measured.cohort is None:
            raise ValueError("patients without a value are those of a cohort, which is not given")
        found = []
        for key in self.cells(measured.features, measured.places):
            having = measured.values(key)
            content = Content(key, having, _lacking(measured.cohort, key, having))
            found.append(Proposed(self, key, having, content, _sets(content, list(Absence))))
        return found

    def check(self, content: Content, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Withhold numbers of few patients, or of nobody."""
        numbers = {reason: len(set(of.patients)) for reason, of in content.lacking.items()}
        reasons = reasons_of(content.key.place)
        shown = {r for r in reasons if numbers.get(r, 0) >= disclosure.min_patients}
        counts = {r.value: numbers[r] if r in shown else None for r in reasons}
        hidden = [name for name, count in counts.items() if count is None]
        columns = [*_sets(content, shown), *_together(content, shown)]
        return Passed({"counts": counts}, {FEW_MISSING: hidden}, columns=columns)

    def withholds(self, values: Values, disclosure: Disclosure) -> bool:
        """Return that any group of the minimum may be counted."""
        return False

    def verify(self, cell: Cell, limits: Limits) -> None:
        """Refuse other reasons than there can be, and numbers of few."""
        if cell.counts.keys() != set(reasons_of(cell.key.place)):
            raise ImpossibleCell
        if any(count is not None and count < limits.minimum for count in cell.counts.values()):
            raise CellBelowMinimum

    def together(self, cell: Cell) -> int | None:
        """Return how many have a value or a reason that is shown; None where none is."""
        shown = [count for count in cell.counts.values() if count is not None]
        return cell.n + sum(shown) if shown else None

    def parts(self, cell: Cell) -> dict[Rule, list[str | int]]:
        """Return the reasons whose numbers are null."""
        reasons = reasons_of(cell.key.place)
        return {FEW_MISSING: [r.value for r in reasons if cell.counts[r] is None]}

    def merge(self, by_site: Mapping[str, Cell], given: Any = None) -> dict[str, Any]:
        """Add the numbers, each of the sites that show it."""
        parts = {site: _plain(by_site[site]) for site in sorted(by_site)}
        counts: dict[str, int | None] = {}
        withheld: dict[str, list[str]] = {}
        for reason in next(iter(parts.values()))["counts"]:
            numbers = {site: part["counts"][reason] for site, part in parts.items()}
            shown = [n for n in numbers.values() if n is not None]
            counts[reason] = sum(shown) if shown else None
            if len(shown) < len(parts):
                withheld[reason] = [site for site, n in numbers.items() if n is None]
        return {
            "n": sum(part["n"] for part in parts.values()),
            "counts": counts,
            "withheld": withheld,
            "by_site": [{"site": site, **part} for site, part in parts.items()],
        }

    @staticmethod
    def part_names(analysis: Released) -> Mapping[str | int, str]:
        """Return the names of the reasons."""
        return {reason.value: reason.value for reason in Absence}

    @staticmethod
    def draw_release(analysis: Released) -> Drawing:
        """Show the numbers of every variable."""
        lead = (
            "How many patients have a value, and how many of the cohort have none, by reason. A "
            "number of fewer than the minimum is withheld, and so is that of nobody."
        )
        cells = [(cell.key, {"": _plain(cell)}) for cell in analysis.cells]
        return draw_numbers(lead, cells, _by_title(cell.key for cell in analysis.cells))

    @staticmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Show the numbers of every variable at each site, and those of all."""
        lead = (
            "How many patients have a value, and how many of the cohorts have none, by reason. A "
            "number of fewer patients than the minimum is withheld, and so is that of nobody: "
            "withheld is not 0. A sum is of the sites that show the number."
        )
        cells: list[tuple[CellKey, dict[str, Numbers | None]]] = []
        for cell in analysis["cells"]:
            of_site: dict[str, Numbers | None] = dict.fromkeys(sites)
            of_site |= {part["site"]: part for part in cell["by_site"]}
            if len(sites) > 1:
                of_site[ALL] = cell
            cells.append((CellKey(*(cell[name] for name in CellKey._fields)), of_site))
        return draw_numbers(lead, cells, _by_title(key for key, _ in cells))


def reasons_of(place: Place) -> tuple[Absence, ...]:
    """Return the reasons that there can be at a place, in their order."""
    return OF_CLINICAL if place == CLINICAL else OF_FEATURES


def _by_title(keys: Iterable[CellKey]) -> dict[str, tuple[Absence, ...]]:
    return {key.title: reasons_of(key.place) for key in keys}


def _plain(cell: Cell) -> dict[str, Any]:
    """Return the numbers of a cell as plain data."""
    counts = {reason.value: cell.counts[reason] for reason in reasons_of(cell.key.place)}
    return {"n": cell.n, "counts": counts}


def _lacking(cohort: Cohort, key: CellKey, having: Values) -> dict[Absence, Values]:
    """Return the cases of the patients without a value, by the last reason of their cases."""
    order = list(Absence)
    there = set(having.patients)
    cases: dict[str, list[str]] = {}
    for case, patient in sorted(cohort.patient_of.items()):
        if patient not in there:
            cases.setdefault(patient, []).append(case)
    found: dict[Absence, list[str]] = {}
    for own in cases.values():
        reason = max((cohort.absence(case, key) for case in own), key=order.index)
        found.setdefault(reason, []).extend(own)
    return {reason: _ones(of, cohort.patient_of) for reason, of in found.items()}


def _ones(cases: Sequence[str], patient_of: Mapping[str, str]) -> Values:
    import numpy as np

    ids = np.array(cases, dtype=object)
    patients = np.array([patient_of[case] for case in cases], dtype=object)
    return Values(np.ones(len(cases)), patients, ids, frozenset(cases))


def _sets(content: Content, shown: Collection[Absence]) -> list[Column]:
    """Return the sets of patients whose numbers a cell shows, as columns.

    All but the first, which has the values, are of ones, and named as no feature is, so that they
    are compared by their patients alone.

    Args:
        content: of the cell.
        shown: the reasons.
    """
    key = content.key
    return [
        Column(key, content.having, 0),
        *(
            Column(key._replace(feature=f"missing={reason}"), content.lacking[reason], 0)
            for reason in Absence
            if reason in content.lacking and reason in shown
        ),
    ]


def _together(content: Content, shown: Collection[Absence]) -> Iterator[Column]:
    """Yield all of `_sets` as one, whose number is the sum of theirs, where they are several."""
    import numpy as np

    parts = [content.having, *(of for reason, of in content.lacking.items() if reason in shown)]
    if len(parts) > 1:
        ids = np.concatenate([part.case_ids for part in parts])
        patients = np.concatenate([part.patients for part in parts])
        every = Values(np.ones(ids.size), patients, ids, frozenset(ids))
        yield Column(content.key._replace(feature="missing=together"), every, 0)

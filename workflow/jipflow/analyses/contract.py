"""What an analysis is: a module of this folder that has the name of its kind.

The module declares three models and a class, and nothing outside it names the kind:

* ``Settings``, derived from `AnalysisSettings`: its keys in a protocol, with ``kind`` and what
  types cannot say of them;
* ``Cell``, derived from `ReleasedCell`: the numbers of one cell that may leave a site;
* ``Released``, derived from `ReleasedAnalysis`: its cells, and the keys of its settings that leave
  with them;
* a class derived from `Analysis`: what a site computes, the rules of the disclosure gate for it,
  how the hub merges, and what the pages of the releaser and of the hub draw.

A kind that needs several rounds declares ``Stated`` and its cells as well: what the hub says to the
sites before each round after the first.

A number is released in a *cell*: one feature of one segment, of all patients or of a group, see
`jipflow.analyses.cells`.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from jipflow.analyses.cells import (
    CellKey,
    Measured,
    Place,
    Values,
    Whom,
    asks_for,
    by_patient,
    expand,
)
from jipflow.analyses.facts import Column, Implied, LedgerCell, Limits, PieceOf, Shown
from jipflow.analyses.forms import (
    CountedCell,
    RecordedCell,
    ReleasedAnalysis,
    ReleasedCell,
    StatedAnalysis,
    StatedCell,
)
from jipflow.analyses.rules import Passed, Rule, Withheld
from jipflow.settings.plugins import analysis_classes
from jipflow.settings.protocol import AnalysisSettings, Disclosure, Protocol

if TYPE_CHECKING:
    from jipflow.blocks import Drawing


@dataclass(frozen=True)
class Proposed:
    """One cell before the gate, with the people behind it.

    A cell of several columns, such as a model, leaves whole or not at all. The rules of all cells
    look at its `pieces`, one a column, as they look at cells of one variable.

    Attributes:
        analysis: what proposes it.
        key: what it is about.
        values: what it is computed from; of a cell of several columns, the first one's.
        content: what the analysis computed, for its own `Analysis.check`.
        columns: of a cell of several; the first has the key and the values of the cell.
        of: of a piece, which cell it is of and which of its columns it is.
    """

    analysis: Analysis[Any, Any, Any]
    key: CellKey
    values: Values
    content: Any
    columns: Sequence[Column] = ()
    of: PieceOf | None = None

    @property
    def equations(self) -> int:
        """How many numbers of it are sums over functions of its values."""
        return self.of.equations if self.of else self.analysis.equations

    @property
    def model(self) -> str:
        """Of a piece, what tells its cell apart from those of other columns or values."""
        return self.of.model if self.of else ""

    @cached_property
    def pieces(self) -> Sequence[Proposed]:
        """The cell as cells of one variable: itself where it is one."""
        if not self.columns:
            return (self,)
        models = {among: _digest(self, among) for among in {each.among for each in self.columns}}
        return [
            Proposed(
                self.analysis,
                column.key,
                column.values,
                self.content,
                of=PieceOf(models[column.among], number, column.equations),
            )
            for number, column in enumerate(self.columns)
        ]

    @property
    def cases(self) -> frozenset[str]:
        """Cases whose values are in it."""
        return self.values.cases

    @property
    def order(self) -> tuple[str, ...]:
        """What cells are sorted by."""
        return (self.analysis.settings.id, *self.key)


def _digest(cell: Proposed, among: tuple[int, ...]) -> str:
    """Return a hash of the kind of a cell and of the values of columns, of all if none is named."""
    found = hashlib.sha256(cell.analysis.settings.kind.encode())
    chosen = [cell.columns[i] for i in among] or [each for each in cell.columns if not each.among]
    for column in chosen:
        patients = by_patient(column.values)
        found.update(b"\0\0".join([b"", "\0".join(patients.case_ids).encode()]))
        found.update(b"\0\0" + patients.numbers.tobytes())
    return found.hexdigest()


def _nothing(cell: Proposed) -> Sequence[LedgerCell]:
    return ()


def _no_models() -> Sequence[Sequence[LedgerCell]]:
    return ()


@dataclass(frozen=True)
class Known:
    """What is known beside the cells of a kind: other cells of the release, and earlier ones.

    Attributes:
        proposed: cells of the kinds that were checked before, whether or not they leave.
        of: returns of a cell all that leave or have left with its very values.
        models: returns the cells of several columns that leave or have left, of whatever kind and
            values, each as its pieces in their order.
    """

    proposed: Sequence[Proposed] = ()
    of: Callable[[Proposed], Sequence[LedgerCell]] = _nothing
    models: Callable[[], Sequence[Sequence[LedgerCell]]] = _no_models


ALONE = Known()
"""Of cells beside which nothing is known."""


class ImpossibleCell(Exception):
    """The numbers of a cell that a site sent, or that the hub states, contradict each other."""


class CellBelowMinimum(Exception):
    """A number that a site sent, or one that follows from others, rests on too few patients."""


S = TypeVar("S", bound=AnalysisSettings)
C = TypeVar("C", bound=ReleasedCell)
R = TypeVar("R", bound=ReleasedAnalysis)


class Analysis(ABC, Generic[S, C, R]):
    """One kind of analysis, with the settings of one entry of a protocol.

    A site calls `propose` and lets the gate call `check` on each cell; the hub calls `verify` on
    each cell that it receives, and `merge`. Of several `rounds`, the hub calls `advance` after each
    and the site `check_stated` before each. Pages are drawn from files alone, without settings.

    Attributes:
        cell: model of a released cell, or a union of models that a field ``step`` tells apart.
        released: model of the released analysis.
        stated: model of what the hub says before a later round; None for a kind of one round.
        recorded: model of a cell in the disclosure record, which may name withheld parts.
        rules: the kind's own rules, in the order in which they are applied.
        title: what readers call the kind, where that is not its name.
        merging: how the sites' numbers become one, in a sentence for a paper's methods.
        equations: numbers of a released cell that are sums over functions of its values, with all
            their digits, so that who solves them for the values has as many equations. The columns
            of a cell of several have their own.
        has_bins: whether a cell shows bins of its values, see `shown`.
        heading_decides: whether what the own rules find depends on values and on the heading that
            the protocol chose, so that who asks again with another one learns of the values.
        counts_sets: whether its cells say how many patients are in sets, and nothing of values.
            They give way to the cells of all other kinds.

    Args:
        settings: the entry of the protocol.
    """

    cell: ClassVar[Any]
    released: ClassVar[type[ReleasedAnalysis]]
    stated: ClassVar[type[StatedAnalysis] | None] = None
    recorded: ClassVar[type[RecordedCell]] = RecordedCell
    rules: ClassVar[tuple[Rule, ...]] = ()
    title: ClassVar[str] = ""
    merging: ClassVar[str]
    equations: ClassVar[int] = 0
    has_bins: ClassVar[bool] = False
    heading_decides: ClassVar[bool] = False
    counts_sets: ClassVar[bool] = False

    def __init__(self, settings: S) -> None:
        self.settings = settings

    def cells(self, features: Iterable[str], places: Sequence[Place]) -> list[CellKey]:
        """Return the cells that the protocol asks for, sorted.

        The protocol alone decides about role, segmentation and segment, so that a segment which no
        patient of a site has still gets its (withheld) cells there.

        Args:
            features: names of the features that exist.
            places: everything that the protocol measures.
        """
        settings = self.settings
        return expand(settings.variables, settings.segments, features, places, settings.groups)

    def asks_for(self, key: CellKey, places: Sequence[Place]) -> bool:
        """Return whether the protocol asks for a cell."""
        return key in self.cells([key.feature], places)

    def heading(self) -> dict[str, Any]:
        """Return the keys of the settings that a release and a result repeat, as plain data."""
        own = self.released.model_fields.keys() - ReleasedAnalysis.model_fields.keys()
        return self.settings.model_dump(include=set(own))

    def reads(self) -> Sequence[CellKey]:
        """Return the variables that every cell is computed from beside its own, each once."""
        return ()

    def whom(self, key: CellKey) -> Whom | None:
        """Return of which patients a cell or a column says that it is.

        None where its number of patients may be near to those of others: as of parts of a set,
        which share nobody.

        Args:
            key: of the cell, or of the column.
        """
        return Whom.of(self.settings.by, key)

    def together(self, cell: C) -> int | None:
        """Return how many patients all sets of a cell have together; None where it has one set.

        Args:
            cell: as it leaves, of a kind that counts sets of patients.
        """
        return None

    @property
    def rounds(self) -> int:
        """The most rounds that the analysis takes."""
        return 1

    @property
    def most_numbers(self) -> int:
        """The most numbers of a cell, beside a few and as many as its heading has."""
        return 0

    def propose(
        self, measured: Measured, given: Mapping[CellKey, StatedCell] | None = None
    ) -> list[Proposed]:
        """Compute every cell that the round asks for, before any rule of disclosure.

        Args:
            measured: what the site measured.
            given: what the hub stated of each cell of a later round; None in the first round, which
                asks for all cells.
        """
        proposed = []
        for key in self.cells(measured.features, measured.places):
            if given is None or key in given:
                values = measured.values(key, self.settings.by)
                content = self.compute(values, given[key] if given else None)
                proposed.append(Proposed(self, key, values, content))
        return proposed

    def check_stated(self, cell: Any, round_: int) -> None:
        """Check at a site what the hub, which may be hostile, says of a cell.

        Args:
            cell: of an analysis of several rounds, as its model has it; the protocol asks for it.
            round_: that begins, from 2 to `rounds`.

        Raises:
            ImpossibleCell: no honest hub says it; the message says what is wrong.
        """
        raise ImpossibleCell(f"the kind {self.settings.kind!r} has one round")

    def rank(self, key: CellKey) -> int:
        """Return which of the settings' variables first asks for a cell, from 0; none is last."""
        variables = self.settings.variables
        return next((i for i, v in enumerate(variables) if asks_for(v, key)), len(variables))

    @abstractmethod
    def compute(self, values: Values, stated: Any = None) -> Any:
        """Compute one cell.

        Args:
            values: of the cell; there may be none.
            stated: what the hub stated of it; None in the first round.
        """

    @abstractmethod
    def check(self, content: Any, patients: int, disclosure: Disclosure) -> Passed | Withheld:
        """Apply the kind's own rules to a cell.

        Args:
            content: what `compute` returned.
            patients: distinct patients in the cell, at least the minimum.
            disclosure: the limits that hold, the stricter of protocol and site.
        """

    @classmethod
    def check_all(
        cls,
        cells: Sequence[tuple[Proposed, int]],
        disclosure: Disclosure,
        known: Known = ALONE,
    ) -> list[Passed | Withheld]:
        """Apply the kind's own rules to all cells of the kind, in their order.

        A kind whose cells tell more together than each by itself overrides it.

        Args:
            cells: of all analyses of the kind, each with its distinct patients, at least the
                minimum.
            disclosure: the limits that hold, the stricter of protocol and site.
            known: what else is known of them.
        """
        return [cell.analysis.check(cell.content, n, disclosure) for cell, n in cells]

    @classmethod
    def shown(cls, heading: Mapping[str, Any], released: Mapping[str, Any]) -> Shown | None:
        """Return the bins of values that a cell shows; None where the kind has none.

        Args:
            heading: as `heading` of its analysis.
            released: what leaves of it beside its key.
        """
        return None

    def tells_beside(
        self, cell: LedgerCell, earlier: Sequence[LedgerCell], disclosure: Disclosure
    ) -> bool:
        """Return whether a cell tells of few patients beside those that left before.

        Args:
            cell: of this analysis, that would leave.
            earlier: cells of any kind whose values are like its own, but for scale and offset or in
                order; their patients are the same or differ by the minimum at least.
            disclosure: the limits that hold.
        """
        return False

    def tells_of_few(self, values: Values, disclosure: Disclosure) -> bool:
        """Return whether numbers that follow from several cells would not leave themselves.

        Args:
            values: that they are of; their patients are as many as the minimum at least.
            disclosure: the limits that hold.
        """
        return False

    @staticmethod
    def excludes(cell: LedgerCell, other: LedgerCell) -> bool:
        """Return whether a cell of the kind and another of like values must not both leave.

        Args:
            cell: of the kind.
            other: of any kind, in the same release or an earlier one.
        """
        return False

    def withholds(self, values: Values, disclosure: Disclosure) -> bool:
        """Return whether the numbers of a group of patients would not all leave as a cell.

        They follow from several releases, so that nothing of them can be withheld.

        Args:
            values: of the minimum of patients at least.
            disclosure: the limits that hold.
        """
        found = self.check(self.compute(values), len(values.cases), disclosure)
        return isinstance(found, Withheld) or any(found.parts.values())

    @abstractmethod
    def verify(self, cell: C, limits: Limits) -> None:
        """Check at the hub what the model of a cell cannot say.

        Args:
            cell: as a site sent it; its ``n`` is at least the minimum.
            limits: of its numbers.

        Raises:
            ImpossibleCell: its numbers contradict each other, or the limits.
            CellBelowMinimum: a number rests on too few patients.
        """

    def implies(self, cell: C, limits: Limits) -> Implied:
        """Return what a cell implies of its values: what the limits do, if not overridden.

        A hub compares the cells that several analyses have of the same values.
        """
        rows = (cell.n, cell.n * limits.cases) if isinstance(cell, CountedCell) else (0, math.inf)
        return Implied((limits.lowest, limits.highest), rows)

    def continues(self, cell: Any, before: Any) -> bool:
        """Return whether a site's cell may be of the very values of which it sent one before.

        What rounds give together is of the same patients, so that a kind whose later rounds go on
        from the numbers of the first overrides it. A hub leaves out a cell that does not.

        Args:
            cell: of a later round.
            before: what the site sent of it in the round before; None where it sent nothing.
        """
        return True

    def parts(self, cell: C) -> dict[Rule, list[str | int]]:
        """Return what was withheld of a released cell by each rule that has parts.

        Args:
            cell: as it leaves; what is withheld of it shows in it.
        """
        return {}

    @abstractmethod
    def merge(self, by_site: Mapping[str, C], given: Any = None) -> dict[str, Any]:
        """Merge a cell over sites whose patients are distinct.

        Args:
            by_site: the cell of each site that released it, at least one.
            given: what the hub stated of it before the round; None in the first.

        Returns:
            What the hub's result says of the cell beside its key and its sites: plain data.
        """

    def advance(self, round_: int, by_site: Mapping[str, C], given: Any = None) -> Any:
        """Return what the next round needs of a cell: a pure function of its arguments.

        Args:
            round_: that has ended, less than `rounds`.
            by_site: the cell of each site that released it, `FEWEST_SITES` at least.
            given: what the hub stated of it before the round; None in the first.

        Returns:
            A cell of the kind's ``stated``, or None where the cell is done.
        """
        return None

    def unanswered(self, given: Any) -> dict[str, Any] | None:
        """Return what the result says of a cell that a later round asked for and no site released.

        Args:
            given: what the hub stated of it.

        Returns:
            As `merge`; None where the result is still what earlier rounds gave.
        """
        return None

    def conclude(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return what follows from all merged cells together, for the result of the analysis.

        Args:
            cells: as ``result.json`` has them, sorted.
        """
        return {}

    @staticmethod
    def part_names(analysis: R) -> Mapping[str | int, str]:
        """Return what readers call the parts of a cell that rules may withhold, by their names."""
        return {}

    @staticmethod
    @abstractmethod
    def draw_release(analysis: R) -> Drawing:
        """Draw everything that leaves, for the person who is asked to approve it."""

    @staticmethod
    @abstractmethod
    def draw_result(analysis: Mapping[str, Any], sites: Sequence[str]) -> Drawing:
        """Draw the merged result.

        Args:
            analysis: as ``result.json`` has it: `heading`, and cells as `merge` returned them with
                role, segmentation, segment, feature, group and sites.
            sites: ids of all sites of the round, also of those that withheld a cell.
        """


AnyAnalysis = Analysis[Any, Any, Any]


def kinds() -> Mapping[str, type[AnyAnalysis]]:
    """Return every kind of analysis by its name, sorted: the modules of this folder."""
    return analysis_classes(Analysis)


def title_of(kind: str) -> str:
    """Return what readers call a kind of analysis."""
    return kinds()[kind].title or kind.replace("_", " ").capitalize()


def analyses_of(protocol: Protocol) -> list[AnyAnalysis]:
    """Return the analyses of a protocol, sorted by id."""
    known = kinds()
    entries = sorted(protocol.analyses, key=lambda entry: entry.id)
    return [known[entry.kind](entry) for entry in entries]


def rules_of_kinds() -> tuple[Rule, ...]:
    """Return the own rules of all kinds.

    Raises:
        ValueError: two kinds use one code for different rules.
    """
    found: dict[str, Rule] = {}
    for kind, analysis in kinds().items():
        for rule in analysis.rules:
            if found.setdefault(rule.code, rule) != rule:
                raise ValueError(
                    f"analysis {kind}: the rule {rule.code!r} is another one elsewhere"
                )
    return tuple(found.values())


def too_close(a: int, b: int, minimum: int) -> bool:
    """Return whether two numbers of patients differ by a group that is too small to be shown."""
    return 0 < abs(a - b) < minimum

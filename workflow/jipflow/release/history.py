"""The rule of what left before: no release tells of few patients beside the earlier ones.

A site's ledger (`jipflow.release.ledger`) keeps whose values stood behind every cell that ever
left, of whatever protocol. Cells are compared with these as if all of them were one release, and
patient by patient: the value of a patient with several cases is their mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jipflow.analyses.cells import Place, Values, by_patient
from jipflow.analyses.contract import AnyAnalysis, Proposed, kinds, rules_of_kinds
from jipflow.analyses.facts import LedgerCell
from jipflow.analyses.forms import ReleasedCell
from jipflow.analyses.rules import Rule
from jipflow.exchange.message import canonical
from jipflow.release.classes import Classes, summed
from jipflow.release.differences import are_few, exclude
from jipflow.release.edges import Edges
from jipflow.release.linked import Links, Variable, groups_of, identity, linked, only, solved
from jipflow.release.saturation import Equations, Regions, alike_columns, asked, family, kin
from jipflow.settings.protocol import Disclosure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EARLIER = Rule(
    "earlier",
    "Beside all that the site has released before, of whatever protocol, a cell must not tell of "
    "fewer patients than the minimum, by patients, values or bins in which they differ, nor make "
    "the means and variances of a region too many, nor be asked for with other edges or limits.",
    because="few patients would stand out beside what left before",
)


@dataclass(frozen=True)
class Past:
    """A release that left before.

    Attributes:
        cells: what left, with the values behind it, a patient a row.
        volumes: volume of each place that was measured, whether or not it left.
        means: mean intensity likewise.
        withheld: what was asked for and did not leave, with the rule that withheld it.
        limits: of disclosure, as its protocol had them.
        noisy: what left with noise, each with the hash of what was asked (see
            `jipflow.release.noise`); its values are what each patient in it spent.
    """

    cells: Sequence[LedgerCell] = ()
    volumes: Mapping[Place, Values] = field(default_factory=dict)
    means: Mapping[Place, Values] = field(default_factory=dict)
    withheld: Sequence[tuple[str, LedgerCell]] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    noisy: Sequence[tuple[str, LedgerCell]] = ()

    @property
    def whole(self) -> list[LedgerCell]:
        """What left, each cell of several columns once: its first."""
        return [cell for cell in self.cells if cell.number == 0]

    @property
    def left(self) -> list[LedgerCell]:
        """All that left, likewise."""
        return [*self.whole, *(cell for _, cell in self.noisy)]

    @property
    def asked(self) -> list[LedgerCell]:
        """All that it was asked for of enough patients."""
        return [*self.cells, *(cell for _, cell in self.withheld)]


@dataclass(frozen=True)
class Candidate:
    """A cell that was asked for.

    Attributes:
        proposed: the cell.
        released: what would leave of it; None of one that is withheld.
    """

    proposed: Proposed
    released: ReleasedCell | None

    @cached_property
    def cell(self) -> LedgerCell:
        """The cell as the ledger keeps it."""
        analysis, key = self.proposed.analysis, self.proposed.key
        numbers = self.released.plain() if self.released else {}
        return LedgerCell(
            analysis=analysis.settings.id,
            kind=analysis.settings.kind,
            key=key,
            equations=self.proposed.equations,
            heading=analysis.heading(),
            released={name: numbers[name] for name in numbers.keys() - set(key._fields)},
            values=by_patient(self.proposed.values),
            rows=int(self.proposed.values.numbers.size),
            model=self.proposed.model,
            number=self.proposed.of.number if self.proposed.of else 0,
        )

    @property
    def values(self) -> Values:
        """The values behind it, a patient a row."""
        return self.cell.values


class History:
    """All that left a site before.

    Args:
        pasts: the releases, in their order.
        volumes: volume of each place that is measured now.
        means: mean intensity likewise.
        limits: of disclosure, as the protocol has them.
    """

    def __init__(
        self,
        pasts: Sequence[Past] = (),
        volumes: Mapping[Place, Values] | None = None,
        means: Mapping[Place, Values] | None = None,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self._pasts = pasts
        self._limits = limits or {}
        self._cells = [(number, cell) for number, past in enumerate(pasts) for cell in past.cells]
        self._volumes = {p: by_patient(v) for p, v in (volumes or {}).items()}
        self._variables = _distinct(
            [variable(cell, past.volumes) for past in pasts for cell in past.cells]
        )
        self._regions = Regions()
        if pasts:
            now = dict(self._volumes)
            intensities = {p: by_patient(v) for p, v in (means or {}).items()}
            for number, past in enumerate(pasts):
                now |= {_of_past(place, number): v for place, v in past.volumes.items()}
                intensities |= {_of_past(place, number): v for place, v in past.means.items()}
            self._regions = Regions.by(now, intensities)

    def same(self, values: Values) -> Sequence[LedgerCell]:
        """Return the cells that left of these very values, a patient a row."""
        return self._by_identity.get(identity(values), ())

    def models(self) -> list[list[LedgerCell]]:
        """Return the cells of several columns that left, each as its pieces in their order."""
        found: dict[tuple[int, str, str], dict[int, LedgerCell]] = defaultdict(dict)
        for number, cell in self._cells:
            if cell.model:
                found[number, cell.analysis, cell.model].setdefault(cell.number, cell)
        return [[pieces[i] for i in sorted(pieces)] for pieces in found.values()]

    def edges(self, minimum: int) -> Edges:
        """Return the classes by the edges of curves, and others, that have left."""
        known = Edges(minimum)
        for pieces in (*self.models(), *([cell] for _, cell in self._cells if not cell.model)):
            known.include(pieces)
        return known

    @cached_property
    def _by_identity(self) -> dict[bytes, list[LedgerCell]]:
        found: dict[bytes, list[LedgerCell]] = defaultdict(list)
        for _, cell in self._cells:
            found[identity(cell.values)].append(cell)
        return dict(found)

    def asked_otherwise(self, cells: Sequence[Proposed]) -> set[int]:
        """Choose the cells that were asked for before, but in another way.

        Which of the own rules of its kind withholds a cell, and whether one does, depends on the
        values and on what the protocol chose: edges, and limits of dominance. Who chooses them anew
        in each release would find values by the answers alone. So cells that are linked to an
        earlier one of their kind, left or withheld, are all asked for in the same ways as before.

        Args:
            cells: of the minimum of patients at least.

        Returns:
            Positions of the cells to withhold before any other rule is applied.
        """
        found = set()
        for name in sorted({cell.analysis.settings.kind for cell in cells}):
            rows = [i for i, cell in enumerate(cells) if cell.analysis.settings.kind == name]
            found |= {rows[i] for i in self._otherwise(name, [cells[i] for i in rows])}
        return found

    def _otherwise(self, name: str, cells: Sequence[Proposed]) -> Iterator[int]:
        """Yield which cells of a kind were asked for in another way."""
        kind = kinds().get(name)
        # Of several rounds, a later one asks for those cells alone that go on.
        goes_on = kind is not None and kind.stated is not None
        now = [_way(kind, cell.analysis.heading(), self._limits) for cell in cells]
        earlier: dict[bytes, dict[bytes, Variable]] = defaultdict(dict)
        for past in self._pasts:
            for cell in past.asked:
                if cell.kind == name:
                    asked_for = variable(cell, past.volumes)
                    way = _way(kind, cell.heading, past.limits)
                    earlier[way].setdefault(asked_for.identity, asked_for)
        if not earlier or {*now, *earlier} == {now[0]}:
            return
        new = [variable(Candidate(cell, None).cell, self._volumes) for cell in cells]
        before: list[set[bytes]] = [set() for _ in cells]
        for way, variables in earlier.items():
            for i, others in enumerate(linked(new, list(variables.values()))):
                if others:
                    before[i].add(way)
        for i, others in enumerate(linked(new, new)):
            ways = {now[j] for j in others}
            fewer = goes_on and ways <= before[i]
            if before[i] and before[i] != ways and not fewer:
                yield i

    def conflicting(self, cells: Sequence[Candidate], disclosure: Disclosure) -> set[int]:
        """Choose the cells that must be withheld because of what left before.

        A cell is withheld where one of these holds of it and of what left before:

        * Its patients are not those of an earlier cell, but those of one but for fewer than the
          minimum, whatever either is about.
        * Among the cells that it is linked to in turn (see `Links`), its patients would distinguish
          groups of fewer than the minimum, or one whose own cell would not leave and whose sum
          follows from theirs.
        * It is of the patients of an earlier cell of its feature or family of features, or of one
          clinical variable as well as itself, and has its values but in fewer than the minimum.
        * Its own kind finds that it tells of few beside them (`Analysis.tells_beside`).
        * The equations of a family of features in a region would be too many.
        * Sums over few patients would follow from those over classes of models (see `Classes`).
        * It counts sets of patients that distinguish few, with all sets that such cells ever
          counted, of whatever variable.

        Args:
            cells: that the other rules let out.
            disclosure: the limits that hold.

        Returns:
            Positions of the cells to withhold.
        """
        if not any(past.asked for past in self._pasts):
            return set()
        found = self._by_patients([cell.values for cell in cells], disclosure.min_patients)
        left = [i for i in range(len(cells)) if i not in found]
        found |= {left[i] for i in self._by_sets([cells[i] for i in left], disclosure.min_patients)}
        left = [i for i in range(len(cells)) if i not in found]
        found |= {left[i] for i in self._by_values([cells[i] for i in left], disclosure)}
        left = [i for i in range(len(cells)) if i not in found]
        found |= {left[i] for i in self._by_equations([cells[i] for i in left])}
        left = [i for i in range(len(cells)) if i not in found]
        return found | {
            left[i] for i in self._by_classes([cells[i] for i in left], disclosure.min_patients)
        }

    def _by_patients(self, values: Sequence[Values], minimum: int) -> set[int]:
        """Choose the cells whose patients are those of an earlier one but for a few.

        One that its values withheld has answered as well: that a patient more lets it leave tells
        of that patient.
        """
        own = {rule.code for rule in rules_of_kinds()}
        earlier = {each.values.cases for each in self._variables}
        earlier |= {
            cell.values.cases for past in self._pasts for rule, cell in past.withheld if rule in own
        }
        few = {
            patients
            for patients in {v.cases for v in values} - earlier
            if any(0 < len(patients ^ known) < minimum for known in earlier)
        }
        return {i for i, v in enumerate(values) if v.cases in few}

    def _by_sets(self, cells: Sequence[Candidate], minimum: int) -> Iterator[int]:
        """Yield the cells that count sets of patients by which few are distinguished.

        No values say which of these belong together, so that all of them do. Beside each other, the
        new ones are compared as all cells are (see `differences.differing`).
        """
        known = kinds()
        counting = {name for name, kind in known.items() if kind.counts_sets}
        earlier = {cell.values.cases for _, cell in self._cells if cell.kind in counting}
        kept: dict[tuple[str, str], list[frozenset[str]]] = defaultdict(list)
        for i in sorted(range(len(cells)), key=lambda i: asked(cells[i].proposed)):
            cell, patients = cells[i].cell, cells[i].values.cases
            if cell.kind not in counting or not earlier or patients in earlier:
                continue
            beside = kept[cell.key.role, cell.key.segmentation]
            before = set(groups_of([*earlier, *beside]))
            new = set(groups_of([*earlier, *beside, patients])) - before
            if any(len(group) < minimum for group in new):
                yield i
            else:
                beside.append(patients)

    def _by_values(self, cells: Sequence[Candidate], disclosure: Disclosure) -> Iterator[int]:
        """Yield the cells that tell of few patients beside others that are like them."""
        of_variable: dict[int, list[LedgerCell]] = defaultdict(list)
        known = kinds()
        numbers = {variable.identity: i for i, variable in enumerate(self._variables)}
        for _, cell in self._cells:
            of_variable[numbers[identity(cell.values)]].append(cell)
        new = [variable(each.cell, self._volumes) for each in cells]
        links = Links(self._variables, new, disclosure.min_patients)
        for i in sorted(range(len(cells)), key=lambda i: asked(cells[i].proposed)):
            candidate = cells[i]
            same = [cell for number in links.direct(i) for cell in of_variable[number]]
            if (
                self._tells_of_group(candidate, links, i, disclosure)
                or self._changed_in_few(candidate, disclosure.min_patients)
                or candidate.proposed.analysis.tells_beside(candidate.cell, same, disclosure)
                or any(exclude(candidate.cell, other, known) for other in same)
            ):
                yield i
            else:
                links.let(i)

    def _tells_of_group(
        self, candidate: Candidate, links: Links, i: int, disclosure: Disclosure
    ) -> bool:
        """Return whether a group of few patients follows, or one whose own cell would not leave."""
        patients = candidate.values.cases
        beside = links.beside(i)
        sets = links.patients(beside)
        if patients in sets:
            return False
        groups = groups_of([*sets, patients])
        if any(len(group) < disclosure.min_patients for group in groups):
            return True
        known = sets | {patients} | set(solved(sets, groups_of(sets)))
        for group in solved([*sets, patients], groups):
            if group not in known:
                values = candidate.values if group <= patients else links.values_of(group, beside)
                if values is None or candidate.proposed.analysis.withholds(
                    only(values, group), disclosure
                ):
                    return True
        return False

    def _changed_in_few(self, candidate: Candidate, minimum: int) -> bool:
        """Return whether a cell has the values of an earlier one of its kind but in a few."""
        import numpy as np

        others = self._same_patients.get(_kind(candidate.cell))
        if others is None:
            return False
        apart = np.eye(candidate.values.numbers.size, dtype=bool)
        return are_few(candidate.values.numbers, others, apart, minimum)

    @cached_property
    def _same_patients(self) -> dict[tuple[str, frozenset[str]], NDArray[np.float64]]:
        """Values of the earlier cells by what they measure and whom, each once."""
        import numpy as np

        found: dict[tuple[str, frozenset[str]], dict[bytes, NDArray[np.float64]]] = {}
        for _, cell in self._cells:
            rows = found.setdefault(_kind(cell), {})
            rows[cell.values.numbers.tobytes()] = cell.values.numbers
        return {kind: np.array(list(rows.values())) for kind, rows in found.items()}

    def _by_equations(self, cells: Sequence[Candidate]) -> set[int]:
        """Choose the cells that make the equations of a family in a region too many.

        Equal values of a family say the same, whatever they are called, so that they count once.
        """
        kept: dict[Hashable, Equations] = defaultdict(Equations)
        functions: dict[bytes, tuple[str, Place]] = {}
        every = [*(cell for _, cell in self._cells), *(each.cell for each in cells)]
        likes = alike_columns([(cell.key.feature, cell.model, cell.values) for cell in every])
        for i, (number, cell) in enumerate(self._cells):
            place = _of_past(cell.key.place, number)
            region = self._region(cell, place, likes.get(i))
            if region is not None:
                feature, place_of = functions.setdefault(
                    identity(cell.values), (cell.key.feature, place)
                )
                kept[region].include(
                    feature, (place_of, cell.kind, cell.model), cell.equations, cell.values.cases
                )
        withheld = set()
        for i in sorted(range(len(cells)), key=lambda i: asked(cells[i].proposed)):
            new = cells[i].cell
            region = self._region(new, new.key.place, likes.get(len(self._cells) + i))
            if region not in kept:
                continue
            feature, place = functions.get(identity(new.values), (new.key.feature, new.key.place))
            function = (place, new.kind, new.model)
            if not kept[region].add(feature, function, new.equations, new.values.cases):
                withheld.add(i)
        return withheld

    def _by_classes(self, cells: Sequence[Candidate], minimum: int) -> Iterator[int]:
        """Yield the cells by whose classes of patients, or beside whose groups, few follow."""
        every = [*(cell for _, cell in self._cells), *(each.cell for each in cells)]
        if not any(cell.model for cell in every):
            return
        known = Classes(minimum)
        for _, cell in self._cells:
            if summed(cell):
                known.include(cell.values, cell.model, cell.key.group)
        known.settle()
        for i in sorted(range(len(cells)), key=lambda i: asked(cells[i].proposed)):
            cell = cells[i].cell
            if summed(cell) and not known.add(cell.values, cell.model, cell.key.group):
                yield i

    def _region(self, cell: LedgerCell, place: Place, like: int | None) -> Hashable:
        """Return of what the equations of a cell are counted together; None where of nothing."""
        group = family(cell.key.feature)
        if not cell.equations:
            return None
        return like if group is None else (group, self._regions.region(place, group))


def _way(
    kind: type[AnyAnalysis] | None, heading: Mapping[str, Any], limits: Mapping[str, float]
) -> bytes:
    """Return what the protocol chose of that on which the own rules of a kind depend."""
    chosen = heading if kind is None or kind.heading_decides else {}
    return canonical({"heading": dict(chosen), "limits": dict(limits)})


def _kind(cell: LedgerCell) -> tuple[str, frozenset[str]]:
    """Return what a cell may be of one thing with, and of whom it is."""
    return kin(cell.key), cell.values.cases


def _of_past(place: Place, number: int) -> Place:
    """Return the place of an earlier release, which is none of this one."""
    return place._replace(role=f"{number} {place.role}")


def variable(cell: LedgerCell, volumes: Mapping[Place, Values]) -> Variable:
    """Return the variable of a cell, with the volumes of what was measured in its release."""
    feature = cell.key.feature
    return Variable(cell.values, family(feature) or feature, volumes.get(cell.key.place))


def _distinct(variables: Sequence[Variable]) -> list[Variable]:
    """Return each variable once."""
    return list({each.identity: each for each in variables}.values())


NOTHING = History()
"""Of a site from which nothing has left."""

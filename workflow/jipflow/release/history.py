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
from typing import TYPE_CHECKING

from jipflow.analyses.alike import alike
from jipflow.analyses.cells import Place, Values, by_patient
from jipflow.analyses.contract import LedgerCell, Proposed, ReleasedCell, Rule, kinds
from jipflow.release.differences import Kept, are_few, exclude
from jipflow.release.saturation import Equations, Regions, asked, family
from jipflow.settings.protocol import Disclosure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

AT_ONCE = 4000
"""Earlier variables that are compared at once, which bounds the memory."""

EARLIER = Rule(
    "earlier",
    "Beside all that the site has released before, of whatever protocol, a cell must not be of "
    "patients, values or bins that differ by fewer patients than the minimum, nor make the means "
    "and variances of a region too many: else the difference is of those few.",
    because="few patients would stand out beside what left before",
)


@dataclass(frozen=True)
class Past:
    """A release that left before.

    Attributes:
        cells: what left, with the values behind it, a patient a row.
        volumes: volume of each place that was measured, whether or not it left.
        means: mean intensity likewise.
    """

    cells: Sequence[LedgerCell] = ()
    volumes: Mapping[Place, Values] = field(default_factory=dict)
    means: Mapping[Place, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A cell that the other rules would let out.

    Attributes:
        proposed: the cell.
        released: what would leave of it.
    """

    proposed: Proposed
    released: ReleasedCell

    @cached_property
    def cell(self) -> LedgerCell:
        """The cell as the ledger keeps it."""
        analysis, key = self.proposed.analysis, self.proposed.key
        numbers = self.released.plain()
        return LedgerCell(
            analysis=analysis.settings.id,
            kind=analysis.settings.kind,
            key=key,
            equations=analysis.equations,
            heading=analysis.heading(),
            released={name: numbers[name] for name in numbers.keys() - set(key._fields)},
            values=by_patient(self.proposed.values),
            rows=int(self.proposed.values.numbers.size),
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
    """

    def __init__(
        self,
        pasts: Sequence[Past] = (),
        volumes: Mapping[Place, Values] | None = None,
        means: Mapping[Place, Values] | None = None,
    ) -> None:
        self._cells = [(number, cell) for number, past in enumerate(pasts) for cell in past.cells]
        self._variables = _distinct([cell.values for _, cell in self._cells])
        self._regions = Regions()
        if pasts:
            now = {p: by_patient(v) for p, v in (volumes or {}).items()}
            intensities = {p: by_patient(v) for p, v in (means or {}).items()}
            for number, past in enumerate(pasts):
                now |= {_of_past(place, number): v for place, v in past.volumes.items()}
                intensities |= {_of_past(place, number): v for place, v in past.means.items()}
            self._regions = Regions.by(now, intensities)

    def same(self, values: Values) -> Sequence[LedgerCell]:
        """Return the cells that left of these very values, a patient a row."""
        return self._by_identity.get(_identity(values), ())

    @cached_property
    def _by_identity(self) -> dict[bytes, list[LedgerCell]]:
        found: dict[bytes, list[LedgerCell]] = defaultdict(list)
        for _, cell in self._cells:
            found[_identity(cell.values)].append(cell)
        return dict(found)

    def conflicting(self, cells: Sequence[Candidate], disclosure: Disclosure) -> set[int]:
        """Choose the cells that must be withheld because of what left before.

        A cell is withheld where one of these holds of it and of what left before:

        * Its patients are not those of an earlier cell, but those of one but for fewer than the
          minimum, whatever either is about.
        * Among the earlier cells that are like it in value, groups of fewer than the minimum would
          be distinguished by its patients.
        * It is of the patients of an earlier cell of its feature or family of features, and has its
          values but in fewer than the minimum.
        * Its own kind finds that it tells of few beside them (`Analysis.tells_beside`).
        * The equations of a family of features in a region would be too many.

        Args:
            cells: that the other rules let out.
            disclosure: the limits that hold.

        Returns:
            Positions of the cells to withhold.
        """
        if not self._cells:
            return set()
        found = self._by_patients([cell.values for cell in cells], disclosure.min_patients)
        left = [i for i in range(len(cells)) if i not in found]
        found |= {left[i] for i in self._by_values([cells[i] for i in left], disclosure)}
        left = [i for i in range(len(cells)) if i not in found]
        return found | {left[i] for i in self._by_equations([cells[i] for i in left])}

    def _by_patients(self, values: Sequence[Values], minimum: int) -> set[int]:
        """Choose the cells whose patients are those of an earlier one but for a few."""
        earlier = {variable.cases for variable in self._variables}
        few = {
            patients
            for patients in {v.cases for v in values} - earlier
            if any(0 < len(patients ^ known) < minimum for known in earlier)
        }
        return {i for i, v in enumerate(values) if v.cases in few}

    def _by_values(self, cells: Sequence[Candidate], disclosure: Disclosure) -> Iterator[int]:
        """Yield the cells that tell of few patients beside earlier ones that are like them."""
        of_variable: dict[int, list[LedgerCell]] = defaultdict(list)
        numbers = {_identity(variable): i for i, variable in enumerate(self._variables)}
        known = kinds()
        for _, cell in self._cells:
            of_variable[numbers[_identity(cell.values)]].append(cell)
        for i, like in enumerate(_like([cell.values for cell in cells], self._variables)):
            candidate = cells[i]
            same = [cell for number in like for cell in of_variable[number]]
            sets = [cell.values.cases for cell in same]
            people = candidate.values.cases.union(*sets)
            groups = Kept({patient: patient for patient in people}, disclosure.min_patients)
            for patients in sets:
                groups.include(patients)
            if (
                not groups.add(candidate.values.cases)
                or self._changed_in_few(candidate, disclosure.min_patients)
                or candidate.proposed.analysis.tells_beside(candidate.cell, same, disclosure)
                or any(exclude(candidate.cell, other, known) for other in same)
            ):
                yield i

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
        kept: dict[tuple[str, Hashable], Equations] = defaultdict(Equations)
        functions: dict[bytes, tuple[str, Place]] = {}
        for number, cell in self._cells:
            group = family(cell.key.feature)
            if group is not None and cell.equations:
                place = _of_past(cell.key.place, number)
                feature, place_of = functions.setdefault(
                    _identity(cell.values), (cell.key.feature, place)
                )
                kept[group, self._regions.region(place, group)].include(
                    feature, (place_of, cell.kind), cell.equations, cell.values.cases
                )
        withheld = set()
        for i in sorted(range(len(cells)), key=lambda i: asked(cells[i].proposed)):
            new = cells[i].cell
            group = family(new.key.feature)
            if group is None or not new.equations:
                continue
            known = kept.get((group, self._regions.region(new.key.place, group)))
            feature, place = functions.get(_identity(new.values), (new.key.feature, new.key.place))
            if known is not None and not known.add(
                feature, (place, new.kind), new.equations, new.values.cases
            ):
                withheld.add(i)
        return withheld


def _kind(cell: LedgerCell) -> tuple[str, frozenset[str]]:
    """Return what a cell measures, by its family of features, and of whom."""
    return family(cell.key.feature) or cell.key.feature, cell.values.cases


def _of_past(place: Place, number: int) -> Place:
    """Return the place of an earlier release, which is none of this one."""
    return place._replace(role=f"{number} {place.role}")


def _identity(values: Values) -> bytes:
    """Return what tells values apart from all others."""
    return "\0".join(values.case_ids).encode() + b"\0\0" + values.numbers.tobytes()


def _distinct(variables: Sequence[Values]) -> list[Values]:
    """Return each variable once."""
    return list({_identity(values): values for values in variables}.values())


def _like(these: Sequence[Values], those: Sequence[Values]) -> list[list[int]]:
    """Return which of those variables are like each of these, or equal to it."""
    import numpy as np

    found: list[list[int]] = [[] for _ in these]
    left, right = _by_set(these), _by_set(those)
    parts = [
        group[start : start + AT_ONCE]
        for group in right.values()
        for start in range(0, len(group), AT_ONCE)
    ]
    equal: dict[bytes, list[int]] = defaultdict(list)
    for j, values in enumerate(those):
        equal[_identity(values)].append(j)
    for i, values in enumerate(these):
        found[i] += equal[_identity(values)]
    for rows in left.values():
        for columns in parts:
            table = alike([these[i] for i in rows], [those[j] for j in columns])
            for row, column in zip(*np.nonzero(table), strict=True):
                found[rows[row]].append(columns[column])
    return [sorted(set(numbers)) for numbers in found]


def _by_set(variables: Sequence[Values]) -> dict[frozenset[str], list[int]]:
    groups: dict[frozenset[str], list[int]] = defaultdict(list)
    for i, values in enumerate(variables):
        groups[values.cases].append(i)
    return groups


NOTHING = History()
"""Of a site from which nothing has left."""

"""Which earlier variables a cell is to be compared with, and the groups of patients that follow.

A sum over 30 patients, one over 12 of them and one over 12 others give the sum of the six left,
although no two of them tell of few. So a cell is compared with all that it is linked to in turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jipflow.analyses.alike import FEWEST, alike
from jipflow.analyses.cells import Values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

AT_ONCE = 4000
"""Earlier variables that are compared at once, which bounds the memory."""

Patients = frozenset[str]


@dataclass(frozen=True, eq=False)
class Variable:
    """The values of a cell.

    Attributes:
        values: a patient a row.
        family: the family of its feature, or the feature.
        volumes: of the region that it is of, a patient a row; None where not known.
    """

    values: Values
    family: str
    volumes: Values | None = None

    @cached_property
    def identity(self) -> bytes:
        """What tells its values apart from all others."""
        return identity(self.values)


def identity(values: Values) -> bytes:
    """Return what tells values apart from all others."""
    return "\0".join(values.case_ids).encode() + b"\0\0" + values.numbers.tobytes()


class Links:
    """Links between the variables of cells that left and those that would leave.

    Two variables are linked where they are alike (see `alike`), or where they have too few patients
    in common to see that, and are of one family of features in a region of the same volumes. A link
    counts in turn where the two are of one family, or have the minimum of patients in common: three
    patients are soon alike by chance.

    Args:
        earlier: variables of what left.
        new: variables of what would leave.
        minimum: fewest patients.
    """

    def __init__(self, earlier: Sequence[Variable], new: Sequence[Variable], minimum: int) -> None:
        self._earlier = earlier
        self._all = [*earlier, *new]
        self._minimum = minimum
        self._direct = linked(new, self._all)
        self._let: set[int] = set(range(len(earlier)))
        self._new_links: list[tuple[int, int]] = []

    def direct(self, i: int) -> list[int]:
        """Return the earlier variables that a new one is linked to."""
        return [j for j in self._direct[i] if j < len(self._earlier)]

    def let(self, i: int) -> None:
        """Note that a new variable leaves, so that those after it are compared with it too."""
        me = len(self._earlier) + i
        self._new_links += [(j, me) for j in self._near(i) if self._in_turn(j, me)]
        self._let.add(me)

    def beside(self, i: int) -> set[int]:
        """Return all variables that have left, or leave, and that a new one is linked to in turn.

        They are positions in the earlier ones and then the new ones. Where one that it is linked to
        has its patients, these alone are returned: it then distinguishes no more groups.
        """
        near = set(self._near(i))
        if self._all[len(self._earlier) + i].values.cases in self.patients(near):
            return near
        while self._new_links:
            self._chains.merge(*self._new_links.pop())
        found: set[int] = set()
        for j in near:
            if j not in found:
                found |= self._chains.subset(j)
        return found & self._let

    def patients(self, positions: Iterable[int]) -> set[Patients]:
        """Return the sets of patients of variables."""
        return {self._all[j].values.cases for j in positions}

    def values_of(self, group: Patients, positions: Iterable[int]) -> Values | None:
        """Return the values that the first of some variables has of a group; None if none has."""
        for j in sorted(positions):
            if group <= self._all[j].values.cases:
                return only(self._all[j].values, group)
        return None

    def _near(self, i: int) -> list[int]:
        return [j for j in self._direct[i] if j in self._let]

    def _in_turn(self, i: int, j: int) -> bool:
        one, other = self._all[i], self._all[j]
        common = one.values.cases & other.values.cases
        return one.family == other.family or len(common) >= self._minimum

    @cached_property
    def _chains(self) -> Any:
        """Links in turn among the earlier variables, to which those of new ones are added."""
        from scipy.cluster.hierarchy import DisjointSet

        chains = DisjointSet(range(len(self._all)))
        for i, others in enumerate(linked(self._earlier, self._earlier)):
            for j in others:
                if j > i and self._in_turn(i, j):
                    chains.merge(i, j)
        return chains


def linked(these: Sequence[Variable], those: Sequence[Variable]) -> list[list[int]]:
    """Return which of those variables each of these is linked to, or equal to."""
    import numpy as np

    found: list[set[int]] = [set() for _ in these]
    left, right = _by_patients(these), _by_patients(those)
    equal: dict[bytes, list[int]] = defaultdict(list)
    for j, variable in enumerate(those):
        equal[variable.identity].append(j)
    for i, variable in enumerate(these):
        found[i].update(equal[variable.identity])
    for patients, rows in left.items():
        for others, columns in right.items():
            common = len(patients & others)
            if 0 < common < FEWEST:
                for i in rows:
                    found[i].update(j for j in columns if _may_be_one(these[i], those[j]))
            if common < FEWEST:
                continue
            for start in range(0, len(columns), AT_ONCE):
                part = columns[start : start + AT_ONCE]
                table = alike([these[i].values for i in rows], [those[j].values for j in part])
                for row, column in zip(*np.nonzero(table), strict=True):
                    found[rows[row]].add(part[column])
    return [sorted(numbers) for numbers in found]


def _by_patients(variables: Sequence[Variable]) -> dict[Patients, list[int]]:
    groups: dict[Patients, list[int]] = defaultdict(list)
    for i, variable in enumerate(variables):
        groups[variable.values.cases].append(i)
    return groups


def _may_be_one(one: Variable, other: Variable) -> bool:
    """Return whether variables with one or two patients in common may be of one region.

    It is another one where its volumes in these patients differ, taken together, by more than the
    standard deviation of a volume: who takes one for the other then knows no more than by the mean.
    """
    import numpy as np

    if one.family != other.family:
        return False
    if one.volumes is None or other.volumes is None:
        return True
    common = one.values.cases & other.values.cases
    volumes = [only(of.volumes, common & of.volumes.cases) for of in (one, other) if of.volumes]
    if volumes[0].cases != volumes[1].cases or not volumes[0].cases:
        return True
    apart = float(np.square(volumes[0].numbers - volumes[1].numbers).sum())
    return apart <= max(float(np.var(of.volumes.numbers)) for of in (one, other) if of.volumes)


def only(values: Values, patients: Collection[str]) -> Values:
    """Return the values of some patients, sorted as they are."""
    import numpy as np

    there = np.array([patient in patients for patient in values.case_ids], dtype=bool)
    cases = values.case_ids[there]
    return Values(values.numbers[there], values.patients[there], cases, frozenset(cases))


def groups_of(sets: Iterable[Patients]) -> list[Patients]:
    """Return the groups of patients that sets of them distinguish."""
    groups: list[Patients] = []
    for patients in sets:
        rest = patients.difference(*groups)
        split = [part for group in groups for part in (group & patients, group - patients)]
        groups = [group for group in (*split, rest) if group]
    return groups


def solved(sets: Collection[Patients], groups: Sequence[Patients]) -> list[Patients]:
    """Return the groups whose sums follow from the sums over sets, by whatever combination.

    Args:
        sets: whose sums are known.
        groups: that they distinguish.
    """
    import numpy as np

    if not groups:
        return []
    table: NDArray[np.float64] = np.array([[g <= s for g in groups] for s in sets], dtype=float)
    onto = np.linalg.pinv(table) @ table
    return [group for group, share in zip(groups, np.diag(onto), strict=True) if share > 1 - 1e-9]

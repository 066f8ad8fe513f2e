"""The difference rule: no group of few patients follows from the patients of released cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jipflow.analyses.alike import like_ones
from jipflow.analyses.contract import Proposed, too_close

Family = tuple[str, str]
"""Role and segmentation."""


@dataclass
class Kept:
    """Sets of cases behind released cells, and the groups that these sets tell apart.

    Every sum, difference or other combination of numbers of the sets has whole groups in it. So
    what follows from them is of the patients of one group at least.

    Args:
        patient_of: patient of each case.
        minimum: fewest patients of a group.
    """

    patient_of: Mapping[str, str]
    minimum: int
    sets: list[frozenset[str]] = field(default_factory=list)
    groups: list[frozenset[str]] = field(default_factory=list)

    def add(self, cases: frozenset[str]) -> bool:
        """Add a set if each group that the sets distinguish has enough patients; return whether.

        Nor may its number of patients be `too_close` to that of another: whoever sees these alone,
        as a hub does, could not tell such sets from those that differ by a few.
        """
        if cases in self.sets:
            return True
        if any(too_close(self._size(cases), self._size(kept), self.minimum) for kept in self.sets):
            return False
        outside = cases.difference(*self.groups)
        split = [part for group in self.groups for part in (group & cases, group - cases)]
        groups = [group for group in (*split, outside) if group]
        if any(self._size(group) < self.minimum for group in groups):
            return False
        self.sets.append(cases)
        self.groups = groups
        return True

    def _size(self, cases: frozenset[str]) -> int:
        return len({self.patient_of[case] for case in cases})


def differing(cells: Sequence[Proposed], patient_of: Mapping[str, str], minimum: int) -> set[int]:
    """Choose the cells that must be withheld so that no small group follows from the others.

    First the cells of one segmentation in one role are compared, whatever their features: whom a
    segment or a feature lacks, of the patients in whom the same segmentation was measured, tells
    about the patients (no lesion, one kidney). Whom another segmentation lacks tells which images
    were there and could be processed. But where it has the same variable, or one like it, its mean
    less the other's is of those few. So cells of different segmentations or roles are compared
    where their values are alike, with all that these are like in turn.

    Of cells that are compared, the set of cases that serves most is kept first (of equals the one
    with most cases, then the first by the cells' order), and each further one if it fits.

    Args:
        cells: that the other rules let out.
        patient_of: patient of each case.
        minimum: fewest patients.

    Returns:
        Positions of the cells to withhold.
    """
    families: dict[Family, list[int]] = {}
    for i, cell in enumerate(cells):
        families.setdefault((cell.key.role, cell.key.segmentation), []).append(i)
    withheld: set[int] = set()
    for members in families.values():
        withheld |= _misfits(members, cells, patient_of, minimum)
    left = [i for i in range(len(cells)) if i not in withheld]
    if _misfits(left, cells, patient_of, minimum):
        groups: dict[int, list[int]] = {}
        for i, group in zip(left, like_ones([cells[i].values for i in left]), strict=True):
            groups.setdefault(group, []).append(i)
        for members in groups.values():
            withheld |= _misfits(members, cells, patient_of, minimum)
    return withheld


def _misfits(
    members: Iterable[int], cells: Sequence[Proposed], patient_of: Mapping[str, str], minimum: int
) -> set[int]:
    """Return the cells whose patients do not fit those of the cells that are kept."""
    groups: dict[frozenset[str], list[int]] = {}
    for i in members:
        groups.setdefault(cells[i].cases, []).append(i)
    ranked = sorted(
        groups, key=lambda cases: (-len(groups[cases]), -len(cases), cells[groups[cases][0]].order)
    )
    kept = Kept(patient_of, minimum)
    return {i for cases in ranked if not kept.add(cases) for i in groups[cases]}

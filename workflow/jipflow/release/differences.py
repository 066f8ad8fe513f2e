"""The difference rule: no group of few patients follows from the patients of released cells."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jipflow.analyses.alike import like_ones
from jipflow.analyses.contract import Proposed, too_close
from jipflow.analyses.spread import SPREAD
from jipflow.release.saturation import Regions, asked, family

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REST = 0.1
"""Share of the largest difference of a patient that all but the few with the largest must reach:
the p% rule with p = 10 (Hundepool et al., Statistical Disclosure Control, Wiley 2012, 4.2)."""

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


def differing(
    cells: Sequence[Proposed], patient_of: Mapping[str, str], minimum: int, regions: Regions
) -> set[int]:
    """Choose the cells that must be withheld so that no small group follows from the others.

    First the cells of one segmentation in one role are compared, whatever their features: whom a
    segment or a feature lacks, of the patients in whom the same segmentation was measured, tells
    about the patients (no lesion, one kidney). Whom another segmentation lacks tells which images
    were there and could be processed. But where it has the same variable, or one like it, its mean
    less the other's is of those few. So cells of different segmentations or roles are compared
    where their values are alike, with all that these are like in turn. And so are the cells of one
    region in one role: of thresholds side by side the number of patients who have a voxel above
    each would tell the maximum of one.

    Of the same patients, two cells of a feature or of features of one family do not both leave
    where they have the same values but in a few, up to a factor or an offset (see
    `_unlike_in_few`).

    Of cells that are compared, the set of cases that serves most is kept first (of equals the one
    with most cases, then the first by the cells' order), and each further one if it fits.

    Args:
        cells: that the other rules let out.
        patient_of: patient of each case.
        minimum: fewest patients.
        regions: which places are the same region.

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
        for group in _compared([cells[i] for i in left], regions):
            withheld |= _misfits((left[i] for i in group), cells, patient_of, minimum)
    left = [i for i in range(len(cells)) if i not in withheld]
    return withheld | {left[i] for i in _unlike_in_few([cells[i] for i in left], minimum)}


def _compared(cells: Sequence[Proposed], regions: Regions) -> list[list[int]]:
    """Return the positions of cells that are compared with each other, whatever their families."""
    from scipy.cluster.hierarchy import DisjointSet

    groups: dict[Hashable, list[int]] = {}
    for i, like in enumerate(like_ones([cell.values for cell in cells])):
        groups.setdefault(like, []).append(i)
    by_region: dict[Hashable, list[int]] = {}
    for i, cell in enumerate(cells):
        region = (cell.key.role, regions.sizes.get(cell.key.place, cell.key.place))
        by_region.setdefault(region, []).append(i)
    several = [ids for ids in by_region.values() if len({cells[i].key.place for i in ids}) > 1]
    joined: DisjointSet = DisjointSet(range(len(cells)))
    for ids in (*groups.values(), *several):
        for i in ids:
            joined.merge(ids[0], i)
    return [sorted(group) for group in joined.subsets()]


def _unlike_in_few(cells: Sequence[Proposed], minimum: int) -> set[int]:
    """Choose the cells whose values are those of another one but in a few patients.

    The difference of two such means is of those few: a second focus that one of two segmentations
    leaves out, voxels beyond the range of intensities that one of two volumes counts.
    """
    import numpy as np

    groups: dict[tuple[str, frozenset[str]], list[int]] = {}
    for i in sorted(range(len(cells)), key=lambda i: asked(cells[i])):
        feature = cells[i].key.feature
        groups.setdefault((family(feature) or feature, cells[i].cases), []).append(i)
    withheld = set()
    for members in groups.values():
        orders = [np.argsort(cells[i].values.case_ids) for i in members]
        table = np.array([cells[i].values.numbers[o] for i, o in zip(members, orders, strict=True)])
        people = cells[members[0]].values.patients[orders[0]]
        of_patient = people[:, None] == np.unique(people.astype(str))[None]
        kept: list[int] = []
        for row, i in enumerate(members):
            if are_few(table[row], table[kept], of_patient, minimum):
                withheld.add(i)
            else:
                kept.append(row)
    return withheld


def are_few(
    values: npt.NDArray[np.float64],
    others: npt.NDArray[np.float64],
    of_patient: npt.NDArray[np.bool_],
    minimum: int,
) -> bool:
    """Return whether values differ from any others in a few patients, up to a factor or an offset.

    So they do as well where they differ a little in all, and all but few of the patients together
    less than `REST` of what the first differs: the difference of the means is then that of the few.

    Args:
        values: shape (cases,).
        others: shape (cells, cases).
        of_patient: whether a case is of a patient, shape (cases, patients).
        minimum: fewest patients who are not few.
    """
    import numpy as np

    size = np.maximum(np.abs(values).max(), np.abs(others).max(axis=1, initial=0.0))
    compared = [(others - values, size)]
    if values.all() and others.all():
        ratio = others / values
        compared.append((ratio, np.abs(np.median(ratio, axis=1))))
    for found, scale in compared:
        apart = np.abs(found - np.median(found, axis=1)[:, None])
        unlike = apart > SPREAD * scale[:, None]
        few = (unlike @ of_patient).sum(axis=1)
        if np.any((few > 0) & (few < minimum) & (of_patient.shape[1] - few >= minimum)):
            return True
        most = np.sort(apart @ of_patient, axis=1)[:, ::-1]
        rest = most[:, minimum - 1 :].sum(axis=1)
        if most.shape[1] >= 2 * minimum - 1 and np.any((few > 0) & (rest < REST * most[:, 0])):
            return True
    return False


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

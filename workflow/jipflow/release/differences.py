"""The difference rule: no group of few patients follows from the patients of released cells."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jipflow.analyses.alike import like_ones
from jipflow.analyses.cells import Values, Whom, follow
from jipflow.analyses.contract import Analysis, Proposed, kinds, too_close
from jipflow.analyses.facts import LedgerCell
from jipflow.analyses.spread import SPREAD
from jipflow.release.classes import Classes, summed
from jipflow.release.saturation import Regions, asked, kin
from jipflow.settings.protocol import Disclosure

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

    Attributes:
        sets: of whom each set of cases is; None where its number of patients may be near to others.
        groups: the smallest sets that they tell apart.
    """

    patient_of: Mapping[str, str]
    minimum: int
    sets: dict[frozenset[str], frozenset[Whom] | None] = field(default_factory=dict)
    groups: list[frozenset[str]] = field(default_factory=list)

    def add(
        self, cases: frozenset[str], whom: frozenset[Whom] | None = frozenset([Whom()])
    ) -> bool:
        """Add a set if each group that the sets distinguish has enough patients; return whether.

        Nor may its number of patients be `too_close` to that of another: whoever sees these alone,
        as a hub does, could not tell such sets from those that differ by a few. Of groups of one
        division it is known that they do not.

        Args:
            cases: the set.
            whom: of which patients its cells say that they are, as in `sets`.
        """
        if cases in self.sets:
            return True
        if any(self._too_close(cases, whom, *kept) for kept in self.sets.items()):
            return False
        groups = self._divided(cases)
        if any(self._size(group) < self.minimum for group in set(groups) - set(self.groups)):
            return False
        if self._tell_of_few([*self.sets, cases], groups):
            return False
        self.sets[cases] = whom
        self.groups = groups
        return True

    def include(self, cases: frozenset[str]) -> None:
        """Add a set that is known anyhow, whatever it tells apart."""
        if cases not in self.sets:
            self.groups = self._divided(cases)
            self.sets[cases] = frozenset()

    def _divided(self, cases: frozenset[str]) -> list[frozenset[str]]:
        """Return the groups that a further set tells apart."""
        outside = cases.difference(*self.groups)
        split = [part for group in self.groups for part in (group & cases, group - cases)]
        return [group for group in (*split, outside) if group]

    def _too_close(
        self,
        cases: frozenset[str],
        whom: frozenset[Whom] | None,
        others: frozenset[str],
        of: frozenset[Whom] | None,
    ) -> bool:
        """Return whether the numbers of patients of two sets look as if these differed by few."""
        if whom is None or of is None:
            return False
        apart = bool(of) and all(one.apart(other) for one in whom for other in of)
        return not apart and too_close(self._size(cases), self._size(others), self.minimum)

    def _tell_of_few(
        self, sets: Sequence[frozenset[str]], groups: Sequence[frozenset[str]]
    ) -> bool:
        """Return whether a number of few patients follows from the sets' numbers of patients.

        A patient with several cases may be in several groups of cases, so that the numbers of two
        groups and of both together give that of the patients who are in both. A combination of the
        numbers is of few if it leaves out all patients but those of small groups of patients.
        """
        import numpy as np

        patients = [{self.patient_of[case] for case in group} for group in groups]
        everyone = set().union(*patients)
        distinct = sum(map(len, patients)) == len(everyone)
        if distinct and min(map(len, patients)) >= self.minimum:
            return False
        of = [{self.patient_of[case] for case in cases} for cases in sets]
        rows = Counter(tuple(patient in each for each in of) for patient in everyone)
        table = np.array(list(rows), dtype=float)
        many = table[np.array(list(rows.values())) >= self.minimum]
        rank = np.linalg.matrix_rank(many) if many.size else 0
        return bool(np.linalg.matrix_rank(table) > rank)

    def _size(self, cases: frozenset[str]) -> int:
        return len({self.patient_of[case] for case in cases})


def differing(
    cells: Sequence[Proposed],
    patient_of: Mapping[str, str],
    disclosure: Disclosure,
    regions: Regions,
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

    Of the same patients, two cells of a feature, of features of one family or of clinical variables
    do not both leave where they have the same values but in a few, up to a factor or an offset (see
    `_unlike_in_few`).

    Where cells of like values are of several sets of patients, such as all and a group of them,
    what follows for the others must be what could leave itself (see `_remainders`). Of the classes
    by which models' columns divide the patients no few may follow (see `_by_classes`).

    Of cells that are compared, the set of cases that serves most is kept first (of equals the one
    with most cases, then the first by the cells' order), and each further one if it fits. Cells
    that count sets of patients serve nobody, so that they take no other cell from a release.

    Args:
        cells: that the other rules let out.
        patient_of: patient of each case.
        disclosure: the limits that hold.
        regions: which places are the same region.

    Returns:
        Positions of the cells to withhold.
    """
    minimum = disclosure.min_patients
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
    withheld |= {left[i] for i in _unlike_in_few([cells[i] for i in left], minimum)}
    left = [i for i in range(len(cells)) if i not in withheld]
    withheld |= {left[i] for i in _remainders([cells[i] for i in left], disclosure)}
    left = [i for i in range(len(cells)) if i not in withheld]
    withheld |= {left[i] for i in _by_classes([cells[i] for i in left], minimum)}
    left = [i for i in range(len(cells)) if i not in withheld]
    return withheld | {left[i] for i in _together([cells[i] for i in left], patient_of, minimum)}


def _together(
    cells: Sequence[Proposed], patient_of: Mapping[str, str], minimum: int
) -> Iterator[int]:
    """Yield the cells of sets that together are nearly as many patients as another number.

    Where a variable that all have says how large the cohort is, what is left of it beside those
    with a value and those of the reasons that are shown would be the few of a withheld reason. So
    it does not matter what the other number is about.
    """

    def size(cases: frozenset[str]) -> int:
        return len({patient_of[case] for case in cases})

    counting: dict[tuple[str, str], list[int]] = defaultdict(list)
    divisions: dict[tuple[object, ...], frozenset[str]] = defaultdict(frozenset)
    for i, cell in enumerate(cells):
        if cell.analysis.counts_sets:
            counting[cell.analysis.settings.id, cell.model].append(i)
        else:
            divisions[cell.analysis.settings.id, cell.key._replace(group="")] |= cell.cases
    if not counting:
        return
    sets = {cell.cases for cell in cells if not cell.analysis.counts_sets}
    sets |= {*divisions.values(), *(cells[members[0]].cases for members in counting.values())}
    known = {size(cases) for cases in sets}
    for members in sorted(counting.values(), key=lambda members: asked(cells[members[0]])):
        total = max(size(cells[i].cases) for i in members)
        if len(members) > 1 and any(too_close(total, n, minimum) for n in known):
            yield from members
        else:
            known.add(total)


def _by_classes(cells: Sequence[Proposed], minimum: int) -> Iterator[int]:
    """Yield the cells by whose classes of patients few follow; see `Classes`."""
    if not any(cell.model for cell in cells):
        return
    known = Classes(minimum)
    for i in sorted(range(len(cells)), key=lambda i: asked(cells[i])):
        cell = cells[i]
        if summed(cell) and not known.add(cell.values, cell.model, cell.key.group):
            yield i


def _remainders(cells: Sequence[Proposed], disclosure: Disclosure) -> set[int]:
    """Choose the cells beside which numbers of other patients follow that tell of few of them.

    The mean of all less that of a group is that of the others, who may be enough and yet have one
    value but for a few, or one who has nearly all.
    """
    summed = [i for i, cell in enumerate(cells) if cell.equations]
    if len({cells[i].cases for i in summed}) < 2:
        return set()
    kept: dict[int, dict[frozenset[str], Values]] = defaultdict(dict)
    likes = like_ones([cells[i].values for i in summed])
    withheld = set()
    for like, i in sorted(zip(likes, summed, strict=True), key=lambda pair: asked(cells[pair[1]])):
        cell, known = cells[i], kept[like]
        if cell.cases in known:
            continue
        found = follow(cell.values, list(known.values()))
        if any(cell.analysis.tells_of_few(values, disclosure) for values in found):
            withheld.add(i)
        else:
            known[cell.cases] = cell.values
    return withheld


def clashing(cells: Sequence[LedgerCell], order: Sequence[tuple[object, ...]]) -> set[int]:
    """Choose the cells that must not leave beside others of like values, as their kinds have it.

    Args:
        cells: that the other rules let out.
        order: what they are sorted by; of two that exclude each other the first is kept.
    """
    known = kinds()
    if all(known[cell.kind].excludes is Analysis.excludes for cell in cells):
        return set()
    kept: dict[int, list[LedgerCell]] = defaultdict(list)
    likes = like_ones([cell.values for cell in cells])
    withheld = set()
    for i in sorted(range(len(cells)), key=lambda i: order[i]):
        if any(exclude(cells[i], other, known) for other in kept[likes[i]]):
            withheld.add(i)
        else:
            kept[likes[i]].append(cells[i])
    return withheld


def exclude(
    one: LedgerCell, other: LedgerCell, known: Mapping[str, type[Analysis[Any, Any, Any]]]
) -> bool:
    """Return whether the kind of either of two cells says that they must not both leave.

    Args:
        one: a cell.
        other: one of like values.
        known: all kinds, by name.
    """
    pairs = ((one, other), (other, one))
    return any(known[a.kind].excludes(a, b) for a, b in pairs if a.kind in known)


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
    leaves out, voxels beyond the range of intensities that one of two volumes counts. Equal values,
    such as of a covariate in many models, are looked at once.
    """
    import numpy as np

    groups: dict[tuple[str, frozenset[str]], list[int]] = {}
    for i in sorted(range(len(cells)), key=lambda i: asked(cells[i])):
        groups.setdefault((kin(cells[i].key), cells[i].cases), []).append(i)
    withheld = set()
    for members in groups.values():
        orders = [np.argsort(cells[i].values.case_ids) for i in members]
        table = np.array([cells[i].values.numbers[o] for i, o in zip(members, orders, strict=True)])
        people = cells[members[0]].values.patients[orders[0]]
        of_patient = people[:, None] == np.unique(people.astype(str))[None]
        kept: list[int] = []
        known: dict[bytes, bool] = {}
        for row, i in enumerate(members):
            values = table[row].tobytes()
            if values not in known:
                known[values] = are_few(table[row], table[kept], of_patient, minimum)
                kept += [] if known[values] else [row]
            if known[values]:
                withheld.add(i)
    return withheld


def are_few(
    values: npt.NDArray[np.float64],
    others: npt.NDArray[np.float64],
    of_patient: npt.NDArray[np.bool_],
    minimum: int,
) -> bool:
    """Return whether values differ from any others in a few patients, up to a factor or an offset.

    Nor may the sums of both be one number but in a few, as of who died and who lives.

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
    compared = [(others - values, size), (others + values, size)]
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
    serves = {
        cases: sum(not cells[i].analysis.counts_sets for i in members)
        for cases, members in groups.items()
    }
    ranked = sorted(
        groups, key=lambda cases: (-serves[cases], -len(cases), cells[groups[cases][0]].order)
    )
    kept = Kept(patient_of, minimum)
    whom = {
        cases: frozenset(filter(None, (cells[i].analysis.whom(cells[i].key) for i in members)))
        or None
        for cases, members in groups.items()
    }
    return {i for cases in ranked if not kept.add(cases, whom[cases]) for i in groups[cases]}

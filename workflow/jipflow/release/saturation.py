"""The saturation rule: fewer equations leave than a member of the cohort has unknowns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jipflow.analyses.alike import like_ones
from jipflow.analyses.cells import CLINICAL, CellKey, Measured, Place, Values
from jipflow.analyses.contract import Proposed

MARGIN = 2
"""How many fewer equations than patients are released: a patient knows one value, and one more
unknown must be open."""

SIZE = "size"

FAMILIES = {
    SIZE: re.compile(
        r"(volume_ml|voxels|measured_voxels|measured_box|.*_shape2?D?_.*|.*_uptake_.*)$"
    ),
    "moments": re.compile(
        r".*_((firstorder|histogram)_(Mean|Variance|StandardDeviation|CoefficientOfVariation"
        r"|RootMeanSquared|Energy|TotalEnergy|Skewness|Kurtosis|ExcessKurtosis)"
        r"|gldm_(GrayLevelVariance|HighGrayLevelEmphasis))$"
    ),
    "order": re.compile(
        r".*_(firstorder|histogram)_(Minimum|Maximum|Range|Median|Mode|10Percentile|90Percentile"
        r"|InterquartileRange|QuartileCoefficientOfDispersion)$"
    ),
    "joint-moments": re.compile(
        r".*_glcm_(Autocorrelation|ClusterTendency|Contrast|Correlation|JointAverage|SumAverage"
        r"|SumSquares|DifferenceVariance|DifferenceAverage)$"
    ),
    "counts": re.compile(
        r".*_(glrlm|glszm|gldm|gldzm|ngtdm)_(.*NonUniformity(Normalized)?|.*Percentage)$"
    ),
    "volumes-at-intensities": re.compile(r".*_(ivh|localintensity)_.*$"),
}
"""Features that are functions of each other, or of few quantities of a patient: volume, surface and
axes; mean and variance of the voxels' intensities; their quantiles; mean, variance and correlation
of neighbours; how many runs or zones there are of how many voxels. Other textures have matrices of
hundreds of entries behind them, from which no two features follow from each other."""

POINTWISE = dict.fromkeys(("square", "squareroot", "logarithm", "exponential"), "original")
"""Filtered images whose voxels are functions of the original image's, voxel by voxel."""


def family(feature: str) -> str | None:
    """Return the family that a feature's values are functions in, with the image; None without."""
    for name, pattern in FAMILIES.items():
        if pattern.match(feature):
            image = feature.partition("_")[0]
            return name if name == SIZE else f"{name} {POINTWISE.get(image, image)}"
    return None


def kin(key: CellKey) -> str:
    """Return the same for variables that may be of one thing in all patients but a few.

    These are features of one name or one family, and all clinical variables: two of these may be
    records of one thing within other days, or one event with and without another. Values of
    categories (``<name>=<value>``) divide the patients, and are compared as classes.
    """
    if key.place == CLINICAL and "=" not in key.feature:
        return CLINICAL.role
    return family(key.feature) or key.feature


@dataclass(frozen=True)
class Regions:
    """Which places have the same region, whatever their segmentations and names.

    A place that is in neither is a region of its own.

    Attributes:
        sizes: the region by place.
        voxels: the region together with the image, by place.
    """

    sizes: Mapping[Place, Hashable] = field(default_factory=dict)
    voxels: Mapping[Place, Hashable] = field(default_factory=dict)

    @classmethod
    def of(cls, measured: Measured) -> Regions:
        """Tell regions by what was measured."""
        return cls.by(*fingerprints(measured))

    @classmethod
    def by(cls, volumes: Mapping[Place, Values], means: Mapping[Place, Values]) -> Regions:
        """Tell regions by their volumes and mean intensities.

        A region is the same where volumes are alike; its voxels where the role is the same as well,
        or where the mean intensities are alike, as of two roles for the same series.
        """
        from scipy.cluster.hierarchy import DisjointSet

        sizes = dict(zip(volumes, like_ones(list(volumes.values())), strict=True))
        images = dict(zip(means, like_ones(list(means.values())), strict=True))
        voxels = DisjointSet([*((p.role, sizes[p]) for p in sizes), *images.values()])
        for place in sizes.keys() & images.keys():
            voxels.merge((place.role, sizes[place]), images[place])
        return cls(sizes, {place: voxels[place.role, size] for place, size in sizes.items()})

    def region(self, place: Place, group: str) -> Hashable:
        """Return the region that the features of a family are of."""
        return (self.sizes if group == SIZE else self.voxels).get(place, place)


def fingerprints(
    measured: Measured,
) -> tuple[dict[Place, Values], dict[Place, Values]]:
    """Return the volumes and the mean intensities by which regions are known again."""
    return measured.of("volume_ml"), measured.of("original_firstorder_Mean")


@dataclass
class _Feature:
    """What is known of one feature.

    Attributes:
        parts: sets of cases that the sets of its cells tell apart.
        functions: equations of each function that is this feature, such as of two segmentations.
        cases: all that cells of each function are of.
    """

    parts: list[frozenset[str]] = field(default_factory=list)
    functions: dict[Hashable, int] = field(default_factory=dict)
    cases: dict[Hashable, frozenset[str]] = field(default_factory=dict)

    def more(self, function: Hashable, equations: int, cases: frozenset[str]) -> _Feature:
        """Return what is known with one more cell."""
        split = [part for known in self.parts for part in (known & cases, known - cases)]
        parts = [part for part in (*split, cases.difference(*self.parts)) if part]
        number = max(equations, self.functions.get(function, 0))
        whole = cases | self.cases.get(function, frozenset())
        return _Feature(
            parts, {**self.functions, function: number}, {**self.cases, function: whole}
        )

    def of(self, part: frozenset[str]) -> int:
        """Return the equations of a part, as if each function were known of each part."""
        return sum(n for key, n in self.functions.items() if not part.isdisjoint(self.cases[key]))


class Equations:
    """The equations that are known of a family of features in a region, and of whom.

    Whoever knows the sums over all patients and over a group of them knows those of the others. So
    of each feature the sums over each set of cases that its cells tell apart count as known. No
    patients can be solved for if those equations that are of them alone are fewer than they are: by
    Hall's theorem (1935, "On representatives of subsets", J. London Math. Soc. 10:26-30), if each
    equation can have a patient of its own whom it is of. Each smallest set keeps `MARGIN` patients
    without one.

    Args:
        size: distinct patients of cases.
    """

    def __init__(self, size: Callable[[frozenset[str]], int] = len) -> None:
        self._size = size
        self._features: dict[str, _Feature] = {}

    def include(
        self, feature: str, function: Hashable, equations: int, cases: frozenset[str]
    ) -> None:
        """Add what is known anyhow.

        Args:
            feature: its name; a feature of a region is about the same in all its segmentations.
            function: the same wherever a case has the same value.
            equations: of the cell.
            cases: that it is of.
        """
        known = self._features.get(feature, _Feature())
        self._features[feature] = known.more(function, equations, cases)

    def add(self, feature: str, function: Hashable, equations: int, cases: frozenset[str]) -> bool:
        """Add a cell if its equations are not too many; return whether. See `include`."""
        known = self._features.get(feature, _Feature())
        new = known.more(function, equations, cases)
        if new != known and not self._open({**self._features, feature: new}):
            return False
        self._features[feature] = new
        return True

    def _open(self, features: Mapping[str, _Feature]) -> bool:
        """Return whether each equation can have a patient of its own."""
        known = [(part, each.of(part)) for each in features.values() for part in each.parts]
        smallest = divided([part for part, _ in known])
        free = [max(self._size(part) - MARGIN, 0) for part in smallest]
        needed: Counter[frozenset[int]] = Counter()
        for part, equations in known:
            of = (i for i, small in enumerate(smallest) if not small.isdisjoint(part))
            needed[frozenset(of)] += equations
        return _all_placed(needed, free)


def divided(sets: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """Return the smallest sets of cases that sets tell apart."""
    found: list[frozenset[str]] = []
    for each in dict.fromkeys(sets):
        split = [part for known in found for part in (known & each, known - each)]
        found = [part for part in (*split, each.difference(*found)) if part]
    return found


def _all_placed(needed: Mapping[frozenset[int], int], free: Sequence[int]) -> bool:
    """Return whether all can be placed.

    Args:
        needed: how many need a place, by the numbers of the rooms that they may be in.
        free: places in each room.
    """
    import numpy as np
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    total = sum(needed.values())
    if total > sum(free) or len(free) == 1:
        return total <= sum(free)
    rooms, sink = len(needed) + 1, len(needed) + 1 + len(free)
    capacity = np.zeros((sink + 1, sink + 1), dtype=np.int32)
    for row, (of, number) in enumerate(needed.items(), start=1):
        capacity[0, row] = number
        capacity[row, [rooms + i for i in of]] = number
    capacity[rooms:sink, sink] = free
    return bool(maximum_flow(csr_array(capacity), 0, sink).flow_value == total)


def saturated(
    cells: Sequence[Proposed], patient_of: Mapping[str, str], regions: Regions
) -> set[int]:
    """Choose the cells that must be withheld so that the numbers of a family stay unsolved.

    The features of a family in one region are kept in the order in which the protocol's analyses
    ask for them (see `Analysis.rank`), while the equations that are known, two of a mean and a
    variance, are at least `MARGIN` fewer than the patients (see `Equations`). Cells of a feature
    that several analyses of a kind have of the same patients say the same. Of columns of models,
    those that are alike are a family (see `alike_columns`), and each model says something else.

    Args:
        cells: that the other rules let out.
        patient_of: patient of each case.
        regions: which places are the same region.

    Returns:
        Positions of the cells to withhold.
    """
    kept: dict[tuple[Hashable, ...], Equations] = {}
    withheld = set()
    likes = alike_columns([(c.key.feature, c.model, c.values) for c in cells])
    for i in sorted(range(len(cells)), key=lambda i: asked(cells[i])):
        cell = cells[i]
        key, analysis = cell.key, cell.analysis
        group = family(key.feature)
        if (group is None and i not in likes) or not cell.equations:
            continue
        region: tuple[Hashable, ...] = (likes.get(i),)
        if group is not None:
            region = (group, regions.region(key.place, group))
        if region not in kept:
            kept[region] = Equations(lambda cases: len({patient_of[case] for case in cases}))
        function = (key.place, analysis.settings.kind, cell.model)
        if not kept[region].add(key.feature, function, cell.equations, cell.cases):
            withheld.add(i)
    return withheld


def alike_columns(columns: Sequence[tuple[str, str, Values]]) -> dict[int, int]:
    """Return a number for each column of a model whose feature has no family, by its position.

    It is the same for those that are alike or like a third one, whatever they are called: each
    model gives as many equations of such a variable as it has columns, so that who asks for one
    model after another would solve them for the values.

    Args:
        columns: feature, `Proposed.model` and values of each piece.
    """
    of = [i for i, (feature, model, _) in enumerate(columns) if model and family(feature) is None]
    return dict(zip(of, like_ones([columns[i][2] for i in of]), strict=True))


def asked(cell: Proposed) -> tuple[object, ...]:
    """Return what cells are sorted by where not all of them may leave."""
    analysis = cell.analysis
    return (analysis.counts_sets, analysis.settings.id, analysis.rank(cell.key), cell.key)

"""The saturation rule: fewer equations leave than a member of the cohort has unknowns."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from jipflow.analyses.alike import like_ones
from jipflow.analyses.cells import CellKey, Measured, Place, Values
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


def saturated(cells: Sequence[tuple[Proposed, int]], regions: Regions) -> set[int]:
    """Choose the cells that must be withheld so that the numbers of a family stay unsolved.

    The features of a family in one region are kept in the order in which the protocol's analyses
    ask for them (see `Analysis.rank`), while the equations of all that are kept, two of a mean and
    a variance, are at least `MARGIN` fewer than the patients. All cells of a feature that is kept
    are kept: they say the same.

    Args:
        cells: that the other rules let out, each with its distinct patients.
        regions: which places are the same region.

    Returns:
        Positions of the cells to withhold.
    """
    kept: dict[tuple[Hashable, ...], dict[CellKey, int]] = {}
    withheld = set()
    for i in sorted(range(len(cells)), key=lambda i: asked(cells[i][0])):
        cell, patients = cells[i]
        group = family(cell.key.feature)
        if group is None or not cell.analysis.equations:
            continue
        numbers = kept.setdefault((group, regions.region(cell.key.place, group)), {})
        more = max(cell.analysis.equations, numbers.get(cell.key, 0))
        others = sum(n for key, n in numbers.items() if key != cell.key)
        if others + more > patients - MARGIN:
            withheld.add(i)
        else:
            numbers[cell.key] = more
    return withheld


def asked(cell: Proposed) -> tuple[object, ...]:
    """Return what cells are sorted by where not all of them may leave."""
    analysis = cell.analysis
    return (analysis.settings.id, analysis.rank(cell.key), cell.key)

"""The saturation rule: fewer equations leave than a member of the cohort has unknowns."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jipflow.analyses.contract import Proposed

MARGIN = 2
"""How many fewer equations than patients are released: a patient knows one value, and one more
unknown must be open."""

FAMILIES = {
    "size": re.compile(
        r"(volume_ml|voxels|measured_voxels|measured_box|.*_shape2?D?_.*|.*_uptake_.*)$"
    ),
    "moments": re.compile(
        r".*_(firstorder|histogram)_(Mean|Variance|StandardDeviation|CoefficientOfVariation"
        r"|RootMeanSquared|Energy|TotalEnergy|Skewness|Kurtosis|ExcessKurtosis)$"
    ),
    "order": re.compile(
        r".*_(firstorder|histogram)_(Minimum|Maximum|Range|Median|Mode|10Percentile|90Percentile"
        r"|InterquartileRange|QuartileCoefficientOfDispersion)$"
    ),
    "joint-moments": re.compile(
        r".*_glcm_(Autocorrelation|ClusterTendency|Contrast|Correlation|JointAverage|SumAverage"
        r"|SumSquares|SumVariance|DifferenceVariance|DifferenceAverage|Id|Idm|Idn|Idmn)$"
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

POINTWISE = ("square", "squareroot", "logarithm", "exponential")
"""Filtered images whose voxels are functions of the original image's, voxel by voxel."""


def family(feature: str) -> str | None:
    """Return the family that a feature's values are functions in, with the image; None without."""
    for name, pattern in FAMILIES.items():
        if pattern.match(feature):
            image = feature.partition("_")[0] if name != "size" else ""
            return f"{name} {'original' if image in POINTWISE else image}"
    return None


def saturated(cells: Sequence[tuple[Proposed, int]]) -> set[int]:
    """Choose the cells that must be withheld so that the numbers of a family stay unsolved.

    The features of a family in one segment are kept in the order in which the protocol's analyses
    ask for them (see `Analysis.rank`), while the equations of all that are kept, two of a mean and
    a variance, are at least `MARGIN` fewer than the patients. All cells of a feature that is kept
    are kept: they say the same.

    Args:
        cells: that the other rules let out, each with its distinct patients.

    Returns:
        Positions of the cells to withhold.
    """
    kept: dict[tuple[str, ...], dict[str, int]] = {}
    withheld = set()
    for i in sorted(range(len(cells)), key=lambda i: _asked(cells[i][0])):
        cell, patients = cells[i]
        group = family(cell.key.feature)
        if group is None or not cell.analysis.equations:
            continue
        features = kept.setdefault((*cell.key.place, group), {})
        more = max(cell.analysis.equations, features.get(cell.key.feature, 0))
        others = sum(n for feature, n in features.items() if feature != cell.key.feature)
        if others + more > patients - MARGIN:
            withheld.add(i)
        else:
            features[cell.key.feature] = more
    return withheld


def _asked(cell: Proposed) -> tuple[object, ...]:
    analysis = cell.analysis
    return (analysis.settings.id, analysis.rank(cell.key), cell.key)

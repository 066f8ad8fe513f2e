"""Between which values a feature lies, whatever the image is."""

from __future__ import annotations

import math

from jipflow.settings.clinical import ROLE
from jipflow.settings.features import COUNTED
from jipflow.settings.resources import resource

LENGTHS = ("mm", "mm2", "mm3", "/mm", "ml")
"""Units of what cannot be negative."""

SHARES = {
    "shape": ("Sphericity", "Compactness2", "Elongation", "Flatness"),
    "firstorder": ("Uniformity",),
    "ivh": ("VolumeFraction10", "VolumeFraction90"),
    "glcm": ("JointEnergy", "MaximumProbability", "Id", "Idn", "Idm", "Idmn"),
    "glszm": ("ZonePercentage",),
}
"""Features between 0 and 1 by their definitions in IBSI's reference manual, by class. A sphere has
the least surface of all bodies of a volume (3.1.8); sums of squared probabilities are at most 1."""

ROUNDING = 1e-9
"""How far an entropy may lie below 0: pyradiomics takes the logarithm of the probability and 2e-16.
"""

NOT_NEGATIVE = {
    "shape": ("SphericalDisproportion", "Asphericity", "Compactness1"),
    "firstorder": (
        *("Energy", "TotalEnergy", "Entropy", "InterquartileRange", "MeanAbsoluteDeviation"),
        *("Range", "RobustMeanAbsoluteDeviation", "RootMeanSquared", "StandardDeviation"),
        "Variance",
    ),
    "histogram": ("Variance", "Range", "InterquartileRange", "MeanAbsoluteDeviation"),
    "glcm": (
        *("Contrast", "DifferenceAverage", "DifferenceEntropy", "DifferenceVariance"),
        *("JointEntropy", "SumEntropy", "SumSquares", "ClusterTendency", "ClusterProminence"),
    ),
}
"""Features that are sums of squares, of magnitudes or of volumes, likewise."""

Bounds = tuple[float, float]
"""Lowest and highest value that a feature can have, both included."""


def bounds(role: str, feature: str) -> Bounds:
    """Return between which values a feature lies whatever the image is.

    Args:
        role: that it is measured in.
        feature: name of one that is measured, or of a clinical variable, which the protocol alone
            may bound.

    Returns:
        Infinite where its definition sets no bound, or none that is listed here.
    """
    if role == ROLE:
        return -math.inf, math.inf
    if feature in COUNTED:
        return 0, math.inf
    _, group, name = feature.split("_", 2)
    if name in SHARES.get(group, ()):
        return 0, 1
    unit = resource("ibsi_codes.yaml")["features"][group][name]["unit"]
    if unit in LENGTHS or name in NOT_NEGATIVE.get(group, ()):
        return -ROUNDING if name.endswith("Entropy") else 0, math.inf
    return -math.inf, math.inf

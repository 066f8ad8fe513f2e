"""Sums that merge: moments and histograms of one site, and their union over sites.

Every function is pure and knows nothing of files, patients' privacy or signatures. What is merged
equals what would be computed from all rows in one place, to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class CellKey(NamedTuple):
    """What a released number is about, within an analysis."""

    role: str
    segmentation: str
    segment: str
    feature: str


@dataclass(frozen=True)
class Moments:
    """Count, mean and centred scatter of one variable.

    Attributes:
        rows: values; more than patients where some have several cases.
        mean: mean of the values.
        mean_rest: what `mean` lost when it was rounded to float64. Where the mean is 10^8 times
            the standard deviation, a rounded mean is wrong by 10^-8 standard deviations, which the
            merged variance would inherit; with the rest it does not.
        m2: sum of the squared deviations from the mean.
    """

    rows: int
    mean: float
    mean_rest: float
    m2: float

    @property
    def variance(self) -> float:
        """Sample variance, m2 / (rows - 1); NaN for a single row, which has none."""
        return self.m2 / (self.rows - 1) if self.rows > 1 else math.nan


def moments(values: npt.NDArray[np.float64]) -> Moments:
    """Compute the moments of values in two passes.

    The second pass corrects the rounding of the first pass's mean (Chan, Golub and LeVeque 1983,
    "Algorithms for computing the sample variance", The American Statistician 37:242-247).

    Args:
        values: finite values, shape (rows,), at least one.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    import numpy as np

    values = np.asarray(values, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("moments need at least one value, all finite")
    first = float(values.mean())
    deviations = values - first
    correction = float(deviations.mean())
    mean, rest = _two_sum(first, correction)
    m2 = float(np.square(deviations - correction).sum())
    return Moments(int(values.size), mean, rest, m2)


def merge_moments(by_site: Mapping[str, Moments]) -> Moments:
    """Merge the moments of sites whose patients are distinct.

    Sites are merged in the order of their ids, so that the order of arrival cannot show.

    Args:
        by_site: moments by the site's id, at least one.
    """
    return reduce(_merge_pair, (by_site[site] for site in sorted(by_site)))


def _merge_pair(a: Moments, b: Moments) -> Moments:
    """Merge two groups by the updating formula of Chan, Golub and LeVeque (1983), eq. 2.1."""
    rows = a.rows + b.rows
    delta = (b.mean - a.mean) + (b.mean_rest - a.mean_rest)
    mean, rest = _two_sum(a.mean, a.mean_rest + delta * (b.rows / rows))
    m2 = a.m2 + b.m2 + delta * delta * (a.rows * (b.rows / rows))
    return Moments(rows, mean, rest, m2)


def _two_sum(a: float, b: float) -> tuple[float, float]:
    """Return a + b rounded, and the rounding error exactly (Knuth, TAOCP vol. 2, 4.2.2)."""
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)


def bin_index(values: npt.NDArray[np.float64], edges: Sequence[float]) -> npt.NDArray[np.intp]:
    """Return the bin of each value.

    Bins hold their lower edge and not their upper one, except that the last bin holds both, as in
    `numpy.histogram`. Values outside the edges have bins of their own, so that none vanishes.

    Args:
        values: finite values, shape (rows,).
        edges: k + 1 rising bin edges.

    Returns:
        Shape (rows,): 0 below the first edge, 1 to k in the bins, k + 1 above the last edge.
    """
    import numpy as np

    bins = np.searchsorted(edges, values, side="right")
    bins[np.asarray(values) == edges[-1]] = len(edges) - 1
    return bins


def cells_of(
    protocol: Mapping[str, Any], analysis: Mapping[str, Any], features: Sequence[str]
) -> list[CellKey]:
    """Return the cells of an analysis: each variable, in every segment measured in its role.

    The protocol alone decides about role, segmentation and segment, so that a segment which no
    patient of a site has still gets its (withheld) cells there.

    Args:
        protocol: the validated protocol.
        analysis: one entry of its ``analyses``.
        features: names of the features that exist.

    Returns:
        Sorted, without duplicates.
    """
    segments = {s["id"]: [g["name"] for g in s["segments"]] for s in protocol["segmentations"]}
    wanted = analysis.get("segments")
    return sorted(
        {
            CellKey(role, measured["segmentation"], segment, feature)
            for variable in analysis["variables"]
            for role, _, glob in [variable.partition(".")]
            for measured in protocol["radiomics"]
            if measured["role"] == role
            for segment in segments[measured["segmentation"]]
            if wanted is None or segment in wanted
            for feature in features
            if fnmatchcase(feature, glob)
        }
    )


def in_analysis(protocol: Mapping[str, Any], analysis: Mapping[str, Any], key: CellKey) -> bool:
    """Tell whether an analysis of the protocol asks for a cell."""
    return cells_of(protocol, analysis, [key.feature]).count(key) == 1

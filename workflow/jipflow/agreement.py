"""How far repeated measurements of the same cases, and repeated outlines of a region, agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """An intraclass correlation.

    Attributes:
        icc: the estimate, at most 1.
        lower: lower bound of its 95 % confidence interval.
        upper: upper bound.
        cases: how many cases it is of.
        measurements: how many of each case.
    """

    icc: float
    lower: float
    upper: float
    cases: int
    measurements: int


def intraclass_correlation(values: NDArray[np.float64]) -> Agreement | None:
    """Compute the intraclass correlation of single measurements, one-way random, ICC(1,1).

    Shrout and Fleiss 1979, "Intraclass correlations: uses in assessing rater reliability",
    Psychological Bulletin 86:420-428: the first case, whose raters differ from case to case, with
    its confidence interval from the F distribution.

    Args:
        values: finite, shape (cases, measurements).

    Returns:
        None where it is not defined: fewer than two cases or measurements, or no variance at all.
    """
    import numpy as np
    from scipy.stats import f

    cases, k = values.shape
    if cases < 2 or k < 2:
        return None
    means = values.mean(axis=1)
    between = k * ((means - values.mean()) ** 2).sum() / (cases - 1)
    within = ((values - means[:, np.newaxis]) ** 2).sum() / (cases * (k - 1))
    if not between + within:
        return None
    if not within:
        return Agreement(1.0, 1.0, 1.0, cases, k)
    ratio = between / within
    low = ratio / f.ppf(0.975, cases - 1, cases * (k - 1))
    high = ratio * f.ppf(0.975, cases * (k - 1), cases - 1)
    icc, lower, upper = ((r - 1) / (r + k - 1) for r in (ratio, low, high))
    return Agreement(float(icc), float(lower), float(upper), cases, k)


@dataclass(frozen=True)
class Overlap:
    """How far two masks of one region agree.

    Attributes:
        dice: Dice coefficient, from 0 to 1; None where both masks are empty.
        mean_surface_distance: in mm; None where one mask is empty.
        hausdorff_95: 95th percentile of the Hausdorff distance in mm; None where one mask is empty.
    """

    dice: float | None
    mean_surface_distance: float | None
    hausdorff_95: float | None


def overlap(
    one: NDArray[np.bool_], other: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> Overlap:
    """Compare two masks on one grid.

    * Dice coefficient: 2 |A ∩ B| / (|A| + |B|) (Dice 1945, "Measures of the amount of ecologic
      association between species", Ecology 26:297-302).
    * Mean surface distance: the average symmetric surface distance of Heimann et al. 2009,
      "Comparison and evaluation of methods for liver segmentation from CT datasets", IEEE Trans
      Med Imaging 28:1251-1265: the mean over the surface voxels of both masks of the distance to
      the nearest surface voxel of the other one.
    * 95th percentile of the Hausdorff distance: the larger of the 95th percentiles, interpolated
      linearly, of these distances from A and from B (Maier-Hein et al. 2024, "Metrics reloaded",
      Nature Methods 21:195-212).

    Surface voxels are those of a mask with a face that borders on a voxel outside it; what lies
    beyond the grid is outside. Distances are between voxel centres.

    Args:
        one: shape (z, y, x).
        other: of the same shape.
        spacing: between voxel centres along (z, y, x) in millimetres.
    """
    import numpy as np
    from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects

    sizes = int(np.count_nonzero(one)), int(np.count_nonzero(other))
    dice = 2.0 * int(np.count_nonzero(one & other)) / sum(sizes) if sum(sizes) else None
    if not all(sizes):
        return Overlap(dice, None, None)
    (box,) = find_objects((one | other).astype(np.uint8))
    surfaces = [mask[box] & ~binary_erosion(mask[box]) for mask in (one, other)]
    there, back = (
        distance_transform_edt(~surface, sampling=spacing)[start]
        for start, surface in (surfaces, surfaces[::-1])
    )
    return Overlap(
        dice,
        float((there.sum() + back.sum()) / (there.size + back.size)),
        float(max(np.percentile(there, 95), np.percentile(back, 95))),
    )

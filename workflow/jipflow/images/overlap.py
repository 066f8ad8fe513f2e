"""How far two masks of one region agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float | None:
    """Return the Dice coefficient of two masks, 2 |A ∩ B| / (|A| + |B|).

    Dice 1945, "Measures of the amount of ecologic association between species", Ecology 26:297.

    Returns:
        From 0 to 1; None where both masks are empty and the coefficient is not defined.
    """
    total = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 2.0 * int(np.count_nonzero(one & other)) / total if total else None


def hausdorff_95(
    one: NDArray[np.bool_], other: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> float | None:
    """Return the 95th percentile of the distances between the surfaces of two masks.

    It is the larger of the two directions' percentiles (Maier-Hein et al. 2024, "Metrics
    reloaded", Nature Methods 21:195-212). A surface voxel is one with a face that is not shared
    with the mask.

    Args:
        one: shape (z, y, x).
        other: of the same shape.
        spacing: between voxel centres along (z, y, x) in millimetres.

    Returns:
        In millimetres; None where a mask is empty, from which there is no distance.
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    if not one.any() or not other.any():
        return None
    (box,) = find_objects((one | other).astype(np.uint8))
    surfaces = [_surface(mask[box]) for mask in (one, other)]
    directed = [
        np.percentile(distance_transform_edt(~there, sampling=spacing)[here], 95)
        for here, there in (surfaces, surfaces[::-1])
    ]
    return float(max(directed))


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    eroded: NDArray[Any] = binary_erosion(mask)
    return np.asarray(mask & ~eroded)

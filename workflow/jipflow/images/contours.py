"""Contours of an RTSTRUCT to voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from jipflow.cases import CaseFault, Reason
from jipflow.images.volume import Grid

PLANE_TOLERANCE = 0.1
"""Farthest, in slices, that a contour may lie from the centre of the slice it is drawn on."""


def rasterise(contours: Sequence[NDArray[np.float64]], grid: Grid, where: str) -> NDArray[np.bool_]:
    """Fill closed planar contours by the pixel-centre rule.

    A voxel belongs to the region when its centre lies inside an odd number of the slice's
    contours, so that an inner contour cuts a hole (the XOR rule of PS3.3 C.8.8.6.3).

    Args:
        contours: points of shape (n, 3) in LPS mm, each contour in one plane of the grid.
        grid: the image's grid, whose first axis is across the slices.
        where: the structure set and ROI, for messages.

    Returns:
        The voxels, shape of the grid.

    Raises:
        CaseFault: a contour lies between, across or beyond the slices.
    """
    mask = np.zeros(grid.shape, bool)
    to_index = np.linalg.inv(grid.affine)
    for number, points in enumerate(contours, start=1):
        index = points @ to_index[:3, :3].T + to_index[:3, 3]
        slices = index[:, 0]
        plane = int(np.rint(slices.mean()))
        if np.abs(slices - plane).max() > PLANE_TOLERANCE:
            raise CaseFault(
                Reason.CONTOUR_GEOMETRY,
                f"{where}: contour {number} lies between or across the image's slices "
                f"(slice {slices.min():.2f} to {slices.max():.2f}); is it drawn on another series?",
            )
        if not 0 <= plane < grid.shape[0]:
            raise CaseFault(
                Reason.CONTOUR_GEOMETRY,
                f"{where}: contour {number} lies on slice {plane} of 0 to {grid.shape[0] - 1}; "
                "is the image complete?",
            )
        mask[plane] ^= polygon2mask(grid.shape[1:], index[:, 1:])
    return mask

"""Patients of the phantom as the pipeline sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jipflow.images.volume import Grid, Volume
from jipflow.phantom.grid import PhantomGrid


def as_volume(hu: NDArray[np.integer], grid: PhantomGrid) -> Volume:
    """A phantom's voxels, axes (slice, row, column), as a volume in LPS mm."""
    affine = np.eye(4)
    directions = np.stack([grid.normal, grid.column, grid.row], axis=1)
    affine[:3, :3] = directions * np.asarray(grid.spacing)
    affine[:3, 3] = grid.origin
    return Volume(hu, Grid(grid.shape, affine))

"""An image on the grid of another."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from jipflow.images.volume import Grid, Volume


def resample(volume: Volume, grid: Grid) -> tuple[Volume, float]:
    """Interpolate an image linearly at the voxel centres of a grid.

    A voxel that lies beyond the image gets the image's lowest value, which is what a scanner gives
    where there is nothing: air in CT, no uptake in PET, no signal in MR. The image ends half a
    voxel beyond its outermost voxel centres, as ITK has it, and keeps their values up to there.

    Args:
        volume: the image; values in any unit.
        grid: target geometry, in any orientation to the image.

    Returns:
        The image on the grid as float32, and which share of the grid's voxels lies within it, from
        0 to 1.
    """
    image = Volume(volume.array.astype(np.float32), volume.grid)
    if volume.grid.matches(grid):
        return image, 1.0
    size, origin, spacing, direction = grid.itk
    found = sitk.Resample(
        image.image(),
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        origin,
        spacing,
        direction,
        np.nan,
        sitk.sitkFloat32,
    )
    array = sitk.GetArrayFromImage(found)
    beyond = np.isnan(array)
    array[beyond] = image.array.min()
    return Volume(array, grid), 1.0 - np.count_nonzero(beyond) / beyond.size

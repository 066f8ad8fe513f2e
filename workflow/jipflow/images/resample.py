"""Images and masks of one series on the grid of another."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from jipflow.images.masks import bounding_box
from jipflow.images.volume import Grid, Volume

SAMPLES = 32_000_000
"""Samples that are taken at a time; a float of each is in memory."""

ROUNDING = 1e-6
"""A share this much below one half is one half, computed with rounding errors."""


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


def resample_mask(mask: NDArray[np.bool_], source: Grid, target: Grid) -> NDArray[np.bool_]:
    """Return a mask on another grid: the voxels that it covers by one half or more.

    The mask is taken as a field that is linear between voxel centres, as the IBSI reference manual
    (section 2.4) has it, and 0 beyond the source's last voxels. Its share of a target voxel is the
    mean of the field over samples no farther apart than the source's voxels, so that structures
    thinner than a target voxel count by their volume. Where the target's voxels are no larger, that
    is the field at the voxel's centre. The grids may be turned against each other.

    Args:
        mask: shape (z, y, x) of the source.
        source: where the mask's voxels are.
        target: the grid that is wanted, in the same patient coordinates (LPS).

    Returns:
        Shape (z, y, x) of the target; False where it lies beyond the source.
    """
    if source.matches(target):
        return mask
    found = np.zeros(target.shape, bool)
    tight = bounding_box(mask)
    if not mask[tight].any():
        return found
    moving = _padded(mask[tight], tuple(part.start for part in tight), source)
    to_target = np.linalg.inv(target.affine)
    corners = (
        moving.grid.affine
        @ np.array(
            [(*corner, 1) for corner in product(*((-0.5, n - 0.5) for n in moving.grid.shape))]
        ).T
    )
    reached = (to_target @ corners)[:3]
    first = np.clip(np.floor(reached.min(axis=1)).astype(int), 0, target.shape)
    last = np.clip(np.ceil(reached.max(axis=1)).astype(int) + 1, first, target.shape)
    steps = np.linalg.inv(source.affine)[:3, :3] @ target.affine[:3, :3]
    # The quotient of two decimal numbers may lie a rounding error above a whole number.
    parts = [math.ceil(round(float(n), 9)) for n in np.abs(steps).max(axis=0)]
    plane = math.prod(int(n) for n in (last - first)[1:]) * math.prod(parts)
    thick = max(1, SAMPLES // max(plane, 1))
    image = moving.image()
    for start in range(int(first[0]), int(last[0]), thick):
        low = (start, int(first[1]), int(first[2]))
        high = (min(start + thick, int(last[0])), int(last[1]), int(last[2]))
        z, y, x = (slice(a, b) for a, b in zip(low, high, strict=True))
        found[z, y, x] = _shares(image, target, low, high, parts) >= 0.5 - ROUNDING
    return found


def covered(source: Grid, target: Grid) -> NDArray[np.bool_]:
    """Return which voxels of a grid have their centre in the image of another one.

    An image ends half a voxel beyond its outermost voxel centres.

    Args:
        source: of the image.
        target: the grid that is wanted, in the same patient coordinates (LPS).

    Returns:
        Shape (z, y, x) of the target.
    """
    found = np.ones(target.shape, bool)
    if source.matches(target):
        return found
    index = np.linalg.inv(source.affine) @ target.affine
    y, x = np.ogrid[: target.shape[1], : target.shape[2]]
    for axis, number in enumerate(source.shape):
        along, down, across, start = index[axis]
        plane = down * y + across * x + start
        for z, part in enumerate(found):
            at = plane + along * z
            part &= (at >= -0.5 - ROUNDING) & (at <= number - 0.5 + ROUNDING)
    return found


def _padded(inside: NDArray[np.bool_], corner: tuple[int, ...], grid: Grid) -> Volume:
    """Return a box of a mask with a rim of zeros, which a linear field falls to."""
    affine = grid.affine.copy()
    affine[:3, 3] = (grid.affine @ (*(start - 1 for start in corner), 1))[:3]
    array = np.pad(inside.astype(np.uint8), 1)
    return Volume(array, Grid(array.shape, affine))


def _shares(
    image: sitk.Image,
    target: Grid,
    low: tuple[int, int, int],
    high: tuple[int, int, int],
    parts: list[int],
) -> NDArray[np.float32]:
    """Return the mean of an image over each voxel of a box, from samples in its `parts`."""
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return np.zeros(tuple(b - a for a, b in zip(low, high, strict=True)), np.float32)
    shape = tuple((b - a) * n for a, b, n in zip(low, high, parts, strict=True))
    affine = target.affine.copy()
    affine[:3, :3] /= parts
    first = [a - 0.5 + 0.5 / n for a, n in zip(low, parts, strict=True)]
    affine[:3, 3] = (target.affine @ (*first, 1))[:3]
    fine = Volume(np.empty((1, 1, 1), np.uint8), Grid((1, 1, 1), affine)).image()
    resampler = sitk.ResampleImageFilter()
    resampler.SetOutputSpacing(fine.GetSpacing())
    resampler.SetOutputOrigin(fine.GetOrigin())
    resampler.SetOutputDirection(fine.GetDirection())
    resampler.SetSize(shape[::-1])
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    field = resampler.Execute(image)
    samples = sitk.GetArrayViewFromImage(field)
    blocks = [n for a, b, k in zip(low, high, parts, strict=True) for n in (b - a, k)]
    share: NDArray[np.float32] = samples.reshape(blocks).mean(axis=(1, 3, 5))
    return share

"""Where the frames of a DICOM-SEG lie on the grid of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jipflow.images.stack import ROUNDING_SHARE, ROUNDING_TOLERANCE, square_directions
from jipflow.images.volume import Grid
from jipflow.objects.annotation import SourceImages

ALIGNMENT_TOLERANCE = ROUNDING_SHARE
"""Farthest, in voxels, that a pixel of a frame may lie from the voxel it is put on: no more than
slices may lie off an even grid when the series is read."""
OWN_IMAGE_TOLERANCE = 2 * ROUNDING_SHARE
"""Farthest, in slices, that a frame may lie from the image that it is derived from: the frame and
the image may each be off by as much as is read."""

Corner = tuple[int, int, int]


@dataclass(frozen=True)
class Frames:
    """Where the frames of a segmentation lie in the patient.

    Attributes:
        positions: of the first pixel of each frame, shape (frames, 3), LPS in mm.
        orientations: direction cosines of row and column, shape (frames, 6).
        spacings: distance of rows and of columns in mm, shape (frames, 2).
        shape: rows and columns.
    """

    positions: NDArray[np.float64]
    orientations: NDArray[np.float64]
    spacings: NDArray[np.float64]
    shape: tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """Where the frames of a segmentation lie on a grid.

    Attributes:
        origins: index (z, y, x) of each frame's first pixel, shape (frames, 3).
        down: step of the index from one row to the next, shape (frames, 3).
        right: step of the index from one column to the next, shape (frames, 3).
        across: the axis of the grid that each frame is at a right angle to, shape (frames,).
        error: farthest distance of a pixel from its voxel, in voxels.
        derived: whether a frame is put where an image lies that it is derived from.
        strayed: distance in slices of each frame from that image, 0 where it has none.
    """

    origins: NDArray[np.intp]
    down: NDArray[np.intp]
    right: NDArray[np.intp]
    across: NDArray[np.intp]
    error: float
    derived: NDArray[np.bool_]
    strayed: NDArray[np.float64]


def place(
    frames: Frames,
    grid: Grid,
    images: SourceImages | None = None,
    sources: Sequence[Sequence[int]] = (),
) -> Placement:
    """Place each frame by the image plane's equation (PS3.3 C.7.6.2.1.1).

    A frame that is parallel to the images is put on the slice of the one that it is derived from,
    else of the one that it lies nearest to, and compared with the image's own position: positions
    that are rounded are so in both. A frame that lies across the slices, and any frame where the
    images are not known, is compared with the grid.

    Args:
        frames: of the segmentation.
        grid: of the images.
        images: that the grid is of; None where only the grid is known.
        sources: indices of images that each frame is derived from.
    """
    rows, columns = frames.shape
    turn = np.asarray(np.linalg.inv(grid.affine), np.float64)
    origins = frames.positions @ turn[:3, :3].T + turn[:3, 3]
    row_directions, column_directions = square_directions(frames.orientations)
    down = (column_directions * frames.spacings[:, :1]) @ turn[:3, :3].T
    right = (row_directions * frames.spacings[:, 1:]) @ turn[:3, :3].T
    steps = [np.rint(step).astype(int) for step in (down, right)]
    along_axes = (
        all((np.abs(step).sum(axis=1) == 1).all() for step in steps)
        and not (steps[0] * steps[1]).any()
    )
    across = 3 - sum(np.abs(step).argmax(axis=1) for step in steps)
    derived = np.zeros(len(origins), bool)
    strayed = np.zeros(len(origins))
    if images is not None and along_axes:
        origins, derived, strayed = _beside_images(origins, across, turn, images, sources)
    whole = np.rint(origins).astype(int)
    corners = [
        np.abs(
            (origins - whole)
            + (down - steps[0]) * (row * (rows - 1))
            + (right - steps[1]) * (column * (columns - 1))
        ).max()
        for row in (0, 1)
        for column in (0, 1)
    ]
    error = float(max(corners)) if along_axes else np.inf
    return Placement(whole, steps[0], steps[1], across, error, derived, strayed)


def _beside_images(
    origins: NDArray[np.float64],
    across: NDArray[np.intp],
    turn: NDArray[np.float64],
    images: SourceImages,
    sources: Sequence[Sequence[int]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Return the indices of frames as if each image lay exactly on its slice.

    Returns:
        The indices (z, y, x), not rounded; which frames are put on an image that they are derived
        from; and how many slices each is away from it.
    """
    places = images.positions @ turn[:3, :3].T + turn[:3, 3]
    slices = np.rint(places)
    axis = int(np.ptp(slices, axis=0).argmax())
    depth = places[:, axis]
    order = np.argsort(depth)
    middle = (depth[order][1:] + depth[order][:-1]) / 2
    found = origins.copy()
    derived = np.zeros(len(origins), bool)
    strayed = np.zeros(len(origins))
    nearest = order[np.searchsorted(middle, origins[:, axis])]
    for frame in np.flatnonzero(across == axis).tolist():
        named = sources[frame] if frame < len(sources) else ()
        image = min(named, key=lambda i: abs(depth[i] - origins[frame, axis]), default=None)
        derived[frame] = image is not None
        image = int(nearest[frame]) if image is None else image
        if np.abs(places[image] - slices[image]).max() > OWN_IMAGE_TOLERANCE:
            continue
        away = origins[frame] - places[image]
        if derived[frame]:
            strayed[frame] = abs(away[axis])
            away[axis] = 0
        found[frame] = slices[image] + away
    return found, derived, strayed


def same_distance(stated: float, distance: float) -> bool:
    """Return whether a stated distance of slices is that of a grid, but for rounded positions.

    Args:
        stated: in mm, of either sign.
        distance: of the grid in mm.
    """
    rounding = 2 * min(ROUNDING_TOLERANCE, ROUNDING_SHARE * distance)
    return abs(abs(stated) - distance) <= rounding


def comb(planes: NDArray[np.intp]) -> int:
    """Return the step of planes that lie on every n-th slice, n > 1; else 0.

    Three planes at least, two of their steps the greatest common divisor of all: regions that are
    small and apart may have any steps, a region of a thicker series has many that are equal.

    Args:
        planes: numbers of the slices with a voxel, rising.
    """
    steps = np.diff(planes)
    if len(steps) < 2:
        return 0
    common = int(np.gcd.reduce(steps))
    return common if common > 1 and np.count_nonzero(steps == common) > 1 else 0


def extent(
    placement: Placement,
    frames: NDArray[np.intp],
    shape: tuple[int, int],
    grid_shape: tuple[int, int, int],
) -> tuple[Corner, tuple[int, ...]]:
    """Return the first voxel and the shape of the box on a grid that frames cover."""
    first = placement.origins[frames]
    last = (
        first + placement.down[frames] * (shape[0] - 1) + placement.right[frames] * (shape[1] - 1)
    )
    ends = np.concatenate([first, last])
    if not len(ends):
        return (0, 0, 0), (0, 0, 0)
    low = np.clip(ends.min(axis=0), 0, grid_shape)
    high = np.clip(ends.max(axis=0) + 1, low, grid_shape)
    return (int(low[0]), int(low[1]), int(low[2])), tuple((high - low).tolist())


def window(
    placement: Placement,
    frame: int,
    shape: tuple[int, ...],
    volume: NDArray[Any],
    corner: Corner,
) -> tuple[tuple[slice, slice], NDArray[Any]]:
    """Return the part of a frame that lies in a box of a grid, and a view of its voxels there.

    Args:
        placement: of the frames on the grid.
        frame: number of the frame.
        shape: rows and columns of the frame.
        volume: the voxels of the box.
        corner: index of the box's first voxel on the grid.
    """
    origin = placement.origins[frame] - corner
    steps = (placement.down[frame], placement.right[frame])
    axes = [int(np.flatnonzero(step)[0]) for step in steps]
    across = 3 - sum(axes)
    voxels: list[Any] = [None, None, None]
    voxels[across] = int(origin[across])
    part = []
    beyond = not 0 <= origin[across] < volume.shape[across]
    for axis, step, length in zip(axes, steps, shape, strict=True):
        sign, size = int(step[axis]), volume.shape[axis]
        first = int(origin[axis])
        low, high = (-first, size - first) if sign > 0 else (first - size + 1, first + 1)
        low, high = max(low, 0), min(high, length)
        if beyond or high <= low:
            return (slice(0, 0), slice(0, 0)), np.empty((0, 0), volume.dtype)
        part.append(slice(low, high))
        stop = first + sign * high
        voxels[axis] = slice(first + sign * low, stop if stop >= 0 else None, sign)
    view = volume[tuple(voxels)]
    return (part[0], part[1]), view if axes[0] < axes[1] else view.T

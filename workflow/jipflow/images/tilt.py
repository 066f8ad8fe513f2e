"""The right grid of a stack whose slices shift sideways, as a tilted gantry leaves them.

Its planes are those of the slices and its third axis is their normal, so that each slice only moves
within its own plane. Contours, which lie in these planes, keep their millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

STEEPEST = 45.0
"""Largest angle in degrees that is taken for a tilt: gantries reach 30, and what is sheared by more
is another fault of the positions."""
WHOLE = 0.02
"""Largest deviation in pixels, over all slices, at which they shift by whole pixels."""
DIGITS = 9
"""Decimals of shifts in pixels: what arithmetic adds to whole ones is cut off."""

Shift = tuple[float, float]
"""Index (row, column) that the first pixel of a slice has on the right grid."""


def right_grid(
    headers: Sequence[Dataset], directions: Sequence[NDArray[np.float64]]
) -> tuple[list[Dataset], list[Shift]]:
    """Return the headers of a sheared stack's slices on the right grid, and their shifts.

    The grid holds every pixel, so that it has more rows or columns than the slices. It has whole
    pixels in common with the first slice. Shifts are those of the line that fits the positions
    best, which may be rounded.

    Args:
        headers: of evenly spaced slices, from the first to the last.
        directions: unit vectors along rows, columns and normal.

    Returns:
        Copies of the headers with Image Position (Patient), Rows and Columns of the grid, and the
        shift of each slice.
    """
    rows, columns, normal = directions
    first = headers[0]
    down, right = (float(value) for value in first.PixelSpacing)
    positions = np.array([header.ImagePositionPatient for header in headers], dtype=float)
    index = np.arange(len(headers))
    step, start = np.polyfit(index, positions, 1)
    steps = np.array([step @ columns / down, step @ rows / right])
    whole = np.rint(steps)
    near = np.abs(steps - whole) * index[-1] <= WHOLE
    shifts = np.outer(index, np.where(near, whole, steps)).round(DIGITS)
    low = np.floor(shifts.min(axis=0))
    shifts -= low
    more = np.ceil(shifts.max(axis=0)).astype(int).tolist()
    # The line's place within the plane; its depth is that of each slice.
    corner = start + low[0] * down * columns + low[1] * right * rows
    corner -= (corner @ normal) * normal
    size = [int(first.Rows) + more[0], int(first.Columns) + more[1]]
    placed = []
    for header, position in zip(headers, positions, strict=True):
        place = corner + (position @ normal) * normal
        copy = Dataset()
        copy.update(header)
        # The element itself is the header's, too: a new value would be one of both.
        for keyword in ("ImagePositionPatient", "Rows", "Columns"):
            del copy[keyword]
        copy.ImagePositionPatient = [DSfloat(float(v), auto_format=True) for v in place + 0.0]
        copy.Rows, copy.Columns = size
        placed.append(copy)
    return placed, [(float(one), float(two)) for one, two in shifts]


def tilt(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    """Return the angle in degrees between the line of slices and their normal.

    Args:
        positions: of the slices, from the first to the last, shape (n, 3).
        normal: unit vector.
    """
    step = np.polyfit(np.arange(len(positions)), positions, 1)[0]
    along = float(step @ normal)
    return float(np.degrees(np.arctan2(np.linalg.norm(step - along * normal), along)))


def tilt_note(headers: Sequence[Dataset], shifts: Sequence[Shift]) -> str:
    """Say by how much slices were moved within their planes.

    Args:
        headers: of the slices, on the right grid.
        shifts: of the slices.
    """
    ends = np.array([headers[i].ImagePositionPatient for i in (0, -1)], dtype=float)
    travel = float(np.linalg.norm(ends[1] - ends[0])) / (len(headers) - 1)
    steps = (np.array(shifts[-1]) - np.array(shifts[0])) / (len(headers) - 1)
    away = float(np.linalg.norm(steps * np.array(headers[0].PixelSpacing, dtype=float)))
    whole = not np.any(np.array(shifts) % 1)
    return (
        f"A tilt of {np.degrees(np.arctan2(away, travel)):.2f} degrees was corrected: each slice "
        f"is moved {away:.3f} mm further within its plane, by "
        f"{'whole pixels' if whole else 'linear interpolation'}."
    )


def shifted(
    values: NDArray[np.float64], shift: Shift, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Put a slice on the plane of a larger grid.

    Values are interpolated linearly, as SimpleITK's resampling does by default: what comes out lies
    between its neighbours, so that metal and air make no ringing. Pixels reach half a pixel around
    their centres, as in ITK.

    Args:
        values: shape (rows, columns).
        shift: index of the first pixel on the plane, not negative.
        shape: of the plane.

    Returns:
        Shape `shape`; the least value of the slice where it does not reach.
    """
    placed = values
    for axis in (0, 1):
        placed = _along(placed, shift[axis], shape[axis], axis)
    found = np.full(shape, values.min())
    window = reach(shift, (values.shape[0], values.shape[1]), shape)
    found[window] = placed[window]
    return found


def _along(
    values: NDArray[np.float64], shift: float, length: int, axis: int
) -> NDArray[np.float64]:
    """Interpolate along one axis, beyond the ends with the last value."""
    last = values.shape[axis] - 1
    place = np.clip(np.arange(length) - shift, 0, last)
    below = np.floor(place).astype(int)
    part = place - below
    part = part[:, None] if axis == 0 else part[None]
    above = np.minimum(below + 1, last)
    low = np.take(values, below, axis)
    return np.asarray(low + part * (np.take(values, above, axis) - low))


def reach(shift: Shift, size: tuple[int, int], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of a plane that a shifted slice covers.

    Args:
        shift: of the slice.
        size: its rows and columns.
        shape: of the plane.
    """
    windows = []
    for offset, length, end in zip(shift, size, shape, strict=True):
        place = np.arange(end) - offset
        inside = np.flatnonzero((place >= -0.5) & (place < length - 0.5))
        windows.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return windows[0], windows[1]


def pad(
    array: NDArray[np.generic], shifts: Sequence[Shift], size: tuple[int, int]
) -> tuple[float, float]:
    """Give voxels that no slice reaches the least value of the volume, in place.

    It is what the scanner itself writes where it has not scanned, or air: no value is made that the
    series does not have.

    Args:
        array: slices as `shifted` makes them, shape (z, y, x).
        shifts: of each slice.
        size: rows and columns of the slices as they were scanned.

    Returns:
        The value, and the share of the voxels that have it for this reason.
    """
    least = min(plane.min() for plane in array)
    covered = 0
    for plane, shift in zip(array, shifts, strict=True):
        window = reach(shift, size, (plane.shape[0], plane.shape[1]))
        kept = plane[window].copy()
        plane[...] = least
        plane[window] = kept
        covered += kept.size
    return float(least), 1 - covered / array.size

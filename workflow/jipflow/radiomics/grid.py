"""The grid that regions are measured on, and image and mask on a box of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import spline_filter

from jipflow.images.volume import Grid

Box = tuple[slice, slice, slice]

MASK_THRESHOLD = 0.5
"""Share of a voxel that the mask must cover (IBSI reference manual 2.4)."""

ROUNDING = 1e-6
"""A share this much below the threshold is the threshold, computed with rounding errors."""

SPLINE_REACH = 32
"""Voxels beyond which a value has no weight in a cubic spline: 0.268 to this power is below 1e-18,
the precision of doubles (Unser 1999, "Splines: a perfect fit for signal and image processing")."""


@dataclass(frozen=True)
class GridAxis:
    """One axis of the measuring grid, in terms of the image's.

    Attributes:
        image: number of the image's voxels.
        size: number of voxels.
        start: position of voxel 0, in the image's voxels.
        step: distance of voxels, in the image's voxels.
    """

    image: int
    size: int
    start: float
    step: float

    @classmethod
    def centred(cls, image: int, step: float) -> GridAxis:
        """Return the axis with the image's centre that covers it (IBSI reference manual 2.4).

        Args:
            image: number of the image's voxels.
            step: new spacing divided by the image's.
        """
        # The quotient of two decimal numbers may lie a rounding error above a whole number.
        size = math.ceil(round(image / step, 9))
        return cls(image, size, (image - 1) / 2 - (size - 1) / 2 * step, step)

    @property
    def same(self) -> bool:
        """Whether its voxels are the image's."""
        return self.step == 1.0

    def positions(self, part: slice) -> NDArray[np.float64]:
        """Return where voxels lie, in the image's voxels; those beyond its edge lie on it."""
        positions = self.start + np.arange(part.start, part.stop) * self.step
        return np.clip(positions, 0, self.image - 1)

    def cover(self, part: slice, margin: int = 0) -> slice:
        """Return the image's voxels that values of a part depend on, and `margin` more."""
        positions = self.positions(part)
        low = math.floor(positions[0]) - margin
        high = math.floor(positions[-1]) + 2 + margin
        return slice(max(low, 0), min(high, self.image))

    def touched(self, part: slice) -> slice:
        """Return the voxels that a part of the image, spread by one voxel, may reach."""
        low = math.floor((part.start - 1 - self.start) / self.step)
        high = math.ceil((part.stop - self.start) / self.step) + 1
        return slice(min(max(low, 0), self.size), min(max(high, 0), self.size))


@dataclass(frozen=True)
class MeasuringGrid:
    """A grid on an image's axes, of its own spacing.

    Attributes:
        axes: along (z, y, x).
        spacing: of its voxels along (z, y, x) in millimetres.
    """

    axes: tuple[GridAxis, GridAxis, GridAxis]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, grid: Grid, spacing: tuple[float | None, float | None, float | None]) -> Self:
        """Return the grid of a spacing that shares its centre with an image's.

        Args:
            grid: of the image.
            spacing: along (z, y, x) in millimetres; None keeps the image's.
        """
        new = tuple(n or s for n, s in zip(spacing, grid.spacing, strict=True))
        axes = tuple(
            GridAxis.centred(size, n / s)
            for size, n, s in zip(grid.shape, new, grid.spacing, strict=True)
        )
        return cls(axes, new)  # type: ignore[arg-type]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (z, y, x)."""
        z, y, x = self.axes
        return z.size, y.size, x.size

    @property
    def same(self) -> bool:
        """Whether it is the image's own grid."""
        return all(axis.same for axis in self.axes)

    def widened(self, box: Box, margin: tuple[int, int, int]) -> Box:
        """Return a box with a margin of voxels around, as far as the grid goes."""
        z, y, x = (
            slice(max(part.start - more, 0), min(part.stop + more, size))
            for part, more, size in zip(box, margin, self.shape, strict=True)
        )
        return z, y, x

    def image(
        self, array: NDArray[np.generic], box: Box, interpolation: str
    ) -> NDArray[np.float64]:
        """Return the image on a box of the grid.

        A value does not depend on how large the box is.

        Args:
            array: the whole image, shape (z, y, x).
            box: of the grid.
            interpolation: ``linear`` or ``cubic`` (B-spline, mirrored at the image's edge).
        """
        if self.same:
            return np.asarray(array[box], dtype=np.float64)
        reach = SPLINE_REACH if interpolation == "cubic" else 0
        cover = tuple(axis.cover(part, reach) for axis, part in zip(self.axes, box, strict=True))
        values = np.asarray(array[cover], dtype=np.float64)
        if interpolation == "cubic":
            values = spline_filter(values, order=3, mode="mirror")
        sample = _cubic if interpolation == "cubic" else _linear
        return self._sampled(values, cover, box, sample)

    def mask(
        self, inside: NDArray[np.bool_], corner: tuple[int, int, int]
    ) -> tuple[NDArray[np.bool_], Box]:
        """Return a mask on the part of the grid that it may touch.

        Args:
            inside: a box of the mask on the image's grid that holds all its voxels.
            corner: index (z, y, x) of its first voxel.

        Returns:
            The mask on a box of this grid, and the box.
        """
        parts = tuple(slice(c, c + n) for c, n in zip(corner, inside.shape, strict=True))
        if self.same:
            z, y, x = parts
            return inside, (z, y, x)
        z, y, x = (axis.touched(part) for axis, part in zip(self.axes, parts, strict=True))
        box = (z, y, x)
        # Between voxels that are far apart lie voxels of the mask that no value depends on.
        cover = tuple(
            slice(min(seen.start, part.start), max(seen.stop, part.stop))
            for axis, new, part in zip(self.axes, box, parts, strict=True)
            for seen in [axis.cover(new)]
        )
        field = np.zeros(tuple(part.stop - part.start for part in cover))
        at = tuple(
            slice(part.start - whole.start, part.stop - whole.start)
            for part, whole in zip(parts, cover, strict=True)
        )
        field[at] = inside
        share = self._sampled(field, cover, box, _linear)
        return share >= MASK_THRESHOLD - ROUNDING, box

    def _sampled(
        self,
        values: NDArray[np.float64],
        cover: tuple[slice, ...],
        box: Box,
        sample: Callable[[NDArray[np.float64], int, NDArray[np.float64], int], NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        """Sample along one axis after the other."""
        for number, (axis, part, source) in enumerate(zip(self.axes, box, cover, strict=True)):
            if axis.same:
                skip = part.start - source.start
                values = np.take(values, range(skip, skip + part.stop - part.start), axis=number)
            else:
                values = sample(values, number, axis.positions(part), source.start)
        return values


def _linear(
    values: NDArray[np.float64], axis: int, positions: NDArray[np.float64], start: int
) -> NDArray[np.float64]:
    """Interpolate along an axis whose first value lies at `start`."""
    low = np.floor(positions)
    weight = _along(positions - low, axis)
    first = low.astype(int) - start
    last = np.minimum(first + 1, values.shape[axis] - 1)
    return np.take(values, first, axis) * (1 - weight) + np.take(values, last, axis) * weight


def _cubic(
    coefficients: NDArray[np.float64], axis: int, positions: NDArray[np.float64], start: int
) -> NDArray[np.float64]:
    """Evaluate cubic B-splines along an axis whose first coefficient lies at `start`."""
    low = np.floor(positions)
    t = positions - low
    weights = (
        (1 - t) ** 3 / 6,
        (4 - 6 * t**2 + 3 * t**3) / 6,
        (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6,
        t**3 / 6,
    )
    last = coefficients.shape[axis] - 1
    total = np.zeros(())
    for offset, weight in enumerate(weights, start=-1):
        index = np.abs(low.astype(int) - start + offset)
        index = np.where(index > last, 2 * last - index, index)
        total = total + np.take(coefficients, np.maximum(index, 0), axis) * _along(weight, axis)
    return total


def _along(vector: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    shape = [1, 1, 1]
    shape[axis] = -1
    return vector.reshape(shape)

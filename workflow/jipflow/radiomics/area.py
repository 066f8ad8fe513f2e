"""One image of a region, its grey levels, and why a feature of it may have no value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

from jipflow.radiomics.mesh import Mesh

MAX_GREY_LEVELS = 1024
"""Grey levels beyond which no texture is computed: matrices grow with their square; thirteen of
1,024 levels take 104 MiB before pyradiomics copies them."""

MAX_LEVEL = 2**31 - 1
"""The highest grey level that pyradiomics' kernels can count to."""


class Undefined(ValueError):
    """The definition of a feature gives no value for a region; the message says why."""


class TooManyLevels(ValueError):
    """The bins make more grey levels of a region than can be held; the message says the fix."""


@dataclass(frozen=True)
class Levels:
    """The grey levels of a region.

    Attributes:
        array: of the region's box, from 1; 0 outside the region.
        present: the levels that occur, rising.
        number: how many there are, with empty ones.
    """

    array: NDArray[np.int32]
    present: NDArray[np.int64]
    number: int


@dataclass(frozen=True)
class Area:
    """One image of a region, on the region's bounding box.

    Attributes:
        image: intensities, shape (z, y, x).
        mask: voxels whose intensities count.
        outline: voxels of the region before any left it for their intensity.
        spacing: along (z, y, x) in millimetres.
        setting: of the radiomics settings.
        lowest: where bins of a fixed width start; None for below the lowest intensity.
        highest: the highest intensity that could stay in the region; None for any.
        ivh: bins of the intensity-volume histogram: ``width`` or ``count``, or neither.
        surroundings: intensities of the box and of what lies around it, where they are needed.
        offset: index (z, y, x) of the box's first voxel in `surroundings`.
    """

    image: NDArray[np.float64]
    mask: NDArray[np.bool_]
    outline: NDArray[np.bool_]
    spacing: tuple[float, float, float]
    setting: Mapping[str, Any]
    lowest: float | None = None
    highest: float | None = None
    ivh: Mapping[str, Any] | None = None
    surroundings: NDArray[np.float64] | None = None
    offset: tuple[int, int, int] = (0, 0, 0)

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """The intensities of the region, shape (voxels,)."""
        return self.image[self.mask]

    @cached_property
    def mesh(self) -> Mesh:
        """The surface mesh of the outline."""
        return Mesh.of(self.outline, self.spacing)

    @cached_property
    def images(self) -> tuple[sitk.Image, sitk.Image]:
        """The image and the mask as pyradiomics takes them."""
        image, mask = (sitk.GetImageFromArray(a) for a in (self.image, self.mask.view(np.uint8)))
        for each in (image, mask):
            each.SetSpacing(self.spacing[::-1])
        return image, mask

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in cubic millimetres."""
        return math.prod(self.spacing)

    @cached_property
    def levels(self) -> Levels:
        """The region in grey levels.

        Raises:
            TooManyLevels: there are more than can be counted.
        """
        levels = discretise(self.values, self.setting, self.lowest)
        array = np.zeros(self.mask.shape, np.int32)
        array[self.mask] = levels
        return Levels(array, np.unique(levels), int(levels.max()))

    @property
    def textured(self) -> Levels:
        """The grey levels, if they are few enough for a matrix of their pairs.

        Raises:
            TooManyLevels: there are more than `MAX_GREY_LEVELS`.
        """
        if self.levels.number > MAX_GREY_LEVELS:
            raise TooManyLevels(
                f"{_bins(self.setting)} makes {self.levels.number:,} grey levels of this region, "
                f"more than {MAX_GREY_LEVELS:,}; choose wider bins or a binCount"
            )
        return self.levels

    def need_contrast(self) -> None:
        """Raise `Undefined` where all intensities are equal."""
        if self.values.min() == self.values.max():
            raise Undefined("all intensities of the region are equal")

    @cached_property
    def lone(self) -> NDArray[np.bool_]:
        """The voxels that have no other at any of the distances of the radiomics settings."""
        counts = np.zeros(self.mask.shape, np.int64)
        for distance in self.setting["distances"]:
            counts += self._within(distance) - self._within(distance - 1)
        lone: NDArray[np.bool_] = self.mask & (counts == 0)
        return lone

    def _within(self, distance: int) -> NDArray[np.int64]:
        """Count the region's voxels in the cube around each voxel, or the square in its slice."""
        size = [2 * distance + 1] * 3
        if self.setting["force2D"]:
            size[0] = 1
        counts = self.mask.astype(np.int64)
        for axis, length in enumerate(size):
            counts = convolve1d(counts, np.ones(length, np.int64), axis, mode="constant")
        return counts

    def without_lone_voxels(self) -> Area:
        """Return the same area but for the voxels that have no neighbour; grey levels stay."""
        if not self.lone.any():
            return self
        kept = self.mask & ~self.lone
        area = replace(self, mask=kept)
        array = np.where(kept, self.levels.array, 0)
        area.__dict__["levels"] = Levels(array, np.unique(array[kept]), int(array.max()))
        return area

    def widened(self) -> Area:
        """Return the same area in a box that is longer than any distance along each axis.

        pyradiomics' kernels know no directions along an axis whose box they would leave at once,
        and fail where none is left.
        """
        least = max(self.setting["distances"]) + 1
        ends = [(0, max(least - size, 0)) for size in self.mask.shape]
        if not np.any(ends):
            return self
        return replace(
            self,
            image=np.pad(self.image, ends),
            mask=np.pad(self.mask, ends),
            outline=np.pad(self.outline, ends),
        )

    def need_neighbours(self) -> None:
        """Raise `Undefined` where no two voxels of the region are neighbours."""
        if self.lone.sum() == self.values.size:
            raise Undefined("no two voxels of the region are neighbours")

    def need_levels(self) -> None:
        """Raise `Undefined` where the region has one grey level."""
        if len(self.levels.present) < 2:
            raise Undefined("the region has one grey level")


def discretise(
    values: NDArray[np.float64], setting: Mapping[str, Any], lowest: float | None
) -> NDArray[np.int64]:
    """Return the grey level of each intensity, from 1 (IBSI reference manual 2.7).

    Bins of a fixed width start at `lowest`, or else, as in pyradiomics, at the multiple of the
    width that is not above the smallest intensity. A fixed number of bins spans the intensities;
    the largest lies in the last bin.

    Args:
        values: at least one.
        setting: ``binWidth``, or ``binCount`` in its place.
        lowest: where bins of a fixed width start.

    Raises:
        TooManyLevels: there are more than can be counted.
    """
    count = setting.get("binCount")
    low, high = float(values.min()), float(values.max())
    if count is not None:
        if low == high:
            return np.ones(values.shape, np.int64)
        edges = np.histogram_bin_edges(values, count)
        return np.minimum(np.digitize(values, edges), count)
    width = float(setting["binWidth"])
    start = low - low % width if lowest is None else lowest
    if (high - start) / width >= MAX_LEVEL:
        raise TooManyLevels(
            f"{_bins(setting)} makes more grey levels of this region than can be counted; choose "
            "wider bins or a binCount"
        )
    # Where a bin is narrower than a step from one number to the next, edges would coincide.
    if (high - start) / width <= 2 * MAX_GREY_LEVELS and width > 2 * np.spacing(
        max(abs(start), abs(high))
    ):
        return np.digitize(values, np.arange(start, high + 2 * width, width))
    # As many edges as levels would take too much memory.
    return np.floor((values - start) / width).astype(np.int64) + 1


def _bins(setting: Mapping[str, Any]) -> str:
    if setting.get("binCount") is not None:
        return f"binCount {setting['binCount']}"
    return f"binWidth {setting['binWidth']:g}"


def ratio(a: float, b: float, why: str) -> float:
    """Return a / b.

    Raises:
        Undefined: b is 0.
    """
    if not b:
        raise Undefined(why)
    return float(a / b)

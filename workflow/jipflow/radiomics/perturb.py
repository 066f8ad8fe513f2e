"""Other masks that a reader might have drawn: moved, grown, shrunk, and with uneven contours.

After Zwanenburg et al. 2019, "Assessing robustness of radiomic features by image perturbation",
Scientific Reports 9:614. All act on a region's outline on the measuring grid.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from jipflow.images.masks import bounding_box
from jipflow.radiomics.grid import Box, MeasuringGrid
from jipflow.settings.protocol import Stability

SUPERVOXEL = 5.0
"""Edge of a supervoxel in millimetres: about the uncertainty of a contour that a person draws."""

KEPT, LEFT = 0.9, 0.2
"""Shares of a supervoxel inside the outline from which it is always, and below which never, in."""

Outline = tuple[NDArray[np.bool_], Box]


def perturbations(
    outline: NDArray[np.bool_],
    box: Box,
    grid: MeasuringGrid,
    image: NDArray[np.float64],
    wide: Box,
    asked: Stability,
    seed: str,
) -> Iterator[tuple[str, Outline]]:
    """Yield the other outlines of a region, each with a name.

    Args:
        outline: voxels of the region within its box, shape (z, y, x).
        box: of the measuring grid.
        grid: the measuring grid.
        image: intensities of a wider box.
        wide: the wider box; `reach` says how much wider.
        asked: ``stability`` of a protocol's radiomics.
        seed: what the random choices depend on: the same gives the same outlines.
    """
    inside = np.zeros(image.shape, bool)
    inside[_within(box, wide)] = outline
    yield from _moved(outline, box, grid, asked.translate)
    for share in asked.grow:
        yield f"grow {share:+.0%}", _tight(_resized(inside, grid, share), wide)
    if asked.contours:
        yield from _redrawn(inside, image, wide, grid, asked.contours, seed)


def reach(
    outline: NDArray[np.bool_], grid: MeasuringGrid, asked: Stability
) -> tuple[int, int, int]:
    """Return how many voxels along (z, y, x) an outline may grow, at most by its own extent."""
    radius = max(n * s for n, s in zip(outline.shape, grid.spacing, strict=True)) / 2
    largest = max([0.0, *asked.grow])
    growth = radius * ((1 + largest) ** (1 / 3) - 1) * 3
    margin = max(growth, 2 * SUPERVOXEL if asked.contours else 0.0)
    z, y, x = (math.ceil(margin / s) + 1 for s in grid.spacing)
    return z, y, x


def _moved(
    outline: NDArray[np.bool_], box: Box, grid: MeasuringGrid, distances: list[float]
) -> Iterator[tuple[str, Outline]]:
    """Yield the outline moved to and fro along each axis, in whole voxels."""
    for distance in distances:
        for axis, name in enumerate("zyx"):
            steps = round(distance / grid.spacing[axis])
            for step in (-steps, steps) if steps else ():
                part = box[axis]
                low = max(part.start + step, 0)
                high = min(part.stop + step, grid.shape[axis])
                if low >= high:
                    continue
                kept: list[slice] = [slice(None)] * 3
                kept[axis] = slice(low - part.start - step, high - part.start - step)
                moved = list(box)
                moved[axis] = slice(low, high)
                z, y, x = moved
                sign = "+" if step > 0 else "-"
                yield f"translate {name}{sign}{distance:g} mm", (outline[tuple(kept)], (z, y, x))


def _resized(inside: NDArray[np.bool_], grid: MeasuringGrid, share: float) -> NDArray[np.bool_]:
    """Return the region with a share of its voxels more or less, the nearest to its surface."""
    number = round(abs(share) * int(inside.sum()))
    candidates = ~inside if share > 0 else inside
    distance = distance_transform_edt(candidates, sampling=grid.spacing)
    places = np.flatnonzero(candidates)
    # Equal distances are taken in the order of the array, so that the same is taken each time.
    nearest = places[np.argsort(distance.ravel()[places], kind="stable")[:number]]
    resized = inside.copy()
    resized.ravel()[nearest] = share > 0
    return resized


def _redrawn(
    inside: NDArray[np.bool_],
    image: NDArray[np.float64],
    wide: Box,
    grid: MeasuringGrid,
    number: int,
    seed: str,
) -> Iterator[tuple[str, Outline]]:
    """Yield outlines made of supervoxels, those at the surface chosen by chance."""
    from skimage.segmentation import slic

    known = np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = np.percentile(known, (1, 99))
    scaled = np.clip((known - low) / (high - low or 1.0), 0, 1)
    pieces = max(round(image.size * math.prod(grid.spacing) / SUPERVOXEL**3), 1)
    labels = slic(
        scaled, n_segments=pieces, compactness=0.1, spacing=grid.spacing, channel_axis=None,
        start_label=0, enforce_connectivity=False,
    )  # fmt: skip
    sizes = np.bincount(labels.ravel())
    share = np.bincount(labels.ravel(), inside.ravel(), minlength=len(sizes)) / np.maximum(sizes, 1)
    for index in range(number):
        digest = hashlib.sha256(f"{seed} {index}".encode()).digest()
        chance = np.random.default_rng(int.from_bytes(digest[:8], "big")).random(len(sizes))
        chosen = (share >= KEPT) | ((share >= LEFT) & (chance < share))
        yield f"contour {index + 1}", _tight(chosen[labels], wide)


def _within(box: Box, wide: Box) -> tuple[slice, ...]:
    return tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(box, wide, strict=True))


def _tight(inside: NDArray[np.bool_], wide: Box) -> Outline:
    part = bounding_box(inside)
    z, y, x = (slice(w.start + p.start, w.start + p.stop) for p, w in zip(part, wide, strict=True))
    return inside[part], (z, y, x)

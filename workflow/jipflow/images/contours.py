"""Contours of an RTSTRUCT to voxels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jipflow.images.volume import Grid
from jipflow.notes import Notes
from jipflow.reasons import CaseFault, Decision, Reason

PLANE_TOLERANCE = 0.1
"""Farthest, in slices, that a point may lie from its contour's plane, and a plane from the slice
that it counts as drawn on: what rounded coordinates and slice positions make of one plane."""
SAME_PLANE = 0.02
"""Largest distance, in slices, between contours of one plane that lies between slices."""
PATH_TOLERANCE = 1e-6
"""Distance in pixels at which a pixel's centre counts as lying on a contour: no more than what
floating-point arithmetic makes of a point that lies on it."""
SAME_PATH = 0.05
"""Largest distance in pixels between repeated contours: what rounding to 0.01 mm makes of one."""
THIN = 0.5
"""Distance in pixels up to which a contour and the hole in it are no shell that was drawn."""
PAIRS = 2**20
"""Distances between points and edges that are held at once."""
EVEN = 1e-6
"""Difference in slices below which two planes are equally far from a slice."""
LARGEST_PLANE_SPACING = 10.0
"""Distance in mm between contour planes above which they are no neighbours: clinical series have
slices of at most 10 mm, so contours farther apart were not drawn on adjacent ones."""


TINY = "enclosed no pixel centre"
CROSSING = "crossed another one of their plane and were united with it"
REPEATED = "repeated another one and count once"
CANCELLED = "are of type CLOSEDPLANAR_XOR and cancel one that is the same"
CLOSE = "run less than half a pixel from the one that they cut a hole into"
VANISHING = "vanishing"
WHAT = {
    TINY: Decision.CONTOURS_WITHOUT_PIXEL,
    CROSSING: Decision.CONTOURS_UNITED,
    REPEATED: Decision.CONTOURS_REPEATED,
    CANCELLED: Decision.CONTOURS_CANCELLED,
    CLOSE: Decision.HOLE_CLOSE_TO_CONTOUR,
}
"""What a reader should know of contours of a plane, as notes say it, and its code."""


@dataclass(frozen=True)
class _Fill:
    """Pixels that one contour encloses, in a window of its plane."""

    rows: slice
    columns: slice
    inside: NDArray[np.bool_]
    vertices: NDArray[np.float64]

    def within(self, other: _Fill) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the pixels of both fills in the part that their windows share."""
        rows = range(max(self.rows.start, other.rows.start), min(self.rows.stop, other.rows.stop))
        columns = range(
            max(self.columns.start, other.columns.start),
            min(self.columns.stop, other.columns.stop),
        )
        return self._part(rows, columns), other._part(rows, columns)

    def _part(self, rows: range, columns: range) -> NDArray[np.bool_]:
        top, left = self.rows.start, self.columns.start
        return self.inside[
            rows.start - top : max(rows.stop, rows.start) - top,
            columns.start - left : max(columns.stop, columns.start) - left,
        ]


def rasterise(
    contours: Sequence[NDArray[np.float64]],
    grid: Grid,
    context: str,
    *,
    drawn_here: bool = True,
    plane_spacing: float | None = None,
    xor: bool = False,
    notes: Notes | None = None,
) -> NDArray[np.bool_]:
    """Fill closed planar contours by the pixel-centre rule.

    A voxel belongs to the region when its centre lies inside or on the path of a contour
    (PS3.3 C.8.8.6.3), where inside is even-odd, so that a contour may cross itself or run back
    along a keyhole. Contours of one plane combine so: one inside another cuts a hole, one in the
    hole fills an island; contours that cross each other unite, and a repeated contour counts once,
    wherever it starts, whichever way it runs and however many points it has. With `xor`, all
    contours of a plane combine by exclusive disjunction and nothing else.

    A plane of contours stands for the slab half-way to its neighbours. Contours within half a
    slice of a slice thus fill that slice. Where planes lie closer than slices, each slice takes
    the plane nearest to its centre; where they lie farther apart because the contours were drawn
    on another series, each plane fills all slices nearest to it. A gap of planes stays empty
    (PS3.3 C.8.8.6.4).

    Args:
        contours: points of shape (n, 3) in LPS mm, each contour in one plane of the grid.
        grid: the image's grid, whose first axis is across the slices.
        context: the structure set and ROI, for messages.
        drawn_here: the contours were drawn on the slices of this grid, so that slices without a
            contour are empty.
        plane_spacing: distance in mm of the planes that the contours were drawn on, where it is
            known; by default the lower median of the distances of contoured planes.
        xor: the contours are of type CLOSEDPLANAR_XOR.
        notes: gets a sentence for each decision that a reader of the masks should know.

    Returns:
        The voxels, shape of the grid.

    Raises:
        CaseFault: a contour lies across or beyond the slices; every second slice or fewer of the
            series that the contours were drawn on has one; or two that are no repeat have no pixel
            between them.
    """
    notes = notes or Notes()
    mask = np.zeros(grid.shape, bool)
    if not contours:
        return mask
    to_index = np.linalg.inv(grid.affine)
    indices = [points @ to_index[:3, :3].T + to_index[:3, 3] for points in contours]
    depths = _depths(indices, grid.shape[0], context)
    planes, members = _planes(depths)
    thickness = _slab(planes, grid.spacing[0], drawn_here, plane_spacing, context, notes)
    owners = _owners(planes, thickness, grid.shape[0])
    if owners.max() < 0:
        notes.add(
            Decision.CONTOUR_PLANES_LEFT_OUT,
            f"{context}: its contours lie between slices and reach the centre of none.",
        )
        return mask
    _note_planes(depths, planes, owners, grid.spacing[0], context, notes)
    vertices = [index[:, 1:] for index in indices]
    _note_clipped(vertices, grid.shape[1:], context, notes)
    tally: Counter[str] = Counter()
    for number in np.unique(owners[owners >= 0]):
        polygons = [vertices[member] for member in np.flatnonzero(members == number)]
        mask[owners == number] = _plane_mask(polygons, grid.shape[1:], xor, tally)
    if tally[VANISHING]:
        raise CaseFault(
            Reason.CONTOUR_GEOMETRY,
            f"{context}: {tally[VANISHING]} of {len(contours)} contours run less than half a pixel "
            "from another one and enclose the same pixels: a contour that was drawn twice, or a "
            "shell too thin for the image; correct them where they were drawn.",
        )
    for what, decision in WHAT.items():
        if tally[what]:
            notes.add(decision, f"{context}: {tally[what]} of {len(contours)} contours {what}.")
    return mask


def on_slices(contours: Sequence[NDArray[np.float64]], grid: Grid) -> bool:
    """Return whether all contours lie on slices of a grid and inside its extent.

    Args:
        contours: points of shape (n, 3) in LPS mm.
        grid: the image's grid.
    """
    to_index = np.linalg.inv(grid.affine)
    upper = np.asarray(grid.shape) - 0.5
    for points in contours:
        index = points @ to_index[:3, :3].T + to_index[:3, 3]
        off_plane = np.abs(index[:, 0] - np.rint(index[:, 0].mean())).max()
        if off_plane > PLANE_TOLERANCE or (index < -0.5).any() or (index > upper).any():
            return False
    return bool(contours)


def _depths(
    indices: Sequence[NDArray[np.float64]], slices: int, context: str
) -> NDArray[np.float64]:
    """Return the slice index, not rounded, of each contour's plane."""
    depths = np.array([index[:, 0].mean() for index in indices])
    for number, (index, depth) in enumerate(zip(indices, depths, strict=True), start=1):
        if np.abs(index[:, 0] - depth).max() > PLANE_TOLERANCE:
            raise CaseFault(
                Reason.CONTOUR_GEOMETRY,
                f"{context}: contour {number} lies across the image's slices (from slice "
                f"{index[:, 0].min():.2f} to {index[:, 0].max():.2f}); it was drawn on a series of "
                "another orientation: segment the role that it was drawn on.",
            )
    nearest = np.rint(depths)
    depths = np.where(np.abs(depths - nearest) <= PLANE_TOLERANCE, nearest, depths)
    beyond = np.flatnonzero((depths < -0.5 - EVEN) | (depths >= slices - 0.5 - EVEN))
    if beyond.size:
        raise CaseFault(
            Reason.CONTOUR_GEOMETRY,
            f"{context}: {beyond.size} of {len(depths)} contours lie beyond the image, the first "
            f"of them on slice {depths[beyond[0]]:.2f} where 0 to {slices - 1} exist; the series "
            "is not complete, or is not the one that they were drawn on.",
        )
    return depths


def _planes(depths: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Group contours into planes: the rising depth of each, and the plane of each contour."""
    order = np.argsort(depths, kind="stable")
    starts = np.diff(depths[order], prepend=-np.inf) > SAME_PLANE
    members = np.empty(len(depths), np.intp)
    members[order] = np.cumsum(starts) - 1
    return depths[order][starts], members


def _slab(
    planes: NDArray[np.float64],
    slice_spacing: float,
    drawn_here: bool,
    plane_spacing: float | None,
    context: str,
    notes: Notes,
) -> float:
    """Return the thickness, in slices, of the slab that a contour stands for."""
    gaps = np.sort(np.diff(planes))
    if drawn_here and gaps.size > 1 and gaps[0] > 1.5 and gaps[-1] < 1.1 * gaps[0]:
        raise CaseFault(
            Reason.CONTOUR_GEOMETRY,
            f"{context}: of the slices that it was drawn on only one in {round(gaps[0])} has a "
            "contour; interpolate the contours in the planning system.",
        )
    # The lower median: neither a skipped slice nor a stray contour between two planes counts.
    usual = float(gaps[(gaps.size - 1) // 2]) if gaps.size else np.inf
    if drawn_here:
        return min(1.0, usual)
    if plane_spacing is not None:
        return plane_spacing / slice_spacing
    if usual * slice_spacing <= LARGEST_PLANE_SPACING:
        return usual
    notes.add(
        Decision.CONTOUR_THICKNESS_ASSUMED,
        f"{context}: it was drawn on another series and has no two contours on neighbouring "
        "planes, which would tell how thick they are; each was taken to be as thick as one slice.",
    )
    return 1.0


def _owners(planes: NDArray[np.float64], thickness: float, slices: int) -> NDArray[np.intp]:
    """Return for each slice the number of the plane whose contours fill it, or -1.

    Slabs are open below and closed above, so that a slice half-way between two planes belongs to
    one of them and a stack of slabs keeps its thickness.
    """
    positions = np.arange(slices, dtype=float)
    above = np.searchsorted(planes, positions - EVEN)
    below = np.clip(above - 1, 0, None)
    last = len(planes) - 1
    upper = np.clip(above, 0, last)
    up = np.where(above <= last, planes[upper] - positions, np.inf)
    down = np.where(above > 0, positions - planes[below], np.inf)
    neighbours = up + down <= 1.5 * thickness + EVEN
    takes_lower = (down <= up + EVEN) & (neighbours | (down <= thickness / 2 + EVEN))
    takes_upper = (up < down - EVEN) & (neighbours | (up < thickness / 2 - EVEN))
    return np.where(takes_lower, below, np.where(takes_upper, upper, -1))


def _note_planes(
    depths: NDArray[np.float64],
    planes: NDArray[np.float64],
    owners: NDArray[np.intp],
    spacing: float,
    context: str,
    notes: Notes,
) -> None:
    """Note what became of planes of contours that do not lie on the slices one to one."""
    off = np.abs(depths - np.rint(depths))
    if off.max() > 0:
        notes.add(
            Decision.CONTOURS_BETWEEN_SLICES,
            f"{context}: {np.count_nonzero(off)} of {len(depths)} contours lie between slices, up "
            f"to {off.max() * spacing:.2f} mm off, and fill the slices nearest to them.",
        )
    used, counts = np.unique(owners[owners >= 0], return_counts=True)
    if len(used) < len(planes):
        notes.add(
            Decision.CONTOUR_PLANES_LEFT_OUT,
            f"{context}: {len(planes) - len(used)} of {len(planes)} planes of contours were left "
            "out: to each slice another plane is nearer.",
        )
    if counts.max() > 1:
        notes.add(
            Decision.CONTOURS_FILL_SEVERAL_SLICES,
            f"{context}: the contours lie farther apart than the image's slices "
            f"({spacing:.2f} mm); each fills up to {counts.max()} slices.",
        )
    filled = np.flatnonzero(owners >= 0)
    empty = int(filled[-1] - filled[0] + 1 - len(filled))
    if empty:
        notes.add(
            Decision.SLICES_WITHOUT_CONTOUR,
            f"{context}: {empty} slices between contoured ones have no contour and stay empty.",
        )


def _note_clipped(
    vertices: Sequence[NDArray[np.float64]], shape: tuple[int, ...], context: str, notes: Notes
) -> None:
    """Note how many contours reach beyond the image."""
    upper = np.asarray(shape) - 0.5
    clipped = sum(bool((v < -0.5).any() or (v > upper).any()) for v in vertices)
    if clipped:
        notes.add(
            Decision.CONTOURS_CUT_AT_BORDER,
            f"{context}: {clipped} of {len(vertices)} contours reach beyond the image's border and "
            "are cut off there.",
        )


def _plane_mask(
    polygons: Sequence[NDArray[np.float64]],
    shape: tuple[int, ...],
    xor: bool,
    tally: Counter[str],
) -> NDArray[np.bool_]:
    """Combine the contours of one plane; `tally` counts what a reader should know."""
    fills = [_fill(vertices, shape) for vertices in polygons]
    tally[TINY] += sum(not fill.inside.any() for fill in fills)
    mask = np.zeros(shape, bool)
    if xor:
        for number, fill in enumerate(fills):
            mask[fill.rows, fill.columns] ^= fill.inside
            tally[CANCELLED] += any(_relation(fill, other) == "same" for other in fills[:number])
        return mask
    for group in _united(fills, tally):
        union = np.zeros(shape, bool)
        for fill in group:
            union[fill.rows, fill.columns] |= fill.inside
        mask ^= union
    return mask


def _united(fills: Sequence[_Fill], tally: Counter[str]) -> list[list[_Fill]]:
    """Group the fills that cross or repeat each other."""
    groups: list[list[_Fill]] = []
    for fill in fills:
        touching = []
        found = set()
        for group in groups:
            relations = {_relation(fill, other) for other in group}
            found |= relations
            if relations & {"crossing", "same"}:
                touching.append(group)
        if "same" in found:
            tally[REPEATED] += 1
        elif touching:
            tally[CROSSING] += 1
        elif "vanishing" in found:
            tally[VANISHING] += 1
        elif "close" in found:
            tally[CLOSE] += 1
        merged = [fill, *(member for group in touching for member in group)]
        groups = [group for group in groups if not any(group is t for t in touching)] + [merged]
    return groups


def _relation(one: _Fill, other: _Fill) -> str:
    """Return ``same``, ``crossing``, or ``apart`` where disjoint or one inside the other.

    It is ``vanishing`` where there is no pixel between the two, which are that close.

    It is ``close`` where one lies inside the other with less than half a pixel between them.
    """
    a, b = one.within(other)
    common = int(np.count_nonzero(a & b))
    if not common:
        return "apart"
    distance = _distance(one.vertices, other.vertices)
    sizes = (np.count_nonzero(one.inside), np.count_nonzero(other.inside))
    if distance <= SAME_PATH:
        return "same"
    if distance < THIN and sizes == (common, common):
        return "vanishing"
    if common not in sizes:
        return "crossing"
    return "close" if distance < THIN else "apart"


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the largest distance of a vertex of either path from the other path, in pixels.

    Infinity where their bounds are farther apart than distances that matter.
    """
    ends = (np.abs(f(one, axis=0) - f(other, axis=0)).max() for f in (np.min, np.max))
    if max(ends) > THIN:
        return np.inf
    return max(_farthest(one, other), _farthest(other, one))


def _farthest(points: NDArray[np.float64], path: NDArray[np.float64]) -> float:
    """Return how far the farthest of points lies from a closed path."""
    step = np.roll(path, -1, axis=0) - path
    length = np.maximum((step**2).sum(axis=1), np.finfo(float).tiny)
    farthest = 0.0
    size = max(PAIRS // len(path), 1)
    for first in range(0, len(points), size):
        away = points[first : first + size, None] - path
        along = np.clip((away * step).sum(axis=2) / length, 0, 1)
        squares = ((away - along[:, :, None] * step) ** 2).sum(axis=2)
        farthest = max(farthest, float(np.sqrt(squares.min(axis=1).max())))
    return farthest


def _fill(vertices: NDArray[np.float64], shape: tuple[int, ...]) -> _Fill:
    """Find the pixels whose centre lies inside a polygon, even-odd, or on its path.

    A scan line runs through the centres of each row of pixels. The parity of the crossings to the
    left of a centre tells inside from outside; an edge counts as crossing the rows from its lower
    end, included, to its upper end, excluded, so that a vertex on a scan line counts once.

    Args:
        vertices: pixel indices (row, column) of shape (n, 2).
        shape: of the plane.
    """
    limits = np.asarray(shape)
    first = np.clip(np.ceil(vertices.min(axis=0) - PATH_TOLERANCE), 0, limits).astype(int)
    last = np.clip(np.floor(vertices.max(axis=0) + PATH_TOLERANCE), -1, limits - 1).astype(int)
    height, width = np.maximum(last - first + 1, 0)
    window = (slice(first[0], first[0] + height), slice(first[1], first[1] + width))
    if not height or not width:
        return _Fill(*window, np.zeros((height, width), bool), vertices)
    start = vertices - first
    step = np.roll(start, -1, axis=0) - start
    ends = np.sort(np.stack([start[:, 0], start[:, 0] + step[:, 0]]), axis=0)
    low = np.clip(np.ceil(ends[0] - PATH_TOLERANCE), 0, height).astype(int)
    high = np.clip(np.floor(ends[1] + PATH_TOLERANCE), -1, height - 1).astype(int)
    counts = np.maximum(high - low + 1, 0)
    edge = np.repeat(np.arange(len(start)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + low[edge]
    (y, x), (dy, dx) = start[edge].T, step[edge].T
    level = dy == 0
    slope = np.where(level, 1.0, dy)

    crosses = (y <= row) != (y + dy <= row)
    crossing = np.ceil(x + (row - y) / slope * dx)[crosses]
    column = np.clip(crossing, 0, width).astype(int)
    inside = _running(row[crosses], column, None, (height, width)) % 2 == 1

    reach = [np.clip((row + side - y) / slope, 0, 1) for side in (-PATH_TOLERANCE, PATH_TOLERANCE)]
    spans = [x + np.where(level, t, r) * dx for t, r in zip((0.0, 1.0), reach, strict=True)]
    left = np.clip(np.ceil(np.minimum(*spans) - PATH_TOLERANCE), 0, width).astype(int)
    right = np.clip(np.floor(np.maximum(*spans) + PATH_TOLERANCE), -1, width - 1).astype(int)
    on = left <= right
    path = _running(row[on], left[on], right[on] + 1, (height, width)) > 0
    return _Fill(*window, inside | path, vertices)


def _running(
    rows: NDArray[np.intp],
    starts: NDArray[np.intp],
    stops: NDArray[np.intp] | None,
    shape: tuple[int, int],
) -> NDArray[np.float64]:
    """Count at each pixel the spans that have started and not stopped, along rows."""
    height, width = shape
    size = height * (width + 1)
    steps = np.bincount(rows * (width + 1) + starts, minlength=size).astype(float)
    if stops is not None:
        steps -= np.bincount(rows * (width + 1) + stops, minlength=size)
    return np.cumsum(steps.reshape(height, width + 1), axis=1)[:, :width]

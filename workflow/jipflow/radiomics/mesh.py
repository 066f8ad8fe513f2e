"""The surface mesh of a mask: area, volume, diameters and convex hull.

The mesh is pyradiomics' own: marching cubes with vertices halfway between voxels inside and
outside. Its kernel finds the diameters by trying all pairs of vertices, which for an organ takes
most of the time of all features. Here area and volume are sums over cubes of what one of 256 kinds
of cube adds, and a diameter joins vertices of the convex hull.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from radiomics import cShape
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import cdist, pdist

Spacing = tuple[float, float, float]

DIRECTIONS = 8
"""Directions along which the points of a plane are measured to bound their distances."""

BLOCK = 512
"""Points whose distances to all others are held at a time."""


@dataclass(frozen=True)
class Mesh:
    """The surface mesh of a mask.

    Attributes:
        area: of its triangles in square millimetres.
        volume: that it encloses in cubic millimetres.
        rows: the first and last vertex of each line along x, as doubled indices (z, y, x), which
            are whole numbers; shape (vertices, 3).
        columns: the same of each line along y.
        spacing: of the voxels along (z, y, x) in millimetres.
    """

    area: float
    volume: float
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    spacing: Spacing

    @classmethod
    def of(cls, mask: NDArray[np.bool_], spacing: Spacing) -> Mesh:
        """Return the mesh of a mask of shape (z, y, x) with at least one voxel.

        Args:
            mask: voxels inside.
            spacing: along (z, y, x) in millimetres.
        """
        inside = np.pad(np.asarray(mask), 1).view(np.uint8)
        kinds = _cubes(inside)
        z, y, x = np.nonzero((kinds != 0) & (kinds != 255))
        kind = kinds[z, y, x]
        table = _table(spacing)
        number = np.bincount(kind, minlength=256)
        volume = number @ table.volume
        for axis, position in enumerate((z, y, x)):
            # The volume of the wedge between a triangle and the origin grows with its distance.
            volume += np.bincount(kind, position, minlength=256) @ table.shift[:, axis]
        rows = _line_ends(inside)
        columns = _line_ends(inside.swapaxes(1, 2))[:, [0, 2, 1]]
        return cls(float(number @ table.area), float(volume), rows, columns, spacing)

    @cached_property
    def hull(self) -> ConvexHull:
        """The convex hull of the vertices, in millimetres."""
        # A corner of the hull is the end of its line along any axis.
        ends = _extremes(_extremes(self.rows, 1), 0)
        return ConvexHull(ends * (np.asarray(self.spacing) / 2))

    @property
    def diameter(self) -> float:
        """The largest distance of two vertices in millimetres (IBSI L0JK)."""
        return _largest(self.hull.points[self.hull.vertices])

    def diameter_in_planes(self, axis: int) -> float:
        """Return the largest distance of two vertices in one plane across an axis, in millimetres.

        Args:
            axis: of the array: 0 for slices, 1 for planes of columns, 2 for planes of rows.
        """
        kept = [a for a in range(3) if a != axis]
        spacing = np.asarray(self.spacing)[kept] / 2
        # The ends alone of each line in a plane may be on the plane's hull.
        vertices = self.columns if axis == 2 else self.rows
        vertices = vertices[np.argsort(vertices[:, axis], kind="stable")]
        starts = np.concatenate(([0], np.flatnonzero(np.diff(vertices[:, axis])) + 1))
        points = vertices[:, kept] * spacing
        bounds = _bounds(points, starts)
        planes = np.split(points, starts[1:])
        best = 0.0
        for number in np.argsort(-bounds):
            if bounds[number] <= best:
                break
            best = max(best, _largest(_outline(planes[number])))
        return best

    @property
    def box(self) -> tuple[float, float, float]:
        """Edge lengths along (z, y, x) of the smallest box around the vertices, in millimetres."""
        z, y, x = np.ptp(self.rows, axis=0) * np.asarray(self.spacing) / 2
        return float(z), float(y), float(x)


@dataclass(frozen=True)
class _Table:
    """What a cube of each kind adds.

    Attributes:
        area: in square millimetres, shape (256,).
        volume: of the wedges between its triangles and its corner in cubic millimetres.
        shift: what its volume grows by when it lies one voxel farther along (z, y, x), (256, 3).
    """

    area: NDArray[np.float64]
    volume: NDArray[np.float64]
    shift: NDArray[np.float64]


@cache
def _table(spacing: Spacing) -> _Table:
    """Ask pyradiomics' kernel about a cube of each kind, alone and behind another."""
    steps = np.asarray(spacing)

    def ask(mask: NDArray[np.bool_]) -> tuple[float, float]:
        area, volume, _ = cShape.calculate_coefficients(mask, steps)
        return float(area), float(volume)

    cubes = [_cube(kind) for kind in range(256)]
    area, volume = map(np.array, zip(*map(ask, cubes), strict=True))
    shift = np.empty((256, 3))
    for kind, axis in product(range(256), range(3)):
        cube = cubes[kind]
        face = np.take(cube, [0], axis)
        # Two cubes: the first lies between two copies of the face, the second is the one asked for.
        before = _kind(np.concatenate([face, face], axis))
        _, both = ask(np.concatenate([face, cube], axis))
        shift[kind, axis] = both - volume[before] - volume[kind]
    return _Table(area, volume, shift)


_CORNERS = tuple(product(range(2), repeat=3))


def _cube(kind: int) -> NDArray[np.bool_]:
    return np.array([bool(kind >> bit & 1) for bit in range(8)]).reshape(2, 2, 2)


def _kind(cube: NDArray[np.bool_]) -> int:
    return sum(1 << bit for bit, inside in enumerate(cube.ravel()) if inside)


def _cubes(inside: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the kind of the cube between each eight voxels."""
    kinds = np.zeros(tuple(size - 1 for size in inside.shape), np.uint8)
    for bit, corner in enumerate(_CORNERS):
        part = tuple(slice(c, c + n) for c, n in zip(corner, kinds.shape, strict=True))
        kinds |= inside[part] << bit
    return kinds


def _line_ends(inside: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the first and last vertex of each line along the last axis, as doubled indices.

    A vertex lies halfway between neighbours of which one is inside. The three kinds, by the axis
    that joins the neighbours, have no line in common.
    """
    parts = []
    for axis in range(3):
        found = np.argwhere(np.diff(inside, axis=axis))
        # They come line by line, in order.
        new = (found[1:, 0] != found[:-1, 0]) | (found[1:, 1] != found[:-1, 1])
        end = np.ones(len(found) + 1, bool)
        end[1:-1] = new
        found = found[end[1:] | end[:-1]] * 2
        found[:, axis] += 1
        parts.append(found)
    return np.concatenate(parts)


def _extremes(points: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """Return the first and the last point of each line along an axis: no other is on the hull."""
    rest = [a for a in range(points.shape[1]) if a != axis]
    order = np.lexsort((points[:, axis], *(points[:, a] for a in rest)))
    points = points[order]
    new = np.any(np.diff(points[:, rest], axis=0), axis=1)
    first = np.concatenate(([True], new))
    last = np.concatenate((new, [True]))
    return points[first | last]


def _bounds(points: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what no distance between two points of a plane exceeds.

    The line between two points is at most half a step away from one of `DIRECTIONS` directions,
    along which the points then extend by at least their distance times the cosine of that.

    Args:
        points: shape (points, 2), plane after plane.
        starts: index of each plane's first point.
    """
    angles = np.arange(DIRECTIONS) * (math.pi / DIRECTIONS)
    along = points @ np.array([np.cos(angles), np.sin(angles)])
    extents = np.maximum.reduceat(along, starts) - np.minimum.reduceat(along, starts)
    bounds = extents.max(axis=1) / math.cos(math.pi / (2 * DIRECTIONS))
    # Rounding must not take a plane away that has the largest distance.
    return np.asarray(bounds * (1 + 1e-12))


def _outline(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners of the hull of points in a plane; all of them where they lie in a line."""
    try:
        return points[ConvexHull(points).vertices] if len(points) > 3 else points
    except QhullError:
        return points


def _largest(points: NDArray[np.float64]) -> float:
    """Return the largest distance between two points; 0 for a single one."""
    if len(points) <= BLOCK:
        return float(pdist(points).max(initial=0.0))
    starts = range(0, len(points), BLOCK)
    return max(float(cdist(points[s : s + BLOCK], points[s:]).max()) for s in starts)

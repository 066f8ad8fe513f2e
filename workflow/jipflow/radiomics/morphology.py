"""Features of the shape of a region (IBSI reference manual 3.1)."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from radiomics import shape
from scipy.special import eval_legendre

from jipflow.radiomics.area import Undefined, ratio
from jipflow.radiomics.family import Pyradiomics

FLAT = 1e-10
"""Variance in square millimetres below which a region has no extent: it is rounding error."""

LEGENDRE_TERMS = 21
"""Terms of the series for the surface of an ellipsoid, as IBSI has it."""


class Shape(Pyradiomics, shape.RadiomicsShape):
    """Morphology of the outline, in millimetres."""

    more: ClassVar = {
        "VoxelVolume": lambda self: self.voxels * self.area.voxel_volume,
        "Maximum3DDiameter": lambda self: self.area.mesh.diameter,
        "Maximum2DDiameterSlice": lambda self: self.area.mesh.diameter_in_planes(0),
        "Maximum2DDiameterColumn": lambda self: self.area.mesh.diameter_in_planes(1),
        "Maximum2DDiameterRow": lambda self: self.area.mesh.diameter_in_planes(2),
        "Elongation": lambda self: self.proportion(1),
        "Flatness": lambda self: self.proportion(0),
        "SampleMajorAxisLength": lambda self: self.axes()[0],
        "SampleMinorAxisLength": lambda self: self.axes()[1],
        "SampleLeastAxisLength": lambda self: self.axes()[2],
        "Asphericity": lambda self: self.inherited("SphericalDisproportion") - 1,
        "CentreOfMassShift": lambda self: self.shift(),
        "IntegratedIntensity": lambda self: self.area.values.mean() * self.Volume,
        "VolumeDensityBoundingBox": lambda self: self.Volume / math.prod(self.area.mesh.box),
        "AreaDensityBoundingBox": lambda self: self.SurfaceArea / _box_area(*self.area.mesh.box),
        "VolumeDensityEllipsoid": lambda self: ratio(
            self.Volume, math.pi / 6 * math.prod(self.axes()), "the region is flat"
        ),
        "AreaDensityEllipsoid": lambda self: (
            self.SurfaceArea / ellipsoid_area(*(axis / 2 for axis in self.axes()))
        ),
        "VolumeDensityConvexHull": lambda self: self.Volume / self.area.mesh.hull.volume,
        "AreaDensityConvexHull": lambda self: self.SurfaceArea / self.area.mesh.hull.area,
    }

    def _initSegmentBasedCalculation(self) -> None:  # noqa: N802
        """Compute what pyradiomics' formulas take, without its search for diameters."""
        area = self.area
        self.SurfaceArea, self.Volume = area.mesh.area, area.mesh.volume
        self.voxels, self.centre, covariance = _moments(area.outline, area.spacing)
        values = np.linalg.eigvalsh(covariance)
        self.eigenValues = np.where(np.abs(values) < FLAT, 0.0, values)

    def proportion(self, axis: int) -> float:
        """Return an axis as a share of the longest, 0 for the shortest and 1 for the middle one."""
        share = ratio(self.eigenValues[axis], self.eigenValues[2], "a single voxel has no axes")
        return math.sqrt(share)

    def axes(self) -> tuple[float, float, float]:
        """Return the principal axes, longest first, of the covariance of a sample.

        IBSI's reference values divide it by one voxel less than there are, pyradiomics by all.
        """
        if self.voxels == 1:
            raise Undefined("a single voxel has no axes")
        least, minor, major = 4 * np.sqrt(self.eigenValues * self.voxels / (self.voxels - 1))
        return float(major), float(minor), float(least)

    def shift(self) -> float:
        """Return how far the centre of mass of the intensities is from that of the outline."""
        area = self.area
        weights = np.where(area.mask, area.image, 0.0)
        total = float(area.values.sum())
        moments = []
        for axis, (spacing, centre) in enumerate(zip(area.spacing, self.centre, strict=True)):
            others = tuple(other for other in range(3) if other != axis)
            places = np.arange(weights.shape[axis]) * spacing - centre
            moment = float(weights.sum(axis=others) @ places)
            moments.append(ratio(moment, total, "the intensities add up to 0"))
        return math.hypot(*moments)


def _moments(
    mask: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Return a mask's voxels, their mean place and covariance, from its sums along each axis.

    Places are in millimetres along (z, y, x); the covariance is that of a population.
    """
    counts = {kept: mask.sum(axis=3 - sum(kept)) for kept in ((0, 1), (0, 2), (1, 2))}
    voxels = int(counts[0, 1].sum())
    lines = [counts[0, 1].sum(axis=1), counts[0, 1].sum(axis=0), counts[0, 2].sum(axis=0)]
    places = [np.arange(len(line)) * step for line, step in zip(lines, spacing, strict=True)]
    centre = np.array([line @ place / voxels for line, place in zip(lines, places, strict=True)])
    off = [place - middle for place, middle in zip(places, centre, strict=True)]
    covariance = np.diag([line @ o**2 / voxels for line, o in zip(lines, off, strict=True)])
    for (i, j), table in counts.items():
        covariance[i, j] = covariance[j, i] = off[i] @ table @ off[j] / voxels
    return voxels, centre, covariance


def _box_area(z: float, y: float, x: float) -> float:
    return 2 * (z * y + z * x + y * x)


def ellipsoid_area(a: float, b: float, c: float) -> float:
    """Return the surface of an ellipsoid by the series of Legendre polynomials that IBSI has.

    IBSI's consensus values are of this series, which is exact for a sphere only.

    Args:
        a: the longest half axis.
        b: the middle one.
        c: the shortest one.

    Raises:
        Undefined: an axis has no length.
    """
    if not c:
        raise Undefined("the region is flat, so its ellipsoid has no surface")
    alpha, beta = math.sqrt(1 - (b / a) ** 2), math.sqrt(1 - (c / a) ** 2)
    product = alpha * beta
    if product:
        middle = (alpha**2 + beta**2) / (2 * product)
        powers = [product**n * eval_legendre(n, middle) for n in range(LEGENDRE_TERMS)]
    else:
        # Of a spheroid, the product's power and the polynomial's highest term cancel.
        squares = (alpha**2 + beta**2) / 4
        powers = [squares**n * math.comb(2 * n, n) for n in range(LEGENDRE_TERMS)]
    terms = [power / (1 - 4 * n**2) for n, power in enumerate(powers)]
    return 4 * math.pi * a * b * math.fsum(terms)

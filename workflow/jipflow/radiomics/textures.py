"""Textures: features of matrices of grey levels (IBSI reference manual 3.6 to 3.11)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import cc3d
import numpy as np
from numpy.typing import NDArray
from radiomics import cMatrices, glcm, gldm, glrlm, glszm, ngtdm
from scipy.ndimage import distance_transform_cdt

from jipflow.radiomics.area import Area, Levels, Undefined
from jipflow.radiomics.family import Pyradiomics


class Glcm(Pyradiomics, glcm.RadiomicsGLCM):
    """Of the co-occurrence of grey levels (IBSI 3.6)."""

    def __init__(self, area: Area) -> None:
        area.need_neighbours()
        super().__init__(area)

    guards: ClassVar = dict.fromkeys(("Correlation", "Imc1", "MCC"), Area.need_levels)
    more: ClassVar = {"MCC": lambda self: self.maximal_correlation()}

    def _calculateCoefficients(self) -> None:  # noqa: N802
        """Compute what pyradiomics' formulas share, in the shapes that they take.

        P has the shape (1, i, j, directions). pyradiomics goes through all of it once for each sum
        and each difference of two levels.
        """
        levels = self.area.levels
        p, number = self.P_glcm, levels.number
        if not np.isfinite(p).all():
            raise Undefined(
                "weightingNorm gives every direction the weight 0 at this spacing; resample to "
                "smaller voxels, or take no_weighting"
            )
        i, j = np.meshgrid(*2 * (levels.present.astype(float),), indexing="ij", sparse=True)
        sums, differences = (i + j).astype(int) - 2, np.abs(i - j).astype(int)
        eps = np.spacing(1)
        self.coefficients.update(
            eps=eps,
            i=i,
            j=j,
            kValuesSum=np.arange(2, 2 * number + 1, dtype=float),
            kValuesDiff=np.arange(number, dtype=float),
            px=p.sum(2, keepdims=True),
            py=p.sum(1, keepdims=True),
            ux=(i[None, :, :, None] * p).sum((1, 2), keepdims=True),
            uy=(j[None, :, :, None] * p).sum((1, 2), keepdims=True),
            pxAddy=_collected(p[0], sums, 2 * number - 1),
            pxSuby=_collected(p[0], differences, number),
            HXY=-(p * np.log2(p + eps)).sum((1, 2)),
        )

    def maximal_correlation(self) -> float:
        """Return the maximal correlation coefficient, the mean over directions.

        pyradiomics takes the root of the second largest eigenvalue of a matrix Q, which is that of
        A times its transpose for A = p / sqrt(px py): the second largest singular value of A.
        """
        p = self.P_glcm[0].transpose(2, 0, 1)
        # pyradiomics adds the same to what it divides by; rare levels feel it.
        eps = self.coefficients["eps"]
        scaled = p / np.sqrt(p.sum(2, keepdims=True) * p.sum(1, keepdims=True) + eps)
        # The eigenvalues of a symmetric matrix are found faster than its singular values.
        values = np.linalg.eigvalsh(scaled @ scaled.transpose(0, 2, 1))
        return float(np.sqrt(np.maximum(values[:, -2], 0)).mean())


def _collected(
    p: NDArray[np.float64], index: NDArray[np.int64], number: int
) -> NDArray[np.float64]:
    """Add up the elements of each direction that have the same index.

    Args:
        p: shape (i, j, directions).
        index: from 0, shape (i, j).
        number: of different indices.

    Returns:
        Shape (1, number, directions).
    """
    flat = index.ravel()
    sums = [np.bincount(flat, p[:, :, d].ravel(), minlength=number) for d in range(p.shape[2])]
    return np.stack(sums, axis=1, dtype=np.float64)[np.newaxis]


class Glrlm(Pyradiomics, glrlm.RadiomicsGLRLM):
    """Of the lengths of runs of a grey level (IBSI 3.7).

    Every voxel belongs to a run in each direction. pyradiomics' kernel leaves out directions in
    which no line meets the region twice, such as those across a region of one slice: there each
    voxel is a run of its own.
    """

    def _calculateMatrix(self, voxelCoordinates: None = None) -> Any:  # noqa: N802, N803
        levels, flat = self.area.textured, self.area.setting["force2D"]
        # A box of one voxel along an axis has no directions along it for the kernel.
        grey = np.pad(levels.array, [(0, int(size == 1)) for size in levels.array.shape])
        longest = max(grey.shape)
        matrix, angles = cMatrices.calculate_glrlm(grey, grey > 0, levels.number, longest, flat, 0)
        matrix = matrix[:, levels.present - 1]
        single = matrix.sum((0, 1, 2)) == 0
        counts = np.bincount(levels.array[self.area.mask])[levels.present]
        matrix[0, :, 0, single] = counts
        norm = self.area.setting.get("weightingNorm")
        if norm is not None:
            matrix = matrix @ _weights(angles, self.area.spacing, norm)[:, np.newaxis]
        self.coefficients["Nr"] = matrix.sum((1, 2))
        return matrix


def _weights(
    angles: NDArray[np.integer[Any]], spacing: tuple[float, float, float], norm: str
) -> NDArray[np.float64]:
    """Return the weight of each direction by which pyradiomics adds up matrices of run lengths.

    Args:
        angles: steps along (z, y, x), shape (directions, 3).
        spacing: along (z, y, x) in millimetres.
        norm: of the radiomics settings: the length of a step, or 1.
    """
    steps = np.abs(angles) * np.asarray(spacing)
    if norm == "no_weighting":
        return np.ones(len(steps))
    orders = {"manhattan": 1, "euclidean": 2, "infinity": np.inf}
    return np.asarray(np.linalg.norm(steps, orders[norm], axis=1))


class Glszm(Pyradiomics, glszm.RadiomicsGLSZM):
    """Of the sizes of zones of a grey level (IBSI 3.8).

    The matrix has a column for each size that occurs, where pyradiomics' kernel makes one for each
    size up to the largest.
    """

    def _calculateMatrix(self, voxelCoordinates: None = None) -> Any:  # noqa: N802, N803
        labels, levels = _zones(self.area)
        sizes = np.bincount(labels)[1:]
        self.columns, matrix = _pairs(levels, sizes, self.area.levels)
        return matrix

    def _calculateCoefficients(self) -> None:  # noqa: N802
        matrix = self.P_glszm
        self.coefficients.update(
            Np=np.full(1, float(self.area.values.size)),
            Nz=matrix.sum((1, 2)),
            ps=matrix.sum(1),
            pg=matrix.sum(2),
            ivector=self.area.levels.present.astype(float),
            jvector=self.columns.astype(float),
        )


class Gldzm(Glszm):
    """Of the distances of zones of a grey level from the outline (IBSI 3.9).

    pyradiomics has no such class. The features are those of the size zone matrix with the distance
    of a zone, in steps to a neighbouring voxel, in place of its size.
    """

    sizes: ClassVar = {
        "SmallDistanceEmphasis": "SmallAreaEmphasis",
        "LargeDistanceEmphasis": "LargeAreaEmphasis",
        "ZoneDistanceNonUniformity": "SizeZoneNonUniformity",
        "ZoneDistanceNonUniformityNormalized": "SizeZoneNonUniformityNormalized",
        "ZoneDistanceVariance": "ZoneVariance",
        "ZoneDistanceEntropy": "ZoneEntropy",
        "SmallDistanceLowGrayLevelEmphasis": "SmallAreaLowGrayLevelEmphasis",
        "SmallDistanceHighGrayLevelEmphasis": "SmallAreaHighGrayLevelEmphasis",
        "LargeDistanceLowGrayLevelEmphasis": "LargeAreaLowGrayLevelEmphasis",
        "LargeDistanceHighGrayLevelEmphasis": "LargeAreaHighGrayLevelEmphasis",
    }
    """pyradiomics' name of the formula, by ours."""

    @classmethod
    def names(cls, *, withdrawn: bool = False) -> list[str]:
        """Return the names of the features, sorted."""
        kept = set(super().names(withdrawn=withdrawn)) - set(cls.sizes.values())
        return sorted(kept | set(cls.sizes))

    def inherited(self, name: str) -> Any:
        """Compute a feature by pyradiomics' formula for sizes."""
        return super().inherited(self.sizes.get(name, name))

    def _calculateMatrix(self, voxelCoordinates: None = None) -> Any:  # noqa: N802, N803
        labels, levels = _zones(self.area)
        distances = np.full(len(levels) + 1, np.iinfo(np.int64).max)
        np.minimum.at(distances, labels, _steps(self.area)[self.area.mask])
        self.columns, matrix = _pairs(levels, distances[1:], self.area.levels)
        return matrix


def _zones(area: Area) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the zone of each voxel of the region, from 1, and the grey level of each zone.

    Zones are voxels of one grey level that touch each other, if only by a corner; within slices
    where the settings say so.
    """
    grey = area.textured.array
    if area.setting["force2D"]:
        slices, last = [], 0
        for plane in grey:
            found = cc3d.connected_components(plane, connectivity=8).astype(np.int64)
            slices.append(np.where(found > 0, found + last, 0))
            last += int(found.max())
        zones = np.stack(slices)
    else:
        zones = cc3d.connected_components(grey, connectivity=26)
    labels = zones[area.mask].astype(np.int64)
    levels = np.zeros(labels.max() + 1, np.int64)
    levels[labels] = grey[area.mask]
    return labels, levels[1:]


def _steps(area: Area) -> NDArray[np.integer[Any]]:
    """Return how many steps from voxel to voxel lead from each voxel out of the outline."""
    padded = np.pad(area.outline, 1)
    if area.setting["force2D"]:
        steps = np.stack([distance_transform_cdt(p, metric="taxicab") for p in padded])
    else:
        steps = distance_transform_cdt(padded, metric="taxicab")
    inner: NDArray[np.integer[Any]] = steps[1:-1, 1:-1, 1:-1]
    return inner


def _pairs(
    levels: NDArray[np.int64], values: NDArray[np.int64], known: Levels
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Count pairs of a grey level and a value.

    Returns:
        The values that occur, and the counts, shape (1, levels, values).
    """
    columns, column = np.unique(values, return_inverse=True)
    row = np.searchsorted(known.present, levels)
    size = (len(known.present), len(columns))
    counts = np.bincount(row * size[1] + column, minlength=math.prod(size))
    return columns, counts.reshape(1, *size).astype(float)


class Gldm(Pyradiomics, gldm.RadiomicsGLDM):
    """Of the dependence of neighbouring grey levels (IBSI 3.11).

    A voxel without neighbours depends on itself alone.
    """

    def __init__(self, area: Area) -> None:
        super().__init__(area.widened())

    more: ClassVar = {
        "DependenceEnergy": lambda self: ((self.P_gldm / self.coefficients["Nz"]) ** 2).sum(),
    }


class Ngtdm(Pyradiomics, ngtdm.RadiomicsNGTDM):
    """Of the difference between a voxel and its neighbourhood (IBSI 3.10).

    Voxels without a neighbour have no neighbourhood and do not count; pyradiomics counts them with
    a difference of 0. Where a definition divides by differences that add up to 0, it gives 0 or a
    million.
    """

    def __init__(self, area: Area) -> None:
        area.need_neighbours()
        super().__init__(area.without_lone_voxels())

    guards: ClassVar = dict.fromkeys(("Contrast", "Busyness"), Area.need_levels)
    more: ClassVar = {
        "Coarseness": lambda self: self.different("Coarseness"),
        "Strength": lambda self: self.different("Strength"),
    }

    def different(self, name: str) -> Any:
        """Compute a feature where some voxel differs from its neighbours."""
        if not (self.coefficients["p_i"] * self.coefficients["s_i"]).sum():
            raise Undefined("no voxel of the region differs from its neighbours in it")
        return self.inherited(name)

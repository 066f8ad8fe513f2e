"""Features of intensities: statistics, peaks, uptake, histograms and how alike neighbours are."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from radiomics import firstorder
from scipy.fft import irfftn, next_fast_len, rfftn

from jipflow.radiomics.area import Area, TooManyLevels, Undefined, discretise, ratio
from jipflow.radiomics.family import Family, Pyradiomics

PEAK_RADIUS = 10 * (3 / (4 * math.pi)) ** (1 / 3)
"""Radius in millimetres of a sphere of one cubic centimetre (IBSI reference manual 3.2)."""

MAX_IVH_BINS = 10_000_000
"""Bins of the intensity-volume histogram that fit in memory with ease."""


class FirstOrder(Pyradiomics, firstorder.RadiomicsFirstOrder):
    """Statistics of the intensities (IBSI 3.3); entropy and uniformity are of their grey levels."""

    textured = False
    guards: ClassVar = dict.fromkeys(("Skewness", "Kurtosis", "ExcessKurtosis"), Area.need_contrast)
    more: ClassVar = {
        "Skewness": lambda self: _standardised_moment(self.area.values, 3),
        "Kurtosis": lambda self: _standardised_moment(self.area.values, 4),
        "ExcessKurtosis": lambda self: _standardised_moment(self.area.values, 4) - 3,
        "MedianAbsoluteDeviation": lambda self: _median_deviation(self.area.values),
        "CoefficientOfVariation": lambda self: ratio(
            self.area.values.std(), self.area.values.mean(), "the mean intensity is 0"
        ),
        "QuartileCoefficientOfDispersion": lambda self: _dispersion(self.area.values),
    }


def _median_deviation(values: NDArray[np.float64]) -> float:
    return float(np.abs(values - np.median(values)).mean())


def _dispersion(values: NDArray[np.float64]) -> float:
    low, high = np.percentile(values, (25, 75))
    return ratio(high - low, high + low, "the quartiles add up to 0")


def _standardised_moment(values: NDArray[np.float64], order: int) -> float:
    """Return the standardised central moment of order 3 or 4."""
    deviations = values - values.mean()
    squares = deviations * deviations
    # Products are many times as fast as powers.
    powers = squares * (deviations if order == 3 else squares)
    return float(powers.mean() / squares.mean() ** (order / 2))


class Histogram(Family):
    """Statistics of the grey levels (IBSI 3.4), but for entropy and uniformity."""

    guards: ClassVar = dict.fromkeys(("Skewness", "ExcessKurtosis"), Area.need_levels)
    more: ClassVar = {
        "Mean": lambda self: self.levels.mean(),
        "Variance": lambda self: self.levels.var(),
        "Skewness": lambda self: _standardised_moment(self.levels, 3),
        "ExcessKurtosis": lambda self: _standardised_moment(self.levels, 4) - 3,
        "Median": lambda self: np.median(self.levels),
        "Minimum": lambda self: self.levels.min(),
        "10Percentile": lambda self: np.percentile(self.levels, 10),
        "90Percentile": lambda self: np.percentile(self.levels, 90),
        "Maximum": lambda self: self.levels.max(),
        "Mode": lambda self: self.mode(),
        "InterquartileRange": lambda self: np.subtract(*np.percentile(self.levels, (75, 25))),
        "Range": lambda self: np.ptp(self.levels),
        "MeanAbsoluteDeviation": lambda self: np.abs(self.levels - self.levels.mean()).mean(),
        "RobustMeanAbsoluteDeviation": lambda self: self.robust_deviation(),
        "MedianAbsoluteDeviation": lambda self: _median_deviation(self.levels),
        "CoefficientOfVariation": lambda self: self.levels.std() / self.levels.mean(),
        "QuartileCoefficientOfDispersion": lambda self: _dispersion(self.levels),
        "MaximumGradient": lambda self: self.gradient().max(),
        "MaximumGradientLevel": lambda self: self.gradient().argmax() + 1,
        "MinimumGradient": lambda self: self.gradient().min(),
        "MinimumGradientLevel": lambda self: self.gradient().argmin() + 1,
    }

    def prepare(self) -> None:
        """Take the level of each voxel, and count the voxels of each level, empty ones as well."""
        levels = self.area.textured
        inside = levels.array[self.area.mask]
        self.levels = inside.astype(float)
        self.counts = np.bincount(inside, minlength=levels.number + 1)[1:]

    def mode(self) -> int:
        """Return the most frequent level; of several, the one nearest to the mean."""
        most = np.flatnonzero(self.counts == self.counts.max()) + 1
        return int(most[np.argmin(np.abs(most - self.levels.mean()))])

    def robust_deviation(self) -> float:
        """Return the mean absolute deviation of levels between the 10th and 90th percentile."""
        low, high = np.percentile(self.levels, (10, 90))
        kept = self.levels[(self.levels >= low) & (self.levels <= high)]
        return float(np.abs(kept - kept.mean()).mean())

    def gradient(self) -> NDArray[np.float64]:
        """Return the slope of the histogram at each level."""
        if len(self.counts) < 2:
            raise Undefined("a histogram of one grey level has no gradient")
        return np.gradient(self.counts.astype(float))


class Ivh(Family):
    """The intensity-volume histogram (IBSI 3.5)."""

    more: ClassVar = {
        "VolumeFraction10": lambda self: self.volume_at(0.10),
        "VolumeFraction90": lambda self: self.volume_at(0.90),
        "VolumeFractionDifference": lambda self: self.volume_at(0.10) - self.volume_at(0.90),
        "Intensity10": lambda self: self.intensity_at(0.10),
        "Intensity90": lambda self: self.intensity_at(0.90),
        "IntensityDifference": lambda self: self.intensity_at(0.10) - self.intensity_at(0.90),
    }

    def prepare(self) -> None:
        """Compute the share of the volume that has at least each intensity."""
        self.area.need_contrast()
        self.intensities, counts = _ivh_bins(self.area)
        self.volume = 1 - np.concatenate(([0], np.cumsum(counts)[:-1])) / counts.sum()
        low, high = self.intensities[0], self.intensities[-1]
        self.fraction = (self.intensities - low) / (high - low)

    def volume_at(self, fraction: float) -> float:
        """Return the share of the volume that reaches a fraction of the range of intensities."""
        return float(self.volume[self.fraction >= fraction].max(initial=0.0))

    def intensity_at(self, share: float) -> float:
        """Return the least intensity that at most this share of the volume has."""
        few = self.intensities[self.volume <= share]
        # The step beyond the highest intensity has no volume at all.
        return float(few.min()) if few.size else 2 * self.intensities[-1] - self.intensities[-2]


def _ivh_bins(area: Area) -> tuple[NDArray[np.floating[Any]], NDArray[np.integer[Any]]]:
    """Return the intensities of the histogram's bins, rising, and the voxels in each."""
    values, ivh = area.values, area.ivh or {}
    if "count" in ivh:
        levels = discretise(values, {"binCount": ivh["count"]}, None)
        return np.arange(1.0, ivh["count"] + 1), np.bincount(levels, minlength=ivh["count"] + 1)[1:]
    whole = "width" not in ivh and bool((values == np.rint(values)).all())
    if "width" not in ivh and not whole:
        return np.unique(values, return_counts=True)
    # Whole numbers are their own bins; else a bin stands for the intensity in its middle.
    width, middle = (1.0, 0.0) if whole else (float(ivh["width"]), 0.5)
    start = float(values.min()) if area.lowest is None else area.lowest
    end = float(values.max()) if area.highest is None else area.highest
    number = math.ceil((end - start) / width) + whole
    if number > MAX_IVH_BINS:
        raise TooManyLevels(
            f"{number:,} bins of the intensity-volume histogram, more than {MAX_IVH_BINS:,}; "
            "choose a wider ivh.width or an ivh.count"
        )
    index = np.floor((values - start) / width).astype(np.int64)
    counts = np.bincount(index, minlength=max(number, 2))
    return start + (np.arange(len(counts)) + middle) * width, counts


class LocalIntensity(Family):
    """Peaks in a sphere of one cubic centimetre (IBSI 3.2); of SUV the global is SUVpeak."""

    more: ClassVar = {
        "LocalPeak": lambda self: self.means[self.area.values == self.area.values.max()].max(),
        "GlobalPeak": lambda self: self.means.max(),
    }

    def prepare(self) -> None:
        """Compute the mean in the sphere around each voxel of the region, as far as the image goes.

        The surroundings must reach one radius beyond the region, or to the image's edge.
        """
        area = self.area
        around = area.image if area.surroundings is None else area.surroundings
        reach = [int(PEAK_RADIUS // step) for step in area.spacing]
        grid = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
        squares = sum((g * s) ** 2 for g, s in zip(grid, area.spacing, strict=True))
        sphere = (squares <= PEAK_RADIUS**2).astype(float)
        known = np.isfinite(around)
        total, number = convolved(sphere, np.where(known, around, 0.0), known.astype(float))
        count = np.rint(number)
        inner = tuple(slice(o, o + n) for o, n in zip(area.offset, area.mask.shape, strict=True))
        self.means = total[inner][area.mask] / count[inner][area.mask]


def convolved(
    kernel: NDArray[np.float64], *several: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Convolve arrays with a kernel of odd shape, 0 beyond their edges, by Fourier transforms.

    As `scipy.signal.fftconvolve` does it, whose module takes half a second to import, and which
    transforms the kernel anew for each array. Padding is as wide as half of the kernel: what wraps
    around comes to lie outside of what is returned.

    Args:
        kernel: shape (z, y, x), each number odd; its centre is its middle voxel.
        several: of one shape (z, y, x).

    Returns:
        An array of that shape for each.
    """
    shapes = list(zip(several[0].shape, kernel.shape, strict=True))
    sizes = [next_fast_len(max(v + k // 2, k), real=True) for v, k in shapes]
    middle = tuple(slice(k // 2, k // 2 + v) for v, k in shapes)
    transformed = rfftn(kernel, sizes)
    return [np.asarray(irfftn(rfftn(v, sizes) * transformed, sizes)[middle]) for v in several]


class Spatial(Family):
    """How alike intensities are that lie close together (IBSI 3.1: Moran's I and Geary's C).

    Both sum over all pairs of voxels, weighted by the inverse of their distance; the sums are
    convolutions.
    """

    more: ClassVar = {
        "MoranI": lambda self: self.likeness(),
        "GearyC": lambda self: self.contrast(),
    }

    def prepare(self) -> None:
        """Sum the weights and the weighted deviations around each voxel of the region."""
        area = self.area
        area.need_contrast()
        grid = np.ogrid[tuple(slice(1 - n, n) for n in area.mask.shape)]
        distance = np.sqrt(sum((g * s) ** 2 for g, s in zip(grid, area.spacing, strict=True)))
        weights = np.divide(1.0, distance, out=np.zeros_like(distance), where=distance > 0)
        spread = np.where(area.mask, area.image - area.values.mean(), 0.0)
        self.deviations = spread[area.mask]
        around = convolved(weights, area.mask.astype(float), spread)
        self.weights, self.weighted = (each[area.mask] for each in around)

    def likeness(self) -> float:
        """Return Moran's I."""
        d = self.deviations
        return float(d.size * (d @ self.weighted) / (self.weights.sum() * (d @ d)))

    def contrast(self) -> float:
        """Return Geary's C."""
        d = self.deviations
        squares = 2 * (d**2 @ self.weights - d @ self.weighted)
        return float((d.size - 1) * squares / (2 * self.weights.sum() * (d @ d)))


class Uptake(Family):
    """Metabolic tumour volume (MTV, in millilitres) and total lesion glycolysis (TLG)."""

    more: ClassVar = {
        "MTV": lambda self: self.volume,
        "TLG": lambda self: self.area.values.mean() * self.volume,
    }
    of_nothing: ClassVar = {"MTV": 0.0, "TLG": 0.0}

    def prepare(self) -> None:
        """Measure the voxels that count."""
        self.volume = self.area.values.size * self.area.voxel_volume / 1000

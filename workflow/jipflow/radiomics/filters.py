"""The images that features are computed on: the original, and filters of it.

Filters are pyradiomics', and two of IBSI's. Each gives on a part of an image what it gives on the
whole: it takes as much of the surroundings as that needs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pywt
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from jipflow.radiomics.area import Undefined
from jipflow.radiomics.grid import Box, MeasuringGrid
from jipflow.settings.features import ibsi_log_name, ibsi_mean_name, log_name, wavelet_name

LOG_REACH = 20
"""Standard deviations beyond which nothing reaches through ITK's recursive Gaussian: its slowest
pole decays by exp(-1.3732 d / sigma) (Deriche 1993, "Recursively implementing the Gaussian and its
derivatives", as in itkRecursiveGaussianImageFilter), which at 20 is below 2e-12."""

SMALLEST_LOG = 4
"""Voxels along each axis that ITK's recursive filters need."""


@dataclass(frozen=True)
class SampledSeries:
    """A series on its measuring grid, from which any box can be had.

    Attributes:
        array: the whole image, shape (z, y, x).
        grid: what it is measured on.
        interpolation: ``linear`` or ``cubic``.
        round: to whole numbers after interpolation.
        shift: taken from each intensity before it is interpolated.
        scale: that it is then multiplied with.
        limit: the largest magnitude that a normalised intensity keeps.
    """

    array: NDArray[np.generic]
    grid: MeasuringGrid
    interpolation: str = "linear"
    round: bool = False
    shift: float = 0.0
    scale: float = 1.0
    limit: float = math.inf

    def box(self, box: Box) -> NDArray[np.float64]:
        """Return the image on a box of the measuring grid."""
        return self._finished(self.grid.image(self._normalised, box, self.interpolation))

    def wrapped(self, box: Box, margin: tuple[int, int, int]) -> NDArray[np.float64]:
        """Return the image on a box and a margin, going on from the other side at its edge.

        That is how a periodic wavelet transform sees it. An odd axis is one voxel longer, which
        repeats the first one, as pyradiomics does it.
        """
        runs = [
            _runs(np.arange(part.start - more, part.stop + more) % (size + size % 2), size)
            for part, more, size in zip(box, margin, self.grid.shape, strict=True)
        ]
        shape = tuple(sum(part.stop - part.start for part in axis) for axis in runs)
        values = np.empty(shape)
        for parts in product(*(_placed(axis) for axis in runs)):
            places, sources = zip(*parts, strict=True)
            values[places] = self.box(sources)
        return values

    @property
    def exact(self) -> bool:
        """Whether its values are the image's own, neither normalised nor resampled."""
        return self.grid.same and self.shift == 0.0 and self.scale == 1.0

    @cached_property
    def peak(self) -> float:
        """The largest magnitude in the whole image, which scales pyradiomics' pointwise filters."""
        everything = self.box(tuple(slice(0, size) for size in self.grid.shape))  # type: ignore[arg-type]
        peak = float(np.abs(everything).max())
        if not peak:
            raise Undefined("the whole image is 0, so it cannot be scaled by its largest value")
        return peak

    @cached_property
    def _normalised(self) -> NDArray[np.generic]:
        """The image shifted, scaled and cut off at the limit."""
        if self.shift == 0.0 and self.scale == 1.0:
            return self.array
        values = (self.array.astype(np.float64) - self.shift) * self.scale
        return np.clip(values, -self.limit, self.limit) if math.isfinite(self.limit) else values

    def _finished(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.rint(values) if self.round and not self.grid.same else values


def _runs(positions: NDArray[np.int64], size: int) -> list[slice]:
    """Split positions on an axis into runs that follow each other; `size` stands for 0."""
    wrapped = np.where(positions == size, 0, positions)
    starts = np.concatenate(([0], np.flatnonzero(np.diff(wrapped) != 1) + 1, [len(wrapped)]))
    return [
        slice(int(wrapped[low]), int(wrapped[high - 1]) + 1)
        for low, high in itertools.pairwise(starts)
    ]


def _placed(runs: Sequence[slice]) -> list[tuple[slice, slice]]:
    """Return where each run stands when they are put one after the other, and the run."""
    ends = list(itertools.accumulate(run.stop - run.start for run in runs))
    return [
        (slice(end - (run.stop - run.start), end), run) for end, run in zip(ends, runs, strict=True)
    ]


Filtered = tuple[str, NDArray[np.float64] | ValueError]


def filtered(
    source: SampledSeries, box: Box, kind: str, options: Mapping[str, Any], *, slices: bool
) -> Iterator[Filtered]:
    """Filter a box of an image.

    Args:
        source: the image.
        box: of its measuring grid.
        kind: the filter's name in radiomics settings, such as ``LoG``.
        options: of the filter.
        slices: wavelets within slices alone.

    Yields:
        The name of each image that the filter gives, and its values on the box, or an
        error that says why it gives none.
    """
    if kind == "LoG":
        for sigma in options["sigma"]:
            yield log_name(sigma), _attempt(_laplacian, source, box, float(sigma))
    elif kind == "IBSILoG":
        for sigma in options["sigma"]:
            values = _ibsi_laplacian(source, box, float(sigma), float(options["truncate"]))
            yield ibsi_log_name(sigma), values
    elif kind == "IBSIMean":
        yield ibsi_mean_name(options["support"]), _ibsi_mean(source, box, options["support"])
    elif kind == "Wavelet":
        yield from _wavelets(source, box, options, slices)
    else:
        yield kind.lower(), _attempt(SINGLE[kind], source, box)


def reach_of_filter(
    kind: str, options: Mapping[str, Any], spacing: tuple[float, float, float]
) -> tuple[int, int, int]:
    """Return how many voxels along (z, y, x) around a box a filter takes as well."""
    if kind in ("LoG", "IBSILoG"):
        sigmas = LOG_REACH if kind == "LoG" else options["truncate"]
        z, y, x = (math.ceil(sigmas * max(options["sigma"]) / step) for step in spacing)
        return z, y, x
    if kind == "Wavelet":
        width = pywt.Wavelet(options["wavelet"]).dec_len
        reach = width * (options["start_level"] + options["level"])
    else:
        reach = options["support"] // 2 if kind == "IBSIMean" else int(kind == "Gradient")
    return reach, reach, reach


def _attempt(
    work: Callable[..., NDArray[np.float64]], *arguments: Any
) -> NDArray[np.float64] | ValueError:
    try:
        return work(*arguments)
    except ValueError as error:
        return error


def _laplacian(source: SampledSeries, box: Box, sigma: float) -> NDArray[np.float64]:
    """Return the Laplacian of Gaussian, times sigma squared, by ITK's recursive filter."""
    spacing = source.grid.spacing
    smallest = tuple(max(SMALLEST_LOG, math.ceil(sigma / s) + 1) for s in spacing)
    if any(size < least for size, least in zip(source.grid.shape, smallest, strict=True)):
        raise Undefined(
            f"an image of {source.grid.shape} voxels (z, y, x) is too small for a Laplacian of "
            f"Gaussian of {sigma:g} mm, which needs {smallest}"
        )
    wide = source.grid.widened(box, reach_of_filter("LoG", {"sigma": [sigma]}, spacing))
    # ITK computes in single precision, whatever it is given.
    image = _image(source.box(wide).astype(np.float32), spacing)
    laplacian = sitk.LaplacianRecursiveGaussian(image, sigma, normalizeAcrossScale=True)
    return _inner(sitk.GetArrayViewFromImage(laplacian), wide, box)


def _ibsi_laplacian(
    source: SampledSeries, box: Box, sigma: float, truncate: float
) -> NDArray[np.float64]:
    """Return the Laplacian of Gaussian of IBSI's second reference manual, per square millimetre.

    By kernels that are sampled and cut off at `truncate` sigma, mirrored at the image's edge.
    """
    spacing = source.grid.spacing
    sigmas = [sigma / step for step in spacing]
    reach = reach_of_filter("IBSILoG", {"sigma": [sigma], "truncate": truncate}, spacing)
    wide = source.grid.widened(box, reach)
    values = source.box(wide)
    total = np.zeros(values.shape)
    for axis, step in enumerate(spacing):
        order = [2 if other == axis else 0 for other in range(3)]
        total += gaussian_filter(values, sigmas, order, mode="reflect", truncate=truncate) / step**2
    return _inner(total, wide, box)


def _ibsi_mean(source: SampledSeries, box: Box, support: int) -> NDArray[np.float64]:
    """Return the mean over a cube of an odd number of voxels, mirrored at the image's edge."""
    half = support // 2
    wide = source.grid.widened(box, (half, half, half))
    return _inner(uniform_filter(source.box(wide), support, mode="reflect"), wide, box)


def _wavelets(
    source: SampledSeries, box: Box, options: Mapping[str, Any], slices: bool
) -> Iterator[Filtered]:
    """Yield the stationary wavelet transform, details of each level and the last approximation."""
    wavelet = pywt.Wavelet(options["wavelet"])
    axes = (2, 1) if slices else (2, 1, 0)
    last = options["start_level"] + options["level"]
    reaches = tuple(
        reach if axis in axes else 0
        for axis, reach in enumerate(reach_of_filter("Wavelet", options, source.grid.spacing))
    )
    # The transform takes an even number of voxels.
    even = tuple(
        slice(part.start, part.stop + (part.stop - part.start) % 2 if axis in axes else part.stop)
        for axis, part in enumerate(box)
    )
    data = source.wrapped(even, reaches)  # type: ignore[arg-type]
    if source.array.dtype == np.float32 and source.exact:
        # pyradiomics' transform keeps single precision.
        data = data.astype(np.float32)
    inner = tuple(
        slice(more, more + part.stop - part.start) for more, part in zip(reaches, box, strict=True)
    )
    for level in range(last):
        (parts,) = pywt.swtn(data, wavelet, level=1, axes=axes)
        data = parts.pop("a" * len(axes))
        if level < options["start_level"]:
            continue
        number = level - options["start_level"] + 1
        for name, values in parts.items():
            yield (
                wavelet_name(number, name.replace("a", "L").replace("d", "H")),
                np.array(values[inner], dtype=np.float64),
            )
    yield wavelet_name(options["level"], "L" * len(axes)), np.array(data[inner], dtype=np.float64)


def _gradient(source: SampledSeries, box: Box) -> NDArray[np.float64]:
    wide = source.grid.widened(box, (1, 1, 1))
    gradient = sitk.GradientMagnitude(_image(source.box(wide), source.grid.spacing))
    return _inner(sitk.GetArrayViewFromImage(gradient), wide, box)


def _square(source: SampledSeries, box: Box) -> NDArray[np.float64]:
    return (source.box(box) / math.sqrt(source.peak)) ** 2


def _square_root(source: SampledSeries, box: Box) -> NDArray[np.float64]:
    values = source.box(box)
    return np.sign(values) * np.sqrt(np.abs(values) * source.peak)


def _logarithm(source: SampledSeries, box: Box) -> NDArray[np.float64]:
    values = source.box(box)
    return np.sign(values) * np.log1p(np.abs(values)) * (source.peak / math.log1p(source.peak))


def _exponential(source: SampledSeries, box: Box) -> NDArray[np.float64]:
    return np.exp(source.box(box) * (math.log(source.peak) / source.peak))


SINGLE: dict[str, Callable[[SampledSeries, Box], NDArray[np.float64]]] = {
    "Gradient": _gradient,
    "Square": _square,
    "SquareRoot": _square_root,
    "Logarithm": _logarithm,
    "Exponential": _exponential,
}


def _image(values: NDArray[np.generic], spacing: tuple[float, float, float]) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing[::-1])
    return image


def _inner(values: NDArray[np.generic], wide: Box, box: Box) -> NDArray[np.float64]:
    """Return the part of a wide box that is `box`, as a copy in double precision."""
    part = tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(box, wide, strict=True))
    return np.array(values[part], dtype=np.float64)

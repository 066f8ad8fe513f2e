"""Engine `threshold`: what reaches an intensity, by connected components.

The baseline of nuclear medicine, and with organs taken out the whole-body tumour burden. Methods
that the field uses, and the keys that give them:

- a fixed SUV, such as 4.0 for lymphoma (Barrington et al., J Nucl Med 2021;62:332-337) or 3.0 for
  bone in PSMA-PET (qPSMA: Gafita et al., J Nucl Med 2019;60:1277-1283): ``above``; a window of HU
  has ``below`` as well;
- a share of each lesion's maximum, 41 % or 50 % (EANM guideline: Boellaard et al., Eur J Nucl Med
  Mol Imaging 2015;42:328-354): ``of_maximum``;
- the uptake of a reference region, such as the liver in PERCIST (Wahl et al., J Nucl Med
  2009;50:122S-150S) and qPSMA: ``reference``;
- lesions of bone apart from those of soft tissue, and physiological uptake taken out: ``within``
  and ``exclude``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import jipflow
from jipflow.images.masks import Region, Segmentation, bounding_box, components, cropped
from jipflow.images.resample import covered, resample_mask
from jipflow.images.volume import Grid, Volume
from jipflow.reasons import CaseFault, Reason
from jipflow.segment.engine import Engine, Inputs
from jipflow.segment.engines.threshold.settings import (
    Place,
    Reference,
    ThresholdSegment,
    ThresholdSegmentation,
)

Mask = NDArray[np.bool_]

FORMULAS: dict[str, Callable[[float, float], float]] = {
    "mean": lambda mean, deviation: mean,
    "percist": lambda mean, deviation: 1.5 * mean + 2 * deviation,
    "qpsma": lambda mean, deviation: 4.30 / mean * (mean + deviation),
}
"""The threshold from a reference region's mean and standard deviation.

* ``percist``: 1.5 times the mean of a sphere of 3 cm in the liver, and 2 standard deviations (Wahl
  et al. 2009, "From RECIST to PERCIST", J Nucl Med 50:122S-150S). It is of SUV by lean body mass;
  SUV by body weight gives the same voxels, since one is a multiple of the other in each patient.
* ``qpsma``: of lesions in soft tissue, by the liver (Gafita et al. 2019, "qPSMA: semiautomatic
  software for whole-body tumor burden assessment in prostate cancer using 68Ga-PSMA11 PET/CT",
  J Nucl Med 60:1277-1283).
"""


@dataclass(frozen=True)
class Statistics:
    """What a reference region says.

    Attributes:
        mean: of its voxels' intensities.
        deviation: their standard deviation, divided by their number.
        voxels: how many there are.
    """

    mean: float
    deviation: float
    voxels: int


class Threshold(Engine[ThresholdSegmentation]):
    """Connected components of the voxels that reach every threshold of a segment."""

    def regions(self, inputs: Inputs, found: Any) -> Iterator[Region]:
        """Find the segments one by one.

        Raises:
            CaseFault: a reference region has no voxel on the image, or nothing there but 0; or the
                image of another segmentation lies wholly outside this one.
        """
        volume = inputs.volume(self.spec.role)
        places = Places(inputs, volume.grid)
        for wanted in self.spec.segments:
            region = cropped(
                Region(
                    wanted.name,
                    wanted.term,
                    self._segment(wanted, volume, places, inputs),
                    "AUTOMATIC",
                    "jipflow threshold",
                    jipflow.__version__,
                )
            )
            if region.mask.size:
                yield region

    def _segment(
        self, wanted: ThresholdSegment, volume: Volume, places: Places, inputs: Inputs
    ) -> Mask:
        notes = inputs.notes
        low = -np.inf if wanted.above is None else wanted.above
        high = np.inf if wanted.below is None else wanted.below
        if wanted.reference is not None:
            found = self._reference(wanted.name, wanted.reference, volume, places, notes)
            low = max(low, found)
        with np.errstate(invalid="ignore"):
            mask = np.greater_equal(volume.array, low) & np.less_equal(volume.array, high)
        reached = int(np.count_nonzero(mask))
        others = [*([wanted.within] if wanted.within else []), *wanted.exclude]
        for identifier in dict.fromkeys(entry.segmentation for entry in others):
            beyond = np.count_nonzero(mask & ~places.covered(identifier))
            if beyond:
                notes.append(
                    f"{wanted.name}: {beyond * volume.grid.voxel_volume / 1000:.3g} ml that "
                    f"reach the threshold lie beyond the image of {identifier!r}, which has no "
                    "mask there."
                )
        if wanted.within is not None:
            mask &= places.mask(wanted.within)
        for entry in wanted.exclude:
            place = places.mask(entry)
            if entry.remove == "voxels":
                mask &= ~place
            else:
                mask = without_components(mask, volume.array, place)
        if wanted.of_maximum is not None:
            mask = cut_components(mask, volume.array, wanted.of_maximum)
        smallest = wanted.smallest_ml * 1000 / volume.grid.voxel_volume
        kept = largest_components(mask, smallest, wanted.largest)
        if not kept.any():
            inputs.empty[wanted.name] = _why_empty(wanted, volume, mask, reached, (low, high))
        return kept

    def _reference(
        self, wanted: str, entry: Reference, volume: Volume, places: Places, notes: list[str]
    ) -> float:
        """Return the least intensity that a reference region gives the segment of a name."""
        name = f"{entry.segment!r} of {entry.segmentation!r}"
        region = places.mask(Place(segmentation=entry.segmentation, segments=[entry.segment]))
        if entry.sphere_mm is not None:
            region, fits = sphere_within(region, volume.grid, entry.sphere_mm / 2)
            if not fits:
                notes.append(
                    f"{wanted}: a sphere of {entry.sphere_mm:g} mm does not fit into "
                    f"{name}; its part inside is the reference."
                )
        found = statistics(volume.array[region])
        if found is None or found.mean == 0:
            raise CaseFault(
                Reason.NO_REFERENCE,
                f"case {places.case_id}: the reference of {wanted!r}, {name}, "
                + ("has mean 0" if found else "has no voxel that is a number")
                + f" on the image of {self.spec.role}; look at whether it lies on the image.",
            )
        threshold = entry.times * FORMULAS[entry.formula](found.mean, found.deviation)
        notes.append(
            f"{wanted}: from {threshold:.4g} by {entry.formula} of {name} "
            f"(mean {found.mean:.4g}, SD {found.deviation:.4g}, {found.voxels} voxels)."
        )
        return threshold


def _why_empty(
    wanted: ThresholdSegment,
    volume: Volume,
    mask: Mask,
    reached: int,
    limits: tuple[float, float],
) -> str:
    """Say what was there of a segment without a voxel.

    Args:
        wanted: the segment.
        volume: what it was looked for on.
        mask: of it before small components were left out.
        reached: voxels within the limits, before places were taken into account.
        limits: least and greatest intensity.
    """
    ml = volume.grid.voxel_volume / 1000
    if not reached:
        there = volume.array[np.isfinite(volume.array)]
        span = f"{there.min():.4g} to {there.max():.4g}" if there.size else "no number"
        return (
            f"{wanted.name}: no voxel has an intensity from {limits[0]:.4g} to {limits[1]:.4g}; "
            f"the image has {span}."
        )
    if not mask.any():
        return (
            f"{wanted.name}: {reached * ml:.3g} ml have an intensity from {limits[0]:.4g} to "
            f"{limits[1]:.4g}, and none of it lies where within and exclude leave it."
        )
    labels, count = components(mask)
    largest = int(np.bincount(labels[mask])[1:].max())
    return (
        f"{wanted.name}: the largest of {count} components has {largest * ml:.4g} ml, less than "
        f"smallest_ml, which is {wanted.smallest_ml:g}."
    )


class Places:
    """Segments of the case's other segmentations, on the grid that is segmented.

    Args:
        inputs: of the case.
        grid: of the image that is segmented.
    """

    def __init__(self, inputs: Inputs, grid: Grid) -> None:
        self.case_id = inputs.case.case_id
        self._inputs = inputs
        self._grid = grid
        self._read: dict[str, Segmentation] = {}
        self._covered: dict[str, Mask] = {}
        self._masks: dict[tuple[str, tuple[str, ...], float], Mask] = {}

    def mask(self, entry: Place) -> Mask:
        """Return the union of segments, grown; a segment that the case lacks adds a note."""
        key = (entry.segmentation, tuple(entry.segments), float(entry.grow_mm))
        if key not in self._masks:
            self._masks[key] = self._made(*key)
        return self._masks[key]

    def covered(self, identifier: str) -> Mask:
        """Return the voxels that lie in the image of a segmentation.

        Raises:
            CaseFault: none does.
        """
        if identifier not in self._covered:
            inside = covered(self._segmentation(identifier).grid, self._grid)
            if not inside.any():
                raise CaseFault(
                    Reason.IMAGES_APART,
                    f"case {self.case_id}: the image of {identifier!r} lies wholly outside that "
                    f"of {self._inputs.spec.role}; look whether both are of one examination "
                    "and share a frame of reference.",
                )
            self._covered[identifier] = inside
        return self._covered[identifier]

    def _segmentation(self, identifier: str) -> Segmentation:
        if identifier not in self._read:
            self._read[identifier] = self._inputs.segmentation(identifier).without_empty()
        return self._read[identifier]

    def _made(self, identifier: str, names: tuple[str, ...], grow_mm: float) -> Mask:
        segmentation = self._segmentation(identifier)
        chosen = [segment for segment in segmentation.segments if segment.name in names]
        absent = sorted(set(names) - {segment.name for segment in chosen})
        if absent:
            self._inputs.notes.append(f"{identifier} has no voxel of: {', '.join(absent)}.")
        union = np.zeros(segmentation.grid.shape, bool)
        for number, layer in enumerate(segmentation.layers):
            labels = [segment.label for segment in chosen if segment.layer == number]
            union |= np.isin(layer, labels)
        return grown(resample_mask(union, segmentation.grid, self._grid), self._grid, grow_mm)


def grown(mask: Mask, grid: Grid, distance: float) -> Mask:
    """Return a mask with every voxel whose centre is no farther from one of its own.

    Args:
        mask: shape (z, y, x) of the grid.
        grid: where the voxels are.
        distance: in millimetres.
    """
    if distance == 0 or not mask.any():
        return mask
    margins = [int(distance / step) + 1 for step in grid.spacing]
    box = tuple(
        slice(max(part.start - more, 0), part.stop + more)
        for part, more in zip(bounding_box(mask), margins, strict=True)
    )
    wide = mask.copy()
    away = ndimage.distance_transform_edt(~mask[box], sampling=grid.spacing)
    wide[box] = away <= distance
    return wide


def sphere_within(mask: Mask, grid: Grid, radius: float) -> tuple[Mask, bool]:
    """Return the voxels of a mask in a sphere around its innermost voxel.

    The innermost is the one farthest from the outside, the image's edge being outside as well; the
    first of several. In a liver it lies in the right lobe, where PERCIST wants its sphere.

    Args:
        mask: shape (z, y, x) of the grid.
        grid: where the voxels are.
        radius: in millimetres.

    Returns:
        The voxels, and whether the whole sphere lies in the mask.
    """
    box = bounding_box(mask)
    inside = np.pad(mask[box], 1)
    if not inside.any():
        return mask, False
    depth = ndimage.distance_transform_edt(inside, sampling=grid.spacing)
    centre = np.unravel_index(int(depth.argmax()), depth.shape)
    axes = np.ogrid[tuple(slice(n) for n in inside.shape)]
    away = sum(((a - c) * s) ** 2 for a, c, s in zip(axes, centre, grid.spacing, strict=True))
    found = np.zeros_like(mask)
    found[box] = (inside & (away <= radius**2))[1:-1, 1:-1, 1:-1]
    return found, bool(depth[centre] > radius)


def statistics(values: NDArray[np.generic]) -> Statistics | None:
    """Return the statistics of the intensities that are numbers; None where there is none."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return None
    return Statistics(float(finite.mean()), float(finite.std()), finite.size)


def without_components(mask: Mask, image: NDArray[np.generic], place: Mask) -> Mask:
    """Return a mask without the components that have their maximum in a place.

    So uptake that spills over the outline of an organ goes with it, and a lesion that touches an
    organ stays where it is the brighter of the two; else it is lost with the organ.

    Args:
        mask: shape (z, y, x).
        image: intensities of that shape.
        place: of that shape.
    """
    labels, number = components(mask)
    tops = _maxima(labels, number, image)
    both = mask & place
    owners = labels[both]
    gone = np.zeros(number + 1, bool)
    gone[owners[image[both] == tops[owners]]] = True
    return mask & ~gone[labels]


def cut_components(mask: Mask, image: NDArray[np.generic], share: float) -> Mask:
    """Return the voxels of each component that reach a share of the component's maximum.

    Args:
        mask: shape (z, y, x).
        image: intensities of that shape.
        share: of the maximum.
    """
    labels, number = components(mask)
    limits = share * _maxima(labels, number, image)
    kept = mask.copy()
    kept[mask] = image[mask] >= limits[labels[mask]]
    return kept


def largest_components(mask: Mask, smallest: float, number: int | None) -> Mask:
    """Return a mask with its larger components.

    Args:
        mask: shape (z, y, x).
        smallest: fewest voxels that a component is kept with.
        number: how many of the largest are kept, the first of those of one size; None for all.
    """
    labels, count = components(mask)
    sizes = np.bincount(labels[mask], minlength=count + 1)
    order = np.argsort(-sizes[1:], kind="stable")[:number] + 1
    kept = np.zeros(count + 1, bool)
    kept[order] = sizes[order] >= smallest - 1e-6
    return kept[labels]


def _maxima(
    labels: NDArray[np.unsignedinteger[Any]], number: int, image: NDArray[np.generic]
) -> NDArray[np.float64]:
    """Return the highest intensity of each component, by its number; that of 0 has no meaning."""
    inside = labels > 0
    tops = np.full(number + 1, -np.inf)
    np.maximum.at(tops, labels[inside], np.asarray(image[inside], dtype=np.float64))
    return tops

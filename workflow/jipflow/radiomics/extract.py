"""The features of the regions of one series: crop, resample, filter once, measure each region."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jipflow.images.masks import bounding_box
from jipflow.images.volume import Volume
from jipflow.place import raise_place_error
from jipflow.radiomics.area import Area, TooManyLevels, Undefined
from jipflow.radiomics.classes import CLASSES
from jipflow.radiomics.filters import SampledSeries, filtered, reach_of_filter
from jipflow.radiomics.grid import Box, MeasuringGrid
from jipflow.radiomics.intensities import PEAK_RADIUS
from jipflow.radiomics.perturb import perturbations, reach
from jipflow.reasons import Reason
from jipflow.settings.features import ORIGINAL_ONLY
from jipflow.settings.protocol import Stability
from jipflow.settings.radiomics import Radiomics


@dataclass(frozen=True)
class Part:
    """A region of a series.

    Attributes:
        mask: a box of the image's grid that holds all voxels of the region, shape (z, y, x).
        corner: index (z, y, x) of its first voxel.
    """

    mask: NDArray[np.bool_]
    corner: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Failure:
    """Why a feature is null; `feature` is ``*`` when none could be computed."""

    feature: str
    reason: Reason
    message: str


@dataclass
class Extraction:
    """What was measured of a region.

    Attributes:
        values: by pyradiomics' names, None where a feature has no value.
        failures: why.
        voxels: how many were measured: on the measuring grid, after re-segmentation.
        box: first and last voxel of the region on the measuring grid, ``z y x z y x``.
    """

    values: dict[str, float | None] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    voxels: int = 0
    box: str = ""


def extract(volume: Volume, parts: Sequence[Part], parameters: Radiomics) -> list[Extraction]:
    """Compute the features of regions of one series.

    Args:
        volume: the image.
        parts: its regions; they may overlap.
        parameters: radiomics settings.

    Returns:
        One extraction a region, in their order.
    """
    settings = parameters.plain()
    source = _source(volume, settings["processing"])
    results = [Extraction() for _ in parts]
    regions = {}
    for number, part in enumerate(parts):
        if not part.mask.any():
            results[number] = _nothing(settings)
            continue
        try:
            regions[number] = _begun(source, *_outline(source, part), settings)
        except _NoRegion as error:
            results[number].failures.append(Failure("*", error.reason, str(error)))
    _measure_regions(source, regions, results, settings)
    return results


def extract_perturbed(
    volume: Volume,
    parts: Sequence[Part],
    parameters: Radiomics,
    asked: Stability,
    seeds: Sequence[str],
) -> list[dict[str, Extraction]]:
    """Compute the features of regions whose outlines are changed.

    Args:
        volume: the image.
        parts: its regions.
        parameters: radiomics settings.
        asked: which changes: ``stability`` of a protocol's radiomics.
        seeds: one a region, for the changes that are made by chance.

    Returns:
        For each region its extractions by the name of the change; none where it has no voxel.
    """
    settings = parameters.plain()
    source = _source(volume, settings["processing"])
    results: list[dict[str, Extraction]] = [{} for _ in parts]
    regions: dict[int, _Region] = {}
    extractions: list[Extraction] = []
    for part, seed, result in zip(parts, seeds, results, strict=True):
        try:
            outline, box = _outline(source, part)
        except _NoRegion:
            continue
        wide = source.grid.widened(box, reach(outline, source.grid, asked))
        changes = perturbations(outline, box, source.grid, source.box(wide), wide, asked, seed)
        for name, (changed, place) in changes:
            result[name] = Extraction()
            try:
                regions[len(extractions)] = _begun(source, changed, place, settings)
            except _NoRegion as error:
                result[name].failures.append(Failure("*", error.reason, str(error)))
            extractions.append(result[name])
    _measure_regions(source, regions, extractions, settings)
    return results


@dataclass(frozen=True)
class _Region:
    """A region on the measuring grid.

    Attributes:
        box: the smallest around it.
        outline: its voxels within the box.
        kept: those whose intensities count.
        original: what was measured on the image as it is; nothing where that is not asked for.
    """

    box: Box
    outline: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    original: Extraction = field(default_factory=Extraction)


class _NoRegion(Exception):
    """Nothing can be measured; the message says why."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _nothing(settings: Mapping[str, Any]) -> Extraction:
    """Return the extraction of a region without a voxel: sums over voxels are 0, the rest is not.

    So the tumour burden of a patient without a tumour is 0, and not unknown.
    """
    sums = {
        f"original_{group}_{name}": CLASSES[group].of_nothing[name]
        for group, named in settings["featureClass"].items()
        for name in named or CLASSES[group].names()
        if "Original" in settings["imageType"] and name in CLASSES[group].of_nothing
    }
    message = "The mask has no voxel."
    if sums:
        message += f" 0 by definition: {', '.join(sums)}."
    return Extraction({**sums}, [Failure("*", Reason.EMPTY_SEGMENT, message)])


def _source(volume: Volume, processing: Mapping[str, Any]) -> SampledSeries:
    """Return a volume as the settings want it measured: its grid, and how it is normalised."""
    resample = processing.get("resample")
    z, y, x = reversed(resample["spacing"]) if resample else (None, None, None)
    source = SampledSeries(volume.array, MeasuringGrid.of(volume.grid, (z, y, x)))
    if resample:
        source = replace(source, interpolation=resample["interpolation"], round=resample["round"])
    normalize = processing.get("normalize")
    if normalize:
        values = np.asarray(volume.array, dtype=np.float64)
        spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
        source = replace(
            source,
            shift=float(values.mean()),
            # An image of one intensity has no spread to scale; its regions have no features then.
            scale=normalize["scale"] / spread if spread else math.nan,
            limit=normalize.get("outliers", math.inf) * normalize["scale"],
        )
    return source


def _outline(source: SampledSeries, part: Part) -> tuple[NDArray[np.bool_], Box]:
    """Put a region on the measuring grid.

    Returns:
        Its voxels within the smallest box around them, and the box.

    Raises:
        _NoRegion: it has no voxel there.
    """
    if not part.mask.any():
        raise _NoRegion(Reason.EMPTY_SEGMENT, "The mask has no voxel.")
    mask, box = source.grid.mask(part.mask, part.corner)
    tight = bounding_box(mask)
    if not mask[tight].any():
        raise _NoRegion(
            Reason.EMPTY_SEGMENT,
            f"None of the mask's {int(part.mask.sum())} voxels is left after resampling to "
            f"{' × '.join(f'{s:g}' for s in source.grid.spacing[::-1])} mm (x, y, z).",
        )
    z, y, x = (
        slice(whole.start + t.start, whole.start + t.stop)
        for whole, t in zip(box, tight, strict=True)
    )
    return mask[tight], (z, y, x)


def _begun(
    source: SampledSeries, outline: NDArray[np.bool_], box: Box, settings: Mapping[str, Any]
) -> _Region:
    """Take the image of a region, once for all that is measured on it as it is.

    Raises:
        _NoRegion: no voxel is left, or one is no number.
    """
    if not outline.any():
        raise _NoRegion(Reason.EMPTY_SEGMENT, "The outline has no voxel.")
    options = settings["imageType"].get("Original")
    around = options is not None and "localintensity" in settings["featureClass"]
    z, y, x = (math.ceil(PEAK_RADIUS / s) if around else 0 for s in source.grid.spacing)
    wide = source.grid.widened(box, (z, y, x))
    surroundings = source.box(wide)
    z, y, x = (part.start - whole.start for part, whole in zip(box, wide, strict=True))
    depth, height, width = outline.shape
    image = np.ascontiguousarray(surroundings[z : z + depth, y : y + height, x : x + width])
    region = _region(source, image, outline, box, settings)
    if options is not None:
        area = _original(source, image, region, settings, options)
        if around:
            area = replace(area, surroundings=surroundings, offset=(z, y, x))
        with _quiet():
            _measure(region.original, "original", area, settings["featureClass"])
    return region


def _region(
    source: SampledSeries,
    image: NDArray[np.float64],
    outline: NDArray[np.bool_],
    box: Box,
    settings: Mapping[str, Any],
) -> _Region:
    """Take out of a region what its intensities exclude.

    Raises:
        _NoRegion: no voxel is left, or one is no number.
    """
    odd = int((~np.isfinite(image[outline])).sum())
    if odd and math.isnan(source.scale):
        raise _NoRegion(
            Reason.UNDEFINED_FEATURE,
            "All intensities of the image are equal, so that it cannot be normalised.",
        )
    if odd:
        # pyradiomics would leave such voxels out of some features and not of others.
        raise _NoRegion(Reason.NOT_FINITE, f"{odd} voxels of the region are no number")
    resegment = settings["processing"].get("resegment", {})
    low, high = resegment.get("range", (None, None))
    kept = _resegmented(image, outline, low, high, resegment.get("outliers"))
    if not kept.any():
        raise _NoRegion(
            Reason.EMPTY_SEGMENT,
            f"None of the region's {int(outline.sum())} voxels has an intensity from {low} to "
            f"{high}.",
        )
    return _Region(box, outline, kept)


def _resegmented(
    image: NDArray[np.float64],
    outline: NDArray[np.bool_],
    low: float | None,
    high: float | None,
    outliers: float | None,
) -> NDArray[np.bool_]:
    """Return the voxels that stay in the region (IBSI 2.5): first by range, then by outliers."""
    kept = outline
    if low is not None:
        kept = kept & (image >= low)
    if high is not None:
        kept = kept & (image <= high)
    if outliers is not None and kept.any():
        mean, spread = image[kept].mean(), image[kept].std()
        kept = kept & (np.abs(image - mean) <= outliers * spread)
    return kept


def _measure_regions(
    source: SampledSeries,
    regions: Mapping[int, _Region],
    results: Sequence[Extraction],
    settings: Mapping[str, Any],
) -> None:
    """Add the features of all images to each region's results."""
    for number, region in regions.items():
        results[number].voxels = int(region.kept.sum())
        results[number].box = _box_text(region.box)
    with _quiet():
        for kind, options in settings["imageType"].items():
            if kind == "Original":
                for number, region in regions.items():
                    results[number].values |= region.original.values
                    results[number].failures += region.original.failures
            else:
                _measure_images(source, regions, results, kind, options, settings)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the console what is recorded of each feature."""
    # pyradiomics repeats it, under the name of a class's module.
    for name in ("radiomics", "jipflow.radiomics"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _setting(settings: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the features of one kind of image."""
    bins = {key: options[key] for key in ("binWidth", "binCount") if key in options}
    setting = {**settings["setting"], **bins}
    if "binWidth" in bins and "binCount" not in bins:
        setting.pop("binCount", None)
    return setting


def _measure_images(
    source: SampledSeries,
    regions: Mapping[int, _Region],
    results: Sequence[Extraction],
    kind: str,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Add the features of one kind of filtered image to each region's results."""
    setting = _setting(settings, options)
    classes = {
        name: features
        for name, features in settings["featureClass"].items()
        if name not in ORIGINAL_ONLY
    }
    margin = reach_of_filter(kind, options, source.grid.spacing)
    boxes = {number: region.box for number, region in regions.items()}
    for members, box in _groups(boxes, source.grid, margin):
        for image, values in filtered(source, box, kind, options, slices=setting["force2D"]):
            for number in members:
                if isinstance(values, ValueError):
                    _fail(results[number], _columns(image, classes), _reason(values), values)
                    continue
                region = regions[number]
                part = tuple(
                    slice(p.start - w.start, p.stop - w.start)
                    for p, w in zip(region.box, box, strict=True)
                )
                spacing = source.grid.spacing
                area = Area(values[part], region.kept, region.outline, spacing, setting)
                _measure(results[number], image, area, classes)


def _original(
    source: SampledSeries,
    image: NDArray[np.float64],
    region: _Region,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Area:
    """Return the image of a region as it is."""
    processing = settings["processing"]
    low, high = processing.get("resegment", {}).get("range", (None, None))
    return Area(
        image,
        region.kept,
        region.outline,
        source.grid.spacing,
        _setting(settings, options),
        lowest=low,
        highest=high,
        ivh=processing.get("ivh"),
    )


def _groups(
    boxes: Mapping[int, Box], grid: MeasuringGrid, margin: tuple[int, int, int]
) -> Iterator[tuple[list[int], Box]]:
    """Put boxes together where one filter of their union costs no more than one of each.

    Args:
        boxes: of the regions.
        grid: the measuring grid.
        margin: voxels around a box that the filter takes as well.

    Yields:
        The numbers of a group's boxes, and the smallest box around them.
    """

    def cost(box: Box) -> int:
        return math.prod(part.stop - part.start for part in grid.widened(box, margin))

    groups: list[tuple[list[int], Box]] = []
    for number, box in sorted(boxes.items()):
        members = [number]
        merged = True
        while merged:
            merged = False
            for index, (others, other) in enumerate(groups):
                union = _union(box, other)
                if cost(union) <= cost(box) + cost(other):
                    del groups[index]
                    members, box, merged = [*others, *members], union, True
                    break
        groups.append((members, box))
    for members, box in groups:
        yield sorted(members), box


def _union(a: Box, b: Box) -> Box:
    z, y, x = (slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True))
    return z, y, x


def _columns(image: str, classes: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the columns of an image's features."""
    return [
        f"{image}_{group}_{name}"
        for group, named in classes.items()
        for name in named or CLASSES[group].names()
    ]


def _measure(
    result: Extraction, image: str, area: Area, classes: Mapping[str, Sequence[str]]
) -> None:
    """Add the features of one image of a region to its results."""
    odd = int((~np.isfinite(area.values)).sum())
    if odd:
        error = ValueError(f"{odd} voxels of the region are no number after the filter")
        _fail(result, _columns(image, classes), Reason.NOT_FINITE, error)
        return
    for group, named in classes.items():
        names = list(named) or CLASSES[group].names()
        prefix = f"{image}_{group}_"
        try:
            family = CLASSES[group](area)
        except Exception as error:
            _fail(result, [prefix + name for name in names], _reason(error), error)
            continue
        for name in names:
            try:
                value = family.value(name)
            except Exception as error:
                _fail(result, [prefix + name], _reason(error), error)
                continue
            if math.isfinite(value):
                result.values[prefix + name] = value
            else:
                why = Undefined(
                    f"{area.values.size} voxels in {len(area.levels.present)} grey levels give "
                    f"{value}"
                )
                _fail(result, [prefix + name], Reason.UNDEFINED_FEATURE, why)


def _reason(error: Exception) -> Reason:
    """Return why a feature that raised an error has no value; the place is no reason."""
    if isinstance(error, Undefined):
        return Reason.UNDEFINED_FEATURE
    if isinstance(error, TooManyLevels):
        return Reason.TOO_MANY_GREY_LEVELS
    raise_place_error(error)
    return Reason.FEATURE_FAILED


def _fail(result: Extraction, names: Sequence[str], reason: Reason, error: Exception) -> None:
    for name in names:
        result.values[name] = None
        result.failures.append(Failure(name, reason, str(error)))


def _box_text(box: Box) -> str:
    """Return the first and the last voxel of a box, ``z y x z y x``."""
    first = [str(part.start) for part in box]
    return " ".join([*first, *(str(part.stop - 1) for part in box)])

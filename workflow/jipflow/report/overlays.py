"""Overlays: a picture of each segmentation on its image, for a reader to check at a glance."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from jipflow.cases import Case
from jipflow.files import atomic_path
from jipflow.images.masks import Segment, Segmentation, read_segmentation
from jipflow.images.volume import Volume, read_volume
from jipflow.outcomes import Made, Outcome, attempt
from jipflow.palette import rgb, segment_colour
from jipflow.reasons import CaseFault, Reason
from jipflow.settings.run import Settings
from jipflow.workers import for_each_case

PANE = 400  # pixels, width and height of the box that holds one pane
GAP = 8  # pixels between panes and around them
LEGEND_HEIGHT = 38
MARGIN = 28  # pixels around the image within its pane, for the marks of orientation
BACKGROUND = (13, 17, 23)
PANE_BACKGROUND = (0, 0, 0)
TEXT = (236, 240, 245)
FILL_OPACITY = 0.26
LINE_HALF_WIDTH = 1.2  # pixels
HALO_WIDTH = 1.3  # pixels of shade beside the line, so that light colours show on white
HALO_OPACITY = 0.4
SCALE_BARS_MM = (500, 200, 100, 50, 20, 10, 5, 2, 1)
AIR_HU = -500
BODY_MARGIN_MM = 10
BODY_STEP = 3  # every third voxel along each axis finds a body
SAMPLE = 500_000  # voxels that a percentile looks at, at most

Array = NDArray[Any]


@dataclass(frozen=True)
class Pane:
    """One of the three orthogonal views of an array (z, y, x) whose axes run to H, P and L.

    Attributes:
        title: name of the view.
        axis: array axis that the slice is taken along.
        flipped: whether rows are turned upside down, so that the head is at the top.
        marks: letters at the left, right, top and bottom edge.
    """

    title: str
    axis: int
    flipped: bool
    marks: tuple[str, str, str, str]

    def slice(self, volume: Array, index: int) -> Array:
        """Return the two-dimensional slice, rows downwards and columns to the right."""
        plane = np.take(volume, index, axis=self.axis)
        return plane[::-1] if self.flipped else plane

    def extent_mm(self, shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, float]:
        """Return the slice's height and width in millimetres."""
        rows, columns = (axis for axis in range(3) if axis != self.axis)
        return shape[rows] * spacing[rows], shape[columns] * spacing[columns]


# Radiological convention: the reader faces the patient, whose right is on the image's left.
PANES = (
    Pane("Axial", 0, False, ("R", "L", "A", "P")),
    Pane("Coronal", 1, True, ("R", "L", "H", "F")),
    Pane("Sagittal", 2, True, ("A", "P", "H", "F")),
)


def display_window(image: Array, modality: str) -> tuple[float, float, bool]:
    """Return the lowest and highest intensity shown, and whether dark means high.

    CT is shown in the soft-tissue window (centre 40 HU, width 400 HU); PET inverted from 0 to
    10 SUV, or to the 99.9th percentile where that is higher; any other modality between the 1st
    and the 99.5th percentile of the voxels that are not zero.

    Args:
        image: intensities of any shape: HU for CT, SUV for PT.
        modality: the DICOM Modality.
    """
    if modality == "CT":
        return -160.0, 240.0, False
    flat = image.reshape(-1)
    sample = flat[:: max(1, flat.size // SAMPLE)]
    sample = sample[np.isfinite(sample)]
    if modality == "PT":
        return 0.0, max(10.0, float(np.percentile(sample, 99.9)) if sample.size else 10.0), True
    sample = sample[sample != 0]
    if sample.size == 0:
        return 0.0, 1.0, False
    low, high = (float(value) for value in np.percentile(sample, (1.0, 99.5)))
    return low, max(high, low + 1e-6), False


def field_of_view(
    image: Array, layers: Sequence[Array], spacing: Sequence[float], modality: str
) -> tuple[slice, slice, slice]:
    """Return the part of a volume that is worth showing: of a CT, the body without the air around.

    The body is whatever exceeds `AIR_HU`, with the masks and a margin of 10 mm. Any other
    modality, and a CT without such voxels, is shown whole.

    Args:
        image: intensities, shape (z, y, x).
        layers: label maps of the same shape.
        spacing: of the voxels along z, y and x in millimetres.
        modality: the DICOM Modality.
    """
    whole = (slice(None), slice(None), slice(None))
    if modality != "CT":
        return whole
    body = image[::BODY_STEP, ::BODY_STEP, ::BODY_STEP] > AIR_HU
    if not body.any():
        return whole
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        there = np.repeat(body.any(axis=others), BODY_STEP)[: image.shape[axis]]
        for layer in layers:
            there |= layer.any(axis=others)
        found = np.flatnonzero(there)
        margin = math.ceil(BODY_MARGIN_MM / spacing[axis])
        box.append(slice(max(0, int(found[0]) - margin), int(found[-1]) + 1 + margin))
    return box[0], box[1], box[2]


def best_slices(layers: Sequence[Array], segments: Sequence[Segment]) -> tuple[int, int, int]:
    """Choose for each axis the slice that shows most of the segments.

    Every segment counts by the share of its largest cross-section that a slice shows, so that a
    small lesion weighs as much as a whole liver. Of equal slices the middle one is taken.

    Args:
        layers: label maps of one shape (z, y, x).
        segments: the segments to show.

    Returns:
        Index along z, y and x; the middle of the volume where every segment is empty.
    """
    from scipy.ndimage import find_objects

    shape = layers[0].shape
    scores = [np.zeros(size) for size in shape]
    for number, layer in enumerate(layers):
        labels = [segment.label for segment in segments if segment.layer == number]
        boxes = find_objects(layer, max_label=max(labels, default=0)) if labels else []
        for label in labels:
            box = boxes[label - 1]
            if box is None:
                continue
            inside = layer[box] == label
            for axis in range(3):
                others = tuple(other for other in range(3) if other != axis)
                area = np.count_nonzero(inside, axis=others)
                scores[axis][box[axis]] += area / area.max()
    z, y, x = (_middle_of_best(score) for score in scores)
    return z, y, x


def _middle_of_best(score: Array) -> int:
    if not score.any():
        return len(score) // 2
    best = np.flatnonzero(score >= score.max() * (1 - 1e-12))
    return int(best[len(best) // 2])


def run(
    *,
    cases: Sequence[Case],
    settings: Settings,
    volumes: Path,
    masks: Path,
    overlays: Path,
    threads: int = 1,
) -> list[Outcome]:
    """Write ``<case_id>/<segmentation>.png`` for each segmentation that a shard's cases have.

    A segmentation without masks has its outcome from an earlier stage and gets none here.

    Args:
        cases: the shard's cases.
        settings: the run's settings; the protocol's segmentations are drawn.
        volumes: the folder of ``<case_id>/<role>.nrrd``.
        masks: the folder of ``<case_id>/<segmentation>/``.
        overlays: the folder to write to, ``overlays`` in the results folder.
        threads: processes.

    Returns:
        An outcome for each picture, drawn or not, with its path relative to the results folder.
    """
    work = partial(_draw_case, settings=settings, volumes=volumes, masks=masks, overlays=overlays)
    return for_each_case(cases, work, threads)


def _draw_case(
    case: Case, settings: Settings, volumes: Path, masks: Path, overlays: Path
) -> list[Outcome]:
    # A picture of an earlier run must not outlive its segmentation, or a case that waits or fails.
    shutil.rmtree(overlays / case.case_id, ignore_errors=True)
    outcomes = []
    for segmentation in settings.protocol.segmentations:
        folder = masks / case.case_id / segmentation.id
        picture = overlays / case.case_id / f"{segmentation.id}.png"
        if not (folder / "segments.json").is_file():
            continue
        work = partial(
            _draw_segmentation,
            volumes / case.case_id / f"{segmentation.role}.nrrd",
            folder,
            picture,
            case.roles[segmentation.role].modality,
            [segment.name for segment in segmentation.segments],
        )
        outcomes.append(attempt(case.case_id, "overlay", segmentation.id, work, overlays.parent))
    return outcomes


def _draw_segmentation(
    volume: Path, masks: Path, picture: Path, modality: str, names: Sequence[str]
) -> Made:
    colours = {name: segment_colour(position) for position, name in enumerate(names)}
    content = render_overlay(read_volume(volume), read_segmentation(masks), modality, colours)
    with atomic_path(picture) as partial_path:
        partial_path.write_bytes(content)
    return Made((picture,))


def render_overlay(
    volume: Volume, segmentation: Segmentation, modality: str, colours: Mapping[str, str]
) -> bytes:
    """Draw an axial, a coronal and a sagittal slice with the segments' outlines.

    Each pane shows the slice chosen by :func:`best_slices` in its true proportions and in
    radiological convention, however the volume is stored: its axes are first turned to run
    towards the head, the patient's back and the patient's left. The picture holds no identifier
    of the patient, and the same input gives the same bytes.

    Args:
        volume: HU for CT, SUV for PT.
        segmentation: label maps on the volume's grid.
        modality: the DICOM Modality, which chooses the window.
        colours: ``#rrggbb`` by the segment's name.

    Returns:
        A PNG file without metadata.

    Raises:
        CaseFault: the segmentation does not lie on the volume's grid (``grid_mismatch``).
    """
    if not segmentation.grid.matches(volume.grid):
        raise CaseFault(
            Reason.GRID_MISMATCH,
            f"The segmentation has {segmentation.grid.shape} voxels (z, y, x) and the image "
            f"{volume.grid.shape}, or they lie apart; segment the prepared volume again.",
        )
    upright = volume.canonical()
    layers = [
        Volume(layer, segmentation.grid).array_on(upright.grid) for layer in segmentation.layers
    ]
    segments = segmentation.segments
    window = display_window(upright.array, modality)
    field = field_of_view(upright.array, layers, upright.grid.spacing, modality)
    canvas = Image.new("RGB", (3 * PANE + 4 * GAP, PANE + 2 * GAP + LEGEND_HEIGHT), BACKGROUND)
    for column, (pane, index) in enumerate(zip(PANES, best_slices(layers, segments), strict=True)):
        inside = tuple(slice(None) if axis == pane.axis else field[axis] for axis in range(3))
        view = upright.array[inside]
        grey = _window(pane.slice(view, index), window)
        planes = [pane.slice(layer[inside], index) for layer in layers]
        shapes = [(colours[name], mask) for name, mask in _visible(planes, segments)]
        extent_mm = pane.extent_mm(view.shape, upright.grid.spacing)
        title = f"{pane.title} {index + 1}/{upright.grid.shape[pane.axis]}"
        picture = _draw_pane(pane, title, grey, shapes, extent_mm)
        canvas.paste(picture, (GAP + column * (PANE + GAP), GAP))
    _draw_legend(canvas, [(segment.name, colours[segment.name]) for segment in segments])
    stream = io.BytesIO()
    canvas.save(stream, format="PNG", compress_level=6)
    return stream.getvalue()


def _draw_pane(
    pane: Pane,
    title: str,
    grey: Array,
    shapes: Sequence[tuple[str, Array]],
    extent_mm: tuple[float, float],
) -> Image.Image:
    height_mm, width_mm = extent_mm
    pixels_per_mm = (PANE - 2 * MARGIN) / max(height_mm, width_mm)
    size = (max(1, round(width_mm * pixels_per_mm)), max(1, round(height_mm * pixels_per_mm)))
    base = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)
    pixels = np.repeat(np.asarray(base, dtype=np.float32)[:, :, None], 3, axis=2)
    for colour, inside in shapes:
        _paint(pixels, inside, rgb(colour), size)
    picture = Image.new("RGB", (PANE, PANE), PANE_BACKGROUND)
    left, top = (PANE - size[0]) // 2, (PANE - size[1]) // 2
    picture.paste(Image.fromarray(np.rint(pixels).astype(np.uint8)), (left, top))
    _annotate(picture, pane, (left, top, left + size[0], top + size[1]))
    _write(picture, (6, 3), title, 18, "la")
    _draw_scale_bar(picture, pixels_per_mm)
    return picture


def _window(plane: Array, window: tuple[float, float, bool]) -> Array:
    low, high, inverted = window
    share = np.clip((plane.astype(np.float32) - low) / (high - low), 0.0, 1.0)
    share = np.nan_to_num(1.0 - share if inverted else share)  # a voxel without value: black
    return np.rint(share * 255).astype(np.uint8)


def _visible(planes: Sequence[Array], segments: Sequence[Segment]) -> list[tuple[str, Array]]:
    """Return name and mask of each segment that the planes hold, the largest first."""
    present = [set(np.unique(plane).tolist()) for plane in planes]
    found = []
    for position, segment in enumerate(segments):
        if segment.label in present[segment.layer]:
            inside = planes[segment.layer] == segment.label
            found.append((-int(inside.sum()), position, segment.name, inside))
    found.sort(key=lambda entry: entry[:2])
    return [(name, inside) for _, _, name, inside in found]


def _paint(
    pixels: Array, inside: Array, colour: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """Blend a mask's fill and its outline into the pixels.

    The mask is interpolated linearly to display resolution; the outline follows the level of one
    half, and a pixel's distance to it is the field's offset divided by its slope.
    """
    mask = Image.fromarray(inside.astype(np.float32))
    field = np.asarray(mask.resize(size, Image.Resampling.BILINEAR))
    rows, columns = np.nonzero(field.max(axis=1))[0], np.nonzero(field.max(axis=0))[0]
    if rows.size == 0:
        return
    top, bottom = max(rows[0] - 2, 0), rows[-1] + 3
    left, right = max(columns[0] - 2, 0), columns[-1] + 3
    # A structure thinner than a pixel never reaches one half: its own maximum sets the level.
    field = np.pad(field, 1)[top : bottom + 2, left : right + 2]
    offset = field - min(0.5, 0.5 * float(field.max()))
    by_row, by_column = np.gradient(field)
    slope = np.maximum(np.hypot(by_row, by_column), 1e-3)
    distance = (offset / slope)[1:-1, 1:-1]
    fill = FILL_OPACITY * np.clip(distance + 0.5, 0.0, 1.0)
    line = np.clip(LINE_HALF_WIDTH + 0.5 - np.abs(distance), 0.0, 1.0)
    halo = np.clip(LINE_HALF_WIDTH + HALO_WIDTH + 0.5 - np.abs(distance), 0.0, 1.0)
    opacity = np.maximum(fill, line)[:, :, None]
    part = pixels[top:bottom, left:right]
    part *= 1 - HALO_OPACITY * halo[:, :, None]
    part += opacity * (np.asarray(colour, dtype=np.float32) - part)


def _annotate(picture: Image.Image, pane: Pane, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    middle = PANE // 2
    marks_left, marks_right, marks_top, marks_bottom = pane.marks
    _write(picture, (left - 5, middle), marks_left, 23, "rm")
    _write(picture, (right + 5, middle), marks_right, 23, "lm")
    _write(picture, (middle, top - 3), marks_top, 23, "mb")
    _write(picture, (middle, bottom + 3), marks_bottom, 23, "mt")


def _draw_scale_bar(picture: Image.Image, pixels_per_mm: float) -> None:
    fitting = (mm for mm in SCALE_BARS_MM if mm * pixels_per_mm <= 0.3 * PANE)
    length_mm = next(fitting, SCALE_BARS_MM[-1])
    length = round(length_mm * pixels_per_mm)
    right, bottom = PANE - 10, PANE - 8
    draw = ImageDraw.Draw(picture)
    draw.rectangle((right - length - 1, bottom - 4, right + 1, bottom), fill=PANE_BACKGROUND)
    draw.rectangle((right - length, bottom - 3, right, bottom - 1), fill=TEXT)
    text = f"{length_mm // 10} cm" if length_mm >= 10 else f"{length_mm} mm"
    _write(picture, (right, bottom - 6), text, 18, "rb")


def _draw_legend(canvas: Image.Image, entries: Sequence[tuple[str, str]]) -> None:
    draw = ImageDraw.Draw(canvas)
    x, middle = GAP + 4, canvas.height - LEGEND_HEIGHT // 2 - 4
    for position, (name, colour) in enumerate(entries):
        length = _font(20).getlength(name)
        left_over = len(entries) - position
        if x + length + 130 > canvas.width and left_over > 1:
            _write(canvas, (x, middle), f"and {left_over} more", 20, "lm")
            return
        draw.rounded_rectangle((x, middle - 8, x + 16, middle + 8), 3, fill=rgb(colour))
        _write(canvas, (x + 24, middle), name, 20, "lm")
        x += 24 + int(length) + 26


@cache
def _font(size: int) -> Any:
    """Return Pillow's built-in typeface: the same on every machine."""
    return ImageFont.load_default(size=size)


def _write(picture: Image.Image, at: tuple[int, int], text: str, size: int, anchor: str) -> None:
    ImageDraw.Draw(picture).text(
        at, text, font=_font(size), fill=TEXT, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0)
    )

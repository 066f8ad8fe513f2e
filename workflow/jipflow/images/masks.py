"""Segmentations as label maps in layers, so that segments may overlap."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jipflow.files import atomic_path, read_json, write_json
from jipflow.images.volume import Grid, Volume, damaged, read_volume, write_volume


@dataclass(frozen=True)
class Segment:
    """One labelled region.

    Attributes:
        name: the protocol's name for it.
        layer: the label map that holds it.
        label: its value in that map, at least 1.
        term: key of its coded term in ``resources/terms.yaml``.
        method: Segment Algorithm Type (0062,0008): AUTOMATIC, SEMIAUTOMATIC or MANUAL.
        producer: name of what made it: the model, or the system the contours come from.
        version: version or hash of the producer, empty where it has none.
        disagreement: 1 minus the mean Dice coefficient between the members of an ensemble, from 0
            to 1; None where there is no ensemble.
    """

    name: str
    layer: int
    label: int
    term: str
    method: str
    producer: str
    version: str = ""
    disagreement: float | None = None


@dataclass(frozen=True)
class Segmentation:
    """Segments on one grid.

    Attributes:
        layers: label maps of shape (z, y, x), 0 outside, 8 or 16 bits wide;
            segments of one layer do not overlap.
        segments: in the protocol's order; last those without a voxel, which are not there and may
            be so.
        grid: where the voxels are.
    """

    layers: tuple[NDArray[np.unsignedinteger[Any]], ...]
    segments: tuple[Segment, ...]
    grid: Grid

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        """Return the voxels of a segment, shape (z, y, x)."""
        return np.asarray(self.layers[segment.layer] == segment.label)

    def without_empty(self) -> Segmentation:
        """Return the same segmentation with the segments that have a voxel."""
        present = (segment for segment, mask, _ in self.boxes() if mask.size)
        return replace(self, segments=tuple(present))

    def boxes(self) -> Iterator[tuple[Segment, NDArray[np.bool_], tuple[int, int, int]]]:
        """Iterate over the segments, their voxels within a box, and the index of its first voxel.

        Each layer is read once, however many segments it has.
        """
        from scipy.ndimage import find_objects

        boxes = [find_objects(layer) for layer in self.layers]
        for segment in self.segments:
            found = boxes[segment.layer]
            box = found[segment.label - 1] if segment.label <= len(found) else None
            if box is None:
                box = (slice(0, 0),) * 3
            z, y, x = (part.start for part in box)
            yield segment, self.layers[segment.layer][box] == segment.label, (z, y, x)


@dataclass(frozen=True)
class Region:
    """A segment before it has a place in a layer.

    Attributes:
        name: as in `Segment`, like the other fields that it shares.
        mask: voxels of the grid, or of a box of it that holds the segment.
        corner: index (z, y, x) of the mask's first voxel on the grid.
    """

    name: str
    term: str
    mask: NDArray[np.bool_]
    method: str
    producer: str
    version: str = ""
    corner: tuple[int, int, int] = (0, 0, 0)
    disagreement: float | None = None


def pack(regions: Iterable[Region], grid: Grid) -> Segmentation:
    """Put regions into as few layers as they need, first fit.

    Regions are taken one by one, so that an iterator that makes them needs memory for one.

    Args:
        regions: at most 65,535.
        grid: where the voxels are.
    """
    layers: list[NDArray[np.unsignedinteger[Any]]] = []
    segments = []
    for number, region in enumerate(regions, start=1):
        tight = bounding_box(region.mask)
        inside = region.mask[tight]
        box = tuple(
            slice(part.start + first, part.stop + first)
            for part, first in zip(tight, region.corner, strict=True)
        )
        free = (n for n, labels in enumerate(layers) if not labels[box][inside].any())
        layer = next(free, len(layers))
        kind = np.min_scalar_type(number)
        if layer == len(layers):
            layers.append(np.zeros(grid.shape, kind))
        elif kind.itemsize > layers[layer].itemsize:
            layers[layer] = layers[layer].astype(kind)
        layers[layer][box][inside] = number
        segments.append(
            Segment(
                region.name,
                layer,
                number,
                region.term,
                region.method,
                region.producer,
                region.version,
                region.disagreement,
            )
        )
    return Segmentation(tuple(layers), tuple(segments), grid)


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the slices of the smallest box that holds all voxels of a mask."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask[tuple(box)].any(axis=others))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0))
    return tuple(box)


def cropped(region: Region) -> Region:
    """Return a region in the smallest box that holds its voxels."""
    tight = bounding_box(region.mask)
    z, y, x = (part.start + first for part, first in zip(tight, region.corner, strict=True))
    return replace(region, mask=region.mask[tight], corner=(z, y, x))


def components(
    mask: NDArray[np.bool_],
) -> tuple[NDArray[np.unsignedinteger[Any]], int]:
    """Number the connected components of a mask, whose voxels share a face, an edge or a corner.

    Args:
        mask: shape (z, y, x).

    Returns:
        A map of that shape, 0 outside and from 1 in the order of the components' first voxels, and
        how many there are.
    """
    import cc3d

    # Of truth values, cc3d 4.1.1 refuses some boxes that are one voxel wide.
    numbers = mask.astype(np.uint8)
    labels, number = cc3d.connected_components(numbers, connectivity=26, return_N=True)
    return labels, int(number)


def absent_note(wanted: Iterable[str], present: Container[str]) -> str:
    """Return a sentence that names the wanted segments that are not there; empty if none."""
    absent = [name for name in wanted if name not in present]
    return f"No voxel of: {', '.join(absent)}." if absent else ""


def write_segmentation(folder: Path, segmentation: Segmentation) -> None:
    """Write ``layer-<n>.nrrd`` and ``segments.json`` into a folder, atomically."""
    with atomic_path(folder) as partial:
        partial.mkdir()
        for number, labels in enumerate(segmentation.layers):
            volume = Volume(labels, segmentation.grid)
            write_volume(partial / f"layer-{number}.nrrd", volume, compress=True)
        write_json(partial / "segments.json", [asdict(s) for s in segmentation.segments])


def read_segmentation(folder: Path) -> Segmentation:
    """Read a folder written by `write_segmentation`.

    Raises:
        PlaceError: a mask or the list of segments is damaged.
        OSError: one is not there, or the disk does not give it.
    """
    path = folder / "segments.json"
    try:
        segments = tuple(Segment(**entry) for entry in read_json(path))
        count = 1 + max(segment.layer for segment in segments)
    except (ValueError, TypeError) as error:
        raise damaged(path, str(error)) from None
    layers = [read_volume(folder / f"layer-{number}.nrrd") for number in range(count)]
    return Segmentation(tuple(v.array for v in layers), segments, layers[0].grid)  # type: ignore[misc]

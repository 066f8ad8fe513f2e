"""Segmentations as label maps in layers, so that segments may overlap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jipflow.files import atomic_path, read_json, write_json
from jipflow.images.volume import Grid, Volume, read_volume, write_volume


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
    """

    name: str
    layer: int
    label: int
    term: str
    method: str
    producer: str
    version: str = ""


@dataclass(frozen=True)
class Segmentation:
    """Segments on one grid.

    Attributes:
        layers: label maps of shape (z, y, x), 0 outside; segments of one layer do not overlap.
        segments: in the protocol's order.
        grid: where the voxels are.
    """

    layers: tuple[NDArray[np.uint8], ...]
    segments: tuple[Segment, ...]
    grid: Grid

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        """Return the voxels of a segment, shape (z, y, x)."""
        return np.asarray(self.layers[segment.layer] == segment.label)

    def masks(self) -> Iterator[tuple[Segment, NDArray[np.bool_]]]:
        """Iterate over the segments and their voxels."""
        for segment in self.segments:
            yield segment, self.mask(segment)


@dataclass(frozen=True)
class Region:
    """A segment before it has a place in a layer; fields as in `Segment`, and its voxels."""

    name: str
    term: str
    mask: NDArray[np.bool_]
    method: str
    producer: str
    version: str = ""


def pack(regions: Sequence[Region], grid: Grid) -> Segmentation:
    """Put regions into as few layers as they need, first fit.

    Args:
        regions: each with voxels of shape (z, y, x); at most 255.
        grid: where the voxels are.
    """
    layers: list[NDArray[np.uint8]] = []
    segments = []
    for number, region in enumerate(regions, start=1):
        free = (n for n, labels in enumerate(layers) if not labels[region.mask].any())
        layer = next(free, len(layers))
        if layer == len(layers):
            layers.append(np.zeros(grid.shape, np.uint8))
        layers[layer][region.mask] = number
        segments.append(
            Segment(
                region.name,
                layer,
                number,
                region.term,
                region.method,
                region.producer,
                region.version,
            )
        )
    return Segmentation(tuple(layers), tuple(segments), grid)


def absent_note(spec: Mapping[str, Any], regions: Sequence[Region]) -> str:
    """Return a sentence that names the protocol's segments without a region; empty if none."""
    found = {region.name for region in regions}
    absent = [segment["name"] for segment in spec["segments"] if segment["name"] not in found]
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
    """Read a folder written by `write_segmentation`."""
    segments = tuple(Segment(**entry) for entry in read_json(folder / "segments.json"))
    layers = [
        read_volume(folder / f"layer-{number}.nrrd")
        for number in range(1 + max(segment.layer for segment in segments))
    ]
    return Segmentation(tuple(v.array for v in layers), segments, layers[0].grid)  # type: ignore[misc]

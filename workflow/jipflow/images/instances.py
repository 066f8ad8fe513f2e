"""The image planes of instances that hold several: multi-frame images, their parts, mosaics."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from pydicom.dataset import Dataset

from jipflow.images.mosaic import split
from jipflow.images.pixels import Plane, plane_values
from jipflow.images.read import PIXELS, check_geometry, frame_headers, read_instance, readable
from jipflow.reasons import CaseFault, Decision, Reason

KINDS = ("single-frame images", "multi-frame images", "mosaics")


def planes_of(path: Path, dataset: Dataset) -> list[Plane]:
    """Return the image planes of one instance, in the order of its frames or tiles.

    Args:
        path: its file.
        dataset: the instance, with or without its pixels, which are not decoded.

    Raises:
        CaseFault: a plane does not say where it lies.
    """
    headers = frame_headers(dataset)
    for header in headers:
        check_geometry(path, header)
    tiles = [tile for header in headers for tile in split(path, header)]
    digests: dict[int, bytes] = {}
    if tiles:
        return [Plane(path, dataset, t.number, header, None, t, digests) for t, header in tiles]
    numbered = enumerate(headers)
    return [Plane(path, dataset, n, header, None, digests=digests) for n, header in numbered]


def with_pixels(
    planes: Sequence[Plane], dataset: Dataset, tally: Counter[str] | None = None
) -> list[Plane]:
    """Return planes of one instance with their stored values.

    Args:
        planes: all of an instance, or some of them.
        dataset: the instance with its pixels, which it loses.
        tally: counts what a reader of the values should know.

    Raises:
        CaseFault: the pixels cannot be decoded, or are not those that the header describes.
    """
    first = planes[0]
    described = len(dataset.get("PerFrameFunctionalGroupsSequence") or [None])
    count = first.tile.count if first.tile else described
    frames = sorted({plane.frame for plane in planes})
    some = None if len(frames) == count else frames
    values = plane_values(first.path, dataset, first.tile, some, tally)
    by_frame = dict(zip(frames, values, strict=True))
    return [replace(plane, stored=by_frame[plane.frame]) for plane in planes]


def drop_pixels(dataset: Dataset) -> None:
    """Let go of the pixels of an instance, which may be gigabytes."""
    for name in PIXELS:
        dataset.pop(name, None)


def completed(planes: Sequence[Plane], tally: Counter[str]) -> list[Plane]:
    """Return planes in their order with the stored values that they lack, read file by file.

    Args:
        planes: of any instances; only their frames are decoded.
        tally: counts what a reader of the values should know.

    Raises:
        CaseFault: as `with_pixels`.
    """
    lacking: dict[Path, list[int]] = defaultdict(list)
    for index, plane in enumerate(planes):
        if plane.stored is None:
            lacking[plane.path].append(index)
    found = list(planes)
    for path, indices in lacking.items():
        with readable(path):
            dataset = read_instance(path, pixels=True)
            for index, plane in zip(
                indices, with_pixels([planes[i] for i in indices], dataset, tally), strict=True
            ):
                found[index] = plane
    return found


def check_instances(planes: Sequence[Plane], name: str) -> None:
    """Refuse planes of instances that do not belong together.

    Args:
        planes: of one series.
        name: the series, for messages.

    Raises:
        CaseFault: they are of several kinds, or a part of one multi-frame image is missing.
    """
    files = {plane.path: plane for plane in planes}
    counts = Counter(_kind(plane) for plane in files.values())
    if len(counts) > 1:
        shown = " and ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
        raise CaseFault(
            Reason.UNSUPPORTED_OBJECT,
            f"{name}: has {len(files)} instances, {shown}, which may hold the same slices; export "
            "each kind as a series of its own.",
        )
    _check_concatenations([plane.instance for plane in files.values()], name)


def check_stack(
    stack: Sequence[Plane], name: str, notes: list[str], decisions: list[Decision]
) -> None:
    """Say of which instances the slices of a volume are, and refuse those of several mosaics.

    Each mosaic is a volume of its own. Those of a scan that follows the patient's head lie a little
    apart, which may look even.

    Args:
        stack: the slices of a volume.
        name: the series, for messages.
        notes: gets a sentence where they are of a mosaic, or of several multi-frame images.
        decisions: gets the code of each such decision.

    Raises:
        CaseFault: they are of several mosaics.
    """
    files = {plane.path for plane in stack}
    if stack[0].tile and len(files) > 1:
        raise CaseFault(
            Reason.MIXED_ACQUISITIONS,
            f"{name}: its slices are of {len(files)} mosaics, each of which is a volume; export "
            "each as a series of its own.",
        )
    if stack[0].tile:
        notes.append(
            f"The {len(stack)} slices are the tiles of a Siemens mosaic, in the direction of "
            "SliceNormalVector from its corrected Image Position (Patient)."
        )
        decisions.append(Decision.MOSAIC_TAKEN_APART)
    elif 1 < len(files) < len(stack):
        notes.append(f"The slices are frames of {len(files)} multi-frame images.")
        decisions.append(Decision.MULTI_FRAME_IMAGES_JOINED)


def _kind(plane: Plane) -> str:
    if plane.tile:
        return "mosaics"
    return "multi-frame images" if plane.frame_number else "single-frame images"


def _check_concatenations(instances: Sequence[Dataset], name: str) -> None:
    """Refuse multi-frame images that were split into several instances, of which one is missing.

    Their parts share a Concatenation UID and are numbered from 1 (PS3.3 C.7.6.16.1.1); how many
    there are need not be stated, and how many frames lie before each part has to be.

    Raises:
        CaseFault: a part is missing.
    """
    parts: dict[str, dict[int, Dataset]] = defaultdict(dict)
    for instance in instances:
        uid, number = instance.get("ConcatenationUID"), instance.get("InConcatenationNumber")
        if uid and number:
            parts[str(uid)][int(number)] = instance
    for numbered in parts.values():
        totals = {int(p.get("InConcatenationTotalNumber") or 0) for p in numbered.values()}
        total = max(*totals, *numbered)
        if len(numbered) < total:
            first = next(number for number in count(1) if number not in numbered)
            raise CaseFault(
                Reason.MISSING_SLICES,
                f"{name}: {total - len(numbered)} of {total} parts of a multi-frame image are "
                f"missing, the first is part {first}; retrieve the series again.",
            )
        _check_offsets(numbered, name)


def _check_offsets(numbered: dict[int, Dataset], name: str) -> None:
    """Refuse parts that do not begin where the frames before them end.

    Raises:
        CaseFault: one does not.
    """
    before = 0
    for number in sorted(numbered):
        offset = numbered[number].get("ConcatenationFrameOffsetNumber")
        if offset not in (None, "") and int(offset) != before:
            raise CaseFault(
                Reason.MISSING_SLICES,
                f"{name}: part {number} of a multi-frame image begins after {int(offset)} frames, "
                f"and the parts before it have {before}; retrieve the series again.",
            )
        before += int(numbered[number].get("NumberOfFrames") or 1)

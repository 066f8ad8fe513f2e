"""Tells the author of an algorithm, on synthetic cases, whether it meets the contract."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jipflow.images.volume import Grid, Volume
from jipflow.phantom.cohort import make_subject
from jipflow.phantom.vendors import VENDORS
from jipflow.reasons import CaseFault, Reason
from jipflow.segment.containers.algorithm import Algorithm, Attempt
from jipflow.segment.containers.contract import Parcel, read_result
from jipflow.segment.engine import Machine
from jipflow.settings.schema import load
from jipflow.settings.site import Containers

UPRIGHT = "upright"
AIR_HU = -1000
AGREEMENT = 0.8
"""Dice coefficient that the segmentations of one patient in two orientations must reach: resampling
costs a little, an ignored affine nearly all."""

Labels = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class CheckResult:
    """One thing that was looked at.

    Attributes:
        name: what.
        problem: what is wrong and how to fix it; empty where nothing is.
        note: what else is worth knowing.
    """

    name: str
    problem: str = ""
    note: str = ""

    def __str__(self) -> str:
        words = self.problem or self.note
        return f"{'FAIL' if self.problem else 'PASS'}  {self.name}" + (
            f": {words}" if words else ""
        )


def check(
    *,
    image: Path,
    labels: Mapping[str, int],
    roles: Mapping[str, str],
    runtime: str,
    device: str,
    threads: int,
    minutes: float,
) -> Iterator[CheckResult]:
    """Run an image on synthetic cases and give what is found, one thing after the other.

    The image runs as at a site: not as root, without network, its files and ``/input`` read-only.

    Args:
        image: file of the image.
        labels: number of each label of the algorithm.
        roles: DICOM Modality by role; the segmentation is to lie on the grid of the first.
        runtime: as ``containers.runtime`` of a site.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: cores that it may use.
        minutes: without a finished case after which it is ended.

    Raises:
        ConfigError: a site could not have such settings of containers.
        StageError: the image cannot be run here.
    """
    given = {"runtime": runtime, "minutes": minutes}
    containers = load(Containers, given, "jipflow algorithm check")
    with tempfile.TemporaryDirectory(prefix="jipflow-check-") as folder:
        machine = Machine(threads, device, Path(folder), containers=containers)
        algorithm = Algorithm(image.resolve(), machine, labels, next(iter(roles)))
        try:
            yield from _findings(algorithm, roles)
        finally:
            algorithm.clear()


def _findings(algorithm: Algorithm, roles: Mapping[str, str]) -> Iterator[CheckResult]:
    known = list(algorithm.labels.values())
    upright = {role: phantom_image(modality) for role, modality in roles.items()}
    cases = {
        UPRIGHT: upright,
        "coronal": {role: turned(volume) for role, volume in upright.items()},
        "oblique": {role: tilted(volume) for role, volume in upright.items()},
        "one slice": {role: part(volume, 1) for role, volume in upright.items()},
        "odd size": {role: part(volume, 7) for role, volume in upright.items()},
        "empty image": {role: blank(volume, roles[role]) for role, volume in upright.items()},
    }
    parcels = {name: algorithm.parcel(images, roles) for name, images in cases.items()}
    began = time.perf_counter()
    first = algorithm.run(list(parcels.values()))
    seconds = (time.perf_counter() - began) / len(parcels)
    yield _ending(first, f"{seconds:.1f} s a case")
    found: dict[str, Labels] = {}
    for name, parcel in parcels.items():
        finding, result = _segmentation(name, first, parcel, known)
        yield finding
        if result is not None:
            found[name] = result
    if UPRIGHT not in found:
        return
    yield _finds_labels(found[UPRIGHT], algorithm.labels)
    role = next(iter(roles))
    for name in ("coronal", "oblique"):
        if name in found:
            back = Volume(found[name], cases[name][role].grid)
            if name == "coronal":
                back = back.with_axes_of(upright[role].grid)
            yield _agrees(name, back.array, found[UPRIGHT], algorithm.labels)

    broken = algorithm.parcel(upright, roles)
    path = algorithm.folder / "images" / broken.entry["images"][role]["file"]
    path.write_bytes(path.read_bytes()[:1000])
    second = algorithm.run([broken, parcels[UPRIGHT]])
    yield _survives(second, broken, known)
    finding, again = _segmentation("after a broken case", second, parcels[UPRIGHT], known)
    yield finding
    if again is not None:
        yield CheckResult(
            "gives the same segmentation again",
            ""
            if np.array_equal(again, found[UPRIGHT])
            else f"{np.count_nonzero(again != found[UPRIGHT])} voxels differ; use the seed of "
            "job.json, and no state of an earlier case.",
        )


def phantom_image(modality: str) -> Volume:
    """Return a synthetic patient's image: SUVbw in g/mL for PT, else HU."""
    subject = make_subject("check", 1, 1, VENDORS["siemens"])
    pet = modality == "PT"
    grid = subject.pt_grid if pet else subject.ct_grid
    affine = np.eye(4)
    directions = np.stack([grid.normal, grid.column, grid.row], axis=1)
    affine[:3, :3] = directions * np.asarray(grid.spacing)
    affine[:3, 3] = grid.origin
    voxels = subject.suv.astype(np.float32) if pet else subject.hu
    return Volume(voxels, Grid(grid.shape, affine))


def turned(volume: Volume) -> Volume:
    """Return the same voxels at the same places, in coronal slices from front to back."""
    axes = (1, 0, 2)
    affine = volume.grid.affine[:, [*axes, 3]].copy()
    array = volume.array.transpose(axes)[:, ::-1]
    affine[:3, 3] += affine[:3, 1] * (array.shape[1] - 1)
    affine[:3, 1] *= -1
    return Volume(np.ascontiguousarray(array), Grid(array.shape, affine))


def tilted(volume: Volume) -> Volume:
    """Return the same voxels turned with their patient by 10 degrees about the left-right axis."""
    angle = np.radians(10)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return Volume(volume.array, Grid(volume.grid.shape, rotation @ volume.grid.affine))


def part(volume: Volume, slices: int) -> Volume:
    """Return slices from the middle, less an odd number of rows and columns."""
    first = (volume.grid.shape[0] - slices) // 2
    array = np.ascontiguousarray(volume.array[first : first + slices, :-3, :-5])
    affine = volume.grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * first
    return Volume(array, Grid(array.shape, affine))


def blank(volume: Volume, modality: str) -> Volume:
    """Return an image of air."""
    value = AIR_HU if modality == "CT" else 0
    return Volume(np.full_like(volume.array, value), volume.grid)


def _ending(attempt: Attempt, note: str) -> CheckResult:
    name = "runs without root and network, read-only, and ends with exit code 0"
    if attempt.ending.code == 0:
        return CheckResult(name, note=note)
    log = attempt.ending.log.strip()[-2000:] or "(nothing)"
    return CheckResult(
        name,
        f"it {attempt.ending.words}. It runs as another user than root, without network, and can "
        f"write to /output and /tmp only. The end of its log:\n{log}",
    )


def _segmentation(
    name: str, attempt: Attempt, parcel: Parcel, known: Sequence[int]
) -> tuple[CheckResult, Labels | None]:
    try:
        result = read_result(attempt.output, parcel, known, name)
    except CaseFault as fault:
        if name == "empty image" and fault.reason is Reason.ALGORITHM_FAILED:
            return CheckResult(name, note=fault.message), None
        return CheckResult(name, fault.message), None
    return CheckResult(name), result


def _finds_labels(found: Labels, labels: Mapping[str, int]) -> CheckResult:
    absent = [name for name, value in labels.items() if not (found == value).any()]
    note = f"none of {', '.join(absent)} in the synthetic patient" if absent else ""
    return CheckResult("finds its labels", note=note)


def _agrees(
    name: str, found: NDArray[Any], upright: Labels, labels: Mapping[str, int]
) -> CheckResult:
    name = f"finds the same in the {name} image"
    for label, value in labels.items():
        a, b = found == value, upright == value
        total = np.count_nonzero(a) + np.count_nonzero(b)
        dice = 2 * np.count_nonzero(a & b) / total if total else 1.0
        if dice < AGREEMENT:
            return CheckResult(
                name,
                f"{label} overlaps by a Dice coefficient of {dice:.2f}; turn images into the axes "
                "that the algorithm expects by their affine, and the labels back.",
            )
    return CheckResult(name)


def _survives(attempt: Attempt, broken: Parcel, known: Sequence[int]) -> CheckResult:
    name = "says that a broken image cannot be read, and goes on"
    try:
        read_result(attempt.output, broken, known, "broken image")
    except CaseFault as fault:
        if fault.reason is Reason.ALGORITHM_FAILED and attempt.ending.code == 0:
            return CheckResult(name, note=fault.message)
        return CheckResult(
            name, "catch the error, write it to the case's error file, and do the next case."
        )
    return CheckResult(name, "it gives a segmentation of an image that is cut off.")

"""Each engine at work on cases whose truth is known, for the conformance suite.

A bench gives an engine an upright case, the same patient on a coronal grid, and a broken case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from container_images import program_image, write_registry
from jipflow.cases import Case, Series
from jipflow.config import MODELS, RESOURCES, Settings
from jipflow.images.volume import read_volume, volume_path, write_volume
from jipflow.phantom import dicom
from jipflow.phantom.anatomy import LABELS
from jipflow.phantom.cohort import make_subject
from jipflow.phantom.vendors import VENDORS
from jipflow.segment.training import as_volume
from series_factory import series_of, write

UPRIGHT, CORONAL, BROKEN = "upright", "coronal", "broken"
SITE: dict[str, Any] = {"processing": {"device": "cpu", "shard_size": 50}}


@dataclass
class Bench:
    """An engine's cases and what it is to find.

    Attributes:
        segmentations: of the protocol; the last is the engine's.
        cases: `UPRIGHT`, `CORONAL` and `BROKEN`.
        volumes: folder of the prepared volumes, of all cases.
        truth: mask of each segment by case, on the grid of the segmentation's role.
        dice: that each segment reaches at least; 1 asks for the same voxels.
        broken: makes the case `BROKEN` one that the engine cannot do.
        site: the site's settings.
        registry: the registry of models, where it is not the repository's.
    """

    segmentations: list[dict[str, Any]]
    cases: list[Case]
    volumes: Path
    truth: Mapping[str, Mapping[str, np.ndarray]]
    dice: float
    broken: Callable[[], None]
    site: dict[str, Any] = field(default_factory=lambda: SITE)
    registry: Path = MODELS

    @property
    def spec(self) -> dict[str, Any]:
        return self.segmentations[-1]

    @property
    def settings(self) -> Settings:
        return Settings(self.site, {"segmentations": self.segmentations}, "0" * 64)


def patient(folder: Path) -> tuple[list[Case], Path, dict[str, dict[str, np.ndarray]]]:
    """Write the CT of a synthetic patient, upright, coronal, and once more, as prepared volumes.

    Returns:
        The cases, the folder of the volumes, and each organ's voxels by case.
    """
    subject = make_subject("engines", 1, 7, VENDORS["siemens"])
    upright = (subject.hu, subject.labels, subject.ct_grid)
    hu, grid = dicom.coronal(subject.hu, subject.ct_grid)
    labels, _ = dicom.coronal(subject.labels, subject.ct_grid)
    cases, truth = [], {}
    for name, (voxels, organs, where) in {
        UPRIGHT: upright,
        CORONAL: (hu, labels, grid),
        BROKEN: upright,
    }.items():
        write_volume(volume_path(folder / "volumes", name, "CT"), as_volume(voxels, where))
        cases.append(Case(name, name, "s00001", {"CT": Series("1.2", "CT", ())}))
        truth[name] = {organ: organs == value for organ, value in LABELS.items()}
    return cases, folder / "volumes", truth


def truncate(path: Path) -> None:
    """Leave half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def nnunet(folder: Path) -> Bench:
    """The demo model on a synthetic patient; the volume of the broken case is half a file."""
    cases, volumes, truth = patient(folder)
    spec = {
        "id": "organs",
        "engine": "nnunet",
        "model": "phantom-ct",
        "role": "CT",
        "mirroring": False,
        "segments": [
            {"name": f"my-{organ}", "label": organ, "term": organ, "required": False}
            for organ in ("spleen", "liver", "kidney")
        ],
    }
    named = {
        case: {f"my-{o}": mask for o, mask in organs.items()} for case, organs in truth.items()
    }
    broken = volume_path(volumes, BROKEN, "CT")
    return Bench([spec], cases, volumes, named, 0.85, lambda: truncate(broken))


def imported(folder: Path) -> Bench:
    """Contours of two organs; the structure set of the broken case is half a file."""
    subject = make_subject("engines", 1, 7, VENDORS["siemens"])
    organs = {name: subject.labels == LABELS[name] for name in ("liver", "spleen")}
    cases, truth = [], {}
    for name in (UPRIGHT, CORONAL, BROKEN):
        hu, grid, masks = subject.hu, subject.ct_grid, organs
        if name == CORONAL:
            masks = {organ: dicom.coronal(mask, grid)[0] for organ, mask in organs.items()}
            hu, grid = dicom.coronal(hu, grid)
        images = dicom.ct_series(hu, grid)
        series = series_of(write(images, folder / name / "ct"))
        drawn = write([dicom.rtstruct(masks, grid, images)], folder / name / "rt")
        write_volume(volume_path(folder / "volumes", name, "CT"), as_volume(hu, grid))
        annotation = Series("1.3", "RTSTRUCT", tuple(drawn))
        cases.append(Case(name, name, "s00001", {"CT": series}, (annotation,)))
        truth[name] = masks
    spec = {
        "id": "drawn",
        "engine": "imported",
        "from": "RTSTRUCT",
        "role": "CT",
        "segments": [
            {"name": organ, "match": organ, "term": organ, "required": True} for organ in organs
        ],
    }
    broken = cases[-1].annotations[0].paths[0]
    return Bench([spec], cases, folder / "volumes", truth, 1.0, lambda: truncate(broken))


def container(folder: Path) -> Bench:
    """The template of algorithms under charliecloud; the broken case's volume is half a file."""
    cases, volumes, _ = patient(folder)
    labels = {"bone": 2, "body": 1}
    (folder / "model").mkdir()
    program = (RESOURCES / "algorithm" / "main.py").read_text()
    image = program_image(folder / "model" / "template.tar", program)
    spec = {
        "id": "organs",
        "engine": "container",
        "model": "template",
        "role": "CT",
        "inputs": [],
        "segments": [
            {"name": f"my-{label}", "label": label, "term": "liver", "required": False}
            for label in labels
        ],
    }
    truth = {}
    for case in cases:
        hu = read_volume(volume_path(volumes, case.case_id, "CT")).array
        truth[case.case_id] = {"my-bone": hu > 300, "my-body": (hu > -300) & (hu <= 300)}
    broken = volume_path(volumes, BROKEN, "CT")
    return Bench(
        [spec],
        cases,
        volumes,
        truth,
        1.0,
        lambda: truncate(broken),
        SITE | {"containers": {"runtime": "charliecloud", "minutes": 2, "memory_gb": None}},
        write_registry(folder, "template", image, labels),
    )


BENCHES: dict[str, Callable[[Path], Bench]] = {
    "container": container,
    "imported": imported,
    "nnunet": nnunet,
}

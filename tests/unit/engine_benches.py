"""Each engine at work on cases whose truth is known, for the conformance suite.

A bench gives an engine an upright case, the same patient on a coronal grid, and a broken case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

import nnunet_models
import typed
from container_images import program_image, write_registry
from jipflow.cases import Case, Series
from jipflow.images.resample import resample
from jipflow.images.volume import Grid, Volume, read_grid, read_volume, volume_path, write_volume
from jipflow.models.registry import register
from jipflow.models.tasks import read_tasks
from jipflow.phantom import dicom
from jipflow.phantom.anatomy import LABELS
from jipflow.phantom.cohort import make_subject
from jipflow.phantom.vendors import VENDORS
from jipflow.settings import resources
from jipflow.settings.resources import RESOURCES
from jipflow.settings.run import Settings
from phantom_volumes import as_volume
from series_factory import series_of, write
from threshold_model import write_threshold_model

ABOUT_TOTAL = {
    "name": "Thresholds in the place of TotalSegmentator's weights",
    "version": "1.0.0",
    "engine": "totalsegmentator",
    "licence": "Apache-2.0",
    "intended_use": "Tests.",
    "training_data": "None.",
    "roles": ["CT"],
}
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
        registry: of the models.
        inbox: what readers sent back, where the engine is a person.
    """

    segmentations: list[dict[str, Any]]
    cases: list[Case]
    volumes: Path
    truth: Mapping[str, Mapping[str, np.ndarray]]
    dice: float
    broken: Callable[[], object]
    site: dict[str, Any] = field(default_factory=lambda: SITE)
    registry: Path = resources.MODELS
    inbox: Path | None = None

    @property
    def spec(self) -> dict[str, Any]:
        return self.segmentations[-1]

    @property
    def settings(self) -> Settings:
        return typed.settings(self.segmentations, self.site, [self.registry])


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
    for name, (voxels, organs, grid_of) in {
        UPRIGHT: upright,
        CORONAL: (hu, labels, grid),
        BROKEN: upright,
    }.items():
        write_volume(volume_path(folder / "volumes", name, "CT"), as_volume(voxels, grid_of))
        cases.append(Case(name, name, "s00001", {"CT": Series("1.2", "CT", ())}))
        truth[name] = {organ: organs == value for organ, value in LABELS.items()}
    return cases, folder / "volumes", truth


def truncate(path: Path) -> None:
    """Leave half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fill(path: Path, value: float) -> None:
    """Leave a volume of one value, in which there is nothing to find."""
    volume = read_volume(path)
    write_volume(path, Volume(np.full_like(volume.array, value), volume.grid))


def nnunet(folder: Path) -> Bench:
    """The demo model on a synthetic patient; the volume of the broken case is of air alone."""
    cases, volumes, truth = patient(folder)
    spec = {
        "id": "organs",
        "engine": "nnunet",
        "model": "phantom-ct",
        "role": "CT",
        "inputs": [],
        "folds": [],
        "mirroring": False,
        "tile_step_size": 0.5,
        "segments": [
            {"name": f"my-{organ}", "label": organ, "term": organ, "required": True}
            for organ in ("spleen", "liver", "kidney")
        ],
    }
    named = {
        case: {f"my-{o}": mask for o, mask in organs.items()} for case, organs in truth.items()
    }
    broken = volume_path(volumes, BROKEN, "CT")
    return Bench([spec], cases, volumes, named, 0.85, lambda: fill(broken, -1000))


def nnunet_ensemble(folder: Path) -> Bench:
    """Two folds with random weights on CT and PET; the PET of the broken case is not finite.

    The truth is what nnU-Net's own predictor makes of the upright case.
    """
    cases, volumes, _ = patient(folder)
    subject = make_subject("engines", 1, 7, VENDORS["siemens"])
    pet = as_volume(subject.suv.astype(np.float32), subject.pt_grid)
    for case in cases:
        write_volume(volume_path(volumes, case.case_id, "PT"), pet)
    cases = [replace(c, roles=c.roles | {"PT": Series("1.4", "PT", ())}) for c in cases]
    model, registry = folder / "ensemble", folder / "models.yaml"
    nnunet_models.write_model(model, channels=("CT", "PT"), folds=("0", "1"))
    nnunet_models.register(registry, ensemble=model)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), ("0", "1"))
    ct = as_volume(subject.hu, subject.ct_grid)
    images = np.stack([ct.array, resample(pet, ct.grid)[0].array])
    labels = predictor.predict_single_npy_array(images, {"spacing": list(ct.grid.spacing)})
    turned = dicom.coronal(labels, subject.ct_grid)[0]
    organs = {name: value for name, value in nnunet_models.LABELS.items() if value}
    truth = {
        case: {organ: found == value for organ, value in organs.items()}
        for case, found in ((UPRIGHT, labels), (CORONAL, turned))
    }
    spec = {
        "id": "ensemble",
        "engine": "nnunet",
        "model": "ensemble",
        "role": "CT",
        "inputs": ["CT", "PT"],
        "folds": [0, 1],
        "mirroring": False,
        "tile_step_size": 0.5,
        "segments": [
            {"name": organ, "label": organ, "term": organ, "required": True} for organ in organs
        ],
    }
    broken = volume_path(volumes, BROKEN, "PT")
    # A PET resampled onto a turned grid differs in its last digit.
    return Bench(
        [spec], cases, volumes, truth, 0.999, lambda: fill(broken, np.nan), registry=registry
    )


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


def threshold(folder: Path) -> Bench:
    """Uptake on PET within the body on CT, whose grid stays upright where PET's is coronal.

    Nothing takes up anything in the broken case.
    """
    subject = make_subject("engines", 1, 7, VENDORS["siemens"])
    cases, truth = [], {}
    for name in (UPRIGHT, CORONAL, BROKEN):
        suv, grid = subject.suv, subject.pt_grid
        if name == CORONAL:
            suv, grid = dicom.coronal(suv, grid)
        volumes = {"CT": as_volume(subject.hu, subject.ct_grid), "PT": as_volume(suv, grid)}
        for role, volume in volumes.items():
            write_volume(volume_path(folder / "volumes", name, role), volume)
        cases.append(Case(name, name, "s00001", {r: Series("1.2", r, ()) for r in volumes}))
        # Nothing but the lesion takes up so much.
        truth[name] = {"lesion": suv >= 5}
    ct = {"name": "body", "term": "liver", "above": -300, "exclude": [], "smallest_ml": 0}
    pt = {"name": "lesion", "term": "lesion", "above": 5, "exclude": [], "smallest_ml": 0}
    within = {"segmentation": "body", "segments": ["body"], "grow_mm": 0}
    common = {"engine": "threshold", "encoding": "binary"}
    specs = [
        {**common, "id": "body", "role": "CT", "segments": [{**ct, "required": True}]},
        {
            **common,
            "id": "burden",
            "role": "PT",
            "segments": [{**pt, "within": within, "required": True}],
        },
    ]
    broken = volume_path(folder / "volumes", BROKEN, "PT")
    return Bench(specs, cases, folder / "volumes", truth, 1.0, lambda: fill(broken, 0))


def totalsegmentator(folder: Path) -> Bench:
    """Nested boxes of rising intensity, found by TotalSegmentator's API with a model of thresholds.

    The broken volume has nothing but what is outside of them.
    """
    thresholds = {"spleen": 45.0, "liver": 80.0, "kidney_right": 150.0}
    values = {"spleen": 60, "liver": 100, "kidney_right": 250}
    hu = np.full((33, 36, 44), -50, np.int16)
    for edge, value in enumerate(values.values(), start=1):
        hu[4 * edge : -3 * edge, 5 * edge : -edge, 2 * edge : -5 * edge] = value
    task = read_tasks()["total"]
    weights = folder / "models" / "total-fast"
    for name in task.modes["fast"].weights:
        trainer = name.split("/")[1].split("__")[0]
        write_threshold_model(weights / name, task.labels, thresholds, (3.0, 3.0, 3.0), trainer)
    registry = folder / "models.yaml"
    register("total-fast", ABOUT_TOTAL, weights, registry)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])[:, [2, 1, 0, 3]]
    affine[:3, 3] = (-60, -50, 200)
    upright = Volume(hu, Grid(hu.shape, affine))
    tilted = upright.grid.affine.copy()
    tilted[:3, :3] = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) @ tilted[:3, :3]
    flipped = Volume(np.ascontiguousarray(hu[::-1]), Grid(hu.shape, tilted))
    cases, truth = [], {}
    for name, volume in {UPRIGHT: upright, CORONAL: flipped, BROKEN: upright}.items():
        write_volume(volume_path(folder / "volumes", name, "CT"), volume)
        cases.append(Case(name, name, "s00001", {"CT": Series("1.2", "CT", ())}))
        truth[name] = {organ: volume.array == value for organ, value in values.items()}
    spec = {
        "id": "total",
        "engine": "totalsegmentator",
        "model": "total-fast",
        "task": "total",
        "mode": "fast",
        "role": "CT",
        "segments": [
            {"name": organ, "label": organ, "term": task.terms[organ], "required": True}
            for organ in ("liver", "kidney_right", "spleen")
        ],
    }
    broken = volume_path(folder / "volumes", BROKEN, "CT")
    return Bench(
        [spec],
        cases,
        folder / "volumes",
        truth,
        1.0,
        lambda: fill(broken, -50),
        registry=registry,
    )


def container(folder: Path) -> Bench:
    """The template of algorithms under charliecloud; the broken case's volume is of air alone."""
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
            {"name": f"my-{label}", "label": label, "term": "liver", "required": True}
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
        lambda: fill(broken, -1000),
        SITE | {"containers": {"runtime": "charliecloud", "minutes": 2, "memory_gb": None}},
        write_registry(folder, "template", image, labels),
    )


def annotated(folder: Path) -> Bench:
    """Label maps that a reader sent back; that of the broken case, which waits, is half a file."""
    cases, volumes, truth = patient(folder)
    organs = ("liver", "spleen")
    for case in cases:
        grid = read_grid(volume_path(volumes, case.case_id, "CT"))
        labels = np.zeros(grid.shape, np.uint8)
        for value, organ in enumerate(organs, start=1):
            labels[truth[case.case_id][organ]] = value
        reader = folder / "inbox" / "drawn" / case.case_id / "ada"
        reader.mkdir(parents=True)
        sitk.WriteImage(Volume(labels, grid).image(), str(reader / "labels.nii.gz"))
    spec = {
        "id": "drawn",
        "engine": "annotated",
        "role": "CT",
        "may_be_empty": False,
        "when": "always",
        "readers": 1,
        "combine": "majority",
        "segments": [{"name": organ, "term": organ, "required": True} for organ in organs],
    }
    broken = folder / "inbox" / "drawn" / BROKEN / "ada" / "labels.nii.gz"
    return Bench(
        [spec],
        cases,
        volumes,
        truth,
        1.0,
        lambda: truncate(broken),
        inbox=folder / "inbox",
    )


BENCHES: dict[str, Callable[[Path], Bench]] = {
    "annotated": annotated,
    "container": container,
    "imported": imported,
    "nnunet": nnunet,
    "nnunet-ensemble": nnunet_ensemble,
    "threshold": threshold,
    "totalsegmentator": totalsegmentator,
}

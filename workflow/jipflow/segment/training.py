"""The recipe of the demo model: a small nnU-Net for the CT of the synthetic cohort.

Six steps, each a function that reads and writes files below one work folder, so that Snakemake
(`rules/train.smk`) can run, resume and skip them: `write_data`, `plan`, `fit`, `export`,
`evaluate`, `register`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    plan_experiment_dataset,
    preprocess_dataset,
)
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from numpy.typing import NDArray

from jipflow.images.volume import Grid, Volume
from jipflow.phantom.anatomy import LABELS
from jipflow.phantom.cohort import make_subject, write_nifti
from jipflow.phantom.grid import Grid as PhantomGrid
from jipflow.phantom.vendors import VENDORS
from jipflow.segment import models
from jipflow.segment.nnunet import load_predictor, predict_labels

DATASET = "Dataset001_PhantomCT"
CONFIGURATION = "3d_fullres"
TRAINING_SITE, UNSEEN_SITE = "training", "unseen"

CODES = {
    "liver": (("91723000", "Anatomical Structure"), ("10200004", "Liver")),
    "spleen": (("91723000", "Anatomical Structure"), ("78961009", "Spleen")),
    "kidney": (("91723000", "Anatomical Structure"), ("64033007", "Kidney")),
    "lesion": (("49755003", "Morphologically Abnormal Structure"), ("108369006", "Neoplasm")),
}
"""SNOMED CT category and type of each label, as PS3.16 CID 7150 and its groups give them."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the model becomes.

    Attributes:
        patients: training patients, the three vendors in turn.
        validation: how many of them, the last ones, are kept for the log's validation Dice.
        unseen: patients of the evaluation, drawn from another seed and site.
        seed: seed of the training patients and of the training itself.
        unseen_seed: seed of the evaluation's patients.
        spacing: target spacing (slice, row, column) in mm; the slices' is the largest, else
            nnU-Net would reorder the axes.
        patch: patch in voxels; holds a whole phantom at the target spacing, so that a prediction
            is one tile.
        features: channels of each resolution.
        batch: patches an iteration.
        epochs: number of epochs.
        iterations: training iterations an epoch.
        learning_rate: initial learning rate.
    """

    patients: int = 54
    validation: int = 6
    unseen: int = 12
    seed: int = 7401
    unseen_seed: int = 7402
    spacing: tuple[float, float, float] = (5.0, 4.6, 4.6)
    patch: tuple[int, int, int] = (40, 88, 88)
    features: tuple[int, ...] = (16, 32, 64, 128)
    batch: int = 2
    epochs: int = 32
    iterations: int = 25
    learning_rate: float = 0.002


class PhantomTrainer(nnUNetTrainer):
    """nnU-Net's trainer without mirroring, with Adam, and with random numbers that resume.

    Left and right tell the liver from the spleen, hence no mirroring. Adam leaves the plateau of
    an empty prediction some hundred iterations before nnU-Net's SGD does. Each epoch draws from a
    seed of its own, so that a training resumed from a checkpoint equals one that ran through.
    """

    seed = 0

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        """As nnU-Net's, with no axis to mirror."""
        rotation, dummy_2d, initial_patch, _ = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, initial_patch, None

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """AdamW with nnU-Net's polynomial decay."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def on_train_epoch_start(self) -> None:
        """As nnU-Net's, after seeding the epoch."""
        seed_everything(self.seed + self.current_epoch)
        super().on_train_epoch_start()


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's random numbers."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def write_data(work: Path, recipe: Recipe) -> None:
    """Write the training patients as an nnU-Net raw dataset, `work/raw/Dataset001_PhantomCT`.

    Image and label map are NIfTI on the CT's own grid, in the orientation that the pipeline
    gives a volume: slices from feet to head, rows from front to back, columns from right to left.
    """
    root = work / "raw" / DATASET
    images, labels = root / "imagesTr", root / "labelsTr"
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    vendors = list(VENDORS.values())
    for index in range(1, recipe.patients + 1):
        subject = make_subject(TRAINING_SITE, index, recipe.seed, vendors[(index - 1) % 3])
        name = subject.study.patient_id
        write_nifti(subject.hu, subject.ct_grid, images / f"{name}_0000.nii.gz")
        write_nifti(subject.labels, subject.ct_grid, labels / f"{name}.nii.gz")
    _write_json(
        root / "dataset.json",
        {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, **LABELS},
            "numTraining": recipe.patients,
            "file_ending": ".nii.gz",
        },
    )


def plan(work: Path, recipe: Recipe) -> None:
    """Fingerprint, plan and preprocess; the plan is nnU-Net's with the recipe's small network."""
    _environment(work)
    extract_fingerprint_dataset(
        1, num_processes=1, check_dataset_integrity=True, show_progress_bar=False
    )
    plans, identifier = plan_experiment_dataset(1, overwrite_target_spacing=recipe.spacing)
    configuration = plans["configurations"][CONFIGURATION]
    configuration["patch_size"] = list(recipe.patch)
    configuration["batch_size"] = recipe.batch
    configuration["batch_dice"] = True
    stages = len(recipe.features)
    configuration["architecture"]["arch_kwargs"].update(
        n_stages=stages,
        features_per_stage=list(recipe.features),
        kernel_sizes=[[3, 3, 3]] * stages,
        strides=[[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        n_conv_per_stage=[1] + [2] * (stages - 1),
        n_conv_per_stage_decoder=[1] * (stages - 1),
    )
    plans["configurations"] = {CONFIGURATION: configuration}
    preprocessed = work / "preprocessed" / DATASET
    _write_json(preprocessed / f"{identifier}.json", plans)
    preprocess_dataset(1, identifier, (CONFIGURATION,), num_processes=(1,), show_progress_bar=False)
    names = sorted(
        path.name.removesuffix(".nii.gz")
        for path in (work / "raw" / DATASET / "labelsTr").glob("*.nii.gz")
    )
    _write_json(
        preprocessed / "splits_final.json",
        [{"train": names[: -recipe.validation], "val": names[-recipe.validation :]}],
    )


def fit(work: Path, recipe: Recipe, device: str = "auto") -> Path:
    """Train, or go on from `checkpoint_latest.pth`; return the path of the final checkpoint.

    Args:
        work: folder in which `plan` has run.
        recipe: what to train.
        device: `cpu`, `cuda` or `auto`.
    """
    _environment(work)
    os.environ.update(nnUNet_n_proc_DA="0")  # augmentation in this process, in a fixed order
    preprocessed = work / "preprocessed" / DATASET
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    fold = work / "trained" / DATASET / f"PhantomTrainer__nnUNetPlans__{CONFIGURATION}" / "fold_0"
    final, latest = fold / "checkpoint_final.pth", fold / "checkpoint_latest.pth"
    if final.exists():
        return final
    plans["continue_training"] = latest.exists()
    seed_everything(recipe.seed)
    trainer = PhantomTrainer(plans, CONFIGURATION, 0, dataset, _device(device))
    trainer.seed = recipe.seed
    trainer.num_epochs = recipe.epochs
    trainer.num_iterations_per_epoch = recipe.iterations
    trainer.num_val_iterations_per_epoch = 3
    trainer.initial_lr = recipe.learning_rate
    trainer.save_every = 2
    if latest.exists():
        trainer.load_checkpoint(str(latest))
    trainer.run_training()
    return final


def export(work: Path, recipe: Recipe, model: Path) -> None:
    """Write the trained model in nnU-Net's own layout, with its log and provenance.

    The checkpoint keeps the weights and what `nnUNetPredictor` reads, nothing else; the trainer
    is named `nnUNetTrainer`, whose network it is, so that no custom class is looked for.
    """
    trained = work / "trained" / DATASET / f"PhantomTrainer__nnUNetPlans__{CONFIGURATION}"
    checkpoint = torch.load(
        trained / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False
    )
    weights = dict(checkpoint["network_weights"])
    (model / "fold_0").mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "network_weights": weights,
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": CONFIGURATION},
            "inference_allowed_mirroring_axes": checkpoint["inference_allowed_mirroring_axes"],
        },
        model / "fold_0" / "checkpoint_final.pth",
    )
    for name in ("dataset.json", "plans.json"):
        shutil.copyfile(trained / name, model / name)
    logs = sorted((trained / "fold_0").glob("training_log_*.txt"), key=lambda p: p.stat().st_mtime)
    log = "".join(path.read_text() for path in logs)
    (model / "training_log.txt").write_text(log.replace(str(work.resolve()), work.name))
    raw = work / "raw" / DATASET
    _write_json(
        model / "provenance.json",
        {
            "recipe": asdict(recipe),
            "trainer": "nnUNetTrainer with AdamW, without mirroring, each epoch seeded",
            "training_data": {
                "source": "jipflow phantom, CT only",
                "site": TRAINING_SITE,
                "vendors": list(VENDORS),
                "sha256": _sha256_tree(raw),
            },
            "commands": ["make model"],
            "parameters": sum({w.data_ptr(): w.numel() for w in weights.values()}.values()),
            "versions": {
                "python": platform.python_version(),
                **{
                    name: version(name)
                    for name in ("jipflow", "nnunetv2", "torch", "numpy", "scipy")
                },
            },
        },
    )


def evaluate(recipe: Recipe, model: Path, device: str = "auto") -> dict[str, Any]:
    """Predict patients that the training has not seen and write `evaluation.json`."""
    predictor = load_predictor(model, ["0"], os.cpu_count() or 1, device, mirroring=False)
    vendors = list(VENDORS.values())
    patients: list[dict[str, Any]] = []
    for index in range(1, recipe.unseen + 1):
        subject = make_subject(UNSEEN_SITE, index, recipe.unseen_seed, vendors[(index - 1) % 3])
        predicted = predict_labels(predictor, as_volume(subject.hu, subject.ct_grid))
        patients.append(
            {
                "patient_id": subject.study.patient_id,
                "vendor": subject.study.vendor.key,
                "dice": {
                    name: round(value, 4) for name, value in dice(predicted, subject.labels).items()
                },
            }
        )
    by_label = {name: [p["dice"][name] for p in patients] for name in LABELS}
    result = {
        "site": UNSEEN_SITE,
        "seed": recipe.unseen_seed,
        "mean_dice": round(float(np.mean(list(by_label.values()))), 4),
        "mean_dice_by_label": {name: round(float(np.mean(v)), 4) for name, v in by_label.items()},
        "worst_dice_by_label": {name: min(v) for name, v in by_label.items()},
        "mean_dice_by_vendor": {
            key: round(
                float(np.mean([list(p["dice"].values()) for p in patients if p["vendor"] == key])),
                4,
            )
            for key in sorted({p["vendor"] for p in patients})
        },
        "patients": patients,
    }
    _write_json(model / "evaluation.json", result)
    return result


def register(model: Path, registry: Path) -> None:
    """Pin the SHA-256 of every file of the model in the registry of models."""
    entry = {
        "name": "Phantom CT organs and lesion",
        "version": version("jipflow"),
        "engine": "nnunet",
        "licence": "Apache-2.0",
        "intended_use": "Demonstration and tests on the synthetic cohort; not for patients.",
        "training_data": "Synthetic CT of jipflow's phantom; no patient data. See provenance.json.",
        "roles": ["CT"],
        "labels": [
            {
                "name": name,
                "value": value,
                "category": _coded(*CODES[name][0]),
                "type": _coded(*CODES[name][1]),
            }
            for name, value in LABELS.items()
        ],
    }
    models.register(model.name, entry, model, registry)


def as_volume(hu: NDArray[np.integer], grid: PhantomGrid) -> Volume:
    """Return a phantom's voxels, axes (slice, row, column), as a volume in LPS mm."""
    affine = np.eye(4)
    directions = np.stack([grid.normal, grid.column, grid.row], axis=1)
    affine[:3, :3] = directions * np.asarray(grid.spacing)
    affine[:3, 3] = grid.origin
    return Volume(hu, Grid(grid.shape, affine))


def dice(predicted: NDArray[np.integer], truth: NDArray[np.integer]) -> dict[str, float]:
    """Dice coefficient of each label: 2 |A ∩ B| / (|A| + |B|).

    Raises:
        ValueError: a label is absent from both, where the coefficient is not defined.
    """
    found = {}
    for name, value in LABELS.items():
        a, b = predicted == value, truth == value
        total = int(a.sum()) + int(b.sum())
        if total == 0:
            raise ValueError(f"{name} is in neither label map")
        found[name] = 2.0 * int((a & b).sum()) / total
    return found


def _environment(work: Path) -> None:
    """Point nnU-Net at the work folder; it reads these variables when it needs a path."""
    for variable, folder in (
        ("nnUNet_raw", "raw"),
        ("nnUNet_preprocessed", "preprocessed"),
        ("nnUNet_results", "trained"),
    ):
        os.environ[variable] = str((work / folder).resolve())
        (work / folder).mkdir(parents=True, exist_ok=True)
    os.environ.update(nnUNet_compile="f")


def _device(name: str) -> torch.device:
    """`cpu`, `cuda`, or with `auto` the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _sha256_tree(folder: Path) -> str:
    """One SHA-256 over the names and contents of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _coded(value: str, meaning: str) -> dict[str, str]:
    return {"value": value, "scheme": "SCT", "meaning": meaning}


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

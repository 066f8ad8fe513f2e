"""Training the model of a fold, resumable after a kill."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jipflow.files import atomic_path, canonical_digest, read_json, write_json
from jipflow.models.checkpoints import only_data, read_checkpoint
from jipflow.models.device import chosen_device
from jipflow.models.registry import CHECKPOINT
from jipflow.models.upstream import MetaLogger, PolyLRScheduler, nnUNetTrainer
from jipflow.settings.training import DESCRIBING, Training
from jipflow.training.folders import (
    DATASET,
    PLANS,
    model,
    point_nnunet_at,
    preprocessed,
    raw,
)

LATEST = "checkpoint_latest.pth"


class PlainLogger(MetaLogger):
    """nnU-Net's logger without its picture of 30 by 54 inches after each epoch.

    The training's report draws the curves.
    """

    def plot_progress_png(self, output_folder: str) -> None:
        """Draw nothing."""


class ResumableTrainer(nnUNetTrainer):
    """nnU-Net's trainer with random numbers that resume, and the protocol's choices.

    Each epoch draws from a seed of its own, so that a training resumed from a checkpoint equals one
    that ran through. Adam leaves the plateau of an empty prediction some hundred iterations before
    nnU-Net's SGD does, which counts in a short training.
    """

    seed = 0
    optimiser = "sgd"
    mirroring = True

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        """As nnU-Net's, with no axis to mirror where the protocol wants none."""
        rotation, dummy_2d, initial_patch, axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if not self.mirroring:
            self.inference_allowed_mirroring_axes = axes = None
        return rotation, dummy_2d, initial_patch, axes

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """nnU-Net's SGD, or AdamW with the same polynomial decay."""
        if self.optimiser == "sgd":
            optimizer, schedule = super().configure_optimizers()
            return optimizer, schedule
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def on_train_epoch_start(self) -> None:
        """As nnU-Net's, after seeding the epoch."""
        seed_everything(self.seed + self.current_epoch)
        super().on_train_epoch_start()

    def save_checkpoint(self, filename: str) -> None:
        """As nnU-Net's, but a kill never leaves half a checkpoint behind."""
        with atomic_path(Path(filename)) as partial:
            super().save_checkpoint(str(partial))

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """As nnU-Net's, of tensors, numbers, text and containers only."""
        with only_data(Path(filename_or_checkpoint)):
            super().load_checkpoint(filename_or_checkpoint)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's random numbers."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def fit(*, work: Path, fold: str, training: Training, device: str, threads: int) -> None:
    """Train the model of a fold, or go on from its last checkpoint, and keep what predicts.

    On the CPU the patches are drawn and changed in this process in a fixed order, and a training
    that was killed ends with the very weights of one that was not. On a GPU they are drawn by
    `threads` processes, and no two trainings are equal to the bit.

    Writes ``model/fold_<fold>/checkpoint_final.pth``, which holds tensors and words only, and
    ``progress_<fold>.json``: the losses, the pseudo-Dice and the seconds of each epoch.

    Args:
        work: folder in which `plan.plan` has run.
        fold: number of the fold, whose cases are left out, or ``all``.
        training: the protocol's ``training``.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: threads on the CPU.

    Raises:
        StageError: there is no such device.
    """
    chosen = chosen_device(device)
    point_nnunet_at(work, threads if chosen.type == "cuda" else 0)
    torch.set_num_threads(threads)
    plans = read_json(preprocessed(work) / f"{PLANS}.json")
    folder = (
        work
        / "trained"
        / DATASET
        / f"{ResumableTrainer.__name__}__{PLANS}__{training.configuration}"
        / f"fold_{fold}"
    )
    _start_anew_if_changed(folder, work, training, plans)
    latest, final = folder / LATEST, folder / CHECKPOINT
    if not final.exists():
        plans["continue_training"] = latest.exists()
        seed_everything(training.seed)
        dataset = read_json(raw(work) / "dataset.json")
        number: Any = fold if fold == "all" else int(fold)
        trainer = ResumableTrainer(plans, training.configuration, number, dataset, chosen)
        trainer.logger = PlainLogger(trainer.output_folder, latest.exists())
        trainer.seed = training.seed
        trainer.optimiser = training.optimiser
        trainer.mirroring = training.mirroring
        trainer.initial_lr = training.learning_rate
        trainer.num_epochs = training.epochs
        trainer.num_iterations_per_epoch = training.iterations
        trainer.num_val_iterations_per_epoch = training.validation_iterations
        trainer.save_every = max(1, training.epochs // 100)
        if latest.exists():
            trainer.load_checkpoint(str(latest))
        trainer.run_training()
    _export(work, fold, final)


def _start_anew_if_changed(
    folder: Path, work: Path, training: Training, plans: Mapping[str, Any]
) -> None:
    """Remove what a training of another plan, other images or other settings has left."""
    started = canonical_digest(
        {
            "training": {
                key: value for key, value in training.plain().items() if key not in DESCRIBING
            },
            "plans": plans,
            "split": read_json(work / "split.json"),
        }
    )
    mark = folder / "started.json"
    if not mark.is_file() or read_json(mark) != started:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(mark, started)


def _export(work: Path, fold: str, final: Path) -> None:
    """Keep the weights and what `nnUNetPredictor` reads, nothing else.

    The trainer is named `nnUNetTrainer`, whose network it is, so that nnU-Net looks for no other
    class.
    """
    checkpoint = read_checkpoint(final)
    log = checkpoint["logging"]
    write_json(
        work / f"progress_{fold}.json",
        {
            "train_loss": _numbers(log["train_losses"]),
            "validation_loss": _numbers(log["val_losses"]),
            "pseudo_dice": _numbers(log["mean_fg_dice"]),
            "seconds": [
                round(end - start, 2)
                for start, end in zip(
                    log["epoch_start_timestamps"], log["epoch_end_timestamps"], strict=True
                )
            ],
        },
    )
    # A file's name would become part of the archive that torch writes.
    stream = io.BytesIO()
    torch.save(
        {
            "network_weights": dict(checkpoint["network_weights"]),
            "trainer_name": nnUNetTrainer.__name__,
            "init_args": {"configuration": checkpoint["init_args"]["configuration"]},
            "inference_allowed_mirroring_axes": checkpoint["inference_allowed_mirroring_axes"],
        },
        stream,
    )
    with atomic_path(model(work) / f"fold_{fold}" / CHECKPOINT) as partial:
        partial.write_bytes(stream.getvalue())


def _numbers(values: Iterable[float]) -> list[float | None]:
    """Return finite numbers; None where validation saw no label and there is no pseudo-Dice."""
    return [round(float(v), 6) if np.isfinite(v) else None for v in values]

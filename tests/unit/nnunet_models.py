"""nnU-Net model folders with random weights, whose predictions have much to differ in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from jipflow.models import registry as models
from jipflow.settings.resources import ROOT

LABELS: dict[str, Any] = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3}


def write_model(
    folder: Path,
    *,
    channels: tuple[str, ...] = ("CT",),
    folds: tuple[str, ...] = ("0",),
    labels: dict[str, Any] = LABELS,
    flat: bool = False,
    mirrored: tuple[int, ...] | None = None,
    trainer: str = "nnUNetTrainer",
    seed: int = 11,
    **changed: Any,
) -> None:
    """Write a model as nnU-Net's trainer leaves it.

    Args:
        folder: of the model.
        channels: names of the images that it takes.
        folds: each with other weights.
        labels: as in ``dataset.json``; a label of several values makes a model of regions.
        flat: a network for single slices.
        mirrored: axes that the training mirrored.
        trainer: name of the trainer in the checkpoints.
        seed: of the weights.
        changed: keys of the plans, or of their only configuration.
    """
    plans = json.loads((ROOT / "workflow/resources/models/phantom-ct/plans.json").read_text())
    name, settings = plans["configurations"].popitem()
    name = "2d" if flat else name
    axes = 2 if flat else 3
    settings |= {
        "patch_size": [16, 32, 32][-axes:],
        "spacing": [6.0, 6.5, 6.5][-axes:],
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"][: len(channels)],
        "use_mask_for_norm": [False] * len(channels),
    }
    settings["architecture"]["arch_kwargs"] |= {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "kernel_sizes": [[3] * axes] * 2,
        "strides": [[1] * axes, [2] * axes],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
    }
    settings |= {key: changed.pop(key) for key in set(changed) & {*settings, "previous_stage"}}
    plans |= changed | {"configurations": {name: settings}}
    properties = plans["foreground_intensity_properties_per_channel"]["0"]
    plans["foreground_intensity_properties_per_channel"] = {
        str(number): properties for number in range(len(channels))
    }
    dataset = {
        "channel_names": {str(number): channel for number, channel in enumerate(channels)},
        "labels": labels,
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    regions = [value for value in labels.values() if isinstance(value, list)]
    if regions:
        dataset["regions_class_order"] = list(range(1, len(labels)))
    folder.mkdir(parents=True)
    for file, content in (("plans", plans), ("dataset", dataset)):
        (folder / f"{file}.json").write_text(json.dumps(content))
    manager = PlansManager(plans)
    inputs = determine_num_input_channels(manager, name, dataset)
    for number, fold in enumerate(folds):
        torch.manual_seed(seed + number)
        network = nnUNetTrainer.build_network_architecture(
            manager,
            manager.get_configuration(name),
            inputs,
            manager.get_label_manager(dataset).num_segmentation_heads,
            enable_deep_supervision=False,
        )
        noise = torch.randn(1, inputs, *settings["patch_size"])
        with torch.no_grad():
            for weights in network.parameters():
                torch.nn.init.normal_(weights, std=0.4)
            # Else one label would have the highest logit nearly everywhere.
            means = network(noise).mean(dim=list(range(2, noise.ndim)))[0]
            network.decoder.seg_layers[-1].bias -= means
        (folder / f"fold_{fold}").mkdir()
        torch.save(
            {
                "network_weights": network.state_dict(),
                "optimizer_state": torch.optim.SGD(network.parameters(), 0.01).state_dict(),
                "grad_scaler_state": None,
                "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(1)]},
                "_best_ema": np.float64(0.5),
                "current_epoch": 1,
                "init_args": {
                    "plans": plans,
                    "configuration": name,
                    "fold": 0,
                    "dataset_json": dataset,
                    "device": torch.device("cpu"),
                },
                "trainer_name": trainer,
                "inference_allowed_mirroring_axes": mirrored,
            },
            folder / f"fold_{fold}" / "checkpoint_final.pth",
        )


def register(
    registry: Path,
    members: tuple[str, ...] = (),
    postprocessing: str | None = None,
    **folders: Path,
) -> None:
    """Pin folders below that of a registry as models, of several configurations where some are
    named."""
    for name, folder in folders.items():
        dataset = json.loads((folder / (members or [""])[0] / "dataset.json").read_text())
        labels = [label for label in dataset["labels"] if label != "background"]
        about = {
            "name": name,
            "version": "1.0.0",
            "engine": "nnunet",
            "licence": "Apache-2.0",
            "intended_use": "Tests.",
            "training_data": "None.",
            "members": list(members),
            "roles": list(dataset["channel_names"].values()),
            "labels": [
                {"name": label, "value": value, "term": "liver"}
                for value, label in enumerate(labels, start=1)
            ],
        }
        if postprocessing is not None:
            about["postprocessing"] = postprocessing
        models.register(name, about, folder, registry)

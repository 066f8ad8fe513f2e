"""nnU-Net models whose weights are set by hand, so that they find ranges of intensity exactly.

The network is a real U-Net without norm and activation, hence linear: its output for a class is a
line over the voxel's own intensity, and the highest of several lines changes where we want.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from jipflow.settings.resources import RESOURCES

SCALE = 100.0
"""Intensities are divided by this, so that outputs fit nnU-Net's sums in 16 bits."""


def write_threshold_model(
    folder: Path,
    classes: Mapping[str, int],
    thresholds: Mapping[str, float],
    spacing: tuple[float, float, float],
    trainer: str = "nnUNetTrainer",
    patch: tuple[int, int, int] = (32, 32, 32),
) -> None:
    """Write a model folder as nnU-Net does after training.

    Args:
        folder: ``Dataset.../<trainer>__<plans>__<configuration>``.
        classes: number by name, from 1.
        thresholds: intensity from which up a class is found, in rising order; below the first is
            background. Other classes are never found.
        spacing: in mm along (z, y, x).
        trainer: name of the class that is stated to have trained it.
        patch: size of what the network sees at once.
    """
    plans = json.loads((RESOURCES / "models" / "phantom-ct" / "plans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration.update(
        spacing=list(spacing), patch_size=list(patch), median_image_size_in_voxels=list(patch)
    )
    architecture = configuration["architecture"]
    architecture["arch_kwargs"].update(
        n_stages=2,
        features_per_stage=[1, 1],
        kernel_sizes=[[1, 1, 1]] * 2,
        strides=[[1, 1, 1], [2, 2, 2]],
        n_conv_per_stage=[1, 1],
        n_conv_per_stage_decoder=[1],
        norm_op=None,
        norm_op_kwargs=None,
        nonlin=None,
        nonlin_kwargs=None,
    )
    intensities = plans["foreground_intensity_properties_per_channel"]["0"]
    intensities.update(mean=0.0, std=SCALE, percentile_00_5=-10 * SCALE, percentile_99_5=10 * SCALE)
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **classes},
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        1 + len(classes),
        deep_supervision=False,
    )
    _set(network, classes, thresholds)
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": trainer,
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")


@torch.no_grad()
def _set(network: Any, classes: Mapping[str, int], thresholds: Mapping[str, float]) -> None:
    for parameter in network.parameters():
        parameter.zero_()
    network.encoder.stages[0][0].convs[0].conv.weight.fill_(1)
    # The decoder takes (what comes from below, what skips it).
    network.decoder.stages[0].convs[0].conv.weight[0, 1] = 1
    output = network.decoder.seg_layers[-1]
    output.bias.fill_(-100)
    output.bias[0] = 0
    # Each line is steeper than the last by 1 and crosses it at its threshold.
    offset = 0.0
    for slope, (name, threshold) in enumerate(thresholds.items(), start=1):
        offset -= threshold / SCALE
        output.weight[classes[name]] = slope
        output.bias[classes[name]] = offset

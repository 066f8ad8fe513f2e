"""Where the steps of a training meet, below its work folder."""

from __future__ import annotations

import os
from pathlib import Path

DATASET = "Dataset001_Cohort"
PLANS = "nnUNetPlans"


def raw(work: Path) -> Path:
    """The images and label maps, a folder for each shard, and ``dataset.json``."""
    return work / "raw" / DATASET


def preprocessed(work: Path) -> Path:
    """What nnU-Net's preprocessing wrote, the plans and the splits."""
    return work / "preprocessed" / DATASET


def model(work: Path) -> Path:
    """The model in the layout that nnU-Net's predictor loads."""
    return work / "model"


def point_nnunet_at(work: Path, processes: int) -> None:
    """Set the variables that nnU-Net reads, and make the folders that it looks for.

    Compilation is turned off: it costs minutes and needs a compiler at the site.

    Args:
        work: folder of the training.
        processes: that draw patches; 0 draws them in this process.
    """
    for variable, folder in (
        ("nnUNet_raw", "raw"),
        ("nnUNet_preprocessed", "preprocessed"),
        ("nnUNet_results", "trained"),
    ):
        os.environ[variable] = str((work / folder).resolve())
        (work / folder).mkdir(parents=True, exist_ok=True)
    os.environ.update(nnUNet_compile="f", nnUNet_n_proc_DA=str(processes))

"""A shard by jipflow's engine nnunet, beside nnUNetv2_predict once a folder and once a case."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
import yaml
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy import ndimage

from jipflow.files import read_json, write_json
from jipflow.images.masks import read_segmentation
from jipflow.images.volume import Grid, Volume, volume_path, write_volume
from jipflow.models.registry import register, registered_model
from jipflow.outcomes import Outcome, Status, read_outcomes, write_outcomes
from jipflow.phantom.anatomy import LABELS
from jipflow.phantom.cohort import make_subject
from jipflow.phantom.vendors import VENDORS
from jipflow.settings.resources import ROOT
from jipflow.settings.run import settings_of, write_settings
from report import Cell, write_result
from watch import Watch

sys.path.insert(0, str(ROOT / "tests" / "unit"))
from phantom_volumes import as_volume

TOOLS = Path(sys.executable).parent
DATASET = "Dataset001_PhantomCT"
FOLDER_CALLS = {
    "3 + 3 processes, the default": (3, 3),
    "1 + 1 processes": (1, 1),
    "no other process": (0, 0),
}
"""Processes that read and that write, ``-npp`` and ``-nps``."""


def write_ensemble(folder: Path) -> None:
    """Write two folds of random weights, in the demo model's plans but four times as many."""
    demo = registered_model("phantom-ct").folder
    plans, dataset = read_json(demo / "plans.json"), read_json(demo / "dataset.json")
    ((name, settings),) = plans["configurations"].items()
    settings["architecture"]["arch_kwargs"]["features_per_stage"] = [32, 64, 128, 256]
    settings["patch_size"] = [32, 64, 64]
    folder.mkdir()
    write_json(folder / "plans.json", plans)
    write_json(folder / "dataset.json", dataset)
    manager = PlansManager(plans)
    for fold in range(2):
        torch.manual_seed(fold)
        network = nnUNetTrainer.build_network_architecture(
            manager, manager.get_configuration(name), 1, 1 + len(LABELS), False
        )
        (folder / f"fold_{fold}").mkdir()
        torch.save(
            {
                "network_weights": network.state_dict(),
                "trainer_name": "nnUNetTrainer",
                "init_args": {"configuration": name},
                "inference_allowed_mirroring_axes": None,
            },
            folder / f"fold_{fold}" / "checkpoint_final.pth",
        )


def write_registry(path: Path, ensemble: Path) -> None:
    """Write a registry of the demo model and the ensemble."""
    shipped = registered_model("phantom-ct")
    demo = path.parent / "phantom-ct"
    shutil.copytree(shipped.folder, demo)
    about = {
        key: value for key, value in shipped.entry.plain().items() if key not in {"path", "files"}
    }
    register("phantom-ct", about, demo, path)
    register("ensemble", about, ensemble, path)


def write_cases(folder: Path, number: int, zoom: tuple[int, int, int]) -> None:
    """Write CTs of the phantom as prepared volumes and as nnU-Net's input files."""
    rows = []
    vendors = list(VENDORS.values())
    for index in range(1, number + 1):
        subject = make_subject("benchmark", index, 5, vendors[index % 3])
        ct = as_volume(subject.hu, subject.ct_grid)
        if zoom != (1, 1, 1):
            voxels = ndimage.zoom(
                ct.array.astype(np.float32), zoom, order=1, mode="nearest", grid_mode=True
            )
            affine = ct.grid.affine @ np.diag([*(1 / factor for factor in zoom), 1])
            ct = Volume(np.rint(voxels).astype(np.int16), Grid(voxels.shape, affine))
        case = f"c{index:02d}"
        write_volume(volume_path(folder / "volumes", case, "CT"), ct)
        for inputs in (folder / "in", folder / f"in-{case}"):
            inputs.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(ct.image(), str(inputs / f"{case}_0000.nii.gz"))
        rows.append(
            {
                **{"case_id": case, "patient": case, "shard": "s00001", "role": "CT"},
                **{"series_uid": f"1.{index}", "modality": "CT", "path": "x"},
                **{"bytes": 0, "modified_ns": 0},
            }
        )
    pd.DataFrame(rows).to_parquet(folder / "cases.parquet")
    write_outcomes(
        folder / "prepared.parquet", [Outcome(r["case_id"], "prepare", "CT") for r in rows]
    )


def ours(folder: Path, registry: Path, model: str) -> Callable[[Path], list[list[str]]]:
    """Commands of the stage on all cases as one shard."""
    spec: dict[str, Any] = {
        **{"id": "organs", "engine": "nnunet", "model": model, "role": "CT", "inputs": []},
        **{"folds": [], "mirroring": False, "tile_step_size": 0.5, "encoding": "labelmap"},
        "segments": [
            {"name": label, "label": label, "term": label, "required": False} for label in LABELS
        ],
    }
    site = {
        "site": {"id": "benchmark", "name": "Benchmark"},
        "sources": [{"name": "archive", "kind": "folder", "path": "."}],
        "processing": {"device": "cpu", "shard_size": 50},
    }
    protocol = {
        "protocol": {"id": "benchmark", "version": "1.0.0", "title": "Benchmark"},
        "cohort": {"where": "true", "case": {"roles": {"CT": {"where": "true"}}}},
        "segmentations": [spec],
    }
    write_settings(folder / f"{model}.json", settings_of(site, protocol, [registry]))

    def commands(out: Path) -> list[list[str]]:
        return [
            [
                *(sys.executable, "-m", "jipflow", "segment"),
                *("--settings", str(folder / f"{model}.json")),
                *("--cases", str(folder / "cases.parquet")),
                *("--prepared", str(folder / "prepared.parquet")),
                *("--volumes", str(folder / "volumes"), "--masks", str(out)),
                *("--quality", str(out.with_suffix(".quality.parquet"))),
                *("--outcomes", str(out.with_suffix(".parquet"))),
                *("--threads", str(len(os.sched_getaffinity(0)))),
            ]
        ]

    return commands


def theirs(images: list[Path], folds: int, processes: tuple[int, int]) -> Callable[[Path], Any]:
    """Commands of nnUNetv2_predict, one a folder of images."""

    def commands(out: Path) -> list[list[str]]:
        return [
            [
                *(str(TOOLS / "nnUNetv2_predict"), "-i", str(folder), "-o", str(out)),
                *("-d", DATASET, "-c", "3d_fullres", "-f", *map(str, range(folds))),
                *("-device", "cpu", "--disable_tta", "--disable_progress_bar"),
                *("-npp", str(processes[0]), "-nps", str(processes[1])),
            ]
            for folder in images
        ]

    return commands


def compare(masks: Path, files: Path) -> int:
    """Return how many voxels have a label, after a look that all are the same in both."""
    labelled = 0
    outcomes = read_outcomes(masks.with_suffix(".parquet"))
    assert outcomes
    assert all(outcome.status is Status.OK for outcome in outcomes), outcomes
    for outcome in outcomes:
        segmentation = read_segmentation(masks / outcome.case_id / "organs")
        own = np.zeros(segmentation.grid.shape, np.uint8)
        for segment in segmentation.segments:
            own[segmentation.mask(segment)] = LABELS[segment.name]
        peer = sitk.GetArrayFromImage(sitk.ReadImage(str(files / f"{outcome.case_id}.nii.gz")))
        np.testing.assert_array_equal(own, peer)
        labelled += int(np.count_nonzero(own))
    print(f"{len(outcomes)} label maps are identical, {labelled} voxels with a label", flush=True)
    return labelled


def compare_speed(
    folder: Path, registry: Path, model: str, title: str, number: int, rounds: int
) -> list[list[Cell]]:
    """Predict the cases of a folder each way, and return rows of the table."""
    images = [folder / "in"]
    entry = yaml.safe_load(registry.read_text())["models"][model]
    trained = folder / "results" / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    trained.parent.mkdir(parents=True)
    trained.symlink_to(registry.parent / entry["path"])
    os.environ["nnUNet_results"] = str(folder / "results")  # noqa: SIM112
    folds = sum(path.endswith(".pth") for path in entry["files"])
    single = [folder / f"in-c{index:02d}" for index in range(1, number + 1)]
    ways = {"jipflow, one shard": ours(folder, registry, model)}
    for name, processes in FOLDER_CALLS.items():
        ways[f"nnU-Net once a folder, {name}"] = theirs(images, folds, processes)
    ways["nnU-Net once a case"] = theirs(single, folds, (1, 1))
    rows: list[list[Cell]] = []
    watches = {name: Watch() for name in ways}
    for turn in range(rounds):
        for name, commands in ways.items():
            if turn and name.endswith("a case"):
                continue
            for command in commands(folder / f"out-{list(ways).index(name)}"):
                watches[name].run(command)
            costs = watches[name].costs
            print(title, name, sum(c.seconds for c in costs), flush=True)
    for index in range(1, len(ways)):
        compare(folder / "out-0", folder / f"out-{index}")
    for name, watch in watches.items():
        costs = watch.costs
        take: Callable[[Any], float] = sum if name.endswith("a case") else min
        rows.append(
            [
                *(title, name),
                take(cost.seconds for cost in costs),
                take(cost.processor_seconds for cost in costs),
                max(cost.peak_mb for cost in costs),
                watch.together_mb,
            ]
        )
    best = min(float(row[2] or 0) for row in rows if "a folder" in str(row[1]))
    return [[*row, best / float(row[2] or 0)] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--large", type=int, default=4)
    arguments = parser.parse_args()
    os.environ["nnUNet_compile"] = "f"  # noqa: SIM112
    rows: list[list[Cell]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ensemble(folder / "ensemble")
        registry = folder / "models.yaml"
        write_registry(registry, folder / "ensemble")
        sets = [
            ("phantom-ct", "the demo model", arguments.cases, (1, 1, 1)),
            ("ensemble", "two folds, wide", arguments.large, (2, 3, 3)),
        ]
        for model, title, number, zoom in sets:
            if number == 0:
                continue
            work = folder / f"cases-{model}"
            work.mkdir()
            write_cases(work, number, zoom)
            title = f"{number} CTs, {title}"
            rows += compare_speed(work, registry, model, title, number, arguments.rounds)
            write_table(rows, arguments.rounds)


def write_table(rows: list[list[Cell]], rounds: int) -> None:
    write_result(
        "nnunet",
        "nnU-Net on the cases of a shard",
        [
            *("work", "how", "wall s", "processor s", "peak MiB, largest process"),
            *("peak MiB, all processes", "times as fast as nnU-Net's best folder call"),
        ],
        rows,
        packages=["nnunetv2", "torch", "scikit-image", "numpy"],
        notes=[
            "Whole processes with start, on all cores and no GPU, without mirroring; the label "
            "maps of all ways are the same, voxel for voxel.",
            "The demo model: one fold of 1.25 million weights, CTs of about 45 × 96 × 96. Two "
            "folds, wide: random weights, 32 to 256 features, CTs of about 90 × 288 × 288, tiles "
            "of 32 × 64 × 64 that overlap by half. jipflow also compares the folds.",
            f"The least of {rounds} rounds in which the ways take turns; once a case, one round. "
            "Processes: those that nnUNetv2_predict reads and writes with; without any it reads, "
            "predicts and writes one after the other.",
        ],
    )


if __name__ == "__main__":
    main()

"""The plan of a training: which cases are in which fold, and nnU-Net's plan, adapted."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from jipflow.files import write_json
from jipflow.models.upstream import (
    extract_fingerprint_dataset,
    get_pool_and_conv_props,
    plan_experiment_dataset,
    preprocess_dataset,
)
from jipflow.outcomes import Outcome, Status
from jipflow.reasons import StageError
from jipflow.settings.run import Settings
from jipflow.settings.training import Training
from jipflow.subset import part
from jipflow.training.data import label_values
from jipflow.training.folders import (
    PLANS,
    model,
    point_nnunet_at,
    preprocessed,
    raw,
)

SMALLEST_MAP = 4
"""Fewest voxels along an axis at the network's lowest resolution, as nnU-Net's planner has it."""


@dataclass(frozen=True)
class Split:
    """Which cases are for what; all cases of a patient are for the same.

    Attributes:
        folds: the cases of each fold, which train the models of the other folds.
        held_out: cases that no model sees.
    """

    folds: list[list[str]]
    held_out: list[str]


def split(patients: Mapping[str, str], folds: int, held_out: float, seed: int) -> Split:
    """Deal patients to the held-out set and the folds.

    Patients are ordered by the SHA-256 of the seed and their pseudonym; the first of them are held
    out and the rest dealt to the folds in turn.

    Args:
        patients: pseudonym of the patient by case.
        folds: number of folds.
        held_out: share of the patients that no model sees.
        seed: another one gives another split.

    Raises:
        StageError: there are fewer patients than folds, or none to train on.
    """

    def place(patient: str) -> str:
        return hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()

    order = sorted(set(patients.values()), key=place)
    kept = round(held_out * len(order))
    if held_out and not kept:
        raise StageError(
            f"held_out: {held_out} of {len(order)} patients is none; raise it or leave it out."
        )
    if len(order) - kept < folds:
        raise StageError(
            f"{len(order) - kept} patients are there to train on, which are fewer than the "
            f"{folds} folds; lower folds or held_out, or fix the cases that have no mask."
        )
    fold = {patient: index % folds for index, patient in enumerate(order[kept:])}
    cases = sorted(patients)
    return Split(
        [[c for c in cases if fold.get(patients[c]) == number] for number in range(folds)],
        [c for c in cases if patients[c] not in fold],
    )


def plan(
    *, work: Path, cases: Path, outcomes: Iterable[Outcome], settings: Settings, threads: int
) -> None:
    """Split the cases, and fingerprint, plan and preprocess them with nnU-Net.

    Writes ``split.json``, and in the model's folder ``dataset.json`` and ``plans.json`` without a
    word of any case.

    Args:
        work: folder in which `data.run` has written every shard.
        cases: ``cases.tsv`` of the cohort.
        outcomes: of `data.run`, of all shards.
        settings: of the site and the protocol.
        threads: processes.

    Raises:
        StageError: there are too few patients, or nnU-Net plans no such configuration.
    """
    training = settings.protocol.training
    assert training
    table = pd.read_csv(cases, sep="\t", dtype=str, keep_default_na=False)
    shards = dict(zip(table["case_id"], table["shard"], strict=True))
    parts = {case: part(shard, case) for case, shard in shards.items()}
    shards |= {case: name for case, name in parts.items() if (raw(work) / name).is_dir()}
    patient = dict(zip(table["case_id"], table["patient"], strict=True))
    made = {o.case_id: o for o in outcomes if o.status is Status.OK}
    chosen = split(
        {case: patient[case] for case in made},
        training.folds,
        training.held_out,
        training.seed,
    )
    trained = sorted(case for fold in chosen.folds for case in fold)
    files = {
        case: {
            "images": [f"{shards[case]}/{name}" for name in made[case].outputs[:-1]],
            "label": f"{shards[case]}/{made[case].outputs[-1]}",
        }
        for case in made
    }
    modalities = _modalities(table, settings.protocol.training_roles())
    described = {
        # CT is the word that makes nnU-Net scale Hounsfield units.
        "channel_names": {
            str(number): "CT" if modalities[role] == "CT" else role
            for number, role in enumerate(settings.protocol.training_roles())
        },
        "labels": {
            "background": 0,
            **label_values(settings.segmentation(training.segmentation)),
        },
        "numTraining": len(trained),
        "file_ending": ".nrrd",
    }
    for made_before in (preprocessed(work), model(work)):
        shutil.rmtree(made_before, ignore_errors=True)
    point_nnunet_at(work, threads)
    write_json(raw(work) / "dataset.json", {**described, "dataset": {c: files[c] for c in trained}})
    plans = _preprocess(work, training, threads)
    write_json(
        preprocessed(work) / "splits_final.json",
        [
            {"train": sorted(set(trained) - set(fold)), "val": fold}
            for fold in chosen.folds
            if len(chosen.folds) > 1
        ],
    )
    write_json(model(work) / "dataset.json", described)
    write_json(model(work) / "plans.json", plans)
    write_json(
        work / "split.json",
        {
            "folds": chosen.folds,
            "held_out": chosen.held_out,
            "modalities": list(modalities.values()),
            "files": files,
            "patients": {case: patient[case] for case in made},
            "sha256": {case: made[case].sha256 for case in made},
        },
    )


def _modalities(table: pd.DataFrame, roles: Sequence[str]) -> dict[str, str]:
    """Return the modality of each role's series.

    Raises:
        StageError: a role has series of several.
    """
    found = {}
    for role in roles:
        modalities = sorted(set(table.loc[table["role"] == role, "modality"]))
        if len(modalities) != 1:
            raise StageError(
                f"training: the series of role {role!r} are of {', '.join(modalities) or 'none'}, "
                "and a model takes one modality a channel; narrow the role's filter."
            )
        found[role] = modalities[0]
    return found


def _preprocess(work: Path, training: Training, threads: int) -> dict[str, Any]:
    extract_fingerprint_dataset(
        1, num_processes=threads, check_dataset_integrity=True, show_progress_bar=False
    )
    plans, _ = plan_experiment_dataset(1, overwrite_target_spacing=training.spacing)
    name = training.configuration
    if name not in plans["configurations"]:
        raise StageError(
            f"training: nnU-Net plans no configuration {name!r} for these images; it plans: "
            f"{', '.join(plans['configurations'])}."
        )
    configuration = adapted(plans["configurations"][name], training, plans["transpose_forward"])
    plans["configurations"] = {name: configuration}
    write_json(preprocessed(work) / f"{PLANS}.json", plans)
    preprocess_dataset(1, PLANS, (name,), num_processes=(threads,), show_progress_bar=False)
    return plans


def adapted(
    configuration: Mapping[str, Any], training: Training, axes: Sequence[int]
) -> dict[str, Any]:
    """Return a configuration of nnU-Net's plans with what the protocol wants in its place.

    A patch or channels of the protocol's give a network with as many resolutions as the patch can
    be halved to, by nnU-Net's own rule, and no more than there are channels. The patch is made
    larger where it cannot be halved so often.

    Args:
        configuration: one of ``plans["configurations"]``.
        training: the protocol's ``training``.
        axes: ``plans["transpose_forward"]``: nnU-Net's axes by their number in (z, y, x).
    """
    found = dict(configuration)
    if training.batch is not None:
        found["batch_size"] = training.batch
    if training.batch_dice is not None:
        found["batch_dice"] = training.batch_dice
    if training.patch is None and training.features is None:
        return found
    spacing = list(found["spacing"])
    patch = list(found["patch_size"])
    if training.patch is not None:
        patch = [training.patch[axis] for axis in axes][-len(spacing) :]
    _, strides, kernels, _, _ = get_pool_and_conv_props(spacing, patch, SMALLEST_MAP, 99)
    architecture = found["architecture"]
    channels = training.features or architecture["arch_kwargs"]["features_per_stage"]
    stages = min(len(channels), len(strides))
    factors = [1] * len(patch)
    for stride in strides[:stages]:
        factors = [factor * step for factor, step in zip(factors, stride, strict=True)]
    found["patch_size"] = [-(-n // f) * f for n, f in zip(patch, factors, strict=True)]
    network = {
        "n_stages": stages,
        "features_per_stage": list(channels[:stages]),
        "strides": [list(stride) for stride in strides[:stages]],
        "kernel_sizes": [list(kernel) for kernel in kernels[:stages]],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    if training.features is not None:
        # A small network spends most of its time at the full resolution.
        network["n_conv_per_stage"] = [1] + [2] * (stages - 1)
        network["n_conv_per_stage_decoder"] = [1] * (stages - 1)
    found["architecture"] = {
        **architecture,
        "arch_kwargs": {**architecture["arch_kwargs"], **network},
    }
    return found

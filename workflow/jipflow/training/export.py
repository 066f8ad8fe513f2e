"""The finished model: its folder, where it comes from, and its entry in the registry."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jipflow.files import atomic_path, canonical_digest, read_json, write_json
from jipflow.models.registry import register, relative_path
from jipflow.reasons import StageError
from jipflow.settings.protocol import SegmentationSettings
from jipflow.settings.reading import read_registries, registry_root
from jipflow.settings.resources import MODELS
from jipflow.settings.run import Settings
from jipflow.settings.training import Training
from jipflow.training.data import label_values
from jipflow.training.folders import model

LIBRARIES = ("nnunetv2", "torch", "numpy", "scipy", "SimpleITK")


def export(*, work: Path, settings: Settings, summary: Path, folder: Path, registry: Path) -> None:
    """Copy the model to its folder and pin the SHA-256 of every file in the registry.

    ``provenance.json`` and ``evaluation.json`` go with it; nothing in the folder names a case.

    Args:
        work: folder in which `fit.fit` has run.
        settings: of the site and the protocol.
        summary: of `evaluate.summarise`.
        folder: where the model is to stand; replaced if it is there.
        registry: ``models.yaml``.

    Raises:
        StageError: a model of that name is registered with another folder, or as `register`.
    """
    training = settings.protocol.training
    assert training
    name = training.model
    path = relative_path(name, folder, registry)
    known = read_registries([MODELS, *([registry] if registry.is_file() else [])])
    if name in known and known[name].place != registry_root(registry) / path:
        raise StageError(
            f"{known[name].registry}: there is a model {name!r} in {known[name].folder}; give "
            "training.model another name."
        )
    found = read_json(summary)
    with atomic_path(folder) as partial:
        shutil.copytree(model(work), partial)
        write_json(partial / "provenance.json", _provenance(work, settings, training))
        write_json(
            partial / "evaluation.json",
            {key: found[key] for key in ("cases", "patients", "cross_validation", "held_out")},
        )
    entry = {
        "name": settings.protocol.protocol.title,
        "version": settings.protocol.protocol.version,
        "engine": "nnunet",
        "licence": training.licence,
        "intended_use": training.intended_use,
        "training_data": training.training_data,
        "roles": read_json(work / "split.json")["modalities"],
        "labels": _labels(settings.segmentation(training.segmentation)),
    }
    register(name, entry, folder, registry)


def _labels(spec: SegmentationSettings) -> list[dict[str, Any]]:
    """Return the model's labels with the terms of the segments."""
    values = label_values(spec)
    return [
        {"name": segment.name, "value": values[segment.name], "term": segment.term}
        for segment in spec.segments
    ]


def _provenance(work: Path, settings: Settings, training: Training) -> dict[str, Any]:
    chosen = read_json(work / "split.json")
    return {
        "protocol": {**settings.protocol.protocol.plain(), "sha256": settings.protocol_sha256},
        "training": training.plain(),
        "trainer": "nnUNetTrainer, each epoch seeded",
        "training_set": {
            "cases": sum(map(len, chosen["folds"])),
            "patients": len(
                {chosen["patients"][case] for fold in chosen["folds"] for case in fold}
            ),
            "sha256": canonical_digest(chosen["sha256"]),
        },
        "versions": {
            "python": platform.python_version(),
            "jipflow": settings.version,
            **{name: version(name) for name in LIBRARIES},
        },
    }

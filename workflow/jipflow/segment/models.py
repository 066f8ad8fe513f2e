"""The model registry ``config/models.yaml``, and the check before any model is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jipflow.cases import StageError
from jipflow.config import MODELS, ROOT, read_yaml
from jipflow.files import sha256_file

CHECKPOINT = "checkpoint_final.pth"
"""nnU-Net's name for the weights at the end of training."""


@dataclass(frozen=True)
class Model:
    """A registered model.

    Attributes:
        name: its name in the registry.
        folder: where its files stand.
        files: SHA-256 by path relative to `folder`.
        entry: the whole entry of the registry.
    """

    name: str
    folder: Path
    files: dict[str, str]
    entry: dict[str, Any]

    @property
    def checkpoint(self) -> str:
        """Name of the weights of an nnU-Net model; the registry may name others than the last."""
        return str(self.entry.get("checkpoint", CHECKPOINT))

    @property
    def axes(self) -> str:
        """Where x, y and z run in the files that an nnU-Net model was trained with.

        An axial DICOM series runs to the left, the back and the head, which is the default.

        Raises:
            StageError: the registry says something else.
        """
        axes = str(self.entry.get("axes", "LPS"))
        if not re.fullmatch("[LR][AP][SI]", axes):
            raise StageError(
                f"{MODELS}: model {self.name!r}: axes is {axes!r}; it must be three letters, L or "
                "R, A or P, S or I."
            )
        return axes

    @property
    def folds(self) -> list[str]:
        """The folds of an nnU-Net model, by its pinned checkpoints."""
        return sorted(
            path.removeprefix("fold_").split("/")[0]
            for path in self.files
            if path.endswith(f"/{self.checkpoint}")
        )


def registered_model(name: str) -> Model:
    """Look a model up in the registry.

    Raises:
        StageError: it is not there.
    """
    models = read_yaml(MODELS)["models"]
    if name not in models:
        raise StageError(f"{MODELS}: there is no model {name!r}; add it or name another.")
    entry = models[name]
    return Model(name, ROOT / entry["path"], dict(entry["files"]), entry)


def verify(model: Model) -> None:
    """Check every file of a model against its pinned hash, before anything opens it.

    Raises:
        StageError: a file is missing, changed, or stands there without being pinned.
    """
    for name, expected in model.files.items():
        path = model.folder / name
        if not path.is_file():
            raise StageError(f"model {model.name!r}: {path} is missing; fetch the model again.")
        if sha256_file(path) != expected:
            raise StageError(
                f"model {model.name!r}: {path} is not the file that {MODELS.name} pins (sha256 "
                f"{expected}); fetch the model again, or review and pin the new one."
            )
    present = {str(p.relative_to(model.folder)) for p in model.folder.rglob("*") if p.is_file()}
    unknown = sorted(present - set(model.files))
    if unknown:
        raise StageError(
            f"model {model.name!r}: {model.folder / unknown[0]} is not pinned in {MODELS.name}; "
            "remove it or pin it."
        )

"""The model registry ``config/models.yaml``, and the check before any model is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jipflow.cases import StageError
from jipflow.config import MODELS, RESOURCES, ROOT, read_yaml
from jipflow.files import atomic_path, sha256_file

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
    def folds(self) -> list[str]:
        """The folds of an nnU-Net model, by its pinned checkpoints."""
        return sorted(
            path.removeprefix("fold_").split("/")[0]
            for path in self.files
            if path.endswith(CHECKPOINT)
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


def register(
    name: str, entry: Mapping[str, Any], folder: Path, registry: Path = MODELS
) -> dict[str, Any]:
    """Pin the SHA-256 of every file in a folder as a model of the registry.

    An entry of that name is replaced; the others stay as they are.

    Args:
        name: the model's name in protocols.
        entry: keys of the registry but ``path`` and ``files``; a label gives the key of a term of
            ``resources/terms.yaml`` as ``term`` in place of its codes.
        folder: where the files stand, below the folder that holds the registry's.
        registry: the registry's file.

    Returns:
        The entry as it was written.
    """
    root = registry.resolve().parents[1]
    complete = {
        **entry,
        "path": folder.resolve().relative_to(root).as_posix(),
        "labels": [_coded(label) for label in entry["labels"]],
        "files": {
            path.relative_to(folder).as_posix(): sha256_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    models = {**read_yaml(registry)["models"], name: complete}
    text = yaml.safe_dump({"models": models}, sort_keys=False, width=100)
    head = "# Models that a protocol may name; every file is checked before it is loaded.\n"
    with atomic_path(registry) as partial:
        partial.write_text(head + text, encoding="utf-8")
    return complete


def _coded(label: Mapping[str, Any]) -> dict[str, Any]:
    """Return a label with the codes of its term."""
    term = read_yaml(RESOURCES / "terms.yaml")[label["term"]]
    keys = ("value", "scheme", "meaning")
    codes = {part: dict(zip(keys, term[part], strict=True)) for part in ("category", "type")}
    return {"name": label["name"], "value": label["value"], **codes}

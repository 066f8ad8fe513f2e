"""The model registry ``config/models.yaml``, and the check before any model is opened.

A model's files stand below the repository's folder, or below that of the registry in use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jipflow.files import atomic_path, read_json, sha256_file
from jipflow.reasons import StageError
from jipflow.settings import config
from jipflow.settings.config import RESOURCES, ConfigError, read_yaml, validate

CHECKPOINT = "checkpoint_final.pth"
"""nnU-Net's name for the weights at the end of training."""

_HEAD = "# Models that a protocol may name; every file is checked before it is loaded.\n"


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
        return str(self.entry["checkpoint"])

    @property
    def axes(self) -> str:
        """Where x, y and z run in the files that an nnU-Net model was trained with."""
        return str(self.entry["axes"])

    @property
    def members(self) -> list[str]:
        """Folders of the configurations that an nnU-Net model averages; none: it is one itself."""
        return list(self.entry["members"])

    @property
    def postprocessing(self) -> Path | None:
        """The `postprocessing.json` of an nnU-Net model, if it is to be applied."""
        name = self.entry.get("postprocessing")
        return None if name is None else self.folder / name


def pinned_folds(entry: Mapping[str, Any], member: str = "") -> list[str]:
    """Return the folds of an nnU-Net model, by its pinned checkpoints.

    Args:
        entry: of the registry, with its defaults.
        member: folder of a configuration below the model's.
    """
    prefix, suffix = (f"{member}/fold_" if member else "fold_"), f"/{entry['checkpoint']}"
    return sorted(
        path.removeprefix(prefix).removesuffix(suffix)
        for path in entry["files"]
        if path.startswith(prefix) and path.endswith(suffix)
    )


def registered_model(name: str) -> Model:
    """Look a model up in the registry.

    Raises:
        StageError: it is not there.
        ConfigError: the registry is not valid.
    """
    models = config.read_models()
    if name not in models:
        raise StageError(
            f"{config.MODELS}: there is no model {name!r}; add it or name one of: "
            f"{', '.join(models)}."
        )
    entry = models[name]
    return Model(name, _root(config.MODELS) / entry["path"], dict(entry["files"]), entry)


def verify(model: Model) -> None:
    """Check every file of a model against its pinned hash, before anything opens it.

    Raises:
        StageError: a file is missing, changed, or stands there without being pinned.
    """
    for problem in problems(model):
        raise StageError(f"model {model.name!r}: {problem}")


def problems(model: Model) -> Iterator[str]:
    """Say what is wrong with the files of a model, one sentence each; nothing where all are right.

    Hashes are computed as far as the iterator is read.
    """
    again = f"fetch the model again: jipflow models fetch {model.name}"
    for name, expected in model.files.items():
        path = model.folder / name
        if not path.is_file():
            yield f"{path} is missing; {again}."
        elif sha256_file(path) != expected:
            yield (
                f"{path} is not the file that {config.MODELS.name} pins (sha256 {expected}); "
                f"{again}, or review and pin the new one."
            )
    present = {p.relative_to(model.folder).as_posix() for p in _files(model.folder)}
    for name in sorted(present - set(model.files)):
        yield (
            f"{model.folder / name} is not pinned in {config.MODELS.name}; remove it or review "
            "and pin it."
        )


def register(
    name: str, entry: Mapping[str, Any], folder: Path, registry: Path | None = None
) -> dict[str, Any]:
    """Pin the SHA-256 of every file in a folder as a model of the registry.

    An entry of that name is replaced; the others stay as they are.

    Args:
        name: the model's name in protocols.
        entry: as `describe`.
        folder: where the files stand, below the folder that holds the registry's.
        registry: None takes ``config/models.yaml``.

    Returns:
        The entry as it was written.

    Raises:
        StageError: the folder is elsewhere, or as `describe`.
        ConfigError: the entry is not valid.
    """
    registry = config.MODELS if registry is None else registry
    complete = describe(name, entry, folder, relative_path(name, folder, registry))
    write_entry(name, complete, registry)
    return complete


def write_entry(name: str, complete: Mapping[str, Any], registry: Path) -> None:
    """Write what `describe` gave into a registry; an entry of that name is replaced."""
    models = read_yaml(registry)["models"] if registry.exists() else {}
    text = yaml.safe_dump({"models": {**models, name: complete}}, sort_keys=False, width=100)
    with atomic_path(registry) as partial:
        partial.write_text(_HEAD + text, encoding="utf-8")


def describe(name: str, entry: Mapping[str, Any], folder: Path, path: str) -> dict[str, Any]:
    """Complete the description of a model by its files and their hashes, and check it.

    Args:
        name: the model's name in protocols.
        entry: keys of ``models.schema.yaml`` but ``path`` and ``files``. A label may give the key
            of a term of ``resources/terms.yaml`` as ``term`` in place of its codes.
        folder: where the files stand.
        path: where they will, relative to the folder that holds the registry's.

    Raises:
        StageError: the folder has no file or a link, or the entry does not fit the files.
        ConfigError: the entry is not valid.
    """
    links = [each for each in folder.rglob("*") if each.is_symlink()]
    if links:
        raise StageError(f"model {name!r}: {links[0]} is a link; put the file itself there.")
    complete = {
        **entry,
        "path": path,
        "labels": [_coded(label, name) for label in entry.get("labels", [])],
        "files": {
            each.relative_to(folder).as_posix(): sha256_file(each) for each in _files(folder)
        },
    }
    # Without the defaults: the registry says what was given.
    known = validate({"models": {name: complete}}, "models", f"model {name!r}")["models"][name]
    _check_entry(name, known, folder)
    return complete


def relative_path(name: str, folder: Path, registry: Path) -> str:
    """Return a model's folder relative to the folder that holds the registry's.

    Links are left as they are: ``models/`` may be one, to a disk that several clones share.

    Raises:
        StageError: it is not below that folder.
    """
    root = _root(Path(os.path.abspath(registry)))
    for below, above in ((os.path.abspath(folder), root), (folder.resolve(), root.resolve())):
        if Path(below).is_relative_to(above):
            return Path(below).relative_to(above).as_posix()
    raise StageError(
        f"model {name!r}: {folder} is not below {root}; move it to {root / 'models' / name}."
    )


def _root(registry: Path) -> Path:
    """Return the folder that the paths of a registry's models are relative to."""
    return registry.parent.parent


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _coded(label: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a label with the codes of the term that it gives, if it gives one."""
    plain = dict(label)
    key = plain.pop("term", None)
    if key is None:
        return plain
    terms = read_yaml(RESOURCES / "terms.yaml")
    if key not in terms:
        raise ConfigError(
            f"model {name!r}: label {label.get('name')!r}: there is no term {key!r}; add it with "
            "its codes to workflow/resources/terms.yaml or give category and type."
        )
    for part in ("category", "type"):
        plain[part] = dict(zip(("value", "scheme", "meaning"), terms[key][part], strict=True))
    if "laterality" in terms[key] and "region" not in terms[key]:
        plain["laterality"] = terms[key]["laterality"]
    return plain


def _check_entry(name: str, entry: Mapping[str, Any], folder: Path) -> None:
    """Check what a schema cannot say of an entry: that it fits its files."""
    files = entry["files"]
    for source in entry["sources"]:
        if ("file" in source) == ("archive_sha256" in source):
            raise StageError(
                f"model {name!r}: source {source['url']} must say either which file it gives, or "
                "the archive_sha256 of the zip archive that it gives."
            )
        if source.get("file", next(iter(files))) not in files:
            raise StageError(f"model {name!r}: there is no file {source['file']!r} in {folder}.")
    if entry["engine"] == "container" and entry["image"] not in files:
        raise StageError(f"model {name!r}: the image {entry['image']!r} is not in {folder}.")
    if entry.get("postprocessing", next(iter(files))) not in files:
        raise StageError(
            f"model {name!r}: there is no file {entry['postprocessing']!r} in {folder}; nnU-Net "
            "writes it beside postprocessing.pkl, in crossval_results_folds_.. or ensembles/.."
        )
    if entry["engine"] == "nnunet":
        for path in [f"{member}/dataset.json" for member in entry["members"]] or ["dataset.json"]:
            if path not in files:
                raise StageError(
                    f"model {name!r}: {folder / path} is missing; name under members the folders "
                    "of trained configurations, where there are several."
                )
            trained = set(read_json(folder / path)["labels"]) - {"background", "ignore"}
            named = {label["name"] for label in entry["labels"]}
            if trained != named:
                raise StageError(
                    f"model {name!r}: its labels are {', '.join(sorted(named))}, but those of "
                    f"{path} are {', '.join(sorted(trained))}; name the same."
                )

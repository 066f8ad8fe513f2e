"""Registered models: looked up, checked before any is opened, pinned.

A model's files stand below the folder of the registry that pins it, or below the repository's where
``config/models.yaml`` does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jipflow.files import atomic_path, read_json, sha256_file
from jipflow.reasons import StageError
from jipflow.settings.complete import complete_types
from jipflow.settings.names import among
from jipflow.settings.reading import read_registries, registry_paths, registry_root
from jipflow.settings.registry import PinnedModel, RegisteredModel, Registry
from jipflow.settings.resources import ConfigError, read_yaml, resource
from jipflow.settings.schema import load

CHECKPOINT = "checkpoint_final.pth"
"""nnU-Net's name for the weights at the end of training."""

MOST_FILES = 10_000
"""Files below a model's folder: several times those of all of TotalSegmentator's tasks."""

OF_CASES = re.compile(
    r"(?:^|/)(?:validation|crossval_results[^/]*|predicted_next_stage)/"
    r"|(?:^|/)training_log_\d[^/]*$",
    re.I,
)
"""Paths of what a training of nnU-Net leaves beside a model and names its cases: masks that it
predicted, what they scored, and its log."""

IMAGES = re.compile(r"\.(?:nii|nii\.gz|mha|mhd|nrrd|dcm|tiff?)$", re.I)
"""Names of images, of which a model of nnU-Net has none; another engine's may have a template."""

LISTS_OF_CASES = ("dataset", "training", "test")
"""Keys of nnU-Net's ``dataset.json`` that name the files of cases, and that no prediction needs."""

_HEAD = "# Models that a protocol may name; every file is checked before it is loaded.\n"


@dataclass(frozen=True)
class Model:
    """A registered model.

    Attributes:
        name: its name in the registry.
        folder: where its files stand.
        registry: the file that pins it.
        entry: what the registry says of it.
    """

    name: str
    folder: Path
    registry: Path
    entry: RegisteredModel

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of its files by path relative to `folder`."""
        return self.entry.files


def registered_model(name: str, models: Mapping[str, PinnedModel] | None = None) -> Model:
    """Look a model up.

    Args:
        name: of the model.
        models: those of a run; None takes all of the registries here.

    Raises:
        StageError: it is not there.
        ConfigError: a registry is not valid.
    """
    models = read_registries(registry_paths()) if models is None else models
    if name not in models:
        raise StageError(
            f"there is no model {name!r} in the registries{among(name, models)} "
            "`jipflow models add` adds one."
        )
    pinned = models[name]
    return Model(name, pinned.place, Path(pinned.registry), pinned.entry)


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
                f"{path} is not the file that {model.registry.name} pins (sha256 {expected}); "
                f"{again}, or review and pin the new one."
            )
    present = {p.relative_to(model.folder).as_posix() for p in _files(model.folder)}
    for name in sorted(present - set(model.files)):
        yield (
            f"{model.folder / name} is not pinned in {model.registry.name}; remove it or review "
            "and pin it."
        )


def register(name: str, entry: Mapping[str, Any], folder: Path, registry: Path) -> dict[str, Any]:
    """Pin the SHA-256 of every file in a folder as a model of the registry.

    An entry of that name is replaced; the others stay as they are.

    Args:
        name: the model's name in protocols.
        entry: as `describe`.
        folder: where the files stand, below the registry's folder.
        registry: the file; made where it is not there.

    Returns:
        The entry as it was written.

    Raises:
        StageError: the folder is elsewhere, or as `describe`.
        ConfigError: the entry is not valid.
    """
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
        entry: keys of a registry's entry but ``path`` and ``files``. A label may give the key
            of a term of ``resources/terms.yaml`` as ``term`` in place of its codes.
        folder: where the files stand.
        path: where they will; see `relative_path`.

    Raises:
        StageError: the folder has no file, a link, or something of patients, or the entry does not
            fit the files.
        ConfigError: the entry is not valid.
    """
    for count, each in enumerate(folder.rglob("*"), start=1):
        if each.is_symlink():
            raise StageError(f"model {name!r}: {each} is a link; put the file itself there.")
        if not (each.is_file() or each.is_dir()):
            raise StageError(f"model {name!r}: {each} is neither a file nor a folder; remove it.")
        if count > MOST_FILES:
            raise StageError(
                f"model {name!r}: {folder} holds more than {MOST_FILES:,} files; name the folder "
                "of the model alone."
            )
    labels = entry.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, Mapping) for label in labels):
        raise ConfigError(
            f"model {name!r}: labels must be a list of mappings, each with name, value and term."
        )
    if of_cases := names_cases(_files(folder), folder, str(entry.get("engine"))):
        raise StageError(
            f"model {name!r}: {of_cases} names the cases that it was trained or tried on, and "
            "would go wherever the model goes; name a folder of its files alone, of nnU-Net "
            "dataset.json without lists of cases, plans.json, fold_*/checkpoint_final.pth and "
            "postprocessing.json."
        )
    complete = {
        **entry,
        "path": path,
        "labels": [_coded(label, name) for label in labels],
        "files": {
            each.relative_to(folder).as_posix(): sha256_file(each) for each in _files(folder)
        },
    }
    # Without the defaults: the registry says what was given.
    complete_types()
    known = load(Registry, {"models": {name: complete}}, f"model {name!r}")
    _check_entry(name, known.models[name], folder)
    return complete


def names_cases(files: Iterable[Path], folder: Path, engine: str) -> str:
    """Return which file of a model's folder names the cases that it was trained on; empty for none.

    Args:
        files: of the folder.
        folder: of the model.
        engine: that runs it.
    """
    for path in files:
        name = path.relative_to(folder).as_posix()
        if OF_CASES.search(name) or (engine == "nnunet" and IMAGES.search(name)):
            return str(path)
        if engine == "nnunet" and path.name == "dataset.json":
            content = mapping_in(path)
            if listed := [key for key in LISTS_OF_CASES if content.get(key)]:
                return f"{path} (its {' and '.join(listed)}, which no prediction needs)"
    return ""


def mapping_in(path: Path) -> dict[str, Any]:
    """Return the mapping that a JSON file holds; an empty one where it holds none."""
    try:
        content = read_json(path)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def relative_path(name: str, folder: Path, registry: Path) -> str:
    """Return a model's folder as a registry names it.

    Links are left as they are: ``models/`` may be one, to a disk that several clones share.

    Raises:
        StageError: it is not below that folder.
    """
    root = registry_root(registry)
    for below, above in ((os.path.abspath(folder), root), (folder.resolve(), root.resolve())):
        if Path(below).is_relative_to(above):
            return Path(below).relative_to(above).as_posix()
    raise StageError(f"model {name!r}: {folder} is not below {root}; move it to {root / name}.")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _coded(label: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a label with the codes of the term that it gives, if it gives one."""
    plain = dict(label)
    key = plain.pop("term", None)
    if key is None:
        return plain
    terms = resource("terms.yaml")
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


def _check_entry(name: str, entry: RegisteredModel, folder: Path) -> None:
    """Check what types cannot say of an entry: that it fits its files."""
    for source in entry.sources:
        if (source.file is None) == (source.archive_sha256 is None):
            raise StageError(
                f"model {name!r}: source {source.url} must say either which file it gives, or "
                "the archive_sha256 of the zip archive that it gives."
            )
        if source.file is not None and source.file not in entry.files:
            raise StageError(f"model {name!r}: there is no file {source.file!r} in {folder}.")
    for problem in entry.file_problems(folder):
        raise StageError(f"model {name!r}: {problem}")

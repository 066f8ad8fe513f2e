"""Protocols and registries of models, read with what they name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jipflow.files import local_path
from jipflow.settings import resources
from jipflow.settings.complete import complete_types
from jipflow.settings.features import variable_problems
from jipflow.settings.names import among
from jipflow.settings.part import Part
from jipflow.settings.protocol import Known, ModelSegmentation, Protocol, RadiomicsEntry
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.references import check_protocol
from jipflow.settings.registry import PinnedModel, Registry
from jipflow.settings.resources import ConfigError, read_mapping, read_yaml, resource
from jipflow.settings.schema import load
from jipflow.settings.terms import TermName, TermSettings

TERMS = "terms.yaml"
"""A protocol's own terms, and the shipped ones."""

REGISTRY = "models.yaml"
"""A protocol's own registry of models."""


class Terms(Part):
    """The content of a file of terms."""

    terms: dict[TermName, TermSettings]
    """Terms by their names."""


class Named(Part):
    """What a protocol names, as it was when the settings were read."""

    models: dict[str, PinnedModel]
    """The models of its segmentations."""
    terms: dict[str, TermSettings]
    """The terms of its segments."""
    parameters: dict[str, Radiomics]
    """The shipped radiomics settings."""


def protocol_ids() -> list[str]:
    """Return the ids of the protocols under ``config/protocols``."""
    return sorted(path.stem for path in resources.PROTOCOLS.glob("*.yaml"))


def protocol_path(reference: str) -> Path:
    """Return the file of a protocol given by id or path.

    Raises:
        ConfigError: there is none.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9-]*", reference):
        path = resources.PROTOCOLS / f"{reference}.yaml"
        if path.is_file():
            return path
    try:
        path = Path(local_path(reference))
    except ValueError as error:
        raise ConfigError(f"protocol: {reference!r} {error}.") from None
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"protocol: {path} is a folder; name the file in it.")
    if path.is_file():
        raise ConfigError(f"protocol: {path} is no YAML file by its name; end it in .yaml.")
    if path.parent != Path() and path.suffix in {".yaml", ".yml"}:
        # It is not there, and one of a name like it may be.
        read_yaml(path)
    near = difflib.get_close_matches(reference, protocol_ids(), n=1)
    raise ConfigError(
        f"There is no protocol {reference!r}. "
        + (f"Did you mean {near[0]!r}? " if near else "")
        + f"Name the path of a YAML file or one of: {', '.join(protocol_ids())}."
    )


def read_protocol(path: Path, own: Path | None = None) -> tuple[Protocol, Named]:
    """Read a protocol, check it, and complete it with defaults and with what it names.

    Its own radiomics settings, terms and models may stand in files beside it; what is returned
    names none of them.

    Args:
        path: of the protocol.
        own: the registry of models of the site or hub, where it names one.

    Raises:
        ConfigError: something is wrong.
    """
    complete_types()
    protocol = load(Protocol, read_yaml(path), str(path))
    beside = path.parent / TERMS
    if protocol.terms is None and beside.is_file():
        terms = load(Terms, {"terms": read_mapping(beside)}, str(beside)).terms
        protocol = protocol.model_copy(update={"terms": terms})
    models = read_registries(registry_paths(own, path.parent))
    return with_named(protocol, models, str(path), path.parent)


def with_named(
    protocol: Protocol, models: Mapping[str, PinnedModel], source: str, folder: Path
) -> tuple[Protocol, Named]:
    """Check a protocol, and read what it names.

    Args:
        protocol: of the right types.
        models: that it may name.
        source: what it was read from, for the message.
        folder: what paths in it are relative to.

    Returns:
        The protocol with the content of its own files in their place, and what it names.

    Raises:
        ConfigError: it names something that is not there, or that is not valid.
    """
    own = protocol.terms or {}
    terms = {**resource(TERMS), **own}
    for name in own.keys() & resource(TERMS).keys():
        if own[name].plain() != resource(TERMS)[name]:
            raise ConfigError(
                f"{source}: terms: {name!r} has other codes in workflow/resources/{TERMS}; give "
                "the protocol's own another name."
            )
    registries = sorted({Path(model.registry).name for model in models.values()} or {REGISTRY})
    entries = {name: model.entry for name, model in models.items()}
    check_protocol(protocol, Known(entries, terms, " and ".join(registries)), source)
    measured = [_with_parameters(entry, source, folder) for entry in protocol.radiomics]
    specs = protocol.segmentations
    used = sorted({segment.term for spec in specs for segment in spec.segments})
    named = Named(
        models={
            name: models[name]
            for name in sorted({s.model for s in specs if isinstance(s, ModelSegmentation)})
        },
        terms={name: _term(terms[name], name) for name in used},
        parameters={
            name: shipped_radiomics(name)
            for name in sorted({m.settings for m in measured if isinstance(m.settings, str)})
        },
    )
    own = {name: term for name, term in own.items() if name in used}
    complete = protocol.model_copy(update={"radiomics": measured, "terms": own or None})
    for analysis in complete.analyses:
        for problem in variable_problems(analysis, complete, named.parameters):
            raise ConfigError(f"{source}: analysis {analysis.id!r}: {problem}")
    return complete, named


def _term(entry: TermSettings | Mapping[str, Any], name: str) -> TermSettings:
    return (
        entry if isinstance(entry, TermSettings) else load(TermSettings, entry, f"{TERMS}: {name}")
    )


def _with_parameters(entry: RadiomicsEntry, source: str, folder: Path) -> RadiomicsEntry:
    """Return an entry of a protocol's radiomics with the content of the file that it names."""
    if not isinstance(entry.settings, str):
        return entry
    if Path(entry.settings).suffix:
        try:
            path = folder / local_path(entry.settings)
        except ValueError as error:
            raise ConfigError(
                f"{source}: radiomics of {entry.segmentation!r}: {entry.settings!r} {error}."
            ) from None
        content = load(Radiomics, read_yaml(path), str(path))
        return entry.model_copy(update={"settings": content})
    if entry.settings not in shipped_names():
        raise ConfigError(
            f"{source}: radiomics of {entry.segmentation!r}: there are no radiomics settings "
            f"{entry.settings!r}{among(entry.settings, shipped_names())} Or name the path of a "
            "YAML file."
        )
    return entry


def shipped_names() -> list[str]:
    """Return the names of the shipped radiomics settings."""
    return sorted(path.stem for path in (resources.RESOURCES / "radiomics").glob("*.yaml"))


@cache
def shipped_radiomics(name: str) -> Radiomics:
    """Read shipped radiomics settings, once a process.

    Raises:
        ConfigError: they are not valid.
    """
    path = resources.RESOURCES / "radiomics" / f"{name}.yaml"
    return load(Radiomics, read_yaml(path), str(path))


def registry_paths(own: Path | None = None, beside: Path | None = None) -> list[Path]:
    """Return the registries that there are: the protocol's, the site's, the shipped one.

    Args:
        own: the site's, where it names one; else it is ``models/models.yaml`` of the repository.
        beside: folder of a protocol.
    """
    paths = [] if beside is None else [beside / REGISTRY]
    paths = [path for path in [*paths, *([] if own else [resources.OWN_MODELS])] if path.is_file()]
    paths += [own] if own else []
    return list({path.resolve(): path for path in [*paths, resources.MODELS]}.values())


def read_registries(paths: Iterable[Path]) -> dict[str, PinnedModel]:
    """Read registries of models, with every default filled in.

    Raises:
        ConfigError: one is missing or not valid, or two have different models of one name.
    """
    found: dict[str, PinnedModel] = {}
    for path in paths:
        for name, model in read_registry(path).items():
            other = found.setdefault(name, model)
            if other.entry.decisive() != model.entry.decisive():
                raise ConfigError(
                    f"{path}: {other.registry} has another model {name!r}; rename one of them."
                )
    return found


def read_registry(path: Path) -> dict[str, PinnedModel]:
    """Read a registry of models, with every default filled in.

    Raises:
        ConfigError: it is missing or not valid.
    """
    complete_types()
    root = registry_root(path)
    return {
        name: PinnedModel(folder=str(root / entry.path), registry=str(path), entry=entry)
        for name, entry in load(Registry, read_yaml(path), str(path)).models.items()
    }


def registry_root(path: Path) -> Path:
    """Return the folder that the paths of a registry's models are relative to."""
    folder = path.resolve().parent
    return folder.parent if path.resolve() == resources.MODELS.resolve() else folder

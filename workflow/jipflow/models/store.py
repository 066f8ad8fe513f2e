"""The files of registered models: fetched, packed for a site without network, added.

What comes from outside is bytes until its SHA-256 is the pinned one: a file is downloaded under
another name and takes its place when it is right; an archive's member likewise.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from jipflow import archives
from jipflow.files import atomic_path, json_text, sha256_file
from jipflow.models.registry import (
    Model,
    describe,
    names_cases,
    registered_model,
    relative_path,
    verify,
    write_entry,
)
from jipflow.reasons import StageError
from jipflow.settings import resources
from jipflow.settings.complete import complete_types
from jipflow.settings.reading import read_registries, read_registry, registry_paths
from jipflow.settings.registry import RegisteredModel, Registry
from jipflow.settings.resources import ConfigError, read_yaml
from jipflow.settings.schema import load

FORMAT = "jipflow-models-1"
MANIFEST = "manifest.json"

MOST_BYTES = 32 * 1024**3
"""Most bytes of a file, an archive or a member: several times the largest known weights."""

_CHUNK = 1024**2
_SECONDS = (30, 120)
"""To connect to a server, and between two parts of its answer."""


def known_models(names: Sequence[str], own: Path | None = None) -> list[Model]:
    """Return registered models by name; all of them where none is named.

    Args:
        names: of the models.
        own: the site's registry, where it is not ``models/models.yaml``.
    """
    models = read_registries(registry_paths(own))
    return [registered_model(name, models) for name in names or models]


def fetch(model: Model) -> list[str]:
    """Fetch the files of a model that are missing or wrong from its sources.

    A download that was cut off goes on where it ended.

    Args:
        model: registered.

    Returns:
        The files that were fetched, relative to the model's folder.

    Raises:
        StageError: a source is not reachable or gives other files than the pinned ones, or no
            source gives a file.
    """
    wanted = _wanted(model)
    got: list[str] = []
    staging = _staging(model)
    for source in model.entry.sources:
        if source.file is not None and source.file in wanted:
            name = source.file
            _place(_download(source.url, wanted.pop(name), staging), model.folder / name)
            got.append(name)
        elif source.archive_sha256 is not None:
            folder = f"{source.folder}/" if source.folder else ""
            inside = {n.removeprefix(folder): h for n, h in wanted.items() if n.startswith(folder)}
            if inside:
                archive = _download(source.url, source.archive_sha256, staging)
                for member in _unpack(archive, "", inside, model.folder / folder, staging):
                    wanted.pop(folder + member)
                    got.append(folder + member)
                archive.unlink()
    if wanted:
        raise StageError(
            f"model {model.name!r}: no source in {model.registry} gives "
            f"{', '.join(sorted(wanted))}; take it from a bundle: jipflow models fetch "
            f"{model.name} --from BUNDLE."
        )
    shutil.rmtree(staging, ignore_errors=True)
    return got


def fetch_from_bundle(
    bundle: Path, names: Sequence[str] = (), own: Path | None = None
) -> dict[str, list[str]]:
    """Take the files of models that are missing or wrong from a bundle.

    The registry here says which files are right; the bundle is not trusted.

    Args:
        bundle: written by `write_bundle`.
        names: which models; without any all that the bundle has.
        own: the site's registry, where it is not ``models/models.yaml``.

    Returns:
        The files that were taken, by model.

    Raises:
        StageError: it is no bundle, a model is not in it, or its files are not the pinned ones.
    """
    packed = _read_manifest(bundle)
    absent = sorted(set(names) - set(packed))
    if absent:
        raise StageError(
            f"{bundle} has no model {absent[0]!r}; it has: {', '.join(packed) or 'none'}."
        )
    known = read_registries(registry_paths(own))
    taken = {}
    for name in names or packed:
        if name not in known:
            raise StageError(
                f"{bundle} has the model {name!r}, which no registry here has; review its entry in "
                "the registry of the site that made the bundle and copy it."
            )
        model = registered_model(name, known)
        if packed[name].files != model.files:
            raise StageError(
                f"{bundle}: its files of {name!r} are not those that {model.registry} pins; "
                "get a bundle of this version of the registry."
            )
        staging = _staging(model)
        taken[name] = _unpack(bundle, f"{name}/", _wanted(model), model.folder, staging)
        shutil.rmtree(staging, ignore_errors=True)
    return taken


def write_bundle(out: Path, models: Iterable[Model]) -> None:
    """Pack models into one zip archive for a site without network.

    Members are stored, not compressed (weights hardly shrink), in a fixed order with fixed
    attributes, so that the same models are the same file to the last byte.

    Raises:
        StageError: a file is not the pinned one, or names cases.
    """
    chosen = sorted(models, key=lambda model: model.name)
    for model in chosen:
        verify(model)
        files = [model.folder / name for name in sorted(model.files)]
        own = model.registry != resources.MODELS
        if own and (of_cases := names_cases(files, model.folder, model.entry.engine)):
            raise StageError(
                f"model {model.name!r}: {of_cases} names the cases that it was trained on; "
                "register it again without (jipflow models add --replace)."
            )
    manifest = {"format": FORMAT, "models": {model.name: model.entry.plain() for model in chosen}}
    with atomic_path(out) as partial, zipfile.ZipFile(partial, "w") as archive:
        archives.add(archive, MANIFEST, json_text(manifest).encode("utf-8"))
        for model in chosen:
            for name in sorted(model.files):
                archives.add_file(archive, f"{model.name}/{name}", model.folder / name)


def add(
    name: str, *, folder: Path, about: Path, registry: Path | None = None, replace: bool = False
) -> Model:
    """Copy a model's files to the folder of a registry and pin them there.

    Args:
        name: the model's name in protocols.
        folder: its files, as its engine wants them.
        about: YAML file with the rest of the registry's entry; see `models.describe`.
        registry: the site's own, where it is not ``models/models.yaml``.
        replace: whether an entry of that name may be replaced.

    Raises:
        StageError: the name is taken, or the folder is not there or not usable.
        ConfigError: the description is not valid.
    """
    registry = resources.OWN_MODELS if registry is None else registry
    entry = read_yaml(about)
    if not isinstance(entry, dict):
        raise ConfigError(f"{about} must be a mapping of keys to values.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise StageError(
            f"the name {name!r} is not of small letters, digits and hyphens; take another."
        )
    if name in read_registry(resources.MODELS):
        raise StageError(f"{resources.MODELS} has a model {name!r}; take another name.")
    if registry.is_file() and name in read_registry(registry) and not replace:
        raise StageError(
            f"{registry} has a model {name!r}; take another name, or say --replace where its files "
            "and their hashes shall be replaced."
        )
    if not folder.is_dir():
        raise StageError(f"{folder} is not a folder; name the one that holds the model's files.")
    place = registry.parent / name
    # Before anything is copied: a wrong description must not cost the files that are there.
    complete = describe(name, entry, folder, relative_path(name, place, registry))
    if folder.resolve() != place.resolve():
        with atomic_path(place) as partial:
            shutil.copytree(folder, partial, symlinks=True)
    write_entry(name, complete, registry)
    return registered_model(name, read_registry(registry))


def _wanted(model: Model) -> dict[str, str]:
    """Return the files that are missing or wrong, with their hashes."""
    return {
        name: expected
        for name, expected in model.files.items()
        if not (model.folder / name).is_file() or sha256_file(model.folder / name) != expected
    }


def _staging(model: Model) -> Path:
    """Return the folder for what is not yet known to be right, on the model's file system."""
    folder = model.folder.parent / f".partial-{model.name}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _place(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)


def _download(url: str, sha256: str, staging: Path) -> Path:
    """Download a file, or the rest of it, and check its hash.

    Raises:
        StageError: the server does not give it whole, or it is another file.
    """
    import requests

    path = staging / sha256
    there = path.stat().st_size if path.exists() else 0
    # A compressed answer could not be continued, nor its length compared.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_SECONDS) as answer:
            if there and answer.status_code == requests.codes.partial:
                mode = "ab"
            elif there and answer.status_code == requests.codes.requested_range_not_satisfiable:
                return _checked(path, sha256, url)
            else:
                answer.raise_for_status()
                mode, there = "wb", 0
            length = int(answer.headers.get("Content-Length", -1))
            if there + length > MOST_BYTES:
                raise StageError(f"{url} is larger than {MOST_BYTES} bytes; it is not fetched.")
            with path.open(mode) as target:
                for chunk in answer.iter_content(_CHUNK):
                    if target.tell() + len(chunk) > MOST_BYTES:
                        raise StageError(f"{url} gives more than {MOST_BYTES} bytes; stopped.")
                    target.write(chunk)
    except requests.HTTPError as error:
        raise StageError(
            f"{url}: the server answers {error.response.status_code}; fix the address or ask who "
            "runs it."
        ) from None
    except requests.RequestException as error:
        raise StageError(
            f"{url}: the download was cut off ({type(error).__name__}); run the command again, it "
            "goes on from there."
        ) from None
    return _checked(path, sha256, url)


def _checked(path: Path, sha256: str, source: str) -> Path:
    """Return the path if the file is the pinned one; else remove it."""
    found = sha256_file(path)
    if found == sha256:
        return path
    path.unlink()
    raise StageError(
        f"{source} gives another file than the pinned one: its sha256 is {found}, not {sha256}; "
        "it was thrown away. Ask who publishes it whether it was changed, and review it before "
        "pinning it."
    )


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Open an archive all of whose members lie below the folder they are unpacked to.

    Raises:
        StageError: it is no zip archive, or a member is a link, climbs, or is there twice.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise StageError(f"{path} is not a readable zip archive: {error}.") from None
    names: set[str] = set()
    for member in archive.infolist():
        parts = member.filename.rstrip("/").split("/")
        if archives.climbs(member.filename) or {"", "."} & set(parts):
            problem = "does not lie below the archive's folder"
        elif not archives.is_plain_file(member):
            problem = "is no regular file"
        elif member.filename in names:
            problem = "is there twice"
        else:
            names.add(member.filename)
            continue
        archive.close()
        raise StageError(f"{path}: its member {member.filename!r} {problem}; it is not unpacked.")
    return archive


def _unpack(
    path: Path, prefix: str, wanted: Mapping[str, str], folder: Path, staging: Path
) -> list[str]:
    """Unpack the pinned members of an archive, each checked before it takes its place.

    Args:
        path: the archive.
        prefix: what stands before the names of `wanted` in the archive.
        wanted: SHA-256 by name.
        folder: where they go.
        staging: folder for what is not yet checked.

    Returns:
        The names that were unpacked.

    Raises:
        StageError: the archive is not safe, or lacks a member, or has another one.
    """
    with _open_zip(path) as archive:
        there = set(archive.namelist())
        for name, expected in wanted.items():
            if prefix + name not in there:
                raise StageError(f"{path} has no member {prefix + name!r}, which is pinned.")
            partial = staging / expected
            try:
                with archive.open(prefix + name) as source, partial.open("wb") as target:
                    found = _copy_hashed(source, target, MOST_BYTES)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
                raise StageError(f"{path}: {prefix + name} cannot be read: {error}.") from None
            if found != expected:
                partial.unlink()
                raise StageError(
                    f"{path}: {prefix + name} is not the pinned file: its sha256 is {found}, not "
                    f"{expected}; get the archive again."
                )
            _place(partial, folder / name)
    return list(wanted)


def _copy_hashed(source: IO[bytes], target: IO[bytes], most: int) -> str:
    digest = hashlib.sha256()
    count = 0
    while chunk := source.read(_CHUNK):
        count += len(chunk)
        if count > most:
            raise StageError(f"a member of an archive is larger than {most} bytes.")
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def _read_manifest(bundle: Path) -> dict[str, RegisteredModel]:
    """Return the entries of the models in a bundle."""
    with _open_zip(bundle) as archive:
        if MANIFEST not in archive.namelist():
            raise StageError(f"{bundle} has no {MANIFEST}; it is no bundle of models.")
        with archive.open(MANIFEST) as stream:
            text = stream.read(16 * _CHUNK)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise StageError(f"{bundle}: {MANIFEST} is not JSON: {error}.") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise StageError(f"{bundle} is not of the format {FORMAT}; get one of this version.")
    complete_types()
    return load(Registry, content, f"{bundle}: {MANIFEST}").models

"""What the files of a job were computed with, written beside them: ``provenance.json``.

Whether a result is up to date follows from this record and from what is on disk now, and from no
other memory: not from times of files, and not from what Snakemake remembers in the folder that it
was started in. Records name the records that they build on, so that one of a release leads back to
those of every shard and stage.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

from jipflow import __version__
from jipflow.files import sha256_file, write_json
from jipflow.outputs import met_unexpected
from jipflow.reasons import StageError

NAME = "provenance.json"
"""Name of a record, or the end of its name."""

Parts = Callable[[str], Mapping[str, str]]
"""Gives the hash of each part of the present settings that a stage depends on."""

AGAIN = "run the same snakemake command again."
FORCED = "run the same snakemake command again with --forceall."

_DECODERS = ("imagecodecs", "pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "python-gdcm")
_ARRAYS = ("numpy", "scipy", "SimpleITK")
_NETWORKS = (*_ARRAYS, "torch", "nnunetv2")
_OPTIONAL = {"torch", "nnunetv2", "TotalSegmentator", "batchgeneratorsv2"}

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "prepare": ("numpy", "SimpleITK", "pydicom", *_DECODERS),
    "segment": (*_NETWORKS, "connected-components-3d", "pydicom", "highdicom", "TotalSegmentator"),
    "annotate": (*_ARRAYS, "connected-components-3d", "pydicom", "highdicom"),
    "encode": ("numpy", "pydicom", "highdicom"),
    "measure": (*_ARRAYS, "PyWavelets", "scikit-image"),
    "document": ("pydicom", "highdicom"),
    "train_plan": _NETWORKS,
    "train_fit": (*_NETWORKS, "batchgeneratorsv2"),
    "train_evaluate": _NETWORKS,
}
"""By stage: the libraries of which another version may give other voxels, numbers or bytes."""


@dataclass(frozen=True)
class Provenance:
    """What a job computed its files with.

    Attributes:
        stage: the job's stage.
        version: of the jipflow that ran.
        settings: hash of each part of the settings that the stage depends on.
        inputs: SHA-256 of each input that stays: records of earlier stages, and files that have
            none; by path relative to the record's folder.
        outputs: SHA-256 of each table that the job wrote; by path likewise.
        libraries: version of each of the stage's `LIBRARIES` that is installed.
        state: hash of what else decided, such as the files of an inbox; else empty.
        sizes: bytes of each file that the job wrote and that stays, its tables among them; by path
            likewise.
        passing: the same of folders that go once the jobs have run that read them; by path
            likewise, and then by the path below it.
        known: whether the stage knew each error in its outcomes, so that none is tried again.
    """

    stage: str
    version: str
    settings: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str]
    libraries: dict[str, str]
    state: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    passing: dict[str, dict[str, int]] = field(default_factory=dict)
    known: bool = False


class Making:
    """The record of a job that runs: begun before it reads, finished when its files are there.

    Args:
        stage: the job's stage.
        settings: hash of each part of the settings that it depends on.
        inputs: records of earlier stages, and files that have none.
        state: hash of what else decides.
    """

    def __init__(
        self, stage: str, settings: Mapping[str, str], inputs: Iterable[Path], state: str = ""
    ) -> None:
        self.stage = stage
        self.settings = dict(settings)
        self.inputs = {path: sha256_file(path) for path in inputs}
        self.state = state

    def finish(
        self,
        path: Path,
        outputs: Iterable[Path],
        others: Iterable[Path] = (),
        passing: Iterable[Path] = (),
    ) -> None:
        """Write the record; a job's last file.

        Args:
            path: the record.
            outputs: the tables that the job wrote.
            others: other files of it that stay, such as DICOM objects.
            passing: folders that go once the jobs have run that read them.
        """
        outputs = list(outputs)
        own = [file for file in outputs if _name(file, path) == "outcomes.parquet"]
        made = Provenance(
            stage=self.stage,
            version=__version__,
            settings=self.settings,
            inputs={_name(file, path): digest for file, digest in self.inputs.items()},
            outputs={_name(file, path): sha256_file(file) for file in outputs},
            libraries=dict(libraries(self.stage)),
            state=self.state,
            sizes={_name(file, path): file.stat().st_size for file in (*outputs, *others)},
            passing={_name(folder, path): _sizes(folder) for folder in passing},
            known=not any(map(met_unexpected, own)),
        )
        write_json(path, asdict(made))


def _sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each file below a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.stat().st_size for file in files}


@cache
def libraries(stage: str) -> Mapping[str, str]:
    """Return the version of each library here on which what a stage computes depends."""
    found = {name: _version(name) for name in LIBRARIES.get(stage, ())}
    return {name: version for name, version in found.items() if version}


@cache
def _version(library: str) -> str:
    """Return the version of a library; empty where it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def prepare() -> None:
    """Find the versions of all libraries, for processes that are copies of this one."""
    for stage in LIBRARIES:
        libraries(stage)


def beside(table: Path) -> Path:
    """Return the record of the job that wrote a table, in the table's folder."""
    return table.parent / NAME


def read_provenance(path: Path) -> Provenance | None:
    """Read a record; None where there is none, or none that can be understood."""
    try:
        with open(path, "rb") as stream:
            found, content = os.fstat(stream.fileno()), stream.read()
        made = Provenance(**json.loads(content))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None
    # The jobs that came after name it by its hash.
    _DIGESTS[_state(os.path.abspath(path), found)] = hashlib.sha256(content).hexdigest()
    return made


def is_whole(record: Path) -> bool:
    """Return whether a record is there, and the files of its job as the job left them.

    Its tables have the bytes that they had, and others their length.
    """
    made = read_provenance(record)
    if made is None or _cut_off(made, record, ()):
        return False
    return all(_digest(str(_place(name, record))) == made.outputs[name] for name in made.outputs)


def difference(
    path: Path,
    stage: str,
    settings: Mapping[str, str],
    *,
    inputs: Iterable[Path] | None = None,
    state: str = "",
    here: bool = True,
    tables: bool = False,
) -> str:
    """Say why what a job wrote is out of date, or nothing where it is as it would be written now.

    Args:
        path: the job's record.
        stage: its stage.
        settings: hash of each part of the present settings that the stage depends on.
        inputs: what it would read now; without it, what it has read.
        state: hash of what else decides now.
        here: whether the job would run with the libraries of this process.
        tables: whether each of its tables shall be there.
    """
    made = read_provenance(path)
    if made is None or made.stage != stage:
        return "nothing says what it was computed with"
    if inputs is not None and {_name(file, path) for file in inputs} != made.inputs.keys():
        return "it was computed from fewer or other inputs than there are now"
    if other := _of_settings(made, settings):
        return other
    if made.state != state:
        return "what people sent or decided has changed since"
    changed = _of_libraries(made) if here else ""
    wanted = made.outputs if tables else ()
    return changed or _of_inputs(made, path) or _cut_off(made, path, wanted)


def written_when(path: Path, stage: str, settings: Mapping[str, str]) -> Written | None:
    """Return when a job wrote its files, if all of them are there and as they would be written now.

    Args:
        path: the job's record.
        stage: its stage.
        settings: hash of each part of the present settings that the stage depends on.

    Returns:
        None where the job would run again, as for an error that its stage did not know, or where
        something has to be looked at more closely than by a record.
    """
    made = read_provenance(path)
    if made is None or made.stage != stage or made.state or not made.known:
        return None
    if _of_settings(made, settings) or _of_libraries(made) or _of_inputs(made, path):
        return None
    base = os.path.abspath(path.parent)
    times = [os.stat(path).st_mtime_ns]
    for name, size in made.sizes.items():
        found = _stat(f"{base}/{name}")
        if found is None or found.st_size != size:
            return None
        if name in made.outputs:
            times.append(found.st_mtime_ns)
    if _cut_off_passing(made, base):
        return None
    inputs = frozenset(os.path.normpath(f"{base}/{name}") for name in made.inputs)
    return Written(inputs, min(times), max(times))


@dataclass(frozen=True)
class Written:
    """When a job wrote its tables and its record, and of what.

    Attributes:
        inputs: paths of what its record names, absolute.
        first: time of the oldest, in nanoseconds.
        last: time of the newest.
    """

    inputs: frozenset[str]
    first: int
    last: int


def check_provenance(tables: Mapping[Path, Iterable[Path]], parts: Parts) -> None:
    """Check that tables, and all that they were computed from, are as they would be made now.

    Args:
        tables: by record, the tables that its job wrote and that will be read.
        parts: gives the hash of each part of the present settings that a stage depends on.

    Raises:
        StageError: a record is missing, or something was computed with other settings, another
            version or other inputs, or was changed since.
    """
    seen: set[str] = set()
    waiting = list(tables)
    for record, wanted in tables.items():
        made = read_provenance(record)
        strangers = [file for file in wanted if made and _name(file, record) not in made.outputs]
        if strangers:
            raise StageError(f"{strangers[0]}: {record} does not name it; {AGAIN}")
    while waiting:
        path = waiting.pop()
        if os.path.abspath(path) in seen:
            continue
        seen.add(os.path.abspath(path))
        made = _checked(path, parts)
        waiting += [_place(name, path) for name in made.inputs if name.endswith(NAME)]


def _checked(path: Path, parts: Parts) -> Provenance:
    """Return a record that holds for its own stage and files."""
    made = read_provenance(path)
    if made is None:
        raise StageError(f"{path.parent}: nothing says what it was computed with; {AGAIN}")
    try:
        settings = parts(made.stage)
    except KeyError:
        raise StageError(f"{path}: there is no stage {made.stage!r}; {AGAIN}") from None
    reason = _of_settings(made, settings) or _of_inputs(made, path)
    if reason:
        raise StageError(f"{path.parent}: {made.stage} is out of date: {reason}; {AGAIN}")
    if reason := _of_libraries(made):
        raise StageError(f"{path.parent}: {made.stage} is out of date: {reason}; {FORCED}")
    for name, digest in made.outputs.items():
        file = _place(name, path)
        if _digest(str(file)) != digest:
            raise StageError(
                f"{file} is not what {made.stage} wrote there; remove {path}, and {AGAIN}"
            )
    return made


def _of_settings(made: Provenance, settings: Mapping[str, str]) -> str:
    if made.version != __version__:
        return f"it was computed by jipflow {made.version}, this is {__version__}"
    other = {key for key in made.settings.keys() | settings if _differs(key, made, settings)}
    return f"it was computed with other settings ({', '.join(sorted(other))})" if other else ""


def _of_libraries(made: Provenance) -> str:
    now = libraries(made.stage)
    changes = [_versions(name, made, now) for name in sorted(made.libraries.keys() | now)]
    other = ", ".join(filter(None, changes))
    return f"it was computed with {other}" if other else ""


def _versions(name: str, made: Provenance, now: Mapping[str, str]) -> str:
    """Say which version of a library a job had, and which is here; nothing where it is the same.

    No network runs where its libraries are missing: what is made there is of other engines.
    """
    then, here = made.libraries.get(name), now.get(name)
    if then == here or (name in _OPTIONAL and not (then and here)):
        return ""
    return f"{name} {then or 'missing'}, here it is {here or 'missing'}"


def _differs(key: str, made: Provenance, settings: Mapping[str, str]) -> bool:
    return made.settings.get(key) != settings.get(key)


def _of_inputs(made: Provenance, path: Path) -> str:
    base = os.path.abspath(path.parent)
    for name, digest in made.inputs.items():
        if _digest(os.path.normpath(f"{base}/{name}")) != digest:
            return f"its input {name} has changed since"
    return ""


def _cut_off(made: Provenance, path: Path, wanted: Collection[str]) -> str:
    """Say which file is not as long as its job left it, or which of those that are wanted is gone.

    So a power cut leaves one that came to the disk after its record, and so does a copy that broke
    off. Another that stays and is gone is Snakemake's matter, or `outputs.missing_outputs`'.
    """
    base = os.path.abspath(path.parent)
    for name, size in made.sizes.items():
        found = _stat(f"{base}/{name}")
        if found is None and name in wanted:
            return f"its file {os.path.basename(name)} is gone"
        if found is not None and found.st_size != size:
            return f"its file {os.path.basename(name)} was cut off or changed"
    return _cut_off_passing(made, base)


def _cut_off_passing(made: Provenance, base: str) -> str:
    for folder, files in made.passing.items():
        place = os.path.normpath(f"{base}/{folder}")
        if os.path.isdir(place):
            for name, size in files.items():
                found = _stat(f"{place}/{name}")
                if found is None or found.st_size != size:
                    return f"its file {name} is gone, or was cut off or changed"
    return ""


def _stat(path: str) -> os.stat_result | None:
    """Return what is there, None where there is nothing; a folder may be a link, as `_place`."""
    try:
        return os.stat(os.path.normpath(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _digest(path: str) -> str:
    """Return the hash of a file, each read once while it stays the same; empty where it is gone."""
    found = _stat(path)
    if found is None:
        return ""
    state = _state(path, found)
    if state not in _DIGESTS:
        _DIGESTS[state] = sha256_file(Path(path))
    return _DIGESTS[state]


def _state(path: str, found: os.stat_result) -> tuple[str, int, int, int]:
    return path, found.st_ino, found.st_size, found.st_mtime_ns


_DIGESTS: dict[tuple[str, int, int, int], str] = {}


def _name(file: Path, record: Path) -> str:
    """Return how a record names a file: relative, so that results may be moved and copied."""
    return os.path.relpath(os.path.abspath(file), os.path.abspath(record.parent))


def _place(name: str, record: Path) -> Path:
    """Return the file that a record names; a results folder may be a link, so not by the system."""
    return Path(os.path.normpath(os.path.abspath(record.parent) + "/" + name))

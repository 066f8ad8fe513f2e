"""What of a results folder can be removed, since a run makes it again or nobody needs it any more.

Only what a kind below finds is ever removed. What has left the site or belongs to a person is of no
kind: messages, bundles, ledger, audit trail, keys, the worklist and what readers sent back.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jipflow.provenance import is_whole
from jipflow.repair.standing import mapping_of, protocols_of, shard_jobs
from jipflow.subset import FOLDER, OF_JOBS

ROUND = re.compile(r"r(\d{2,})")

UNTOUCHED = frozenset(
    {
        *("bundles", "rounds", "release", "behind", "harmonised", "published"),
        *("inbox", "worklist"),
    }
)
"""Folders in which nothing that is half written is looked for."""


@dataclass(frozen=True)
class Removable:
    """A file or folder that can be removed.

    Attributes:
        kind: a key of `KINDS`.
        path: of it.
        bytes: its size, with all that is below it.
    """

    kind: str
    path: Path
    bytes: int


def find_removable(results: Path, kinds: Collection[str], protocol: str | None) -> list[Removable]:
    """Return what can be removed, by kind and path.

    Args:
        results: folder for the results of all protocols.
        kinds: keys of `KINDS`.
        protocol: id of the only protocol; None for all.

    Raises:
        StageError: there is no such protocol.
        OSError: a folder cannot be read.
    """
    folders = protocols_of(results, protocol)
    own = set().union(*(_own_paths(folder) for folder in protocols_of(results)))
    # A folder of images may lie around the results.
    own = {path for path in own if not results.resolve().is_relative_to(path)}
    found: dict[Path, str] = {}
    for kind in KINDS:
        if kind not in kinds:
            continue
        for path in KINDS[kind][1](results, folders):
            covered = not found.keys().isdisjoint((path, *path.parents))
            if not covered and not _touches(path, own):
                found[path] = kind
    return [Removable(kind, path, _size(path)) for path, kind in found.items()]


def remove(found: Removable) -> None:
    """Remove a file, or a folder with all below it; a link alone and not what it leads to."""
    if found.path.is_dir() and not found.path.is_symlink():
        shutil.rmtree(found.path)
    else:
        found.path.unlink(missing_ok=True)


def _work(results: Path, folders: Collection[Path]) -> Iterator[Path]:
    """Yield the volumes and masks of shards; those that readers' files need again stay."""
    for folder in folders:
        if not _is_annotated(folder):
            yield from _named(folder / "work", OF_JOBS)


def _shards(results: Path, folders: Collection[Path]) -> Iterator[Path]:
    """Yield what is of shards that the cohort does not have any more."""
    for folder in folders:
        jobs = shard_jobs(folder)
        if not is_whole(folder / "cohort" / "provenance.json") or not jobs.cases:
            continue  # a cohort that is being chosen, was cut off, or lost all at once says nothing
        places = [folder / "shards", folder / "work", folder / "cohort" / "apart"]
        places += sorted(path for path in _listed(folder / "logs") if path.is_dir())
        for place in places:
            for path in _named(place, OF_JOBS):
                if path.name.partition(".")[0] not in jobs.cases:
                    yield path


def _partial(results: Path, folders: Collection[Path]) -> Iterator[Path]:
    """Yield what runs that are over have left half written."""
    for place in (results / "catalog", results / "retrieved", *folders):
        for folder, names, files in os.walk(place):
            names[:] = sorted(name for name in names if name not in UNTOUCHED)
            partial = [name for name in (*names, *files) if name.startswith(".partial-")]
            names[:] = [name for name in names if name not in partial]
            yield from (Path(folder, name) for name in sorted(partial))


def _subset(results: Path, folders: Collection[Path]) -> Iterator[Path]:
    """Yield the tables and reports of first tries."""
    yield from (folder / FOLDER for folder in folders if (folder / FOLDER).is_dir())


def _candidates(results: Path, folders: Collection[Path]) -> Iterator[Path]:
    """Yield candidates of rounds before the one that is open, which nobody approved or packed."""
    for folder in folders:
        standing = mapping_of(folder / "rounds" / "standing.json")
        bundles = [path.name for path in _listed(folder / "bundles")]
        for path in _named(folder / "release", ROUND):
            number = ROUND.fullmatch(path.name)
            if number is None or int(number[1]) >= int(standing.get("round", 0)):
                continue
            signed = any("approv" in each.name for each in _listed(path))
            if not signed and not any(f"-{path.name}-a" in name for name in bundles):
                yield path
                record = path.with_name(f"{path.name}.provenance.json")
                yield from [record] if record.is_file() else []


def _retrieved(results: Path, folders: Collection[Path]) -> Iterator[Path]:
    """Yield the images that came from a PACS, for all protocols."""
    yield from (path for path in _listed(results / "retrieved") if path.is_dir())


KINDS: Mapping[str, tuple[str, Callable[[Path, Collection[Path]], Iterator[Path]]]] = {
    "shards": ("shards of cases that the cohort has not any more", _shards),
    "work": ("volumes and masks, which are made again where they are needed", _work),
    "partial": ("files that runs which are over left half written", _partial),
    "subset": ("tables and reports of first tries", _subset),
    "candidates": ("candidates of earlier rounds that nobody approved or packed", _candidates),
    "retrieved": ("images from a PACS, which jipflow retry --fetch has fetched again", _retrieved),
}
"""By kind: what it is, and what finds it."""

ASKED = frozenset({"retrieved"})
"""Kinds that are looked at only where they are named."""


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return what in a folder has a name of a pattern, whatever its suffix."""
    return [path for path in _listed(folder) if pattern.fullmatch(path.name.partition(".")[0])]


def _is_annotated(folder: Path) -> bool:
    """Return whether persons draw for a protocol; also where its settings do not say."""
    settings = mapping_of(folder / "settings.json")
    specs = settings.get("protocol", {}).get("segmentations")
    return specs is None or any(spec["engine"] == "annotated" for spec in specs)


def _own_paths(folder: Path) -> set[Path]:
    """Return the files and folders that the settings of a protocol's last run name as the site's.

    They may lie anywhere, below the results too.
    """
    site = mapping_of(folder / "settings.json").get("site", {})
    found: set[Path] = set()
    for section in ("identity", "exchange", "annotation", "consent", "clinical", "models"):
        for value in (site.get(section) or {}).values():
            if isinstance(value, str) and value and "://" not in value:
                found.add(Path(value).resolve())
    found |= {Path(s["path"]).resolve() for s in site.get("sources", []) if s.get("path")}
    return found


def _touches(path: Path, own: Collection[Path]) -> bool:
    """Return whether a path is one of the site's own, or lies above or below one."""
    place = path.resolve()
    return any(place.is_relative_to(each) or each.is_relative_to(place) for each in own)


def _size(path: Path) -> int:
    """Return the bytes of a file or of all below a folder."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size if os.path.lexists(path) else 0
    return sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(path)
        for name in names
    )

"""The first files of a site: written whole or not at all, and none that is there is lost."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from jipflow.files import atomic_path
from jipflow.reasons import StageError

PROFILE = re.compile(r"(profile|config)(\.v\d+\+)?\.yaml")
"""Names under which Snakemake finds a profile in its folder."""


def write_files(texts: Mapping[Path, str], *, replace: bool) -> list[str]:
    """Write files that are not there, and return a sentence about each.

    A file that says the same stays as it is. Nothing is written if one says something else, unless
    it is to be replaced; it is then kept under a name of its own.

    Args:
        texts: of the files.
        replace: whether others are replaced.

    Raises:
        StageError: a file is there that says something else, or nothing can be written.
    """
    there = {path: _read(path) for path in texts}
    differ = [path for path, text in there.items() if text not in (None, texts[path])]
    taken = [other for path in texts for other in _other_profiles(path)]
    if (differ or taken) and not replace:
        raise StageError(
            f"{', '.join(map(str, [*differ, *taken]))}: there already, and says something else. "
            "Nothing was written; give the same answers as before, or --replace, which keeps what "
            "is there under another name."
        )
    for path in texts:
        _check_writable(path)
    done = []
    for path, text in texts.items():
        if there[path] == text:
            done.append(f"{path}: as it was")
            continue
        kept = _set_aside(path) if there[path] is not None else None
        with atomic_path(path) as partial:
            partial.write_text(text, encoding="utf-8")
        done.append(f"{path}: new" + (f"; what was there is {kept.name}" if kept else ""))
    return done


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _other_profiles(path: Path) -> list[Path]:
    """Return profiles of another's making in the folder of one that is not there yet."""
    if not PROFILE.fullmatch(path.name) or path.exists() or not path.parent.is_dir():
        return []
    return sorted(other for other in path.parent.iterdir() if PROFILE.fullmatch(other.name))


def _check_writable(path: Path) -> None:
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir():
        raise StageError(f"{folder} is a file, no folder, so that {path} cannot be written.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StageError(
            f"{path} cannot be written: {folder} is not writable for this account; nothing was "
            "written. Name other folders by --folder and --profiles."
        )


def _set_aside(path: Path) -> Path:
    """Rename a file to the first name of its kind that is free."""
    kept = next(
        other for number in count(1) if not (other := Path(f"{path}.before-{number}")).exists()
    )
    path.rename(kept)
    return kept

"""The folder that bundles are put into by whoever may write there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from jipflow.files import json_text

SUFFIX = ".zip"
"""How the names of bundles end."""


def bundles(inbox: Path) -> list[Path]:
    """Return the files of an inbox that may be bundles, sorted by name.

    Args:
        inbox: the folder.

    Raises:
        OSError: the folder cannot be read, which does not make it an empty one.
    """
    return sorted(inbox / name for name in os.listdir(inbox) if name.endswith(SUFFIX))


def inbox_state(inbox: Path) -> list[dict[str, str | int]]:
    """Return what shows that an inbox has changed: name, size and time of each bundle, and whether
    the account may read it.

    Snakemake gets none of the files: it would take ``{x}.zip`` or ``<results>.zip`` for a pattern,
    and have nothing to do however many bundles lie beside it.

    Args:
        inbox: the folder.

    Raises:
        OSError: the folder cannot be read.
    """
    return list(_entries(inbox))


def inbox_digest(inbox: Path) -> str:
    """Return the hash of an inbox's state.

    Args:
        inbox: the folder.
    """
    return hashlib.sha256(json_text(inbox_state(inbox)).encode()).hexdigest()


def _entries(inbox: Path) -> Iterator[dict[str, str | int]]:
    for path in bundles(inbox):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        name = path.name.encode("ascii", "backslashreplace").decode("ascii")
        yield {
            "name": name,
            "bytes": found.st_size,
            "modified_ns": found.st_mtime_ns,
            "readable": os.access(path, os.R_OK, follow_symlinks=False),
        }

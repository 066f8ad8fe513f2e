"""Who may read and write files: what names patients or is secret belongs to its owner alone.

A run writes with the umask of the site, so that nothing below its results is open to others. What
is open nevertheless, since it was made before or by hand, is refused with the command that closes
it: jipflow changes no rights of files that it has not made.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from jipflow.reasons import StageError

IDENTIFYING = (
    "catalog/*.parquet",
    "*/pacs/*",
    "*/cohort/cases.tsv",
    "*/cohort/shards/*.parquet",
    "*/cohort/apart/*.parquet",
    "*/published/*.jsonl",
)
"""Tables below the results of all protocols by which a pseudonym leads to a patient."""

IMAGES = (
    "retrieved/*/*/*",
    "*/seg/*/*.dcm",
    "*/sr/*/*.dcm",
    "*/worklist/*/*/*",
    "*/inbox/*/*/*/*",
)
"""DICOM objects and copies of images there, which name their patient as in the archive. No other
file below the results names one."""


_MOST_LINKS = 40
"""As many as Linux follows."""


def open_rights(path: Path, umask: int) -> int:
    """Return the rights of a file or folder that a umask would not have given."""
    return stat.S_IMODE(path.stat().st_mode) & umask


def closing(path: Path, umask: int, *, whole: bool = False) -> str:
    """Return the command that takes from a file what a umask would not have given.

    Args:
        path: of the file or folder.
        umask: bits of rights to take.
        whole: with all that is below a folder.
    """
    taken = [
        f"{who}-{''.join(letter for bit, letter in ((4, 'r'), (2, 'w'), (1, 'x')) if digit & bit)}"
        for who, digit in (("g", umask >> 3 & 7), ("o", umask & 7))
        if digit
    ]
    if len(taken) == 2 and taken[0][1:] == taken[1][1:]:
        taken = [f"go{taken[0][1:]}"]
    return f"chmod {'-R ' if whole else ''}{','.join(taken)} {shlex.quote(str(path))}"


def why_replaceable(path: Path) -> str:
    """Return why others may replace a secret file, with the fix; empty if they may not.

    Args:
        path: of the file, or of a link to it: who may replace the link decides which file is read.
    """
    owner = path.stat().st_uid
    if owner not in {os.geteuid(), 0}:
        return (
            f"it belongs to another account (uid {owner}), which can change it; have this account "
            "own it, or use another file"
        )
    step = path
    for _ in range(_MOST_LINKS):
        if why := _why_open(step.parent):
            return why
        if not step.is_symlink():
            return ""
        step = step.parent / step.readlink()
    return "it is a link to a link without an end; name the file itself"


def _why_open(folder: Path) -> str:
    """Return why others may replace the files of a folder.

    They may write to one with the sticky bit, such as /tmp, but not replace a file there that is
    not theirs.
    """
    folder = folder.resolve()
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not mode & 0o022 or mode & stat.S_ISVTX:
        return ""
    return (
        f"{folder} has mode {mode:04o}, so others may replace what is in it; run: "
        f"chmod go-w {shlex.quote(str(folder))}"
    )


def check_private(folder: Path, what: str) -> None:
    """Check that nobody but its owner can read a folder's files; it need not be there.

    Args:
        folder: which jipflow made with mode 0700.
        what: it holds, for the message.

    Raises:
        StageError: others may read or change a file; the message has the command that closes it.
    """
    if not folder.is_dir() or not open_rights(folder, 0o077):
        return
    for path in (folder, *sorted(folder.iterdir())):
        if open_rights(path, 0o022 if path == folder else 0o077):
            raise StageError(
                f"{path}: others may read or change {what}; run: "
                f"{closing(folder, 0o077, whole=True)}"
            )


def check_results(results: Path, umask: int) -> None:
    """Check that what leads from a pseudonym to a patient is not open to others.

    What lies below a closed folder is closed, whatever its own rights.

    Args:
        results: folder for the results of all protocols; need not be there.
        umask: of the site.

    Raises:
        StageError: a table is open; the message has the command that closes the results.
    """
    if not results.is_dir() or not open_rights(results, umask & 0o011):
        return
    tables = (found for pattern in IDENTIFYING for found in results.glob(pattern))
    for path in sorted(path for path in tables if path.is_file()):
        between = [each for each in path.parents if each.is_relative_to(results)]
        passable = all(open_rights(folder, umask & 0o011) for folder in between)
        if passable and (rights := open_rights(path, umask)):
            raise StageError(
                f"{path}: leads from pseudonyms to patients and has mode "
                f"{stat.S_IMODE(path.stat().st_mode):04o}, so that others may "
                f"{'read' if rights & 0o044 else 'change'} it; run: "
                f"{closing(results, umask, whole=True)}, or set permissions.umask of site.yaml."
            )

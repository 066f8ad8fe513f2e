"""The folder that an export writes: which one it may be, and made as a whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jipflow.files import read_json
from jipflow.reasons import StageError
from jipflow.settings.run import Settings
from jipflow.settings.site import Folder

REPORT = "export.json"
"""Name of the file beside the patients' folders that says what was done; it names no patient."""
PARTIAL = ".partial-export-"
"""How the names of folders begin that an export has not finished."""
LOCK = Path("export", ".lock")
"""Held by an export of these results, below them."""
MOUNTS = Path("/proc/self/mountinfo")


def check_folder(out: Path, settings: Settings, results: Path) -> None:
    """Refuse a folder that cannot be made, or that is something else than an export's.

    Raises:
        StageError: it is a link, a file or a disk's root, or holds what no export made or what this
            account may not replace; or it is, holds or lies in the results, an exchange folder or a
            source, whose files runs send or read.
    """
    if out.is_symlink():
        raise StageError(
            f"{out}: is a link, and a link is not replaced; name the folder that it leads to."
        )
    real = out.resolve()
    taken = [results.parent, *settings.site.exchange.folders(results.parent)]
    taken += [Path(s.path) for s in settings.site.sources if isinstance(s, Folder)]
    for folder in taken:
        if real.is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(real):
            raise StageError(
                f"{out}: is, holds or lies in {folder}, which the site's runs read or send; name "
                "a folder of its own."
            )
    above = next(path for path in real.parents if path.exists())
    if not above.is_dir():
        raise StageError(f"{out}: {above} is a file, no folder; name another folder.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise StageError(
            f"{out}: nothing can be written into {above}; let this account write there, or name "
            "another folder."
        )
    if not real.exists():
        return
    if not real.is_dir():
        raise StageError(f"{out}: is a file, no folder; name a new folder.")
    if _is_mount(real):
        raise StageError(
            f"{out}: is where a disk is mounted, which cannot be replaced as a whole; name a "
            "folder on that disk."
        )
    if any(real.iterdir()) and not _is_export(real):
        raise StageError(f"{out}: is not empty, and no export made it; name a new folder.")
    _check_replaceable(out, real)


def _check_replaceable(out: Path, real: Path) -> None:
    """Refuse an export of before that this account could not remove."""
    sticky = real.parent.stat().st_mode & stat.S_ISVTX
    owners = (0, real.stat().st_uid, real.parent.stat().st_uid)
    bound = bool(sticky) and os.geteuid() not in owners
    for place, _, _ in os.walk(real):
        if bound or not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            raise StageError(
                f"{out}: is an export of before that this account may not replace ({place}); let "
                "it write there, or name a new folder."
            )


def _is_export(folder: Path) -> bool:
    try:
        return "jipflow" in read_json(folder / REPORT)
    except (OSError, ValueError):
        return False


def _is_mount(folder: Path) -> bool:
    """Return whether a folder is where a disk, or another folder, is mounted."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return folder.is_mount()
    # The fifth field (proc(5)); blanks in it are octal.
    places = (line.split(" ")[4] for line in lines)
    return str(folder) in {re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), p) for p in places}


@contextmanager
def whole_folder(out: Path, results: Path) -> Iterator[Path]:
    """Give an empty folder beside `out` that takes its name when the block ends well.

    What an export of the same results into the same folder left when it was killed is removed
    first; what others left is theirs. The folder that was there before is removed when the new one
    has its name.

    Args:
        out: as `check_folder` lets it pass; folders above it are made.
        results: of the protocol, whose exports go one after the other.

    Raises:
        StageError: another export of these results is at work.
    """
    real = out.resolve()
    named = hashlib.sha256(os.fsencode(results.resolve()) + b"\0" + os.fsencode(real)).hexdigest()
    with _alone(results):
        real.parent.mkdir(parents=True, exist_ok=True)
        for left in real.parent.glob(f"{PARTIAL}{named[:16]}-*"):
            shutil.rmtree(left)
        partial = real.with_name(f"{PARTIAL}{named[:16]}-{os.urandom(8).hex()}")
        try:
            partial.mkdir(mode=0o700)
            yield partial
            _replace(real, partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _replace(real: Path, partial: Path) -> None:
    """Give a finished folder its name, and remove the one that had it."""
    before = partial.with_name(f"{partial.name}-before")
    if real.exists():
        real.rename(before)
    try:
        partial.rename(real)
    except BaseException:
        if before.exists():
            before.rename(real)
        raise
    if before.exists():
        shutil.rmtree(before)


@contextmanager
def _alone(results: Path) -> Iterator[None]:
    """Keep other exports of the same results off while the block runs.

    The lock is the system's, so that one whose process was killed is free again.

    Raises:
        StageError: one is at work.
    """
    path = results / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise StageError(
                f"{results}: another export of them is at work; wait until it has ended."
            ) from None
        yield
    finally:
        os.close(descriptor)

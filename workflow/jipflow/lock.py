"""One run at a time on a results folder, from whichever clone or machine it is started.

Snakemake's own lock lies in the folder that it is started in, and says nothing to a run that is
started elsewhere.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shlex
from datetime import UTC, datetime
from pathlib import Path

from jipflow.reasons import StageError

NAME = ".lock"

_held: dict[Path, int] = {}
"""Descriptors of the locks of this process: the system gives them up when it ends, however."""


def hold(results: Path) -> bool:
    """Keep other runs off a results folder until this process ends.

    The lock is the system's (POSIX record locks, which NFS has, too), so that one whose process
    was killed is free again. The file also says whose it is: a file system may keep the locks of
    each machine apart, so that a run of another machine that has not ended well is believed to go
    on.

    Args:
        results: it is made.

    Returns:
        Whether the run before this one was killed and left its mark.

    Raises:
        StageError: another run has it, or may have it.
        OSError: the folder cannot be written.
    """
    path = Path(results).resolve() / NAME
    if path in _held:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        killed = _take(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    _held[path] = descriptor
    atexit.register(release, results)
    return killed


def drop_locks(folder: Path, results: Path) -> None:
    """Remove the locks of Snakemake's that a run of these results left when it was killed.

    Args:
        folder: of Snakemake's locks, ``.snakemake/locks``: files that list a path a line.
        results: the results folder, which this process holds.
    """
    for path in folder.glob("*.lock"):
        lines = path.read_text(encoding="utf-8").splitlines()
        if any(Path(line).is_relative_to(results) for line in lines):
            path.unlink()


def release(results: Path) -> None:
    """Let other runs have a results folder that this process holds; nothing if it does not."""
    descriptor = _held.pop(Path(results).resolve() / NAME, None)
    if descriptor is not None:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise StageError(
            f"{path.parent} is in use by {_owner(_record(descriptor))}: wait until that run is "
            "over, or end it there."
        ) from None
    record = _record(descriptor)
    own = _own_record()
    if record and not _is_over(record, own):
        raise StageError(
            f"{path.parent} is in use by {_owner(record)}, as far as can be seen from here: wait "
            f"until that run is over. If it was killed, or its machine is gone: rm "
            f"{shlex.quote(str(path))}, and run the same command again."
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(own).encode(), 0)
    os.fsync(descriptor)
    return bool(record)


def _is_over(record: dict[str, str], own: dict[str, str]) -> bool:
    """Whether a run of this machine left the record; the system has given its lock up.

    One of before the machine was started anew has the machine's name and identity.
    """
    rebooted = all(record.get(key) == own[key] for key in ("host", "machine"))
    return record.get("boot") == own["boot"] or (bool(own["machine"]) and rebooted)


def _own_record() -> dict[str, str]:
    return {
        "host": os.uname().nodename,
        "machine": _line("/etc/machine-id"),
        "boot": _line("/proc/sys/kernel/random/boot_id"),
        "pid": str(os.getpid()),
        "started": datetime.now(UTC).astimezone().isoformat(sep=" ", timespec="seconds"),
        "folder": os.getcwd(),
    }


def _line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _record(descriptor: int) -> dict[str, str]:
    """Return what the file says of its owner; nothing where it does not say it yet.

    It is read by the descriptor of the lock: closing another one would give the lock up.
    """
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _owner(record: dict[str, str]) -> str:
    if not record:
        return "another run"
    return (
        f"the run of process {record.get('pid')} on {record.get('host')}, started "
        f"{record.get('started')} in {record.get('folder')}"
    )

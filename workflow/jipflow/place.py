"""Errors of the place where a run goes on: its disks, memory, processes and network.

They say nothing about a patient, so that none of them may become an outcome: the job fails, and the
same command goes on when the place is well again.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path

from jipflow.reasons import PlaceError

DAMAGE = frozenset({errno.EINVAL, errno.EOVERFLOW, errno.ENAMETOOLONG, errno.EILSEQ})
"""What the system says of a length, a position or a name that a damaged file asked for."""

TEXTS = (
    *map(
        os.strerror,
        (
            errno.EACCES,
            errno.EDQUOT,
            errno.EIO,
            errno.EMFILE,
            errno.ENFILE,
            errno.ENOMEM,
            errno.ENOSPC,
            errno.EROFS,
            errno.ESTALE,
        ),
    ),
    "Failed to allocate memory",
    "bad allocation",
    "bad_alloc",
    "can't allocate memory",
    "can't start new thread",
    "not enough memory",
    "out of memory",
    "CUDA error",
    "CUDNN_STATUS",
    "CUBLAS_STATUS",
)
"""How libraries in C and C++ pass such errors on in exceptions of their own."""

LIBRARIES = frozenset({"OutOfMemoryException", "IOException"})
"""How DuckDB, whose errors are no others', names those of memory and disk."""

KILLED = (-9, 137)
"""How a process ends that the system kills for want of memory, and how a shell says so."""

DISK = frozenset({errno.EDQUOT, errno.ENOSPC, errno.EROFS})
"""Errors of a disk that Snakemake quotes, of its own folder in the clone as a rule."""

ERRNO = re.compile(r"\[Errno (\d+)\]")

LONGEST_WAIT = 60
"""Seconds for which a job waits for a clock that was set back."""

MISSING = "Missing files after"
"""How Snakemake says that it waited in vain for a file."""

PROBE = 1 << 16
"""Bytes that are written to see whether a disk is full: more than any log is long at its end."""

FIXES = {
    errno.EACCES: "let the account that runs jipflow read it, and write below its results",
    errno.EPERM: "let the account that runs jipflow read it, and write below its results",
    errno.EDQUOT: "make room within the account's quota",
    errno.EMFILE: "let a process open more files (ulimit -n)",
    errno.ENFILE: "let the machine open more files",
    errno.ENOENT: "see whether its disk is mounted; if it is gone for good, make the catalog "
    "again: --forcerun catalog",
    errno.ENOSPC: "make room",
    errno.EROFS: "see why the disk is read-only",
}


def place_error(error: BaseException) -> BaseException | None:
    """Return what the place did wrong among an error and those that it came of; None for nothing.

    An error that was raised ``from None`` came of none: who raised it had looked.

    Args:
        error: any, such as a `CaseFault` that was raised from an error of the system's.
    """
    return next((e for e in _chain(error) if _is_of_place(e)), None)


def raise_place_error(error: BaseException) -> None:
    """Raise an error again that is the place's and not the data's; for the start of a handler."""
    if place_error(error):
        raise error


def sentence(error: BaseException) -> str:
    """Say in a line what the place did wrong and what fixes it.

    Args:
        error: one that `place_error` gave.
    """
    if isinstance(error, OSError) and error.errno is not None:
        path = error.filename2 or error.filename
        text = f"{path}: {error.strerror}" if path else str(error.strerror)
        fix = FIXES.get(error.errno, "see whether the disk, the mount or the network is well")
        return f"{text}{_room(error)}; {fix}, and run the same command again."
    if isinstance(error, MemoryError):
        text = " ".join(str(error).split()) or "the memory is exhausted"
        return (
            f"{text.rstrip('.')}; use fewer cores or more memory, and run the same command again."
        )
    if isinstance(error, BrokenExecutor):
        return (
            "a process was ended from outside, for want of memory as a rule; use fewer cores or "
            "more memory, and run the same command again."
        )
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {text}; fix the machine, and run the same command again."


class InALine(logging.Filter):
    """Has Snakemake say in a line what the place did wrong that ends Snakemake itself.

    It prints an error of its own work, such as to remove a file from a disk that is read-only, with
    the traceback of all that it was doing; and of a file that was there it says that it is missing.

    Args:
        look: says what is wrong with the results folder as a whole; empty for nothing.
    """

    def __init__(self, look: Callable[[], str] = str) -> None:
        super().__init__()
        self._look = look

    def filter(self, record: logging.LogRecord) -> bool:
        """Give a record of an error that is being handled the sentence of its cause."""
        error = sys.exc_info()[1]
        if hasattr(record, "exception") and isinstance(error, OSError) and _is_of_place(error):
            record.msg, record.args = sentence(error), ()
        elif hasattr(record, "exception"):
            text = record.getMessage()
            number = ERRNO.search(text)
            if MISSING in text:
                text = self._look() or text
            elif number and int(number[1]) in DISK:
                text += f"\nTo go on: {FIXES[int(number[1])]}, and run the same command again."
            record.msg, record.args = text, ()
        return True


def wait_for_clock(folder: Path, inputs: Iterable[Path], results: Path) -> None:
    """Wait until what a job writes is younger than what it reads.

    Where a clock was ahead when its inputs were written, or was set back since, Snakemake takes
    the outputs of the job for out of date and fails it.

    Args:
        folder: that the job writes to; what counts is the clock of its disk.
        inputs: files that the job reads.
        results: that a person would give the present time.

    Raises:
        PlaceError: it would take more than `LONGEST_WAIT`.
        OSError: a file is not there, or nothing can be written to the folder.
    """
    times = {path: path.stat().st_mtime_ns for path in inputs}
    if not times:
        return
    newest = max(times, key=times.__getitem__)
    with tempfile.TemporaryFile(dir=_nearest(folder)) as stream:
        ahead = (times[newest] - os.fstat(stream.fileno()).st_mtime_ns) / 1e9
    if ahead > LONGEST_WAIT:
        raise PlaceError(
            f"{newest} is of a time that is {ahead:.0f} s ahead: the clock was wrong when it was "
            "written, or is now. Set it, or give what is of the future the present time (find "
            f"{shlex.quote(str(results))} -newermt now -exec touch {{}} +), and run the same "
            "command again."
        )
    if ahead > 0:
        time.sleep(ahead + 0.01)


def shortage(path: Path) -> str:
    """Say why nothing could be written to a file, where that can be seen; else nothing.

    Args:
        path: of the file, which need not be there.
    """
    number = _writing(path)
    return sentence(OSError(number, os.strerror(number), str(path))) if number else ""


def _writing(path: Path) -> int:
    """Return the system's number of the error of writing a little beside a file; 0 for none."""
    try:
        with tempfile.TemporaryFile(dir=_nearest(path.parent)) as stream:
            stream.write(bytes(PROBE))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _nearest(place: Path) -> Path:
    """Return the nearest folder above a path, or itself, that is there."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _room(error: OSError) -> str:
    """Say how much room is left where there is too little."""
    if error.errno != errno.ENOSPC:
        return ""
    named = error.filename2 or error.filename
    place = _nearest(Path(os.fsdecode(named)) if isinstance(named, str | bytes) else Path.cwd())
    return f" ({shutil.disk_usage(place).free / 1e6:.0f} MB free at {place})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error, what it was raised from, and what it was raised in the handling of."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        context = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or context


def _is_of_place(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | MemoryError | BrokenExecutor):
        return True
    # Memory, open files and a mount that is away end an import; no file of a patient does.
    if isinstance(error, ImportError) or type(error).__name__ in LIBRARIES:
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in DAMAGE
    if isinstance(error, subprocess.TimeoutExpired):
        return True
    if isinstance(error, subprocess.CalledProcessError):
        return error.returncode in KILLED
    # Messages of these are a library's; those of others may quote what a file holds.
    return isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in TEXTS)

"""One run at a time on a results folder, from whichever clone or machine it is started.

So it is with what a person starts that needs the results as a run left them, such as an export.

Snakemake's own lock lies in the folder that it is started in: it says nothing to a run that is
started elsewhere, outlives a kill, and the end of a run removes those of all others of that folder.
``profiles/default`` leaves it out. Jobs that outlive a run that was killed hold the next one up
until they have ended, since both would write the same files.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import json
import os
import shlex
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jipflow.reasons import PlaceError, StageError

NAME = ".lock"
"""Held by the run."""

JOBS = ".jobs"
"""Held by each of its jobs, together; it says of which run the last ones were that may write."""

MOUNT = "see whether its disk is mounted, and run the same command again."

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What the system says of a lock on a disk that has none."""

FLOCK = "hhqqi"
"""Linux's ``struct flock`` for `fcntl.F_GETLK`: type, whence, start, length and process."""

_held: dict[Path, int] = {}
"""Descriptors of the locks of this process: the system gives them up when it ends, however."""


def hold(
    results: Path,
    run: str = "",
    tell: Callable[[str], object] = print,
    doing: str = "the run",
) -> bool:
    """Keep other runs off a results folder until this process ends.

    Where jobs of an earlier run go on, it waits for them.

    The lock is the system's (POSIX record locks, which NFS has, too), so that one whose process
    was killed is free again. The file also says whose it is: a file system may keep the locks of
    each machine apart, so that a run of another machine that has not ended well is believed to go
    on.

    Args:
        results: it is made.
        run: name of the run, which its jobs give to `at_work`.
        tell: gets a sentence where jobs are waited for.
        doing: what has the folder, as messages to others name it.

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
        killed = _take(descriptor, path, {**_own_record(), "run": run, "doing": doing})
        _outlast_jobs(path.with_name(JOBS), run, tell)
    except OSError as error:
        os.close(descriptor)
        error.filename = error.filename or str(path)
        raise
    except BaseException:
        os.close(descriptor)
        raise
    _held[path] = descriptor
    atexit.register(release, results)
    return killed


@contextmanager
def alone(results: Path, doing: str) -> Iterator[None]:
    """Keep runs, and commands that hold a results folder likewise, off it while the block runs.

    Args:
        results: of all protocols.
        doing: the command, as messages to others name it.

    Raises:
        StageError: another one has it, or may have it.
        OSError: the folder cannot be written.
    """
    hold(results, doing=doing)
    try:
        yield
    finally:
        release(results)


def results_above(file: Path) -> Path | None:
    """Return the results folder that a file is below; None where no run has held one."""
    parents = Path(file).absolute().parents
    return next((parent for parent in parents if (parent / NAME).is_file()), None)


@contextmanager
def at_work(file: Path, run: str | None = None) -> Iterator[None]:
    """Show, while the block runs, that a job writes into the results folder that a file is below.

    Args:
        file: that the job writes; a folder that no run has held is none of a run.
        run: name of the run that started the job; None for a command that a person typed.

    Raises:
        StageError: the run that started the job is over, and another has the folder, or had it.
        PlaceError: the folder that the run holds is away.
    """
    folder = results_above(file)
    if folder is None:
        if run is not None:
            raise _absent(Path(file).parent)
        yield
        return
    descriptor = _join(folder, run)
    try:
        yield
    finally:
        os.close(descriptor)


def stay_at_work(results: Path, run: str) -> None:
    """Show likewise, until this process ends, that a job writes into a results folder.

    It is for Snakemake's process around a job on a cluster, which removes what the job is to make
    before it starts the command: one of a run that is over would take it from the run after it.

    Args:
        results: of all protocols.
        run: name of the run that started the job.

    Raises:
        StageError: the run that started the job is over, and another has the folder, or had it.
        PlaceError: the folder that the run holds is away.
    """
    folder = Path(results).resolve()
    if not (folder / NAME).is_file():
        raise _absent(folder)
    _join(folder, run)


def _absent(folder: Path) -> PlaceError:
    return PlaceError(
        f"{folder}: the results that this run began with are not there any more, for neither it "
        f"nor a folder above has their {NAME}; {MOUNT}"
    )


def _join(folder: Path, run: str | None) -> int:
    """Return a descriptor of the lock of jobs, which is given up when it is closed.

    Of a process no other descriptor of the same file may be closed as long as it is needed.
    """
    descriptor = os.open(folder / JOBS, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH)
        # From here on a run that begins waits; one that began before has left its name.
        if run is not None and _record(descriptor).get("run", run) != run:
            raise _late(folder)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _late(folder: Path) -> StageError:
    """Return the error of a job whose run is over, and another one has the folder, or had it."""
    descriptor = os.open(folder / NAME, os.O_RDONLY)
    try:
        record = _record(descriptor)
    finally:
        os.close(descriptor)
    whose = f"{_owner(record)} has" if record else "another one has since had"
    return StageError(
        f"the run that started this job is over, and {whose} {folder}: this job has changed "
        "nothing."
    )


@dataclass(frozen=True)
class Holder:
    """Who has a results folder, as far as can be seen from here.

    Attributes:
        state: ``run`` (a run goes on), ``elsewhere`` (one of another machine has left no sign of
            its end), ``killed`` (one of this machine did not end well), ``jobs`` (likewise, and
            jobs of it go on) or ``free``.
        host: machine of the run; this and the next ones are empty where nothing is known.
        pid: its process.
        started: when, in ISO 8601 with the offset from UTC.
        folder: that it was started in.
    """

    state: str
    host: str = ""
    pid: str = ""
    started: str = ""
    folder: str = ""

    def sentence(self) -> str:
        """Return the same for a person."""
        whose = f"the run of process {self.pid} on {self.host}, started {self.started}"
        if not self.pid:
            whose = "a run"
        return {
            "run": f"held by {whose} in {self.folder}" if self.pid else "held by a run",
            "elsewhere": f"held by {whose}, as far as can be seen from here",
            "killed": f"free; {whose} was killed",
            "jobs": f"held by jobs that outlive {whose}, which was killed",
            "free": "free",
        }[self.state]


def holder(results: Path) -> Holder:
    """Return who has a results folder; nothing is written, and no lock is taken.

    Args:
        results: folder for the results of all protocols; it need not be there.

    Raises:
        OSError: a lock cannot be read.
    """
    folder = Path(results).resolve()
    taken, record = _seen(folder / NAME)
    known = {key: str(record.get(key, "")) for key in ("host", "pid", "started", "folder")}
    if taken:
        return Holder("run", **known)
    if not record:
        return Holder("free")
    if not _is_over(record, _own_record()):
        return Holder("elsewhere", **known)
    return Holder("jobs" if _seen(folder / JOBS)[0] else "killed", **known)


def _seen(path: Path) -> tuple[bool, dict[str, str]]:
    """Return whether a process has a lock, and what its file says."""
    if path in _held:
        # Another descriptor of the file, once closed, would give the lock up.
        return True, _record(_held[path])
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False, {}
    try:
        return _asked(descriptor)[0] != fcntl.F_UNLCK, _record(descriptor)
    finally:
        os.close(descriptor)


def _asked(descriptor: int) -> tuple[int, int]:
    """Return the kind of lock that keeps one for writing from us, and the process that has it."""
    asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, process = struct.unpack(FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return kind, process


def away(results: Path) -> str:
    """Say that a results folder that this process holds is away, and what to do; else nothing.

    Args:
        results: of all protocols; another one's mount, or the folder below it, may be there now.
    """
    path = Path(results).resolve() / NAME
    if path not in _held:
        return ""
    with suppress(OSError):
        if os.path.samestat(os.stat(path), os.fstat(_held[path])):
            return ""
    return f"{path.parent} is no longer what it was when this run began; {MOUNT}"


def release(results: Path) -> None:
    """Let other runs have a results folder that this process holds; nothing if it does not."""
    descriptor = _held.pop(Path(results).resolve() / NAME, None)
    if descriptor is not None:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _take(descriptor: int, path: Path, own: dict[str, str]) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise StageError(
            f"{path.parent} is in use by {_owner(_record(descriptor))}: wait until it is over, or "
            "end it there."
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise StageError(
            f"{path.parent}: its disk has no locks ({error.strerror}), so that nothing keeps two "
            "runs apart; mount it with locks (NFS: not nolock, and lockd runs), or name other "
            "results."
        ) from None
    record = _record(descriptor)
    if record and not _is_over(record, own):
        raise StageError(
            f"{path.parent} is in use by {_owner(record)}, as far as can be seen from here: wait "
            f"until it is over. If it was killed, or its machine is gone: rm "
            f"{shlex.quote(str(path))}, and run the same command again."
        )
    _write(descriptor, own)
    return bool(record)


def _write(descriptor: int, record: dict[str, str]) -> None:
    # What replaces a record takes no further space of a disk that is full.
    os.ftruncate(descriptor, os.pwrite(descriptor, json.dumps(record).encode(), 0))
    os.fsync(descriptor)


def _outlast_jobs(path: Path, run: str, tell: Callable[[str], object]) -> None:
    """Wait until no job has the lock of jobs; from then on those of this run may have it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            tell(
                f"{path.parent}: jobs of an earlier run go on, {_holder(descriptor)}; waiting "
                "until they have ended. End them to go on at once."
            )
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        _write(descriptor, {"run": run})
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Name a process that keeps a lock from us; one of another machine has no number here."""
    _, process = _asked(descriptor)
    return f"process {process} among them" if process > 0 else "on another machine"


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
        f"{record.get('doing', 'the run')} of process {record.get('pid')} on "
        f"{record.get('host')}, started {record.get('started')} in {record.get('folder')}"
    )

"""What a PACS's administrator allows, bytes a second and hours of the day, and how long an answer
of the PACS may take."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Self

from jipflow.files import canonical_digest
from jipflow.reasons import StageError
from jipflow.settings.site import DicomWeb, Dimse

LOGGER = logging.getLogger(__name__)

PATIENCE = 5
"""Times the source's timeout that a whole answer may take, as long as something comes."""
LEAST_RATE = 10_000
"""Bytes a second at which an answer may take longer: less is no network of a hospital, and a PACS
that sends a byte now and then would never be without an answer."""
STEP = 30.0
"""Longest sleep in seconds, so that a clock that is set anew is noticed."""


class Hours:
    """A window of the local day, which may reach over midnight.

    Args:
        text: such as ``19:00-06:00``; the first minute is inside, the last is not. Equal ends are
            the whole day.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        start, end = text.split("-")
        self._start, self._end = time_of_day.fromisoformat(start), time_of_day.fromisoformat(end)

    def hold(self, moment: datetime) -> bool:
        """Return whether a moment lies in the window."""
        clock = moment.time()
        if self._start < self._end:
            return self._start <= clock < self._end
        return clock >= self._start or clock < self._end

    def seconds_until(self, moment: datetime) -> float:
        """Return the seconds from a moment until the window is open; 0 inside."""
        if self.hold(moment):
            return 0.0
        opens = moment.replace(
            hour=self._start.hour, minute=self._start.minute, second=0, microsecond=0
        )
        if opens <= moment:
            opens += timedelta(days=1)
        return (opens - moment).total_seconds()


class Limits:
    """When and how fast images of one source may move; shared by all its connections.

    The rate is a token bucket that may be overdrawn by what is on its way: an object is counted
    when it has moved, and nothing more starts before it is paid off. Over any time the bytes moved
    are at most those of the rate and of the objects on their way.

    Args:
        bytes_per_second: most bytes a second; None for no limit.
        hours: the window, as `Hours` reads it; None for the whole day.
        name: of the source, for the log.
        clock: seconds that only rise.
        now: local time.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        bytes_per_second: float | None = None,
        hours: str | None = None,
        name: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = datetime.now,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.bytes_per_second = bytes_per_second
        self._hours = None if hours is None else Hours(hours)
        self._name = name
        self._clock, self._now, self._sleep = clock, now, sleep
        self._lock = threading.Lock()
        self._paid_at = clock()
        self._waiting = False

    @classmethod
    def of(cls, source: DicomWeb | Dimse) -> Self:
        """Return the limits of a source of the site's configuration."""
        return cls(source.bytes_per_second, source.hours, source.name)

    def is_open(self) -> bool:
        """Return whether images may move at this time of day."""
        return self._hours is None or self._hours.hold(self._now())

    def wait(self, before_closing: Callable[[], object] = lambda: None) -> None:
        """Wait until the next object may move.

        Args:
            before_closing: called before a wait for the window, to let go of idle connections.
        """
        while True:
            if not self.is_open():
                before_closing()
                self._wait_for_hours()
            debt = self._debt()
            if debt <= 0:
                return
            self._sleep(min(debt, STEP))

    def count(self, size: int) -> None:
        """Count the bytes of an object that has moved."""
        if self.bytes_per_second is None:
            return
        with self._lock:
            self._paid_at = max(self._paid_at, self._clock()) + size / self.bytes_per_second

    def _debt(self) -> float:
        with self._lock:
            return self._paid_at - self._clock()

    def _wait_for_hours(self) -> None:
        """Sleep until the window is open; the first to wait says so in the log."""
        assert self._hours is not None
        with self._lock:
            first, self._waiting = not self._waiting, True
        if first:
            LOGGER.warning(
                "source %r: images move at %s only; waiting until then.",
                self._name,
                self._hours.text,
            )
        while seconds := self._hours.seconds_until(self._now()):
            self._sleep(min(seconds, STEP))
        with self._lock:
            self._waiting = False


class Deadline:
    """Cuts a connection at which the block still waits when its time is over.

    Args:
        timeout: of the source, in seconds.
        cut: ends the connection, so that whoever waits for it wakes up.
        size: bytes that are sent in the block.

    Attributes:
        passed: whether the time was over.
    """

    def __init__(self, timeout: float, cut: Callable[[], object], size: int = 0) -> None:
        self.passed = False
        self._end = time.monotonic() + PATIENCE * timeout
        self._cut = cut
        self._done = threading.Event()
        self.extend(size)

    def extend(self, size: int) -> None:
        """Allow the time for some more bytes that have moved."""
        self._end += size / LEAST_RATE

    def __enter__(self) -> Self:
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(max(0.0, self._end - time.monotonic())):
            if time.monotonic() >= self._end:
                self.passed = True
                with suppress(OSError, ValueError):  # the connection has ended by itself
                    self._cut()
                return


@contextmanager
def sole_mover(source: DicomWeb | Dimse) -> Iterator[None]:
    """Let one process of a user and machine at a time move images of a PACS; the others wait.

    The limits are those of the source, whatever runs there are; each process counts for itself.

    Args:
        source: an entry of ``sources`` of kind ``dicomweb`` or ``dimse``.

    Raises:
        StageError: the folder of the locks is another account's.
    """
    address = source.url if isinstance(source, DicomWeb) else f"{source.host}:{source.port}"
    path = _own_folder() / f"{canonical_digest(address)[:16]}.lock"
    # The file stays: were it removed, two processes could hold locks of two files of its name.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOGGER.warning("source %r: another run moves images; waiting for it.", source.name)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _own_folder() -> Path:
    """Return a folder for locks that no other account can write to.

    ``$XDG_RUNTIME_DIR`` would differ between a person's shell and a job of the same account, and
    goes with the last session.

    Raises:
        StageError: another account was faster to make what stands there.
    """
    folder = Path(tempfile.gettempdir(), f"jipflow-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StageError(
            f"{folder} is not a folder that this account alone can use, so another could hold its "
            "locks; remove it, or set TMPDIR to a folder of your own."
        )
    return folder

"""Processes that read files, and go on when a file kills one of them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from jipflow.catalog import headers
from jipflow.reasons import PlaceError
from jipflow.workers import end_with_parent, forkserver_context

Read = Callable[[str], dict[str, Any]]

ENDED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
"""How a process ends that no parser has brought down."""


class ReadingPool:
    """Applies a function to files in several processes.

    A parser in C++ may crash on a damaged file and take its process with it. The files that were
    lost so are read again in a process of their own, in ever smaller lots, until the one that kills
    its reader is found; it gets the row of `lost`, and all others get theirs. A reader that is
    killed from outside each time is no fault of its file.

    Args:
        read: a module-level function from path to row.
        careful: reads a file that killed `read`.
        lost: gives the row of a file that kills `careful` too.
        processes: how many read at once.
    """

    def __init__(self, read: Read, careful: Read, lost: Read, processes: int) -> None:
        self._read = read
        self._careful = careful
        self._lost = lost
        self._processes = max(1, processes)
        self._pool = self._new_pool(self._processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, paths: Sequence[str]) -> Future[list[dict[str, Any]]]:
        """Begin to read files; `rows` waits for them."""
        try:
            return self._pool.submit(_read_all, self._read, paths)
        except BrokenProcessPool:
            self._pool.shutdown()
            self._pool = self._new_pool(self._processes)
            return self._pool.submit(_read_all, self._read, paths)

    def rows(
        self, paths: Sequence[str], future: Future[list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Return the row of each path that was submitted as `future`."""
        try:
            return future.result()
        except BrokenProcessPool:
            return self._isolated(self._read, paths)

    def _isolated(self, read: Read, paths: Sequence[str]) -> list[dict[str, Any]]:
        """Read files in a process of their own, by halves until the one is alone that ends it."""
        try:
            with self._new_pool(1) as pool:
                return pool.submit(_read_all, read, paths).result()
        except BrokenProcessPool:
            pass
        if len(paths) > 1:
            half = len(paths) // 2
            return self._isolated(read, paths[:half]) + self._isolated(read, paths[half:])
        if read is self._read:
            return self._isolated(self._careful, paths)
        return [self._last(path) for path in paths]

    def _last(self, path: str) -> dict[str, Any]:
        """Read the file that ends its reader once more, to see how the reader ends.

        Raises:
            PlaceError: it was ended from outside, which says nothing about the file.
        """
        context = forkserver_context()
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(sender, self._careful, path))
        process.start()
        sender.close()
        try:
            row = receiver.recv()
        except EOFError:
            row = None
        process.join()
        if row is None and process.exitcode in ENDED_FROM_OUTSIDE:
            raise PlaceError(
                f"{path}: the process that read it was ended from outside (signal "
                f"{-process.exitcode}), for want of memory as a rule; use fewer cores or more "
                "memory, and run the same command again."
            )
        if row is None and (process.exitcode or 0) > 0:
            # A parser that crashes leaves a signal; this one ended before or beside its work.
            raise PlaceError(
                f"{path}: the process that was to read it ended with exit code {process.exitcode}; "
                "see why in the log, and run the same command again."
            )
        return row or self._lost(path)

    @staticmethod
    def _new_pool(processes: int) -> ProcessPoolExecutor:
        # A fork of this process, in which libraries have started threads, may hang; the server has
        # read the module of the readers and nothing else, once for all.
        context = forkserver_context()
        context.set_forkserver_preload([headers.__name__])
        return ProcessPoolExecutor(processes, mp_context=context, initializer=end_with_parent)


def _send(sender: Connection, read: Read, path: str) -> None:
    sender.send(read(path))


def _read_all(read: Read, paths: Sequence[str]) -> list[dict[str, Any]]:
    return [read(path) for path in paths]

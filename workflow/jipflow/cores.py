"""The cores of one machine that the jobs of a run share.

Stages that need nothing of each other run side by side, and each has a process for every core of
the run, so that no core idles while a case of any of them waits. Only as many processes work at a
time as there are cores: before it takes up a case, each asks the server of the run
(`jipflow.forked`) for one. It has it until its connection ends, however its process ends.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

SOCKET = "cores"
"""Name of the socket in the server's folder."""

GIVEN = b"c"

FULL_S = 0.1
"""Seconds between two tries to take a connection where no further file can be opened."""


class Cores:
    """What a server hands out, first come, first served."""

    def __init__(self, folder: Path, number: int) -> None:
        """Listen for who wants a core.

        Args:
            folder: that no other account can enter.
            number: of cores that are handed out.
        """
        self._number = number
        self._held: set[socket.socket] = set()
        # Like a set that keeps the order.
        self._waiting: dict[socket.socket, None] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET))
        self._listener.listen(1024)

    def waited_for(self) -> dict[int, socket.socket]:
        """Return the sockets of which one that is ready needs an answer, by descriptor."""
        sockets = (self._listener, *self._held, *self._waiting)
        return {each.fileno(): each for each in sockets}

    def answer(self, ready: Collection[int]) -> None:
        """Take in who asks, let go who has ended, and hand out what is free.

        Args:
            ready: descriptors of the sockets that are ready.
        """
        for number, each in self.waited_for().items():
            if number not in ready:
                continue
            if each is self._listener:
                try:
                    self._waiting[each.accept()[0]] = None
                except OSError:
                    # Who asks waits until another connection, and with it its file, has ended.
                    time.sleep(FULL_S)
            else:
                # Who has asked writes nothing: the connection has ended.
                self._held.discard(each)
                self._waiting.pop(each, None)
                each.close()
        while self._waiting and len(self._held) < self._number:
            first = next(iter(self._waiting))
            del self._waiting[first]
            try:
                first.send(GIVEN)
                self._held.add(first)
            except OSError:
                first.close()

    def close(self) -> None:
        """Let go of all, in a copy of the server or at its end."""
        for each in self.waited_for().values():
            each.close()


@contextmanager
def core(folder: str | None) -> Iterator[None]:
    """Hold a core of the run while the block runs.

    Where no server hands any out, as in a job of a cluster, the block runs at once.

    Args:
        folder: of the server; None where there is none.
    """
    with closing(socket.socket(socket.AF_UNIX)) as connection:
        if folder:
            try:
                connection.connect(os.path.join(folder, SOCKET))
                connection.recv(len(GIVEN))
            except OSError:
                # It has ended, or hands none out; what has begun goes on.
                pass
        yield

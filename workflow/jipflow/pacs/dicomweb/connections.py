"""Connections to a PACS whose answers are bounded in size and time, on whatever they spend it."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from typing import Any

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from jipflow.pacs.dicomweb.errors import TooLarge, TooSlow
from jipflow.pacs.limits import Deadline


class _Connection(HTTPConnection):
    """A connection on which a request, and the header of its answer, end in time."""

    def request(self, *args: Any, **keys: Any) -> None:
        size = int((keys.get("headers") or {}).get("Content-Length") or 0)
        with Deadline(_seconds(self), self._cut, size) as deadline:
            try:
                super().request(*args, **keys)
            except OSError:
                if deadline.passed:
                    raise TimeoutError from None
                raise

    def getresponse(self) -> Any:
        with Deadline(_seconds(self), self._cut) as deadline:
            try:
                response = super().getresponse()
            except (OSError, http.client.HTTPException):
                if deadline.passed:
                    raise TimeoutError from None
                raise
        if deadline.passed:  # the end of the connection passes for that of the header
            raise TimeoutError
        return response

    def _cut(self) -> None:
        if self.sock is not None:
            self.sock.shutdown(socket.SHUT_RDWR)


class _SecureConnection(_Connection, HTTPSConnection):
    """The same by TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


POOLS = {"http": _Pool, "https": _SecurePool}
"""What a pool manager of urllib3 takes as its `pool_classes_by_scheme`."""


def _seconds(connection: HTTPConnection) -> float:
    assert isinstance(connection.timeout, int | float)
    return float(connection.timeout)


def bound(raw: BaseHTTPResponse, timeout: float, most: int | None) -> None:
    """Let the content of an answer be read within bounds alone.

    Args:
        raw: an answer whose content was not read yet.
        timeout: of the source, in seconds.
        most: bytes, once decompressed; None where who reads it counts.
    """
    stream = raw.stream

    def bounded(*args: Any, **keys: Any) -> Iterator[bytes]:
        came = 0
        with Deadline(timeout, raw.shutdown) as deadline:
            try:
                for chunk in stream(*args, **keys):
                    came += len(chunk)
                    if most is not None and came > most:
                        raise TooLarge("bytes_per_answer")
                    deadline.extend(len(chunk))
                    yield chunk
            except (HTTPError, OSError):
                if not deadline.passed:
                    raise
            if deadline.passed:
                raise TooSlow

    raw.stream = bounded  # type: ignore[method-assign]

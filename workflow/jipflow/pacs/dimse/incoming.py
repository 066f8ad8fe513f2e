"""What arrives on an association: PDUs and messages that end, in size and in time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.pdu import P_DATA_TF

from jipflow.pacs.limits import LEAST_RATE, PATIENCE

LONGEST_PDU = 1 << 20
"""Bytes of a PDU that are read; some PACS take less notice of what we announce than they should."""
MOST_WAITING = 64
"""Messages that may wait here where the PACS has to wait for our answer to each."""


class Incoming:
    """Watches what an association receives and cuts it where a PDU or a message has no end.

    pynetdicom holds a message until its last fragment has come, whatever its size, and reads a PDU
    of any length.

    Attributes:
        too_large: whether a message had more bytes than it may have.

    Args:
        association: whose connection is open.
        timeout: of the source, in seconds.
        most: bytes of a message.
        in_turn: whether the PACS waits for our answer before its next message.
    """

    def __init__(
        self, association: Association, timeout: float, most: int, *, in_turn: bool
    ) -> None:
        self._association = association
        self._timeout, self._most, self._in_turn = timeout, most, in_turn
        self._size, self._since = 0, time.monotonic()
        self.too_large = False
        outer = association.dul.socket
        assert outer is not None
        outer.recv = _bounded(outer.recv)  # type: ignore[method-assign, assignment]
        association.bind(evt.EVT_PDU_RECV, self._count)

    def _count(self, event: evt.Event) -> None:
        if not isinstance(event.pdu, P_DATA_TF):
            return
        if not self._size:
            self._since = time.monotonic()
        for item in event.pdu.presentation_data_value_items:
            value = item.presentation_data_value or b""
            self._size += len(value) + 1
            allowed = PATIENCE * self._timeout + self._size / LEAST_RATE
            self.too_large = self.too_large or self._size > self._most
            if self.too_large or time.monotonic() > self._since + allowed:
                cut(self._association)
            # Message control header (PS3.8 annex E.2): the second bit is of the last fragment.
            if value[:1] and value[0] & 2:
                self._size = 0
        if self._in_turn and self._association.dimse.msg_queue.qsize() > MOST_WAITING:
            cut(self._association)


def _bounded(receive: Callable[[int], bytearray]) -> Callable[[int], bytearray]:
    """Return a function that receives so many bytes, if a PDU may have them."""

    def bounded(size: int) -> bytearray:
        if size > LONGEST_PDU:
            raise OSError("a PDU that is too long")
        return receive(size)

    return bounded


def cut(association: Association) -> None:
    """End a connection at once; whoever waits for an answer wakes up."""
    outer = association.dul.socket
    if outer is not None and outer.socket is not None:
        with suppress(OSError):
            outer.socket.shutdown(socket.SHUT_RDWR)

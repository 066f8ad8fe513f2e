"""What a PACS sends for a C-GET or a C-MOVE, taken from it instance by instance."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from pynetdicom import build_context, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import AllStoragePresentationContexts

from jipflow.inflate import is_within
from jipflow.pacs.archive import MOST_UNASKED, ArchiveDown, Rejected
from jipflow.pacs.dimse.associations import application_entity, prepare
from jipflow.pacs.dimse.incoming import cut
from jipflow.pacs.dimse.messages import NOT_AUTHORIZED, OUT_OF_RESOURCES, SUCCESS
from jipflow.pacs.dimse.tls import server_context
from jipflow.settings.resources import ConfigError
from jipflow.settings.site import Dimse
from jipflow.syntaxes import TRANSFER_SYNTAXES


class Reception:
    """The instances that one request asked for, and what became of them.

    Args:
        wanted: their SOPInstanceUIDs.
        receive: called with UID and file of each; what it raises is kept as `error`.
        source: an entry of ``sources`` of kind ``dimse``, with its defaults.
    """

    def __init__(
        self, wanted: Sequence[str], receive: Callable[[str, bytes], Any], source: Dimse
    ) -> None:
        self.wanted = list(wanted)
        self._source = source
        self._unasked = MOST_UNASKED + len(self.wanted)
        self.received: set[str] = set()
        self.size = 0
        self.error: Exception | None = None
        self._receive = receive
        self._lock = threading.Lock()

    def take(self, event: evt.Event) -> int:
        """Hand on an instance that the PACS stores here; returns the status for it."""
        uid = _stored_uid(event)
        with self._lock:
            if uid not in self.wanted or uid in self.received:
                self._unasked -= 1
                if not self._unasked:
                    self.error = Rejected(
                        f"source {self._source.name!r}: the PACS sends instance after instance "
                        "that nobody asked for; let its administrator look at it."
                    )
                    cut(event.assoc)
            if self.error is not None:
                return OUT_OF_RESOURCES
            if uid not in self.wanted:
                return NOT_AUTHORIZED
            if uid in self.received:
                return SUCCESS
            content = event.encoded_dataset()
            if not is_within(content, self._source.bytes_per_instance):
                self.error = Rejected(
                    f"source {self._source.name!r}: instance {uid}, once inflated, is larger than "
                    f"bytes_per_instance: {self._source.bytes_per_instance}; if that is right, "
                    "raise it."
                )
                return OUT_OF_RESOURCES
            self.size += len(content)
            try:
                self._receive(uid, content)
            except Exception as error:
                self.error = error
                return OUT_OF_RESOURCES
            self.received.add(uid)
            return SUCCESS


class Listener:
    """The port at which C-MOVE's images arrive; takes those alone that somebody waits for.

    Attributes:
        heard: monotonic time when bytes last arrived.
        called: whether the PACS ever connected.

    Args:
        source: an entry of ``sources`` of kind ``dimse``, with its defaults.

    Raises:
        ArchiveDown: another process listens there.
        ConfigError: this machine cannot listen there.
    """

    def __init__(self, source: Dimse) -> None:
        self.heard = 0.0
        self.called = False
        self._source = source
        self._lock = threading.Lock()
        self._receptions: dict[str, Reception] = {}
        entity = application_entity(source)
        entity.require_called_aet = True
        entity.require_calling_aet = [source.called_aet]
        entity.maximum_associations = 2 * source.parallel
        contexts = [
            build_context(context.abstract_syntax, [*TRANSFER_SYNTAXES])
            for context in AllStoragePresentationContexts
            if context.abstract_syntax is not None
        ]
        address = (source.listen_address, source.listen_port)
        listening = f"source {source.name!r}: listening at {address[0]}:{address[1]}"
        try:
            self._server = entity.start_server(
                address,
                block=False,
                ssl_context=server_context(source),
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._open),
                    (evt.EVT_DATA_RECV, self._moved),
                    (evt.EVT_C_STORE, self._take),
                ],
                contexts=contexts,
            )
        except OSError as error:
            cause = f"{listening} fails: {error.strerror}"
            if error.errno == errno.EADDRINUSE:
                raise ArchiveDown(f"{cause}; only one retrieval at a time can use it.") from None
            raise ConfigError(f"{cause}; fix listen_address or listen_port.") from None

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()

    @contextmanager
    def expecting(self, reception: Reception) -> Iterator[None]:
        """Take the instances of a reception while the block runs."""
        with self._lock:
            self._receptions.update(dict.fromkeys(reception.wanted, reception))
        try:
            yield
        finally:
            with self._lock:
                for uid in reception.wanted:
                    self._receptions.pop(uid, None)

    def _open(self, event: evt.Event) -> None:
        self.called = True
        prepare(event, self._source, in_turn=True)

    def _moved(self, event: evt.Event) -> None:
        self.heard = time.monotonic()

    def _take(self, event: evt.Event) -> int:
        with self._lock:
            reception = self._receptions.get(_stored_uid(event))
        return NOT_AUTHORIZED if reception is None else reception.take(event)


def _stored_uid(event: evt.Event) -> str:
    return str(cast(C_STORE, event.request).AffectedSOPInstanceUID)

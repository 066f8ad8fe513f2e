"""Associations with a PACS: opened for a purpose, watched, kept for a moment, released in order."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from jipflow import __version__
from jipflow.pacs.archive import ArchiveDown, Rejected, too_many
from jipflow.pacs.dimse.incoming import Incoming, cut
from jipflow.pacs.dimse.messages import FIND, GET
from jipflow.pacs.dimse.tls import client_context
from jipflow.pacs.limits import LEAST_RATE, PATIENCE
from jipflow.settings.resources import ConfigError
from jipflow.settings.site import Dimse
from jipflow.syntaxes import UNCOMPRESSED
from jipflow.uids import stable_uid

NOT_ESTABLISHED = "must be established before sending"
"""What pynetdicom's error says where the other side has ended an association since it was lent."""

# C-STORE sends the bytes of a file's data set as they are.
_config.STORE_SEND_CHUNKED_DATASET = True
# What goes wrong is raised here with what to do; what passes names patients.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
_config.LOG_HANDLER_LEVEL = "none"

IMPLEMENTATION_UID = UID(stable_uid("implementation", "jipflow"))
MAXIMUM_PDU = 131072
"""Bytes of a PDU that are taken (PS3.8 D.1): as many as DCMTK takes, its ``--max-pdu``."""
"""Bytes of the longest PDU that is taken (PS3.8 annex D.1): a CT slice of 512 KiB comes in 5, and
not in 33 as with pynetdicom's own 16,382."""
IDLE_SECONDS = 15.0
"""After that a kept association is not used again; many a PACS ends idle ones after 30 or 60."""


@dataclass(frozen=True)
class Purpose:
    """What an association is for.

    Attributes:
        service: SOP class of the query or retrieval; None for C-STORE.
        classes: SOP classes of what is stored.
        syntaxes: transfer syntaxes of what is stored.
    """

    service: UID | None
    classes: tuple[str, ...] = ()
    syntaxes: tuple[str, ...] = ()

    def contexts(self) -> list[PresentationContext]:
        """Return the presentation contexts to propose."""
        service = [] if self.service is None else [build_context(self.service, [*UNCOMPRESSED])]
        return service + [build_context(c, s) for c in self.classes for s in self.syntaxes]

    def roles(self) -> list[Any]:
        """Return the roles of C-GET, in which the PACS stores on our association."""
        return [build_role(c, scp_role=True) for c in self.classes] if self.service == GET else []


class WatchedAssociation:
    """An association with its purpose and the time when bytes last moved on it.

    Attributes:
        heard: monotonic time when bytes last moved.
        connected: whether there was a connection.
        overfull: whether it was cut because a query had more answers than it may have.

    Args:
        purpose: what it is for.
        source: an entry of ``sources`` of kind ``dimse``, with its defaults.
    """

    association: Association
    _incoming: Incoming

    def __init__(self, purpose: Purpose, source: Dimse) -> None:
        self.purpose = purpose
        self.heard = time.monotonic()
        self.connected = False
        self.overfull = False
        self._source = source
        self.begin()

    def begin(self) -> None:
        """Count what it receives from now on."""
        self._received, self._since = 0, time.monotonic()

    def handlers(self) -> list[Any]:
        """Return the handlers of pynetdicom's events by which it is watched."""
        return [
            (evt.EVT_CONN_OPEN, self._open),
            (evt.EVT_DATA_RECV, self._came),
            (evt.EVT_DATA_SENT, self._moved),
        ]

    def _open(self, event: evt.Event) -> None:
        self.connected = True
        self._incoming = prepare(event, self._source, in_turn=self.purpose.service != FIND)

    def _moved(self, event: evt.Event) -> None:
        self.heard = time.monotonic()

    def _came(self, event: evt.Event) -> None:
        self.heard = time.monotonic()
        self._received += len(event.data)
        if self.purpose.service == FIND:
            allowed = PATIENCE * self._source.timeout + self._received / LEAST_RATE
            self.overfull = self._received > self._source.bytes_per_answer
            if self.overfull or self.heard > self._since + allowed:
                cut(event.assoc)

    def check(self) -> None:
        """Check that it was not cut for what came.

        Raises:
            Rejected: a query has more answers than it may have, or a message more bytes.
        """
        source = self._source
        if self.overfull:
            raise too_many(source.name)
        if self._incoming.too_large:
            raise Rejected(
                f"source {source.name!r}: the PACS sent something larger than bytes_per_instance: "
                f"{source.bytes_per_instance}; if that is right, raise it."
            )

    def cut(self) -> None:
        """End the connection at once; whoever waits for an answer wakes up.

        Also where the connection has ended already, and the thread of the association has taken the
        sign of it for no message.
        """
        cut(self.association)
        self.association.dimse.msg_queue.put((None, None))


class Associations:
    """The associations of one source, at most ``parallel`` at a time.

    Args:
        source: an entry of ``sources`` of kind ``dimse``, with its defaults.

    Raises:
        ConfigError: a file of ``tls`` is missing, or the key can be read by others.
    """

    def __init__(self, source: Dimse) -> None:
        self._source = source
        self._timeout = source.timeout
        self._parallel = source.parallel
        self._tls = client_context(source)
        self._ae = application_entity(source)
        self._slots = threading.BoundedSemaphore(self._parallel)
        self._lock = threading.Lock()
        self._busy = 0
        self._idle: list[WatchedAssociation] = []

    @contextmanager
    def lend(
        self, purpose: Purpose, heard_elsewhere: Callable[[], float] = lambda: 0.0
    ) -> Iterator[Association]:
        """Lend an association; it is kept when the block ends well and aborted when it does not.

        It is cut when nothing moves on it, nor elsewhere, for ``timeout`` seconds.

        Args:
            purpose: what it is for.
            heard_elsewhere: the monotonic time when what it waits for last moved elsewhere, as with
                C-MOVE.

        Raises:
            ArchiveDown: the PACS does not answer, or takes no association now.
            ConfigError: it does not accept this site, or not for this.
            Rejected: it does not take such objects.
        """
        with self._slots:
            with self._lock:
                self._busy += 1
            watched = None
            try:
                watched = self._kept(purpose) or self._new(purpose)
                watched.begin()
                with _watch(watched, self._timeout, heard_elsewhere):
                    yield watched.association
                watched.check()
                with self._lock:
                    self._idle.append(watched)
            except BaseException as error:
                if watched is not None:
                    watched.association.abort()
                if isinstance(error, RuntimeError) and NOT_ESTABLISHED in str(error):
                    raise ArchiveDown(
                        f"source {self._source.name!r}: the PACS ended the connection before it "
                        "was asked anything; try again."
                    ) from None
                raise
            finally:
                with self._lock:
                    self._busy -= 1

    def release_idle(self) -> None:
        """Release every association that is kept and not lent."""
        with self._lock:
            idle, self._idle = self._idle, []
        for watched in idle:
            watched.association.release()

    def _kept(self, purpose: Purpose) -> WatchedAssociation | None:
        """Return an idle association for the purpose; release what is old or in the way."""
        now = time.monotonic()
        with self._lock:
            usable = [
                each
                for each in self._idle
                if now - each.heard < IDLE_SECONDS and each.association.is_established
            ]
            surplus = [each for each in self._idle if each not in usable]
            found = next((each for each in usable if each.purpose == purpose), None)
            if found is not None:
                usable.remove(found)
                found.heard = now
            elif usable and len(usable) + self._busy > self._parallel:
                surplus.append(usable.pop(0))
            self._idle = usable
        for each in surplus:
            each.association.release()
        return found

    def _new(self, purpose: Purpose) -> WatchedAssociation:
        """Open an association for a purpose."""
        source = self._source
        watched = WatchedAssociation(purpose, source)
        try:
            watched.association = self._ae.associate(
                source.host,
                source.port,
                purpose.contexts(),
                source.called_aet,
                MAXIMUM_PDU,
                purpose.roles(),
                tls_args=None if self._tls is None else (self._tls, source.host),
                evt_handlers=watched.handlers(),
            )
        except socket.gaierror as error:
            raise ArchiveDown(
                f"source {source.name!r}: {source.host} is no name of a machine that is known here "
                f"({error.strerror}); fix host, or see whether the network is well."
            ) from None
        if not watched.association.is_established:
            raise self._no_association(watched)
        accepted = {context.abstract_syntax for context in watched.association.accepted_contexts}
        if purpose.service not in {None, *accepted}:
            watched.association.release()
            raise self._no_service(purpose)
        return watched

    def _no_association(self, watched: WatchedAssociation) -> Exception:
        """Find out why the PACS did not establish an association."""
        source, association = self._source, watched.association
        address = f"{source.host}:{source.port}"
        at = f"source {source.name!r}: the PACS {source.called_aet} at {address}"
        if not watched.connected:
            return self._no_connection(at)
        if association.is_rejected:
            # Result, source and diagnostic: PS3.8 table 9-21.
            answer = association.acceptor.primitive
            reason = (answer.result_source, answer.diagnostic) if answer is not None else (0, 0)
            if reason == (1, 3):
                return ConfigError(
                    f"{at} does not know {source.calling_aet}; let its administrator enter it "
                    "with this machine, or fix calling_aet."
                )
            if reason == (1, 7):
                return ConfigError(f"{at} goes by another name; fix called_aet.")
            return ArchiveDown(
                f"{at} refuses the association (source {reason[0]}, reason {reason[1]} of PS3.8 "
                "table 9-21); it is busy, or does not know this machine as "
                f"{source.calling_aet}."
            )
        if association.rejected_contexts:
            return self._no_service(watched.purpose)
        return ArchiveDown(f"{at} ended the connection or did not answer {self._timeout} seconds.")

    def _no_service(self, purpose: Purpose) -> Exception:
        """Return that the PACS does not do what an association is for."""
        name = self._source.name
        if purpose.service is None:
            return Rejected(
                f"source {name!r}: the PACS takes no {UID(purpose.classes[0]).name} in "
                f"transfer syntax {UID(purpose.syntaxes[0]).name}."
            )
        fix = "; set retrieve: move" if purpose.service == GET else ""
        return ConfigError(
            f"source {name!r}: the PACS does not offer {purpose.service.name} to "
            f"{self._source.calling_aet}; let its administrator allow it{fix}."
        )

    def _no_connection(self, at: str) -> Exception:
        """Find out why a connection failed, which pynetdicom does not state."""
        address = (self._source.host, self._source.port)
        try:
            with socket.create_connection(address, self._timeout) as plain:
                if self._tls is not None:
                    self._tls.wrap_socket(plain, server_hostname=address[0]).close()
        except ssl.SSLCertVerificationError as error:
            return ConfigError(
                f"{at}: its certificate is not trusted: {error.verify_message}; fix tls.ca_file, "
                "or host if the certificate is for another name."
            )
        except OSError as error:
            cause = error.strerror or type(error).__name__
            return ArchiveDown(f"{at} cannot be reached: {cause}; check that it runs.")
        return ArchiveDown(f"{at} could not be reached for a moment; try again.")


@contextmanager
def _watch(
    watched: WatchedAssociation, timeout: float, heard_elsewhere: Callable[[], float]
) -> Iterator[None]:
    """Cut an association when nothing has moved for `timeout` seconds while the block runs.

    pynetdicom's own limit is on whole messages, which for a large object take longer.
    """
    done = threading.Event()
    watched.heard = time.monotonic()

    def watch() -> None:
        while True:
            heard = max(watched.heard, heard_elsewhere())
            if done.wait(max(0.0, heard + timeout - time.monotonic())):
                return
            if max(watched.heard, heard_elsewhere()) == heard:
                watched.cut()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def application_entity(source: Dimse) -> AE:
    """Return this site as the PACS knows it, without limits on whole messages."""
    entity = AE(ae_title=source.calling_aet)
    entity.implementation_class_uid = IMPLEMENTATION_UID
    entity.implementation_version_name = f"JIPFLOW_{__version__}"[:16]
    entity.maximum_pdu_size = MAXIMUM_PDU
    entity.connection_timeout = entity.acse_timeout = source.timeout
    # `_watch` ends an association on which nothing moves.
    entity.dimse_timeout = entity.network_timeout = None
    return entity


def prepare(event: evt.Event, source: Dimse, *, in_turn: bool) -> Incoming:
    """Send small messages at once, and let what arrives have an end.

    Args:
        event: that a connection was opened.
        source: an entry of ``sources`` of kind ``dimse``, with its defaults.
        in_turn: whether the PACS waits for our answer before its next message.
    """
    connection = _connection(event.assoc)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(source.timeout)
    return Incoming(event.assoc, source.timeout, source.bytes_per_instance, in_turn=in_turn)


def _connection(association: Association) -> socket.socket:
    """Return the socket of an association.

    Raises:
        OSError: it is closed.
    """
    outer = association.dul.socket
    if outer is None or outer.socket is None:
        raise OSError(errno.ENOTCONN, "closed")
    return outer.socket

"""C-GET and C-MOVE in the Study Root model (PS3.4 sections C.4.2 and C.4.3)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt

from jipflow.pacs.archive import ArchiveDown, Rejected, checked_uid
from jipflow.pacs.dimse.associations import Associations, Purpose
from jipflow.pacs.dimse.find import Finder
from jipflow.pacs.dimse.messages import (
    GET,
    MOVE,
    fault_of,
    identifier,
    image_keys,
)
from jipflow.pacs.dimse.receive import Listener, Reception
from jipflow.pacs.limits import PATIENCE, Limits
from jipflow.settings.resources import ConfigError
from jipflow.settings.site import Dimse
from jipflow.syntaxes import TRANSFER_SYNTAXES, USUAL_CLASSES

MOST_CLASSES = 7
"""An association has 128 presentation contexts (PS3.8 section 9.3.2.2). C-GET takes one, and each
class one for each of the 16 transfer syntaxes, so that the PACS need not choose between them."""
MOST_UIDS = 64
"""Most instances in one C-GET or C-MOVE."""
SECONDS_A_REQUEST = 1
"""With a limit of bytes a second, one C-GET or C-MOVE asks for about as much as that."""

Retrieval = Callable[[Dataset, Reception], Dataset]
"""Asks for what an identifier names, takes what comes, and returns the final status."""


class Retriever:
    """The retrieval service of a PACS, by C-GET, or by C-MOVE to a port of this machine.

    Args:
        source: an entry of ``sources`` of kind ``dimse``, with its defaults.
        associations: those of the source.
        finder: asks it for the classes of a series.
        limits: of what moves.
    """

    def __init__(
        self,
        source: Dimse,
        associations: Associations,
        finder: Finder,
        limits: Limits,
    ) -> None:
        self._source = source
        self._associations = associations
        self._finder = finder
        self._limits = limits
        self._lock = threading.Lock()
        self._listener: Listener | None = None

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def fetch(
        self,
        study_uid: str,
        series_uid: str,
        sop_uids: Sequence[str],
        receive: Callable[[str, bytes], Any],
    ) -> None:
        """Retrieve instances of a series as the PACS keeps them; see `Archive.fetch`.

        Instances are asked for by lists of their UIDs, so that a second try asks for the missing
        ones alone. Where a list fails, its instances are asked for one by one.
        """
        name = self._source.name
        study, series = checked_uid(study_uid, name), checked_uid(series_uid, name)
        waiting = [checked_uid(uid, name) for uid in dict.fromkeys(sop_uids)]
        if not waiting:
            return
        by_move = self._source.retrieve == "move"
        retrieve = self._mover() if by_move else self._getter(study, series)
        most, moved, size = MOST_UIDS, 0, 0
        while waiting:
            self._limits.wait(self._associations.release_idle)
            asked = waiting[: self._request_length(most, moved, size)]
            reception = Reception(asked, receive, self._source)
            keys = image_keys(study, series, "\\".join(reception.wanted), name)
            status = retrieve(identifier("IMAGE", keys), reception)
            self._limits.count(reception.size)
            moved, size = moved + len(reception.received), size + reception.size
            if reception.error is not None:
                raise reception.error
            missing = [uid for uid in reception.wanted if uid not in reception.received]
            if missing:
                self._check_missing(missing, len(reception.wanted), status)
                most = 1
            waiting = missing + waiting[len(reception.wanted) :]

    def _request_length(self, most: int, moved: int, size: int) -> int:
        """Return how many instances to ask for, from the number and bytes of those that came."""
        if self._limits.bytes_per_second is None:
            return most
        if not size:
            return 1
        return max(
            1, min(most, int(self._limits.bytes_per_second * SECONDS_A_REQUEST * moved / size))
        )

    def _check_missing(self, missing: Sequence[str], asked: int, status: Dataset) -> None:
        """Raise unless it is worth to ask for the missing instances one by one."""
        name = self._source.name
        fault = fault_of(status, f"C-{self._source.retrieve.upper()}", self._source)
        uncalled = self._listener is not None and not self._listener.called
        if isinstance(fault, ConfigError) or (isinstance(fault, ArchiveDown) and not uncalled):
            raise fault
        if uncalled and "Status" in status:
            raise ArchiveDown(
                f"source {name!r}: the PACS never called this machine's port "
                f"{self._source.listen_port} for C-MOVE; let its administrator enter "
                f"{self._source.calling_aet} with this machine and port."
            )
        if asked == 1 or "Status" not in status:
            raise fault or Rejected(
                f"source {name!r}: the PACS did not send instance {missing[0]}, though it "
                f"answered with status 0x{status.Status:04X}."
            )

    def _final(
        self, answers: Iterable[tuple[Dataset, Dataset | None]], reception: Reception
    ) -> Dataset:
        """Return the status of the last answer to a C-GET or C-MOVE.

        Raises:
            ArchiveDown: answer after answer comes, and no instance.
        """
        final, size, since = Dataset(), 0, time.monotonic()
        for status, _ in answers:
            final = status
            if reception.size > size:
                size, since = reception.size, time.monotonic()
            if time.monotonic() > since + PATIENCE * self._source.timeout:
                raise ArchiveDown(
                    f"source {self._source.name!r}: the PACS answers that it is about to send, and "
                    "sends nothing; try later, or raise timeout."
                )
        return final

    def _getter(self, study: str, series: str) -> Retrieval:
        """Return the function that retrieves by C-GET (PS3.4 section C.4.3)."""
        name = self._source.name
        keys = {**image_keys(study, series, "", name), "SOPClassUID": ""}
        classes = {answer.get("SOPClassUID", "") for answer in self._finder.rows("IMAGE", keys)}
        if "" in classes or not 0 < len(classes) <= MOST_CLASSES:
            classes = set(USUAL_CLASSES)
        checked = sorted(checked_uid(each, name) for each in classes)
        purpose = Purpose(GET, tuple(checked), TRANSFER_SYNTAXES)

        def get(wanted: Dataset, reception: Reception) -> Dataset:
            with self._associations.lend(purpose) as association:
                association.bind(evt.EVT_C_STORE, reception.take)
                status = self._final(association.send_c_get(wanted, GET), reception)
                association.unbind(evt.EVT_C_STORE, reception.take)
            return status

        return get

    def _mover(self) -> Retrieval:
        """Return the function that retrieves by C-MOVE to our listener (PS3.4 section C.4.2)."""
        with self._lock:
            if self._listener is None:
                self._listener = Listener(self._source)
            listener = self._listener

        def move(wanted: Dataset, reception: Reception) -> Dataset:
            title = self._source.calling_aet
            with (
                listener.expecting(reception),
                self._associations.lend(Purpose(MOVE), lambda: listener.heard) as association,
            ):
                return self._final(association.send_c_move(wanted, title, MOVE), reception)

        return move

"""A PACS asked by DIMSE messages: C-FIND, C-GET, C-MOVE and C-STORE (PS3.4 annexes B and C)."""

from __future__ import annotations

import errno
import io
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from pydicom import config, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import AllStoragePresentationContexts, PresentationContext
from pynetdicom.status import code_to_category

from jipflow import __version__
from jipflow.pacs.archive import (
    COUNT,
    NO_STUDY,
    SERIES_ATTRIBUTES,
    STUDY_ATTRIBUTES,
    SYNTAX,
    ArchiveDown,
    Receipt,
    Rejected,
    checked_uid,
    file_uid,
    text_of,
    with_uids,
)
from jipflow.pacs.credentials import private_file
from jipflow.pacs.limits import Limits
from jipflow.settings.resources import ConfigError
from jipflow.uids import stable_uid

LOGGER = logging.getLogger(__name__)

# C-STORE sends the bytes of a file's data set as they are.
_config.STORE_SEND_CHUNKED_DATASET = True
# What goes wrong is raised here with its mend; what passes names patients.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
_config.LOG_HANDLER_LEVEL = "none"

FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
GET = UID("1.2.840.10008.5.1.4.1.2.2.3")
"""Study Root Query/Retrieve Information Model (PS3.4 section C.6.2)."""

UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
ENCODED = (
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
    "1.2.840.10008.1.2.5",
)
"""Transfer syntaxes that the stages decode: deflated, big endian, JPEG, JPEG-LS, JPEG 2000,
High-Throughput JPEG 2000 and RLE."""
TRANSFER_SYNTAXES = (*UNCOMPRESSED, *ENCODED)
USUAL_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.128",
    "1.2.840.10008.5.1.4.1.1.481.3",
    "1.2.840.10008.5.1.4.1.1.66.4",
)
"""CT and MR, plain and enhanced, PET, RTSTRUCT and Segmentation: what C-GET offers to take where
the PACS does not tell a series' classes."""
MOST_CLASSES = 7
"""An association has 128 presentation contexts (PS3.8 section 9.3.2.2). C-GET takes one, and each
class one for each of the 16 transfer syntaxes, so that the PACS need not choose between them."""

SERIES_LEVEL = (
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "BodyPartExamined",
    "SeriesDate",
    "SeriesTime",
    "FrameOfReferenceUID",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "InstitutionName",
    "StationName",
    COUNT,
)
"""What a series is asked for; a strict PACS refuses attributes of its images at this level."""
IMAGE_LEVEL = tuple(set(SERIES_ATTRIBUTES) - {*SERIES_LEVEL, "SOPClassUID"})

IMPLEMENTATION_UID = UID(stable_uid("implementation", "jipflow"))
MAXIMUM_PDU = 131072
"""Bytes of a PDU that are taken (PS3.8 D.1): as many as DCMTK takes, its ``--max-pdu``."""
IDLE_SECONDS = 15.0
"""After that a kept association is not used again; many a PACS ends idle ones after 30 or 60."""
MOST_UIDS = 64
"""Most instances in one C-GET or C-MOVE."""
SECONDS_A_REQUEST = 1
"""With a limit of bytes a second, one C-GET or C-MOVE asks for about as much as that."""
SUCCESS = 0x0000
NOT_ASKED_FOR = 0x0124
OUT_OF_RESOURCES = 0xA700
MOVE_DESTINATION_UNKNOWN = 0xA801
BUSY = frozenset({0xA700, 0xA701, 0xA702})
"""Statuses of C-STORE, C-FIND, C-MOVE and C-GET (PS3.4 tables B.2-1, C.4-1, C.4-2 and C.4-3; 0124,
not authorised, is of PS3.7 annex C)."""


class DimseArchive:
    """The query, retrieve and storage services of a PACS, in the Study Root model.

    Queries go down the hierarchy, studies and then the series of each, since a PACS need not
    answer relational ones (PS3.4 section C.4.1.2.2). At most ``parallel`` associations are open at
    a time, kept for a moment and released in good order.

    Args:
        source: an entry of ``sources`` of kind ``dimse``, with its defaults.

    Raises:
        ConfigError: a file of ``tls`` is missing, or the key can be read by others.
    """

    def __init__(self, source: Mapping[str, Any]) -> None:
        self.name: str = source["name"]
        self._source = source
        self._timeout: int = source["timeout"]
        self._parallel: int = source["parallel"]
        self._limits = Limits.of(source)
        self._tls = _client_context(source)
        self._ae = _application_entity(source)
        self._slots = threading.BoundedSemaphore(self._parallel)
        self._lock = threading.Lock()
        self._busy = 0
        self._idle: list[_Line] = []
        self._listener: _Listener | None = None
        self._images_tell = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release every association and stop listening."""
        self._release_idle()
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def find_series(self, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """Return the series that match; see `Archive.find_series`.

        Modality narrows the studies too, by ModalitiesInStudy.
        """
        of_study = {"StudyInstanceUID": "", **dict.fromkeys(STUDY_ATTRIBUTES, "")}
        of_series = {"SeriesInstanceUID": "", **dict.fromkeys(SERIES_LEVEL, "")}
        for key, value in keys.items():
            (of_study if key in of_study else of_series)[key] = value
        if keys.get("Modality"):
            of_study["ModalitiesInStudy"] = keys["Modality"]
        studies = {
            answer["StudyInstanceUID"]: {k: answer[k] for k in STUDY_ATTRIBUTES if k in answer}
            for answer in with_uids(self._find("STUDY", of_study), ("StudyInstanceUID",), self.name)
        }

        def series_of(study: str) -> list[dict[str, str]]:
            return self._find("SERIES", {**of_series, "StudyInstanceUID": study})

        found: dict[str, dict[str, str]] = {}
        with ThreadPoolExecutor(self._parallel) as pool:
            try:
                for study, answers in zip(studies, pool.map(series_of, studies), strict=True):
                    for answer in with_uids(answers, ("SeriesInstanceUID",), self.name):
                        uid = answer["SeriesInstanceUID"]
                        told = {key: answer[key] for key in SERIES_LEVEL if key in answer}
                        unique = {"StudyInstanceUID": study, "SeriesInstanceUID": uid}
                        found[uid] = {**unique, **studies[study], **told}
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [found[uid] for uid in sorted(found)]

    def find_instances(self, study_uid: str, series_uid: str) -> list[str]:
        """Return the sorted SOPInstanceUIDs of a series."""
        answers = self._find("IMAGE", self._image_keys(study_uid, series_uid, ""))
        return sorted({self._uid(answer.get("SOPInstanceUID")) for answer in answers})

    def contains(self, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        """Tell whether the PACS lists an instance."""
        answers = self._find("IMAGE", self._image_keys(study_uid, series_uid, self._uid(sop_uid)))
        return any(answer.get("SOPInstanceUID") == sop_uid for answer in answers)

    def describe(self, study_uid: str, series_uid: str, sop_uid: str) -> Dataset:
        """Return the header of an instance, without its pixels.

        Where the PACS does not tell what it is asked for, the instance itself is retrieved, within
        the limits, and its header with the file meta is returned.
        """
        keys = self._image_keys(study_uid, series_uid, self._uid(sop_uid))
        if self._images_tell:
            asked = {**dict.fromkeys((*SERIES_ATTRIBUTES, SYNTAX), ""), **keys}
            try:
                headers = self._find_data_sets("IMAGE", asked)
            except Rejected:
                headers = [Dataset()]
            for header in headers:
                told = {key: _text(header, key) for key in SERIES_ATTRIBUTES if key in header}
                self._images_tell = len(told) == len(SERIES_ATTRIBUTES)
                # Some return without a value what they do not know.
                if self._images_tell and any(told[key] for key in IMAGE_LEVEL):
                    return header
        files: list[bytes] = []
        self.fetch(study_uid, series_uid, [sop_uid], lambda _, content: files.append(content))
        return dcmread(io.BytesIO(files[0]), stop_before_pixels=True)

    def _image_keys(self, study_uid: str, series_uid: str, sop_uid: str) -> dict[str, str]:
        return {
            "StudyInstanceUID": self._uid(study_uid),
            "SeriesInstanceUID": self._uid(series_uid),
            "SOPInstanceUID": sop_uid,
        }

    def _find(self, level: str, keys: Mapping[str, str]) -> list[dict[str, str]]:
        return [
            {key: _text(answer, key) for key in keys if key in answer}
            for answer in self._find_data_sets(level, keys)
        ]

    def _find_data_sets(self, level: str, keys: Mapping[str, str]) -> list[Dataset]:
        """Return the answers to a C-FIND (PS3.4 section C.4.1)."""
        answers: list[Dataset | None] = []
        status = Dataset()
        with self._line(_Purpose(FIND)) as line:
            for status, answer in line.association.send_c_find(_identifier(level, keys), FIND):
                if _category(status) == "Pending":
                    answers.append(answer)
        self._check(status, f"C-FIND at level {level}")
        if None in answers:
            raise Rejected(f"source {self.name!r}: an answer to C-FIND cannot be decoded.")
        return [answer for answer in answers if answer is not None]

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
        study, series = self._uid(study_uid), self._uid(series_uid)
        waiting = [self._uid(uid) for uid in dict.fromkeys(sop_uids)]
        if not waiting:
            return
        retrieve = (
            self._mover() if self._source["retrieve"] == "move" else self._getter(study, series)
        )
        most, moved, size = MOST_UIDS, 0, 0
        while waiting:
            self._limits.wait(self._release_idle)
            reception = _Reception(waiting[: self._request_length(most, moved, size)], receive)
            keys = self._image_keys(study, series, "\\".join(reception.wanted))
            status = retrieve(_identifier("IMAGE", keys), reception)
            self._limits.count(reception.size)
            moved, size = moved + len(reception.received), size + reception.size
            if reception.error is not None:
                raise reception.error
            missing = [uid for uid in reception.wanted if uid not in reception.received]
            if missing:
                self._judge_missing(missing, len(reception.wanted), status)
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

    def _judge_missing(self, missing: Sequence[str], asked: int, status: Dataset) -> None:
        """Raise unless it is worth to ask for the missing instances one by one."""
        fault = self._fault(status, f"C-{self._source['retrieve'].upper()}")
        uncalled = self._listener is not None and not self._listener.called
        if isinstance(fault, ConfigError) or (isinstance(fault, ArchiveDown) and not uncalled):
            raise fault
        if uncalled and "Status" in status:
            raise ArchiveDown(
                f"source {self.name!r}: the PACS never called this machine's port "
                f"{self._source['listen_port']} for C-MOVE; let its administrator enter "
                f"{self._source['calling_aet']} with this machine and port."
            )
        if asked == 1 or "Status" not in status:
            raise fault or Rejected(
                f"source {self.name!r}: the PACS did not send instance {missing[0]}, though it "
                f"answered with status 0x{status.Status:04X}."
            )

    def _getter(self, study: str, series: str) -> Callable[[Dataset, _Reception], Dataset]:
        """Return the function that retrieves by C-GET (PS3.4 section C.4.3)."""
        answers = self._find("IMAGE", {**self._image_keys(study, series, ""), "SOPClassUID": ""})
        classes = {answer.get("SOPClassUID", "") for answer in answers}
        if "" in classes or not 0 < len(classes) <= MOST_CLASSES:
            classes = set(USUAL_CLASSES)
        purpose = _Purpose(GET, tuple(sorted(map(self._uid, classes))), TRANSFER_SYNTAXES)

        def get(identifier: Dataset, reception: _Reception) -> Dataset:
            with self._line(purpose) as line:
                line.association.bind(evt.EVT_C_STORE, reception.take)
                status = _final_status(line.association.send_c_get(identifier, GET))
                line.association.unbind(evt.EVT_C_STORE, reception.take)
            return status

        return get

    def _mover(self) -> Callable[[Dataset, _Reception], Dataset]:
        """Return the function that retrieves by C-MOVE to our listener (PS3.4 section C.4.2)."""
        with self._lock:
            if self._listener is None:
                self._listener = _Listener(self._source)
            listener = self._listener

        def move(identifier: Dataset, reception: _Reception) -> Dataset:
            title = self._source["calling_aet"]
            with listener.expecting(reception), self._line(_Purpose(MOVE), listener) as line:
                return _final_status(line.association.send_c_move(identifier, title, MOVE))

        return move

    def send(self, path: Path) -> Receipt:
        """Store a DICOM file by C-STORE (PS3.4 annex B) as it is; see `Archive.send`."""
        try:
            header = dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
            uid = self._uid(file_uid(header))
            sop_class = self._uid(header.file_meta.MediaStorageSOPClassUID)
            syntax = self._uid(header.file_meta.TransferSyntaxUID)
        except (InvalidDicomError, AttributeError, EOFError):
            raise Rejected(f"source {self.name!r}: {path} is not a DICOM file.") from None
        purpose = _Purpose(None, (sop_class,), (syntax,))
        self._limits.wait(self._release_idle)
        status = self._store(path, purpose)
        if "Status" not in status:
            # Was it the network, or does the PACS hang up on this very object?
            self._find("STUDY", {"StudyInstanceUID": NO_STUDY})
            status = self._store(path, purpose)
            if "Status" not in status:
                raise Rejected(
                    f"source {self.name!r}: C-STORE of {uid}: the PACS answers, but it twice ended "
                    "the connection on this object; its log says why."
                )
        if _category(status) not in {"Success", "Warning"}:
            # Many a PACS says "out of resources" to an object that it cannot take.
            raise Rejected(
                f"source {self.name!r}: C-STORE of {uid}: status 0x{status.Status:04X}: the PACS "
                "refused the object; its log says why."
            )
        warning = _category(status) == "Warning"
        return Receipt(uid, f"warning 0x{status.Status:04X}" if warning else "")

    def _store(self, path: Path, purpose: _Purpose) -> Dataset:
        with self._line(purpose) as line:
            status = line.association.send_c_store(path)
        self._limits.count(path.stat().st_size)
        return status

    def _uid(self, value: object) -> str:
        return checked_uid(value, self.name)

    def _check(self, status: Dataset, what: str) -> None:
        fault = self._fault(status, what)
        if fault is not None:
            raise fault

    def _fault(self, status: Dataset, what: str) -> Exception | None:
        """Return what a final status means; None for success and warnings (PS3.7 annex C)."""
        if "Status" not in status:
            return ArchiveDown(
                f"source {self.name!r}: {what} was cut off, or nothing was heard for "
                f"{self._timeout} seconds; the PACS or the network may be down, or "
                f"{self._source['calling_aet']} may not do this there."
            )
        code = status.Status
        start = f"source {self.name!r}: {what}: status 0x{code:04X}"
        if _category(status) in {"Success", "Warning"}:
            return None
        if code in BUSY:
            return ArchiveDown(f"{start}: the PACS is out of resources; try later, or for less.")
        if code == MOVE_DESTINATION_UNKNOWN:
            return ConfigError(
                f"{start}: the PACS does not know where {self._source['calling_aet']} is; let its "
                f"administrator enter this machine and port {self._source['listen_port']}, or set "
                "retrieve: get."
            )
        return Rejected(f"{start}: the PACS refused.")

    @contextmanager
    def _line(self, purpose: _Purpose, listener: _Listener | None = None) -> Iterator[_Line]:
        """Lend an association; it is kept when the block ends well and aborted when it does not.

        It is cut when nothing moves on it, nor at the listener, for ``timeout`` seconds.
        """
        with self._slots:
            with self._lock:
                self._busy += 1
            line = None
            try:
                line = self._kept_line(purpose) or self._new_line(purpose)
                with _watched(line, self._timeout, listener):
                    yield line
                with self._lock:
                    self._idle.append(line)
            except BaseException:
                if line is not None:
                    line.association.abort()
                raise
            finally:
                with self._lock:
                    self._busy -= 1

    def _kept_line(self, purpose: _Purpose) -> _Line | None:
        """Return an idle association for the purpose; release what is old or in the way."""
        now = time.monotonic()
        with self._lock:
            usable = [
                line
                for line in self._idle
                if now - line.heard < IDLE_SECONDS and line.association.is_established
            ]
            surplus = [line for line in self._idle if line not in usable]
            line = next((line for line in usable if line.purpose == purpose), None)
            if line is not None:
                usable.remove(line)
                line.heard = now
            elif usable and len(usable) + self._busy > self._parallel:
                surplus.append(usable.pop(0))
            self._idle = usable
        for each in surplus:
            each.association.release()
        return line

    def _release_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.association.release()

    def _new_line(self, purpose: _Purpose) -> _Line:
        line = _Line(purpose, self._timeout)
        source = self._source
        line.association = self._ae.associate(
            source["host"],
            source["port"],
            purpose.contexts(),
            source["called_aet"],
            MAXIMUM_PDU,
            purpose.roles(),
            tls_args=None if self._tls is None else (self._tls, source["host"]),
            evt_handlers=line.handlers(),
        )
        if not line.association.is_established:
            raise self._no_association(line)
        accepted = {context.abstract_syntax for context in line.association.accepted_contexts}
        if purpose.service not in {None, *accepted}:
            line.association.release()
            raise self._no_service(purpose)
        return line

    def _no_association(self, line: _Line) -> Exception:
        source, association = self._source, line.association
        address = f"{source['host']}:{source['port']}"
        at = f"source {self.name!r}: the PACS {source['called_aet']} at {address}"
        if not line.connected:
            return self._no_connection(at)
        if association.is_rejected:
            # Result, source and diagnostic: PS3.8 table 9-21.
            answer = association.acceptor.primitive
            reason = (answer.result_source, answer.diagnostic) if answer is not None else (0, 0)
            if reason == (1, 3):
                return ConfigError(
                    f"{at} does not know {source['calling_aet']}; let its administrator enter it "
                    "with this machine, or mend calling_aet."
                )
            if reason == (1, 7):
                return ConfigError(f"{at} goes by another name; mend called_aet.")
            return ArchiveDown(
                f"{at} refuses the association (source {reason[0]}, reason {reason[1]} of PS3.8 "
                "table 9-21); it is busy, or does not know this machine as "
                f"{source['calling_aet']}."
            )
        if association.rejected_contexts:
            return self._no_service(line.purpose)
        return ArchiveDown(f"{at} ended the connection or did not answer {self._timeout} seconds.")

    def _no_service(self, purpose: _Purpose) -> Exception:
        if purpose.service is None:
            return Rejected(
                f"source {self.name!r}: the PACS takes no {UID(purpose.classes[0]).name} in "
                f"transfer syntax {UID(purpose.syntaxes[0]).name}."
            )
        mend = "; set retrieve: move" if purpose.service == GET else ""
        return ConfigError(
            f"source {self.name!r}: the PACS does not offer {purpose.service.name} to "
            f"{self._source['calling_aet']}; let its administrator allow it{mend}."
        )

    def _no_connection(self, at: str) -> Exception:
        """Find out why a connection failed, which pynetdicom does not tell."""
        address = (self._source["host"], self._source["port"])
        try:
            with socket.create_connection(address, self._timeout) as plain:
                if self._tls is not None:
                    self._tls.wrap_socket(plain, server_hostname=address[0]).close()
        except ssl.SSLCertVerificationError as error:
            return ConfigError(
                f"{at}: its certificate is not trusted: {error.verify_message}; mend tls.ca_file, "
                "or host if the certificate is for another name."
            )
        except OSError as error:
            cause = error.strerror or type(error).__name__
            return ArchiveDown(f"{at} cannot be reached: {cause}; check that it runs.")
        return ArchiveDown(f"{at} could not be reached for a moment; try again.")


@dataclass(frozen=True)
class _Purpose:
    """What an association is for: a service, or with None for C-STORE, and classes to store."""

    service: UID | None
    classes: tuple[str, ...] = ()
    syntaxes: tuple[str, ...] = ()

    def contexts(self) -> list[PresentationContext]:
        service = [] if self.service is None else [build_context(self.service, [*UNCOMPRESSED])]
        return service + [build_context(c, s) for c in self.classes for s in self.syntaxes]

    def roles(self) -> list[Any]:
        """Return the roles of C-GET, in which the PACS stores on our association."""
        return [build_role(c, scp_role=True) for c in self.classes] if self.service == GET else []


class _Line:
    """An association with its purpose and the time when bytes last moved on it."""

    association: Association

    def __init__(self, purpose: _Purpose, timeout: float) -> None:
        self.purpose = purpose
        self.heard = time.monotonic()
        self.connected = False
        self._timeout = timeout

    def handlers(self) -> list[Any]:
        return [
            (evt.EVT_CONN_OPEN, self._open),
            (evt.EVT_DATA_RECV, self._moved),
            (evt.EVT_DATA_SENT, self._moved),
        ]

    def _open(self, event: evt.Event) -> None:
        self.connected = True
        _prepare(event, self._timeout)

    def _moved(self, event: evt.Event) -> None:
        self.heard = time.monotonic()

    def cut(self) -> None:
        """End the connection at once; whoever waits for an answer wakes up."""
        with suppress(OSError):
            _connection(self.association).shutdown(socket.SHUT_RDWR)


@contextmanager
def _watched(line: _Line, timeout: float, listener: _Listener | None) -> Iterator[None]:
    """Cut an association when nothing has moved for `timeout` seconds while the block runs.

    pynetdicom's own limit is on whole messages, which for a large object take longer.
    """
    done = threading.Event()
    line.heard = time.monotonic()

    def watch() -> None:
        while True:
            heard = max(line.heard, 0 if listener is None else listener.heard)
            if done.wait(max(0.0, heard + timeout - time.monotonic())):
                return
            if max(line.heard, 0 if listener is None else listener.heard) == heard:
                line.cut()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


class _Reception:
    """The instances that one request asked for, and what became of them."""

    def __init__(self, wanted: Sequence[str], receive: Callable[[str, bytes], Any]) -> None:
        self.wanted = list(wanted)
        self.received: set[str] = set()
        self.size = 0
        self.error: Exception | None = None
        self._receive = receive
        self._lock = threading.Lock()

    def take(self, event: evt.Event) -> int:
        """Hand on an instance that the PACS stores here; returns the status for it."""
        uid = _stored_uid(event)
        if uid not in self.wanted:
            return NOT_ASKED_FOR
        with self._lock:
            if self.error is not None:
                return OUT_OF_RESOURCES
            if uid in self.received:
                return SUCCESS
            content = event.encoded_dataset()
            self.size += len(content)
            try:
                self._receive(uid, content)
            except Exception as error:
                self.error = error
                return OUT_OF_RESOURCES
            self.received.add(uid)
            return SUCCESS


class _Listener:
    """The port at which C-MOVE's images arrive; takes those alone that somebody waits for.

    Raises:
        ArchiveDown: another process listens there.
        ConfigError: this machine cannot listen there.
    """

    def __init__(self, source: Mapping[str, Any]) -> None:
        self.heard = 0.0
        self.called = False
        self._timeout: float = source["timeout"]
        self._lock = threading.Lock()
        self._receptions: dict[str, _Reception] = {}
        entity = _application_entity(source)
        entity.require_called_aet = True
        entity.require_calling_aet = [source["called_aet"]]
        entity.maximum_associations = 2 * source["parallel"]
        contexts = [
            build_context(context.abstract_syntax, [*TRANSFER_SYNTAXES])
            for context in AllStoragePresentationContexts
            if context.abstract_syntax is not None
        ]
        address = (source["listen_address"], source["listen_port"])
        where = f"source {source['name']!r}: listening at {address[0]}:{address[1]}"
        try:
            self._server = entity.start_server(
                address,
                block=False,
                ssl_context=_server_context(source),
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._open),
                    (evt.EVT_DATA_RECV, self._moved),
                    (evt.EVT_C_STORE, self._take),
                ],
                contexts=contexts,
            )
        except OSError as error:
            cause = f"{where} fails: {error.strerror}"
            if error.errno == errno.EADDRINUSE:
                raise ArchiveDown(f"{cause}; only one retrieval at a time can use it.") from None
            raise ConfigError(f"{cause}; mend listen_address or listen_port.") from None

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()

    @contextmanager
    def expecting(self, reception: _Reception) -> Iterator[None]:
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
        _prepare(event, self._timeout)

    def _moved(self, event: evt.Event) -> None:
        self.heard = time.monotonic()

    def _take(self, event: evt.Event) -> int:
        with self._lock:
            reception = self._receptions.get(_stored_uid(event))
        return NOT_ASKED_FOR if reception is None else reception.take(event)


def _prepare(event: evt.Event, timeout: float) -> None:
    """Send small messages at once, and do not wait for the rest of a message for ever."""
    connection = _connection(event.assoc)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(timeout)


def _connection(association: Association) -> socket.socket:
    """Return the socket of an association.

    Raises:
        OSError: it is closed.
    """
    outer = association.dul.socket
    if outer is None or outer.socket is None:
        raise OSError(errno.ENOTCONN, "closed")
    return outer.socket


def _stored_uid(event: evt.Event) -> str:
    return str(cast(C_STORE, event.request).AffectedSOPInstanceUID)


def _application_entity(source: Mapping[str, Any]) -> AE:
    entity = AE(ae_title=source["calling_aet"])
    entity.implementation_class_uid = IMPLEMENTATION_UID
    entity.implementation_version_name = f"JIPFLOW_{__version__}"[:16]
    entity.maximum_pdu_size = MAXIMUM_PDU
    entity.connection_timeout = entity.acse_timeout = source["timeout"]
    # `_watched` ends an association on which nothing moves.
    entity.dimse_timeout = entity.network_timeout = None
    return entity


def _client_context(source: Mapping[str, Any]) -> ssl.SSLContext | None:
    """Return the TLS context of our associations (PS3.15 annex B); None without ``tls``."""
    return None if "tls" not in source else _tls_context(source, ssl.Purpose.SERVER_AUTH)


def _server_context(source: Mapping[str, Any]) -> ssl.SSLContext | None:
    """Return the TLS context of the listener, which asks the PACS for its certificate."""
    if "tls" not in source:
        return None
    if "cert_file" not in source["tls"]:
        raise ConfigError(
            f"source {source['name']!r}: C-MOVE with tls needs our certificate; add tls.cert_file "
            "and tls.key_file."
        )
    context = _tls_context(source, ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _tls_context(source: Mapping[str, Any], purpose: ssl.Purpose) -> ssl.SSLContext:
    files, where = source["tls"], f"source {source['name']!r}: tls"
    try:
        context = ssl.create_default_context(purpose, cafile=files["ca_file"])
        if "cert_file" in files:
            key = private_file(Path(files.get("key_file", files["cert_file"])), f"{where}.key_file")
            context.load_cert_chain(files["cert_file"], key)
    except OSError as error:
        raise ConfigError(
            f"{where}: {error.strerror or error}; ca_file, cert_file and key_file must be PEM "
            "files that belong together."
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _identifier(level: str, keys: Mapping[str, str]) -> Dataset:
    """Return the identifier of a request (PS3.4 section C.4.1.1.3)."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    text = "".join(keys.values())
    if not text.isascii():
        latin = text.encode("latin-1", "ignore").decode("latin-1") == text
        identifier.SpecificCharacterSet = "ISO_IR 100" if latin else "ISO_IR 192"
    for keyword, value in keys.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        # A range or a wildcard is no valid value of many an attribute.
        identifier.add(
            DataElement(tag, dictionary_VR(tag), value or None, validation_mode=config.IGNORE)
        )
    return identifier


def _text(answer: Dataset, keyword: str) -> str:
    """Return an attribute as text, with the characters as they are where the value is not valid."""
    try:
        return text_of(answer[keyword].value)
    except (ValueError, TypeError, OverflowError, NotImplementedError):
        value = answer.get_item(keyword).value
        return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value)


def _final_status(answers: Iterable[tuple[Dataset, Dataset | None]]) -> Dataset:
    """Return the status of the last answer to a C-GET or C-MOVE."""
    status = Dataset()
    for status, _ in answers:  # noqa: B007
        pass
    return status


def _category(status: Dataset) -> str:
    return code_to_category(status.Status) if "Status" in status else "Cut"

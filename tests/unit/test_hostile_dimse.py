"""A PACS of DIMSE messages that never ends, or sends what nobody asked for."""

from __future__ import annotations

import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_GET

from hostile_pacs import INSTANCE, SERIES, STUDY, file_of
from jipflow.pacs.archive import ArchiveDown, Rejected
from jipflow.pacs.dimse.archive import DimseArchive
from jipflow.pacs.dimse.messages import FIND, GET
from jipflow.pacs.retrieve import fault
from jipflow.settings.site import Dimse

PENDING, SUCCESS = 0xFF00, 0x0000
SYNTAXES = [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]


@contextmanager
def serving(find: Callable[..., Any], get: Callable[..., Any] | None = None) -> Iterator[int]:
    """Run a PACS with handlers of C-FIND and C-GET while the block runs; gives its port."""
    entity = AE("PACS")
    entity.add_supported_context(FIND)
    entity.add_supported_context(GET)
    entity.add_supported_context(CTImageStorage, SYNTAXES, scu_role=True, scp_role=True)
    entity.add_supported_context(CTImageStorage, SYNTAXES, scu_role=True, scp_role=True)
    handlers: list[Any] = [(evt.EVT_C_FIND, find)]
    if get is not None:
        handlers.append((evt.EVT_C_GET, get))
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def archive_of(port: int, **keys: Any) -> DimseArchive:
    basis = {
        "name": "pacs",
        "kind": "dimse",
        "host": "127.0.0.1",
        "port": port,
        "called_aet": "PACS",
        "calling_aet": "JIPFLOW",
        "parallel": 1,
    }
    source = Dimse.model_validate(basis)
    return DimseArchive(source.model_copy(update={"timeout": 5, **keys}))


def answer_of(n: int, **values: Any) -> Dataset:
    dataset = Dataset()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, SERIES
    dataset.SOPInstanceUID, dataset.SOPClassUID = f"{SERIES}.{n}", CTImageStorage
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def one(event: Any) -> Iterator[Any]:
    yield PENDING, answer_of(1)


def endless(event: Any) -> Iterator[Any]:
    n = 0
    while event.assoc.is_established:
        n += 1
        yield PENDING, answer_of(n)


def dripping(event: Any) -> Iterator[Any]:
    for pending in endless(event):
        time.sleep(0.05)
        yield pending


def huge(event: Any) -> Iterator[Any]:
    yield PENDING, answer_of(1, PatientComments="x" * (8 << 20))


def raw(event: Any, write: Callable[[Any, int], None]) -> None:
    """Write to the connection of a request below pynetdicom, until it is gone."""
    with suppress(OSError, AttributeError):
        write(event.assoc.dul.socket.socket, event.context.context_id)


def fragments(piece: int, pause: float) -> Callable[[Any, int], None]:
    """Return what sends a data set whose last fragment never comes."""

    def write(connection: Any, context: int) -> None:
        # An answer that is pending, and says that a data set follows (PS3.7 section 9.3.2.2).
        elements = [(0x0100, 0x8020), (0x0120, 1), (0x0800, 1), (0x0900, PENDING)]
        command = b"".join(struct.pack("<HHLH", 0, tag, 2, value) for tag, value in elements)
        uid = str(FIND).encode() + bytes(len(FIND) % 2)
        command = struct.pack("<HHL", 0, 2, len(uid)) + uid + command
        send(connection, context, 3, command)
        while True:
            send(connection, context, 0, bytes(piece))
            time.sleep(pause)

    return write


def send(connection: Any, context: int, header: int, content: bytes) -> None:
    item = struct.pack(">LBB", len(content) + 2, context, header) + content
    connection.sendall(struct.pack(">BBL", 4, 0, len(item)) + item)


def huge_pdu(connection: Any, context: int) -> None:
    connection.sendall(struct.pack(">BBL", 4, 0, 0xFFFFFFF0))
    while True:
        connection.sendall(bytes(65536))


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (fragments(60_000, 0.0), Rejected),
        (fragments(1, 0.02), ArchiveDown),
        (huge_pdu, ArchiveDown),
    ],
)
def test_no_message_goes_on_without_end(write: Any, error: type[Exception]) -> None:
    def find(event: Any) -> Iterator[Any]:
        raw(event, write)
        yield SUCCESS, None

    start = time.monotonic()
    tracemalloc.start()
    try:
        with serving(find) as port:
            archive = archive_of(port, timeout=0.3, bytes_per_instance=1 << 20)
            with archive, pytest.raises(error, match="source 'pacs'"):
                archive.find_instances(STUDY, SERIES)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("find", [endless, huge])
def test_answers_without_end_have_one(find: Any) -> None:
    with serving(find) as port:
        archive = archive_of(port, bytes_per_answer=1 << 18)
        with archive, pytest.raises(Rejected, match="more text in them than bytes_per_answer"):
            archive.find_instances(STUDY, SERIES)


def test_more_answers_than_there_can_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jipflow.pacs.dimse.find.MOST_RESULTS", 50)
    with (
        serving(endless) as port,
        archive_of(port) as archive,
        pytest.raises(Rejected, match="more than"),
    ):
        archive.find_instances(STUDY, SERIES)


def test_a_host_that_nobody_knows_is_named() -> None:
    with (
        archive_of(104, host="nowhere.invalid") as archive,
        pytest.raises(ArchiveDown, match=r"nowhere\.invalid is no name .*; fix host"),
    ):
        archive.find_series({})


def test_answers_that_only_drip_end() -> None:
    start = time.monotonic()
    with (
        serving(dripping) as port,
        archive_of(port, timeout=0.3) as archive,
        pytest.raises(ArchiveDown, match="cut off"),
    ):
        archive.find_instances(STUDY, SERIES)
    assert time.monotonic() - start < 20


def test_instances_of_another_series_are_no_answer() -> None:
    def find(event: Any) -> Iterator[Any]:
        yield PENDING, answer_of(1, SeriesInstanceUID="1.9")

    with (
        serving(find) as port,
        archive_of(port) as archive,
        pytest.raises(Rejected, match="listed those of another series"),
    ):
        archive.find_instances(STUDY, SERIES)


def sending(*files: bytes) -> Callable[..., Any]:
    def get(event: Any) -> Iterator[Any]:
        yield len(files)
        for file in files:
            yield PENDING, dcmread(BytesIO(file))

    return get


def fetch(port: int, received: list[str], **keys: Any) -> None:
    with archive_of(port, **keys) as archive:
        archive.fetch(STUDY, SERIES, [INSTANCE], lambda uid, _: received.append(uid))


def test_what_was_asked_for_comes_with_some_that_was_not() -> None:
    received: list[str] = []
    with serving(one, sending(*[file_of(instance="1.9")] * 90, file_of())) as port:
        fetch(port, received)
    assert received == [INSTANCE]


@pytest.mark.parametrize("instance", ["1.9", INSTANCE])
def test_instances_that_nobody_asked_for_have_an_end(instance: str) -> None:
    received: list[str] = []
    with serving(one, sending(*[file_of(instance=instance)] * 300)) as port:
        if instance == INSTANCE:
            with suppress(Rejected):
                fetch(port, received)
            assert received == [INSTANCE]
        else:
            with pytest.raises(Rejected, match="that nobody asked for"):
                fetch(port, received)
            assert received == []


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_no_instance_is_larger_than_its_limit(syntax: str) -> None:
    file = file_of(syntax=syntax, PixelData=bytes(8 << 20))
    received: list[str] = []
    with serving(one, sending(file)) as port:
        with pytest.raises(Rejected, match="larger than bytes_per_instance: 1048576"):
            fetch(port, received, bytes_per_instance=1 << 20)
        assert received == []


def test_a_pacs_that_is_about_to_send_for_ever_counts_as_down() -> None:
    def get(event: Any) -> Iterator[Any]:
        pending(event, over)
        yield 0

    over = threading.Event()
    start = time.monotonic()
    try:
        with serving(one, get) as port, pytest.raises(ArchiveDown, match="sends nothing"):
            fetch(port, [], timeout=0.3)
    finally:
        over.set()
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"study": "1.9"}, "another study"),
        ({"series": "1.9"}, "another series"),
        ({"instance": "1.9"}, "another instance"),
        ({"SOPInstanceUID": "1.9"}, "another instance"),
        ({"StudyInstanceUID": None}, "another study"),
        ({"SeriesInstanceUID": ""}, "another series"),
        ({}, ""),
    ],
)
def test_what_arrives_is_what_was_asked_for(values: dict[str, Any], why: str) -> None:
    found = fault(file_of(**values), (STUDY, SERIES, INSTANCE))
    assert why in found
    assert bool(found) == bool(why)


def test_the_file_meta_is_of_the_same_instance() -> None:
    uid = INSTANCE.encode()
    content = file_of().replace(uid, uid[:-1] + b"9", 1)
    assert "file meta is of another" in fault(content, (STUDY, SERIES, INSTANCE))


def test_what_is_stored_here_does_not_come_byte_by_byte_for_ever() -> None:
    """Each fragment comes in time; the object as a whole never would."""
    over = threading.Event()

    def get(event: Any) -> Iterator[Any]:
        context = next(c for c in event.assoc.accepted_contexts if c.abstract_syntax == CT)
        with suppress(OSError, AttributeError):
            connection = event.assoc.dul.socket.socket
            send(connection, context.context_id, 3, store_request())
            while not over.wait(0.05) and time.monotonic() < start + 30:
                send(connection, context.context_id, 0, b"x")
        yield 0

    start = time.monotonic()
    try:
        with serving(one, get) as port, pytest.raises(ArchiveDown):
            fetch(port, [], timeout=0.3)
    finally:
        over.set()
    assert time.monotonic() - start < 20


CT = CTImageStorage


def store_request() -> bytes:
    """Return the command of a C-STORE (PS3.7 section 9.3.1.1)."""

    def element(tag: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, tag, len(value)) + value

    def uid(text: str) -> bytes:
        return text.encode() + bytes(len(text) % 2)

    rest = element(0x0002, uid(CT)) + element(0x0100, struct.pack("<H", 1))
    rest += element(0x0110, struct.pack("<H", 7)) + element(0x0700, struct.pack("<H", 0))
    rest += element(0x0800, struct.pack("<H", 1)) + element(0x1000, uid(INSTANCE))
    return element(0x0000, struct.pack("<L", len(rest))) + rest


def pending(event: Any, over: threading.Event) -> None:
    """Say again and again that something is about to be sent."""
    answer = C_GET()
    answer.MessageIDBeingRespondedTo = event.message_id
    answer.AffectedSOPClassUID = GET
    answer.Status = PENDING
    end = time.monotonic() + 30
    while event.assoc.is_established and not over.wait(0.05) and time.monotonic() < end:
        with suppress(Exception):
            event.assoc.dimse.send_msg(answer, event.context.context_id)


def test_nor_does_it_after_an_instance_has_come() -> None:
    over = threading.Event()

    def get(event: Any) -> Iterator[Any]:
        yield 2
        yield PENDING, dcmread(BytesIO(file_of()))
        pending(event, over)

    received: list[str] = []
    start = time.monotonic()
    try:
        with (
            serving(one, get) as port,
            archive_of(port, timeout=0.3) as archive,
            pytest.raises(ArchiveDown, match="sends nothing"),
        ):
            archive.fetch(
                STUDY, SERIES, [INSTANCE, f"{SERIES}.2"], lambda uid, _: received.append(uid)
            )
    finally:
        over.set()
    assert received == [INSTANCE]
    assert time.monotonic() - start < 20

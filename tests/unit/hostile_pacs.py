"""A DICOMweb server that answers as a test says, on loopback, and what it was asked."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from jipflow.settings.site import DicomWeb

JSON = "application/dicom+json"
STUDY, SERIES, INSTANCE = "1.2.1", "1.2.1.1", "1.2.1.1.1"


class Server(ThreadingHTTPServer):
    """A server whose answers a test writes.

    Attributes:
        answer: called with each request; writes to `request.wfile`.
        asked: method and path of every request, and its headers.
    """

    daemon_threads = True

    def __init__(self, answer: Callable[[Any], None]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answer = answer
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/dicom-web"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def serve(self) -> None:
        self.server.asked.append((self.command, self.path, dict(self.headers.items())))
        self.rest = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with suppress(OSError):
            self.server.answer(self)

    do_GET = do_POST = serve  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass

    def start(self, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def whole(self, content: bytes, kind: str = JSON, **headers: object) -> None:
        self.start(200, Content_Type=kind, Content_Length=len(content), **headers)
        self.wfile.write(content)

    def without_end(self, piece: bytes, pause: float = 0.0) -> None:
        """Write a piece again and again until the client is gone, or the test is over."""
        while not self.server.over.wait(pause):
            self.wfile.write(piece)


@contextmanager
def serving(answer: Callable[[Any], None]) -> Iterator[Server]:
    """Run a server while the block runs."""
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


def source_of(url: str, **keys: Any) -> DicomWeb:
    """Return the settings of a source; keys may have values that no site could write."""
    basis = {"name": "pacs", "kind": "dicomweb", "url": url}
    return DicomWeb.model_validate(basis).model_copy(update={"timeout": 10, **keys})


def file_of(
    study: str = STUDY, series: str = SERIES, instance: str = INSTANCE, **values: Any
) -> bytes:
    """Return a small DICOM file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = values.pop("syntax", ExplicitVRLittleEndian)
    dataset = FileDataset("", Dataset(), file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID = CTImageStorage
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.SOPInstanceUID, dataset.PatientID = instance, "DOE"
    for name, value in values.items():
        setattr(dataset, name, value)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def multipart(*files: bytes, epilogue: bytes = b"") -> bytes:
    """Return the body of an answer of several parts, with the boundary B."""
    parts = (b"--B\r\nContent-Type: application/dicom\r\n\r\n" + each + b"\r\n" for each in files)
    return b"".join(parts) + b"--B--\r\n" + epilogue


MULTIPART = 'multipart/related; type="application/dicom"; boundary=B'


def is_silent(listener: socket.socket) -> bool:
    """Return whether nobody has connected to a socket that listens."""
    time.sleep(0.05)
    listener.setblocking(False)
    try:
        listener.accept()
    except BlockingIOError:
        return True
    return False

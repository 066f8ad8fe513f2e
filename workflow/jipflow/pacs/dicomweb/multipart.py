"""Multipart messages (RFC 2046), read as they come and made as they are sent."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import requests

from jipflow.pacs.dicomweb.errors import TooLarge

CHUNK = 1 << 18
"""Bytes that are read at a time."""
HEADER = 1 << 16
"""Bytes that a part may have before its content."""
LIMIT = "bytes_per_instance"


def parts(response: requests.Response, most: int) -> Iterator[bytes]:
    """Yield the content of each part of a multipart answer (RFC 2046 section 5.1.1).

    Args:
        response: whose content was not read yet.
        most: bytes of a part; that many, and a chunk, are held at a time.

    Raises:
        EOFError: the answer ends before its last delimiter.
        TooLarge: a part has more bytes, or what stands before the first.
        ValueError: it is something else.
    """
    header = Message()
    header["Content-Type"] = response.headers.get("Content-Type", "")
    if header.get_content_type() == "application/dicom":
        yield _whole(response, most)
        return
    boundary = header.get_boundary()
    if header.get_content_maintype() != "multipart" or not boundary:
        raise ValueError
    delimiter = b"\r\n--" + boundary.encode()
    buffer = bytearray(b"\r\n")
    first, searched = True, 0
    chunks = response.iter_content(CHUNK)
    for chunk in chunks:
        buffer += chunk
        while 0 <= (end := buffer.find(delimiter, searched)) <= len(buffer) - len(delimiter) - 2:
            if not first:
                start = buffer.index(b"\r\n\r\n", 0, end) + 4
                if end - start > most:
                    raise TooLarge(LIMIT)
                yield bytes(memoryview(buffer)[start:end])
            first, searched = False, 0
            del buffer[: end + len(delimiter)]
            if buffer.startswith(b"--"):
                # The connection can be used again once all is read; an epilogue is at most so long.
                next(chunks, None)
                return
        searched = max(0, len(buffer) - len(delimiter) - 2)
        if len(buffer) > most + HEADER:
            raise TooLarge(LIMIT)
    raise EOFError


def _whole(response: requests.Response, most: int) -> bytes:
    """Return the content of an answer of one part."""
    buffer = bytearray()
    for chunk in response.iter_content(CHUNK):
        buffer += chunk
        if len(buffer) > most:
            raise TooLarge(LIMIT)
    return bytes(buffer)


class MultipartFile:
    """The body of a STOW-RS request of one file, read as it is sent (PS3.18 section 8.6.1.2)."""

    def __init__(self, path: Path) -> None:
        boundary = uuid.uuid4().hex
        self.content_type = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
        self._path = path
        self._head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._length = len(self._head) + path.stat().st_size + len(self._tail)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        with open(self._path, "rb") as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
        yield self._tail

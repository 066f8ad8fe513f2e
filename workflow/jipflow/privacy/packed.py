"""Opens what is compressed, packed or encoded in a file, so that its content can be searched."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import re
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_to_bytes

from jipflow.files import parquet_batches, parquet_schema

Content = Iterator[tuple[str, BinaryIO]]
"""Name and content of each thing in a container."""

HEAD = 1 << 16
_DATA = re.compile(rb"base64,\s*([A-Za-z0-9+/=\s%]{16,})")


class Closed(Exception):
    """A container cannot be opened; the message says why."""


def is_text(stream: BinaryIO) -> bool:
    """Return whether a stream begins as text in UTF-8."""
    head = stream.read(HEAD)
    if b"\0" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # Cut inside of a character.
        return len(head) == HEAD and error.start > HEAD - 4
    return True


def inside(stream: BinaryIO, *, text: bool) -> Content:
    """Iterate over what a stream holds, if it is a container.

    Args:
        stream: at its beginning; it can be rewound.
        text: whether it is text.

    Raises:
        Closed: it is encrypted or damaged, or holds more than can be opened.
    """
    head = stream.read(512)
    stream.seek(0)
    for magic, name, opener in _OPENERS:
        if magic(head):
            with opened(name):
                yield from opener(stream)
            return
    if text:
        yield from _data_of_page(stream)


@contextmanager
def opened(name: str) -> Iterator[None]:
    """Turn what libraries raise at a damaged container into `Closed`; not an error of the place.

    Args:
        name: of the container, for the message, which quotes nothing of its content.
    """
    try:
        yield
    except (Closed, MemoryError):
        raise
    except OSError as error:
        # gzip, bz2 and Arrow raise OSError without a number for what is damaged.
        if error.errno is not None:
            raise
        raise Closed(f"{name}: damaged ({type(error).__name__})") from None
    except Exception as error:
        raise Closed(f"{name}: damaged ({type(error).__name__})") from None


def _gzip(stream: BinaryIO) -> Content:
    yield "gzip", cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))


def _bzip2(stream: BinaryIO) -> Content:
    yield "bzip2", cast(BinaryIO, bz2.BZ2File(stream))


def _xz(stream: BinaryIO) -> Content:
    yield "xz", cast(BinaryIO, lzma.LZMAFile(stream))  # noqa: SIM115


def _zstandard(stream: BinaryIO) -> Content:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd") as opened:
        yield "zstandard", io.BytesIO(opened.read())


def _zip(stream: BinaryIO) -> Content:
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            if member.flag_bits & 1:
                raise Closed(f"zip: member {member.filename} is encrypted")
            yield f"member {member.filename}", cast(BinaryIO, archive.open(member))


def _tar(stream: BinaryIO) -> Content:
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield f"member {member.name}", cast(BinaryIO, content)


def _png(stream: BinaryIO) -> Content:
    """Text, and what else is compressed, but for the pixels (PNG, third edition, section 11.3)."""
    stream.seek(8)
    while len(start := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        data = stream.read(length)
        stream.read(4)
        if kind in (b"zTXt", b"iCCP"):
            yield kind.decode(), io.BytesIO(zlib.decompress(data.split(b"\0", 1)[1][1:]))
        elif kind == b"iTXt":
            keyword, rest = data.split(b"\0", 1)
            compressed, rest = rest[0], rest[2:]
            language, translated, text = rest.split(b"\0", 2)
            text = zlib.decompress(text) if compressed else text
            yield "iTXt", io.BytesIO(b"\n".join((keyword, language, translated, text)))
        elif kind in (b"tEXt", b"eXIf", b"tIME"):
            written = data.replace(b"\0", b"\n").decode("latin-1")
            yield kind.decode(), io.BytesIO(written.encode("utf-8"))


def _parquet(stream: BinaryIO) -> Content:
    """Each column as lines of text; whole numbers and days too, which may be an identifier."""
    schema = parquet_schema(stream)
    metadata = [*(schema.metadata or {}).items()]
    for each in schema:
        metadata += (each.metadata or {}).items()
    yield "metadata", io.BytesIO(b"\n".join(part for pair in metadata for part in pair))
    for batch in parquet_batches(stream):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            yield f"column {name}", io.BytesIO("\n".join(_cells(column)).encode("utf-8", "replace"))


def _cells(column: Any) -> list[str]:
    """The values of a column as texts, each once."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_nested(kind):
        if pa.types.is_struct(kind):
            parts = [column.field(number) for number in range(kind.num_fields)]
        elif pa.types.is_map(kind):
            parts = [column.keys, column.items]
        else:
            parts = [column.flatten()]
        return [text for part in parts for text in _cells(part)]
    if pa.types.is_dictionary(kind):
        return _cells(column.dictionary)
    values = column.unique().to_pylist()
    if pa.types.is_floating(kind):
        return [str(int(value)) for value in values if value is not None and value == value // 1]
    return [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for value in values
        if value is not None
    ]


def _arrow(stream: BinaryIO) -> Content:
    import pyarrow as pa

    with pa.ipc.open_file(stream) as file:
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                yield f"column {name}", io.BytesIO("\n".join(_cells(column)).encode())


def _nrrd(stream: BinaryIO) -> Content:
    """The header, and the voxels where they are compressed (NRRD0005, field `encoding`)."""
    content = stream.read()
    cut = re.search(rb"\r?\n\r?\n", content)
    header = content[: cut.start()] if cut else content
    # Without its first line, by which it would be opened again.
    yield "header", io.BytesIO(header.partition(b"\n")[2])
    encoding = re.search(rb"^encoding:\s*(\S+)", header, re.MULTILINE | re.IGNORECASE)
    if cut and encoding and encoding[1].lower() in (b"gz", b"gzip"):
        yield "voxels", io.BytesIO(gzip.decompress(content[cut.end() :]))
    elif cut and encoding and encoding[1].lower() in (b"bz2", b"bzip2"):
        yield "voxels", io.BytesIO(bz2.decompress(content[cut.end() :]))


def _nifti(stream: BinaryIO) -> Content:
    """The texts of the header and its extensions (NIfTI-1, nifti1.h)."""
    header = stream.read(352)
    order = "<" if header[:4] == b"\x5c\x01\0\0" else ">"
    (voxels,) = struct.unpack(f"{order}f", header[108:112])
    texts = [header[14:32], header[148:228], header[228:252], header[328:344]]
    extensions = stream.read(max(0, int(voxels) - 352))
    lines = b"\n".join((*texts, extensions)).replace(b"\0", b"\n")
    yield "header", io.BytesIO(lines.decode("utf-8", "replace").encode())


def _dicom(stream: BinaryIO) -> Content:
    """Values of elements as text, in their own character set; those of bytes where deflated."""
    import pydicom
    from pydicom.multival import MultiValue
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    dataset = pydicom.dcmread(stream, force=True)
    deflated = dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    lines: list[str] = []
    for element in (*dataset.file_meta, *dataset.iterall()):
        value = element.value
        if isinstance(value, bytes):
            if deflated:
                yield f"element {element.tag}", io.BytesIO(value)
        elif element.VR != "SQ":
            lines += map(str, value if isinstance(value, MultiValue) else [value])
    yield "elements", io.BytesIO("\n".join(lines).encode("utf-8", "surrogatepass"))


def _sqlite(stream: BinaryIO) -> Content:
    connection = sqlite3.connect(":memory:")
    connection.deserialize(stream.read())
    try:
        yield "dump", io.BytesIO("\n".join(connection.iterdump()).encode("utf-8", "replace"))
    finally:
        connection.close()


def _data_of_page(stream: BinaryIO) -> Content:
    """What stands in a page or a style sheet as ``data:…;base64,…`` (RFC 2397)."""
    for number, found in enumerate(_DATA.finditer(stream.read()), 1):
        written = unquote_to_bytes(re.sub(rb"\s", b"", found[1])).split(b"%")[0].rstrip(b"=")
        written = written[:-1] if len(written) % 4 == 1 else written
        content = base64.b64decode(written + b"=" * (-len(written) % 4))
        yield f"data {number}", io.BytesIO(content)


def _sealed(stream: BinaryIO) -> Content:
    raise Closed("sealed (age): only its recipient can open it")
    yield


def _starts(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


_OPENERS: tuple[tuple[Callable[[bytes], bool], str, Callable[[BinaryIO], Content]], ...] = (
    (_starts(b"\x1f\x8b"), "gzip", _gzip),
    (_starts(b"BZh"), "bzip2", _bzip2),
    (_starts(b"\xfd7zXZ\0"), "xz", _xz),
    (_starts(b"\x28\xb5\x2f\xfd"), "zstandard", _zstandard),
    (_starts(b"PK\x03\x04", b"PK\x05\x06"), "zip", _zip),
    (_starts(b"\x89PNG\r\n"), "png", _png),
    (_starts(b"PAR1"), "parquet", _parquet),
    (_starts(b"ARROW1"), "arrow", _arrow),
    (_starts(b"NRRD0"), "nrrd", _nrrd),
    (lambda head: head[344:348] in (b"n+1\0", b"ni1\0"), "nifti", _nifti),
    (_starts(b"SQLite format 3\0"), "sqlite", _sqlite),
    (_starts(b"age-encryption.org/", b"-----BEGIN AGE"), "age", _sealed),
    (lambda head: head[128:132] == b"DICM", "dicom", _dicom),
    (lambda head: head[257:262] == b"ustar", "tar", _tar),
)

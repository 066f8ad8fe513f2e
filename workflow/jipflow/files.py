"""Reading and writing files so that a killed run never leaves half of one behind."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq


def local_path(text: str) -> str:
    """Return a path as its writer means it: ``~`` at its start is a home folder.

    Raises:
        ValueError: it is empty, or holds what would become part of a folder's name, such as a
            variable; the message goes on from the name of the path.
    """
    if not text.strip():
        raise ValueError("is empty; name a path")
    if text != text.strip() or not text.isprintable():
        raise ValueError("begins or ends with a blank, or holds a control character; remove it")
    if re.search(r"\$[A-Za-z_{(]", text):
        raise ValueError("holds a variable ($), which is not replaced; write the path out")
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        raise ValueError("is a path of Windows; write the one that this machine has")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", text):
        raise ValueError("is an address, no path of this machine")
    path = os.path.expanduser(text)
    if "~" in Path(path).parts or path.startswith("~"):
        raise ValueError("holds ~ for no home folder that there is; write the path out")
    return path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` and rename it to `path` when the block ends well.

    The temporary name keeps the suffixes of `path`, for writers that choose a format by them, and
    no two are alike, those of other machines on the same disk included. What the block wrote (a
    file or a folder) is removed if the block raises.

    Args:
        path: where the finished file or folder shall stand; its parents are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = os.uname().nodename.partition(".")[0]
    partial = path.with_name(f".partial-{machine}-{os.urandom(8).hex()}-{path.name}")
    try:
        yield partial
        if path.is_dir() and partial.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def write_new_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, unless there is one, so that no job reads half.

    Of several jobs that start at once the first one's file stays.

    Args:
        path: the file, in a folder that is there.
        data: its content.

    Raises:
        FileExistsError: the file is there already.
    """
    descriptor, partial = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(partial, path)
    finally:
        os.unlink(partial)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Give an empty folder in `parent` for one stage's bulk, and remove it afterwards.

    What a killed run left there is removed first.
    """
    folder = Path(parent) / ".partial-scratch"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_digest(content: Any) -> str:
    """Return the SHA-256 of the content's canonical JSON (RFC 8785)."""
    import rfc8785

    return hashlib.sha256(rfc8785.dumps(content)).hexdigest()


def json_text(content: Any) -> str:
    """Return JSON with sorted keys and an end of line: the same content gives the same text.

    Raises:
        ValueError: the content holds NaN or infinity, which JSON cannot say.
    """
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Write `content` as by `json_text`, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(json_text(content), encoding="utf-8")


def stored_text(folder: Path, text: str) -> Path:
    """Write a text under a name that is its hash, unless it is there, and return the file.

    Such a file has no other content, so that processes may write at once, and one that comes with
    another text takes nothing from one that reads. What a power cut left of one is written again.

    Args:
        folder: of the files; it is made.
        text: of a JSON document.
    """
    content = text.encode("utf-8")
    path = Path(folder) / f"{hashlib.sha256(content).hexdigest()}.json"
    if not path.is_file() or path.read_bytes() != content:
        with atomic_path(path) as partial:
            partial.write_bytes(content)
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Read a table of tab-separated values with a line of names, as jipflow writes them."""
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def read_parquet(path: Path | pa.BufferReader, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or what a buffer holds of one; of some columns alone, in their order.

    A process that has read with Arrow's threads may abort or hang when it ends
    (https://github.com/apache/arrow/issues/34314 and 50482), so that no thread is used.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    import pyarrow.parquet as pq

    with _damage(), pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read(columns and list(columns), use_threads=False)
    return table.select(list(columns)) if columns else table


def parquet_batches(
    path: Path | BinaryIO, columns: Sequence[str] | None = None, rows: int = 1 << 16
) -> Iterator[pa.RecordBatch]:
    """Iterate over what `read_parquet` reads, so many rows at a time.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, which may show after some of the rows.
    """
    import pyarrow.parquet as pq

    with _damage(), pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from file.iter_batches(rows, columns=columns and list(columns), use_threads=False)


def parquet_schema(path: Path | BinaryIO) -> pa.Schema:
    """Return the columns of a Parquet file with their types; its rows are not looked at.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    import pyarrow.parquet as pq

    with _damage(), pq.ParquetFile(path) as file:
        return file.schema_arrow


@contextmanager
def _damage() -> Iterator[None]:
    """Raise a ValueError for Arrow's OSError without a number: a page is none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise ValueError(f"a damaged table: {error}") from error
        raise


def read_frame(path: Path | pa.BufferReader, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read as `read_parquet` does, as a data frame."""
    return read_parquet(path, columns).to_pandas(use_threads=False)


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a writer of a Parquet file in pieces, with the checksums of `write_parquet`."""
    import pyarrow.parquet as pq

    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


def write_parquet(path: Path, table: pd.DataFrame | pa.Table) -> None:
    """Write a data frame without its index, or an Arrow table, as Parquet, atomically.

    Each page of values has a checksum, by which `read_parquet` finds a single bit that a disk has
    changed among them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_path(path) as partial:
        if isinstance(table, pa.Table):
            pq.write_table(table, partial, write_page_checksum=True)
        else:
            table.to_parquet(partial, index=False, write_page_checksum=True)

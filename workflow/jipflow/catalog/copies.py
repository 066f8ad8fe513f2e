"""Files of one series, one SOP Instance UID and one size: which of them are copies of another."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa

from jipflow.expressions import quoted
from jipflow.files import parquet_batches, parquet_schema, parquet_writer, sha256_file

STATE = ("path", "bytes", "modified_ns", "changed_ns")
SCHEMA = pa.schema(
    [("path", pa.string())] + [(name, pa.int64()) for name in STATE[1:]] + [("sha256", pa.string())]
)
ROWS = 4096
"""Files whose hashes are held in memory at once."""

ALIKE = (
    f"SELECT {', '.join(STATE)} FROM headers WHERE kind = '' QUALIFY count(*) OVER"
    " (PARTITION BY SOPInstanceUID, SeriesInstanceUID, bytes) > 1"
)
"""Files that may be copies of another one, or may have been changed under their UID."""


def write_hashes(
    connection: duckdb.DuckDBPyConnection, previous: Path, path: Path, threads: int
) -> None:
    """Write the hashes of files that may be copies, which alone are read as a whole.

    Args:
        connection: has the view ``headers``.
        previous: the table of the scan before, whose hashes hold for files that have not changed;
            need not exist.
        path: the table: path, bytes, modified_ns, changed_ns, sha256; by path.
        threads: that read files.

    Raises:
        OSError: a file cannot be read.
    """
    known = _known(previous)
    rows = connection.execute(
        f"SELECT {', '.join(f'a.{name}' for name in STATE)}, k.sha256 FROM ({ALIKE}) a LEFT JOIN"
        f" {known} k USING ({', '.join(STATE)}) ORDER BY a.path"
    )
    with ThreadPoolExecutor(threads) as pool, parquet_writer(path, SCHEMA) as table:
        for piece in _pieces(rows):
            hashes = pool.map(lambda row: row[-1] or sha256_file(Path(row[0])), piece)
            columns = [*zip(*(row[:-1] for row in piece), strict=True), list(hashes)]
            table.write_batch(pa.record_batch([list(c) for c in columns], schema=SCHEMA))


def _pieces(rows: duckdb.DuckDBPyConnection) -> Iterator[list[tuple[str | int, ...]]]:
    while piece := rows.fetchmany(ROWS):
        yield piece


def _known(previous: Path) -> str:
    """Return what to join as the hashes of the scan before; none where its table is damaged."""
    with suppress(OSError, ValueError):
        if parquet_schema(previous).equals(SCHEMA):
            # DuckDB would fail at a damaged page.
            for _ in parquet_batches(previous):
                pass
            return f"read_parquet({quoted(previous)})"
    columns = ", ".join(f"NULL AS {name}" for name in SCHEMA.names)
    return f"(SELECT {columns} WHERE false)"

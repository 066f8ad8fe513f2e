"""Stage `catalog`: read the headers of all files of the sources into a table of series."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

import jipflow
from jipflow.catalog.copies import write_hashes
from jipflow.catalog.headers import (
    HEADER_COLUMNS,
    PLACE_FAULT,
    UNREADABLE,
    read_header,
    read_surely,
    skip,
)
from jipflow.catalog.lost import LOST
from jipflow.catalog.pool import ReadingPool
from jipflow.catalog.unread import Tally, check_place
from jipflow.catalog.walk import LINK, FoundFile, Walk
from jipflow.columns import COLUMNS
from jipflow.expressions import quoted
from jipflow.files import (
    canonical_digest,
    parquet_batches,
    parquet_schema,
    parquet_writer,
    scratch_folder,
    write_json,
)
from jipflow.privacy.erased import Erased
from jipflow.settings.site import Folder

NOBODY = Erased()

CHUNK = 64
"""Files that a process reads before it answers."""

ROWS = 16384
"""Rows of a row group of the table of headers: what is held in memory at once."""

MEMORY = "512MB"
"""What DuckDB may hold of the tables; the rest lies in a temporary folder beside them."""

ARROW_TYPES = {"VARCHAR": pa.string(), "DOUBLE": pa.float64(), "BIGINT": pa.int64()}

FINGERPRINT = canonical_digest(
    [jipflow.__version__, COLUMNS, *(metadata.version(name) for name in ("pydicom", "dicomsdl"))]
)
"""A table of headers is reused only by the code that wrote it."""

SCHEMA = pa.schema(
    [("path", pa.string())]
    + [(name, pa.int64()) for name in ("bytes", "modified_ns", "changed_ns")]
    + [(name, pa.string()) for name in ("kind", "reason", "mended", "SOPInstanceUID")]
    + [(name, ARROW_TYPES[COLUMNS[name]]) for name in (*HEADER_COLUMNS, "Source")],
    metadata={"headers": FINGERPRINT},
)
"""One row per file, in the order of the walk. ``kind`` and ``reason`` are empty for DICOM files."""

INSTANCE_COLUMNS = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "path",
    "bytes",
    "modified_ns",
    "Source",
)

SHARED = (
    "SELECT path, 'its SOP Instance UID is that of files of other series, too: ' || n - 1 FROM"
    " (SELECT path, count(DISTINCT SeriesInstanceUID) OVER (PARTITION BY SOPInstanceUID) AS n FROM"
    " firsts) WHERE n > 1"
)
"""The files whose SOP Instance UID is in several series, and in how many others."""


def run(
    *, sources: Sequence[Folder], out_dir: Path, threads: int, erased: Erased = NOBODY
) -> dict[str, Any]:
    """Catalog every DICOM file below the sources.

    Writes into `out_dir`:

    * ``instances.parquet``: one row per file that is no copy of another one: SOPInstanceUID,
      SeriesInstanceUID, path, bytes, modified_ns, Source; by path.
    * ``series.parquet``: one row per series, columns of `COLUMNS`; by SeriesInstanceUID.
    * ``skipped.parquet``: path, kind (``not_dicom``, ``unreadable``, ``duplicate``, ``link``),
      reason; by path.
    * ``lost.parquet``: a row for each series of which files cannot be read, as `LOST` has it.
    * ``mended.parquet``: path, reason: files that were taken in though something is missing.
    * ``summary.json``: counts: files, dicom_files, not_dicom, unreadable, duplicates, links,
      mended, series, patients. Its ``sources`` counts files and dicom_files of each, its
      ``erased`` the files of patients who were erased.
    * ``hashes.parquet``: a row for each file that has the series, the SOP Instance UID and the size
      of another one, with its SHA-256: only those of the same content are copies.
    * ``headers.parquet``: what was read, one row per file. The next scan does not read a file again
      whose path, size and times are the same: that of its content, which a copy may keep, and that
      at which the system saw it change.

    Memory does not grow with the number of files: tables are written and merged in pieces, and what
    DuckDB sorts and counts beyond `MEMORY` lies on disk, in a folder in `out_dir` that is removed.

    Args:
        sources: the site's folder sources, each with name and path.
        out_dir: folder of the catalog.
        threads: processes that read headers.
        erased: patients whose files are left out and counted; no table has any of them.

    Returns:
        The counts of ``summary.json``, and ``read``: how many files were read this time.

    Raises:
        StageError: the place does not let all be read that the sources hold; nothing is written.
    """
    with scratch_folder(out_dir) as work:
        read, left_out = _write_headers(
            sources, out_dir / "headers.parquet", work / "headers.parquet", threads, erased
        )
        summary = _write_tables(
            work, threads, [source.name for source in sources], out_dir / "hashes.parquet"
        )
        for path in sorted(work.glob("*.parquet")):
            os.replace(path, out_dir / path.name)
    summary["erased"] = left_out
    write_json(out_dir / "summary.json", summary)
    return {**summary, "read": read}


def _write_headers(
    sources: Sequence[Folder], previous: Path, path: Path, threads: int, erased: Erased
) -> tuple[int, int]:
    """Write the table of headers, with the rows of the previous one where it still holds.

    Returns:
        How many files were read, and how many are of patients who were erased.

    Raises:
        StageError: as `run`.
    """
    read = left_out = 0
    walk = Walk(sources)
    tally = {source.name: Tally(source) for source in sources}
    known = Previous(previous, [source.name for source in sources])
    pool = ReadingPool(read_header, read_surely, _lost, threads)
    with pool, RowGroups(path) as table:
        waiting: deque[pa.RecordBatch | tuple[list[FoundFile], list[str], Future[Any]]] = deque()
        for piece in _pieces(walk, known):
            if isinstance(piece, pa.RecordBatch):
                waiting.append(piece)
            else:
                paths = [found.path for found in piece if not found.kind]
                read += len(paths)
                waiting.append((piece, paths, pool.submit(paths)))
            while waiting and (
                len(waiting) > 4 * threads + 4 or isinstance(waiting[0], pa.RecordBatch)
            ):
                left_out += table.add_but(
                    erased, _counted(_finished(pool, waiting.popleft()), tally)
                )
        while waiting:
            left_out += table.add_but(erased, _counted(_finished(pool, waiting.popleft()), tally))
    check_place(tally.values(), walk.empty, previous)
    return read, left_out


def _counted(batch: pa.RecordBatch, tally: Mapping[str, Tally]) -> pa.RecordBatch:
    """Count the rows of a batch by their sources, and return it."""
    looked_at = batch.filter(pc.not_equal(batch["kind"], LINK))
    for count in looked_at["Source"].value_counts().to_pylist():
        tally[count["values"]].seen += count["counts"]
    for row in batch.filter(pc.equal(batch["kind"], PLACE_FAULT)).to_pylist():
        tally[row["Source"]].add(row["path"], row["reason"])
    return batch


def _pieces(
    found: Iterable[FoundFile], known: Previous
) -> Iterator[pa.RecordBatch | list[FoundFile]]:
    """Divide the walk into runs of rows that are known and lists of what is not."""
    fresh: list[FoundFile] = []
    run: tuple[pa.RecordBatch, int, int] | None = None
    for item in found:
        place = known.find(item)
        if run and (place is None or place[0] is not run[0] or place[1] != run[2]):
            yield run[0].slice(run[1], run[2] - run[1])
            run = None
        if place is not None:
            if fresh:
                yield fresh
                fresh = []
            run = (place[0], run[1] if run else place[1], place[1] + 1)
            continue
        fresh.append(item)
        if len(fresh) == CHUNK:
            yield fresh
            fresh = []
    if run:
        yield run[0].slice(run[1], run[2] - run[1])
    if fresh:
        yield fresh


def _finished(
    pool: ReadingPool, piece: pa.RecordBatch | tuple[list[FoundFile], list[str], Future[Any]]
) -> pa.RecordBatch:
    """Return the rows of a piece of the walk, waiting for the processes that read it."""
    if isinstance(piece, pa.RecordBatch):
        return piece
    items, paths, future = piece
    headers = iter(pool.rows(paths, future))
    rows = []
    for item in items:
        header = skip(item.kind, item.reason) if item.kind else next(headers)
        rows.append(
            {
                "kind": "",
                "reason": "",
                "mended": "",
                **header,
                "path": item.path,
                "bytes": item.bytes,
                "modified_ns": item.modified_ns,
                "changed_ns": item.changed_ns,
                "Source": item.source,
            }
        )
    return pa.RecordBatch.from_pylist(rows, SCHEMA)


def _is_of(erased: Erased, patient: str | None, path: str) -> bool:
    """Whether a file is of an erased patient: by its header, or by its path where it has none."""
    return patient in erased or (not patient and any(_named(erased, p) for p in Path(path).parts))


@lru_cache(maxsize=100_000)
def _named(erased: Erased, part: str) -> bool:
    """Whether a PatientID stands in the name of a file or folder, between its words."""
    words = [(word.start(), word.end()) for word in re.finditer(r"[^\W_]+", part)]
    runs = combinations_with_replacement(words, 2)
    return part in erased or any(part[first[0] : last[1]] in erased for first, last in runs)


def _lost(path: str) -> dict[str, Any]:
    return skip(UNREADABLE, "the process that read it crashed; the file is damaged")


class Previous:
    """The table of headers of the scan before, read along with the walk.

    Both are in the same order, so that one pass finds every row again. A row that is found is of
    the same source and path, and of a file whose size and time have not changed. What could not be
    read is never found: permissions may have been fixed.

    Args:
        path: the table; where there is none, or other code wrote it, nothing is found.
        sources: the names of the sources, in their order.
    """

    def __init__(self, path: Path, sources: Sequence[str]) -> None:
        self._position = {name: position for position, name in enumerate(sources)}
        self._batches = self._open(path)
        self._batch: pa.RecordBatch = pa.RecordBatch.from_pylist([], SCHEMA)
        self._rows: list[tuple[Any, ...]] = []
        self._row = 0
        self._advance(0)

    @staticmethod
    def _open(path: Path) -> Iterator[pa.RecordBatch]:
        """Iterate over an earlier catalog's rows, up to a damage; none of other columns."""
        with suppress(OSError, ValueError):
            if parquet_schema(path).equals(SCHEMA, check_metadata=True):
                yield from parquet_batches(path, rows=ROWS)

    def _advance(self, row: int) -> None:
        """Go to a row, of the next batch where this one has ended."""
        self._row = row
        while self._row >= len(self._rows):
            batch = next(self._batches, None)
            if batch is None:
                self._rows = []
                return
            columns = ("Source", "path", "bytes", "modified_ns", "changed_ns", "kind")
            self._rows = list(zip(*(batch[name].to_pylist() for name in columns), strict=True))
            self._batch, self._row = batch, 0

    def find(self, item: FoundFile) -> tuple[pa.RecordBatch, int] | None:
        """Return the batch and the row of a file that need not be read again, or None."""
        while self._rows:
            source, path, size, modified, changed, kind = self._rows[self._row]
            if source == item.source and path == item.path:
                place = self._batch, self._row
                self._advance(self._row + 1)
                now = (item.bytes, item.modified_ns, item.changed_ns)
                same = (size, modified, changed) == now
                return place if same and not item.kind and kind not in (UNREADABLE, LINK) else None
            here = (self._position.get(source, -1), FoundFile(source, path).order())
            if here > (self._position[item.source], item.order()):
                return None
            self._advance(self._row + 1)
        return None


class RowGroups:
    """A Parquet file that is written in row groups of the same size, whatever comes in pieces."""

    def __init__(self, path: Path) -> None:
        self._writer = parquet_writer(path, SCHEMA)
        self._held: list[pa.RecordBatch] = []
        self._rows = 0

    def __enter__(self) -> RowGroups:
        return self

    def __exit__(self, *error: object) -> None:
        self._write(self._rows)
        self._writer.close()

    def add_but(self, erased: Erased, batch: pa.RecordBatch) -> int:
        """Append rows but those of erased patients; return how many these are."""
        if erased.hashes:
            rows = batch.select(["PatientID", "path"]).to_pylist()
            kept = [not _is_of(erased, row["PatientID"], row["path"]) for row in rows]
            whole, batch = batch, batch.filter(pa.array(kept, pa.bool_()))
            self.add(batch)
            return len(whole) - len(batch)
        self.add(batch)
        return 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._held.append(batch)
        self._rows += len(batch)
        while self._rows >= ROWS:
            self._write(ROWS)

    def _write(self, rows: int) -> None:
        if rows:
            table = pa.Table.from_batches(self._held, SCHEMA)
            self._writer.write_table(table.slice(0, rows).combine_chunks(), row_group_size=rows)
            self._held = table.slice(rows).to_batches()
            self._rows -= rows


def _write_tables(work: Path, threads: int, sources: Sequence[str], hashes: Path) -> dict[str, Any]:
    """Derive instances, series and what was skipped from the headers; count them."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY,
        "temp_directory": str(work / "spill"),
        "threads": threads,
        "preserve_insertion_order": True,
    }
    columns = ", ".join(
        "n AS NumberOfInstances" if name == "NumberOfInstances" else f'h."{name}"'
        for name in COLUMNS
    )
    with duckdb.connect(str(work / "tables.duckdb"), config=config) as connection:
        connection.execute(
            f"CREATE VIEW headers AS FROM read_parquet({quoted(work / 'headers.parquet')})"
        )
        write_hashes(connection, hashes, work / "hashes.parquet", threads)
        connection.execute(
            "CREATE VIEW found AS SELECT h.*, coalesce(s.sha256, '') AS sha256 FROM headers h"
            f" LEFT JOIN read_parquet({quoted(work / 'hashes.parquet')}) s USING (path)"
            " WHERE h.kind = ''"
        )
        connection.execute(
            "CREATE TABLE firsts AS SELECT SOPInstanceUID, SeriesInstanceUID, bytes, sha256,"
            " min(path) AS path FROM found"
            " GROUP BY SOPInstanceUID, SeriesInstanceUID, bytes, sha256"
        )
        _copy(
            connection,
            work / "instances.parquet",
            f"SELECT {', '.join(f'h.{name}' for name in INSTANCE_COLUMNS)}"
            " FROM headers h SEMI JOIN firsts USING (path) WHERE h.kind = '' ORDER BY path",
        )
        _copy(
            connection,
            work / "series.parquet",
            f"SELECT {columns} FROM headers h JOIN (SELECT min(path) AS path,"
            " count(DISTINCT SOPInstanceUID) AS n FROM"
            f" read_parquet({quoted(work / 'instances.parquet')}) GROUP BY SeriesInstanceUID)"
            " USING (path) WHERE h.kind = '' ORDER BY h.SeriesInstanceUID",
        )
        _copy(
            connection,
            work / "skipped.parquet",
            "SELECT path, kind, reason FROM headers WHERE kind <> '' UNION ALL"
            " SELECT h.path, 'duplicate', 'the same SOP Instance UID and content as ' ||"
            " firsts.path FROM found h JOIN firsts USING"
            " (SOPInstanceUID, SeriesInstanceUID, bytes, sha256) WHERE h.path <> firsts.path"
            " ORDER BY path, kind",
        )
        _copy(connection, work / "lost.parquet", LOST)
        _copy(
            connection,
            work / "mended.parquet",
            "SELECT path, mended AS reason FROM headers WHERE kind = '' AND mended <> ''"
            f" UNION ALL {SHARED} ORDER BY path, reason",
        )
        kinds = dict(
            connection.execute(
                "SELECT kind, count(*) FROM read_parquet(?) GROUP BY kind",
                [str(work / "skipped.parquet")],
            ).fetchall()
        )
        dicom, repaired = _row(
            connection,
            "SELECT (SELECT count(*) FROM headers WHERE kind = ''), (SELECT count(DISTINCT path)"
            f" FROM read_parquet({quoted(work / 'mended.parquet')}))",
        )
        by_source = _files_by_source(connection, sources)
        series, patients = _row(
            connection,
            "SELECT count(*), count(DISTINCT nullif(PatientID, ''))"
            f" FROM read_parquet({quoted(work / 'series.parquet')})",
        )
    (work / "tables.duckdb").unlink()
    unreadable, foreign = kinds.get("unreadable", 0), kinds.get("not_dicom", 0)
    return {
        "files": dicom + unreadable + foreign,
        "dicom_files": dicom + unreadable,
        "not_dicom": foreign,
        "unreadable": unreadable,
        "duplicates": kinds.get("duplicate", 0),
        "links": kinds.get(LINK, 0),
        "mended": repaired,
        "series": series,
        "patients": patients,
        "sources": by_source,
    }


def _files_by_source(
    connection: duckdb.DuckDBPyConnection, sources: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count the files of each source, and those of them that are DICOM, readable or not."""
    counted = connection.execute(
        "SELECT Source, count(*), count(*) FILTER (kind <> 'not_dicom')"
        " FROM headers WHERE kind <> ? GROUP BY Source",
        [LINK],
    ).fetchall()
    found = {name: (files, dicom) for name, files, dicom in counted}
    return {
        name: dict(zip(("files", "dicom_files"), found.get(name, (0, 0)), strict=True))
        for name in sources
    }


def _copy(connection: duckdb.DuckDBPyConnection, path: Path, query: str) -> None:
    connection.execute(f"COPY ({query}) TO {quoted(path)} (FORMAT parquet, COMPRESSION zstd)")


def _row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row

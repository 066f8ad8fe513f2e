"""Stage `catalog`: read the headers of all files of the sources into a table of series."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import MediaStorageDirectoryStorage

from jipflow.catalog.columns import COLUMNS
from jipflow.files import write_json, write_parquet

PER_SERIES = tuple(
    name
    for name in COLUMNS
    if name
    not in {
        "NumberOfInstances",
        "Source",
        "PixelSpacingRow",
        "PixelSpacingColumn",
        "TransferSyntaxUID",
    }
)
READ = [*PER_SERIES, "SOPInstanceUID", "PixelSpacing"]
CHUNK = 64
"""Files that a process reads before it answers."""


def scan(sources: Sequence[dict[str, Any]], out_dir: Path, threads: int) -> dict[str, int]:
    """Catalog every DICOM file below the sources.

    Writes into `out_dir`:

    * ``instances.parquet``: one row per distinct SOP Instance UID: SOPInstanceUID,
      SeriesInstanceUID, path, bytes, modified_ns, Source.
    * ``series.parquet``: one row per series, columns of `COLUMNS`.
    * ``skipped.parquet``: path, kind (``not_dicom``, ``unreadable``, ``duplicate``), reason.
    * ``summary.json``: the counts that are returned.

    Args:
        sources: the site's sources, each with name, kind and path.
        out_dir: folder of the catalog.
        threads: processes that read headers.

    Returns:
        Counts: files, dicom_files, not_dicom, unreadable, duplicates, series, patients.
    """
    headers: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for source in sources:
        paths = list(walk(Path(source["path"]), skipped))
        for row in _read_all(paths, threads):
            if "kind" in row:
                skipped.append(row)
            else:
                headers.append({**row, "Source": source["name"]})
    instances, duplicates = _distinct(headers)
    skipped.extend(duplicates)
    series = _series_table(instances)
    skipped.sort(key=lambda row: row["path"])
    kinds = Counter(row["kind"] for row in skipped)
    summary = {
        "files": len(headers) + len(skipped) - len(duplicates),
        "dicom_files": len(headers) + kinds["unreadable"],
        "not_dicom": kinds["not_dicom"],
        "unreadable": kinds["unreadable"],
        "duplicates": len(duplicates),
        "series": len(series),
        "patients": int(series["PatientID"].replace("", None).nunique()),
    }
    fields = [
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "path",
        "bytes",
        "modified_ns",
        "Source",
    ]
    write_parquet(
        out_dir / "instances.parquet",
        pd.DataFrame([{k: row[k] for k in fields} for row in instances], columns=fields),
    )
    write_parquet(out_dir / "series.parquet", series)
    write_parquet(
        out_dir / "skipped.parquet",
        pd.DataFrame(skipped, columns=["path", "kind", "reason"]).astype(str),
    )
    write_json(out_dir / "summary.json", summary)
    return summary


def walk(folder: Path, skipped: list[dict[str, str]]) -> Iterator[Path]:
    """Yield the files below a folder in sorted order; what cannot be read is `skipped`."""

    def refuse(error: OSError) -> None:
        skipped.append(
            {"path": str(error.filename), "kind": "unreadable", "reason": str(error.strerror)}
        )

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if ascii(str(path)).count("\\udc"):
                reason = "the file name is not UTF-8; rename it"
                skipped.append(_skip(Path(ascii(str(path))), "unreadable", reason))
            else:
                yield path


def _read_all(paths: list[Path], threads: int) -> Iterator[dict[str, Any]]:
    if threads <= 1 or len(paths) <= CHUNK:
        yield from map(read_header, paths)
        return
    with ProcessPoolExecutor(threads, mp_context=get_context("forkserver")) as pool:
        yield from pool.map(read_header, paths, chunksize=CHUNK)


def read_header(path: Path) -> dict[str, Any]:
    """Read what the catalog needs of one file, without its pixels.

    Returns:
        The values by column, with path, bytes and SOPInstanceUID; or path, kind and reason of a
        file that is no DICOM image or cannot be read.
    """
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
    except InvalidDicomError:
        return _skip(path, "not_dicom", "no DICOM file meta information")
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        return _skip(path, "unreadable", f"{type(error).__name__}: {error}")
    try:
        row = _row(dataset)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        return _skip(path, "unreadable", f"a header value is broken: {error}")
    if dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return _skip(path, "not_dicom", "a DICOMDIR, which lists files but holds none")
    absent = [name for name in ("SOPInstanceUID", "SeriesInstanceUID") if not row[name]]
    if absent:
        return _skip(path, "unreadable", f"{' and '.join(absent)} missing; is the file cut short?")
    status = path.stat()
    return {
        **row,
        "path": str(path),
        "bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
    }


def _skip(path: Path, kind: str, reason: str) -> dict[str, str]:
    return {"path": str(path), "kind": kind, "reason": reason}


def _row(dataset: FileDataset) -> dict[str, Any]:
    row = {name: _value(dataset.get(name), COLUMNS.get(name, "VARCHAR")) for name in PER_SERIES}
    row["SOPInstanceUID"] = _value(dataset.get("SOPInstanceUID"), "VARCHAR")
    row["TransferSyntaxUID"] = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    spacing = dataset.get("PixelSpacing") or [None, None]
    row["PixelSpacingRow"] = _value(spacing[0], "DOUBLE")
    row["PixelSpacingColumn"] = _value(spacing[1], "DOUBLE")
    return row


def _value(value: Any, kind: str) -> Any:
    """Return a header value as the column's type; an absent one as empty text or None."""
    if kind == "VARCHAR":
        if value is None:
            return ""
        return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    return float(value) if kind == "DOUBLE" else int(value)


def _distinct(
    headers: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Keep the first file by path of each SOP Instance UID; the others are duplicates."""
    first: dict[str, dict[str, Any]] = {}
    duplicates = []
    for row in sorted(headers, key=lambda row: row["path"]):
        kept = first.setdefault(row["SOPInstanceUID"], row)
        if kept is not row:
            duplicates.append(
                _skip(row["path"], "duplicate", f"the same SOP Instance UID as {kept['path']}")
            )
    return list(first.values()), duplicates


def _series_table(instances: list[dict[str, Any]]) -> pd.DataFrame:
    """Describe each series by its first instance by path, and count its instances."""
    types = {"VARCHAR": "str", "DOUBLE": "float64", "BIGINT": "Int64"}
    frame = pd.DataFrame(instances, columns=[*COLUMNS, "SOPInstanceUID", "path", "bytes"])
    counts = frame.groupby("SeriesInstanceUID").size()
    series = frame.drop_duplicates("SeriesInstanceUID").sort_values("SeriesInstanceUID")
    series["NumberOfInstances"] = series["SeriesInstanceUID"].map(counts)
    series = series[list(COLUMNS)].reset_index(drop=True)
    return series.astype({name: types[kind] for name, kind in COLUMNS.items()})

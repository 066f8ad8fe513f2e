"""Download manifests of public archives, as a filter of a protocol's cohort.

The Imaging Data Commons (IDC) of the National Cancer Institute gives commands of s5cmd, a line a
series, and tables; The Cancer Imaging Archive (TCIA) gives lists of SeriesInstanceUIDs with a few
lines before them, and tables. A line of s5cmd names the folder of a series in IDC's buckets, which
is called by a UUID (``crdc_series_uuid``) and not by its SeriesInstanceUID.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from jipflow.expressions import LONGEST
from jipflow.files import parquet_batches, parquet_schema
from jipflow.reasons import StageError

MOST_BYTES = 100_000_000
"""Most bytes of a manifest: a million lines."""

LONGEST_LINE = 10_000
"""Most characters of a line."""

PREAMBLE = 100
"""Lines within which a table has the names of its columns: IDC's begin with a few about the cohort.
"""

UID = re.compile(r"(?=.{1,64}\Z)[0-2](?:\.(?:0|[1-9]\d*))+")
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
IN_FOLDER = re.compile(r"[A-Z][A-Z0-9]+_([0-2](?:\.\d+)+)")
"""The last folder of idc-index's layout, ``%Modality_%SeriesInstanceUID``."""

SERIES_COLUMNS = ("seriesinstanceuid", "seriesuid")
"""How tables call the SeriesInstanceUID, in small letters and without what stands between them."""
FOLDER_COLUMNS = ("crdcseriesuuid", "seriesuuid")
"""How they call the UUID."""

START = "ListOfSeriesToDownload="
"""What the UIDs of a TCIA manifest stand behind."""


@dataclass
class Manifest:
    """What a manifest names.

    Attributes:
        series: SeriesInstanceUIDs.
        folders: UUIDs of series of which it gives no SeriesInstanceUID.
    """

    series: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; of which kind it is, its first line says.

    Args:
        path: commands of s5cmd, a list of TCIA, or a table with commas, tabs or semicolons and a
            column of SeriesInstanceUIDs, or else of UUIDs.

    Raises:
        StageError: it is none, is too large, or a line is malformed; the message has its number.
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise StageError(f"{path} has more than {MOST_BYTES:,} bytes; split it.")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise _wrong(path, number, "is not UTF-8") from None
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_LINE:
            raise _wrong(path, number, f"has more than {LONGEST_LINE:,} characters")
    first = next((line.strip() for line in lines if line.strip() and line[0] != "#"), "")
    if re.match(r"(s5cmd|cp|sync)\s", first):
        found = _commands(path, lines)
    elif re.match(r"[A-Za-z]\w*=", first):
        found = _list(path, lines)
    else:
        found = _table(path, lines)
    if not found.series and not found.folders:
        raise StageError(f"{path} names no series.")
    return found


def _wrong(path: Path, number: int, what: str) -> StageError:
    return StageError(f"{path}, line {number}: {what}; nothing was taken from the manifest.")


def _commands(path: Path, lines: Collection[str]) -> Manifest:
    """Read commands such as ``cp s3://idc-open-data/<UUID>/* .``."""
    found = Manifest()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            raise _wrong(path, number, "has a quotation mark that is not closed") from None
        words = words[1:] if words[0] == "s5cmd" else words
        sources = [word for word in words if word.startswith(("s3://", "gs://"))]
        if not words or words[0] not in {"cp", "sync"} or len(sources) != 1 or len(words) < 3:
            raise _wrong(path, number, "is no command `cp s3://BUCKET/SERIES/* FOLDER`")
        parts = sources[0].partition("://")[2].split("/")[1:]
        # Above the series there may be its study. What is copied is an instance below it; what is
        # kept in step, a folder.
        instance = parts[-1:] if words[0] == "cp" else []
        above = [*reversed(parts[: len(parts) - len(instance)]), *instance]
        uid = next((part for part in above if UID.fullmatch(part)), None)
        folder = next((part for part in parts if UUID.fullmatch(part.lower())), None)
        target = IN_FOLDER.fullmatch(PurePosixPath(words[-1]).name)
        if target and UID.fullmatch(target[1]):
            uid = uid or target[1]
        if uid:
            found.series.add(uid)
        elif folder:
            found.folders.add(folder.lower())
        else:
            raise _wrong(path, number, "names neither a SeriesInstanceUID nor the UUID of a series")
    return found


def _list(path: Path, lines: Collection[str]) -> Manifest:
    """Read settings of TCIA's downloader, and the UIDs that stand behind them."""
    found = Manifest()
    listing = False
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if not listing:
            if not re.match(r"[A-Za-z]\w*=", text):
                raise _wrong(path, number, f"is no setting, and {START} has not come yet")
            listing = text.startswith(START)
            text = text.removeprefix(START) if listing else ""
        if text and not UID.fullmatch(text):
            raise _wrong(path, number, "is no SeriesInstanceUID")
        found.series |= {text} - {""}
    if not listing:
        raise StageError(f"{path} has no line {START}, behind which the series stand.")
    return found


def _table(path: Path, lines: Collection[str]) -> Manifest:
    """Read the column of a table."""
    number, separator, place, kind = _header(path, list(lines)[:PREAMBLE])
    rows = csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, strict=True)
    found, width = Manifest(), 0
    try:
        for row in rows:
            if rows.line_num == number:
                width = len(row)
            if rows.line_num <= number or not any(cell.strip() for cell in row):
                continue
            text = row[place].strip() if len(row) == width else ""
            if kind == "series" and UID.fullmatch(text):
                found.series.add(text)
            elif kind == "folders" and UUID.fullmatch(text.lower()):
                found.folders.add(text.lower())
            else:
                what = "SeriesInstanceUID" if kind == "series" else "UUID of a series"
                raise _wrong(path, rows.line_num, f"has no {what} in its column")
    except csv.Error:
        raise _wrong(path, rows.line_num, "is no row of a table") from None
    return found


def _header(path: Path, lines: list[str]) -> tuple[int, str, int, str]:
    """Return number and separator of the line of names, and place and kind of the column."""
    for kind, known in (("series", SERIES_COLUMNS), ("folders", FOLDER_COLUMNS)):
        for number, line in enumerate(lines, 1):
            for separator in (",", "\t", ";"):
                cells = [cell.strip().strip('"') for cell in line.split(separator)]
                names = [re.sub(r"[^a-z]", "", cell.lower()) for cell in cells]
                places = [place for place, name in enumerate(names) if name in known]
                if len(places) == 1:
                    return number, separator, places[0], kind
    raise StageError(
        f"{path} is no manifest: it has no command of s5cmd, no {START}, and no column "
        "SeriesInstanceUID or crdc_series_uuid in its first lines."
    )


def resolve(manifest: Manifest, index: Path | None, catalog: Path | None) -> set[str]:
    """Return the UUIDs of series that nothing gives a SeriesInstanceUID of; the others become one.

    Args:
        manifest: it is completed.
        index: IDC's index, such as ``idc_index.parquet`` of the package idc-index-data, or a CSV
            with its columns ``crdc_series_uuid`` and ``SeriesInstanceUID``.
        catalog: folder of a catalog; a file in a folder that is called by a UUID states its
            SeriesInstanceUID there.

    Raises:
        StageError: the index is none.
        OSError: a file cannot be read.
    """
    known: dict[str, str] = {}
    if manifest.folders and index is not None:
        known |= _of_index(index)
    if manifest.folders and catalog is not None:
        for row in _columns(catalog / "instances.parquet", ["SeriesInstanceUID", "path"]):
            for folder in manifest.folders.intersection(map(str.lower, Path(row["path"]).parts)):
                known.setdefault(folder, row["SeriesInstanceUID"])
    # What a header or an index has may be anything, and goes into an expression.
    known = {folder: uid for folder, uid in known.items() if UID.fullmatch(uid or "")}
    manifest.series |= {known[folder] for folder in manifest.folders if folder in known}
    manifest.folders = {folder for folder in manifest.folders if folder not in known}
    return manifest.folders


def _of_index(path: Path) -> dict[str, str]:
    """Return the SeriesInstanceUID of each UUID of an index."""
    names = ("crdc_series_uuid", "SeriesInstanceUID")
    if path.suffix == ".parquet":
        rows: Iterator[Mapping[str, Any]] = _columns(path, list(names))
        return {str(row[names[0]]).lower(): str(row[names[1]]) for row in rows}
    with open(path, encoding="utf-8-sig", newline="") as stream:
        table = csv.DictReader(stream)
        if not set(names) <= set(table.fieldnames or ()):
            raise StageError(f"{path} has no columns {' and '.join(names)}; name IDC's index.")
        return {str(row[names[0]]).lower(): str(row[names[1]]) for row in table}


def _columns(path: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    try:
        if not set(names) <= set(parquet_schema(path).names):
            raise StageError(f"{path} has no columns {' and '.join(names)}.")
        for batch in parquet_batches(path, names):
            yield from batch.to_pylist()
    except ValueError:
        raise StageError(f"{path} is no Parquet table that can be read.") from None


def series_of(catalog: Path) -> set[str]:
    """Return the SeriesInstanceUIDs of a catalog."""
    rows = _columns(catalog / "series.parquet", ["SeriesInstanceUID"])
    return {row["SeriesInstanceUID"] for row in rows}


def condition(series: Collection[str]) -> str:
    """Return the condition of a cohort that takes these series and no others, over several lines.

    Raises:
        StageError: they are more than an expression has room for.
    """
    listed = ",\n  ".join(f"'{uid}'" for uid in sorted(series))
    text = f"SeriesInstanceUID IN (\n  {listed}\n)"
    if len(text) > LONGEST:
        raise StageError(
            f"{len(series):,} series make an expression of {len(text):,} characters, and "
            f"cohort.where takes {LONGEST:,}: write a condition by what they have in common, such "
            "as PatientID or BodyPartExamined, or make a catalog of their folder alone."
        )
    return text

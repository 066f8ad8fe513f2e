"""Rows of the CSV files that a site gives."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from jipflow.reasons import StageError
from jipflow.settings.names import among

SEPARATORS = (",", ";", "\t", "|")
UNNAMED = (
    ", nor any other that is read: its first line must have the names of the columns, with one "
    "separator between them."
)


def read_rows(
    path: Path,
    needed: Mapping[str, str],
    *,
    separator: str | None = None,
    encoding: str = "utf-8",
    fix: str = "save it as UTF-8",
) -> Iterator[tuple[dict[str, str], int]]:
    """Yield each row by column, and how many cells it has more than the first line, or fewer (< 0).

    Rows without any text are left out.

    Args:
        path: the file; a byte order mark is skipped.
        needed: columns that must be there, and what names them, for the message.
        separator: what stands between columns; without it what the first line has most of.
        encoding: how the file is encoded.
        fix: what to do where it is encoded otherwise.

    Raises:
        StageError: it is no such file, or lacks a column; names the file and the column.
        OSError: it cannot be read.
    """
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    with open(path, encoding=encoding, newline="") as stream:
        try:
            first = stream.readline()
            between = separator or max(SEPARATORS, key=first.count)
            stream.seek(0)
            lines = csv.reader(stream, delimiter=between, strict=True)
            header = [name.strip() for name in next(lines, [])]
            _check_header(path, header, needed)
            for line in lines:
                if any(cell.strip() for cell in line):
                    filled = line + [""] * (len(header) - len(line))
                    yield dict(zip(header, filled, strict=False)), len(line) - len(header)
        except UnicodeDecodeError:
            raise StageError(f"{path} is not encoded as {encoding}; {fix}.") from None
        except csv.Error as error:
            raise StageError(f"{path} is no table that can be read: {error}; fix it.") from None


def _check_header(path: Path, header: list[str], needed: Mapping[str, str]) -> None:
    for column, key in needed.items():
        if column not in header:
            # A first line without any name of the map may be that of a patient.
            named = any(name in header for name in needed)
            rest = among(column, header, "it has") if named else UNNAMED
            raise StageError(f"{path} has no column {column!r}, which {key} names{rest}")
        if header.count(column) > 1:
            raise StageError(f"{path} has the column {column!r} twice; rename one.")

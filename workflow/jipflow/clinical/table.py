"""Clinical data in a CSV file, with a row a patient or a row a record."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date, datetime
from pathlib import Path

from jipflow.clinical.records import Record, Records
from jipflow.reasons import StageError
from jipflow.settings.clinical import CsvMap, MappedColumn
from jipflow.settings.names import among

SEPARATORS = (",", ";", "\t", "|")
LINK_COLUMNS = ("PatientID", "identifier")
UNNAMED = (
    ", nor any other that is read: its first line must have the names of the columns, with the "
    "map's separator between them."
)


def read_table(
    path: Path, mapped: CsvMap, names: Collection[str], wanted: Callable[[str], bool]
) -> dict[str, Records]:
    """Read the records of variables from a CSV file.

    Args:
        path: the file; a byte order mark is skipped.
        mapped: the site's map of it.
        names: of the variables.
        wanted: says of an identifier whether its patient is of the cohort.

    Returns:
        By variable, the records of each patient that is wanted, in the order of the file.

    Raises:
        StageError: it is no such file, or lacks a column; names the file and the column.
        OSError: it cannot be read.
    """
    found: dict[str, dict[str, list[Record]]] = {name: defaultdict(list) for name in names}
    columns = {name: mapped.variables[name] for name in names}
    needed = {mapped.patient: "patient"}
    for name, entry in columns.items():
        needed |= dict.fromkeys(_columns(entry), f"variables.{name}")
    rows = _rows(path, mapped.separator, mapped.encoding, needed)
    for row, broken in rows:
        patient = row[mapped.patient].strip()
        if not patient or not wanted(patient):
            continue
        for name, entry in columns.items():
            if broken or _is_of(row, entry):
                found[name][patient].append(_record(row, entry, mapped.dates, broken))
    return {name: dict(of) for name, of in found.items()}


def read_link(path: Path) -> dict[str, list[str]]:
    """Read what the clinical data call each patient of the images.

    Args:
        path: a CSV file with the columns `LINK_COLUMNS`.

    Returns:
        By PatientID its identifiers, each once.

    Raises:
        StageError: it is no such file.
        OSError: it cannot be read.
    """
    found: dict[str, list[str]] = defaultdict(list)
    needed = dict.fromkeys(LINK_COLUMNS, "patients")
    for number, (row, broken) in enumerate(_rows(path, None, "utf-8", needed), start=2):
        if broken:
            raise StageError(f"{path}: row {number} has another number of cells; fix it.")
        patient, identifier = (row[name].strip() for name in LINK_COLUMNS)
        if patient and identifier and identifier not in found[patient]:
            found[patient].append(identifier)
    return {patient: names for patient, names in found.items() if names}


def _columns(entry: MappedColumn) -> list[str]:
    named = [entry.value, entry.date, entry.unit_column, *(entry.only or ())]
    return [column for column in named if column is not None]


def _rows(
    path: Path, separator: str | None, encoding: str, needed: Mapping[str, str]
) -> Iterator[tuple[dict[str, str], bool]]:
    """Yield each row by column, and whether it has another number of cells than the first line."""
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
                    yield dict(zip(header, filled, strict=False)), len(line) != len(header)
        except UnicodeDecodeError:
            raise StageError(
                f"{path} is not encoded as {encoding}; name its encoding in the map (encoding)."
            ) from None
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


def _is_of(row: Mapping[str, str], entry: MappedColumn) -> bool:
    return all(row[column].strip() == text for column, text in (entry.only or {}).items())


def _record(row: Mapping[str, str], entry: MappedColumn, dates: str, broken: bool) -> Record:
    def cell(column: str | None) -> str:
        return row[column].strip() if column is not None else ""

    return Record(
        cell(entry.value), _date(cell(entry.date), dates), cell(entry.unit_column), broken
    )


def _date(text: str, written: str) -> date | None:
    try:
        return datetime.strptime(text, written).date()
    except ValueError:
        return None

"""Clinical data in a CSV file, with a row a patient or a row a record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from pathlib import Path

from jipflow.clinical.records import Record, Records
from jipflow.reasons import StageError
from jipflow.rows import read_rows
from jipflow.settings.clinical import CsvMap, MappedColumn

LINK_COLUMNS = ("PatientID", "identifier")
FIX = "name its encoding in the map (encoding)"


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
    rows = read_rows(path, needed, separator=mapped.separator, encoding=mapped.encoding, fix=FIX)
    for row, more in rows:
        patient = row[mapped.patient].strip()
        if not patient or not wanted(patient):
            continue
        for name, entry in columns.items():
            if more or _is_of(row, entry):
                found[name][patient].append(_record(row, entry, mapped.dates, bool(more)))
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
    for number, (row, more) in enumerate(read_rows(path, needed), start=2):
        if more:
            raise StageError(f"{path}: row {number} has another number of cells; fix it.")
        patient, identifier = (row[name].strip() for name in LINK_COLUMNS)
        if patient and identifier and identifier not in found[patient]:
            found[patient].append(identifier)
    return {patient: names for patient, names in found.items() if names}


def _columns(entry: MappedColumn) -> list[str]:
    named = [entry.value, entry.date, entry.unit_column, *(entry.only or ())]
    return [column for column in named if column is not None]


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

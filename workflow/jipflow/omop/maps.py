"""The site's own maps: which person a patient is in the warehouse, and which concept a code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from jipflow.reasons import StageError
from jipflow.rows import read_rows

PERSONS = ("patient_id", "person_id")
STUDIES = ("study_uid", "visit_occurrence_id", "procedure_occurrence_id")
CONCEPTS = ("code_system", "code", "concept_id")


class ConceptMap:
    """Concepts of codes, and how often each code was asked for.

    Attributes:
        asked: by code system and code, rows that bear it.
    """

    def __init__(self, concepts: Mapping[tuple[str, str], int]) -> None:
        self._concepts = concepts
        self.asked: Counter[tuple[str, str]] = Counter()

    def find(self, system: str, code: str, rows: int = 1) -> int:
        """Return a code's concept_id; 0 where there is none, as the conventions of the CDM say."""
        self.asked[system, code] += rows
        return self._concepts.get((system, code), 0)

    def unmapped(self) -> dict[tuple[str, str], int]:
        """Return the codes that were asked for and have no concept, with their rows."""
        return {
            key: n for key, n in sorted(self.asked.items()) if not self._concepts.get(key, 0) and n
        }


def read_persons(path: Path, database: Path | None = None) -> dict[str, int]:
    """Read which person_id a PatientID has.

    Args:
        path: a CSV with the columns of `PERSONS`, or a file ``.sql`` with one SELECT of them.
        database: the DuckDB file that a SELECT asks; it is opened read-only.

    Raises:
        StageError: a column is missing, an id is no number, or a patient has two persons.
    """
    persons: dict[str, int] = {}
    for number, row in enumerate(_rows(path, PERSONS, database), start=1):
        patient, person = row["patient_id"], _number(path, number, "person_id", row["person_id"])
        if person is None or persons.setdefault(patient, person) != person:
            raise StageError(
                f"{path}: row {number}: the patient has no person_id, or two; give each one."
            )
    return persons


def read_studies(
    path: Path, database: Path | None = None
) -> dict[str, tuple[int | None, int | None]]:
    """Read visit_occurrence_id and procedure_occurrence_id by StudyInstanceUID.

    Args:
        path: as by `read_persons`, with the columns of `STUDIES`; an id may be empty.
        database: as by `read_persons`.

    Raises:
        StageError: a column is missing, an id is no number, or a study stands there twice.
    """
    studies: dict[str, tuple[int | None, int | None]] = {}
    for number, row in enumerate(_rows(path, STUDIES, database), start=1):
        visit, procedure = (_number(path, number, name, row[name]) for name in STUDIES[1:])
        if studies.setdefault(row["study_uid"], (visit, procedure)) != (visit, procedure):
            raise StageError(f"{path}: row {number}: the study has other ids above; keep one.")
    return studies


def read_concepts(path: Path) -> dict[tuple[str, str], int]:
    """Read the concept_id of codes from a CSV with the columns of `CONCEPTS`.

    Raises:
        StageError: a column is missing, an id is no number, or a code has two concepts.
    """
    concepts: dict[tuple[str, str], int] = {}
    for number, row in enumerate(_rows(path, CONCEPTS), start=1):
        key = row["code_system"], row["code"]
        concept = _number(path, number, "concept_id", row["concept_id"])
        if concept is None or concepts.setdefault(key, concept) != concept:
            raise StageError(
                f"{path}: row {number}: {' '.join(key)} has no concept_id, or two; give it one."
            )
    return concepts


def _rows(path: Path, columns: Sequence[str], database: Path | None = None) -> list[dict[str, str]]:
    """Read the columns of a map as text, from a CSV or by a SELECT."""
    rows = _selected(path, database) if path.suffix == ".sql" else _listed(path, columns)
    missing = [name for name in columns if rows and name not in rows[0]]
    if missing or not rows:
        raise StageError(
            f"{path}: it has no {', '.join(missing) or 'row'}; the columns are "
            f"{', '.join(columns)}."
        )
    return [{name: row[name] or "" for name in columns} for row in rows]


def _listed(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for row, more in read_rows(path, dict.fromkeys(columns, "`jipflow omop export`")):
        # Spreadsheets leave out empty cells at the end of a row.
        if more > 0:
            raise StageError(
                f"{path}: row {len(rows) + 1} has more cells than the first line; quote cells with "
                "a separator in them."
            )
        rows.append(row)
    return rows


def _selected(path: Path, database: Path | None) -> list[dict[str, str]]:
    import duckdb

    if database is None:
        raise StageError(f"{path} is a SELECT; name the DuckDB file that it asks by --database.")
    with duckdb.connect(str(database), read_only=True) as connection:
        try:
            found = connection.execute(path.read_text(encoding="utf-8"))
        except duckdb.Error as error:
            raise StageError(f"{path}: {database} does not answer it: {error}") from None
        names = [column[0].lower() for column in found.description or ()]
        return [
            {n: "" if v is None else str(v) for n, v in zip(names, row, strict=True)}
            for row in found.fetchall()
        ]


def _number(path: Path, row: int, column: str, text: str) -> int | None:
    try:
        return int(text) if text.strip() else None
    except ValueError:
        raise StageError(f"{path}: row {row}: {column} is no whole number; correct it.") from None

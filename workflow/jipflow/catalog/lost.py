"""Files that cannot be read, found again: of which series they are, and which case lacks them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from jipflow.columns import ANNOTATIONS, COLUMNS, IMAGES
from jipflow.expressions import values_kept

SERIES_STAND_IN = (
    "coalesce(nullif(SeriesInstanceUID, ''), 'unknown in ' || regexp_extract(path, '^(.*)/', 1))"
)
"""What unreadable files are grouped by: their series, or their folder where it is not known."""

_KEPT = ", ".join(
    f'any_value("{name}" ORDER BY path) AS "{name}"'
    for name in COLUMNS
    if name not in {"SeriesInstanceUID", "PatientID", "NumberOfInstances", "Source"}
)

LOST = (
    f"SELECT {SERIES_STAND_IN} AS SeriesInstanceUID, coalesce(PatientID, '') AS PatientID, {_KEPT},"
    " count(*) AS NumberOfInstances, min(Source) AS Source, coalesce(SeriesInstanceUID, '') <> ''"
    " AS known, first(reason ORDER BY path) AS reason FROM headers WHERE kind = 'unreadable' AND"
    " (coalesce(SeriesInstanceUID, '') <> '' OR coalesce(PatientID, '') <> '')"
    f" GROUP BY {SERIES_STAND_IN}, coalesce(PatientID, ''), coalesce(SeriesInstanceUID, '') <> ''"
    " ORDER BY ALL"
)
"""A row for each series, and each patient in a folder, of which files cannot be read though their
header says as much. Columns are those of the catalog, null where the damage hides them, `known` for
whether the series is, and the `reason` of the first file; NumberOfInstances counts the files."""


@dataclass(frozen=True)
class Lost:
    """Files of one series that cannot be read.

    Attributes:
        series: SeriesInstanceUID, or the folder where it is not known.
        known: whether the series is.
        patient: PatientID, empty where it is not known.
        study: StudyInstanceUID, empty where it is not known.
        modality: Modality, empty where it is not known.
        files: how many.
        reason: why the first cannot be read.
        partly: whether other files of the series can be.
        alone: whether the patient has no series in the cohort.
        drawn: whether they are contours or segmentations.
        image: whether they may be images of a role of the cohort, by what is known of them.
    """

    series: str
    known: bool
    patient: str
    study: str
    modality: str
    files: int
    reason: str
    partly: bool
    alone: bool
    drawn: bool
    image: bool

    @property
    def whole(self) -> bool:
        """Whether they are all that there is of a series.

        Files of which the series is not known count as one where their patient has none in the
        cohort.
        """
        return not self.partly and (self.known or (bool(self.patient) and self.alone))

    def sentence(self) -> str:
        """Say what is lost and why."""
        kind = f" ({self.modality})" if self.modality else ""
        share = f"all {self.files}" if self.whole else str(self.files)
        return (
            f"{share} files of series {self.series}{kind} cannot be read: {self.reason}; copy them "
            "again from the archive."
        )


def create_lost(connection: duckdb.DuckDBPyConnection, files: Sequence[str]) -> None:
    """Create the view ``lost`` over what catalogs say of files that cannot be read.

    Args:
        connection: to the catalogs.
        files: quoted paths of their ``lost.parquet``; none gives an empty view.
    """
    fields = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in COLUMNS.items())
    if files:
        query = f"SELECT {fields}, known, reason FROM read_parquet([{', '.join(files)}])"
    else:
        empty = ", ".join(f'CAST(NULL AS {kind}) AS "{name}"' for name, kind in COLUMNS.items())
        query = f"SELECT {empty}, TRUE AS known, '' AS reason WHERE FALSE"
    connection.execute(f"CREATE VIEW lost AS {query}")


def find_lost(
    connection: duckdb.DuckDBPyConnection, steps: Sequence[str], roles: Sequence[str]
) -> list[Lost]:
    """Return the files that cannot be read, by series.

    What the damage hides is unknown, and a condition that depends on it may be met.

    Args:
        connection: to the catalogs, with the view ``lost`` and the table ``members`` of the cohort.
        steps: of the protocol's filter.
        roles: conditions of the roles, of which one must be met.
    """
    met = " AND ".join(_maybe(condition) for condition in [IMAGES, *steps])
    role = " OR ".join(_maybe(condition) for condition in roles)
    with values_kept([*steps, *roles]):
        rows = (
            connection.sql(
                "SELECT SeriesInstanceUID AS series, known, PatientID AS patient,"
                " coalesce(StudyInstanceUID, '') AS study, coalesce(Modality, '') AS modality,"
                " NumberOfInstances AS files, reason, SeriesInstanceUID IN (SELECT"
                " SeriesInstanceUID FROM catalog) AS partly, PatientID NOT IN (SELECT"
                " PatientID FROM members) AS alone,"
                f" coalesce(Modality IN {ANNOTATIONS}, FALSE) AS drawn,"
                f" {met} AND ({role}) AS image FROM lost ORDER BY ALL"
            )
            .to_arrow_table()
            .to_pylist()
        )
    return [Lost(**row) for row in rows]


def _maybe(condition: str) -> str:
    return f"((\n{condition}\n) IS NOT FALSE)"


def with_lost(found: dict[str, Any], lost: Iterable[Lost]) -> list[dict[str, Any]]:
    """Return the first steps of the flow: the series found, and those that can be read.

    Args:
        found: the step that counts those that can be read.
        lost: the files that cannot be.
    """
    whole = [one for one in lost if one.whole]
    if not whole:
        return [found]
    patients = len({one.patient for one in whole if one.alone} - {""})
    return [
        {
            **found,
            "series": found["series"] + len(whole),
            "patients": found["patients"] + patients,
        },
        {**found, "step": "readable", "label": "Series with a file that can be read"},
    ]

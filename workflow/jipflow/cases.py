"""The unit of work: one patient at one time point, with one series a role."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Series:
    """One DICOM series of a case, as the catalog saw it.

    Attributes:
        series_uid: SeriesInstanceUID.
        modality: the DICOM Modality, such as ``CT``.
        paths: the files of its instances, sorted.
    """

    series_uid: str
    modality: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Case:
    """One patient at one time point.

    Attributes:
        case_id: pseudonym of the case.
        patient: pseudonym of the patient, the same in all cases of a patient.
        shard: name of the shard that the case belongs to for ever.
        roles: the image series by role.
        annotations: RTSTRUCT, SEG and REG series of the same patient.
    """

    case_id: str
    patient: str
    shard: str
    roles: dict[str, Series]
    annotations: tuple[Series, ...] = ()


def read_cases(path: Path) -> list[Case]:
    """Read the cases of one shard as `jipflow cohort` wrote them.

    Args:
        path: ``cohort/shards/<shard>.parquet``: one row per instance, with columns case_id,
            patient, shard, role (empty for annotations), series_uid, modality, path, bytes and
            modified_ns.

    Returns:
        The cases, sorted by case_id.
    """
    import pandas as pd

    cases = []
    for _, rows in pd.read_parquet(path).groupby("case_id"):
        roles: dict[str, Series] = {}
        annotations: list[Series] = []
        for _, files in rows.groupby(["role", "series_uid"]):
            first = files.iloc[0]
            paths = tuple(Path(p) for p in sorted(files["path"]))
            series = Series(first["series_uid"], first["modality"], paths)
            if first["role"]:
                roles[first["role"]] = series
            else:
                annotations.append(series)
        first = rows.iloc[0]
        cases.append(
            Case(first["case_id"], first["patient"], first["shard"], roles, tuple(annotations))
        )
    return sorted(cases, key=lambda case: case.case_id)

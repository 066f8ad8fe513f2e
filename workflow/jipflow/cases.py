"""The unit of work: one patient at one time point, with one series a role."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jipflow.files import read_frame


@dataclass(frozen=True)
class Wanted:
    """Which volume of a series is wanted, where one series holds several; all that is given holds.

    Attributes:
        image_types: values of Image Type, Frame Type or Complex Image Component, of which it has
            one; empty for any.
        echo: Echo Number.
        echo_time: in ms.
        b_value: in s/mm².
        time_point: its number, from 1, or ``first`` or ``last``.
        seconds: after the first time point.
        unit: UCUM code of the unit of a map.
        within: how far echo time, b-value or seconds may be off; None for rounding only.
    """

    image_types: tuple[str, ...] = ()
    echo: int | None = None
    echo_time: float | None = None
    b_value: float | None = None
    time_point: int | str | None = None
    seconds: float | None = None
    unit: str | None = None
    within: float | None = None


ANNOTATIONS = "annotations"
"""Item of an outcome of `retrieve` that is about a case's RTSTRUCT, SEG and REG."""


@dataclass(frozen=True)
class Series:
    """One DICOM series of a case, as the catalog saw it.

    Attributes:
        series_uid: SeriesInstanceUID.
        modality: the DICOM Modality, such as ``CT``, or ``map`` of a parametric map.
        paths: the files of its instances, sorted.
        wanted: which volume it is of those that the series holds; None where the protocol does not
            say, and the series must be one.
        headers: what was kept of the headers of its images; None where nothing was.
    """

    series_uid: str
    modality: str
    paths: tuple[Path, ...]
    wanted: Wanted | None = None
    headers: Path | None = None


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


def is_lost(case: Case, item: str, series: Series, lost: Collection[tuple[str, str]]) -> bool:
    """Return whether a PACS has a series of a case and did not give all of it.

    A file that is not there for any other reason is a matter of the place.

    Args:
        case: the case.
        item: role of the series, or `ANNOTATIONS`.
        series: of the case.
        lost: (case_id, item) of outcomes of `retrieve` that failed.
    """
    return (case.case_id, item) in lost and not all(path.is_file() for path in series.paths)


def read_cases(path: Path, wanted: Mapping[str, Wanted]) -> list[Case]:
    """Read the cases of one shard as `jipflow cohort` wrote them.

    Args:
        path: ``cohort/shards/<shard>.parquet``: one row per instance, with columns case_id,
            patient, shard, role (empty for annotations), series_uid, modality, path, bytes and
            modified_ns.
        wanted: by role, which volume of its series the protocol wants.

    Returns:
        The cases, sorted by case_id.
    """

    cases = []
    for _, rows in read_frame(path).groupby("case_id"):
        roles: dict[str, Series] = {}
        annotations: list[Series] = []
        for _, files in rows.groupby(["role", "series_uid"]):
            first = files.iloc[0]
            paths = tuple(Path(p) for p in sorted(files["path"]))
            series = Series(first["series_uid"], first["modality"], paths)
            if first["role"]:
                role = first["role"]
                roles[role] = replace(series, wanted=wanted.get(role))
            else:
                annotations.append(series)
        first = rows.iloc[0]
        cases.append(
            Case(first["case_id"], first["patient"], first["shard"], roles, tuple(annotations))
        )
    return sorted(cases, key=lambda case: case.case_id)

"""Stage `prepare`: each series of a case becomes a volume on disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from jipflow.cases import Case, Series
from jipflow.images.kept import headers_path
from jipflow.images.series import read_series_volume
from jipflow.images.suv.bodies import SuvType
from jipflow.images.volume import volume_path, write_volume
from jipflow.outcomes import Made, Outcome, attempt, blocked
from jipflow.reasons import Decision
from jipflow.workers import for_each_case

STAGE = "prepare"


def run(
    *,
    cases: Sequence[Case],
    lost: Collection[tuple[str, str]],
    suv: Mapping[str, SuvType],
    volumes: Path,
    threads: int,
) -> list[Outcome]:
    """Write the volume of each role of each case, and what later stages need of its headers.

    Args:
        cases: the shard's cases.
        lost: (case_id, role) of the series that a PACS did not give.
        suv: what the SUV of PET is normalised to, by role.
        volumes: folder for ``<case_id>/<role>.nrrd`` and what is kept of the headers beside it.
        threads: processes.
    """
    volumes.mkdir(parents=True, exist_ok=True)
    return for_each_case(
        cases, partial(_prepare_case, lost=lost, suv=suv, volumes=volumes), threads
    )


def _prepare_case(
    case: Case, lost: Collection[tuple[str, str]], suv: Mapping[str, SuvType], volumes: Path
) -> list[Outcome]:
    """Write the volume of each role of a case."""
    return [
        blocked(case.case_id, STAGE, role, f"the series of role {role}")
        if (case.case_id, role) in lost
        else attempt(
            case.case_id,
            STAGE,
            role,
            partial(
                _prepare_role,
                series,
                suv[role],
                volume_path(volumes, case.case_id, role),
                headers_path(volumes, case.case_id, role),
            ),
            volumes,
        )
        for role, series in sorted(case.roles.items())
    ]


def _prepare_role(series: Series, suv: SuvType, path: Path, headers: Path) -> Made:
    notes: list[str] = []
    decisions: list[Decision] = []
    volume = read_series_volume(series, suv=suv, notes=notes, decisions=decisions, kept=headers)
    write_volume(path, volume)
    return Made(note=" ".join(notes), decisions=tuple(decisions))

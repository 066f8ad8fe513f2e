"""Stage `document`: radiomic features to DICOM Structured Reports (PS3.16 TID 1500)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pydicom

from jipflow import datasets
from jipflow.cases import Case
from jipflow.files import atomic_path, read_parquet
from jipflow.objects.seg_writer import seg_path
from jipflow.objects.sr import build_sr, reported_procedures, sr_path
from jipflow.outcomes import Made, Outcome, attempt, blocked
from jipflow.reasons import CaseFault, Reason
from jipflow.settings.protocol import RadiomicsEntry
from jipflow.settings.run import Settings
from jipflow.workers import for_each_case

STAGE = "document"
SERIES_NUMBER_OFFSET = 9500
"""Keeps our series behind the scanner's and behind the segmentations' in a viewer's list."""


def run(
    *,
    cases: Sequence[Case],
    measured: set[tuple[str, str]],
    settings: Settings,
    features: Path,
    failures: Path,
    results: Path,
    threads: int,
) -> list[Outcome]:
    """Write a DICOM-SR for each measured segmentation of each case.

    Args:
        cases: the shard's cases.
        measured: (case_id, segmentation) that have both features and a DICOM-SEG.
        settings: of the site and the protocol.
        features: the shard's ``features.parquet``.
        failures: the shard's ``failures.parquet``: why features are null.
        results: the protocol's results folder, with ``seg/<case_id>/<segmentation>.dcm``; files go
            to ``sr/<case_id>/<segmentation>.dcm``.
        threads: processes.
    """
    work = partial(
        _document_case,
        measured=measured,
        settings=settings,
        features=features,
        failures=failures,
        results=results,
    )
    return for_each_case(cases, work, threads)


def _document_case(
    case: Case,
    measured: set[tuple[str, str]],
    settings: Settings,
    features: Path,
    failures: Path,
    results: Path,
) -> list[Outcome]:
    """Write the DICOM-SRs of a case in place of those of an earlier run."""
    # A file of an earlier run must not outlive a case that now fails.
    shutil.rmtree(results / "sr" / case.case_id, ignore_errors=True)
    outcomes = []
    for number, entry in enumerate(settings.protocol.radiomics, start=1):
        name = entry.segmentation
        if not case.roles.keys() >= {entry.role, *settings.needed_roles(name)}:
            continue
        if (case.case_id, name) not in measured:
            needed = f"the DICOM-SEG or the features of {name!r}"
            outcomes.append(blocked(case.case_id, STAGE, name, needed))
            continue
        work = partial(
            _document,
            case,
            entry,
            number,
            settings=settings,
            features=features,
            failures=failures,
            results=results,
        )
        outcomes.append(attempt(case.case_id, STAGE, name, work, results))
    return outcomes


def _document(
    case: Case,
    entry: RadiomicsEntry,
    number: int,
    settings: Settings,
    features: Path,
    failures: Path,
    results: Path,
) -> Made:
    """Write the DICOM-SR of one segmentation's features."""
    name, role = entry.segmentation, entry.role
    # A DICOM-SEG holds the segments that have a voxel, and a report refers to these.
    rows = [row for row in _rows(features, case.case_id, name, role) if row["voxels"]]
    if not rows:
        return Made(note="No DICOM-SR, since no segment has a voxel.")
    series = case.roles[role]
    source = datasets.read(series.paths[0], stop=datasets.at_pixels).dataset
    seg = pydicom.dcmread(seg_path(results, case.case_id, name), stop_before_pixels=True)
    try:
        dataset = build_sr(
            rows,
            seg,
            parameters=settings.radiomics(entry),
            modality=series.modality,
            suv=settings.protocol.roles[role].suv_type,
            procedures=reported_procedures(source, series.modality),
            description=f"{settings.protocol_id} {name} features",
            series_number=SERIES_NUMBER_OFFSET + number,
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CaseFault(
            Reason.ENCODING_REFUSED,
            f"case {case.case_id}: DICOM-SR of {name!r} cannot be built on its DICOM-SEG "
            f"{seg.SOPInstanceUID}: {error}",
        ) from error
    path = sr_path(results, case.case_id, name)
    with atomic_path(path) as partial_path:
        pydicom.dcmwrite(partial_path, dataset, enforce_file_format=True)
    return Made((path,), absent_note(_rows(failures, case.case_id, name, role)))


def _rows(path: Path, case_id: str, segmentation: str, role: str) -> list[dict[str, Any]]:
    """Read the rows of one segmentation from the features or the failures."""
    import pyarrow.compute as pc

    wanted = {"case_id": case_id, "segmentation": segmentation, "role": role}
    table = read_parquet(path)
    for key, value in wanted.items():
        table = table.filter(pc.equal(table[key], value))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def absent_note(failures: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence that names the features without a value, and why; empty if none."""
    listed = [
        f"{row['segment']} {'all' if row['feature'] == '*' else row['feature']} ({row['reason']})"
        for row in failures
    ]
    return f"Features without a value are left out: {', '.join(listed)}." if listed else ""

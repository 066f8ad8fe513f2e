"""Stage `encode`: masks to DICOM Segmentation objects (PS3.3 A.51)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jipflow.cases import Case
from jipflow.images.masks import read_segmentation
from jipflow.objects.seg_writer import SERIES_NUMBER_OFFSET, seg_path, write_seg
from jipflow.objects.terms import coded
from jipflow.outcomes import Made, Outcome, attempt, blocked
from jipflow.settings.protocol import SegmentationSettings
from jipflow.settings.run import Settings
from jipflow.workers import for_each_case

STAGE = "encode"


def run(
    *,
    cases: Sequence[Case],
    segmented: set[tuple[str, str]],
    settings: Settings,
    masks: Path,
    results: Path,
    threads: int,
) -> list[Outcome]:
    """Write a DICOM-SEG for each segmentation of each case.

    Args:
        cases: the shard's cases.
        segmented: (case_id, segmentation) of the masks that are there.
        settings: of the site and the protocol.
        masks: folder of ``<case_id>/<segmentation>/``.
        results: the protocol's results folder; files go to ``seg/<case_id>/<segmentation>.dcm``.
        threads: processes.
    """
    work = partial(
        _encode_case, segmented=segmented, settings=settings, masks=masks, results=results
    )
    return for_each_case(cases, work, threads)


def _encode_case(
    case: Case,
    segmented: set[tuple[str, str]],
    settings: Settings,
    masks: Path,
    results: Path,
) -> list[Outcome]:
    """Write the DICOM-SEGs of a case in place of those of an earlier run."""
    # A file of an earlier run must not outlive a case that now fails.
    shutil.rmtree(results / "seg" / case.case_id, ignore_errors=True)
    outcomes = []
    for number, spec in enumerate(settings.protocol.segmentations, start=1):
        if not case.roles.keys() >= settings.needed_roles(spec.id):
            continue
        if (case.case_id, spec.id) not in segmented:
            outcomes.append(blocked(case.case_id, STAGE, spec.id, f"the mask {spec.id!r}"))
            continue
        work = partial(
            _encode,
            case,
            spec,
            number,
            settings,
            masks / case.case_id / spec.id,
            seg_path(results, case.case_id, spec.id),
        )
        outcomes.append(attempt(case.case_id, STAGE, spec.id, work, results))
    return outcomes


def _encode(
    case: Case,
    spec: SegmentationSettings,
    number: int,
    settings: Settings,
    masks: Path,
    path: Path,
) -> Made:
    """Write the DICOM-SEG of one segmentation."""
    return write_seg(
        path,
        case,
        spec,
        read_segmentation(masks),
        terms=coded(settings.named.terms),
        encoding=spec.encoding,
        description=f"{settings.protocol_id} {spec.id}",
        series_number=SERIES_NUMBER_OFFSET + number,
        identity=(settings.protocol_sha256, spec.id),
    )

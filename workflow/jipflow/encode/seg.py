"""Stage `encode`: masks to DICOM Segmentation objects (PS3.3 A.51)."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import MAX_VALUE_LEN

import jipflow
from jipflow.cases import Case, CaseFault, Made, Outcome, Reason, attempt, blocked, for_each_case
from jipflow.config import Settings
from jipflow.encode.terms import Term, apply_modifiers, read_terms
from jipflow.files import atomic_path
from jipflow.images.masks import Segmentation, read_segmentation
from jipflow.images.series import read_series
from jipflow.uids import stable_uid

STAGE = "encode"
SERIES_NUMBER_OFFSET = 9000
"""Keeps our series behind the scanner's in a viewer's list."""


def seg_path(results: Path, case_id: str, segmentation: str) -> Path:
    """Return where the DICOM-SEG of a case's segmentation stands."""
    return results / "seg" / case_id / f"{segmentation}.dcm"


def run(
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
    # A file of an earlier run must not outlive a case that now fails.
    shutil.rmtree(results / "seg" / case.case_id, ignore_errors=True)
    outcomes = []
    for number, spec in enumerate(settings.protocol["segmentations"], start=1):
        if spec["role"] not in case.roles:
            continue
        if (case.case_id, spec["id"]) not in segmented:
            outcomes.append(blocked(case.case_id, STAGE, spec["id"], f"the mask {spec['id']!r}"))
            continue
        work = partial(
            _encode,
            case,
            spec,
            number,
            settings,
            masks / case.case_id / spec["id"],
            seg_path(results, case.case_id, spec["id"]),
        )
        outcomes.append(attempt(case.case_id, STAGE, spec["id"], work, results))
    return outcomes


def _encode(
    case: Case,
    spec: dict[str, Any],
    number: int,
    settings: Settings,
    masks: Path,
    path: Path,
) -> Made:
    sources = read_series(case.roles[spec["role"]], pixels=False)
    note = mend_lengths(sources)
    segmentation = read_segmentation(masks)
    try:
        dataset = build_seg(
            segmentation,
            sources,
            read_terms(),
            description=f"{settings.protocol_id} {spec['id']}",
            series_number=SERIES_NUMBER_OFFSET + number,
            identity=(settings.protocol_sha256, spec["id"]),
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CaseFault(
            Reason.ENCODING_REFUSED,
            f"case {case.case_id}: DICOM-SEG of {spec['id']!r} cannot reference series "
            f"{case.roles[spec['role']].series_uid}: {error}",
        ) from error
    with atomic_path(path) as partial_path:
        pydicom.dcmwrite(partial_path, dataset, enforce_file_format=True)
    return Made((path,), note)


def build_seg(
    segmentation: Segmentation,
    sources: Sequence[Dataset],
    terms: dict[str, Term],
    *,
    description: str,
    series_number: int,
    identity: tuple[str, ...],
) -> Dataset:
    """Build a binary DICOM-SEG that references its source series.

    UIDs are derived from the source series, `identity` and the voxels, and dates are those of the
    source, so that the same input gives the same bytes.

    Args:
        segmentation: masks on the grid of the series, slices in the order of `sources`.
        sources: headers of the source series, sorted by `jipflow.images.series.read_series`.
        terms: coded terms by key.
        description: Series Description and Content Description.
        series_number: Series Number.
        identity: what else makes this segmentation another one: protocol and segmentation.

    Returns:
        The data set with its file meta information.
    """
    first = sources[0]
    pixels = np.stack([mask for _, mask in segmentation.masks()], axis=-1).astype(np.uint8)
    digest = hashlib.sha256(np.packbits(pixels).tobytes()).hexdigest()
    key = (str(first.SeriesInstanceUID), *identity, digest)
    dataset = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=[
            _description(number, segment, terms[segment.term], (*key, segment.name))
            for number, segment in enumerate(segmentation.segments, start=1)
        ],
        series_instance_uid=stable_uid("series", *key),
        series_number=series_number,
        sop_instance_uid=stable_uid("instance", *key),
        instance_number=1,
        manufacturer="jipflow",
        manufacturer_model_name="jipflow",
        software_versions=jipflow.__version__,
        device_serial_number=jipflow.__version__,
        content_description=description[:64],
        content_label="SEGMENTATION",
        series_description=description[:64],
    )
    _make_reproducible(dataset, sources, stable_uid("dimensions", *key))
    return dataset


def mend_lengths(sources: Sequence[Dataset]) -> str:
    """Shorten the text of the sources that is longer than its value representation allows.

    Such text would be copied into the DICOM-SEG and make it invalid (PS3.5 section 6.2).

    Args:
        sources: headers of the source series; changed in place, not on disk.

    Returns:
        A sentence that names the attributes, empty if none was too long.
    """
    mended = set()
    for dataset in sources:
        for element in dataset:
            # An identifier is never shortened: it would name another patient.
            if element.VR not in {"SH", "LO"} or element.keyword == "PatientID":
                continue
            longest = MAX_VALUE_LEN[element.VR]
            if isinstance(element.value, str) and len(element.value) > longest:
                element.value = element.value[:longest].rstrip()
                mended.add(element.keyword)
    if not mended:
        return ""
    return f"Shortened to the length that DICOM allows: {', '.join(sorted(mended))}."


def _description(number: int, segment: Any, term: Term, key: tuple[str, ...]) -> SegmentDescription:
    algorithm = None
    if segment.method != "MANUAL":
        algorithm = AlgorithmIdentificationSequence(
            name=segment.producer[:64],
            family=codes.CID7162.ArtificialIntelligence
            if segment.method == "AUTOMATIC"
            else codes.CID7162.ManualProcessing,
            version=segment.version or "unknown",
        )
    description = SegmentDescription(
        segment_number=number,
        segment_label=segment.name,
        segmented_property_category=term.category,
        segmented_property_type=term.type,
        algorithm_type=segment.method,
        algorithm_identification=algorithm,
        tracking_uid=stable_uid("tracking", *key),
        tracking_id=segment.name,
        display_color=term.colour,
    )
    apply_modifiers(description, term)
    return description


def _make_reproducible(dataset: Dataset, sources: Sequence[Dataset], dimensions: str) -> None:
    """Replace the clock's dates by the latest of the source, and random UIDs by `dimensions`."""
    dataset.DimensionOrganizationSequence[0].DimensionOrganizationUID = dimensions
    for index in dataset.DimensionIndexSequence:
        index.DimensionOrganizationUID = dimensions
    stamps = [
        (str(source.get("ContentDate") or ""), str(source.get("ContentTime") or ""))
        for source in sources
    ]
    date, time = max(stamps)
    if not date or not time:
        date, time = str(sources[0].get("StudyDate") or ""), str(sources[0].get("StudyTime") or "")
    date, time = date or "19000101", time or "000000"
    for prefix in ("Content", "InstanceCreation", "Series"):
        if f"{prefix}Date" in dataset:
            setattr(dataset, f"{prefix}Date", date)
            setattr(dataset, f"{prefix}Time", time)
    for equipment in dataset.get("ContributingEquipmentSequence") or []:
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = date + time

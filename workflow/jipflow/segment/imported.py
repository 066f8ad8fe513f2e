"""Engine `imported`: contours and segmentations that are already in the archive."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.cases import Case, CaseFault, Made, Outcome, Reason, attempt, for_each_case
from jipflow.images.contours import rasterise
from jipflow.images.masks import Region, absent_note, pack, write_segmentation
from jipflow.images.prepare import volume_path
from jipflow.images.volume import Grid, read_volume

CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}
METHODS = {"AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"}


@dataclass(frozen=True)
class Target:
    """The image that a segmentation is wanted for."""

    case_id: str
    series_uid: str
    frame_of_reference_uid: str
    grid: Grid


def segment(
    cases: Sequence[Case], spec: dict[str, Any], volumes: Path, masks: Path, threads: int
) -> list[Outcome]:
    """Turn each case's contours into masks on the grid of its role.

    Args:
        cases: cases whose role is prepared.
        spec: the protocol's segmentation.
        volumes: folder of ``<case_id>/<role>.nrrd``.
        masks: folder for ``<case_id>/<segmentation>/``.
        threads: processes.
    """
    work = partial(_segment_case, spec=spec, volumes=volumes, masks=masks)
    return for_each_case(cases, work, threads)


def _segment_case(case: Case, spec: dict[str, Any], volumes: Path, masks: Path) -> list[Outcome]:
    def work() -> Made:
        series = case.roles[spec["role"]]
        header = pydicom.dcmread(series.paths[0], stop_before_pixels=True)
        target = Target(
            case.case_id,
            series.series_uid,
            str(header.FrameOfReferenceUID),
            read_volume(volume_path(volumes, case.case_id, spec["role"])).grid,
        )
        paths = [p for s in case.annotations if s.modality == spec["from"] for p in s.paths]
        regions = import_regions(paths, spec, target)
        write_segmentation(masks / case.case_id / spec["id"], pack(regions, target.grid))
        return Made(note=absent_note(spec, regions))

    return [attempt(case.case_id, "segment", spec["id"], work, masks)]


def import_regions(paths: Iterable[Path], spec: dict[str, Any], target: Target) -> list[Region]:
    """Find the one object that fits an image and return its regions on the image's grid.

    An object fits when it holds a region for each required segment and references the image's
    series; or, where none references it, when it lies in the same frame of reference.

    Args:
        paths: RTSTRUCT or SEG files of the patient.
        spec: the protocol's segmentation.
        target: the image.

    Raises:
        CaseFault: none fits, several fit, or a required segment has no voxel.
    """
    datasets = [pydicom.dcmread(path) for path in paths]
    named = [d for d in datasets if _has_required(d, spec)]
    fitting = [d for d in named if target.series_uid in _referenced_series(d)]
    fitting = fitting or [d for d in named if target.frame_of_reference_uid in _frames(d)]
    if not fitting:
        wanted = ", ".join(s["match"] for s in spec["segments"])
        raise CaseFault(
            Reason.NO_CONTOURS,
            f"case {target.case_id}: none of {len(datasets)} {spec['from']} objects of the patient "
            f"has {wanted} in the frame of reference of series {target.series_uid}; names there: "
            f"{', '.join(sorted({n for d in datasets for n in _names(d)})) or 'none'}.",
        )
    if len(fitting) > 1:
        raise CaseFault(
            Reason.AMBIGUOUS_CONTOURS,
            f"case {target.case_id}: {len(fitting)} {spec['from']} objects fit: "
            f"{', '.join(sorted(str(d.SOPInstanceUID) for d in fitting))}; narrow `match`.",
        )
    source = fitting[0]
    read = _structure_regions if spec["from"] == "RTSTRUCT" else _seg_regions
    regions = []
    for wanted_segment in spec["segments"]:
        region = read(source, wanted_segment, target)
        if region is not None and region.mask.any():
            regions.append(region)
        elif wanted_segment["required"]:
            raise CaseFault(
                Reason.EMPTY_SEGMENT,
                f"case {target.case_id}: {wanted_segment['name']!r} of {source.SOPInstanceUID} "
                "has no voxel on the image's grid.",
            )
    if not regions:
        raise CaseFault(
            Reason.EMPTY_SEGMENTATION,
            f"case {target.case_id}: no segment of {spec['id']!r} has a voxel.",
        )
    return regions


def _names(dataset: Dataset) -> list[str]:
    rois = [str(roi.get("ROIName", "")) for roi in dataset.get("StructureSetROISequence") or []]
    return rois + [str(s.get("SegmentLabel", "")) for s in dataset.get("SegmentSequence") or []]


def _has_required(dataset: Dataset, spec: dict[str, Any]) -> bool:
    required = [s for s in spec["segments"] if s["required"]] or spec["segments"]
    names = _names(dataset)
    return all(any(re.fullmatch(s["match"], name) for name in names) for s in required)


def _referenced_series(dataset: Dataset) -> set[str]:
    found = {str(s.SeriesInstanceUID) for s in dataset.get("ReferencedSeriesSequence") or []}
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                found.add(str(series.SeriesInstanceUID))
    return found


def _frames(dataset: Dataset) -> set[str]:
    frames = {str(dataset.get("FrameOfReferenceUID", ""))}
    for item in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        frames.add(str(item.get("FrameOfReferenceUID", "")))
    for item in dataset.get("StructureSetROISequence") or []:
        frames.add(str(item.get("ReferencedFrameOfReferenceUID", "")))
    return frames - {""}


def _structure_regions(dataset: Dataset, wanted: dict[str, Any], target: Target) -> Region | None:
    """Unite the ROIs of a structure set whose names match."""
    rois = {
        int(roi.ROINumber): roi
        for roi in dataset.StructureSetROISequence
        if re.fullmatch(wanted["match"], str(roi.get("ROIName", "")))
    }
    if not rois:
        return None
    mask = np.zeros(target.grid.shape, bool)
    for item in dataset.get("ROIContourSequence") or []:
        number = int(item.ReferencedROINumber)
        if number not in rois:
            continue
        contours = [
            _points(contour)
            for contour in item.get("ContourSequence") or []
            if contour.ContourGeometricType in CLOSED
        ]
        where = f"case {target.case_id}: structure set {dataset.SOPInstanceUID}, ROI {number}"
        mask |= rasterise(contours, target.grid, where)
    methods = {str(roi.get("ROIGenerationAlgorithm", "")) for roi in rois.values()}
    method = methods.pop() if len(methods) == 1 else ""
    return Region(
        wanted["name"],
        wanted["term"],
        mask,
        method if method in METHODS else "MANUAL",
        str(dataset.get("ManufacturerModelName") or dataset.get("Manufacturer") or "RTSTRUCT"),
        str(dataset.get("SoftwareVersions") or ""),
    )


def _points(contour: Dataset) -> NDArray[np.float64]:
    return np.asarray(contour.ContourData, dtype=float).reshape(-1, 3)


def _seg_regions(dataset: Dataset, wanted: dict[str, Any], target: Target) -> Region | None:
    """Unite the segments of a DICOM-SEG whose labels match."""
    import highdicom

    segmentation = highdicom.seg.Segmentation.from_dataset(dataset)
    numbers = [
        int(s.SegmentNumber)
        for s in dataset.SegmentSequence
        if re.fullmatch(wanted["match"], str(s.get("SegmentLabel", "")))
    ]
    if not numbers:
        return None
    geometry = highdicom.VolumeGeometry(
        target.grid.affine,
        target.grid.shape,
        coordinate_system="PATIENT",
        frame_of_reference_uid=target.frame_of_reference_uid,
    )
    try:
        volume = segmentation.get_volume(
            segment_numbers=numbers, combine_segments=False, rescale_fractional=True
        ).match_geometry(geometry)
    except (ValueError, RuntimeError) as error:
        raise CaseFault(
            Reason.GRID_MISMATCH,
            f"case {target.case_id}: segmentation {dataset.SOPInstanceUID} does not lie on the "
            f"grid of series {target.series_uid}: {error}",
        ) from error
    first = next(s for s in dataset.SegmentSequence if int(s.SegmentNumber) == numbers[0])
    return Region(
        wanted["name"],
        wanted["term"],
        np.asarray((volume.array >= 0.5).any(axis=-1)),
        str(first.SegmentAlgorithmType),
        str(first.get("SegmentAlgorithmName") or dataset.get("Manufacturer") or "SEG"),
        str(dataset.get("SoftwareVersions") or ""),
    )

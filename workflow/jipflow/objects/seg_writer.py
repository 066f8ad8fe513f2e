"""DICOM Segmentation objects (PS3.3 A.51) from masks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentDescription
from numpy.typing import NDArray
from pydicom.charset import convert_encodings, default_encoding
from pydicom.config import RAISE
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless
from pydicom.valuerep import DSfloat, validate_value

import jipflow
from jipflow.cases import Case
from jipflow.files import atomic_path
from jipflow.images.masks import Segment, Segmentation
from jipflow.images.pixels import Plane
from jipflow.images.series import read_planes
from jipflow.images.stack import grid_of
from jipflow.images.volume import Grid
from jipflow.objects.headers import source_header
from jipflow.objects.seg_frames import reference_frames, set_binary_frames, single_frame_headers
from jipflow.objects.terms import Term, apply_modifiers
from jipflow.outcomes import Made
from jipflow.reasons import CaseFault, Reason
from jipflow.settings.protocol import SegmentationSettings
from jipflow.uids import stable_uid

SERIES_NUMBER_OFFSET = 9000
"""Keeps our series behind the scanner's in a viewer's list."""


def seg_path(results: Path, case_id: str, segmentation: str) -> Path:
    """Return where the DICOM-SEG of a case's segmentation stands."""
    return results / "seg" / case_id / f"{segmentation}.dcm"


def write_seg(
    path: Path,
    case: Case,
    spec: SegmentationSettings,
    segmentation: Segmentation,
    *,
    terms: Mapping[str, Term],
    encoding: str,
    description: str,
    series_number: int,
    identity: tuple[str, ...],
) -> Made:
    """Write a DICOM-SEG that references the series of a segmentation's role.

    Args:
        path: the file.
        case: whose series it is.
        spec: the protocol's segmentation.
        segmentation: masks on the grid of the series.
        terms: as in `build_seg`, like the arguments that follow.
        encoding: ``binary`` or ``labelmap``.
        description: Series Description and Content Description.
        series_number: Series Number.
        identity: what else makes this segmentation another one.

    Raises:
        CaseFault: it cannot be built from the series.
    """
    series = case.roles[spec.role]
    what = f"case {case.case_id}: DICOM-SEG of {spec.id!r}"
    segmentation = segmentation.without_empty()
    if not segmentation.segments:
        return Made(note="No DICOM-SEG, which cannot hold that no segment has a voxel.")
    notes: list[str] = []
    planes = read_planes(series, notes=notes)
    try:
        dataset = build_seg(
            segmentation,
            planes,
            terms,
            encoding=encoding,
            description=description,
            series_number=series_number,
            identity=identity,
            notes=notes,
        )
    except CaseFault as fault:
        raise CaseFault(fault.reason, f"{what}: {fault.message}") from fault
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CaseFault(
            Reason.ENCODING_REFUSED,
            f"{what} cannot reference series {series.series_uid}: {error}",
        ) from error
    with atomic_path(path) as partial_path:
        pydicom.dcmwrite(partial_path, dataset, enforce_file_format=True)
    return Made((path,), " ".join(notes))


def build_seg(
    segmentation: Segmentation,
    planes: Sequence[Plane],
    terms: Mapping[str, Term],
    *,
    encoding: str,
    description: str,
    series_number: int,
    identity: tuple[str, ...],
    notes: list[str],
) -> Dataset:
    """Build a DICOM-SEG that references its source series.

    A ``binary`` object has a frame for each segment and each slice that the segment is on, one bit
    a voxel; it is written uncompressed (Explicit VR Little Endian), which every archive takes. A
    ``labelmap`` (PS3.3 A.51, Label Map Segmentation Storage) has one frame a slice, whose values
    are the segment numbers, in 8 bits or, beyond 255 segments, 16; it is written with RLE Lossless,
    which is the smallest of what every reader of label maps opens. Deflated Explicit VR is smaller
    still for both, but archives seldom accept it in an association. Empty frames are left out, so
    a slice without a frame is empty.

    UIDs are derived from all that the object says, and dates are those of the source, so that the
    same input gives the same bytes, and another object has another UID.

    Args:
        segmentation: masks on the grid of the series, slices in the order of `planes`.
        planes: the image planes of the source series, sorted by `jipflow.images.series`.
        terms: coded terms by key.
        encoding: ``binary`` or ``labelmap``.
        description: Series Description and Content Description.
        series_number: Series Number.
        identity: what else makes this segmentation another one: protocol and segmentation.
        notes: gets a sentence for each thing of the source that was repaired.

    Returns:
        The data set with its file meta information.

    Raises:
        CaseFault: the segments overlap, which a label map cannot hold, or the masks do not lie on
            the slices.
    """
    if not any(layer.any() for layer in segmentation.layers):
        raise CaseFault(Reason.EMPTY_SEGMENTATION, "no segment has a voxel.")
    _check_grid(segmentation.grid, planes)
    first = str(planes[0].header.SOPInstanceUID)
    sources = single_frame_headers(planes, source_header(planes[0].path, notes, first))
    _set_spacing(sources[0], planes[0].header, segmentation.grid, notes)
    key = (str(sources[0].SeriesInstanceUID), *identity)
    descriptions = [
        _description(number, segment, terms[segment.term], (*key, segment.name))
        for number, segment in enumerate(segmentation.segments, start=1)
    ]
    places = ((p.header.SOPInstanceUID, p.frame, p.header.ImagePositionPatient) for p in planes)
    content = (encoding, description, sources[0], *descriptions, *places)
    key = (*key, _digest(segmentation, content))
    labelmap = encoding == "labelmap"
    pixels = label_map(segmentation) if labelmap else _occupied(segmentation)
    # GDCM, by which highdicom encodes RLE, is some ten times faster than pydicom, but ends the
    # process where a frame of 8 bits has an odd number of pixels.
    by_gdcm = labelmap and pixels[0].size % 2 == 0
    dataset = _new_object(
        sources,
        pixels,
        # For a binary object, `set_binary_frames` adds the other segments and their frames.
        descriptions if labelmap else descriptions[:1],
        labelmap=labelmap,
        syntax=RLELossless if by_gdcm else ExplicitVRLittleEndian,
        description=description[:64],
        series_number=series_number,
        key=key,
    )
    _complete(dataset, sources[0])
    groups = reference_frames(dataset, planes)
    if not labelmap:
        set_binary_frames(dataset, segmentation, descriptions, groups)
    _make_reproducible(dataset, planes, stable_uid("dimensions", *key), notes)
    plain = _plain(dataset, encoded=not labelmap)
    if labelmap and not by_gdcm:
        plain.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return plain


def _new_object(
    sources: Sequence[Dataset],
    pixels: NDArray[np.unsignedinteger[Any]],
    descriptions: Sequence[SegmentDescription],
    *,
    labelmap: bool,
    syntax: UID,
    description: str,
    series_number: int,
    key: tuple[str, ...],
) -> highdicom.seg.Segmentation:
    """Return the object that highdicom makes of label maps, with UIDs that follow from a key."""
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type="LABELMAP" if labelmap else "BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=stable_uid("series", *key),
        series_number=series_number,
        sop_instance_uid=stable_uid("instance", *key),
        instance_number=1,
        manufacturer="jipflow",
        manufacturer_model_name="jipflow",
        software_versions=jipflow.__version__,
        device_serial_number=jipflow.__version__,
        content_description=description,
        content_label="SEGMENTATION",
        series_description=description,
        transfer_syntax_uid=syntax,
        # highdicom does not know the empty first value that Japanese headers have.
        specific_character_set=None,
    )


def _complete(dataset: Dataset, source: Dataset) -> None:
    """Give an object of highdicom what it leaves out."""
    if "SpecificCharacterSet" in source:
        dataset.SpecificCharacterSet = source.SpecificCharacterSet
    # Of type 2 (PS3.3 table 10-12), and nobody's.
    dataset.ContentCreatorName = None


def _plain(dataset: Dataset, *, encoded: bool) -> Dataset:
    """Return a data set that is no longer highdicom's, whose index is of the frames that it made.

    Args:
        dataset: of highdicom.
        encoded: some elements are encoded already, as Explicit VR Little Endian; pydicom shall
            write them as they are.
    """
    plain = Dataset(dataset)
    plain.file_meta = dataset.file_meta
    if encoded:
        stated = plain.get("SpecificCharacterSet")
        charset = convert_encodings(stated) if stated else default_encoding
        plain.set_original_encoding(False, True, charset)
    return plain


def label_map(segmentation: Segmentation) -> NDArray[np.unsignedinteger[Any]]:
    """Return one array whose values are the numbers of the segments, in their order from 1.

    Args:
        segmentation: segments that do not overlap, in any number of layers.

    Returns:
        Shape (z, y, x), 0 outside; 8 bits where they suffice, else 16.

    Raises:
        CaseFault: segments overlap.
    """
    kind = np.uint8 if len(segmentation.segments) <= np.iinfo(np.uint8).max else np.uint16
    numbers: NDArray[Any] = np.zeros(segmentation.grid.shape, kind)
    pairs: Counter[tuple[int, int]] = Counter()
    for index, layer in enumerate(segmentation.layers):
        table = np.zeros(np.iinfo(layer.dtype).max + 1, kind)
        for number, segment in enumerate(segmentation.segments, start=1):
            if segment.layer == index:
                table[segment.label] = number
        top = int(layer.max()) + 1
        if len(segmentation.layers) == 1 and np.array_equal(table[:top], np.arange(top)):
            return layer.astype(kind, copy=False)
        for plane, labels in zip(numbers, layer, strict=True):
            if labels.any():
                more = table[labels]
                twice = (plane > 0) & (more > 0)
                pairs.update(zip(plane[twice].tolist(), more[twice].tolist(), strict=True))
                np.copyto(plane, more, where=more > 0)
    if pairs:
        names = [segment.name for segment in segmentation.segments]
        shown = ", ".join(f"{names[a - 1]!r} and {names[b - 1]!r}" for a, b in sorted(pairs)[:5])
        raise CaseFault(
            Reason.OVERLAPPING_SEGMENTS,
            f"{len(pairs)} pairs of segments overlap in {pairs.total()} voxels ({shown}"
            f"{', …' if len(pairs) > 5 else ''}), and a label map holds one segment a voxel; set "
            "the segmentation's encoding to binary in the protocol.",
        )
    return numbers


def _digest(segmentation: Segmentation, content: Iterable[object]) -> str:
    """Return the hash of the masks and of all else that an object says."""
    digest = hashlib.sha256()
    for word in (jipflow.__version__, highdicom.__version__, *content):
        digest.update(f"{word}\n".encode())
    for layer in segmentation.layers:
        digest.update(np.ascontiguousarray(layer).data)
    for segment in segmentation.segments:
        digest.update(f"{segment.layer} {segment.label}\n".encode())
    return digest.hexdigest()


def _check_grid(grid: Grid, planes: Sequence[Plane]) -> None:
    """Refuse masks whose slices are not the planes, one by one."""
    first = planes[0].header
    if grid.shape != (len(planes), int(first.Rows), int(first.Columns)):
        raise CaseFault(
            Reason.GRID_MISMATCH,
            f"the masks have the shape {grid.shape}, the series {len(planes)} slices of "
            f"{first.Rows} × {first.Columns}; run the segmentation again.",
        )
    there = grid_of([plane.header for plane in planes], "the series")
    if not grid.matches(there):
        raise CaseFault(
            Reason.GRID_MISMATCH,
            f"the masks lie up to {grid.away(there):.2f} mm off the slices of the series; run the "
            "segmentation again.",
        )


def _set_spacing(source: Dataset, header: Dataset, grid: Grid, notes: list[str]) -> None:
    """State the slices' distance and thickness, for the Pixel Measures (PS3.3 C.7.6.16.2.1)."""
    # What headers say of the distance may be a gap, have a sign, or be wrong.
    distance = DSfloat(grid.spacing[0], auto_format=True)
    source.SpacingBetweenSlices = source.SliceThickness = distance
    thickness = header.get("SliceThickness")
    if thickness and float(thickness) > 0:
        source.SliceThickness = thickness
    else:
        notes.append("Slice Thickness, missing in the source, is the distance of its slices.")


def _occupied(segmentation: Segmentation) -> NDArray[np.uint8]:
    """Return an array with one voxel of segment 1 on each slice that any segment is on."""
    marks = np.zeros(segmentation.grid.shape, np.uint8)
    for layer in segmentation.layers:
        marks[:, 0, 0] |= layer.any(axis=(1, 2))
    return marks


def _description(
    number: int, segment: Segment, term: Term, key: tuple[str, ...]
) -> SegmentDescription:
    """Return a segment's description (PS3.3 C.8.20.2), tracked by a UID that follows from a key."""
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


def _make_reproducible(
    dataset: Dataset, planes: Sequence[Plane], dimensions: str, notes: list[str]
) -> None:
    """Replace the clock's dates by the latest of the source, and random UIDs by `dimensions`."""
    dataset.DimensionOrganizationSequence[0].DimensionOrganizationUID = dimensions
    for index in dataset.DimensionIndexSequence:
        index.DimensionOrganizationUID = dimensions
    content = [_date_and_time(plane.header, "Content") for plane in planes]
    study = _date_and_time(planes[0].header, "Study")
    latest = max((m for m in (*content, study) if m is not None), default=None)
    if latest is None:
        latest = ("19000101", "000000")
        notes.append("Content Date is 19000101, as neither the images nor the study have a date.")
    for prefix in ("Content", "InstanceCreation"):
        setattr(dataset, f"{prefix}Date", latest[0])
        setattr(dataset, f"{prefix}Time", latest[1])
    for equipment in dataset.ContributingEquipmentSequence:
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = latest[0] + latest[1]


def _date_and_time(header: Dataset, prefix: str) -> tuple[str, str] | None:
    """Return date and time as DICOM writes them, or None if either is missing or no such value."""
    date, time = (str(header.get(f"{prefix}{part}") or "") for part in ("Date", "Time"))
    try:
        validate_value("DA", date, RAISE)
        validate_value("TM", time, RAISE)
    except ValueError:
        return None
    return (date, time) if date and time else None

"""Stage `encode`: masks to DICOM Segmentation objects (PS3.3 A.51)."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
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
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless
from pydicom.valuerep import DSfloat, validate_value

import jipflow
from jipflow.cases import Case, CaseFault, Made, Outcome, Reason, attempt, blocked, for_each_case
from jipflow.files import atomic_path
from jipflow.images.masks import Segmentation, read_segmentation
from jipflow.images.pixels import Plane
from jipflow.images.series import read_planes
from jipflow.images.volume import Grid
from jipflow.objects.headers import source_header
from jipflow.objects.terms import Term, apply_modifiers, read_terms
from jipflow.settings.config import Settings
from jipflow.uids import stable_uid

STAGE = "encode"
SERIES_NUMBER_OFFSET = 9000
"""Keeps our series behind the scanner's in a viewer's list."""

GEOMETRY = ("ImagePositionPatient", "PixelSpacing", "Rows", "Columns")
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")

DERIVATION = Tag("DerivationImageSequence")
PLANE_POSITION = Tag("PlanePositionSequence")

PLACE_TOLERANCE = 0.1
"""Farthest, in slices, that a slice of the masks may lie from the plane that it is of."""


def seg_path(results: Path, case_id: str, segmentation: str) -> Path:
    """Return where the DICOM-SEG of a case's segmentation stands."""
    return results / "seg" / case_id / f"{segmentation}.dcm"


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
    # A file of an earlier run must not outlive a case that now fails.
    shutil.rmtree(results / "seg" / case.case_id, ignore_errors=True)
    outcomes = []
    for number, spec in enumerate(settings.protocol["segmentations"], start=1):
        if not case.roles.keys() >= settings.needed_roles(spec["id"]):
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
    return write_seg(
        path,
        case,
        spec,
        read_segmentation(masks),
        encoding=spec["encoding"],
        description=f"{settings.protocol_id} {spec['id']}",
        series_number=SERIES_NUMBER_OFFSET + number,
        identity=(settings.protocol_sha256, spec["id"]),
    )


def write_seg(
    path: Path, case: Case, spec: Mapping[str, Any], segmentation: Segmentation, **said: Any
) -> Made:
    """Write a DICOM-SEG that references the series of a segmentation's role.

    Args:
        path: the file.
        case: whose series it is.
        spec: the protocol's segmentation.
        segmentation: masks on the grid of the series.
        said: the other arguments of `build_seg`.

    Raises:
        CaseFault: it cannot be built from the series.
    """
    series = case.roles[spec["role"]]
    what = f"case {case.case_id}: DICOM-SEG of {spec['id']!r}"
    segmentation = segmentation.without_empty()
    if not segmentation.segments:
        return Made(note="No DICOM-SEG, which cannot hold that no segment has a voxel.")
    notes: list[str] = []
    planes = read_planes(series, notes=notes)
    try:
        dataset = build_seg(segmentation, planes, read_terms(), notes=notes, **said)
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
    terms: dict[str, Term],
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
        notes: gets a sentence for each thing of the source that was mended.

    Returns:
        The data set with its file meta information.

    Raises:
        CaseFault: the segments overlap, which a label map cannot hold, or the masks do not lie on
            the slices.
    """
    if not any(layer.any() for layer in segmentation.layers):
        raise CaseFault(Reason.EMPTY_SEGMENTATION, "no segment has a voxel.")
    labelmap = encoding == "labelmap"
    _check_grid(segmentation.grid, planes)
    sources = _single_frame_headers(planes, source_header(planes[0].path, notes))
    _set_spacing(sources[0], planes[0].header, segmentation.grid, notes)
    key = (str(sources[0].SeriesInstanceUID), *identity)
    descriptions = [
        _description(number, segment, terms[segment.term], (*key, segment.name))
        for number, segment in enumerate(segmentation.segments, start=1)
    ]
    pixels = label_map(segmentation) if labelmap else _occupied(segmentation)
    places = ((p.header.SOPInstanceUID, p.frame, p.header.ImagePositionPatient) for p in planes)
    key = (*key, _digest(segmentation, (encoding, description, sources[0], *descriptions, *places)))
    # GDCM, by which highdicom encodes RLE, is some ten times faster than pydicom, but ends the
    # process where a frame of 8 bits has an odd number of pixels.
    even = pixels[0].size % 2 == 0
    dataset = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type="LABELMAP" if labelmap else "BINARY",
        # For a binary object, `_set_binary_frames` adds the other segments and their frames.
        segment_descriptions=descriptions if labelmap else descriptions[:1],
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
        transfer_syntax_uid=RLELossless if labelmap and even else ExplicitVRLittleEndian,
        # highdicom does not know the empty first value that Japanese headers have.
        specific_character_set=None,
    )
    if "SpecificCharacterSet" in sources[0]:
        dataset.SpecificCharacterSet = sources[0].SpecificCharacterSet
    # Of type 2 (PS3.3 table 10-12), and nobody's: highdicom leaves it out.
    dataset.ContentCreatorName = None
    groups = _reference_frames(dataset, planes)
    if not labelmap:
        _set_binary_frames(dataset, segmentation, descriptions, groups)
    _make_reproducible(dataset, planes, stable_uid("dimensions", *key), notes)
    # No longer highdicom's object, whose index of the frames is of those that it made itself.
    plain = Dataset(dataset)
    plain.file_meta = dataset.file_meta
    if not labelmap:
        # Lets pydicom write as they are the elements that are encoded already.
        stated = plain.get("SpecificCharacterSet")
        charset = convert_encodings(stated) if stated else default_encoding
        plain.set_original_encoding(False, True, charset)
    if labelmap and not even:
        plain.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
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
        said = ", ".join(f"{names[a - 1]!r} and {names[b - 1]!r}" for a, b in sorted(pairs)[:5])
        raise CaseFault(
            Reason.OVERLAPPING_SEGMENTS,
            f"{len(pairs)} pairs of segments overlap in {pairs.total()} voxels ({said}"
            f"{', …' if len(pairs) > 5 else ''}), and a label map holds one segment a voxel; set "
            "the segmentation's encoding to binary in the protocol.",
        )
    return numbers


def _digest(segmentation: Segmentation, said: Iterable[object]) -> str:
    """Return the hash of the masks and of all else that an object says."""
    digest = hashlib.sha256()
    for word in (jipflow.__version__, highdicom.__version__, *said):
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
    index = np.zeros((4, len(planes)))
    index[0], index[3] = np.arange(len(planes)), 1
    positions = np.array([plane.header.ImagePositionPatient for plane in planes], dtype=float)
    off = float(np.linalg.norm((grid.affine @ index)[:3].T - positions, axis=1).max())
    if off > PLACE_TOLERANCE * grid.spacing[0]:
        raise CaseFault(
            Reason.GRID_MISMATCH,
            f"the masks lie up to {off:.2f} mm off the slices of the series; run the segmentation "
            "again.",
        )


def _single_frame_headers(planes: Sequence[Plane], common: Dataset) -> list[Dataset]:
    """Return a header for each plane with what highdicom takes from a source, and no more.

    Frames of a multi-frame instance look like single-frame instances, so that all sources are
    alike; `_reference_frames` names the frames. The first header has the attributes of `common`,
    too. Planes whose orientations differ by rounding get that of the first one.
    """
    sources: list[Dataset] = []
    for plane in planes:
        source = Dataset() if sources else common
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", *GEOMETRY):
            source[keyword] = plane.header[keyword]
        source.SOPClassUID = CTImageStorage
        source.FrameOfReferenceUID = planes[0].header.FrameOfReferenceUID
        source.ImageOrientationPatient = planes[0].header.ImageOrientationPatient
        sources.append(source)
    first = planes[0].header
    if first.get("PositionReferenceIndicator"):
        common.PositionReferenceIndicator = first.PositionReferenceIndicator
    if first.get("LossyImageCompression") in {"00", "01"}:
        for keyword in LOSSY:
            if first.get(keyword):
                common[keyword] = first[keyword]
    return sources


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


def _reference_frames(dataset: Dataset, planes: Sequence[Plane]) -> dict[int, Dataset]:
    """Name the true source of each frame.

    Args:
        dataset: with a frame for each plane that has voxels, made from `_single_frame_headers`.
        planes: of the source.

    Returns:
        The functional groups of each plane that has a frame.
    """
    positions = np.array([plane.header.ImagePositionPatient for plane in planes], dtype=float)
    groups = {}
    for item in dataset.PerFrameFunctionalGroupsSequence:
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        index = int(np.linalg.norm(positions - position, axis=1).argmin())
        groups[index] = item
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        source.ReferencedSOPClassUID = planes[index].header.SOPClassUID
        if "PerFrameFunctionalGroupsSequence" in planes[index].instance:
            source.ReferencedFrameNumber = planes[index].frame + 1
    references = []
    for instance in {plane.header.SOPInstanceUID: plane.header for plane in planes}.values():
        reference = Dataset()
        reference.ReferencedSOPClassUID = instance.SOPClassUID
        reference.ReferencedSOPInstanceUID = instance.SOPInstanceUID
        references.append(reference)
    dataset.SourceImageSequence = references
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references
    return groups


def _set_binary_frames(
    dataset: Dataset,
    segmentation: Segmentation,
    descriptions: Sequence[Dataset],
    groups: dict[int, Dataset],
) -> None:
    """Give a binary object its frames: those of the first segment, then the second, and so on.

    highdicom would compare every slice with every segment, and needs an array a segment where
    segments overlap, which for a hundred segments of a CT is gigabytes.

    Args:
        dataset: with one segment and one frame a plane, whose functional groups are `groups`.
        segmentation: what the frames hold.
        descriptions: of all segments.
        groups: functional groups by plane.
    """
    several = len(descriptions) > 1
    if several:
        # Frames now differ in their segment, too.
        del dataset.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence
        dataset.pop("DimensionOrganizationType", None)
        groups = {plane: _shared_groups(group) for plane, group in groups.items()}
    items = []
    packed = BytesIO()
    waiting = []
    for number, plane, voxels in _binary_frames(segmentation):
        items.append(_frame_groups(groups[plane], number) if several else groups[plane])
        # Frames follow each other without padding (PS3.5 8.1.1), so eight fill whole bytes.
        waiting.append(voxels)
        if len(waiting) == 8:
            packed.write(np.packbits(waiting, bitorder="little").tobytes())
            waiting.clear()
    packed.write(np.packbits(np.array(waiting, bool), bitorder="little").tobytes())
    packed.write(bytes(packed.tell() % 2))
    dataset.SegmentSequence = descriptions
    dataset.NumberOfFrames = len(items)
    dataset.PerFrameFunctionalGroupsSequence = items
    dataset.add_new("PixelData", "OB", packed.getvalue())
    filled = sum((layer > 0).astype(np.uint8) for layer in segmentation.layers)
    dataset.SegmentsOverlap = "YES" if np.any(filled > 1) else "NO"


def _binary_frames(
    segmentation: Segmentation,
) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Iterate over segment number, plane and voxels of each frame that is not empty."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, layer in enumerate(segmentation.layers):
        for plane, labels in enumerate(layer):
            for label in np.flatnonzero(np.bincount(labels.ravel())).tolist():
                found[index, label].append(plane)
    for number, segment in enumerate(segmentation.segments, start=1):
        for plane in found[segment.layer, segment.label]:
            yield number, plane, segmentation.layers[segment.layer][plane] == segment.label


def _shared_groups(group: Dataset) -> Dataset:
    """Encode what the frames of one plane have in common once, and not once a frame."""
    shared = Dataset()
    shared.FrameContentSequence = group.FrameContentSequence
    for tag in (DERIVATION, PLANE_POSITION):
        encoded = DicomBytesIO()
        encoded.is_implicit_VR, encoded.is_little_endian = False, True
        write_sequence(encoded, group[tag], [default_encoding])
        value = encoded.getvalue()
        shared[tag] = RawDataElement(tag, "SQ", len(value), value, 0, False, True)
    return shared


def _frame_groups(plane: Dataset, number: int) -> Dataset:
    """Return the functional groups of a segment's frame from those of the plane it lies on."""
    content = Dataset()
    content.DimensionIndexValues = [number, plane.FrameContentSequence[0].DimensionIndexValues[1]]
    segment = Dataset()
    segment.ReferencedSegmentNumber = number
    frame = Dataset()
    frame[DERIVATION] = plane.get_item(DERIVATION)
    frame.FrameContentSequence = [content]
    frame[PLANE_POSITION] = plane.get_item(PLANE_POSITION)
    frame.SegmentIdentificationSequence = [segment]
    frame.set_original_encoding(False, True, default_encoding)
    return frame


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


def _make_reproducible(
    dataset: Dataset, planes: Sequence[Plane], dimensions: str, notes: list[str]
) -> None:
    """Replace the clock's dates by the latest of the source, and random UIDs by `dimensions`."""
    dataset.DimensionOrganizationSequence[0].DimensionOrganizationUID = dimensions
    for index in dataset.DimensionIndexSequence:
        index.DimensionOrganizationUID = dimensions
    content = [_moment(plane.header, "Content") for plane in planes]
    study = _moment(planes[0].header, "Study")
    moment = max((m for m in (*content, study) if m is not None), default=None)
    if moment is None:
        moment = ("19000101", "000000")
        notes.append("Content Date is 19000101, as neither the images nor the study have a date.")
    for prefix in ("Content", "InstanceCreation"):
        setattr(dataset, f"{prefix}Date", moment[0])
        setattr(dataset, f"{prefix}Time", moment[1])
    for equipment in dataset.ContributingEquipmentSequence:
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = moment[0] + moment[1]


def _moment(header: Dataset, prefix: str) -> tuple[str, str] | None:
    """Return date and time as DICOM writes them, or None if either is missing or no such value."""
    date, time = (str(header.get(f"{prefix}{part}") or "") for part in ("Date", "Time"))
    try:
        validate_value("DA", date, RAISE)
        validate_value("TM", time, RAISE)
    except ValueError:
        return None
    return (date, time) if date and time else None

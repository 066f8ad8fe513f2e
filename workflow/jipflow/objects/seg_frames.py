"""The frames of a DICOM-SEG: their sources, their functional groups and their bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage

from jipflow.images.masks import Segmentation
from jipflow.images.pixels import Plane

GEOMETRY = ("ImagePositionPatient", "PixelSpacing", "Rows", "Columns")
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")

DERIVATION = Tag("DerivationImageSequence")
PLANE_POSITION = Tag("PlanePositionSequence")


def single_frame_headers(planes: Sequence[Plane], common: Dataset) -> list[Dataset]:
    """Return a header for each plane with what highdicom takes from a source, and no more.

    Frames of a multi-frame instance look like single-frame instances, so that all sources are
    alike; `reference_frames` names the frames. The first header has the attributes of `common`,
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


def reference_frames(dataset: Dataset, planes: Sequence[Plane]) -> dict[int, Dataset]:
    """Name the true source of each frame.

    Args:
        dataset: with a frame for each plane that has voxels, made from `single_frame_headers`.
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
        if planes[index].frame_number:
            source.ReferencedFrameNumber = planes[index].frame_number
        if planes[index].tile or planes[index].shift is not None:
            # A pixel of the slice has another row and column there (PS3.3 C.7.6.16.2.6).
            source.SpatialLocationsPreserved = "NO"
    references = []
    for instance in {plane.header.SOPInstanceUID: plane.header for plane in planes}.values():
        reference = Dataset()
        reference.ReferencedSOPClassUID = instance.SOPClassUID
        reference.ReferencedSOPInstanceUID = instance.SOPInstanceUID
        references.append(reference)
    dataset.SourceImageSequence = references
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references
    return groups


def set_binary_frames(
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

"""One file of a series: its data set, the headers of its image planes, and what they must have."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from jipflow import datasets
from jipflow.reasons import CaseFault, Reason
from jipflow.syntaxes import MODALITIES
from jipflow.uids import study_stand_in

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

BROKEN = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    struct.error,
)
"""What pydicom raises where a file or a value in it is damaged."""

GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")

MACROS = (
    "UnassignedSharedConvertedAttributesSequence",
    "UnassignedPerFrameConvertedAttributesSequence",
    "PixelMeasuresSequence",
    "PlaneOrientationSequence",
    "PlanePositionSequence",
    "PixelValueTransformationSequence",
    "FrameContentSequence",
    "CTImageFrameTypeSequence",
    "CTReconstructionSequence",
    "MRImageFrameTypeSequence",
    "MREchoSequence",
    "MRDiffusionSequence",
    "MRTimingAndRelatedParametersSequence",
    "PETFrameTypeSequence",
    "ParametricMapFrameTypeSequence",
    "CardiacSynchronizationSequence",
    "TemporalPositionSequence",
)
"""Functional groups (PS3.3 C.7.6.16.2) whose content single-frame images have at the top level."""

FARTHEST = 1e5
"""Largest coordinate of a pixel in millimetres: tables move by metres."""

SPACINGS = (1e-3, 1e3)
"""Least and largest distance of pixels in millimetres: no scanner of patients comes near."""

COSINE_TOLERANCE = 2e-3
"""Largest deviation of the products of row and column direction from those of unit vectors at a
right angle: rounding to three decimals makes up to 1.73e-3."""


@contextmanager
def readable(context: object) -> Iterator[None]:
    """Turn the errors of damaged files and values within the block into a fault.

    Args:
        context: the file or the series, for the message.

    Raises:
        CaseFault: one of `BROKEN` was raised.
    """
    try:
        yield
    except BROKEN as error:
        text = " ".join(str(error).split())
        raise CaseFault(
            Reason.UNREADABLE,
            f"{context}: cannot be read as DICOM ({type(error).__name__}: {text}); copy it again "
            "from the archive.",
        ) from error


def read_instance(path: Path, *, pixels: bool, damaged: list[str] | None = None) -> Dataset:
    """Read a file with or without its pixels; its file meta names the transfer syntax at least.

    Args:
        path: a DICOM file (PS3.10), or a data set alone.
        pixels: read the pixels, too.
        damaged: gets a sentence for each element that could not be read as it stands.

    Raises:
        InvalidDicomError: it is neither.
        EOFError: it breaks off in its pixels or holds nothing.
    """
    dataset, repaired = datasets.read(path, stop=None if pixels else datasets.at_pixels)
    if damaged is not None:
        damaged += repaired
    if not dataset.preamble and not dataset.get("SOPClassUID"):
        raise InvalidDicomError("it does not begin as a DICOM file or data set")
    # pydicom gives an empty data set where encapsulated pixels have no end.
    if not len(dataset):
        raise EOFError("it breaks off in its pixels or holds nothing")
    complete_syntax(dataset)
    return dataset


def complete_syntax(dataset: FileDataset) -> None:
    """Give a data set without a transfer syntax the one of the encoding that it shows."""
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def complete_uids(dataset: Dataset, series_uid: str) -> list[str]:
    """Give a data set the UIDs that it lacks.

    Args:
        dataset: of an instance.
        series_uid: of the series that the catalog has put it into.

    Returns:
        The keywords of the UIDs that were missing.
    """
    stand_ins = {
        "SOPClassUID": lambda: dataset.file_meta.get("MediaStorageSOPClassUID", ""),
        "SOPInstanceUID": lambda: dataset.file_meta.get("MediaStorageSOPInstanceUID", ""),
        "SeriesInstanceUID": lambda: series_uid,
        "StudyInstanceUID": lambda: study_stand_in(
            *(str(dataset.get(name) or "") for name in ("PatientID", "StudyDate", "StudyTime"))
        ),
    }
    missing = [name for name in stand_ins if not dataset.get(name)]
    for name in missing:
        setattr(dataset, name, stand_ins[name]())
    return missing


def frame_headers(dataset: Dataset) -> list[Dataset]:
    """Return the header of each image plane of an instance, laid out as a single-frame one.

    Args:
        dataset: an instance; of a multi-frame one, the content of functional groups (PS3.3
            C.7.6.16), shared or of the frame, is put to the top level.

    Returns:
        One data set a frame, in the order of the frames; the data set itself for a single-frame
        instance.
    """
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        return [dataset]
    left_out = {"SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", *PIXELS}
    common = Dataset()
    # Elements are copied as they stand: one that cannot be decoded may never be asked for.
    for tag in dataset.keys():  # noqa: SIM118 iteration would decode the elements
        if keyword_for_tag(tag) not in left_out:
            common[tag] = dataset.get_item(tag)
    for group in dataset.get("SharedFunctionalGroupsSequence") or []:
        _flatten(group, common)
    headers = []
    for group in frames:
        header = Dataset()
        header.update(common)
        header.file_meta = dataset.file_meta
        _flatten(group, header)
        headers.append(header)
    return headers


def _flatten(group: Dataset, header: Dataset) -> None:
    """Put the content of a functional group to the top level of a header."""
    header.update(group)
    for macro in MACROS:
        items = group.get(macro)
        if items:
            header.update(items[0])


def check_object(path: Path, dataset: Dataset, name: str) -> None:
    """Refuse an instance that is no image of a modality that is measured.

    Args:
        path: its file.
        dataset: the instance.
        name: its series, for messages.

    Raises:
        CaseFault: its SOP class, its colours or its frames are not what can be read.
    """
    sop_class = UID(str(dataset.get("SOPClassUID") or ""))
    if sop_class not in MODALITIES:
        raise CaseFault(
            Reason.UNSUPPORTED_OBJECT,
            f"{path}: {sop_class.name or 'an object without SOP Class UID'} in {name} is no CT, MR "
            "or PET image and no parametric map; narrow the role's filter or take it out of "
            "the series.",
        )
    kind = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not kind.startswith("MONOCHROME"):
        raise CaseFault(
            Reason.UNSUPPORTED_OBJECT,
            f"{path}: a colour image in {name} has no values to measure; take it out of the "
            "series.",
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1 and "PerFrameFunctionalGroupsSequence" not in dataset:
        raise CaseFault(
            Reason.UNSUPPORTED_OBJECT,
            f"{path}: has {frames} frames without the functional groups that say where they lie; "
            "export the series as single-frame or enhanced images.",
        )
    groups = len(dataset.get("PerFrameFunctionalGroupsSequence") or [None])
    if frames != groups:
        raise CaseFault(
            Reason.MISSING_GEOMETRY,
            f"{path}: Number of Frames ({frames}) and its functional groups ({groups}) disagree, "
            "so no frame's place is sure; export the series again.",
        )


def check_geometry(path: Path, header: Dataset) -> None:
    """Refuse an image plane that does not say where it lies (PS3.3 C.7.6.2).

    Args:
        path: its file.
        header: of the plane, as `frame_headers` gives it.

    Raises:
        CaseFault: an attribute is missing or absurd.
    """
    absent = [name for name in (*GEOMETRY, "FrameOfReferenceUID") if not header.get(name)]
    if absent:
        raise CaseFault(
            Reason.MISSING_GEOMETRY,
            f"{path}: {', '.join(absent)} is missing or empty; export the series again from the "
            "scanner or PACS, or take the instance out.",
        )
    cosines = np.asarray(header.ImageOrientationPatient, float)
    position = np.asarray(header.ImagePositionPatient, float)
    spacing = np.asarray(header.PixelSpacing, float)
    if cosines.shape != (6,) or position.shape != (3,) or spacing.shape != (2,):
        raise CaseFault(
            Reason.GEOMETRY_REFUSED,
            f"{path}: Image Orientation, Image Position or Pixel Spacing has the wrong number of "
            "values; export the series again.",
        )
    row, column = cosines[:3], cosines[3:]
    skew = np.abs([row @ row - 1, column @ column - 1, row @ column]).max()
    # `not <=` refuses values that are no numbers, too, which this maximum keeps.
    far = np.abs(position).max()
    if not skew <= COSINE_TOLERANCE or not far <= FARTHEST or not _is_possible(spacing):
        raise CaseFault(
            Reason.GEOMETRY_REFUSED,
            f"{path}: Image Orientation is not two unit vectors at a right angle, or Image "
            "Position or Pixel Spacing is absurd; export the series again.",
        )


def _is_possible(spacing: NDArray[np.float64]) -> bool:
    return bool(SPACINGS[0] <= spacing.min() and spacing.max() <= SPACINGS[1])

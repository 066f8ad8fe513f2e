"""From the files of one DICOM series to a volume, or to the reason why not."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from highdicom.spatial import create_affine_matrix_from_attributes
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels import apply_modality_lut, iter_pixels
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from jipflow.cases import CaseFault, Reason, Series
from jipflow.images import jpeg
from jipflow.images.suv import real_world_units, suv_factors
from jipflow.images.volume import Grid, Volume
from jipflow.uids import study_stand_in

MODALITIES = {
    CTImageStorage: "CT",
    EnhancedCTImageStorage: "CT",
    LegacyConvertedEnhancedCTImageStorage: "CT",
    MRImageStorage: "MR",
    EnhancedMRImageStorage: "MR",
    LegacyConvertedEnhancedMRImageStorage: "MR",
    PositronEmissionTomographyImageStorage: "PT",
    EnhancedPETImageStorage: "PT",
    LegacyConvertedEnhancedPETImageStorage: "PT",
}
"""The SOP classes that are read, and what they image (PS3.4 B.5)."""

DECODERS = {
    **dict.fromkeys(jpeg.SYNTAXES, jpeg.PLUGIN),
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
}
"""pydicom's plug-in for syntaxes of which it has several: the one that refuses a broken stream."""

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
    "CardiacSynchronizationSequence",
    "TemporalPositionSequence",
)
"""Functional groups (PS3.3 C.7.6.16.2) whose content single-frame images have at the top level."""

APART = ("StackID", "TemporalPositionIdentifier", "TemporalPositionIndex", "EchoNumbers")
"""Attributes of which one volume has one value."""

B_VALUE = "DiffusionBValue"

TELLING = (
    *APART,
    B_VALUE,
    "AcquisitionNumber",
    "FrameAcquisitionNumber",
    "EffectiveEchoTime",
    "EchoTime",
    "InversionTime",
    "ImageType",
    "FrameType",
    "ConvolutionKernel",
    "KVP",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "FrameReferenceTime",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "FrameAcquisitionDateTime",
    "ContentTime",
)
"""Attributes that tell apart phases, echoes and acquisitions, from the plainest to the vaguest."""

PRIVATE_B_VALUES = (
    (0x0019, 0x0C, "SIEMENS MR HEADER"),
    (0x2001, 0x03, "Philips Imaging DD 001"),
    (0x0043, 0x39, "GEMS_PARM_01"),
)
"""Group, offset and creator of the elements where Siemens, Philips and GE keep the b-value."""

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference between direction cosines of one orientation: 0.05 mm over 512 mm."""
COSINE_TOLERANCE = 1e-3
"""Largest deviation of row and column direction from unit length and a right angle."""
POSITION_TOLERANCE = 0.01
"""Largest distance in mm at which two slices count as at one position."""
SHEAR_TOLERANCE = 1e-3
"""Largest sideways shift a millimetre of travel, as highdicom's perpendicular tolerance."""
SPACING_TOLERANCE = 0.01
"""Largest relative deviation of a slice distance, as highdicom's default ``rtol``."""
ROUNDING_TOLERANCE = 0.06
"""Largest distance in mm from an even grid: 0.05 where positions have one decimal, and its fit."""
ROUNDING_SHARE = 0.1
"""Largest share of the slice distance that is taken for rounding."""


@dataclass(frozen=True)
class Plane:
    """One image plane of a series: a single-frame instance, or a frame of a multi-frame one.

    Attributes:
        path: the file of the instance.
        instance: its data set.
        frame: index of the frame, from 0.
        header: the attributes of the plane, laid out as in a single-frame instance.
        stored: stored values, shape (rows, columns); None where only headers are read.
    """

    path: Path
    instance: Dataset
    frame: int
    header: Dataset
    stored: NDArray[np.generic] | None

    def pixels(self) -> NDArray[np.generic]:
        """Return the stored values, from the file if need be."""
        if self.stored is not None:
            return self.stored
        with _readable(self.path):
            return _decode(self.path, _read(self.path, pixels=True), [self.frame])[0]


def read_planes(series: Series, *, notes: list[str] | None = None) -> list[Plane]:
    """Read the headers of a series' image planes, sorted as the slices of its volume.

    A blank SeriesInstanceUID is replaced by that of `series`, blank SOP Class and Instance UIDs by
    those of the file meta information, and a blank StudyInstanceUID by its stand-in
    (`jipflow.uids`). Of slices that are there twice with the same pixels one is left out.

    Args:
        series: the series and its files.
        notes: gets a sentence for each mended defect.

    Returns:
        The planes, from the first to the last along the normal of the image plane (the cross
        product of row and column direction, PS3.3 C.7.6.2.1.1); frames of a multi-frame instance
        are sorted as single-frame instances are.

    Raises:
        CaseFault: a file cannot be read, or the series is no volume.
    """
    return _load(series, decode=False, notes=notes)


def _load(series: Series, *, decode: bool, notes: list[str] | None) -> list[Plane]:
    notes = [] if notes is None else notes
    name = f"series {series.series_uid}"
    planes = []
    mended: dict[str, None] = {}
    for path in series.paths:
        with _readable(path):
            dataset = _read(path, pixels=decode)
            mended.update(dict.fromkeys(_mend_uids(dataset, series.series_uid)))
            _check_object(path, dataset, name)
            headers = frame_headers(dataset)
            for header in headers:
                _check_geometry(path, header)
            frames = _decode(path, dataset) if decode else [None] * len(headers)
        if len(frames) != len(headers):
            raise CaseFault(
                Reason.TRUNCATED_PIXELS,
                f"{path}: has {len(frames)} frames of pixels where its header describes "
                f"{len(headers)}; copy it again from the archive.",
            )
        for number, (header, stored) in enumerate(zip(headers, frames, strict=True)):
            planes.append(Plane(path, dataset, number, header, stored))
    if len(series.paths) > 1 and len(planes) > len(series.paths):
        raise CaseFault(
            Reason.UNSUPPORTED_OBJECT,
            f"{name}: has {len(series.paths)} instances, some of them multi-frame; export each "
            "multi-frame image as a series of its own.",
        )
    if mended:
        notes.append(f"UIDs missing in the files were replaced by stand-ins: {', '.join(mended)}.")
    with _readable(name):
        return _sorted_planes(planes, name, notes)


def read_series_volume(series: Series, *, notes: list[str] | None = None) -> Volume:
    """Read a series as a volume: HU for CT, SUVbw in g/mL for PET, rescaled values for MR.

    Values are stored values after the Modality LUT: Rescale Slope and Intercept of each slice or
    frame, or its Modality LUT Sequence (PS3.3 C.11.1). What serves the display alone changes no
    value: MONOCHROME1, presentation and VOI LUTs, overlays. Pixel Padding Value is kept: it is
    what the scanner wrote outside its circle of reconstruction. Real World Value Mappings are used
    for enhanced PET images only, which have no other units. MR values are the scanner's displayed
    values; the private scale of Philips (2005,100E), by which they become comparable between
    series (Chenevert et al., Transl Oncol 2014, doi 10.1593/tlo.13811), is not applied.

    Args:
        series: the series and its files.
        notes: gets a sentence for each mended defect.

    Returns:
        The volume; its first axis runs along the normal of the image plane. Whole numbers that fit
        are int16, else all values float32.

    Raises:
        CaseFault: the series is no regular volume, or its units are not understood.
    """
    notes = [] if notes is None else notes
    planes = _load(series, decode=True, notes=notes)
    headers = [plane.header for plane in planes]
    name = f"series {series.series_uid}"
    modality = MODALITIES[headers[0].SOPClassUID]
    factors = np.ones(len(planes))
    with _readable(name):
        for plane in planes:
            _check_rescale(plane, modality)
        if modality == "PT":
            factors = suv_factors(headers, name)
        if modality == "CT":
            units = {str(header.get("RescaleType") or "HU") for header in headers} - {"HU", "US"}
            if units:
                notes.append(
                    f"Rescale Type is {', '.join(sorted(units))}, so the values are not HU."
                )
        grid = _grid(headers, name)
        # Each slice's stored values are let go once they are converted.
        planes.reverse()
        return Volume(_stacked(planes, factors, grid.shape), grid)


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
    for element in dataset:
        if element.keyword not in left_out:
            common[element.tag] = element
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
    header.update(group)
    for macro in MACROS:
        items = group.get(macro)
        if items:
            header.update(items[0])


@contextmanager
def _readable(where: object) -> Iterator[None]:
    """Turn the errors of damaged files and values into a fault."""
    try:
        yield
    except BROKEN as error:
        text = " ".join(str(error).split())
        raise CaseFault(
            Reason.UNREADABLE,
            f"{where}: cannot be read as DICOM ({type(error).__name__}: {text}); copy it again "
            "from the archive.",
        ) from error


def _read(path: Path, *, pixels: bool) -> Dataset:
    # Some archives keep data sets without preamble and file meta information.
    dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
    if not dataset.preamble and not dataset.get("SOPClassUID"):
        raise InvalidDicomError("it does not begin as a DICOM file or data set")
    # pydicom gives an empty data set where encapsulated pixels have no end.
    if not len(dataset):
        raise EOFError("it breaks off in its pixels or holds nothing")
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _mend_uids(dataset: Dataset, series_uid: str) -> list[str]:
    """Give a data set the UIDs that it lacks; returns their names."""
    stand_ins = {
        "SOPClassUID": lambda: dataset.file_meta.get("MediaStorageSOPClassUID", ""),
        "SOPInstanceUID": lambda: dataset.file_meta.get("MediaStorageSOPInstanceUID", ""),
        "SeriesInstanceUID": lambda: series_uid,
        "StudyInstanceUID": lambda: study_stand_in(
            *(str(dataset.get(name) or "") for name in ("PatientID", "StudyDate", "StudyTime"))
        ),
    }
    mended = [name for name in stand_ins if not dataset.get(name)]
    for name in mended:
        setattr(dataset, name, stand_ins[name]())
    return mended


def _check_object(path: Path, dataset: Dataset, name: str) -> None:
    sop_class = UID(str(dataset.get("SOPClassUID") or ""))
    if sop_class not in MODALITIES:
        raise CaseFault(
            Reason.UNSUPPORTED_OBJECT,
            f"{path}: {sop_class.name or 'an object without SOP Class UID'} in {name} is not a CT, "
            "MR or PET image; narrow the role's filter or take it out of the series.",
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


def _check_geometry(path: Path, header: Dataset) -> None:
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
    skew = max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column))
    # `not <=` refuses values that are no numbers, too.
    if not skew <= COSINE_TOLERANCE or not np.isfinite(position).all() or not spacing.min() > 0:
        raise CaseFault(
            Reason.GEOMETRY_REFUSED,
            f"{path}: Image Orientation is not two unit vectors at a right angle, or Image "
            "Position or Pixel Spacing is absurd; export the series again.",
        )


def _decode(
    path: Path, dataset: Dataset, indices: list[int] | None = None
) -> list[NDArray[np.generic]]:
    """Return the stored values of all or some frames and let go of the encoded ones."""
    present = [name for name in PIXELS if dataset.get(name)]
    if not present:
        raise CaseFault(
            Reason.NO_PIXEL_DATA,
            f"{path}: has no pixel data; retrieve the series again.",
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    frames = int(dataset.get("NumberOfFrames") or 1)
    if not syntax.is_encapsulated:
        pixels = int(dataset.Rows) * int(dataset.Columns) * frames
        expected = pixels * int(dataset.get("BitsAllocated") or 0) // 8
        if len(dataset[present[0]].value) < expected:
            raise CaseFault(
                Reason.TRUNCATED_PIXELS,
                f"{path}: has {len(dataset[present[0]].value)} bytes of pixels where {expected} "
                "are due; copy it again from the archive.",
            )
    decoder = DECODERS.get(syntax, "")
    try:
        # A copy, so that the values do not keep the encoded buffer alive.
        decoded = iter_pixels(dataset, raw=True, indices=indices, decoding_plugin=decoder)
        stored = [frame.copy() for frame in decoded]
    except MemoryError:
        raise
    except Exception as error:  # each decoder raises errors of its own
        raise CaseFault(
            Reason.UNDECODABLE_PIXELS,
            f"{path}: its pixels ({syntax.name}) cannot be decoded "
            f"({' '.join(str(error).split())}); copy it again from the archive.",
        ) from error
    del dataset[present[0]]
    return stored


def _check_rescale(plane: Plane, modality: str) -> None:
    """Refuse a plane whose stored values cannot be turned into the modality's values."""
    header = plane.header
    if header.get("ModalityLUTSequence"):
        return
    if modality == "PT" and not header.get("Units") and real_world_units(header):
        return
    given = [header.get(name) not in (None, "") for name in ("RescaleSlope", "RescaleIntercept")]
    if all(given) and float(header.RescaleSlope) != 0:
        return
    if modality == "MR" and not any(given):
        return
    raise CaseFault(
        Reason.MISSING_RESCALE,
        f"{plane.path}: Rescale Slope or Intercept is missing, empty or 0, so the values have no "
        "unit; export the series again from the scanner or PACS.",
    )


def _values(plane: Plane) -> NDArray[np.float64]:
    """Return the values after the Modality LUT, or the real world values of enhanced PET."""
    header, stored = plane.header, plane.pixels()
    if header.get("ModalityLUTSequence"):
        return apply_modality_lut(stored.astype(np.int32), header).astype(np.float64)
    if MODALITIES[header.SOPClassUID] == "PT" and not header.get("Units"):
        mapping = header.RealWorldValueMappingSequence[0]
        return (
            stored.astype(np.float64) * mapping.RealWorldValueSlope
            + mapping.RealWorldValueIntercept
        )
    if header.get("RescaleSlope") in (None, ""):
        return stored.astype(np.float64)
    return np.asarray(apply_modality_lut(stored, header), np.float64)


def _stacked(
    planes: list[Plane], factors: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.generic]:
    """Convert and stack planes, given from the last to the first, which the list loses.

    Whole numbers that fit are stored as int16, all else as float32.
    """
    array: NDArray[np.generic] = np.empty(shape, np.int16)
    largest = np.iinfo(np.int16).max
    for k, factor in enumerate(factors):
        values = _values(planes.pop()) * factor
        if array.dtype == np.int16:
            whole = np.array_equal(np.rint(values), values)
            if not whole or np.abs(values).max() > largest:
                floats = np.empty(shape, np.float32)
                floats[:k] = array[:k]
                array = floats
        array[k] = values
    return array


def _grid(headers: Sequence[Dataset], name: str) -> Grid:
    """Return the grid of sorted, evenly spaced slices."""
    first = headers[0]
    positions = np.array([h.ImagePositionPatient for h in headers], dtype=float)
    cosines = np.array([h.ImageOrientationPatient for h in headers], dtype=float)
    orientation = _most_common(cosines)
    normal = np.cross(orientation[:3], orientation[3:])
    depth = positions @ normal
    try:
        affine = create_affine_matrix_from_attributes(
            image_position=first.ImagePositionPatient,
            image_orientation=[float(value) for value in orientation],
            pixel_spacing=first.PixelSpacing,
            spacing_between_slices=(depth[-1] - depth[0]) / (len(headers) - 1),
            index_convention="DR",
            slices_first=True,
            handedness="LEFT_HANDED",
        )
    except (ValueError, TypeError) as error:
        raise CaseFault(
            Reason.GEOMETRY_REFUSED, f"{name}: makes no volume: {error}; export it again."
        ) from error
    # Adding 0 turns -0 into 0.
    return Grid((len(headers), int(first.Rows), int(first.Columns)), affine + 0.0)


def _most_common(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    return distinct[int(np.argmax(counts))]


def _sorted_planes(planes: list[Plane], name: str, notes: list[str]) -> list[Plane]:
    """Sort planes along their normal and refuse what is no regular stack."""
    headers = [plane.header for plane in planes]
    if len(planes) < 2:
        raise CaseFault(
            Reason.TOO_FEW_SLICES,
            f"{name}: has one slice; retrieve the rest of the series or exclude it.",
        )
    kinds = {header.SOPClassUID for header in headers}
    if len(kinds) > 1:
        raise CaseFault(
            Reason.UNSUPPORTED_OBJECT,
            f"{name}: mixes {', '.join(sorted(UID(kind).name for kind in kinds))}; export each as "
            "a series of its own.",
        )
    for identity in ("PatientID", "StudyInstanceUID"):
        count = len({str(header.get(identity) or "").strip() for header in headers})
        if count > 1:
            raise CaseFault(
                Reason.MIXED_PATIENTS,
                f"{name}: its slices have {count} values of {identity}; a file of another "
                "examination may lie among them: mend it in the archive.",
            )
    frames = {header.FrameOfReferenceUID for header in headers}
    if len(frames) > 1:
        raise CaseFault(
            Reason.MIXED_FRAME_OF_REFERENCE,
            f"{name}: has {len(frames)} frames of reference, so its slices have no common space; "
            "export each examination as a series of its own.",
        )
    cosines = np.array([h.ImageOrientationPatient for h in headers], dtype=float)
    off = np.abs(cosines - np.median(cosines, axis=0)).max(axis=1) > ORIENTATION_TOLERANCE
    if off.any():
        count = len(np.unique(cosines.round(3), axis=0))
        stray = planes[int(np.argmax(off))]
        raise CaseFault(
            Reason.MIXED_ORIENTATION,
            f"{name}: its slices lie in {count} orientations, {stray.path} not as most do; a "
            "localizer or reformat may be mixed in: export it as a series of its own.",
        )
    matrices = {(h.Rows, h.Columns, *map(float, h.PixelSpacing)) for h in headers}
    if len(matrices) > 1:
        raise CaseFault(
            Reason.MIXED_MATRIX,
            f"{name}: has slices of {len(matrices)} sizes or pixel spacings; export each "
            "reconstruction as a series of its own.",
        )
    normal = np.cross(cosines[0, :3], cosines[0, 3:])
    positions = np.array([h.ImagePositionPatient for h in headers], dtype=float)
    # The UID decides between slices at one position, so that files may be moved and renamed.
    uids = [str(plane.instance.SOPInstanceUID) for plane in planes]
    depth = positions @ normal
    order = sorted(range(len(planes)), key=lambda i: (depth[i], uids[i], planes[i].frame))
    planes = _distinct([planes[i] for i in order], depth[order], name, notes)
    _check_one_acquisition(planes, name)
    positions = np.array([p.header.ImagePositionPatient for p in planes], dtype=float)
    _check_stack(positions, normal, name, planes)
    return planes


def _distinct(
    planes: list[Plane], depth: NDArray[np.float64], name: str, notes: list[str]
) -> list[Plane]:
    """Leave out planes that repeat another one, and refuse others at one position.

    Args:
        planes: sorted by depth.
        depth: position in mm along the normal.
        name: the series, for messages.
        notes: gets a sentence if planes are left out.
    """
    groups = np.cumsum(np.diff(depth, prepend=depth[0]) >= POSITION_TOLERANCE)
    kept: dict[int, list[Plane]] = defaultdict(list)
    for group, plane in zip(groups.tolist(), planes, strict=True):
        if not any(_same_image(plane, other) for other in kept[group]):
            kept[group].append(plane)
    distinct = [plane for group in kept.values() for plane in group]
    repeated = sum(len(group) - 1 for group in kept.values())
    if repeated:
        telling = _telling(kept.values())
        if telling:
            raise CaseFault(
                Reason.MIXED_ACQUISITIONS,
                f"{name}: holds {len(distinct)} slices at {len(kept)} positions, told apart by "
                f"{telling}; export each as a series of its own.",
            )
        twice = next(group for group in kept.values() if len(group) > 1)
        raise CaseFault(
            Reason.DUPLICATE_SLICES,
            f"{name}: {repeated} of {len(distinct)} slices lie where another one lies but differ "
            f"from it, such as {twice[0].path} and {twice[1].path}; take out the wrong ones.",
        )
    left_out = len(planes) - len(distinct)
    if left_out:
        notes.append(f"Repeated slices, of the same place and pixels, left out: {left_out}.")
    return distinct


def _same_image(one: Plane, other: Plane) -> bool:
    """Tell whether two planes have the same geometry, values and acquisition."""
    names = (*GEOMETRY, *TELLING, "RescaleSlope", "RescaleIntercept", "PhotometricInterpretation")
    if any(_text(one.header, name) != _text(other.header, name) for name in names):
        return False
    tables = ("ModalityLUTSequence", "RealWorldValueMappingSequence")
    if any(one.header.get(name) != other.header.get(name) for name in tables):
        return False
    return np.array_equal(one.pixels(), other.pixels())


def _text(header: Dataset, name: str) -> str:
    """Return an attribute's value as text, empty where it is missing."""
    value = header.get(name)
    if name == B_VALUE and value is None:
        value = _private_b_value(header)
    return "" if value is None else str(value)


def _private_b_value(header: Dataset) -> Any:
    for group, offset, creator in PRIVATE_B_VALUES:
        try:
            value = header.get_private_item(group, offset, creator).value
        except KeyError:
            continue
        # GE keeps other numbers behind it.
        return value[0] if isinstance(value, MultiValue) and value else value
    return None


def _telling(groups: Iterable[list[Plane]]) -> str:
    """Name the attribute that splits planes, grouped by position, into stacks of their own.

    Returns:
        Its keyword and its values, or nothing if there is none.
    """
    groups = list(groups)
    for name in TELLING:
        rows = [[_text(plane.header, name) for plane in group] for group in groups]
        distinct = sorted({value for row in rows for value in row} - {""})
        if len(distinct) < 2:
            continue
        count = sum(len(row) for row in rows)
        apart = all(len(set(row)) == len(row) for row in rows)
        if apart and (2 * len(distinct) <= count or _in_turn(rows)):
            shown = ", ".join(distinct[:4]) + (", …" if len(distinct) > 4 else "")
            return f"{name} ({shown})"
    return ""


def _in_turn(rows: list[list[str]]) -> bool:
    """Tell whether at each position the n-th value comes after all (n-1)-th of other positions."""
    several = [row for row in rows if len(row) > 1]
    try:
        ranked = [sorted(map(float, row)) for row in several]
    except ValueError:
        return False
    if len(ranked) < 2:
        return False
    ranks = range(max(map(len, ranked)))
    turns = [[row[rank] for row in ranked if rank < len(row)] for rank in ranks]
    return all(max(one) < min(two) for one, two in pairwise(turns))


def _check_one_acquisition(planes: Sequence[Plane], name: str) -> None:
    """Refuse planes of several stacks, times or echoes, even where they interleave evenly."""
    for attribute in (*APART, B_VALUE):
        values = {_text(plane.header, attribute) for plane in planes} - {""}
        if len(values) > 1:
            raise CaseFault(
                Reason.MIXED_ACQUISITIONS,
                f"{name}: its slices differ in {attribute} ({', '.join(sorted(values))}); export "
                "each as a series of its own.",
            )


def _check_stack(
    positions: NDArray[np.float64],
    normal: NDArray[np.float64],
    name: str,
    planes: Sequence[Plane],
) -> None:
    """Refuse positions (n, 3) in mm, sorted along the normal, that are not evenly spaced on it."""
    if len(positions) < 2:
        raise CaseFault(
            Reason.TOO_FEW_SLICES,
            f"{name}: has one slice; retrieve the rest of the series or exclude it.",
        )
    depth = positions @ normal
    gaps = np.diff(depth)
    sideways = positions - positions[0] - np.outer(depth - depth[0], normal)
    shift = float(np.linalg.norm(sideways, axis=1).max())
    if shift > SHEAR_TOLERANCE * (depth[-1] - depth[0]):
        raise CaseFault(
            Reason.GANTRY_TILT,
            f"{name}: slices shift sideways by up to {shift:.2f} mm; correct the gantry tilt "
            "before import or exclude the series.",
        )
    spacing = float(np.median(gaps))
    steps = gaps / spacing
    index = np.arange(len(depth))
    even = np.polynomial.Polynomial.fit(index, depth, 1)(index)
    rounding = min(ROUNDING_TOLERANCE, ROUNDING_SHARE * spacing)
    if np.abs(steps - 1).max() <= SPACING_TOLERANCE or np.abs(depth - even).max() <= rounding:
        return
    telling = _interleaved(planes, depth)
    if telling:
        raise CaseFault(
            Reason.MIXED_ACQUISITIONS,
            f"{name}: holds several stacks of slices between one another, told apart by "
            f"{telling}; export each as a series of its own.",
        )
    missing = int(np.rint(steps).sum()) - len(gaps)
    if missing and np.abs(steps - np.rint(steps)).max() <= SPACING_TOLERANCE * np.rint(steps).max():
        where = depth[int(np.argmax(steps))]
        raise CaseFault(
            Reason.MISSING_SLICES,
            f"{name}: {missing} of {len(depth) + missing} slices are missing, the first after "
            f"{where:.2f} mm; retrieve the series again.",
        )
    raise CaseFault(
        Reason.IRREGULAR_SPACING,
        f"{name}: slice distances run from {gaps.min():.3f} to {gaps.max():.3f} mm; retrieve the "
        "series again, or resample it before import.",
    )


def _interleaved(planes: Sequence[Plane], depth: NDArray[np.float64]) -> str:
    """Name the attribute whose values form even stacks of slices that reach into one another."""
    for name in TELLING:
        stacks: dict[str, list[float]] = defaultdict(list)
        for plane, where in zip(planes, depth.tolist(), strict=True):
            stacks[_text(plane.header, name)].append(where)
        if len(stacks) < 2 or min(map(len, stacks.values())) < 3:
            continue
        gaps = [np.diff(stack) for stack in stacks.values()]
        even = all(np.abs(gap / gap.mean() - 1).max() <= SPACING_TOLERANCE for gap in gaps)
        ends = sorted((stack[0], stack[-1]) for stack in stacks.values())
        if even and all(two[0] < one[1] for one, two in pairwise(ends)):
            return f"{name} ({', '.join(sorted(stacks))})"
    return ""

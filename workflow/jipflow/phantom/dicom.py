"""A DICOM factory: CT, PET and RTSTRUCT objects from arrays and a grid.

Every object is complete for its IOD (PS3.3 A.3, A.21 and A.19) and passes `dciodvfy` without
errors. All UIDs derive from the caller's words, all dates from the caller's study, so that the
same call gives the same bytes.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
)
from skimage.measure import find_contours

from jipflow.phantom.elements import (
    add_patient_position,
    add_pixels,
    add_reconstruction,
    check_shape,
    code_item,
    date_text,
    decimal_text,
    instance_order,
    reference_item,
    stamp,
    stored_unit,
    time_text,
)
from jipflow.phantom.grid import PhantomGrid
from jipflow.phantom.vendors import VENDORS, Vendor

F18_HALF_LIFE_S = 6586.2
"""Half-life of fluorine-18 in seconds (109.77 min)."""

_UID_NAMESPACE = uuid.UUID("6d1f1c0e-6a53-5c0b-9b0f-1f8f5c0f7a11")


def uid(*words: object) -> str:
    """A UID under the 2.25 root (PS3.5 B.2) that depends on the words alone."""
    name = "\x1f".join(str(word) for word in words)
    return f"2.25.{uuid.uuid5(_UID_NAMESPACE, name).int}"


@dataclass(frozen=True)
class Study:
    """The patient, the study and the frame of reference that a factory call writes into.

    Attributes:
        patient_id: Patient ID (0010,0020).
        patient_name: Patient's Name, visibly synthetic.
        sex: `M`, `F` or `O`.
        birth_date: Patient's Birth Date.
        size_m: Patient's Size in metres.
        weight_kg: Patient's Weight in kilograms.
        start: start of the study.
        description: Study Description.
        accession: Accession Number.
        vendor: scanner style.
        body_part: Body Part Examined.
        key: words that all UIDs of the study derive from.
    """

    patient_id: str = "PHANTOM-0001"
    patient_name: str = "Phantom^One"
    sex: str = "O"
    birth_date: date = date(1960, 1, 1)
    size_m: float = 1.75
    weight_kg: float = 75.0
    start: datetime = datetime(2021, 3, 1, 9, 0, 0)
    description: str = "PET/CT phantom"
    accession: str = "PH0001"
    vendor: Vendor = VENDORS["siemens"]
    body_part: str = "ABDOMEN"
    key: tuple[object, ...] = field(default=("example",))

    @property
    def study_uid(self) -> str:
        """Study Instance UID."""
        return uid("study", *self.key)

    @property
    def frame_uid(self) -> str:
        """Frame of Reference UID, shared by the study's CT and PET."""
        return uid("frame", *self.key)


@dataclass(frozen=True)
class Injection:
    """An injection of FDG.

    Attributes:
        start: time of the injection.
        dose_bq: activity at that time in becquerel.
    """

    start: datetime
    dose_bq: float

    def dose_at(self, moment: datetime) -> float:
        """Activity in becquerel left at a moment."""
        elapsed = (moment - self.start).total_seconds()
        return float(self.dose_bq * 2.0 ** (-elapsed / F18_HALF_LIFE_S))


def suv_factor(study: Study, injection: Injection, series_start: datetime) -> float:
    """SUVbw per Bq/mL of an image that is decay-corrected to the start of its series.

    SUVbw = activity concentration × body weight / dose at the series' start, with the density
    of water (QIBA FDG-PET/CT SUV vendor-neutral pseudo-code, "happy path").
    """
    return study.weight_kg * 1000.0 / injection.dose_at(series_start)


def ct_series(
    hu: NDArray[np.integer],
    grid: PhantomGrid,
    study: Study | None = None,
    *,
    number: int = 2,
    series_uid: str | None = None,
    description: str | None = None,
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "AXIAL"),
    first_instance: int = 1,
) -> list[Dataset]:
    """A CT series.

    Args:
        hu: Hounsfield units, axes (slice, row, column), from −1024 to 3071.
        grid: geometry; any orientation.
        study: what to write into; by default an example study.
        number: Series Number.
        series_uid: Series Instance UID; by default derived from the study and the number.
        description: Series Description; by default the vendor's.
        image_type: Image Type.
        first_instance: Instance Number of the first instance.

    Returns:
        One dataset a slice, in the order of their Instance Numbers (from the top down where the
        vendor counts so).

    Raises:
        ValueError: the array is not of the grid's shape.
    """
    study = study or Study()
    vendor = study.vendor
    series_uid = series_uid or uid("series", *study.key, number)
    start = study.start + timedelta(minutes=3)
    check_shape(hu, grid)
    stored = np.asarray(hu, np.int32) + 1024
    series = []
    for instance, k in enumerate(instance_order(grid, vendor), first_instance):
        ds = _instance(study, CTImageStorage, "CT", series_uid, number, instance)
        ds.ImageType = list(image_type)
        ds.SeriesDescription = description or vendor.ct_description
        stamp(ds, "Series", start)
        stamp(ds, "Acquisition", start)
        stamp(ds, "Content", start + timedelta(seconds=instance // 4))
        ds.BodyPartExamined = study.body_part
        ds.ContrastBolusAgent = "IODINE"
        ds.SliceThickness = decimal_text(grid.spacing[0])
        ds.DataCollectionDiameter = "500"
        ds.ReconstructionDiameter = decimal_text(grid.spacing[2] * grid.shape[2])
        ds.GantryDetectorTilt = "0"
        ds.ConvolutionKernel = vendor.ct_kernel
        for keyword, value in vendor.ct_algorithm.items():
            if value is not None:
                setattr(ds, keyword, value)
        ds.AcquisitionNumber = 1
        _plane(ds, grid, k, study)
        signed = vendor.ct_signed
        add_pixels(ds, stored[k].astype("<i2" if signed else "<u2"), 16 if signed else 12)
        ds.RescaleIntercept = "-1024"
        ds.RescaleSlope = "1"
        if "LOCALIZER" not in image_type:
            ds.RescaleType = "HU"
        ds.WindowCenter = "40"
        ds.WindowWidth = "400"
        series.append(ds)
    return series


def localizer(
    hu: NDArray[np.integer],
    grid: PhantomGrid,
    study: Study | None = None,
    *,
    number: int = 1,
    series_uid: str | None = None,
    instance: int = 1,
) -> Dataset:
    """A frontal scout image: the mean of an axial volume along the anterior-posterior axis.

    Args:
        hu: Hounsfield units on an axial grid.
        grid: the axial grid.
        study: what to write into; by default an example study.
        number: Series Number.
        series_uid: Series Instance UID; by default derived from the study and the number.
        instance: Instance Number.
    """
    view = np.asarray(hu, np.float64).mean(axis=1)[::-1]
    top = grid.position(grid.shape[0] - 1, (grid.shape[1] - 1) / 2, 0)
    plane = PhantomGrid(
        (1, grid.shape[0], grid.shape[2]),
        (1.0, grid.spacing[0], grid.spacing[2]),
        (round(float(top[0]), 4), round(float(top[1]), 4), round(float(top[2]), 4)),
        column=(0.0, 0.0, -1.0),
    )
    return ct_series(
        np.rint(view)[None].astype(np.int32),
        plane,
        study,
        number=number,
        series_uid=series_uid,
        description="Scout",
        image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
        first_instance=instance,
    )[0]


def coronal(hu: NDArray[np.integer], grid: PhantomGrid) -> tuple[NDArray[np.integer], PhantomGrid]:
    """An axial volume cut into coronal slices, each seen from the front, head up."""
    x, y, z = grid.position(grid.shape[0] - 1, 0, 0)
    turned = np.ascontiguousarray(np.transpose(hu, (1, 0, 2))[:, ::-1])
    return turned, PhantomGrid(
        (turned.shape[0], turned.shape[1], turned.shape[2]),
        (grid.spacing[1], grid.spacing[0], grid.spacing[2]),
        (round(float(x), 4), round(float(y), 4), round(float(z), 4)),
        column=(0.0, 0.0, -1.0),
    )


@dataclass(frozen=True)
class Scan:
    """How a PET series of FDG is acquired.

    Attributes:
        injection: by default 280 MBq an hour before the series.
        start: of the series; by default 12 minutes into the study.
        units: `BQML`; `CNTS` writes counts whose calibration is lost; `GML` writes SUVbw itself.
        beds: bed positions, from the bottom up, each with its own acquisition time.
        bed_seconds: duration of one bed position.
    """

    injection: Injection | None = None
    start: datetime | None = None
    units: str = "BQML"
    beds: int = 2
    bed_seconds: int = 150


def pt_series(
    suv: NDArray[np.floating],
    grid: PhantomGrid,
    study: Study | None = None,
    scan: Scan | None = None,
    *,
    number: int = 4,
    series_uid: str | None = None,
) -> list[Dataset]:
    """A PET series of FDG, decay-corrected to its start.

    Args:
        suv: SUVbw, axes (slice, row, column).
        grid: geometry.
        study: what to write into; by default an example study.
        scan: how it is acquired; by default as `Scan` says.
        number: Series Number.
        series_uid: Series Instance UID; by default derived from the study and the number.

    Returns:
        One dataset a slice, in the order of their Instance Numbers.

    Raises:
        ValueError: the units are none of the three, or the array is not of the grid's shape.
    """
    check_shape(suv, grid)
    study, scan = study or Study(), scan or Scan()
    vendor = study.vendor
    start = scan.start or study.start + timedelta(minutes=12)
    injection = scan.injection or Injection(start - timedelta(minutes=60), 2.8e8)
    values = stored_unit(suv, scan.units, suv_factor(study, injection, start))
    series_uid = series_uid or uid("series", *study.key, number)
    series = []
    for instance, k in enumerate(instance_order(grid, vendor), 1):
        ds = _instance(
            study, PositronEmissionTomographyImageStorage, "PT", series_uid, number, instance
        )
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
        ds.SeriesDescription = vendor.pt_description
        ds.BodyPartExamined = study.body_part
        ds.SliceThickness = decimal_text(grid.spacing[0])
        ds.ReconstructionDiameter = decimal_text(grid.spacing[2] * grid.shape[2])
        _plane(ds, grid, k, study)
        _acquired(ds, scan, start, k * scan.beds // grid.shape[0])
        peak = float((values[k] if vendor.pt_slope_per_slice else values).max())
        slope = decimal_text(max(peak, 1e-6) / 32767.0)
        add_pixels(ds, np.rint(values[k] / float(slope)).astype("<i2"), 16)
        ds.RescaleIntercept = "0"
        ds.RescaleSlope = slope
        ds.WindowCenter = decimal_text(peak / 4)
        ds.WindowWidth = decimal_text(peak / 2)
        ds.Units = scan.units
        if scan.units == "GML":
            ds.SUVType = "BW"
        add_reconstruction(ds, vendor)
        ds.NumberOfSlices = grid.shape[0]
        ds.ImageIndex = instance
        ds.RadiopharmaceuticalInformationSequence = [_fdg(injection)]
        add_patient_position(ds)
        series.append(ds)
    return series


def rtstruct(
    masks: dict[str, NDArray[np.bool_]],
    grid: PhantomGrid,
    images: Sequence[Dataset],
    study: Study | None = None,
    *,
    number: int = 9,
    label: str = "GTV",
) -> Dataset:
    """An RT Structure Set whose contours reproduce masks exactly.

    Contours run half-way between the centres of inner and outer pixels, one loop for each border,
    holes included: filling them by the even-odd rule at pixel centres gives the mask back.

    Args:
        masks: ROI name to mask, axes (slice, row, column) on the grid.
        grid: geometry of the masks, the same as that of the images.
        images: the images the contours are drawn on.
        study: what to write into; by default an example study.
        number: Series Number.
        label: Structure Set Label.

    Raises:
        ValueError: an image's position is not on the grid.
    """
    study = study or Study()
    ds = _instance(
        study, RTStructureSetStorage, "RTSTRUCT", uid("series", *study.key, number), number, 1
    )
    start = study.start + timedelta(days=1, hours=2)
    del ds.AcquisitionNumber
    ds.SeriesDescription = f"{label} contours"
    stamp(ds, "Series", start)
    ds.OperatorsName = "Phantom^Reader"
    ds.StructureSetLabel = label
    ds.StructureSetDate, ds.StructureSetTime = date_text(start), time_text(start)

    by_slice = {}
    for image in images:
        offset = np.asarray(image.ImagePositionPatient, float) - np.asarray(grid.origin)
        k = float(offset @ grid.normal) / grid.spacing[0]
        if abs(k - round(k)) > 1e-3 or not 0 <= round(k) < grid.shape[0]:
            raise ValueError(f"image {image.SOPInstanceUID} is not on the masks' grid")
        by_slice[round(k)] = reference_item(image.SOPClassUID, image.SOPInstanceUID)

    referenced_series = Dataset()
    referenced_series.SeriesInstanceUID = images[0].SeriesInstanceUID
    referenced_series.ContourImageSequence = [by_slice[k] for k in sorted(by_slice)]
    referenced_study = reference_item("1.2.840.10008.3.1.2.3.1", study.study_uid)
    referenced_study.RTReferencedSeriesSequence = [referenced_series]
    frame = Dataset()
    frame.FrameOfReferenceUID = study.frame_uid
    frame.RTReferencedStudySequence = [referenced_study]
    ds.ReferencedFrameOfReferenceSequence = [frame]

    ds.StructureSetROISequence = []
    ds.ROIContourSequence = []
    ds.RTROIObservationsSequence = []
    for roi_number, (name, mask) in enumerate(masks.items(), 1):
        roi = Dataset()
        roi.ROINumber = roi_number
        roi.ReferencedFrameOfReferenceUID = study.frame_uid
        roi.ROIName = name
        roi.ROIGenerationAlgorithm = "MANUAL"
        ds.StructureSetROISequence.append(roi)
        contours = Dataset()
        contours.ROIDisplayColor = [255, 40 * roi_number % 256, 0]
        contours.ReferencedROINumber = roi_number
        contours.ContourSequence = [
            _contour(loop, k, grid, by_slice[k])
            for k in np.flatnonzero(mask.any(axis=(1, 2))).tolist()
            for loop in find_contours(np.pad(mask[k], 1).astype(float), 0.5)
        ]
        ds.ROIContourSequence.append(contours)
        observation = Dataset()
        observation.ObservationNumber = roi_number
        observation.ReferencedROINumber = roi_number
        observation.RTROIInterpretedType = "GTV" if name.upper().startswith("GTV") else "ORGAN"
        observation.ROIInterpreter = None
        ds.RTROIObservationsSequence.append(observation)
    ds.ApprovalStatus = "UNAPPROVED"
    return ds


def to_bytes(ds: Dataset) -> bytes:
    """A dataset as a DICOM file (PS3.10), explicit VR little endian."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def write_series(
    series: Iterable[Dataset], folder: Path, pattern: str = "{number:04d}.dcm"
) -> list[Path]:
    """Write datasets into a folder and return their paths, in the same order.

    The pattern names the files; it may use `number` (Instance Number), `modality`, `uid` (SOP
    Instance UID) and `patient`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ds in series:
        path = folder / pattern.format(
            number=int(ds.InstanceNumber),
            modality=ds.Modality,
            uid=ds.SOPInstanceUID,
            patient=ds.PatientID,
        )
        path.write_bytes(to_bytes(ds))
        paths.append(path)
    return paths


def _instance(
    study: Study, sop_class: str, modality: str, series_uid: str, number: int, instance: int
) -> Dataset:
    """Patient, study, series, frame of reference, equipment and SOP common modules."""
    vendor = study.vendor
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = uid("instance", series_uid, instance)
    ds.InstanceCreationDate, ds.InstanceCreationTime = (
        date_text(study.start),
        time_text(study.start),
    )
    stamp(ds, "Study", study.start)
    ds.AccessionNumber = study.accession
    ds.Modality = modality
    ds.Manufacturer = vendor.manufacturer
    ds.InstitutionName = "Phantom Hospital"
    ds.ReferringPhysicianName = None
    ds.StationName = vendor.station
    ds.StudyDescription = study.description
    ds.ManufacturerModelName = vendor.model
    ds.PatientName = study.patient_name
    ds.PatientID = study.patient_id
    ds.PatientBirthDate = study.birth_date.strftime("%Y%m%d")
    ds.PatientSex = study.sex
    ds.PatientAge = f"{(study.start.date() - study.birth_date).days // 365:03d}Y"
    ds.PatientSize = decimal_text(study.size_m)
    ds.PatientWeight = decimal_text(study.weight_kg)
    ds.DeviceSerialNumber = f"PH{vendor.station}"
    ds.SoftwareVersions = vendor.software
    ds.StudyInstanceUID = study.study_uid
    ds.SeriesInstanceUID = series_uid
    ds.StudyID = study.accession[-4:]
    ds.SeriesNumber = number
    ds.AcquisitionNumber = None
    ds.InstanceNumber = instance
    ds.FrameOfReferenceUID = study.frame_uid
    ds.PositionReferenceIndicator = None
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = UID(uid("implementation", "jipflow phantom"))
    ds.file_meta.ImplementationVersionName = "JIPFLOW_PHANTOM"
    return ds


def _plane(ds: Dataset, grid: PhantomGrid, k: int, study: Study) -> None:
    """Image plane and pixel spacing (PS3.3 C.7.6.2)."""
    position = grid.position(k, 0, 0)
    if ds.Modality == "CT":  # PET states it by Patient Orientation Code Sequence instead
        ds.PatientPosition = "HFS"
    ds.ImagePositionPatient = [decimal_text(float(value)) for value in position]
    ds.ImageOrientationPatient = [decimal_text(value) for value in (*grid.row, *grid.column)]
    ds.PixelSpacing = [decimal_text(grid.spacing[1]), decimal_text(grid.spacing[2])]
    ds.SliceLocation = decimal_text(float(position @ grid.normal))
    if study.vendor.key != "siemens" and ds.Modality == "CT":
        ds.SpacingBetweenSlices = decimal_text(grid.spacing[0])


def _contour(loop: NDArray[np.float64], k: int, grid: PhantomGrid, image: Dataset) -> Dataset:
    """One closed planar contour; `loop` holds (row, column) of a mask padded by one pixel."""
    corners = loop[:-1] - 1.0
    points = (
        grid.position(k, 0, 0)
        + corners[:, :1] * grid.spacing[1] * np.asarray(grid.column)
        + corners[:, 1:] * grid.spacing[2] * np.asarray(grid.row)
    )
    contour = Dataset()
    contour.ContourImageSequence = [image]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [f"{value:.3f}" for value in points.ravel()]
    return contour


def _acquired(ds: Dataset, scan: Scan, start: datetime, bed: int) -> None:
    """When a slice of a bed position was acquired, and the decay until then."""
    seconds = scan.bed_seconds
    acquired = start + timedelta(seconds=bed * seconds)
    middle_s = bed * seconds + seconds / 2
    stamp(ds, "Series", start)
    stamp(ds, "Acquisition", acquired)
    stamp(ds, "Content", acquired + timedelta(seconds=seconds))
    ds.ActualFrameDuration = seconds * 1000
    ds.FrameReferenceTime = decimal_text(middle_s * 1000)
    ds.DecayCorrection = "START"
    ds.DecayFactor = decimal_text(2.0 ** (middle_s / F18_HALF_LIFE_S))


def _fdg(injection: Injection) -> Dataset:
    """Item of the Radiopharmaceutical Information Sequence (PS3.3 C.8.9.2)."""
    item = Dataset()
    item.Radiopharmaceutical = "Fluorodeoxyglucose"
    item.RadiopharmaceuticalStartTime = time_text(injection.start)
    item.RadiopharmaceuticalStartDateTime = date_text(injection.start) + time_text(injection.start)
    item.RadionuclideTotalDose = decimal_text(injection.dose_bq)
    item.RadionuclideHalfLife = decimal_text(F18_HALF_LIFE_S)
    item.RadionuclidePositronFraction = "0.967"
    item.RadionuclideCodeSequence = [code_item("77004003", "^18^Fluorine")]
    item.RadiopharmaceuticalCodeSequence = [code_item("35321007", "Fluorodeoxyglucose F^18^")]
    return item

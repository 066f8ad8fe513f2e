"""Small DICOM series on disk, made by the phantom's factory, that tests then damage."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gdcm
import highdicom.legacy
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    EnhancedPETImageStorage,
    ExplicitVRBigEndian,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    MRImageStorage,
)

from jipflow.cases import Series
from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid

CT_SHAPE = (6, 8, 10)


def ct_hu(shape: tuple[int, int, int] = CT_SHAPE, seed: int = 0) -> NDArray[np.int16]:
    """Distinct HU from -200 up, in no order."""
    hu = np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape) - 200
    return hu.astype(np.int16)


def ct_grid(shape: tuple[int, int, int] = CT_SHAPE) -> PhantomGrid:
    """The grid of `ct_datasets`: anisotropic, with pixels that are not square."""
    return PhantomGrid(shape, (4.0, 3.5, 3.0), (-15.0, -12.0, 30.0))


def ct_datasets(shape: tuple[int, int, int] = CT_SHAPE, seed: int = 0) -> list[Dataset]:
    """A CT series whose voxel values are distinct HU, its slices from the first to the last."""
    return dicom.ct_series(ct_hu(shape, seed), ct_grid(shape))


def mr_datasets() -> list[Dataset]:
    """An MR series whose values are those of `ct_datasets`, plus 1024, without a rescale."""
    return as_mr(ct_datasets())


def as_mr(datasets: list[Dataset]) -> list[Dataset]:
    """A CT series as MR images whose values are the stored ones."""
    for dataset in datasets:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.Modality = "MR"
        for name in ("RescaleSlope", "RescaleIntercept", "RescaleType", "ConvolutionKernel"):
            del dataset[name]
    return datasets


def volumes(count: int, change: Callable[[Dataset, int], object]) -> list[Dataset]:
    """An MR series of several volumes at the same positions, one after the other.

    The values of each are those of `ct_datasets` with its number as seed, plus 1024.

    Args:
        count: how many.
        change: gets each slice and the number of its volume, from 0.
    """
    series = []
    for number in range(count):
        for plain, dataset in zip(mr_datasets(), ct_datasets(seed=number), strict=True):
            plain.PixelData = dataset.PixelData
            plain.SOPInstanceUID = dicom.uid("volume", number, str(plain.SOPInstanceUID))
            plain.file_meta.MediaStorageSOPInstanceUID = plain.SOPInstanceUID
            change(plain, number)
            series.append(plain)
    return series


def together(*changes: Callable[[Dataset, int], object]) -> Callable[[Dataset, int], None]:
    """Several changes for `volumes` as one, in their order."""

    def change(dataset: Dataset, number: int) -> None:
        for each in changes:
            each(dataset, number)

    return change


def pt_datasets(units: str = "BQML", value: float = 2.5) -> list[Dataset]:
    """A PET series whose SUVbw is `value` in every voxel but one."""
    suv = np.full((5, 6, 7), value)
    suv[0, 0, 0] = 2 * value
    return dicom.pt_series(
        suv, PhantomGrid((5, 6, 7), (4.0, 5.0, 5.0), (0.0, 0.0, 0.0)), scan=dicom.Scan(units=units)
    )


def write(
    datasets: Iterable[Dataset], folder: Path, change: Callable[[list[Dataset]], object] = len
) -> list[Path]:
    """Apply a change to the data sets and write each to a file; returns the sorted paths."""
    listed = list(datasets)
    change(listed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(listed):
        path = folder / f"{number:04d}.dcm"
        path.write_bytes(dicom.to_bytes(dataset))
        paths.append(path)
    return sorted(paths)


def series_of(paths: Iterable[Path]) -> Series:
    """The series of these files, as the catalog gives it to a stage."""
    listed = tuple(sorted(paths))
    header = pydicom.dcmread(listed[0], stop_before_pixels=True, force=True)
    uid, modality = header.get("SeriesInstanceUID"), header.get("Modality")
    return Series(str(uid or dicom.uid("stand-in")), str(modality or ""), listed)


GDCM_SYNTAXES = {
    JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGExtended12Bit: gdcm.TransferSyntax.JPEGExtendedProcess2_4,
}


def in_syntax(dataset: Dataset, syntax: UID, folder: Path, **options: Any) -> Dataset:
    """A data set in another transfer syntax, encoded by GDCM (JPEG) or pydicom.

    Args:
        dataset: in explicit VR little endian.
        syntax: the transfer syntax.
        folder: for GDCM's files.
        options: of pydicom's encoder.
    """
    if syntax in GDCM_SYNTAXES:
        folder.mkdir(parents=True, exist_ok=True)
        source, target = str(folder / "native"), str(folder / "encoded")
        Path(source).write_bytes(dicom.to_bytes(dataset))
        reader = gdcm.ImageReader()
        reader.SetFileName(source)
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(GDCM_SYNTAXES[syntax]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(target)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return pydicom.dcmread(target)
    if syntax.is_encapsulated:
        dataset.compress(syntax, generate_instance_uid=False, **options)
    elif syntax == ExplicitVRBigEndian:
        dataset.PixelData = dataset.pixel_array.byteswap().tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def encapsulated(dataset: Dataset, frames: list[bytes], syntax: UID) -> Dataset:
    """A data set whose pixel data are these encoded frames."""
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def legacy_converted(datasets: list[Dataset]) -> Dataset:
    """The series as highdicom makes one legacy converted enhanced multi-frame image of it."""
    convert = {
        "CT": highdicom.legacy.LegacyConvertedEnhancedCTImage,
        "MR": highdicom.legacy.LegacyConvertedEnhancedMRImage,
        "PT": highdicom.legacy.LegacyConvertedEnhancedPETImage,
    }[datasets[0].Modality]
    return convert(datasets, dicom.uid("legacy"), 1, dicom.uid("legacy", 1), 1)


PER_FRAME = ("ImagePositionPatient", "RescaleSlope", "RescaleIntercept")
SHARED = ("ImageOrientationPatient", "PixelSpacing", "SliceThickness")


def enhanced(datasets: list[Dataset], sop_class: UID) -> Dataset:
    """The series as one enhanced multi-frame image (PS3.3 A.38, A.36, A.56), frames as given.

    Enhanced PET has real world values in Bq/ml in place of units, and the date and time that its
    decay is corrected to.
    """
    first = datasets[0]
    image = pydicom.Dataset()
    dropped = {*PER_FRAME, *SHARED, "PixelData", "RescaleType", "SliceLocation", "InstanceNumber"}
    image.update({e.tag: e for e in first if e.keyword not in dropped})
    image.file_meta = first.file_meta
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = sop_class
    image.NumberOfFrames = len(datasets)
    shared = pydicom.Dataset()
    shared.PlaneOrientationSequence = [_macro(first, "ImageOrientationPatient")]
    shared.PixelMeasuresSequence = [_macro(first, "PixelSpacing", "SliceThickness")]
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = []
    for number, dataset in enumerate(datasets, start=1):
        group = pydicom.Dataset()
        content = pydicom.Dataset()
        content.StackID, content.InStackPositionNumber = "1", number
        content.FrameAcquisitionNumber = 1
        group.FrameContentSequence = [content]
        group.PlanePositionSequence = [_macro(dataset, "ImagePositionPatient")]
        if "RescaleSlope" in dataset:
            group.PixelValueTransformationSequence = [
                _macro(dataset, "RescaleSlope", "RescaleIntercept")
            ]
            group.PixelValueTransformationSequence[0].RescaleType = "HU"
        if sop_class == EnhancedPETImageStorage:
            mapping = pydicom.Dataset()
            mapping.RealWorldValueSlope = float(dataset.RescaleSlope)
            mapping.RealWorldValueIntercept = float(dataset.RescaleIntercept)
            unit = pydicom.Dataset()
            unit.CodeValue, unit.CodingSchemeDesignator = "Bq/ml", "UCUM"
            mapping.MeasurementUnitsCodeSequence = [unit]
            group.RealWorldValueMappingSequence = [mapping]
            del group.PixelValueTransformationSequence
        image.PerFrameFunctionalGroupsSequence.append(group)
    if sop_class == EnhancedPETImageStorage:
        image.AttenuationCorrected = image.DecayCorrected = "YES"
        image.DecayCorrectionDateTime = first.SeriesDate + first.SeriesTime
        for name in ("Units", "CorrectedImage", "DecayCorrection"):
            del image[name]
    image.PixelData = b"".join(dataset.PixelData for dataset in datasets)
    return image


def _macro(dataset: Dataset, *names: str) -> Dataset:
    item = pydicom.Dataset()
    for name in names:
        item[name] = dataset[name]
    return item


def csa_header(**values: tuple[str, list[object]]) -> bytes:
    """A CSA image header of the second kind (nibabel's description of Siemens' format).

    Args:
        values: value representation and values of each tag by its name.
    """
    header = b"SV10\4\3\2\1" + struct.pack("<2I", len(values), 77)
    for name, (vr, listed) in values.items():
        # The scanner makes room for six items at least, and leaves those that are not used empty.
        items = [f"{value}".encode() + b"\0" for value in listed]
        items += [b""] * (6 - len(items))
        header += struct.pack("<64si4s3i", name.encode(), len(listed), vr.encode(), 0, 6, 77)
        for item in items:
            header += struct.pack("<4i", len(item), len(item), 77, len(item))
            header += item + bytes(-len(item) % 4)
    return header


def mosaic_csa(count: object, normal: list[object], **values: tuple[str, list[object]]) -> bytes:
    """The CSA image header of a mosaic, with the tags around that make scanners' headers long."""
    return csa_header(
        AcquisitionMatrixText=("SH", ["64*64"]),
        B_value=("IS", []),
        NumberOfImagesInMosaic=("US", [] if count is None else [count]),
        SliceNormalVector=("FD", normal),
        SequenceName=("SH", ["*ep_b0"]),
        **values,
    )


def mosaic(datasets: list[Dataset]) -> Dataset:
    """Single-frame MR images as one Siemens mosaic, the tiles in their order.

    Image Position (Patient) becomes that of a plane as large as the mosaic around the centre of
    the first tile, as Siemens has it.
    """
    image = copy.deepcopy(datasets[0])
    side = 1
    while side * side < len(datasets):
        side += 1
    rows, columns = image.Rows, image.Columns
    pixels = np.zeros((side * rows, side * columns), np.uint16)
    for number, dataset in enumerate(datasets):
        down, right = number // side * rows, number % side * columns
        pixels[down : down + rows, right : right + columns] = dataset.pixel_array
    image.Rows, image.Columns = pixels.shape
    image.PixelData = pixels.tobytes()
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    image.AcquisitionMatrix = [rows, 0, 0, columns]
    row, column = np.reshape(np.array(image.ImageOrientationPatient, float), (2, 3))
    places = [np.array(dataset.ImagePositionPatient, float) for dataset in datasets]
    # Half of the pixels that a plane of the mosaic's size has before the first tile's first one.
    down, right = image.PixelSpacing
    first = places[0] - right * row * (side - 1) * columns / 2
    first = first - down * column * (side - 1) * rows / 2
    image.ImagePositionPatient = [f"{value:.8f}" for value in first]
    step = places[1] - places[0]
    distance = float(np.linalg.norm(step))
    image.SpacingBetweenSlices = f"{distance:.8f}"
    image.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", len(datasets))
    normal = [f"{value:.8f}" for value in step / distance]
    csa = mosaic_csa(len(datasets), normal)
    image.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", csa)
    return image


def concatenation(image: Dataset, frames: list[int]) -> list[Dataset]:
    """A multi-frame image split into parts of so many frames (PS3.3 C.7.6.16.1.1)."""
    size = len(image.PixelData) // image.NumberOfFrames
    parts, before = [], 0
    for number, length in enumerate(frames, start=1):
        part = copy.deepcopy(image)
        part.SOPInstanceUID = dicom.uid(image.SOPInstanceUID, number)
        part.file_meta.MediaStorageSOPInstanceUID = part.SOPInstanceUID
        part.ConcatenationUID = dicom.uid("concatenation", image.SOPInstanceUID)
        part.SOPInstanceUIDOfConcatenationSource = image.SOPInstanceUID
        part.InConcatenationNumber, part.InConcatenationTotalNumber = number, len(frames)
        part.ConcatenationFrameOffsetNumber = before
        part.NumberOfFrames = length
        groups = image.PerFrameFunctionalGroupsSequence[before : before + length]
        part.PerFrameFunctionalGroupsSequence = groups
        part.PixelData = image.PixelData[before * size : (before + length) * size]
        parts.append(part)
        before += length
    return parts


def csa(**items: list[str]) -> bytes:
    """An image's CSA header of the second kind (https://nipy.org/nibabel/dicom/siemens_csa.html)."""
    parts = [b"SV10\4\3\2\1", struct.pack("<2I", len(items), 77)]
    for name, values in items.items():
        kind = b"IS" if name == "B_value" else b"FD"
        head = struct.pack("<64si4s3i", name.encode(), max(len(values), 1), kind, 6, 6, 77)
        parts.append(head)
        for number in range(6):
            text = values[number].encode() + b"\0" if number < len(values) else b""
            parts.append(struct.pack("<4i", len(text), len(text), 77, len(text)))
            parts.append(text + bytes(-len(text) % 4))
    return b"".join(parts)

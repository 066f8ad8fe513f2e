"""What archives hold, row by row: read right to the voxel, or refused with the reason.

Each row of the table in docs/defects.md is a function here.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from jipflow.images.series import read_planes, read_series_volume
from jipflow.images.volume import Volume
from jipflow.phantom import defects, dicom
from jipflow.phantom.grid import PhantomGrid
from jipflow.reasons import CaseFault, Decision, Reason
from series_factory import (
    concatenation,
    ct_datasets,
    ct_grid,
    ct_hu,
    encapsulated,
    enhanced,
    in_syntax,
    legacy_converted,
    mosaic,
    mosaic_csa,
    mr_datasets,
    pt_datasets,
    series_of,
    write,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "defects.md"
FIRST_SECTION = "## Slices and positions"
READ = "read"
HTJ2K_OF_THIRD_SLICE = bytes.fromhex(
    "ff4fff51002940000000000a0000000800000000000000000000000a00000008000000000000000000010f0101ff50"
    "000800020000000aff52000c00020001000504044001ff5c00132088909090909090909090909090888888ff640017"
    "00014f70656e4a50482056657220302e32362e332eff90000a0000000000cb0001ff93c0002687f70507740000c000"
    "12808201077400c00012c0001340001280eb00077400b9fa010174008e01077400c0001530000564000152451e3c24"
    "fe00c73400b9234ac560f3000100fb36004a080bd4f400839400c0002de80005bf0000ba0017184a4df142061da6d3"
    "88582a424c2ca0e5ea5a6a3a1120de1081b33900d35870a4b77665145247cf3a4733d003c80476bb9127fa52230bc2"
    "10329a0079398f0d348bab179fd1eab33e73b2efa4461882ed4c041d01ca378840233900ffd9"
)
"""The stored values of the third slice of `ct_datasets`, encoded by OpenJPH 0.26.3, reversible."""


@dataclass(frozen=True)
class Row:
    """One defect.

    Attributes:
        defect: its name, as in the page.
        outcome: ``read`` or the reason's code.
        says: what the message or the note says.
        make: writes the series to a folder; returns the paths, and what is to be read from them.
    """

    defect: str
    outcome: str
    says: str
    make: Callable[[Path], Any]


@dataclass(frozen=True)
class Truth:
    """What is to be read.

    Attributes:
        values: shape of the grid.
        grid: geometry.
        atol: largest deviation of a value, of lossy compression.
        rtol: largest relative deviation of a value: float32 where they are no small integers.
    """

    values: NDArray[Any]
    grid: PhantomGrid
    atol: float = 0.0
    rtol: float = 0.0


TABLE: list[Row] = []


def read(defect: str, note: str = "") -> Callable[..., Any]:
    """Add a row: the function writes a series and returns its paths and what they hold."""
    return partial(_add, defect, READ, note)


def refused(defect: str, reason: Reason, says: str) -> Callable[..., Any]:
    """Add a row: the function writes a series that is refused, and returns its paths."""
    return partial(_add, defect, reason.value, says)


def _add(defect: str, outcome: str, says: str, make: Callable[[Path], Any]) -> Callable[..., Any]:
    TABLE.append(Row(defect, outcome, says, make))
    return make


def ct(folder: Path, change: Callable[[list[Dataset]], object] = len) -> list[Path]:
    return write(ct_datasets(), folder, change)


CT = Truth(ct_hu(), ct_grid())
MR = Truth(ct_hu() + 1024, ct_grid())


def each(**values: Any) -> Callable[[list[Dataset]], None]:
    """A change that sets attributes of each data set."""

    def change(datasets: list[Dataset]) -> None:
        for dataset in datasets:
            for name, value in values.items():
                setattr(dataset, name, value)

    return change


def nothing(dataset: Dataset, turn: int) -> None:
    """No change."""


def twice(
    datasets: list[Dataset], shift: float = 0.0, change: Callable[[Dataset, int], object] = nothing
) -> list[Dataset]:
    """The series and a second pass over it, with other pixels and UIDs; `change` gets the pass."""
    second = ct_datasets(seed=1)
    for number, (one, two) in enumerate(zip(datasets, second, strict=True)):
        two.SOPClassUID, two.Modality = one.SOPClassUID, one.Modality
        two.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        two.SOPInstanceUID = two.file_meta.MediaStorageSOPInstanceUID = dicom.uid("two", number)
        x, y, z = two.ImagePositionPatient
        two.ImagePositionPatient = [x, y, float(z) + shift]
        two.ContentTime = one.ContentTime
        change(one, 1)
        change(two, 2)
    return [*datasets, *second]


# Slices and positions


@refused("A slice is missing", Reason.MISSING_SLICES, "1 of 6 slices are missing")
def missing_slice(folder):
    return ct(folder, lambda datasets: datasets.pop(2))


@refused(
    "Every second slice is missing, so that the others lie evenly",
    Reason.MISSING_SLICES,
    "InstanceNumber rises in steps of 2",
)
def every_second_slice(folder):
    return ct(folder, lambda datasets: datasets.__delitem__(slice(1, None, 2)))


@refused("Slices are unevenly spaced", Reason.IRREGULAR_SPACING, "from 2.700 to 5.300 mm")
def uneven(folder):
    def change(datasets):
        x, y, z = datasets[2].ImagePositionPatient
        datasets[2].ImagePositionPatient = [x, y, float(z) + 1.3]

    return ct(folder, change)


@refused("Distances of slices drift: 1.0000 mm, then 1.0099 mm", Reason.IRREGULAR_SPACING, "1.010")
def drift(folder):
    shape = (81, 3, 4)
    datasets = dicom.ct_series(ct_hu(shape), PhantomGrid(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = ["0", "0", f"{k + 0.0099 * max(k - 40, 0):.4f}"]
    return write(datasets, folder)


@read("Positions are rounded: steps of 1/3 mm written with two decimals")
def rounded(folder):
    hu, grid = ct_hu((20, 8, 10)), PhantomGrid((20, 8, 10), (1 / 3, 1.0, 1.0), (0.0, 0.0, 0.0))
    datasets = dicom.ct_series(hu, grid)
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = ["0", "0", f"{k / 3:.2f}"]
    spacing = (round(19 / 3, 2) / 19, 1.0, 1.0)
    return write(datasets, folder), Truth(hu, PhantomGrid(hu.shape, spacing, (0.0, 0.0, 0.0)))


@read("Positions are rounded: steps of 1.25 mm written with one decimal")
def rounded_to_one_decimal(folder):
    hu, grid = ct_hu((9, 8, 10)), PhantomGrid((9, 8, 10), (1.25, 1.0, 1.0), (0.0, 0.0, 0.0))
    datasets = dicom.ct_series(hu, grid)
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = ["0", "0", f"{1.25 * k:.1f}"]
    return write(datasets, folder), Truth(hu, grid)


@read("Files and Instance Numbers are out of order, or Instance Number is missing")
def out_of_order(folder):
    def change(datasets):
        datasets[:] = [datasets[i] for i in (3, 0, 5, 1, 4, 2)]
        for dataset in datasets[1:]:
            dataset.InstanceNumber = None
        del datasets[0].InstanceNumber

    return ct(folder, change), CT


@read("Spacing Between Slices is negative, Slice Thickness and Slice Location wrong")
def misleading_spacing(folder):
    change = each(SpacingBetweenSlices="-4", SliceThickness="1", SliceLocation="0")
    return ct(folder, change), CT


@read("A slice is there twice: a copy under another SOP Instance UID", "pixels, left out: 1.")
def copy_sent_again(folder):
    def change(datasets):
        again = ct_datasets()[3]
        again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = dicom.uid("again")
        datasets.append(again)

    return ct(folder, change), CT


@read("The whole series is there twice, the copy compressed", "pixels, left out: 6.")
def series_sent_again(folder):
    def change(datasets):
        for number, again in enumerate(ct_datasets()):
            again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = dicom.uid(number)
            datasets.append(in_syntax(again, RLELossless, folder))

    return ct(folder, change), CT


def copied(
    change: Callable[[Dataset], object], datasets: Callable[[], list[Dataset]] = ct_datasets
) -> Callable[[Path], list[Path]]:
    """A series and a copy of it, with the same pixels but for what `change` does."""

    def make(folder: Path) -> list[Path]:
        copies = datasets()
        for number, copy in enumerate(copies):
            copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = dicom.uid(number)
            change(copy)
        return write([*datasets(), *copies], folder)

    return make


refused("A copy with another rescale", Reason.DUPLICATE_SLICES, "but differ from it")(
    copied(lambda dataset: setattr(dataset, "RescaleIntercept", "-1000"))
)
refused("A copy with a Modality LUT", Reason.DUPLICATE_SLICES, "but differ from it")(
    copied(lambda dataset: setattr(dataset, "ModalityLUTSequence", [Dataset()]))
)
refused("A copy of another acquisition", Reason.MIXED_ACQUISITIONS, "AcquisitionNumber (1, 2)")(
    copied(lambda dataset: setattr(dataset, "AcquisitionNumber", 2))
)


def weigh(dataset: Dataset) -> None:
    dataset.PatientWeight = "91"


def give_another_dose(dataset: Dataset) -> None:
    dataset.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose = "1234567"


for _name, _change, _field in (
    ("weight", weigh, "PatientWeight ("),
    ("dose", give_another_dose, "RadionuclideTotalDose ("),
):
    refused(
        f"A copy of a PET with another {_name}",
        Reason.CONTRADICTORY_SUV_FIELDS,
        f"are the same image and differ in {_field}",
    )(copied(_change, pt_datasets))


@read("A copy of a PET without the patient's sex", "pixels, left out: 5.")
def copy_without_sex(folder):
    return copied(lambda dataset: dataset.pop("PatientSex"), pt_datasets)(folder), PT


@read("A frame is in a multi-frame image twice", "pixels, left out: 1.")
def frame_twice(folder):
    datasets = ct_datasets()
    return write([enhanced([*datasets, datasets[2]], EnhancedCTImageStorage)], folder), CT


@refused("Two slices at one position differ", Reason.DUPLICATE_SLICES, "but differ from it")
def repeated_position(folder):
    def change(datasets):
        datasets[1].ImagePositionPatient = datasets[0].ImagePositionPatient

    return ct(folder, change)


@read("Gantry tilt: slices are sheared", "A tilt of 11.31 degrees was corrected")
def tilted(folder):
    def change(datasets):
        for number, dataset in enumerate(datasets):
            x, y, z = dataset.ImagePositionPatient
            dataset.ImagePositionPatient = [x, float(y) + 0.8 * number, z]

    paths = ct(folder, change)
    down, wide = CT.grid.spacing[1], CT.values.shape[1]
    shape = (len(CT.values), wide + int(np.ceil(0.8 * (len(CT.values) - 1) / down)), 10)
    values = np.full(shape, CT.values.min(), float)
    rows = np.arange(shape[1])
    for k, j in np.ndindex(shape[0], shape[2]):
        place = rows - 0.8 * k / down
        there = (place >= -0.5) & (place < wide - 0.5)
        values[k, there, j] = np.interp(place, np.arange(wide), CT.values[k, :, j])[there]
    return paths, Truth(values, replace(CT.grid, shape=shape), rtol=1e-5)


@refused("Slices lie beside a straight line", Reason.GANTRY_TILT, "0.38 mm beside a straight line")
def off_line(folder):
    def change(datasets):
        for dataset, away in zip(datasets, (0, 0.4, 0, -0.4, 0, 0), strict=True):
            x, y, z = dataset.ImagePositionPatient
            dataset.ImagePositionPatient = [x, float(y) + away, z]

    return ct(folder, change)


@refused("Slices are sheared by more than a gantry tilts", Reason.GANTRY_TILT, "51.3 degrees")
def steep(folder):
    def change(datasets):
        for number, dataset in enumerate(datasets):
            x, y, z = dataset.ImagePositionPatient
            dataset.ImagePositionPatient = [x, float(y) + 5.0 * number, z]

    return ct(folder, change)


@refused("One slice only", Reason.TOO_FEW_SLICES, "one slice")
def one_slice(folder):
    return ct(folder, lambda datasets: datasets.__delitem__(slice(1, None)))


@refused("One slice only, sent twice", Reason.TOO_FEW_SLICES, "one slice")
def one_slice_twice(folder):
    def change(datasets):
        again = ct_datasets()[0]
        again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = dicom.uid("again")
        datasets[1:] = [again]

    return ct(folder, change)


# Orientation and matrix


@read("A localizer in the series", "Set apart from the 6 images of the stack: 1 localizers")
def localizer(folder):
    mixed = defects.localizer_mixed(ct_datasets(), CT.values, CT.grid, dicom.Study())
    return write(mixed, folder), CT


@read("Coronal reformats in the series, fewer than its slices", "4 images of another orientation")
def few_reformats(folder):
    hu, grid = ct_hu((6, 20, 10)), ct_grid((6, 20, 10))
    mixed = defects.mixed_orientation(ct_datasets(hu.shape), hu, grid, dicom.Study())
    return write(mixed[:10], folder), Truth(hu, grid)


@refused(
    "Coronal reformats in the series, as many as its slices or more",
    Reason.MIXED_ORIENTATION,
    "2 orientations",
)
def reformats(folder):
    hu, grid = ct_hu((6, 20, 10)), ct_grid((6, 20, 10))
    mixed = defects.mixed_orientation(ct_datasets(hu.shape), hu, grid, dicom.Study())
    return write(mixed, folder)


@read("Directions rounded to four decimals, not quite at a right angle")
def rounded_directions(folder):
    row, column = (0.8660, 0.5, 0.0), (-0.5, 0.8660, 0.0)
    grid = PhantomGrid(CT.grid.shape, (4.0, 3.5, 3.0), (0.0, 0.0, 0.0), row, column)
    datasets = dicom.ct_series(CT.values, grid)
    for k, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [0, 0, 4 * k]
        dataset.ImageOrientationPatient = ["0.8660", "0.5001", "0", "-0.5", "0.8660", "0"]
    return write(datasets, folder), Truth(CT.values, grid)


@read("Directions of length 1.0009", "of length 1.0009 were brought to unit length")
def long_directions(folder):
    return ct(folder, each(ImageOrientationPatient=[1.0009, 0, 0, 0, 1.0009, 0])), CT


@read(
    "Directions rounded to three decimals, so that slices leave the line along their normal",
    "to fit the slices' line",
)
def turned_by_rounding(folder):
    """The exact normal is (0.00045, 0.0004, 1), the stated one (0, 0, 1)."""
    shape = (10, 8, 10)
    hu, grid = ct_hu(shape), PhantomGrid(shape, (20.0, 3.0, 3.0), (0.0, 0.0, 0.0))
    normal = np.array([0.00045, 0.0004, 1.0])
    normal /= np.linalg.norm(normal)
    row = np.array([1.0, 0.0, -normal[0] / normal[2]])
    row /= np.linalg.norm(row)
    grid = PhantomGrid(shape, (20.0, 3.0, 3.0), (0.0, 0.0, 0.0), row, np.cross(normal, row))
    datasets = dicom.ct_series(hu, grid)
    for dataset in datasets:
        cosines = np.array(dataset.ImageOrientationPatient, float).round(3)
        dataset.ImageOrientationPatient = [f"{v:.3f}" for v in cosines]
    return write(datasets, folder), Truth(hu, grid)


@refused("Directions at no right angle", Reason.GEOMETRY_REFUSED, "two unit vectors")
def skewed(folder):
    return ct(folder, each(ImageOrientationPatient=[1, 0, 0, 0.1, 0.995, 0]))


@refused("A position that is no number", Reason.GEOMETRY_REFUSED, "absurd")
def absurd_position(folder):
    return ct(folder, lambda d: setattr(d[1], "ImagePositionPatient", ["nan", "0", "34"]))


@refused("Pixel Spacing of 0", Reason.GEOMETRY_REFUSED, "absurd")
def no_spacing(folder):
    return ct(folder, each(PixelSpacing=["0", "0"]))


@refused("Pixel Spacing of more than a metre", Reason.GEOMETRY_REFUSED, "absurd")
def vast_spacing(folder):
    return ct(folder, each(PixelSpacing=["1e155", "1e155"]))


@refused("Pixel Spacing of less than a micrometre", Reason.GEOMETRY_REFUSED, "absurd")
def tiny_spacing(folder):
    return ct(folder, each(PixelSpacing=["1e-170", "1e-170"]))


@refused("A position that is more than a hundred metres away", Reason.GEOMETRY_REFUSED, "absurd")
def far_position(folder):
    return ct(folder, lambda d: setattr(d[1], "ImagePositionPatient", ["1e200", "0", "34"]))


def placed(row: Any, column: Any) -> Callable[[Path], Any]:
    grid = PhantomGrid(CT.grid.shape, CT.grid.spacing, (15.0, -12.0, 30.0), row, column)
    return lambda folder: (write(dicom.ct_series(CT.values, grid), folder), Truth(CT.values, grid))


read("Feet first")(placed((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))
read("Sagittal slices")(placed((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)))
read("Coronal slices")(placed((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)))
read("Oblique slices")(placed((0.8, 0.6, 0.0), (-0.48, 0.64, 0.6)))


@refused("Two matrix sizes", Reason.MIXED_MATRIX, "2 sizes")
def two_matrices(folder):
    larger = dicom.ct_series(ct_hu((6, 16, 20)), ct_grid((6, 16, 20)))
    return ct(folder, lambda datasets: datasets.__setitem__(2, larger[2]))


@refused("Two pixel spacings", Reason.MIXED_MATRIX, "2 sizes or pixel spacings")
def two_spacings(folder):
    return ct(folder, lambda datasets: setattr(datasets[0], "PixelSpacing", [1.0, 1.0]))


@refused("Two patients", Reason.MIXED_PATIENTS, "2 values of PatientID")
def two_patients(folder):
    return ct(folder, lambda datasets: setattr(datasets[0], "PatientID", "another"))


@refused("Two studies", Reason.MIXED_PATIENTS, "2 values of StudyInstanceUID")
def two_studies(folder):
    return ct(folder, lambda d: setattr(d[0], "StudyInstanceUID", dicom.uid("another")))


@refused("Two frames of reference", Reason.MIXED_FRAME_OF_REFERENCE, "has 2 frames of reference")
def two_frames_of_reference(folder):
    return ct(folder, lambda d: setattr(d[0], "FrameOfReferenceUID", dicom.uid("another")))


@read("Pixels are not square, voxels anisotropic")
def not_square(folder):
    return ct(folder), CT


# Several acquisitions under one Series Instance UID


def several(attribute: str, one: Any, two: Any) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        def change(dataset: Dataset, turn: int) -> None:
            setattr(dataset, attribute, one if turn == 1 else two)

        return write(twice(ct_datasets(), change=change), folder)

    return make


for _name, _attribute, _one, _two in (
    ("acquisitions", "AcquisitionNumber", 1, 2),
    ("temporal positions", "TemporalPositionIdentifier", 1, 2),
    ("echoes", "EchoNumbers", 1, 2),
    ("echo times", "EchoTime", "2.3", "4.6"),
    ("inversion times", "InversionTime", "150", "900"),
    ("b-values", "DiffusionBValue", 0.0, 800.0),
    ("heart phases", "TriggerTime", "0", "450"),
    ("image types", "ImageType", ["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "PRIMARY", "MIP"]),
    ("kernels", "ConvolutionKernel", "B30f", "B70f"),
    ("tube voltages", "KVP", "80", "140"),
    ("acquisition times", "AcquisitionTime", "090000", "090400.5"),
):
    refused(f"Two {_name} at the same positions", Reason.MIXED_ACQUISITIONS, _attribute)(
        several(_attribute, _one, _two)
    )


@refused(
    "Two phases that the Content Time of each slice alone tells apart",
    Reason.MIXED_ACQUISITIONS,
    "ContentTime",
)
def two_content_times(folder):
    datasets = twice(ct_datasets())
    for number, dataset in enumerate(datasets):
        dataset.ContentTime = f"0900{number:02d}"
    return write(datasets, folder)


def private_b_values(group: int, creator: str, offset: int, low: Any, high: Any) -> Any:
    def change(dataset, turn):
        block = dataset.private_block(group, creator, create=True)
        block.add_new(offset, "IS", low if turn == 1 else high)

    return lambda folder: write(twice(mr_datasets(), change=change), folder)


for _name, _private in (
    ("Siemens", (0x0019, "SIEMENS MR HEADER", 0x0C, 0, 800)),
    ("Philips", (0x2001, "Philips Imaging DD 001", 0x03, 0, 800)),
    ("GE", (0x0043, "GEMS_PARM_01", 0x39, [0, 8, 0, 0], [800, 8, 0, 0])),
):
    refused(
        f"Two b-values in a private attribute of {_name}",
        Reason.MIXED_ACQUISITIONS,
        "DiffusionBValue (0, 800)",
    )(private_b_values(*_private))


@refused("Two phases that nothing tells apart", Reason.DUPLICATE_SLICES, "6 of 12 slices lie where")
def nothing_tells(folder):
    return write(twice(ct_datasets()), folder)


@refused(
    "Two acquisitions between one another, unevenly", Reason.MIXED_ACQUISITIONS, "AcquisitionNumber"
)
def interleaved(folder):
    def change(dataset, turn):
        dataset.AcquisitionNumber = turn

    return write(twice(ct_datasets(), 1.0, change), folder)


@refused("Two echoes between one another, evenly", Reason.MIXED_ACQUISITIONS, "EchoNumbers (1, 2)")
def interleaved_evenly(folder):
    def change(dataset, turn):
        dataset.EchoNumbers = turn

    return write(twice(mr_datasets(), 2.0, change), folder)


def halves(
    datasets: list[Dataset], attribute: str, one: Any, two: Any
) -> Callable[..., list[Path]]:
    """One stack, of whose halves an attribute has another value."""

    def make(folder: Path) -> list[Path]:
        for number, dataset in enumerate(datasets):
            setattr(dataset, attribute, one if number < len(datasets) // 2 else two)
        return write(datasets, folder)

    return make


for _name, _attribute, _one, _two, _make in (
    ("kernels", "ConvolutionKernel", "B30f", "B70f", ct_datasets),
    ("tube voltages", "KVP", "80", "140", ct_datasets),
    ("echo times", "EchoTime", "2.3", "4.6", mr_datasets),
):
    refused(f"Two {_name}, one above the other", Reason.MIXED_ACQUISITIONS, _attribute)(
        halves(_make(), _attribute, _one, _two)
    )


@read("An echo time that varies by less than a twentieth")
def echo_times_of_slices(folder):
    return halves(mr_datasets(), "EchoTime", "102.14", "102.3")(folder), MR


# Enhanced multi-frame images


@read("Legacy converted enhanced CT")
def legacy_ct(folder):
    return write([legacy_converted(ct_datasets())], folder), CT


@read("Legacy converted enhanced MR")
def legacy_mr(folder):
    return write([legacy_converted(mr_datasets())], folder), MR


PT = Truth(
    np.full((5, 6, 7), 2.5), PhantomGrid((5, 6, 7), (4.0, 5.0, 5.0), (0.0, 0.0, 0.0)), rtol=1e-4
)
PT.values[0, 0, 0] = 5.0


@read("Legacy converted enhanced PET", "SUVbw is Bq/ml times")
def legacy_pet(folder):
    return write([legacy_converted(pt_datasets())], folder), PT


@read("Enhanced CT, its frames out of order")
def enhanced_ct(folder):
    shuffled = [ct_datasets()[i] for i in (3, 0, 5, 1, 4, 2)]
    return write([enhanced(shuffled, EnhancedCTImageStorage)], folder), CT


@read("Enhanced CT with a rescale a frame, compressed")
def enhanced_ct_compressed(folder):
    image = enhanced(rescaled(ct_datasets()), EnhancedCTImageStorage)
    return write([in_syntax(image, RLELossless, folder)], folder), RESCALED


@read("Enhanced MR")
def enhanced_mr(folder):
    return write([enhanced(mr_datasets()[::-1], EnhancedMRImageStorage)], folder), MR


@read("Enhanced PET in Bq/ml by its Real World Value Mapping", "by DecayCorrectionDateTime")
def enhanced_pet(folder):
    return write([enhanced(pt_datasets()[::-1], EnhancedPETImageStorage)], folder), PT


@read("Enhanced PET in SUVbw by its Real World Value Mapping", "is stored in SUVbw")
def enhanced_pet_suv(folder):
    image = enhanced(pt_datasets("GML"), EnhancedPETImageStorage)
    for group in image.PerFrameFunctionalGroupsSequence:
        mapping = group.RealWorldValueMappingSequence[0]
        mapping.MeasurementUnitsCodeSequence[0].CodeValue = "g/ml{SUVbw}"
    # SUV Type is of single-frame PET, and nothing else is needed.
    del image.SUVType, image.RadiopharmaceuticalInformationSequence
    return write([image], folder), PT


@refused(
    "Enhanced PET in other units", Reason.UNSUPPORTED_UNITS, "SUV needs BQML, GML, CM2ML or Philips"
)
def enhanced_pet_counts(folder):
    image = enhanced(pt_datasets(), EnhancedPETImageStorage)
    for group, dataset in zip(image.PerFrameFunctionalGroupsSequence, pt_datasets(), strict=True):
        mapping = group.RealWorldValueMappingSequence[0]
        mapping.MeasurementUnitsCodeSequence[0].CodeValue = "{counts}"
        group.PixelValueTransformationSequence = [Dataset()]
        group.PixelValueTransformationSequence[0].RescaleSlope = dataset.RescaleSlope
        group.PixelValueTransformationSequence[0].RescaleIntercept = "0"
    return write([image], folder)


@refused(
    "Enhanced MR of two temporal positions",
    Reason.MIXED_ACQUISITIONS,
    "TemporalPositionIndex (1, 2)",
)
def two_times_in_one_object(folder):
    image = enhanced(twice(mr_datasets()), EnhancedMRImageStorage)
    for number, group in enumerate(image.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence[0].TemporalPositionIndex = 1 + number // 6
    return write([image], folder)


@refused("Enhanced MR of two b-values", Reason.MIXED_ACQUISITIONS, "DiffusionBValue (0, 800)")
def two_b_values_in_one_object(folder):
    image = enhanced(twice(mr_datasets()), EnhancedMRImageStorage)
    for number, group in enumerate(image.PerFrameFunctionalGroupsSequence):
        group.MRDiffusionSequence = [Dataset()]
        group.MRDiffusionSequence[0].DiffusionBValue = 800.0 * (number // 6)
    return write([image], folder)


@refused("Enhanced CT of two stacks", Reason.MIXED_ACQUISITIONS, "StackID (1, 2)")
def two_stacks(folder):
    image = enhanced(ct_datasets(), EnhancedCTImageStorage)
    for number, group in enumerate(image.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence[0].StackID = str(1 + number // 3)
    return write([image], folder)


def split_ct(change: Callable[[list[Dataset]], object] = len) -> Callable[[Path], Any]:
    """An enhanced CT in three parts, as `concatenation` makes them, then changed."""

    def make(folder: Path) -> tuple[list[Path], Truth]:
        mixed = [ct_datasets()[k] for k in (1, 0, 5, 2, 4, 3)]
        parts = concatenation(enhanced(mixed, EnhancedCTImageStorage), [2, 3, 1])
        return write(parts, folder, change), CT

    return make


def no_concatenation(parts: list[Dataset]) -> None:
    """Leave the parts as images of their own."""
    for part in parts:
        for name in (
            "ConcatenationUID",
            "SOPInstanceUIDOfConcatenationSource",
            "InConcatenationNumber",
            "InConcatenationTotalNumber",
            "ConcatenationFrameOffsetNumber",
        ):
            del part[name]


read(
    "A multi-frame image that was split into several files (a concatenation)",
    "frames of 3 multi-frame",
)(split_ct(list.reverse))
read(
    "Several multi-frame images that continue each other in one series", "frames of 3 multi-frame"
)(split_ct(no_concatenation))


def without(*places: int) -> Callable[[list[Dataset]], None]:
    """A change that leaves data sets out."""

    def change(datasets: list[Dataset]) -> None:
        datasets[:] = [d for number, d in enumerate(datasets) if number not in places]

    return change


refused(
    "The last file of a split multi-frame image is missing", Reason.MISSING_SLICES, "1 of 3 parts"
)(lambda folder: split_ct(without(2))(folder)[0])
refused("Only one file of a split multi-frame image is there", Reason.MISSING_SLICES, "is part 1;")(
    lambda folder: split_ct(without(0, 2))(folder)[0]
)


@refused(
    "A file of a split multi-frame image has fewer frames than lie before the next one",
    Reason.MISSING_SLICES,
    "part 2 of a multi-frame image begins after 2 frames, and the parts before it have 1",
)
def short_part(folder):
    def change(parts):
        parts[0].NumberOfFrames = 1
        del parts[0].PerFrameFunctionalGroupsSequence[1]
        parts[0].PixelData = parts[0].PixelData[: len(parts[0].PixelData) // 2]

    return split_ct(change)(folder)[0]


@read("A multi-frame image is there twice, under another SOP Instance UID", "left out: 6.")
def multi_frame_copy(folder):
    images = [enhanced(ct_datasets(), EnhancedCTImageStorage) for _ in range(2)]
    images[1].SOPInstanceUID = images[1].file_meta.MediaStorageSOPInstanceUID = dicom.uid("again")
    return write(images, folder), CT


@refused(
    "Several multi-frame images of one place, each of a point of time",
    Reason.MIXED_ACQUISITIONS,
    "AcquisitionDateTime",
)
def multi_frame_times(folder):
    images = [enhanced(ct_datasets(seed=n), EnhancedCTImageStorage) for n in range(2)]
    for number, image in enumerate(images):
        image.AcquisitionDateTime = f"2021030109000{number}"
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = dicom.uid("t", number)
    return write(images, folder)


@refused("Single-frame and enhanced CT in one series", Reason.UNSUPPORTED_OBJECT, "7 instances, 6")
def single_and_multi(folder):
    return ct(folder, lambda d: d.append(enhanced(ct_datasets(), EnhancedCTImageStorage)))


# Siemens mosaics


def a_mosaic(change: Callable[[list[Dataset]], object] = len) -> Callable[[Path], Any]:
    """A mosaic of the six slices of `mr_datasets`, then changed."""
    return lambda folder: (write([mosaic(mr_datasets())], folder, change), MR)


def bad_mosaic(defect: str, reason: Reason, says: str, change: Callable[[Dataset], object]) -> None:
    """Add a row: a mosaic that is changed so is refused."""
    make = a_mosaic(lambda images: change(images[0]))
    refused(defect, reason, says)(lambda folder: make(folder)[0])


def set_csa(image: Dataset, csa: bytes) -> None:
    """Replace the CSA image header."""
    image[0x0029, 0x1010].value = csa


TAKEN_APART = "6 slices are the tiles of a Siemens mosaic"

read("A Siemens mosaic", TAKEN_APART)(a_mosaic())


@read("A mosaic whose tiles run from the last slice to the first", TAKEN_APART)
def backward_mosaic(folder):
    return write([mosaic(mr_datasets()[::-1])], folder), MR


@read("A mosaic, compressed", TAKEN_APART)
def compressed_mosaic(folder):
    change = partial(in_syntax, syntax=RLELossless, folder=folder)
    return a_mosaic(lambda images: change(images[0]))(folder)


read("A mosaic whose number of slices stands in the CSA header alone", TAKEN_APART)(
    a_mosaic(lambda images: images[0].__delitem__((0x0019, 0x100A)))
)
read("A mosaic whose distance of slices stands in the CSA header alone", TAKEN_APART)(
    a_mosaic(
        lambda images: (
            images[0].__delattr__("SpacingBetweenSlices"),
            set_csa(
                images[0], mosaic_csa(6, [0, 0, 1], SpacingBetweenSlices=("DS", ["4.00000000"]))
            ),
        )
    )
)


@read("An enhanced MR whose Image Type still says MOSAIC")
def enhanced_mosaic(folder):
    image = enhanced(mr_datasets(), EnhancedMRImageStorage)
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    return write([image], folder), MR


@read("Single slices whose Image Type and number of tiles are still those of a mosaic")
def slices_of_a_mosaic(folder):
    def change(datasets):
        for dataset in datasets:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
            dataset.AcquisitionMatrix = [10, 0, 0, 8]
            dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 6)

    return write(mr_datasets(), folder, change), MR


bad_mosaic(
    "A mosaic without its private elements, as de-identification leaves it",
    Reason.MISSING_GEOMETRY,
    "NumberOfImagesInMosaic (0019,xx0A), SliceNormalVector in the CSA header (0029,xx10) is",
    lambda image: image.remove_private_tags(),
)
bad_mosaic(
    "A mosaic whose CSA header is missing",
    Reason.MISSING_GEOMETRY,
    "mosaic, and SliceNormalVector in the CSA header (0029,xx10) is missing",
    lambda image: image.__delitem__((0x0029, 0x1010)),
)
bad_mosaic(
    "A mosaic whose CSA header is cut short",
    Reason.MISSING_GEOMETRY,
    "whose CSA header (0029,xx10) cannot be read",
    lambda image: set_csa(image, image[0x0029, 0x1010].value[:700]),
)
bad_mosaic(
    "A mosaic without Spacing Between Slices",
    Reason.MISSING_GEOMETRY,
    "mosaic, and Spacing Between Slices (0018,0088) is missing",
    lambda image: image.__delattr__("SpacingBetweenSlices"),
)
bad_mosaic(
    "A mosaic whose Spacing Between Slices is no length",
    Reason.GEOMETRY_REFUSED,
    "Spacing Between Slices, -4 mm, is no length",
    lambda image: setattr(image, "SpacingBetweenSlices", "-4"),
)
bad_mosaic(
    "A mosaic whose two numbers of slices disagree",
    Reason.GEOMETRY_REFUSED,
    "NumberOfImagesInMosaic is 5 in (0019,xx0A) and 6 in the CSA header",
    lambda image: setattr(image[0x0019, 0x100A], "value", 5),
)
bad_mosaic(
    "A mosaic of more tiles than stated",
    Reason.GEOMETRY_REFUSED,
    "NumberOfImagesInMosaic is 5, but a tile behind these is not blank",
    lambda image: (
        image.__delitem__((0x0019, 0x100A)),
        set_csa(image, mosaic_csa(5, [0, 0, 1])),
    ),
)
bad_mosaic(
    "A mosaic whose size is no multiple of its tiles'",
    Reason.GEOMETRY_REFUSED,
    "24 rows and 30 columns cannot be 4 × 4 tiles",
    lambda image: (
        image.__delitem__((0x0019, 0x100A)),
        set_csa(image, mosaic_csa(10, [0, 0, 1])),
    ),
)
bad_mosaic(
    "A mosaic whose slice normal is not that of its images",
    Reason.GEOMETRY_REFUSED,
    "SliceNormalVector [0.0, 1.0, 0.0] is not at a right angle",
    lambda image: set_csa(image, mosaic_csa(6, [0, 1, 0])),
)
bad_mosaic(
    "An image with tiles by its private elements and not by its Image Type",
    Reason.GEOMETRY_REFUSED,
    "NumberOfImagesInMosaic is 6, but Image Type names none",
    lambda image: setattr(image, "ImageType", ["ORIGINAL", "PRIMARY", "M", "ND"]),
)


@refused("Several mosaics in one series", Reason.MIXED_ACQUISITIONS, "AcquisitionTime")
def two_mosaics(folder):
    images = [mosaic(mr_datasets()) for _ in range(2)]
    images[1].AcquisitionTime = "090002"
    images[1].SOPInstanceUID = images[1].file_meta.MediaStorageSOPInstanceUID = dicom.uid("two")
    return write(images, folder)


@refused("A mosaic among single slices", Reason.UNSUPPORTED_OBJECT, "6 single-frame images and 1")
def mosaic_among_slices(folder):
    image = mosaic(mr_datasets())
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = dicom.uid("mosaic")
    return write([*mr_datasets(), image], folder)


@refused("Mosaics in a legacy converted image", Reason.UNSUPPORTED_OBJECT, "were converted")
def converted_mosaics(folder):
    images = [mosaic(mr_datasets()) for _ in range(2)]
    images[1].InstanceNumber = 2
    images[1].SOPInstanceUID = images[1].file_meta.MediaStorageSOPInstanceUID = dicom.uid("two")
    return write([legacy_converted(images)], folder)


# Several kinds of image


@refused("CT and MR in one series", Reason.UNSUPPORTED_OBJECT, "mixes CT Image Storage, MR Image")
def two_modalities(folder):
    return ct(folder, lambda datasets: datasets.__setitem__(0, mr_datasets()[0]))


@refused("A frame without a position", Reason.MISSING_GEOMETRY, "ImagePositionPatient is missing")
def frame_without_position(folder):
    image = enhanced(ct_datasets(), EnhancedCTImageStorage)
    del image.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    return write([image], folder)


@refused(
    "Several frames without functional groups", Reason.UNSUPPORTED_OBJECT, "has 6 frames without"
)
def frames_without_groups(folder):
    image = enhanced(ct_datasets(), EnhancedCTImageStorage)
    del image.PerFrameFunctionalGroupsSequence
    return write([image], folder)


@refused("Fewer frames of pixels than described", Reason.TRUNCATED_PIXELS, "bytes of pixels where")
def frames_missing(folder):
    image = enhanced(ct_datasets(), EnhancedCTImageStorage)
    image.PixelData = image.PixelData[: len(image.PixelData) // 2]
    return write([image], folder)


@refused("Number of Frames and functional groups disagree", Reason.MISSING_GEOMETRY, "(4) and")
def frames_disagree(folder):
    image = enhanced(ct_datasets(), EnhancedCTImageStorage)
    image.NumberOfFrames = 4
    return write([image], folder)


@refused(
    "Fewer compressed frames than described", Reason.TRUNCATED_PIXELS, "has 4 frames of pixels"
)
def compressed_frames_missing(folder):
    image = in_syntax(enhanced(ct_datasets(), EnhancedCTImageStorage), RLELossless, folder)
    frames = list(pydicom.encaps.generate_frames(image.PixelData, number_of_frames=6))
    return write([encapsulated(image, frames[:4], RLELossless)], folder)


# Transfer syntaxes and pixels


FINE = Truth(ct_hu((3, 32, 32)), ct_grid((3, 32, 32)))


def each_in(*syntaxes: UID, **options: Any) -> Callable[[Path], Any]:
    """A series whose slices are in these transfer syntaxes by turns."""

    def make(folder: Path) -> Any:
        datasets = ct_datasets(FINE.grid.shape)
        for k, syntax in zip(range(3), cycle(syntaxes), strict=False):
            datasets[k] = in_syntax(datasets[k], syntax, folder / "gdcm", **options)
        return write(datasets, folder / "series"), FINE

    return make


for _name, _syntax in (
    ("Implicit VR little endian", ImplicitVRLittleEndian),
    ("Explicit VR big endian", ExplicitVRBigEndian),
    ("Deflated", DeflatedExplicitVRLittleEndian),
    ("RLE", RLELossless),
    ("JPEG lossless (process 14)", JPEGLossless),
    ("JPEG lossless (process 14, selection value 1)", JPEGLosslessSV1),
    ("JPEG-LS lossless", JPEGLSLossless),
    ("JPEG 2000 lossless", JPEG2000Lossless),
):
    read(_name)(each_in(_syntax))


@read("JPEG-LS near-lossless: the lossy values")
def near_lossless(folder):
    paths, _ = each_in(JPEGLSNearLossless, jls_error=2)(folder)
    return paths, Truth(FINE.values, FINE.grid, atol=2)


@read("JPEG 2000 lossy: the lossy values")
def lossy(folder):
    paths, _ = each_in(JPEG2000, j2k_psnr=[70])(folder)
    return paths, Truth(FINE.values, FINE.grid, atol=8)


@read("JPEG baseline, 8 bits: the lossy values")
def baseline(folder):
    def change(datasets):
        for dataset in datasets:
            stored = (np.add.outer(np.arange(32), np.arange(32)) * 3).astype("u1")
            buffer = io.BytesIO()
            Image.fromarray(stored).save(buffer, "JPEG", quality=95)
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
            encapsulated(dataset, [buffer.getvalue()], JPEGBaseline8Bit)

    ramp = np.broadcast_to(np.add.outer(np.arange(32), np.arange(32)) * 3 - 1024, (3, 32, 32))
    return write(ct_datasets((3, 32, 32)), folder, change), Truth(ramp, FINE.grid, atol=4)


@read("High-throughput JPEG 2000")
def high_throughput(folder):
    def change(datasets):
        encapsulated(datasets[2], [HTJ2K_OF_THIRD_SLICE], HTJ2KLossless)

    return ct(folder, change), CT


@read("High-throughput JPEG 2000 under its general transfer syntax")
def high_throughput_general(folder):
    return ct(folder, lambda d: encapsulated(d[2], [HTJ2K_OF_THIRD_SLICE], HTJ2K)), CT


read("Each slice in another transfer syntax")(
    each_in(JPEGLosslessSV1, JPEG2000Lossless, ExplicitVRBigEndian)
)


@read("JPEG extended, 12 bits: the lossy values")
def jpeg_extended(folder):
    stored = (np.add.outer(np.arange(32), np.arange(32)) * 60).astype("u2")
    frame = imagecodecs.jpeg8_encode(stored, bitspersample=12, level=98)
    paths = write(
        [encapsulated(d, [frame], JPEGExtended12Bit) for d in ct_datasets(FINE.grid.shape)], folder
    )
    return paths, Truth(np.broadcast_to(stored - 1024.0, (3, 32, 32)), FINE.grid, atol=2)


def broken(syntax: Any, damage: Callable[[bytes], bytes]) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        datasets = ct_datasets(FINE.grid.shape)
        image = in_syntax(datasets[1], syntax, folder / "gdcm")
        frame = next(pydicom.encaps.generate_frames(image.PixelData, number_of_frames=1))
        datasets[1] = encapsulated(image, [damage(frame)], syntax)
        return write(datasets, folder / "series")

    return make


for _name, _syntax in (
    ("RLE", RLELossless),
    ("JPEG lossless", JPEGLosslessSV1),
    ("JPEG-LS", JPEGLSLossless),
    ("JPEG 2000", JPEG2000Lossless),
):
    refused(f"{_name} cut short", Reason.UNDECODABLE_PIXELS, "cannot be decoded")(
        broken(_syntax, lambda frame: frame[: 2 * (len(frame) // 3)])
    )
    refused(f"{_name} overwritten", Reason.UNDECODABLE_PIXELS, "cannot be decoded")(
        broken(_syntax, lambda frame: b"\x01" * len(frame))
    )


@read("No transfer syntax in the file meta information")
def no_syntax(folder):
    paths = ct(folder)
    for path in paths:
        # The group length stays right: one element takes the place of another.
        data = path.read_bytes()
        path.write_bytes(data.replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x11\x00UI", 1))
        assert "TransferSyntaxUID" not in pydicom.dcmread(path).file_meta
    return paths, CT


def repacked(dtype: str) -> Callable[[Path], Any]:
    """A series whose stored values are HU + 1024 in another data type."""

    def make(folder: Path) -> Any:
        def change(datasets: list[Dataset]) -> None:
            for dataset in datasets:
                stored = dataset.pixel_array.astype(dtype)
                names = {"<f4": "FloatPixelData", "<f8": "DoubleFloatPixelData"}
                name = names.get(dtype, "PixelData")
                del dataset.PixelData
                setattr(dataset, name, stored.tobytes())
                bits = stored.itemsize * 8
                dataset.BitsAllocated = dataset.BitsStored = bits
                dataset.HighBit, dataset.PixelRepresentation = (
                    bits - 1,
                    int(stored.dtype.kind == "i"),
                )

        return ct(folder, change), CT

    return make


read("Signed pixels")(repacked("<i2"))


@read("Signed pixels in JPEG lossless")
def signed_jpeg(folder):
    paths, _ = repacked("<i2")(folder / "plain")
    datasets = [pydicom.dcmread(path) for path in paths]
    return write(
        [in_syntax(dataset, JPEGLosslessSV1, folder / "gdcm") for dataset in datasets],
        folder / "series",
    ), CT


read("32-bit integer pixels")(repacked("<i4"))
read("32-bit float pixels")(repacked("<f4"))
read("64-bit float pixels")(repacked("<f8"))


@read("8-bit pixels")
def eight_bits(folder):
    hu = ct_hu((3, 8, 10)) + 200

    def change(datasets):
        for dataset in datasets:
            dataset.PixelData = (dataset.pixel_array - 824).astype("u1").tobytes()
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
            dataset.PixelRepresentation, dataset.RescaleIntercept = 0, "0"

    return write(ct_datasets((3, 8, 10)), folder, change), Truth(hu, ct_grid((3, 8, 10)))


def in_words(change: Callable[[NDArray[Any]], NDArray[Any]], **values: Any) -> Any:
    """A change of all stored values, which are 12 of 16 bits, and of attributes."""

    def apply(datasets: list[Dataset]) -> None:
        for dataset in datasets:
            assert dataset.BitsStored == 12
            dataset.PixelData = change(dataset.pixel_array).astype("<u2").tobytes()
        each(**values)(datasets)

    return apply


@read("Overlays in the unused high bits of the pixels")
def overlay_bits(folder):
    def declare(datasets):
        in_words(lambda words: words | 0xA000)(datasets)
        for dataset in datasets:
            dataset.add_new(0x60000100, "US", 16)
            dataset.add_new(0x60000102, "US", 15)

    return ct(folder, declare), CT


@read("Bits above Bits Stored that no overlay explains", "6 of 6 images have bits set above")
def unexplained_bits(folder):
    return ct(folder, in_words(lambda words: words | 0xA000)), CT


@read("Values at the top of their bits, as High Bit says", "6 of 6 images keep their values at")
def values_at_the_top(folder):
    return ct(folder, in_words(lambda words: words << 4, HighBit=15)), CT


@refused("High Bit above Bits Stored, values below", Reason.PIXEL_FORMAT, "4 bits below are not")
def wrong_high_bit(folder):
    return ct(folder, each(HighBit=15))


@refused("High Bit below Bits Stored", Reason.PIXEL_FORMAT, "High Bit 7 and Pixel Representation")
def low_high_bit(folder):
    return ct(folder, each(HighBit=7))


@read("High Bit is missing", "6 of 6 images have no High Bit")
def no_high_bit(folder):
    return ct(folder, lambda datasets: [dataset.__delattr__("HighBit") for dataset in datasets]), CT


@refused("12 bits allocated", Reason.PIXEL_FORMAT, "are no way to store a value")
def packed(folder):
    return ct(folder, each(BitsAllocated=12))


@refused("24 bits allocated", Reason.PIXEL_FORMAT, "are no way to store a value")
def in_three_bytes(folder):
    return ct(folder, each(BitsAllocated=24))


@refused("More bits stored than allocated", Reason.PIXEL_FORMAT, "Bits Stored 17")
def too_many_stored(folder):
    return ct(folder, each(BitsStored=17, HighBit=16))


@refused("Pixel Representation of 2", Reason.PIXEL_FORMAT, "Pixel Representation 2")
def third_representation(folder):
    return ct(folder, each(PixelRepresentation=2))


@refused("8 bits allocated to pixels of 16", Reason.PIXEL_FORMAT, "160 bytes of pixels where 80")
def half_allocated(folder):
    return ct(folder, each(BitsAllocated=8, BitsStored=8, HighBit=7))


@refused("Pixel Data and Float Pixel Data", Reason.PIXEL_FORMAT, "PixelData and FloatPixelData")
def two_kinds_of_pixels(folder):
    return ct(folder, each(FloatPixelData=bytes(320)))


@refused("32-bit floats with 16 bits allocated", Reason.PIXEL_FORMAT, "16 in place of 32")
def floats_in_sixteen(folder):
    paths, _ = repacked("<f4")(folder / "plain")
    return write(map(pydicom.dcmread, paths), folder / "series", each(BitsAllocated=16))


@refused("A float pixel that is no number", Reason.PIXEL_FORMAT, "0003.dcm: holds values that are")
def no_number_among_floats(folder):
    def change(datasets):
        stored = np.frombuffer(datasets[3].FloatPixelData, "<f4").copy()
        stored[5] = np.nan
        datasets[3].FloatPixelData = stored.tobytes()

    paths, _ = repacked("<f4")(folder / "plain")
    return write(map(pydicom.dcmread, paths), folder / "series", change)


@refused("Compressed values beyond Bits Stored", Reason.PIXEL_FORMAT, "do not fit into Bits Stored")
def beyond_bits_stored(folder):
    paths, _ = each_in(JPEG2000Lossless)(folder / "whole")
    return write(map(pydicom.dcmread, paths), folder / "series", each(BitsStored=8, HighBit=7))


@refused(
    "Signed compressed values of fewer bits than stored", Reason.PIXEL_FORMAT, "codestream has 12"
)
def signed_of_fewer_bits(folder):
    paths, _ = each_in(JPEGLSLossless)(folder / "whole")
    change = each(BitsStored=16, HighBit=15, PixelRepresentation=1)
    return write(map(pydicom.dcmread, paths), folder / "series", change)


@refused(
    "Compressed pixels under an uncompressed syntax", Reason.PIXEL_FORMAT, "pixels are encapsulated"
)
def compressed_called_native(folder):
    """The file meta information names another syntax of the same length."""
    paths, _ = each_in(RLELossless)(folder)
    stated = RLELossless.encode() + b"\0"
    for path in paths:
        data = path.read_bytes()
        assert data.count(stated) == 1
        path.write_bytes(
            data.replace(stated, ExplicitVRLittleEndian.ljust(len(stated), "\0").encode())
        )
    return paths


@refused(
    "Uncompressed pixels under a compressed syntax", Reason.PIXEL_FORMAT, "are not encapsulated"
)
def native_called_compressed(folder):
    paths = ct(folder)
    stated = b"\x02\x00\x10\x00UI\x14\x00" + ExplicitVRLittleEndian.encode() + b"\0"
    changed = b"\x02\x00\x10\x00UI\x14\x00" + b"1.2.840.10008.1.2.5\0"
    for path in paths:
        data = path.read_bytes()
        assert data.count(stated) == 1
        path.write_bytes(data.replace(stated, changed))
    return paths


@read("1-bit pixels")
def one_bit(folder):
    bits = np.random.default_rng(6).integers(0, 2, (3, 8, 10))

    def change(datasets):
        for dataset, plane in zip(datasets, bits, strict=True):
            dataset.PixelData = np.packbits(plane, bitorder="little").tobytes()
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
            dataset.RescaleIntercept = "0"

    return write(ct_datasets((3, 8, 10)), folder, change), Truth(bits, ct_grid((3, 8, 10)))


@read("More bytes of pixels than needed")
def padded(folder):
    def change(datasets):
        for dataset in datasets:
            dataset.PixelData = dataset.PixelData + bytes(64)

    return ct(folder, change), CT


@refused("Fewer bytes of pixels than needed", Reason.TRUNCATED_PIXELS, "50 bytes of pixels where")
def truncated_pixels(folder):
    return ct(folder, lambda d: setattr(d[0], "PixelData", d[0].PixelData[:50]))


@refused("A file cut short in its pixels", Reason.TRUNCATED_PIXELS, "where 160 are due")
def truncated_file(folder):
    paths = ct(folder)
    paths[2].write_bytes(paths[2].read_bytes()[:-60])
    return paths


@refused(
    "A compressed file cut short",
    Reason.UNREADABLE,
    "0002.dcm: cannot be read as DICOM (EOFError: it breaks off",
)
def truncated_compressed_file(folder):
    paths, _ = each_in(JPEG2000Lossless)(folder)
    paths[2].write_bytes(paths[2].read_bytes()[:-600])
    return paths


@refused("A file cut short in its header", Reason.MISSING_GEOMETRY, "is missing or empty")
def truncated_header(folder):
    paths = ct(folder)
    paths[2].write_bytes(defects.truncated_header(ct_datasets()[2]))
    return paths


@read("Neither preamble nor file meta information")
def bare_data_set(folder):
    paths = ct(folder)
    for path in paths:
        content = path.read_bytes()
        (length,) = struct.unpack("<I", content[140:144])
        path.write_bytes(content[144 + length :])
    return paths, CT


@refused("A zero-length file", Reason.UNREADABLE, "cannot be read as DICOM")
def empty_file(folder):
    paths = ct(folder)
    paths[2].write_bytes(b"")
    return paths


@refused("A file that is no DICOM", Reason.UNREADABLE, "cannot be read as DICOM")
def no_dicom(folder):
    paths = ct(folder)
    paths[2].write_bytes(defects.NOT_DICOM)
    return paths


@refused("A header value that is no number", Reason.UNREADABLE, "0001.dcm: cannot be read")
def no_number(folder):
    paths = ct(folder)
    data = paths[1].read_bytes()
    assert data.count(b"3.5\\3") == 1
    paths[1].write_bytes(data.replace(b"3.5\\3", b"3,5\\3"))
    return paths


@refused("Bits Stored is missing", Reason.PIXEL_FORMAT, "0000.dcm: Bits Allocated 16, Bits Store")
def no_bits_stored(folder):
    return ct(folder, lambda datasets: datasets[0].__delattr__("BitsStored"))


@refused("No pixel data", Reason.NO_PIXEL_DATA, "0000.dcm: has no pixel data")
def no_pixels(folder):
    return ct(folder, lambda datasets: datasets[0].__delattr__("PixelData"))


@refused("Zero-length pixel data", Reason.NO_PIXEL_DATA, "0000.dcm: has no pixel data")
def empty_pixels(folder):
    return ct(folder, lambda datasets: setattr(datasets[0], "PixelData", b""))


# Values


def rescaled(datasets: list[Dataset]) -> list[Dataset]:
    for number, dataset in enumerate(datasets):
        dataset.RescaleSlope = f"{number + 1}.5"
    return datasets


SLOPES = np.arange(1.5, 7)[:, None, None]
RESCALED = Truth((ct_hu() + 1024.0) * SLOPES - 1024, ct_grid())


@read("Another Rescale Slope in each CT slice")
def slope_a_slice(folder):
    return write(rescaled(ct_datasets()), folder), RESCALED


@read("Another Rescale Slope in each PET slice", "is stored in SUVbw")
def slope_a_pet_slice(folder):
    suv = np.random.default_rng(4).random(PT.grid.shape) * np.arange(1, 6)[:, None, None]
    datasets = dicom.pt_series(suv, PT.grid, scan=dicom.Scan(units="GML"))
    stored = np.stack([dataset.pixel_array for dataset in datasets]).astype(float)
    slopes = np.array([float(dataset.RescaleSlope) for dataset in datasets])
    assert len(set(slopes)) == 5
    values = (stored * slopes[:, None, None]).astype(np.float32)
    return write(datasets, folder), Truth(values, PT.grid)


@refused("CT without Rescale Slope", Reason.MISSING_RESCALE, "0004.dcm: Rescale Slope")
def no_slope(folder):
    return ct(folder, lambda datasets: datasets[4].__delattr__("RescaleSlope"))


@refused("CT with an empty Rescale Intercept", Reason.MISSING_RESCALE, "missing, empty or 0")
def empty_intercept(folder):
    return ct(folder, each(RescaleIntercept=None))


@refused("Rescale Slope of 0", Reason.MISSING_RESCALE, "missing, empty or 0")
def zero_slope(folder):
    return ct(folder, each(RescaleSlope="0"))


@refused("Rescale Slope that is no number", Reason.MISSING_RESCALE, "no finite number")
def slope_that_is_no_number(folder):
    paths = ct(folder, each(RescaleSlope="1.5"))
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"1.5 ", b"NaN "))
    return paths


@refused("A Modality LUT beside a rescale", Reason.PIXEL_FORMAT, "has a Modality LUT and a rescale")
def two_modality_transforms(folder):
    paths, _ = modality_lut(folder / "plain")
    change = each(RescaleSlope="1", RescaleIntercept="0")
    return write(map(pydicom.dcmread, paths), folder / "series", change)


@refused("PET without Rescale Slope", Reason.MISSING_RESCALE, "Rescale Slope")
def pet_without_slope(folder):
    return write(pt_datasets(), folder, lambda d: d[0].__delattr__("RescaleSlope"))


@read("MR without Rescale Slope and Intercept: the stored values")
def mr_without_rescale(folder):
    return write(mr_datasets(), folder), MR


@refused("MR with a Rescale Slope but no Intercept", Reason.MISSING_RESCALE, "Intercept")
def mr_half_rescaled(folder):
    return write(mr_datasets(), folder, each(RescaleSlope="2"))


@read("A Rescale Type other than HU", "Rescale Type is MGML")
def iodine_map(folder):
    return ct(folder, each(RescaleType="MGML")), CT


@read("A Modality LUT Sequence in place of a rescale")
def modality_lut(folder):
    table = np.random.default_rng(3).permutation(4096)

    def change(datasets):
        for dataset in datasets:
            del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType
            item = Dataset()
            item.LUTDescriptor = [4096, 0, 16]
            item["LUTDescriptor"].VR = "US"
            item.ModalityLUTType = "HU"
            item.add_new("LUTData", "OW", table.astype("<u2").tobytes())
            dataset.ModalityLUTSequence = [item]

    return ct(folder, change), Truth(table[ct_hu().astype(int) + 1024], ct_grid())


@read("A Real World Value Mapping beside the rescale, which is not used")
def real_world(folder):
    def change(datasets):
        for dataset in datasets:
            mapping = Dataset()
            mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 7.0, 3.0
            dataset.RealWorldValueMappingSequence = [mapping]

    return ct(folder, change), CT


@read("Philips' private MR scale, which is not applied")
def philips_mr(folder):
    def change(datasets):
        each(RescaleSlope="2", RescaleIntercept="0")(datasets)
        for dataset in datasets:
            block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
            block.add_new(0x0D, "FL", 0.0)
            block.add_new(0x0E, "FL", 0.004)

    return write(mr_datasets(), folder, change), Truth(2 * MR.values, MR.grid)


@read("MONOCHROME1, which is of the display only")
def monochrome1(folder):
    change = each(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    return ct(folder, change), CT


@read("Pixel Padding Value, which is kept")
def padding_value(folder):
    def change(datasets):
        for dataset in datasets:
            dataset.add_new("PixelPaddingValue", "US", 0)
            stored = dataset.pixel_array.copy()
            stored[0, 0] = 0
            dataset.PixelData = stored.tobytes()

    values = ct_hu()
    values[:, 0, 0] = -1024
    return ct(folder, change), Truth(values, ct_grid())


# Objects and headers


@refused("A secondary capture in a CT series", Reason.UNSUPPORTED_OBJECT, "Secondary Capture")
def secondary_capture(folder):
    return ct(folder, lambda d: setattr(d[0], "SOPClassUID", SecondaryCaptureImageStorage))


@refused("A colour image in a CT series", Reason.UNSUPPORTED_OBJECT, "a colour image")
def colour(folder):
    change = each(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    return ct(folder, lambda datasets: change(datasets[:1]))


@refused("Pixels are indices into a palette", Reason.UNSUPPORTED_OBJECT, "a colour image")
def palette(folder):
    return ct(folder, each(PhotometricInterpretation="PALETTE COLOR"))


for _name in (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "FrameOfReferenceUID",
):
    refused(f"{_name} is missing", Reason.MISSING_GEOMETRY, f"0000.dcm: {_name} is missing")(
        partial(ct, change=lambda datasets, name=_name: datasets[0].__delattr__(name))
    )


@read("SOP Class, SOP, Series and Study Instance UID are blank", "replaced by stand-ins: SOPClas")
def blank_uids(folder):
    paths = ct(folder)
    for path in paths:
        dataset = pydicom.dcmread(path)
        for name in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            setattr(dataset, name, "")
        dataset.save_as(path)
    return paths, CT


@read("Specific Character Set is unknown, missing or wrong")
def character_set(folder):
    paths = write(
        ct_datasets(),
        folder,
        each(SpecificCharacterSet="ISO_IR 100", PatientName="M\u00fcller^J\u00f6rg"),
    )
    stated = ("ISO_IR 999", "", "ISO_IR 6", "ISO_IR 144", "bogus", "ISO_IR 192")
    for path, name in zip(paths, stated, strict=True):
        data = path.read_bytes().replace(b"ISO_IR 100", name.ljust(10).encode(), 1)
        path.write_bytes(data)
        assert str(pydicom.dcmread(path).SpecificCharacterSet or "") == name
    return paths, CT


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.defect)
def test_a_defect_is_read_right_or_refused_with_its_reason(row, tmp_path):
    notes: list[str] = []
    if row.outcome == READ:
        paths, truth = row.make(tmp_path)
        series = series_of(paths)
        volume = read_series_volume(series, notes=notes)
        assert volume.array.shape == truth.values.shape
        np.testing.assert_allclose(volume.array, truth.values, truth.rtol, truth.atol)
        for index in np.ndindex(2, 2, 2):
            corner = np.array(index) * (np.array(truth.grid.shape) - 1)
            place = (volume.grid.affine @ [*corner, 1])[:3]
            np.testing.assert_allclose(place, truth.grid.position(*corner), atol=0.05)
        assert row.says in " ".join(notes)
        assert bool(row.says) == bool(notes)
        assert len(read_planes(series)) == len(volume.array)
    else:
        with pytest.raises(CaseFault) as caught:
            read_series_volume(series_of(row.make(tmp_path)), notes=notes)
        message = caught.value.message
        assert caught.value.reason.value == row.outcome, message
        assert row.says in message
        assert str(tmp_path) in message or "series 2.25." in message


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (values_at_the_top, "values_at_top_of_bits"),
        (unexplained_bits, "bits_above_left_out"),
        (no_high_bit, "high_bit_assumed"),
        (overlay_bits, ""),
    ],
)
def test_what_was_decided_on_the_bits_has_its_code(make, code, tmp_path):
    paths, _ = make(tmp_path)
    decisions: list[Decision] = []
    read_series_volume(series_of(paths), decisions=decisions)
    assert decisions == ([code] if code else [])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless],
    ids=lambda syntax: syntax.name,
)
def test_damaged_bytes_are_never_more_than_a_fault(syntax, tmp_path):
    paths, _ = each_in(syntax)(tmp_path)
    series = series_of(paths)
    sound = paths[1].read_bytes()
    random = np.random.default_rng(0)
    messages = []
    for trial in range(60):
        data = bytearray(sound)
        if trial % 3 == 0:
            del data[random.integers(len(data)) :]
        for place in random.integers(132, len(sound), 8):
            data[place : place + 1] = random.bytes(1)
        paths[1].write_bytes(data)
        try:
            read_series_volume(series)
        except CaseFault as fault:
            messages.append(fault.message)
    assert len(messages) >= 20
    assert all("0001.dcm" in text or series.series_uid in text for text in messages)


def test_twelve_bit_jpeg_of_pydicom_has_the_values_that_dcmtk_finds(tmp_path):
    file = pydicom.dcmread(get_testdata_file("JPGExtended.dcm"))
    frame = next(pydicom.encaps.generate_frames(file.PixelData, number_of_frames=1))

    def replace(datasets):
        for dataset in datasets:
            encapsulated(dataset, [frame], JPEGExtended12Bit)

    hu, grid = np.zeros((2, 1024, 256), np.int16), ct_grid((2, 1024, 256))
    paths = write(dicom.ct_series(hu, grid), tmp_path, replace)
    stored = read_series_volume(series_of(paths)).array + 1024
    assert (stored[0, 420, 140], stored[0, 230, 120], stored[0].max()) == (244, 95, 264)
    assert stored[1].sum(dtype=int) == 3767007


def as_stack(name: str, folder: Path, step: float = 3.0) -> list[Path]:
    """A file of pydicom's, as it is encoded, and a copy of it one slice on, with another value."""
    paths = []
    for k in range(2):
        dataset = pydicom.dcmread(get_testdata_file(name))
        normal = np.cross(*np.reshape(np.array(dataset.ImageOrientationPatient, float), (2, 3)))
        position = np.array(dataset.ImagePositionPatient, float) + k * step * normal
        dataset.ImagePositionPatient = [f"{value:.6f}" for value in position]
        dataset.SOPInstanceUID = dicom.uid(name, k)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        paths.append(folder / f"{name}.{k}")
        folder.mkdir(exist_ok=True)
        dataset.save_as(paths[-1])
    return paths


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_one_image_of_pydicom_has_one_content_in_each_encoding(name, tmp_path):
    plain = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    stored = np.frombuffer(plain.PixelData, "<i2").reshape(64, 64)
    volume = read_series_volume(series_of(as_stack(name, tmp_path)))
    np.testing.assert_array_equal(volume.array, np.stack([stored, stored]))


def test_signs_that_the_codestream_and_the_header_state_differently_are_right(tmp_path):
    # Outside its circle the scanner wrote -2000; read without its sign this is 6192.
    volume = read_series_volume(series_of(as_stack("J2K_pixelrep_mismatch.dcm", tmp_path)))
    assert volume.array.min() == volume.array[0, 0, 0] == -2000
    assert volume.array.max() == 1896


def test_a_file_of_pydicom_cut_short_in_its_pixels_is_refused(tmp_path):
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(as_stack("MR_truncated.dcm", tmp_path)))
    assert caught.value.reason is Reason.TRUNCATED_PIXELS


@pytest.mark.parametrize("name", ["23x38x3", "24x38x3"])
def test_a_multi_frame_image_of_pixelmed_equals_its_single_frames(shared_data, name):
    folder = shared_data / "dcmqi" / "data" / "segmentations" / name
    single = series_of((folder / "image").glob("*.dcm"))
    multi = series_of((folder / "multiframe").glob("*.dcm"))
    one, two = read_series_volume(single), read_series_volume(multi)
    np.testing.assert_array_equal(one.array, two.array)
    assert one.grid.matches(two.grid, 1e-6)
    uids = {plane.header.FrameOfReferenceUID for plane in read_planes(single)}
    assert {plane.header.FrameOfReferenceUID for plane in read_planes(multi)} == uids
    assert [plane.frame for plane in read_planes(multi)] == [0, 1, 2]


def test_a_real_series_with_blank_uids_is_read_as_its_own_headers_say(shared_data):
    paths = sorted((shared_data / "totalsegmentator" / "example_ct_dicom").iterdir())
    notes: list[str] = []
    volume = read_series_volume(series_of(paths), notes=notes)
    assert notes == [
        "UIDs missing in the files were replaced by stand-ins: SOPClassUID, SOPInstanceUID, "
        "SeriesInstanceUID, StudyInstanceUID."
    ]
    files = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    order = sorted(range(20), key=lambda i: float(files[i].ImagePositionPatient[2]))
    # SimpleITK decodes JPEG 2000 and reads the geometry by code of its own (GDCM).
    image = sitk.ReadImage([str(paths[i]) for i in order])
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))
    assert volume.grid.matches(Volume.from_image(image).grid, 1e-3)
    for k, i in enumerate(order):
        place = (volume.grid.affine @ [k, 0, 0, 1])[:3]
        np.testing.assert_allclose(place, np.array(files[i].ImagePositionPatient, float), atol=1e-3)
    headers = [plane.header for plane in read_planes(series_of(paths))]
    uids = {file.file_meta.MediaStorageSOPInstanceUID for file in files}
    assert {header.SOPInstanceUID for header in headers} == uids


def test_the_page_lists_what_is_tested():
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").partition(FIRST_SECTION)[2].splitlines()
        if re.match(r"\| .* \| (read|refused: `[a-z_]+`) \|", line)
    ]
    listed = {cell[0]: cell[1].removeprefix("refused: ").strip("`") for cell in cells}
    assert listed == {row.defect: row.outcome for row in TABLE}
    assert len(cells) == len(TABLE)

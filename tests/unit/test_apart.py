"""What lies in a series beside its stack is set apart, and a stack that is not sure is refused."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, MRImageStorage, SecondaryCaptureImageStorage

from jipflow.images.series import read_planes, read_series_volume
from jipflow.phantom import dicom
from jipflow.reasons import CaseFault, Decision, Reason
from series_factory import ct_datasets, ct_hu, enhanced, series_of, write

SHAPE = (8, 8, 10)
CORONAL = (1, 0, 0, 0, 0, -1)
SAGITTAL = (0, 1, 0, 0, 0, -1)


def turned(degrees):
    """An axial plane that is turned around x."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (1, 0, 0, 0, round(c, 9), round(s, 9))


def odd(number, cosines=None, **values):
    """An image that may lie beside a stack of `SHAPE`, at the place of a slice of it."""
    dataset = ct_datasets(SHAPE)[number % SHAPE[0]]
    uid = dicom.uid("odd", str(number))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.InstanceNumber = 100 + number
    if cosines is not None:
        dataset.ImageOrientationPatient = list(cosines)
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def localizer(number=3, **values):
    return odd(number, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **values)


def capture(number=3, **values):
    dataset = odd(number, **{"SOPClassUID": SecondaryCaptureImageStorage, **values})
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del dataset[name]
    return dataset


def without(dataset, *names):
    for name in names:
        del dataset[name]
    return dataset


def resized(dataset, rows):
    """An image of fewer rows."""
    pixels = dataset.pixel_array[:rows]
    dataset.Rows, dataset.PixelData = rows, pixels.tobytes()
    return dataset


SET_APART = {
    "localizers of two planes": [localizer(n, cosines=(CORONAL, SAGITTAL)[n]) for n in (0, 1)],
    "a localizer along the slices": [resized(localizer(), 4)],
    "a localizer along the slices of other spacing": [localizer(PixelSpacing=[9, 9])],
    "a localizer of another frame of reference": [localizer(FrameOfReferenceUID="1.2.3")],
    "a localizer that does not say where it lies": [without(localizer(), "ImagePositionPatient")],
    "a localizer without values": [without(localizer(), "PixelData")],
    "a localizer of too few values": [localizer(cosines=CORONAL, PixelData=b"\0\0")],
    "a localizer without a rescale": [without(localizer(), "RescaleSlope", "RescaleIntercept")],
    "images across": [odd(n, CORONAL) for n in range(7)],
    "images across that are damaged": [odd(1, SAGITTAL, PixelData=b"\0\0")],
    "a scout of another frame": [odd(1, CORONAL, FrameOfReferenceUID="1.2.3")],
    "images of two planes": [odd(1, CORONAL), odd(2, SAGITTAL), odd(3, SAGITTAL)],
    "a survey turned by a few degrees": [resized(odd(1, turned(20)), 4)],
    "a secondary capture": [capture()],
    "a secondary capture of half a position": [
        odd(1, SOPClassUID=SecondaryCaptureImageStorage, ImagePositionPatient=[1, 0])
    ],
    "a secondary capture where a slice is": [odd(1, SOPClassUID=SecondaryCaptureImageStorage)],
    "a presentation state": [without(capture(), "PixelData", "Rows", "Columns")],
    "a colour image where a slice is": [odd(1, SamplesPerPixel=3)],
    "an MR image where a slice is": [odd(1, SOPClassUID=MRImageStorage)],
}

REFUSED = {
    "as many across": ([odd(n, CORONAL) for n in range(8)], Reason.MIXED_ORIENTATION),
    "a second tilt": ([odd(n, turned(20)) for n in range(3)], Reason.MIXED_ORIENTATION),
    "a slice that is turned a little": ([odd(1, turned(0.5))], Reason.MIXED_ORIENTATION),
    "three planes": (
        [odd(n, CORONAL if n % 2 else SAGITTAL) for n in range(6)],
        Reason.MIXED_ORIENTATION,
    ),
    "other spacing": ([odd(1, PixelSpacing=[9, 9])], Reason.MIXED_MATRIX),
    "another frame": ([odd(1, FrameOfReferenceUID="1.2.3")], Reason.MIXED_FRAME_OF_REFERENCE),
    "another patient": ([localizer(cosines=CORONAL, PatientID="other")], Reason.MIXED_PATIENTS),
    "a capture of another patient": ([capture(PatientID="other")], Reason.MIXED_PATIENTS),
    "as many captures": ([capture(n) for n in range(8)], Reason.UNSUPPORTED_OBJECT),
    "a damaged image": ([without(odd(1), "ImagePositionPatient")], Reason.MISSING_GEOMETRY),
}


@pytest.fixture
def slices():
    return ct_datasets(SHAPE)


@pytest.mark.parametrize("kind", SET_APART)
@pytest.mark.parametrize("first", [True, False])
def test_it_is_set_apart(kind, first, slices, tmp_path):
    beside = SET_APART[kind]
    paths = write([*beside, *slices] if first else [*slices, *beside], tmp_path)
    notes, decisions, apart = [], [], set()
    volume = read_series_volume(series_of(paths), notes=notes, decisions=decisions)
    np.testing.assert_array_equal(volume.array, ct_hu(SHAPE))
    assert decisions == [Decision.IMAGES_SET_APART]
    assert notes[0].startswith("Set apart from the 8 images of the stack: ")
    counts = [int(part.split()[0]) for part in notes[0].split(": ")[1].split(", ")]
    assert sum(counts) == len(beside)
    planes = read_planes(series_of(paths), apart=apart)
    assert len(planes) == 8
    assert apart == {str(dataset.SOPInstanceUID) for dataset in beside}


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused(kind, slices, tmp_path):
    beside, reason = REFUSED[kind]
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(write([*slices, *beside], tmp_path)))
    assert caught.value.reason is reason, caught.value.message


def test_a_survey_alone_is_no_stack(tmp_path):
    planes = [localizer(n, cosines=(CORONAL, SAGITTAL, turned(0))[n % 3]) for n in range(5)]
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(write(planes, tmp_path)))
    assert caught.value.reason is Reason.MIXED_ORIENTATION


@pytest.mark.parametrize("tilts", [(-30, 30), (0, 25), (-15, 15)])
def test_two_tilts_are_no_stack_and_its_rest(tilts, slices, tmp_path):
    for number, dataset in enumerate(slices):
        dataset.ImageOrientationPatient = list(turned(tilts[number > 4]))
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(write(slices, tmp_path)))
    assert caught.value.reason is Reason.MIXED_ORIENTATION


@pytest.mark.parametrize("number", [0, 3, 7])
def test_a_slice_of_a_wrong_orientation_is_not_lost(number, slices, tmp_path):
    slices[number].ImageOrientationPatient = list(CORONAL)
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(write(slices, tmp_path)))
    assert caught.value.reason is Reason.MIXED_ORIENTATION


def turn_frames(dataset, turns):
    """Give each frame of a multi-frame image an orientation of its own."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    del shared["PlaneOrientationSequence"]
    for group, cosines in zip(dataset.PerFrameFunctionalGroupsSequence, turns, strict=True):
        item = Dataset()
        item.ImageOrientationPatient = list(cosines)
        group.PlaneOrientationSequence = [item]
    return dataset


def test_frames_across_are_set_apart_as_images_are(slices, tmp_path):
    frames = enhanced([*slices, odd(1), odd(2)], EnhancedCTImageStorage)
    turn_frames(frames, [turned(0)] * 8 + [CORONAL, SAGITTAL])
    notes = []
    volume = read_series_volume(series_of(write([frames], tmp_path)), notes=notes)
    np.testing.assert_array_equal(volume.array, ct_hu(SHAPE))
    assert "2 images of another orientation" in notes[0]


def test_a_survey_of_three_planes_in_one_file_is_no_stack(slices, tmp_path):
    frames = enhanced(slices, EnhancedCTImageStorage)
    turn_frames(frames, [(turned(0), CORONAL, SAGITTAL)[n % 3] for n in range(8)])
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(write([frames], tmp_path)))
    assert caught.value.reason is Reason.MIXED_ORIENTATION


def test_a_radial_scan_is_no_stack(tmp_path):
    planes = [odd(n, turned(18.0 * n)) for n in range(8)]
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(write(planes, tmp_path)))
    assert caught.value.reason is Reason.MIXED_ORIENTATION


@pytest.mark.parametrize("called", [[7], [4], [0, 2, 4, 6]])
def test_a_slice_that_is_called_a_localizer_is_neither_lost_nor_believed(called, slices, tmp_path):
    for number in called:
        slices[number].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    with pytest.raises(CaseFault, match=f"{len(called)} of 8 slices are localizers") as caught:
        read_series_volume(series_of(write(slices, tmp_path)))
    assert caught.value.reason is Reason.MIXED_ACQUISITIONS


def test_a_series_that_is_called_a_localizer_as_a_whole_is_read(slices, tmp_path):
    for dataset in slices:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    assert len(read_series_volume(series_of(write(slices, tmp_path))).array) == 8


@pytest.mark.parametrize("number", [0, 4, 7])
@pytest.mark.parametrize("what", ["SOPClassUID", "colour"])
def test_what_lies_where_a_slice_is_missing_is_refused(number, what, slices, tmp_path):
    if what == "colour":
        slices[number].SamplesPerPixel = 3
    else:
        slices[number].SOPClassUID = SecondaryCaptureImageStorage
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(write(slices, tmp_path)))
    assert caught.value.reason is Reason.UNSUPPORTED_OBJECT


@pytest.mark.parametrize("share", [0.9, 0.5])
def test_a_file_that_breaks_off_costs_the_stack_only_where_it_is_a_slice(share, slices, tmp_path):
    paths = write([*slices, localizer(cosines=CORONAL)], tmp_path)
    whole = paths[-1].read_bytes()
    pixels = len(pydicom.dcmread(paths[-1]).PixelData)
    paths[-1].write_bytes(whole[: len(whole) - int(share * pixels)])
    assert len(read_series_volume(series_of(paths)).array) == 8
    paths[2].write_bytes(paths[2].read_bytes()[: -int(share * pixels)])
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(paths))
    assert caught.value.reason is Reason.TRUNCATED_PIXELS

"""Text burned into pixels: which instances stay, and what is overwritten in those that leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from jipflow.phantom import dicom
from jipflow.privacy.hide import hide
from jipflow.privacy.pixels import Hide, Refusal, Region, decide_pixels
from jipflow.reasons import CaseFault, Reason
from jipflow.settings.export import Export
from series_factory import ct_datasets, encapsulated, in_syntax, mr_datasets, pt_datasets

PATH = Path("image.dcm")
REGION = Region(slice(0, 2), slice(3, 7))
NONE = Export()


def table(**changes: Any) -> Export:
    """The table of a site with one entry, of the scanner of `ct_datasets`."""
    entry = {
        "manufacturer": " Siemens",
        "model": "phantom  biograph 40",
        "rows": 8,
        "columns": 10,
        "hide": [{"left": 3, "top": 0, "width": 4, "height": 2}],
    }
    return Export.model_validate({"pixel_regions": [entry | changes]})


@pytest.mark.parametrize("make", [ct_datasets, mr_datasets, pt_datasets])
def test_what_scanners_reconstruct_leaves_as_it_is(make: Any) -> None:
    assert decide_pixels(make()[0], NONE) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BurnedInAnnotation", "YES"),
        ("BurnedInAnnotation", "MAYBE"),
        ("SOPClassUID", SecondaryCaptureImageStorage),
        ("SOPClassUID", UltrasoundImageStorage),
        ("SOPClassUID", ""),
        *(("Modality", name) for name in ("US", "XA", "RF", "ES", "MG", "SC", "DOC")),
        *(("ConversionType", name) for name in ("WSD", "DI", "SYN")),
        ("DateOfSecondaryCapture", "20210301"),
        ("SamplesPerPixel", 3),
        ("ImageType", ["DERIVED", "SECONDARY", "SCREEN SAVE"]),
        ("ImageType", ["DERIVED", "SECONDARY", "SCREEN_SAVE"]),
        ("ImageType", ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]),
        ("ImageType", ["DERIVED", "SECONDARY", "DOSE_INFO"]),
        ("ImageType", ["DERIVED", "SECONDARY", "VRT"]),
        ("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        ("SeriesDescription", "Dose Report"),
        ("SeriesDescription", "Patient Protocol"),
    ],
)
def test_what_often_shows_text_stays(name: str, value: Any) -> None:
    dataset = ct_datasets()[0]
    setattr(dataset, name, value)
    if name == "SOPClassUID":
        dataset.file_meta.MediaStorageSOPClassUID = value
    found = decide_pixels(dataset, NONE)
    assert isinstance(found, Refusal)
    assert found.reason == Reason.BURNED_IN_TEXT
    assert "export.pixel_regions" in found.message


def test_a_flag_that_says_no_does_not_clear_an_ultrasound() -> None:
    dataset = ct_datasets()[0]
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    dataset.BurnedInAnnotation = "NO"
    assert isinstance(decide_pixels(dataset, NONE), Refusal)


def test_a_document_stays_and_an_object_without_pixels_leaves() -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.88.33", "SR"
    assert decide_pixels(dataset, NONE) is None
    dataset.EncapsulatedDocument = b"%PDF"
    assert isinstance(decide_pixels(dataset, NONE), Refusal)


def test_the_frames_types_of_a_multi_frame_image_count() -> None:
    dataset, kind = ct_datasets()[0], Dataset()
    kind.FrameType = ["DERIVED", "SECONDARY", "LOCALIZER", "NONE"]
    dataset.PerFrameFunctionalGroupsSequence = [Dataset()]
    dataset.PerFrameFunctionalGroupsSequence[0].CTImageFrameTypeSequence = [kind]
    assert isinstance(decide_pixels(dataset, NONE), Refusal)


def test_the_table_of_the_site_covers_a_makers_model() -> None:
    dataset = ct_datasets()[0]
    dataset.Modality, dataset.BurnedInAnnotation = "US", "YES"
    assert decide_pixels(dataset, table()) == Hide((REGION,))
    assert decide_pixels(dataset, table(modality="us")) == Hide((REGION,))
    for other in (
        {"manufacturer": "GE"},
        {"model": "Biograph"},
        {"rows": 9},
        {"columns": 9},
        {"modality": "XA"},
        {"image_type": "LOCALIZER"},
        {"hide": []},
    ):
        assert isinstance(decide_pixels(dataset, table(**other)), Refusal), other
    dataset.BurnedInAnnotation = None
    assert decide_pixels(dataset, table(hide=[])) is None


@pytest.mark.parametrize("left", [7, 10])
def test_a_rectangle_beyond_the_image_is_a_mistake(left: int) -> None:
    with pytest.raises(ValueError, match="beyond"):
        table(hide=[{"left": left, "top": 0, "width": 4, "height": 2}])


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEGLosslessSV1,
        JPEGExtended12Bit,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
)
def test_a_region_is_hidden_in_every_syntax_and_nothing_else_changes(
    syntax: UID, tmp_path: Path
) -> None:
    plain = ct_datasets((2, 32, 40))[0]
    before = plain.pixel_array
    if syntax == JPEGExtended12Bit:
        frame = imagecodecs.jpeg8_encode(before, level=98, bitspersample=12)
        dataset = encapsulated(plain, [frame], syntax)
    else:
        dataset = in_syntax(plain, syntax, tmp_path)
    hide(PATH, dataset, [REGION])
    dataset = read_again(dataset, tmp_path)
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert dataset.BurnedInAnnotation == "NO"
    after = dataset.pixel_array
    # 12-bit JPEG Extended loses, and says so.
    lossy = syntax == JPEGExtended12Bit
    assert dataset.get("LossyImageCompression") == ("01" if lossy else None)
    assert (after[0:2, 3:7] == after.min()).all()
    before[0:2, 3:7] = after[0:2, 3:7]
    np.testing.assert_allclose(after, before, atol=200 if lossy else 0)


def test_signed_values_have_their_lowest_and_every_frame_is_hidden(tmp_path: Path) -> None:
    dataset = ct_datasets()[0]
    values = np.arange(-80, 80, dtype="<i2").reshape(2, 8, 10)
    dataset.PixelRepresentation, dataset.NumberOfFrames = 1, 2
    dataset.BitsStored, dataset.HighBit = 16, 15
    dataset.PixelData = values.tobytes()
    hide(PATH, dataset, [REGION])
    values[:, 0:2, 3:7] = -80
    np.testing.assert_array_equal(read_again(dataset, tmp_path).pixel_array, values)


@pytest.mark.parametrize("kind", ["pixel", "plane", "YBR_FULL", "RLE", "JPEG"])
def test_colours_are_hidden_in_black(kind: str, tmp_path: Path) -> None:
    shape = (2, 16, 16, 3)
    values = np.random.default_rng(1).integers(1, 255, shape).astype(np.uint8)
    values[1, 8, 8] = 0
    dataset = colours(values, kind)
    hide(PATH, dataset, [REGION])
    dataset = read_again(dataset, tmp_path)
    after = np.frombuffer(dataset.PixelData, np.uint8).reshape(shape)
    hidden = after[:, 0:2, 3:7].reshape(-1, 3)
    assert (hidden == ([0, 128, 128] if kind == "YBR_FULL" else after.min())).all()
    assert dataset.PlanarConfiguration == 0
    if kind == "JPEG":
        assert dataset.PhotometricInterpretation == "RGB"
        assert dataset.LossyImageCompression == "01"
        assert dataset.LossyImageCompressionMethod == "ISO_10918_1"
        return
    values[:, 0:2, 3:7] = after[:, 0:2, 3:7]
    np.testing.assert_array_equal(after, values)


def colours(values: NDArray[np.uint8], kind: str) -> Dataset:
    """An ultrasound clip in colours."""
    dataset = ct_datasets()[0]
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
        UltrasoundMultiFrameImageStorage
    )
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = values.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PhotometricInterpretation = "YBR_FULL" if kind == "YBR_FULL" else "RGB"
    dataset.PlanarConfiguration = int(kind == "plane")
    stored = values.transpose(0, 3, 1, 2) if kind == "plane" else values
    dataset.PixelData = np.ascontiguousarray(stored).tobytes()
    if kind == "RLE":
        dataset.compress(RLELossless, generate_instance_uid=False)
    if kind == "JPEG":
        dataset.PixelData = encapsulate([imagecodecs.jpeg8_encode(v, level=95) for v in values])
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
        dataset.PhotometricInterpretation = "YBR_FULL_422"
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return dataset


def test_an_overlay_in_spare_bits_and_a_tail_are_taken_out(tmp_path: Path) -> None:
    dataset = ct_datasets()[0]
    plain = dataset.pixel_array.copy()
    assert dataset.BitsStored < 16
    dataset.PixelData = (plain | (plain % 2 << 15).astype("<u2")).tobytes()
    dataset.add_new((0x6000, 0x0102), "US", 15)
    assert decide_pixels(dataset, NONE) == Hide(())
    del dataset[0x6000, 0x0102]
    assert decide_pixels(dataset, NONE) == Hide(())
    hide(PATH, dataset, ())
    assert decide_pixels(dataset, NONE) is None
    np.testing.assert_array_equal(read_again(dataset, tmp_path).pixel_array, plain)

    dataset.PixelData += b"DOE^JANE"
    assert decide_pixels(dataset, NONE) == Hide(())
    hide(PATH, dataset, ())
    assert dataset.PixelData == plain.tobytes()


def test_what_lies_below_the_values_never_leaves() -> None:
    dataset = ct_datasets()[0]
    plain = dataset.pixel_array.copy()
    dataset.HighBit = 15
    dataset.BitsStored = 12
    shifted = (plain.astype("<u2") & 0xFFF) << 4
    dataset.PixelData = shifted.tobytes()
    assert decide_pixels(dataset, NONE) is None
    dataset.PixelData = (shifted | plain % 2).astype("<u2").tobytes()
    assert decide_pixels(dataset, NONE) == Hide(())
    with pytest.raises(CaseFault) as fault:
        hide(PATH, dataset, ())
    assert fault.value.reason is Reason.PIXEL_FORMAT


def commented(stream: bytes, syntax: UID) -> bytes:
    """A codestream with a name in a comment, in application data and behind its end."""
    if syntax == JPEG2000Lossless:
        place = stream.index(b"\xff\x52")
        return stream[:place] + b"\xff\x64\0\x0c\0\x01DOE^JANE" + stream[place:] + b"DOE^JANE"
    application = b"\xff\xe1\0\x0eExif\0\0DOE^J\0"
    return stream[:2] + b"\xff\xfe\0\x0aDOE^JANE" + application + stream[2:] + b"DOE^JANE"


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
def test_comments_of_compressed_frames_are_taken_out_without_a_loss(
    syntax: UID, tmp_path: Path
) -> None:
    dataset = in_syntax(ct_datasets((2, 32, 40))[0], syntax, tmp_path)
    before = dataset.pixel_array.copy()
    stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    encapsulated(dataset, [commented(stream, syntax)], syntax)
    assert decide_pixels(dataset, NONE) == Hide(())
    hide(PATH, dataset, ())
    assert decide_pixels(dataset, NONE) is None
    assert b"DOE" not in dataset.PixelData
    assert "BurnedInAnnotation" not in dataset
    dataset = read_again(dataset, tmp_path)
    assert dataset.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(dataset.pixel_array, before)


def test_colours_of_jpeg_stay_when_its_comments_go(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(1, 255, (2, 16, 16, 3)).astype(np.uint8)
    dataset = colours(values, "JPEG")
    frames = list(generate_frames(dataset.PixelData, number_of_frames=2))
    plain = [imagecodecs.jpeg8_decode(frame) for frame in frames]
    encapsulated(
        dataset, [commented(frame, JPEGBaseline8Bit) for frame in frames], JPEGBaseline8Bit
    )
    hide(PATH, dataset, ())
    after = list(generate_frames(dataset.PixelData, number_of_frames=2))
    assert b"DOE" not in b"".join(after)
    assert all(frame.endswith((b"\xff\xd9", b"\xff\xd9\0")) for frame in after)
    np.testing.assert_array_equal([imagecodecs.jpeg8_decode(frame) for frame in after], plain)


def test_pixels_that_cannot_be_decoded_are_a_fault_and_never_left_as_they_are() -> None:
    dataset = colours(np.ones((1, 16, 16, 3), np.uint8), "JPEG")
    dataset.PixelData = encapsulate([b"\xff\xd8 no JPEG"])
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(CaseFault) as caught:
        hide(PATH, dataset, [REGION])
    assert caught.value.reason == Reason.UNDECODABLE_PIXELS


def test_ct_of_real_patients_leave(shared_data: Path) -> None:
    folders = ("sarcoma/STS_002", "totalsegmentator/example_ct_dicom")
    files = [f for name in folders for f in (shared_data / name).rglob("*") if f.is_file()]
    classes = set()
    for file in files:
        if file.suffix == ".gz":
            continue
        dataset = pydicom.dcmread(file)
        classes.add(dataset.get("SOPClassUID", CTImageStorage))
        assert not isinstance(decide_pixels(dataset, NONE), Refusal), file
    assert len(classes) >= 4


def read_again(dataset: Dataset, folder: Path) -> Dataset:
    """The data set written and read."""
    path = folder / "hidden.dcm"
    path.write_bytes(dicom.to_bytes(dataset))
    return pydicom.dcmread(path)

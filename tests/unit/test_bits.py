"""Values are what the bits of their words hold, in each way to store them that DICOM has."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from jipflow.images.bits import ABOVE, SHIFTED, Bits, from_codestream
from jipflow.images.lut import looked_up
from jipflow.images.pixels import decode
from jipflow.images.series import read_series_volume
from jipflow.reasons import CaseFault, Reason
from series_factory import ct_datasets, in_syntax, series_of, write

FILE = Path("slice.dcm")
SHAPE = (40, 65)
STORED = {8: (3, 8), 16: (8, 9, 12, 16), 32: (12, 17, 32)}
WAYS = [
    (allocated, stored, signed)
    for allocated, several in STORED.items()
    for stored in several
    for signed in (0, 1)
]
FILLS = ("nothing", "the sign", "ones", "anything")


def values_of(stored, signed):
    """Values with the smallest, the largest, and those around 0."""
    low = -(2 ** (stored - 1)) if signed else 0
    high = low + 2**stored - 1
    values = np.random.default_rng(stored).integers(low, high + 1, SHAPE)
    values.flat[:5] = low, high, 0, min(1, high), -1 if signed else high - 1
    return values


def words_of(values, allocated, stored, fill, shift=0):
    """Words that hold values at a place, and something else in their other bits."""
    mask = ((1 << stored) - 1) << shift
    words = (values << shift) & mask
    others = ((1 << allocated) - 1) & ~((1 << (stored + shift)) - 1)
    filling = {
        "nothing": np.zeros_like(values),
        "the sign": np.where(values < 0, others, 0),
        "ones": np.full_like(values, others),
        "anything": np.random.default_rng(7).integers(0, 2**allocated, SHAPE) & others,
    }[fill]
    return (words | filling).astype(f"u{allocated // 8}")


def instance(words, stored, signed, syntax=ExplicitVRLittleEndian, high=None):
    """A data set with these words as its pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    dataset.Rows, dataset.Columns = words.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored = words.itemsize * 8, stored
    dataset.HighBit = stored - 1 if high is None else high
    dataset.PixelRepresentation = signed
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    content = words.astype(words.dtype.newbyteorder(order)).tobytes()
    dataset.PixelData = content + bytes(len(content) % 2)
    dataset["PixelData"].VR = "OW" if words.itemsize > 1 else "OB"
    if syntax == RLELossless:
        stated = dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
        # The encoder takes no words whose other bits are set.
        dataset.BitsStored, dataset.HighBit = dataset.BitsAllocated, dataset.BitsAllocated - 1
        dataset.PixelRepresentation = 0
        dataset.compress(syntax, words, generate_instance_uid=False, encoding_plugin="pydicom")
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = stated
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]


@pytest.mark.parametrize(
    ("syntax", "allocated", "stored", "signed"),
    [
        (syntax, *way)
        for syntax, way in product(SYNTAXES, WAYS)
        # Run lengths are of 8 or 16 bits (PS3.5 8.2.2).
        if syntax != RLELossless or way[0] < 32
    ],
)
def test_bits_that_are_no_part_of_a_value_change_none(syntax, allocated, stored, signed):
    values = values_of(stored, signed)
    for fill in FILLS:
        tally = Counter()
        words = words_of(values, allocated, stored, fill)
        (read,) = decode(FILE, instance(words, stored, signed, syntax), tally=tally)
        np.testing.assert_array_equal(read.astype(np.int64), values, fill)
        spare = allocated > stored
        assert tally == ({ABOVE: 1} if spare and fill in ("ones", "anything") else {}), fill


@pytest.mark.parametrize(("allocated", "stored", "signed"), WAYS)
def test_values_are_found_where_high_bit_says_or_refused(allocated, stored, signed):
    values = values_of(stored, signed)
    for shift, fill in product(range(1, allocated - stored + 1), FILLS):
        words = words_of(values, allocated, stored, fill, shift)
        high = stored - 1 + shift
        tally = Counter()
        (read,) = decode(FILE, instance(words, stored, signed, high=high), tally=tally)
        np.testing.assert_array_equal(read.astype(np.int64), values)
        assert tally[SHIFTED] == 1
        with pytest.raises(CaseFault, match=f"the {shift} bits below are not empty") as caught:
            decode(FILE, instance(words | 1, stored, signed, high=high))
        assert caught.value.reason is Reason.PIXEL_FORMAT


@pytest.mark.parametrize("declared", [0, 12])
def test_an_overlay_in_the_words_explains_the_bits_above(declared):
    values = values_of(12, 0)
    dataset = instance(words_of(values, 16, 12, "anything"), 12, 0)
    dataset.add_new(0x60020102, "US", declared)
    tally = Counter()
    (read,) = decode(FILE, dataset, tally=tally)
    np.testing.assert_array_equal(read, values)
    assert tally[ABOVE] == (declared == 0)


@pytest.mark.parametrize(
    "change",
    [
        {"SamplesPerPixel": None},
        {"PhotometricInterpretation": ""},
        {"HighBit": 10},
        {"HighBit": 16},
        {"BitsStored": 0},
        {"BitsStored": 17, "HighBit": 16},
        {"BitsAllocated": 0},
        {"BitsAllocated": 12},
        {"BitsAllocated": 24},
        {"PixelRepresentation": 2},
        {"PixelRepresentation": None},
        {"BitsAllocated": None},
        {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelRepresentation": 1},
    ],
    ids=str,
)
def test_what_contradicts_itself_is_refused(change):
    dataset = instance(words_of(values_of(12, 0), 16, 12, "nothing"), 12, 0)
    for name, value in change.items():
        setattr(dataset, name, value)
    says = r"slice\.dcm: .*(contradict|no way|do not say|not described)"
    with pytest.raises(CaseFault, match=says) as caught:
        decode(FILE, dataset)
    assert caught.value.reason is Reason.PIXEL_FORMAT


@pytest.mark.parametrize(
    ("name", "allocated", "sound"),
    [
        ("FloatPixelData", 32, True),
        ("FloatPixelData", 64, False),
        ("DoubleFloatPixelData", 64, True),
        ("DoubleFloatPixelData", 32, False),
    ],
)
def test_floats_have_the_bits_of_their_kind(name, allocated, sound):
    values = np.random.default_rng(1).random(SHAPE)
    dataset = instance(words_of(values_of(12, 0), 16, 12, "nothing"), 12, 0)
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    setattr(dataset, name, values.astype("<f4" if name == "FloatPixelData" else "<f8").tobytes())
    dataset.BitsAllocated = allocated
    if sound:
        (read,) = decode(FILE, dataset)
        np.testing.assert_allclose(read, values, rtol=1e-7)
    else:
        with pytest.raises(CaseFault, match=f"{name} with Bits Allocated {allocated}"):
            decode(FILE, dataset)


@pytest.mark.filterwarnings("ignore:The pixel data is")
@pytest.mark.parametrize(("extra", "sound"), [(0, True), (5199, True), (5200, False)])
def test_a_whole_frame_more_than_due_is_no_padding(extra, sound):
    dataset = instance(words_of(values_of(12, 0), 16, 12, "nothing"), 12, 0)
    dataset.PixelData += bytes(extra)
    if sound:
        (read,) = decode(FILE, dataset)
        np.testing.assert_array_equal(read, values_of(12, 0))
    else:
        with pytest.raises(CaseFault, match="10400 bytes of pixels where 5200 are due") as caught:
            decode(FILE, dataset)
        assert caught.value.reason is Reason.PIXEL_FORMAT


def test_a_byte_less_than_due_is_refused():
    dataset = instance(words_of(values_of(12, 0), 16, 12, "nothing"), 12, 0)
    dataset.PixelData = dataset.PixelData[:-1]
    with pytest.raises(CaseFault, match="5199 bytes of pixels where 5200 are due") as caught:
        decode(FILE, dataset)
    assert caught.value.reason is Reason.TRUNCATED_PIXELS


def compressed(values, stored, signed, syntax, folder):
    words = words_of(values, 8 if stored <= 8 else 16, stored, "the sign")
    return in_syntax(instance(words, stored, signed), syntax, folder)


CODECS = [JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1]


@pytest.mark.parametrize("syntax", CODECS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("stored", [8, 12, 16])
def test_a_codestream_that_says_what_the_header_says_is_read(stored, signed, syntax, tmp_path):
    values = values_of(stored, signed)
    (read,) = decode(FILE, compressed(values, stored, signed, syntax, tmp_path))
    np.testing.assert_array_equal(read, values)


def stream(precision, marker=0xF7):
    """The header of a frame of so many bits; nothing decodes it."""
    tables = b"\xff\xc4\x00\x04\x63\x63" + b"\xff\xcc\x00\x03\x05" + b"\xff\xe0\x00\x02"
    return b"\xff\xd8" + tables + bytes([0xFF, marker, 0, 11, precision, 0, 1])


def plain(bits, values, precision, **options):
    """What is made of decoded values of a codestream of so many bits."""
    dtype = np.dtype("ui"[bits.signed] + ("1" if precision <= 8 else "2"))
    decoded = np.asarray(values).astype(np.int64).astype(dtype)
    return from_codestream(FILE, Dataset(), decoded, bits, stream(precision, **options)).tolist()


@pytest.mark.parametrize("marker", [0xF7, 0xC0, 0xC1, 0xC3, 0xCF])
def test_a_codestream_of_as_many_bits_as_are_stored_is_plain(marker):
    assert plain(Bits(16, 12, 11, False), [0, 4095], 12, marker=marker) == [0, 4095]
    assert plain(Bits(16, 12, 15, False), [1, 4095], 12, marker=marker) == [1, 4095]
    assert plain(Bits(16, 12, 11, True), [0x800, 0x7FF], 12, marker=marker) == [-2048, 2047]


def test_a_codestream_of_fewer_bits_is_plain_where_it_has_no_sign():
    assert plain(Bits(16, 16, 15, False), [0, 4095], 12) == [0, 4095]
    for bits in (Bits(16, 16, 15, True), Bits(16, 13, 15, False)):
        with pytest.raises(CaseFault, match="but the codestream has 12 bits") as caught:
            plain(bits, [0, 4095], 12)
        assert caught.value.reason is Reason.PIXEL_FORMAT


def test_a_codestream_of_more_bits_has_words():
    assert plain(Bits(16, 12, 11, True), [-2048, 2047], 16) == [-2048, 2047]
    assert plain(Bits(16, 12, 11, True), [0x800, 0x7FF], 16) == [-2048, 2047]
    assert plain(Bits(16, 12, 15, False), [16, 4095 * 16], 16) == [1, 4095]
    with pytest.raises(CaseFault, match="4 bits below are not empty"):
        plain(Bits(16, 12, 15, False), [16, 4095], 16)
    for bits in (Bits(16, 12, 11, False), Bits(16, 12, 11, True)):
        with pytest.raises(CaseFault, match="do not fit into Bits Stored 12"):
            plain(bits, [0, 4096], 16)
    with pytest.raises(CaseFault, match="High Bit is 11, but the codestream has 8 bits"):
        plain(Bits(16, 7, 11, False), [0, 1], 8)


def test_a_codestream_without_a_header_is_no_codestream():
    with pytest.raises(CaseFault, match="codestream has 0 bits"):
        from_codestream(FILE, Dataset(), np.zeros((2, 2), "i2"), Bits(16, 12, 11, True), b"")


@pytest.mark.parametrize(("sign", "sound"), [(0x8B, True), (0x0B, False)])
def test_jpeg_2000_states_the_sign_of_fewer_bits(sign, sound, tmp_path):
    dataset = compressed(values_of(12, 1), 12, 1, JPEG2000Lossless, tmp_path)
    dataset.BitsStored, dataset.HighBit = 16, 15
    place = dataset.PixelData.index(b"\xff\x4f\xff\x51") + 42
    assert dataset.PixelData[place] == 0x8B
    content = bytearray(dataset.PixelData)
    content[place] = sign
    dataset.PixelData = bytes(content)
    if sound:
        (read,) = decode(FILE, dataset)
        np.testing.assert_array_equal(read, values_of(12, 1))
    else:
        with pytest.raises(CaseFault, match="but the codestream has 12 bits"):
            decode(FILE, dataset)


LUT = np.random.default_rng(5).permutation(60000)


def with_lut(first, entries, *, signed, vr="US", data=None):
    """The header of an image of such pixels, with a Modality LUT."""
    header = instance(np.zeros((2, 2), "u2"), 16, signed)
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [entries, first, 16])
    words = LUT[: entries % 65536].astype("<u2")
    item.add_new("LUTData", "OW", words.tobytes() if data is None else data)
    header.ModalityLUTSequence = [item]
    return header


@pytest.mark.parametrize(
    ("header", "first"),
    [
        (with_lut(0, 4096, signed=0), 0),
        (with_lut(100, 4096, signed=0), 100),
        (with_lut(40000, 4096, signed=0), 40000),
        (with_lut(-25536, 4096, signed=0, vr="SS"), 40000),
        (with_lut(-1000, 4096, signed=1, vr="SS"), -1000),
        (with_lut(64536, 4096, signed=1), -1000),
        (with_lut(-1000, -25536, signed=1, vr="SS"), -1000),
        (with_lut(32768, 40000, signed=1), -32768),
    ],
)
def test_a_modality_lut_maps_from_its_first_value_on(header, first):
    """Its sign is that of the pixels, however the descriptor is written."""
    entries = header.ModalityLUTSequence[0].LUTDescriptor[0] % 65536
    stored = np.array([first, first + 1, first + 4000, first - 1, first + entries - 1, 65000])
    expected = LUT[np.clip(stored - first, 0, entries - 1)]
    np.testing.assert_array_equal(looked_up(FILE, header, stored), expected)


def test_a_modality_lut_may_be_of_bytes_or_numbers():
    stored = np.array([0, 1, 2, 3, 9])
    for data in (bytes([5, 6, 7]), bytes([5, 6, 7, 0])):
        header = with_lut(0, 3, signed=0, data=data)
        assert looked_up(FILE, header, stored).tolist() == [5, 6, 7, 7, 7]
    header = with_lut(0, 3, signed=0)
    header.ModalityLUTSequence[0].add_new("LUTData", "US", [5, 6, 65535])
    assert looked_up(FILE, header, stored).tolist() == [5, 6, 65535, 65535, 65535]
    header.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    header.ModalityLUTSequence[0].add_new("LUTData", "OW", bytes([0, 5, 0, 6, 1, 0]))
    assert looked_up(FILE, header, stored).tolist() == [5, 6, 256, 256, 256]


@pytest.mark.parametrize("data", [b"", bytes(5), bytes(10), bytes(14)])
def test_a_modality_lut_of_another_length_is_refused(data):
    says = r"its Modality LUT has \d+ entries in place of 6"
    with pytest.raises(CaseFault, match=says) as caught:
        looked_up(FILE, with_lut(0, 6, signed=0, data=data), np.zeros(2, int))
    assert caught.value.reason is Reason.PIXEL_FORMAT


@pytest.mark.parametrize(
    ("share", "change", "good"),
    [
        (0.01, {}, True),
        (0.011, {}, False),
        (0.5, {"RescaleType": "HU"}, False),
        (0.5, {"RescaleType": "US"}, False),
        (0.5, {"RescaleType": "ED"}, True),
        (0.5, {"PixelPaddingValue": 65000}, True),
        (0.5, {"PixelPaddingValue": 65001}, False),
    ],
)
def test_a_ct_whose_air_is_positive_is_refused(tmp_path, share, change, good):
    """Pixel Representation 0 over signed words makes 64,536 of -1,000."""
    shape = (4, 25, 40)
    values = np.zeros(shape, int)
    values.flat[: round(share * values.size)] = 65000

    def unsigned(datasets):
        for dataset, words in zip(datasets, values, strict=True):
            dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, 0
            dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
            dataset.PixelData = words.astype("<u2").tobytes()
            del dataset.RescaleType
            for name, value in change.items():
                setattr(dataset, name, value)

    series = series_of(write(ct_datasets(shape), tmp_path, unsigned))
    if good:
        assert read_series_volume(series).array.max() == 65000
    else:
        with pytest.raises(CaseFault, match="Pixel Representation is wrong") as caught:
            read_series_volume(series)
        assert caught.value.reason is Reason.PIXEL_FORMAT


@pytest.mark.parametrize("lowest", [-1, 0])
@pytest.mark.parametrize("stored", [12, 16])
def test_a_signed_codestream_under_an_unsigned_header_is_refused(tmp_path, stored, lowest):
    """Unless no value is below 0, which is the same in both."""
    values = np.clip(values_of(stored, 1), lowest, None)
    dataset = in_syntax(instance(values.astype("i2"), stored, 1), JPEG2000Lossless, tmp_path)
    dataset.PixelRepresentation = 0
    if lowest == 0:
        np.testing.assert_array_equal(decode(FILE, dataset)[0], values)
        return
    with pytest.raises(CaseFault, match="its codestream has numbers below 0") as caught:
        decode(FILE, dataset)
    assert caught.value.reason is Reason.PIXEL_FORMAT


@pytest.mark.parametrize("signs", ["all", "but one", "none"])
def test_words_that_repeat_a_sign_under_an_unsigned_header_are_refused(signs):
    values = values_of(12, 1 if signs != "none" else 0)
    words = words_of(values, 16, 12, "the sign" if signs != "none" else "nothing")
    if signs == "but one":
        words.flat[0] ^= 0x4000
    dataset = instance(words, 12, 0)
    if signs != "all":
        np.testing.assert_array_equal(decode(FILE, dataset)[0], words & 0xFFF)
        return
    with pytest.raises(CaseFault, match="repeat the highest one below") as caught:
        decode(FILE, dataset)
    assert caught.value.reason is Reason.PIXEL_FORMAT

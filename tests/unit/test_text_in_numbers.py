"""Texts and identifiers in elements of numbers go; numbers stay."""

from __future__ import annotations

import struct

import pytest
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from jipflow.privacy.deidentify import deidentify
from jipflow.privacy.numbers import is_text

SIZES = {"US": 2, "SS": 2, "AT": 4, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "UV": 8, "SV": 8}
TAGS = {
    "US": (0x0018, 0x1310),
    "SS": (0x0028, 0x0120),
    "AT": (0x0028, 0x0009),
    "UL": (0x0020, 0x9157),
    "SL": (0x0018, 0x6020),
    "FL": (0x0018, 0x9319),
    "FD": (0x0018, 0x9087),
    "OF": (0x0066, 0x0016),
    "OW": (0x0028, 0x3006),
}


def dataset(**values: object) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.PatientID, ds.PatientName = "1.2.840.10008.5.1.4.1.1.2", "P-4711081", "Ng^Ju"
    ds.PatientBirthDate, ds.StudyDate = "19310704", "20210304"
    ds.OtherPatientNames = "Müllershausen^Änne"
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


def put(ds: Dataset, vr: str, data: bytes, stated: str = "") -> tuple[int, int]:
    data += b" " * (-len(data) % SIZES.get(vr, 4))
    tag = TAGS[vr]
    ds[tag] = RawDataElement(Tag(tag), stated or vr, len(data), data, 0, False, True)
    return tag


@pytest.mark.parametrize("vr", TAGS)
@pytest.mark.parametrize(
    "text",
    [
        *("MUELLERSHAUSEN", "Müllershausen", "P-4711081", "4711081", "19310704", "20210304"),
        "x Mullershausen 3",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "latin-1"])
def test_what_identifies_goes_whatever_its_representation(vr, text, encoding):
    for stated in (vr, "UN"):
        ds = dataset()
        tag = put(ds, vr, text.encode(encoding), stated)
        assert tag not in deidentify(ds, bytes(32))


@pytest.mark.parametrize("vr", ["US", "SS", "AT", "UL", "SL", "FL", "FD", "OF"])
def test_a_name_that_no_header_has_goes_for_it_is_a_text(vr):
    for text in ("Kunigunde Schulz", "Brøndum, Åse ", "Drachenfels^A^^"):
        ds = dataset()
        tag = put(ds, vr, text.encode())
        assert tag not in deidentify(ds, bytes(32))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DiffusionBValue", 800.0),
        ("DiffusionGradientOrientation", [0.57735027, 0.57735027, 0.57735027]),
        ("AcquisitionMatrix", [0, 256, 256, 0]),
        ("RevolutionTime", 0.1),
        ("FrameIncrementPointer", 0x00181063),
        ("SimpleFrameList", list(range(65, 90))),
        ("RealWorldValueSlope", 1e300),
        ("Rows", 512),
    ],
)
def test_numbers_stay(name, value):
    ds = dataset()
    ds[name] = DataElement(name, Dataset()[name].VR if name in ds else _vr(name), value)
    made = deidentify(ds, bytes(32))
    assert made[name].value == value


def _vr(name: str) -> str:
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(name)
    assert tag is not None
    return dictionary_VR(tag).split(" or ")[0]


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("SeriesNumber", "4711081", None),
        ("SeriesNumber", "004711081", None),
        ("SeriesNumber", "20210304", None),
        ("SeriesNumber", "19310704", None),
        ("TableHeight", "4711081.0", None),
        ("TableHeight", "20210304", None),
        ("TableHeight", "4711081.5", 4711081.5),
        ("TableHeight", "4711082", 4711082),
        ("SeriesNumber", "4711082", 4711082),
        ("RevolutionTime", 20210304.0, None),
        ("RevolutionTime", 20210305.0, 20210305.0),
    ],
)
def test_a_number_that_is_a_day_or_an_identifier_of_the_patient_goes(name, value, left):
    made = deidentify(dataset(**{name: value}), bytes(32))
    assert made.get(name) == left


def test_pixels_are_none_of_the_numbers():
    ds = dataset()
    ds.PixelData = "Müllershausen ".encode()
    assert deidentify(ds, bytes(32)).PixelData == ds.PixelData


def test_letters_alone_are_a_text_from_eight_bytes_on():
    assert is_text(b"Schulz^A")
    assert is_text(b"Schulz\0\0")
    assert not is_text(b"Schulz")
    assert not is_text(b"Schulz 1")
    assert not is_text(struct.pack("<4d", 0.1, 0.2, 0.3, 0.4))

"""A number of a report is, to the byte, what highdicom and pydicom make of it one by one."""

from __future__ import annotations

import highdicom
import pytest
from highdicom.sr import CodedConcept
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence_item
from pydicom.uid import ExplicitVRLittleEndian

from jipflow.objects.feature_codes import LENGTHS, ONE
from jipflow.objects.sr_numbers import form, insert_numbers

NAME = CodedConcept("Q4LE", "IBSI", "Mean intensity")
METHOD = CodedConcept("wavelet-LLH", "99JIPFLOW", "Filter wavelet-LLH")

VALUES = [0, 555, -3, 2**31, 0.0, -0.0, 0.1, -1 / 3, 5e-324, 1.7976931348623157e308, 123456789.123]


@pytest.mark.parametrize("method", [None, METHOD])
@pytest.mark.parametrize("unit", [ONE, LENGTHS["mm3"]])
@pytest.mark.parametrize("value", VALUES)
def test_a_measurement_is_encoded_as_highdicom_builds_it(value, unit, method):
    (built,) = highdicom.sr.Measurement(name=NAME, value=value, unit=unit, method=method)
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_sequence_item(stream, built, ["iso8859"])
    assert form(NAME, unit, method).of(value) == stream.getvalue()


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        (None, "liver"),
        ("ISO_IR 192", "Leber – ø"),
        ("ISO_IR 100", "Rücken"),
        (["", "ISO 2022 IR 87"], "山田"),
    ],
)
def test_what_stands_around_the_numbers_keeps_its_character_set(charset, text, tmp_path):
    report, container, group, item = Dataset(), Dataset(), Dataset(), Dataset()
    if charset:
        report.SpecificCharacterSet = charset
    report.PatientName = item.TextValue = container.TextValue = text
    group.TextValue = text
    group.ContentSequence = [item]
    container.ContentSequence = [group]
    report.ContentSequence = [container]
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.3"
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    insert_numbers(report, [group], [1], [form(NAME, ONE).of(0.25)])
    dcmwrite(tmp_path / "report.dcm", report, enforce_file_format=True)
    read = dcmread(tmp_path / "report.dcm")
    (container,) = read.ContentSequence
    (group,) = container.ContentSequence
    first, number = group.ContentSequence
    assert {each.TextValue for each in (container, group, first)} == {text}
    assert str(read.PatientName) == text
    assert number.MeasuredValueSequence[0].FloatingPointValue == 0.25

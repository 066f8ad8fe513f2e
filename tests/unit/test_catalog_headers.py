"""The fast reader gives pydicom's values, or leaves the file to pydicom."""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path

import dicomsdl
import pydicom
import pytest
from pydicom.data import get_charset_files, get_testdata_files
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from jipflow.catalog import headers
from jipflow.catalog.headers import HEADER_COLUMNS, Doubt, read_fast, read_header, read_surely
from jipflow.columns import COLUMNS
from jipflow.uids import series_stand_in, study_stand_in
from series_factory import ct_datasets, write

PYDICOM_FILES = sorted(
    {
        path
        for path in [*get_testdata_files(), *get_charset_files("*")]
        if os.path.isfile(path) and os.path.getsize(path)
    }
)


def fast_or_none(path):
    try:
        return read_fast(str(path))
    except (Doubt, dicomsdl.DicomException, ValueError):
        return None


def by_pydicom(path):
    """The columns as plain pydicom gives them, written apart from the code under test.

    White space around a value means nothing, and is left out.
    """
    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    measures = dataset
    for name in ("SharedFunctionalGroupsSequence", "PixelMeasuresSequence"):
        items = measures.get(name)
        measures = items[0] if items else Dataset()
    row = {}
    for name in HEADER_COLUMNS:
        keyword, position = name, 0
        if name.startswith("PixelSpacing"):
            keyword, position = "PixelSpacing", int(name.endswith("Column"))
        source = dataset.file_meta if name == "TransferSyntaxUID" else dataset
        value = source.get(keyword)
        if value in (None, "") and COLUMNS[name] == "DOUBLE":
            value = measures.get(keyword)
        if COLUMNS[name] == "VARCHAR":
            values = value if isinstance(value, MultiValue) else [value]
            texts = "\\".join("" if each is None else str(each) for each in values).split("\\")
            row[name] = "\\".join(text.strip("\0 \t\n\v\f\r") for text in texts)
        elif value is None or value == "":
            row[name] = None
        else:
            value = value[position] if isinstance(value, MultiValue) else value
            row[name] = float(value) if COLUMNS[name] == "DOUBLE" else int(value)
    return row


def check_equal(paths):
    """Compare every file; returns how many the fast reader read itself."""
    fast = 0
    for path in paths:
        row = read_header(str(path))
        fast += fast_or_none(path) is not None
        if "kind" in row:
            assert fast_or_none(path) is None, path
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = by_pydicom(path)
        named = set(row["mended"].replace(";", "").split())
        different = {n for n in HEADER_COLUMNS if row[n] != expected[n]} - named
        assert not different, (path, different)
    return fast


def test_every_file_of_pydicom_reads_as_pydicom_reads_it():
    assert len(PYDICOM_FILES) > 150
    assert check_equal(PYDICOM_FILES) > 80


def test_every_real_file_reads_as_pydicom_reads_it(shared_data):
    files = sorted(path for path in shared_data.rglob("*") if path.is_file())
    assert check_equal(files[::5]) > 300


def test_every_file_of_the_phantom_is_read_fast(phantom_site):
    files = sorted((phantom_site / "dicom").rglob("*.dcm"))
    assert check_equal(files) >= len(files) - 3


@pytest.mark.parametrize("charset", ["", "ISO_IR 6", "ISO_IR 100", "ISO_IR 192", "ISO_IR 144"])
def test_any_bytes_in_any_text_read_as_pydicom_reads_them(tmp_path, charset):
    """Bytes that are not valid in the character set too: archives are full of them."""
    rnd = random.Random(charset)
    names = ("SeriesDescription", "InstitutionName", "PatientID", "ImageType")
    markers = {name: f"MARK-{name[:4].upper()}-------".encode() for name in names}

    def mark(datasets):
        datasets[0].update({name: marker.decode() for name, marker in markers.items()})
        datasets[0].pop("SpecificCharacterSet", None)
        if charset:
            datasets[0].SpecificCharacterSet = charset

    (path,) = write(ct_datasets((1, 4, 4)), tmp_path, mark)
    template = path.read_bytes()
    fast = 0
    for _ in range(200):
        content = template
        for marker in markers.values():
            assert content.count(marker) == 1
            text = bytes(rnd.choices(b"Ab \\~\0\t\n\xe4\xc3\xa4\xff", k=rnd.randrange(12)))
            content = content.replace(marker, text.ljust(len(marker)))
        path.write_bytes(content)
        fast += check_equal([path])
    assert fast > 0


def test_text_that_is_no_utf8_does_not_hang_the_reader(tmp_path):
    """dicomsdl's own decoder never returns from such a value."""
    (path,) = write(ct_datasets((1, 4, 4)), tmp_path, lambda ds: ds[0].update(
        {"SpecificCharacterSet": "ISO_IR 192", "Manufacturer": "M*M Software"}))  # fmt: skip
    path.write_bytes(path.read_bytes().replace(b"M*M Software", b"M\xf8M Software"))
    assert read_header(str(path))["Manufacturer"] == "M\ufffdM Software"


def test_a_file_cut_anywhere_is_read_as_far_as_it_goes_or_recorded(tmp_path):
    (path,) = write(ct_datasets((1, 4, 4)), tmp_path)
    content = path.read_bytes()
    whole = read_header(str(path))
    cut = tmp_path / "cut.dcm"
    read = 0
    for size in range(0, len(content), 7):
        cut.write_bytes(content[:size])
        row = read_header(str(cut))
        if "kind" in row:
            assert row["reason"]
            continue
        assert not row["mended"], "a header that breaks off must not be repaired"
        assert all(row[name] in (whole[name], "", None) for name in HEADER_COLUMNS)
        assert row["SOPInstanceUID"] == whole["SOPInstanceUID"]
        read += 1
    assert read


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("SliceThickness", "1,5", None),
        ("SliceThickness", "nan", None),
        ("SeriesNumber", "seven", None),
        ("SeriesNumber", "99999999999", 99999999999),
        ("PixelSpacing", "0.5", (0.5, None)),
    ],
)
def test_what_is_no_number_is_left_empty_and_named(tmp_path, name, text, value):
    (path,) = write(ct_datasets((1, 4, 4)), tmp_path)
    dataset = pydicom.dcmread(path)
    marker = "7" * 12
    dataset[name].value = marker
    dataset.save_as(path)
    path.write_bytes(path.read_bytes().replace(marker.encode(), text.ljust(12).encode()))
    row = read_header(str(path))
    if name == "PixelSpacing":
        assert (row["PixelSpacingRow"], row["PixelSpacingColumn"]) == value
        assert "PixelSpacingColumn is no number" in row["mended"]
    else:
        assert row[name] == value
        assert bool(row["mended"]) == (value is None)
        assert text not in row["mended"]


def test_blank_uids_are_repaired_from_what_is_there(tmp_path):
    def blank(datasets):
        for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            setattr(datasets[0], name, "")

    (path,) = write(ct_datasets((1, 4, 4)), tmp_path, blank)
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    row = read_header(str(path))
    study = study_stand_in(dataset.PatientID, dataset.StudyDate, dataset.StudyTime)
    number = str(dataset.SeriesNumber)
    assert row["SOPInstanceUID"] == dataset.file_meta.MediaStorageSOPInstanceUID
    assert row["StudyInstanceUID"] == study
    assert row["SeriesInstanceUID"] == series_stand_in(
        str(tmp_path), dataset.PatientID, study, number
    )
    assert row["mended"].count("UID is") == 3


def test_the_real_series_with_blank_uids_is_one_series(shared_data):
    paths = sorted((shared_data / "totalsegmentator").rglob("CT.*"))
    rows = [read_header(str(path)) for path in paths]
    assert len(rows) == 20
    assert len({row["SOPInstanceUID"] for row in rows}) == 20
    assert len({(row["StudyInstanceUID"], row["SeriesInstanceUID"]) for row in rows}) == 1


def test_an_enhanced_object_has_the_spacing_of_its_shared_groups():
    path = next(path for path in PYDICOM_FILES if path.endswith("liver_1frame.dcm"))
    row = read_header(path)
    assert (row["PixelSpacingRow"], row["PixelSpacingColumn"]) == (0.810547, 0.810547)
    assert row["SliceThickness"] == 1.0


def test_the_fast_reader_needs_no_pydicom_for_plain_files(phantom_site, monkeypatch):
    monkeypatch.setattr(headers, "read_surely", lambda path: pytest.fail(path))
    path = next((phantom_site / "dicom").rglob("*.dcm"))
    assert read_header(str(path))["Modality"]


def test_a_missing_file_is_a_fault_of_the_place_and_named_without_its_path(tmp_path):
    row = read_surely(str(tmp_path / "DOE^JANE.dcm"))
    assert row["kind"] == "place_fault"
    assert "DOE" not in row["reason"]
    assert Path(tmp_path).name not in row["reason"]

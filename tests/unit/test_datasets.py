"""A file is read as far as it can be, and a damaged element costs itself."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from jipflow import datasets
from jipflow.catalog.headers import read_header
from jipflow.images.series import read_planes, read_series_volume
from jipflow.objects.headers import source_header
from jipflow.reasons import CaseFault, Reason
from jipflow.segment.engines.imported.engine import target_of
from series_factory import ct_datasets, ct_hu, in_syntax, series_of, write

IMPOSSIBLE = [b"\x06\x00", b"QQ", b"\0\0", b"??", b"us", b"  "]


def image():
    """A CT slice with a private element, a sequence and bytes of undefined meaning."""
    dataset = ct_datasets()[0]
    block = dataset.private_block(0x0019, "A MAKER", create=True)
    block.add_new(0x01, "LO", "private")
    block.add_new(0x02, "OB", b"bytes of it.")
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "meaning"
    dataset.ProcedureCodeSequence = [item]
    return dataset


def content(dataset, syntax=None):
    if syntax:
        dataset = in_syntax(dataset, syntax, None)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def places(data):
    """Where each element of a file's data set begins, by its tag."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    found = {}
    for tag in dataset.keys():  # noqa: SIM118 no decoding
        raw = dataset.get_item(tag)
        if isinstance(raw, RawDataElement):
            header = 12 if raw.VR in EXPLICIT_VR_LENGTH_32 else 8
            found[int(tag)] = (raw.value_tell - header, raw.VR)
    return found


def values(dataset, *without):
    return {
        int(element.tag): element.value
        for element in dataset
        if int(element.tag) not in without and element.tag.element != 0
    }


def read(data, **options):
    return datasets.read_from(io.BytesIO(data), **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("syntax", [None, ExplicitVRBigEndian], ids=["little", "big"])
@pytest.mark.parametrize("vr", IMPOSSIBLE, ids=repr)
def test_an_impossible_value_representation_costs_its_element_at_most(vr, syntax):
    data = content(image(), syntax)
    whole = values(pydicom.dcmread(io.BytesIO(data)))
    for tag, (begin, stated) in places(data).items():
        if tag == min(whole):
            continue
        damaged = data[: begin + 4] + vr + data[begin + 6 :]
        found = read(damaged)
        assert values(found.dataset, tag) == {t: v for t, v in whole.items() if t != tag}, hex(tag)
        (sentence,) = found.damaged
        assert sentence.startswith(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) has an impossible")
        if tag >> 16 != 0x0019 and stated not in ("OW",):
            assert found.dataset[tag].value == whole[tag]
            assert sentence.endswith(f"it was read as {stated}")
        elif tag >> 16 == 0x0019:
            assert tag not in found.dataset
            assert sentence.endswith("it was left out")


@pytest.mark.filterwarnings("ignore")
def test_a_representation_of_another_kind_of_length_costs_its_element_at_most():
    data = content(image())
    whole = values(pydicom.dcmread(io.BytesIO(data)))
    for tag in (0x00180060, 0x00280010, 0x00080070, 0x00191001):
        begin = places(data)[tag][0]
        found = read(data[: begin + 4] + b"OB" + data[begin + 6 :])
        assert values(found.dataset, tag) == {t: v for t, v in whole.items() if t != tag}
        assert found.dataset.get(tag) is None or found.dataset[tag].value == whole[tag]
        assert len(found.damaged) == 1


def test_one_of_a_long_length_that_the_dictionary_has_short_is_left_out():
    data = content(image())
    whole = values(pydicom.dcmread(io.BytesIO(data)))
    begin, _ = places(data)[0x00180060]
    length = int.from_bytes(data[begin + 6 : begin + 8], "little")
    changed = data[: begin + 4] + b"??\0\0" + length.to_bytes(4, "little") + data[begin + 8 :]
    found = read(changed)
    assert values(found.dataset) == {t: v for t, v in whole.items() if t != 0x00180060}
    assert found.damaged == ["(0018,0060) has an impossible value representation; it was left out"]


def test_several_that_follow_each_other_are_found():
    data = bytearray(content(image()))
    where = places(bytes(data))
    for tag in (0x00180050, 0x00180090, 0x00280030):
        begin = where[tag][0]
        data[begin + 4 : begin + 6] = b"\0\0"
    found = read(bytes(data))
    assert len(found.damaged) == 3
    assert found.dataset.PixelSpacing == [3.5, 3]
    assert len(found.dataset.PixelData) == 160


def open_sequence(dataset):
    dataset["ProcedureCodeSequence"].is_undefined_length = True
    dataset.ProcedureCodeSequence[0].is_undefined_length_sequence_item = True
    return dataset


@pytest.mark.parametrize("vr", [b"\x06\x00", b"\0\0", b"??"], ids=repr)
def test_a_sequence_that_cannot_be_parsed_costs_itself(vr):
    data = content(open_sequence(image()))
    whole = values(pydicom.dcmread(io.BytesIO(data)))
    assert data.count(b"\x08\x00\x02\x01SH") == 1
    found = read(data.replace(b"\x08\x00\x02\x01SH", b"\x08\x00\x02\x01" + vr))
    others = {t: v for t, v in whole.items() if t != 0x00081032}
    assert values(found.dataset, 0x00081032) == others
    assert "ProcedureCodeSequence" not in found.dataset or found.damaged == []


def test_sound_files_are_read_as_pydicom_reads_them():
    for syntax in (None, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        data = content(open_sequence(image()), syntax)
        found = read(data)
        assert found.damaged == []
        assert found.dataset == pydicom.dcmread(io.BytesIO(data))
        assert read(data[data.index(b"DICM") + 4 :]).damaged == []


def test_a_deflated_file_is_left_to_pydicom():
    data = content(image(), DeflatedExplicitVRLittleEndian)
    assert read(data).dataset.PatientID == image().PatientID
    with pytest.raises(Exception, match="decompress"):
        read(data[:-200])


def test_a_cut_file_has_no_damaged_element():
    data = content(image())
    for length in range(200, len(data) - 170, 37):
        assert read(data[:length]).damaged == []


def test_a_value_that_cannot_be_followed_is_named_truthfully(tmp_path):
    data = content(image())
    begin, _ = places(data)[0x00180060]
    path = tmp_path / "slice.dcm"
    path.write_bytes(data[: begin + 4] + b"\x06\x00\xff\x7f" + data[begin + 8 :])
    row = read_header(str(path))
    assert row["kind"] == "unreadable"
    assert "(0018,0060) has an impossible value representation" in row["reason"]
    assert "cut short" not in row["reason"]
    path.write_bytes(data[: begin + 9])
    assert "cut short, inside its header" in read_header(str(path))["reason"]


def test_the_pixels_are_left_where_they_are():
    data = content(image())
    found = read(data, stop=datasets.at_pixels).dataset
    assert "PixelData" not in found
    assert "Rows" in found
    deferred = {e.tag: e for e in read(data, defer=100).dataset.values()}
    assert deferred[0x7FE00010].value is None
    assert deferred[0x00280030].value


def test_the_uid_of_a_file_is_that_of_its_data_set_or_of_its_meta(tmp_path):
    first, second, *others = ct_datasets()
    stated = {dataset.SOPInstanceUID for dataset in (second, *others)}
    second.SOPInstanceUID = ""
    stated |= {second.file_meta.MediaStorageSOPInstanceUID}
    paths = write([second, *others], tmp_path)
    first.SOPInstanceUID = ""
    del first.file_meta.MediaStorageSOPInstanceUID
    paths.append(tmp_path / "nameless.dcm")
    first.save_as(paths[-1])
    found = set()
    read_planes(series_of(paths), there=found)
    assert found - {""} == stated
    assert "" in found


def test_each_slice_is_read_once_for_what_was_drawn_on_it(tmp_path, monkeypatch):
    paths = write(ct_datasets(), tmp_path)
    opened = []
    read_file = datasets.read

    def counted(path, **options):
        opened.append(path)
        return read_file(path, **options)

    monkeypatch.setattr(datasets, "read", counted)
    series = series_of(paths)
    grid = read_series_volume(series).grid
    opened.clear()
    target_of("case1", series, grid)
    assert sorted(opened) == sorted(paths)


def bare(path):
    """Take preamble and file meta information away."""
    data = path.read_bytes()
    length = int.from_bytes(data[140:144], "little")
    path.write_bytes(data[144 + length :])


def impossible(path):
    data = path.read_bytes()
    begin = places(data)[0x00180060][0]
    path.write_bytes(data[: begin + 4] + b"\x06\x00" + data[begin + 6 :])


@pytest.mark.parametrize("damage", [bare, impossible])
def test_what_the_catalog_reads_every_stage_reads(damage, tmp_path):
    paths = write(ct_datasets(), tmp_path)
    sound = series_of(paths)
    uids = {str(pydicom.dcmread(path).SOPInstanceUID) for path in paths}
    for path in paths:
        damage(path)
    rows = [read_header(str(path)) for path in paths]
    assert {row["SOPInstanceUID"] for row in rows} == uids
    assert {row["KVP"] for row in rows} == {100}
    decisions = []
    volume = read_series_volume(sound, decisions=decisions)
    assert decisions == (["element_repaired"] if damage is impossible else [])
    np.testing.assert_array_equal(volume.array, ct_hu())
    assert target_of("case1", sound, volume.grid).instances == uids
    assert source_header(paths[0], []).PatientID == rows[0]["PatientID"]


TWICE = {
    "RescaleIntercept": (0x00281052, b"0 "),
    "Rows": (0x00280010, b"\x01\0"),
    "ImagePositionPatient": (0x00200032, b"0\\0\\0 "),
    "PatientID": (0x00100020, b"OTHER "),
}


@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("keyword", TWICE)
def test_an_element_that_stands_twice_is_left_out(keyword, behind):
    """Of two values nobody knows the right one."""
    tag, value = TWICE[keyword]
    data = content(image())
    begin, _ = places(data)[tag]
    length = int.from_bytes(data[begin + 6 : begin + 8], "little")
    second = data[begin : begin + 6] + len(value).to_bytes(2, "little") + value
    place = begin + 8 + length if behind else begin
    found = read(data[:place] + second + data[place:])
    assert found.damaged == [
        f"{datasets.name_of(tag)} stands there more than once; it was left out"
    ]
    assert keyword not in found.dataset
    assert values(found.dataset) == values(read(data).dataset, tag)


@pytest.mark.filterwarnings("ignore")
def test_a_syntax_that_is_another_than_stated_makes_no_element_stand_twice():
    data = content(image())
    place = data.index(b"1.2.840.10008.1.2.1\0")
    found = read(data[:place] + b"1.2.840.10008.1.2\0\0\0" + data[place + 20 :])
    assert not found.damaged
    assert values(found.dataset) == values(read(data).dataset)


def test_a_rescale_that_stands_twice_is_no_rescale(tmp_path):
    paths = write(ct_datasets(), tmp_path)
    data = paths[0].read_bytes()
    begin, _ = places(data)[0x00281052]
    paths[0].write_bytes(data[:begin] + data[begin : begin + 6] + b"\x02\x000 " + data[begin:])
    notes = []
    with pytest.raises(CaseFault) as caught:
        read_series_volume(series_of(paths), notes=notes)
    assert caught.value.reason is Reason.MISSING_RESCALE
    assert "(0028,1052) stands there more than once" in " ".join(notes)

"""Headers of an enemy: what they hide in places that readers show, and files that contradict."""

from __future__ import annotations

import io
import struct
import warnings
from contextlib import suppress
from pathlib import Path

import pydicom
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from jipflow import datasets
from jipflow.export.stage import _check_named
from jipflow.images.read import read_instance, readable
from jipflow.privacy.codes import coded
from jipflow.privacy.deidentify import deidentify
from jipflow.privacy.profile import safe_private
from jipflow.reasons import CaseFault, Reason
from test_garbled import element

KEY = bytes(32)
LAST, STRANGER, NUMBER = "Zwackelmann", "Hinterhuber", "8822031"
DAY, BIRTH = "20210304", "19310704"


def header(sop_class: str = CTImageStorage) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, "1.2.276.0.9.1"
    ds.PatientName, ds.PatientID = f"{LAST}^Eusebia", f"K-{NUMBER}"
    ds.StudyDate, ds.PatientBirthDate = DAY, BIRTH
    return ds


def left(ds: Dataset) -> tuple[Dataset, list[str]]:
    """What a data set becomes, and which words of persons are among its bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = io.BytesIO()
        ds.save_as(stream, enforce_file_format=True)
        stream.seek(0)
        made = deidentify(pydicom.dcmread(stream), KEY)
        written = io.BytesIO()
        made.save_as(written, enforce_file_format=True)
    low = written.getvalue().lower()
    words = (LAST, "Eusebia", STRANGER, NUMBER, DAY, BIRTH)
    return made, [word for word in words if word.lower().encode() in low]


def test_every_safe_private_attribute_is_read_as_the_table_has_it_or_goes():
    for (creator, group, number), safe in safe_private().items():
        for vr, value in (("LO", f"{LAST} 1"), ("UN", f"{LAST} {BIRTH} ".encode())):
            ds = header()
            ds.add_new((group, 0x10), "LO", creator.upper())
            ds.add_new((group, 0x1000 + number), vr, value)
            assert left(ds)[1] == [], (creator, group, number, safe.vr, vr)


def test_a_creator_with_a_name_behind_it_reserves_nothing():
    ds = header()
    ds.add_new((0x19, 0x10), "LO", ["SIEMENS MR HEADER", STRANGER])
    ds.add_new((0x19, 0x100C), "IS", "800")
    made, words = left(ds)
    assert words == []
    assert not [one for one in made if one.tag.is_private]


def test_sequences_fifty_deep_are_cleaned_to_their_ground():
    inner = Dataset()
    inner.PatientName, inner.SeriesDescription = STRANGER, f"liver {LAST}"
    inner.TextValue, inner.StudyDate = STRANGER, DAY
    names = ("ReferencedImageSequence", "ContentSequence", "SourceImageSequence")
    for depth in range(60):
        outer = Dataset()
        setattr(outer, names[depth % 3], [inner])
        inner = outer
    ds = header()
    ds.ReferencedImageSequence = [inner]
    made, words = left(ds)
    assert words == []
    assert "liver" in str(made)


def file_of(*elements: bytes) -> bytes:
    meta = element(2, 0x10, "UI", b"1.2.840.10008.1.2.1")
    meta = element(2, 0, "UL", struct.pack("<I", len(meta))) + meta
    uids = (
        element(8, 0x16, "UI", CTImageStorage.encode()),
        element(8, 0x18, "UI", b"1.2.3"),
    )
    ends = (element(0x20, 0xD, "UI", b"1.2.4"), element(0x20, 0xE, "UI", b"1.2.5"))
    return bytes(128) + b"DICM" + meta + b"".join((*uids, *elements, *ends))


@pytest.mark.parametrize("depth", [300, 5000])
def test_sequences_that_no_reader_ends_with_cost_themselves_or_their_file(depth, tmp_path):
    inner = element(0x10, 0x10, "PN", LAST.encode())
    begin = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    begin += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    path = tmp_path / "deep.dcm"
    path.write_bytes(file_of(begin * depth + inner + end * depth))
    made = Dataset()
    with suppress(CaseFault), readable(path):
        made = deidentify(read_instance(path, pixels=True), KEY, patient="p")
    assert LAST not in str(made)


@pytest.mark.parametrize(
    ("number", "vr", "values"),
    [
        (0x10, "PN", (f"{LAST}^A", "Other^B")),
        (0x20, "LO", (NUMBER, "4")),
        (0x1001, "PN", (LAST, LAST)),
    ],
)
def test_a_file_that_says_twice_who_the_patient_is_stays(number, vr, values, tmp_path):
    once = {0x10: element(0x10, 0x10, "PN", b"Doe"), 0x20: element(0x10, 0x20, "LO", b"1")}
    for twice in (values, values[:1]):
        once[number] = b"".join(element(0x10, number, vr, value.encode()) for value in twice)
        path = tmp_path / f"{len(twice)}.dcm"
        path.write_bytes(file_of(*(once[key] for key in sorted(once))))
        damaged: list[str] = []
        dataset = read_instance(path, pixels=True, damaged=damaged)
        if len(twice) == 1:
            _check_named(path, dataset, damaged)
            continue
        with pytest.raises(CaseFault, match="whom its texts may name") as caught:
            _check_named(path, dataset, damaged)
        assert caught.value.reason is Reason.UNREADABLE
        assert LAST not in caught.value.message


def test_other_elements_that_stand_twice_keep_nothing_back(tmp_path):
    path = Path(tmp_path / "twice.dcm")
    twice = element(0x18, 0x1130, "DS", b"1") * 2
    path.write_bytes(file_of(element(0x10, 0x20, "LO", b"1"), twice))
    read = datasets.read(path)
    assert read.damaged
    _check_named(path, read.dataset, read.damaged)


def test_overlays_and_curves_go_in_every_group():
    ds = header()
    for group in range(0x6000, 0x6100):
        ds.add_new((group, 0x3000), "OW", f"{LAST}{STRANGER}".encode())
        ds.add_new((group, 0x1500), "LO", STRANGER)
    for group in range(0x5000, 0x5100, 2):
        ds.add_new((group, 0x3000), "OW", f"{LAST}{STRANGER}".encode())
        ds.add_new((group, 0x0030), "SH", STRANGER)
    assert left(ds)[1] == []


def test_pixels_documents_and_waveforms_within_items_go():
    for name in ("PixelData", "EncapsulatedDocument", "WaveformData", "IconImageSequence"):
        item = Dataset()
        if name == "IconImageSequence":
            item.IconImageSequence = [Dataset()]
            item.IconImageSequence[0].add_new("PixelData", "OB", f"{STRANGER} ".encode())
        else:
            item.add_new(name, "OB", f"{STRANGER} ".encode())
        ds = header()
        ds.SourceImageSequence = [item]
        ds.add_new("PixelData", "OW", b"\1\0")
        made, words = left(ds)
        assert words == []
        assert made.PixelData == b"\1\0"


def test_a_report_s_codes_units_and_schemes_name_nobody():
    item = Dataset()
    item.ValueType, item.RelationshipType = "CODE", "CONTAINS"
    item.ConceptNameCodeSequence = [coded("1", "99HINTER", f"seen by {STRANGER}")]
    item.ConceptCodeSequence = [
        coded(NUMBER, f"99{STRANGER[:10].upper()}", f"{STRANGER} {LAST}"),
        coded(STRANGER.upper(), "99ABC", STRANGER),
        coded(STRANGER, "DCM", "Liver"),
        coded("10200004", "SCT", f"Liver of {STRANGER}"),
    ]
    long = Dataset()
    long.LongCodeValue, long.CodeMeaning = f"{STRANGER}{LAST}", STRANGER
    item.ConceptCodeSequence.append(long)
    measured = Dataset()
    measured.NumericValue = NUMBER
    measured.MeasurementUnitsCodeSequence = [coded(STRANGER, "UCUM", STRANGER)]
    item.MeasuredValueSequence = [measured]
    scheme = Dataset()
    scheme.CodingSchemeName = scheme.CodingSchemeResponsibleOrganization = STRANGER
    ds = header()
    ds.ContentSequence, ds.CodingSchemeIdentificationSequence = [item], [scheme]
    made, words = left(ds)
    assert words == []
    assert made.ContentSequence[0].ConceptCodeSequence[3].CodeMeaning.startswith("Liver")


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        *(("10200004", "SCT"), ("T-62000", "SRT"), ("mm", "UCUM"), ("{SUVbw}g/ml", "UCUM")),
        *(("[hnsf'U]", "UCUM"), ("cm2/ml{SUVbsa}", "UCUM"), ("RNU0", "IBSI"), ("113100", "DCM")),
        *(("GTV", "99ABC"), ("CT", "DCM"), ("LIVER", "99ABC"), ("{counts}/s", "UCUM")),
    ],
)
def test_codes_stay(value, scheme):
    ds = header()
    ds.ProcedureCodeSequence = [coded(value, scheme, "Liver")]
    assert left(ds)[0].ProcedureCodeSequence[0].CodeValue == value


def test_presentation_states_structure_sets_and_segmentations_name_nobody():
    state = header(GrayscaleSoftcopyPresentationStateStorage)
    state.ContentLabel, state.ContentDescription = STRANGER.upper(), STRANGER
    text, notes, layer = Dataset(), Dataset(), Dataset()
    text.UnformattedTextValue = STRANGER
    notes.TextObjectSequence, notes.GraphicLayer = [text], STRANGER.upper()
    layer.GraphicLayer, layer.GraphicLayerDescription = STRANGER.upper(), STRANGER
    state.GraphicAnnotationSequence, state.GraphicLayerSequence = [notes], [layer]
    contours = header(RTStructureSetStorage)
    region, seen = Dataset(), Dataset()
    for name in ("ROIName", "ROIDescription", "ROIGenerationDescription"):
        setattr(region, name, STRANGER)
    region.ReferencedFrameOfReferenceUID = f"1.2.{NUMBER}"
    for name in ("ROIInterpreter", "ROIObservationLabel", "MaterialID"):
        setattr(seen, name, STRANGER)
    contours.StructureSetROISequence, contours.RTROIObservationsSequence = [region], [seen]
    contours.StructureSetLabel = contours.ReviewerName = STRANGER
    masks = header(SegmentationStorage)
    segment, algorithm = Dataset(), Dataset()
    for name in ("SegmentLabel", "SegmentDescription", "TrackingID"):
        setattr(segment, name, STRANGER)
    algorithm.AlgorithmName = algorithm.AlgorithmSource = f"net of {LAST}"
    segment.SegmentationAlgorithmIdentificationSequence = [algorithm]
    masks.SegmentSequence = [segment]
    for ds in (state, contours, masks):
        assert left(ds)[1] == []


def test_a_uid_of_a_device_or_of_the_standard_that_holds_an_identifier_is_replaced():
    ds = header()
    ds.DeviceUID, ds.CreatorVersionUID = f"1.2.276.{NUMBER}.1", f"1.2.840.10008.{BIRTH}"
    made, words = left(ds)
    assert words == []
    assert made.DeviceUID.startswith("2.25.")
    ds.DeviceUID, ds.CreatorVersionUID = "1.2.276.5", "1.2.840.10008.9"
    made, _ = left(ds)
    assert (made.DeviceUID, made.CreatorVersionUID) == ("1.2.276.5", "1.2.840.10008.9")


@pytest.mark.parametrize("value", ["8.822031E6", "8822031e0", "+8822031", "8822031.00"])
def test_a_number_is_an_identifier_however_it_is_written(value):
    ds = header()
    ds["TableHeight"] = DataElement("TableHeight", "DS", value)
    assert left(ds)[0].get("TableHeight") is None
    ds["TableHeight"] = DataElement("TableHeight", "DS", "8.8E1")
    assert left(ds)[0].TableHeight == 88

"""De-identified objects: what identifies is gone, what is needed is there, references hold."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import date
from io import BytesIO

import pydicom
import pytest
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from jipflow.privacy.codes import coded
from jipflow.privacy.deidentify import deidentify
from jipflow.privacy.elements import Done, Tally
from jipflow.privacy.identifiers import identifiers_of
from jipflow.privacy.profile import (
    TABLES,
    attribute_rules,
    content_rules,
    safe_private,
    vocabulary,
)
from jipflow.privacy.text import folded
from jipflow.reasons import CaseFault, Reason

KEY = bytes(range(32))
NAME = "Wölfenstein^Ottokar"
TOKEN = "WOELFENSTEIN"
DATE = "20200229"


def image(**changes: object) -> FileDataset:
    """A CT slice of one pixel, with what identifies a patient."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.SourceApplicationEntityTitle = TOKEN
    made = FileDataset(None, Dataset(), file_meta=meta, preamble=TOKEN.encode().ljust(128, b"x"))
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = CTImageStorage
    made.SOPInstanceUID, made.SeriesInstanceUID, made.StudyInstanceUID = "1.2.3", "1.2.4", "1.2.5"
    made.Modality = "CT"
    made.PatientName = NAME
    made.PatientID = "0815-4711"
    made.PatientBirthDate = "19310704"
    made.PatientAge = "088Y"
    made.PatientSex = "M"
    made.PatientWeight = "71.5"
    made.StudyDate, made.StudyTime = DATE, "101112.5"
    made.AccessionNumber = "ACC99887"
    made.InstitutionName = "Kreuzberg Hospital"
    made.Manufacturer, made.StationName = "SIEMENS", "CTAWP00"
    made.SeriesDescription = "Thorax 5.0 B31f"
    made.Rows = made.Columns = made.SamplesPerPixel = 1
    made.BitsAllocated = made.BitsStored = 16
    made.PixelRepresentation = 0
    made.PixelData = b"\1\0"
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def written(made: FileDataset) -> bytes:
    stream = BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def read_again(made: FileDataset) -> FileDataset:
    return pydicom.dcmread(BytesIO(written(made)))


def value_with(token: str, vr: str) -> object:
    """A value of a representation that holds the token, as far as it can hold one."""
    if vr in ("OB", "OW", "UN", "OB or OW"):
        return token.encode() + b"\0" * (len(token) % 2)
    return token[:16] if vr in ("SH", "AE", "CS") else token


HOLDING = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "OB", "OW", "OB or OW")
ATTRIBUTES = [
    tag
    for tag, (vr, *_rest) in DicomDictionary.items()
    if vr in HOLDING and tag >> 16 >= 8 and tag != 0x7FE00010
]


@pytest.fixture(scope="module")
def everywhere() -> tuple[FileDataset, FileDataset]:
    """An image with the patient's name in every attribute that can hold it, at two levels."""
    source = image()
    nested = Dataset()
    for tag in ATTRIBUTES:
        vr = dictionary_VR(tag)
        value = value_with(TOKEN, vr)
        nested[tag] = DataElement(tag, vr.replace("OB or OW", "OB"), value, validation_mode=0)
        if keyword_for_tag(tag) not in ("PatientID", "PatientName", "SpecificCharacterSet"):
            source[tag] = DataElement(tag, vr.replace("OB or OW", "OB"), value, validation_mode=0)
    nested.pop("SpecificCharacterSet", None)
    inner = Dataset()
    inner.ReferencedImageSequence = [nested]
    source.ReferencedSeriesSequence = [inner]
    return source, deidentify(source, KEY)


def test_a_name_is_in_no_byte_whatever_attribute_held_it(everywhere):
    source, made = everywhere
    assert len(ATTRIBUTES) > 1000
    assert written(source).upper().count(TOKEN.encode()) > 2000
    kept = [
        (element.keyword, element.value)
        for element in made.iterall()
        if element.VR != "SQ" and TOKEN[:10] in str(element.value).upper()
    ]
    # A lookup table and indices of surfaces are bytes like any other.
    assert {name for name, _ in kept} <= {
        *("LUTData", "TrianglePointIndexList", "EdgePointIndexList", "VertexPointIndexList"),
        *("PrimitivePointIndexList", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
        *(keyword_for_tag(tag) for tag in ATTRIBUTES if "PaletteColor" in keyword_for_tag(tag)),
    }


def test_the_preamble_and_the_file_meta_information_are_new():
    content = written(deidentify(image(), KEY))
    assert content[:128] == b"\0" * 128
    meta = pydicom.dcmread(BytesIO(content)).file_meta
    assert "SourceApplicationEntityTitle" not in meta
    assert str(meta.MediaStorageSOPInstanceUID).startswith("2.25.")
    assert TOKEN.encode() not in content


def test_what_images_need_stays():
    made = read_again(deidentify(image(), KEY))
    assert made.SeriesDescription == "Thorax 5.0 B31f"
    assert (made.Manufacturer, made.StationName) == ("SIEMENS", "CTAWP00")
    assert (made.PatientAge, made.PatientSex, made.PatientWeight) == ("088Y", "M", 71.5)
    assert made.StudyTime == "101112.5"
    assert made.SOPClassUID == CTImageStorage
    assert made.PixelData == b"\1\0"
    assert (made.AccessionNumber, made.PatientBirthDate) == ("", "")


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("BodyPartExamined", "CHEST", "CHEST"),
        ("BodyPartExamined", "MEIER KNEE", "KNEE"),
        ("BodyPartExamined", TOKEN, None),
        ("ScanOptions", "HELICAL MODE", "HELICAL MODE"),
        ("ScanOptions", f"{TOKEN} MODE", None),
        ("ScanOptions", "20200229", None),
        ("ScanOptions", "SCAN 2020-02-29", None),
        ("ContentLabel", "LIVER_SEG", "LIVER_SEG"),
        ("ContentLabel", "LIVER QUAXELBERG", "LIVER"),
        ("ContentLabel", "QUAXELBERG", "REMOVED"),
        ("ScanOptions", "1.2.840.113619.2.5.4711", None),
        ("ScanOptions", "(born 1931)", None),
    ],
)
def test_code_strings_are_kept_if_they_are_such_and_name_nobody(name, value, left):
    source = image()
    source[name] = DataElement(name, dictionary_VR(name), value, validation_mode=0)
    assert (deidentify(source, KEY).get(name) or None) == left


def test_an_object_stays_one_whatever_the_patient_s_name_is():
    source = image(PatientName="Original^Axial^Text", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    made = deidentify(source, KEY)
    assert list(made.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]


def test_an_address_is_looked_for_word_by_word():
    source = image(SeriesDescription="Thorax Hauptplatz 5.0")
    source.InstitutionAddress = "Hauptplatz 17, Kreuzberg"
    source.StationName = "HAUPTPLATZ-2"
    made = deidentify(source, KEY)
    assert (made.SeriesDescription, made.StationName) == ("Thorax 5.0", "2")


def test_numbers_as_text_that_are_none_go():
    raw = written(read_again(image(KVP="120", SliceThickness="1.5")))
    source = pydicom.dcmread(BytesIO(raw.replace(b"DS\x04\x00120 ", b"DS\x04\x00ROE ")))
    made = deidentify(source, KEY)
    assert not made.get("KVP")
    assert made.SliceThickness == 1.5


def test_the_object_states_what_was_done():
    made = read_again(deidentify(image(), KEY, pixels=["113101"]))
    assert made.PatientIdentityRemoved == "YES"
    assert made.LongitudinalTemporalInformationModified == "MODIFIED"
    codes = [str(item.CodeValue) for item in made.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113101", *(f"1131{n:02}" for n in (3, 4, 5, 7, 8, 9, 11))]
    assert made.PatientID == made.PatientName != ""
    gone = image(LongitudinalTemporalInformationModified="REMOVED")
    assert deidentify(gone, KEY).LongitudinalTemporalInformationModified == "REMOVED"


def test_the_source_is_not_changed():
    source = image()
    before = written(source)
    deidentify(source, KEY)
    assert written(source) == before


def test_the_same_gives_the_same_and_another_key_another():
    assert written(deidentify(image(), KEY)) == written(deidentify(image(), KEY))
    one, other = deidentify(image(), KEY), deidentify(image(), bytes(32))
    for name in ("PatientID", "SOPInstanceUID", "StudyDate"):
        assert one[name].value != other[name].value


def test_without_a_patient_id_it_is_refused():
    with pytest.raises(CaseFault) as fault:
        deidentify(image(PatientID=" "), KEY)
    assert fault.value.reason is Reason.MISSING_PATIENT_ID


def test_an_age_above_89_is_90():
    assert deidentify(image(PatientAge="097Y"), KEY).PatientAge == "090Y"
    assert "PatientAge" not in deidentify(image(PatientAge="OLD"), KEY)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_unknown_and_private_elements_go_and_safe_private_ones_stay(syntax):
    source = image()
    source.file_meta.TransferSyntaxUID = syntax
    source.add_new(0x00100046, "SH", TOKEN)
    source.add_new(0x00180001, "UN", TOKEN.encode())
    philips = source.private_block(0x7053, "Philips PET Private Group", create=True)
    philips.add_new(0x00, "DS", "0.000276")
    philips.add_new(0x09, "UN", TOKEN.encode())
    philips.add_new(0x01, "LO", TOKEN)
    source.private_block(0x0009, TOKEN, create=True).add_new(0x01, "LO", TOKEN)
    ge = source.private_block(0x0009, "GEMS_PETD_01", create=True)
    ge.add_new(0x0D, "DT", DATE + "101112")
    done: Tally = Counter()
    made = read_again(deidentify(read_again(source), KEY, done=done))
    block = made.private_block(0x7053, "Philips PET Private Group")
    assert float(block[0x00].value) == 0.000276
    assert 0x09 not in block
    assert 0x01 not in block
    moved = str(made.private_block(0x0009, "GEMS_PETD_01")[0x0D].value)
    assert moved == made.StudyDate + "101112"
    assert sum(element.tag.is_private for element in made) == 4
    assert 0x00180001 not in made
    assert 0x00100046 not in made
    assert done["private", Done.REMOVED] == 4
    assert TOKEN.encode() not in written(made)


@pytest.mark.parametrize(
    ("concept", "unit", "value", "left"),
    [
        ("121033", "a", "97", "90"),
        ("121033", "mo", "1164", "1080"),
        ("121033", "a", "88", "88"),
        ("121206", "a", "97", "97"),
    ],
)
def test_an_age_that_a_report_measures_is_capped_too(concept, unit, value, left):
    measured = Dataset()
    measured.NumericValue = value
    measured.MeasurementUnitsCodeSequence = [coded(unit, "UCUM", "unit")]
    item = Dataset()
    item.ValueType = "NUM"
    item.ConceptNameCodeSequence = [coded(concept, "DCM", "x")]
    item.MeasuredValueSequence = [measured]
    made = read_again(deidentify(read_again(image(ContentSequence=[item])), KEY))
    assert str(made.ContentSequence[0].MeasuredValueSequence[0].NumericValue) == left


@pytest.mark.parametrize("again", [False, True])
def test_an_identifier_is_no_number_of_a_series(again):
    source = image(PatientID="4711081", SeriesNumber="4711081", AcquisitionNumber="4711082")
    made = deidentify(read_again(source) if again else source, KEY)
    assert (made.SeriesNumber, made.AcquisitionNumber) == (None, 4711082)


def test_overlays_curves_icons_and_documents_go():
    source = image()
    source.add_new(0x60003000, "OW", TOKEN.encode())
    source.add_new(0x60000022, "LO", TOKEN)
    source.add_new(0x50003000, "OW", TOKEN.encode())
    icon = Dataset()
    icon.PixelData = TOKEN.encode()
    source.IconImageSequence = [icon]
    source.EncapsulatedDocument = TOKEN.encode()
    source.DataSetTrailingPadding = TOKEN.encode()
    made = deidentify(source, KEY)
    assert {tag.group for tag in made.keys()} & {0x6000, 0x5000, 0xFFFC} == set()  # noqa: SIM118
    assert "IconImageSequence" not in made
    assert "EncapsulatedDocument" not in made


def test_dates_move_by_one_number_of_days_wherever_they_stand():
    source = image(SeriesDate="20200301", ContentDate="bad", AcquisitionDateTime=DATE + "1011+0100")
    source.StudyDescription = "CT 2020-02-29 (29.02.2020)"
    dose = Dataset()
    dose.RadiopharmaceuticalStartDateTime = "20200301101112.5"
    source.RadiopharmaceuticalInformationSequence = [dose]
    made = deidentify(source, KEY)
    study, series = _day(made.StudyDate), _day(made.SeriesDate)
    assert (series - study).days == 1
    assert 1 <= (date(2020, 2, 29) - study).days <= 3653
    assert made.AcquisitionDateTime == f"{made.StudyDate}1011+0100"
    (item,) = made.RadiopharmaceuticalInformationSequence
    assert item.RadiopharmaceuticalStartDateTime == f"{made.SeriesDate}101112.5"
    assert not made.ContentDate
    assert made.StudyDescription == f"CT {study:%Y-%m-%d} ({study:%d.%m.%Y})"
    again = deidentify(image(SOPInstanceUID="1.9", PatientName="Other"), KEY)
    assert again.StudyDate == made.StudyDate


def _day(text: str) -> date:
    return date(int(text[:4]), int(text[4:6]), int(text[6:]))


def test_uids_of_the_standard_stay_and_others_are_replaced():
    reference = Dataset()
    reference.ReferencedSOPClassUID = CTImageStorage
    reference.ReferencedSOPInstanceUID = "1.2.3"
    newer = Dataset()
    newer.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    newer.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.7"
    source = image(
        SourceImageSequence=[reference, newer], FrameOfReferenceUID="1.2.840.10008.1.4.1.1"
    )
    made = deidentify(source, KEY)
    assert made.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    known, other = made.SourceImageSequence
    assert known.ReferencedSOPClassUID == CTImageStorage
    assert known.ReferencedSOPInstanceUID == made.SOPInstanceUID
    assert other.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    assert other.ReferencedSOPInstanceUID.startswith("2.25.")
    assert all(UID(e.value).is_valid for e in made.iterall() if e.VR == "UI" and e.value)


def test_content_items_follow_their_concepts():
    def item(code: str, meaning: str, kind: str, **values: object) -> Dataset:
        made = Dataset()
        made.RelationshipType, made.ValueType = "CONTAINS", kind
        made.ConceptNameCodeSequence = [coded(code, "DCM", meaning)]
        for name, value in values.items():
            setattr(made, name, value)
        return made

    source = image(Modality="SR")
    source.ContentSequence = [
        item("121008", "Person Observer Name", "PNAME", PersonName=NAME),
        item("121022", "Accession Number", "TEXT", TextValue="ACC99887"),
        item("121106", "Comment", "TEXT", TextValue="Lesion of Wölfenstein, liver"),
        item("121013", "Device Observer Name", "TEXT", TextValue="jipflow 3x"),
        item("112039", "Tracking Identifier", "TEXT", TextValue=f"GTV {TOKEN}"),
        item("112040", "Tracking Unique Identifier", "UIDREF", UID="1.2.3"),
        item("121030", "Subject ID", "TEXT", TextValue="0815"),
    ]
    made = deidentify(source, KEY)
    found = {str(i.ConceptNameCodeSequence[0].CodeValue): i for i in made.ContentSequence}
    assert "121022" not in found
    assert str(found["121008"].PersonName) == "REMOVED"
    assert found["121106"].TextValue == "Lesion of liver"
    assert found["121013"].TextValue == "jipflow 3x"
    assert found["112039"].TextValue == "GTV"
    assert made.SOPInstanceUID == found["112040"].UID
    assert found["121030"].TextValue == "REMOVED"


def test_codes_keep_the_meaning_that_the_standard_gives_them():
    source = image()
    source.ProcedureCodeSequence = [
        coded("10200004", "SCT", "Liver"),
        coded("10200004", "SCT", f"{TOKEN} liver"),
        coded("CTTHOR", "99KREUZB", "Thorax Kreuzberg"),
    ]
    first, second, third = deidentify(source, KEY).ProcedureCodeSequence
    assert first.CodeMeaning == "Liver"
    assert second.CodeMeaning.startswith("Liver")
    assert TOKEN not in second.CodeMeaning
    assert (third.CodeValue, third.CodingSchemeDesignator) == ("CTTHOR", "99LOCAL")
    assert third.CodeMeaning == "Thorax"


def test_a_damaged_value_costs_itself():
    source = read_again(image(InstanceNumber="7"))
    raw = written(source).replace(b"IS\x02\x007 ", b"IS\x02\x00xy")
    made = deidentify(pydicom.dcmread(BytesIO(raw)), KEY)
    assert not made.get("InstanceNumber")
    assert made.SeriesDescription == "Thorax 5.0 B31f"


def test_identifiers_of_other_headers_are_looked_for():
    other = image(PatientName="Zamperl^Li", ReferringPhysicianName="Mistelbach^Dr")
    source = image(SeriesDescription="Liver Li MISTELBACH axial", StationName="CT-MISTELBACH")
    assert deidentify(source, KEY).StationName != ""
    made = deidentify(source, KEY, known=identifiers_of([other]))
    assert made.SeriesDescription == "Liver axial"
    assert made.StationName == "CT"


def test_the_table_is_that_of_the_standard():
    """Names as pydicom has them; an edition newer than pydicom's dictionary has some more."""
    text = (TABLES / "attributes.tsv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    names = {f"{tag:08X}": entry[2] for tag, entry in DicomDictionary.items()}
    unlike = [r["name"] for r in rows if r["tag"] in names and names[r["tag"]] != r["name"]]
    assert unlike == ["Radiation Generation Mode Label", "Radiation Generation Mode Description"]
    assert len(rows) == 656
    assert len(attribute_rules()) == 653
    assert len(content_rules()) > 200
    assert attribute_rules()[tag_for_keyword("PatientName")].basic == "Z"
    assert {rule.basic for rule in attribute_rules().values()} == {"X", "Z", "D", "U"}


def test_every_person_every_date_and_every_text_of_the_table_has_an_action():
    for tag, (vr, *_) in DicomDictionary.items():
        rule = attribute_rules().get(tag)
        if vr == "PN" and rule is not None:
            assert not rule.options


def test_the_vocabulary_is_folded_and_names_few_people():
    words = vocabulary()
    assert all(folded(word) == word for word in words)
    assert {"liver", "thorax", "gtv", "axial", "kopf"} <= words
    people = "smith miller schmidt mueller mayer maria john robert simpson wilson hoffman"
    assert not words & set(people.split())
    assert len(safe_private()) > 80


REAL = ("CT", "MR_T1", "PET")


@pytest.mark.parametrize("kind", REAL)
def test_contours_of_a_real_patient_name_their_images(shared_data, kind):
    folder = shared_data / "sarcoma" / "STS_003" / kind
    image_file = sorted((folder / "image").glob("*.dcm"))[0]
    source, contours = pydicom.dcmread(image_file), pydicom.dcmread(folder / "mask" / "RS.dcm")
    made, drawn = deidentify(source, KEY), deidentify(contours, KEY)
    (frame,) = drawn.ReferencedFrameOfReferenceSequence
    assert made.FrameOfReferenceUID == frame.FrameOfReferenceUID
    assert made.StudyInstanceUID == drawn.StudyInstanceUID
    assert made.SeriesInstanceUID in _values(drawn, "SeriesInstanceUID")
    before = _values(contours, "ReferencedSOPInstanceUID")
    after = _values(drawn, "ReferencedSOPInstanceUID")
    assert len(set(zip(before, after, strict=True))) == len(set(before)) == len(set(after)) > 10
    assert _values(drawn, "ContourData") == _values(contours, "ContourData")
    assert [r.ROIName for r in drawn.StructureSetROISequence] == [f"GTV_Mass_{kind}"]
    assert made.PixelData == source.PixelData
    for each in (made, drawn):
        content = written(each)
        assert b"STS_003" not in content
        assert b"5168.1900" not in content


def _values(dataset: Dataset, keyword: str) -> list[object]:
    return [element.value for element in dataset.iterall() if element.keyword == keyword]

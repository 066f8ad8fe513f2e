"""Tokens where programs do not look: against the standard, misspelt, or in places of their own."""

from __future__ import annotations

import copy
import struct

import numpy as np
from pydicom.config import IGNORE
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from deidentification_items import ANYWHERE, Action, Item, Planted
from deidentification_plant import Planter, drawn_text

A = Action


def everywhere(planter: Planter) -> None:
    """Plant what any image can hold."""
    _codes(planter)
    _spellings(planter)
    _against_the_standard(planter)
    _deep(planter)
    _places(planter)
    _devices(planter)


def values(planter: Planter) -> None:
    """Plant numbers, times and UIDs that are none, as typed into free fields and converted."""
    p, ds = planter.person, planter.dataset
    for tag, vr, text, gone in (
        ((0x0018, 0x1315), "CS", f"{p.last} {p.first}"[:20], p.last),
        ((0x0018, 0x1110), "DS", f"80 {p.last[-6:]}", p.last[-6:]),
        ((0x0020, 0x1002), "IS", p.number, p.number),
        ((0x0008, 0x0034), "TM", p.last, p.last),
        ((0x0008, 0x0024), "DA", p.last, p.last),
        ((0x0018, 0x9151), "DT", f"{p.birth} {p.last}", f"{p.birth} {p.last}"),
        ((0x0010, 0x2203), "CS", p.last, p.last),
        ((0x0010, 0x21A0), "CS", p.last, p.last),
    ):
        data = text.encode() + b" " * (len(text.encode()) % 2)
        ds[tag] = RawDataElement(Tag(tag), vr, len(data), data, 0, False, True)
        if len(gone) > 3:
            planter.require(A.TEXT_REMOVED, (tag,), gone)
    for keyword, uid in (
        ("SynchronizationFrameOfReferenceUID", p.number),
        ("IrradiationEventUID", f"1.2.276.0.96.{p.birth}.{p.serial}"),
    ):
        ds[keyword] = DataElement(keyword, "UI", uid, validation_mode=IGNORE)
        planter.require(A.UID_CHANGED, (keyword,), uid)


def in_numbers(planter: Planter) -> None:
    """Plant texts and days in elements of numbers and bytes, beside numbers that are to stay."""
    p, ds = planter.person, planter.dataset
    name = f"{p.last} {p.first}"
    for tag, vr, text in (
        ((0x0018, 0x9087), "FD", name),
        ((0x0018, 0x1310), "US", name),
        ((0x0018, 0x9322), "FD", f"{p.stranger} "),
        ((0x0018, 0x9306), "FD", p.birth),
        ((0x0018, 0x9307), "UN", f"{p.stranger}^Ida"),
        ((0x0018, 0x9219), "SS", p.number),
        ((0x0018, 0x6020), "SL", name),
        ((0x0020, 0x9157), "UL", p.day),
        ((0x0028, 0x0009), "AT", name),
        ((0x0066, 0x0016), "OF", name),
        ((0x0028, 0x3006), "OW", f"{name} {p.number}"),
        ((0x0010, 0x4000), "OB", name),
        ((0x0008, 0x103E), "OB", name),
    ):
        size = {"FD": 8, "UN": 8, "US": 2, "SS": 2, "OW": 2, "OB": 2}.get(vr, 4)
        data = text.encode()
        data += b" " * (-len(data) % size)
        ds[tag] = RawDataElement(Tag(tag), vr, len(data), data, 0, False, True)
        _forget(planter, tag)
        # Four letters and fewer are numbers by chance.
        for gone in text.replace("^", " ").split():
            if len(gone) > 4:
                planter.require(A.TEXT_REMOVED, ANYWHERE, gone.encode())
    for tag, vr, data in (
        ((0x0018, 0x1130), "DS", p.day.encode()),
        ((0x0018, 0x1152), "IS", p.birth.encode()),
        ((0x0018, 0x9313), "FD", struct.pack("<d", float(p.day))),
    ):
        ds[tag] = RawDataElement(Tag(tag), vr, len(data), data, 0, False, True)
        _forget(planter, tag)
        planter.require(A.TEXT_REMOVED, (tag,), p.birth if vr == "IS" else p.day)
    for keyword, vr, value in (
        ("RevolutionTime", "FD", 0.75),
        ("TotalCollimationWidth", "FD", 38.4),
        ("PixelPaddingValue", "SS", -2000),
        ("ChannelSensitivity", "DS", "1.25"),
        ("RedPaletteColorLookupTableDescriptor", "US", [256, 0, 16]),
    ):
        ds[keyword] = DataElement(keyword, vr, value)
        planter.require(A.TAG_RETAINED, (keyword,), value)


def _forget(planter: Planter, tag: tuple[int, int]) -> None:
    """Require no longer what was planted at a tag before."""
    items = planter.file.items
    items[:] = [item for item in items if item.place not in ((tag,), (keyword_for_tag(tag),))]


def versions(planter: Planter) -> None:
    """Plant versions, which look like dates and stay, and dates beside them."""
    p = planter.person
    day = f"{int(p.day[6:])}.{int(p.day[4:6])}.{p.day[2:4]}"
    for keyword, text, gone, stays in (
        ("SoftwareVersions", "syngo 2.1.10.4", "", "2.1.10.4"),
        ("ManufacturerModelVersion", "2.1.10", "", "2.1.10"),
        ("AlgorithmVersion", f"3.1.12 of {day}", day, "3.1.12"),
        (
            "ReconstructionMethod",
            f"MLEM v1.12.3 {p.day[6:]}.{p.day[4:6]}.{p.day[:4]}",
            f"{p.day[6:]}.{p.day[4:6]}.{p.day[:4]}",
            "v1.12.3",
        ),
        ("AttenuationCorrectionMethod", f"measured 4.12.11.2 {day}", day, "measured 4.12.11.2"),
    ):
        planter.file.items[:] = [i for i in planter.file.items if i.place != (keyword,)]
        planter.put((keyword,), text, gone, stays)


def garbled(planter: Planter) -> list[tuple[bytes, bytes]]:
    """Plant names in other character sets than the file states, beside what stays.

    Returns:
        What stands in place of each until the file is written, and what it is replaced by.
    """
    p, ds = planter.person, planter.dataset
    stated = "ISO_IR 192" if "ISO_IR 192" in str(ds.SpecificCharacterSet) else "ISO_IR 100"
    read = {"ISO_IR 192": "utf-8", "ISO_IR 100": "latin-1"}[stated]
    ds.SpecificCharacterSet = stated
    texts = " ".join((p.name, p.doctor, p.operator)).replace("^", " ").replace("=", " ").split()
    foreign = [word for word in dict.fromkeys(texts) if not word.isascii() and len(word) > 2]
    forms = [
        form
        for word in foreign
        for encoding in ("utf-8", "latin-1", "shift_jis", "euc_jp", "cp850", "iso2022_jp")
        for form in _garbled(word, encoding)
    ]
    places = (
        *("ReceiveCoilManufacturerName", "TransmitCoilManufacturerName", "ReconstructionMethod"),
        *("ScatterCorrectionMethod", "MultiCoilElementName", "ApplicationName", "ImageFilter"),
        *("AcquisitionMode", "EnergyWindowName", "TypeOfFilters", "StackID", "DoseModeName"),
        *("GridID", "ImagedNucleus", "PulseSequenceName", "LUTLabel"),
    )
    patches = []
    for number, (form, keyword) in enumerate(zip(forms, places, strict=False)):
        mark = f"@{number:02}".encode().ljust(len(form), b"@")
        planter.put((keyword,), f"K7 {mark.decode()}", "", "K7")
        patches.append((mark, form))
        planter.require(A.TEXT_REMOVED, ANYWHERE, form)
        # What is escaped is read as what it was meant to be.
        if b"\x1b" not in form:
            planter.require(A.TEXT_REMOVED, (keyword,), form.decode(read, "replace"))
    return patches


def _garbled(word: str, encoding: str) -> list[bytes]:
    """Return a word as it stands after a wrong reading, at least three bytes."""
    try:
        right = word.encode(encoding)
    except UnicodeError:
        return []
    twice = right.decode("latin-1").encode("utf-8")
    lost = [] if right.isascii() else [right.decode("ascii", "replace").encode("utf-8")]
    tells = sum(letter.isascii() for letter in word) > 2
    return [form for form in (right, twice, *(lost if tells else [])) if len(form) > 2]


def _devices(planter: Planter) -> None:
    """Texts of devices, of which research needs most, with a name, a number or a place in them."""
    p = planter.person
    plain = p.last.replace("ü", "u").replace("Ü", "U")
    for keyword, text, gone, stays in (
        ("SoftwareVersions", f"VB10A {p.last}", p.last, "VB10A"),
        ("StationName", f"CT {p.hospital.split()[1]}", p.hospital.split()[1], ""),
        ("ConvolutionKernel", f"B31f {plain}", plain, "B31f"),
        ("ReceiveCoilName", f"HeadNeck {p.number}", p.number, ""),
        ("SequenceName", f"epfid2d1 {p.accession}", p.accession, ""),
        ("FilterType", f"WEDGE {p.last}s", p.last, "WEDGE"),
        ("DetectorID", p.last, p.last, ""),
        ("DeviceDescription", f"gekauft von {p.doctor.split('^')[0]}", p.doctor.split("^")[0], ""),
        ("CollimatorGridName", p.last[:9], p.last[:9], ""),
    ):
        if planter.dataset.get(keyword):
            # What was to stay is another text now.
            items = planter.file.items
            items[:] = [i for i in items if (i.action, i.place) != (A.TAG_RETAINED, (keyword,))]
        planter.put((keyword,), text, gone if len(gone) > 3 else "", stays)


def _codes(planter: Planter) -> None:
    """Names in code strings and in meanings of public codes."""
    p = planter.person
    planter.put(("PatientOrientation",), ["L", "P"])
    planter.require(A.TAG_RETAINED, ("PatientOrientation",), ["L", "P"])
    place = ("AnatomicRegionSequence", 0)
    planter._code(place, "10200004", "SCT", f"Liver {p.last}")
    planter.require(A.TEXT_REMOVED, (*place, "CodeMeaning"), p.last)
    planter.require(A.TAG_RETAINED, (*place, "CodeValue"), "10200004")
    place = ("ViewCodeSequence", 0)
    planter._code(place, p.number, f"99{p.last[:8].upper()}", "axial")
    planter.require(A.TEXT_REMOVED, place, f"{p.number} 99{p.last[:8].upper()}")
    item = ("AcquisitionContextSequence", 0)
    planter.put((*item, "ValueType"), "TEXT")
    planter._code((*item, "ConceptNameCodeSequence", 0), "121106", "DCM", "Comment")
    planter.put((*item, "TextValue"), f"{p.first} {p.stranger}", f"{p.first} {p.stranger}")
    planter.put(("ContributingEquipmentSequence", 0, "InstitutionName"), p.hospital, p.hospital)
    planter.put(("ContributingEquipmentSequence", 0, "OperatorsName"), p.operator, p.operator)
    planter.put(("ContributingEquipmentSequence", 0, "Manufacturer"), "Sonomaker")
    # Of two letters each code string may be a name by chance, and none of them can be left out.
    if len(p.last) > 3:
        name = p.last[:12].upper().replace("Ü", "UE")
        planter.put(("ImageLaterality",), name, name)


def _spellings(planter: Planter) -> None:
    """Identifiers in other spellings, and dates as people write them."""
    p = planter.person
    year, month, day = p.day[:4], p.day[4:6], p.day[6:]
    plain = p.last.replace("ü", "ue").replace("Ü", "Ue")
    for keyword, text, gone, stays in (
        ("ReasonForTheRequestedProcedure", f"Thorax {plain.upper()}", plain, "Thorax"),
        ("ReasonForStudy", f"liver {p.first.lower()}{p.last.lower()}", p.last, "liver"),
        ("PerformedProcedureStepID", f"{p.last}{p.first}", f"{p.last} {p.first}", ""),
        ("ScheduledProcedureStepDescription", f"Abdomen {p.serial}", p.serial, "Abdomen"),
        ("ContrastBolusAgent", f"contrast {day}.{month}.{year}", f"{day}.{month}.{year}", ""),
        ("RequestedProcedureComments", f"{int(day)}/{int(month)}/{year}", f"/{year}", ""),
        ("StudyComments", f"seen March {int(day)}, {year} by {p.stranger}", p.stranger, ""),
        ("VisitComments", f"{p.first[0]}. {p.last}, {p.phone}", f"{p.last} {p.phone}", ""),
        ("DerivationDescription", f"MPR for {p.last} {year}-{month}-{day}", p.last, "MPR"),
        ("ServiceEpisodeDescription", f"Tumor board {p.stranger}", p.stranger, ""),
        ("CurrentPatientLocation", f"Station {p.stranger}", p.stranger, ""),
        ("ClinicalTrialProtocolName", f"Studie {p.hospital}", p.hospital, ""),
    ):
        planter.put((keyword,), text, gone, stays)
    planter.put(
        ("OtherPatientNames",),
        [f"{p.last}^{p.first}", f"{p.stranger}^{p.first}"],
        f"{p.last} {p.first} {p.stranger}",
    )


def _against_the_standard(planter: Planter) -> None:
    """Elements whose value representation is another than the standard's, or whose value is none.

    They are what converters and old archives leave, and readers read them all the same.
    """
    p, ds = planter.person, planter.dataset
    name = f"{p.last} {p.first}".encode()
    for tag, vr, value, gone in (
        # A name as bytes, an address as UN, a number that is none, a time that is a name.
        ((0x0010, 0x1005), "UN", name + b" " * (len(name) % 2), f"{p.last} {p.first}"),
        ((0x0010, 0x1040), "UN", p.address.encode().ljust(40), p.address.split()[0]),
        ((0x0018, 0x1130), "LO", f"{p.last}", p.last),
        ((0x0028, 0x1055), "LO", p.number, p.number),
        # Group lengths and elements that no edition of the standard has.
        ((0x0010, 0xFF01), "LO", p.last, p.last),
        ((0x0088, 0x0906), "ST", f"Notiz {p.last}", p.last),
        ((0x7001, 0x0010), "LO", p.last, p.last),
        ((0x0011, 0x0001), "LO", p.number, p.number),
        # Retired: the patient's name in the interpretation, the study and the results.
        ((0x4008, 0x010B), "ST", f"Befund {p.last}", p.last),
        ((0x4008, 0x0102), "PN", p.doctor, p.doctor),
        ((0x0032, 0x1033), "LO", p.hospital, p.hospital),
        ((0x0038, 0x0500), "LO", p.last, p.last),
    ):
        ds[tag] = DataElement(tag, vr, value)
        planter.require(A.TEXT_REMOVED, (tag,), gone)


def _deep(planter: Planter) -> None:
    """Private elements and unknown ones within sequences of the standard."""
    p, ds = planter.person, planter.dataset
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = "113040", "DCM"
    item.CodeMeaning = "Lossy Compression"
    block = item.private_block(0x0011, "ACME", create=True)
    block.add_new(0x01, "LO", p.last)
    item.add_new((0x0008, 0xFF02), "UN", p.number.encode() + b"\0")
    ds.DerivationCodeSequence = [item]
    place = ("DerivationCodeSequence", 0)
    planter.require(A.TEXT_REMOVED, (*place, (0x0011, 0x1001)), p.last)
    planter.require(A.TEXT_REMOVED, (*place, (0x0008, 0xFF02)), p.number)
    planter.require(A.TAG_RETAINED, (*place, "CodeValue"), "113040")
    inner = Dataset()
    inner.add_new((0x0009, 0x0010), "LO", "ACME")
    inner.add_new((0x0009, 0x1001), "PN", p.name)
    outer = Dataset()
    outer.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    outer.ReferencedSOPInstanceUID = f"1.2.276.0.98.{p.birth}.{p.serial}"
    outer.add_new((0x0040, 0xFF03), "SQ", Sequence([inner]))
    ds.ReferencedImageSequence = [outer]
    place = ("ReferencedImageSequence", 0)
    planter.require(A.TEXT_REMOVED, (*place, (0x0040, 0xFF03)), p.last)
    uid = (*place, "ReferencedSOPInstanceUID")
    planter.require(A.UID_CHANGED, uid, outer.ReferencedSOPInstanceUID)
    planter.require(A.UID_CONSISTENT, uid, outer.ReferencedSOPInstanceUID)
    # A group of one study whose name is another patient's.
    other = Dataset()
    other.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.1.1"
    other.ReferencedSOPInstanceUID = f"1.2.276.0.97.{p.serial}"
    ds.ReferencedPatientSequence = [other]
    place = ("ReferencedPatientSequence", 0, "ReferencedSOPInstanceUID")
    planter.require(A.UID_CHANGED, place, other.ReferencedSOPInstanceUID)
    ds.ReferencedStudySequence = [copy.deepcopy(other)]
    ds.ReferencedStudySequence[0].ReferencedSOPInstanceUID = ds.StudyInstanceUID
    place = ("ReferencedStudySequence", 0, "ReferencedSOPInstanceUID")
    planter.require(A.UID_CHANGED, place, str(ds.StudyInstanceUID))


def _places(planter: Planter) -> None:
    """Dates and ages in places that are rarely filled."""
    p, ds = planter.person, planter.dataset
    ds.StudyVerifiedDate = ds.StudyReadDate = p.day
    planter.require(A.TEXT_REMOVED, ("StudyVerifiedDate",), p.day)
    planter.require(A.TEXT_REMOVED, ("StudyReadDate",), p.day)
    ds.LastMenstrualDate = p.birth
    planter.require(A.TEXT_REMOVED, ("LastMenstrualDate",), p.birth)
    ds.PatientBirthTime = "031500"
    planter.require(A.TEXT_REMOVED, ("PatientBirthTime",), "031500")


def only_kept_whole(file: Planted) -> None:
    """Require of a file that is to stay that nothing of it leaves, and no more."""
    removing = {A.TEXT_REMOVED, A.PIXELS_HIDDEN}
    file.items[:] = [item for item in file.items if item.action in removing]


def burned(dataset: Dataset, text: str, area: tuple[slice, slice]) -> Item:
    """Burn a text into monochrome pixels and return what is required of it."""
    values = dataset.pixel_array.copy()
    rows, columns = area
    shape = rows.stop - rows.start, columns.stop - columns.start
    values[rows, columns][drawn_text(text, *shape) > 0] = np.iinfo(np.int16).max // 8
    dataset.PixelData = values.tobytes()
    return Item(A.PIXELS_HIDDEN, ("PixelData",), area)

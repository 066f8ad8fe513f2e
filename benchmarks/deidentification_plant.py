"""Tokens planted into a data set: identifiers of an invented patient in every kind of element."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from deidentification_items import (
    ANYWHERE,
    META,
    PREAMBLE,
    Action,
    Item,
    Place,
    Planted,
)

A = Action


@dataclass(frozen=True)
class Person:
    """An invented patient, and who has to do with them.

    Attributes:
        name: of the patient, a PN.
        number: Patient ID.
        birth: date of birth.
        accession: Accession Number.
        address: street and town.
        phone: telephone number.
        doctor: a physician's name, a PN.
        operator: a technologist's name, a PN.
        stranger: a family name that stands in texts alone.
        hospital: name of the institution.
        day: date of the study.
        age: AS.
    """

    name: str
    number: str
    birth: str
    accession: str
    address: str
    phone: str
    doctor: str
    operator: str
    stranger: str
    hospital: str
    day: str
    age: str

    def day_after(self, days: int) -> str:
        """A date so many days after the study, DA."""
        day = datetime.strptime(self.day, "%Y%m%d") + timedelta(days)
        return day.strftime("%Y%m%d")

    @property
    def serial(self) -> str:
        """Digits of the Patient ID."""
        return re.sub(r"\D", "", self.number)

    @property
    def last(self) -> str:
        """Family name in ASCII."""
        return re.split("[,^=]", self.name)[0]

    @property
    def first(self) -> str:
        """Given name."""
        return re.split("[,^=]", self.name)[1].strip()


PEOPLE = (
    Person(
        *("Wolkenstein^Ottokar^Emil^Dr.", "PID-7731904", "19430117", "ACC8812045"),
        *("Gerbergasse 17 Tübingen", "+49-7071-555812", "Quastenberg^Irmhild", "Zwickelbauer^Lutz"),
        *("Hennebrück", "Klinikum Sanktforst", "20210304", "078Y"),
    ),
    Person(
        *("Müllershausen^Änne-Sophie", "PID-5520417", "19880629", "ACC3345561"),
        *("Fliederweg 4 Hagenstadt", "+49-511-555903", "Leber^Kunigunde", "Tannhäußer^Veit"),
        *("Pfisterer", "Klinikum Sanktforst", "20201119", "032Y"),
    ),
    Person(
        *("Yamadori^Tarobei=山鳥^太郎兵衛=やまどり^たろべえ", "PID-9043388", "19250210"),
        *("ACC7781230", "Kirschallee 88 Nordheim", "+49-30-555127", "Lindqvarn^Åsa"),
        *("Brøndum^Niels", "Castellano-Ruiz", "Hospital Ostermoor", "20220708", "097Y"),
    ),
    Person(
        *("Ng^Bao", "NG-20443", "20010930", "K99120N"),
        *("Hafenzeile 3 Suderby", "+49-40-555311", "Oh^Min", "Vogelsang^Pia"),
        *("Drachenfels", "Klinik Suderby", "20190501", "017Y"),
    ),
    Person(
        *("Sternberger, Wilhelmine", "q2-440917x", "19610831", "2022/11-0815"),
        *("Roßmarkt 9 Kaltental", "0711 555-614", "Prof. Eichendorff", "Iffland"),
        *("Schnackenburg", "Kreiskrankenhaus Kaltental", "20221130", "061Y"),
    ),
)

RETAINED = (
    *("Modality", "SOPClassUID", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient"),
    *("ImageOrientationPatient", "SliceThickness", "KVP", "ConvolutionKernel", "RescaleSlope"),
    *("RescaleIntercept", "BitsStored", "PixelRepresentation", "Manufacturer", "PatientPosition"),
    *("ManufacturerModelName", "EchoTime", "RepetitionTime", "FlipAngle", "SeriesNumber"),
    *("InstanceNumber", "ImageType", "PatientSex", "PatientSize", "PatientWeight", "Units"),
    *("DecayCorrection", "StudyTime", "SeriesTime", "AcquisitionTime", "MagneticFieldStrength"),
    *("NumberOfFrames", "SegmentationType", "BodyPartExamined"),
)
"""Attributes that research needs, and that identify nobody."""
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


class Planter:
    """Plants one patient's tokens into one file."""

    def __init__(self, file: Planted, person: Person) -> None:
        self.file = file
        self.dataset = file.dataset
        self.person = person

    def require(self, action: Action, place: Place, value: Any) -> None:
        """Add an item."""
        self.file.items.append(Item(action, place, value, self.person.number))

    def put(self, place: Place, value: Any, gone: str | bytes = "", stays: str = "") -> None:
        """Write a value at a place, and require that a part of it goes and another stays."""
        target: Any = self.dataset
        for step in place[:-1]:
            target = _step(target, step)
        setattr(target, place[-1], value)
        if gone:
            self.require(A.TEXT_REMOVED, place, gone)
        if stays:
            self.require(A.TEXT_RETAINED, place, stays)

    def everything(self) -> None:
        """Plant what any object can hold."""
        self.names()
        self.numbers()
        self.texts()
        self.nested()
        self.private()
        self.dates()
        self.binary()
        self.identity()

    def names(self) -> None:
        """Names of persons (PN)."""
        p = self.person
        self.put(("PatientName",), p.name, p.name.replace("Dr.", ""))
        for keyword in ("OtherPatientNames", "PatientBirthName", "PatientMotherBirthName"):
            self.put((keyword,), f"{p.last}^{p.first}", f"{p.last}^{p.first}")
        for keyword, name in (
            ("ReferringPhysicianName", p.doctor),
            ("PhysiciansOfRecord", p.doctor),
            ("PerformingPhysicianName", p.doctor),
            ("RequestingPhysician", p.doctor),
            ("OperatorsName", p.operator),
            ("ResponsiblePerson", f"{p.stranger}^Ida"),
        ):
            self.put((keyword,), name, name)

    def numbers(self) -> None:
        """Identifiers, addresses and places (LO, SH, AE, ST, UR, UC, LT)."""
        p = self.person
        self.require(A.PATID_CONSISTENT, ("PatientID",), p.number)
        self.put(("PatientID",), p.number, p.number)
        for keyword, value in (
            ("OtherPatientIDs", p.number),
            ("AccessionNumber", p.accession),
            ("StudyID", p.accession),
            ("AdmissionID", f"ADM{p.accession}"),
            ("IssuerOfPatientID", "SANKTFORST"),
            ("PatientAddress", p.address),
            ("PatientTelephoneNumbers", p.phone),
            ("PatientTelecomInformation", f"{p.last}@example.org".lower()),
            ("MedicalRecordLocator", p.number),
            ("InstitutionName", p.hospital),
            ("InstitutionAddress", p.address),
            ("InstitutionalDepartmentName", f"Radiologie {p.stranger}"),
            ("RegionOfResidence", "Hagenstadt"),
            ("Occupation", "Glockengießer"),
            ("PatientReligiousPreference", "Zeugin"),
            ("InsurancePlanIdentification", f"INS{p.number}"),
            ("ClinicalTrialSubjectID", p.number),
            ("RetrieveAETitle", p.last[:12].upper().replace("Ü", "UE")),
            ("StrainDescription", f"{p.last} {p.first}"),
            ("RetrieveURL", f"https://pacs.example.org/{p.number}/{p.birth}"),
            ("LabelText", f"{p.last} {p.birth}"),
        ):
            gone = value.replace("Radiologie ", "")
            self.put((keyword,), value, gone)

    def texts(self) -> None:
        """Texts in which what identifies stands beside what research needs."""
        p = self.person
        day = f"{p.day[:4]}-{p.day[4:6]}-{p.day[6:]}"
        self.put(
            ("SeriesDescription",),
            f"Thorax axial {p.last} {day}",
            f"{p.last} {day}",
            "Thorax axial",
        )
        family = p.doctor.split("^")[0]
        self.put(
            ("StudyDescription",),
            f"CT Abdomen Dr. {family} {p.accession}",
            f"{family} {p.accession}",
            "CT Abdomen",
        )
        self.put(("ProtocolName",), f"Abdomen_{p.last.upper()}", p.last, "Abdomen")
        self.put(
            ("RequestedProcedureDescription",),
            f"MR liver with contrast, call {p.phone}",
            p.phone,
            "MR liver contrast",
        )
        self.put(
            ("PerformedProcedureStepDescription",),
            f"PET whole body wie mit {p.stranger} besprochen",
            p.stranger,
            "PET whole body",
        )
        self.put(("AcquisitionProtocolDescription",), f"lung for {p.first}", p.first, "lung")
        for keyword in ("AdditionalPatientHistory", "PatientComments", "ImageComments"):
            text = f"{p.first} {p.last}, geb. {p.birth}, {p.phone}"
            self.put((keyword,), text, f"{p.first} {p.last} {p.birth} {p.phone}")
        self.put(("CommentsOnRadiationDose",), f"siehe {p.accession}", p.accession)
        self.put(("AdmittingDiagnosesDescription",), f"Sturz, sagt {p.stranger}", p.stranger)
        for tag, vr in (
            ((0x4000, 0x4000), "LT"),
            ((0x0018, 0x4000), "LT"),
            ((0x0008, 0x4000), "LT"),
        ):
            self.dataset.add_new(tag, vr, f"{p.last} {p.number}")
            self.require(A.TEXT_REMOVED, (tag,), f"{p.last} {p.number}")

    def nested(self) -> None:
        """Sequences in sequences."""
        p = self.person
        self.put(("OtherPatientIDsSequence", 0, "PatientID"), p.number, p.number)
        self.put(("RequestAttributesSequence", 0, "RequestedProcedureID"), p.accession, p.accession)
        self.put(
            ("RequestAttributesSequence", 0, "ScheduledProcedureStepDescription"),
            f"Thorax {p.last}",
            p.last,
            "Thorax",
        )
        protocol = ("RequestAttributesSequence", 0, "ScheduledProtocolCodeSequence", 0)
        self._code(protocol, "77477000", "SCT", "Computed tomography")
        self.require(A.TAG_RETAINED, (*protocol, "CodeValue"), "77477000")
        self._code(("ProcedureCodeSequence", 0), "X17", "99SANKTFORST", f"Nach {p.stranger}")
        self.require(A.TEXT_REMOVED, ("ProcedureCodeSequence", 0, "CodeMeaning"), p.stranger)
        doctor = ("ReferringPhysicianIdentificationSequence", 0)
        self.put((*doctor, "InstitutionName"), p.hospital, p.hospital)
        person = (*doctor, "PersonIdentificationCodeSequence", 0)
        self._code(person, "12345", "99SANKTFORST", p.doctor.replace("^", " "))
        self.require(A.TEXT_REMOVED, (*person, "CodeMeaning"), p.doctor)
        before = ("OriginalAttributesSequence", 0, "ModifiedAttributesSequence", 0)
        self.put((*before, "PatientName"), p.name, p.last)
        self.put((*before, "PatientBirthDate"), p.birth, p.birth)
        self.put(("IssuerOfAccessionNumberSequence", 0, "LocalNamespaceEntityID"), "OSTERMOORRIS")
        self.require(
            A.TEXT_REMOVED,
            ("IssuerOfAccessionNumberSequence", 0, "LocalNamespaceEntityID"),
            "OSTERMOORRIS",
        )
        deep = ("SourceImageSequence", 0, "PurposeOfReferenceCodeSequence", 0)
        self._code(deep, "121320", "DCM", "Uncompressed predecessor")
        self.require(A.TAG_RETAINED, (*deep, "CodeValue"), "121320")
        uid = f"1.2.276.0.99.{p.serial}.77"
        self.put(("SourceImageSequence", 0, "ReferencedSOPInstanceUID"), uid)
        self.put(("SourceImageSequence", 0, "ReferencedSOPClassUID"), "1.2.840.10008.5.1.4.1.1.2")
        place = ("SourceImageSequence", 0, "ReferencedSOPInstanceUID")
        self.require(A.UID_CHANGED, place, uid)
        self.require(A.UID_CONSISTENT, place, uid)
        place = ("SourceImageSequence", 0, "ReferencedSOPClassUID")
        self.require(A.TAG_RETAINED, place, "1.2.840.10008.5.1.4.1.1.2")

    def _code(self, place: Place, value: str, scheme: str, meaning: str) -> None:
        self.put((*place, "CodeValue"), value)
        self.put((*place, "CodingSchemeDesignator"), scheme)
        self.put((*place, "CodeMeaning"), meaning)

    def private(self) -> None:
        """Private elements, with and without a creator, and one that is known to be safe."""
        p, ds = self.person, self.dataset
        block = ds.private_block(0x0009, f"{p.last.upper()} PRIVATE", create=True)
        block.add_new(0x01, "LO", f"{p.last}^{p.first}")
        block.add_new(0x02, "SH", p.number)
        block.add_new(0x03, "DA", p.birth)
        block.add_new(0x04, "UN", f"{p.last} {p.first}".encode())
        item = Dataset()
        item.PatientName = p.name
        block.add_new(0x05, "SQ", Sequence([item]))
        for element, gone in (
            (0x0010, p.last),
            (0x1001, p.last),
            (0x1002, p.number),
            (0x1003, p.birth),
            (0x1004, f"{p.last} {p.first}"),
            (0x1005, p.last),
        ):
            self.require(A.TEXT_REMOVED, ((0x0009, element),), gone)
        ds[0x0021, 0x1001] = DataElement((0x0021, 0x1001), "LO", p.number)
        self.require(A.TEXT_REMOVED, ((0x0021, 0x1001),), p.number)
        # Table E.3.10-1 of PS3.15 has it as safe: the b-value of Siemens.
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", "800")
        self.require(A.TAG_RETAINED, ((0x0019, 0x100C),), 800)

    def dates(self) -> None:
        """Dates (DA, DT), which are to move alike, and that of the birth, which is to go."""
        p, ds = self.person, self.dataset
        self.put(("PatientBirthDate",), p.birth, p.birth)
        for keyword, later in (
            *(("StudyDate", 0), ("SeriesDate", 0), ("AcquisitionDate", 0), ("ContentDate", 1)),
            *(("InstanceCreationDate", 2), ("PerformedProcedureStepStartDate", 0)),
            *(("PerformedProcedureStepEndDate", 1), ("DateOfLastCalibration", -40)),
        ):
            value = p.day_after(later)
            setattr(ds, keyword, value)
            self.require(A.DATE_SHIFTED, (keyword,), value)
        ds.AcquisitionDateTime = f"{p.day}101500.123456+0100"
        self.require(A.DATE_SHIFTED, ("AcquisitionDateTime",), ds.AcquisitionDateTime)
        for keyword in ("RadiopharmaceuticalInformationSequence",):
            if ds.get(keyword):
                place = (keyword, 0, "RadiopharmaceuticalStartDateTime")
                self.put(place, f"{p.day}091500")
                self.require(A.DATE_SHIFTED, place, f"{p.day}091500")
                for kept in ("RadionuclideTotalDose", "RadionuclideHalfLife"):
                    self.require(A.TAG_RETAINED, (keyword, 0, kept), ds[keyword][0].get(kept))
        ds.PatientAge = p.age
        if int(p.age[:3]) > 89:
            self.require(A.TEXT_REMOVED, ("PatientAge",), p.age)
        else:
            self.require(A.TAG_RETAINED, ("PatientAge",), p.age)

    def binary(self) -> None:
        """Bytes and words: overlays, curves, signatures, icons, padding."""
        p, ds = self.person, self.dataset
        drawn = np.packbits(drawn_text(p.last, 64, 128).ravel(), bitorder="little").tobytes()
        for element, vr, value in (
            *((0x0010, "US", 64), (0x0011, "US", 128), (0x0040, "CS", "G")),
            *((0x0050, "SS", [1, 1]), (0x0100, "US", 1), (0x0102, "US", 0)),
            *((0x1500, "LO", p.last), (0x3000, "OW", drawn), (0x4000, "LT", p.number)),
        ):
            ds.add_new((0x6000, element), vr, value)
        self.require(A.TEXT_REMOVED, ((0x6000, 0x3000),), drawn)
        self.require(A.TEXT_REMOVED, ((0x6000, 0x1500),), p.last)
        self.require(A.TEXT_REMOVED, ((0x6000, 0x4000),), p.number)
        for tag, vr in (
            *(((0x5000, 0x3000), "OW"), ((0xFFFC, 0xFFFC), "OB"), ((0x0400, 0x0120), "OB")),
            ((0x0018, 0xFFF1), "UN"),
        ):
            name = f"{p.last} {p.number}"
            ds.add_new(tag, vr, name.encode() + b"\0" * (len(name.encode()) % 2))
            self.require(A.TEXT_REMOVED, (tag,), name)
        ds.add_new((0x5000, 0x0022), "LO", p.last)
        self.require(A.TEXT_REMOVED, ((0x5000, 0x0022),), p.last)
        icon = Dataset()
        icon.Rows, icon.Columns, icon.SamplesPerPixel = 16, 96, 1
        icon.BitsAllocated, icon.BitsStored, icon.HighBit, icon.PixelRepresentation = 8, 8, 7, 0
        icon.PhotometricInterpretation = "MONOCHROME2"
        icon.PixelData = (drawn_text(p.last, 16, 96) * np.uint8(255)).tobytes()
        ds.IconImageSequence = [icon]
        place = ("IconImageSequence", 0, "PixelData")
        self.require(A.TEXT_REMOVED, place, icon.PixelData)

    def identity(self) -> None:
        """UIDs and what is retained; the file around the data set."""
        p, ds = self.person, self.dataset
        for keyword in UIDS:
            if ds.get(keyword):
                uid = str(ds[keyword].value)
                self.require(A.UID_CHANGED, (keyword,), uid)
                self.require(A.UID_CONSISTENT, (keyword,), uid)
                self.require(A.TEXT_NOTNULL, (keyword,), "")
        for keyword in RETAINED:
            if ds.get(keyword) not in (None, ""):
                self.require(A.TAG_RETAINED, (keyword,), ds[keyword].value)
        ds.preamble = f"{p.last} {p.number}".encode().ljust(128, b"\0")
        self.require(A.TEXT_REMOVED, PREAMBLE, f"{p.last} {p.number}")
        ds.file_meta.SourceApplicationEntityTitle = "SANKTFORST"
        ds.file_meta.PrivateInformationCreatorUID = "1.2.276.0.99.1"
        ds.file_meta.PrivateInformation = p.last.encode().ljust(32, b"\0")
        self.require(A.TEXT_REMOVED, META, f"SANKTFORST {p.last}")
        phone = p.phone.split()[-1]
        for gone in (p.number, p.birth, p.accession, p.last, p.first, phone, p.stranger):
            # Shorter ones stand in any file by chance.
            if len(gone) > 5:
                self.require(A.TEXT_REMOVED, ANYWHERE, gone)


def drawn_text(text: str, rows: int, columns: int) -> np.ndarray:
    """Return a picture of a text, 1 where it is."""
    image = Image.new("L", (columns, rows))
    ImageDraw.Draw(image).text((2, 2), text, fill=1)
    return np.asarray(image, np.uint8)


def _step(target: Any, step: Any) -> Any:
    """Return what is at a step of a place, made where it is missing."""
    if isinstance(step, str):
        if not target.get(step):
            setattr(target, step, [Dataset()])
        return target[step].value
    while len(target) <= step:
        target.append(Dataset())
    return target[step]

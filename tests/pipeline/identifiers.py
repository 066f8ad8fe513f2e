"""Headers and paths that name patients in every way, and the tokens by which they are found."""

from __future__ import annotations

import os
from pathlib import Path

import pydicom

from jipflow.privacy.identifying import identifying_values
from jipflow.privacy.spellings import name_parts

PEOPLE = (
    {
        "PatientID": "Q7",
        "PatientName": "Müllerová^Žofie",
        "PatientBirthDate": "19531204",
        "AccessionNumber": "ACC-90X1",
        "OtherPatientIDs": "OPID-77031",
    },
    {
        "PatientID": "Äß-4",
        "PatientName": "O'Donoghue^Fionnuala=王^小东=Прасковья",
        "PatientBirthDate": "19390225",
        "AccessionNumber": "ACC-90X2",
        "OtherPatientIDs": "OPID-77131",
    },
)
ALL = {
    "SpecificCharacterSet": "ISO_IR 192",
    "ReferringPhysicianName": "Überweiser^Kunibert",
    "OperatorsName": "Bedienerin^Roswitha",
    "InstitutionName": "Sankt-Gotthelf-Spital",
    "InstitutionAddress": "Zwiebelgasse 17",
    "PatientAddress": "Kümmelweg 99",
    "PatientComments": "sister of Hasenfratz",
    "IssuerOfPatientID": "Oberwiesental",
    "StudyID": "SID-4411",
}
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


def plant(source: Path, target: Path) -> None:
    """Copy an archive of two patients; headers and names of folders and files name these."""
    people: dict[str, dict[str, str]] = {}
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for number, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        if dataset.PatientID not in people:
            people[dataset.PatientID] = PEOPLE[len(people)]
        person = people[dataset.PatientID]
        for keyword, value in (ALL | person).items():
            setattr(dataset, keyword, value)
        name = person["PatientName"].partition("^")[0]
        file = target / f"{name} {person['PatientID']}" / f"{dataset.Modality} {name}{number}.dcm"
        file.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(file)


def tokens(archive: Path, common: frozenset[str] = frozenset()) -> dict[str, str]:
    """What names patients in the headers and paths of an archive, by the kind and a number.

    Args:
        archive: folder of DICOM files, one folder a series or a patient.
        common: words that stand in other places, too.
    """
    found: dict[str, set[str]] = {kind: set() for kind in ("value", "UID", "path")}
    for folder, _, names in os.walk(archive):
        files = [Path(folder, name) for name in sorted(names)]
        identifiers, values = identifying_values([files])
        found["value"] |= identifiers
        for value in values:
            found["value"] |= set(name_parts(value) if "^" in value else [value])
        found["path"] |= {path.name for path in files}
        # A folder named after the day of a scan names nobody; notes of SUV have that day.
        if Path(folder) != archive and not Path(folder).name.isdigit():
            found["path"].add(Path(folder).name)
        for path in files[:1]:
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            found["UID"] |= {str(dataset[name].value) for name in UIDS if name in dataset}
    return {
        f"{kind} {number}": text
        for kind, texts in found.items()
        for number, text in enumerate(sorted(texts - common))
        # A short number is a count everywhere.
        if text.strip() and not (text.isdigit() and len(text) < 6)
    }

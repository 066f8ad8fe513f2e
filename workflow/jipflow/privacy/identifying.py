"""What the header of an image says of whom it is, so that messages can be kept free of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

KEYWORDS = frozenset(
    {
        *("PatientID", "IssuerOfPatientID", "OtherPatientIDs", "PatientBirthDate"),
        *("PatientBirthTime", "PatientAddress", "PatientTelephoneNumbers", "PatientComments"),
        *("PatientTelecomInformation", "CountryOfResidence", "RegionOfResidence"),
        *("InsurancePlanIdentification", "MedicalRecordLocator", "MilitaryRank", "Occupation"),
        *("AccessionNumber", "StudyID", "AdmissionID", "ServiceEpisodeID", "RequestedProcedureID"),
        *("FillerOrderNumberImagingServiceRequest", "PlacerOrderNumberImagingServiceRequest"),
        *("InstitutionName", "InstitutionAddress", "ReferringPhysicianAddress"),
        *("ReferringPhysicianTelephoneNumbers", "ResponsibleOrganization"),
        *("PersonAddress", "PersonTelephoneNumbers"),
    }
)
"""Attributes that PS3.15 table E.1-1 has de-identification remove or replace since they are of a
person, beside every one of VR PN."""

IDENTIFIERS = frozenset({"PatientID", "OtherPatientIDs"})


def identifying_values(paths: Iterable[Path]) -> tuple[set[str], set[str]]:
    """Return identifiers of patients, and other values of persons, of the headers of files.

    A name has a ``^`` in it.

    Args:
        paths: DICOM files; one that cannot be read says nothing, and a message about it neither.
    """
    import pydicom

    identifiers: set[str] = set()
    values: set[str] = set()
    for path in paths:
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            for element in dataset.iterall():
                if element.VR != "PN" and element.keyword not in KEYWORDS:
                    continue
                many = element.VM > 1
                texts = set(map(str, element.value)) if many else {str(element.value or "")}
                if element.VR == "PN":
                    # By its mark a name without components is one, too.
                    texts = {text if "^" in text else f"{text}^" for text in texts}
                (identifiers if element.keyword in IDENTIFIERS else values).update(texts)
        # Whatever a damaged header has pydicom raise: what of it is known stays known.
        except Exception:
            continue
    return identifiers - {""}, values - {"", "^"}

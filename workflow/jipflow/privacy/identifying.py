"""What the header of an image says of whom it is, so that messages can be kept free of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement, RawDataElement
    from pydicom.dataset import Dataset

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

HOLDERS = frozenset({"PN", "SQ", "UN"})
"""VRs of names, of what has elements within it, and of what a private dictionary may name so."""

TRIED = 3
"""Files of a series that are tried in vain: that cannot be opened, or are whole and name nobody."""

IDENTIFIERS = frozenset({"PatientID", "OtherPatientIDs"})


def identifying_values(series: Iterable[Iterable[Path]]) -> tuple[set[str], set[str]]:
    """Return identifiers of patients, and other values of persons, of the headers of series.

    A name has a ``^`` in it.

    Args:
        series: of each the DICOM files, of which those up to the first that names a patient count.
            Of an archive that is away none can be opened, and each may take its time; so at most
            `TRIED` are tried in vain, beside those that are damaged.
    """
    identifiers: set[str] = set()
    values: set[str] = set()
    for paths in series:
        in_vain = 0
        for path in paths:
            own, others, is_sound = _named_in(path)
            identifiers |= own
            values |= others
            in_vain += is_sound
            if in_vain == TRIED or own or any("^" in value for value in others):
                break
    return identifiers, values


def _named_in(path: Path) -> tuple[set[str], set[str], bool]:
    """Return identifiers and other values of persons of a header, and whether it is not damaged.

    One that cannot be opened has none, and is not known to be damaged.
    """
    import pydicom

    try:
        with open(path, "rb") as stream:
            try:
                dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
            # Whatever a damaged file has pydicom raise, an OSError without a number, too.
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                return set(), set(), False
    except OSError:
        return set(), set(), True
    identifiers: set[str] = set()
    values: set[str] = set()
    for element in _elements(dataset):
        if element.VR != "PN" and element.keyword not in KEYWORDS:
            continue
        many = element.VM > 1
        texts = set(map(str, element.value)) if many else {str(element.value or "")}
        if element.VR == "PN":
            # By its mark a name without components is one, too.
            texts = {text if "^" in text else f"{text}^" for text in texts}
        (identifiers if element.keyword in IDENTIFIERS else values).update(texts)
    return identifiers - {""}, values - {"", "^"}, "SOPClassUID" in dataset


def _may_name(element: DataElement | RawDataElement) -> bool:
    """Return whether an element may be of a person or hold one that is, before its value is read.

    A structure set has a million coordinates, whose reading takes seconds.
    """
    from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag

    known = dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else "UN"
    return (element.VR or known) in HOLDERS or keyword_for_tag(element.tag) in KEYWORDS


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """Yield the elements of all levels that can be read, whatever stands before them."""
    for tag in sorted(dataset.keys()):
        try:
            if not _may_name(dataset.get_item(tag)):
                continue
            element = dataset[tag]
        # Whatever a damaged value has pydicom raise: messages about it name the patient, too.
        except Exception:
            continue
        if element.VR == "SQ":
            for item in element.value or []:
                yield from _elements(item)
        else:
            yield element

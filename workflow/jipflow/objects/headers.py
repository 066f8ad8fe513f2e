"""What a derived object takes over from the header of its source series, repaired where need be."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.charset import convert_encodings, python_encoding
from pydicom.config import RAISE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import MAX_VALUE_LEN, PersonName, validate_value

from jipflow import datasets
from jipflow.reasons import StageError

UTF_8 = "ISO_IR 192"
LATIN_1 = "ISO_IR 100"

PATIENT_GROUPS = {0x0010, 0x0012}
"""Patient, Patient Study and Clinical Trial Subject (PS3.3 C.7.1.1, C.7.2.2, C.7.1.3)."""

STUDY = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
    "StudyID",
    "StudyDescription",
    "ProcedureCodeSequence",
)
"""General Study (PS3.3 C.7.2.1) as far as a viewer's list or a PACS shows it."""

EQUIPMENT = (
    "Manufacturer",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "StationName",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)
"""General Equipment (PS3.3 C.7.5.1), for Contributing Equipment."""

REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)
"""Attributes of type 2 of the Patient and General Study modules: there, even if empty."""


def source_header(path: Path, notes: list[str], instance: str = "") -> Dataset:
    """Read what a derived object takes over from an instance of its source series.

    That is the patient, the study and the equipment. Archives hold values there that are against
    the standard (PS3.5 6.2), and would make the derived object invalid. Of these

    * text that is too long is shortened, but no PatientID: it would name another patient;
    * values that their representation does not allow are emptied;
    * a Specific Character Set that does not fit the text is replaced by UTF-8, the text then read
      as UTF-8 if it can be, else as Latin-1. One that fits is kept.

    Args:
        path: the file of the instance.
        notes: gets a sentence for each kind of repair.
        instance: SOPInstanceUID that it has to have; empty for any.

    Returns:
        The attributes, with those of type 2 present even if empty.

    Raises:
        StageError: the file holds another instance, which may be of another patient.
    """
    with warnings.catch_warnings():
        # Each defect is named in the notes, once, and not once an element.
        warnings.simplefilter("ignore")
        source = datasets.read(path, stop=datasets.at_pixels).dataset
        _check_instance(path, source, instance)
        header = _decoded(_taken_over(source), source, notes)
        shortened: set[str] = set()
        emptied: set[str] = set()
        _repair_values(header, shortened, emptied)
    if shortened:
        notes.append(f"Shortened to the length that DICOM allows: {', '.join(sorted(shortened))}.")
    if emptied:
        notes.append(f"Emptied, as DICOM does not allow the value: {', '.join(sorted(emptied))}.")
    if len(str(header.get("PatientID") or "")) > MAX_VALUE_LEN["LO"]:
        notes.append(
            f"PatientID is kept, though longer than the {MAX_VALUE_LEN['LO']} letters that "
            "DICOM allows."
        )
    for keyword in REQUIRED:
        if keyword not in header:
            setattr(header, keyword, None)
    return header


def _check_instance(path: Path, source: Dataset, instance: str) -> None:
    stated = source.get("SOPInstanceUID") or source.file_meta.get("MediaStorageSOPInstanceUID")
    if instance and str(stated or "") != instance:
        raise StageError(
            f"{path} holds another image than when its volume was made; run the same command "
            "again with --forcerun catalog."
        )


def _taken_over(source: Dataset) -> Dataset:
    """Return the elements that are taken over, not yet decoded."""
    header = Dataset()
    for tag in source.keys():  # noqa: SIM118 iteration would decode the elements
        keyword = pydicom.datadict.keyword_for_tag(tag)
        if tag.group in PATIENT_GROUPS or keyword in {*STUDY, *EQUIPMENT, "SpecificCharacterSet"}:
            header[tag] = source.get_item(tag)
    return header


def _decoded(taken: Dataset, source: Dataset, notes: list[str]) -> Dataset:
    """Decode text by the character set that fits it, and state one that can hold it.

    Args:
        taken: elements whose text is not decoded.
        source: the instance that they are from.
        notes: gets a sentence if the stated character set does not do.
    """
    stated = source.get("SpecificCharacterSet") or ""
    terms = [stated] if isinstance(stated, str) else list(stated)
    for attempt in (terms, [UTF_8], [LATIN_1]):
        header = _decode_as(taken, source, attempt)
        if header is not None:
            break
    assert header is not None  # Latin-1 decodes any bytes
    if attempt == terms and _is_valid(terms):
        return header
    for element in header.iterall():
        if element.VR == "PN" and element.value:
            # Made anew from its text: it would otherwise be written as the bytes it was read from.
            element.value = PersonName(str(element.value))
    header.SpecificCharacterSet = UTF_8
    if attempt == terms:
        notes.append(f"Specific Character Set {stated!r} is none of DICOM; written as UTF-8.")
    else:
        notes.append(
            f"The text does not fit the Specific Character Set {stated or 'ASCII'!r}; read as "
            f"{'UTF-8' if attempt == [UTF_8] else 'Latin-1'}, written as UTF-8."
        )
    return header


def _decode_as(taken: Dataset, source: Dataset, terms: Sequence[str]) -> Dataset | None:
    """Return the decoded elements, or None if the character set does not fit their text."""
    header = Dataset()
    header.update(taken)
    implicit, little = source.original_encoding
    header.set_original_encoding(implicit, little, convert_encodings(list(terms)))
    plain = set(terms) <= {"", "ISO_IR 6"}
    if plain:
        header.pop("SpecificCharacterSet", None)
    else:
        header.SpecificCharacterSet = list(terms) if len(terms) > 1 else terms[0]
    for tag in list(header.keys()):
        try:
            elements = [header[tag]]
        except (ValueError, TypeError, OverflowError, NotImplementedError):
            # Not a number where one is due, say.
            header[tag] = DataElement(tag, pydicom.datadict.dictionary_VR(tag), None)
            continue
        for element in elements:
            if element.VR == "SQ":
                elements.extend(nested for item in element.value for nested in item)
            elif element.VR in datasets.LETTERS:
                text = str(element.value or "")
                if "\ufffd" in text or (plain and not text.isascii()):
                    return None
    return header


def _is_valid(terms: Sequence[str]) -> bool:
    """Return whether these are defined terms (PS3.3 C.12.1.1.2), alone or as code extensions."""
    if not all(term in python_encoding for term in terms):
        return False
    return len(terms) == 1 or all(
        term.startswith("ISO 2022") or (term == "" and place == 0)
        for place, term in enumerate(terms)
    )


def _repair_values(dataset: Dataset, shortened: set[str], emptied: set[str]) -> None:
    """Repair values in place, and collect the keywords of what was repaired."""
    for element in list(dataset):
        if element.tag.is_private or element.tag.element == 0:
            del dataset[element.tag]
        elif element.VR == "SQ":
            # How an archive wrote the lengths must not show in what is derived.
            element.is_undefined_length = False
            for item in element.value:
                item.is_undefined_length_sequence_item = False
                _repair_values(item, shortened, emptied)
        elif element.value not in (None, ""):
            several = isinstance(element.value, MultiValue)
            values = [str(v) for v in (element.value if several else [element.value])]
            longest = MAX_VALUE_LEN.get(element.VR)
            if element.keyword == "PatientID":
                continue
            if (
                longest
                and element.VR in datasets.LETTERS
                and any(len(value) > longest for value in values)
            ):
                values = [value[:longest].rstrip() for value in values]
                element.value = values if several else values[0]
                shortened.add(element.keyword)
            if not all(_is_allowed(element, value) for value in values):
                element.value = None
                emptied.add(element.keyword)


def _is_allowed(element: DataElement, value: str) -> bool:
    if element.keyword == "PatientSex":
        return value in {"M", "F", "O"}
    try:
        validate_value(element.VR, value, RAISE)
    except ValueError:
        return False
    return True

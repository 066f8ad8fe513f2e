"""One DICOM object without what identifies its patient, by the profile of DICOM PS3.15 annex E.

Taken is the Basic Application Level Confidentiality Profile with the options Clean Graphics, Clean
Structured Content, Clean Descriptors, Retain Longitudinal Temporal Information with Modified Dates,
Retain Patient Characteristics, Retain Device Identity and Retain Safe Private. What no table and no
list of this package knows is removed.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

import jipflow
from jipflow.privacy.codes import coded
from jipflow.privacy.dates import offset_of
from jipflow.privacy.elements import Elements, Tally
from jipflow.privacy.identifiers import identifiers_of
from jipflow.privacy.profile import EDITION, vocabulary
from jipflow.privacy.pseudonyms import pseudonym
from jipflow.privacy.text import Identifiers, TextCleaner, folded
from jipflow.reasons import CaseFault, Reason
from jipflow.uids import stable_uid

IMPLEMENTATION_UID = UID(stable_uid("implementation", "jipflow"))

METHODS = {
    "113100": "Basic Application Confidentiality Profile",
    "113103": "Clean Graphics Option",
    "113104": "Clean Structured Content Option",
    "113105": "Clean Descriptors Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
    "113111": "Retain Safe Private Option",
}
"""What is done here, by the codes of CID 7050 (PS3.16)."""

PIXELS = {
    "113101": "Clean Pixel Data Option",
    "113102": "Clean Recognizable Visual Features Option",
}
"""What may have been done with the pixels, by the same."""


def deidentify(
    dataset: Dataset,
    key: bytes,
    *,
    patient: str | None = None,
    known: Identifiers | None = None,
    words: Collection[str] = (),
    pixels: Collection[str] = (),
    done: Tally | None = None,
) -> FileDataset:
    """Return a data set without what identifies its patient.

    Pixels are not looked at; they are decided on before. The same key gives the same pseudonym, the
    same UID in place of a UID, and the same move of a patient's dates in every object, so that
    references hold.

    Args:
        dataset: an image, SEG, SR, RTSTRUCT or registration; it is not changed. Its file meta
            information says its transfer syntax; without one Explicit VR Little Endian is stated.
        key: the site's secret.
        patient: the pseudonym that stands for the patient; by default that of PatientID.
        known: what identifies the patient by other headers, beside what this one has.
        words: that descriptions may keep, beside those of `jipflow.privacy.profile.vocabulary`.
        pixels: codes of `PIXELS` that name what was done with the pixels.
        done: counts what was done with elements, without their values.

    Returns:
        A new data set with new file meta information and an empty preamble, ready to be written.

    Raises:
        CaseFault: the data set has no PatientID, and no pseudonym is given.
    """
    if patient is None:
        patient = pseudonym(key, "patient", _patient_id(dataset))
    days = offset_of(key, patient)
    with warnings.catch_warnings():
        # Values against the standard are what is looked for, one by one.
        warnings.simplefilter("ignore")
        identifiers = identifiers_of([dataset]) | (known or Identifiers())
        allowed = vocabulary() | {folded(word) for word in words} if words else vocabulary()
        text = TextCleaner(identifiers, days, allowed)
        made = Elements(key, days, text, Counter() if done is None else done).walk(dataset)
        _state(made, dataset, patient, pixels)
        return _file(made, dataset)


def _patient_id(dataset: Dataset) -> str:
    identifier = str(dataset.get("PatientID") or "").strip()
    if not identifier:
        raise CaseFault(
            Reason.MISSING_PATIENT_ID,
            "no PatientID, so that no pseudonym can stand for it; fix it in the archive.",
        )
    return identifier


def _state(made: Dataset, source: Dataset, patient: str, pixels: Collection[str]) -> None:
    """State what was done (PS3.15 E.1.1, E.3.6)."""
    made.SpecificCharacterSet = "ISO_IR 192"
    made.PatientName = patient
    made.PatientID = patient
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = f"jipflow {jipflow.__version__}, DICOM PS3.15 {EDITION}"
    methods = METHODS | {code: PIXELS[code] for code in pixels}
    made.DeidentificationMethodCodeSequence = [
        coded(code, "DCM", methods[code]) for code in sorted(methods)
    ]
    # Dates that were taken out before are not there to be moved.
    gone = source.get("LongitudinalTemporalInformationModified") == "REMOVED"
    made.LongitudinalTemporalInformationModified = "REMOVED" if gone else "MODIFIED"


def _file(made: Dataset, source: Dataset) -> FileDataset:
    """Return the data set of a file whose meta information and preamble are new (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = made.get("SOPClassUID", "")
    meta.MediaStorageSOPInstanceUID = made.get("SOPInstanceUID", "")
    stated = getattr(source, "file_meta", None)
    syntax = UID(str((stated or {}).get("TransferSyntaxUID") or ExplicitVRLittleEndian))
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"JIPFLOW {jipflow.__version__.partition('.dev')[0]}"[:16]
    implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
    return FileDataset(
        None,  # type: ignore[arg-type]
        made,
        preamble=b"\0" * 128,
        file_meta=meta,
        is_implicit_VR=implicit,
        is_little_endian=little,
    )

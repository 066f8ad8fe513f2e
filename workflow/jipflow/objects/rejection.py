"""The rejection note, by which an archive hides or deletes objects that were sent to it.

IHE Radiology, Imaging Object Change Management (RAD TF-3, section 4.66): a Key Object Selection
Document whose title says why, and which names the objects.
"""

from __future__ import annotations

import highdicom
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

import jipflow
from jipflow.uids import stable_uid

TITLES = {
    "quality": CodedConcept("113001", "DCM", "Rejected for Quality Reasons"),
    "patient_safety": CodedConcept("113037", "DCM", "Rejected for Patient Safety Reasons"),
    "data_retention": CodedConcept("113039", "DCM", "Data Retention Policy Expired"),
}
"""The titles of CID 7011 that apply to an object of a patient who has withdrawn."""


def rejection_note(header: Dataset, title: str) -> Dataset:
    """Build the rejection note of one object, in the object's own study.

    Its UIDs follow from the object's, so that one that is sent again is the same.

    Args:
        header: of the object, with what it says of patient and study.
        title: a key of `TITLES`.
    """
    key = ("rejection", str(header.SOPInstanceUID), title)
    note = highdicom.ko.KeyObjectSelectionDocument(
        evidence=[header],
        content=highdicom.ko.KeyObjectSelection(
            document_title=TITLES[title], referenced_objects=[header]
        ),
        series_instance_uid=stable_uid("series", *key),
        series_number=1,
        sop_instance_uid=stable_uid("instance", *key),
        instance_number=1,
        manufacturer="jipflow",
        manufacturer_model_name="jipflow",
        software_versions=jipflow.__version__,
        device_serial_number=jipflow.__version__,
        series_description="Rejection note",
        # highdicom does not know the empty first value that Japanese headers have.
        specific_character_set=None,
    )
    if "SpecificCharacterSet" in header:
        note.SpecificCharacterSet = header.SpecificCharacterSet
    return note

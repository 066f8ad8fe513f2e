"""DICOM UIDs that are derived and not drawn: the same parts give the same UID."""

from __future__ import annotations

import uuid

NAMESPACE = uuid.UUID("5f0b7f0c-6a5e-5d0e-9f0c-0f3a1c6f5d11")
"""Namespace of the UUIDs behind our UIDs (RFC 9562 section 5.5; PS3.5 B.2)."""


ROOT = "2.25."
"""Of all our UIDs, each a UUID (PS3.5 B.2)."""


def stable_uid(*parts: str) -> str:
    """Return the UID that stands for these parts, the same on every run.

    A name-based UUID (RFC 9562, version 5) under the root 2.25 of PS3.5 B.2.
    """
    name = "".join(f"{len(part)}:{part}" for part in parts)
    return f"{ROOT}{uuid.uuid5(NAMESPACE, name).int}"


def study_stand_in(patient_id: str, study_date: str, study_time: str) -> str:
    """Return the StudyInstanceUID of instances that have none, from what identifies their study.

    Args:
        patient_id: PatientID.
        study_date: StudyDate as it stands in the header.
        study_time: StudyTime as it stands in the header.
    """
    return stable_uid("study", patient_id, study_date, study_time)


def series_stand_in(folder: str, patient_id: str, study_uid: str, series_number: str) -> str:
    """Return the SeriesInstanceUID of instances that have none.

    Files of one series are taken to lie in one folder and to share what else is known of them.

    Args:
        folder: the folder of the file.
        patient_id: PatientID.
        study_uid: StudyInstanceUID, or its stand-in.
        series_number: SeriesNumber, empty where it is missing.
    """
    return stable_uid("series", folder, patient_id, study_uid, series_number)

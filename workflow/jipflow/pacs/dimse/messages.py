"""DIMSE messages: identifiers asked with, answers as text, and what a status means."""

from __future__ import annotations

from collections.abc import Mapping

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.status import code_to_category

from jipflow.pacs.archive import ArchiveDown, Rejected, checked_uid, text_of
from jipflow.settings.resources import ConfigError
from jipflow.settings.site import Dimse

VERIFICATION = UID("1.2.840.10008.1.1")
"""What C-ECHO asks (PS3.4 annex A)."""
FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
GET = UID("1.2.840.10008.5.1.4.1.2.2.3")
"""Study Root Query/Retrieve Information Model (PS3.4 section C.6.2)."""

SUCCESS = 0x0000
NOT_AUTHORIZED = 0x0124
"""Refused, not authorized (PS3.7 annex C): answered to an instance that nobody asked for."""
OUT_OF_RESOURCES = 0xA700
MOVE_DESTINATION_UNKNOWN = 0xA801
BUSY = frozenset({0xA700, 0xA701, 0xA702})
"""Statuses of C-STORE, C-FIND, C-MOVE and C-GET (PS3.4 tables B.2-1, C.4-1, C.4-2 and C.4-3; 0124,
not authorised, is of PS3.7 annex C)."""
"""Out of resources: to do it, to count the matches, to send them (PS3.4 tables C.4-1 to C.4-3)."""


def identifier(level: str, keys: Mapping[str, str]) -> Dataset:
    """Return the identifier of a request (PS3.4 section C.4.1.1.3).

    Args:
        level: ``STUDY``, ``SERIES`` or ``IMAGE``.
        keys: by DICOM keyword; what is empty is asked for.
    """
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    text = "".join(keys.values())
    if not text.isascii():
        latin = text.encode("latin-1", "ignore").decode("latin-1") == text
        dataset.SpecificCharacterSet = "ISO_IR 100" if latin else "ISO_IR 192"
    for keyword, value in keys.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        # A range or a wildcard is no valid value of many an attribute.
        dataset.add(
            DataElement(tag, dictionary_VR(tag), value or None, validation_mode=config.IGNORE)
        )
    return dataset


def image_keys(study_uid: str, series_uid: str, sop_uid: str, name: str) -> dict[str, str]:
    """Return the keys of instances of a series.

    Args:
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        sop_uid: SOPInstanceUID, or several joined by a backslash; empty asks for all.
        name: of the source, for messages.

    Raises:
        Rejected: study or series is no UID.
    """
    return {
        "StudyInstanceUID": checked_uid(study_uid, name),
        "SeriesInstanceUID": checked_uid(series_uid, name),
        "SOPInstanceUID": sop_uid,
    }


def answered_text(answer: Dataset, keyword: str) -> str:
    """Return an attribute as text, with the characters as they are where the value is not valid."""
    try:
        return text_of(answer[keyword].value)
    except (ValueError, TypeError, OverflowError, NotImplementedError):
        value = answer.get_item(keyword).value
        return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value)


def category(status: Dataset) -> str:
    """Return pynetdicom's word for a status; ``Cut`` where the connection ended before one came."""
    return code_to_category(status.Status) if "Status" in status else "Cut"


def fault_of(status: Dataset, what: str, source: Dimse) -> Exception | None:
    """Return what a final status means; None for success and warnings (PS3.7 annex C).

    Args:
        status: of the last answer.
        what: the service, for the message.
        source: an entry of ``sources`` of kind ``dimse``, with its defaults.
    """
    name, title = source.name, source.calling_aet
    if "Status" not in status:
        return ArchiveDown(
            f"source {name!r}: {what} was cut off, or nothing was heard for {source.timeout} "
            f"seconds; the PACS or the network may be down, or {title} may not do this there."
        )
    code = status.Status
    start = f"source {name!r}: {what}: status 0x{code:04X}"
    if category(status) in {"Success", "Warning"}:
        return None
    if code in BUSY:
        return ArchiveDown(f"{start}: the PACS is out of resources; try later, or for less.")
    if code == MOVE_DESTINATION_UNKNOWN:
        return ConfigError(
            f"{start}: the PACS does not know where {title} is; let its administrator enter this "
            f"machine and port {source.listen_port}, or set retrieve: get."
        )
    return Rejected(f"{start}: the PACS refused.")

"""A PACS as the stages see it, whatever protocol it speaks."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from pydicom.dataset import Dataset

from jipflow.reasons import StageError
from jipflow.uids import stable_uid

LOGGER = logging.getLogger(__name__)

STUDY_ATTRIBUTES = ("PatientID", "PatientSex", "PatientAge", "StudyDate", "StudyDescription")
"""What the catalog wants to know of a patient and a study."""
SERIES_ATTRIBUTES = (
    "Modality",
    "SOPClassUID",
    "FrameOfReferenceUID",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "BodyPartExamined",
    "ImageType",
    "SeriesDate",
    "SeriesTime",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "InstitutionName",
    "StationName",
    "MagneticFieldStrength",
    "KVP",
    "ConvolutionKernel",
    "ContrastBolusAgent",
    "ScanningSequence",
    "RepetitionTime",
    "EchoTime",
    "Units",
    "CorrectedImage",
    "BurnedInAnnotation",
    "SliceThickness",
    "SpacingBetweenSlices",
    "PixelSpacing",
    "Rows",
    "Columns",
    "BitsStored",
)
"""What the catalog wants to know of a series, or of an instance where the series lacks it."""
COUNT = "NumberOfSeriesRelatedInstances"
SYNTAX = "AvailableTransferSyntaxUID"
NO_STUDY = stable_uid("study", "none")
"""StudyInstanceUID that no study has."""
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
MOST_RESULTS = 1_000_000
"""Results of one query: more series than a hospital has, or instances than a series."""
MOST_UNASKED = 100
"""Instances that may come with those that were asked for, and as many again, before no more is
taken."""
ANY_UID = re.compile(r"[0-9.]{1,64}")


def checked_uid(value: object, name: str) -> str:
    """Return a UID from outside as text that is safe in a path or an address.

    Digits and dots, at most 64: real archives hold UIDs that break the finer rules of PS3.5
    section 9.1, such as components with leading zeros.

    Raises:
        Rejected: it is something else.
    """
    text = str(value).rstrip(" \0")
    if not ANY_UID.fullmatch(text) or not text.strip("."):
        raise Rejected(f"source {name!r}: the PACS gave something that is no UID.")
    return text


def file_uid(dataset: Dataset) -> str:
    """Return the SOPInstanceUID of a file; of its file meta where the data set has none."""
    meta = getattr(dataset, "file_meta", None) or Dataset()
    return str(dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or "")


def with_uids(
    rows: Iterable[dict[str, str]], keys: Sequence[str], name: str
) -> list[dict[str, str]]:
    """Return the answers whose UIDs can be used; the log says how many are left out."""
    usable, unusable = [], 0
    for row in rows:
        try:
            usable.append({**row, **{key: checked_uid(row.get(key), name) for key in keys}})
        except Rejected:
            unusable += 1
    if unusable:
        LOGGER.warning(
            "source %r: %d answers are left out: their %s is no UID; let the PACS's administrator "
            "fix them.",
            name,
            unusable,
            " or ".join(keys),
        )
    return usable


def check_asked(dataset: Dataset, asked: tuple[str, str, str], name: str) -> None:
    """Check that a data set is of the instance that was asked for.

    Args:
        dataset: what came.
        asked: StudyInstanceUID, SeriesInstanceUID and SOPInstanceUID.
        name: of the source, for the message.

    Raises:
        Rejected: a UID of it is another one.
    """
    for keyword, uid in zip(UIDS, asked, strict=True):
        if text_of(dataset.get(keyword, uid)).rstrip(" \0") != uid:
            raise Rejected(
                f"source {name!r}: asked for instance {asked[2]} of series {asked[1]}, the PACS "
                f"sent one of another {keyword}."
            )


def too_many(name: str) -> Rejected:
    """Return what is wrong with a query whose answers have no end."""
    return Rejected(
        f"source {name!r}: a query has more than {MOST_RESULTS:,} results, or more text in them "
        "than bytes_per_answer; narrow the protocol's filter, or name in match what the PACS can "
        "be asked."
    )


def text_of(value: Any) -> str:
    """Return the text of an attribute's value: several values joined by a backslash."""
    if value is None:
        return ""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return str(value)
    return "\\".join(str(each) for each in value)


class ArchiveDown(StageError):
    """The PACS does not answer, or the connection was cut; a later try may succeed."""


class ArchiveFailed(ArchiveDown):
    """The PACS answered that it failed: at everything, or at the one object asked for."""


class Rejected(Exception):
    """The PACS answered and refused; the message has its answer, without patient data."""


@dataclass(frozen=True)
class Receipt:
    """The PACS's acknowledgement of an object.

    Attributes:
        sop_instance_uid: of the object.
        note: what the PACS remarked, such as a warning status; empty if nothing.
    """

    sop_instance_uid: str
    note: str = ""


class Archive(Protocol):
    """A PACS. Its methods may be called from several threads at a time.

    Every method raises `ArchiveDown` where the PACS does not answer, `Rejected` where it answers
    with an error, and `ConfigError` where it does not accept this site at all: an unknown
    application entity title, a wrong password.
    """

    name: str

    def find_series(self, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """Return the series that match, each with what the PACS states of it and its study.

        Args:
            keys: matching keys by DICOM keyword, with values in the syntax of PS3.4 C.2.2.2: a
                range such as ``20200101-20201231``, wildcards ``*`` and ``?``, UIDs joined by a
                backslash. A key that the PACS does not support widens the answer.

        Returns:
            One mapping per distinct series, sorted by SeriesInstanceUID, from keyword to text:
            several values joined by a backslash, empty where the PACS returned the attribute
            without a value, absent where it did not return it. SeriesInstanceUID and
            StudyInstanceUID are always there and are UIDs; series without are left out, with a
            warning in the log.
        """

    def find_instances(self, study_uid: str, series_uid: str) -> list[str]:
        """Return the sorted SOPInstanceUIDs of a series; each is a UID."""

    def describe(self, study_uid: str, series_uid: str, sop_uid: str) -> Dataset:
        """Return the header of an instance, without its pixels."""

    def fetch(
        self,
        study_uid: str,
        series_uid: str,
        sop_uids: Sequence[str],
        receive: Callable[[str, bytes], Any],
    ) -> None:
        """Retrieve instances of a series in the encoding that the PACS keeps them in.

        Args:
            study_uid: StudyInstanceUID.
            series_uid: SeriesInstanceUID.
            sop_uids: the wanted instances; others that arrive are dropped.
            receive: called with the SOPInstanceUID and the DICOM file (PS3.10) of each instance
                as it arrives, in any order; what it raises ends the retrieval.
        """

    def contains(self, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        """Return whether the PACS lists an instance."""

    def send(self, path: Path) -> Receipt:
        """Store a DICOM file; raises `Rejected` unless the PACS acknowledged that very object."""

    def close(self) -> None:
        """End every connection."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def is_of_object(error: ArchiveDown, archive: Archive) -> bool:
    """Return whether the object asked for is to blame for an error that came at each try.

    It is where the PACS itself says that it failed, and answers a query that nothing matches. A
    time-out or a cut connection says nothing of an object: a slow disk of the PACS or a proxy in
    between does the same.
    """
    return isinstance(error, ArchiveFailed) and _answers(archive)


def _answers(archive: Archive) -> bool:
    try:
        archive.find_series({"StudyInstanceUID": NO_STUDY, "SeriesInstanceUID": NO_STUDY})
    except ArchiveDown:
        return False
    except Rejected:
        pass
    return True

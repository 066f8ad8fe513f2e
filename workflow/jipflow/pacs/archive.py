"""A PACS as the stages see it, whatever protocol it speaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from pydicom.dataset import Dataset

from jipflow.cases import StageError


class ArchiveDown(StageError):
    """The PACS does not answer, or the connection was cut; a later try may succeed."""


class Rejected(Exception):
    """The PACS answered and refused; the message says what it said, without patient data."""


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

    Every method raises `ArchiveDown` where the PACS does not answer, and `Rejected` where it
    answers with an error.
    """

    name: str

    def find_series(self, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """Return the series that match, each with what the PACS tells of it and its study.

        Args:
            keys: matching keys by DICOM keyword, with values in the syntax of PS3.4 C.2.2.2: a
                range such as ``20200101-20201231``, wildcards ``*`` and ``?``, UIDs joined by a
                backslash. A key that the PACS does not support widens the answer.

        Returns:
            One mapping per distinct series, sorted by SeriesInstanceUID, from keyword to text:
            several values joined by a backslash, empty where the PACS returned the attribute
            without a value, absent where it did not return it. SeriesInstanceUID and
            StudyInstanceUID are always there and are UIDs.
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
                as it arrives, before the next one is asked for.
        """

    def contains(self, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        """Tell whether the PACS lists an instance."""

    def send(self, path: Path) -> Receipt:
        """Store a DICOM file; raises `Rejected` unless the PACS acknowledged that very object."""

    def close(self) -> None:
        """End every connection."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def open_archive(source: Mapping[str, Any]) -> Archive:
    """Open the PACS of a source of the site's configuration.

    Args:
        source: an entry of ``sources`` of kind ``dicomweb`` or ``dimse``, with its defaults.

    Raises:
        ConfigError: a credential is missing, or its file can be read by others.
    """
    if source["kind"] == "dicomweb":
        from jipflow.pacs.dicomweb import DicomwebArchive

        return DicomwebArchive(source)
    from jipflow.pacs.dimse import DimseArchive

    return DimseArchive(source)

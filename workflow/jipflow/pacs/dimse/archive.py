"""A PACS asked by DIMSE messages: C-FIND, C-GET, C-MOVE and C-STORE (PS3.4 annexes B and C)."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from pydicom import dcmread
from pydicom.dataset import Dataset

from jipflow.pacs.archive import (
    COUNT,
    SERIES_ATTRIBUTES,
    STUDY_ATTRIBUTES,
    SYNTAX,
    Receipt,
    Rejected,
    check_asked,
    checked_uid,
    with_uids,
)
from jipflow.pacs.dimse.associations import Associations
from jipflow.pacs.dimse.find import Finder
from jipflow.pacs.dimse.messages import answered_text, image_keys
from jipflow.pacs.dimse.retrieve import Retriever
from jipflow.pacs.dimse.store import Sender
from jipflow.pacs.limits import Limits
from jipflow.settings.site import Dimse

SERIES_LEVEL = (
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "BodyPartExamined",
    "SeriesDate",
    "SeriesTime",
    "FrameOfReferenceUID",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "InstitutionName",
    "StationName",
    COUNT,
)
"""What a series is asked for; a strict PACS refuses attributes of its images at this level."""
IMAGE_LEVEL = tuple(set(SERIES_ATTRIBUTES) - {*SERIES_LEVEL, "SOPClassUID"})


class DimseArchive:
    """The query, retrieve and storage services of a PACS, in the Study Root model.

    Queries go down the hierarchy, studies and then the series of each, since a PACS need not
    answer relational ones (PS3.4 section C.4.1.2.2). At most ``parallel`` associations are open at
    a time, kept for a moment and released in good order.

    Args:
        source: an entry of ``sources`` of kind ``dimse``, with its defaults.

    Raises:
        ConfigError: a file of ``tls`` is missing, or the key can be read by others.
    """

    def __init__(self, source: Dimse) -> None:
        self.name = source.name
        self._parallel = source.parallel
        limits = Limits.of(source)
        self._associations = Associations(source)
        self._finder = Finder(source, self._associations)
        self._retriever = Retriever(source, self._associations, self._finder, limits)
        self._sender = Sender(source, self._associations, self._finder, limits)
        self._images_complete = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release every association and stop listening."""
        self._associations.release_idle()
        self._retriever.close()

    def find_series(self, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """Return the series that match; see `Archive.find_series`.

        Modality narrows the studies too, by ModalitiesInStudy.
        """
        of_study = {"StudyInstanceUID": "", **dict.fromkeys(STUDY_ATTRIBUTES, "")}
        of_series = {"SeriesInstanceUID": "", **dict.fromkeys(SERIES_LEVEL, "")}
        for key, value in keys.items():
            (of_study if key in of_study else of_series)[key] = value
        if keys.get("Modality"):
            of_study["ModalitiesInStudy"] = keys["Modality"]
        answers = with_uids(self._finder.rows("STUDY", of_study), ("StudyInstanceUID",), self.name)
        studies = {
            answer["StudyInstanceUID"]: {k: answer[k] for k in STUDY_ATTRIBUTES if k in answer}
            for answer in answers
        }

        def series_of(study: str) -> list[dict[str, str]]:
            return self._finder.rows("SERIES", {**of_series, "StudyInstanceUID": study})

        found: dict[str, dict[str, str]] = {}
        with ThreadPoolExecutor(self._parallel) as pool:
            try:
                for study, rows in zip(studies, pool.map(series_of, studies), strict=True):
                    for row in with_uids(rows, ("SeriesInstanceUID",), self.name):
                        uid = row["SeriesInstanceUID"]
                        given = {key: row[key] for key in SERIES_LEVEL if key in row}
                        unique = {"StudyInstanceUID": study, "SeriesInstanceUID": uid}
                        found[uid] = {**unique, **studies[study], **given}
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [found[uid] for uid in sorted(found)]

    def find_instances(self, study_uid: str, series_uid: str) -> list[str]:
        """Return the sorted SOPInstanceUIDs of a series."""
        answers = self._finder.rows("IMAGE", image_keys(study_uid, series_uid, "", self.name))
        if any(each.get("SeriesInstanceUID", "") not in {series_uid, ""} for each in answers):
            raise Rejected(
                f"source {self.name!r}: asked for the instances of {series_uid}, the PACS listed "
                "those of another series."
            )
        return sorted({checked_uid(each.get("SOPInstanceUID"), self.name) for each in answers})

    def contains(self, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        """Return whether the PACS lists an instance."""
        keys = self._instance_keys(study_uid, series_uid, sop_uid)
        answers = self._finder.rows("IMAGE", keys)
        return any(answer.get("SOPInstanceUID") == sop_uid for answer in answers)

    def describe(self, study_uid: str, series_uid: str, sop_uid: str) -> Dataset:
        """Return the header of an instance, without its pixels.

        Where the PACS does not answer what it is asked for, the instance itself is retrieved,
        within the limits, and its header with the file meta is returned.
        """
        keys = self._instance_keys(study_uid, series_uid, sop_uid)
        asked_for = (study_uid, series_uid, sop_uid)
        if self._images_complete:
            asked = {**dict.fromkeys((*SERIES_ATTRIBUTES, SYNTAX), ""), **keys}
            try:
                headers = self._finder.data_sets("IMAGE", asked)
            except Rejected:
                headers = [Dataset()]
            for header in headers:
                given = {k: answered_text(header, k) for k in SERIES_ATTRIBUTES if k in header}
                self._images_complete = len(given) == len(SERIES_ATTRIBUTES)
                # Some return without a value what they do not know.
                if self._images_complete and any(given[key] for key in IMAGE_LEVEL):
                    check_asked(header, asked_for, self.name)
                    return header
        files: list[bytes] = []
        self.fetch(study_uid, series_uid, [sop_uid], lambda _, content: files.append(content))
        header = dcmread(io.BytesIO(files[0]), stop_before_pixels=True)
        check_asked(header, asked_for, self.name)
        return header

    def _instance_keys(self, study_uid: str, series_uid: str, sop_uid: str) -> dict[str, str]:
        return image_keys(study_uid, series_uid, checked_uid(sop_uid, self.name), self.name)

    def fetch(
        self,
        study_uid: str,
        series_uid: str,
        sop_uids: Sequence[str],
        receive: Callable[[str, bytes], Any],
    ) -> None:
        """Retrieve instances of a series as the PACS keeps them; see `Archive.fetch`."""
        self._retriever.fetch(study_uid, series_uid, sop_uids, receive)

    def send(self, path: Path) -> Receipt:
        """Store a DICOM file by C-STORE (PS3.4 annex B) as it is; see `Archive.send`."""
        return self._sender.send(path)

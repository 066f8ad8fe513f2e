"""Deletes single objects of a PACS by HTTP, as its source's `deletion` says."""

from __future__ import annotations

import re
from typing import Self

import requests

from jipflow.pacs.archive import Rejected, checked_uid
from jipflow.pacs.dicomweb.errors import http_errors
from jipflow.pacs.dicomweb.session import open_session
from jipflow.settings.site import DicomWeb, Dimse

GONE = frozenset({requests.codes.not_found, requests.codes.gone})
ORTHANC_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
"""How Orthanc names what it stores: a SHA-1 in five groups."""
WHAT = "the deletion of an object"


class Deleter:
    """Deletes objects by DELETE of their DICOMweb address, or by Orthanc's REST interface.

    The standard has no such transaction; dcm4chee, Google's and other archives answer a DELETE of
    the address that GET retrieves. Whether an object is gone the PACS must be asked afterwards:
    some delete later, and some answer that all is well to what they keep.

    Args:
        source: an entry of ``sources`` whose `deletion` is by ``dicomweb`` or ``orthanc``.

    Raises:
        ConfigError: a credential is missing, or its file can be read by others.
    """

    def __init__(self, source: DicomWeb | Dimse) -> None:
        assert source.deletion is not None
        self._by = source.deletion.by
        self._source = _server(source)
        self._url = self._source.url.rstrip("/")
        self._session = open_session(self._source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._session.close()

    def delete(self, study_uid: str, series_uid: str, sop_uid: str) -> None:
        """Ask the PACS to delete an instance, and nothing beside it.

        Raises:
            ArchiveDown: it does not answer.
            ConfigError: it does not accept this user.
            Rejected: it answers anything but success, or that it has no such instance.
        """
        name = self._source.name
        study, series, sop = (checked_uid(u, name) for u in (study_uid, series_uid, sop_uid))
        with http_errors(WHAT, self._source):
            if self._by == "orthanc":
                addresses = self._of_orthanc(study, series, sop)
            else:
                addresses = [f"studies/{study}/series/{series}/instances/{sop}"]
            for address in addresses:
                answer = self._session.delete(
                    f"{self._url}/{address}", timeout=self._source.timeout
                )
                if answer.status_code not in GONE:
                    answer.raise_for_status()

    def _of_orthanc(self, study: str, series: str, sop: str) -> list[str]:
        """Return the addresses of an instance: one, or more where patients were merged."""
        timeout = self._source.timeout
        found = self._session.post(f"{self._url}/tools/lookup", data=sop, timeout=timeout)
        found.raise_for_status()
        addresses = []
        for each in found.json():
            if each["Type"] != "Instance":
                continue
            if not ORTHANC_ID.fullmatch(each["ID"]):
                raise Rejected(f"source {self._source.name!r}: {self._url} is no Orthanc's.")
            address = f"instances/{each['ID']}"
            tags = self._session.get(f"{self._url}/{address}/simplified-tags", timeout=timeout)
            tags.raise_for_status()
            known = tags.json()
            if (known.get("StudyInstanceUID"), known.get("SeriesInstanceUID")) == (study, series):
                addresses.append(address)
        return addresses


def _server(source: DicomWeb | Dimse) -> DicomWeb:
    """Return where deletions are asked for, with the credentials for it."""
    assert source.deletion is not None
    own = source.deletion.model_dump(exclude={"by", "title"}, exclude_none=True)
    if isinstance(source, DicomWeb):
        if not own:
            return source
        own.setdefault("url", source.url)
    common = {key: getattr(source, key) for key in ("name", "timeout", "bytes_per_answer")}
    return DicomWeb.model_validate({**common, "kind": "dicomweb", **own})

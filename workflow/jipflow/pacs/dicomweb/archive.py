"""A PACS asked by DICOMweb: QIDO-RS, WADO-RS and STOW-RS (PS3.18 chapter 10)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from jipflow.inflate import is_within
from jipflow.pacs.archive import (
    COUNT,
    MOST_RESULTS,
    MOST_UNASKED,
    SERIES_ATTRIBUTES,
    STUDY_ATTRIBUTES,
    SYNTAX,
    ArchiveDown,
    ArchiveFailed,
    Receipt,
    Rejected,
    check_asked,
    checked_uid,
    too_many,
    with_uids,
)
from jipflow.pacs.dicomweb.answers import (
    Item,
    attributes_of,
    reason_code,
    sequence_items,
    uid_in,
)
from jipflow.pacs.dicomweb.errors import TooLarge, http_errors
from jipflow.pacs.dicomweb.multipart import CHUNK, LIMIT, MultipartFile, parts
from jipflow.pacs.dicomweb.session import open_session
from jipflow.pacs.limits import Limits
from jipflow.place import raise_place_error
from jipflow.settings.site import DicomWeb

AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""Media type and transfer syntax of what is retrieved: as the PACS keeps it. Without the ``*`` the
PACS would have to decompress (PS3.18 section 8.7.3.5.2), which not every one can."""
UNIQUE = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
WANTED = (*STUDY_ATTRIBUTES, *SERIES_ATTRIBUTES, COUNT, SYNTAX)
ENCODED = re.compile(r"[^A-Za-z0-9._~*-]+")
"""What stands percent-encoded in an address."""


class DicomwebArchive:
    """The DICOMweb services of a PACS.

    At most ``parallel`` connections are open at a time, kept and used again. Neither proxies nor
    passwords of the environment (``HTTPS_PROXY``, ``.netrc``) apply: patients' images go to the
    PACS of the configuration and nowhere else.

    Args:
        source: an entry of ``sources`` of kind ``dicomweb``, with its defaults.

    Raises:
        ConfigError: a credential or the file of certificates is missing, or others can read it.
    """

    def __init__(self, source: DicomWeb) -> None:
        self.name = source.name
        self._source = source
        self._url = source.url.rstrip("/")
        self._timeout = source.timeout
        self._limits = Limits.of(source)
        self._session = open_session(source)
        self._client = DICOMwebClient(
            self._url,
            session=self._session,
            permissive_uid=True,
            chunk_size=CHUNK,
            timeout=self._timeout,
        )
        # Its retries would repeat every error, a refused connection too; the workflow retries.
        self._client.set_http_retry_params(retry=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End every connection."""
        self._session.close()

    def find_series(self, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """Return the series that match; see `Archive.find_series`.

        UIDs are asked for one by one: a PACS that does not know lists of them would find nothing.
        Some, such as Orthanc 1.10, do not decode the values of a query either: characters that an
        address cannot hold are asked for as wildcards, which widens the answer.
        """
        found: dict[str, dict[str, str]] = {}
        several = [key for key in UNIQUE if "\\" in keys.get(key, "")]
        for values in itertools.product(*(keys[key].split("\\") for key in several)):
            one = {**keys, **dict(zip(several, values, strict=True))}
            plain = {key: re.sub(r"\*+", "*", ENCODED.sub("*", one[key])) for key in one}
            filters = {key: value for key, value in plain.items() if value not in {"", "*"}}
            rows = self._search(self._client.search_for_series, filters, WANTED)
            for row in with_uids(rows, UNIQUE[:2], self.name):
                found[row["SeriesInstanceUID"]] = row
        return [found[uid] for uid in sorted(found)]

    def find_instances(self, study_uid: str, series_uid: str) -> list[str]:
        """Return the sorted SOPInstanceUIDs of a series."""
        study, series = self._uid(study_uid), self._uid(series_uid)
        search = self._client.search_for_instances

        def of_series(**page: Any) -> list[dict[str, dict[str, Any]]]:
            return search(study, series, **page)

        found = self._search(of_series, {}, ())
        others = [row for row in found if row.get("SeriesInstanceUID", series) not in {series, ""}]
        if others:
            raise Rejected(
                f"source {self.name!r}: asked for the instances of {series}, the PACS listed those "
                "of another series."
            )
        return sorted({self._uid(row.get("SOPInstanceUID")) for row in found})

    def _search(
        self,
        search: Callable[..., Sequence[Item]],
        keys: Mapping[str, str],
        fields: Sequence[str],
    ) -> list[dict[str, str]]:
        """Search page by page until a page brings nothing that was not there before.

        A PACS may answer with as few results as it likes (PS3.18 section 8.3.4.4); one that does
        not know pages gives the same again.
        """
        found: dict[tuple[str, ...], dict[str, str]] = {}
        offset, held = 0, 0
        while len(found) <= MOST_RESULTS and held <= self._source.bytes_per_answer:
            before = len(found)
            with http_errors("a query", self._source):
                page = search(
                    search_filters=dict(keys) or None,
                    fields=list(fields) or None,
                    offset=offset or None,
                )
                for item in page:
                    row = attributes_of(item, (*UNIQUE, *fields))
                    found[tuple(row.get(key, "") for key in UNIQUE)] = row
                    held += sum(map(len, row.values()))
            if len(found) == before:
                return list(found.values())
            offset += len(page)
        raise too_many(self.name)

    def describe(self, study_uid: str, series_uid: str, sop_uid: str) -> Dataset:
        """Return the header of an instance, without its pixels.

        It has no file meta; AvailableTransferSyntaxUID (0008,3002) is there if the PACS states it.
        """
        uids = self._uid(study_uid), self._uid(series_uid), self._uid(sop_uid)
        with (
            self._one_object(uids),
            http_errors("the query for an instance's header", self._source),
        ):
            metadata = self._client.retrieve_instance_metadata(*uids)
            header = Dataset.from_json(
                {tag: item for tag, item in metadata.items() if "BulkDataURI" not in item}
            )
        check_asked(header, uids, self.name)
        return header

    def contains(self, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        """Return whether the PACS lists an instance."""
        study, series, sop = self._uid(study_uid), self._uid(series_uid), self._uid(sop_uid)
        with http_errors("the query for an instance", self._source):
            found = self._client.search_for_instances(
                study, series, search_filters={"SOPInstanceUID": sop}
            )
            return any(attributes_of(item, UNIQUE).get("SOPInstanceUID") == sop for item in found)

    def fetch(
        self,
        study_uid: str,
        series_uid: str,
        sop_uids: Sequence[str],
        receive: Callable[[str, bytes], Any],
    ) -> None:
        """Retrieve instances of a series as the PACS keeps them; see `Archive.fetch`.

        A series that is wanted nearly whole comes as one answer, which is several times faster
        than an answer for each instance. With a limit of bytes a second every instance is asked
        for alone, so that no answer stands still while the limit waits.
        """
        study, series = self._uid(study_uid), self._uid(series_uid)
        wanted = dict.fromkeys(self._uid(uid) for uid in sop_uids)
        most = MOST_UNASKED + len(wanted)
        if self._worth_one_answer(study, series, len(wanted)):
            self._limits.wait()
            with closing(self._whole_series(study, series)) as instances:
                for uid, content in instances:
                    if uid in wanted:
                        receive(uid, content)
                        del wanted[uid]
                    else:
                        most -= 1
                    if not most or not self._limits.is_open():
                        break
        for uid in wanted:
            self._limits.wait()
            content = self._instance(study, series, uid)
            self._limits.count(len(content))
            receive(uid, content)

    def _worth_one_answer(self, study: str, series: str, wanted: int) -> bool:
        """Return whether so many instances are wanted that the whole series is faster."""
        if self._limits.bytes_per_second is not None or wanted < 2:
            return False
        with http_errors("the query for a series", self._source):
            found = self._client.search_for_series(
                study, fields=[COUNT], search_filters={"SeriesInstanceUID": series}
            )
            counts = [attributes_of(item, (COUNT,)).get(COUNT, "") for item in found]
        return len(counts) == 1 and counts[0].isdecimal() and wanted > int(counts[0]) / 2

    def _whole_series(self, study: str, series: str) -> Generator[tuple[str, bytes]]:
        """Yield UID and file of each instance; ends early where the PACS fails, cuts the answer
        or sends no file.

        The instances that are left are then asked for one by one, and the faulty one is known:
        Orthanc cuts a series at the instance whose file it lost, and fails at that one with 500.
        """
        with closing(self._files(f"studies/{study}/series/{series}")) as files:
            while True:
                try:
                    with http_errors("the retrieval of a series", self._source):
                        content = next(files, None)
                        uid = "" if content is None else uid_in(content)
                except (ArchiveDown, Rejected):
                    return
                if content is None:
                    return
                yield uid, content

    def _instance(self, study: str, series: str, uid: str) -> bytes:
        with (
            self._one_object((study, series, uid)),
            http_errors("the retrieval of an instance", self._source),
        ):
            (content,) = self._files(f"studies/{study}/series/{series}/instances/{uid}")
            if uid_in(content) != uid:
                raise Rejected(f"source {self.name!r}: the PACS sent another instance than {uid}.")
            return content

    def _files(self, resource: str) -> Generator[bytes]:
        """Yield the files of a WADO-RS answer as they come (PS3.18 section 10.4).

        DICOMwebClient gives data sets: of a deflated one the bytes are gone by then.
        """
        response = self._session.get(
            f"{self._url}/{resource}",
            headers={"Accept": AS_STORED},
            timeout=self._timeout,
            stream=True,
        )
        most = self._source.bytes_per_instance
        with response:
            response.raise_for_status()
            for content in parts(response, most):
                if not is_within(content, most):
                    raise TooLarge(LIMIT)
                yield content

    @contextmanager
    def _one_object(self, uids: tuple[str, str, str]) -> Iterator[None]:
        """Turn an error of the PACS into a refusal of the one object if the PACS still answers."""
        try:
            yield
        except ArchiveFailed:
            if self.contains(*uids):
                raise Rejected(
                    f"source {self.name!r}: the PACS lists instance {uids[2]} but failed to give "
                    "it (HTTP status 500); its log says why."
                ) from None
            raise

    def send(self, path: Path) -> Receipt:
        """Store a DICOM file by STOW-RS (PS3.18 section 10.5); see `Archive.send`.

        The file goes as it is; DICOMwebClient would write its data set anew, and not state why the
        PACS refuses.
        """
        try:
            with open(path, "rb") as stream:
                sop_uid = uid_in(stream)
        except Exception as error:  # pydicom raises whatever its parser met
            raise_place_error(error)
            raise Rejected(f"source {self.name!r}: {path} is not a DICOM file.") from None
        uid = self._uid(sop_uid)
        body = MultipartFile(path)
        self._limits.wait()
        with http_errors("the storing of an object", self._source):
            response = self._session.post(
                f"{self._url}/studies",
                data=body,
                headers={"Content-Type": body.content_type, "Accept": "application/dicom+json"},
                timeout=self._timeout,
            )
            self._limits.count(len(body))
            if response.status_code not in {400, 409}:
                response.raise_for_status()
            return self._receipt(uid, response)

    def _receipt(self, uid: str, response: requests.Response) -> Receipt:
        """Read the answer to a STOW-RS request (PS3.18 section 10.5.3.2)."""
        try:
            answer = response.json()
        except ValueError:
            answer = {}
        stored = sequence_items(answer, "ReferencedSOPSequence")
        for item in stored:
            row = attributes_of(item, ("ReferencedSOPInstanceUID", "WarningReason"))
            if row.get("ReferencedSOPInstanceUID") == uid:
                warning = row.get("WarningReason", "")
                return Receipt(uid, f"warning {reason_code(warning)}" if warning else "")
        failed = [
            *sequence_items(answer, "FailedSOPSequence"),
            *sequence_items(answer, "OtherFailuresSequence"),
        ]
        reasons = {
            attributes_of(item, ("FailureReason",)).get("FailureReason", "") for item in failed
        }
        why = ", ".join(sorted(f"failure reason {reason_code(each)}" for each in reasons if each))
        raise Rejected(
            f"source {self.name!r}: the PACS did not store {uid}: HTTP status "
            f"{response.status_code}{', ' + why if why else ''}."
        )

    def _uid(self, value: object) -> str:
        return checked_uid(value, self.name)

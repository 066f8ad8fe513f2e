"""A PACS asked by DICOMweb: QIDO-RS, WADO-RS and STOW-RS (PS3.18 chapter 10)."""

from __future__ import annotations

import itertools
import logging
import os
import re
import ssl
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from email.message import Message
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Self

import requests
from dicomweb_client import DICOMwebClient
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.util import Retry

from jipflow import __version__
from jipflow.pacs.archive import (
    COUNT,
    SERIES_ATTRIBUTES,
    STUDY_ATTRIBUTES,
    SYNTAX,
    ArchiveDown,
    Receipt,
    Rejected,
    checked_uid,
    file_uid,
    text_of,
    with_uids,
)
from jipflow.pacs.credentials import secret
from jipflow.pacs.limits import Limits
from jipflow.settings.resources import ConfigError

LOGGER = logging.getLogger(__name__)

AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""Media type and transfer syntax of what is retrieved: as the PACS keeps it. Without the ``*`` the
PACS would have to decompress (PS3.18 section 8.7.3.5.2), which not every one can."""
UNIQUE = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
WANTED = (*STUDY_ATTRIBUTES, *SERIES_ATTRIBUTES, COUNT, SYNTAX)
CHUNK = 1 << 20
SOP_INSTANCE_UID = 0x00080018
ENCODED = re.compile(r"[^A-Za-z0-9._~*-]+")
"""What stands percent-encoded in an address."""

Item = Mapping[str, Mapping[str, Any]]


class _ServerError(ArchiveDown):
    """Status 500: something is wrong with the PACS, or with the one object asked for."""


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

    def __init__(self, source: Mapping[str, Any]) -> None:
        self.name: str = source["name"]
        self._url: str = source["url"].rstrip("/")
        self._timeout: int = source["timeout"]
        self._limits = Limits.of(source)
        self._session = _session(source)
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
            items = self._search(self._client.search_for_series, filters, WANTED)
            rows = (_row(item, (*UNIQUE, *WANTED)) for item in items)
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
        return sorted({self._uid(_row(item, UNIQUE).get("SOPInstanceUID")) for item in found})

    def _search(
        self,
        search: Callable[..., Sequence[Item]],
        keys: Mapping[str, str],
        fields: Sequence[str],
    ) -> list[Item]:
        """Search page by page until a page brings nothing that was not there before.

        A PACS may answer with as few results as it likes (PS3.18 section 8.3.4.4); one that does
        not know pages gives the same again.
        """
        found: dict[tuple[str, ...], Item] = {}
        offset = 0
        while True:
            before = len(found)
            with self._errors("a query"):
                page = search(
                    search_filters=dict(keys) or None,
                    fields=list(fields) or None,
                    offset=offset or None,
                )
                for item in page:
                    row = _row(item, UNIQUE)
                    found[tuple(row.get(key, "") for key in UNIQUE)] = item
            if len(found) == before:
                return list(found.values())
            offset += len(page)

    def describe(self, study_uid: str, series_uid: str, sop_uid: str) -> Dataset:
        """Return the header of an instance, without its pixels.

        It has no file meta; AvailableTransferSyntaxUID (0008,3002) is there where the PACS tells.
        """
        uids = self._uid(study_uid), self._uid(series_uid), self._uid(sop_uid)
        with self._one_object(uids), self._errors("the query for an instance's header"):
            metadata = self._client.retrieve_instance_metadata(*uids)
            return Dataset.from_json(
                {tag: item for tag, item in metadata.items() if "BulkDataURI" not in item}
            )

    def contains(self, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        """Tell whether the PACS lists an instance."""
        study, series, sop = self._uid(study_uid), self._uid(series_uid), self._uid(sop_uid)
        with self._errors("the query for an instance"):
            found = self._client.search_for_instances(
                study, series, search_filters={"SOPInstanceUID": sop}
            )
            return any(_row(item, UNIQUE).get("SOPInstanceUID") == sop for item in found)

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
        if self._worth_one_answer(study, series, len(wanted)):
            self._limits.wait()
            with closing(self._whole_series(study, series)) as instances:
                for uid, content in instances:
                    if uid in wanted:
                        receive(uid, content)
                        del wanted[uid]
                    if not self._limits.is_open():
                        break
        for uid in wanted:
            self._limits.wait()
            content = self._instance(study, series, uid)
            self._limits.count(len(content))
            receive(uid, content)

    def _worth_one_answer(self, study: str, series: str, wanted: int) -> bool:
        if self._limits.bytes_per_second is not None or wanted < 2:
            return False
        with self._errors("the query for a series"):
            found = self._client.search_for_series(
                study, fields=[COUNT], search_filters={"SeriesInstanceUID": series}
            )
            counts = [_row(item, (COUNT,)).get(COUNT, "") for item in found]
        return len(counts) == 1 and counts[0].isdecimal() and wanted > int(counts[0]) / 2

    def _whole_series(self, study: str, series: str) -> Generator[tuple[str, bytes]]:
        """Yield UID and file of each instance; ends early where the PACS has an error of its own.

        The instances that are left are then asked for one by one, and the faulty one is known.
        """
        files = self._files(f"studies/{study}/series/{series}")
        while True:
            try:
                with self._errors("the retrieval of a series"):
                    content = next(files, None)
                    uid = "" if content is None else _uid_in(content)
            except _ServerError:
                return
            if content is None:
                return
            yield uid, content

    def _instance(self, study: str, series: str, uid: str) -> bytes:
        with self._one_object((study, series, uid)), self._errors("the retrieval of an instance"):
            (content,) = self._files(f"studies/{study}/series/{series}/instances/{uid}")
            if _uid_in(content) != uid:
                raise Rejected(f"source {self.name!r}: the PACS sent another instance than {uid}.")
            return content

    def _files(self, resource: str) -> Iterator[bytes]:
        """Yield the files of a WADO-RS answer as they come (PS3.18 section 10.4).

        DICOMwebClient gives data sets: of a deflated one the bytes are gone by then.
        """
        response = self._session.get(
            f"{self._url}/{resource}",
            headers={"Accept": AS_STORED},
            timeout=self._timeout,
            stream=True,
        )
        with response:
            response.raise_for_status()
            yield from _parts(response)

    @contextmanager
    def _one_object(self, uids: tuple[str, str, str]) -> Iterator[None]:
        """Turn an error of the PACS into a refusal of the one object if the PACS still answers."""
        try:
            yield
        except _ServerError:
            if self.contains(*uids):
                raise Rejected(
                    f"source {self.name!r}: the PACS lists instance {uids[2]} but failed to give "
                    "it (HTTP status 500); its log says why."
                ) from None
            raise

    def send(self, path: Path) -> Receipt:
        """Store a DICOM file by STOW-RS (PS3.18 section 10.5); see `Archive.send`.

        The file goes as it is; DICOMwebClient would write its data set anew, and not tell why the
        PACS refuses.
        """
        try:
            with open(path, "rb") as stream:
                uid = self._uid(_uid_in(stream))
        except (InvalidDicomError, EOFError):
            raise Rejected(f"source {self.name!r}: {path} is not a DICOM file.") from None
        body = _Multipart(path)
        self._limits.wait()
        with self._errors("the storing of an object"):
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
        stored = _items(answer, "ReferencedSOPSequence")
        for item in stored:
            row = _row(item, ("ReferencedSOPInstanceUID", "WarningReason"))
            if row.get("ReferencedSOPInstanceUID") == uid:
                warning = row.get("WarningReason", "")
                return Receipt(uid, f"warning {_code(warning)}" if warning else "")
        failed = [*_items(answer, "FailedSOPSequence"), *_items(answer, "OtherFailuresSequence")]
        reasons = {_row(item, ("FailureReason",)).get("FailureReason", "") for item in failed}
        why = ", ".join(sorted(f"failure reason {_code(each)}" for each in reasons if each))
        raise Rejected(
            f"source {self.name!r}: the PACS did not store {uid}: HTTP status "
            f"{response.status_code}{', ' + why if why else ''}."
        )

    def _uid(self, value: object) -> str:
        return checked_uid(value, self.name)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn errors into those of `Archive`; addresses may hold patients' identifiers."""
        try:
            yield
        except EOFError:
            raise ArchiveDown(
                f"source {self.name!r}: {what} was cut off; the PACS or the network may be down."
            ) from None
        except requests.HTTPError as error:
            raise self._refusal(what, error.response) from None
        except requests.JSONDecodeError:
            raise self._no_dicomweb(what) from None
        except requests.RequestException as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ConfigError(
                    f"source {self.name!r}: the certificate of {self._url} is not trusted; name "
                    "the file of its authority's certificate as ca_file."
                ) from None
            raise ArchiveDown(
                f"source {self.name!r}: {what} failed: {self._cause(error)}; check that the PACS "
                f"at {self._url} runs and can be reached."
            ) from None
        except (InvalidDicomError, AttributeError, LookupError, TypeError, ValueError):
            raise self._no_dicomweb(what) from None

    def _no_dicomweb(self, what: str) -> Rejected:
        return Rejected(
            f"source {self.name!r}: the answer to {what} is not what DICOMweb asks for; check that "
            f"url {self._url} is that of DICOMweb services."
        )

    def _refusal(self, what: str, response: requests.Response) -> Exception:
        status = response.status_code
        response.close()
        start = f"source {self.name!r}: {what} failed: HTTP status {status}"
        if status == 401:
            return ConfigError(
                f"{start}: the PACS does not accept the credentials; check token_env, token_file, "
                "or user with password_env or password_file."
            )
        if status == 403:
            return Rejected(f"{start}: this user may not; ask the PACS's administrator.")
        if status == 500:
            return _ServerError(f"{start}; the PACS's log says why.")
        if status > 500 or status in {408, 429}:
            return ArchiveDown(f"{start}; the PACS is down or busy, try again later.")
        return Rejected(f"{start}.")

    def _cause(self, error: BaseException) -> str:
        if isinstance(error, requests.Timeout) or "timed out" in str(error):
            return f"no answer within {self._timeout} seconds"
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and isinstance(cause.errno, int):
                return os.strerror(cause.errno)
            cause = cause.__cause__ or cause.__context__
        return "the connection was cut"


def _parts(response: requests.Response) -> Iterator[bytes]:
    """Yield the content of each part of a multipart answer (RFC 2046 section 5.1.1).

    Raises:
        EOFError: the answer ends before its last delimiter.
        ValueError: it is something else.
    """
    header = Message()
    header["Content-Type"] = response.headers.get("Content-Type", "")
    if header.get_content_type() == "application/dicom":
        yield response.content
        return
    boundary = header.get_boundary()
    if header.get_content_maintype() != "multipart" or not boundary:
        raise ValueError
    delimiter = b"\r\n--" + boundary.encode()
    buffer = bytearray(b"\r\n")
    first, ended, searched = True, False, 0
    for chunk in response.iter_content(CHUNK):
        buffer += chunk
        while (
            not ended
            and 0 <= (end := buffer.find(delimiter, searched)) <= len(buffer) - len(delimiter) - 2
        ):
            if not first:
                start = buffer.index(b"\r\n\r\n", 0, end) + 4
                yield bytes(memoryview(buffer)[start:end])
            first, searched = False, 0
            del buffer[: end + len(delimiter)]
            ended = buffer.startswith(b"--")
        searched = max(0, len(buffer) - len(delimiter) - 2)
    if not ended:
        raise EOFError


def _uid_in(file: bytes | BinaryIO) -> str:
    """Return the SOPInstanceUID of a DICOM file, reading no further."""
    stream = BytesIO(file) if isinstance(file, bytes) else file
    return file_uid(read_partial(stream, stop_when=lambda tag, *_: tag > SOP_INSTANCE_UID))


class _Multipart:
    """The body of a STOW-RS request of one file, read as it is sent (PS3.18 section 8.6.1.2)."""

    def __init__(self, path: Path) -> None:
        boundary = uuid.uuid4().hex
        self.content_type = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
        self._path = path
        self._head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._length = len(self._head) + path.stat().st_size + len(self._tail)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        with open(self._path, "rb") as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
        yield self._tail


class _Bearer(AuthBase):
    """A bearer token (RFC 6750), sent to the PACS alone and not to where it may redirect."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Adapter(HTTPAdapter):
    """Connections to the PACS, on which wildcards stand as themselves, as in PS3.18 chapter 8."""

    def send(self, request: requests.PreparedRequest, *args: Any, **keys: Any) -> requests.Response:
        request.url = (request.url or "").replace("%2A", "*")
        return super().send(request, *args, **keys)


def _session(source: Mapping[str, Any]) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.headers["User-Agent"] = f"jipflow/{__version__}"
    # Compressing costs the PACS more time than a hospital's network saves.
    session.headers["Accept-Encoding"] = "identity"
    # A kept connection may have been closed by the PACS just when it is used again.
    again = Retry(connect=0, read=1, status=0, other=0, allowed_methods={"GET"})
    adapter = _Adapter(1, source["parallel"], again, pool_block=True)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.verify = _authorities(source)
    token, password = secret(source, "token"), secret(source, "password")
    if token is not None and (password is not None or "user" in source):
        raise ConfigError(
            f"source {source['name']!r}: a token and a user are both given; remove one."
        )
    if (password is None) != ("user" not in source):
        raise ConfigError(
            f"source {source['name']!r}: user belongs together with password_env or password_file; "
            "add the missing one."
        )
    if token is not None:
        session.auth = _Bearer(token)
    elif password is not None:
        session.auth = HTTPBasicAuth(source["user"].encode(), password.encode())
    if session.auth is not None and source["url"].startswith("http://"):
        LOGGER.warning(
            "source %r: credentials go over an unencrypted connection; use https.", source["name"]
        )
    return session


def _authorities(source: Mapping[str, Any]) -> str | bool:
    """Return the file or folder of the certificates that the server's is checked against."""
    if "ca_file" in source:
        path = Path(source["ca_file"])
        if not path.is_file():
            raise ConfigError(f"source {source['name']!r}: ca_file: {path} is not a file.")
        return str(path)
    system = ssl.get_default_verify_paths()
    return system.cafile or system.capath or True


def _items(answer: Mapping[str, Any], keyword: str) -> list[Item]:
    tag = f"{tag_for_keyword(keyword):08X}"
    items: list[Item] = answer.get(tag, {}).get("Value") or []
    return items


def _code(text: str) -> str:
    return f"0x{int(text):04X}" if text.isdecimal() else "unknown"


def _row(item: Item, wanted: Sequence[str]) -> dict[str, str]:
    """Return the wanted attributes of an item of DICOM JSON (PS3.18 annex F) as text."""
    return {
        keyword: text_of(element.get("Value"))
        for tag, element in item.items()
        if (keyword := keyword_for_tag(tag)) in wanted
    }

"""What goes wrong over HTTP, as the errors of `Archive`, without addresses that name patients."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from pydicom.errors import InvalidDicomError

from jipflow.pacs.archive import ArchiveDown, ArchiveFailed, Rejected
from jipflow.settings.resources import ConfigError
from jipflow.settings.site import DicomWeb

UNREADABLE = (
    *(InvalidDicomError, AttributeError, LookupError, TypeError, ValueError),
    *(ArithmeticError, NotImplementedError, RecursionError, zlib.error),
)
"""What pydicom and json raise of something that is no DICOM, or no JSON of it."""


class Redirected(requests.RequestException):
    """The answer names another address, which is not to be followed; its origin is the message."""


class TooLarge(requests.RequestException):
    """An answer has more bytes than it may have; the key of the source's limit is the message."""


class TooSlow(requests.Timeout):
    """An answer came too slowly to wait for its end."""


@contextmanager
def http_errors(what: str, source: DicomWeb) -> Iterator[None]:
    """Turn errors within the block into those of `Archive`.

    Args:
        what: the request, for the message.
        source: an entry of ``sources`` of kind ``dicomweb``, with its defaults.

    Raises:
        ArchiveDown: the PACS does not answer to the end, or is busy.
        ConfigError: it does not accept this site, or is not the one whose certificate is known.
        Rejected: it refuses, or answers with something else than DICOMweb.
    """
    name, url = source.name, source.url.rstrip("/")
    try:
        yield
    except EOFError:
        raise ArchiveDown(
            f"source {name!r}: {what} was cut off; the PACS or the network may be down."
        ) from None
    except requests.HTTPError as error:
        raise _refusal(what, name, error.response) from None
    except Redirected as error:
        raise ConfigError(
            f"source {name!r}: {what} was redirected to {error}, which is not followed; if the "
            f"PACS is there, set its address as url, else let its administrator look at {url}."
        ) from None
    except TooLarge as error:
        raise Rejected(
            f"source {name!r}: the answer to {what} is larger than {error}: "
            f"{getattr(source, str(error))}; if that is right, raise it."
        ) from None
    except TooSlow:
        raise ArchiveDown(
            f"source {name!r}: the answer to {what} came too slowly; look at the network, or raise "
            "timeout."
        ) from None
    except requests.JSONDecodeError:
        raise _no_dicomweb(what, name, url) from None
    except requests.RequestException as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise ConfigError(
                f"source {name!r}: the certificate of {url} is not trusted; name "
                "the file of its authority's certificate as ca_file."
            ) from None
        raise ArchiveDown(
            f"source {name!r}: {what} failed: {_cause(error, source.timeout)}; check that the "
            f"PACS at {url} runs and can be reached."
        ) from None
    except UNREADABLE:
        raise _no_dicomweb(what, name, url) from None


def _no_dicomweb(what: str, name: str, url: str) -> Rejected:
    return Rejected(
        f"source {name!r}: the answer to {what} is not what DICOMweb asks for; check that "
        f"url {url} is that of DICOMweb services."
    )


def _refusal(what: str, name: str, response: requests.Response) -> Exception:
    """Return what a status of HTTP means."""
    status = response.status_code
    response.close()
    start = f"source {name!r}: {what} failed: HTTP status {status}"
    if status == 401:
        return ConfigError(
            f"{start}: the PACS does not accept the credentials; check token_env, token_file, "
            "or user with password_env or password_file."
        )
    if status == 403:
        return Rejected(f"{start}: this user may not; ask the PACS's administrator.")
    if status == 500:
        return ArchiveFailed(f"{start}; the PACS's log says why.")
    if status > 500 or status in {408, 429}:
        return ArchiveDown(f"{start}; the PACS is down or busy, try again later.")
    return Rejected(f"{start}.")


def _cause(error: BaseException, timeout: float) -> str:
    """Find the system's word for what a library wrapped."""
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer within {timeout} seconds"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and isinstance(cause.errno, int):
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return "the connection was cut"

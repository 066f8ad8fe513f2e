"""The HTTP session with a PACS: credentials, certificates, connections."""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import requote_uri
from urllib3.util import Retry, parse_url

from jipflow import __version__
from jipflow.pacs.credentials import secret
from jipflow.pacs.dicomweb.connections import POOLS, bound
from jipflow.pacs.dicomweb.errors import Redirected
from jipflow.settings.resources import ConfigError
from jipflow.settings.site import DicomWeb

LOGGER = logging.getLogger(__name__)
# Their lines have the addresses asked for, with patients' identifiers, and headers of the PACS.
for library in ("dicomweb_client", "retrying", "urllib3"):
    logging.getLogger(library).setLevel(logging.CRITICAL)

PORTS = {"http": 80, "https": 443}
MOST_REDIRECTS = 5
KEEP_METHOD = frozenset({307, 308})
"""Redirects by which a request is sent again as it was (RFC 9110 section 15.4)."""
SHOWN = re.compile(r"https?://[a-z0-9.\[\]:-]{1,253}:\d{1,5}")
"""Origins that a message shows; others could hold anything."""


def open_session(source: DicomWeb) -> requests.Session:
    """Open a session that speaks to the PACS alone, as the site's configuration says.

    Args:
        source: an entry of ``sources`` of kind ``dicomweb``, with its defaults.

    Raises:
        ConfigError: credentials or certificates are missing, or do not fit together.
    """
    session = PacsSession(_address(source))
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.headers["User-Agent"] = f"jipflow/{__version__}"
    # Compressing costs the PACS more time than a hospital's network saves.
    session.headers["Accept-Encoding"] = "identity"
    # A kept connection may have been closed by the PACS just when it is used again.
    again = Retry(connect=0, read=1, status=0, other=0, allowed_methods={"GET"})
    adapter = _Adapter(source, again)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.verify = _authorities(source)
    token, password = secret(source, "token"), secret(source, "password")
    if token is not None and (password is not None or source.user is not None):
        raise ConfigError(f"source {source.name!r}: a token and a user are both given; remove one.")
    if (password is None) != (source.user is None):
        raise ConfigError(
            f"source {source.name!r}: user belongs together with password_env or password_file; "
            "add the missing one."
        )
    if token is not None:
        session.auth = _Bearer(token)
    elif source.user is not None and password is not None:
        session.auth = HTTPBasicAuth(source.user.encode(), password.encode())
    if session.auth is not None and source.url.startswith("http://"):
        LOGGER.warning(
            "source %r: credentials go over an unencrypted connection; use https.", source.name
        )
    return session


def _address(source: DicomWeb) -> str:
    """Return the address of the PACS as it is sent, with a name of another alphabet in ASCII.

    Raises:
        ConfigError: it is no address.
    """
    try:
        url = requests.Request("GET", source.url).prepare().url or ""
        origin(url)
    except ValueError:
        raise ConfigError(
            f"source {source.name!r}: url is no address; write it like "
            "https://pacs.example.org/dicom-web."
        ) from None
    return url


def _authorities(source: DicomWeb) -> str | bool:
    """Return the file or folder of the certificates that the server's is checked against."""
    if source.ca_file is not None:
        path = Path(source.ca_file)
        if not path.is_file():
            raise ConfigError(f"source {source.name!r}: ca_file: {path} is not a file.")
        return str(path)
    system = ssl.get_default_verify_paths()
    return system.cafile or system.capath or True


class PacsSession(requests.Session):
    """A session with one origin (RFC 6454): scheme, host and port.

    Nothing is sent to another: a redirect there, which could carry images or credentials along, or
    make this machine ask others in the PACS's place, is not followed. Within the origin, queries
    are redirected a few times; what is stored only by a status that keeps method and body.

    Args:
        url: of the PACS.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._origin = origin(url)

    def send(self, request: requests.PreparedRequest, **keys: Any) -> requests.Response:
        """Send a request, and once more where the PACS says that it stands at another path.

        Raises:
            EOFError: the connection ended within the header of the answer.
            Redirected: it would go elsewhere, or has no end.
        """
        keys["allow_redirects"] = False
        for _ in range(MOST_REDIRECTS + 1):
            response = super().send(request, **keys)
            target = self.get_redirect_target(response)
            if target is None:
                return response if keys.get("stream") else _complete(response)
            response.close()
            request = request.copy()
            request.url = self._within(response.url, target)
            if request.method != "GET" and response.status_code not in KEEP_METHOD:
                raise Redirected("another path by a status that loses what is stored")
        raise Redirected("one path after another")

    def resolve_redirects(self, *args: Any, **keys: Any) -> Iterator[requests.Response]:
        """Follow none: `send` does."""
        return iter(())

    def _within(self, url: str, target: str) -> str:
        """Return the address that a redirect from another one names, if it is of the origin."""
        try:
            url = requote_uri(urljoin(url, target))
            found = origin(url)
        except ValueError:
            raise Redirected("something that is no address") from None
        if found != self._origin or "@" in urlsplit(url).netloc:
            raise Redirected(found if SHOWN.fullmatch(found) else "another host")
        return urldefrag(url).url


def _complete(response: requests.Response) -> requests.Response:
    """Return an answer that has a content, or says that it has none.

    Where the connection ends within the header, http.client takes that for the end of an empty
    answer; to a query that would be no series at all.

    Raises:
        EOFError: it may go on.
    """
    ends = {"Content-Length", "Transfer-Encoding"} & {name.title() for name in response.headers}
    if response.status_code == requests.codes.ok and not ends and not response.content:
        raise EOFError
    return response


def origin(url: str) -> str:
    """Return scheme, host and port of an address, as the libraries that connect read them.

    Raises:
        ValueError: it has none, or they do not read the same.
    """
    split, parsed = urlsplit(url), parse_url(url)
    scheme, host = split.scheme.lower(), (split.hostname or "").lower()
    port = split.port or PORTS.get(scheme)
    same = (parsed.scheme, (parsed.host or "").strip("[]").lower()) == (scheme, host)
    if not host or port is None or not same or (parsed.port or PORTS.get(scheme)) != port:
        raise ValueError
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


class _Bearer(AuthBase):
    """A bearer token (RFC 6750)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Adapter(HTTPAdapter):
    """Connections to the PACS alone, on which wildcards stand as in PS3.18 chapter 8.

    Args:
        source: an entry of ``sources`` of kind ``dicomweb``, with its defaults.
        again: when a request is sent again.
    """

    def __init__(self, source: DicomWeb, again: Retry) -> None:
        self._origin = origin(_address(source))
        self._timeout, self._most = source.timeout, source.bytes_per_answer
        super().__init__(1, source.parallel, again, pool_block=True)

    def init_poolmanager(self, *args: Any, **keys: Any) -> None:
        """Make the pools of connections."""
        super().init_poolmanager(*args, **keys)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, *args: Any, **keys: Any
    ) -> requests.Response:
        """Send a request to the PACS; its answer can be read within bounds alone."""
        if origin(request.url or "") != self._origin:
            raise Redirected("another host")
        request.url = (request.url or "").replace("%2A", "*")
        response = super().send(request, stream, *args, **keys)
        bound(response.raw, self._timeout, None if stream else self._most)
        return response

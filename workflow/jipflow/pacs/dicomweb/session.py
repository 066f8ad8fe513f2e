"""The HTTP session with a PACS: credentials, certificates, connections."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.util import Retry

from jipflow import __version__
from jipflow.pacs.credentials import secret
from jipflow.settings.resources import ConfigError
from jipflow.settings.site import DicomWeb

LOGGER = logging.getLogger(__name__)


def open_session(source: DicomWeb) -> requests.Session:
    """Open a session that speaks to the PACS alone, as the site's configuration says.

    Args:
        source: an entry of ``sources`` of kind ``dicomweb``, with its defaults.

    Raises:
        ConfigError: credentials or certificates are missing, or do not fit together.
    """
    session = requests.Session()
    session.trust_env = False
    session.headers["User-Agent"] = f"jipflow/{__version__}"
    # Compressing costs the PACS more time than a hospital's network saves.
    session.headers["Accept-Encoding"] = "identity"
    # A kept connection may have been closed by the PACS just when it is used again.
    again = Retry(connect=0, read=1, status=0, other=0, allowed_methods={"GET"})
    adapter = _Adapter(1, source.parallel, again, pool_block=True)
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


def _authorities(source: DicomWeb) -> str | bool:
    """Return the file or folder of the certificates that the server's is checked against."""
    if source.ca_file is not None:
        path = Path(source.ca_file)
        if not path.is_file():
            raise ConfigError(f"source {source.name!r}: ca_file: {path} is not a file.")
        return str(path)
    system = ssl.get_default_verify_paths()
    return system.cafile or system.capath or True


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

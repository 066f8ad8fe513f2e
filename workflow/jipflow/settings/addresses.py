"""Addresses of places beyond this machine where messages are exchanged."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from jipflow.files import local_path
from jipflow.settings.part import Text

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""Names of buckets, as in "General purpose bucket naming rules" of Amazon S3."""


@dataclass(frozen=True)
class Address:
    """A folder of an S3 bucket or of a WebDAV server.

    Attributes:
        kind: how it is reached.
        host: of a WebDAV server, with its port if one is given; the bucket of S3.
        path: of the folder, without slashes at its ends.
        secure: whether the connection is encrypted; for S3 its endpoint decides.
    """

    kind: str
    host: str
    path: str
    secure: bool = True

    @property
    def url(self) -> str:
        """The address as the settings spell it; it holds no secret."""
        scheme = "s3" if self.kind == "s3" else "davs" if self.secure else "dav"
        return f"{scheme}://{self.host}/{self.path}".rstrip("/")

    @property
    def web_url(self) -> str:
        """The address of a WebDAV folder for HTTP."""
        scheme = "https" if self.secure else "http"
        return f"{scheme}://{self.host}/{quote(self.path)}".rstrip("/")


def is_address(text: str) -> bool:
    """Return whether a text is an address rather than a path of this machine."""
    return SCHEME.match(text) is not None


def parse_address(text: str) -> Address:
    """Return the address that a text is.

    Args:
        text: ``s3://bucket/prefix`` or ``davs://host:port/path``; ``dav`` is unencrypted, and only
            for this machine itself.

    Raises:
        ValueError: it is none, or would show a secret; the message goes on from the text.
    """
    if not text.isprintable() or re.search(r"[\s\\?#{}%]", text):
        raise ValueError("holds a blank or one of \\ ? # { } %; name scheme, host and path alone")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("has a host or port that is none; fix it") from None
    if parts.scheme not in {"s3", "davs", "dav"}:
        raise ValueError("is no folder and no address that begins with s3://, davs:// or dav://")
    # The text would stand in logs and lists of processes.
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a name or password; give them in the environment, see exchange.md")
    path = parts.path.strip("/")
    if not parts.hostname or any(part in {"", ".", ".."} for part in path.split("/") if path):
        raise ValueError("must be a host or bucket and a plain path, without // and ..")
    if parts.scheme == "s3":
        if port is not None or not BUCKET.fullmatch(parts.netloc):
            raise ValueError("names no bucket behind s3://; the server is named in the environment")
        return Address("s3", parts.netloc, path)
    if parts.scheme == "dav" and not _is_this_machine(parts.hostname):
        raise ValueError("would send its password unencrypted; use davs://")
    return Address("webdav", parts.netloc, path, secure=parts.scheme == "davs")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _place(value: str) -> str:
    try:
        return parse_address(value).url if is_address(value) else local_path(value)
    except ValueError as error:
        shown = "the address" if re.search("[@?#]", value) else repr(value)
        raise PydanticCustomError(
            "place", "{value} {error}", {"value": shown, "error": str(error)}
        ) from None


ExchangePlace = Annotated[Text, AfterValidator(_place)]
"""A folder of this machine, or the address of one in S3 or WebDAV."""


@dataclass(frozen=True)
class Way:
    """Where messages lie here, and where they come from or go to.

    Attributes:
        folder: of this machine.
        address: of the place beyond; None where others come to the folder themselves.
    """

    folder: Path
    address: str | None = None


def way(place: str | None, own: Path) -> Way:
    """Return the way of messages.

    Args:
        place: an `ExchangePlace` of the settings, if they name one.
        own: folder in the results.
    """
    if place is not None and is_address(place):
        return Way(own, place)
    return Way(Path(place) if place is not None else own)

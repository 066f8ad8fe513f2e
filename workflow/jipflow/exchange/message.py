"""The message between site and hub: its members, its manifest, its bytes.

A bundle is a zip with five members. ``manifest.json`` names everything else and is canonical JSON
(RFC 8785); ``signatures.json`` holds the signature of the manifest's bytes by the site's machine;
``approvals.json`` what persons have stated and signed about the numbers. Members are stored, not
compressed, with fixed attributes in a fixed order, so that the same content is the same file to the
last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from jipflow import archives
from jipflow.settings.part import Id, Part
from jipflow.settings.resources import ConfigError

P = TypeVar("P", bound=Part)

Format = Literal["jipflow-bundle-1"]
(FORMAT,) = get_args(Format)

ROUND = 1
"""The round that a release belongs to: analyses so far need one exchange."""

ContentName = Literal["aggregates.json", "disclosure.json"]
CONTENT: tuple[ContentName, ...] = get_args(ContentName)

Listed = Literal["approvals.json", "aggregates.json", "disclosure.json"]
LISTED: tuple[Listed, ...] = get_args(Listed)
"""What the manifest names: the statements of the persons, and what they are about."""

MEMBERS = ("manifest.json", "signatures.json", *LISTED)

PAGE = "disclosure.html"
"""The page that shows a person what would leave, beside the files."""

LIMITS = {
    "manifest.json": 16 * 1024,
    "signatures.json": 4 * 1024,
    "approvals.json": 4 * 1024**2,
    "aggregates.json": 128 * 1024**2,
    "disclosure.json": 256 * 1024**2,
}
"""Most bytes of each member. A cell is about 300 bytes in either file."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PartName = Annotated[str, Field(pattern=r"^[a-z_]{1,20}$")]
Version = Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.+-]{0,39}$")]
Round = Annotated[int, Field(ge=1, le=99)]


class ProtocolVersion(Part):
    """Which protocol a message belongs to, and which text of it."""

    id: Id
    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
    sha256: Sha256
    parts: Annotated[dict[PartName, Sha256], Field(max_length=20)]
    """Hash of each part of what `sha256` is of, so that a hub can say which one differs."""


class FileEntry(Part):
    """What the manifest says about a file."""

    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


def _is_time(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise PydanticCustomError("time", "{text} is no time", {"text": text}) from None
    return text


Time = Annotated[
    str,
    Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"),
    AfterValidator(_is_time),
]
"""A time in UTC, to the second."""


class Manifest(Part):
    """What a bundle says about itself; the site signs its canonical JSON."""

    format: Format
    protocol: ProtocolVersion
    version: Version
    """jipflow's version at the site."""
    round: Round
    attempt: Annotated[int, Field(ge=1, le=999)]
    """Counts what a site sends in one round; the hub takes the latest."""
    sender: Id
    """The site."""
    recipient: Id
    """The hub."""
    issued: Time
    """Time of the approval (UTC)."""
    files: Annotated[dict[Listed, FileEntry], Field(min_length=len(LISTED))]
    """Every file of `LISTED`."""


class Signatures(Part):
    """The signature of the manifest's bytes."""

    site: str


def checked(model: type[P], content: Any, source: str) -> P:
    """Return content of a message as its model.

    Args:
        model: what it must fit.
        content: plain data.
        source: what it was read from, for the message.

    Raises:
        ConfigError: it does not fit; names the first places.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = (
            f"{source}: {'.'.join(map(str, found['loc']))}: {found['msg']}"
            for found in error.errors(include_url=False)
        )
        raise ConfigError("\n".join(list(dict.fromkeys(lines))[:5])) from None


def canonical(content: Any) -> bytes:
    """Return canonical JSON (RFC 8785): one content, one sequence of bytes."""
    import rfc8785

    return rfc8785.dumps(content)


def describe(data: bytes) -> FileEntry:
    """Return what the manifest says about a file: its size and SHA-256."""
    return FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def bundle_name(protocol: str, site: str, round_: int, attempt: int) -> str:
    """Return the file name of a bundle, such as ``demo-north-r01-a1.zip``."""
    return f"{protocol}-{site}-r{round_:02d}-a{attempt}.zip"


def pack(members: Mapping[str, bytes]) -> bytes:
    """Return the zip of a bundle.

    Args:
        members: content by name, exactly `MEMBERS`.
    """
    return archives.pack({name: members[name] for name in MEMBERS})

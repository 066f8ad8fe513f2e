"""The messages between hub and sites: their members, their manifest, their bytes.

A message is a zip. ``manifest.json`` names everything else and is canonical JSON (RFC 8785);
``signature.json`` holds the signature of the manifest's bytes by the sender's machine; what else is
in it depends on its kind. Members are stored, not compressed, with fixed attributes in a fixed
order, so that the same content is the same file to the last bit. It travels sealed, see
`jipflow.exchange.sealing`.

The messages between a hub and a site about one text of a protocol are a thread: each names the
hash of the message that it follows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from jipflow import archives
from jipflow.exchange.keys import sign
from jipflow.settings.part import Id, Part
from jipflow.settings.resources import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

P = TypeVar("P", bound=Part)

Format = Literal["jipflow-message-1"]
(FORMAT,) = get_args(Format)

Kind = Literal["release", "round", "roster", "end"]
"""What a message is: a site's release, or the hub's opening of a round, change of the roster, or
end of the protocol's rounds."""

ContentName = Literal["aggregates.json", "disclosure.json"]
CONTENT: tuple[ContentName, ...] = get_args(ContentName)
"""The files of a release that a person reads and approves."""

FileName = Literal[
    "approvals.json", "aggregates.json", "disclosure.json", "roster.json", "state.json", "end.json"
]

FILES: Mapping[Kind, tuple[FileName, ...]] = {
    "release": ("approvals.json", *CONTENT),
    "round": ("roster.json", "state.json"),
    "roster": ("roster.json",),
    "end": ("end.json",),
}
"""The files of each kind of message, in their order."""

FRAME = ("manifest.json", "signature.json")
"""What every message has before them."""

PAGE = "disclosure.html"
"""The page that shows a person what would leave, beside the files."""

LIMITS = {
    "manifest.json": 16 * 1024,
    "signature.json": 1024,
    "approvals.json": 4 * 1024**2,
    "aggregates.json": 128 * 1024**2,
    "disclosure.json": 256 * 1024**2,
    "roster.json": 4 * 1024**2,
    "state.json": 256 * 1024**2,
    "end.json": 16 * 1024,
}
"""Most bytes of each member. A cell is about 300 bytes in either file, a site of the roster 400."""

FIRST = "0" * 64
"""What the first message of a thread has in place of the hash of the one before."""

MOST_ATTEMPTS = 999
"""Of a site in one round; three digits of the name of its file."""

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
"""A time (UTC)."""


class Manifest(Part):
    """What a message says about itself; the sender's machine signs its canonical JSON."""

    format: Format
    kind: Kind
    protocol: ProtocolVersion
    version: Version
    """jipflow's version at the sender."""
    round: Round
    attempt: Annotated[int, Field(ge=1, le=MOST_ATTEMPTS)]
    """Counts what a site sends in one round; the hub takes the latest. Of the hub's messages 1."""
    sender: Id
    recipient: Id
    previous: Sha256
    """Hash of the message of the thread that this one follows: at a site the hub's last one, at the
    hub its own last one to this site; `FIRST` where there is none."""
    roster: Sha256
    """Hash of the roster in force."""
    issued: Time
    """When it was packed (UTC)."""
    files: Annotated[dict[FileName, FileEntry], Field(min_length=1)]
    """Every file of the kind."""


class Signature(Part):
    """Content of ``signature.json``."""

    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    """Of the manifest's bytes, by the sender's machine."""


class End(Part):
    """Content of ``end.json``: why the rounds of a protocol end before they were over."""

    format: Literal["jipflow-end-1"] = "jipflow-end-1"
    because: Annotated[str, Field(min_length=10, max_length=500)]
    """In a person's words."""


EXACT = 2**53 - 1
"""Largest whole number that canonical JSON writes of an int (RFC 7493, section 2.2)."""

WITHOUT_EXPONENT = 10**21
"""Floats below are written without an exponent (ECMA-262, Number::toString)."""


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


def whole(text: str) -> int | float:
    """Return a whole number of JSON, which may be how `canonical` writes a float.

    Canonical JSON writes floats below 1e21 without an exponent. One beyond 2⁵³ would be an int that
    it cannot write again, and that NumPy does not count as a number beyond 64 bits.
    """
    number = int(text)
    if EXACT < abs(number) < WITHOUT_EXPONENT and canonical(float(number)) == text.encode():
        return float(number)
    return number


def describe(data: bytes) -> FileEntry:
    """Return what the manifest says about a file: its size and SHA-256."""
    return FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def digest(raw: bytes) -> str:
    """Return the hash by which a message is named, of its bytes before they are sealed."""
    return hashlib.sha256(raw).hexdigest()


def now_text(now: datetime | None = None) -> str:
    """Return a time as messages have it; now by default."""
    return (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def bundle_name(protocol: str, site: str, round_: int, attempt: int) -> str:
    """Return the file name of a release's message, such as ``demo-north-r01-a1.zip``."""
    return f"{protocol}-{site}-r{round_:02d}-a{attempt}.zip"


def pack(manifest: Manifest, key: Ed25519PrivateKey, files: Mapping[FileName, bytes]) -> bytes:
    """Return the bytes of a message.

    Args:
        manifest: what it says about itself; its ``files`` are those given.
        key: of the sender.
        files: content by name, exactly those of the kind.
    """
    signed = canonical(manifest.plain())
    signature = canonical(Signature(signature=sign(key, signed)).plain())
    content = {str(name): data for name, data in files.items()}
    return zipped(manifest.kind, {"manifest.json": signed, "signature.json": signature, **content})


def zipped(kind: Kind, members: Mapping[str, bytes]) -> bytes:
    """Return the zip of members, in the order of their kind."""
    return archives.pack({name: members[name] for name in (*FRAME, *FILES[kind])})

"""What the facts of an event may hold: counts, names, hashes and keys."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from jipflow.exchange.message import Time
from jipflow.settings.hub import PublicKey
from jipflow.settings.part import Id, Part, Unique

Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A number that JSON has exactly."""
Sources = Annotated[list[Id], Field(min_length=1), Unique]
Shard = Annotated[str, Field(pattern=r"^s[0-9]{5}$")]
Person = Annotated[str, Field(min_length=1, max_length=100)]
SignatureText = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class Facts(Part):
    """The facts of an event."""

    subject: ClassVar[tuple[str, ...]] = ()
    """The fields that say what it is about: as long as the last line about it has the same facts,
    nothing has happened."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        raise NotImplementedError


class ApprovedBy(Part):
    """A person's approval."""

    person: Person
    key: PublicKey
    issued: Time

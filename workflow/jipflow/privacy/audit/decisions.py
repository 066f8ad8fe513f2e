"""What persons sign that stands in an audit trail: each with the person's name, key and reason."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jipflow.exchange.message import Round, Sha256, Time
from jipflow.privacy.audit.facts import Count, Person
from jipflow.settings.hub import PublicKey
from jipflow.settings.part import Id, Part


class Decision(Part):
    """That a trail goes on which is not whole: what a person signs."""

    decides: Literal["jipflow-audit-resumption-1"] = "jipflow-audit-resumption-1"
    person: Person
    key: PublicKey
    reason: Annotated[str, Field(min_length=10, max_length=2000)]
    """What has happened and why the trail may go on, in the person's words."""
    found: Annotated[str, Field(max_length=4000)]
    """What was wrong with it."""
    bytes: Count
    """How long the file is that was found."""
    sha256: Sha256
    """Of these bytes, which stay before the line that says so."""


class Revocation(Part):
    """That a person takes an approval back: what the person signs."""

    decides: Literal["jipflow-revocation-1"] = "jipflow-revocation-1"
    person: Person
    key: PublicKey
    reason: Annotated[str, Field(min_length=10, max_length=2000)]
    protocol: Id
    round: Round
    """Whose numbers the person had read."""
    last_round: Round
    """That the approval reached."""
    statement: Sha256
    """Of the canonical JSON of what the person had stated."""
    issued: Time

"""The facts of what happens at a hub.

Each names the text of the protocol by its hash, since a hub has rounds of each text by itself. A
refused message proves nothing of who sent it, and whoever puts a file into the inbox names it: so
there are hashes in place of its name and its content.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from jipflow.exchange.message import Round, Sha256, Time
from jipflow.privacy.audit.facts import ApprovedBy, Count, Facts
from jipflow.settings.hub import Member, PublicKey
from jipflow.settings.part import Id
from jipflow.words import number_of

Because = Annotated[str, Field(max_length=2000)]
"""Why, in a person's words."""


class OfProtocol(Facts):
    """Something about one text of a protocol."""

    protocol: Id
    protocol_sha256: Sha256
    round: Round
    """That is open, or is opened."""


class RosterChanged(OfProtocol):
    """A roster came into force: the first one, or another than before."""

    subject: ClassVar[tuple[str, ...]] = ("event",)

    event: Sha256
    """Of the file in which the hub keeps it."""
    number: Annotated[int, Field(ge=1)]
    """Of the roster."""
    roster: Sha256
    issued: Time
    because: Because
    """Empty of the first."""
    members: list[Member]
    """The sites, their keys, and the persons who may approve there with theirs."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        why = f" ({self.because})" if self.because else ""
        each = "; ".join(
            f"{m.site} with {m.key}, approved by "
            + " or ".join(f"{a.name} with {a.key}" for a in m.approvers)
            for m in self.members
        )
        return f"roster {self.number} of {self.protocol} in force{why}: {each}"


class RoundOpened(OfProtocol):
    """A round was opened."""

    subject: ClassVar[tuple[str, ...]] = ("event",)

    event: Sha256
    """Of the file in which the hub keeps it."""
    issued: Time
    roster: Sha256
    sites: Count
    over: bool
    """Whether another round was open when this was noted, as at a hub that had no trail before:
    what was accepted in this one has no lines then."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        sites = number_of(self.sites, "site")
        late = f" on {self.issued[:10]}, noted when it was over" if self.over else ""
        return f"round {self.round} of {self.protocol} opened for {sites}{late}"


class RoundsEnded(OfProtocol):
    """A person ended the rounds."""

    subject: ClassVar[tuple[str, ...]] = ("event",)

    event: Sha256
    issued: Time
    because: Because

    def sentence(self) -> str:
        """Return the facts for a person."""
        return f"the rounds of {self.protocol} ended in round {self.round}: {self.because}"


class MessageWritten(OfProtocol):
    """A message to a site was written, which the hub's key has signed."""

    subject: ClassVar[tuple[str, ...]] = ("message", "sealed_to")

    site: Id
    kind: Literal["round", "roster", "end"]
    message: Sha256
    sealed_to: PublicKey
    """The site's key, which alone opens it."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        what = {"round": "opens it", "roster": "has a new roster", "end": "ends the rounds"}
        return (
            f"message {self.message[:16]} to {self.site} about round {self.round} of "
            f"{self.protocol}, which {what[self.kind]}, sealed to {self.sealed_to}"
        )


class ReleaseAccepted(OfProtocol):
    """A site's message counts."""

    subject: ClassVar[tuple[str, ...]] = ("protocol_sha256", "round", "site")

    site: Id
    attempt: Annotated[int, Field(ge=1)]
    key: PublicKey
    """Of the site's machine, which has signed it."""
    message: Sha256
    """The bundle that was sealed."""
    cells: Count
    left_out: Count
    """Cells that do not go on from what the site sent in the round before."""
    approvals: Annotated[list[ApprovedBy], Field(min_length=1)]

    def sentence(self) -> str:
        """Return the facts for a person."""
        persons = " and ".join(f"{each.person} with {each.key}" for each in self.approvals)
        less = f", {self.left_out} of which are left out" if self.left_out else ""
        return (
            f"{number_of(self.cells, 'cell')}{less} of {self.site} accepted for round "
            f"{self.round} of {self.protocol}, attempt {self.attempt}, message "
            f"{self.message[:16]}, signed by {self.key}, approved by {persons}"
        )


class MessageRefused(OfProtocol):
    """A file of the inbox does not count."""

    subject: ClassVar[tuple[str, ...]] = ("protocol_sha256", "round", "file", "message")

    file: Sha256
    """Of its name, which `rejected.json` has."""
    message: Sha256 | None
    """Of its content; None where that was not read."""
    reason: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]

    def sentence(self) -> str:
        """Return the facts for a person."""
        what = f"message {self.message[:16]}" if self.message else "a file that was not read"
        return f"{what} refused in round {self.round} of {self.protocol}: {self.reason}"


class RoundMerged(OfProtocol):
    """A result was made of what counts."""

    subject: ClassVar[tuple[str, ...]] = ("protocol_sha256", "round")

    sites: list[Id]
    messages: list[Sha256]
    """That it was made of, in the order of the sites."""
    result: Sha256
    """Of ``result.json``."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        return (
            f"round {self.round} of {self.protocol} merged of "
            f"{', '.join(self.sites) or 'no site'}: result {self.result[:16]}"
        )

"""The roster: which sites send to a hub, and whose signatures count for each.

Each roster but the first names the hash of the one before it, and why it replaces that. The hub
sends it in messages that it signs, and every message names the roster in force by its hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from jipflow.exchange.keys import is_weak
from jipflow.exchange.message import FIRST, Sha256, Time, canonical, digest
from jipflow.settings.hub import Member
from jipflow.settings.part import Id, Part
from jipflow.settings.resources import ConfigError

FEWEST_SITES = 3
"""Fewest sites where one gets back what all have sent: of two, each could subtract its own."""


class Roster(Part):
    """The sites of a federation for one text of a protocol, from a time on."""

    format: Literal["jipflow-roster-1"] = "jipflow-roster-1"
    hub: Id
    number: Annotated[int, Field(ge=1, le=999)]
    previous: Sha256
    """Hash of the roster before; `FIRST` of the first."""
    issued: Time
    because: Annotated[str, Field(max_length=500)]
    """Why it replaces the one before, in a person's words; empty of the first."""
    members: Annotated[list[Member], Field(min_length=1)]

    def canonical(self) -> bytes:
        """Return its canonical JSON."""
        return canonical(self.plain())

    @property
    def sha256(self) -> str:
        """The hash that names it."""
        return digest(self.canonical())

    @property
    def sites(self) -> list[str]:
        """Ids of the sites, sorted."""
        return sorted(member.site for member in self.members)

    def keys(self) -> dict[str, str]:
        """Return the public key of each site's machine."""
        return {member.site: member.key for member in self.members}


class RosterFault(ConfigError):
    """A roster may not follow the one in force."""


def first_roster(hub: str, members: Sequence[Member], issued: str) -> Roster:
    """Return the first roster of a federation."""
    return Roster(
        hub=hub, number=1, previous=FIRST, issued=issued, because="", members=list(members)
    )


def next_roster(
    before: Roster, members: Sequence[Member], *, because: str, issued: str, round_: int
) -> Roster:
    """Return the roster that follows another.

    Args:
        before: the roster in force.
        members: of the new one.
        because: why, in a person's words.
        issued: time (UTC).
        round_: the round that is open.

    Raises:
        RosterFault: nothing changes, a site joins after the first round, or fewer than
            `FEWEST_SITES` are left of as many or more.
    """
    new = sorted(members, key=lambda member: member.site)
    if new == sorted(before.members, key=lambda member: member.site):
        raise RosterFault(f"the roster says what roster {before.number} says, which is in force.")
    if not because.strip():
        raise RosterFault("say why the roster changes; the sites read it.")
    left = {member.site for member in new}
    joining = left.difference(before.sites)
    if joining and round_ > 1:
        raise RosterFault(
            f"{min(joining)} cannot join in round {round_}, for its numbers of the rounds before "
            "are missing; end these rounds and begin anew with another version of the protocol."
        )
    if len(left) < FEWEST_SITES <= len(before.members):
        raise RosterFault(
            f"only {len(left)} sites would be left, and no fewer than {FEWEST_SITES} may be, for "
            "of two each could subtract its own numbers from the sum; end these rounds instead."
        )
    return Roster(
        hub=before.hub,
        number=before.number + 1,
        previous=before.sha256,
        issued=issued,
        because=because.strip(),
        members=list(members),
    )


def follows(roster: Roster, before: Roster | None, round_: int) -> str:
    """Return why a roster may not follow another at a site, empty where it may.

    A site trusts its hub's signature, and still refuses what would let others learn its numbers.

    Args:
        roster: that the hub sent.
        before: the one in force there; None where there is none.
        round_: the round that is open.
    """
    if before is None:
        return ""
    if roster == before:
        return ""
    if roster.number != before.number + 1 or roster.previous != before.sha256:
        return f"roster {roster.number} does not follow roster {before.number}"
    try:
        next_roster(
            before, roster.members, because=roster.because, issued=roster.issued, round_=round_
        )
    except RosterFault as fault:
        return str(fault)
    return ""


def check_roster(roster: Sequence[Member], source: str) -> None:
    """Check that every site, machine and person of a roster can be distinguished from all others.

    Args:
        roster: from the hub's settings.
        source: what it was read from, for the message.

    Raises:
        ConfigError: a site is listed twice, one key serves twice, or a key is weak; a machine must
            not be able to approve its site's release.
    """
    sites: set[str] = set()
    owners: dict[str, str] = {}
    for member in roster:
        if member.site in sites:
            raise ConfigError(f"{source}: roster: site {member.site!r} is listed twice.")
        sites.add(member.site)
        people = [(person.key, person.name) for person in member.approvers]
        for key, owner in [(member.key, f"the machine of {member.site}"), *people]:
            if is_weak(key):
                raise ConfigError(
                    f"{source}: roster: anyone can sign for the key of {owner}; ask for one that "
                    "`jipflow keys new` has made."
                )
            if owners.setdefault(key, owner) != owner:
                raise ConfigError(
                    f"{source}: roster: {owners[key]} and {owner} have the same key; "
                    "each machine and each person needs a key of their own."
                )


def find_member(roster: Sequence[Member], site: str) -> Member | None:
    """Return the entry of a site, or None where the roster has none."""
    return next((member for member in roster if member.site == site), None)

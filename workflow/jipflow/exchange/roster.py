"""The roster: which sites send to a hub, and whose signatures count for each."""

from __future__ import annotations

from collections.abc import Sequence

from jipflow.exchange.keys import is_weak
from jipflow.settings.hub import Member
from jipflow.settings.resources import ConfigError


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

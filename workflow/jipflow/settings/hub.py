"""The settings of a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from jipflow.settings.addresses import ExchangePlace, Way, way
from jipflow.settings.part import Id, LocalPath, Maybe, Part, Text
from jipflow.settings.permissions import Permissions
from jipflow.settings.registry import OwnModels

PublicKey = Annotated[str, Field(pattern=r"^ed25519:[0-9a-f]{64}$")]


class Place(Part):
    """Which hub this is."""

    id: Id
    """Name that sites address their messages to."""
    name: Text
    """Name of the hub for its report."""


class Approver(Part):
    """A person who may release for a site."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    """Name as the person gives it to `jipflow release approve`."""
    key: PublicKey
    """The person's public key."""


class Member(Part):
    """A site of the federation."""

    site: Id
    """The site's id."""
    key: PublicKey
    """Public key of the site's machine."""
    approvers: Annotated[list[Approver], Field(min_length=1)]
    """People who may release for the site."""


class HubIdentity(Part):
    """The secrets of a hub."""

    signing_key_file: LocalPath = "secrets/hub.key"
    """Ed25519 key that signs the hub's messages, and that the sites' are sealed to; made on first
    use with mode 0600. Back it up: the sites' settings name it."""
    audit_file: LocalPath = "secrets/hub-audit.jsonl"
    """What this hub received, accepted, refused, merged and answered, a signed line each; see
    [audit.md](audit.md). Back it up with the results."""


class Hub(Part):
    """Where the hub finds the sites' messages, and whose signatures it trusts."""

    hub: Place
    protocol: Text
    """An id under config/protocols/ or a path; the same file as at the sites."""
    inbox: ExchangePlace
    """Folder that the sites' messages are put into, or the address of one (s3://bucket/prefix,
    davs://host/path) that they are fetched from."""
    outbox: ExchangePlace = "outbox"
    """Folder for the messages to the sites, in a folder for each, or the address of one that they
    are sent to."""
    identity: HubIdentity = Field(default_factory=HubIdentity)
    results: LocalPath = "results/hub"
    """Folder for the hub's results."""
    permissions: Permissions = Field(default_factory=Permissions)
    """Who may read what the hub writes, but the sealed messages, which all may carry."""
    roster: Annotated[list[Member], Field(min_length=1)]
    """The sites of the federation with their public keys, as `jipflow keys show` prints them."""
    models: Maybe[OwnModels] = None
    """The models that the protocol names and the repository does not have; without it they are
    those of models/models.yaml, if it is there."""

    def ways(self, results: Path) -> tuple[Way, Way]:
        """Return the ways of the messages that come and of those that go.

        Args:
            results: folder for the results of the protocol.
        """
        own = results / "exchange"
        return way(self.inbox, own / "in"), way(self.outbox, own / "out")

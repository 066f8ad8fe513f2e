"""The effective settings of a hub: what ``hub.yaml`` says, and the protocol that it names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jipflow import __version__
from jipflow.exchange.message import ProtocolVersion
from jipflow.exchange.roster import check_roster
from jipflow.files import canonical_digest
from jipflow.settings.addresses import Way, is_address
from jipflow.settings.complete import complete_types
from jipflow.settings.digests import protocol_parts, protocol_sha256
from jipflow.settings.folders import checked_folder
from jipflow.settings.hub import Hub
from jipflow.settings.part import Part
from jipflow.settings.protocol import Protocol
from jipflow.settings.reading import Named, protocol_path, read_protocol
from jipflow.settings.resources import ConfigError
from jipflow.settings.schema import load

SOURCE = "hub configuration"
STAGES = ("hub_open", "hub_accept", "hub_merge", "hub_report", "hub_crate", "hub_close")


class HubSettings(Part):
    """The effective settings of a hub: checked, every default filled in."""

    hub: Hub
    """Content of ``hub.yaml``."""
    protocol: Protocol
    """The protocol of the sites."""
    protocol_sha256: str
    """Its hash, as the sites calculate it."""
    protocol_parts: dict[str, str]
    """The hash of each part of it, likewise."""
    named: Named
    """What it names."""
    version: str = __version__
    """The jipflow version."""

    @property
    def text(self) -> ProtocolVersion:
        """Which protocol messages belong to, and which text of it."""
        about = self.protocol.protocol
        return ProtocolVersion(
            id=about.id,
            version=about.version,
            sha256=self.protocol_sha256,
            parts=self.protocol_parts,
        )

    @property
    def results(self) -> str:
        """Folder for the results of the protocol."""
        return f"{self.hub.results}/{self.protocol.protocol.id}"

    def ways(self) -> tuple[Way, Way]:
        """Return the ways of the messages that come and of those that go."""
        return self.hub.ways(Path(self.results))

    @property
    def inbox(self) -> Path:
        """Folder of this machine that the messages come to."""
        return self.ways()[0].folder

    @property
    def outbox(self) -> Path:
        """Folder of this machine for the messages that go."""
        return self.ways()[1].folder

    def parts(self, stage: str) -> dict[str, str]:
        """Return the hash of each part of the settings that a stage depends on, by its name.

        Args:
            stage: one of `STAGES`.

        Raises:
            KeyError: there is no such stage.
        """
        if stage not in STAGES:
            raise KeyError(stage)
        hub = self.hub.plain()
        return {
            "protocol": self.protocol_sha256,
            **{key: canonical_digest(hub[key]) for key in ("hub", "roster", "identity")},
        }


def load_hub_settings(config: Mapping[str, Any], source: str = SOURCE) -> HubSettings:
    """Check the hub's configuration and complete it with the protocol.

    Args:
        config: content of ``hub.yaml``.
        source: what it was read from, for messages.

    Raises:
        ConfigError: something is wrong; names the key and the fix.
    """
    content = {key: value for key, value in config.items() if key != "pathvars"}
    hub = load(Hub, content, source)
    if not is_address(hub.inbox):
        _check_inbox(Path(hub.inbox), source)
    checked_folder(hub.results)
    check_roster(hub.roster, source)
    own = Path(hub.models.registry) if hub.models else None
    protocol, named = read_protocol(protocol_path(hub.protocol), own)
    return HubSettings(
        hub=hub,
        protocol=protocol,
        protocol_sha256=protocol_sha256(protocol, named),
        protocol_parts=protocol_parts(protocol, named),
        named=named,
    )


def _check_inbox(inbox: Path, source: str) -> None:
    """Check that the inbox is a folder that can be read."""
    if not inbox.is_dir():
        fix = "name the folder that it lies in" if inbox.exists() else "make it"
        raise ConfigError(f"{source}: the inbox {inbox} is not a folder; {fix}.")
    if not os.access(inbox, os.R_OK | os.X_OK):
        raise ConfigError(
            f"{source}: this account may not read the inbox {inbox}; let its owner allow that."
        )


def read_hub_settings(path: Path) -> HubSettings:
    """Read the settings that a run at the hub wrote."""
    complete_types()
    return HubSettings.model_validate_json(path.read_bytes())

"""What a rehearsal is of: a protocol, and what stands in the place of sites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jipflow.settings.part import Id, Part, Text
from jipflow.settings.resources import ConfigError, read_mapping
from jipflow.settings.schema import load

PLAYED = ("site", "identity", "hub", "exchange", "protocol", "results")
"""Keys of a site's file that a rehearsal fills in."""


class Rehearsal(Part):
    """A federation on one machine."""

    protocol: Text
    """Id of a shipped protocol, or the path of a file."""
    hub: Text = "Hub of the rehearsal"
    """Name of the hub on its report."""
    sites: dict[Id, dict[str, Any]]
    """By the id of a site what its file has of sources, clinical data and other things; a
    rehearsal fills in its name, keys and exchange."""


def read_rehearsal(path: Path) -> Rehearsal:
    """Read what a rehearsal is of.

    Raises:
        ConfigError: something is wrong; what it says of a site is checked when that is run.
    """
    found = load(Rehearsal, read_mapping(path), str(path))
    for problem in _problems(found):
        raise ConfigError(f"{path}: {problem}")
    return found


def _problems(rehearsal: Rehearsal) -> Iterator[str]:
    for site, content in rehearsal.sites.items():
        for key in PLAYED:
            if key in content:
                yield f"sites.{site}: a rehearsal fills in `{key}`; remove it."

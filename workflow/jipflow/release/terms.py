"""What a candidate was built by that a person approves with its numbers: the analyses' settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from jipflow.exchange.message import PAGE, Sha256, checked, describe
from jipflow.files import canonical_digest, write_json
from jipflow.release.contents import TERMS, ReleaseError, read_built
from jipflow.settings.part import Id, Part
from jipflow.settings.protocol import AnalysisSettings, Protocol
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import Settings


class Terms(Part):
    """What the settings of a candidate say that an approval of it is about."""

    analyses: dict[Id, Sha256]
    """Hash of the settings of each analysis of the protocol, by its id."""
    approvers: Literal[1, 2]
    """How many persons approve: ``disclosure.approvers`` of ``site.yaml``."""

    @classmethod
    def of(cls, settings: Settings) -> Terms:
        """Return what the settings of a run say."""
        return cls(
            analyses=analyses_sha256(settings.protocol),
            approvers=settings.site.disclosure.approvers,
        )


def settings_sha256(analysis: AnalysisSettings) -> str:
    """Return the SHA-256 of the canonical JSON (RFC 8785) of an analysis' settings."""
    return canonical_digest(analysis.plain())


def analyses_sha256(protocol: Protocol) -> dict[str, str]:
    """Return the hash of the settings of each analysis of a protocol, sorted by id."""
    entries = sorted(protocol.analyses, key=lambda entry: entry.id)
    return {entry.id: settings_sha256(entry) for entry in entries}


def write_terms(folder: Path, settings: Settings) -> None:
    """Write ``terms.json`` of a candidate."""
    write_json(folder / TERMS, Terms.of(settings).plain())


def read_terms(folder: Path) -> Terms:
    """Read ``terms.json`` of a candidate.

    Raises:
        ReleaseError: it is missing, or not as it was built together with the files and the page.
    """
    path = folder / TERMS
    again = f"build the release again: remove {folder / PAGE} and run the workflow."
    if not path.is_file():
        raise ReleaseError(f"{path} is missing; {again}")
    data = path.read_bytes()
    if read_built(folder).files.get(TERMS) != describe(data):
        raise ReleaseError(f"{path} was changed after it was built; {again}")
    try:
        return checked(Terms, json.loads(data), str(path))
    except (ValueError, ConfigError):
        raise ReleaseError(f"{path} is not as it was written; {again}") from None

"""Opens the PACS that a source of the site's configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jipflow.pacs.archive import Archive


def open_archive(source: Mapping[str, Any]) -> Archive:
    """Open the PACS of a source of the site's configuration.

    Args:
        source: an entry of ``sources`` of kind ``dicomweb`` or ``dimse``, with its defaults.

    Raises:
        ConfigError: a credential is missing, or its file can be read by others.
    """
    if source["kind"] == "dicomweb":
        from jipflow.pacs.dicomweb.archive import DicomwebArchive

        return DicomwebArchive(source)
    from jipflow.pacs.dimse.archive import DimseArchive

    return DimseArchive(source)

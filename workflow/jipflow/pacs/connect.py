"""Opens the PACS that a source of the site's configuration names."""

from __future__ import annotations

from jipflow.pacs.archive import Archive
from jipflow.settings.site import DicomWeb, Dimse


def open_archive(source: DicomWeb | Dimse) -> Archive:
    """Open the PACS of a source of the site's configuration.

    Args:
        source: an entry of ``sources`` of kind ``dicomweb`` or ``dimse``, with its defaults.

    Raises:
        ConfigError: a credential is missing, or its file can be read by others.
    """
    if isinstance(source, DicomWeb):
        from jipflow.pacs.dicomweb.archive import DicomwebArchive

        return DicomwebArchive(source)
    from jipflow.pacs.dimse.archive import DimseArchive

    return DimseArchive(source)

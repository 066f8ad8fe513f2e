"""Whether a PACS answers this site: C-ECHO by DIMSE, a query that finds nothing by DICOMweb."""

from __future__ import annotations

from jipflow.pacs.archive import NO_STUDY
from jipflow.settings.site import DicomWeb, Dimse


def echo(source: DicomWeb | Dimse) -> None:
    """Ask a PACS for a sign of life.

    Args:
        source: an entry of ``sources``, with its defaults; it has ``timeout`` seconds to answer.

    Raises:
        ArchiveDown: it does not answer.
        ConfigError: it does not let this site in, or not by this name.
        Rejected: it refuses what is asked.
    """
    if isinstance(source, DicomWeb):
        from jipflow.pacs.connect import open_archive

        with open_archive(source) as archive:
            archive.find_series({"StudyInstanceUID": NO_STUDY})
        return
    from jipflow.pacs.dimse.associations import Associations, Purpose
    from jipflow.pacs.dimse.messages import VERIFICATION, fault_of

    associations = Associations(source)
    try:
        with associations.lend(Purpose(VERIFICATION)) as association:
            fault = fault_of(association.send_c_echo(), "C-ECHO", source)
        if fault is not None:
            raise fault
    finally:
        associations.release_idle()

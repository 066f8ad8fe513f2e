"""C-STORE of DICOM files as they are (PS3.4 annex B)."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from jipflow.pacs.archive import NO_STUDY, Receipt, Rejected, checked_uid, file_uid
from jipflow.pacs.dimse.associations import Associations, Purpose
from jipflow.pacs.dimse.find import Finder
from jipflow.pacs.dimse.messages import category
from jipflow.pacs.limits import Limits
from jipflow.place import raise_place_error
from jipflow.settings.site import Dimse


class Sender:
    """The storage service of a PACS.

    Args:
        source: an entry of ``sources`` of kind ``dimse``, with its defaults.
        associations: those of the source.
        finder: asks the PACS whether it still answers.
        limits: of what moves.
    """

    def __init__(
        self,
        source: Dimse,
        associations: Associations,
        finder: Finder,
        limits: Limits,
    ) -> None:
        self._name = source.name
        self._associations = associations
        self._finder = finder
        self._limits = limits

    def send(self, path: Path) -> Receipt:
        """Store a DICOM file; see `Archive.send`."""
        name = self._name
        try:
            header = dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
            meta = header.file_meta
            uids = file_uid(header), meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID
        except Exception as error:  # pydicom raises whatever its parser met
            raise_place_error(error)
            raise Rejected(f"source {name!r}: {path} is not a DICOM file.") from None
        uid, sop_class, syntax = (checked_uid(value, name) for value in uids)
        purpose = Purpose(None, (sop_class,), (syntax,))
        self._limits.wait(self._associations.release_idle)
        status = self._store(path, purpose)
        if "Status" not in status:
            # Was it the network, or does the PACS hang up on this very object?
            self._finder.rows("STUDY", {"StudyInstanceUID": NO_STUDY})
            status = self._store(path, purpose)
            if "Status" not in status:
                raise Rejected(
                    f"source {name!r}: C-STORE of {uid}: the PACS answers, but it twice ended "
                    "the connection on this object; its log says why."
                )
        if category(status) not in {"Success", "Warning"}:
            # Many a PACS says "out of resources" to an object that it cannot take.
            raise Rejected(
                f"source {name!r}: C-STORE of {uid}: status 0x{status.Status:04X}: the PACS "
                "refused the object; its log says why."
            )
        warning = category(status) == "Warning"
        return Receipt(uid, f"warning 0x{status.Status:04X}" if warning else "")

    def _store(self, path: Path, purpose: Purpose) -> Dataset:
        with self._associations.lend(purpose) as association:
            status = association.send_c_store(path)
        self._limits.count(path.stat().st_size)
        return status

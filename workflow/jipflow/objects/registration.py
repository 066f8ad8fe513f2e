"""Spatial Registrations (PS3.3 A.39) of the archive: which frames of reference they relate."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jipflow import datasets
from jipflow.place import raise_place_error
from jipflow.reasons import CaseFault

MODALITY = "REG"


def with_registrations(fault: CaseFault, paths: Iterable[Path], frame: str) -> CaseFault:
    """Return a fault that names the registrations which could bring regions into an image's frame.

    They are not applied: whether a registration was accepted for planning, or was one of several
    attempts, no object says.

    Args:
        fault: of regions in another frame of reference.
        paths: the patient's registrations.
        frame: the image's Frame of Reference UID.
    """
    found = []
    for path in sorted(set(paths)):
        try:
            uid, frames = _related(path)
        except Exception as error:  # a damaged file: pydicom raises whatever its parser met
            raise_place_error(error)
            continue
        if frame in frames and len(frames) > 1:
            found.append(f"{uid} relates it to {', '.join(sorted(frames - {frame}))}")
    if not found:
        return fault
    return CaseFault(
        fault.reason,
        f"{fault.message} Of the image's frame of reference there is a registration, which is not "
        f"applied here: {'; '.join(found)}.",
    )


def _related(path: Path) -> tuple[str, set[str]]:
    """Return the UID of a registration, and the frames of reference that it relates."""
    dataset = datasets.read(path).dataset
    items = [dataset, *(dataset.get("RegistrationSequence") or [])]
    items += dataset.get("DeformableRegistrationSequence") or []
    frames = {str(item.get("FrameOfReferenceUID") or "") for item in items}
    frames |= {str(item.get("SourceFrameOfReferenceUID") or "") for item in items}
    return str(dataset.get("SOPInstanceUID") or path.name), frames - {""}

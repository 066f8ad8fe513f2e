"""Damaged files of the archive: what pydicom raises of them, and the fault that names one."""

from __future__ import annotations

import struct
from pathlib import Path

from pydicom.errors import InvalidDicomError

from jipflow.place import raise_place_error
from jipflow.reasons import CaseFault, Reason

DAMAGE = (
    InvalidDicomError,
    OSError,
    EOFError,
    RecursionError,
    NotImplementedError,
    struct.error,
)
"""What pydicom raises for a damaged file, at once or when it parses a nested element."""


def unreadable(path: Path, error: Exception) -> CaseFault:
    """Return the fault of a damaged file.

    Raises:
        Exception: it is the place that is at fault.
    """
    raise_place_error(error)
    return CaseFault(
        Reason.UNREADABLE,
        f"{path}: cannot be read as DICOM ({error}); copy it again from the archive.",
    )

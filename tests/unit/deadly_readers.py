"""Readers that kill their process on some files, for the tests of those that must survive it."""

from __future__ import annotations

import os
import signal
from typing import Any

import dicomsdl

from jipflow.catalog.headers import LAST_TAG, read_fast, read_surely, skip


def read_carelessly(path: str) -> dict[str, Any]:
    """Open whatever comes by dicomsdl, which aborts on an empty file."""
    if os.path.basename(path) == "fatal.dcm":
        os.kill(os.getpid(), signal.SIGSEGV)
    dicomsdl.open_file(path, LAST_TAG)
    return read_fast(path)


def read_or_die(path: str) -> dict[str, Any]:
    """Read by pydicom, and die all the same of one file."""
    if os.path.basename(path) == "fatal.dcm":
        os.kill(os.getpid(), signal.SIGSEGV)
    return read_surely(path)


def read_or_leave(path: str) -> dict[str, Any]:
    """End without a word, as a process does that cannot be started."""
    os._exit(1)


def read_or_leave_again(path: str) -> dict[str, Any]:
    """The same as the careful reader."""
    return read_or_leave(path)


def lost(path: str) -> dict[str, Any]:
    """The row of a file that nothing can read."""
    return skip("unreadable", "lost")

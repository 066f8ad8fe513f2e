"""A folder that messages are put into by whoever may write there."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from jipflow.exchange.refusals import Refusal, Refused
from jipflow.exchange.sealing import SUFFIX
from jipflow.files import json_text


def messages(inbox: Path) -> list[Path]:
    """Return the files of an inbox that may be messages, sorted by name.

    Args:
        inbox: the folder.

    Raises:
        OSError: the folder cannot be read, which does not make it an empty one.
    """
    return sorted(inbox / name for name in os.listdir(inbox) if name.endswith(SUFFIX))


def inbox_state(inbox: Path) -> list[dict[str, str | int]]:
    """Return what shows that an inbox has changed: name, size and time of each message, and whether
    the account may read it.

    Snakemake gets none of the files: it would take ``{x}.age`` or ``<results>.age`` for a pattern,
    and have nothing to do however many messages lie beside it.

    Args:
        inbox: the folder.

    Raises:
        OSError: the folder cannot be read.
    """
    return list(_entries(inbox))


def inbox_digest(inbox: Path) -> str:
    """Return the hash of an inbox's state.

    Args:
        inbox: the folder.
    """
    return hashlib.sha256(json_text(inbox_state(inbox)).encode()).hexdigest()


def _entries(inbox: Path) -> Iterator[dict[str, str | int]]:
    for path in messages(inbox):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        name = path.name.encode("ascii", "backslashreplace").decode("ascii")
        yield {
            "name": name,
            "bytes": found.st_size,
            "modified_ns": found.st_mtime_ns,
            "readable": os.access(path, os.R_OK, follow_symlinks=False),
        }


def read_message(path: Path, largest: int) -> bytes:
    """Return the bytes of a file, whatever takes its place while it is looked at.

    Args:
        path: of a file of an inbox.
        largest: bytes that it may have; a larger one is not read, to spare memory.

    Raises:
        Refused: it is no plain file, too large, or another account's that keeps it closed: whoever
            put it there may not stop the run so.
        OSError: this machine does not give it.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise Refused(Refusal.NOT_A_FILE)
    try:
        # A pipe that came meanwhile would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise Refused(Refusal.NOT_A_FILE) from None
        if error.errno == errno.EACCES and found.st_uid != os.geteuid():
            raise Refused(Refusal.CLOSED_FILE, "chmod a+r, or have it sent again") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused(Refusal.NOT_A_FILE)
    with open(descriptor, "rb") as stream:
        raw = stream.read(largest + 1)
    if len(raw) > largest:
        raise Refused(Refusal.OVERSIZED_MESSAGE, f"more than {largest} bytes")
    return raw


def one_line(text: str) -> str:
    """Return a text that others wrote without what cannot be printed or written as UTF-8."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )

"""What the place did not let a scan read: no catalog is written over it."""

from __future__ import annotations

import os
import pwd
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from jipflow.files import parquet_batches
from jipflow.reasons import PlaceError
from jipflow.settings.site import Folder

ROWS = 16384
"""Rows of an earlier catalog that are looked at at once."""


@dataclass
class Tally:
    """How much of a source could not be read, for what the system says.

    Attributes:
        source: a folder source.
        seen: its files, and folders that could not be listed.
        unread: of these, how many could not be read, by the message of the system.
        first: the first of them.
    """

    source: Folder
    seen: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    first: str = ""

    def add(self, path: str, reason: str) -> None:
        """Count what could not be read."""
        self.unread[reason.lower()] += 1
        self.first = self.first or path

    def sentence(self) -> str:
        """Say how much cannot be read, why, and what is the first; empty for nothing."""
        if not self.unread:
            return ""
        several = len(self.unread) > 1
        reasons = (f"{count} {why}" if several else why for why, count in self.unread.most_common())
        return (
            f"source {self.source.name!r}: {self.unread.total()} of {self.seen} files below "
            f"{self.source.path} cannot be read ({', '.join(reasons)}), first: {self.first}."
        )


def check_place(tallies: Iterable[Tally], empty: Sequence[str], previous: Path) -> None:
    """Refuse a scan in which the place kept something back.

    Args:
        tallies: of the sources.
        empty: folders in which there was nothing.
        previous: the earlier table of headers; where there is none, nothing was known.

    Raises:
        PlaceError: files or folders could not be read; a source holds nothing at all; or a folder
            is empty below which there were DICOM files, as where a disk is not mounted.
    """
    tallies = list(tallies)
    unread = [sentence for tally in tallies if (sentence := tally.sentence())]
    if unread:
        raise PlaceError(
            f"{' '.join(unread)} Let the account that runs this ({_account()}) read all that the "
            "sources hold, see whether their disks and mounts are well, and run the same command "
            "again; nothing was cataloged."
        )
    nothing = [tally.source for tally in tallies if tally.source.path in empty]
    if nothing:
        raise PlaceError(
            f"source {nothing[0].name!r}: the folder {nothing[0].path} is empty; mount its disk, "
            "or take the source out of site.yaml, and run the same command again."
        )
    for folder, known in _emptied(empty, previous):
        raise PlaceError(
            f"{folder} is empty or leads to nothing, where the last catalog knew {known} DICOM "
            "files; mount its disk and run the same command again. If the files were taken away on "
            "purpose, remove the folder or link, too."
        )


def _account() -> str:
    """Return the name of the account that this runs as, or its number where it has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _emptied(empty: Sequence[str], previous: Path) -> list[tuple[str, int]]:
    """Return the empty folders below which an earlier catalog knew DICOM files, and how many."""
    folders = set(empty)
    known: Counter[str] = Counter()
    if folders and previous.is_file():
        # Of a damaged table what comes before the damage.
        with suppress(ValueError):
            for batch in parquet_batches(previous, ["path", "kind"], ROWS):
                paths = batch["path"].to_pylist()
                for path, kind in zip(paths, batch["kind"].to_pylist(), strict=True):
                    if not kind:
                        known.update(folders.intersection([path, *map(str, Path(path).parents)]))
    return sorted(known.items())

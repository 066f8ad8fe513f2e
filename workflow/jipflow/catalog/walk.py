"""Find the files of the sources, in an order that never changes, whatever the folders hold."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from jipflow.catalog.headers import NOT_DICOM, PLACE_FAULT, UNREADABLE
from jipflow.place import place_error
from jipflow.settings.site import Folder

LINK = "link"

SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file below a source, or what stands in its place.

    Attributes:
        source: name of the source.
        path: its path; where the name is not UTF-8, with escapes in place of the bytes that are
            not.
        bytes: its size.
        modified_ns: time of its last change, in nanoseconds since 1970.
        changed_ns: time at which the system last saw its content or attributes change, which
            nobody can set back.
        kind: empty for a file to read, else why it is not: ``not_dicom``, ``unreadable``,
            ``link`` (a folder that is looked at elsewhere) or ``place_fault``.
        reason: says more.
    """

    source: str
    path: str
    bytes: int = 0
    modified_ns: int = 0
    changed_ns: int = 0
    kind: str = ""
    reason: str = ""

    def order(self) -> tuple[str, ...]:
        """Return what files of one source are sorted by."""
        return PurePath(self.path).parts


@dataclass
class Walk:
    """A walk through the folders of all sources.

    Links to folders are followed where they lead out of the sources; a folder is looked at once,
    by whatever ways it can be reached. What is kept in memory grows with the depth of the folders,
    the names in one folder, the number of links and that of empty folders, not with the number of
    files.

    Attributes:
        sources: the site's folder sources, each with name and path.
        empty: folders that held nothing and links that lead to nothing, as where a disk is not
            mounted.
    """

    sources: Sequence[Folder]
    empty: list[str] = field(default_factory=list)
    _roots: dict[str, str] = field(default_factory=dict)
    _followed: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[FoundFile]:
        real = [(source, os.path.realpath(source.path)) for source in self.sources]
        self._roots = {path: source.name for source, path in reversed(real)}
        self._followed = set()
        for source, path in real:
            if self._roots[path] == source.name:
                yield from self._below(source.name, source.path, path)
            else:
                reason = f"the folder of source {self._roots[path]}, which is looked at there"
                yield FoundFile(source.name, source.path, kind=LINK, reason=reason)

    def _below(self, source: str, root: str, real_root: str) -> Iterator[FoundFile]:
        """Iterate over what lies below a folder, depth first, one open folder a level."""
        stack: list[tuple[str, Iterator[os.DirEntry[str] | FoundFile]]] = [
            (real_root, self._entries(source, root))
        ]
        while stack:
            real_parent, entries = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
            elif isinstance(entry, FoundFile):
                yield entry
            else:
                found = self._look_at(source, entry, real_parent)
                if isinstance(found, FoundFile):
                    yield found
                else:
                    stack.append((found, self._entries(source, entry.path)))

    def _entries(self, source: str, folder: str) -> Iterator[os.DirEntry[str] | FoundFile]:
        """Yield the entries of a folder by name; where it cannot be read, that."""
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            kind = PLACE_FAULT if place_error(error) else UNREADABLE
            yield FoundFile(source, _printable(folder), kind=kind, reason=str(error.strerror))
            return
        if not listed:
            self.empty.append(_printable(folder))
        yield from listed

    def _look_at(self, source: str, entry: os.DirEntry[str], real_parent: str) -> FoundFile | str:
        """Return what an entry of a folder is; of a folder to look into, its real path."""
        path = _printable(entry.path)
        try:
            status = entry.stat()
        except OSError as error:
            if entry.is_symlink():
                self.empty.append(path)
            return _not_looked_at(source, path, error, entry)
        if stat.S_ISDIR(status.st_mode):
            return self._folder(source, entry, real_parent)
        if not stat.S_ISREG(status.st_mode):
            what = SPECIAL.get(stat.S_IFMT(status.st_mode), "no regular file")
            return FoundFile(source, path, kind=NOT_DICOM, reason=f"{what}, which is not opened")
        if path != entry.path:
            reason = "the name of the file or of a folder above it is not UTF-8; rename it"
            return FoundFile(source, path, status.st_size, kind=UNREADABLE, reason=reason)
        if entry.name.startswith(".partial-") or entry.name.endswith(".partial"):
            reason = "its name says that it is still being written"
            return FoundFile(source, path, status.st_size, kind=NOT_DICOM, reason=reason)
        return FoundFile(source, path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def _folder(self, source: str, entry: os.DirEntry[str], real_parent: str) -> FoundFile | str:
        """Return a folder's real path to look into, or where else it is looked at."""
        linked = entry.is_symlink()
        real = os.path.realpath(entry.path) if linked else os.path.join(real_parent, entry.name)
        elsewhere = ""
        if real in self._roots:
            elsewhere = f"the folder of source {self._roots[real]}, which is looked at there"
        elif real in self._followed:
            elsewhere = "a folder that another link leads to, and that is looked at there"
        elif linked and self._inside(real):
            elsewhere = "a link to a folder that is looked at in its own place"
        if elsewhere:
            return FoundFile(source, _printable(entry.path), kind=LINK, reason=elsewhere)
        if linked:
            self._followed.add(real)
        return real

    def _inside(self, real: str) -> bool:
        """Whether a folder lies below one that is looked at."""
        parent = os.path.dirname(real)
        while parent != real:
            if parent in self._roots or parent in self._followed:
                return True
            real, parent = parent, os.path.dirname(parent)
        return parent in self._roots or parent in self._followed


def _not_looked_at(source: str, path: str, error: OSError, entry: os.DirEntry[str]) -> FoundFile:
    """Return what stands for a file or folder of which the system tells nothing."""
    if error.errno == errno.ELOOP:
        return FoundFile(source, path, kind=UNREADABLE, reason="a link that leads back to itself")
    if error.errno == errno.ENOENT and entry.is_symlink():
        return FoundFile(source, path, kind=UNREADABLE, reason="a link to nothing")
    kind = PLACE_FAULT if place_error(error) else UNREADABLE
    return FoundFile(source, path, kind=kind, reason=str(error.strerror))


def _printable(path: str) -> str:
    """Return a path that Parquet can hold: as it is, or with escapes for what is not UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

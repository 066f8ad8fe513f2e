"""Zip archives that are the same bytes for the same content, and names that stay inside."""

from __future__ import annotations

import io
import shutil
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

_EPOCH = (1980, 1, 1, 0, 0, 0)
_REGULAR_FILE = stat.S_IFREG | 0o644
_UNIX = 3
_CHUNK = 1024**2


def pack(members: Mapping[str, bytes]) -> bytes:
    """Return a zip archive of members in their order, stored with fixed attributes.

    Args:
        members: content by name.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            add(archive, name, content)
    return buffer.getvalue()


def add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a member to an archive that is being written."""
    archive.writestr(_member(name, len(content)), content)


def add_file(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    """Add a file to an archive that is being written, without reading it into memory at once."""
    member = _member(name, path.stat().st_size)
    with path.open("rb") as source, archive.open(member, "w") as target:
        shutil.copyfileobj(source, target, _CHUNK)


def _member(name: str, size: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.create_system = _UNIX
    member.external_attr = _REGULAR_FILE << 16
    member.file_size = size
    return member


def climbs(name: str) -> bool:
    r"""Return whether the name of a member could lead out of the folder that it is unpacked to.

    Backslashes and drives count as well, whatever the system is: ``C:x``, ``..\x``.
    """
    path = PurePosixPath(name)
    drive = ":" in name.split("/")[0]
    return path.is_absolute() or ".." in path.parts or "\\" in name or drive


def is_plain_file(member: zipfile.ZipInfo) -> bool:
    """Return whether a member is a file or a folder by its Unix mode, and no link or device."""
    return stat.S_IFMT(member.external_attr >> 16) in {0, stat.S_IFREG, stat.S_IFDIR}

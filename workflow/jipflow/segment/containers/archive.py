"""Image archives as ``docker save`` and ``podman save`` write them, read without a daemon.

The format is that of Docker's image specification v1.2: ``manifest.json`` names the image's
configuration and its layers, from the lowest to the uppermost.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from jipflow.place import raise_place_error
from jipflow.reasons import StageError

OPEN = 0o755
"""Mode of folders of an image for which it has none."""

WHITEOUT = ".wh."
"""Prefix of a name that removes what lower layers have under the rest of it (OCI image layer
filesystem changeset, section "Whiteouts")."""
OPAQUE = ".wh..wh..opq"
"""A name that removes all that lower layers have in its folder."""


@dataclass(frozen=True)
class ContainerImage:
    """What an archive says of its image.

    Attributes:
        identifier: the image's id, the SHA-256 of its configuration, 64 hexadecimal digits.
        entry: the program that the image starts, and its arguments.
        environment: its environment variables.
        layers: names of its layers in the archive, the lowest first.
    """

    identifier: str
    entry: tuple[str, ...]
    environment: dict[str, str]
    layers: tuple[str, ...]


def read_image(path: Path) -> ContainerImage:
    """Read what an archive says of its image.

    Raises:
        StageError: it is no such archive, has several images, or starts no program.
    """
    with _archive(path) as archive:
        manifest = json.load(_member(archive, "manifest.json"))
        if len(manifest) != 1:
            raise StageError(
                f"{path} has {len(manifest)} images; save one by its name: docker save NAME."
            )
        named = manifest[0]["Config"]
        settings = json.load(_member(archive, named)).get("config") or {}
        entry = [*(settings.get("Entrypoint") or []), *(settings.get("Cmd") or [])]
        if not entry:
            raise StageError(f"{path}: the image starts no program; give it an ENTRYPOINT.")
        pairs = (text.partition("=") for text in settings.get("Env") or [])
        return ContainerImage(
            PurePosixPath(named).name.removesuffix(".json"),
            tuple(entry),
            {name: value for name, _, value in pairs},
            tuple(manifest[0]["Layers"]),
        )


def unpack(path: Path, folder: Path) -> ContainerImage:
    """Lay the layers of an image over each other as a tree of files.

    Devices and sockets are left out, owners and setuid bits are not kept. No member can be written
    outside the tree, neither by its name nor through a link that an earlier one made.

    Args:
        path: the archive.
        folder: gets the tree; must not exist.

    Raises:
        StageError: it is no such archive, or a member would leave the tree.
    """
    image = read_image(path)
    folder.mkdir(parents=True)
    # Whatever the umask of the run: as root the algorithm runs as another account.
    folder.chmod(OPEN)
    with _archive(path) as archive:
        for name in image.layers:
            with tarfile.open(fileobj=_member(archive, name)) as layer:
                members = layer.getmembers()
                for member in members:
                    _remove_whited_out(folder, member)
                for member in members:
                    _extract(layer, member, folder)
    return image


@contextmanager
def _archive(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as archive:
            yield archive
    except (
        tarfile.TarError,
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        raise_place_error(error)
        raise StageError(
            f"{path} cannot be used as an image archive ({error}); write it by: docker save -o "
            f"{path.name} NAME."
        ) from error


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    stream = archive.extractfile(name)
    if stream is None:
        raise KeyError(f"{name} is not a file")
    return stream


def _target(folder: Path, name: str) -> Path:
    """Return where a member stands in the tree.

    Raises:
        ValueError: that is outside, or beyond a link.
    """
    inner = [part for part in PurePosixPath(name).parts if part not in {"/", "."}]
    root = os.path.realpath(folder)
    parent = os.path.join(root, *inner[:-1])
    if ".." in inner or os.path.realpath(parent) != parent:
        raise ValueError(f"{name!r} would leave the image")
    return Path(root, *inner)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_whited_out(folder: Path, member: tarfile.TarInfo) -> None:
    marker = PurePosixPath(member.name)
    if not marker.name.startswith(WHITEOUT):
        return
    if marker.name != OPAQUE:
        hidden = marker.name.removeprefix(WHITEOUT)
        if hidden in {"", ".", ".."}:
            raise ValueError(f"{member.name!r} hides no file")
        _remove(_target(folder, str(marker.parent / hidden)))
        return
    covered = _target(folder, member.name).parent
    for path in covered.iterdir() if covered.is_dir() else ():
        _remove(path)


def _extract(layer: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    ordinary = member.isreg() or member.isdir() or member.issym() or member.islnk()
    if not ordinary or PurePosixPath(member.name).name.startswith(WHITEOUT):
        return
    target = _target(folder, member.name)
    root = Path(os.path.realpath(folder))
    if target == root:
        return
    if not (member.isdir() and target.is_dir() and not target.is_symlink()):
        _remove(target)
    _make_parents(target, root)
    if member.islnk():
        os.link(_target(folder, member.linkname), target, follow_symlinks=False)
        return
    # A folder that its owner cannot write to could be neither filled nor removed.
    mode = (member.mode & 0o755) | (0o700 if member.isdir() else 0o400)
    plain = copy(member)
    plain.name, plain.mode = str(target.relative_to(root)), mode
    plain.uid, plain.gid, plain.uname, plain.gname = os.geteuid(), os.getegid(), "", ""
    # As an attribute, which Python 3.11.2 of Debian 12 passes over: it has no filters.
    layer.extraction_filter = _as_it_is
    layer.extract(plain, root)


def _make_parents(target: Path, root: Path) -> None:
    """Make the folders above a member that no layer names: docker may leave them out."""
    for folder in reversed([each for each in target.parents if each.is_relative_to(root)]):
        if not folder.is_dir():
            folder.mkdir()
            folder.chmod(OPEN)


def _as_it_is(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
    """Let a member be extracted: what it may be was looked at before."""
    return member

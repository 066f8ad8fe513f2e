"""What a hub has accepted: its own copy of every bundle that ever counted.

A copy is a file named ``<site>-a<attempt>-<sha256>.zip``. Nothing is changed or removed, so that
what a site has withdrawn does not come back when a later file is gone from the inbox, and a result
stays what it is when the inbox is emptied.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from jipflow.files import atomic_path
from jipflow.reasons import StageError

_NAME = re.compile(
    r"(?P<site>[a-z0-9][a-z0-9-]*)-a(?P<attempt>[0-9]{1,3})-(?P<sha256>[0-9a-f]{64})\.zip"
)


class MemoryFault(StageError):
    """The copies are not as the hub left them."""


@dataclass(frozen=True)
class Remembered:
    """The latest message of a site that was accepted.

    Attributes:
        attempt: of the site.
        sha256: of the bundle.
        path: the copy.
    """

    attempt: int
    sha256: str
    path: Path

    def read(self) -> bytes:
        """Return the bytes of the bundle.

        Raises:
            MemoryFault: they are others than those that were accepted.
        """
        raw = self.path.read_bytes()
        if hashlib.sha256(raw).hexdigest() != self.sha256:
            raise MemoryFault(
                f"{self.path} is not the bundle that was accepted; restore it from a backup."
            )
        return raw


def copies(folder: Path) -> list[Remembered]:
    """Return every message of a round that ever counted, by site and attempt.

    Args:
        folder: of the copies; there may be none yet.

    Raises:
        MemoryFault: a file that the hub did not write, or two of one attempt.
    """
    return [entry for _, entry in sorted(_by_attempt(folder).items())]


def remembered(folder: Path) -> dict[str, Remembered]:
    """Return the latest accepted message of each site; as `copies`."""
    return {site: entry for (site, _), entry in sorted(_by_attempt(folder).items())}


def _by_attempt(folder: Path) -> dict[tuple[str, int], Remembered]:
    found: dict[tuple[str, int], Remembered] = {}
    for path in sorted(folder.glob("[!.]*")):
        name = _NAME.fullmatch(path.name)
        if name is None:
            raise MemoryFault(f"{path} is no copy of a bundle that was accepted; move it away.")
        attempt = int(name["attempt"])
        entry = Remembered(attempt, name["sha256"], path)
        other = found.setdefault((name["site"], attempt), entry)
        if other != entry:
            raise MemoryFault(
                f"{other.path} and {path} are of one attempt, as two runs at once can leave them; "
                "move away the one that result.json was not made from."
            )
    return found


def copy_name(site: str, attempt: int, sha256: str) -> str:
    """Return the name of the copy of a bundle of a site."""
    return f"{site}-a{attempt}-{sha256}.zip"


def remember(folder: Path, site: str, attempt: int, raw: bytes) -> None:
    """Keep a copy of a bundle that is accepted; nothing happens where there is one."""
    digest = hashlib.sha256(raw).hexdigest()
    path = folder / copy_name(site, attempt, digest)
    if not path.exists():
        with atomic_path(path) as partial:
            partial.write_bytes(raw)

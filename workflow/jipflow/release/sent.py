"""What a site has packed before, and how a new release differs from it."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jipflow.analyses.cells import CellKey
from jipflow.exchange.message import LIMITS, bundle_name
from jipflow.files import sha256_file
from jipflow.release.approval import names_of, signed_list
from jipflow.release.contents import Aggregates
from jipflow.settings.resources import ConfigError

UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError),
    *(ValueError, KeyError, TypeError, ConfigError),
)
"""What reading a bundle raises that is damaged, or of another format."""


@dataclass(frozen=True)
class Sent:
    """A bundle in the site's folder of bundles.

    Attributes:
        file: its name.
        attempt: the one that its name gives.
        sha256: its hash.
        manifest: what it says about itself; None where this version cannot read it.
        approvers: names of the persons who approved it; empty likewise.
        aggregates: its numbers; None likewise.
    """

    file: str
    attempt: int
    sha256: str
    manifest: Mapping[str, Any] | None
    aggregates: Mapping[str, Any] | None
    approvers: str = ""


@dataclass(frozen=True)
class Change:
    """A cell whose numbers are others than in the bundle before.

    Attributes:
        analysis: id of the analysis.
        key: what the cell is about.
        before: patients in the bundle before; None where it did not hold the cell.
        now: patients now; None where the cell does not leave any more.
        numbers: names of the numbers that differ, where both hold the cell.
        noisy: what became of a cell with noise, whose patients are not known; empty of others.
    """

    analysis: str
    key: CellKey
    before: int | None
    now: int | None
    numbers: tuple[str, ...] = ()
    noisy: Literal["", "new", "gone", "drawn anew"] = ""

    def tells_of(self, minimum: int) -> int:
        """Return of how many patients the difference tells, 0 where they are none or enough."""
        patients = abs((self.now or 0) - (self.before or 0))
        both = self.before is not None and self.now is not None
        return patients if both and 0 < patients < minimum else 0


def sent_before(folder: Path, protocol: str, site: str, round_: int) -> list[Sent]:
    """Return the bundles of a release that were packed, by attempt.

    Args:
        folder: of the bundles; it need not be there.
        protocol: id of the protocol.
        site: id of the site.
        round_: the round.

    Raises:
        OSError: a bundle cannot be read from the disk.
    """
    stem, _, _ = bundle_name(protocol, site, round_, 1).rpartition("-a")
    numbered = []
    for path in folder.glob("*.zip"):
        start, _, attempt = path.stem.rpartition("-a")
        if start == stem and attempt.isdecimal() and path.is_file():
            numbered.append((int(attempt), path))
    return [_read(path, attempt) for attempt, path in sorted(numbered)]


def _read(path: Path, attempt: int) -> Sent:
    """Read a bundle; another version may have packed it in another format."""
    digest = sha256_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _member(archive, "manifest.json")
            aggregates = _member(archive, "aggregates.json")
            approvals = signed_list(_member(archive, "approvals.json"), path.name)
        dict(_cells(aggregates))
        for name in ("issued", "version"):
            str(manifest[name])
        str(manifest["protocol"]["sha256"])
        dict(manifest["files"]["approvals.json"])
    except UNREADABLE:
        return Sent(path.name, attempt, digest, None, None)
    return Sent(path.name, attempt, digest, manifest, aggregates, names_of(approvals))


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > LIMITS[name]:
        raise ValueError(name)
    return json.loads(archive.read(name))


def changes(before: Mapping[str, Any], now: Aggregates) -> list[Change]:
    """Return the cells that are not as they were, sorted.

    Args:
        before: content of the ``aggregates.json`` that was sent.
        now: what would be sent.
    """
    old, new = dict(_cells(before)), dict(_cells(now.plain()))
    found = []
    for analysis, key in sorted(old.keys() | new.keys()):
        a, b = old.get((analysis, key)), new.get((analysis, key))
        if a != b:
            both = sorted(a.keys() | b.keys()) if a and b else []
            names = tuple(name for name in both if (a or {}).get(name) != (b or {}).get(name))
            noisy = _noisy(a, b)
            found.append(Change(analysis, key, _patients(a), _patients(b), names, noisy))
    return found


def _patients(cell: Mapping[str, Any] | None) -> int | None:
    """Return the patients of a cell, None of none and of one with noise, whose are not known."""
    return int(cell["n"]) if cell and "n" in cell else None


def _noisy(
    before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> Literal["", "new", "gone", "drawn anew"]:
    """Return what became of a cell with noise."""
    if _patients(before) is not None or _patients(now) is not None:
        return ""
    return "new" if before is None else "gone" if now is None else "drawn anew"


def _cells(aggregates: Mapping[str, Any]) -> Iterator[tuple[tuple[str, CellKey], dict[str, Any]]]:
    """Yield the numbers of each cell under its analysis and key."""
    for analysis in aggregates["analyses"]:
        for cell in analysis["cells"]:
            key = CellKey(*(str(cell[name]) for name in CellKey._fields))
            numbers = {name: cell[name] for name in cell.keys() - set(CellKey._fields)}
            yield (str(analysis["id"]), key), numbers

"""Messages fetched from a place that many write to, and put there: whole, and once.

The place may be hostile or half dead. What it lists is only a proposal: what has no plain name, is
too large or is other than listed is left out with its reason; what the place does not give makes
the job fail, after all else was tried. A file has its name here once it is whole. Whether it is a
message is found out later, by its seal and its signature.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from jipflow.exchange.sealing import MAGIC, SUFFIX
from jipflow.files import read_json, scratch_folder, write_json
from jipflow.reasons import PlaceError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,250}" + re.escape(SUFFIX))
"""Names of messages; the system allows 255 bytes."""

FOLDER = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
"""Names of the folders of sites, which are their ids."""

FAULTS = 3
"""A place that fails so often is not asked any more in this run."""


@dataclass(frozen=True)
class Limits:
    """What a place may cost.

    Attributes:
        largest: bytes of a file.
        most: files that a folder may list.
        patience: seconds for an answer, whatever its size.
        slowest: bytes a second that a file must come or go with, beyond that.
        reserve: bytes of the disk that stay free.
    """

    largest: int = 256 << 20
    most: int = 10_000
    patience: float = 60
    slowest: int = 50_000
    reserve: int = 1 << 30

    def seconds(self, size: int) -> float:
        """Return how long a file of so many bytes may take."""
        return self.patience + size / self.slowest


@dataclass(frozen=True, order=True)
class Listed:
    """A file that a place says it has.

    Attributes:
        name: as it is given, which may be anything.
        bytes: its size.
        mark: a text that changes with the file, such as its ETag; empty where there is none.
    """

    name: str
    bytes: int
    mark: str = ""


class Place(Protocol):
    """A folder beyond this machine.

    Its methods raise `NotThere` for a file that is not there, `PlaceError` for all else.
    """

    def entries(self) -> Iterator[Listed]:
        """Iterate over what is listed of its files."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """Iterate over the bytes of a file."""

    def put(self, path: Path, name: str, folder: str | None) -> None:
        """Put a file there, under its name only once it is whole.

        Args:
            path: of the file here.
            name: of the file there.
            folder: below the place, which is made; None for the place itself.
        """


class NotThere(Exception):
    """A file that is listed is not there."""


class LeftOut(Exception):
    """A file is not what is listed; the message says how."""


@dataclass
class Report:
    """What a run did.

    Attributes:
        files: that came or went.
        left_out: why each other was not taken, by its name.
    """

    files: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return it as it is written."""
        return {"files": sorted(self.files), "left_out": dict(sorted(self.left_out.items()))}


def choose(
    listed: Iterable[Listed], known: Mapping[str, Any], here: Callable[[str], bool], limits: Limits
) -> tuple[list[Listed], dict[str, str]]:
    """Return what is to be fetched, and why of the rest each is left out.

    Args:
        listed: what the place lists.
        known: size and mark of what was fetched before, by name.
        here: whether the file of a name is still here.
        limits: what is too large.
    """
    wanted: dict[str, Listed] = {}
    left_out: dict[str, str] = {}
    for item in listed:
        if item.name in wanted or shown(item.name) in left_out:
            wanted.pop(item.name, None)
            left_out[shown(item.name)] = "it is listed twice"
        elif not NAME.fullmatch(item.name):
            if item.name.endswith(SUFFIX):
                left_out[shown(item.name)] = "its name is no plain one"
        elif not len(MAGIC) <= item.bytes <= limits.largest:
            left_out[item.name] = f"it is listed with {item.bytes} bytes"
        else:
            wanted[item.name] = item
    due = [
        item
        for item in wanted.values()
        if not here(item.name) or known.get(item.name) != [item.bytes, item.mark]
    ]
    return sorted(due), left_out


def look(
    place: Place, address: str, folder: Path, memory: Path, limits: Limits | None = None
) -> tuple[list[Listed], dict[str, str]]:
    """Return what `fetch` would fetch, and why of the rest that is listed each is left out.

    Args:
        place: where messages are.
        address: of the place.
        folder: where they come to; it need not be there.
        memory: file that keeps what came.
        limits: what the place may cost.

    Raises:
        PlaceError: the place does not list its files, or too many.
    """
    limits = limits or Limits()
    try:
        with deadline(limits.patience):
            listed = list(islice(place.entries(), limits.most + 1))
    except NotThere:
        raise PlaceError(f"{address}: there is no such folder or bucket; make it.") from None
    except PlaceError as error:
        raise PlaceError(f"{address} does not list its files: {error}.") from None
    if len(listed) > limits.most:
        raise PlaceError(f"{address} holds more than {limits.most} files; clear old ones there.")
    known = _known(memory, address)
    return choose(listed, known, lambda name: (folder / name).is_file(), limits)


def fetch(
    place: Place, address: str, folder: Path, memory: Path, limits: Limits | None = None
) -> Report:
    """Fetch what a place has and this folder has not.

    Args:
        place: where messages are.
        address: of the place.
        folder: where they come to; it is made.
        memory: file that keeps what came, so that nothing comes twice.
        limits: what the place may cost.

    Raises:
        PlaceError: the place does not list its files, or does not give some of them; the others are
            here then.
        OSError: of this machine.
    """
    limits = limits or Limits()
    known = _known(memory, address)
    wanted, left_out = look(place, address, folder, memory, limits)
    report, faults = Report([], left_out), Faults(address)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with scratch_folder(folder.parent) as scratch:
            for item in faults.while_well(wanted):
                try:
                    _take(place, item, scratch / "message", limits)
                except PlaceError as error:
                    faults.add(item.name, error)
                except (LeftOut, NotThere) as error:
                    gone = isinstance(error, NotThere)
                    report.left_out[item.name] = "it is not given" if gone else str(error)
                else:
                    os.replace(scratch / "message", folder / item.name)
                    known[item.name] = [item.bytes, item.mark]
                    report.files.append(item.name)
    finally:
        write_json(memory, {"place": address, "files": known})
    faults.check()
    return report


def _take(place: Place, item: Listed, path: Path, limits: Limits) -> None:
    """Write a file that a place lists, if it is as listed."""
    if shutil.disk_usage(path.parent).free < item.bytes + limits.reserve:
        raise OSError(28, os.strerror(28), str(path.parent))
    got = 0
    begin = b""
    with deadline(limits.seconds(item.bytes)), open(path, "wb") as stream:
        for chunk in place.chunks(item.name):
            got += len(chunk)
            begin += chunk[: max(len(MAGIC) - len(begin), 0)]
            if got > item.bytes:
                raise LeftOut(f"it has more than the {item.bytes} bytes that are listed")
            stream.write(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    if got < item.bytes:
        raise LeftOut(f"it has {got} bytes, and {item.bytes} are listed")
    if begin != MAGIC:
        raise LeftOut("it is no sealed message")


def unsent(folder: Path, memory: Path, address: str) -> list[Path]:
    """Return the messages that lie in a folder, or in that of a site in it, and were not sent.

    Args:
        folder: it need not be there.
        memory: file that keeps what was sent.
        address: of the place that they are sent to.

    Raises:
        OSError: the folder cannot be read.
    """
    known = _known(memory, address)
    return [
        path
        for path in _outgoing(folder)
        if known.get(str(path.relative_to(folder))) != _identity(path)
    ]


def send(
    place: Place, address: str, folder: Path, memory: Path, limits: Limits | None = None
) -> Report:
    """Put into a place what lies in a folder, or in that of a site in it, and was not sent.

    Args:
        place: where the messages go.
        address: of the place.
        folder: where they lie.
        memory: file that keeps what went, so that nothing goes twice.
        limits: what the place may cost.

    Raises:
        PlaceError: the place does not take some of them; the others are there then.
        OSError: of this machine.
    """
    limits = limits or Limits()
    known, report, faults = _known(memory, address), Report(), Faults(address)
    try:
        for path in faults.while_well(unsent(folder, memory, address)):
            identity, relative = _identity(path), path.relative_to(folder)
            below = relative.parent.name or None
            try:
                with deadline(limits.seconds(identity[0])):
                    place.put(path, path.name, below)
            except (PlaceError, NotThere) as error:
                faults.add(str(relative), error)
            else:
                known[str(relative)] = identity
                report.files.append(str(relative))
    finally:
        write_json(memory, {"place": address, "files": known})
    faults.check()
    return report


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Have the block fail that takes longer, whatever it waits for; for the main thread alone.

    Args:
        seconds: that it may take.

    Raises:
        PlaceError: it took longer.
    """
    end = time.monotonic() + seconds

    def late(*_: object) -> None:
        if time.monotonic() >= end:
            raise _Late

    previous = signal.signal(signal.SIGALRM, late)
    # Again and again: a library may hold back what is raised while it cleans up.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    except _Late:
        raise PlaceError(f"no end within {seconds:.0f} s") from None
    finally:
        end = float("inf")
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


class _Late(BaseException):
    """Time is over. No `Exception`, so that no library takes it for a connection's and retries."""


class Faults:
    """What a place did not do, file by file.

    Args:
        address: of the place.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.found: dict[str, str] = {}
        self.in_a_row = 0

    def add(self, name: str, error: Exception) -> None:
        """Keep that a file failed."""
        self.found[name] = str(error) or "there is no such folder or bucket"
        self.in_a_row += 1

    def while_well(self, items: Iterable[Any]) -> Iterator[Any]:
        """Iterate until the place has failed several times in a row."""
        for item in items:
            failed = len(self.found)
            yield item
            if len(self.found) == failed:
                self.in_a_row = 0
            if self.in_a_row >= FAULTS:
                return

    def check(self) -> None:
        """Raise the faults.

        Raises:
            PlaceError: there are some.
        """
        if self.found:
            named = "; ".join(f"{name}: {text}" for name, text in self.found.items())
            raise PlaceError(
                f"{self.address}: {named}. What came through is kept; run the same command again "
                "for the rest."
            )


def shown(name: str) -> str:
    """Return a name that others gave as plain text of bounded length."""
    return name[:100].encode("unicode_escape").decode("ascii")


def _outgoing(folder: Path) -> Iterator[Path]:
    """Iterate over the messages of a folder and of the sites' folders in it, sorted."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and FOLDER.fullmatch(path.name):
            yield from (p for p in sorted(path.iterdir()) if _is_message(p))
        elif _is_message(path):
            yield path


def _is_message(path: Path) -> bool:
    return NAME.fullmatch(path.name) is not None and stat.S_ISREG(path.lstat().st_mode)


def _identity(path: Path) -> list[int]:
    """Return what changes with a file of our own."""
    found = path.lstat()
    return [found.st_size, found.st_mtime_ns]


def _known(memory: Path, address: str) -> dict[str, Any]:
    """Return what came from a place or went there; nothing where another is remembered."""
    if not memory.is_file():
        return {}
    read = read_json(memory)
    return dict(read["files"]) if read["place"] == address else {}

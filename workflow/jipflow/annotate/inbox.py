"""The inbox: folders into which readers put what they drew, and what may lie there.

``<inbox>/<segmentation>/<case_id>/<reader>/`` holds the file that a reader sends back for a case.
Names there come from outside: none is joined to a path, only what a listing gives is opened, and
links are not followed.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from jipflow.files import canonical_digest, read_json, write_json
from jipflow.reasons import PlaceError

PROPOSAL = "proposal"
"""Stands for the proposal where readers are compared, so that no reader may be called so."""
READER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
SEEN = "inbox.json"
"""Name of the file in a protocol's results that says which inbox its jobs have seen."""
MARK = ".jipflow"
"""Name of a file in an inbox, with a word that no other has, by which it is known again: from the
folder that its disk covers, and on a machine that has not mounted it."""
NOTHING = "nothing.txt"
"""Name of the file by which a person says that there is nothing to mark."""
FILE = re.compile(r"[\w .,()+-]{1,200}")
"""Letters, digits and what cannot be taken for a part of a rule or of a command."""


@dataclass
class Returned:
    """What lies in the inbox for a case.

    Attributes:
        files: of each reader, sorted.
        problems: a sentence for each thing that cannot be used because of where it lies.
        closed: a sentence for each that the account may not read; what it says is not known.
    """

    files: dict[str, list[Path]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


def case_folder(inbox: Path, segmentation: str, case_id: str) -> Path:
    """Return the folder of a case's readers."""
    return inbox / segmentation / case_id


def returned(folder: Path) -> Returned:
    """List what came back for a case.

    Args:
        folder: the case's, whose sub-folders are readers; need not exist.
    """
    found = Returned()
    try:
        listed = _listing(folder)
    except PermissionError:
        found.closed.append(_closed(f"The folder {folder}"))
        return found
    for path in listed:
        if not path.is_dir():
            found.problems.append(
                f"{path.name!r} lies beside the readers' folders; put it into a folder that is "
                "called as its reader."
            )
        elif not READER.fullmatch(path.name) or path.name == PROPOSAL:
            found.problems.append(
                f"The folder {path.name!r} cannot be a reader's: call it by up to 40 letters, "
                f"digits, dots, dashes and underscores, and not {PROPOSAL}."
            )
        else:
            try:
                files = sorted(_files(path))
            except PermissionError:
                found.closed.append(_closed(f"The folder {path.name!r} or one in it"))
                continue
            closed = [file for file in files if not os.access(file, os.R_OK)]
            found.closed += [_closed(f"{file.name!r} of {path.name}") for file in closed]
            files = [file for file in files if file not in closed]
            good = [file for file in files if _is_plain(file, path)]
            found.problems += [
                f"{file.name!r} of {path.name} has signs in its name or its folder's that are "
                "neither letters, digits, spaces nor any of .,()+-_; rename it."
                for file in files
                if file not in good
            ]
            if good:
                found.files[path.name] = good
    return found


def _closed(what: str) -> str:
    return (
        f"{what} cannot be read: permission denied; let the account that runs jipflow read it "
        "by a group that both are in (chgrp -R, chmod -R g+rX)."
    )


def check_inbox(inbox: Path, results: Path) -> None:
    """Check that the inbox is there, if a job has seen it before.

    Where its disk is away, another folder may stand in its place: what readers drew would seem to
    have been taken back.

    Args:
        inbox: folder of ``<segmentation>/<case_id>/<reader>/``.
        results: of the protocol.

    Raises:
        PlaceError: it is gone.
    """
    seen = results / SEEN
    # Looked for before the mark, which is written before it.
    if not seen.is_file():
        return
    noted = _noted(seen)
    if noted.get("inbox", "") not in ("", str(inbox)):
        return
    mark = _mark(inbox)
    if not mark or noted.get("mark", mark) != mark:
        raise PlaceError(
            f"{inbox}, where readers put what they drew, is gone, or its file {MARK} is; see "
            "whether its disk is mounted, and run the same command again. If it was moved or "
            f"emptied on purpose, remove {seen}: what is not there then counts as not drawn."
        )


def open_inbox(inbox: Path, results: Path) -> None:
    """Make the inbox where no job has seen one, mark it, and note that it is there.

    One that is there and that the account may not write to is not marked, and so not missed.

    Args:
        inbox: folder of ``<segmentation>/<case_id>/<reader>/``.
        results: of the protocol.

    Raises:
        PlaceError: it was there, and is gone.
        OSError: it is not there, and cannot be made.
    """
    check_inbox(inbox, results)
    inbox.mkdir(parents=True, exist_ok=True)
    try:
        mark = _marked(inbox)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise
        return
    seen = {"inbox": str(inbox), "mark": mark}
    if _noted(results / SEEN) != seen:
        write_json(results / SEEN, seen)


def _noted(seen: Path) -> dict[str, str]:
    """Return what a protocol's jobs have noted of the inbox; nothing where that is damaged."""
    try:
        found = read_json(seen)
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _mark(inbox: Path) -> str:
    """Return the word in the mark of an inbox; empty where it has none."""
    try:
        return (inbox / MARK).read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _marked(inbox: Path) -> str:
    """Return the word in the mark of an inbox, which is written where there is none.

    Raises:
        PlaceError: another job is about to write it, or was killed as it did.
        OSError: it cannot be written.
    """
    if found := _mark(inbox):
        return found
    mine = secrets.token_hex(16)
    beside = inbox / f"{MARK}-{mine}"
    try:
        beside.write_text(mine, encoding="ascii")
        # Whole from the start, and of several jobs the first one's.
        with suppress(FileExistsError):
            try:
                os.link(beside, inbox / MARK)
            except OSError:
                # A file system without links, such as that of a share of Windows.
                with open(inbox / MARK, "x", encoding="ascii") as stream:
                    stream.write(mine)
    finally:
        beside.unlink(missing_ok=True)
    if found := _mark(inbox):
        return found
    raise PlaceError(
        f"{inbox / MARK} is empty; run the same command again, and where that does not help, "
        "remove the file first."
    )


def inbox_state(inbox: Path, segmentations: Iterable[str], case_ids: Iterable[str]) -> str:
    """Return a hash of all that lies in the inbox for some cases, for a rule's parameters.

    A file may be replaced by one that is older than the last run.
    """
    wanted = list(case_ids)
    state: list[list[str | int]] = []
    for segmentation in segmentations:
        for case_id in wanted:
            folder = case_folder(inbox, segmentation, case_id)
            state.append([segmentation, case_id, *returned(folder).closed])
            for file in sorted(_files(folder, closed=True)):
                try:
                    status = file.lstat()
                except FileNotFoundError:  # taken away since it was listed
                    continue
                # Nanoseconds are more than a number of JSON can hold.
                state.append(
                    [ascii(str(file.relative_to(inbox))), status.st_size, str(status.st_mtime_ns)]
                )
    return canonical_digest(state)


def _listing(folder: Path) -> list[Path]:
    """List a folder without links and hidden entries; a folder that is a link counts as empty."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    try:
        return sorted(p for p in folder.iterdir() if not p.is_symlink() and p.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):  # taken away meanwhile
        return []


def _files(folder: Path, *, closed: bool = False) -> Iterator[Path]:
    """Yield the files below a folder; with `closed`, pass over folders that may not be listed."""
    try:
        listed = _listing(folder)
    except PermissionError:
        if not closed:
            raise
        return
    for path in listed:
        if path.is_dir():
            yield from _files(path, closed=closed)
        elif path.is_file():
            yield path


def _is_plain(file: Path, folder: Path) -> bool:
    return all(FILE.fullmatch(part) for part in file.relative_to(folder).parts)

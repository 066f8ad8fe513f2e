"""Patients who were erased, by keyed hashes that nobody can turn back, so that they stay away.

The list lies in the site's ledger, which is backed up with the secret. The results keep how long it
was and its hash, so that a list that is lost or was shortened lets nobody back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jipflow.files import read_json, write_json
from jipflow.privacy.private import alone_in, write_private
from jipflow.privacy.pseudonyms import PSEUDONYM_CHARACTERS, known_secret, one_form, pseudonym
from jipflow.reasons import StageError
from jipflow.settings.site import Identity

NAME = "erased.txt"
"""The list, in the folder of the ledger."""

LINE = re.compile(rf"[a-z2-7]{{{PSEUDONYM_CHARACTERS}}}")
"""A hash, as `jipflow.privacy.pseudonyms` makes it."""

KEPT = "erased.json"
"""Name of the file of a results folder that says how long the list was."""


@dataclass(frozen=True)
class Erased:
    """The patients who were erased.

    Attributes:
        secret: of the site; empty where nobody was erased.
        lines: hashes of the patients, in the order in which they were erased.
    """

    secret: bytes = b""
    lines: tuple[str, ...] = ()

    @cached_property
    def hashes(self) -> frozenset[str]:
        """The hashes of the patients."""
        return frozenset(self.lines)

    def begins_with(self, number: int, digest: str) -> bool:
        """Return whether its first lines are so many, of this hash, as `state` returned them."""
        return len(self.lines) >= number and _digest(self.lines[:number]) == digest

    def state(self) -> tuple[int, str]:
        """Return how many lines it has, and their hash."""
        return len(self.lines), _digest(self.lines)

    def __contains__(self, patient: object) -> bool:
        """Whether a PatientID is one of them; blanks around it do not count."""
        return bool(self.lines) and _hash(self.secret, str(patient or "")) in self.hashes


def read_erased(identity: Identity, results: Path) -> Erased:
    """Read the list.

    Args:
        identity: the site's secrets.
        results: folder for the results of all protocols.

    Raises:
        StageError: it is not as the site left it, or the site's secret is missing.
        OSError: it cannot be read.
    """
    lines = _lines(identity, results)
    if not lines:
        return Erased()
    return Erased(known_secret(Path(identity.secret_file)), tuple(lines))


def erased_state(identity: Identity, results: Path) -> str:
    """Return a hash that is another one when others were erased; empty where nobody was.

    It is also empty where the list cannot be used, so that the job which reads it runs and says
    why.
    """
    try:
        lines = _lines(identity, results)
    except (StageError, OSError):
        return ""
    return _digest(lines) if lines else ""


def add_erased(identity: Identity, results: Path, patients: Iterable[str]) -> None:
    """Put patients on the list, those who are not.

    Args:
        identity: the site's secrets.
        results: folder for the results of all protocols.
        patients: their PatientIDs.

    Raises:
        StageError: as by `read_erased`.
    """
    folder = Path(identity.ledger_folder)
    secret = known_secret(Path(identity.secret_file))
    with alone_in(folder):
        lines = _lines(identity, results)
        new = {_hash(secret, patient) for patient in patients}.difference(lines)
        lines += sorted(new)
        write_private(folder / NAME, "".join(f"{line}\n" for line in lines).encode("ascii"))
    write_json(results / KEPT, {"patients": len(lines), "sha256": _digest(lines)})


def _hash(secret: bytes, patient: str) -> str:
    return pseudonym(secret, "erased patient", one_form(patient))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()


def _lines(identity: Identity, results: Path) -> list[str]:
    """Return the lines of the list, which has at least those that the results speak of."""
    path = Path(identity.ledger_folder) / NAME
    try:
        lines = path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        lines = []
    except UnicodeDecodeError:
        lines = ["?"]
    if not all(LINE.fullmatch(line) for line in lines):
        raise StageError(
            f"{path} is not as the site left it: a line is no hash. Restore it from the backup, "
            "lest patients who were erased come back."
        )
    kept = Path(results) / KEPT
    try:
        known = read_json(kept)
        number, digest = int(known["patients"]), str(known["sha256"])
    except FileNotFoundError:
        return lines
    except (ValueError, KeyError, TypeError):
        raise StageError(f"{kept} is damaged; restore it from a backup.") from None
    if len(lines) < number or _digest(lines[:number]) != digest:
        raise StageError(
            f"{path} is not as the site left it: it lacks patients who were erased, of whom {kept} "
            "speaks. Restore it from the backup, lest they come back."
        )
    return lines

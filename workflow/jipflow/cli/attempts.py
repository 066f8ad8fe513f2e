"""What a job found that no other try can change, so that the job is not tried again.

Snakemake tries a failed job again whatever failed it. While a run goes on, `RUN` names a folder; in
it stays the message of a job whose mistake only a person can fix, under the hash of its command.
From then on `Tries` has Snakemake try no job again, since the run cannot succeed. Where a workflow
uses this one as a module, which `Tries` does not reach, the next try ends at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from jipflow.files import atomic_path
from jipflow.place import place_error
from jipflow.reasons import PlaceError, StageError
from jipflow.settings.resources import ConfigError

RUN = "JIPFLOW_RUN"
"""Environment variable that names the folder of the run."""

ELSEWHERE = {"query", "retrieve", "publish"}
"""Commands that depend on another machine, which may answer the next time."""


class Tries(int):
    """How often Snakemake tries a job again: none once a job has found what no try can change.

    Args:
        number: of tries after the first.
        folder: of the run.
    """

    folder: Path

    def __new__(cls, number: int, folder: Path) -> Self:
        """Make the number that Snakemake compares with the tries of a job that has failed."""
        made = super().__new__(cls, number)
        made.folder = folder
        return made

    def __gt__(self, tried: int) -> bool:
        """Return whether a job that was tried again so often is tried once more."""
        return int(self) > tried and not any(self.folder.glob("*.txt"))


def found_before(words: Sequence[str]) -> str | None:
    """Return the message that ended an earlier try of the same command, if no other can help."""
    path = _path(words)
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def remember(words: Sequence[str], error: BaseException, message: str) -> None:
    """Keep the message of an error that the next try would only find again.

    Args:
        words: what was typed after ``jipflow``.
        error: that ended the command.
        message: of the error, without what may identify a patient.
    """
    path = _path(words)
    if path is not None and is_lasting(error) and words[0] not in ELSEWHERE:
        # Without it the next try takes its time.
        with suppress(OSError), atomic_path(path) as partial:
            partial.write_text(message, encoding="utf-8")


def is_lasting(error: BaseException) -> bool:
    """Return whether only a person can fix what an error says: not the place, not its load."""
    if isinstance(error, PlaceError) or not isinstance(error, StageError | ConfigError):
        return False
    return not any(isinstance(each, OSError) or place_error(each) for each in _behind(error))


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Iterate over what an error was raised from, or while it was handled, shown or not."""
    seen = {id(error)}
    while (behind := error.__cause__ or error.__context__) and id(behind) not in seen:
        seen.add(id(behind))
        yield behind
        error = behind


def _path(words: Sequence[str]) -> Path | None:
    folder = os.environ.get(RUN)
    if not folder:
        return None
    digest = hashlib.sha256(json.dumps([os.getcwd(), *words]).encode()).hexdigest()
    return Path(folder, f"{digest}.txt")

"""Records of patients as a source has them, before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol


@dataclass(frozen=True)
class Record:
    """What a source says of a patient for a variable.

    Attributes:
        value: as it stands there, without white space around it; empty where nothing does.
        date: of the record; None where it has none, or none that can be read.
        unit: as it stands there; empty where nothing does.
        broken: the line of the file has more or fewer cells than its first one.
    """

    value: str
    date: date | None = None
    unit: str = ""
    broken: bool = False


Records = Mapping[str, Sequence[Record]]
"""By the source's identifier of the patient."""


class Rows(Protocol):
    """Runs one SELECT of a map, and gives the names of its columns and its rows."""

    def __call__(self, select: str, context: str) -> tuple[list[str], Iterator[Sequence[Any]]]:
        """Return the columns and the rows of a SELECT.

        Args:
            select: as the map has it.
            context: the file and the key, for messages.
        """

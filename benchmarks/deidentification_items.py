"""What is planted in files that are to be de-identified, and whether it was done with as required.

The actions are those of MIDI-B (arXiv 2507.23608), and so is the rule for a file that a program
does not write: what was to be removed is, what was to be kept is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

Place = tuple[Any, ...]
"""Where a value is: keywords, tags, indices of items, or the code of a content item of an SR."""


class Action(StrEnum):
    """What is required of a planted item, by MIDI-B's names."""

    TEXT_REMOVED = "text removed"
    TEXT_RETAINED = "text retained"
    TEXT_NOTNULL = "text not null"
    TAG_RETAINED = "tag retained"
    DATE_SHIFTED = "date shifted"
    UID_CHANGED = "UID changed"
    UID_CONSISTENT = "UID consistent"
    PATID_CONSISTENT = "patient ID consistent"
    PIXELS_HIDDEN = "pixels hidden"
    PIXELS_RETAINED = "pixels retained"


REMOVING = {
    Action.TEXT_REMOVED,
    Action.DATE_SHIFTED,
    Action.UID_CHANGED,
    Action.PIXELS_HIDDEN,
}
"""Actions that are done where a file is not written."""

FILE_NAME, PREAMBLE, META, ANYWHERE = ("file name",), ("preamble",), ("file meta",), ("file",)
SPARE_BITS = ("spare bits",)
"""Places that are no attributes."""


@dataclass(frozen=True)
class Item:
    """One thing that is planted, and what is required.

    Attributes:
        action: what.
        place: where.
        value: text whose words go or stay, a value, a date, a UID, or a region of pixels.
        patient: whose it is; of UIDs and dates, which are to be consistent.
    """

    action: Action
    place: Place
    value: Any
    patient: str = ""


@dataclass
class Planted:
    """A file with what is planted in it.

    Attributes:
        path: of the file.
        dataset: that it is written from.
        items: what is planted.
        patches: bytes that stand in the file once, and what replaces them.
    """

    path: Path
    dataset: Dataset
    items: list[Item] = field(default_factory=list)
    patches: list[tuple[bytes, bytes]] = field(default_factory=list)


class Written:
    """What a program wrote for one file."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.name = str(path.relative_to(folder))
        self.data = path.read_bytes()
        self.dataset = pydicom.dcmread(path, force=True)

    def at(self, place: Place) -> Any:
        """Return the value at a place; None where there is none."""
        found: Any = self.dataset
        for step in place:
            if isinstance(step, int) and isinstance(found, Sequence | MultiValue):
                found = found[step] if step < len(found) else None
            elif isinstance(step, tuple) and len(step) == 1:
                found = _content(found, step[0])
            elif isinstance(found, Dataset):
                found = _value(found, step)
            else:
                return None
            if found is None:
                return None
        return found

    @cache  # noqa: B019 the objects live as long as the score
    def pixels(self) -> NDArray[Any] | None:
        """Return the stored values; None where they cannot be decoded."""
        try:
            return self.dataset.pixel_array
        except Exception:
            return None


def _value(dataset: Dataset, tag: Any) -> Any:
    """Return a value of a data set, as bytes where it is none of its value representation."""
    try:
        return dataset[tag].value if tag in dataset else None
    except Exception:
        element = dataset.get_item(tag)
        return None if element is None else element.value


def _content(dataset: Any, code: str) -> Dataset | None:
    """Return the first content item of a concept, at any depth (PS3.3 C.17.3)."""
    for item in getattr(dataset, "get", lambda *_: None)("ContentSequence") or []:
        concept = item.get("ConceptNameCodeSequence")
        if concept and concept[0].get("CodeValue") == code:
            return item
        below = _content(item, code)
        if below is not None:
            return below
    return None


def score(
    planted: Sequence[Planted], written: Mapping[Path, Path | None], folder: Path
) -> list[tuple[Planted, Item, bool]]:
    """Return of each item whether it was done with as required.

    Args:
        planted: the files.
        written: by path of a planted file that of the one written for it.
        folder: that the program wrote into.
    """
    outputs = {
        file.path: Written(path, folder)
        for file in planted
        if (path := written.get(file.path)) is not None
    }
    shifts, uids, patients = _consistent(planted, outputs)
    results = []
    for file in planted:
        output = outputs.get(file.path)
        for item in file.items:
            if output is None:
                done = item.action in REMOVING
            elif item.action == Action.DATE_SHIFTED:
                shift = _shift(output.at(item.place), item.value)
                done = bool(shift) and shift == shifts.get(item.patient)
            elif item.action == Action.UID_CONSISTENT:
                new = str(output.at(item.place) or "")
                done = new == uids.get(item.value) != item.value
            elif item.action == Action.PATID_CONSISTENT:
                new = str(output.at(item.place) or "")
                done = bool(new) and new == patients.get(item.patient) != item.value
            else:
                done = _done(item, output)
            results.append((file, item, done))
    return results


def _done(item: Item, output: Written) -> bool:
    """Return whether an item that needs no other file was done with as required."""
    if item.action == Action.TEXT_REMOVED:
        return not any(_holds(output, item.place, word) for word in words(item.value))
    found = output.at(item.place)
    if item.action == Action.TEXT_RETAINED:
        return all(_in(_text(found), word) for word in words(item.value))
    if item.action == Action.TEXT_NOTNULL:
        return _text(found).strip() != ""
    if item.action == Action.TAG_RETAINED:
        return _same(found, item.value)
    if item.action == Action.UID_CHANGED:
        return item.value not in _text(found)
    pixels = output.pixels()
    if pixels is None:
        return False
    if item.place == SPARE_BITS:
        # The raw words, for readers leave out the bits that are no part of a value.
        return not (np.frombuffer(output.dataset.PixelData, "<u2") >> 15).any()
    if item.action == Action.PIXELS_RETAINED:
        where, values = item.value
        return pixels.shape == where.shape and bool((pixels[where] == values[where]).all())
    rows, columns = item.value
    samples = pixels.shape[2:]
    area = pixels[rows, columns].reshape(-1, *samples)
    return bool((area == area[0]).all())


def words(text: Any) -> list[Any]:
    """Return the parts of a planted text that are looked for one by one."""
    return (
        [text] if isinstance(text, bytes) else [w for w in re.split(r"[\^=\\\s]+", str(text)) if w]
    )


def _holds(output: Written, place: Place, word: str | bytes) -> bool:
    """Return whether a word is at a place of what was written."""
    if place == FILE_NAME:
        return _in(output.name, str(word))
    if place == PREAMBLE:
        return _in_bytes(output.data[:128], word)
    if place == ANYWHERE:
        return _in_bytes(output.data, word)
    if place == META:
        return _in(_text(output.dataset.file_meta), str(word))
    found = output.at(place)
    if isinstance(word, bytes):
        return word in _bytes(found)
    return _in(_text(found), word) or _in_bytes(_bytes(found), word)


def _in(text: str, word: str) -> bool:
    """Return whether a text holds a word, also if it is UTF-8 that was read as Latin-1."""
    again = text.encode("latin-1", "ignore").decode("utf-8", "ignore")
    return any(word.casefold() in each.casefold() for each in (text, again))


def _in_bytes(data: bytes, word: str | bytes) -> bool:
    """Return whether bytes hold a word in any of the usual encodings, ASCII letters of any case."""
    if isinstance(word, bytes):
        return word in data
    low = data.lower()
    found = False
    for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "iso2022_jp"):
        try:
            found |= word.encode(encoding).lower() in low
        except UnicodeError:
            continue
    return found


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b""


def _text(value: Any) -> str:
    """Return a value, of whatever type, as text."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, Dataset):
        return " ".join(_text(element.value) for element in value)
    if isinstance(value, Sequence | MultiValue) and not isinstance(value, str):
        return " ".join(map(_text, value))
    return str(value)


def _same(found: Any, value: Any) -> bool:
    """Return whether a value is that which it was, numbers as numbers."""
    if found is None:
        return False
    if isinstance(value, Sequence | MultiValue) and not isinstance(value, str | bytes):
        if isinstance(found, str | bytes) or not isinstance(found, Sequence | MultiValue):
            return False
        return len(found) == len(value) and all(map(_same, found, value))
    try:
        return float(found) == float(value)
    except (TypeError, ValueError):
        return _text(found).strip() == _text(value).strip()


def _shift(new: Any, old: str) -> timedelta | None:
    """Return by how much a date moved, its time of day being the same; None where it is none."""
    moved, was = _moment(str(new or "")), _moment(old)
    if moved is None or was is None or str(new)[8:] != old[8:]:
        return None
    return moved - was


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text[:8], "%Y%m%d")
    except ValueError:
        return None


def _consistent(
    planted: Iterable[Planted], outputs: Mapping[Path, Written]
) -> tuple[dict[str, timedelta], dict[str, str], dict[str, str]]:
    """Return the shift of each patient, the new UID of each UID, and each new Patient ID.

    The first one that was written counts, as the mapping by which the others are measured. Two
    dates, UIDs or patients that became one are not consistent.
    """
    dates: dict[str, dict[str, str]] = {}
    uids: dict[str, str] = {}
    patients: dict[str, str] = {}
    for file in planted:
        output = outputs.get(file.path)
        for item in file.items if output else ():
            if item.action == Action.DATE_SHIFTED and (new := output.at(item.place)):
                dates.setdefault(item.patient, {}).setdefault(item.value[:8], str(new)[:8])
            elif item.action == Action.UID_CONSISTENT and (new := output.at(item.place)):
                uids.setdefault(item.value, str(new))
            elif item.action == Action.PATID_CONSISTENT and (new := output.at(item.place)):
                patients.setdefault(item.patient, str(new))
    shifts = {}
    for patient, moved in dates.items():
        old, new = next(iter(_apart(moved).items()), ("", ""))
        if shift := _shift(new, old):
            shifts[patient] = shift
    return shifts, _apart(uids), _apart(patients)


def _apart(mapping: dict[str, str]) -> dict[str, str]:
    """Return a mapping without those that share their value with another."""
    values = list(mapping.values())
    return {old: new for old, new in mapping.items() if values.count(new) == 1}

"""The time points of a series: contrast phases, dynamic frames, phases of the heart or breathing.

A time point is a group of slices that has each position once. Which slices make one is read from
the first of `ATTRIBUTES` that groups them so: by a value that the slices of a time point share, as
Temporal Position Identifier or a time, or by times that rise from slice to slice and from pass to
pass, as 2D sequences have them. Beds of a PET lie beside one another and are no time points.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.images.pixels import Plane
from jipflow.images.private import number_of

DAY_S = 86400.0
HALF_A_DAY_S = DAY_S / 2
"""Clocks of one series that are farther apart may have passed midnight on one date."""
LONGEST_S = DAY_S / 4
"""Clocks that passed midnight are no farther apart than this, or it is not sure that they did."""

TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d(?:\.\d*)?))?)?")
"""TM as it is, cut short or with the colons of ACR-NEMA (PS3.5 6.2)."""
OFFSET = re.compile(r"([+-])(\d\d)(\d\d)$")
"""Offset from UTC at the end of a DT (PS3.5 6.2)."""

Reader = Callable[[Dataset], float | None]


@dataclass(frozen=True)
class TimePoint:
    """One time point.

    Attributes:
        number: from 1, as the series counts them.
        planes: its slices, in any order.
        seconds: its start after that of the first time point; None where the header says no times.
    """

    number: int
    planes: list[Plane]
    seconds: float | None


@dataclass(frozen=True)
class TimePoints:
    """The time points of a series.

    Attributes:
        attribute: what tells them apart; empty where there is one.
        points: in the order of time.
        counted: whether the header numbers them; else they are numbered as they are there.
        expected: how many there are by the header; 0 where it does not say.
    """

    attribute: str
    points: list[TimePoint]
    counted: bool
    expected: int

    @property
    def lost(self) -> int:
        """How many time points are not there, by what the header says."""
        return max(self.expected, self.points[-1].number) - len(self.points)


def time_points(planes: Sequence[Plane], slots: NDArray[np.intp]) -> TimePoints | None:
    """Group the slices of a series into time points.

    Args:
        planes: of one kind of image, none of them twice.
        slots: number of the position of each.

    Returns:
        The time points; None where nothing in the header tells them apart for sure.
    """
    most = int(np.bincount(slots).max())
    for name, read in ATTRIBUTES.items():
        values = _values(planes, name, read)
        if values is None:
            continue
        groups = _by_value(values, slots, most)
        counted = groups is not None and name in COUNTED
        if groups is None and most > 1:
            groups = _in_turn(values, slots, most)
        if groups is None:
            continue
        if _against_the_clock(planes, groups, name):
            if name in COUNTED:
                return None
            continue
        ids: Sequence[int] = range(1, len(groups) + 1)
        if counted:
            ids = _from_one([round(values[group[0]]) for group in groups])
        points = [
            TimePoint(number, [planes[i] for i in group], start)
            for number, group, start in zip(ids, groups, _starts(planes, groups), strict=True)
        ]
        return TimePoints(name if most > 1 else "", points, counted, _expected(planes))
    if most > 1:
        return None
    return TimePoints("", [TimePoint(1, list(planes), None)], False, _expected(planes))


def _values(planes: Sequence[Plane], name: str, read: Reader) -> list[float] | None:
    """Return an attribute of each slice; None where one lacks it."""
    found: list[float] = []
    for plane in planes:
        value = read(plane.header)
        if value is None:
            return None
        found.append(value)
    if name not in CLOCKS:
        return found
    days = {value // DAY_S for value in found}
    if len(days) > 1 and 0 in days:
        # Only some have a date.
        return None
    if len(days) == 1 and max(found) - min(found) > HALF_A_DAY_S:
        found = [value + DAY_S if value % DAY_S < HALF_A_DAY_S else value for value in found]
        if max(found) - min(found) > LONGEST_S:
            return None
    return found


def _by_value(
    values: Sequence[float], slots: NDArray[np.intp], most: int
) -> list[list[int]] | None:
    """Group slices that share a value, where no position is twice in a group.

    Slices of one pass whose values differ make more groups than a position has slices.
    """
    groups: dict[float, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        groups[value].append(index)
    if len(groups) != most:
        return None
    if any(len(set(slots[group].tolist())) < len(group) for group in groups.values()):
        return None
    return [groups[value] for value in sorted(groups)]


def _in_turn(values: Sequence[float], slots: NDArray[np.intp], most: int) -> list[list[int]] | None:
    """Group the n-th slices of all positions, where each comes before all of the next pass.

    Where one position lacks a slice it is not known which, and nothing is grouped.
    """
    rows: list[list[int]] = [[] for _ in range(int(slots.max()) + 1)]
    for index in sorted(range(len(values)), key=lambda i: values[i]):
        rows[slots[index]].append(index)
    if any(len(row) != most for row in rows):
        return None
    groups = [list(group) for group in zip(*rows, strict=True)]
    ends = [(min(values[i] for i in group), max(values[i] for i in group)) for group in groups]
    return groups if all(one[1] < two[0] for one, two in pairwise(ends)) else None


def _against_the_clock(planes: Sequence[Plane], groups: list[list[int]], name: str) -> bool:
    """Return whether a group was acquired wholly before one that should come before it."""
    values = _values(planes, "AcquisitionTime", _clock("Acquisition"))
    if values is None or name in CLOCKS:
        return False
    ends = [(min(values[i] for i in group), max(values[i] for i in group)) for group in groups]
    return any(two[1] < one[0] for one, two in pairwise(ends))


def _from_one(ids: list[int]) -> list[int]:
    """Return numbers from 1 for those of time points that are counted from 0 or 1."""
    return [number + 1 for number in ids] if ids[0] == 0 else ids


def _expected(planes: Sequence[Plane]) -> int:
    """Return how many time points the header states; 0 where it does not."""
    found = 0
    for plane in planes:
        header = plane.header
        for names in (
            ("NumberOfTemporalPositions",),
            ("NumberOfTimeSlices",),
            ("NumberOfTimeSlots", "NumberOfRRIntervals"),
        ):
            counts = [number_of(header, name) for name in names]
            if counts[0]:
                found = max(found, round(counts[0] * ((counts[-1] or 1) if counts[1:] else 1)))
    return found


def _starts(planes: Sequence[Plane], groups: list[list[int]]) -> list[float | None]:
    """Return the start of each group in seconds after the first, where they rise."""
    for name, (read, unit) in STARTS.items():
        values = _values(planes, name, read)
        if values is None:
            continue
        starts = [min(values[i] for i in group) * unit for group in groups]
        if all(one < two for one, two in pairwise(starts)):
            return [start - starts[0] for start in starts]
    return [None] * len(groups)


def _read(name: str) -> Reader:
    return lambda header: number_of(header, name)


def _image_index(header: Dataset) -> float | None:
    """Return the number of the time slice, or of the gate, of a PET image (PS3.3 C.8.9.4.1.9).

    Image Index counts the slices within a time slice, of a gated image within a time slot.
    """
    kind = header.get("SeriesType") or [""]
    kind = str(kind if isinstance(kind, str) else kind[0]).upper()
    index, slices = number_of(header, "ImageIndex"), number_of(header, "NumberOfSlices")
    if kind not in {"DYNAMIC", "GATED"} or not index or not slices or slices < 1 or index < 1:
        return None
    return (index - 1) // slices + 1


def _seconds(text: str) -> float | None:
    """Return a time of day (TM) in seconds; None where it is not there or cannot be read."""
    match = TIME.match(text.strip())
    if match is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _day(text: str) -> float | None:
    """Return a date (DA) in seconds; None where it is not there or cannot be read."""
    digits = text.strip().replace(".", "")[:8]
    try:
        return date.fromisoformat(digits).toordinal() * DAY_S if len(digits) == 8 else None
    except ValueError:
        return None


def _clock(what: str) -> Reader:
    """Return a reader of ``<what>Time``, with ``<what>Date`` where that is there."""

    def read(header: Dataset) -> float | None:
        seconds = _seconds(str(header.get(f"{what}Time") or ""))
        if seconds is None:
            return None
        return seconds + (_day(str(header.get(f"{what}Date") or "")) or 0.0)

    return read


def _moment(name: str) -> Reader:
    """Return a reader of a date and time (DT)."""

    def read(header: Dataset) -> float | None:
        text = str(header.get(name) or "").strip()
        day, seconds = _day(text), _seconds(text[8:])
        if day is None or seconds is None:
            return None
        offset = OFFSET.search(text)
        if offset is None:
            return day + seconds
        ahead = (int(offset[2]) * 60 + int(offset[3])) * 60.0
        return day + seconds + (ahead if offset[1] == "-" else -ahead)

    return read


COUNTED = ("TemporalPositionIndex", "TemporalPositionIdentifier", "ImageIndex")
"""Attributes that number time points."""

CLOCKS: dict[str, Reader] = {
    "FrameAcquisitionDateTime": _moment("FrameAcquisitionDateTime"),
    "AcquisitionTime": _clock("Acquisition"),
    "AcquisitionDateTime": _moment("AcquisitionDateTime"),
    "ContentTime": _clock("Content"),
}

ATTRIBUTES: dict[str, Reader] = {
    "TemporalPositionIndex": _read("TemporalPositionIndex"),
    "TemporalPositionIdentifier": _read("TemporalPositionIdentifier"),
    "ImageIndex": _image_index,
    "TemporalPositionTimeOffset": _read("TemporalPositionTimeOffset"),
    "TriggerTime": _read("TriggerTime"),
    "NominalCardiacTriggerDelayTime": _read("NominalCardiacTriggerDelayTime"),
    "FrameReferenceTime": _read("FrameReferenceTime"),
    "AcquisitionNumber": _read("AcquisitionNumber"),
    "FrameAcquisitionNumber": _read("FrameAcquisitionNumber"),
    **CLOCKS,
}
"""What tells time points apart, from the plainest to the vaguest."""

STARTS: dict[str, tuple[Reader, float]] = {
    "TemporalPositionTimeOffset": (_read("TemporalPositionTimeOffset"), 1.0),
    "FrameAcquisitionDateTime": (CLOCKS["FrameAcquisitionDateTime"], 1.0),
    "AcquisitionTime": (CLOCKS["AcquisitionTime"], 1.0),
    "AcquisitionDateTime": (CLOCKS["AcquisitionDateTime"], 1.0),
    "TriggerTime": (_read("TriggerTime"), 1e-3),
    "NominalCardiacTriggerDelayTime": (_read("NominalCardiacTriggerDelayTime"), 1e-3),
    "FrameReferenceTime": (_read("FrameReferenceTime"), 1e-3),
    "ContentTime": (CLOCKS["ContentTime"], 1.0),
}
"""What says when a time point began, and the seconds of its unit."""

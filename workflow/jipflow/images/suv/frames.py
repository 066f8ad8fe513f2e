"""The times of a PET series' slices or frames, and how far they may be apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from jipflow.images.suv.clock import Moment, moment_of, stamp_of
from jipflow.images.suv.fields import Fields, number, plain
from jipflow.notes import Notes
from jipflow.reasons import Decision

MS_PER_S = 1000.0

DECAY_TOLERANCE = 0.01
"""Times agree where the decay between them is no more than this: 95 s for F-18."""
LEAST_TOLERANCE_S = 2.0
"""Times that are written to the second agree within this, however short the half-life."""
DECAY_FACTOR_TOLERANCE = 0.05
"""Relative, between Decay Factor (0054,1321) and what the times give for it."""


def shown(moment: datetime) -> str:
    """Return a date and time as messages have it."""
    return moment.isoformat(sep=" ", timespec="seconds")


def tolerance(half_life: float) -> timedelta:
    """Return how far two times may be apart that are taken to be one.

    Args:
        half_life: in seconds.
    """
    seconds = half_life * math.log2(1 + DECAY_TOLERANCE)
    return timedelta(seconds=max(seconds, LEAST_TOLERANCE_S))


def average_count_s(duration: float, half_life: float) -> float:
    """Return when within a frame its average count rate is reached, in seconds from its start.

    It is ln(x / (1 − e^−x)) / λ with x = λ · duration: activity that was measured over the frame,
    without correction for the decay in it, is that of this time.

    Args:
        duration: of the frame in seconds.
        half_life: in seconds.
    """
    decay = math.log(2) / half_life
    return math.log(decay * duration / -math.expm1(-decay * duration)) / decay


def milliseconds(dataset: Dataset, keyword: str) -> float | None:
    """Return a field of a slice in milliseconds; None where it is not there."""
    value = plain(dataset.get(keyword))
    return None if value == "" else number(value, keyword)


def slice_acquired(dataset: Dataset, fields: Fields, zone: timedelta | None) -> Moment | None:
    """Return when the acquisition of a slice or frame began (PS3.3 C.8.9.4 and C.7.6.16.2.2)."""
    stamp = stamp_of(str(plain(dataset.get("FrameAcquisitionDateTime"))))
    if stamp is not None and stamp.day is not None and stamp.clock is not None:
        return Moment(stamp.local(zone), dated=True)
    return moment_of(dataset, "Acquisition", fields, zone)


def acquisitions(fields: Fields, zone: timedelta | None, notes: Notes) -> list[datetime] | None:
    """Return when each slice's acquisition began; None where no slice says it.

    Args:
        fields: of the series.
        zone: the scanner's offset from UTC.
        notes: gets a sentence where the date is that of something else.

    Raises:
        CaseFault: some slices say it and some do not.
    """
    moments = [slice_acquired(d, fields, zone) for d in fields.slices]
    known = [moment for moment in moments if moment is not None]
    if not known:
        return None
    if len(known) < len(moments):
        fields.contradictory(
            "AcquisitionTime is missing in some of its slices only; export the series again."
        )
    if not all(moment.dated for moment in known):
        notes.add(
            Decision.SCAN_DATE_REPLACED,
            "AcquisitionDate is missing; the date of the series or the study stands for it.",
        )
    return [moment.at for moment in known]


def frame_time_of_maker(
    fields: Fields, half_life: float, acquired: Sequence[datetime]
) -> datetime | None:
    """Return what the slices were corrected to as their maker counts.

    GE counts to the frame's start, but where only the other way leads to the first acquisition,
    the file counts as the standard says.
    """
    standard = frame_time(fields, half_life, acquired, to_start=False)
    if fields.scanner != "GE":
        return standard
    near = timedelta(seconds=LEAST_TOLERANCE_S)
    if standard is not None and abs(standard - min(acquired)) <= near:
        return standard
    return frame_time(fields, half_life, acquired, to_start=True)


def frame_time(
    fields: Fields, half_life: float, acquired: Sequence[datetime], *, to_start: bool
) -> datetime | None:
    """Return what each slice was corrected to by its own frame's times.

    Args:
        fields: of the series.
        half_life: in seconds.
        acquired: when each slice's acquisition began.
        to_start: Frame Reference Time (0054,1300) runs to the frame's start, as GE has it, and not
            to when its average count rate was reached (PS3.3 C.8.9.4).

    Returns:
        None where a field is missing, slices differ, or the time is after the acquisition.
    """
    found = []
    for dataset, start in zip(fields.slices, acquired, strict=True):
        offset = milliseconds(dataset, "FrameReferenceTime")
        if offset is None:
            return None
        average = 0.0
        if not to_start:
            duration = milliseconds(dataset, "ActualFrameDuration")
            if duration is None or duration <= 0:
                return None
            average = average_count_s(duration / MS_PER_S, half_life)
        found.append(start + timedelta(seconds=average - offset / MS_PER_S))
    found.sort()
    allowed = tolerance(half_life)
    if found[-1] - found[0] > allowed or found[-1] - min(acquired) > allowed:
        return None
    return found[len(found) // 2]


def counted(dataset: Dataset, fields: Fields, half_life: float, zone: timedelta | None) -> datetime:
    """Return when the average count rate of a slice's frame was reached."""
    stamp = stamp_of(str(plain(dataset.get("FrameReferenceDateTime"))))
    if stamp is not None and stamp.day is not None and stamp.clock is not None:
        return stamp.local(zone)
    start = slice_acquired(dataset, fields, zone)
    durations = (
        milliseconds(dataset, name) for name in ("ActualFrameDuration", "FrameAcquisitionDuration")
    )
    duration = next((value for value in durations if value), 0.0)
    if start is None or duration <= 0:
        fields.missing(
            "decay is not corrected, and AcquisitionTime or ActualFrameDuration, by which it could "
            "be, is missing."
        )
    return start.at + timedelta(seconds=average_count_s(duration / MS_PER_S, half_life))


def decay_factor(dataset: Dataset) -> float:
    """Return Decay Factor (0054,1321); 0 where it is not there."""
    value = plain(dataset.get("DecayFactor"))
    return 0.0 if value == "" else number(value, "DecayFactor")


def check_decay_factor(
    fields: Fields, half_life: float, zone: timedelta | None, moment: datetime
) -> None:
    """Hold the scanner's factors against the decay since the time that was found.

    Makers count the decay within the frame in, or leave it out; 1 stands for none was written. A
    table that moves on and on has one acquisition time, from which the factors cannot be had.
    """
    waits: dict[object, set[float | None]] = {}
    for dataset in fields.slices:
        wait = milliseconds(dataset, "FrameReferenceTime")
        waits.setdefault(slice_acquired(dataset, fields, zone), set()).add(wait)
    if any(len(several) > 1 for several in waits.values()):
        return
    for dataset in fields.slices:
        factor = decay_factor(dataset)
        start = slice_acquired(dataset, fields, zone)
        duration = milliseconds(dataset, "ActualFrameDuration") or 0.0
        if factor in {0.0, 1.0} or start is None or duration <= 0:
            continue
        waited = (start.at - moment).total_seconds()
        average = average_count_s(duration / MS_PER_S, half_life)
        expected = [2.0 ** ((waited + inside) / half_life) for inside in (0.0, average)]
        if all(abs(factor / value - 1) > DECAY_FACTOR_TOLERANCE for value in expected):
            fields.contradictory(
                f"DecayFactor is {factor:g}, but the decay from {shown(moment)} to the slice's "
                f"acquisition makes it {expected[1]:.4g}; fix the times."
            )

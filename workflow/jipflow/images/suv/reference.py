"""The time that the voxels of a PET series are decay-corrected to.

The order is that of the IBSI recommendations for SUV (Vácha et al., "Comprehensive Manual for SUV
Computation", https://oncoray.github.io/suv_computation/suv.html) and of the vendor-neutral
pseudo-code of the QIBA FDG-PET/CT profile (SUV 1.2): the maker's private time; the series time,
where it is that of the first acquisition, or before it and nothing speaks against it; what
acquisition and frame reference times give; the first acquisition. Where two of them contradict each
other, the series is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from jipflow.images.suv.clock import moment_of, stamp_of
from jipflow.images.suv.fields import CREATORS, Fields
from jipflow.images.suv.frames import (
    DECAY_FACTOR_TOLERANCE,
    acquisitions,
    check_decay_factor,
    counted,
    decay_factor,
    frame_time,
    frame_time_of_maker,
    milliseconds,
    shown,
    tolerance,
)
from jipflow.notes import Notes
from jipflow.reasons import Decision

PRIVATE_TIMES = {"GE": (*CREATORS["GE"], 0x0D), "Siemens": (*CREATORS["Siemens"], 0x22)}
"""Group, private creator and element of the time that a maker's PET is corrected to: GE's scan date
and time, Siemens' decay correction date and time (their DICOM conformance statements)."""

SAME_SECOND = timedelta(seconds=1)
"""Series and acquisition time are one where they are less than this apart."""
OTHER_DAY = timedelta(hours=12)
"""Times of one scan that are farther apart have a wrong date."""


def corrected_to(
    fields: Fields, half_life: float, zone: timedelta | None, notes: Notes
) -> list[datetime]:
    """Return the time that each slice's voxels are those of.

    Args:
        fields: of the series.
        half_life: in seconds.
        zone: the scanner's offset from UTC.
        notes: gets a sentence that says which time it is, and why.

    Raises:
        CaseFault: no time can be had, or times contradict each other.
        ValueError: one cannot be read.
    """
    if not decay_corrected(fields):
        return _each_slice(fields, half_life, zone, notes)
    moment = _start(fields.whole, half_life, zone, notes)
    check_decay_factor(fields, half_life, zone, moment)
    return [moment] * len(fields.slices)


def decay_corrected(fields: Fields) -> bool:
    """Whether the scanner has corrected decay (PS3.3 C.8.9.1 and C.8.22.3).

    Raises:
        CaseFault: Decay Correction is none of its terms, or Corrected Image contradicts it.
    """
    corrected = "DECY" in fields.words("CorrectedImage")
    term, enhanced = fields.text("DecayCorrection"), fields.text("DecayCorrected")
    if not term and enhanced in {"YES", "NO"}:
        return enhanced == "YES"
    if term not in {"START", "ADMIN", "NONE"}:
        fields.missing(f"DecayCorrection is {term or 'missing'}; START, ADMIN or NONE is needed.")
    if term != "NONE" and not corrected:
        fields.unsupported(f"DecayCorrection is {term}, but CorrectedImage has no DECY; fix it.")
    if term == "NONE" and corrected:
        fields.contradictory("DecayCorrection is NONE, but CorrectedImage has DECY; fix it.")
    return term != "NONE"


def _start(fields: Fields, half_life: float, zone: timedelta | None, notes: Notes) -> datetime:
    """Return the one time that all slices are corrected to."""
    acquired = acquisitions(fields, zone, notes)
    stated = stamp_of(str(fields.value("DecayCorrectionDateTime")))
    if stated is not None:
        if stated.day is None or stated.clock is None:
            fields.missing("DecayCorrectionDateTime has no time of day; SUV needs it.")
        moment = stated.local(zone)
        return _noted(notes, Decision.DECAY_TO_STATED_TIME, moment, "DecayCorrectionDateTime")
    if fields.text("DecayCorrected") == "YES" and not fields.text("DecayCorrection"):
        fields.missing("DecayCorrectionDateTime is missing; SUV needs it.")
    if private := _private_time(fields, half_life, zone, acquired, notes):
        _check_private(fields, half_life, private, zone, acquired)
        name = f"the private scan time of {fields.scanner}"
        return _noted(notes, Decision.DECAY_TO_PRIVATE_TIME, private, name)
    series = _series_time(fields, zone, acquired, notes)
    return _of_public_times(fields, half_life, series, acquired, notes)


def _of_public_times(
    fields: Fields,
    half_life: float,
    series: datetime | None,
    acquired: Sequence[datetime] | None,
    notes: Notes,
) -> datetime:
    """Return the time by the series, acquisition and frame times."""
    if acquired is None:
        if series is None:
            fields.missing("neither series nor acquisition time is there; SUV needs one.")
        text = "SeriesTime; no acquisition time is there to compare it with"
        return _noted(notes, Decision.DECAY_TO_SERIES_TIME, series, text)
    first = min(acquired)
    if series is not None and abs(series - first) < SAME_SECOND:
        text = "SeriesTime, which is that of the first acquisition"
        return _noted(notes, Decision.DECAY_TO_SERIES_TIME, series, text)
    frame = frame_time_of_maker(fields, half_life, acquired)
    if series is not None and series < first:
        if frame is not None and abs(frame - series) > tolerance(half_life):
            fields.contradictory(
                f"SeriesTime is {shown(series)}, but acquisition and frame reference times give "
                f"{shown(frame)} as the start of the scan; fix the ones that are wrong."
            )
        text = "SeriesTime, which is before the first acquisition"
        return _noted(notes, Decision.DECAY_TO_SERIES_TIME, series, text)
    later = "SeriesTime is after the first acquisition" if series else "SeriesTime is not usable"
    if frame is not None:
        text = f"acquisition, frame reference time and frame duration, as {later}"
        return _noted(notes, Decision.DECAY_TO_FRAME_TIMES, frame, text)
    if any(milliseconds(d, "FrameReferenceTime") is not None for d in fields.slices):
        fields.contradictory(
            f"{later}, and FrameReferenceTime and ActualFrameDuration do not give the start of the "
            "scan either; export the series with the times of its acquisition."
        )
    text = f"the first acquisition, as {later}"
    return _noted(notes, Decision.DECAY_TO_FIRST_ACQUISITION, first, text)


def _noted(notes: Notes, decision: Decision, moment: datetime, why: str) -> datetime:
    notes.add(decision, f"Decay is corrected to {shown(moment)}, by {why}.")
    return moment


def _series_time(
    fields: Fields, zone: timedelta | None, acquired: Sequence[datetime] | None, notes: Notes
) -> datetime | None:
    """Return the series' time; None where it is missing, or a wrong date makes it useless."""
    for keyword in ("SeriesDate", "SeriesTime"):
        fields.value(keyword)
    moment = moment_of(fields.slices[0], "Series", fields, zone)
    if moment is None:
        return None
    if acquired is not None and abs(moment.at - min(acquired)) > OTHER_DAY:
        notes.add(
            Decision.SCAN_DATE_REPLACED,
            "SeriesDate and AcquisitionDate are not of one scan; SeriesTime is not used.",
        )
        return None
    return moment.at


def _private_time(
    fields: Fields,
    half_life: float,
    zone: timedelta | None,
    acquired: Sequence[datetime] | None,
    notes: Notes,
) -> datetime | None:
    """Return the maker's private scan time; None where there is none."""
    if fields.scanner not in PRIVATE_TIMES:
        return None
    stamp = stamp_of(fields.private(*PRIVATE_TIMES[fields.scanner]))
    if stamp is None or stamp.clock is None or stamp.day is None:
        return None
    moment = stamp.local(zone)
    if acquired is None or abs(moment - min(acquired)) <= OTHER_DAY:
        return _not_after(moment, acquired, half_life, fields)
    # Dates were changed in the public elements only, as anonymisation does: the clock is kept.
    moment = datetime.combine(min(acquired).date(), moment.time())
    if moment > min(acquired) + OTHER_DAY:
        moment -= timedelta(days=1)
    notes.add(
        Decision.SCAN_DATE_REPLACED,
        "The private scan time has another date than the acquisition; its clock is used.",
    )
    return _not_after(moment, acquired, half_life, fields)


def _not_after(
    moment: datetime, acquired: Sequence[datetime] | None, half_life: float, fields: Fields
) -> datetime:
    """Return the maker's private scan time, which is no later than the first acquisition."""
    if acquired is not None and moment > min(acquired) + tolerance(half_life):
        fields.contradictory(
            f"the private scan time of {fields.scanner} is {shown(moment)}, after the first "
            f"acquisition at {shown(min(acquired))}; fix the times."
        )
    return moment


def _check_private(
    fields: Fields,
    half_life: float,
    private: datetime,
    zone: timedelta | None,
    acquired: Sequence[datetime] | None,
) -> None:
    """Refuse a private scan time where the public times agree that it was another.

    A series that was made after the scan says nothing; one of a later frame has the frame times on
    the side of the private time.
    """
    series = _series_time(fields, zone, acquired, Notes())
    if series is None or acquired is None or series >= min(acquired) + SAME_SECOND:
        return
    ways = (True, False) if fields.scanner == "GE" else (False,)
    frames = [frame_time(fields, half_life, acquired, to_start=way) for way in ways]
    allowed = tolerance(half_life)
    if all(abs(time - private) > allowed for time in (series, *frames) if time is not None):
        fields.contradictory(
            f"the private scan time of {fields.scanner} is {shown(private)}, but SeriesTime "
            f"{shown(series)}, and frame times do not say otherwise; fix the times."
        )


def _each_slice(
    fields: Fields, half_life: float, zone: timedelta | None, notes: Notes
) -> list[datetime]:
    """Return the time of each slice's average count rate, where decay was not corrected."""
    if fields.value("DecayCorrectionDateTime") != "":
        fields.contradictory(
            "decay is not corrected, but DecayCorrectionDateTime is there; fix what is wrong."
        )
    factors = [decay_factor(dataset) for dataset in fields.slices]
    if any(factor and abs(factor - 1) > DECAY_FACTOR_TOLERANCE for factor in factors):
        fields.contradictory("decay is not corrected, but DecayFactor is not 1; fix what is wrong.")
    moments = [counted(dataset, fields, half_life, zone) for dataset in fields.slices]
    notes.add(
        Decision.DECAY_OF_EACH_SLICE,
        f"Decay is not corrected in the series; each slice's is, from {shown(min(moments))} to "
        f"{shown(max(moments))}, when its frame had its average count rate.",
    )
    return moments

"""When the radiopharmaceutical was injected."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time, timedelta

from jipflow.images.suv.clock import Stamp, stamp_of, time_of
from jipflow.images.suv.fields import Fields
from jipflow.images.suv.frames import slice_acquired, tolerance
from jipflow.notes import Notes
from jipflow.reasons import Decision

LONGEST_UPTAKE = 4.0
"""Half-lives between injection and scan: beyond, 6 % of the activity is left, and a date or a time
is wrong. F-18 is scanned up to 4 h after injection (2.2 half-lives), Cu-64 up to 48 h (3.8), Zr-89
up to 8 days (2.4)."""
USUAL_UPTAKE = (0.1, 2.0)
"""Half-lives outside of which an uptake is noted: less is a dynamic scan, or a time that was
entered twice; beyond 2 the IBSI recommendations doubt the date of the injection."""
CLOCK_ALONE_BELOW = 41400.0
"""Half-life in seconds (11.5 h) from which a clock without its date is not enough, as a day more
or less makes no absurd SUV; by the IBSI recommendations."""
OTHER_DATES = timedelta(days=2)
"""An injection this far from its scan has a date that was taken out or moved, not a wrong clock."""
LATEST_IN_SCAN = timedelta(hours=1)
"""How long after the start of a dynamic scan an injection may be, by the IBSI recommendations."""
DAY = timedelta(days=1)
QUARTER = timedelta(minutes=15)
"""Offsets from UTC are multiples of it."""


def uptake_s(
    fields: Fields,
    corrected_to: Sequence[datetime],
    half_life: float,
    zone: timedelta | None,
    notes: Notes,
) -> list[float]:
    """Return the seconds from the injection to what each slice is corrected to.

    Args:
        fields: of the series.
        corrected_to: local times of the scanner, one a slice.
        half_life: in seconds.
        zone: the scanner's offset from UTC.
        notes: gets a sentence that says which time was taken, and why.

    Raises:
        CaseFault: the injection's time is missing, contradicts itself or the scan's.
        ValueError: it cannot be read.
    """
    first = min(corrected_to)
    late = _latest_after(first, fields, zone)
    stamp = stamp_of(str(fields.tracer("RadiopharmaceuticalStartDateTime")))
    name = "RadiopharmaceuticalStartTime"
    clock = time_of(str(fields.tracer(name)), name, fields)
    if stamp is None or stamp.day is None:
        if clock is None:
            fields.missing("RadiopharmaceuticalStartDateTime and -StartTime are missing.")
        injected = _on_day_of(first, clock, late, fields, half_life, notes)
    else:
        injected = _stated(stamp, clock, zone, half_life, fields, notes)
        uptake = first - injected
        if abs(uptake) >= OTHER_DATES and not _possible(uptake, half_life, late):
            injected = _on_day_of(first, injected.time(), late, fields, half_life, notes)
    _check(first - injected, half_life, late, fields, notes)
    _check(max(corrected_to) - injected, half_life, late, fields, Notes())
    return [(moment - injected).total_seconds() for moment in corrected_to]


def _latest_after(first: datetime, fields: Fields, zone: timedelta | None) -> timedelta:
    """Return how long after the time that decay is corrected to the injection may have been.

    A dynamic scan (Series Type, PS3.3 C.8.9.1.1.1) begins before it; what is measured does not.
    """
    if "DYNAMIC" not in fields.words("SeriesType"):
        return timedelta(0)
    starts = [slice_acquired(dataset, fields, zone) for dataset in fields.slices]
    waits = [start.at - first for start in starts if start is not None]
    return min(max(min(waits, default=timedelta(0)), timedelta(0)), LATEST_IN_SCAN)


def _possible(uptake: timedelta, half_life: float, late: timedelta) -> bool:
    return -late <= uptake <= timedelta(seconds=LONGEST_UPTAKE * half_life)


def _check(
    uptake: timedelta, half_life: float, late: timedelta, fields: Fields, notes: Notes
) -> None:
    """Refuse an uptake time that no scan has, and note a long one."""
    if not _possible(uptake, half_life, late):
        when = "before" if uptake < timedelta(0) else "after"
        fields.implausible(
            f"the scan starts {abs(uptake)} {when} the injection, with a half-life of "
            f"{half_life:g} s; fix the dates and times, or the clocks."
        )
    least, most = (timedelta(seconds=count * half_life) for count in USUAL_UPTAKE)
    if uptake < timedelta(0):
        notes.add(
            Decision.UNUSUAL_UPTAKE,
            f"The injection was {-uptake} after the time that decay is corrected to, and before "
            "what is measured of the dynamic scan.",
        )
    elif least <= uptake <= most:
        notes.sentences.append(f"The injection was {uptake} before.")
    else:
        notes.add(
            Decision.UNUSUAL_UPTAKE,
            f"The injection was {uptake} before, which is less than a tenth of a half-life or more "
            "than two.",
        )


def _on_day_of(
    scan: datetime,
    clock: time,
    late: timedelta,
    fields: Fields,
    half_life: float,
    notes: Notes,
) -> datetime:
    """Return the last time before a scan that a clock has shown, or no later in it than it may be.

    Raises:
        CaseFault: the nuclide lives so long that the day matters.
    """
    if half_life >= CLOCK_ALONE_BELOW:
        fields.missing(
            "the date of the injection is missing or not the scan's, and with a half-life of "
            f"{half_life / 3600:.1f} h its clock is not enough; fix "
            "RadiopharmaceuticalStartDateTime."
        )
    moment = datetime.combine(scan.date(), clock)
    notes.add(
        Decision.INJECTION_DATE_FROM_SCAN,
        "The injection's date is missing or not that of the scan; its clock is taken to have "
        "last shown that time.",
    )
    shown = (moment + DAY, moment, moment - DAY)
    return next(each for each in shown if each <= scan + late)


def _stated(
    stamp: Stamp,
    clock: time | None,
    zone: timedelta | None,
    half_life: float,
    fields: Fields,
    notes: Notes,
) -> datetime:
    """Return the injection by its date and time, held against its start time.

    Args:
        stamp: Radiopharmaceutical Start DateTime (0018,1078), with a date.
        clock: Radiopharmaceutical Start Time (0018,1072), local time of the scanner.
        zone: the scanner's offset from UTC.
        half_life: in seconds.
        fields: of the series.
        notes: gets a sentence where the start time decides.
    """
    assert stamp.day is not None
    if stamp.clock is None:
        return _completed(stamp, clock, fields, notes)
    moment = stamp.local(zone)
    if clock is None:
        return _unconfirmed(stamp, moment, zone, fields, notes)
    apart = _shift(moment, clock)
    if abs(apart) <= tolerance(half_life):
        return moment
    in_other_zone = stamp.offset is not None and zone is None
    if in_other_zone and abs(apart - QUARTER * round(apart / QUARTER)) <= tolerance(half_life):
        notes.add(
            Decision.INJECTION_CLOCK_FROM_START_TIME,
            "RadiopharmaceuticalStartDateTime is in another zone than "
            "RadiopharmaceuticalStartTime, which is taken as the scanner's.",
        )
        return moment + apart
    if stamp.clock == time(0) and stamp.offset is None:
        return _completed(stamp, clock, fields, notes)
    fields.contradictory(
        f"RadiopharmaceuticalStartDateTime gives {moment.time()} as the injection's time, "
        f"RadiopharmaceuticalStartTime {clock}; fix the one that is wrong."
    )


def _shift(moment: datetime, clock: time) -> timedelta:
    """Return what brings a time to when the clock shows another, the shorter way."""
    shift = (datetime.combine(moment.date(), clock) - moment) % DAY
    return shift if shift <= DAY / 2 else shift - DAY


def _completed(stamp: Stamp, clock: time | None, fields: Fields, notes: Notes) -> datetime:
    """Return the injection where its date and time has no clock of its own."""
    assert stamp.day is not None
    if clock is None:
        fields.missing(
            "RadiopharmaceuticalStartDateTime has no minute and RadiopharmaceuticalStartTime is "
            "missing; SUV needs the injection's time."
        )
    if stamp.hour not in {None, clock.hour}:
        fields.contradictory(
            f"RadiopharmaceuticalStartDateTime gives the hour {stamp.hour} for the injection, "
            f"RadiopharmaceuticalStartTime {clock}; fix the one that is wrong."
        )
    notes.add(
        Decision.INJECTION_CLOCK_FROM_START_TIME,
        "RadiopharmaceuticalStartDateTime has no time of day; that of RadiopharmaceuticalStartTime "
        "is taken.",
    )
    return datetime.combine(stamp.day, clock)


def _unconfirmed(
    stamp: Stamp, moment: datetime, zone: timedelta | None, fields: Fields, notes: Notes
) -> datetime:
    """Return the injection where no start time stands beside its date and time."""
    if stamp.offset is not None and zone is None:
        if stamp.offset == timedelta(0):
            fields.missing(
                "RadiopharmaceuticalStartDateTime is in UTC, and TimezoneOffsetFromUTC, which "
                "would say what the scanner's times are in, is missing."
            )
        notes.add(
            Decision.INJECTION_ZONE_ASSUMED,
            "RadiopharmaceuticalStartDateTime has an offset from UTC and the scan has none; it is "
            "taken to be the scanner's.",
        )
    return moment

"""Dates and times of a header as local times of its scanner."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone

from pydicom.dataset import Dataset
from pydicom.valuerep import DA, DT, TM

from jipflow.images.suv.fields import Fields, plain

COLONS = re.compile(r"(\d\d):(\d\d)(?::(\d\d(?:\.\d+)?))?")
"""A time as ACR-NEMA wrote it, which PS3.5 6.2 asks readers to understand."""
DIGITS = re.compile(r"\d*")
OFFSET = re.compile(r"([+-])(\d\d)(\d\d)")
"""Offset from UTC: the end of a DT (PS3.5 6.2), or Timezone Offset From UTC (0008,0201)."""

TO_THE_DAY, TO_THE_MINUTE = len("YYYYMMDD"), len("YYYYMMDDHHMM")
"""Digits of a DT: with fewer than the latter it says no time that decay can be reckoned from."""


@dataclass(frozen=True)
class Stamp:
    """A date and time (VR DT) as far as it was written.

    Attributes:
        day: its date; None where not even that is whole.
        clock: time of day; None where it is not written to the minute.
        hour: the hour, where that is all there is of the time of day.
        offset: from UTC; None where it states none.
    """

    day: date | None
    clock: time | None
    hour: int | None
    offset: timedelta | None

    def local(self, zone: timedelta | None) -> datetime:
        """Return it as a local time of the scanner.

        Args:
            zone: the scanner's offset from UTC; None where that is not known, which leaves the
                clock as it was written.
        """
        assert self.day is not None
        assert self.clock is not None
        written = datetime.combine(self.day, self.clock)
        if zone is None or self.offset is None:
            return written
        return written + (zone - self.offset)


def stamp_of(text: str) -> Stamp | None:
    """Return a date and time (VR DT); None where nothing is written.

    Raises:
        ValueError: it cannot be read.
    """
    if not text:
        return None
    [digits] = DIGITS.findall(text)[:1]
    parsed = DT(text)
    if parsed is None:
        raise ValueError(f"{text!r} is no date and time")
    # pydicom fills in what is left out; the digits say what was written.
    offset = parsed.utcoffset()
    hour = parsed.hour if TO_THE_DAY < len(digits) < TO_THE_MINUTE else None
    return Stamp(
        day=parsed.date() if len(digits) >= TO_THE_DAY else None,
        clock=parsed.time().replace(tzinfo=None) if len(digits) >= TO_THE_MINUTE else None,
        hour=hour,
        offset=offset,
    )


def time_of(text: str, name: str, fields: Fields) -> time | None:
    """Return a time of day (VR TM); None where nothing is written.

    Args:
        text: the value.
        name: of its field, for messages.
        fields: of the series.

    Raises:
        CaseFault: it says the hour only.
        ValueError: it cannot be read.
    """
    if not text:
        return None
    if old := COLONS.fullmatch(text):
        text = "".join(part for part in old.groups() if part)
    if len(text) < len("HHMM"):
        fields.missing(f"{name} is {text!r}, to the hour only; SUV needs the minute.")
    parsed = TM(text)
    if parsed is None:
        raise ValueError(f"{text!r} is no time")
    return time(parsed.hour, parsed.minute, parsed.second, parsed.microsecond)


def offset_of(text: str) -> timedelta | None:
    """Return an offset from UTC such as ``+0100``; None where nothing is written.

    Raises:
        ValueError: it cannot be read.
    """
    if not text:
        return None
    match = OFFSET.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no offset from UTC")
    hours = timedelta(hours=int(match[2]), minutes=int(match[3]))
    offset = -hours if match[1] == "-" else hours
    timezone(offset)  # refuses a day and more
    return offset


def zone_of(fields: Fields) -> timedelta | None:
    """Return the offset from UTC of the times of the scan that state none; None if not known.

    It is Timezone Offset From UTC (0008,0201, PS3.3 C.12.1.1.8), or that of a date and time of the
    scan itself.

    Raises:
        CaseFault: the slices differ.
        ValueError: it cannot be read.
    """
    stated = offset_of(str(fields.value("TimezoneOffsetFromUTC")))
    if stated is not None:
        return stated
    for keyword in ("DecayCorrectionDateTime", "FrameReferenceDateTime", "AcquisitionDateTime"):
        stamps = [stamp_of(str(plain(d.get(keyword)))) for d in fields.slices]
        offsets = {stamp.offset for stamp in stamps if stamp and stamp.offset is not None}
        if offsets:
            return min(offsets)
    return None


def moment_of(dataset: Dataset, what: str, fields: Fields, zone: timedelta | None) -> Moment | None:
    """Return when something of a slice was; None where no clock of it is written.

    Args:
        dataset: header of the slice.
        what: ``Series`` or ``Acquisition``.
        fields: of the series.
        zone: the scanner's offset from UTC.

    Raises:
        CaseFault: the time is to the hour only.
        ValueError: a date or time cannot be read.
    """
    clock = time_of(str(plain(dataset.get(f"{what}Time"))), f"{what}Time", fields)
    stamp = stamp_of(str(plain(dataset.get(f"{what}DateTime"))))
    if clock is None:
        if stamp is None or stamp.day is None or stamp.clock is None:
            return None
        return Moment(stamp.local(zone), dated=True)
    for keyword in (f"{what}Date", "SeriesDate", "AcquisitionDate", "StudyDate", "ContentDate"):
        day = DA(str(plain(dataset.get(keyword))))
        if day is not None:
            return Moment(datetime.combine(day, clock), dated=keyword == f"{what}Date")
    return Moment(datetime.combine(NO_DAY, clock), dated=False)


@dataclass(frozen=True)
class Moment:
    """When something was, as a local time of the scanner.

    Attributes:
        at: date and time.
        dated: whether the date is its own, and not that of something else.
    """

    at: datetime
    dated: bool


NO_DAY = date(1900, 1, 1)
"""Stands for the day of a scan whose dates were all taken out."""

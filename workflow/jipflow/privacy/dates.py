"""Dates moved by a number of days that belongs to the patient; times stay."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection
from datetime import date, timedelta

MOST_DAYS = 3653
"""Dates go back by 1 to as many days, about ten years."""

TIME = re.compile(r"(?:[01]\d|2[0-3])(?:[0-5]\d(?:(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?")
ZONE = re.compile(r"[+-](?:0\d|1[0-4])[0-5]\d")
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)")
_OLD_DATE = re.compile(r"(\d{4})\.(\d\d)\.(\d\d)")
_DATE_TIME = re.compile(rf"(\d{{4}})(?:(\d\d)(?:(\d\d)({TIME.pattern})?)?)?({ZONE.pattern})?\Z")
_OLD_TIME = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?")


def offset_of(key: bytes, patient: str) -> int:
    """Return by how many days the dates of a patient go back, from 1 to `MOST_DAYS`.

    Args:
        key: the site's secret.
        patient: what stands for the patient.
    """
    message = b"jipflow: dates of a patient\0" + patient.encode()
    digest = hmac.new(key, message, hashlib.sha256).digest()
    return 1 + int.from_bytes(digest[:8], "big") % MOST_DAYS


def moved_date(text: str, days: int) -> str | None:
    """Return a DA (PS3.5 6.2) moved back; None where it is no date.

    Args:
        text: of the value; the form of ACR-NEMA, with dots, is taken too.
        days: by how many.
    """
    text = text.strip(" \0")
    found = _DATE.fullmatch(text) or _OLD_DATE.fullmatch(text)
    if not found:
        return None
    moved = _moved(int(found[1]), int(found[2]), int(found[3]), days)
    return _compact(moved) if moved else None


def moved_date_time(text: str, days: int) -> str | None:
    """Return a DT (PS3.5 6.2) moved back, as precise as it was; None where it is none."""
    found = _DATE_TIME.fullmatch(text.strip(" \0"))
    if not found:
        return None
    year, month, day, time, zone = found.groups()
    moved = _moved(int(year), int(month or 1), int(day or 1), days)
    if moved is None:
        return None
    digits = 4 if month is None else 6 if day is None else 8
    return _compact(moved)[:digits] + (time or "") + (zone or "")


def kept_time(text: str) -> str | None:
    """Return a TM (PS3.5 6.2) as it stands; None where it is no time."""
    text = text.strip(" \0")
    return text if TIME.fullmatch(text) or _OLD_TIME.fullmatch(text) else None


def _compact(day: date) -> str:
    return f"{day.year:04}{day.month:02}{day.day:02}"


def _moved(year: int, month: int, day: int, days: int) -> date | None:
    try:
        return date(year, month, day) - timedelta(days=days)
    except (ValueError, OverflowError):
        return None


_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
_PADDED = r"(?:0[1-9]|[12]\d|3[01])"
_NAMES = (
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|j[aä]n|m[aä]r|mrz|mai|okt|dez|f[eé]v|avr"
    r"|jui|ao[uû]|d[eé]c|ene|abr|ago|set|dic)[^\W\d_]*\.?"
)
COMPACT = re.compile(
    rf"(?<!\d)({_YEAR})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])({TIME.pattern})?(?!\d)"
)
_YEAR_FIRST = re.compile(rf"(?<!\d)({_YEAR})([-/._])({_MONTH})\2({_DAY})(?!\d)")
_DAY_FIRST = re.compile(rf"(?<!\d)({_DAY})([-._])({_MONTH})\2({_YEAR})(?!\d)")
_UNSURE = re.compile(
    rf"(?<!\d)\d{{1,2}}\s?([-/.])\s?\d{{1,2}}\s?\1\s?{_YEAR}(?!\d)"
    rf"|(?<!\d)(?:{_DAY}[. -]{{0,2}}{_NAMES}[ ,.-]{{0,2}}(?:{_YEAR}|\d\d)(?!\d)"
    rf"|(?<![^\W\d_]){_NAMES} ?{_DAY}(?:st|nd|rd|th)?,? ?{_YEAR}(?!\d)"
    rf"|(?<![^\W\d_]){_NAMES}[ -]?{_YEAR}(?!\d))"
    rf"|(?<!\d)(?:{_YEAR} {_PADDED} {_PADDED}|{_PADDED} {_PADDED} {_YEAR})(?!\d)"
    rf"|(?<![\d.]){_PADDED}\.(?:0[1-9]|1[0-2])\.(?!\d)"
    rf"|(?<![^\W_]){_DAY}[.-]?(?:jan|feb|mar|mrz|apr|ma[yi]|ju[nl]|aug|sep|o[ck]t|nov|de[cz])"
    r"(?![^\W_])",
    re.IGNORECASE,
)


_SHORT = re.compile(
    r"(?<!\d)(?=(?P<all>(\d{1,2})\s?(?P<mark>[-/.])\s?(\d{1,2})\s?(?P=mark)\s?(\d\d))(?!\d))"
)
"""Three numbers that may be a date whose year has two digits, also one within another."""
_BEFORE = re.compile(
    r"(?P<version>(?<![^\W\d_])(?:v|ver|version|vers|rev|release)[ .]?)?(?P<numbers>(?:\d+\.)*)\Z",
    re.IGNORECASE,
)
_BEHIND = re.compile(r"(?:\.\d+)*")
"""What makes three numbers with dots between them a part of a version."""


def dates_in(
    text: str,
    days: int,
    *,
    compact: bool = True,
    known: Collection[str] = (),
    version: bool = False,
) -> list[tuple[int, int, str]]:
    """Return the places of the dates of a text, and what stands there instead.

    Dates of eight digits, year first, or day first with dots, dashes or underscores are moved back.
    Others, such as 5/3/20, May 2020, 29.02. or 29Feb, are taken out: they can be read in several
    ways, or lack a year. Numbers of which no order gives a day, such as 3.41.59, are no date. More
    than three with dots between them, such as 2.1.10.4, and those behind a ``v`` are a version,
    unless they are a day of the patient, or have two digits each, as a date and a time have.

    Args:
        text: any.
        days: by how many they are moved back.
        compact: whether eight digits without separators may be a date.
        known: days of the patient, eight digits.
        version: whether the text is a version as a whole, in which three numbers are a date only if
            they are a day of the patient, or have two digits each, of which one is 0.

    Returns:
        Begin, end and replacement of each, in order, none within another.
    """
    found: dict[tuple[int, int], str] = {}
    for pattern, order in ((COMPACT, (1, 2, 3)), (_YEAR_FIRST, (1, 3, 4)), (_DAY_FIRST, (4, 3, 1))):
        if pattern is COMPACT and not compact:
            continue
        for match in pattern.finditer(text):
            year, month, day = (int(match[group]) for group in order)
            moved = _moved(year, month, day, days)
            new = "" if moved is None else _written(match, pattern, moved)
            _add(found, match.span(), new)
    for match in _UNSURE.finditer(text):
        _add(found, match.span(), "")
    for match in _SHORT.finditer(text):
        if _is_short_date(text, match, known, version):
            _add(found, match.span("all"), "")
    return [(begin, end, new) for (begin, end), new in sorted(found.items())]


def _is_short_date(text: str, match: re.Match[str], known: Collection[str], version: bool) -> bool:
    """Return whether three numbers may be a day, a month and a year of two digits."""
    numbers = match.group(2, 4, 5)
    readings = _readings(*numbers)
    if not readings.isdisjoint(known):
        return True
    padded = bool(readings) and all(len(number) == 2 for number in numbers)
    if version:
        return padded and any(number.startswith("0") for number in numbers)
    if padded or not readings or match["mark"] != ".":
        return bool(readings)
    begin, end = match.span("all")
    before, behind = _BEFORE.search(text[:begin]), _BEHIND.match(text, end)
    assert before
    assert behind
    return not before["version"] and "." not in before["numbers"] + behind[0]


def _readings(first: str, second: str, third: str) -> set[str]:
    """Return the days, eight digits, that three numbers of two digits may mean.

    A day or a month may be 00 where it is not known.
    """
    a, b, c = int(first), int(second), int(third)
    orders = [(c, b, a), (c, a, b)]
    if len(first) == len(second) == 2:
        orders.append((a, b, c))
    return {
        f"{century + year}{month:02}{day:02}"
        for year, month, day in orders
        for century in (1900, 2000)
        if month <= 12 and day <= 31 and ((month and day) or len(first) == len(second) == 2)
    }


def _written(match: re.Match[str], pattern: re.Pattern[str], moved: date) -> str:
    """Return a moved date in the form of the one that was found."""
    if pattern is COMPACT:
        return _compact(moved) + (match[4] or "")
    year, month, day = f"{moved.year:04}", f"{moved.month:02}", f"{moved.day:02}"
    mark = match[2]
    return mark.join((year, month, day) if pattern is _YEAR_FIRST else (day, month, year))


def _add(found: dict[tuple[int, int], str], span: tuple[int, int], new: str) -> None:
    if not any(span[0] < end and begin < span[1] for begin, end in found):
        found[span] = new

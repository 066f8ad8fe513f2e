"""The value of a clinical variable in a case, from the records of its patient."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal

from jipflow.clinical.records import Record
from jipflow.reasons import Gap
from jipflow.settings.clinical import ClinicalVariable, Mapped

NUMBER = re.compile(r"[+-]?(\d+([.]\d*)?|[.]\d+)([eE][+-]?\d{1,3})?")
DIGIT, LETTER = re.compile(r"\d"), re.compile(r"[^\W\d_]")
LONGEST = 40
"""Characters of a value that a message repeats."""


_DISTANCE: dict[str, Callable[[int], int]] = {
    "nearest": abs,
    "first": lambda days: days,
    "last": lambda days: -days,
}
"""By `choose`, what is least of the record that counts, from its days after the study."""


class NoValue(Exception):
    """Raised where a variable has no value in a case.

    Args:
        reason: the stable code.
        message: a sentence for the site's people; it holds no date.
    """

    def __init__(self, reason: Gap, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def value_of(
    variable: ClinicalVariable,
    mapped: Mapped,
    records: Sequence[Record],
    study: date | None,
    decimal: str = ".",
) -> float | str:
    """Return the value of a variable.

    Args:
        variable: of the protocol.
        mapped: of the site's map.
        records: of the patient for the variable.
        study: the study date; None where the case has none, or several.
        decimal: what stands before the decimals.

    Returns:
        The value of a category; else a number: as it is, 0 or 1 of an event, or days from the study
        date.

    Raises:
        NoValue: there is none, with the reason.
    """
    if not records:
        raise NoValue(Gap.NO_RECORD, "the source has no record of the patient.")
    if any(record.broken for record in records):
        raise NoValue(
            Gap.ROW_UNREADABLE, "a row has more or fewer cells than the first line; fix the file."
        )
    filled = [record for record in records if record.value or variable.type == "days"]
    if not filled:
        raise NoValue(Gap.VALUE_MISSING, f"{len(records)} records have no value.")
    if variable.needs_date:
        filled = _chosen(variable, filled, study)
    values = {_value(variable, mapped, record, study, decimal) for record in filled}
    if len(values) > 1:
        raise NoValue(
            Gap.AMBIGUOUS,
            f"{len(values)} values differ and none comes first; give the variable `choose`, or "
            "fix the records.",
        )
    return values.pop()


def _chosen(
    variable: ClinicalVariable, records: Sequence[Record], study: date | None
) -> list[Record]:
    """Return the records that count: one, or several of the same distance from the study."""
    if study is None:
        raise NoValue(Gap.NO_STUDY_DATE, "the case has no study date that can be read, or several.")
    if any(record.date is None for record in records):
        raise NoValue(Gap.DATE_UNREADABLE, "a record has no date, or none that can be read.")
    distant = [((record.date - study).days, record) for record in records if record.date]
    window = variable.window
    if window is not None:
        within = [each for each in distant if -window.before <= each[0] <= window.after]
        if not within:
            nearest = min((days for days, _ in distant), key=abs)
            raise NoValue(
                Gap.OUTSIDE_WINDOW,
                f"of {len(distant)} records the nearest is {_days(nearest)}, outside the window of "
                f"{window.before} days before to {window.after} after.",
            )
        distant = within
    if variable.choose is None:
        return [record for _, record in distant]
    distance = _DISTANCE[variable.choose]
    best = min(distance(days) for days, _ in distant)
    return [record for days, record in distant if distance(days) == best]


def _days(days: int) -> str:
    return f"{abs(days)} days {'before' if days < 0 else 'after'} the study"


def _value(
    variable: ClinicalVariable, mapped: Mapped, record: Record, study: date | None, decimal: str
) -> float | str:
    if variable.type == "days":
        assert record.date is not None
        assert study is not None
        return _in_range(variable, float((record.date - study).days))
    text = (mapped.codes or {}).get(record.value, record.value)
    if variable.values is not None and text not in variable.values:
        raise NoValue(
            Gap.VALUE_NOT_ALLOWED,
            f"{_form(text)} is none of {', '.join(variable.values)}; add it to the map's codes, "
            "or fix the record.",
        )
    if variable.type == "category":
        return text
    number = _number(text, decimal)
    if variable.type == "event":
        if number not in (0, 1):
            raise NoValue(Gap.VALUE_NOT_ALLOWED, f"{_form(text)} is neither 0 nor 1.")
        return number
    factor = _factor(variable, mapped, record)
    return _in_range(variable, number if factor == 1 else _times(text, decimal, factor))


def _written(text: str, decimal: str) -> str:
    return text.replace(",", ".") if decimal == "," and "." not in text else text


def _number(text: str, decimal: str) -> float:
    written = _written(text, decimal)
    if (decimal == "," and "." in text) or not NUMBER.fullmatch(written):
        raise NoValue(Gap.VALUE_UNREADABLE, f"{_form(text)} is no number.")
    number = float(written)
    if not math.isfinite(number):
        raise NoValue(Gap.OUT_OF_RANGE, f"{_form(text)} is too large for a number.")
    return number


def _times(text: str, decimal: str, factor: float) -> float:
    """Return a number times a factor, both as they are written, so that 300 g are 0.3 kg."""
    return float(Decimal(_written(text, decimal)) * Decimal(repr(factor)))


def _factor(variable: ClinicalVariable, mapped: Mapped, record: Record) -> float:
    """Return what a number is multiplied by to be in the protocol's unit."""
    if variable.unit is None:
        return 1.0
    unit = record.unit or mapped.unit or ""
    if unit == variable.unit:
        return 1.0
    if unit not in (mapped.units or {}):
        raise NoValue(
            Gap.UNIT_DIFFERS,
            f"the number is in {_short(unit) if unit else 'no unit'}, the protocol asks for "
            f"{variable.unit}; add it to the map's units with its factor.",
        )
    return float((mapped.units or {})[unit])


def _in_range(variable: ClinicalVariable, number: float) -> float:
    low, high = variable.range or (-math.inf, math.inf)
    if not (low <= number <= high and math.isfinite(number)):
        side = "below" if number < low else "above"
        raise NoValue(Gap.OUT_OF_RANGE, f"the number is {side} the range of {low:g} to {high:g}.")
    return number


def _form(text: str) -> str:
    """Return how a value is written, without what it says: it may be a name, a date, anything."""
    return "a value written as " + _short(LETTER.sub("a", DIGIT.sub("9", text)))


def _short(text: str) -> str:
    return repr(text if len(text) <= LONGEST else text[:LONGEST] + "…")

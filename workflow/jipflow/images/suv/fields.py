"""Header fields of a PET series that SUV needs: each has one value for all slices, or a fault."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from jipflow.reasons import CaseFault, Reason

MAKERS = {
    "GE": re.compile(r"^(GE|GEMS|GEHC)\b|GENERAL ELECTRIC"),
    "Siemens": re.compile(r"SIEMENS|\bCPS\b|\bCTI\b"),
    "Philips": re.compile(r"PHILIPS"),
}
"""Manufacturer (0008,0070) as the makers write it, in capitals; CPS and CTI built Siemens' PET."""
CREATORS = {"GE": (0x0009, "GEMS_PETD_01"), "Siemens": (0x0071, "SIEMENS MED PT")}
"""Group and private creator of a maker's block that has the time its PET is corrected to."""


PHILIPS = "Philips PET Private Group"
"""Private creator of Philips' factors, in the block of group 7053 that names it (PS3.5 7.8.1)."""
PHILIPS_GROUP, PHILIPS_SUV_FACTOR, PHILIPS_ACTIVITY_FACTOR = 0x7053, 0x00, 0x09
"""Group and elements of the factors from counts to SUVbw in g/ml, and to activity in Bq/ml."""

SCALING = (
    *("Units", "SUVType", "PatientWeight", "PatientSize", "PatientSex", "DecayCorrection"),
    *("DecayCorrectionDateTime", "SeriesDate", "SeriesTime"),
)
OF_TRACER = (
    *("RadionuclideTotalDose", "RadionuclideHalfLife", "RadiopharmaceuticalStartTime"),
    "RadiopharmaceuticalStartDateTime",
)
"""What decides on SUV beside the time of the image, in a header and in that of its tracer."""

MOMENT = re.compile(r"([\d:]+)(?:\.\d*)?([+-]\d{4})?")
"""A date, time or both (PS3.5 6.2), or a time with the colons of ACR-NEMA: its digits, a fraction
of a second, and its offset from UTC."""

ROUNDED = 0.005
"""Largest relative difference of numbers that an export has rounded."""


@dataclass(frozen=True)
class Fields:
    """The headers of a PET series.

    Attributes:
        series: its name, for messages.
        slices: the header of each slice.
        scan: the header of each slice of all volumes of the series; empty where it is one.
    """

    series: str
    slices: Sequence[Dataset]
    scan: Sequence[Dataset] = ()

    @property
    def whole(self) -> Fields:
        """The headers of all volumes of the series, for what began with the first of them."""
        return Fields(self.series, self.scan or self.slices)

    def missing(self, text: str) -> NoReturn:
        """Refuse the series because a field is not there, or is not above 0.

        Raises:
            CaseFault: always.
        """
        raise CaseFault(Reason.MISSING_SUV_FIELD, f"{self.series}: {text}")

    def contradictory(self, text: str) -> NoReturn:
        """Refuse the series because fields do not go together.

        Raises:
            CaseFault: always.
        """
        raise CaseFault(Reason.CONTRADICTORY_SUV_FIELDS, f"{self.series}: {text}")

    def implausible(self, text: str) -> NoReturn:
        """Refuse the series because of a value that no scan of a person has.

        Raises:
            CaseFault: always.
        """
        raise CaseFault(Reason.IMPLAUSIBLE_SUV_FIELD, f"{self.series}: {text}")

    def unsupported(self, text: str) -> NoReturn:
        """Refuse the series because its values cannot be turned into SUV.

        Raises:
            CaseFault: always.
        """
        raise CaseFault(Reason.UNSUPPORTED_UNITS, f"{self.series}: {text}")

    def one(self, name: str, values: Sequence[Any]) -> Any:
        """Return the value that all slices share.

        Args:
            name: of the field, for the message.
            values: of the slices.

        Raises:
            CaseFault: the slices differ.
        """
        if len(set(values)) != 1:
            shown = ", ".join(sorted({str(value) or "nothing" for value in values}))
            self.contradictory(
                f"its slices differ in {name} ({shown}), so that one of them is wrong; export the "
                "series again, or take out what is no part of it."
            )
        return values[0]

    def value(self, keyword: str) -> Any:
        """Return a field's value, which all slices share; an empty text where it is not there.

        Raises:
            CaseFault: the slices differ.
        """
        return self.one(keyword, [plain(dataset.get(keyword)) for dataset in self.slices])

    def text(self, keyword: str) -> str:
        """Return a field that is one word, in capitals."""
        return str(self.value(keyword)).upper()

    def words(self, keyword: str) -> set[str]:
        """Return a field of several words, in capitals."""
        value = self.value(keyword)
        listed = value if isinstance(value, tuple) else (value,)
        return {str(word).upper() for word in listed} - {""}

    def positive(self, keyword: str, *, tracer: bool = False) -> float:
        """Return a field that is a number above 0.

        Args:
            keyword: of the field.
            tracer: whether it stands in the Radiopharmaceutical Information Sequence.

        Raises:
            CaseFault: it is missing, is not above 0, or the slices differ.
        """
        value = self.tracer(keyword) if tracer else self.value(keyword)
        if value == "" or not 0 < number(value, keyword) < math.inf:
            self.missing(f"{keyword} is {value if value != '' else 'missing'}; SUV needs it.")
        return float(value)

    def tracer(self, keyword: str) -> Any:
        """Return a field of the only radiopharmaceutical, as `value` does of the series.

        Raises:
            CaseFault: there is none, or several, or the slices differ.
        """
        return self.one(keyword, [plain(item.get(keyword)) for item in self.tracers()])

    def tracers(self) -> Iterator[Dataset]:
        """Yield the radiopharmaceutical of each slice (PS3.3 C.8.9.2).

        Raises:
            CaseFault: a slice has none or several.
        """
        for dataset in self.slices:
            items = dataset.get("RadiopharmaceuticalInformationSequence") or []
            if len(items) != 1:
                self.missing(f"has {len(items)} radiopharmaceuticals where one is needed.")
            yield items[0]

    @property
    def maker(self) -> str:
        """``GE``, ``Siemens`` or ``Philips``; empty for any other manufacturer."""
        name = self.text("Manufacturer")
        return next((maker for maker, pattern in MAKERS.items() if pattern.search(name)), "")

    @property
    def scanner(self) -> str:
        """The `maker`, or where Manufacturer is empty the one whose private block is there.

        De-identification takes the name out and may leave the times.
        """
        if self.text("Manufacturer"):
            return self.maker
        return next(
            (
                maker
                for maker, block in CREATORS.items()
                if all(_has_block(dataset, *block) for dataset in self.slices)
            ),
            "",
        )

    def private(self, group: int, creator: str, element: int) -> str:
        """Return a private element as text, which all slices share; empty where it is not there.

        Args:
            group: of the element.
            creator: whose block of the group it is in, wherever that lies (PS3.5 7.8.1).
            element: its last two digits.

        Raises:
            CaseFault: the slices differ.
        """
        name = f"({group:04X},xx{element:02X}) of {creator}"
        return str(self.one(name, [_private(d, group, creator, element) for d in self.slices]))


def differing_field(one: Dataset, other: Dataset) -> str:
    """Name a field by which two headers may give the same pixels another SUV; empty for none.

    What one of them lacks, an export may have left out; times may have lost their fractions.
    """
    pairs = [(name, one.get(name), other.get(name)) for name in SCALING]
    tracers = [
        (header.get("RadiopharmaceuticalInformationSequence") or [Dataset()])[0]
        for header in (one, other)
    ]
    pairs += [(name, *(tracer.get(name) for tracer in tracers)) for name in OF_TRACER]
    for element in (PHILIPS_SUV_FACTOR, PHILIPS_ACTIVITY_FACTOR):
        own, others = (_private(d, PHILIPS_GROUP, PHILIPS, element) for d in (one, other))
        pairs.append((f"(7053,xx{element:02X})", own, others))
    for name, *values in pairs:
        first, second = map(plain, values)
        alike = _same_second if name.endswith(("Date", "Time")) else _same_value
        if "" not in (first, second) and not alike(first, second):
            return f"{name} ({first}, {second})"
    return ""


def _same_second(first: Any, second: Any) -> bool:
    """Return whether dates or times are the same but for a fraction of a second.

    An offset from UTC that one of them lacks may have been left out.
    """
    (one, zone), (other, another) = (_to_the_second(str(value)) for value in (first, second))
    return one == other and (zone == another or "" in (zone, another))


def _to_the_second(text: str) -> tuple[str, str]:
    """Return the digits of a date or time without fractions, and its offset from UTC."""
    found = MOMENT.fullmatch(text.strip())
    if found is None:
        return text, ""
    digits = found[1].replace(":", "")
    full = 6 if len(digits) < 8 else 14
    return digits if len(digits) == 8 else digits.ljust(full, "0"), found[2] or ""


def _same_value(first: Any, second: Any) -> bool:
    """Return whether numbers are the same but for rounding, or words but for their case."""
    try:
        one, other = float(first), float(second)
    except (ValueError, TypeError):
        return bool(str(first).upper() == str(second).upper())
    return abs(one - other) <= ROUNDED * max(abs(one), abs(other))


def plain(value: Any) -> Any:
    """Return an element's value as one that can be compared: a number, a text or a tuple."""
    if value is None:
        return ""
    if isinstance(value, MultiValue | list | tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, int | float):
        # No number equals itself but one that is none.
        return float(value) if value == value else "nan"
    return str(value).strip()


def number(value: Any, name: str) -> float:
    """Return an element's value, as `plain` gives it, as a number.

    Args:
        value: the value.
        name: of its field, for the message.

    Raises:
        ValueError: it is none, or several.
    """
    if isinstance(value, tuple):
        raise ValueError(f"{name} has {len(value)} values")
    return float(value)


def _has_block(dataset: Dataset, group: int, creator: str) -> bool:
    try:
        dataset.private_block(group, creator)
    except KeyError:
        return False
    return True


def _private(dataset: Dataset, group: int, creator: str, element: int) -> str:
    try:
        value = dataset.private_block(group, creator)[element].value
    except KeyError:
        return ""
    if isinstance(value, bytes):
        # A reader that does not know the element leaves it as bytes (VR UN).
        value = value.decode("ascii", "replace").strip("\0")
    return str(plain(value))

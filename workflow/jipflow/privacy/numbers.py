"""Numbers that are none: text in elements of numbers, and identifiers that are numbers.

Who converts files writes text into elements of any value representation, and readers show it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from functools import cached_property

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue

from jipflow.privacy import kinds
from jipflow.privacy.garbled import WRITTEN
from jipflow.privacy.profile import attribute_rules
from jipflow.privacy.text import Identifiers

LONG_NUMBER = 6
"""Digits of an identifier for which a whole number is taken; shorter ones count."""
SHORTEST, SHORTEST_IN_MANY = 4, 6
"""Characters of the shortest identifier that is looked for in bytes, and in many of them: four
letters of any case meet by chance in one of 10^8 places."""
MANY = 1 << 16
"""Bytes from which on there are many."""
LONGEST_TEXT = 1 << 12
"""Bytes up to which a value is taken for a text because it has letters alone."""
LEAST_TEXT = 8
"""Bytes of which a value is a number by chance in one of 10^5 cases, if all are letters."""

_LETTERS = " ^=,.'-"
_FORMATS = {
    **{"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"},
    "AT": "H",
}
_LONG = re.compile(rb"(?<![\d.])\d{6,}")
_POWER = re.compile(rb"\d[eE]\+?0*[1-9]")


def plain_numbers(raw: DataElement | RawDataElement) -> RawDataElement | None:
    """Return an element that is not parsed yet, if it is numbers as text, which no table names.

    Contours are thousands of numbers, which would be parsed and written one by one.
    """
    tag = raw.tag
    if not isinstance(raw, RawDataElement) or int(tag) in attribute_rules():
        return None
    vr = dictionary_VR(tag) if dictionary_has_tag(tag) else ""
    if vr not in ("DS", "IS") or raw.VR not in (None, vr) or not isinstance(raw.value, bytes):
        return None
    return raw._replace(VR=vr) if kinds.PLAIN_NUMBERS.fullmatch(raw.value) else None


class NumberSearch:
    """Looks for a patient in elements of numbers and bytes.

    Args:
        identifiers: of the patient.
    """

    def __init__(self, identifiers: Identifiers) -> None:
        self.identifiers = identifiers

    def in_text(self, numbers: bytes) -> bool:
        """Return whether one of numbers as text is a day or an identifier of 6 digits or more.

        Some systems number series by what they number patients and orders by.

        Args:
            numbers: with backslashes between them.
        """
        if not _LONG.search(numbers) and not _POWER.search(numbers):
            return False
        return any(self._is_known(value) for value in numbers.split(b"\\"))

    def in_uid(self, uid: str) -> bool:
        """Return whether a UID holds a day or an identifier of 6 digits or more."""
        known = self.identifiers.numbers | self.identifiers.dates
        return any(len(n) >= LONG_NUMBER and n.isdigit() and n in uid for n in known)

    def _is_known(self, value: bytes) -> bool:
        text = value.strip(b" +\0").decode("latin-1")
        if "e" in text.lower() and kinds.DECIMAL.fullmatch(text):
            text = f"{float(text):f}"
        whole = text.partition(".")
        number = whole[0].lstrip("0")
        known = self.identifiers.numbers | self.identifiers.dates
        return len(number) >= LONG_NUMBER and not whole[2].strip("0") and number in known

    def in_element(self, element: DataElement) -> bool:
        """Return whether an element of binary numbers or bytes holds a text or an identifier."""
        if isinstance(element.value, bytes):
            data = element.value
            return self._in_bytes(data) or (element.VR in kinds.NUMBERS and is_text(data))
        several = isinstance(element.value, MultiValue | list | tuple)
        values = list(element.value) if several else [element.value]
        if element.is_empty:
            return False
        if not all(isinstance(value, int | float) for value in values):
            return True
        if len(values) < LONGEST_TEXT and any(map(self._is_number, values)):
            return True
        if element.VR == "AT":
            values = [half for tag in values for half in (tag >> 16, tag & 0xFFFF)]
        kind = f"{len(values)}{_FORMATS[str(element.VR)]}"
        both = {struct.pack(order + kind, *values) for order in "<>"}
        return any(self._in_bytes(data) or is_text(data) for data in both)

    def _is_number(self, value: float) -> bool:
        if not 10 ** (LONG_NUMBER - 1) <= value < 10**18:
            return False
        return self._is_known(str(int(value)).encode()) if value == int(value) else False

    def _in_bytes(self, data: bytes) -> bool:
        least = SHORTEST if len(data) < MANY else SHORTEST_IN_MANY
        low = data.lower()
        return any(needle in low for needle, length in self._needles if length >= least)

    @cached_property
    def _needles(self) -> list[tuple[bytes, int]]:
        """What is looked for in bytes, ASCII letters in lower case, and how many letters it has."""
        known = self.identifiers
        texts = {text for text in known.names | known.places if len(text) >= SHORTEST}
        for number in known.numbers | known.dates:
            texts |= {number, *re.findall(r"\d{6,}", number)}
        needles = {
            (text.encode(encoding), len(text))
            for text in texts
            if len(text) >= SHORTEST and text.isascii()
            for encoding in ("ascii", "utf-16-le", "utf-16-be")
        }
        return sorted(needles | set(_written(known.foreign)))


def _written(words: Iterable[str]) -> Iterator[tuple[bytes, int]]:
    """Yield words with letters beyond ASCII in all encodings, where they have bytes enough."""
    for word in words:
        for form in {word, word.upper(), word.lower(), word.title()}:
            for encoding in (*WRITTEN, "utf-16-le", "utf-16-be"):
                try:
                    data = form.encode(encoding).lower()
                except UnicodeError:
                    continue
                if len(data) >= SHORTEST and b"?" not in data:
                    yield data, len(data)


def is_text(data: bytes) -> bool:
    """Return whether bytes are letters and what stands between names, and nothing else.

    Args:
        data: of a value of numbers; a shorter or longer one than a name may be a number.
    """
    if not LEAST_TEXT <= len(data) <= LONGEST_TEXT:
        return False
    try:
        text = data.rstrip(b" \0").decode("utf-8")
    except UnicodeDecodeError:
        return False
    letters = sum(map(str.isalpha, text))
    return letters >= LONG_NUMBER and all(c.isalpha() or c in _LETTERS for c in text)

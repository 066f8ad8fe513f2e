"""Ages: those above 89 years are of few, and are stated as 90 (45 CFR 164.514 (b)(2)(i))."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

OLDEST = 89
"""Years above which an age is that of few, and is stated as one more."""
CONCEPTS = frozenset(
    (("DCM", "121033"), ("LN", "30525-0"), ("SCT", "397669002"), ("SCT", "424144002"))
)
"""Content items that are an age, such as Subject Age (PS3.16 TID 1007)."""
IN_YEAR = {"a": 1, "mo": 12, "wk": 52, "d": 365, "h": 8760}
"""Whole units of time in a year, by their code in UCUM; what has another is taken for years."""

IN_TEXT = re.compile(
    r"(?<![^\W_])(?:0?9[1-9]|1[0-2]\d)[\s-]?(?:y|yo|y/o|yrs?|years?|j|jahre?)(?![^\W_])",
    re.IGNORECASE,
)
"""Ages above 90 in texts; 90Y is an isotope, too."""
_AGE = re.compile(r"(\d{3})([DWMY])")


def capped_age(value: str) -> str | None:
    """Return an AS (PS3.5 6.2), above 89 years ``090Y``; None where it is none."""
    found = _AGE.fullmatch(value.strip(" \0"))
    if not found:
        return None
    old = found[2] == "Y" and int(found[1]) > OLDEST
    return f"{OLDEST + 1:03}Y" if old else found[0]


def cap_measured_age(item: Dataset) -> bool:
    """State the age of a content item as 90 years in its unit if it is above; tell whether it was.

    Args:
        item: NUM (PS3.3 C.18.1); it is changed.
    """
    changed = False
    for measured in item.get("MeasuredValueSequence") or []:
        unit = (measured.get("MeasurementUnitsCodeSequence") or [Dataset()])[0]
        most = (OLDEST + 1) * IN_YEAR.get(str(unit.get("CodeValue")), 1)
        value = measured.get("NumericValue")
        exact = ("FloatingPointValue", "RationalNumeratorValue", "RationalDenominatorValue")
        for name in exact:
            measured.pop(name, None)
        if value not in (None, "") and not float(value) < most:
            measured.NumericValue = str(most)
            changed = True
    return changed

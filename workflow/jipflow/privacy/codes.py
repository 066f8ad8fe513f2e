"""Codes of data sets that leave: the meanings of those that standards define, others cleaned."""

from __future__ import annotations

from functools import cache

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from jipflow.privacy.text import TextCleaner

LONGEST = 64
"""Characters of the longest Code Meaning, which is a LO (PS3.5 6.2)."""


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """Return an item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def clean_meaning(item: Dataset, meaning: str, text: TextCleaner) -> str | None:
    """Return the meaning of a code: as it stands, where that has words of imaging alone.

    Else it is the standard's own for the code, and where the standard has none, what is left of it.

    Args:
        item: of the code sequence.
        meaning: as it stands.
        text: of the patient.
    """
    cleaned = text.description(meaning)
    if cleaned == meaning.strip(" \0"):
        return cleaned
    value, scheme = str(item.get("CodeValue") or ""), str(item.get("CodingSchemeDesignator") or "")
    return meanings().get((scheme, value)) or cleaned or None


@cache
def meanings() -> dict[tuple[str, str], str]:
    """Return the meanings of the codes that PS3.16 names, by scheme and value."""
    found: dict[tuple[str, str], str] = {}
    for scheme in ("DCM", "SCT", "UCUM", "IBSI"):
        known = getattr(codes, scheme)
        for name in known.dir():
            try:
                code = getattr(known, name)
            except (AttributeError, KeyError, RuntimeError):
                continue
            if len(code.meaning) <= LONGEST:
                found[code.scheme_designator, code.value] = code.meaning
    return found

"""Numbers with their nouns, for sentences."""

from __future__ import annotations


def number_of(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural but of one: ``1 cell``, ``0 cells``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

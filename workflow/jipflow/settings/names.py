"""What to say of a name that is of nothing: the one that is meant, and those that there are."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches

SUBSET_KEYS = ("case", "shards")
"""What names the cases of a first try in the configuration of a run; see `jipflow.subset`."""

MOST = 30
"""Most names that a sentence lists."""


def meant(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the known names that are most like a name, whatever its capital letters.

    Args:
        name: as it was written.
        known: names that there are.
        most: names to return.
    """
    spellings = {each.lower(): each for each in known}
    written = name.lower()
    # A part of a longer name, such as tumor in tumor-primary, is far from it as a whole.
    near = [each for each in spellings if written and _words(written) <= _words(each)]
    near += get_close_matches(written, spellings, n=most)
    near += [each for each in spellings if len(written) > 2 and written in each]
    return [spellings[each] for each in dict.fromkeys(near)][:most]


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name))


def among(name: str, known: Collection[str], listed: str = "there are") -> str:
    """Return the end of a sentence about a name that is of nothing.

    Args:
        name: as it was written.
        known: names that there are.
        listed: what comes before their list.
    """
    near = meant(name, known, 3 if len(known) > MOST else 1)
    proposal = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    if len(known) > MOST:
        shown = f"{', '.join(list(known)[:MOST])} and {len(known) - MOST} more"
        return f"; {proposal}".rstrip() if near else f"; {listed}: {shown}."
    text = f"{listed}: {', '.join(known) or 'none'}."
    return f"; {proposal}{text[0].upper()}{text[1:]}" if near else f"; {text}"

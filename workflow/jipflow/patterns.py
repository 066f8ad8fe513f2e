"""Regular expressions of protocols, matched by RE2 in a time that grows with the text alone.

A protocol comes from elsewhere, and names of regions come from any software: those of Python may
take longer than a run for a name of 40 letters, as ``(a+)+b`` does. RE2, which DuckDB brings, knows
neither backreferences nor a look ahead or behind (https://github.com/google/re2/wiki/Syntax);
``\\d``, ``\\w`` and ``\\s`` are ASCII.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

LONGEST = 10_000
"""Characters of an expression."""


class PatternError(Exception):
    """A text is no regular expression."""


@cache
def _database() -> duckdb.DuckDBPyConnection:
    # Loaded where an expression is met first: every job reads settings.
    import duckdb

    return duckdb.connect(":memory:", config={"threads": 1})


def check_pattern(pattern: str) -> None:
    """Check that a text is a regular expression.

    Raises:
        PatternError: it is none; the message says where.
    """
    if len(pattern) > LONGEST:
        raise PatternError(f"it has more than {LONGEST:,} characters")
    meets(pattern, "")


@lru_cache(maxsize=4096)
def meets(pattern: str, text: str) -> bool:
    """Return whether the whole of a text meets a regular expression.

    Raises:
        PatternError: it is none.
    """
    import duckdb

    with _database().cursor() as connection:
        try:
            (found,) = connection.execute(
                "SELECT regexp_full_match(?, ?)", [text, pattern]
            ).fetchall()[0]
        except duckdb.InvalidInputException as error:
            raise PatternError(str(error).partition(": ")[2].splitlines()[0]) from None
    return bool(found)

"""Texts that were read in another character set than they were written in.

What a header says of its character set (Specific Character Set, PS3.3 C.12.1.1.2) is often wrong or
missing, so that a name stands there as another text, from which everyone gets it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

WRITTEN = (
    *("utf-8", "latin-1", "cp1252", "iso8859-2", "iso8859-5", "iso8859-7", "iso8859-9"),
    *("cp1250", "cp1251", "koi8-r", "cp437", "cp850", "mac-roman"),
    *("shift_jis", "euc_jp", "gb18030", "big5", "euc_kr"),
)
"""Encodings of DICOM's character sets, and of systems that export to it."""

BROKEN = re.compile(
    r"[^ \t\r\n\f\0]*(?:\?\?|[\x01-\x08\x0b\x0e-\x1f\x7f-\x9f\ufffd])[^ \t\r\n\f\0]*"
)
"""What stands together with a control character, or with one that could not be read or written."""

_LOST = re.compile(r"[^\x00-\x3e\x40-\x7f]+")
"""Letters beyond ASCII, or what stands in place of them."""
_RUN = re.compile(r"[^\x00-\x7f]+")
_SYLLABLES = "\u2e80"
"""Beginning of the scripts of East Asia in Unicode."""
_WORD = re.compile(r"[^ \t\r\n\f\0]*[^\x00-\x7f][^ \t\r\n\f\0]*")
_SEPARATORS = re.compile(r"[\s^=,;/\\.()\"'-]+")
_ANY = r"(?:[^\x00-\x7f]|[?_*\x1a])"
"""What stands for a letter beyond ASCII where it was read wrongly, or could not be written."""
_LONGEST = 6
"""Characters that a letter becomes that was read wrongly twice."""
_TELLING = 4
"""Letters of ASCII from which a name is known even without its others."""


def repaired(text: str) -> str:
    """Return a text in which UTF-8 that was read as Latin-1 or Windows-1252 is as it was meant.

    Args:
        text: any; it may have been read wrongly twice.
    """
    for _ in range(2):
        before, text = text, _RUN.sub(lambda run: _again(run[0]), text)
        if text == before:
            break
    return text


def _again(run: str) -> str:
    try:
        data = b"".join(map(_byte, run))
        return data.decode("utf-8")
    except UnicodeError:
        return run


def _byte(letter: str) -> bytes:
    """Return the byte that Windows-1252 shows as a letter; where it shows none, Latin-1.

    Raises:
        UnicodeError: there is none.
    """
    try:
        return letter.encode("cp1252")
    except UnicodeError:
        return letter.encode("latin-1")


def rereadings(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield begin and end of the words beyond ASCII of a text, and what they may have been.

    That is what is UTF-8 if the word was read in any other encoding than those of `repaired`.

    Args:
        text: as `repaired` gives it.
    """
    for match in _WORD.finditer(text):
        for encoding in WRITTEN[1:]:
            try:
                again = match[0].encode(encoding).decode("utf-8")
            except UnicodeError:
                continue
            yield *match.span(), repaired(again)


def foreign_words(texts: Iterable[str]) -> set[str]:
    """Return the words of names that have letters beyond ASCII, or a ``?`` in place of one.

    One letter is a word where its script is of syllables or meanings.
    """
    words = {word for text in texts for word in _SEPARATORS.split(text)}
    return {word for word in words if _LOST.search(word) and _is_word(word)}


def _is_word(text: str) -> bool:
    return len(text) > 1 or text >= _SYLLABLES


def decodings(data: bytes) -> set[str]:
    """Return what bytes may say, whatever their character set is; nothing where they are ASCII.

    Args:
        data: the value of an element.
    """
    found: set[str] = set()
    if data.isascii() and b"\x1b" not in data:
        return found
    for encoding in (*WRITTEN, "iso2022_jp", "iso2022_kr"):
        try:
            text = data.decode(encoding).strip(" \0")
        except UnicodeError:
            continue
        if all(letter.isalpha() or letter in " ^=,.-'\\" for letter in text):
            found.add(text)
    return found


def garbled(words: Iterable[str]) -> Iterator[re.Pattern[str]]:
    """Yield patterns of words of names as they stand where they were read wrongly.

    Args:
        words: as `foreign_words` gives them.
    """
    loose: set[str] = set()
    exact: set[str] = set()
    for word in words:
        plain = sum(letter.isascii() and letter.isalpha() for letter in word)
        if plain >= 2:
            loose.add(_loose(word, plain))
        exact |= _readings(word)
    if loose:
        yield re.compile("|".join(sorted(loose)), re.IGNORECASE)
    if exact:
        yield re.compile("|".join(map(re.escape, sorted(exact, key=lambda e: (-len(e), e)))))


def _loose(word: str, plain: int) -> str:
    """Return the pattern of a word of which only the letters of ASCII are sure."""
    parts = [re.escape(part) for part in _LOST.split(word)]
    if plain >= _TELLING:
        return rf"[^\W_]*{f'{_ANY}{{0,{_LONGEST}}}'.join(parts)}[^\W_]*"
    return rf"(?<![a-z]){f'{_ANY}{{1,{_LONGEST}}}'.join(parts)}(?![a-z])"


@lru_cache(maxsize=4096)
def _readings(word: str) -> frozenset[str]:
    """Return a word in its cases as it is read in other encodings, without what `BROKEN` finds."""
    found = {word, word.upper(), word.lower(), word.title()}
    for written in list(found):
        for right in WRITTEN:
            try:
                data = written.encode(right)
            except UnicodeError:
                continue
            read = {data.decode(wrong, "replace") for wrong in WRITTEN if wrong != right}
            found |= {text for text in read if not BROKEN.search(text)}
    return frozenset(text for text in found if _is_word(text) and not text.isascii())

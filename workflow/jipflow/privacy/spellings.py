"""How what names a patient may stand in a file: its parts, its encodings, its escapes."""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from datetime import date
from html.entities import codepoint2name
from urllib.parse import quote

LONG = 6
"""Characters from which a token is found inside other text, and in binary data: eight letters of
which the case is free meet by chance in one of 10^13 places, three in one of 10^6."""

ENCODINGS = (
    *("latin-1", "iso8859-2", "iso8859-3", "iso8859-4", "iso8859-5", "iso8859-6", "iso8859-7"),
    *("iso8859-8", "iso8859-9", "iso8859-15", "tis-620", "cp1251", "cp1252", "shift_jis"),
    *("iso2022_jp", "euc_jp", "euc_kr", "gb2312", "gb18030", "big5", "utf-16-le", "utf-16-be"),
)
"""Those of DICOM's Specific Character Sets (PS3.3 C.12.1.1.2), and what they are taken for."""


def name_parts(name: str) -> list[str]:
    """Return the words of a person's name (PS3.5 6.2, VR PN) but for initials.

    Args:
        name: components between ``^``, groups between ``=``; each may be several words.
    """
    words = re.split(r"[\^=\s,;/\\]+", name)
    found = [word for word in dict.fromkeys(words) if any(map(str.isalnum, word))]
    return [word for word in found if sum(map(str.isalnum, word)) > 1 or not is_spaced(word)]


def is_spaced(text: str) -> bool:
    """Return whether a text is of a script that sets blanks between words, or of digits.

    One without upper and lower case, such as Chinese, sets none.
    """
    return any(letter.islower() or letter.isupper() or letter.isdigit() for letter in text)


def as_word(text: str) -> str:
    """Return the pattern of a text as a word of its own, where its script has such."""
    part = re.escape(text)
    return rf"(?<![^\W_]){part}(?![^\W_])" if is_spaced(text) else part


def date_spellings(text: str) -> list[str]:
    """Return how a day (VR DA, ``YYYYMMDD``) is written elsewhere; nothing where it is none."""
    try:
        day = date(int(text[:4]), int(text[4:6]), int(text[6:8])) if len(text) == 8 else None
    except ValueError:
        day = None
    if day is None:
        return []
    forms = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y")
    return [day.strftime(form) for form in forms]


def spellings(text: str) -> list[str]:
    """Return a token's text and how else a program writes it: cases, forms of Unicode, dates.

    Letters without their marks are among them (``Muller`` for ``Müller``), since file names often
    lack them.
    """
    found = [text, *date_spellings(text)]
    for form in ("NFC", "NFD"):
        normal = unicodedata.normalize(form, text)
        found += [normal, normal.lower(), normal.upper()]
    bare = "".join(
        letter for letter in unicodedata.normalize("NFD", text) if not unicodedata.combining(letter)
    )
    return list(dict.fromkeys([*found, unicodedata.normalize("NFC", bare)]))


def is_long(text: str) -> bool:
    """Return whether a token is looked for inside other text and in binary data."""
    return len(text) >= LONG or len(text.encode("utf-8", "surrogateescape")) >= 2 * LONG


def encoded(text: str) -> list[bytes]:
    """Return a spelling as bytes in the encodings and escapes that files hold.

    Args:
        text: one of `spellings`; long, as by `is_long`.
    """
    plain = text.encode("utf-8", "surrogateescape")
    found = [plain, plain.hex().encode()]
    for encoding in ENCODINGS if not text.isascii() else ENCODINGS[-2:]:
        try:
            found.append(text.encode(encoding))
        except UnicodeError:
            continue
    found += [escape.encode("utf-8", "surrogateescape") for escape in _escaped(text)]
    return list(dict.fromkeys(found))


def _escaped(text: str) -> Iterator[str]:
    """Iterate over a text as JSON, Python, HTML and addresses escape it."""
    whole = text.encode("utf-8", "surrogateescape")
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield repr(text)[1:-1]
    yield ascii(text)[1:-1]
    yield repr(whole)[2:-1]
    for escaped in (text, html.escape(text), html.escape(text).replace("&#x27;", "&#39;")):
        yield escaped
        yield _entities(escaped, lambda code: f"&#{code};")
        yield _entities(escaped, lambda code: f"&#x{code:x};")
        yield _entities(
            escaped,
            lambda code: f"&{codepoint2name[code]};" if code in codepoint2name else f"&#{code};",
        )
    yield quote(whole)
    yield quote(whole, safe="")


def _entities(text: str, write: Callable[[int], str]) -> str:
    return "".join(letter if letter.isascii() else write(ord(letter)) for letter in text)


def in_base64(text: str) -> list[bytes]:
    """Return what stays the same of a text in base64 (RFC 4648), wherever in a document it stands.

    Of each of the three places that its first byte may have in a group of three, the characters
    that no byte before or behind it changes; by the common and the address-safe alphabet.
    """
    whole = text.encode("utf-8", "surrogateescape")
    found = []
    for before in range(3):
        padded = bytes(before) + whole + bytes(-(before + len(whole)) % 3)
        behind = len(padded) - before - len(whole)
        core = base64.b64encode(padded)[(0, 2, 3)[before] :]
        core = core[: len(core) - (0, 2, 3)[behind]]
        if len(core) > LONG:
            found += [core, core.translate(bytes.maketrans(b"+/", b"-_"))]
    return list(dict.fromkeys(found))


def quoted(text: str) -> set[str]:
    """Return a text as it is, and as Python and JSON quote it."""
    whole = text.encode("utf-8", "surrogateescape")
    return {text, repr(text)[1:-1], ascii(text)[1:-1], repr(whole)[2:-1], json.dumps(text)[1:-1]}


def in_messages(text: str) -> set[str]:
    """Return a text as messages quote it: in other forms, escaped, or decoded as another's."""
    found: set[str] = set()
    for spelling in spellings(text):
        whole = spelling.encode("utf-8", "surrogateescape")
        found |= {*quoted(spelling), whole.decode("latin-1"), quote(whole)}
        try:
            found.add(repr(spelling.encode("latin-1"))[2:-1])
        except UnicodeEncodeError:
            continue
    return found - {""}

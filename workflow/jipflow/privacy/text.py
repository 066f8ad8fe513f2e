"""Text without what identifies: known identifiers taken out, dates moved, unknown words dropped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from jipflow.privacy.ages import IN_TEXT
from jipflow.privacy.dates import dates_in
from jipflow.privacy.garbled import BROKEN, garbled, repaired, rereadings

TRANSLITERATED = {"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae", "œ": "oe"}
"""Letters that are written as two where a keyboard or a character set lacks them."""
LETTERS = {"ß": "ss", "ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th"}
"""Letters that no decomposition of Unicode takes apart."""

NO_NAMES = frozenset(
    (
        *("mr", "mrs", "ms", "miss", "dr", "prof", "med", "md", "phd", "herr", "frau", "sir"),
        *("jr", "sr", "ii", "iii", "iv", "van", "von", "der", "den", "de", "del", "della", "di"),
        *("da", "dos", "du", "la", "le", "el", "al", "bin", "ibn", "zu", "und", "and", "of"),
        *("the", "st", "patient", "anonymous", "anonymized", "anonymised", "anonym", "anon"),
        *("unknown", "none", "removed", "name"),
    )
)
"""Titles, suffixes and particles of names, which identify nobody."""

TECHNICAL = re.compile(r"[a-z]?\d{1,3}(?:[a-z]{0,3}|[a-z]\d{1,2})", re.IGNORECASE)
"""Words of a number and few letters, as of kernels, weightings and units: B31f, T2w, 5mm, 3D."""
_WORD = re.compile(r"[^\W_]+")
_PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")
_LONGEST_NUMBER = 3
_SHORTEST_PART = 5
"""Characters of a part of an identifier, from which it is taken for the whole."""
_UID = re.compile(r"(?<![\w.])(?=[\d.]{20})(?!1\.2\.840\.10008\.)[0-2](?:\.\d+){3,}(?!\w)")
"""UIDs but for DICOM's own; what is shorter may be a version."""
_SHORTEST_BEGINNING = 5
"""Letters of the beginning of a name that are taken for it at the end of a text."""


def fold(text: str) -> tuple[str, list[int]]:
    """Return a text in one case without diacritics, and the place that each letter came from.

    Args:
        text: any.
    """
    letters: list[str] = []
    places: list[int] = []
    for place, letter in enumerate(text):
        for low in letter.casefold():
            plain = LETTERS.get(low) or unicodedata.normalize("NFKD", low)
            kept = [part for part in plain if not unicodedata.combining(part)]
            letters += kept
            places += [place] * len(kept)
    return "".join(letters).casefold(), places


def folded(text: str) -> str:
    """Return a text in one case without diacritics."""
    return fold(text)[0]


@dataclass(frozen=True)
class Identifiers:
    """What identifies a patient, the persons around and the place, as their headers have it.

    Attributes:
        names: words of names of persons, folded; found as whole words, from four letters on also
            within words.
        numbers: identifiers such as PatientID or an accession number, folded, letters and digits
            alone; found whatever stands between these.
        places: words and wholes of names of institutions and the like, folded; a word that is one
            of imaging, too, is found only as part of the whole.
        dates: of examinations, eight digits; one that stayed would tell by how much others moved.
        foreign: words of names and places with letters beyond ASCII as they are written, which may
            stand elsewhere in another character set.
    """

    names: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    dates: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()

    def __or__(self, other: Identifiers) -> Identifiers:
        """Return those of both."""
        return Identifiers(
            self.names | other.names,
            self.numbers | other.numbers,
            self.places | other.places,
            self.dates | other.dates,
            self.foreign | other.foreign,
        )


def name_words(text: str) -> set[str]:
    """Return the words of a person's name (PS3.5 6.2.1), folded, in both spellings of umlauts.

    Args:
        text: of a PN; prefix and suffix, which are titles, are left out.
    """
    found: set[str] = set()
    for group in text.split("="):
        parts = group.split("^")
        # A name may stand where titles belong, if nothing stands where it belongs.
        for part in parts[:3] if any(part.strip() for part in parts[:3]) else parts[3:]:
            for spelling in _spellings(part):
                found |= set(_WORD.findall(spelling))
                found |= {"".join(_WORD.findall(spelling))}
    return {word for word in found if _is_name(word)}


def _is_name(word: str) -> bool:
    """Return whether a word of a name identifies; one letter does only in scripts of syllables."""
    return word not in NO_NAMES and (len(word) > 1 or (word != "" and not word.isascii()))


def _spellings(text: str) -> set[str]:
    """Return a text folded, with umlauts as one letter and as two, and read in wrong encodings."""
    read = {text}
    for right, wrong in (("utf-8", "latin-1"), ("latin-1", "utf-8")):
        try:
            read.add(text.encode(right).decode(wrong))
        except UnicodeError:
            continue
    # An umlaut may be written as a letter and a mark, which no table of letters has.
    low = {unicodedata.normalize("NFC", each).casefold() for each in read}
    two = {"".join(TRANSLITERATED.get(letter, letter) for letter in each) for each in low}
    return {folded(spelling) for spelling in low | two}


def number_forms(text: str) -> set[str]:
    """Return an identifier as `plain_number`, and how else it may be written.

    That are its components, such as those of a CX of HL7 (``4711108^^^HOSPITAL``), and it without
    zeros in front, if these are five characters or more with a digit, and six digits or more of it
    without what stands around them.

    Args:
        text: the identifier.
    """
    whole = plain_number(text)
    parts = {plain_number(part) for part in re.split(r"[\s^&]", text)}
    parts |= {part.lstrip("0") for part in parts | {whole}}
    parts |= set(re.findall(r"[1-9]\d{5,}", whole))
    long = {part for part in parts if len(part) >= _SHORTEST_PART and re.search(r"\d", part)}
    return {whole} | long


def day_forms(text: str) -> set[str]:
    """Return the digits of a day (VR DA) in the orders that people write; nothing where it is none.

    Args:
        text: eight digits, or these with dots.
    """
    found = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)", text.strip(" \0"))
    if found is None:
        return set()
    year, month, day = found.groups()
    short = month.lstrip("0"), day.lstrip("0")
    return {
        order
        for m, d in ((month, day), short)
        for order in (year + m + d, d + m + year, m + d + year)
    }


def plain_number(text: str) -> str:
    """Return the letters and digits of an identifier, folded."""
    return "".join(_WORD.findall(folded(text)))


def place_words(text: str) -> set[str]:
    """Return the name of a place and its words, folded; of one or two letters none."""
    words = {word for spelling in _spellings(text) for word in _WORD.findall(spelling)}
    whole = " ".join(_WORD.findall(folded(text)))
    return {word for word in words | {whole} if len(word) > 2 and word not in NO_NAMES}


@dataclass(frozen=True)
class TextCleaner:
    """Cleans the texts of one patient.

    Attributes:
        identifiers: of the patient.
        days: by which dates in texts are moved back.
        words: that descriptions may keep, folded.
    """

    identifiers: Identifiers
    days: int
    words: Collection[str]
    _patterns: list[re.Pattern[str]] = field(init=False, repr=False, compare=False)
    _garbled: list[re.Pattern[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_patterns", list(self._identifying()))
        object.__setattr__(self, "_garbled", [BROKEN, *garbled(self.identifiers.foreign)])

    def names_no_one(self, text: str, *, least: int = 2) -> bool:
        """Return whether no identifier of at least so many letters, nor a UID, is in a text."""
        return all(end - begin < least for begin, end in self._found(text))

    def device(self, text: str) -> str:
        """Return a text that a machine wrote, without identifiers, with dates moved.

        Eight digits are often part of a number; they are a date if the patient has one such.
        """
        return self._of_machine(text, version=False)

    def version(self, text: str) -> str:
        """Return a version as `device` does; dotted numbers in it are dates less often."""
        return self._of_machine(text, version=True)

    def _of_machine(self, text: str, *, version: bool) -> str:
        text = repaired(text.strip(" \0"))
        spans = [(begin, end, "") for begin, end in self._found(text)]
        spans += dates_in(text, self.days, compact=False, known=self._days, version=version)
        spans += [
            span
            for span in dates_in(text, self.days, version=version)
            if text[span[0] : span[0] + 8] in self.identifiers.dates
        ]
        return _tidy(_replaced(text, spans)) if spans else text

    @property
    def _days(self) -> frozenset[str]:
        """Days of the patient, eight digits; those of birth are among the numbers."""
        return self.identifiers.dates | self.identifiers.numbers

    def description(self, text: str) -> str:
        """Return a text that a person may have written: of its words only those of imaging."""
        text = repaired(text.strip(" \0"))
        spans = [(begin, end, "") for begin, end in self._found(text)]
        spans += [(*match.span(), "") for match in IN_TEXT.finditer(text)]
        spans += dates_in(text, self.days, known=self._days)
        taken = [(begin, end) for begin, end, _ in spans]
        for match in _WORD.finditer(text):
            begin, end = match.span()
            within = any(begin < stop and start < end for start, stop in taken)
            if not within and not self._is_of_imaging(match[0]):
                spans.append((begin, end, ""))
            elif within:
                # What is left of a word beside what was found in it goes as well.
                dates = [s for s in spans if s[2] and s[0] <= begin and end <= s[1]]
                if not dates:
                    spans.append((begin, end, ""))
        return _tidy(_replaced(text, spans)) if spans else text

    def _is_of_imaging(self, word: str) -> bool:
        low = folded(word)
        if low in self.words or (TECHNICAL.fullmatch(word) and word.isascii()):
            return True
        pieces = _PIECES.findall(word)
        return len(pieces) > 1 and all(
            folded(piece) in self.words or (piece.isdigit() and len(piece) <= _LONGEST_NUMBER)
            for piece in pieces
        )

    def _found(self, text: str) -> list[tuple[int, int]]:
        """Return where identifiers and UIDs are, whole words for those within words."""
        spans = [match.span() for match in _UID.finditer(text)]
        spans += [match.span() for one in self._garbled for match in one.finditer(text)]
        spans += self._known(text)
        spans += [(begin, end) for begin, end, again in rereadings(text) if self._known(again)]
        return spans

    def _known(self, text: str) -> list[tuple[int, int]]:
        """Return where identifiers are, as a text has them."""
        low, places = fold(text)
        return [
            (places[match.start()], places[match.end() - 1] + 1)
            for pattern in self._patterns
            for match in pattern.finditer(low)
            if match.start() < match.end()
        ]

    def _identifying(self) -> Iterable[re.Pattern[str]]:
        known = self.identifiers
        names = sorted(known.names, key=lambda name: (-len(name), name))
        long = [re.escape(name) for name in names if len(name) > 3 or not name.isascii()]
        short = [re.escape(name) for name in names if len(name) <= 3]
        if long:
            yield re.compile(rf"[^\W_]*(?:{'|'.join(long)})[^\W_]*")
        if short:
            yield re.compile(rf"(?<![^\W_])(?:{'|'.join(short)})(?![^\W_])")
        # Values are cut off at 16 or 64 characters, and names within them.
        begun = {name[:n] for name in names for n in range(_SHORTEST_BEGINNING, len(name))}
        cut = sorted(begin for begin in begun if begin not in self.words)
        if cut:
            yield re.compile(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, cut))})(?=\W*\Z)")
        numbers = sorted(known.numbers, key=lambda number: (-len(number), number))
        if numbers:
            loose = ["[\\W_]*".join(map(re.escape, number)) for number in numbers]
            yield re.compile(rf"(?<![^\W_])(?:{'|'.join(loose)})(?![^\W_])")
            long = [one for one, number in zip(loose, numbers, strict=True) if len(number) > 4]
            if long:
                yield re.compile("|".join(long))
        places = sorted(
            {place for place in known.places if " " in place or place not in self.words},
            key=lambda place: (-len(place), place),
        )
        if places:
            loose = ["[\\W_]+".join(map(re.escape, place.split())) for place in places]
            yield re.compile(rf"(?<![^\W_])(?:{'|'.join(loose)})(?![^\W_])")


def _replaced(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """Return a text with spans replaced, of those that meet all up to the last end by nothing."""
    made: list[str] = []
    place = 0
    for begin, end, new in _merged(spans):
        made += [text[place:begin], new]
        place = end
    return "".join([*made, text[place:]])


def _merged(spans: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    merged: list[tuple[int, int, str]] = []
    for begin, end, new in sorted(spans):
        if merged and begin < merged[-1][1]:
            last = merged[-1]
            same = (begin, end) == last[:2] and new == last[2]
            merged[-1] = (last[0], max(last[1], end), new if same else "")
        else:
            merged.append((begin, end, new))
    return merged


def _tidy(text: str) -> str:
    """Return a text without the marks that stood between words that are gone."""
    text = re.sub(r"\(\W*\)|\[\W*\]|\{\W*\}", " ", text)
    text = re.sub(r"(?:(?<=\s)|^)[^\w\s(\[]+(?=\s|$)", " ", text)
    text = re.sub(r"([_,;:/\\^=|-])(?:\s*[_,;:/\\^=|-])+", r"\1", text)
    text = re.sub(r"\s+", " ", text).strip(" _,;:/\\^=|-.@#&'\"`~")
    return text if _WORD.search(text) else ""

"""Takes out of a message what may identify a patient, before a file or a page holds it.

Messages name the file, the series and the value that a stage met. In their place come words such as
``‹file qy7m2ub4›``, from which whoever has the site's secret and catalog finds the file again
(``jipflow whois``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import PurePath

from jipflow.privacy.pseudonyms import pseudonym
from jipflow.privacy.spellings import as_word, in_messages, is_spaced, name_parts, quoted

LETTERS = 8
"""Of a word's code: 40 bits, so that two of a million files share one in one site of two."""

# At least 14 characters distinguish a UID from a version; those made of a UUID have three parts.
# UIDs below DICOM's own root (PS3.6 annex A) name classes and transfer syntaxes.
_UID = re.compile(r"(?<![\w.])(?=[\d.]{14})(?!1\.2\.840\.10008\.)[0-2](?:\.\d+){2,}(?!\w)")
# An absolute path, which may hold spaces: up to the last separator of the sentence's part and, if
# there is one, the suffix after it. Then relative ones, and bare names of image files.
_REST = r"""(?:[^\n'"]*[/\\])?(?:[^\n'",:;/\\]*?\.\w{1,5}\b|[^\s'",:;]*)"""
# The same where a path has no known end: to the last separator of the line.
_REST_OF_ARCHIVE = re.compile(r"""(?:[^\n]*/)?(?:[^\n/]*?\.\w{1,5}\b|[^\s'",:;)]*)""")
_ABSOLUTE = re.compile(rf"""(?<![^\s'"(=:])(?:[A-Za-z]:|~|\.{{1,2}})?[/\\](?=\S){_REST}""")
_RELATIVE = re.compile(r"""[^\s'"]+[/\\](?:[^\s'"]*[/\\][^\s'"]*|[^\s'"]*\.\w{1,5}\b)""")
_IMAGE_FILE = re.compile(r"""[^\s'"]+\.(?:dcm|ima|dicom)\b""", re.IGNORECASE)
_WORD = re.compile(r"""[^\s'":;,()\[\]{}<>=|]+""")
_PIECE = re.compile(r"[^\W_]+(?:[-.][^\W_]+)*")
# A number this short is a count, unless it is quoted or comes behind a word for a patient.
_NUMBER = re.compile(
    r"""(?:(?<=')|(?<=")|(?<=(?i:patient)\s)|(?<=(?i:PatientID)[\s=:]))(\d{1,3})\b"""
)

# A name as DICOM writes it, such as another machine may quote it.
_NAME = re.compile(r"[^\W\d_](?:[^\W_]|[-.'])*\^(?=[^\W\d_]|\^)(?:[^\W_]|[-.'^=])*")

Mark = Callable[[str, str], str]


def code_of(secret: bytes, kind: str, text: str) -> str:
    """Return the code of a word that stands in place of an identifier.

    Args:
        secret: of the site.
        kind: ``file`` or ``UID``.
        text: the path or the UID.
    """
    return pseudonym(secret, f"{kind} of a message", text)[:LETTERS]


def marker(secret: bytes | None) -> Mark:
    """Return what gives the word that stands in place of an identifier.

    Args:
        secret: of the site; without it the word has no code.
    """

    def mark(kind: str, text: str) -> str:
        if secret is None:
            return f"‹{kind}›"
        return f"‹{kind} {code_of(secret, kind, text)}›"

    return mark


class Redactor:
    """Takes out of a message what may identify a patient: paths, UIDs, identifiers, names.

    Args:
        patient_ids: the identifiers in the site's catalog, of whatever length. One of up to three
            digits is taken out where it is quoted or stands behind the word patient; else it cannot
            be distinguished from a count.
        values: what else headers say of a patient, such as names and accession numbers; see
            `jipflow.privacy.spellings`.
        archives: folders of images, below which a path names patients. None for every path.
        files: paths of images, whose names stand alone in messages, too.
        secret: of the site; with it the words in place of files and UIDs have codes.
    """

    def __init__(
        self,
        patient_ids: Iterable[str] = (),
        values: Iterable[str] = (),
        archives: Iterable[PurePath] | None = None,
        files: Iterable[PurePath] = (),
        secret: bytes | None = None,
    ) -> None:
        self._ids = {text for identifier in patient_ids for text in in_messages(identifier.strip())}
        self._ids -= {""}
        # What is no word of a message is looked for as it is.
        self._phrases = [text for text in self._ids if not _WORD.fullmatch(text)]
        self._mark = marker(secret)
        self._archives = None if archives is None else _below(archives)
        self._files = list(files)
        self._names = {path.name for path in self._files}
        self._values = _pattern(values)

    def __call__(self, text: str) -> str:
        """Return the text with words such as ``‹file›``, ``‹UID›`` and ``‹patient›`` in place."""
        if self._archives is None:
            for pattern in (_ABSOLUTE, _RELATIVE, _IMAGE_FILE):
                text = pattern.sub(self._path, text)
        else:
            for pattern in self._archives:
                text = pattern.sub(self._below, text)
            text = _IMAGE_FILE.sub(self._path, text)
        text = _UID.sub(lambda found: self._mark("UID", found[0]), text)
        if self._values is not None:
            text = self._values.sub("‹patient›", text)
        text = _NAME.sub("‹patient›", text)
        for phrase in self._phrases:
            if phrase in text:
                text = re.sub(as_word(phrase), "‹patient›", text)
        text = _NUMBER.sub(lambda n: "‹patient›" if n[1] in self._ids else n[0], text)
        return _WORD.sub(self._word, text)

    def _below(self, found: re.Match[str]) -> str:
        """Return what a message goes on with from a path in an archive: a file's, if it is known.

        A path may hold blanks, quotes and colons, so that nothing in it shows where it ends.
        """
        rest = found[0]
        for end in range(len(rest), 0, -1):
            if (known := self._known.get(rest[:end])) and not rest[end : end + 1].isalnum():
                return self._mark("file", known) + rest[end:]
        cut = _REST_OF_ARCHIVE.match(rest)
        end = cut.end() if cut else len(rest)
        return self._mark("file", rest[:end]) + rest[end:]

    @cached_property
    def _known(self) -> dict[str, str]:
        """The files' paths, and those of their folders, by each way to write them."""
        paths = {str(path) for path in self._files}
        paths |= {str(folder) for path in self._files for folder in path.parents[:-2]}
        return {text: path for path in paths for text in quoted(path)}

    def _path(self, found: re.Match[str]) -> str:
        return self._mark("path" if self._archives is None else "file", found[0])

    def _word(self, found: re.Match[str]) -> str:
        """Return a word, or what stands in place of one that is an identifier or a file's name."""
        word = found[0]
        bare = word.rstrip(".")
        if bare in self._names and not bare.isalnum():
            return self._mark("file", bare) + word[len(bare) :]
        if self._is_id(bare):
            return "‹patient›"
        return _PIECE.sub(lambda p: "‹patient›" if self._is_id(p[0]) else p[0], word)

    def _is_id(self, word: str) -> bool:
        return word in self._ids and not (len(word) <= 3 and word.isdigit())


def _below(folders: Iterable[PurePath]) -> list[re.Pattern[str]]:
    """Return patterns of the rest of a line from a folder on, however a message writes that."""
    texts = {text for folder in folders for text in quoted(str(folder)) if len(text) > 1}
    return [
        re.compile(rf"{re.escape(text)}(?![^\W_])[^\n]*")
        for text in sorted(texts, key=len, reverse=True)
    ]


def _pattern(values: Iterable[str]) -> re.Pattern[str] | None:
    """Return the pattern of values of headers and, of names, their words; None without any.

    The case of a value of four letters or more is free; of a shorter one, which may be a word of a
    sentence, it is not, and only a name's words may be so short: an institution may be called CT.
    """
    texts: set[str] = set()
    for value in values:
        words = name_parts(value) if "^" in value else []
        for part in (*words, *([value.strip()] if len(value.strip()) > 3 else ())):
            texts |= in_messages(part)
    texts = {
        text
        for text in texts
        if not (len(text) <= 3 and text.isdigit()) and (len(text) > 1 or not is_spaced(text))
    }
    if not texts:
        return None
    parts = [
        rf"(?i:{as_word(text)})" if len(text) > 3 else as_word(text)
        for text in sorted(texts, key=lambda text: (-len(text), text))
    ]
    return re.compile("|".join(parts))

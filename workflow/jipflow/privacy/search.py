"""Searches every byte of files for what names a patient, inside what is packed too.

What is compressed or encoded is opened: gzip, bzip2, xz and Zstandard; zip and tar; Parquet, value
by value; NRRD and NIfTI; the text of PNG; DICOM, also deflated; SQLite; base64 in pages. Whatever
cannot be opened, such as a sealed message, is named and not taken for clean.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from jipflow.privacy.packed import Closed, inside, is_text, opened
from jipflow.privacy.spellings import LONG, as_word, encoded, in_base64, is_long, spellings

if TYPE_CHECKING:
    import numpy as np

BLOCK = 4 << 20
WINDOW = 4
"""Bytes by which a string is first looked for."""
DEEPEST = 8
"""Containers within containers that are opened."""


@dataclass(frozen=True, order=True)
class Hit:
    """A token that stands in a file.

    Attributes:
        path: of the file or folder.
        place: where in it: ``name`` for its own name, else the way through the containers, such as
            ``column PatientID``; empty for its bytes.
        token: the name under which the token was looked for, not its text.
    """

    path: Path
    place: str
    token: str


@dataclass
class Search:
    """What a search has found.

    Attributes:
        files: how many were read.
        size: their bytes.
        unpacked: bytes of what was opened in them, which were searched too.
        hits: each token once a place.
        closed: what could not be opened, by path and place, with the reason. Its bytes were
            searched as they are, which says nothing of what is in it.
    """

    files: int = 0
    size: int = 0
    unpacked: int = 0
    hits: list[Hit] = field(default_factory=list)
    closed: dict[tuple[Path, str], str] = field(default_factory=dict)


def search(
    places: Iterable[Path], tokens: Mapping[str, str], words: Mapping[str, str] | None = None
) -> Search:
    """Search files, and folders with all below them, for tokens.

    Letters' case is free, and each token is looked for in many encodings and escapes
    (`jipflow.privacy.spellings`). One of six characters or more is found anywhere, but for one of
    digits within a longer number. A shorter one, which meets anything by chance, is found as a word
    of its own, in names and in what is text: ``Q7`` in ``/archive/Q7_CT/1.dcm``, not in ``Q71``.
    Links are not followed; where they lead to is searched as text.

    Args:
        places: files and folders; a folder's hidden files are searched too.
        tokens: text by the name that stands for it in the hits.
        words: likewise, but each is found as a word of its own, however long it is.

    Raises:
        OSError: a file cannot be read. It would not have been searched.
        ValueError: a token is blank.
    """
    needles = _Needles.of(tokens, words or {})
    found = Search()
    for path in _files(places):
        _search_names(path, needles, found)
        if path.is_file() and not path.is_symlink():
            found.files += 1
            found.size += path.stat().st_size
            with path.open("rb") as stream:
                _search_stream(stream, path, (), needles, found)
    found.hits = sorted(set(found.hits))
    return found


def _files(places: Iterable[Path]) -> Iterator[Path]:
    """Iterate over files, folders and links, each once, in the order of their names."""
    seen = set()
    for place in map(Path, places):
        if not place.exists() and not place.is_symlink():
            raise FileNotFoundError(2, "No such file or folder", str(place))
        below = [place]
        if place.is_dir() and not place.is_symlink():
            below += sorted(_below(place))
        for path in below:
            if path not in seen:
                seen.add(path)
                yield path


def _below(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            yield path
            if entry.is_dir(follow_symlinks=False):
                yield from _below(path)


def _search_names(path: Path, needles: _Needles, found: Search) -> None:
    """Search the name of a file, and what a link names."""
    names = [path.name]
    if path.is_symlink():
        names.append(os.readlink(path))
    elif ".snakemake" in path.parts:
        # Snakemake names its records by the base64 of a path, cut into folders `@...`.
        names.append("".join(part.removeprefix("@") for part in path.parts))
    for name in names:
        for token in needles.in_block(os.fsencode(name), text=True):
            found.hits.append(Hit(path, "name", token))


def _search_stream(
    stream: BinaryIO, path: Path, way: tuple[str, ...], needles: _Needles, found: Search
) -> None:
    """Search the bytes of a stream, and then what can be opened in it."""
    place = ", ".join(way)
    try:
        with opened(way[-1] if way else "file"):
            text = is_text(stream)
            stream.seek(0)
            for block, first, last in _blocks(stream, needles.longest):
                found.unpacked += len(block) if way else 0
                for token in needles.in_block(block, text=text, first=first, last=last):
                    found.hits.append(Hit(path, place, token))
            stream.seek(0)
            for name, content in inside(stream, text=text):
                if len(way) == DEEPEST:
                    raise Closed(f"more than {DEEPEST} containers in each other")
                for token in needles.in_block(os.fsencode(name), text=True):
                    found.hits.append(Hit(path, place, token))
                with content:
                    _search_stream(content, path, (*way, name), needles, found)
    except Closed as closed:
        found.closed[path, place] = str(closed)


def _blocks(stream: BinaryIO, longest: int) -> Iterator[tuple[bytes, bool, bool]]:
    """Iterate over blocks that share so much that no token is cut, with whether first and last."""
    kept, first = b"", True
    following = stream.read(BLOCK)
    while True:
        block, following = kept + following, stream.read(BLOCK) if following else b""
        yield block, first, not following
        if not following:
            return
        kept, first = block[-(longest + 16) :], False


@dataclass(frozen=True)
class _Needles:
    """The byte strings that tokens are looked for by.

    Attributes:
        free: token by the lower case of a string whose case is free.
        exact: token by a string in base64.
        words: the lower case of the spellings of each short token, or word, and their pattern, for
            text.
        longest: bytes of the longest of all.
    """

    free: dict[bytes, str]
    exact: dict[bytes, str]
    words: dict[str, tuple[list[str], re.Pattern[str]]]
    longest: int

    @classmethod
    def of(cls, tokens: Mapping[str, str], whole: Mapping[str, str]) -> _Needles:
        """Return the needles of tokens, and of those that are words of their own."""
        free: dict[bytes, str] = {}
        exact: dict[bytes, str] = {}
        words: dict[str, tuple[list[str], re.Pattern[str]]] = {}
        for name, token in whole.items():
            texts = spellings(token.strip())
            words[name] = [text.lower() for text in texts], _words(texts)
        for name, token in tokens.items():
            if not token.strip():
                raise ValueError(f"the token {name} is blank, which is in every file")
            texts = spellings(token.strip())
            for text in filter(is_long, texts):
                free |= dict.fromkeys((each.lower() for each in encoded(text)), name)
                exact |= dict.fromkeys(in_base64(text), name)
            short = [text for text in texts if not is_long(text)]
            if short:
                words[name] = [text.lower() for text in short], _words(short)
                # What escapes make of it may be long enough.
                written = [each.lower() for text in short for each in encoded(text)]
                escaped = [each for each in written if each.isascii() and len(each) > LONG]
                free |= dict.fromkeys(escaped, name)
        lengths = [len(each) for each in (*free, *exact)]
        return cls(free, exact, words, max([4 * 64, *lengths]))

    @cached_property
    def _by_run(self) -> tuple[_Strings, _Strings]:
        return _Strings.of(self.free), _Strings.of(self.exact)

    def in_block(
        self, block: bytes, *, text: bool, first: bool = True, last: bool = True
    ) -> set[str]:
        """Return the names of the tokens that stand in a block.

        Args:
            block: of a file.
            text: whether short tokens are looked for too.
            first: whether nothing stands before the block.
            last: whether nothing stands behind it.
        """
        free, exact = self._by_run
        found = free.in_block(block.lower(), first=first, last=last) | exact.in_block(block)
        if text and self.words:
            written = block.decode("utf-8", "replace")
            small = written.lower()
            start, end = 0 if first else 4, len(written) - (0 if last else 4)
            for name, (texts, pattern) in self.words.items():
                # The pattern takes long; most texts are nowhere.
                if any(text in small for text in texts) and any(
                    m.start() >= start and m.end() <= end for m in pattern.finditer(written)
                ):
                    found.add(name)
        return found


def _words(texts: Iterable[str]) -> re.Pattern[str]:
    """Return the pattern of short texts as words of their own."""
    return re.compile("|".join(map(as_word, texts)), re.IGNORECASE)


def _codes(block: bytes) -> np.ndarray:
    """Return a number below 2^24 for each run of `WINDOW` bytes of a block."""
    import numpy as np

    size = max(0, len(block) - WINDOW + 1)
    values = np.frombuffer(block, np.uint8)
    codes = np.zeros(size, np.uint32)
    for place in range(WINDOW):
        # A multiplicative hash (Knuth, The Art of Computer Programming, volume 3, section 6.4).
        codes = (codes + values[place : place + size]) * np.uint32(2654435761)
    return codes >> np.uint32(8)


@dataclass(frozen=True)
class _Strings:
    """Strings by a few of their bytes, so that the time to search hardly grows with their number.

    Attributes:
        table: whether a string has a run of bytes, by the number of the run.
        strings: by such a number the strings, where in each the run stands, and the token.
    """

    table: np.ndarray
    strings: dict[int, list[tuple[bytes, int, str]]]

    @classmethod
    def of(cls, strings: Mapping[bytes, str]) -> _Strings:
        import numpy as np

        runs = {string: _codes(string).tolist() for string in strings}
        # Of each string the run that fewest others have: UIDs begin alike.
        common = Counter(code for codes in runs.values() for code in set(codes))
        table = np.zeros(1 << 24, bool)
        by_code: dict[int, list[tuple[bytes, int, str]]] = {}
        for string, token in strings.items():
            place, code = min(enumerate(runs[string]), key=lambda run: common[run[1]])
            table[code] = True
            by_code.setdefault(code, []).append((string, place, token))
        return cls(table, by_code)

    def in_block(self, block: bytes, *, first: bool = True, last: bool = True) -> set[str]:
        """Return the tokens whose strings stand in a block.

        One of digits alone is not found within a longer number, which meets it by chance.
        """
        import numpy as np

        found: set[str] = set()
        codes = _codes(block)
        for run in np.flatnonzero(self.table[codes]).tolist():
            for string, offset, token in self.strings[int(codes[run])]:
                place = run - offset
                if place < 0 or token in found or not block.startswith(string, place):
                    continue
                end = place + len(string)
                if not string.isdigit() or (
                    (first if place == 0 else not block[place - 1 : place].isdigit())
                    and (last if end == len(block) else not block[end : end + 1].isdigit())
                ):
                    found.add(token)
        return found

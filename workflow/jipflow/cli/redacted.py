"""Keeps what may identify a patient out of what a job prints and writes as messages.

All that the job and its processes print, their libraries in C too, goes line by line through a
`Redactor` on its way into the log. So do the messages of outcomes, and that of the error that ends
the job.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from jipflow.files import read_json, read_parquet

Redact = Callable[[str], str]

# A line of an outcome that has no message.
_PLAIN = re.compile(r"[a-z2-7]{16} \w+ [\w-]*: \w+")
IMAGES_ALONE = {"prepare", "encode", "measure", "overlay", "document"}
"""Commands whose messages quote nothing of contours and segmentations of the archive.

Whom these name, but no image of the case and no catalog, is not looked up for them: it takes long.
"""

_END = b"\0jipflow: end of what the job prints\0"
_LONGEST = 1 << 20
"""Bytes of a line that is held back until it ends."""


class JobRedactor:
    """The redactor of a job, which is made when the first message comes.

    Args:
        words: what was typed after ``jipflow``.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._made: Redact | None = None
        self._lock = threading.Lock()

    def __call__(self, text: str) -> str:
        """Return a message, or lines of messages, without what may identify a patient."""
        if not text.strip() or _PLAIN.fullmatch(text.strip()):
            return text
        with self._lock:
            if self._made is None:
                self._made = _redactor(self._words)
        return self._made(text)


_job: list[Redact] = []


def redact(text: str) -> str:
    """Return a message as the job that runs here may write it."""
    return _job[-1](text) if _job else text


def _given(words: Sequence[str], option: str) -> list[Path]:
    """Return the paths that were typed behind an option."""
    if option not in words:
        return []
    behind = words[words.index(option) + 1 :]
    end = next((n for n, word in enumerate(behind) if word.startswith("--")), len(behind))
    return [Path(word) for word in behind[:end]]


def _redactor(words: Sequence[str]) -> Redact:
    """Make the redactor of a job from the settings and the tables that it works on."""
    from jipflow.privacy.identifying import identifying_values
    from jipflow.privacy.pseudonyms import known_secret
    from jipflow.privacy.redaction import Redactor

    try:
        site = read_json(_given(words, "--settings")[0])["site"]
        secret = None
        with suppress(Exception):
            secret = known_secret(Path(site["identity"]["secret_file"]))
        archives = [Path(s["path"]) for s in site["sources"] if s["kind"] == "folder"]
        identifiers, files, series = _of_tables(words)
        # Images of a PACS lie elsewhere.
        archives += {path.parent for path in files if not _is_below(path, archives)}
        own, values = identifying_values(series)
        return Redactor(identifiers | own, values, archives, files, secret)
    except Exception:
        # Without knowing what to take out, every path and UID is.
        return Redactor()


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _of_tables(words: Sequence[str]) -> tuple[set[str], list[Path], list[list[Path]]]:
    """Return identifiers and files in a job's tables, and those of each series that is read."""
    import pyarrow.compute as pc

    identifiers: set[str] = set()
    files: list[Path] = []
    series: dict[str, list[Path]] = {}
    for shard in (path for path in _given(words, "--cases") if path.suffix == ".parquet"):
        rows = read_parquet(shard, ["series_uid", "path", "role"]).to_pylist()
        files += [Path(row["path"]) for row in rows]
        for row in rows:
            # Contours and segmentations have no role.
            if row["role"] or words[0] not in IMAGES_ALONE:
                series.setdefault(row["series_uid"], []).append(Path(row["path"]))
    for made in _given(words, "--made"):
        outcomes = read_parquet(made, ["outputs"])["outputs"].to_pylist()
        for output in (output for outputs in outcomes for output in outputs):
            series[output] = [made.absolute().parents[3] / output]
    folders = [*_given(words, "--catalog"), *_given(words, "--out")]
    results = [
        *_given(words, "--results"),
        *(p.absolute().parents[2] for p in _given(words, "--cases")),
    ]
    for folder in results:
        folders += [folder / "pacs", folder / "catalog", folder.parent / "catalog"]
    for table in {folder / "series.parquet" for folder in folders}:
        if table.is_file():
            column = read_parquet(table, ["PatientID"])["PatientID"]
            identifiers |= {text for text in pc.unique(column).to_pylist() if text}
    return identifiers, files, list(series.values())


@contextmanager
def redacted_output(words: Sequence[str]) -> Iterator[None]:
    """Have what is printed in the block go through the redactor of a job.

    Args:
        words: what was typed after ``jipflow``.
    """
    job = JobRedactor(words)
    # A log takes both, in the order in which they come.
    streams = [(1, 2)] if os.path.sameopenfile(1, 2) else [(1,), (2,)]
    _job.append(job)
    try:
        with ExitStack() as redirected:
            for descriptors in streams:
                redirected.enter_context(_redirected(descriptors, job))
            try:
                yield
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
    finally:
        _job.pop()


@contextmanager
def _redirected(descriptors: Sequence[int], job: Redact) -> Iterator[None]:
    """Send what is written to descriptors, which are of one file, through a redactor."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(descriptors[0])
    reading, writing = os.pipe()
    thread = threading.Thread(target=_pass_on, args=(reading, kept, job), daemon=True)
    thread.start()
    for descriptor in descriptors:
        os.dup2(writing, descriptor)
    try:
        yield
    finally:
        for descriptor in descriptors:
            os.dup2(kept, descriptor)
        # Processes that live on may hold the pipe open, so that its end never comes.
        os.write(writing, _END)
        thread.join()
        for descriptor in (kept, reading, writing):
            os.close(descriptor)


def _pass_on(reading: int, target: int, job: Redact) -> None:
    """Write what comes from a pipe, line by line, redacted, up to `_END`."""
    rest, ended = b"", b""
    while not ended and (chunk := os.read(reading, 1 << 16)):
        rest, ended, _ = (rest + chunk).partition(_END)
        cut = len(rest) if ended or len(rest) > _LONGEST else rest.rfind(b"\n") + 1
        lines, rest = rest[:cut].decode("utf-8", "backslashreplace"), rest[cut:]
        written = "".join(map(job, lines.splitlines(keepends=True))).encode()
        while written:
            written = written[os.write(target, written) :]

"""The audit trail of a site or a hub: a file of signed lines that is only appended to.

A line that was changed, removed, moved or put in breaks the chain (`jipflow.privacy.audit.lines`).
That lines at the end are missing shows from the outside: the results and each entry of the ledger
keep number and hash of a line, and a hub's messages are each in a line.
"""

from __future__ import annotations

import fcntl
import os
import pwd
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jipflow import __version__
from jipflow.exchange import keys
from jipflow.exchange.message import FIRST, canonical, checked, digest, now_text
from jipflow.files import json_text, read_json, write_json
from jipflow.privacy.audit.decisions import Decision
from jipflow.privacy.audit.events import (
    FACTS,
    Event,
    Facts,
    KeyChanged,
    LineCut,
    TrailResumed,
)
from jipflow.privacy.audit.lines import (
    Anchor,
    Entry,
    Line,
    Signed,
    TrailFault,
    check_anchor,
    fault,
    parsed,
    read_lines,
)
from jipflow.reasons import StageError
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import Settings

OWN = frozenset({Event.LINE_CUT, Event.KEY_CHANGED, Event.TRAIL_RESUMED})
"""What the trail notes of itself."""

LAST = "audit.json"
"""Name of the file of a results folder that says which line of the trail was the last."""


class Trail:
    """The audit trail of a site or a hub, of all its protocols.

    Args:
        path: of the file; it need not be there.
        key_file: the signing key of the site or hub, which is made on first use.
        results: folder for the results of all protocols, which says what the last line was.
    """

    def __init__(self, path: Path, key_file: Path, results: Path) -> None:
        self.path = Path(path)
        self.key_file = Path(key_file)
        self.results = Path(results)

    def lines(self) -> list[Line]:
        """Read every line, from the last resumption on; what a killed writer has left is noted.

        Raises:
            TrailFault: one was changed, removed, moved or put in.
            OSError: the file cannot be read, or the note not be written.
        """
        self._check_there()
        if not self.path.exists():
            return []
        with _alone(self.path) as descriptor:
            return self._whole(descriptor)

    def last(self) -> Anchor | None:
        """Return what others keep of the last line; None where there is none."""
        lines = self.lines()
        return lines[-1].anchor if lines else None

    def record(self, event: Event, facts: Mapping[str, Any]) -> bool:
        """Append what has happened, unless the last line about the same subject says so already.

        The line is on the disk when this returns. Of several processes one writes at a time.

        Args:
            event: what has happened.
            facts: of the event, those of its class in `FACTS`.

        Returns:
            Whether anything was appended.

        Raises:
            ValueError: the event is one that the trail notes of itself.
            TrailFault: the trail is not as it was written; nothing is appended.
            ConfigError: the facts are not those of the event.
            OSError: it cannot be written, as on a full disk; nothing is appended.
        """
        return self.record_all([(event, facts)]) == 1

    def record_all(self, happened: Iterable[tuple[Event, Mapping[str, Any]]]) -> int:
        """Append what has happened, all or nothing; as `record` does of one event.

        Returns:
            How many lines were appended, beside those of the trail itself.
        """
        new: list[tuple[Event, Facts]] = []
        for event, facts in happened:
            if event in OWN:
                raise ValueError(f"{event} is noted by the trail itself")
            new.append((event, checked(FACTS[event], facts, f"audit trail: {event}")))
        if not new:
            return 0
        self._check_there()
        with _alone(self.path) as descriptor:
            lines = self._whole(descriptor)
            unknown = list(_unknown(lines, new))
            if unknown:
                self._append(descriptor, lines[-1:], unknown)
            elif lines:
                self._keep(lines[-1].anchor)
        return len(unknown)

    def resume(
        self,
        *,
        name: str,
        key_file: Path,
        reason: str,
        anchors: Mapping[str, Anchor] | None = None,
        check: Callable[[Sequence[Line]], object] = lambda lines: None,
    ) -> Decision:
        """Let a trail go on that is not whole; what was found stays in the file as it is.

        Args:
            name: of the person who decides.
            key_file: the person's private key.
            reason: what has happened and why it may go on.
            anchors: which lines others than the results speak of, by who does.
            check: raises a `TrailFault` where the lines are not all that there must be.

        Raises:
            StageError: nothing is wrong with it.
            ConfigError: name or reason is none.
        """
        with _alone(self.path) as descriptor:
            content = _content(descriptor)
            others = anchors or {}
            try:
                lines, _ = self._found(content)
                for keeper, anchor in others.items():
                    check_anchor(self.path, lines, anchor, keeper)
                check(lines)
            except TrailFault as wrong:
                found = str(wrong)[:4000]
            else:
                raise StageError(f"Nothing is wrong with the audit trail {self.path}.")
            end = b"\n" if content and not content.endswith(b"\n") else b""
            key = keys.load_key(key_file)
            decided = {
                "person": name,
                "key": keys.public_text(key),
                "reason": reason,
                "found": found,
                "bytes": len(content + end),
                "sha256": digest(content + end),
            }
            decision = checked(Decision, decided, "resumption")
            signature = keys.sign(key, canonical(decision.plain()))
            facts = TrailResumed(decision=decision, signature=signature)
            number = self._free(content, list(others.values()))
            self._append(descriptor, [], [(Event.TRAIL_RESUMED, facts)], end, number)
        return decision

    def _check_there(self) -> None:
        """Check that there is a file, if the results speak of one; else none shall be made."""
        if not self.path.exists() and _anchor(self.path, self.results) is not None:
            raise fault(
                self.path,
                f"it is not there, and {self.results / LAST} speaks of it; a relative path counts "
                "from the folder that the runs are started in",
            )

    def _whole(self, descriptor: int) -> list[Line]:
        """Return the lines; first what a writer that was cut off has left is noted, if so."""
        lines, cut = self._found(_content(descriptor))
        if not cut:
            return lines
        noted = LineCut(bytes=len(cut), sha256=digest(cut))
        self._append(descriptor, lines[-1:], [(Event.LINE_CUT, noted)], b"\n")
        return self._found(_content(descriptor))[0]

    def _found(self, content: bytes) -> tuple[list[Line], bytes]:
        """Return the lines of the file and what a writer that was cut off has left."""
        lines, cut = read_lines(content, self.path)
        check_results(self.path, lines, self.results)
        return lines, cut

    def _free(self, content: bytes, anchors: Sequence[Anchor]) -> int:
        """Return a number that no line of a trail that is not whole had, as far as can be seen."""
        seen = [line.entry.number for line in map(parsed, content.split(b"\n")) if line]
        seen += [anchor.number for anchor in anchors]
        with suppress(TrailFault):
            kept = _anchor(self.path, self.results)
            seen += [kept.number] if kept else []
        return max(seen, default=0) + 1

    def _append(
        self,
        descriptor: int,
        before: Sequence[Line],
        happened: Sequence[tuple[Event, Facts]],
        start: bytes = b"",
        number: int = 1,
    ) -> None:
        """Write entries, and first one that another key signs than before, if so.

        Args:
            descriptor: of the file, which no other process has.
            before: the last line; none of a trail that begins.
            happened: events with their facts; one at least.
            start: bytes before the first line.
            number: of the first line of a trail that begins.
        """
        key = keys.load_or_create_key(self.key_file)
        public = keys.public_text(key)
        last = before[0] if before else None
        if last and last.entry.key != public:
            change = KeyChanged(old=last.entry.key, new=public)
            happened = [(Event.KEY_CHANGED, change), *happened]
        written = start
        for what, content in happened:
            now = now_text()
            entry = Entry(
                number=last.entry.number + 1 if last else number,
                previous=last.sha256 if last else FIRST,
                time=now,
                clock_set_back=last is not None and now < last.entry.time,
                actor=_actor(),
                version=__version__,
                key=public,
                event=what,
                facts=content.plain(),
            )
            signature = keys.sign(key, canonical(entry.plain()))
            text = canonical(Signed(entry=entry, signature=signature).plain())
            last = Line(entry, signature, content, digest(text))
            written += text + b"\n"
        assert last is not None
        _write(descriptor, written)
        self._keep(last.anchor)

    def _keep(self, last: Anchor) -> None:
        """Have the results keep which line is the last, whatever they kept before."""
        path = self.results / LAST
        text = json_text(last.plain())
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_json(path, last.plain())


def site_trail(settings: Settings, results: Path) -> Trail:
    """Return the audit trail of a site.

    Args:
        settings: of a run.
        results: folder for the results of all protocols.
    """
    identity = settings.site.identity
    return Trail(Path(identity.audit_file), Path(identity.signing_key_file), results)


def record(trail: Trail, event: Event, facts: Mapping[str, Any]) -> bool:
    """Append what has happened to a trail; see `Trail.record`."""
    return trail.record(event, facts)


def read_trail(path: Path) -> list[Line]:
    """Read a trail, from the last resumption on; none where there is no file.

    Args:
        path: the file, which is not written.

    Raises:
        TrailFault: a line was changed, removed, moved or put in, or the last one is cut off.
        OSError: the file cannot be read.
    """
    content = _settled(path)
    lines, cut = read_lines(content, path)
    if cut:
        number = content.count(b"\n") + 1
        raise fault(
            path,
            f"line {number} is cut off. If a job was killed while it wrote, the next job of the "
            "site notes that and goes on",
        )
    return lines


def signed_lines(path: Path, event: Event | None = None) -> list[Line]:
    """Return every line of a trail that has a signature, whole or not; their order proves nothing.

    Args:
        path: of the file; there may be none.
        event: of the lines; all by default.

    Raises:
        OSError: the file cannot be read.
    """
    named = b"" if event is None else f'"{event}"'.encode()
    texts = (text for text in _settled(path).split(b"\n") if named in text)
    found = [line for line in map(parsed, texts) if line]
    return [line for line in found if event in {None, line.entry.event}]


def _settled(path: Path) -> bytes:
    """Read a trail, when no process writes a line of it; nothing where there is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH)
        return _content(descriptor)
    finally:
        os.close(descriptor)


def check_results(path: Path, lines: Sequence[Line], results: Path) -> None:
    """Check that a trail has the line that results speak of, if they speak of one.

    Args:
        path: of the trail.
        lines: of it.
        results: folder for the results of all protocols.

    Raises:
        TrailFault: it does not.
    """
    check_anchor(path, lines, _anchor(path, results), str(results / LAST))


def _anchor(path: Path, results: Path) -> Anchor | None:
    """Return which line was the last, as results keep it; None where they keep none."""
    kept = results / LAST
    try:
        return checked(Anchor, read_json(kept), str(kept))
    except FileNotFoundError:
        return None
    except (ValueError, ConfigError):
        raise fault(path, f"{kept} is damaged") from None


def _unknown(
    lines: Sequence[Line], new: Iterable[tuple[Event, Facts]]
) -> Iterator[tuple[Event, Facts]]:
    """Yield what the last line about the same subject does not say already."""
    last = {_about(line.entry.event, line.facts): line.facts for line in lines}
    for event, facts in new:
        about = _about(event, facts)
        if last.get(about) != facts:
            last[about] = facts
            yield event, facts


def _about(event: Event, facts: Facts) -> tuple[Any, ...]:
    """Return what an event is about, as its subject says."""
    return event, *(getattr(facts, name) for name in facts.subject)


@contextmanager
def _alone(path: Path) -> Iterator[int]:
    """Give the file to read and append to, while no other process has it; it is made if need be."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield descriptor
        if not there:
            _sync_folder(path.parent)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Have a file's name survive a power cut as its content does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    """Read a file whole; another descriptor of it, once closed, would give up the lock."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _write(descriptor: int, data: bytes) -> None:
    """Append bytes, all or none, as far as the process lives to see to it."""
    size = os.fstat(descriptor).st_size
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _actor() -> str:
    """Return the account that this process runs as; the environment is not asked."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"

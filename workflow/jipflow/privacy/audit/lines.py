"""The lines of an audit trail: their form, their chain, and what is wrong with one.

Each line is canonical JSON (RFC 8785): an entry, and its signature by the site's key (Ed25519). An
entry has its number and the hash of the line before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from jipflow.exchange import keys
from jipflow.exchange.message import FIRST, Sha256, Time, Version, canonical, digest
from jipflow.privacy.audit.events import (
    FACTS,
    Event,
    Facts,
    KeyChanged,
    LineCut,
    SignatureText,
    TrailResumed,
)
from jipflow.reasons import StageError
from jipflow.settings.hub import PublicKey
from jipflow.settings.part import Part

Number = Annotated[int, Field(ge=1, lt=2**53)]


class TrailFault(StageError):
    """The audit trail is not as it was written; no job goes on."""


class Anchor(Part):
    """Which line of the trail was there."""

    number: Number
    sha256: Sha256
    """Hash of the line."""


class Entry(Part):
    """One entry of the trail."""

    format: Literal["jipflow-audit-1"] = "jipflow-audit-1"
    number: Number
    previous: Sha256
    """Hash of the line before; `FIRST` of the first one."""
    time: Time
    clock_set_back: bool
    """Whether the line before is of a later time."""
    actor: Annotated[str, Field(min_length=1, max_length=100)]
    """Account of the machine that wrote it."""
    version: Version
    """jipflow's."""
    key: PublicKey
    """That signs."""
    event: Event
    facts: dict[str, Any]


class Signed(Part):
    """What a line holds."""

    entry: Entry
    signature: SignatureText
    """Of the entry's canonical JSON."""


@dataclass(frozen=True)
class Line:
    """A line as it was read.

    Attributes:
        entry: what it says.
        signature: of it.
        facts: of its event.
        sha256: hash of its bytes.
    """

    entry: Entry
    signature: str
    facts: Facts
    sha256: str

    @property
    def anchor(self) -> Anchor:
        """What others keep of the line."""
        return Anchor(number=self.entry.number, sha256=self.sha256)

    def text(self) -> str:
        """Return the line for a person."""
        entry = self.entry
        clock = " (the clock was set back)" if entry.clock_set_back else ""
        event = entry.event.replace("_", " ")
        start = f"{entry.number:06d} {entry.time}{clock} {entry.actor} "
        return f"{start}{event}: {self.facts.sentence()}"

    @property
    def resumes(self) -> bool:
        """Whether the trail goes on with it by a person's word."""
        return self.entry.event == Event.TRAIL_RESUMED


def check_anchor(path: Path, lines: Sequence[Line], anchor: Anchor | None, keeper: str) -> None:
    """Check that a line is there of which others have kept number and hash.

    Args:
        path: of the trail.
        lines: that it has, from the last resumption on: what was before it was let go.
        anchor: what was kept; None where nothing was.
        keeper: who kept it.

    Raises:
        TrailFault: it is not there, or another one.
    """
    start = lines[0] if lines else None
    let_go = anchor and start and start.resumes and anchor.number < start.entry.number
    if anchor is None or let_go:
        return
    found = [line for line in lines if line.entry.number == anchor.number]
    if not found:
        raise fault(path, f"entry {anchor.number} is missing, which {keeper} speaks of")
    if found[0].anchor != anchor:
        raise fault(path, f"entry {anchor.number} is another one than {keeper} speaks of")


def check_keys(path: Path, lines: Sequence[Line], public: Sequence[str]) -> None:
    """Check that no other keys than the site's have signed, and the present one the last line.

    Args:
        path: of the trail.
        lines: of it.
        public: the keys that the site has had, in their order, the present one last.

    Raises:
        TrailFault: another key has signed.
    """
    for line in lines:
        if line.entry.key not in public:
            signer = f"{line.entry.key}, which is none of the keys that you named as the site's"
            raise fault(path, f"entry {line.entry.number} is signed by {signer}")
    if lines and lines[-1].entry.key != public[-1]:
        raise fault(path, f"its last entry is not signed by {public[-1]}, but an earlier key")


def fault(path: Path, what: str) -> TrailFault:
    """Return the error of a trail that is not whole."""
    return TrailFault(
        f"The audit trail {path} is not whole: {what}. Restore it from its backup; if there is "
        "none, a person decides in writing that it goes on: jipflow audit resume."
    )


def read_lines(content: bytes, path: Path) -> tuple[list[Line], bytes]:
    """Return the lines of a file, from the last resumption on, and what is cut off at its end.

    Raises:
        TrailFault: a line was changed, removed, moved or put in.
    """
    start = _resumed_at(content)
    begun = content.count(b"\n", 0, start)
    *texts, cut = content[start:].split(b"\n")
    lines: list[Line] = []
    broken: dict[int, bytes] = {}
    for place, text in enumerate(texts, begun + 1):
        line = parsed(text)
        if line is None:
            broken[place] = text
            continue
        wrong = _wrong_place(lines, line, cut=bool(broken))
        if broken and (wrong or not _explains(line, b"\n".join(broken.values()))):
            break
        if wrong:
            raise fault(path, f"line {place} {wrong}")
        if line.entry.event == Event.LINE_CUT:
            broken = {}
        lines.append(line)
    else:
        if cut:
            return lines, b"\n".join([*broken.values(), cut])
    if broken:
        raise fault(path, f"line {min(broken)} is not as it was written")
    return lines, b""


def _explains(line: Line, broken: bytes) -> bool:
    """Return whether a line may stand behind what is no line."""
    if line.entry.event == Event.KEY_CHANGED:
        return True
    return line.facts == LineCut(bytes=len(broken) or 1, sha256=digest(broken))


def _wrong_place(lines: Sequence[Line], line: Line, cut: bool) -> str:
    """Return why a line may not follow those before it; empty where it may.

    Args:
        lines: those before it.
        line: the line.
        cut: whether bytes of a writer that was cut off stand before it.
    """
    entry, facts = line.entry, line.facts
    if entry.event == Event.TRAIL_RESUMED:
        return "is a resumption of other bytes than stand before it" if lines else ""
    if entry.event == Event.LINE_CUT and not cut:
        return "speaks of bytes before it that are not there"
    if not lines:
        begins = entry.number == 1 and entry.previous == FIRST
        return "" if begins else f"is entry {entry.number}: those before it are missing"
    last = lines[-1]
    if entry.number != last.entry.number + 1 or entry.previous != last.sha256:
        return f"is entry {entry.number}, and does not follow entry {last.entry.number}"
    changed = facts == KeyChanged(old=last.entry.key, new=entry.key)
    if changed != (entry.key != last.entry.key):
        return "is signed by another key than the line before it"
    return ""


def _resumed_at(content: bytes) -> int:
    """Return where the last resumption stands that is of the bytes before it; else 0."""
    offset, found = 0, 0
    for text in content.split(b"\n"):
        line = parsed(text) if b'"trail_resumed"' in text else None
        if line and isinstance(line.facts, TrailResumed):
            made = line.facts.decision
            signed = keys.verifies(made.key, line.facts.signature, canonical(made.plain()))
            if signed and (made.bytes, made.sha256) == (offset, digest(content[:offset])):
                found = offset
        offset += len(text) + 1
    return found


def parsed(text: bytes) -> Line | None:
    """Return a line that is in its form and has the signature of the key that it names."""
    try:
        signed = Signed.model_validate_json(text)
        facts = FACTS[signed.entry.event].model_validate(signed.entry.facts)
    except ValidationError:
        return None
    entry = signed.entry
    if canonical(signed.plain()) != text or facts.plain() != entry.facts:
        return None
    if not keys.verifies(entry.key, signed.signature, canonical(entry.plain())):
        return None
    return Line(entry, signed.signature, facts, digest(text))

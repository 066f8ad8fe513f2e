"""The bundles of an inbox: which count, and why the others do not."""

from __future__ import annotations

import hashlib
import stat
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jipflow.exchange.message import LIMITS
from jipflow.files import read_json, write_json
from jipflow.hub.refusals import Refusal, Refused
from jipflow.hub.settings import HubSettings
from jipflow.hub.verify import verify
from jipflow.release.contents import Aggregates, Disclosure, formats

OVERHEAD = 64 * 1024
"""Most bytes of a bundle beside its members."""


@dataclass(frozen=True)
class Accepted:
    """A message that counts.

    Attributes:
        file: name of the bundle in the inbox.
        sha256: its hash.
        site: who sent it.
        attempt: counts what the site sent in this round.
        approver: name of the person who approved it.
        issued: time of the approval (UTC).
        version: jipflow's version at the site.
        aggregates: the numbers.
        disclosure: the record of the site's gate.
    """

    file: str
    sha256: str
    site: str
    attempt: int
    approver: str
    issued: str
    version: str
    aggregates: Aggregates
    disclosure: Disclosure

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of ``accepted.json``."""
        return {
            **{name: value for name, value in vars(self).items() if name not in _CONTENTS},
            **{name: getattr(self, name).plain() for name in _CONTENTS},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Accepted:
        """Return the message of an entry of ``accepted.json``."""
        known = formats()
        return cls(
            **{name: value for name, value in content.items() if name not in _CONTENTS},
            aggregates=known.aggregates.model_validate(content["aggregates"]),
            disclosure=known.disclosure.model_validate(content["disclosure"]),
        )


_CONTENTS = ("aggregates", "disclosure")


@dataclass(frozen=True)
class RejectedBundle:
    """A file that does not count.

    Attributes:
        file: its name in the inbox.
        sha256: its hash; None where it was not read.
        reason: code of the `Refusal`.
        meaning: the code in words.
        detail: which member, name or number.
    """

    file: str
    sha256: str | None
    reason: str
    meaning: str
    detail: str


def accept(*, inbox: Path, settings: HubSettings) -> tuple[list[Accepted], list[RejectedBundle]]:
    """Verify every bundle of the inbox.

    A bad bundle is rejected as a whole and never stops the others. The result is a function of the
    files in the inbox and the settings alone: the same inbox gives the same result again.

    Args:
        inbox: folder; its files ``*.zip`` are the bundles, their names do not matter.
        settings: of the hub.

    Returns:
        The messages that count sorted by site, and the rejected files sorted by name.

    Raises:
        OSError: a file cannot be read, which says nothing about what the site sent.
        MemoryError: likewise.
    """
    accepted: list[Accepted] = []
    rejected: list[RejectedBundle] = []
    for path in sorted(Path(inbox).glob("*.zip")):
        digest = None
        try:
            raw = _read_bundle(path)
            digest = hashlib.sha256(raw).hexdigest()
            accepted.append(_accepted(path.name, digest, raw, settings))
        except Refused as refused:
            rejected.append(_rejection(path.name, digest, refused.refusal, refused.detail))
        except (OSError, MemoryError):
            raise
        # What a hostile file may raise in a parser cannot be listed; it must not stop the others.
        except Exception as error:
            detail = type(error).__name__
            rejected.append(_rejection(path.name, digest, Refusal.UNREADABLE, detail))
    latest, outdated = _latest_attempts(accepted)
    return latest, sorted(rejected + outdated, key=lambda entry: entry.file)


def write_accepted(path: Path, accepted: Sequence[Accepted]) -> None:
    """Write ``accepted.json``."""
    write_json(path, [entry.as_dict() for entry in accepted])


def read_accepted(path: Path) -> list[Accepted]:
    """Read ``accepted.json``."""
    return [Accepted.from_dict(entry) for entry in read_json(path)]


def write_rejected(path: Path, rejected: Sequence[RejectedBundle]) -> None:
    """Write ``rejected.json``."""
    write_json(path, [asdict(entry) for entry in rejected])


def read_rejected(path: Path) -> list[RejectedBundle]:
    """Read ``rejected.json``."""
    return [RejectedBundle(**entry) for entry in read_json(path)]


def _accepted(file: str, digest: str, raw: bytes, settings: HubSettings) -> Accepted:
    bundle = verify(raw, settings)
    manifest = bundle.manifest
    return Accepted(
        file=file,
        sha256=digest,
        site=manifest.sender,
        attempt=manifest.attempt,
        approver=manifest.approver.name,
        issued=manifest.issued,
        version=manifest.version,
        aggregates=bundle.aggregates,
        disclosure=bundle.disclosure,
    )


def _rejection(name: str, digest: str | None, refusal: Refusal, detail: str) -> RejectedBundle:
    return RejectedBundle(name, digest, refusal.value, refusal.meaning, detail[:300])


def _latest_attempts(messages: Sequence[Accepted]) -> tuple[list[Accepted], list[RejectedBundle]]:
    """Keep the latest attempt of each site, and say of the others why they do not count."""
    by_site: dict[str, list[Accepted]] = defaultdict(list)
    for entry in messages:
        by_site[entry.site].append(entry)
    latest, outdated = [], []
    for site in sorted(by_site):
        last = max(entry.attempt for entry in by_site[site])
        current = [entry for entry in by_site[site] if entry.attempt == last]
        for entry in by_site[site]:
            if entry.attempt < last:
                detail = f"attempt {last} of {site} is there"
                outdated.append((entry, Refusal.SUPERSEDED, detail))
        if len({entry.sha256 for entry in current}) > 1:
            detail = f"attempt {last} of {site}; the site must send attempt {last + 1}"
            outdated += [(entry, Refusal.ATTEMPT_CONFLICT, detail) for entry in current]
        else:
            latest.append(current[0])
            detail = f"same bytes as {current[0].file}"
            outdated += [(entry, Refusal.REPLAY, detail) for entry in current[1:]]
    return latest, [
        _rejection(entry.file, entry.sha256, refusal, detail) for entry, refusal, detail in outdated
    ]


def _read_bundle(path: Path) -> bytes:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Refused(Refusal.NOT_A_FILE)
    largest = sum(LIMITS.values()) + OVERHEAD
    with path.open("rb") as stream:
        raw = stream.read(largest + 1)
    if len(raw) > largest:
        raise Refused(Refusal.OVERSIZED_BUNDLE, f"more than {largest} bytes")
    return raw

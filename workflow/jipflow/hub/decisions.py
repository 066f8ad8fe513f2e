"""What a hub decided about the bundles of a round: which count, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jipflow.exchange.inbox import one_line
from jipflow.exchange.refusals import Refusal
from jipflow.files import read_json, write_json
from jipflow.release.contents import Aggregates, Disclosure, formats


@dataclass(frozen=True)
class Accepted:
    """A message that counts.

    Attributes:
        file: name of the message in the inbox; of the hub's own copy where it is gone from there.
        sha256: its hash.
        site: who sent it.
        attempt: counts what the site sent in this round.
        key: of the site's machine, which has signed it.
        approvals: of each person who approved it name, key and when.
        issued: when it was packed (UTC).
        version: jipflow's version at the site.
        aggregates: the numbers.
        disclosure: the record of the site's gate, of whose cells those are left of which parts
            were withheld.
        left_out: cells of a later round that do not go on from what the site sent before, and are
            not among the numbers.
    """

    file: str
    sha256: str
    site: str
    attempt: int
    key: str
    approvals: Sequence[Mapping[str, str]]
    issued: str
    version: str
    aggregates: Aggregates
    disclosure: Disclosure
    left_out: Sequence[str] = ()

    @property
    def approver(self) -> str:
        """Names of the persons who approved it."""
        return " and ".join(each["person"] for each in self.approvals)

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

    @classmethod
    def of(cls, file: str, sha256: str | None, refusal: Refusal, detail: str) -> RejectedBundle:
        """Return a rejection whose words fit into one line."""
        return cls(one_line(file), sha256, refusal.value, refusal.meaning, one_line(detail)[:300])


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

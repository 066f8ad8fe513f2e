"""What the gate's rules are, and what they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jipflow.analyses.cells import Values
    from jipflow.analyses.facts import Column


class Finding(StrEnum):
    """What a rule found for a cell; `Rule.partly` is a further one."""

    PASSED = "passed"
    WITHHELD = "withheld"
    NOT_APPLIED = "not applied"


@dataclass(frozen=True)
class Rule:
    """A rule of the gate.

    Attributes:
        code: its stable name.
        meaning: the sentence that the releaser and the hub read.
        parts: what it may withhold of a cell that leaves, in the plural; empty where it withholds
            cells only. The record names them under ``withheld_<parts>``.
        of: what the cells are called that have such parts, in the plural.
        because: why it withholds, in a few words that go on from ``because``.
    """

    code: str
    meaning: str
    parts: str = ""
    of: str = ""
    because: str = ""

    @property
    def partly(self) -> str:
        """What the rule found for a cell of which it withheld parts."""
        return f"some {self.parts} withheld"

    @property
    def findings(self) -> tuple[str, ...]:
        """Everything that the rule may find."""
        return (*Finding, self.partly) if self.parts else tuple(Finding)


@dataclass(frozen=True)
class Withheld:
    """A rule keeps a cell back."""

    rule: Rule


@dataclass(frozen=True)
class Passed:
    """A cell may leave as far as its kind's own rules go.

    Attributes:
        numbers: what leaves beside the key and the number of patients.
        parts: what rules withheld of it, by rule; each rule that has parts is there.
        stays: what the cell's values have become, which the site keeps for itself; None where the
            kind makes no values.
        columns: those of a cell of several that leave, where it can leave without others; empty
            where all of them do.
    """

    numbers: Mapping[str, Any]
    parts: Mapping[Rule, Sequence[str | int]] = field(default_factory=dict)
    stays: Values | None = None
    columns: Sequence[Column] = ()

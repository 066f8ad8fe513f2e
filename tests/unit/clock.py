"""The clock that highdicom reads, set to another year."""

from __future__ import annotations

import datetime
from types import ModuleType

import pytest

MODULES = ("highdicom.base", "highdicom.base_content", "highdicom.sr.sop")


def set_clock(monkeypatch: pytest.MonkeyPatch, year: int) -> list[int]:
    """Let highdicom's clock stand still in a year; return a list that grows when it is read."""
    reads: list[int] = []

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Clock:
            reads.append(year)
            return cls(year, 2, 3, 4, 5, 6, tzinfo=tz)

    module = ModuleType("datetime")
    vars(module).update(vars(datetime) | {"datetime": Clock})
    for name in MODULES:
        monkeypatch.setattr(f"{name}.datetime", module)
    return reads

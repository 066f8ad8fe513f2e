"""Segments that are not what the protocol expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jipflow.reasons import Flag
from jipflow.report import pages
from jipflow.report.site.run import Run
from jipflow.settings.protocol import Expectation

MAX_FLAG_ROWS = 300


@dataclass(frozen=True)
class FlagCount:
    """How many segments and cases have a flag."""

    flag: str
    meaning: str
    segments: int
    cases: int


@dataclass(frozen=True)
class FlagRow:
    """A flag of a segment: what was found, and what the protocol expects."""

    case_id: str
    segmentation: str
    segment: str
    flag: str
    found: str
    expected: str


@dataclass(frozen=True)
class Quality:
    """What the section shows.

    Attributes:
        expected: whether the protocol expects something of any segment.
        segments: how many segments it expects something of, in all cases.
        tally: each flag, the most frequent first.
        rows: one a flag, by case; those that are shown.
        all: how many there are.
    """

    expected: bool
    segments: int
    tally: list[FlagCount]
    rows: list[FlagRow]
    all: int


def section(run: Run) -> Quality:
    """Count the flags of segments, and say of each what was found and what was expected."""
    expectations = {
        (spec.id, segment.name): segment.expect
        for spec in run.segmentations
        for segment in spec.segments
        if segment.expect
    }
    units = {spec.id: run.intensity_unit(spec.role) or "" for spec in run.segmentations}
    entries = [] if run.quality is None else run.quality.to_dict("records")
    checked = [e for e in entries if (e["segmentation"], e["segment"]) in expectations]
    rows = []
    for entry in checked:
        case_id, owner, segment = (entry[k] for k in ("case_id", "segmentation", "segment"))
        for code in entry["flags"]:
            words = _flag_words(code, entry, expectations[owner, segment], units[owner])
            rows.append(FlagRow(case_id, owner, segment, code, *words))
    return Quality(
        expected=bool(expectations),
        segments=len(checked),
        tally=_tally(rows),
        rows=rows[:MAX_FLAG_ROWS],
        all=len(rows),
    )


def _tally(rows: Iterable[FlagRow]) -> list[FlagCount]:
    counts = []
    for flag in Flag:
        cases = [row.case_id for row in rows if row.flag == flag]
        if cases:
            counts.append(FlagCount(flag.value, flag.meaning, len(cases), len(set(cases))))
    return sorted(counts, key=lambda count: -count.segments)


def _flag_words(
    code: str, entry: Mapping[Any, Any], expect: Expectation, unit: str
) -> tuple[str, str]:
    """Return what was found of a flagged segment, and what was expected, for reading."""
    if code == Flag.IMPLAUSIBLE_VOLUME:
        return _against(entry["volume_ml"], expect.volume_ml, "ml")
    if code == Flag.IMPLAUSIBLE_INTENSITY:
        return _against(entry["mean"], expect.intensity, unit)
    if code == Flag.MANY_COMPONENTS:
        most = pages.count(expect.components)
        return f"{pages.count(entry['components'])} pieces", f"at most {most}"
    if code == Flag.TOUCHES_BORDER:
        return "at the border", "away from it"
    return f"{entry['disagreement']:.2f}", f"at most {expect.disagreement:g}"


def _against(value: float, limits: Sequence[float] | None, unit: str) -> tuple[str, str]:
    assert limits, "a flag is of what the protocol expects"
    low, high = (f"{limit:g}".replace("-", "−") for limit in limits)
    return f"{pages.number(value)} {unit}".strip(), f"{low} to {high} {unit}".strip()

"""The flow from the series found to the cases that went all the way; whom the numbers are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jipflow.files import read_json
from jipflow.outcomes import Outcome, Status, passed
from jipflow.report.site.run import Run, scanner

Counts = list[tuple[str, int]]


@dataclass
class Box:
    """A box of the flow, and what left on the way to it.

    Attributes:
        label: its title.
        counts: word and number of what is in it, such as ``("cases", 3)``.
        left: word and number of what left.
        reasons: reason code and cases, the most frequent first.
        waiting: how many of the cases that left wait for a person.
        incomplete: whether those that left did so with some items only; their other items go on.
    """

    label: str
    counts: Counts
    left: Counts = field(default_factory=list)
    reasons: Counts = field(default_factory=list)
    waiting: int = 0
    incomplete: bool = False


@dataclass(frozen=True)
class Measured:
    """Whom a segmentation was measured in: these go into the release.

    Attributes:
        role: the series that it was measured on.
        segmentation: its id.
        cases: cases that were measured.
        incomplete: those of them of which another item failed or waits.
        patients: patients of the cases.
        segments: each segment with the number of cases that have it.
    """

    role: str
    segmentation: str
    cases: int
    incomplete: int
    patients: int
    segments: list[tuple[str, int]]


@dataclass(frozen=True)
class Cohort:
    """What the section shows.

    Attributes:
        flow: the boxes from top to bottom.
        measured: whom each segmentation was measured in.
        scanners: role, scanner and number of series.
    """

    flow: list[Box]
    measured: list[Measured]
    scanners: list[tuple[str, str, int]]


def section(run: Run) -> Cohort:
    """Read the flow and count the scanners."""
    flow = read_json(run.results / "cohort" / "flow.json")
    tally = Counter((image["role"], scanner(image)) for image in run.images)
    return Cohort(
        cohort_flow(flow, run.outcomes, run.stages),
        list(measured(run)),
        sorted((role, name, number) for (role, name), number in tally.items()),
    )


def measured(run: Run) -> Iterator[Measured]:
    """Count for each radiomics entry of the protocol whom it was measured in.

    A case of which an item failed contributes what did not fail, as the release counts it.
    """
    patient_of = {image["case_id"]: image["patient"] for image in run.images}
    pairs = passed(o for o in run.outcomes if o.stage == "measure")
    incomplete = {o.case_id for o in run.outcomes if o.status is not Status.OK}
    for entry in run.settings.protocol.radiomics:
        cases = {case for case, item in pairs if item == entry.segmentation and case in patient_of}
        yield Measured(
            entry.role,
            entry.segmentation,
            len(cases),
            len(cases & incomplete),
            len({patient_of[case] for case in cases}),
            _segments(run, entry.role, entry.segmentation, cases),
        )


def _segments(run: Run, role: str, segmentation: str, cases: set[str]) -> list[tuple[str, int]]:
    """Count the cases that have each segment, in the protocol's order."""
    table = run.features
    tally: Counter[str] = Counter()
    if table is not None:
        here = (table["role"] == role) & (table["segmentation"] == segmentation)
        tally.update(table.loc[here & table["case_id"].isin(cases), "segment"])
    segments = run.settings.protocol.segmentation(segmentation).segments
    return [(segment.name, tally[segment.name]) for segment in segments]


def cohort_flow(
    flow: Mapping[str, Any], outcomes: Sequence[Outcome], stages: Iterable[str]
) -> list[Box]:
    """Turn the filter's counts and the outcomes into boxes, each with what left before it.

    After the filter's steps comes a box a stage that lost cases, and a last one with the cases
    that went all the way. A case is no longer complete from the first stage on where one of its
    items fails; its other items go on.

    Args:
        flow: content of ``flow.json``.
        outcomes: of the run.
        stages: after the cohort, in their order.
    """
    boxes = list(_filter_boxes(flow["steps"]))
    boxes[-1].reasons = _reasons([o for o in outcomes if o.stage == "cohort"])
    remaining = flow["steps"][-1].get("cases", 0)
    for stage, lost in _losses(outcomes, stages):
        cases = {o.case_id for o in lost}
        failed = {o.case_id for o in lost if o.status is not Status.WAITING}
        remaining -= len(cases)
        boxes.append(
            Box(
                f"Complete after {stage}",
                counts=[("cases", remaining)],
                left=[("cases", len(cases))],
                reasons=_reasons(lost),
                waiting=len(cases - failed),
                incomplete=True,
            )
        )
    return [*boxes, Box("Cases with every outcome ok", [("cases", remaining)])]


def _filter_boxes(steps: Iterable[Mapping[str, Any]]) -> Iterator[Box]:
    before: Mapping[str, Any] = {}
    for step in steps:
        yield Box(
            step["label"],
            counts=[(word, step[word]) for word in ("series", "patients", "cases") if word in step],
            left=[
                (word, before[word] - step[word])
                for word in ("series", "patients")
                if before.get(word, 0) > step.get(word, 0)
            ],
        )
        before = step


def _losses(
    outcomes: Sequence[Outcome], stages: Iterable[str]
) -> Iterator[tuple[str, list[Outcome]]]:
    """Yield each stage that lost cases with its outcomes of these; a case leaves only once."""
    bad = [o for o in outcomes if o.status is not Status.OK]
    gone = {o.case_id for o in bad if o.stage == "cohort"}
    for stage in stages:
        lost = [o for o in bad if o.stage == stage and o.case_id not in gone]
        gone |= {o.case_id for o in lost}
        if lost:
            yield stage, lost


def _reasons(outcomes: Iterable[Outcome]) -> Counts:
    """Count cases by reason, the most frequent first, without mere consequences."""
    seen = {(o.case_id, o.reason) for o in outcomes if o.status is not Status.OK and not o.follows}
    tally = Counter(reason for _, reason in seen)
    return sorted(tally.items(), key=lambda entry: (-entry[1], entry[0]))

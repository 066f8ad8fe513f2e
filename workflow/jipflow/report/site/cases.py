"""What became of each case at each stage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jipflow.outcomes import Outcome, Status
from jipflow.report.site.run import STAGES, Run, scanner

SEVERITY = {Status.OK: 0, Status.EXCLUDED: 1, Status.WAITING: 2, Status.FAILED: 3}
MAX_CASE_ROWS = 1000
"""What a browser still opens at once; everything is in the files beside the page."""


@dataclass
class CaseRow:
    """One line of the table of cases.

    Attributes:
        case_id: pseudonym of the case.
        patient: pseudonym of the patient; empty where the case never got one.
        images: roles by scanner.
        outcomes: what happened, in the order of the stages.
    """

    case_id: str
    patient: str = ""
    images: dict[str, list[str]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def status(self) -> Status:
        """The worst of the case's outcomes."""
        return max((o.status for o in self.outcomes), key=SEVERITY.__getitem__, default=Status.OK)

    @property
    def problems(self) -> list[Outcome]:
        """The outcomes that are not ok, causes before what merely followed from them."""
        bad = [o for o in self.outcomes if o.status is not Status.OK]
        return sorted(bad, key=lambda o: o.follows)

    @property
    def notes(self) -> list[Outcome]:
        """The outcomes that are ok but have something to say."""
        return [o for o in self.outcomes if o.status is Status.OK and o.message]

    @property
    def seconds(self) -> float:
        """Time that the case took in all stages."""
        return math.fsum(o.seconds for o in self.outcomes)

    @property
    def peak_mb(self) -> float:
        """Highest memory of any process that worked on the case."""
        return max((o.max_rss_mb for o in self.outcomes), default=0.0)

    def cell(self, stage: str) -> tuple[str, str]:
        """Return the status word and the text of the case's cell for a stage.

        Beside the words of `Status` there are ``none`` where no item reached the stage, and
        ``partial`` where all that did were ok but others had failed or wait before.
        """
        here = [o for o in self.outcomes if o.stage == stage]
        own = [o for o in here if not o.follows]
        if not own:
            return "none", "not reached"
        items = self.items(stage)
        good = sum(o.status is Status.OK for o in here)
        worst = max((o.status for o in own), key=SEVERITY.__getitem__)
        partly = f"{good} of {items} ok"
        if worst is Status.OK and good < items:
            return "partial", partly
        return worst.value, partly if 0 < good < items else worst.value

    def items(self, stage: str) -> int:
        """Return how many items the case has at a stage, also those that never came to it.

        The stage of the overlays draws what is there and writes no outcome for what is not; a
        picture belongs to each segmentation all the same.
        """
        expected = {stage, "segment"} if stage == "overlay" else {stage}
        return len({o.item for o in self.outcomes if o.stage in expected})


@dataclass(frozen=True)
class StageCount:
    """How many cases a stage reached, and what became of all their items there.

    Attributes:
        stage: its name for readers.
        cases: cases with an item that came to the stage.
        items: items of all cases, which the next five add up to.
        ok: those that succeeded.
        failed: those that failed here.
        waiting: those that wait for a person here.
        excluded: those that were excluded here.
        not_reached: those whose input failed or waits at an earlier stage.
    """

    stage: str
    cases: int
    items: int
    ok: int
    failed: int
    waiting: int
    excluded: int
    not_reached: int


@dataclass(frozen=True)
class Cases:
    """What the section shows.

    Attributes:
        rows: the cases that are shown.
        all: how many there are.
        stages: the stages' names by their keys.
        stage_counts: the table by stage.
    """

    rows: list[CaseRow]
    all: int
    stages: dict[str, str]
    stage_counts: list[StageCount]


def section(run: Run) -> Cases:
    """Gather the cases and count them by stage."""
    rows = case_rows(run.outcomes, run.images)
    return Cases(
        rows[:MAX_CASE_ROWS],
        len(rows),
        {stage: STAGES[stage] for stage in run.stages},
        stage_counts(rows, run.stages),
    )


def case_rows(outcomes: Iterable[Outcome], images: Iterable[dict[str, str]]) -> list[CaseRow]:
    """Gather the table of cases: failed first, then waiting, excluded and ok, each by case_id."""
    rows: dict[str, CaseRow] = {}
    for image in images:
        row = rows.setdefault(image["case_id"], CaseRow(image["case_id"]))
        row.patient = image["patient"]
        row.images.setdefault(image["model"] or scanner(image), []).append(image["role"])
    for outcome in outcomes:
        rows.setdefault(outcome.case_id, CaseRow(outcome.case_id)).outcomes.append(outcome)
    order = list(STAGES)
    for row in rows.values():
        row.outcomes.sort(key=lambda o: (order.index(o.stage), o.item))
    return sorted(rows.values(), key=lambda row: (-SEVERITY[row.status], row.case_id))


def stage_counts(cases: Sequence[CaseRow], stages: Iterable[str]) -> list[StageCount]:
    """Count the items of each stage: how many were ok, failed, wait or were excluded there.

    The cohort comes first, where a case is its own item.

    Args:
        cases: the table of cases.
        stages: after the cohort, in their order.
    """
    excluded = sum(row.status is Status.EXCLUDED for row in cases)
    entered = len(cases) - excluded
    first = StageCount(STAGES["cohort"], entered, len(cases), entered, 0, 0, excluded, 0)
    return [first, *(_stage_count(stage, cases) for stage in stages)]


def _stage_count(stage: str, cases: Sequence[CaseRow]) -> StageCount:
    own = [o for row in cases for o in row.outcomes if o.stage == stage and not o.follows]
    tally = Counter(o.status for o in own)
    items = sum(row.items(stage) for row in cases)
    return StageCount(
        STAGES[stage],
        cases=len({o.case_id for o in own}),
        items=items,
        ok=tally[Status.OK],
        failed=tally[Status.FAILED],
        waiting=tally[Status.WAITING],
        excluded=tally[Status.EXCLUDED],
        not_reached=items - len(own),
    )

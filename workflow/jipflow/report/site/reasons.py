"""Why cases failed, wait or were excluded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from jipflow.outcomes import Outcome, Status
from jipflow.report.site.run import STAGES, Run, meaning


@dataclass(frozen=True)
class ReasonCount:
    """How many items and cases have a reason at a stage."""

    stage: str
    status: str
    reason: str
    meaning: str
    items: int
    cases: int


def section(run: Run) -> list[ReasonCount]:
    """Count the run's reasons."""
    return reason_tally(run.outcomes)


def reason_tally(outcomes: Iterable[Outcome]) -> list[ReasonCount]:
    """Count items and cases by stage and reason, the most frequent first.

    Items whose input failed or waits at an earlier stage are no reason of their own and are left
    out.
    """
    items: dict[tuple[str, str, str], set[tuple[str, str]]] = defaultdict(set)
    for o in outcomes:
        if o.status is not Status.OK and not o.follows:
            items[(o.stage, o.status.value, o.reason)].add((o.case_id, o.item))
    table = [
        ReasonCount(
            STAGES[stage],
            status,
            reason,
            meaning(reason),
            items=len(found),
            cases=len({case for case, _ in found}),
        )
        for (stage, status, reason), found in items.items()
    ]
    order = list(STAGES.values())
    return sorted(table, key=lambda e: (-e.cases, order.index(e.stage), e.reason))

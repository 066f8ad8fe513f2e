"""Why cases failed, wait or were excluded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from jipflow.outcomes import Outcome, Status
from jipflow.reasons import Decision
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


@dataclass(frozen=True)
class DecisionCount:
    """How many items and cases a decision was taken on."""

    decision: str
    meaning: str
    items: int
    cases: int


@dataclass(frozen=True)
class Reasons:
    """Why cases are not ok, and what was decided on those that are."""

    tally: list[ReasonCount]
    decisions: list[DecisionCount]


def section(run: Run) -> Reasons:
    """Count the run's reasons and decisions."""
    return Reasons(reason_tally(run.outcomes), decision_tally(run.outcomes))


def decision_tally(outcomes: Iterable[Outcome]) -> list[DecisionCount]:
    """Count items and cases by decision, the most frequent first."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for outcome in outcomes:
        for code in outcome.decisions:
            found[code].add((outcome.case_id, outcome.item))
    meanings = {decision.value: decision.meaning for decision in Decision}
    counts = [
        DecisionCount(code, meanings.get(code, ""), len(items), len({case for case, _ in items}))
        for code, items in found.items()
    ]
    return sorted(counts, key=lambda count: (-count.cases, count.decision))


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

"""How a candidate differs from what left before, by the site's ledger: what a steward asks first.

The gate has compared the two patient by patient (`jipflow.release.history`). What is counted here
is for reading alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from jipflow.analyses.cells import CellKey
from jipflow.analyses.contract import analyses_of
from jipflow.analyses.facts import LedgerCell
from jipflow.exchange.message import PAGE, Round, Time, describe
from jipflow.files import write_json
from jipflow.release.approval import Signed
from jipflow.release.contents import REVIEW, Header, ReleaseError, State, read_built
from jipflow.release.cover import covering
from jipflow.release.history import Past
from jipflow.release.ledger import Kept
from jipflow.release.noise import NO_NOISE, Noisy, spent_by
from jipflow.release.revocation import NOBODY
from jipflow.release.terms import Terms
from jipflow.settings.part import Id, Part
from jipflow.settings.run import Settings

ALWAYS = datetime(1, 1, 1, tzinfo=UTC)
"""A time at which no approval is over: a build does not depend on its day, nor on what persons have
revoked, which a page says when it is written."""

EXAMPLES = 3
"""Most cells that are named of each sort."""


class Seen(StrEnum):
    """What left before of a cell that would leave: of one region and feature, by one kind."""

    SAME = "same"
    """The very same numbers."""
    PATIENTS = "patients"
    """Numbers of the very same patients."""
    OTHERS = "others"
    """Numbers of other patients."""
    NEW = "new"
    """Nothing."""


@dataclass(frozen=True)
class Difference:
    """What is different in a cell from what left before.

    Attributes:
        analysis: id of the analysis.
        key: what the cell is about.
        seen: what left of it before.
        joined: patients who were in none of the latest earlier cell.
        gone: patients of that one who are not in the cell.
    """

    analysis: str
    key: CellKey
    seen: Seen
    joined: int = 0
    gone: int = 0


class Before(Part):
    """What left the site before, and how many cells of the candidate are new beside it."""

    releases: Annotated[int, Field(ge=0)]
    """Of whatever protocol and hub, by the ledger."""
    last: Time | None
    """When the last was made."""
    cells: dict[Seen, int]
    """Cells that would leave, by what left of them before."""
    examples: dict[Seen, list[str]]
    """Some of them."""


class Covered(Part):
    """Whether the approval of the round before reaches the candidate, whatever day it is."""

    signed: list[Signed]
    """The statements by which the round before left."""
    why: list[str]
    """Why they do not reach it; empty where they do."""


class Budget(Part):
    """What cells with noise take of the budget of patients."""

    budget: float
    """Epsilon of a patient for ever."""
    takes: float
    """Epsilon that the candidate takes of a patient at most."""
    left: float
    """What the patient who has spent the most would have left."""
    left_out: Annotated[int, Field(ge=0)]
    """Patients who are left out of a cell, having too little left for it."""


class Review(Part):
    """What a steward reads of a candidate beside its numbers; it stays at the site."""

    asked: dict[Id, int] | None
    """Cells that the hub asks for, by analysis; None where it asks for all that there are."""
    before: Before
    covered: Covered | None
    """None in the first round."""
    rounds: dict[Id, Round]
    """Most rounds that each analysis takes."""
    noise: Budget | None = None
    """None where no cell leaves with noise."""


def differences(candidate: Past, pasts: Sequence[Past]) -> list[Difference]:
    """Return how each cell of a candidate differs from what left before, in their order.

    Args:
        candidate: what stands behind it.
        pasts: what left, in its order.
    """
    earlier: dict[tuple[str, CellKey], list[LedgerCell]] = defaultdict(list)
    for past in pasts:
        for cell in past.left:
            earlier[cell.kind, cell.key].append(cell)
    return [_difference(cell, earlier[cell.kind, cell.key]) for cell in candidate.left]


def _difference(cell: LedgerCell, earlier: Sequence[LedgerCell]) -> Difference:
    if not earlier:
        return Difference(cell.analysis, cell.key, Seen.NEW)
    content = (cell.released, cell.heading)
    if any((other.released, other.heading) == content for other in earlier):
        return Difference(cell.analysis, cell.key, Seen.SAME)
    now = cell.values.cases
    if any(other.values.cases == now for other in earlier):
        return Difference(cell.analysis, cell.key, Seen.PATIENTS)
    then = earlier[-1].values.cases
    return Difference(cell.analysis, cell.key, Seen.OTHERS, len(now - then), len(then - now))


def review_of(
    settings: Settings,
    header: Header,
    candidate: Past,
    entries: Sequence[Kept],
    state: State | None = None,
    noisy: Noisy = NO_NOISE,
) -> Review:
    """Return what a steward reads of a candidate beside its numbers.

    Args:
        settings: of the run.
        header: of the candidate.
        candidate: what stands behind it.
        entries: of the site's ledger.
        state: what the hub says before the round; may be None in the first.
        noisy: its cells with noise.
    """
    left = [kept for kept in entries if kept.entry.release and kept.past]
    found = differences(candidate, [kept.past for kept in left if kept.past])
    last = left[-1].entry.release if left else None
    covered = None
    asked = None
    if header.round > 1:
        signed, why = covering(header, Terms.of(settings), candidate, entries, ALWAYS, NOBODY)
        covered = Covered(signed=signed, why=why)
        asked = {each.id: len(each.cells) for each in state.analyses} if state else None
    return Review(
        asked=asked,
        before=Before(
            releases=len(left),
            last=last.manifest.issued if last else None,
            cells=dict(Counter(each.seen for each in found)),
            examples=_examples(found),
        ),
        covered=covered,
        rounds={each.settings.id: each.rounds for each in analyses_of(settings.protocol)},
        noise=_budget(settings, candidate, [kept.past for kept in left if kept.past], noisy),
    )


def _budget(
    settings: Settings, candidate: Past, pasts: Sequence[Past], noisy: Noisy
) -> Budget | None:
    """Return what the cells with noise of a candidate take."""
    noise = settings.site.disclosure.noise
    if noise is None or not candidate.noisy:
        return None
    before, after = spent_by(pasts), spent_by([*pasts, candidate])
    most = max(after.values(), default=0.0)
    takes = max((spent - before.get(who, 0.0) for who, spent in after.items()), default=0.0)
    return Budget(
        budget=noise.budget,
        takes=round(takes, 9),
        left=max(0.0, round(noise.budget - most, 9)),
        left_out=len(noisy.left_out),
    )


def _examples(found: Sequence[Difference]) -> dict[Seen, list[str]]:
    named: dict[Seen, list[str]] = defaultdict(list)
    for each in found:
        if each.seen != Seen.SAME and len(named[each.seen]) < EXAMPLES:
            named[each.seen].append(f"{each.analysis}: {each.key.words}")
    return dict(named)


def write_review(folder: Path, review: Review) -> None:
    """Write ``review.json`` of a candidate."""
    write_json(folder / REVIEW, review.model_dump(mode="json"))


def read_review(folder: Path, *, built: bool = True) -> Review:
    """Read ``review.json`` of a candidate.

    Args:
        folder: of the candidate.
        built: whether it must be as it was built together with the page.

    Raises:
        ReleaseError: it is missing, or not as it was written.
    """
    path = folder / REVIEW
    again = f"build the release again: remove {folder / PAGE} and run the workflow."
    if not path.is_file():
        raise ReleaseError(f"{path} is missing; {again}")
    data = path.read_bytes()
    if built and read_built(folder).files.get(REVIEW) != describe(data):
        raise ReleaseError(f"{path} was changed after it was built; {again}")
    try:
        return Review.model_validate_json(data)
    except ValidationError:
        raise ReleaseError(f"{path} is not as it was written; {again}") from None

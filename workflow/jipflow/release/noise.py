"""Which cells with noise may leave, and whose values are in them: each patient has a budget.

Nothing here looks at values: whether a cell leaves follows from epsilon and budget. Each patient
has a budget for ever, of which each cell takes its epsilon; one who has too little left is left out
of the cell, which so tells nothing of that patient (an individual privacy filter: Feldman and Zrnic
2021, "Individual privacy accounting via a Rényi filter"). What the very same protocol asked of the
very same values has the numbers that it had before, and takes nothing. Another protocol has others:
by equal numbers a filter that was moved would tell whether it had lost a patient.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jipflow.analyses.cells import Values
from jipflow.analyses.contract import Proposed
from jipflow.analyses.facts import TOLERANCE, LedgerCell
from jipflow.analyses.noise import NO_BUDGET, Parts, WithNoise, with_noise
from jipflow.analyses.rules import Finding
from jipflow.exchange.message import canonical
from jipflow.release.gate import Decision, all_rules
from jipflow.release.history import Past

Draw = Callable[[str, Callable[[], dict[str, int]]], Mapping[str, int]]
"""Gives the numbers that were drawn under a hash, or draws and keeps them."""


class Drawn(NamedTuple):
    """Numbers that left, or would.

    Attributes:
        numbers: with noise, by name.
        patients: in them.
    """

    numbers: Mapping[str, Any]
    patients: Sequence[str]


@dataclass(frozen=True)
class Noisy:
    """What becomes of the cells with noise.

    Attributes:
        decisions: one a cell, sorted.
        cells: those that leave, as the ledger keeps them, each with the hash of what was asked. The
            values are what each patient in it spends.
        left_out: patients who had too little left for a cell.
    """

    decisions: Sequence[Decision] = ()
    cells: Sequence[tuple[str, LedgerCell]] = ()
    left_out: frozenset[str] = frozenset()


NO_NOISE = Noisy()
"""Of a release without such cells."""


def decide_noisy(
    proposed: Iterable[Proposed],
    protocol: str,
    budget: float | None,
    pasts: Sequence[Past],
    draw: Draw,
) -> Noisy:
    """Decide on all cells with noise of a release.

    Args:
        proposed: the cells.
        protocol: hash of the protocol and of all that it names.
        budget: epsilon of a patient for ever; None where the site lets no noisy cell leave.
        pasts: all that left before.
        draw: keeps what was drawn.

    Raises:
        ConfigError: OpenDP is needed and not installed.
    """
    decisions, cells = [], []
    left_out: set[str] = set()
    spent = defaultdict(float, spent_by(pasts))
    known = {
        asked: Drawn(cell.released, list(cell.values.case_ids))
        for past in pasts
        for asked, cell in past.noisy
    }
    for cell in sorted(proposed, key=lambda each: each.order):
        decision = Decision(cell, dict.fromkeys(all_rules(), Finding.NOT_APPLIED))
        decisions.append(decision)
        analysis = _noisy(cell)
        if budget is None or analysis.epsilon > budget:
            decision.withhold(NO_BUDGET)
            continue
        asked = _asked(cell, protocol)
        if asked not in known:
            most = budget - analysis.epsilon + TOLERANCE
            patients = [each for each in cell.content.patients if spent[each] <= most]
            for each in patients:
                spent[each] += analysis.epsilon
            left_out |= set(cell.content.patients) - set(patients)
            known[asked] = _drawn(analysis, cell.content, patients, asked, draw)
        decision.findings[NO_BUDGET] = Finding.PASSED
        numbers = known[asked].numbers
        decision.released = cell.analysis.cell(**cell.key._asdict(), **numbers)
        cells.append((asked, _kept(cell, known[asked], analysis.epsilon)))
    return Noisy(decisions, cells, frozenset(left_out))


def spent_by(pasts: Iterable[Past]) -> dict[str, float]:
    """Return the epsilon that each patient has spent, by pseudonym; what left twice counts once."""
    cells = {asked: cell for past in pasts for asked, cell in past.noisy}
    spent: dict[str, float] = defaultdict(float)
    for cell in cells.values():
        for patient, epsilon in zip(cell.values.case_ids, cell.values.numbers, strict=True):
            spent[patient] += float(epsilon)
    return dict(spent)


def _noisy(cell: Proposed) -> WithNoise:
    assert isinstance(cell.analysis, WithNoise)
    return cell.analysis


def _asked(cell: Proposed, protocol: str) -> str:
    """Return the hash of what is asked, and of the values that answer."""
    parts: Parts = cell.content
    about = {
        "protocol": protocol,
        "analysis": cell.analysis.settings.id,
        "key": list(cell.key),
        "heading": cell.analysis.heading(),
        "patients": list(parts.patients),
        "numbers": parts.numbers.tolist(),
    }
    return hashlib.sha256(canonical(about)).hexdigest()


def _drawn(
    analysis: WithNoise, parts: Parts, patients: Sequence[str], asked: str, draw: Draw
) -> Drawn:
    """Return the noisy sums of some patients, which are drawn once."""
    chosen = set(patients)
    rows = [i for i, patient in enumerate(parts.patients) if patient in chosen]
    totals = parts.numbers[rows].sum(axis=0).tolist()
    scales = analysis.scales

    def make() -> dict[str, int]:
        pairs = zip(scales.items(), totals, strict=True)
        return {name: with_noise(total, scale) for (name, scale), total in pairs}

    identity = hashlib.sha256(canonical({"asked": asked, "patients": list(patients)})).hexdigest()
    return Drawn(draw(identity, make), patients)


def _kept(cell: Proposed, drawn: Drawn, epsilon: float) -> LedgerCell:
    """Return a cell as the ledger keeps it."""
    import numpy as np

    names = np.array(drawn.patients, dtype=object)
    return LedgerCell(
        analysis=cell.analysis.settings.id,
        kind=cell.analysis.settings.kind,
        key=cell.key,
        equations=0,
        heading=cell.analysis.heading(),
        released=dict(drawn.numbers),
        values=Values(np.full(names.size, epsilon), names, names, frozenset(names)),
        rows=int(names.size),
    )

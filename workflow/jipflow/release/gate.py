"""The disclosure gate: what may leave a site, and why the rest may not.

The gate is fail-closed. It starts from nothing: a cell is released only if each rule that applies
to its kind of analysis passed, and the finished file is scanned once more for anything that the
protocol did not name. docs/release.md explains each rule and what the gate does not protect from.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from pydantic import TypeAdapter, ValidationError

from jipflow.analyses.cells import Values, by_patient
from jipflow.analyses.contract import AnyAnalysis, Known, Proposed, kinds, rules_of_kinds
from jipflow.analyses.facts import LedgerCell
from jipflow.analyses.forms import FLOOR, ReleasedCell
from jipflow.analyses.rules import Finding, Passed, Rule, Withheld
from jipflow.reasons import StageError
from jipflow.release.differences import clashing, differing
from jipflow.release.edges import Edges
from jipflow.release.history import EARLIER, NOTHING, Candidate, History
from jipflow.release.saturation import Regions, asked, saturated
from jipflow.settings.protocol import Disclosure

MIN_PATIENTS = Rule(
    "min_patients",
    "A cell needs values of at least the minimum number of distinct patients.",
    because="fewer patients than the minimum have a value",
)
DIFFERENCE = Rule(
    "difference",
    "Groups of patients that the released cells of one segmentation tell apart, or cells of like "
    "values or of one region in several, must have at least the minimum; so must the difference of "
    "their numbers, and the patients in whom two cells differ. What follows of a group must be fit "
    "to leave.",
    because="another cell is of nearly the same patients, and the few would stand out",
)
SATURATION = Rule(
    "saturation",
    "Features that are functions of each other leave only as long as their means and variances are "
    "at least two fewer than the patients: else each patient's values could be solved.",
    because="so many functions of one region would give the value of each patient",
)


class DisclosureError(StageError):
    """Something would leave the site that the gate does not know to be safe."""


def all_rules() -> tuple[Rule, ...]:
    """Return every rule of the gate: those of all cells, and each kind's own."""
    return (MIN_PATIENTS, *rules_of_kinds(), EARLIER, DIFFERENCE, SATURATION)


@dataclass
class Decision:
    """What the gate did with a cell.

    Attributes:
        proposed: the cell.
        findings: what each rule of the gate found, by rule.
        released: what may leave of it, or None.
        parts: what rules withheld of a released cell, by rule.
        stays: what its values have become, whether or not the cell leaves; None without.
        kept_back: columns of which its own rules let nothing leave, though the cell may.
    """

    proposed: Proposed
    findings: dict[Rule, str]
    released: ReleasedCell | None = None
    parts: Mapping[Rule, Sequence[str | int]] = field(default_factory=dict)
    stays: Values | None = None
    kept_back: Sequence[Proposed] = ()

    def withhold(self, rule: Rule) -> None:
        """Take the cell back because of a rule."""
        self.findings[rule] = Finding.WITHHELD
        self.released = None
        self.parts = {}


def decide(
    proposed: Iterable[Proposed],
    patient_of: Mapping[str, str],
    disclosure: Disclosure,
    regions: Regions,
    history: History = NOTHING,
) -> list[Decision]:
    """Apply every rule to every cell.

    Args:
        proposed: all cells of one release; cells are checked together, because what is harmless in
            each of two cells may not be so in both.
        patient_of: patient of each case.
        disclosure: the limits that hold, the stricter of protocol and site.
        regions: which places are one region in several segmentations.
        history: all that left the site before.

    Returns:
        One decision a cell, sorted by analysis, role, segmentation, segment, feature and group.

    Raises:
        DisclosureError: a kind of analysis that the gate has no rules for, numbers that its format
            does not have, or a minimum below the floor.
    """
    minimum = disclosure.min_patients
    if minimum < FLOOR:
        raise DisclosureError(f"The minimum of {minimum} patients is below the floor of {FLOOR}.")
    ranked = sorted(proposed, key=lambda cell: cell.order)
    _check_kinds({cell.analysis for cell in ranked})
    patients = {
        cases: len({patient_of[case] for case in cases}) for cases in {c.cases for c in ranked}
    }
    rules = all_rules()
    decisions = [Decision(cell, dict.fromkeys(rules, Finding.NOT_APPLIED)) for cell in ranked]
    enough = [d for d in decisions if _has_enough(d, patients[d.proposed.cases], minimum)]
    enough = _asked_as_before(enough, history)
    before: list[Decision] = []
    for kind in kinds().values():
        cells = [d for d in enough if type(d.proposed.analysis) is kind]
        counted = [(d.proposed, patients[d.proposed.cases]) for d in cells]
        known = Known(
            [d.proposed for d in before],
            partial(_same_values, before[:], history),
            partial(_models, before[:], history),
        )
        results = kind.check_all(counted, disclosure, known)
        for decision, checked in zip(cells, results, strict=True):
            _apply(decision, checked, patients[decision.proposed.cases])
        before += cells
    left = _Pieces(decisions)
    left.settle(history.conflicting(left.candidates(), disclosure), EARLIER)
    left = _Pieces(decisions)
    left.settle(differing(left.proposed(), patient_of, disclosure, regions), DIFFERENCE)
    known_edges = history.edges(minimum)
    left = _Pieces(decisions)
    left.settle(left.beside_edges(known_edges), EARLIER)
    left = _Pieces(decisions)
    left.settle(left.beside_edges(known_edges, together=True), DIFFERENCE)
    left = _Pieces(decisions)
    leaving = [candidate.cell for candidate in left.candidates()]
    left.settle(clashing(leaving, [asked(piece) for piece in left.proposed()]), DIFFERENCE)
    left = _Pieces(decisions)
    left.settle(saturated(left.proposed(), patient_of, regions), SATURATION)
    return decisions


class _Pieces:
    """The pieces of the cells that are left, each of which stands or falls with its cell.

    Args:
        decisions: of all cells.
    """

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self._left = [decision for decision in decisions if decision.released]
        self._all = [(d, piece) for d in self._left for piece in d.proposed.pieces]

    def proposed(self) -> list[Proposed]:
        """Return the pieces."""
        return [piece for _, piece in self._all]

    def candidates(self) -> list[Candidate]:
        """Return the pieces with what would leave of their cells."""
        return [Candidate(piece, decision.released) for decision, piece in self._all]

    def beside_edges(self, known: Edges, together: bool = False) -> set[int]:
        """Choose the cells whose classes and those by the edges of curves differ in few.

        Args:
            known: what has left; cells that are not chosen are added to it where they are compared
                with each other.
            together: whether they are.
        """
        cells: dict[int, list[int]] = defaultdict(list)
        for i, (decision, _) in enumerate(self._all):
            cells[id(decision)].append(i)
        found = set()
        for members in sorted(cells.values(), key=lambda of: asked(self._all[of[0]][1])):
            pieces = [Candidate(self._all[i][1], self._all[i][0].released).cell for i in members]
            if known.tell_of_few(pieces):
                found.add(members[0])
            elif together:
                known.include(pieces)
        return found

    def settle(self, withheld: Collection[int], rule: Rule) -> None:
        """Note what a rule found that looks at all pieces: one that it withholds takes its cell."""
        taken = {id(self._all[i][0]) for i in withheld}
        for decision in self._left:
            if id(decision) in taken:
                decision.withhold(rule)
            else:
                decision.findings[rule] = Finding.PASSED


def _check_kinds(analyses: Iterable[AnyAnalysis]) -> None:
    known = kinds()
    for analysis in analyses:
        kind = analysis.settings.kind
        if known.get(kind) is not type(analysis):
            raise DisclosureError(
                f"analysis {analysis.settings.id}: the disclosure gate has no rules for the kind "
                f"'{kind}', so it releases nothing; it knows {', '.join(known)}."
            )


def _same_values(
    decisions: Sequence[Decision], history: History, cell: Proposed
) -> list[LedgerCell]:
    """Return what leaves by the decisions, or has left, with the very values of a cell."""
    here = [
        Candidate(piece, decision.released).cell
        for decision in decisions
        if decision.released
        for piece in decision.proposed.pieces
        if (piece.key, piece.cases) == (cell.key, cell.cases)
    ]
    return [*here, *history.same(by_patient(cell.values))]


def _models(decisions: Sequence[Decision], history: History) -> list[list[LedgerCell]]:
    """Return the cells of several columns that leave by the decisions, or have left."""
    here = [
        [Candidate(piece, decision.released).cell for piece in decision.proposed.pieces]
        for decision in decisions
        if decision.released and decision.proposed.columns
    ]
    return [*here, *history.models()]


def _has_enough(decision: Decision, patients: int, minimum: int) -> bool:
    """Apply the rule of the minimum, and return what it found."""
    if patients < minimum:
        decision.withhold(MIN_PATIENTS)
        return False
    decision.findings[MIN_PATIENTS] = Finding.PASSED
    return True


def _asked_as_before(decisions: Sequence[Decision], history: History) -> list[Decision]:
    """Return those that were not asked for in another way before; what is found is an answer."""
    pieces = [(i, piece) for i, d in enumerate(decisions) for piece in d.proposed.pieces]
    otherwise = {pieces[j][0] for j in history.asked_otherwise([piece for _, piece in pieces])}
    for i in otherwise:
        decisions[i].withhold(EARLIER)
    return [d for i, d in enumerate(decisions) if i not in otherwise]


def _apply(decision: Decision, checked: Passed | Withheld, patients: int) -> None:
    """Note what the kind's own rules found."""
    own = decision.proposed.analysis.rules
    if isinstance(checked, Withheld):
        decision.findings |= dict.fromkeys(own[: own.index(checked.rule)], Finding.PASSED)
        decision.withhold(checked.rule)
        return
    for rule in own:
        partly = bool(checked.parts.get(rule))
        decision.findings[rule] = rule.partly if partly else Finding.PASSED
    decision.parts, decision.stays = checked.parts, checked.stays
    if checked.columns:
        shown = {column.key for column in checked.columns}
        decision.kept_back = [p for p in decision.proposed.pieces if p.key not in shown]
        decision.proposed = replace(decision.proposed, columns=checked.columns)
    decision.released = _released(decision.proposed, patients, checked)


def _released(cell: Proposed, patients: int, checked: Passed) -> ReleasedCell:
    """Return a cell in its format, which alone says what may leave."""
    counted = {**cell.key._asdict(), "n": patients}
    for name in counted.keys() & checked.numbers.keys():
        raise DisclosureError(
            f"{'.'.join(cell.order)}: the kind '{cell.analysis.settings.kind}' gives a {name!r} of "
            "its own in place of the gate's."
        )
    content = {**counted, **checked.numbers}
    try:
        return _form(cell.analysis.cell).validate_python(content)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, found["loc"])) for found in error.errors())
        raise DisclosureError(
            f"{'.'.join(cell.order)}: the format of the kind '{cell.analysis.settings.kind}' does "
            f"not have it, or not so: {wrong}."
        ) from None


@cache
def _form(cell: Any) -> TypeAdapter[ReleasedCell]:
    """Return what validates a kind's cells, which may be a union."""
    return TypeAdapter(cell)


LOOKS_LIKE = {
    "a date": re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}"),
    "a number that may identify someone": re.compile(r"\d{6,}"),
    "a DICOM UID": re.compile(r"(?<![\d.])[0-2](\.\d+){4,}"),
    "a path": re.compile(r"[/\\~]"),
    "a DICOM person name": re.compile(r"\^"),
    "a mail address": re.compile(r"@"),
}


def scan(
    document: Any, vocabulary: Collection[str], exempt: Collection[str], identifiers: Iterable[str]
) -> None:
    """Look through a finished document for text that must not leave: the gate's last check.

    Args:
        document: what will be written as JSON.
        vocabulary: every string that may occur: words of the format, the protocol's names, the
            expanded feature names, the site's id.
        exempt: strings known to be safe whatever they look like: hashes and versions.
        identifiers: pseudonyms of this cohort's cases and patients.

    Raises:
        DisclosureError: names the place of the first offending string, not the string.
    """
    places: dict[str, str] = {}
    for place, text in strings(document):
        places.setdefault(text, place)
    for text, place in places.items():
        if text in exempt:
            continue
        if text not in vocabulary:
            raise DisclosureError(f"{place}: a text that the protocol does not name.")
        for what, pattern in LOOKS_LIKE.items():
            if pattern.search(text):
                raise DisclosureError(f"{place}: a text that looks like {what}.")
    joined = "\n".join(text for text in places if text not in exempt)
    for identifier in identifiers:
        if identifier in joined:
            place = next(p for t, p in places.items() if t not in exempt and identifier in t)
            raise DisclosureError(f"{place}: a pseudonym of the cohort.")


def strings(document: Any, place: str = "") -> list[tuple[str, str]]:
    """Return each string of a document, keys included, with its place; refuse unknown types."""
    found: list[tuple[str, str]] = []
    _gather(document, place, found)
    return found


def _gather(document: Any, place: str, found: list[tuple[str, str]]) -> None:
    if isinstance(document, str):
        found.append((place, str(document)))
    elif isinstance(document, float):
        if not math.isfinite(document):
            raise DisclosureError(f"{place}: a number that is not finite.")
    elif isinstance(document, dict):
        for key, value in document.items():
            found.append((f"{place}, a key", key))
            _gather(value, f"{place}.{key}".lstrip("."), found)
    elif isinstance(document, (list, tuple)):
        for i, value in enumerate(document):
            _gather(value, f"{place}[{i}]", found)
    elif not (document is None or isinstance(document, int)):
        raise DisclosureError(f"{place}: a value of type {type(document).__name__}.")

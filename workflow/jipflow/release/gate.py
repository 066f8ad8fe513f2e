"""The disclosure gate: what may leave a site, and why the rest may not.

The gate is fail-closed. It starts from nothing: a cell is released only if each rule that applies
to its kind of analysis passed, and the finished file is scanned once more for anything that the
protocol did not name. docs/release.md explains each rule and what the gate does not protect from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from jipflow.analyses.contract import (
    FLOOR,
    AnyAnalysis,
    Finding,
    Passed,
    Proposed,
    ReleasedCell,
    Rule,
    Withheld,
    kinds,
    rules_of_kinds,
)
from jipflow.reasons import StageError

MIN_PATIENTS = Rule(
    "min_patients", "A cell needs values of at least the minimum number of distinct patients."
)
DIFFERENCE = Rule(
    "difference",
    "Within one segmentation the patients of two released cells must be the same, or differ by at "
    "least the minimum: else the two counts show a smaller group.",
)


class DisclosureError(StageError):
    """Something would leave the site that the gate does not know to be safe."""


def all_rules() -> tuple[Rule, ...]:
    """Return every rule of the gate: those of all cells, and each kind's own."""
    return (MIN_PATIENTS, *rules_of_kinds(), DIFFERENCE)


@dataclass
class Decision:
    """What the gate did with a cell.

    Attributes:
        proposed: the cell.
        findings: what each rule of the gate found, by rule.
        released: what may leave of it, or None.
        parts: what rules withheld of a released cell, by rule.
    """

    proposed: Proposed
    findings: dict[Rule, str]
    released: ReleasedCell | None = None
    parts: Mapping[Rule, Sequence[str | int]] = field(default_factory=dict)

    def withhold(self, rule: Rule) -> None:
        """Take the cell back because of a rule."""
        self.findings[rule] = Finding.WITHHELD
        self.released = None
        self.parts = {}


def decide(
    proposed: Iterable[Proposed], patient_of: Mapping[str, str], minimum: int
) -> list[Decision]:
    """Apply every rule to every cell.

    Args:
        proposed: all cells of one release; cells are checked together, because the difference of
            two harmless cells may not be harmless.
        patient_of: patient of each case.
        minimum: fewest distinct patients, the stricter of protocol and site.

    Returns:
        One decision a cell, sorted by analysis, role, segmentation, segment and feature.

    Raises:
        DisclosureError: a kind of analysis that the gate has no rules for, numbers that its format
            does not have, or a minimum below the floor.
    """
    if minimum < FLOOR:
        raise DisclosureError(f"The minimum of {minimum} patients is below the floor of {FLOOR}.")
    ranked = sorted(proposed, key=lambda cell: cell.order)
    _check_kinds({cell.analysis for cell in ranked})
    patients = {
        cases: len({patient_of[case] for case in cases}) for cases in {c.cases for c in ranked}
    }
    rules = all_rules()
    decisions = []
    for cell in ranked:
        decision = Decision(cell, dict.fromkeys(rules, Finding.NOT_APPLIED))
        _check_alone(decision, patients[cell.cases], minimum)
        decisions.append(decision)
    _check_differences(decisions, patient_of, minimum)
    return decisions


def _check_kinds(analyses: Iterable[AnyAnalysis]) -> None:
    known = kinds()
    for analysis in analyses:
        kind = analysis.settings.kind
        if known.get(kind) is not type(analysis):
            raise DisclosureError(
                f"analysis {analysis.settings.id}: the disclosure gate has no rules for the kind "
                f"'{kind}', so it releases nothing; it knows {', '.join(known)}."
            )


def _check_alone(decision: Decision, patients: int, minimum: int) -> None:
    """Apply the rules that look at one cell only."""
    if patients < minimum:
        decision.withhold(MIN_PATIENTS)
        return
    decision.findings[MIN_PATIENTS] = Finding.PASSED
    cell = decision.proposed
    checked = cell.analysis.check(cell.content, patients, minimum)
    own = cell.analysis.rules
    if isinstance(checked, Withheld):
        decision.findings |= dict.fromkeys(own[: own.index(checked.rule)], Finding.PASSED)
        decision.withhold(checked.rule)
        return
    for rule in own:
        partly = bool(checked.parts.get(rule))
        decision.findings[rule] = rule.partly if partly else Finding.PASSED
    decision.parts = checked.parts
    decision.released = _released(cell, patients, checked)


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
        return cell.analysis.cell.model_validate(content)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, found["loc"])) for found in error.errors())
        raise DisclosureError(
            f"{'.'.join(cell.order)}: the format of the kind '{cell.analysis.settings.kind}' does "
            f"not have it, or not so: {wrong}."
        ) from None


def _check_differences(
    decisions: list[Decision], patient_of: Mapping[str, str], minimum: int
) -> None:
    """Keep only cells whose patients are alike or far apart, in each segmentation by itself.

    Whom a segment or a feature lacks, of the patients in whom the same segmentation was measured,
    tells about the patients (no lesion, one kidney). Whom another segmentation lacks tells which
    images were there and could be processed, and is not withheld: else one failed series would keep
    back every number of its role.
    """
    families: dict[tuple[str, str], list[Decision]] = {}
    for decision in decisions:
        if decision.released is not None:
            key = decision.proposed.key
            families.setdefault((key.role, key.segmentation), []).append(decision)
    for family_decisions in families.values():
        _check_family(family_decisions, patient_of, minimum)


def _check_family(decisions: list[Decision], patient_of: Mapping[str, str], minimum: int) -> None:
    """Apply the difference rule to the cells of one segmentation in one role.

    Cells that rest on the same cases stand or fall together. The group that serves most cells is
    kept first (of equals the one with most cases, then the first by name), and each further group
    is kept if it is far enough from all that are kept.
    """
    groups: dict[frozenset[str], list[Decision]] = {}
    for decision in decisions:
        groups.setdefault(decision.proposed.cases, []).append(decision)
    kept: list[frozenset[str]] = []
    ranked = sorted(
        groups,
        key=lambda cases: (-len(groups[cases]), -len(cases), groups[cases][0].proposed.order),
    )
    for cases in ranked:
        apart = all(_far_apart(cases, other, patient_of, minimum) for other in kept)
        for decision in groups[cases]:
            if apart:
                decision.findings[DIFFERENCE] = Finding.PASSED
            else:
                decision.withhold(DIFFERENCE)
        if apart:
            kept.append(cases)


def _far_apart(
    a: frozenset[str], b: frozenset[str], patient_of: Mapping[str, str], minimum: int
) -> bool:
    """Return whether each set lacks no case of the other, or those of `minimum` patients and up."""
    for lacking in (a - b, b - a):
        if 0 < len({patient_of[case] for case in lacking}) < minimum:
            return False
    return True


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


def strings(document: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield each string of a document, keys included, with its place; refuse unknown types."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            inner = f"{place}.{key}".lstrip(".")
            yield f"{place}, a key", key
            yield from strings(value, inner)
    elif isinstance(document, list | tuple):
        for i, value in enumerate(document):
            yield from strings(value, f"{place}[{i}]")
    elif isinstance(document, str):
        yield place, str(document)
    elif isinstance(document, float) and not math.isfinite(document):
        raise DisclosureError(f"{place}: a number that is not finite.")
    elif not (document is None or isinstance(document, bool | int | float)):
        raise DisclosureError(f"{place}: a value of type {type(document).__name__}.")

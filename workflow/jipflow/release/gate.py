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
from enum import StrEnum
from typing import Any

from jipflow.reasons import Coded, StageError

FLOOR = 5
"""No protocol and no site can go below this many patients."""

SPREAD = 1e-9
"""Values whose range is at most this share of their largest magnitude count as equal."""

LARGEST_MEAN = 1e100
LARGEST_SCATTER = 1e200
"""Bounds far beyond any feature that keep the hub's sums within float64, whose largest number is
1.8e308 (IEEE 754): the hub squares differences of means, and adds them to the scatter."""


class DisclosureError(StageError):
    """Something would leave the site that the gate does not know to be safe."""


class Rule(Coded):
    """A rule of the gate; `meaning` is the sentence that the releaser and the hub read."""

    MIN_PATIENTS = (
        "min_patients",
        "A cell needs values of at least the minimum number of distinct patients.",
    )
    NUMBER_RANGE = ("number_range", "A number must be finite and within the range of the format.")
    ZERO_VARIANCE = (
        "zero_variance",
        "Where all values are equal, the mean would be the value of every patient.",
    )
    SMALL_BINS = (
        "small_bins",
        "A bin with fewer patients than the minimum is withheld, with enough other bins that it "
        "cannot be calculated from the rest.",
    )
    DIFFERENCE = (
        "difference",
        "Within one segmentation the patients of two released cells must be the same, or differ by "
        "at least the minimum: else the two counts show a smaller group.",
    )


RULES_OF_KIND = {
    "summary": (Rule.MIN_PATIENTS, Rule.NUMBER_RANGE, Rule.ZERO_VARIANCE, Rule.DIFFERENCE),
    "histogram": (Rule.MIN_PATIENTS, Rule.SMALL_BINS, Rule.DIFFERENCE),
}
"""The kinds of analysis that the gate knows; any other is refused."""


class Finding(StrEnum):
    """What a rule found for a cell."""

    PASSED = "passed"
    WITHHELD = "withheld"
    SOME_BINS = "some bins withheld"
    NOT_APPLIED = "not applied"


@dataclass(frozen=True)
class Candidate:
    """One cell before the gate, with the people behind it.

    Attributes:
        analysis: the analysis' id.
        kind: its kind.
        role: role of the series measured.
        segmentation: id of the segmentation.
        segment: name of the segment.
        feature: name of the feature.
        cases: cases with a value.
        numbers: of a summary, its rows, mean, mean_rest and m2; empty where no case has a value.
        constant: of a summary, whether all values are equal (see `all_equal`).
        bins: of a histogram, the patients in each bin: below the edges, the bins, above the edges.
    """

    analysis: str
    kind: str
    role: str
    segmentation: str
    segment: str
    feature: str
    cases: frozenset[str]
    numbers: Mapping[str, float] = field(default_factory=dict)
    constant: bool = False
    bins: tuple[frozenset[str], ...] = ()

    @property
    def order(self) -> tuple[str, ...]:
        """What cells are sorted by."""
        return (self.analysis, self.role, self.segmentation, self.segment, self.feature)


@dataclass
class Decision:
    """What the gate did with a cell.

    Attributes:
        candidate: the cell.
        findings: by rule, every rule of the gate.
        released: the numbers that may leave, or None.
        withheld_bins: positions in `Candidate.bins` that were withheld from a released histogram.
    """

    candidate: Candidate
    findings: dict[Rule, Finding]
    released: dict[str, Any] | None = None
    withheld_bins: frozenset[int] = frozenset()

    def withhold(self, rule: Rule) -> None:
        """Take the cell back because of a rule."""
        self.findings[rule] = Finding.WITHHELD
        self.released = None
        self.withheld_bins = frozenset()


def all_equal(lowest: float, highest: float) -> bool:
    """Tell whether values between `lowest` and `highest` count as one and the same value."""
    return highest - lowest <= SPREAD * max(abs(lowest), abs(highest))


def decide(
    candidates: Iterable[Candidate], patient_of: Mapping[str, str], minimum: int
) -> list[Decision]:
    """Apply every rule to every cell.

    Args:
        candidates: all cells of one release; cells are judged together, because the difference of
            two harmless cells may not be harmless.
        patient_of: patient of each case.
        minimum: fewest distinct patients, the stricter of protocol and site.

    Returns:
        One decision a cell, sorted by analysis, role, segmentation, segment and feature.

    Raises:
        DisclosureError: a kind of analysis that the gate has no rules for, or a minimum below the
            floor.
    """
    if minimum < FLOOR:
        raise DisclosureError(f"The minimum of {minimum} patients is below the floor of {FLOOR}.")
    ranked = sorted(candidates, key=lambda c: c.order)
    patients = {
        cases: len({patient_of[case] for case in cases}) for cases in {c.cases for c in ranked}
    }
    decisions = [
        _judge_alone(candidate, patients[candidate.cases], minimum) for candidate in ranked
    ]
    _judge_differences(decisions, patient_of, minimum)
    return decisions


def _judge_alone(candidate: Candidate, patients: int, minimum: int) -> Decision:
    """Apply the rules that look at one cell only."""
    if candidate.kind not in RULES_OF_KIND:
        raise DisclosureError(
            f"analysis {candidate.analysis}: the disclosure gate has no rules for the kind "
            f"'{candidate.kind}', so it releases nothing; it knows {', '.join(RULES_OF_KIND)}."
        )
    decision = Decision(candidate, dict.fromkeys(Rule, Finding.NOT_APPLIED))
    if patients < minimum:
        decision.withhold(Rule.MIN_PATIENTS)
        return decision
    decision.findings[Rule.MIN_PATIENTS] = Finding.PASSED
    if candidate.kind == "summary":
        _judge_summary(decision, patients)
    else:
        _judge_histogram(decision, patients, minimum)
    return decision


def _judge_summary(decision: Decision, patients: int) -> None:
    numbers = decision.candidate.numbers
    if set(numbers) != {"rows", "mean", "mean_rest", "m2"}:
        raise DisclosureError(
            f"{'.'.join(decision.candidate.order)}: a summary may hold rows, mean, mean_rest and "
            f"m2 only, this one holds {', '.join(sorted(numbers))}."
        )
    in_range = all(math.isfinite(number) for number in numbers.values()) and (
        abs(numbers["mean"]) <= LARGEST_MEAN and 0 <= numbers["m2"] <= LARGEST_SCATTER
    )
    if not in_range:
        decision.withhold(Rule.NUMBER_RANGE)
        return
    decision.findings[Rule.NUMBER_RANGE] = Finding.PASSED
    if decision.candidate.constant:
        decision.withhold(Rule.ZERO_VARIANCE)
        return
    decision.findings[Rule.ZERO_VARIANCE] = Finding.PASSED
    decision.released = {"n": patients, **numbers}


def _judge_histogram(decision: Decision, patients: int, minimum: int) -> None:
    counts = [len(bin_) for bin_ in decision.candidate.bins]
    hidden = bins_to_hide(counts, patients, minimum)
    if hidden is None:
        decision.withhold(Rule.SMALL_BINS)
        return
    decision.findings[Rule.SMALL_BINS] = Finding.SOME_BINS if hidden else Finding.PASSED
    decision.withheld_bins = hidden
    shown = [None if i in hidden else count for i, count in enumerate(counts)]
    decision.released = {
        "n": patients,
        "under": shown[0],
        "counts": shown[1:-1],
        "over": shown[-1],
    }


def bins_to_hide(counts: Sequence[int], patients: int, minimum: int) -> frozenset[int] | None:
    """Choose which bins of a histogram to withhold.

    Small bins go first. While the rest would still tell about them (see `hides`), the bin with the
    fewest patients, of equals the first, goes as well. Empty bins are shown: nobody is in them.

    Args:
        counts: patients by bin; a patient with several cases may be in several bins.
        patients: distinct patients in the histogram, which is released beside the bins.
        minimum: fewest patients.

    Returns:
        Positions of the bins to withhold, or None where no choice leaves a bin with anyone in it.
    """
    hidden = {i for i, count in enumerate(counts) if 0 < count < minimum}
    others = sorted((count, i) for i, count in enumerate(counts) if count >= minimum)
    while not hides(
        [None if i in hidden else count for i, count in enumerate(counts)], patients, minimum
    ):
        if not others:
            return None
        hidden.add(others.pop(0)[1])
    return frozenset(hidden) if others else None


def hides(counts: Sequence[int | None], patients: int, minimum: int) -> bool:
    """Tell whether the withheld bins of a histogram stay unknown to whoever knows the others.

    With k bins withheld, subtraction leaves `rest` patients who are in them together, at least one
    in each. At least two bins must be withheld, and it must be possible for each of them to hold
    the minimum or more while the others hold one each: rest - (k - 1) >= minimum. So neither a
    bin nor a group of fewer than `minimum` patients follows from the numbers shown. With nothing
    withheld the bins must account for everyone.

    Args:
        counts: patients by bin, None where withheld.
        patients: distinct patients in the histogram.
        minimum: fewest patients.
    """
    hidden = sum(count is None for count in counts)
    rest = patients - sum(count for count in counts if count is not None)
    if hidden == 0:
        return rest <= 0
    return hidden >= 2 and rest >= minimum + hidden - 1


def _judge_differences(
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
            family = (decision.candidate.role, decision.candidate.segmentation)
            families.setdefault(family, []).append(decision)
    for family_decisions in families.values():
        _judge_family(family_decisions, patient_of, minimum)


def _judge_family(decisions: list[Decision], patient_of: Mapping[str, str], minimum: int) -> None:
    """Apply the difference rule to the cells of one segmentation in one role.

    Cells that rest on the same cases stand or fall together. The group that serves most cells is
    kept first (of equals the one with most cases, then the first by name), and each further group
    is kept if it is far enough from all that are kept.
    """
    groups: dict[frozenset[str], list[Decision]] = {}
    for decision in decisions:
        groups.setdefault(decision.candidate.cases, []).append(decision)
    kept: list[frozenset[str]] = []
    ranked = sorted(
        groups,
        key=lambda cases: (-len(groups[cases]), -len(cases), groups[cases][0].candidate.order),
    )
    for cases in ranked:
        apart = all(_far_apart(cases, other, patient_of, minimum) for other in kept)
        for decision in groups[cases]:
            if apart:
                decision.findings[Rule.DIFFERENCE] = Finding.PASSED
            else:
                decision.withhold(Rule.DIFFERENCE)
        if apart:
            kept.append(cases)


def _far_apart(
    a: frozenset[str], b: frozenset[str], patient_of: Mapping[str, str], minimum: int
) -> bool:
    """Tell whether each set lacks no case of the other, or cases of at least `minimum` patients."""
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
    for place, text in _strings(document):
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


def _strings(document: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield each string of a document, keys included, with its place; refuse unknown types."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            inner = f"{place}.{key}".lstrip(".")
            yield f"{place}, a key", key
            yield from _strings(value, inner)
    elif isinstance(document, list | tuple):
        for i, value in enumerate(document):
            yield from _strings(value, f"{place}[{i}]")
    elif isinstance(document, str):
        yield place, str(document)
    elif isinstance(document, float) and not math.isfinite(document):
        raise DisclosureError(f"{place}: a number that is not finite.")
    elif not (document is None or isinstance(document, bool | int | float)):
        raise DisclosureError(f"{place}: a value of type {type(document).__name__}.")

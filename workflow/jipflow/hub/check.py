"""What a bundle says, held against the protocol, against itself and against the gate's rules."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from jipflow.analyses.cells import CLINICAL, CellKey, Place, Whom, measured_places
from jipflow.analyses.contract import (
    AnyAnalysis,
    CellBelowMinimum,
    ImpossibleCell,
    analyses_of,
    rules_of_kinds,
    too_close,
)
from jipflow.analyses.facts import Implied, Limits
from jipflow.analyses.forms import (
    CountedCell,
    RecordedCell,
    ReleasedAnalysis,
    ReleasedCell,
    StatedCell,
)
from jipflow.analyses.noise import WithNoise
from jipflow.analyses.rules import Finding, Rule
from jipflow.exchange.refusals import Refusal, Refused
from jipflow.files import json_text
from jipflow.release.contents import Aggregates, Disclosure, State
from jipflow.release.gate import all_rules
from jipflow.settings.bounds import Bounds, bounds
from jipflow.settings.features import COUNTED, feature_names
from jipflow.settings.protocol import Protocol, RadiomicsEntry
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.reading import shipped_radiomics

MOST_CASES = 1000
"""Most studies of one patient that are believed: one a week for twenty years."""

FRAME, BYTES, HEADINGS, NUMBER = 64 * 1024, 4 * 1024, 8, 32
"""A file of a release has at most so many bytes, and for each cell so many more, so many times the
analysis' own keys, for a histogram's bins are as many as its edges, and so many for each further
number: several times what is written."""


@dataclass(frozen=True)
class Asked:
    """What a protocol asks its sites for.

    Attributes:
        analyses: by id.
        places: everything that is measured.
        features: what is measured at each place, by the radiomics settings there.
        minimum: fewest patients behind a number.
        cases: most cases of one patient.
        stated: what the hub stated before the round; None in the first, which asks for every cell.
        clinical: between which values each clinical variable lies.
    """

    analyses: Mapping[str, AnyAnalysis]
    places: Sequence[Place]
    features: Mapping[Place, frozenset[str]]
    minimum: int
    cases: int
    stated: State | None = None
    clinical: Mapping[str, Bounds] = field(default_factory=dict)

    @classmethod
    def by(cls, protocol: Protocol, round_: int = 1, state: State | None = None) -> Asked:
        """Return what a round of a protocol asks for.

        Args:
            protocol: the protocol.
            round_: from 1.
            state: what the hub stated before it; needed in a later round.
        """
        if round_ > 1 and (state is None or state.round != round_):
            raise ValueError(f"round {round_} has no state of its own")
        places = measured_places(protocol)
        entries = {entry.segmentation: entry for entry in protocol.radiomics}
        named = {key: feature_names(_parameters(entry)) for key, entry in entries.items()}
        features = {
            place: frozenset([*COUNTED, *named[place.segmentation]])
            for place in places
            if place != CLINICAL
        }
        if places.clinical:
            features[CLINICAL] = places.clinical
        return cls(
            analyses={analysis.settings.id: analysis for analysis in analyses_of(protocol)},
            places=places,
            features=features,
            minimum=protocol.disclosure.min_patients,
            cases=1 if protocol.cohort.case.by == "patient" else MOST_CASES,
            stated=state if round_ > 1 else None,
            clinical={each.name: each.bounds for each in protocol.clinical_variables},
        )

    def asks_for(self, analysis: AnyAnalysis, key: CellKey) -> bool:
        """Return whether an analysis asks for a cell, and its feature is measured anywhere."""
        known = any(key.feature in features for features in self.features.values())
        if self.stated is not None and self.stated_cell(analysis, key) is None:
            return False
        return known and analysis.asks_for(key, self.places)

    def stated_cell(self, analysis: AnyAnalysis, key: CellKey) -> StatedCell | None:
        """Return what the hub stated of a cell before the round; None where it stated nothing."""
        return self._given.get((analysis.settings.id, key))

    @cached_property
    def _given(self) -> dict[tuple[str, CellKey], StatedCell]:
        stated = self.stated.analyses if self.stated else []
        return {(each.id, cell.key): cell for each in stated for cell in each.cells}

    def measures(self, key: CellKey) -> bool:
        """Return whether the feature of a cell is measured at its place."""
        return key.feature in self.features.get(key.place, ())

    def most_bytes(self) -> int:
        """Return how many bytes either file of a release has at most."""
        known = sorted(frozenset().union(*self.features.values()))
        size = FRAME
        for analysis in self.analyses.values():
            heading = len(json_text(analysis.heading()))
            cell = BYTES + HEADINGS * heading + NUMBER * analysis.most_numbers
            size += len(analysis.cells(known, self.places)) * cell
        return size


def _parameters(entry: RadiomicsEntry) -> Radiomics:
    named = entry.settings
    return shipped_radiomics(named) if isinstance(named, str) else named


def check_contents(aggregates: Aggregates, disclosure: Disclosure, asked: Asked) -> None:
    """Check every number of a bundle, and the gate's record of it.

    Args:
        aggregates: the numbers.
        disclosure: the record.
        asked: by the protocol.

    Raises:
        Refused: a number that was not asked for, that contradicts others or that says too much, or
            a record that does not belong to the numbers.
    """
    released = _check_numbers(aggregates, asked)
    _check_record(disclosure, asked, released)
    _check_together(released, asked, max(asked.minimum, aggregates.min_patients))


Released = Mapping[tuple[str, CellKey], ReleasedCell]
"""Cells by their analysis and what they are about."""


def _check_numbers(aggregates: Aggregates, asked: Asked) -> Released:
    """Check each analysis and each cell by itself, and return the cells."""
    minimum = max(asked.minimum, aggregates.min_patients)
    ids = [sent.id for sent in aggregates.analyses]
    if len(ids) != len(set(ids)):
        raise Refused(Refusal.OUTSIDE_PROTOCOL, "an analysis occurs twice")
    released: dict[tuple[str, CellKey], ReleasedCell] = {}
    for sent in aggregates.analyses:
        analysis = asked.analyses.get(sent.id)
        if analysis is None or not _is_of(sent, analysis):
            raise Refused(Refusal.OUTSIDE_PROTOCOL, f"analysis {sent.id}")
        for cell in sent.cells:
            if (sent.id, cell.key) in released:
                raise Refused(Refusal.OUTSIDE_PROTOCOL, f"{_words(sent.id, cell.key)} occurs twice")
            released[sent.id, cell.key] = cell
            _check_cell(cell, analysis, asked, minimum)
    return released


def _is_of(sent: ReleasedAnalysis, analysis: AnyAnalysis) -> bool:
    """Return whether what was sent says of itself what the protocol says of the analysis."""
    heading = analysis.heading()
    kind = analysis.settings.kind
    return sent.kind == kind and sent.model_dump(include=set(heading)) == heading


def _check_cell(cell: ReleasedCell, analysis: AnyAnalysis, asked: Asked, minimum: int) -> None:
    context = _words(analysis.settings.id, cell.key)
    if not asked.asks_for(analysis, cell.key) or not asked.measures(cell.key):
        raise Refused(Refusal.OUTSIDE_PROTOCOL, context)
    if isinstance(cell, CountedCell) and cell.n < minimum:
        raise Refused(Refusal.CELL_BELOW_MINIMUM, context)
    try:
        analysis.verify(cell, _limits(cell, analysis, asked, minimum))
    except ImpossibleCell:
        raise Refused(Refusal.IMPOSSIBLE_CELL, context) from None
    except CellBelowMinimum:
        raise Refused(Refusal.CELL_BELOW_MINIMUM, context) from None


def _limits(cell: ReleasedCell, analysis: AnyAnalysis, asked: Asked, minimum: int) -> Limits:
    stated = asked.stated_cell(analysis, cell.key)
    if cell.key.place == CLINICAL:
        lowest, highest = asked.clinical[cell.feature]
    else:
        lowest, highest = bounds(cell.role, cell.feature)
    return Limits(minimum, asked.cases, lowest, highest, stated)


_Variable = tuple[CellKey, frozenset[CellKey]]
"""What a cell is about, and which variables its cases have beside it."""


def _check_together(released: Released, asked: Asked, minimum: int) -> None:
    """Check what cells say of each other: the same values, and almost the same patients."""
    same: dict[_Variable, list[tuple[AnyAnalysis, CountedCell]]] = defaultdict(list)
    families: dict[tuple[str, str], set[tuple[int, Whom]]] = defaultdict(set)
    for (identifier, key), cell in released.items():
        if not isinstance(cell, CountedCell):
            continue
        analysis = asked.analyses[identifier]
        same[key, frozenset(analysis.reads())].append((analysis, cell))
        whom = Whom.of(analysis.settings.by, key)
        families[key.role, key.segmentation].add((cell.n, whom))
    for (key, _), cells in same.items():
        about = [each.implies(cell, _limits(cell, each, asked, minimum)) for each, cell in cells]
        if len({cell.n for _, cell in cells}) > 1 or not Implied.agree(about):
            detail = f"{_words('two analyses', key)} are not of the same values"
            raise Refused(Refusal.IMPOSSIBLE_CELL, detail)
    numbers_of = {variable: cells[0][1].n for variable, cells in same.items()}
    for (key, reads), n in numbers_of.items():
        if n > numbers_of.get((key._replace(group=""), reads), n):
            detail = f"{_words('a group', key)} has more patients than there are"
            raise Refused(Refusal.IMPOSSIBLE_CELL, detail)
        if n > numbers_of.get((key, frozenset()), n):
            detail = f"{_words('a model', key)} has more patients than its variable"
            raise Refused(Refusal.IMPOSSIBLE_CELL, detail)
    found = {name: asked.analyses[name[0]].together(cell) for name, cell in released.items()}
    totals = {name: total for name, total in found.items() if total is not None}
    for name, total in totals.items():
        for n in sorted({*numbers_of.values(), *totals.values()}):
            if too_close(n, total, minimum):
                detail = f"{_words(*name)}: {total} patients beside {n}"
                raise Refused(Refusal.CELL_BELOW_MINIMUM, detail)
    for (role, segmentation), numbers in families.items():
        for (fewer, one), (more, other) in itertools.combinations(sorted(numbers), 2):
            if too_close(fewer, more, minimum) and not one.apart(other):
                detail = f"{segmentation} on {role}: {more} patients beside {fewer}"
                raise Refused(Refusal.CELL_BELOW_MINIMUM, detail)


def _check_record(disclosure: Disclosure, asked: Asked, released: Released) -> None:
    """Check the gate's record against the protocol, the released cells and itself."""
    if {(c.analysis, c.key) for c in disclosure.cells if c.released} != released.keys():
        raise Refused(Refusal.NOT_RELEASED)
    rules, of_kinds = all_rules(), frozenset(rules_of_kinds())
    if disclosure.rules != {rule.code: rule.meaning for rule in rules}:
        detail = f"disclosure.json: rules: other ones than those of jipflow {disclosure.version}"
        raise Refused(Refusal.DISCLOSURE_INVALID, detail)
    seen: set[tuple[str, CellKey]] = set()
    for recorded in disclosure.cells:
        name = (recorded.analysis, recorded.key)
        context = f"disclosure.json: {_words(*name)}"
        analysis = asked.analyses.get(recorded.analysis)
        if analysis is None or not asked.asks_for(analysis, recorded.key):
            raise Refused(Refusal.OUTSIDE_PROTOCOL, context)
        common = () if isinstance(analysis, WithNoise) else set(rules) - of_kinds
        applied = [rule for rule in rules if rule in common or rule in analysis.rules]
        recordable = _is_recorded(recorded, analysis, released.get(name), rules, applied)
        if name in seen or not recordable:
            raise Refused(Refusal.DISCLOSURE_INVALID, context)
        seen.add(name)
    totals = {
        "cells": len(disclosure.cells),
        "released": len(released),
        "withheld": {rule.code: _withheld_by(rule.code, disclosure.cells) for rule in rules},
    }
    if disclosure.summary.plain() != totals:
        raise Refused(Refusal.DISCLOSURE_INVALID, "disclosure.json: summary")


def _is_recorded(
    recorded: RecordedCell,
    analysis: AnyAnalysis,
    cell: ReleasedCell | None,
    rules: Sequence[Rule],
    applied: Sequence[Rule],
) -> bool:
    """Return whether a cell of the record says what the gate writes of such a cell.

    Args:
        recorded: the cell in the record.
        analysis: that it is of.
        cell: what was released of it.
        rules: of the gate.
        applied: those that hold for the analysis.
    """
    if recorded.kind != analysis.settings.kind or recorded.rules.keys() != {r.code for r in rules}:
        return False
    found = dict(_parts(recorded, rules))
    if cell is None:
        return Finding.WITHHELD in recorded.rules.values() and not found
    parts = {rule.code: list(names) for rule, names in analysis.parts(cell).items() if names}
    passed = {r.code: r.partly if r.code in parts else Finding.PASSED for r in applied}
    expected = {rule.code: passed.get(rule.code, Finding.NOT_APPLIED) for rule in rules}
    return recorded.rules == expected and found == parts


def _parts(recorded: RecordedCell, rules: Iterable[Rule]) -> Iterator[tuple[str, object]]:
    """Yield what a record says was withheld of a cell that left, by rule."""
    for rule in rules:
        named = getattr(recorded, f"withheld_{rule.parts}", None) if rule.parts else None
        if named:
            yield rule.code, named


def _withheld_by(code: str, cells: Iterable[RecordedCell]) -> int:
    return sum(cell.rules[code] == Finding.WITHHELD for cell in cells)


def _words(identifier: str, key: CellKey) -> str:
    return f"{identifier}: {key.words}"

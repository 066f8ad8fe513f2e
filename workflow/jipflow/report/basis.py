"""Whom the numbers of a release are of: the filter, the cohort, and where values are missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jipflow.analyses.cells import Scanners, groups_met, measured_places, scanners_of
from jipflow.files import read_frame, read_tsv
from jipflow.outcomes import passed, read_outcomes
from jipflow.release.clinical import Clinical, read_clinical
from jipflow.settings.clinical import ROLE
from jipflow.settings.protocol import Protocol
from jipflow.settings.run import Settings

if TYPE_CHECKING:
    import pandas as pd

NONE, SEVERAL = "left out: of no group", "left out: meets several groups"


@dataclass(frozen=True)
class PlaceBasis:
    """Whom a segment was measured in.

    Attributes:
        role: the series that it was measured on.
        segmentation: the segmentation's id.
        segment: the segment's name.
        cases: cases of the cohort that have a series of the role.
        measured: those of them of which the segmentation was measured.
        present: those of these that have the segment.
        patients: patients of the cases that have the segment.
        gaps: features that have a value in some of these cases and none in others.
    """

    role: str
    segmentation: str
    segment: str
    cases: int
    measured: int
    present: int
    patients: int
    gaps: int


@dataclass(frozen=True)
class GroupBasis:
    """Who is in a group of an analysis, or left out of all of them.

    Attributes:
        analysis: its id.
        role: of its variables.
        of: header and role of the series that decides.
        group: name of the group, or why cases are in none.
        cases: cases with a series of the variables' role.
        patients: of these cases.
    """

    analysis: str
    role: str
    of: str
    group: str
    cases: int
    patients: int


@dataclass(frozen=True)
class VariableBasis:
    """In whom a clinical variable has a value.

    Attributes:
        name: of the variable.
        unit: of its numbers, as people read it; empty where they have none.
        cases: that have a value.
        patients: that these are of.
        missing: cases of the cohort that have none.
    """

    name: str
    unit: str
    cases: int
    patients: int
    missing: int


@dataclass(frozen=True)
class Basis:
    """Whom a release is of; it holds small counts and never leaves the site.

    Attributes:
        filter: what a series has to meet, in the protocol's order.
        roles: each role with what its series has to meet and whether a case needs it.
        case: what a case is: ``study`` or ``patient``.
        patients: patients of the cohort.
        cases: cases of the cohort.
        excluded: cases that were excluded before the first stage.
        places: whom each segment was measured in.
        groups: who is in each group of an analysis that has groups.
        variables: who has each clinical variable.
    """

    filter: list[str]
    roles: list[tuple[str, str, bool]]
    case: str
    patients: int
    cases: int
    excluded: int
    places: list[PlaceBasis]
    groups: list[GroupBasis]
    variables: list[VariableBasis] = field(default_factory=list)


def basis(
    *,
    settings: Settings,
    features: Path,
    cases: Path,
    outcomes: Path,
    clinical: Path | None = None,
) -> Basis:
    """Count whom a release is of.

    Args:
        settings: of the run.
        features: ``features.parquet``.
        cases: ``cases.tsv``.
        outcomes: ``outcomes.parquet`` of all stages.
        clinical: ``clinical.parquet``, where the protocol has clinical variables.
    """

    rows = read_tsv(cases)
    patient_of = {row["case_id"]: row["patient"] for row in rows}
    with_role: dict[str, set[str]] = {}
    for row in rows:
        with_role.setdefault(row["role"], set()).add(row["case_id"])
    ended = read_outcomes(outcomes)
    measured = passed(o for o in ended if o.stage == "measure")
    cohort = settings.protocol.cohort
    found = read_clinical(clinical, settings.protocol, patient_of) if clinical else None
    scanners = {**scanners_of(rows), **(found.texts if found else {})}
    with_role[ROLE] = set(patient_of)
    return Basis(
        filter=[cohort.where] if isinstance(cohort.where, str) else list(cohort.where),
        roles=[(name, role.where, role.required) for name, role in cohort.case.roles.items()],
        case=cohort.case.by,
        patients=len(set(patient_of.values())),
        cases=len(patient_of),
        excluded=len({o.case_id for o in ended if o.stage == "cohort"} - patient_of.keys()),
        places=list(
            _places(settings.protocol, read_frame(features), patient_of, with_role, measured)
        ),
        groups=list(_groups(settings.protocol, patient_of, with_role, scanners)),
        variables=[] if found is None else list(_variables(settings.protocol, found, patient_of)),
    )


def _groups(
    protocol: Protocol,
    patient_of: dict[str, str],
    with_role: dict[str, set[str]],
    scanners: Scanners,
) -> Iterator[GroupBasis]:
    for analysis in sorted(protocol.analyses, key=lambda each: each.id):
        by = analysis.by
        if by is None:
            continue
        for role in sorted({variable.partition(".")[0] for variable in analysis.variables}):
            members: dict[str, list[str]] = {name: [] for name in (*analysis.groups, NONE, SEVERAL)}
            there = sorted(with_role.get(role, ()))
            every = groups_met(by, there, [patient_of[case] for case in there], role, scanners)
            for case, met in zip(there, every, strict=True):
                members[NONE if not met else SEVERAL if len(met) > 1 else met[0]].append(case)
            for name, cases in members.items():
                yield GroupBasis(
                    analysis.id,
                    role,
                    by.of if by.clinical else f"{by.of} of {by.role or role}",
                    name,
                    cases=len(cases),
                    patients=len({patient_of[case] for case in cases}),
                )


def _variables(
    protocol: Protocol, found: Clinical, patient_of: dict[str, str]
) -> Iterator[VariableBasis]:
    for variable in protocol.clinical_variables:
        there = found.rows.loc[found.rows[variable.name].notna(), "patient"]
        yield VariableBasis(
            variable.name,
            variable.read_unit,
            cases=len(there),
            patients=there.nunique(),
            missing=len(patient_of) - len(there),
        )


def _places(
    protocol: Protocol,
    table: pd.DataFrame,
    patient_of: dict[str, str],
    with_role: dict[str, set[str]],
    measured: set[tuple[str, str]],
) -> Iterator[PlaceBasis]:
    for role, segmentation, segment in measured_places(protocol):
        if role == ROLE:
            continue
        cohort = with_role.get(role, set())
        done = {case for case, item in measured if item == segmentation} & patient_of.keys()
        chosen = (table["role"] == role) & (table["segmentation"] == segmentation)
        chosen &= (table["segment"] == segment) & table["case_id"].isin(done)
        rows = table[chosen].select_dtypes("number").notna()
        present = set(table.loc[chosen, "case_id"])
        yield PlaceBasis(
            role,
            segmentation,
            segment,
            cases=len(cohort),
            measured=len(done),
            present=len(present),
            patients=len({patient_of[case] for case in present}),
            gaps=int((rows.any() & ~rows.all()).sum()) if len(rows) else 0,
        )

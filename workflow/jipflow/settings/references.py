"""What types cannot say of a protocol: that what its parts name is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import CycleError

from jipflow.patterns import meets
from jipflow.settings.clinical import ROLE, variables_problems
from jipflow.settings.names import among, meant
from jipflow.settings.protocol import (
    AnalysisSettings,
    By,
    Known,
    ModelSegmentation,
    Protocol,
    RadiomicsEntry,
    SegmentationSettings,
    annotated,
    in_order,
)
from jipflow.settings.resources import ConfigError
from jipflow.settings.schema import check_unique


def check_protocol(protocol: Protocol, known: Known, source: str) -> None:
    """Check the references between the parts of a protocol, and to what it names.

    Args:
        protocol: of the right types.
        known: what it may name.
        source: what it was read from, for the message.

    Raises:
        ConfigError: a part names something that is not there, or an expression is not valid.
    """
    check_unique([spec.id for spec in protocol.segmentations], source, "segmentations")
    check_unique([analysis.id for analysis in protocol.analyses], source, "analyses")
    for problem in _problems(protocol, known):
        raise ConfigError(f"{source}: {problem}")


def _problems(protocol: Protocol, known: Known) -> Iterator[str]:
    yield from _filters(protocol)
    yield from _volumes(protocol)
    for role in protocol.roles:
        if role.lower() == ROLE:
            yield f"cohort.case.roles: {role!r} is of clinical variables; name the role otherwise."
    for spec in protocol.segmentations:
        context = f"segmentation {spec.id!r}"
        for problem in _segmentation(spec, protocol, known):
            yield f"{context}: {problem}"
    yield from _training(protocol)
    try:
        in_order(protocol.segmentations)
    except CycleError as error:
        yield f"segmentations need each other in a circle: {', '.join(error.args[1])}."
    yield from _measured(protocol)
    yield from variables_problems(protocol.clinical_variables)
    for analysis in protocol.analyses:
        for problem in _analysis(analysis, protocol):
            yield f"analysis {analysis.id!r}: {problem}"
    yield from _groups(protocol)


def _filters(protocol: Protocol) -> Iterator[str]:
    """Let DuckDB check every expression of the cohort on an empty catalog."""
    from jipflow.expressions import FilterError, check_expression, filter_steps

    steps = filter_steps(protocol.cohort.where)
    checks = [(f"cohort.where[{i}]", step, "where") for i, step in enumerate(steps)]
    for role, spec in protocol.roles.items():
        checks.append((f"cohort.case.roles.{role}.where", spec.where, "where"))
    for role, spec in protocol.roles.items():
        if spec.prefer is not None:
            checks.append((f"cohort.case.roles.{role}.prefer", spec.prefer, "order"))
    for key, expression, kind in checks:
        try:
            check_expression(expression, kind)
        except FilterError as error:
            yield (
                f"{key}: {expression!r} is not valid SQL over the series catalog: {error}"
                f"{_quotes(expression, str(error))}"
            )


def _volumes(protocol: Protocol) -> Iterator[str]:
    """Yield which volumes no series of the role can have."""
    from jipflow.expressions import filter_steps
    from jipflow.modalities import may_be

    for role, spec in protocol.roles.items():
        keys = spec.volume.keys_of_mr if spec.volume else []
        conditions = [*filter_steps(protocol.cohort.where), spec.where]
        if keys and not may_be(conditions, "MR"):
            yield (
                f"cohort.case.roles.{role}.volume: only MR has {keys[0]}, and no MR series meets "
                "the role's filter; remove it, or change the filter."
            )


def _quotes(expression: str, error: str) -> str:
    """Return how a text is written, where one without single quotes was taken for a column."""
    texts = [each for each in re.findall(r'"([^"]*)"', expression) if f"column {each}" in error]
    if not texts and "did you mean" not in error:
        texts = re.findall(r"has no column (\w+)", error)
    return f" A text stands in single quotes: '{texts[0]}'." if texts else ""


def _segmentation(spec: SegmentationSettings, protocol: Protocol, known: Known) -> Iterator[str]:
    for role in spec.input_roles():
        if role not in protocol.roles:
            key = "" if role == spec.role else "inputs: "
            yield f"{key}role {role!r} is not a role of the cohort{among(role, protocol.roles)}"
        elif isinstance(spec, ModelSegmentation) and protocol.roles[role].suv_type != "BW":
            yield (
                f"role {role!r} has SUV by {protocol.roles[role].suv_type}, but models take SUV by "
                "body weight; give the series a second role without `suv`."
            )
    yield from _needed(spec, protocol)
    yield from _repeated([segment.name for segment in spec.segments], "segments")
    yield from _expectations(spec, known)
    for segment in spec.segments:
        if segment.term not in known.terms:
            near = meant(segment.term, known.terms, 3)
            proposal = f"did you mean {' or '.join(map(repr, near))}? Else " if near else ""
            yield (
                f"segment {segment.name!r}: there is no term {segment.term!r}; {proposal}take one "
                "of workflow/resources/terms.yaml, or add it with its codes to the protocol's "
                "terms."
            )
    yield from spec.problems(protocol, known)
    if isinstance(spec, ModelSegmentation):
        yield from spec.modality_problems(protocol, known)


def _repeated(names: list[str], key: str) -> Iterator[str]:
    for name in names:
        if names.count(name) > 1:
            yield f"{key}: the name {name!r} is used twice; rename one."


def _needed(spec: SegmentationSettings, protocol: Protocol) -> Iterator[str]:
    """Yield what is wrong with the other segmentations that one needs, and their segments."""
    others = {other.id: other for other in protocol.segmentations if other.id != spec.id}
    for name, segments in spec.needed_segments():
        if name not in others:
            yield f"there is no other segmentation {name!r}{among(name, others)}"
            return
        if others[name] in annotated(protocol.segmentations):
            yield (
                f"needs {name!r}, which a person makes after all others are made; name a "
                "segmentation of another engine."
            )
        there = [segment.name for segment in others[name].segments]
        for segment in segments:
            if segment not in there:
                yield f"segmentation {name!r} has no segment {segment!r}" + among(
                    segment, there, "it has"
                )


def _expectations(spec: SegmentationSettings, known: Known) -> Iterator[str]:
    """Yield what is expected of segments that cannot be."""
    for segment in spec.segments:
        if spec.may_be_empty and segment.required:
            yield (
                f"may_be_empty: segment {segment.name!r} must be there; set its `required: false`."
            )
        expected = segment.expect
        if expected is None or expected.disagreement is None:
            continue
        # A model that is not there is the engine's to complain of.
        if spec.networks(known) < 2:
            yield (
                f"segment {segment.name!r}: expect.disagreement: nothing is compared; only the "
                "engine nnunet with several folds or members does. Remove it."
            )


def _training(protocol: Protocol) -> Iterator[str]:
    training = protocol.training
    if training is None:
        return
    ids = [spec.id for spec in protocol.segmentations]
    if training.segmentation not in ids:
        rest = among(training.segmentation, ids)
        yield f"training: there is no segmentation {training.segmentation!r}{rest}"
    for role in training.inputs:
        if role not in protocol.roles:
            rest = among(role, protocol.roles)
            yield f"training: inputs: role {role!r} is not a role of the cohort{rest}"
    if training.folds == 1 and not training.held_out:
        yield (
            "training: with one fold no case is left to evaluate the model on; give held_out a "
            "share, or folds at least 2."
        )


def _measured(protocol: Protocol) -> Iterator[str]:
    roles = {spec.id: spec.role for spec in protocol.segmentations}
    measured = [entry.segmentation for entry in protocol.radiomics]
    for name in measured:
        if measured.count(name) > 1:
            yield f"radiomics: segmentation {name!r} is measured twice; keep one entry."
    for entry in protocol.radiomics:
        for problem in _entry(entry, roles):
            yield f"radiomics of {entry.segmentation!r}: {problem}"


def _entry(entry: RadiomicsEntry, roles: dict[str, str]) -> Iterator[str]:
    if entry.segmentation not in roles:
        yield f"there is no such segmentation{among(entry.segmentation, roles)}"
    elif entry.role != roles[entry.segmentation]:
        yield (
            f"role {entry.role!r} must be the role that was segmented, "
            f"{roles[entry.segmentation]!r}."
        )


def _analysis(analysis: AnalysisSettings, protocol: Protocol) -> Iterator[str]:
    yield from analysis.problems()
    roles = [*protocol.roles, *([ROLE] if protocol.clinical else [])]
    for variable in analysis.variables:
        role, _, name = variable.partition(".")
        if role == ROLE:
            yield from _clinical(variable, name, analysis, protocol)
        elif role not in protocol.roles:
            yield f"variable {variable!r} must start with a role{among(role, roles)}"
    yield from _further(analysis, protocol)
    yield from analysis.clinical_problems({e.name: e for e in protocol.clinical_variables})
    by = analysis.by
    if by is not None:
        yield from _by(by, analysis, protocol)


def _further(analysis: AnalysisSettings, protocol: Protocol) -> Iterator[str]:
    """Yield what is wrong with the variables that every cell of an analysis is computed from."""
    further = analysis.further()
    for number, each in enumerate(further):
        context = f"variable {each.variable!r}"
        if each.role not in (ROLE, *protocol.roles):
            yield f"{context} must start with a role{among(each.role, [*protocol.roles, ROLE])}"
            continue
        measured = [
            f"{entry.segmentation}/{segment.name}"
            for entry in protocol.radiomics
            if entry.role == each.role
            for segment in protocol.segmentation(entry.segmentation).segments
        ]
        for problem in each.problems(protocol.clinical_variables, measured):
            yield f"{context}: {problem}"
        place = (each.segmentation, each.segment)
        if (each.variable, *place) in [
            (e.variable, e.segmentation, e.segment) for e in further[:number]
        ]:
            yield f"{context} stands twice in the model; remove one."
        in_segments = each.role == ROLE or analysis.segments is None
        if (in_segments or each.segment in (analysis.segments or ())) and any(
            fnmatchcase(each.variable, variable) for variable in analysis.variables
        ):
            yield f"{context} is among `variables` as well; name those otherwise."


def _clinical(
    variable: str, name: str, analysis: AnalysisSettings, protocol: Protocol
) -> Iterator[str]:
    """Yield what is wrong with a variable that is a clinical one."""
    known = {each.name: each for each in protocol.clinical_variables}
    found = [known[each] for each in known if fnmatchcase(each, name)]
    if not known:
        yield f"variable {variable!r}: the protocol has no `clinical` variables; declare it there."
    elif not found:
        yield f"variable {variable!r} is no clinical variable{among(name, known)}"
    for each in found:
        if not each.number_like and not analysis.takes_categories:
            yield (
                f"variable {variable!r}: {each.name!r} is a category, and the kind "
                f"{analysis.kind!r} takes numbers; group by it (by.of: {ROLE}.{each.name}), or "
                "name other variables."
            )


def _by(by: By, analysis: AnalysisSettings, protocol: Protocol) -> Iterator[str]:
    """Yield what is wrong with what the groups of an analysis are of."""
    if by.clinical is None:
        if by.role is not None and by.role not in protocol.roles:
            roles = among(by.role, protocol.roles)
            yield f"by.role: {by.role!r} is not a role of the cohort{roles}"
        clinical = [name for name in analysis.variables if name.startswith(f"{ROLE}.")]
        if by.role is None and clinical:
            yield (
                f"by.role: name the role whose header divides the patients; {clinical[0]!r} has "
                "no series."
            )
        return
    if by.role is not None:
        yield f"by.role: {by.of!r} is of a patient and of no series; remove by.role."
    categories = {e.name: e for e in protocol.clinical_variables if e.values is not None}
    if by.clinical not in categories:
        rest = among(by.clinical, categories)
        yield f"by.of: {by.clinical!r} is no category of the protocol's `clinical`{rest}"
        return
    values = categories[by.clinical].values or []
    for group, pattern in by.groups.items():
        if not any(meets(pattern, value) for value in values):
            yield f"by.groups.{group}: {pattern!r} is none of the values{among(pattern, values)}"
    for value in values:
        met = by.met({by.of: value})
        if len(met) > 1:
            yield f"by.groups: {value!r} is in several groups: {', '.join(met)}."


def _groups(protocol: Protocol) -> Iterator[str]:
    """Yield the names of groups that mean different patients in two analyses."""
    first: dict[str, AnalysisSettings] = {}
    for analysis in protocol.analyses:
        for name in analysis.groups if analysis.by else ():
            other = first.setdefault(name, analysis)
            if other.by != analysis.by:
                yield (
                    f"analysis {analysis.id!r}: by.groups: {name!r} is a group of the analysis "
                    f"{other.id!r} too, whose `by` is another; name it otherwise, or give both the "
                    "same `by`."
                )

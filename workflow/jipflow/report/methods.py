"""How the numbers of a protocol came about, in words: for the reader of a result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from jipflow.analyses.contract import AnyAnalysis, analyses_of
from jipflow.blocks import Table, TableCell, code, head
from jipflow.expressions import filter_steps
from jipflow.settings.part import Part
from jipflow.settings.protocol import Protocol, SegmentationSettings
from jipflow.settings.radiomics import Radiomics

BY_PERSON = "a person, at each site"


@dataclass(frozen=True)
class Methods:
    """The methods section of a page.

    Attributes:
        cohort: sentences on whom the numbers are of.
        tables: what was segmented, how it was measured, what is clinical, and what was computed.
        gate: sentences on what may leave a site.
        merging: by the kind of analysis, how the sites' numbers become one.
    """

    cohort: Sequence[Markup]
    tables: Sequence[tuple[str, Table]]
    gate: Sequence[str]
    merging: Sequence[tuple[str, str]]


def methods(protocol: Protocol, parameters: Mapping[str, Radiomics]) -> Methods:
    """Return what a protocol does, in words.

    Args:
        protocol: complete.
        parameters: the radiomics settings that it names.
    """
    analyses = analyses_of(protocol)
    merging = {each.settings.kind: each.merging for each in analyses}
    return Methods(
        cohort=list(_cohort(protocol)),
        tables=[
            ("Segmentations", _segmentations(protocol.segmentations)),
            ("Radiomics", _radiomics(protocol, parameters)),
            ("Clinical variables", _clinical(protocol)),
            ("Analyses", _analyses(analyses)),
        ],
        gate=list(_gate(protocol)),
        merging=sorted(merging.items()),
    )


def _cohort(protocol: Protocol) -> Iterator[Markup]:
    for expression in filter_steps(protocol.cohort.where):
        yield Markup("Series that meet {}.").format(code(expression))
    yield Markup("A case is one {} of a patient.").format(
        "study" if protocol.cohort.case.by == "study" else "time point"
    )
    for name, role in protocol.roles.items():
        needed = "needed" if role.required else "where there is one"
        yield Markup("Role {} ({}): a series that meets {}.").format(
            code(name), needed, code(role.where)
        )


def _segmentations(segmentations: Sequence[SegmentationSettings]) -> Table:
    titles = ("Segmentation", "On", "By", "Settings", "Segments")
    return Table(
        "Segmentations of the protocol",
        [head(title) for title in titles],
        [
            [
                TableCell(code(spec.id), scope="row"),
                TableCell(spec.role),
                TableCell(BY_PERSON if spec.by_person else spec.engine),
                TableCell(_words(spec, ("id", "engine", "role", "segments", "encoding"))),
                TableCell(", ".join(segment.name for segment in spec.segments)),
            ]
            for spec in segmentations
        ],
    )


def _radiomics(protocol: Protocol, parameters: Mapping[str, Radiomics]) -> Table:
    rows = []
    for entry in protocol.radiomics:
        named = entry.settings
        content = parameters[named] if isinstance(named, str) else named
        rows.append(
            [
                TableCell(code(entry.segmentation), scope="row"),
                TableCell(entry.role),
                TableCell(named if isinstance(named, str) else "the protocol's own"),
                TableCell(_words(content.processing) or "none"),
                TableCell(_words(content.image_type)),
                TableCell(_words(content.setting)),
            ]
        )
    titles = ("Segmentation", "On", "Settings", "Before", "Images", "Features")
    return Table("Radiomics of the protocol", [head(title) for title in titles], rows)


def _clinical(protocol: Protocol) -> Table:
    titles = ("Variable", "Type", "Settings")
    return Table(
        "Clinical variables of the protocol",
        [head(title) for title in titles],
        [
            [
                TableCell(code(each.name), scope="row"),
                TableCell(each.type),
                TableCell(_words(each, ("name", "type")) or "none"),
            ]
            for each in protocol.clinical_variables
        ],
    )


def _analyses(analyses: Sequence[AnyAnalysis]) -> Table:
    return Table(
        "Analyses of the protocol",
        [head(title) for title in ("Analysis", "Kind", "What", "Variables", "Settings")],
        [
            [
                TableCell(code(each.settings.id), scope="row"),
                TableCell(each.settings.kind),
                TableCell(_first_line(each.settings)),
                TableCell(", ".join(each.settings.variables)),
                TableCell(_words(each.settings, ("id", "kind", "variables"))),
            ]
            for each in analyses
        ],
    )


def _gate(protocol: Protocol) -> Iterator[str]:
    limits = protocol.disclosure
    yield (
        f"A number left a site only if at least {limits.min_patients} patients stood behind it, "
        "and behind what follows from it and from all that left before; a site may ask for more."
    )
    yield (
        f"A mean was withheld if two patients made more than {limits.largest_two:g} of it, or all "
        f"but two less than {limits.p_percent:g} % of what the first made."
    )
    share = protocol.tolerance.max_failed_fraction
    yield f"A site released nothing if more than {share:g} of its cases had failed."


def _words(part: Part, without: Sequence[str] = ()) -> str:
    """Return the keys of settings that have a value other than none, as ``key value; key value``.

    Args:
        part: the settings.
        without: keys that stand elsewhere.
    """
    content = {name: value for name, value in part.plain().items() if name not in without}
    return "; ".join(_phrases(content))


def _phrases(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        title = f"{prefix} {name}".strip()
        if isinstance(value, Mapping):
            if value:
                yield from _phrases(value, title)
            else:
                yield title
        elif isinstance(value, list):
            yield f"{title} {', '.join(map(_item, value))}" if value else title
        elif value is True:
            yield title
        elif value is not None and value is not False:
            yield f"{title} {value}"


def _first_line(part: Part) -> str:
    return (type(part).__doc__ or "").partition("\n")[0]


def _item(value: Any) -> str:
    """Return one of several values; what has keys of its own stands in brackets."""
    return f"({'; '.join(_phrases(value))})" if isinstance(value, Mapping) else str(value)

"""The two files of a release, the allow-list of what may leave a site, and what a hub answers.

``aggregates.json`` holds the numbers, ``disclosure.json`` what the gate did with each cell;
``state.json`` is what the hub says to all sites before a round. What they may hold of a kind of
analysis is in its module; here it is joined for all kinds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from jipflow import __version__
from jipflow.analyses.cells import CellKey
from jipflow.analyses.contract import AnyAnalysis, kinds
from jipflow.analyses.forms import FLOOR, RecordedCell, ReleasedAnalysis, StatedAnalysis, StatedCell
from jipflow.analyses.rules import Rule
from jipflow.exchange.message import (
    CONTENT,
    PAGE,
    ContentName,
    FileEntry,
    ProtocolVersion,
    Round,
    Sha256,
    Version,
    checked,
    describe,
)
from jipflow.files import read_json, write_json
from jipflow.reasons import StageError
from jipflow.release.behind import Behind
from jipflow.release.gate import all_rules
from jipflow.settings.digests import protocol_parts
from jipflow.settings.part import Id, Part
from jipflow.settings.plugins import one_of
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import Settings

H = TypeVar("H", bound="Header")

BUILT = "built.json"
"""Hashes of the two files, their page, `TERMS` and `REVIEW`, as they were built together."""

REVIEW = "review.json"
"""What a steward reads beside the numbers; see `jipflow.release.since`."""

TERMS = "terms.json"
"""What else of the settings an approval is about; see `jipflow.release.terms`."""

NumberOfCells = Annotated[int, Field(ge=0)]
Meaning = Annotated[str, Field(max_length=300)]
Verdict = Literal["released", "nothing released"]


class ReleaseError(StageError):
    """Nothing is released; the message says why and what would fix it."""


class Header(Part):
    """What both files say first: where they come from, and where they go."""

    protocol: ProtocolVersion
    site: Id
    recipient: Id
    round: Round
    version: Version
    """jipflow's version at the site."""
    min_patients: Annotated[int, Field(ge=FLOOR)]
    """The minimum that was applied: the stricter of the protocol's and the site's."""


class Aggregates(Header):
    """The numbers of one site that leave it."""

    analyses: Sequence[ReleasedAnalysis]


class Totals(Part):
    """How many cells were released, and withheld by each rule."""

    cells: NumberOfCells
    released: NumberOfCells
    withheld: dict[str, NumberOfCells]


class Disclosure(Header):
    """What the gate did with each cell, by rule; it holds no count of patients."""

    aggregates_sha256: Sha256
    """The aggregates that these decisions belong to."""
    verdict: Verdict
    """Whether the rules left any cell that leaves."""
    rules: dict[str, Meaning]
    """What each rule says."""
    summary: Totals
    cells: Sequence[RecordedCell]


class State(Part):
    """What the hub says to all sites before a round; before the first there is nothing to say."""

    protocol: ProtocolVersion
    round: Round
    """The round that begins."""
    analyses: Sequence[StatedAnalysis]

    @model_validator(mode="after")
    def _no_cell_twice(self) -> Self:
        ids = [analysis.id for analysis in self.analyses]
        keys = [(analysis.id, cell.key) for analysis in self.analyses for cell in analysis.cells]
        if len(ids) > len(set(ids)) or len(keys) > len(set(keys)):
            raise PydanticCustomError("twice", "an analysis or a cell is there twice")
        return self

    def given(self, analysis: str) -> dict[CellKey, StatedCell]:
        """Return what is stated of each cell of an analysis; nothing where it has ended."""
        return {
            cell.key: cell for each in self.analyses if each.id == analysis for cell in each.cells
        }


@dataclass(frozen=True)
class Formats:
    """The models of the files, for all kinds of analysis and all rules that there are."""

    aggregates: type[Aggregates]
    disclosure: type[Disclosure]
    state: type[State]

    @cached_property
    def words(self) -> frozenset[str]:
        """Every key and every fixed text of the two files that leave a site."""
        schemas = (self.aggregates.model_json_schema(), self.disclosure.model_json_schema())
        rules = all_rules()
        texts = {text for rule in rules for text in (rule.code, rule.meaning, *rule.findings)}
        return frozenset(texts.union(*map(_words, schemas)))


def protocol_text(settings: Settings) -> ProtocolVersion:
    """Return which protocol a site's messages belong to, and which text of it."""
    return ProtocolVersion(
        id=settings.protocol_id,
        version=settings.protocol.protocol.version,
        sha256=settings.protocol_sha256,
        parts=protocol_parts(settings.protocol, settings.named),
    )


def formats() -> Formats:
    """Return the models of the files."""
    return _formats(tuple(kinds().items()), all_rules())


def prepare() -> None:
    """Make the models of the files and their words, for processes that are copies of this one."""
    found = formats()
    for model in (found.aggregates, found.disclosure, found.state):
        model.model_rebuild()
    assert found.words


@cache
def _formats(known: tuple[tuple[str, type[AnyAnalysis]], ...], rules: tuple[Rule, ...]) -> Formats:
    code: Any = Literal[tuple(rule.code for rule in rules)]
    finding: Any = Literal[tuple(dict.fromkeys(text for r in rules for text in r.findings))]
    recorded = [_recorded(analysis, kind, dict[code, finding]) for kind, analysis in known]
    totals: Any = create_model("Totals", __base__=Totals, withheld=(dict[code, NumberOfCells], ...))
    one_released: Any = one_of([analysis.released for _, analysis in known], "kind")
    one_recorded: Any = one_of(recorded, "kind")
    stated = [analysis.stated for _, analysis in known if analysis.stated]
    one_stated: Any = one_of(stated, "kind")
    return Formats(
        create_model("Aggregates", __base__=Aggregates, analyses=(list[one_released], ...)),
        create_model(
            "Disclosure",
            __base__=Disclosure,
            rules=(dict[code, Meaning], ...),
            summary=(totals, ...),
            cells=(list[one_recorded], ...),
        ),
        create_model("State", __base__=State, analyses=(list[one_stated], ...)),
    )


def _recorded(analysis: type[AnyAnalysis], kind: Any, findings: Any) -> type[RecordedCell]:
    """Return the model of a kind's cells in the record, with the rules that there are."""
    base, only = analysis.recorded, cast(Any, Literal[kind])
    return create_model(base.__name__, __base__=base, kind=(only, ...), rules=(findings, ...))


def _words(schema: Any) -> Iterator[str]:
    """Yield the keys and the fixed texts of a JSON Schema."""
    if isinstance(schema, Mapping):
        yield from schema.get("properties", ())
        yield from (text for text in schema.get("enum", ()) if isinstance(text, str))
        yield from (text for text in [schema.get("const")] if isinstance(text, str))
        for child in schema.values():
            yield from _words(child)
    elif isinstance(schema, list):
        for child in schema:
            yield from _words(child)


@dataclass(frozen=True)
class Release:
    """The files of a candidate release, as bytes and as what they say."""

    files: Mapping[ContentName, bytes]
    aggregates: Aggregates
    disclosure: Disclosure


def read_release(folder: Path) -> Release:
    """Read the files of a candidate and check that one build wrote them.

    Raises:
        ReleaseError: a file is missing, no JSON, of another form, or was changed since.
    """
    files: dict[ContentName, bytes] = {}
    contents: dict[str, Any] = {}
    for name in CONTENT:
        path = folder / name
        if not path.is_file():
            raise ReleaseError(f"{path} is missing; build the release first.")
        files[name] = path.read_bytes()
        try:
            contents[name] = json.loads(files[name])
        except ValueError:
            raise ReleaseError(f"{path} is not JSON any more; build the release again.") from None
    found = formats()
    aggregates_name, disclosure_name = CONTENT
    release = Release(
        files,
        _of_form(found.aggregates, contents[aggregates_name], folder / aggregates_name),
        _of_form(found.disclosure, contents[disclosure_name], folder / disclosure_name),
    )
    if describe(files[aggregates_name]).sha256 != release.disclosure.aggregates_sha256:
        raise ReleaseError(
            f"{folder / aggregates_name} was changed after the disclosure gate wrote it; "
            "build the release again."
        )
    return release


def _of_form(model: type[H], content: Any, path: Path) -> H:
    """Return the content of a file of a release as its model, or say what to do about it."""
    try:
        return checked(model, content, str(path))
    except ConfigError as error:
        first, *others = str(error).removeprefix(f"{path}: ").split("\n")
        more = " and other places" if others else ""
        raise ReleaseError(
            f"{path} has another form than jipflow {__version__} writes ({first}{more}); build the "
            f"release again: remove {path} and run the workflow."
        ) from None


class Built(Part):
    """What was built together; stays beside it."""

    files: dict[str, FileEntry]
    """Both files, the page, the terms and the review."""
    behind: dict[str, FileEntry]
    """What stands behind them, which lies elsewhere."""
    entries: list[Sha256]
    """The entries that the ledger had."""


def record_built(folder: Path, behind: Behind, entries: Sequence[str]) -> None:
    """Note the hashes of a candidate and its page in ``built.json``: the last step of a build.

    Args:
        folder: of the candidate.
        behind: what stands behind it.
        entries: hashes of the entries that the ledger had.
    """
    names = (*CONTENT, PAGE, TERMS, REVIEW)
    found = {name: describe((folder / name).read_bytes()) for name in names}
    built = Built(files=found, behind=behind.described(), entries=list(entries))
    write_json(folder / BUILT, built.plain())


def read_built(folder: Path) -> Built:
    """Read what was built together.

    Raises:
        ReleaseError: it is missing, or not as it was written.
    """
    again = f"build the release again: remove {folder / PAGE} and run the workflow."
    if not (folder / BUILT).is_file():
        raise ReleaseError(f"{folder / BUILT} is missing; {again}")
    try:
        return checked(Built, read_json(folder / BUILT), str(folder / BUILT))
    except (ValueError, ConfigError):
        raise ReleaseError(f"{folder / BUILT} is not as it was written; {again}") from None


def read_page(folder: Path, release: Release) -> FileEntry:
    """Return the page of a candidate, if it is of these files and none of them was changed.

    Args:
        folder: of the candidate.
        release: its files, as they were read.

    Raises:
        ReleaseError: the page is missing, is of other files, or something was changed since they
            were built together.
    """
    again = f"build the release again: remove {folder / PAGE} and run the workflow."
    if not (folder / PAGE).is_file():
        raise ReleaseError(f"{folder / PAGE} is missing; {again}")
    page = (folder / PAGE).read_bytes()
    built = read_built(folder).files
    found = {name: describe(data) for name, data in (*release.files.items(), (PAGE, page))}
    for name, entry in found.items():
        if built.get(name) != entry:
            raise ReleaseError(f"{folder / name} was changed after it was built; {again}")
    for name in CONTENT:
        if found[name].sha256.encode() not in page:
            raise ReleaseError(f"{folder / PAGE} does not show {name} as it is now; {again}")
    return found[PAGE]

"""The settings of a protocol: what is computed, identical at every site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationInfo
from pydantic_core import PydanticCustomError

from jipflow.patterns import PatternError, check_pattern, meets
from jipflow.settings.clinical import ROLE, VARIABLE, ClinicalVariable
from jipflow.settings.consent import ConsentRule
from jipflow.settings.covariates import Covariate
from jipflow.settings.export import ExportRule
from jipflow.settings.names import among
from jipflow.settings.part import (
    AsGiven,
    GroupName,
    Id,
    Maybe,
    Part,
    Positive,
    Range,
    Role,
    SegmentName,
    Share,
    Text,
    json_type,
)
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.registry import RegisteredModel
from jipflow.settings.terms import TermName, TermSettings
from jipflow.settings.training import AnyTraining
from jipflow.settings.volume import Volume

CHECKED = "checked"
"""Context in which what a run has checked when it began is read: each of its jobs would open a
database to check regular expressions again."""


@dataclass(frozen=True)
class Known:
    """What a protocol may name.

    Attributes:
        models: of the registries, by name.
        terms: shipped and of the protocol, by name.
        registries: the names of their files, for messages.
    """

    models: Mapping[str, RegisteredModel]
    terms: Mapping[str, Any]
    registries: str


class About(Part):
    """Which protocol this is."""

    id: Id
    """Short name of the protocol in paths and releases."""
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    """Semantic version; a change of the protocol is a new version."""
    title: Text
    """One line for the reports."""
    description: str = ""
    """Anything else that readers should know."""


class SeriesRole(Part):
    """What a series of a case is for."""

    where: Text
    """DuckDB expression that a series of this role meets."""
    required: bool = True
    """A case without this role is excluded."""
    prefer: Maybe[Text] = None
    """DuckDB ORDER BY terms that choose among several series; without it several series exclude the
    case."""
    volume: Maybe[Volume] = None
    """Which volume of a series that holds several; without it such a series is refused. Two roles
    may be two volumes of one series."""
    suv: Maybe[Literal["BW", "LBM", "LBMJAMES128", "LBMJANMA", "IBW", "BSA"]] = None
    """What the SUV of PET is normalised to, as in SUV Type (0054,1006): body weight, which is so
    without it, lean body mass by one of three formulas, ideal body weight, or body surface."""

    @property
    def suv_type(self) -> str:
        """What the SUV of PET is normalised to: `suv`, or ``BW``."""
        return self.suv or "BW"


class CaseOf(Part):
    """What a case is."""

    by: Literal["study", "patient"] = "study"
    """A case is a patient's DICOM study, or all that a patient has."""
    roles: Annotated[dict[Role, SeriesRole], Field(min_length=1)]
    """What each series of a case is for."""


class Cohort(Part):
    """Which series are taken, and what they are for."""

    where: Annotated[
        Annotated[Text, Tag("string")] | Annotated[list[Text], Field(min_length=1), Tag("array")],
        Discriminator(json_type),
    ]
    """DuckDB expressions over the series catalog, applied in order; each is a step of the cohort's
    flow."""
    case: CaseOf
    consent: Maybe[ConsentRule] = None
    """Only patients who consent; without it nobody is asked. See [consent.md](consent.md)."""


def _expression(value: str, info: ValidationInfo) -> str:
    if info.context is CHECKED:
        return value
    try:
        check_pattern(value)
    except PatternError as error:
        raise PydanticCustomError(
            "expression",
            "{value} is not a regular expression: {error}",
            {"value": repr(value), "error": str(error)},
        ) from None
    return value


Expression = Annotated[Text, AfterValidator(_expression)]
"""A regular expression (RE2)."""


class Expectation(Part):
    """What a plausible segment is; one that is not is flagged in its outcome and in the report."""

    least_keys = 1

    volume_ml: Maybe[Range] = None
    """Least and greatest volume in ml; of a segment without a voxel it is 0."""
    components: Maybe[Annotated[int, Field(ge=1)]] = None
    """Most connected components."""
    intensity: Maybe[Range] = None
    """Least and greatest mean intensity."""
    border: Maybe[bool] = None
    """Whether the segment may reach the border of the image."""
    disagreement: Maybe[Share] = None
    """Most that the folds of a model, or its members, may disagree: 1 minus their mean Dice
    coefficient."""


class SegmentSettings(Part):
    """A region."""

    name: SegmentName
    """Name of the segment in tables and releases."""
    term: TermName
    required: bool = False
    """A case without this segment fails the segmentation."""
    expect: Maybe[Expectation] = None
    """What a plausible segment is; one that is not is flagged in its outcome and in the report."""


class LabelledSegment(SegmentSettings):
    """A region that a model finds."""

    label: Text
    """Name of the label in the model."""


class SegmentationSettings(Part):
    """What is segmented, in which role, and how.

    Each engine derives one class from it in its ``settings.py``, with ``engine: Literal["<name>"]``
    and its own keys, of which ``segments`` is one.

    Attributes:
        by_person: whether a person makes it, after all that is made without one.
        extra: of the package, whose libraries it computes with; empty where it needs none.
    """

    by_person: ClassVar[bool] = False
    extra: ClassVar[str] = ""

    id: Id
    """Name of the segmentation in paths and tables."""
    engine: str
    """What finds the regions; docs/segmentation.md compares them."""
    role: Role
    """Role of the series that is segmented."""
    encoding: Literal["binary", "labelmap"] = "binary"
    """Segmentation Type of the DICOM-SEG; binary can hold overlapping segments, labelmap is far
    smaller where there are many."""
    may_be_empty: bool = False
    """That nothing is found is a finding, as of tumour burden; the segments that are not there are
    measured with 0 ml, and no DICOM-SEG is written where none is."""
    if TYPE_CHECKING:
        segments: Sequence[SegmentSettings]

    def annotations(self) -> list[str]:
        """Return the kinds of objects of the archive, RTSTRUCT or SEG, that it takes over."""
        return []

    def input_roles(self) -> list[str]:
        """Return the roles whose volumes it needs, its own first."""
        return [self.role]

    def needed_segments(self) -> list[tuple[str, list[str]]]:
        """Return the other segmentations that it needs, by id, each with segments of it."""
        return []

    def input_segmentations(self) -> list[str]:
        """Return the ids of the segmentations that it needs."""
        return list(dict.fromkeys(other for other, _ in self.needed_segments()))

    def networks(self, known: Known) -> int:
        """Return how many networks look for its segments, whose masks can be compared."""
        return 0

    def problems(self, protocol: Protocol, known: Known) -> Iterator[str]:
        """Yield what types cannot say is wrong with what is the engine's own, one sentence each.

        Args:
            protocol: that it is of; its roles, ids and segments are checked.
            known: what it may name.
        """
        yield from ()


class ModelSegmentation(SegmentationSettings):
    """A segmentation by a model of the registry."""

    model: Text
    """Name of a model in config/models.yaml, or in a models.yaml of the site's or beside the
    protocol."""
    if TYPE_CHECKING:
        segments: Sequence[LabelledSegment]

    def model_problems(self, known: Known) -> Iterator[str]:
        """Yield what is wrong with the name of the model."""
        model = known.models.get(self.model)
        if model is None:
            rest = among(self.model, known.models)
            yield f"there is no model {self.model!r} in {known.registries}{rest}"
        elif model.engine != self.engine:
            yield (
                f"model {self.model!r} is of the engine {model.engine}, not {self.engine}; name "
                "another model, or that engine."
            )

    def modalities(self, model: RegisteredModel) -> dict[str, str]:
        """Return the modality that the series of each role it needs must have.

        Args:
            model: the one that it names, of its engine.
        """
        return dict(zip(self.input_roles(), model.roles, strict=False))

    def modality_problems(self, protocol: Protocol, known: Known) -> Iterator[str]:
        """Yield which roles no series of the modality can have that the model takes."""
        from jipflow.expressions import filter_steps
        from jipflow.modalities import may_be

        model = known.models.get(self.model)
        if model is None or model.engine != self.engine:
            return
        for role, modality in self.modalities(model).items():
            if role not in protocol.roles:
                continue
            where = [*filter_steps(protocol.cohort.where), protocol.roles[role].where]
            if not may_be(where, modality):
                yield (
                    f"model {self.model!r} takes {modality} for role {role!r}, and no {modality} "
                    "series meets that role's filter; name a role of that modality, or another "
                    "model."
                )

    def label_problems(self, known: Known) -> Iterator[str]:
        """Yield which segments name labels that the model does not have."""
        if self.model not in known.models:
            return
        labels = [label.name for label in known.models[self.model].labels]
        for segment in self.segments:
            if segment.label not in labels:
                rest = among(segment.label, labels, "it has")
                yield (
                    f"segment {segment.name!r}: model {self.model!r} has no label "
                    f"{segment.label!r}{rest}"
                )


Growth = Annotated[float, Field(gt=-1, le=1), AsGiven]


class Stability(Part):
    """How outlines are changed."""

    least_keys = 1

    translate: list[Positive] = Field(default=[])
    """Distances in mm by which an outline is moved to and fro along each axis, rounded to voxels.
    """
    grow: list[Growth] = Field(default=[])
    """Shares of its volume by which a region grows, or shrinks where they are negative."""
    contours: Annotated[int, Field(ge=0, le=100)] = 0
    """Outlines drawn anew along supervoxels of the image."""


class RadiomicsEntry(Part):
    """What is measured, and how."""

    segmentation: Id
    """Id of a segmentation."""
    role: Role
    """Role of the series that is measured; the one that was segmented."""
    settings: Annotated[
        Annotated[str, Field(pattern=r"^([a-z0-9_-]+|.+\.ya?ml)$"), Tag("string")]
        | Annotated[Radiomics, Tag("object")],
        Discriminator(json_type),
    ]
    """Name of a file in workflow/resources/radiomics; or the path of a YAML file, relative to the
    protocol's; or its content."""
    stability: Maybe[Stability] = None
    """Measures each region again with changed outlines; the report gives the intraclass correlation
    of each feature."""


NO_GROUPS = frozenset(
    {
        *("all", "group", "groups", "n", "none", "other", "others", "patients", "released", "rows"),
        *("site", "sites", "together", "total", "withheld"),
    }
)
"""Words that a release, a result and their pages use for other things than groups."""


class By(Part):
    """Groups of patients by scanner, acquisition or clinical variable, each with cells of its own.

    A case belongs to the group whose expression the whole text of its series' header meets, an
    empty text where the header lacks it, or the whole value of its clinical variable. A case of no
    group or of several is left out, and so is one without the variable; a patient whose cases are
    in several groups is left out of them all, for groups are compared as different patients.
    """

    of: Annotated[str, Field(pattern=rf"^(manufacturer|model|protocol_name|{ROLE}\.{VARIABLE})$")]
    """Header of the series: manufacturer, Manufacturer (0008,0070), model, Manufacturer's Model
    Name (0008,1090), or protocol_name, Protocol Name (0018,1030), which says how it was acquired;
    or clinical.<name> of a category among the protocol's clinical variables."""
    role: Maybe[Role] = None
    """Role of the series; without it that of the variable."""
    groups: Annotated[dict[GroupName, Expression], Field(min_length=1)]
    """Regular expression (RE2) by the name of the group; no text of a header is ever released."""

    @property
    def clinical(self) -> str | None:
        """Name of the clinical variable that divides, or None where a header does."""
        role, _, name = self.of.partition(".")
        return name if role == ROLE else None

    def role_of(self, role: str) -> str:
        """Return the role of the series whose header divides; ``clinical`` where none does.

        Args:
            role: of the variable.
        """
        return ROLE if self.clinical else self.role or role

    def identity(self, role: str) -> tuple[str, ...]:
        """Return what tells the division apart from all others.

        Args:
            role: of the variable.
        """
        named = (text for group in sorted(self.groups.items()) for text in group)
        return (self.of, self.role_of(role), *named)

    def met(self, texts: Mapping[str, str] | None) -> list[str]:
        """Return the groups that a case meets, sorted; it belongs to one where it meets only that.

        Args:
            texts: what the header of its series says, by ``manufacturer``, ``model`` and
                ``protocol_name``, or its clinical variables by ``clinical.<name>``; None where it
                has no such series.
        """
        text = None if texts is None else texts.get(self.of)
        if text is None:
            return []
        return [name for name, pattern in sorted(self.groups.items()) if meets(pattern, text)]


class AnalysisSettings(Part):
    """What a release is computed from.

    Each module of `jipflow.analyses` that is an analysis derives one class from it, with its own
    keys and ``kind: Literal["<its name>"]``.

    Attributes:
        takes_categories: whether its variables may be categories, as clinical ones can be.
    """

    takes_categories: ClassVar[bool] = False

    id: Id
    """Name of the analysis in releases."""
    kind: str
    """What is computed."""
    variables: Annotated[
        list[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*\.[A-Za-z0-9_*-]+$")]],
        Field(min_length=1),
    ]
    """<role>.<feature>, where * stands for any text; each is computed for every segment measured in
    that role. clinical.<name> is one of the clinical variables."""
    segments: Maybe[Annotated[list[SegmentName], Field(min_length=1)]] = None
    """Only these segments; clinical variables are of none."""
    by: Maybe[By] = None
    """Each of these groups of patients by itself; without it all patients together."""

    @property
    def groups(self) -> list[str]:
        """Names of the groups, sorted; one that is empty where all patients are together."""
        return sorted(self.by.groups) if self.by else [""]

    def further(self) -> Sequence[Covariate]:
        """Return the variables that every cell is computed from beside its own."""
        return ()

    def clinical_problems(self, known: Mapping[str, ClinicalVariable]) -> Iterator[str]:
        """Yield what is wrong with the clinical variables that it names, one sentence each.

        Args:
            known: the protocol's clinical variables by name.
        """
        yield from ()

    def problems(self) -> Iterator[str]:
        """Yield what types cannot say is wrong with the settings, one sentence each."""
        for name in sorted(NO_GROUPS.intersection(self.groups)):
            yield f"by.groups: {name!r} means something else in results; name the group otherwise."


class Disclosure(Part):
    """What may leave a site."""

    min_patients: Annotated[int, Field(ge=5)] = 10
    """Fewest patients behind any released number."""
    largest_two: Annotated[float, Field(gt=0, le=0.9), AsGiven] = 0.9
    """Largest share of the magnitude of all values that the two patients with the most may have
    in a mean; see [release.md](release.md#the-rules-of-the-gate)."""
    p_percent: Annotated[float, Field(ge=10, le=100), AsGiven] = 10
    """What all patients but the two with the most must at least add to a mean, in percent of what
    the one with the most adds."""

    def stricter(self, min_patients: int, largest_two: float, p_percent: float) -> Disclosure:
        """Return the limits of which each is the stricter of this one and the one given."""
        return Disclosure(
            min_patients=max(self.min_patients, min_patients),
            largest_two=min(self.largest_two, largest_two),
            p_percent=max(self.p_percent, p_percent),
        )


class Tolerance(Part):
    """Which runs are acceptable."""

    max_failed_fraction: Share = 0.1
    """A run with a larger share of failed cases is not acceptable and releases nothing."""
    max_waiting_fraction: Share = 0
    """A run in which a larger share of cases waits for a person is not acceptable and releases
    nothing."""


if TYPE_CHECKING:
    AnySegmentation = SegmentationSettings
    AnyAnalysis = AnalysisSettings


class Protocol(Part):
    """What is computed, identical at every site. Nothing here may be specific to a site."""

    protocol: About
    cohort: Cohort
    segmentations: Annotated[list[AnySegmentation], Field(min_length=1)]
    """What is segmented, in which role, and how."""
    radiomics: list[RadiomicsEntry] = Field(default=[])
    """Which segmentations are measured."""
    training: Maybe[AnyTraining] = None
    """A model that `snakemake train` trains on the cohort's own segmentations. See
    [training.md](training.md)."""
    clinical: Maybe[Annotated[list[ClinicalVariable], Field(min_length=1)]] = None
    """Clinical variables beside what is measured; see [clinical.md](clinical.md)."""
    analyses: list[AnyAnalysis] = Field(default=[])
    """What a release is computed from; without any there is no release."""
    disclosure: Disclosure = Field(default_factory=Disclosure)
    export: Maybe[ExportRule] = None
    """What leaves of images, once a person exports them; without it heads stay. See
    [export.md](export.md#pixels)."""
    tolerance: Tolerance = Field(default_factory=Tolerance)
    terms: Maybe[dict[TermName, TermSettings]] = None
    """Terms of the protocol's own, beside those of workflow/resources/terms.yaml. They may stand in
    a file terms.yaml beside the protocol instead."""

    @property
    def roles(self) -> dict[str, SeriesRole]:
        """What each series of a case is for."""
        return self.cohort.case.roles

    @property
    def clinical_variables(self) -> list[ClinicalVariable]:
        """The clinical variables, in the protocol's order."""
        return self.clinical or []

    def training_roles(self) -> list[str]:
        """Return the roles whose volumes are the channels of the training, in their order."""
        assert self.training
        spec = self.segmentation(self.training.segmentation)
        return list(self.training.inputs) or [spec.role]

    def segmentation(self, identifier: str) -> SegmentationSettings:
        """Return the segmentation of that id."""
        return next(spec for spec in self.segmentations if spec.id == identifier)

    def needed_roles(self, identifier: str) -> set[str]:
        """Return the roles without which a case has no segmentation of that id.

        Those of the segmentations that it is made from are among them. A person needs no proposal.
        """
        spec = self.segmentation(identifier)
        if spec.by_person:
            return {spec.role}
        needed = [self.needed_roles(other) for other in spec.input_segmentations()]
        return set(spec.input_roles()).union(*needed)


def annotated(segmentations: Sequence[SegmentationSettings]) -> list[SegmentationSettings]:
    """Return the segmentations that a person makes."""
    return [spec for spec in segmentations if spec.by_person]


def automatic(segmentations: Sequence[SegmentationSettings]) -> list[SegmentationSettings]:
    """Return the segmentations that are made without a person."""
    return [spec for spec in segmentations if not spec.by_person]


def in_order(segmentations: Sequence[SegmentationSettings]) -> list[SegmentationSettings]:
    """Return segmentations so that each comes after those that it needs.

    Raises:
        CycleError: they need each other in a circle.
    """
    by_id = {spec.id: spec for spec in segmentations}
    needs = {name: spec.input_segmentations() for name, spec in by_id.items()}
    return [by_id[name] for name in TopologicalSorter(needs).static_order()]

"""Registries of models: the shipped ``config/models.yaml``, a site's own, a protocol's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from jipflow.columns import Modality
from jipflow.settings import resources
from jipflow.settings.part import Id, LocalPath, Maybe, Part, Text

FileName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*$")
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Code(Part):
    """A code of DICOM."""

    value: Text
    """Code Value."""
    scheme: Text
    """Coding Scheme Designator, such as SCT."""
    meaning: Annotated[str, Field(min_length=1, max_length=64)]
    """Code Meaning."""


class Label(Part):
    """What a model finds."""

    name: Text
    """The label's name in protocols and in the model's own files."""
    value: Annotated[int, Field(ge=1, le=65535)]
    """Its number in the model's label maps, at most what 16 bits hold."""
    category: Code
    """Segmented Property Category (DICOM CID 7150)."""
    type: Code
    """Segmented Property Type."""
    laterality: Maybe[Literal["left", "right"]] = None
    """Side of the type."""


class Download(Part):
    """Where files come from."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
    """Address of one file or of a zip archive."""
    file: Maybe[FileName] = None
    """Which of the files the address gives."""
    archive_sha256: Maybe[Sha256] = None
    """SHA-256 of the zip archive that the address gives instead; its members are the files."""
    folder: Maybe[FileName] = None
    """Folder that the archive's members are relative to; without it the model's folder."""


class RegisteredModel(Part):
    """A model that a protocol may name, pinned file by file.

    An engine that runs models derives one class from it in its ``settings.py``, with the keys that
    its models have beside these; all of those decide what a model finds.
    """

    name: Text
    """One line for the reports."""
    version: Text
    """Version that its makers gave it."""
    engine: str
    """What runs it; a protocol's segmentation names the same."""
    path: FileName
    """Folder of its files, relative to the registry's folder; that of config/models.yaml is
    relative to the repository."""
    licence: Text
    """Terms of use of the weights, as an SPDX identifier where there is one."""
    intended_use: Text
    """What it is made for and what it must not be used for."""
    training_data: Text
    """What it was trained on, and with which consent or licence."""
    roles: Annotated[list[Modality], Field(min_length=1)]
    """Modality of each image that it takes, in the order of its input channels; a series of another
    one is refused."""
    labels: list[Label] = Field(default=[])
    """What it finds; none for TotalSegmentator, whose tasks have their own table."""
    files: Annotated[dict[FileName, Sha256], Field(min_length=1)]
    """SHA-256 of each file by its path below the model's folder; no other file may be there."""
    sources: list[Download] = Field(default=[])
    """Where `jipflow models fetch` gets the files; none where they come in a bundle."""

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: list[Label]) -> list[Label]:
        for what in ("name", "value"):
            given = [str(getattr(label, what)) for label in labels]
            twice = [each for each in given if given.count(each) > 1]
            if twice:
                raise PydanticCustomError(
                    "distinct",
                    "two labels have the {what} {twice}; each label has its own",
                    {"what": what, "twice": repr(twice[0])},
                )
        return labels

    def file_problems(self, folder: Path) -> Iterator[str]:
        """Yield what is wrong with the files that its engine needs, one sentence each.

        Args:
            folder: where they stand.
        """
        yield from ()

    def decisive(self) -> dict[str, Any]:
        """Return what decides what the model finds: its files, labels, and its engine's own keys.

        The rest describes it and changes no number.
        """
        described = RegisteredModel.model_fields.keys() - {"files"}
        own = {key: value for key, value in self.plain().items() if key not in described}
        return own | {"labels": {label.name: label.value for label in self.labels}}


def _labels_required(schema: dict[str, Any]) -> None:
    schema["required"].append("labels")


class LabelledModel(RegisteredModel):
    """A model whose labels the registry names."""

    model_config = ConfigDict(json_schema_extra=_labels_required)

    @model_validator(mode="after")
    def _has_labels(self) -> Self:
        if "labels" not in self.model_fields_set:
            raise PydanticCustomError("labels", "key 'labels' is missing; add it.")
        return self


if TYPE_CHECKING:
    AnyModel = RegisteredModel


class Registry(Part):
    """The models that a protocol may name, each pinned file by file."""

    models: dict[Id, AnyModel]
    """Entry of each model by its name, which protocols use."""


class PinnedModel(Part):
    """A registered model, and where its files are."""

    folder: str
    """Where its files stand; relative to the repository, or absolute."""
    registry: str
    """The file that pins them."""
    entry: AnyModel
    """What the registry says of it."""

    @property
    def place(self) -> Path:
        """Where its files stand."""
        return resources.ROOT / self.folder


class OwnModels(Part):
    """The models that the repository does not have."""

    registry: LocalPath
    """File that pins them, beside config/models.yaml and in the same form; `jipflow models add`
    writes it."""

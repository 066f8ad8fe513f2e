"""The settings of the engine `container`, and of its models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from jipflow.settings.part import Role, Text, Unique
from jipflow.settings.protocol import Known, LabelledSegment, ModelSegmentation, Protocol
from jipflow.settings.registry import FileName, LabelledModel


class ContainerSegment(LabelledSegment):
    """A region that is taken over."""

    label: Text
    """The label's name in the model's entry."""


class ContainerSegmentation(ModelSegmentation):
    """Regions that an algorithm in a container finds."""

    engine: Literal["container"]
    model: Text
    """Name of a model of engine container in config/models.yaml, or in a models.yaml of the site's
    or beside the protocol."""
    inputs: Annotated[list[Role], Unique] = Field(default=[])
    """Other roles that the algorithm gets, each on its own grid."""
    segments: Annotated[list[ContainerSegment], Field(min_length=1)]
    """The regions that are taken over."""

    def input_roles(self) -> list[str]:
        """Return the roles whose volumes the algorithm gets, its own first."""
        return list(dict.fromkeys([self.role, *self.inputs]))

    def problems(self, protocol: Protocol, known: Known) -> Iterator[str]:
        """Yield what is wrong with the model and its labels."""
        yield from self.model_problems(known)
        yield from self.label_problems(known)


class ContainerModel(LabelledModel):
    """An algorithm in a container."""

    engine: Literal["container"]
    image: FileName
    """Which of the files is the image of the container."""

    def file_problems(self, folder: Path) -> Iterator[str]:
        """Yield where the image is not there."""
        if self.image not in self.files:
            yield f"the image {self.image!r} is not in {folder}."

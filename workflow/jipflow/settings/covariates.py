"""Further variables of an analysis, beside those that it makes a cell of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from jipflow.settings.clinical import ROLE, ClinicalVariable, Value
from jipflow.settings.names import among
from jipflow.settings.part import Id, Maybe, Number, Part, Positive, SegmentName, Unique


class Covariate(Part):
    """A variable that a model has beside the one that it is a cell of."""

    variable: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*\.[A-Za-z0-9_-]+$")]
    """<role>.<feature>, or clinical.<name>; exactly one."""
    segmentation: Maybe[Id] = None
    """Segmentation by which the feature was measured; a clinical variable is of none."""
    segment: Maybe[SegmentName] = None
    """Segment that the feature is of; a clinical variable is of none."""
    center: Number = 0
    """What is taken off a number, such as 60 of an age: coefficients are of (x - center) / scale.
    """
    scale: Positive = 1
    """What a number is divided by, such as 10 for a coefficient of ten years."""
    values: Maybe[Annotated[list[Value], Field(min_length=2, max_length=20), Unique]] = None
    """Of a category all its values, in the order in which the protocol's `clinical` has them."""
    reference: Maybe[Value] = None
    """Of a category the value that all others are compared with."""

    @property
    def role(self) -> str:
        """Role of the series that it was measured in; ``clinical`` of a clinical variable."""
        return self.variable.partition(".")[0]

    @property
    def feature(self) -> str:
        """Name of the feature, or of the clinical variable."""
        return self.variable.partition(".")[2]

    @property
    def compared(self) -> list[str]:
        """Values of a category that are compared with its reference, in their order."""
        return [value for value in self.values or () if value != self.reference]

    def problems(self, variables: list[ClinicalVariable], segments: list[str]) -> Iterator[str]:
        """Yield what is wrong with it, one sentence each.

        Args:
            variables: the protocol's clinical variables.
            segments: of what is measured in its role, as ``<segmentation>/<segment>``.
        """
        if self.role == ROLE:
            yield from self._clinical_problems({each.name: each for each in variables})
            return
        if self.values is not None or self.reference is not None:
            yield "only a category of the protocol's `clinical` has `values` and a `reference`."
        chosen = f"{self.segmentation}/{self.segment}"
        if self.segmentation is None or self.segment is None:
            yield "name its `segmentation` and its `segment`."
        elif chosen not in segments:
            yield f"segmentation and segment {chosen!r} are not measured{among(chosen, segments)}"

    def _clinical_problems(self, known: dict[str, ClinicalVariable]) -> Iterator[str]:
        if self.segmentation is not None or self.segment is not None:
            yield "a clinical variable is of no segment; remove `segmentation` and `segment`."
        variable = known.get(self.feature)
        if variable is None:
            yield f"it is no clinical variable{among(self.feature, known)}"
        elif variable.values is None:
            if self.values is not None or self.reference is not None:
                yield f"it is of the type {variable.type}; remove `values` and `reference`."
        elif self.values != variable.values or self.reference not in variable.values:
            yield (
                f"it is a category: give `values: [{', '.join(variable.values)}]`, and the "
                "`reference` among them."
            )
        elif (self.center, self.scale) != (0, 1):
            yield "it is a category; remove `center` and `scale`."

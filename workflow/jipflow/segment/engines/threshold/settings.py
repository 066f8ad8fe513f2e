"""The settings of the engine `threshold`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from jipflow.settings.part import (
    AsGiven,
    Id,
    Maybe,
    NotNegative,
    Number,
    Part,
    Positive,
    SegmentName,
)
from jipflow.settings.protocol import Known, Protocol, SegmentationSettings, SegmentSettings

Other = Annotated[
    Id,
    Field(description="Id of another segmentation, which may be on another role of the case."),
]


class Reference(Part):
    """A segment whose intensities give the least intensity."""

    segmentation: Other
    segment: SegmentName
    """Its segment that gives the least intensity by its mean and SD, such as the liver."""
    formula: Literal["mean", "percist", "qpsma"] = "mean"
    """mean; or percist, 1.5 × mean + 2 SD; or qpsma, 4.30 / mean × (mean + SD)."""
    times: Positive = 1
    """The formula's value is multiplied by this."""
    sphere_mm: Maybe[Positive] = None
    """Diameter of a sphere around the segment's innermost voxel, which is taken instead of the
    whole segment; 30 in PERCIST and qPSMA."""


class Place(Part):
    """Segments of another segmentation, and what is around them."""

    segmentation: Other
    segments: Annotated[list[SegmentName], Field(min_length=1)]
    """Its segments, taken together."""
    grow_mm: NotNegative = 0
    """Distance in mm by which they are grown."""


class Excluded(Place):
    """Segments of another segmentation that are taken out."""

    remove: Literal["voxels", "components"] = "voxels"
    """The organ's voxels; or each whole component whose maximum lies in it, with what spills over
    its outline."""


class ThresholdSegment(SegmentSettings):
    """A region that is looked for."""

    above: Maybe[Number] = None
    """Least intensity, SUV or HU. Where several thresholds are given, a voxel reaches all."""
    below: Maybe[Number] = None
    """Greatest intensity, SUV or HU."""
    reference: Maybe[Reference] = None
    of_maximum: Maybe[Annotated[float, Field(gt=0, le=1), AsGiven]] = None
    """Share of its own maximum at which each component is cut; what lies below the other thresholds
    stays outside."""
    within: Maybe[Place] = None
    exclude: list[Excluded] = Field(default=[])
    """Organs whose uptake is physiological; taken out in this order."""
    smallest_ml: NotNegative = 0
    """Least volume in ml of a component that is kept."""
    largest: Maybe[Annotated[int, Field(ge=1)]] = None
    """How many components are kept; all without it."""

    def problems(self) -> Iterator[str]:
        """Yield where the thresholds leave nothing."""
        if self.above is None and self.below is None and self.reference is None:
            yield "needs a threshold: add above, below or reference."
        above = -math.inf if self.above is None else self.above
        if self.below is not None and above > self.below:
            yield "above is greater than below; exchange them."
        if self.of_maximum is not None and self.reference is None and above <= 0:
            yield (
                "of_maximum: a share of the maximum means something above 0 only; add above, "
                "greater than 0, or reference."
            )


class ThresholdSegmentation(SegmentationSettings):
    """Regions by their intensity."""

    engine: Literal["threshold"]
    segments: Annotated[list[ThresholdSegment], Field(min_length=1)]
    """The regions that are looked for."""

    def needed_segments(self) -> list[tuple[str, list[str]]]:
        """Return the segments of others that thresholds are taken from, or confined to."""
        needed = []
        for segment in self.segments:
            if segment.reference is not None:
                needed.append((segment.reference.segmentation, [segment.reference.segment]))
            places = [*([segment.within] if segment.within else []), *segment.exclude]
            needed += [(place.segmentation, place.segments) for place in places]
        return needed

    def problems(self, protocol: Protocol, known: Known) -> Iterator[str]:
        """Yield where the thresholds of a segment leave nothing."""
        for segment in self.segments:
            for problem in segment.problems():
                yield f"segment {segment.name!r}: {problem}"

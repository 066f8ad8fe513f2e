"""The settings of the engine `annotated`: a person, whose readings `jipflow.annotate` takes in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from jipflow.patterns import meets
from jipflow.settings.names import among
from jipflow.settings.part import Id, Maybe, SegmentName
from jipflow.settings.protocol import (
    Expression,
    Known,
    Protocol,
    SegmentationSettings,
    SegmentSettings,
)


class AnnotatedSegment(SegmentSettings):
    """A region that comes back."""

    name: SegmentName
    """Name of the segment in tables and releases, and in the proposal."""
    match: Maybe[Expression] = None
    """Regular expression that the whole ROI name or segment label meets that comes back; without
    it, the name."""
    required: bool = True
    """What comes back without this segment is not accepted."""

    @property
    def returned_as(self) -> str:
        """Regular expression of the labels by which the segment comes back."""
        return self.match or re.escape(self.name)


class AnnotatedSegmentation(SegmentationSettings):
    """Regions that a person draws or corrects."""

    by_person: ClassVar[bool] = True

    engine: Literal["annotated"]
    proposal: Maybe[Id] = None
    """Id of another segmentation of the role, which the person corrects; without it the person
    starts from nothing."""
    when: Literal["always", "flagged"] = "always"
    """Every case goes to a person; or only cases whose proposal has a flag on one of the segments.
    Proposals without one are taken over as they are."""
    readers: Annotated[int, Field(ge=1, le=20)] = 1
    """How many persons a case is read by."""
    combine: Literal["majority", "staple"] = "majority"
    """How several readings make one, by segment: voxels that more than half of them have; or those
    whose probability by STAPLE (Warfield 2004) is at least one half."""
    segments: Annotated[list[AnnotatedSegment], Field(min_length=1)]
    """The regions that come back, in the order of their values in a NIfTI label map, from 1."""

    def needed_segments(self) -> list[tuple[str, list[str]]]:
        """Return the proposal, whose segments `problems` checks."""
        return [] if self.proposal is None else [(self.proposal, [])]

    def problems(self, protocol: Protocol, known: Known) -> Iterator[str]:
        """Yield where what a person gets to see does not go by the names of the protocol."""
        if self.proposal is None:
            if self.when == "flagged":
                yield (
                    "`when: flagged` needs a proposal whose flags decide; name one or set `when: "
                    "always`."
                )
            return
        proposal = protocol.segmentation(self.proposal)
        if proposal.role != self.role:
            yield f"role {self.role!r} must be that of its proposal, {proposal.role!r}."
        proposed = [segment.name for segment in proposal.segments]
        for segment in self.segments:
            if segment.name not in proposed:
                yield (
                    f"segment {segment.name!r}: the proposal {self.proposal!r} has no segment of "
                    f"that name{among(segment.name, proposed, 'it has')}"
                )
            if not meets(segment.returned_as, segment.name):
                yield (
                    f"segment {segment.name!r}: match must allow the name itself, by which the "
                    "proposal shows it; add it as another alternative."
                )

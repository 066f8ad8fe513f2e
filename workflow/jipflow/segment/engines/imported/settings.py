"""The settings of the engine `imported`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jipflow.settings.part import Maybe
from jipflow.settings.protocol import Expression, SegmentationSettings, SegmentSettings


class ImportedSegment(SegmentSettings):
    """A region that is taken over."""

    match: Expression
    """Regular expression (RE2) that the whole ROI name or segment label meets."""
    required: bool = True
    """A case without this segment fails the segmentation."""


class Imported(SegmentationSettings):
    """Regions that the archive holds as contours or masks."""

    engine: Literal["imported"]
    source: Literal["RTSTRUCT", "SEG"] = Field(default="RTSTRUCT", alias="from")
    """Which objects of the archive hold the contours."""
    prefer: Maybe[Annotated[list[Literal["approved", "latest"]], Field(min_length=1)]] = None
    """Which of several objects that fit an image equally is taken, the first wish first: an
    approved one, or the one with the latest date and time. Without it such a case fails with
    `ambiguous_contours`."""
    segments: Annotated[list[ImportedSegment], Field(min_length=1)]
    """The regions that are taken over."""
    ignore: Expression | None = None
    """Regular expression (RE2) of ROI names or segment labels that are known and not taken over.
    With `may_be_empty`, a case of which a segment is missing fails where its object has a name that
    neither this nor a segment matches: it may be the missing one, misspelt."""

    def annotations(self) -> list[str]:
        """Return the kind that holds its regions."""
        return [self.source]

"""What protocol and site say of images that leave: what of heads, and where makers burn text in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from jipflow.settings.part import Maybe, Part, Text

Pixel = Annotated[int, Field(ge=0)]
Length = Annotated[int, Field(ge=1)]

Heads = Literal["refuse", "deface"]


class ExportRule(Part):
    """What leaves of images, once a person exports them."""

    heads: Heads
    """What of images that show a head, or may: they stay, or their face is cut away."""


class Rectangle(Part):
    """A rectangle of pixels of every frame."""

    left: Pixel
    """Columns to the left of it."""
    top: Pixel
    """Rows above it."""
    width: Length
    """Its columns."""
    height: Length
    """Its rows."""


class PixelRegions(Part):
    """Where images of one kind show text, as a person has looked it up on them."""

    manufacturer: Text
    """Manufacturer (0008,0070), whole, upper or lower case."""
    model: Text
    """Manufacturer's Model Name (0008,1090), whole, upper or lower case."""
    modality: Maybe[Text] = None
    """Modality (0008,0060); without it any."""
    image_type: Maybe[Text] = None
    """A value of Image Type (0008,0008), such as LOCALIZER; without it any."""
    rows: Length
    """Rows (0028,0010) of the images."""
    columns: Length
    """Columns (0028,0011) of the images."""
    hide: list[Rectangle]
    """What is overwritten; an empty list says that such images were found to show no text."""

    @model_validator(mode="after")
    def _within(self) -> PixelRegions:
        for area in self.hide:
            if area.left + area.width > self.columns or area.top + area.height > self.rows:
                raise PydanticCustomError(
                    "beyond", "a rectangle reaches beyond the rows or columns of its image"
                )
        return self


class Export(Part):
    """What leaves of images."""

    pixel_regions: list[PixelRegions] = Field(default=[])
    """Where text is burned into the images of a maker's model. Images of a kind that often shows
    text leave only if one of these is of them."""
    heads: Heads = "deface"
    """What of images that show a head, or may: by `refuse` they stay even where the protocol lets
    them leave without their face."""
    unstated_heads: bool = True
    """Whether images that do not say what they show may be of a head; by `false` a person states
    that at this site none of them is."""

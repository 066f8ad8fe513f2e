"""The format of coded terms, such as those of ``workflow/resources/terms.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jipflow.settings.part import Maybe, Part, Text

TermCode = Annotated[list[Text], Field(min_length=3, max_length=3)]
TermName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        description="Name of a coded term in workflow/resources/terms.yaml.",
    ),
]


class TermSettings(Part):
    """What a segment is, in codes, each of code value, coding scheme and meaning."""

    category: TermCode
    """Segmented Property Category (CID 7150)."""
    type: TermCode
    """Segmented Property Type (CID 7151 and the groups it includes)."""
    region: Maybe[TermCode] = None
    """Anatomic Region of a type that is no anatomy, such as a cyst (CID 4)."""
    laterality: Maybe[Literal["left", "right"]] = None
    """Side (CID 244), of the region if there is one, else of the type."""
    colour: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
    """Recommended Display CIELab Value, as sRGB from 0 to 255."""

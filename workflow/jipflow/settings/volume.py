"""Which volume of a series that holds several a role is: a phase, a b-value, an echo."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from jipflow.cases import Wanted
from jipflow.settings.part import Maybe, NotNegative, Part, Positive, Text, json_type


def _number_or_text(value: Any) -> str | None:
    """Return JSON's name of a whole number or a text."""
    return {int: "integer", str: "string"}.get(type(value))


class Volume(Part):
    """Which volume of a series that holds several, such as phases, b-values or echoes; all that is
    given must hold of it."""

    least_keys = 1
    measured: ClassVar[tuple[str, ...]] = ("b_value", "echo_time", "seconds")
    of_mr: ClassVar[tuple[str, ...]] = ("b_value", "echo", "echo_time")

    b_value: Maybe[NotNegative] = None
    """b-value in s/mm², as the header or the maker's private element states it. Of several
    directions of the gradient the isotropic (trace) image is taken, where one is stated."""
    time_point: Maybe[
        Annotated[
            Annotated[Annotated[int, Field(ge=1)], Tag("integer")]
            | Annotated[Literal["first", "last"], Tag("string")],
            Discriminator(_number_or_text),
        ]
    ] = None
    """Number of the time point, from 1: contrast phase, dynamic frame, or phase of the heart or of
    breathing; or `first` or `last`."""
    seconds: Maybe[NotNegative] = None
    """Start of the time point in seconds after the start of the first; needs `within`."""
    echo: Maybe[Annotated[int, Field(ge=1)]] = None
    """Echo Number (0018,0086), or where no image has one the rank of its echo time."""
    echo_time: Maybe[Positive] = None
    """Echo time in ms."""
    image_type: Maybe[
        Annotated[
            Annotated[Text, Tag("string")]
            | Annotated[list[Text], Field(min_length=1), Tag("array")],
            Discriminator(json_type),
        ]
    ] = None
    """Value of Image Type (0008,0008), Frame Type (0008,9007) or Complex Image Component
    (0008,9208), such as `WATER`; of a list any one, as makers write it differently."""
    unit: Maybe[Text] = None
    """UCUM code of the unit that a parametric map states, such as `um2/s`; one in another unit is
    refused."""
    within: Maybe[NotNegative] = None
    """How far `b_value`, `echo_time` or `seconds` may be off. Without it rounding is allowed for
    only: to whole s/mm², and 0.01 ms."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        measured = [key for key in self.measured if getattr(self, key) is not None]
        if self.within is not None and len(measured) != 1:
            raise _problem("`within` belongs to one of b_value, echo_time and seconds; give it one")
        if self.seconds is not None and self.within is None:
            raise _problem("`seconds` needs `within`, since no two scans have the same times")
        for one, two in (("time_point", "seconds"), ("echo", "echo_time")):
            if getattr(self, one) is not None and getattr(self, two) is not None:
                raise _problem(f"`{one}` and `{two}` say the same in two ways; keep one")
        return self

    @property
    def wanted(self) -> Wanted:
        """What is asked of a series."""
        types = [self.image_type] if isinstance(self.image_type, str) else self.image_type or []
        return Wanted(
            image_types=tuple(types),
            echo=self.echo,
            echo_time=self.echo_time,
            b_value=self.b_value,
            time_point=self.time_point,
            seconds=self.seconds,
            unit=self.unit,
            within=self.within,
        )

    @property
    def keys_of_mr(self) -> list[str]:
        """The keys that are given and that only MR has."""
        return [key for key in self.of_mr if getattr(self, key) is not None]


def _problem(text: str) -> PydanticCustomError:
    return PydanticCustomError("volume", "{text}", {"text": text})

"""The base of every typed part of the settings, and the types of its values.

A field's docstring is what the schema, messages and the reference page say of the key; where a
class has none for a field, that of the class that it derives from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from jipflow.files import local_path

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler

T = TypeVar("T")


class _NotNull:
    """Refuses the null that its nullable type would take: a key is given or it is absent."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        nullable: Any = handler(source)
        inner: CoreSchema = nullable["schema"]
        return inner


class _AsGiven:
    """Keeps a number an int or a float as it was given; some are written out as text."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def keep(value: Any, check: Callable[[Any], float]) -> Any:
            check(value)
            return value

        return core_schema.no_info_wrap_validator_function(keep, handler(source))


class _Unique:
    """Refuses a list in which a value is twice."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(_unique, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "uniqueItems": True}


def _unique(values: list[Any]) -> list[Any]:
    for value in values:
        if values.count(value) > 1:
            raise PydanticCustomError("unique", "{value} is there twice", {"value": repr(value)})
    return values


def _path(value: str) -> str:
    try:
        return local_path(value)
    except ValueError as error:
        text = {"value": repr(value), "error": str(error)}
        raise PydanticCustomError("path", "{value} {error}", text) from None


def _rising(values: list[float]) -> list[float]:
    if values[0] > values[1]:
        raise PydanticCustomError("rising", "the first number is the lower one; exchange them")
    return values


def _is_none(value: Any) -> bool:
    return value is None


Maybe = Annotated[T | None, _NotNull(), Field(exclude_if=_is_none)]
"""Of a key without default: None in Python where it is absent, and absent again when written."""

AsGiven = _AsGiven()
"""Marks a float whose limits are given beside it, as in ``Annotated[float, Field(ge=0), AsGiven]``.
"""

Unique = _Unique()
"""Marks a list whose values differ."""

Number = Annotated[float, Field(allow_inf_nan=False), AsGiven]
Share = Annotated[float, Field(ge=0, le=1), AsGiven]
Range = Annotated[list[Number], Field(min_length=2, max_length=2), AfterValidator(_rising)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), AsGiven]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), AsGiven]
Text = Annotated[str, Field(min_length=1)]
LocalPath = Annotated[Text, AfterValidator(_path)]
"""A path of this machine; ``~`` at its start is a home folder, and no variable is in it."""

ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,39}$"
Id = Annotated[str, Field(pattern=ID_PATTERN)]
Role = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,19}$")]
SegmentName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
GroupName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
Group = Annotated[str, Field(pattern=r"^([a-z][a-z0-9-]{0,39})?$")]


_JSON_TYPES: dict[type, str] = {str: "string", list: "array", dict: "object"}


def json_type(value: Any) -> str | None:
    """Return JSON's name of a text, list or mapping: the tag in a union of some of these."""
    return "object" if isinstance(value, Part) else _JSON_TYPES.get(type(value))


class Part(BaseModel):
    """A mapping of the settings: its keys are known, its values keep the type that YAML gave them.

    Strict, so that ``"10"`` is no number; frozen, so that no stage changes what others read.
    A class with ``least_keys`` wants so many of its keys to be given.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        serialize_by_alias=True,
        # A password that stands in the wrong place is in no traceback.
        hide_input_in_errors=True,
        # A job reads the settings in no more time than building all these would take.
        defer_build=True,
    )

    least_keys: ClassVar[int] = 0

    @model_validator(mode="after")
    def _enough_keys(self) -> Self:
        if len(self.model_fields_set) < self.least_keys:
            raise PydanticCustomError(
                "least_keys", "needs at least {least} of its keys", {"least": self.least_keys}
            )
        return self

    def plain(self) -> dict[str, Any]:
        """Return the keys and values as plain data, as a YAML file with all defaults has them."""
        return self.model_dump()

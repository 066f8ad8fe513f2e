"""What nnU-Net writes beside the weights of a model, as far as it is relied on: data from outside.

nnU-Net reads both files without a check, and ends in a KeyError or an assertion where one is not as
it expects.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from jipflow.models.upstream import LAYERS, NETWORKS
from jipflow.settings.resources import ConfigError

MOST_BYTES = 64 * 2**20
"""Of such a file; a plans.json with all configurations has some tens of kilobytes."""
NOT_SEGMENTS = frozenset({"background", "ignore"})
"""Labels of dataset.json that are no segment."""

Value = Annotated[int, Field(ge=0, le=65535, strict=True)]
Size = Annotated[int, Field(ge=1, le=2**16, strict=True)]
Millimetres = Annotated[float, Field(gt=0, lt=1e4)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
"""Of a class or function of nnU-Net's own, without the module that it is in."""
Axis = Annotated[int, Field(ge=0, le=2, strict=True)]


class _File(BaseModel):
    model_config = ConfigDict(extra="allow")


class Dataset(_File):
    """``dataset.json``: what the model was trained on."""

    labels: Annotated[dict[str, Value | list[Value]], Field(min_length=2)]
    """Value of each label, or the values that a region unites."""
    channel_names: Annotated[dict[str, str], Field(min_length=1)] | None = None
    """Name of each channel by its number."""
    modality: Annotated[dict[str, str], Field(min_length=1)] | None = None
    """The same, as older versions call it."""

    @model_validator(mode="after")
    def _check(self) -> Dataset:
        if not (self.channel_names or self.modality):
            raise PydanticCustomError("channels", "channel_names is missing")
        given = list(self.channel_names or self.modality or {})
        if given != [str(number) for number in range(len(given))]:
            raise PydanticCustomError("channels", "channels are not numbered 0, 1, .. in order")
        single = [v for v in self.segments().values() if isinstance(v, int)]
        if len(set(single)) != len(single):
            raise PydanticCustomError("labels", "two labels have one value")
        return self

    def segments(self) -> dict[str, int | list[int]]:
        """Return the value, or the values, of each label that is a segment."""
        return {k: v for k, v in self.labels.items() if k not in NOT_SEGMENTS}

    def channels(self) -> list[str]:
        """Return the names of the channels in their order."""
        return list((self.channel_names or self.modality or {}).values())


class _Architecture(_File):
    network_class_name: Annotated[str, Field(pattern=rf"^{re.escape(NETWORKS)}(\.\w+)+$")]
    arch_kwargs: dict[str, Any]
    imported: Annotated[list[str], Field(alias="_kw_requires_import")]

    @model_validator(mode="after")
    def _check(self) -> _Architecture:
        for key in self.imported:
            value = self.arch_kwargs.get(key)
            if value is not None and not str(value).startswith(f"{LAYERS}."):
                raise PydanticCustomError(
                    "layers",
                    "{key} is {value}, and no layer of PyTorch",
                    {"key": key, "value": value},
                )
        return self


class _Configuration(_File):
    inherits_from: str | None = None
    architecture: _Architecture | None = None
    normalization_schemes: list[Name] | None = None
    resampling_fn_data: Name | None = None
    resampling_fn_seg: Name | None = None
    resampling_fn_probabilities: Name | None = None
    patch_size: Annotated[list[Size], Field(min_length=2, max_length=3)] | None = None
    spacing: Annotated[list[Millimetres], Field(min_length=2, max_length=3)] | None = None


class Plans(_File):
    """``plans.json``: how images are preprocessed, and what the network is built of."""

    configurations: Annotated[dict[str, _Configuration], Field(min_length=1)]
    transpose_forward: Annotated[list[Axis], Field(min_length=3, max_length=3)]
    transpose_backward: Annotated[list[Axis], Field(min_length=3, max_length=3)]
    image_reader_writer: Name | None = None

    @model_validator(mode="after")
    def _check(self) -> Plans:
        there, back = self.transpose_forward, self.transpose_backward
        if sorted(there) != [0, 1, 2] or [there[axis] for axis in back] != [0, 1, 2]:
            raise PydanticCustomError("axes", "transpose_backward does not undo transpose_forward")
        for name in self.configurations:
            self._check_ancestors(name)
        return self

    def _check_ancestors(self, name: str) -> None:
        """Refuse a configuration that inherits from itself, or from one that is not there."""
        seen = {name}
        above = self.configurations[name].inherits_from
        while above is not None:
            if above in seen or above not in self.configurations:
                raise PydanticCustomError(
                    "ancestors",
                    "{name} inherits from {above}, which is not there or inherits from it",
                    {"name": name, "above": above},
                )
            seen.add(above)
            above = self.configurations[above].inherits_from


class _Twice(Exception):
    """A key stands twice in one mapping, of which JSON readers take the last."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(repr(next(key for key in keys if keys.count(key) > 1)))
    return found


Kind = TypeVar("Kind", bound=_File)


def described(kind: type[Kind], path: Path) -> Kind:
    """Read such a file and check it.

    Raises:
        ConfigError: it is no JSON, too large, or not as nnU-Net writes it.
    """
    again = "copy it again from nnU-Net's results folder."
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ConfigError(f"{path} has {size} bytes, more than {MOST_BYTES}; {again}")
    try:
        content: Any = json.loads(path.read_bytes(), object_pairs_hook=_distinct)
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{path} is not as nnU-Net writes it: {f'{place}: ' if place else ''}{first['msg']}; "
            f"{again}"
        ) from None
    except _Twice as error:
        raise ConfigError(f"{path} has the key {error} twice; {again}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON ({type(error).__name__}); {again}") from None

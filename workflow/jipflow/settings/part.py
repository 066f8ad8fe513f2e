"""The base of every typed part of the settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A mapping of the settings: its keys are known, its values keep the type that YAML gave them.

    Strict, so that ``"10"`` is no number; frozen, so that no stage changes what others read.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

"""Analysis `summary`: mean and variance."""

from __future__ import annotations

from typing import Literal

from jipflow.settings.protocol import AnalysisSettings


class Settings(AnalysisSettings):
    """Mean and variance."""

    kind: Literal["summary"]

"""Analysis `histogram`: counts between fixed edges."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from jipflow.settings.part import Number
from jipflow.settings.protocol import AnalysisSettings


class Settings(AnalysisSettings):
    """Counts between fixed edges."""

    kind: Literal["histogram"]
    edges: Annotated[list[Number], Field(min_length=3)]
    """Bin edges of a histogram, rising, fixed by the protocol so that sites can be added."""

    def problems(self) -> Iterator[str]:
        """Yield where edges do not rise."""
        if any(low >= high for low, high in itertools.pairwise(self.edges)):
            yield "edges must rise strictly."

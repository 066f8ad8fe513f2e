"""What would leave the site, where a candidate of these very outcomes is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jipflow.files import read_json
from jipflow.report.disclosure import disclosure_summary
from jipflow.report.site.run import Run


@dataclass(frozen=True)
class Release:
    """What the section shows.

    Attributes:
        candidate: as `disclosure_summary`, with the ``round``; None where there is none.
        analyses: ids of the protocol's analyses.
        acceptable: whether enough cases succeeded.
    """

    candidate: dict[str, Any] | None
    analyses: list[str]
    acceptable: bool


def section(run: Run) -> Release:
    """Read the latest candidate."""
    return Release(
        candidate=_candidate(run.results),
        analyses=[analysis.id for analysis in run.settings.protocol.analyses],
        acceptable=run.verdict["acceptable"],
    )


def _candidate(results: Path) -> dict[str, Any] | None:
    rounds = sorted(results.glob("release/r*/disclosure.json"))
    # A candidate that is older than the outcomes was made of others and would mislead.
    made = (results / "outcomes.parquet").stat().st_mtime
    if not rounds or rounds[-1].stat().st_mtime < made:
        return None
    return {"round": rounds[-1].parent.name, **disclosure_summary(read_json(rounds[-1]))}

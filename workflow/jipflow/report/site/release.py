"""What the run may release; the candidate is built after the report and has pages of its own."""

from __future__ import annotations

from dataclasses import dataclass

from jipflow.report.site.run import Run


@dataclass(frozen=True)
class Release:
    """What the section shows.

    Attributes:
        analyses: ids of the protocol's analyses.
        acceptable: whether enough cases succeeded.
        min_patients: fewest patients behind a released number.
    """

    analyses: list[str]
    acceptable: bool
    min_patients: int


def section(run: Run) -> Release:
    """Say what the protocol asks for, and whether the run may give it."""
    return Release(
        analyses=[analysis.id for analysis in run.settings.protocol.analyses],
        acceptable=run.verdict["acceptable"],
        min_patients=run.settings.min_patients,
    )

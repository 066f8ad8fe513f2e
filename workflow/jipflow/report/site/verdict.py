"""Whether enough cases succeeded for a release, too few did, or the run waits for readers."""

from __future__ import annotations

from typing import Any

from jipflow.report.site.run import Run


def section(run: Run) -> dict[str, Any]:
    """Return the content of ``verdict.json``, and what the mark beside it depends on.

    Returns:
        Beside the content: ``found`` (cases with those that were excluded before the first stage),
        ``releases`` (whether the protocol asks for a release), ``mark``: ``good``; ``care`` where
        the cases that entered are within the tolerance, but with the excluded ones more than that
        share was lost; ``waits`` where only readings are missing; ``bad``.
    """
    verdict = {"unexpected": 0, **run.verdict}
    waits = bool(
        run.annotated
        and not verdict["unexpected"]
        and not verdict["acceptable"]
        and verdict["cases"]
        and verdict["failed_fraction"] <= verdict["max_failed_fraction"]
    )
    found = verdict["cases"] + verdict["excluded"]
    lost = verdict["failed"] + verdict["excluded"]
    complete = verdict["acceptable"] and lost <= verdict["max_failed_fraction"] * found
    return {
        **verdict,
        "found": found,
        "releases": bool(run.settings.protocol.analyses),
        "mark": "good"
        if complete
        else "care"
        if verdict["acceptable"]
        else "waits"
        if waits
        else "bad",
    }

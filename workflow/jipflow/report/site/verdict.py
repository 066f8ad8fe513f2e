"""Whether enough cases succeeded for a release, or the run waits for readers."""

from __future__ import annotations

from typing import Any

from jipflow.report.site.run import Run


def section(run: Run) -> dict[str, Any]:
    """Return the content of ``verdict.json``, and ``waits``: only readings are missing."""
    verdict = run.verdict
    waits = bool(
        run.annotated
        and not verdict["acceptable"]
        and verdict["cases"]
        and verdict["failed_fraction"] <= verdict["max_failed_fraction"]
    )
    return {**verdict, "waits": waits}

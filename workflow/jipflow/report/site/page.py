"""The site's report: one self-contained page from the files of a results folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jipflow.report.pages import compile_page, write_page
from jipflow.report.site import (
    cases,
    catalog,
    clinical,
    cohort,
    features,
    overlays,
    provenance,
    quality,
    readers,
    reasons,
    release,
    stability,
    timing,
    verdict,
)
from jipflow.report.site.run import Run, meaning, read_run
from jipflow.settings.run import Settings

SECTIONS: Mapping[str, Callable[[Run], Any]] = {
    "verdict": verdict.section,
    "cohort": cohort.section,
    "cases": cases.section,
    "reasons": reasons.section,
    "quality": quality.section,
    "overlays": overlays.section,
    "features": features.section,
    "stability": stability.section,
    "clinical": clinical.section,
    "readers": readers.section,
    "release": release.section,
    "catalog": catalog.section,
    "provenance": provenance.section,
    "timing": timing.section,
}
"""What each section's template finds under the section's name."""


prepare = partial(compile_page, "site")


def write_report(
    *, results: Path, settings: Settings, path: Path, joined: Path | None = None
) -> None:
    """Write the report of a run at a site.

    The page holds pseudonyms only: no patient's name or identifier, no path, no UID. The same
    files give the same bytes.

    Args:
        results: the protocol's results folder; ``cohort/`` must be there, what else is missing is
            stated on the page.
        settings: the run's settings.
        path: the HTML file.
        joined: folder of ``outcomes.parquet``, ``verdict.json`` and ``features/``, of which the
            first two must be there; by default `results`.
    """
    run = read_run(results, settings, joined)
    write_page(
        path,
        "site.html.j2",
        protocol=settings.protocol.protocol,
        site=settings.site.site,
        version=settings.version,
        annotated=run.annotated,
        subset=run.subset,
        redact=run.redact,
        meaning=meaning,
        **{name: section(run) for name, section in SECTIONS.items()},
    )

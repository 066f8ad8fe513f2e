"""The crate of a run at a site."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jipflow.crates.run import Run, described
from jipflow.settings.run import Settings


def run_crate(settings: Settings, results: Path, records: Iterable[Path]) -> bytes:
    """Return the crate of a run at a site, a zip.

    Args:
        settings: of the run.
        results: folder of the results of all protocols.
        records: of its last jobs, which lead to all others.

    Raises:
        StageError: a record is missing or leads out of the results.
    """
    protocol = settings.protocol.protocol
    site = settings.site.site.id
    run = Run(
        at=site,
        owner="site",
        name=f"{protocol.id} {protocol.version} at {site}",
        description=f"A run of jipflow: {protocol.title}.",
        protocol=settings.protocol,
        named=settings.named,
    )
    return described(run, results, records)

"""The accepted messages of a round merged into its result."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from jipflow.analyses.cells import CellKey
from jipflow.analyses.contract import (
    AnyAnalysis,
    ReleasedCell,
    analyses_of,
)
from jipflow.exchange.message import ROUND
from jipflow.hub.decisions import Accepted
from jipflow.hub.settings import HubSettings
from jipflow.release.contents import Aggregates


def merge(*, accepted: Sequence[Accepted], settings: HubSettings) -> dict[str, Any]:
    """Merge accepted messages into the result of the round.

    A pure function of the messages and the protocol; the order of the messages does not matter.

    Args:
        accepted: as `jipflow.hub.accept.accept` returns them, one a site.
        settings: of the hub.

    Returns:
        Content of ``result.json``: protocol, round, sites and analyses, each with its merged cells
        as `Analysis.merge` returns them.
    """
    messages = sorted(accepted, key=lambda entry: entry.site)
    about = settings.protocol.protocol
    return {
        "protocol": {
            "id": about.id,
            "version": about.version,
            "title": about.title,
            "sha256": settings.protocol_sha256,
        },
        "round": ROUND,
        "sites": [_site(entry) for entry in messages],
        "analyses": [
            _merge_analysis(analysis, messages) for analysis in analyses_of(settings.protocol)
        ],
    }


def _site(entry: Accepted) -> dict[str, Any]:
    totals = entry.disclosure.summary
    return {
        "id": entry.site,
        "attempt": entry.attempt,
        "approver": entry.approver,
        "issued": entry.issued,
        "version": entry.version,
        "patients": _most_patients(entry.aggregates),
        "cells_released": totals.released,
        "cells_withheld": totals.cells - totals.released,
    }


def _most_patients(aggregates: Aggregates) -> int | None:
    """Return the patients behind a site's fullest released cell, None where it released none."""
    cells = itertools.chain.from_iterable(sent.cells for sent in aggregates.analyses)
    return max((cell.n for cell in cells), default=None)


def _merge_analysis(analysis: AnyAnalysis, messages: Sequence[Accepted]) -> dict[str, Any]:
    """Merge one analysis over the sites, cell by cell."""
    cells: dict[CellKey, dict[str, ReleasedCell]] = defaultdict(dict)
    for entry in messages:
        for sent in entry.aggregates.analyses:
            if sent.id == analysis.settings.id:
                for cell in sent.cells:
                    cells[cell.key][entry.site] = cell
    merged = [
        {**key._asdict(), "sites": sorted(by_site), **analysis.merge(by_site)}
        for key, by_site in sorted(cells.items())
    ]
    return {
        "id": analysis.settings.id,
        "kind": analysis.settings.kind,
        "cells": merged,
        **analysis.heading(),
    }

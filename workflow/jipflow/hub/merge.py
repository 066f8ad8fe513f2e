"""The accepted messages of a round merged into its result, and what the next round needs of it."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from jipflow.analyses.cells import CellKey
from jipflow.analyses.contract import AnyAnalysis, analyses_of
from jipflow.analyses.forms import CountedCell, ReleasedCell, StatedCell
from jipflow.exchange.message import checked
from jipflow.exchange.roster import FEWEST_SITES
from jipflow.hub.decisions import Accepted
from jipflow.hub.settings import HubSettings
from jipflow.release.contents import Aggregates, State, formats

FEW_SITES = "few_sites"
"""Why a cell is not continued: fewer than `FEWEST_SITES` released it."""

OUT_OF_RANGE = "out_of_range"
"""Likewise: what the next round needs is beyond the format, as of sites that made numbers up."""

BySite = Mapping[str, ReleasedCell]


def merge(
    *,
    accepted: Sequence[Accepted],
    settings: HubSettings,
    round_: int = 1,
    state: State | None = None,
) -> dict[str, Any]:
    """Merge accepted messages into the result of the round.

    A pure function of the messages and the protocol; the order of the messages does not matter.

    Args:
        accepted: as `jipflow.hub.accept.accept` returns them, one a site.
        settings: of the hub.
        round_: that the messages are of.
        state: what the hub stated before it; None in the first round.

    Returns:
        Content of ``result.json``: protocol, round, sites and the analyses that the round asked
        for, each with its merged cells as `Analysis.merge` returns them. Of an analysis that goes
        on, ``ended`` counts by their reason the cells that do not because of the sites.
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
        "round": round_,
        "sites": [_site(entry) for entry in messages],
        "analyses": [
            {"round": round_, **_merge_analysis(analysis, messages, round_, given)}
            for analysis, given in _asked(settings, round_, state)
        ],
    }


def carried(
    result: dict[str, Any], before: Sequence[Mapping[str, Any]], settings: HubSettings
) -> dict[str, Any]:
    """Return a result with what earlier rounds have concluded: analyses, and cells of others.

    Args:
        result: as `merge` returns it.
        before: the result of the round before, at most one.
        settings: of the hub.
    """
    known = {analysis.settings.id: analysis for analysis in analyses_of(settings.protocol)}
    merged = {analysis["id"]: analysis for analysis in result["analyses"]}
    for analysis in (analysis for each in before for analysis in each["analyses"]):
        name = analysis["id"]
        merged[name] = _joined(known[name], analysis, merged[name]) if name in merged else analysis
    return {**result, "analyses": [merged[name] for name in sorted(merged)]}


def _joined(
    analysis: AnyAnalysis, before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Any]:
    """Return an analysis with the cells of earlier rounds that the last one did not ask for."""
    cells = {_key(cell): cell for each in (before, now) for cell in each["cells"]}
    ended = Counter(before.get("ended", {})) + Counter(now.get("ended", {}))
    every = [cells[key] for key in sorted(cells)]
    return {
        **{name: value for name, value in now.items() if name != "ended"},
        "cells": every,
        **analysis.conclude(every),
        **({"ended": dict(ended)} if ended else {}),
    }


def _key(cell: Mapping[str, Any]) -> CellKey:
    return CellKey(*(cell[name] for name in CellKey._fields))


def advance(
    *,
    accepted: Sequence[Accepted],
    settings: HubSettings,
    round_: int = 1,
    state: State | None = None,
) -> dict[str, Any] | None:
    """Return what the next round begins with.

    A pure function of the messages, the protocol and the state; the order of the messages does not
    matter. A cell that fewer than `FEWEST_SITES` sites released is not continued.

    Args:
        accepted: as `merge`.
        settings: of the hub.
        round_: that the messages are of.
        state: what the hub stated before it; None in the first round.

    Returns:
        Content of ``state.json`` of the next round, its analyses sorted by id and their cells by
        what they are about; None where no analysis needs another round.
    """
    messages = sorted(accepted, key=lambda entry: entry.site)
    analyses = []
    for analysis, given in _asked(settings, round_, state):
        cells, _ = _next(analysis, _by_cell(analysis, messages), round_, given)
        if cells:
            entry = {"id": analysis.settings.id, "kind": analysis.settings.kind}
            analyses.append({**entry, "cells": [cell.plain() for cell in cells]})
    if not analyses:
        return None
    about = settings.protocol.protocol
    content = {
        "protocol": {
            "id": about.id,
            "version": about.version,
            "sha256": settings.protocol_sha256,
            "parts": dict(settings.protocol_parts),
        },
        "round": round_ + 1,
        "analyses": analyses,
    }
    return checked(formats().state, content, "state.json").plain()


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
    """Return the patients behind a site's fullest exact cell, None where it released none."""
    cells = itertools.chain.from_iterable(sent.cells for sent in aggregates.analyses)
    return max((cell.n for cell in cells if isinstance(cell, CountedCell)), default=None)


Given = Mapping[CellKey, StatedCell]
"""What the hub stated of each cell of an analysis; nothing in the first round."""


def _asked(
    settings: HubSettings, round_: int, state: State | None
) -> list[tuple[AnyAnalysis, Given]]:
    """Return the analyses that a round asks for, sorted by id, with what was stated of their cells.

    Raises:
        ValueError: the state is of another round, or missing in a later one.
    """
    analyses = analyses_of(settings.protocol)
    if round_ == 1 and state is None:
        return [(analysis, {}) for analysis in analyses]
    if state is None or state.round != round_:
        raise ValueError(f"round {round_} has no state of its own")
    if round_ == 1:
        return [(analysis, {}) for analysis in analyses]
    asked = [(analysis, state.given(analysis.settings.id)) for analysis in analyses]
    return [(analysis, given) for analysis, given in asked if given]


def _by_cell(
    analysis: AnyAnalysis, messages: Sequence[Accepted]
) -> list[tuple[CellKey, dict[str, ReleasedCell]]]:
    """Return the cells of an analysis by site, sorted by what they are about."""
    cells: dict[CellKey, dict[str, ReleasedCell]] = defaultdict(dict)
    for entry in messages:
        for sent in entry.aggregates.analyses:
            if sent.id == analysis.settings.id:
                for cell in sent.cells:
                    cells[cell.key][entry.site] = cell
    return sorted(cells.items())


def _merge_analysis(
    analysis: AnyAnalysis, messages: Sequence[Accepted], round_: int, given: Given
) -> dict[str, Any]:
    """Merge one analysis over the sites, cell by cell."""
    cells = _by_cell(analysis, messages)
    merged = [
        {**key._asdict(), "sites": sorted(by_site), **analysis.merge(by_site, given.get(key))}
        for key, by_site in cells
    ]
    answered = {key for key, _ in cells}
    for key in given.keys() - answered:
        found = analysis.unanswered(given[key])
        if found is not None:
            merged.append({**key._asdict(), "sites": [], **found})
    merged.sort(key=_key)
    _, ended = _next(analysis, cells, round_, given)
    return {
        "id": analysis.settings.id,
        "kind": analysis.settings.kind,
        "cells": merged,
        **analysis.heading(),
        **analysis.conclude(merged),
        **({"ended": dict(ended)} if ended else {}),
    }


def _next(
    analysis: AnyAnalysis, cells: Sequence[tuple[CellKey, BySite]], round_: int, given: Given
) -> tuple[list[StatedCell], Counter[str]]:
    """Return what the next round needs of the cells, and why others do not go on, by reason."""
    stated, ended = [], Counter[str]()
    if round_ >= analysis.rounds:
        return [], ended
    for key, by_site in cells:
        if len(by_site) < FEWEST_SITES:
            ended[FEW_SITES] += 1
            continue
        try:
            cell = analysis.advance(round_, by_site, given.get(key))
        except ValidationError:
            ended[OUT_OF_RANGE] += 1
            continue
        if cell is not None:
            stated.append(cell)
    return stated, ended

"""What sites sent in the round before, from which their cells of this one go on or do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jipflow.analyses.cells import CellKey
from jipflow.analyses.contract import analyses_of
from jipflow.analyses.forms import ReleasedCell
from jipflow.exchange.envelope import content, opened
from jipflow.exchange.refusals import Refusal, Refused
from jipflow.hub.memory import MemoryFault, remembered
from jipflow.release.contents import Aggregates, formats
from jipflow.settings.protocol import Protocol


def answers(received: Path) -> dict[str, Aggregates]:
    """Return the numbers of the messages that counted in a round, by site.

    Args:
        received: folder of the hub's copies of the round.

    Raises:
        MemoryFault: a copy is not one that this version can read.
    """
    found = {}
    for site, kept in remembered(received).items():
        try:
            files = opened(kept.read(), None, ["release"]).files
            found[site] = content(
                formats().aggregates, files, "aggregates.json", Refusal.AGGREGATES_INVALID
            )
        except Refused as refused:
            raise MemoryFault(
                f"{kept.path} is not as this version of jipflow keeps a bundle "
                f"({refused.refusal.value}); go on with the version that accepted it."
            ) from None
    return found


def going_on(
    aggregates: Aggregates, before: Aggregates | None, protocol: Protocol
) -> tuple[Aggregates, list[str]]:
    """Leave out the cells of a later round that are not of the values of the round before.

    A sum over all sites and groups does not tell: where a site has five more in one group and five
    fewer in another, or another site makes up for them, it is the same.

    Args:
        aggregates: of a site, verified.
        before: what it sent in the round before; None where nothing of it counted.
        protocol: that they are of.

    Returns:
        The numbers that go on, and in words which cells were left out.
    """
    known = {analysis.settings.id: analysis for analysis in analyses_of(protocol)}
    earlier = _by_key(before)
    kept, left_out = [], []
    for sent in aggregates.analyses:
        going = []
        for cell in sent.cells:
            if known[sent.id].continues(cell, earlier.get((sent.id, cell.key))):
                going.append(cell)
            else:
                left_out.append(f"{sent.id}: {cell.key.words}")
        kept.append(sent.model_copy(update={"cells": going}))
    return aggregates.model_copy(update={"analyses": kept}), left_out


def _by_key(aggregates: Aggregates | None) -> Mapping[tuple[str, CellKey], ReleasedCell]:
    analyses = aggregates.analyses if aggregates else []
    return {(sent.id, cell.key): cell for sent in analyses for cell in sent.cells}

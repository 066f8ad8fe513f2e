"""What a hub says before a round, checked by the site that is asked: the hub may be hostile."""

from __future__ import annotations

from collections.abc import Mapping

from jipflow.analyses.cells import CellKey, measured_places
from jipflow.analyses.contract import AnyAnalysis, ImpossibleCell, analyses_of
from jipflow.analyses.forms import StatedCell
from jipflow.release.contents import ReleaseError, State
from jipflow.settings.run import Settings


def given_cells(
    settings: Settings, round_: int, state: State | None
) -> dict[str, Mapping[CellKey, StatedCell] | None]:
    """Return what the hub says of the cells of each analysis that a round asks for.

    Args:
        settings: of the run.
        round_: that begins.
        state: what the hub says; may be None in the first round.

    Returns:
        By the analysis' id what is stated by cell; None in the first round, which asks for all.

    Raises:
        ReleaseError: the state is of another round or text of the protocol, or says what no honest
            hub does; names the analysis and the cell.
    """
    analyses = analyses_of(settings.protocol)
    if state is not None:
        _check_heading(settings, round_, state)
    elif round_ > 1:
        raise ReleaseError(
            f"Round {round_} needs what the hub says before it, and there is none; receive its "
            "message first."
        )
    if round_ == 1 or state is None:
        return {analysis.settings.id: None for analysis in analyses}
    known = {analysis.settings.id: analysis for analysis in analyses}
    for stated in state.analyses:
        analysis = known.get(stated.id)
        if analysis is None or analysis.settings.kind != stated.kind or analysis.stated is None:
            raise _refused(round_, f"analysis {stated.id}: the protocol has none of several rounds")
        for cell in stated.cells:
            _check_cell(analysis, cell, settings, round_)
    return {stated.id: state.given(stated.id) for stated in state.analyses}


def _check_heading(settings: Settings, round_: int, state: State) -> None:
    if state.round != round_:
        raise _refused(round_, f"it is of round {state.round}")
    if state.protocol.sha256 != settings.protocol_sha256:
        raise _refused(round_, "it is of another text of the protocol")
    if round_ == 1 and state.analyses:
        raise _refused(round_, "before the first round there is nothing to say of a cell")


def _check_cell(analysis: AnyAnalysis, cell: StatedCell, settings: Settings, round_: int) -> None:
    context = f"analysis {analysis.settings.id}: {cell.key.words}"
    if round_ > analysis.rounds:
        raise _refused(round_, f"{context}: it has {analysis.rounds} rounds at most")
    if not analysis.asks_for(cell.key, measured_places(settings.protocol)):
        raise _refused(round_, f"{context}: the protocol does not ask for it")
    try:
        analysis.check_stated(cell, round_)
    except ImpossibleCell as error:
        raise _refused(round_, f"{context}: {error}") from None


def _refused(round_: int, what: str) -> ReleaseError:
    return ReleaseError(
        f"What the hub says before round {round_} is not what an honest hub says: {what}. Nothing "
        "is released; ask the hub's people."
    )

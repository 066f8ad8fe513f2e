"""Where a federation's rounds stand, in lines: which is open, who is missing, what comes next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jipflow.files import read_json
from jipflow.hub.rounds import hub_thread, most_rounds, outlook
from jipflow.hub.settings import HubSettings, read_hub_settings
from jipflow.reasons import StageError
from jipflow.release.rounds import Standing, read_standing


def site_lines(results: Path) -> list[str]:
    """Return where a site stands in its thread with the hub.

    Args:
        results: of the protocol.
    """
    standing = read_standing(results / "rounds" / "standing.json")
    return [
        f"{standing.protocol.id} {standing.protocol.version}, hub {standing.hub}",
        *standing_lines(standing),
        *_next_at_site(standing, results),
    ]


def _next_at_site(standing: Standing, results: Path) -> Iterator[str]:
    """Yield what a person at a site does next, as far as the results say."""
    if standing.ended is not None:
        return
    release = results / "release" / f"r{standing.round:02d}"
    if standing.roster is None:
        yield "  next:      put the hub's message into exchange.inbox and run the workflow"
    elif (release / "disclosure.json").is_file():
        yield f"  next:      jipflow release review {release} says who must approve what leaves"
    else:
        yield "  next:      run the workflow, which makes the candidate of the round"


def standing_lines(standing: Standing) -> Iterator[str]:
    """Yield what a person at a site needs to know of the rounds."""
    if standing.ended is not None:
        yield f"  rounds:    ended by the hub in round {standing.round}: {standing.ended}"
    elif standing.roster is None:
        yield f"  round:     {standing.round}; no message of the hub {standing.hub!r} has come yet"
    else:
        yield f"  round:     {standing.round} is open"
    if standing.roster is not None:
        roster = standing.roster
        why = f" ({roster.because})" if roster.because else ""
        yield f"  roster:    {roster.number}{why}: {', '.join(roster.sites)}"
    for entry in standing.refused:
        yield f"  refused:   {entry.file}: {entry.reason}: {entry.detail or entry.meaning}"


def hub_lines(results: Path) -> list[str]:
    """Return where the rounds stand at a hub.

    Args:
        results: of the protocol.

    Raises:
        StageError: it is no results folder of a protocol.
    """
    if not (results / "settings.json").is_file():
        raise StageError(
            f"{results} is not the results folder of a protocol that has been run; name "
            "<results>/<id of the protocol>, or run snakemake first."
        )
    settings = read_hub_settings(results / "settings.json")
    about = settings.protocol.protocol
    return [f"{about.id} {about.version}, hub {settings.hub.hub.id}", *round_lines(settings)]


def round_lines(settings: HubSettings) -> Iterator[str]:
    """Yield what a person at the hub needs to know of the rounds."""
    thread = hub_thread(settings)
    if thread.roster is None:
        yield "  round:     none was opened yet; snakemake hub opens the first"
        return
    path = Path(settings.results, "rounds", f"r{thread.round:02d}", "accepted.json")
    accepted = {entry["site"] for entry in read_json(path)} if path.is_file() else set()
    waits = outlook(settings, thread, accepted)
    if waits.ended:
        yield f"  rounds:    ended in round {waits.round}: {waits.ended}"
    else:
        yield f"  round:     {waits.round} of at most {most_rounds(settings)} is open"
    roster = thread.roster
    why = f" ({roster.because})" if roster.because else ""
    yield f"  roster:    {roster.number}{why}: {', '.join(roster.sites)}"
    if waits.missing and not waits.ended:
        yield f"  missing:   {', '.join(waits.missing)}"
    for number, event in enumerate(thread.events, 1):
        about = {
            "round": f"round {event.round} was opened",
            "roster": f"roster {event.roster.number} was put into force",
            "end": "the rounds were ended",
        }[event.kind]
        yield f"  {event.issued} message {number}: {about}"
    known = {"round": waits.round, "missing": waits.missing, "ended": waits.ended, "opened": False}
    yield f"  next:      {next_at_hub(settings, known)}"


def next_at_hub(settings: HubSettings, waits: Mapping[str, Any]) -> str:
    """Say what a person at the hub does next.

    Args:
        settings: of the hub.
        waits: the outlook of the round, as ``outlook.json`` has it.
    """
    inway, outway = settings.ways()
    outbox, inbox = outway.folder.absolute(), inway.folder.absolute()
    carry = f"bring each site what lies in {outbox}"
    again = f"put what comes back into {inbox} and run snakemake hub again"
    if outway.address:
        carry = f"the sites fetch what a run has sent to {outway.address}"
    if inway.address:
        again = "when they have answered run snakemake hub again"
    if waits["ended"]:
        return f"{carry}: the rounds were ended: {waits['ended']}"
    if waits["opened"]:
        return f"round {waits['round'] + 1} is open: {carry}, {again}"
    if waits["missing"]:
        return f"{carry}, {again}"
    return "nothing: all sites have answered, and no analysis needs another round"

"""What people call who look after a federation's rounds, at a site and at the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jipflow.cli.command import Audience
from jipflow.cli.rights import masked

if TYPE_CHECKING:
    from jipflow.hub.settings import HubSettings

AUDIENCE = Audience("To look at the rounds of a federation, to change its roster, to end them")

HubFile = Annotated[Path, "hub.yaml"]
Because = Annotated[str, "why, in your words; the sites read it"]


@AUDIENCE.command("rounds show")
def rounds_show(
    results: Annotated[Path, "results folder of the protocol, at a site or at the hub"],
) -> None:
    """Print which round is open, who is missing and what a person must do."""
    from jipflow.report.rounds import hub_lines, site_lines

    lines = site_lines if (results / "rounds" / "standing.json").is_file() else hub_lines
    print("\n".join(lines(results)))


@AUDIENCE.command("rounds roster")
def rounds_roster(hub: HubFile, *, because: Because) -> None:
    """Put the roster of hub.yaml into force: keys replaced, sites dropped."""
    from jipflow.hub.rounds import change_roster, hub_thread

    with _alone(hub) as settings:
        roster = change_roster(settings, hub_thread(settings), because).roster
        _send(settings)
    print(f"roster {roster.number} is in force: {', '.join(roster.sites)}")
    print(
        "releases of the open round that were packed under the one before must be sent again: the "
        "sites run snakemake bundle"
    )


@AUDIENCE.command("rounds end")
def rounds_end(hub: HubFile, *, because: Because) -> None:
    """End the rounds of the protocol before they are over; what was sent stays."""
    from jipflow.hub.rounds import end_rounds, hub_thread

    with _alone(hub) as settings:
        event = end_rounds(settings, hub_thread(settings), because)
        _send(settings)
    print(f"the rounds of {settings.protocol.protocol.id} were ended in round {event.round}")


@contextmanager
def _alone(path: Path) -> Iterator[HubSettings]:
    """Give the settings of a hub, while no run goes on there."""
    from jipflow.hub.audited import record_thread
    from jipflow.hub.rounds import hub_thread
    from jipflow.hub.settings import load_hub_settings
    from jipflow.lock import hold, release
    from jipflow.settings.resources import read_mapping

    settings = load_hub_settings(read_mapping(path), str(path))
    results = Path(settings.results)
    with masked(settings.hub.permissions.mask):
        hold(results)
        try:
            # Nothing changes beside an audit trail that is not whole.
            record_thread(settings, hub_thread(settings))
            yield settings
        finally:
            release(results)


def _send(settings: HubSettings) -> None:
    """Put what the hub says now into the outbox."""
    from jipflow.exchange.keys import load_key
    from jipflow.hub.audited import record_thread
    from jipflow.hub.rounds import hub_thread

    thread = hub_thread(settings)
    thread.speak(load_key(Path(settings.hub.identity.signing_key_file)))
    record_thread(settings, thread)
    for path in thread.send(settings.outbox):
        print(f"for its site: {path}")
    address = settings.ways()[1].address
    if address:
        print(f"next: snakemake hub, which sends them to {address}")
    else:
        print("next: bring each to its site")

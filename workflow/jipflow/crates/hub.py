"""The crate of a round at the hub: what was made of which messages, and whose these are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from jipflow.crates.run import Other, Run, described
from jipflow.exchange.roster import Roster
from jipflow.hub.decisions import Accepted
from jipflow.hub.memory import copy_name, remembered
from jipflow.hub.rounds import hub_thread
from jipflow.hub.settings import HubSettings
from jipflow.hub.thread import Thread
from jipflow.reasons import StageError


def hub_crate(
    settings: HubSettings, records: Iterable[Path], accepted: Sequence[Accepted], round_: int
) -> bytes:
    """Return the crate of a round at the hub, a zip.

    A message is in it by its hash, the id of its site, and the name of the hub's copy; what it says
    and who approved it are not. Nor is a file that was refused.

    Args:
        settings: of the hub.
        records: of the last jobs of the round, which lead to all others.
        accepted: the messages that count.
        round_: the round.

    Raises:
        StageError: a record is missing or leads out of the results, or no round was opened.
    """
    protocol, hub = settings.protocol.protocol, settings.hub.hub.id
    thread, results = hub_thread(settings), Path(settings.hub.results)
    if thread.roster is None:
        raise StageError("No round was opened yet; run: snakemake hub")
    events = [
        _file(path, digest, results)
        for path, digest in zip(thread.files, thread.hashes, strict=True)
    ]
    folder = thread.received(round_)
    sent = [
        _file(
            folder / copy_name(each.site, each.attempt, each.sha256),
            each.sha256,
            results,
            each.site,
        )
        for each in sorted(accepted, key=lambda each: each.site)
    ]
    run = Run(
        at=hub,
        owner="hub",
        name=f"{protocol.id} {protocol.version}, round {round_}, at {hub}",
        description=f"A round of jipflow at a hub: {protocol.title}. "
        f"{_taken(thread.roster, [each.site for each in accepted])}",
        protocol=settings.protocol,
        named=settings.named,
        reads={
            **dict.fromkeys(("hub_merge", "hub_report"), events),
            "hub_accept": [*events, *_before(thread, round_, results), *sent],
        },
        # What opens another round is the last job of the one before.
        writes={"hub_open": events[:1] if round_ == 1 else []},
    )
    return described(run, results, records)


def _file(path: Path, sha256: str, results: Path, site: str = "") -> Other:
    name = path.relative_to(results).as_posix()
    return Other(name, name, sha256, site)


def _before(thread: Thread, round_: int, results: Path) -> list[Other]:
    """Return the messages that counted in the round before, from which those of this one go on."""
    found = remembered(thread.received(round_ - 1)) if round_ > 1 else {}
    return [_file(each.path, each.sha256, results, site) for site, each in found.items()]


def _taken(roster: Roster, sites: Sequence[str]) -> str:
    """Say whose messages were accepted, and of whom on the roster none was."""
    missing = [site for site in roster.sites if site not in sites]
    return (
        f"Of the {len(roster.sites)} sites of roster {roster.number} ({roster.sha256}), messages "
        f"of {len(sites)} were accepted ({', '.join(sorted(sites)) or 'none'}); missing: "
        f"{', '.join(missing) or 'none'}."
    )

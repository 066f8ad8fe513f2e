"""What the rules of the workflow call at the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from jipflow.cli.command import RUN_A_HUB, Audience
from jipflow.cli.making import MadeOf, Record, check_made, recorded
from jipflow.cli.stages import SettingsFile

AUDIENCE = Audience(
    "Called by the workflow at the hub",
    f"The workflow calls this with the settings that it writes, when a hub is run:\n  {RUN_A_HUB}",
)


@AUDIENCE.command("hub open")
def hub_open(*, settings: SettingsFile, record: Record) -> None:
    """Open the first round, and put what the hub says to the sites into the outbox."""
    from jipflow.exchange.keys import load_or_create_key
    from jipflow.hub.audited import record_thread
    from jipflow.hub.rounds import hub_state, hub_thread, open_first
    from jipflow.hub.settings import read_hub_settings

    read = read_hub_settings(settings)
    thread = hub_thread(read)
    open_first(read, thread)
    thread.speak(load_or_create_key(Path(read.hub.identity.signing_key_file)))
    record_thread(read, thread)
    for path in thread.send(read.outbox):
        print(f"for its site: {path}")
    with recorded(record, read, "hub_open", outputs=[], state=hub_state(read, thread)):
        pass


@AUDIENCE.command("hub accept")
def hub_accept(
    *,
    settings: SettingsFile,
    round_: Annotated[int, "the round"],
    accepted: Annotated[Path, "what is accepted"],
    rejected: Annotated[Path, "what is rejected, and why"],
    record: Record,
) -> None:
    """Verify the messages of the inbox."""
    from jipflow.exchange.keys import load_key
    from jipflow.hub.accept import accept
    from jipflow.hub.audited import record_decisions
    from jipflow.hub.decisions import write_accepted, write_rejected
    from jipflow.hub.rounds import accept_state, check_round, hub_thread, reader
    from jipflow.hub.settings import read_hub_settings

    read = read_hub_settings(settings)
    thread, inbox = hub_thread(read), read.inbox
    check_round(thread, round_)
    tables = [accepted, rejected]
    state = accept_state(read, thread)
    with recorded(record, read, "hub_accept", outputs=tables, state=state):
        taken, refused = accept(
            inbox=inbox,
            received=thread.received(round_),
            reader=reader(read, thread, load_key(Path(read.hub.identity.signing_key_file))),
        )
        for entry in refused:
            print(f"rejected {entry.file}: {entry.reason}: {entry.detail}")
        for message in taken:
            for cell in message.left_out:
                print(f"left out of {message.file}: {cell}: not of the values of the round before")
        record_decisions(read, round_, taken, refused)
        write_accepted(accepted, taken)
        write_rejected(rejected, refused)


@AUDIENCE.command("hub merge")
def hub_merge(
    *,
    settings: SettingsFile,
    round_: Annotated[int, "the round"],
    accepted: Annotated[Path, "what was accepted"],
    before: Annotated[Sequence[Path], "result.json of the round before", {"nargs": "*"}] = (),
    out: Annotated[Path, "result.json"],
    made_of: MadeOf,
    record: Record,
) -> None:
    """Merge what was accepted."""
    from jipflow.files import read_json, write_json
    from jipflow.hub.audited import record_result
    from jipflow.hub.decisions import read_accepted
    from jipflow.hub.merge import carried, merge
    from jipflow.hub.rounds import hub_thread, state_of
    from jipflow.hub.settings import read_hub_settings

    read = read_hub_settings(settings)
    check_made(read, {path: [accepted] for path in made_of})
    with recorded(record, read, "hub_merge", inputs=[*made_of, *before], outputs=[out]):
        taken = read_accepted(accepted)
        result = merge(
            accepted=taken,
            settings=read,
            round_=round_,
            state=state_of(hub_thread(read), round_),
        )
        write_json(out, carried(result, [read_json(path) for path in before], read))
        record_result(read, round_, taken, out)


@AUDIENCE.command("hub crate")
def hub_crate(
    *,
    settings: SettingsFile,
    round_: Annotated[int, "the round"],
    accepted: Annotated[Path, "what was accepted"],
    made_of: MadeOf,
    out: Annotated[Path, "the crate, a zip"],
    record: Record,
) -> None:
    """Describe a round as a Research Object Crate."""
    from jipflow.crates.hub import hub_crate
    from jipflow.files import atomic_path
    from jipflow.hub.decisions import read_accepted
    from jipflow.hub.rounds import check_round, hub_thread
    from jipflow.hub.settings import read_hub_settings

    read = read_hub_settings(settings)
    check_made(read, dict.fromkeys(made_of, ()))
    check_round(hub_thread(read), round_)
    with (
        recorded(record, read, "hub_crate", inputs=made_of, outputs=[out]),
        atomic_path(out) as partial,
    ):
        partial.write_bytes(hub_crate(read, made_of, read_accepted(accepted), round_))


@AUDIENCE.command("hub close")
def hub_close(
    *,
    settings: SettingsFile,
    round_: Annotated[int, "the round"],
    accepted: Annotated[Path, "what was accepted"],
    made_of: MadeOf,
    out: Annotated[Path, "outlook.json: what the round waits for"],
    record: Record,
) -> None:
    """Open the next round if every site has answered and an analysis needs it."""
    from dataclasses import asdict

    from jipflow.exchange.keys import load_key
    from jipflow.files import write_json
    from jipflow.hub.audited import record_thread
    from jipflow.hub.decisions import read_accepted
    from jipflow.hub.rounds import close, hub_thread, outlook
    from jipflow.hub.settings import read_hub_settings

    read = read_hub_settings(settings)
    check_made(read, dict.fromkeys(made_of, ()))
    taken = read_accepted(accepted)
    with recorded(record, read, "hub_close", inputs=made_of, outputs=[out]):
        thread = hub_thread(read)
        waits = outlook(read, thread, {entry.site for entry in taken}, round_)
        opened = close(read, thread, taken, round_)
        if opened:
            key = load_key(Path(read.hub.identity.signing_key_file))
            thread.speak(key)
            record_thread(read, thread)
            for path in thread.send(read.outbox):
                print(f"for its site: {path}")
        write_json(out, {**asdict(waits), "opened": opened})


def _pages(report: Path) -> Iterator[Path]:
    """Yield the hub's page and the tables that lie beside it once it is written."""
    from jipflow.hub.tables import TABLES

    yield report
    yield from sorted((report.parent / TABLES).glob("*.csv"))


@AUDIENCE.command("hub report")
def hub_report(
    *,
    settings: SettingsFile,
    round_: Annotated[int, "the round"],
    result: Annotated[Path, "result.json"],
    accepted: Annotated[Path, "what was accepted"],
    rejected: Annotated[Path, "what was rejected"],
    out: Annotated[Path, "the page"],
    made_of: MadeOf,
    record: Record,
) -> None:
    """Write the hub's report."""
    from jipflow.files import read_json
    from jipflow.hub.decisions import read_accepted, read_rejected
    from jipflow.hub.rounds import check_round, hub_thread, outlook
    from jipflow.hub.settings import read_hub_settings
    from jipflow.report.hub import write_hub_report

    read = read_hub_settings(settings)
    check_made(read, dict.fromkeys(made_of, ()))
    thread = hub_thread(read)
    check_round(thread, round_)
    with recorded(record, read, "hub_report", inputs=made_of, outputs=_pages(out)):
        taken = read_accepted(accepted)
        write_hub_report(
            result=read_json(result),
            accepted=taken,
            rejected=read_rejected(rejected),
            outlook=outlook(read, thread, {entry.site for entry in taken}, round_),
            settings=read,
            path=out,
        )

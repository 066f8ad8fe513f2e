"""What the rules of the workflow call at the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jipflow.cli.command import RUN_A_HUB, Audience
from jipflow.cli.making import MadeOf, Record, check_made, recorded
from jipflow.cli.stages import SettingsFile

AUDIENCE = Audience(
    "Called by the workflow at the hub",
    f"The workflow calls this with the settings that it writes, when a hub is run:\n  {RUN_A_HUB}",
)


@AUDIENCE.command("hub accept")
def hub_accept(
    *,
    settings: SettingsFile,
    messages: Annotated[Path, "folder of the copies of what was ever accepted"],
    accepted: Annotated[Path, "what is accepted"],
    rejected: Annotated[Path, "what is rejected, and why"],
    record: Record,
) -> None:
    """Verify the bundles of the inbox."""
    from jipflow.hub.accept import accept
    from jipflow.hub.decisions import write_accepted, write_rejected
    from jipflow.hub.inbox import inbox_digest
    from jipflow.hub.settings import read_hub_settings

    read = read_hub_settings(settings)
    inbox, tables = Path(read.hub.inbox), [accepted, rejected]
    with recorded(record, read, "hub_accept", outputs=tables, state=inbox_digest(inbox)):
        taken, refused = accept(inbox=inbox, messages=messages, settings=read)
        for entry in refused:
            print(f"rejected {entry.file}: {entry.reason}: {entry.detail}")
        write_accepted(accepted, taken)
        write_rejected(rejected, refused)


@AUDIENCE.command("hub merge")
def hub_merge(
    *,
    settings: SettingsFile,
    accepted: Annotated[Path, "what was accepted"],
    out: Annotated[Path, "result.json"],
    made_of: MadeOf,
    record: Record,
) -> None:
    """Merge what was accepted."""
    from jipflow.files import write_json
    from jipflow.hub.decisions import read_accepted
    from jipflow.hub.merge import merge
    from jipflow.hub.settings import read_hub_settings

    read = read_hub_settings(settings)
    check_made(read, {path: [accepted] for path in made_of})
    with recorded(record, read, "hub_merge", inputs=made_of, outputs=[out]):
        write_json(out, merge(accepted=read_accepted(accepted), settings=read))


@AUDIENCE.command("hub report")
def hub_report(
    *,
    settings: SettingsFile,
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
    from jipflow.hub.settings import read_hub_settings
    from jipflow.report.hub import write_hub_report

    read = read_hub_settings(settings)
    check_made(read, dict.fromkeys(made_of, ()))
    with recorded(record, read, "hub_report", inputs=made_of, outputs=[out]):
        write_hub_report(
            result=read_json(result),
            accepted=read_accepted(accepted),
            rejected=read_rejected(rejected),
            path=out,
        )

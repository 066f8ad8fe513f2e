"""What the rules of the workflow call at the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jipflow.cli.command import RUN_A_HUB, Audience
from jipflow.cli.stages import SettingsFile

AUDIENCE = Audience(
    "Called by the workflow at the hub",
    f"The workflow calls this with the settings that it writes, when a hub is run:\n  {RUN_A_HUB}",
)


@AUDIENCE.command("hub accept")
def hub_accept(
    *,
    settings: SettingsFile,
    accepted: Annotated[Path, "what is accepted"],
    rejected: Annotated[Path, "what is rejected, and why"],
) -> None:
    """Verify the bundles of the inbox."""
    from jipflow.files import read_json, write_json
    from jipflow.hub.hub import accept

    read = read_json(settings)
    taken, refused = accept(inbox=Path(read["hub"]["inbox"]), settings=read)
    for entry in refused:
        print(f"rejected {entry['file']}: {entry['reason']}: {entry['detail']}")
    write_json(accepted, taken)
    write_json(rejected, refused)


@AUDIENCE.command("hub merge")
def hub_merge(
    *,
    settings: SettingsFile,
    accepted: Annotated[Path, "what was accepted"],
    out: Annotated[Path, "result.json"],
) -> None:
    """Merge what was accepted."""
    from jipflow.files import read_json, write_json
    from jipflow.hub.hub import merge

    write_json(out, merge(accepted=read_json(accepted), settings=read_json(settings)))


@AUDIENCE.command("hub report")
def hub_report(
    *,
    result: Annotated[Path, "result.json"],
    accepted: Annotated[Path, "what was accepted"],
    rejected: Annotated[Path, "what was rejected"],
    out: Annotated[Path, "the page"],
) -> None:
    """Write the hub's report."""
    from jipflow.files import read_json
    from jipflow.report.hub import write_hub_report

    write_hub_report(
        result=read_json(result),
        accepted=read_json(accepted),
        rejected=read_json(rejected),
        path=out,
    )

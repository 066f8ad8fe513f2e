"""What the person calls who looks after runs: how they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jipflow.cli.command import Audience

AUDIENCE = Audience("To see how a run stands")

AllResults = Annotated[Path, "folder for the results of all protocols"]
OneProtocol = Annotated[str | None, "id of the only protocol; all by default"]


@AUDIENCE.command("status")
def status(
    *,
    results: AllResults = Path("results"),
    protocol: OneProtocol = None,
    json: Annotated[bool, "print JSON"] = False,
) -> None:
    """Print how runs stand: cases by stage and reason, jobs, last release.

    It says who has the results, reads files alone, also while a run goes on, and writes nothing.
    """
    from jipflow.files import json_text
    from jipflow.repair.standing import read_standing, sentences

    found = read_standing(results, protocol)
    print(json_text(found.plain()).rstrip() if json else "\n".join(sentences(found)))

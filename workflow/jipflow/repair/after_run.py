"""The command that a site has run when a run is over."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jipflow.reasons import StageError
from jipflow.repair.standing import read_standing
from jipflow.settings.after_run import AfterRun

COUNTS = ("cases", "ok", "failed", "waiting", "open", "excluded", "shards", "shards_done")

OF_THE_RUN = ("JIPFLOW_RUN", "JIPFLOW_SERVER")
"""Variables that only a job of the run has a use for."""


def counts_after(results: Path, site: str, protocol: str, state: str) -> dict[str, Any]:
    """Return what the command is given: counts by stage and reason, and no case.

    Where they cannot be read, as on a disk that is gone, it is given how the run ended alone: a
    run that is over does not fail by being counted.

    Args:
        results: folder for the results of all protocols.
        site: id of the site.
        protocol: id of the protocol.
        state: ``ended`` or ``failed``.
    """
    about: dict[str, Any] = {"state": state, "site": site, "protocol": protocol}
    try:
        found = read_standing(results, protocol).protocols
    except (StageError, OSError, ValueError, KeyError):
        return about
    for each in found:
        about |= {name: getattr(each, name) for name in COUNTS}
        about["stages"] = {name: asdict(stage) for name, stage in each.stages.items()}
        about["reasons"] = [asdict(reason) for reason in each.reasons]
    return about


def tell(command: AfterRun, about: dict[str, Any]) -> str:
    """Run the command, with what it is given as JSON on its standard input.

    What is one value is in its environment, too, as ``JIPFLOW_STATE`` or ``JIPFLOW_FAILED``.

    Args:
        command: of the site.
        about: what it is given.

    Returns:
        What went wrong, in a sentence; empty where nothing did. It changes nothing of the run.
    """
    own = {key: value for key, value in os.environ.items() if key not in OF_THE_RUN}
    given = {
        f"JIPFLOW_{key.upper()}": str(value)
        for key, value in about.items()
        if isinstance(value, str | int)
    }
    name = command.command[0]
    try:
        ended = subprocess.run(
            command.command,
            env=own | given,
            input=json.dumps(about) + "\n",
            text=True,
            timeout=command.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"after_run: {name} was ended after {command.seconds} s."
    except OSError as error:
        return f"after_run: {name} cannot be run: {error.strerror}."
    return f"after_run: {name} ended with status {ended.returncode}." if ended.returncode else ""

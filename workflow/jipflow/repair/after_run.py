"""The command that a site has run when a run is over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jipflow.reasons import StageError
from jipflow.repair.standing import read_standing
from jipflow.settings.after_run import AfterRun
from jipflow.settings.site import Site

COUNTS = ("cases", "ok", "failed", "waiting", "open", "excluded", "shards", "shards_done")

OF_THE_RUN = ("JIPFLOW_RUN", "JIPFLOW_SERVER")
"""Variables that only a job of the run has a use for."""

OF_PLACES = ("SNAKEMAKE_STORAGE_", "AWS_")
"""How variables begin that hold names and passwords of the place where messages are exchanged."""


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


def secret_variables(site: Site) -> set[str]:
    """Return the environment variables that a site's settings name for tokens and passwords."""
    return set(_variables(site.model_dump()))


def _variables(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key.endswith("_env") and isinstance(value, str):
                yield value
            else:
                yield from _variables(value)
    elif isinstance(content, list):
        for value in content:
            yield from _variables(value)


def tell(command: AfterRun, about: dict[str, Any], secrets: Collection[str] = ()) -> str:
    """Run the command, with what it is given as JSON on its standard input.

    What is one value is in its environment, too, as ``JIPFLOW_STATE`` or ``JIPFLOW_FAILED``. When
    its time is over, all that it has started is killed with it.

    Args:
        command: of the site.
        about: what it is given.
        secrets: variables of this environment that it does not get.

    Returns:
        What went wrong, in a sentence; empty where nothing did. It changes nothing of the run.
    """
    kept_back = {*OF_THE_RUN, *secrets}
    own = {
        key: value
        for key, value in os.environ.items()
        if key not in kept_back and not key.startswith(OF_PLACES)
    }
    given = {
        f"JIPFLOW_{key.upper()}": str(value)
        for key, value in about.items()
        if isinstance(value, str | int)
    }
    name = command.command[0]
    try:
        status = _run(command, own | given, json.dumps(about) + "\n")
    except subprocess.TimeoutExpired:
        return f"after_run: {name} was ended after {command.seconds} s."
    except OSError as error:
        return f"after_run: {name} cannot be run: {error.strerror}."
    except ValueError as error:
        return f"after_run: {name!r} cannot be run: {error}."
    return f"after_run: {name} ended with status {status}." if status else ""


def _run(command: AfterRun, environment: dict[str, str], text: str) -> int:
    """Run the command in a group of processes of its own, and return its exit status."""
    with subprocess.Popen(
        command.command,
        env=environment,
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            process.communicate(text, command.seconds)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode

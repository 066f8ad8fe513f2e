"""Runs of Snakemake as copies of one process that has loaded it, which takes two seconds each time.

It is started by `harness.snakemake`, and carries out what is typed after ``snakemake``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from snakemake.cli import get_argument_parser, main

from jipflow.forked import SERVER, serve

OURS = (
    "jipflow.annotate.inbox",
    "jipflow.catalog.consented",
    "jipflow.cli.attempts",
    "jipflow.exchange.transport",
    "jipflow.hub.settings",
    "jipflow.release.packing",
    "jipflow.release.rounds",
    "jipflow.settings.run",
)
"""What the workflow imports when it is read."""


def run(words: Sequence[str]) -> int:
    """Run Snakemake; its jobs are copies of the server that it starts, or of none."""
    del os.environ[SERVER]
    sys.argv[0] = str(Path(sys.executable).with_name("snakemake"))
    main(list(words))
    return 0


if __name__ == "__main__":
    # It loads the plugins.
    get_argument_parser()
    for name in OURS:
        importlib.import_module(name)
    serve(int(sys.argv[1]), Path(sys.argv[2]), (), run)

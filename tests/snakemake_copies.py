"""Runs of Snakemake as copies of one process that has loaded it: two seconds less, each time."""

from __future__ import annotations

import atexit
import importlib
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jipflow.forked import SERVER, SOCKET, ask, serve

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


def program() -> Path:
    """Return what stands for the program ``snakemake`` until this process ends.

    What is typed after it is carried out by a copy of a process that this one starts, in the
    network that this one is in. That process was started with this one's environment: another
    ``PYTHONPATH`` needs the real program.
    """
    return _program(os.readlink("/proc/thread-self/ns/net"))


@cache
def _program(network: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="snakemake-copies-"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / SOCKET))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, __file__, "serve", str(listener.fileno()), str(folder)],
            # It ends with this process, however that ends.
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    assert process.stdin
    atexit.register(process.wait)
    atexit.register(process.stdin.close)
    path = folder / "bin" / "snakemake"
    path.parent.mkdir()
    words = shlex.join([sys.executable, __file__, "ask"])
    path.write_text(f'#!/bin/sh\n{SERVER}={shlex.quote(str(folder))} exec {words} "$@"\n')
    path.chmod(0o755)
    return path


def run(words: Sequence[str]) -> int:
    """Run Snakemake; its jobs are copies of the server that it starts, or of none."""
    from snakemake.cli import main

    del os.environ[SERVER]
    sys.argv[0] = str(Path(sys.executable).with_name("snakemake"))
    main(list(words))
    return 0


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "ask":
        code = ask(arguments)
        sys.exit("no process takes it over" if code is None else code)
    from snakemake.cli import get_argument_parser

    # It loads the plugins.
    get_argument_parser()
    for name in OURS:
        importlib.import_module(name)
    serve(int(arguments[0]), Path(arguments[1]), (), run)

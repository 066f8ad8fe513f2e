"""Runs of Snakemake and commands as copies of one process that has loaded what they need."""

from __future__ import annotations

import atexit
import gc
import os
import pkgutil
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jipflow.forked
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
    "scipy.stats",
)
"""What the workflow imports when it is read, and many jobs in mid-work."""

SNAKEMAKE = "snakemake"
"""The first word of what a copy is asked for that shall be Snakemake; else it is a command."""

DONE: set[str] = set()
"""What this process has loaded and made."""

ADDED: dict[str, str] = {}
"""What libraries have added to the environment when they loaded."""

WITHOUT_NETWORKS = {
    "protocol": {"segmentations": [{"engine": "imported"}, {"engine": "threshold"}]},
    "site": {"processing": {"device": "cpu"}},
}
"""Of the settings of a site that needs no network, what decides on what its jobs import."""


def program() -> Path:
    """Return what stands for the program ``snakemake`` until this process ends.

    What is typed after it is carried out by a copy of a process that this one starts, in the
    network that this one is in, and so are the jobs. That process was started with this one's
    environment: another ``PYTHONPATH`` needs the real program.
    """
    return _of_network(os.readlink("/proc/thread-self/ns/net")) / "bin" / SNAKEMAKE


def commands() -> dict[str, str]:
    """Return the variable by which ``jipflow`` is carried out by a copy of the same process."""
    return {SERVER: str(program().parents[1])}


@cache
def _of_network(network: str) -> Path:
    return begun()


def begun(through: Sequence[str] = ()) -> Path:
    """Start a process to be copied; it ends with this one.

    Args:
        through: a command that starts another, such as ``unshare``: copies are where that is.

    Returns:
        Its folder, which is the value of `SERVER` for its commands; its Snakemake is
        ``bin/snakemake``.
    """
    folder = Path(tempfile.mkdtemp(prefix="snakemake-copies-"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / SOCKET))
        listener.listen()
        process = subprocess.Popen(
            [*through, sys.executable, __file__, "serve", str(listener.fileno()), str(folder)],
            # It ends with this process, however that ends.
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    assert process.stdin
    atexit.register(process.wait)
    atexit.register(process.stdin.close)
    path = folder / "bin" / SNAKEMAKE
    path.parent.mkdir()
    words = shlex.join([sys.executable, __file__, "ask"])
    path.write_text(f'#!/bin/sh\n{SERVER}={shlex.quote(str(folder))} exec {words} "$@"\n')
    path.chmod(0o755)
    return folder


def run(words: Sequence[str]) -> int:
    """Run Snakemake, or a command."""
    from jipflow.cli.server import asked_for, run_copy

    for name, value in ADDED.items():
        os.environ.setdefault(name, value)
    if words[:1] != [SNAKEMAKE]:
        return run_copy(words)
    from snakemake.cli import main

    own = os.environ.pop(SERVER)
    start, tell = jipflow.forked.start, jipflow.forked.tell
    asked: list[Sequence[str]] = []

    def start_or_share(*words: Any) -> None:
        """Wait for what the jobs of a run load."""
        asked.append(words)

    def tell_or_share(*words: str) -> None:
        """Start a server where they load more than this process has."""
        if jipflow.forked._started or not DONE.issuperset(asked_for(words)):
            start(*asked[0])
            tell(*words)
        else:
            os.environ[SERVER] = own

    jipflow.forked.start, jipflow.forked.tell = start_or_share, tell_or_share
    sys.argv[:] = [str(Path(sys.executable).with_name(SNAKEMAKE)), *words[1:]]
    main(list(words[1:]))
    return 0


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "ask":
        code = ask([SNAKEMAKE, *arguments])
        sys.exit("no process takes it over" if code is None else code)
    # Jobs find no module of tests.
    del sys.path[0]
    given = dict(os.environ)
    from snakemake.cli import get_argument_parser

    from jipflow.cli.server import loaded

    # It loads the plugins.
    get_argument_parser()
    for name in (*OURS, *loaded({}), *loaded(WITHOUT_NETWORKS)):
        found = pkgutil.resolve_name(name)
        if ":" in name:
            found()
        DONE.add(name)
    ADDED |= {name: value for name, value in os.environ.items() if given.get(name) != value}
    gc.collect()
    gc.freeze()
    serve(int(arguments[0]), Path(arguments[1]), (), run)

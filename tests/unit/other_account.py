"""A program run by an account that permissions bind, and disks that are full or taken away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from needs import unavailable

BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""What takes from root that permissions do not bind it. Another account could not read a Python
that lies in root's home."""


@contextmanager
def as_another_account() -> Iterator[list[str]]:
    """Give the words before a command that let permissions bind it, where the tests run as root."""
    if os.geteuid():
        yield []
    elif shutil.which(BOUND[0]) is None:
        unavailable("without setpriv permissions do not bind root")
    else:
        yield list(BOUND)


def bound_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code as an account that permissions bind."""
    with as_another_account() as words:
        return subprocess.run(
            [*words, sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a disk of that size on a folder; skip the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        unavailable("a disk can be mounted by root only")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

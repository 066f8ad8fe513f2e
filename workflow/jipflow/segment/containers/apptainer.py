"""Runs one container by spython in a process of its own, which a time limit can end.

spython builds and starts apptainer's command, but has no time limit, and waits for the container in
the process that called it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run ``spython.main.Client.run`` and pass on what the container prints.

    Args:
        argv: one JSON object, the keyword arguments.

    Returns:
        The exit code of the container.
    """
    from spython.main import Client

    arguments = json.loads(argv[0])
    try:
        for line in Client.run(**arguments, stream=True, stream_type="both", quiet=True):
            print(line, end="", flush=True)
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What `python -m snakemake` is for the demonstration under test, whose folder is in PYTHONPATH.

The run of one site is the program itself, as a user's; the other runs are copies of a process that
has loaded it (`snakemake_copies`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    _, _, others = os.environ.pop("PYTHONPATH").partition(os.pathsep)
    if others:
        os.environ["PYTHONPATH"] = others
    words = sys.argv[1:]
    own = any(Path(word).name == os.environ["BY_ITSELF"] for word in words)
    program = [sys.executable, "-m", "snakemake"] if own else [os.environ["COPIED"]]
    os.execv(program[0], [*program, *words])

"""The version with the commit that it runs from: for pages and people.

Nothing that is compared or hashed holds it: no table, DICOM object, manifest or rule.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path

from jipflow import __version__

ROOT = Path(__file__).resolve().parents[2]
CODE = ("Snakefile", "rules", "workflow")
"""What of the clone decides results; a protocol and a site's settings have hashes of their own."""


def full_version() -> str:
    """Return the version and, where it is known, its commit: ``0.2.0 (4f0c7a9e21d3)``."""
    known = commit()
    return f"{__version__} ({known})" if known else __version__


@cache
def commit(root: Path = ROOT) -> str | None:
    """Return the first 12 digits of the commit that a clone stands at, or an archive was made of.

    Args:
        root: folder of the clone, or of what `envs/install.py` has installed.

    Returns:
        The digits, with ``+dirty`` where a clone's code differs from the commit; None where the
        folder is neither (a copy, an installed package), has no commit, or git cannot be asked.
    """
    if not (root / ".git").exists():
        try:
            manifest = json.loads((root / "installed.json").read_text(encoding="utf-8"))
            return str(manifest["commit"])[:12]
        except (OSError, ValueError, KeyError, TypeError):
            return None
    lines = _status(root)
    known = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    digits = known.get("branch.oid", "(initial)")
    if digits == "(initial)":
        return None
    dirty = any(not line.startswith("#") for line in lines)
    return digits[:12] + ("+dirty" if dirty else "")


def _status(root: Path) -> list[str]:
    """Return what git says of a clone's commit and its code; nothing where it cannot be asked."""
    command = ["git", "--no-optional-locks"]
    # The clone of another account, such as one that a group shares: its code is running already.
    command += ["-c", f"safe.directory={root}"]
    command += ["status", "--porcelain=v2", "--branch", "--", *CODE]
    # A hook of another repository, from which jipflow may be called, points git to that one.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()

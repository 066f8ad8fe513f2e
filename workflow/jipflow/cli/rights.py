"""Rights of what a person's command writes beside the files of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def rights_of(results: Path) -> Iterator[None]:
    """Let what is written meanwhile have the rights of the run's files, whatever the shell's umask.

    Args:
        results: of the protocol; where no settings lie there, the owner alone gets any right.
    """
    from jipflow.settings.run import read_settings

    settings = results / "settings.json"
    mask = read_settings(settings).site.permissions.mask if settings.is_file() else 0o077
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)

"""Rights of what a person's command writes beside the files of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone_with(results: Path, doing: str) -> Iterator[None]:
    """As `rights_of`, while no run goes on there, no erasure and no other such command.

    Args:
        results: of the protocol, of a run that has ended.
        doing: the command, as messages to others name it.

    Raises:
        StageError: something has the results, there are none, or others consent by now.
    """
    from jipflow.catalog.consented import check_still_consented
    from jipflow.lock import alone
    from jipflow.reasons import StageError
    from jipflow.settings.run import read_settings

    if not (results / "settings.json").is_file():
        raise StageError(
            f"{results} has no settings.json, as the folder of a protocol has in which a run has "
            "ended: name it, such as results/sarcoma-pet."
        )
    settings = read_settings(results / "settings.json")
    with rights_of(results), alone(results.absolute().parent, doing):
        check_still_consented(settings, results)
        yield


@contextmanager
def rights_of(results: Path) -> Iterator[None]:
    """Let what is written meanwhile have the rights of the run's files, whatever the shell's umask.

    Args:
        results: of the protocol; where no settings of a site lie there, the owner alone gets any
            right.
    """
    from jipflow.files import read_json
    from jipflow.settings.run import read_settings

    settings = results / "settings.json"
    of_site = settings.is_file() and "site" in read_json(settings)
    mask = read_settings(settings).site.permissions.mask if of_site else 0o077
    with masked(mask):
        yield


@contextmanager
def masked(mask: int) -> Iterator[None]:
    """Let what is written meanwhile lack rights, whatever the shell's umask.

    Args:
        mask: bits of the rights.
    """
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)

"""The folder that a run writes its results into."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jipflow.files import local_path
from jipflow.settings.resources import ConfigError


def results_folder(config: Mapping[str, Any]) -> str:
    """Return the folder for results that a configuration names.

    Args:
        config: of a run at a site.

    Raises:
        ConfigError: it cannot be one.
    """
    named = config.get("results", "results")
    if isinstance(named, bool) or not isinstance(named, str | int | float):
        raise ConfigError("results: name one folder, as in --config results=/data/results.")
    return checked_folder(str(named))


def checked_folder(name: str) -> str:
    """Return the folder of results of that name, which files can be written into.

    Raises:
        ConfigError: it cannot be one.
    """
    try:
        folder = local_path(name)
    except ValueError as error:
        raise ConfigError(f"results: {name!r} {error}.") from None
    if re.search(r"[{}]", folder):
        raise ConfigError(f"results: {name!r} holds a brace; name another folder.")
    there = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"results: {there} is a file, no folder; name another.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"results: nothing can be written into {there}; let this user write there, or name "
            "another folder by --config results=PATH."
        )
    return folder

"""Where the package's own files are, and YAML read from them and from a site's."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
SCHEMAS = ROOT / "workflow" / "schemas"
RESOURCES = ROOT / "workflow" / "resources"
PROTOCOLS = ROOT / "config" / "protocols"
MODELS = ROOT / "config" / "models.yaml"
OWN_MODELS = Path("models/models.yaml")
"""The site's own registry where it names no other, in the folder that a run is started in; in the
repository, git does not track it."""


class ConfigError(Exception):
    """A setting is wrong; the message names the file, the key and the fix."""


def check_repository() -> None:
    """Check that the repository's files are beside the package; `pip install .` leaves them behind.

    Raises:
        ConfigError: they are not.
    """
    missing = [path for path in (RESOURCES, PROTOCOLS, MODELS) if not path.exists()]
    if missing:
        raise ConfigError(
            f"jipflow runs from its repository, and {missing[0]} is not there: clone it and say "
            "`make setup` in the clone, or `pip install -e .` in an environment of your own."
        )


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: it is missing or not YAML.
    """
    try:
        # The parser in C is four times as fast and as safe.
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None


@cache
def resource(name: str) -> Any:
    """Read a YAML file of ``workflow/resources`` once a process; callers leave it unchanged."""
    return read_yaml(RESOURCES / name)

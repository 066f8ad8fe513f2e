"""Where the package's own files are, and YAML read from them and from a site's."""

from __future__ import annotations

import codecs
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from jipflow.settings import yaml_text

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


def check_rules(folder: Path) -> None:
    """Check that the rules of a run are those of this version of the package.

    Commands and files differ between versions, so a profile that names the Snakefile of another
    clone than the one whose `snakemake` runs would mix two.

    Args:
        folder: of the rules that are read; a copy of this version's will do.

    Raises:
        ConfigError: a rules file is missing there or is another.
    """
    own = ROOT / "rules"
    if folder.resolve() == own:
        return
    for path in sorted(own.glob("*.smk")):
        other = folder / path.name
        if not other.is_file() or other.read_bytes() != path.read_bytes():
            raise ConfigError(
                f"{other} is not of this version of jipflow, which is in {ROOT}: name the "
                "Snakefile in there (--snakefile, or `snakefile` of your profile), or start the "
                f"snakemake in the .venv/bin of {folder.parent}."
            )


MOST_BYTES = 5_000_000
"""Most bytes of a file of settings; the largest that jipflow has is 0.1 MB."""


def read_yaml(path: Path) -> Any:
    """Read a YAML file; `jipflow.settings.yaml_text` says what it may not hold.

    Raises:
        ConfigError: it is missing, or not YAML.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        # Snakemake reads a file of settings more than once.
        raise ConfigError(f"{path} is a pipe or device; write what it gives into a file.")
    try:
        with open(path, "rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(_missing(path)) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; name the file in it.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path} is far too large for a file of settings; name the right file.")
    try:
        return yaml_text.parse(_decoded(content))
    except yaml_text.YamlError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping of keys to values.

    Raises:
        ConfigError: it is missing, not YAML, empty or something else.
    """
    content = read_yaml(path)
    if content is None:
        raise ConfigError(f"{path} is empty; docs/site-guide.md shows what to write.")
    if not isinstance(content, dict):
        found = "a list" if isinstance(content, list) else "a text"
        raise ConfigError(f"{path} must be a mapping of keys to values, not {found}.")
    return content


def _missing(path: Path) -> str:
    """Say that a file is missing, and which one of its folder is meant."""
    folder = path.parent
    there = [each.name for each in folder.iterdir()] if folder.is_dir() else []
    near = get_close_matches(path.name, there, n=1)
    return f"{path} does not exist" + (f"; did you mean {folder / near[0]}?" if near else ".")


def _decoded(content: bytes) -> str:
    """Return text of UTF-8 with or without its mark.

    Raises:
        YamlError: it is of another encoding.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise yaml_text.YamlError("is UTF-16; save it as UTF-8.")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise yaml_text.YamlError(
            f"line {line}: holds a character that is not UTF-8, such as an umlaut of Latin-1; save "
            "the file as UTF-8."
        ) from None


@cache
def resource(name: str) -> Any:
    """Read a YAML file of ``workflow/resources`` once a process; callers leave it unchanged."""
    return read_yaml(RESOURCES / name)

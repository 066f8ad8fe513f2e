"""Extras of the package: libraries that a site installs only where something of its needs them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from importlib import metadata

from jipflow.settings.protocol import Protocol
from jipflow.settings.resources import ROOT, ConfigError

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "nnunet": ("nnunetv2", "torch"),
    "totalsegmentator": ("nnunetv2", "torch", "totalsegmentator"),
}
"""What is looked for before something runs that needs an extra, as pyproject.toml names it."""


def install_command(extra: str) -> str:
    """Return the command that installs an extra beside this very jipflow, from any folder."""
    python, folder = shlex.quote(sys.executable), shlex.quote(str(ROOT))
    return f"cd {folder} && {python} -m pip install -c envs/constraints.txt -e '.[{extra}]'"


def missing(extra: str) -> list[str]:
    """Return which libraries of an extra are not installed.

    Args:
        extra: a key of `LIBRARIES`.
    """
    return [name for name in LIBRARIES[extra] if not _installed(name)]


def check_extra(extra: str, what: str) -> None:
    """Check that the libraries of an extra are installed.

    Args:
        extra: a key of `LIBRARIES`.
        what: needs it; the message begins with it.

    Raises:
        ConfigError: some are not; the message has the command that installs them.
    """
    if lacking := missing(extra):
        raise ConfigError(
            f"{what} needs {' and '.join(lacking)}, not installed here; say: "
            f"{install_command(extra)}"
        )


def check_segmentations(protocol: Protocol) -> None:
    """Check that what the protocol's engines compute with is installed.

    Raises:
        ConfigError: something is not.
    """
    for spec in protocol.segmentations:
        if spec.extra:
            check_extra(spec.extra, f"segmentation {spec.id!r} by engine {spec.engine}")


def check_training(protocol: Protocol) -> None:
    """Check that what trains the protocol's model is installed.

    Raises:
        ConfigError: it is not.
    """
    assert protocol.training
    check_extra("nnunet", f"the training of model {protocol.training.model!r}")


def needed_extra(protocol: Protocol) -> str:
    """Return the extra that has what all engines of a protocol compute with; empty for none."""
    needed = {spec.extra for spec in protocol.segmentations if spec.extra}
    return max(needed, key=lambda extra: len(LIBRARIES[extra]), default="")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True

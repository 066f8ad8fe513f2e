"""Secrets of a PACS: from the environment or from files that only their owner can read."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Literal

from jipflow.privacy.rights import why_replaceable
from jipflow.settings.resources import ConfigError
from jipflow.settings.site import DicomWeb


def secret(source: DicomWeb, kind: Literal["token", "password"]) -> str | None:
    """Return a secret of a source; None if its configuration names none.

    Args:
        source: an entry of ``sources``; the secret stands behind ``<kind>_env`` (the name of an
            environment variable) or ``<kind>_file`` (a file of mode 0600).
        kind: ``token`` or ``password``.

    Raises:
        ConfigError: both are named, or the one that is named is missing, empty, not text of one
            line or can be read by others.
    """
    variable, file = {
        "token": (source.token_env, source.token_file),
        "password": (source.password_env, source.password_file),
    }[kind]
    context = f"source {source.name!r}"
    if variable is not None and file is not None:
        raise ConfigError(f"{context}: {kind}_env and {kind}_file are both given; remove one.")
    if variable is not None:
        # What looks like no name of a variable may be the secret itself.
        named = variable if re.fullmatch(r"[A-Z_][A-Z0-9_]{0,39}", variable) else "that it names"
        if not os.environ.get(variable):
            raise ConfigError(
                f"{context}: {kind}_env: the environment variable {named} is not set; set it to "
                f"the {kind} where the run is started."
            )
        return _one_line(os.environ[variable], f"{context}: the environment variable {named}")
    if file is not None:
        path = private_file(Path(file), f"{context}: {kind}_file")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ConfigError(
                f"{context}: {kind}_file: {path} is not text (UTF-8); write the {kind} alone "
                "into it."
            ) from None
        return _one_line(text, f"{context}: {kind}_file: {path}")
    return None


def private_file(path: Path, context: str) -> Path:
    """Return the path of a file that nobody but its owner can read.

    Args:
        path: of a regular file.
        context: the key of the configuration that names it, for the message.

    Raises:
        ConfigError: it is missing, not a file, unreadable, or open to others.
    """
    # A name without a folder may be the secret itself.
    named = path if len(path.parts) > 1 else "the file that it names"
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{context}: {named}: {error.strerror}; fix the path.") from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{context}: {named} is not a file; fix the path.")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(f"{context}: {path} can be read by others; run: chmod 600 {path}")
    if why := why_replaceable(path):
        raise ConfigError(f"{context}: {why}")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{context}: {path} cannot be read by this user; run as its owner.")
    return path


def _one_line(text: str, context: str) -> str:
    """Return the text without the ends of line behind it."""
    line = text.rstrip("\r\n")
    if not line or not line.isprintable():
        raise ConfigError(f"{context} must hold one line of printable text and nothing else.")
    return line

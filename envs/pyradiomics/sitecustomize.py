"""Lets Python 3.12 and newer build pyradiomics 3.0.1, when this folder is on PYTHONPATH.

Its setup.py reads setup.cfg by `SafeConfigParser` and `readfp`, which Python 3.12 took out of
configparser (AIM-Harvard/pyradiomics#886). Nothing that is installed needs them.
"""

import configparser
from collections.abc import Iterable

if not hasattr(configparser, "SafeConfigParser"):

    class SafeConfigParser(configparser.ConfigParser):
        """The parser of configparser by its old name, with its old method."""

        def readfp(self, lines: Iterable[str], filename: str | None = None) -> None:
            """Read an open file."""
            self.read_file(lines, filename)

    configparser.SafeConfigParser = SafeConfigParser  # type: ignore[attr-defined]

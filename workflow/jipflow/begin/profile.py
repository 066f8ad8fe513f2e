"""The Snakemake profile of a site, installed where `snakemake --profile NAME` looks for it.

Snakemake reads ``profiles/default`` beside a Snakefile that it knows before it reads a profile; one
that a profile names it does not know by then. So what stands there stands in the site's profile,
too, and a run is the same from whatever folder it is started in.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jipflow.settings.resources import ROOT, read_mapping

NAME = "config.v9+.yaml"
"""Name of a profile's file for Snakemake 9 and later."""

PROFILES = ROOT / "profiles"

GPU_RULES = ("segment", "train_fit", "train_evaluate")
"""Rules that ask for a GPU."""

QUEUES = {"slurm": "slurm_partition", "lsf": "queue", "sge": "queue", "pbs": "queue"}
"""The resource by which a profile names a job's partition or queue."""

HEAD = """\
# Snakemake's profile of the site {site}, written by `jipflow site init`. It names Snakefile,
# settings and working folder, so that `snakemake --profile {site}` runs the site from any folder.
# It was made of profiles/default and profiles/{base} of {root}.
"""

DEFINITIONS = """\
import sys
try:
    from jipflow.settings.command_line import check
except ImportError:
    pass
else:
    check(sys.argv[1:], {configfile!r})
"""


def lasting_root() -> Path:
    """Return the repository by the name that it keeps when another version is installed.

    What `envs/install.py` installs is in ``versions/<name>``, and ``current`` beside ``versions``
    is a link to the one that is in use: a profile that named the version would keep its rules.
    """
    current = ROOT.parent.parent / "current"
    return current if current.resolve() == ROOT else ROOT


@dataclass(frozen=True)
class Profile:
    """What a site's profile says.

    Attributes:
        site: id of the site, and name of the profile.
        base: profile of the repository that it is made of.
        configfile: the site's settings.
        folder: in which runs of the site work, whatever folder they are started in.
        cores: that jobs on this machine share; None on a cluster.
        memory_mb: likewise.
        queue: partition or queue of all jobs.
        gpu_queue: partition or queue of jobs that ask for a GPU; only beside `queue`.
        account: of SLURM.
    """

    site: str
    base: str
    configfile: Path
    folder: Path
    cores: int | None = None
    memory_mb: int | None = None
    queue: str | None = None
    gpu_queue: str | None = None
    account: str | None = None

    def text(self) -> str:
        """Return the profile's file."""
        common = read_mapping(PROFILES / "default" / "config.yaml")
        own = read_mapping(PROFILES / self.base / "config.yaml")
        definitions = [
            DEFINITIONS.format(configfile=str(self.configfile)),
            *own.pop("__definitions__", []),
        ]
        content: dict[str, Any] = {
            "__use_yte__": True,
            "__definitions__": definitions,
            "snakefile": str(lasting_root() / "Snakefile"),
            "configfile": str(self.configfile),
            "directory": str(self.folder),
            **{key: value for key, value in common.items() if not key.startswith("__")},
            **{key: value for key, value in own.items() if not key.startswith("__")},
        }
        if self.cores is not None:
            content["cores"] = self.cores
        if self.memory_mb is not None:
            content["resources"] = [*content["resources"], f"mem_mb={self.memory_mb}"]
        self._add_queues(content)
        head = HEAD.format(site=self.site, base=self.base, root=lasting_root())
        return head + yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)

    def _add_queues(self, content: dict[str, Any]) -> None:
        """Add partition or queue and account; quoted, since Snakemake takes them for Python."""
        given = {"slurm_account": self.account}
        if self.base in QUEUES:
            given[QUEUES[self.base]] = self.queue
        names = {name: value for name, value in given.items() if value is not None}
        if names:
            others = content.get("default-resources", [])
            content["default-resources"] = [
                *(each for each in others if each.partition("=")[0] not in names),
                *(f"{name}='{value}'" for name, value in names.items()),
            ]
        if self.gpu_queue is not None:
            chosen = dict.fromkeys(GPU_RULES, f"'{self.gpu_queue}'")
            # A protocol without networks has no GPU job, and stages that share a job have one
            # partition; rules/common.smk states which it is.
            chosen["segment"] += f" if $JIPFLOW_GPU else '{self.queue}'"
            content["set-resources"] = {
                rule: {QUEUES[self.base]: value} for rule, value in chosen.items()
            }


def user_profiles() -> Path:
    """Return the folder in which Snakemake looks for this account's profiles."""
    named = os.environ.get("XDG_CONFIG_HOME", "").strip()
    return (Path(named) if named else Path("~/.config").expanduser()) / "snakemake"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)

"""What a person typed after ``snakemake``, checked before Snakemake reads it.

Snakemake ends at a broken file of ``--configfile`` with a traceback or without its name; so
``profiles/default`` calls `check` first.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from snakemake.common import SNAKEFILE_CHOICES

from jipflow.settings.names import among
from jipflow.settings.resources import ROOT, ConfigError, read_mapping

_FILES = {"--configfile", "--configfiles"}
_ENTRIES = {"--config", "-C"}
_KEY = re.compile(r"[a-zA-Z_][\w-]*\w")
"""What Snakemake takes for the name of a setting."""

_ENCODED = "base64//"
"""Begins what Snakemake itself passes to the jobs that it starts."""


def check(argv: Sequence[str], configfile: str | None = None) -> None:
    """End the process with a message where a file of settings or an entry of one is wrong.

    Args:
        argv: what is typed after ``snakemake``.
        configfile: that of the profile, which one that is typed replaces.
    """
    try:
        check_arguments(argv)
        if configfile is not None:
            check_folder(argv)
        if configfile is not None and not any(_values(argv, _FILES)):
            read_mapping(Path(configfile))
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def need_slurm(argv: Sequence[str]) -> None:
    """End the process with a message where jobs are to go to SLURM and it is not there.

    Args:
        argv: what is typed after ``snakemake``.
    """
    missing = [name for name in ("sbatch", "squeue") if shutil.which(name) is None]
    if missing and not {"-n", "--dry-run", "--dryrun", "--lint"} & set(argv):
        print(
            f"SLURM's {' and '.join(missing)} cannot be found here; start snakemake on a login "
            "node of the cluster, or with --profile profiles/local.",
            file=sys.stderr,
        )
        sys.exit(1)


FETCHING = (
    "--software-deployment-method",
    "--deployment-method",
    "--deployment",
    "--sdm",
    "--use-conda",
    "--use-apptainer",
    "--use-singularity",
    "--default-storage-provider",
)
"""Options by which Snakemake fetches something from a network."""


def fetch_nothing(argv: Sequence[str]) -> None:
    """End the process with a message where Snakemake itself would need a network.

    Args:
        argv: what is typed after ``snakemake``.
    """
    typed = [word for word in argv if word.partition("=")[0] in FETCHING]
    if typed:
        print(
            f"{typed[0]}: Snakemake would fetch something by it, and profiles/airgapped is for "
            "machines that no network reaches; leave it out, or take profiles/local.",
            file=sys.stderr,
        )
        sys.exit(1)


def check_arguments(argv: Sequence[str]) -> None:
    """Check the files of ``--configfile`` and the entries of ``--config``.

    Raises:
        ConfigError: one is not there, not YAML, or no entry.
    """
    for path in _values(argv, _FILES):
        try:
            read_mapping(Path(path))
        except ConfigError as error:
            target = "/" not in path and "." not in path and not Path(path).exists()
            raise ConfigError(
                f"--configfile: {path!r} is no file; name a target before --configfile."
                if target
                else str(error)
            ) from None
    for entry in _values(argv, _ENTRIES):
        _check_entry(entry)


def check_folder(argv: Sequence[str]) -> None:
    """Check that no other workflow's profile counts beside that of a site.

    Snakemake takes ``default`` or ``profiles/default`` of a folder in which it finds a Snakefile,
    before it reads a profile that names another one.

    Raises:
        ConfigError: the current folder has a workflow with such a profile.
    """
    if any(word.partition("=")[0] == "--workflow-profile" for word in argv):
        return
    found = next((path for path in SNAKEFILE_CHOICES if path.exists()), None)
    if found is None:
        return
    usual = Path("profiles", "default")
    profiles = (path for path in (Path("default"), usual, found.parent / usual) if path.exists())
    profile = next(profiles, None)
    if profile is not None and profile.resolve() != (ROOT / usual).resolve():
        raise ConfigError(
            f"This folder has another workflow, and its {profile} would count before the site's "
            "profile; say the same in another folder, or with --workflow-profile none."
        )


def _values(argv: Sequence[str], options: set[str]) -> Iterator[str]:
    """Yield the values of an option that takes several, wherever it stands."""
    taking = False
    for word in argv:
        name, equals, value = word.partition("=")
        if word == "--":
            return
        if word.startswith("-") and len(word) > 1:
            taking = name in options
            if taking and equals:
                yield value
        elif taking:
            yield word


def _check_entry(entry: str) -> None:
    if entry.startswith(_ENCODED):
        return
    name, equals, _ = entry.partition("=")
    if not equals:
        raise ConfigError(
            f"--config: {entry!r} is no name=value; name a target before --config, and leave no "
            "blank beside =."
        )
    if "." in name:
        first, _, rest = name.partition(".")
        raise ConfigError(
            f"--config: {name!r} is no name; write --config '{first}={{{rest}: ...}}', or better "
            "change it in the file of --configfile."
        )
    if not _KEY.fullmatch(name):
        raise ConfigError(f"--config: {name!r} is no name of a setting.")


ELSEWHERE = {"hub": True, "bundle": False, "train": False}
"""Targets that a site or a hub alone has, by whether it is the hub."""


def check_names(named: Collection[str], rules: Collection[str], hub: bool) -> None:
    """Check that targets are rules or files.

    Args:
        named: what is typed as a target, or behind ``--until``.
        rules: names of the rules that there are.
        hub: whether the rules are the hub's.

    Raises:
        ConfigError: one is a word that is no rule.
    """
    for name in sorted(named):
        if name in rules or "/" in name or "." in name or Path(name).exists():
            continue
        if ELSEWHERE.get(name) is not None and ELSEWHERE[name] is not hub:
            there = "a hub's, hub.yaml" if ELSEWHERE[name] else "a site's, site.yaml"
            raise ConfigError(f"{name!r} is no target of this --configfile; name {there}.")
        raise ConfigError(f"{name!r} is no target and no rule{among(name, rules)}")


def check_reached(until: Collection[str], cohort: Path | None) -> None:
    """Check that a run that ends at a rule reaches it.

    Args:
        until: rules behind ``--until``.
        cohort: the table of cases, without which Snakemake knows no job of a shard; None at a hub.

    Raises:
        ConfigError: there is no cohort yet, and a rule comes after it.
    """
    later = sorted(set(until) - BEFORE_COHORT)
    if later and cohort is not None and not cohort.is_file():
        raise ConfigError(
            f"--until {later[0]}: nothing would run, since the cases are not known yet; run the "
            f"same with --until cohort first, then again with --until {later[0]}."
        )


BEFORE_COHORT = {"catalog", "query", "cohort", "settings"}
"""Rules that need no case."""

"""A first try on some cases of a cohort: which they are, and by which jobs they are processed.

A job processes a shard. Where a try is of some of a shard's cases alone, and nothing of the shard
was computed yet, each of these becomes a part of the shard, ``<shard>-<case_id>``, with jobs of its
own. It stays one: a run of the whole cohort computes what is left of the shard.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jipflow.files import canonical_digest, read_parquet
from jipflow.settings.names import SUBSET_KEYS, among
from jipflow.settings.resources import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

SHARD_NAME = re.compile(r"s\d{5}")
"""A name of a shard of the cohort."""

OF_JOBS = re.compile(rf"{SHARD_NAME.pattern}(?:-[a-z2-7]{{16}})?")
"""A name by which jobs know a shard: its own, or that of the part of it that is tried first."""

FOLDER = "subset"
"""Folder of a protocol's results in which the tables and the report of a try are."""

APART = "apart"
"""Folder of the cohort in which the instances of parts of shards are."""


@dataclass(frozen=True)
class Subset:
    """What was named to be tried.

    Attributes:
        cases: case_ids, sorted.
        shards: names of shards, sorted.
    """

    cases: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """What was named, as `jipflow collect --only` takes it."""
        return [*self.cases, *self.shards]

    @property
    def state(self) -> str:
        """The hash of what was named, for records."""
        return canonical_digest([list(self.cases), list(self.shards)])

    def chosen(self, members: Mapping[str, str]) -> set[str]:
        """Return the cases of a cohort that are meant.

        Args:
            members: the shard of each case of the cohort.

        Raises:
            ConfigError: the cohort has no such case or shard.
        """
        shards = sorted(set(members.values()))
        for case in self.cases:
            if case not in members:
                raise ConfigError(f"case: the cohort has no case {case!r}{among(case, members)}")
        for shard in self.shards:
            if shard not in shards:
                raise ConfigError(
                    f"shards: the cohort has no shard {shard!r}{among(shard, shards)}"
                )
        return {c for c, shard in members.items() if c in self.cases or shard in self.shards}


def read_subset(config: Mapping[str, Any]) -> Subset | None:
    """Return the subset that a configuration names; None where a run is of the whole cohort.

    Args:
        config: of a run at a site; ``case`` holds case_ids, ``shards`` names or numbers of shards,
            one, several with commas between them, or a list.

    Raises:
        ConfigError: a name cannot be one.
    """
    if config.keys().isdisjoint(SUBSET_KEYS):
        return None
    cases = _named(config, "case", "pseudonyms as in cohort/cases.tsv, with commas between them")
    numbers = _named(config, "shards", "their numbers, such as 0001,0003")
    shards = []
    for number in numbers:
        digits = re.fullmatch(r"s?0*(\d{1,5})", number)
        if not digits:
            raise ConfigError(f"shards: {number!r} is no shard; name it by its number, as 0003.")
        shards.append(f"s{int(digits[1]):05d}")
    return Subset(tuple(cases), tuple(sorted(set(shards))))


def _named(config: Mapping[str, Any], key: str, form: str) -> list[str]:
    """Return the names behind a key of the configuration, each once, sorted."""
    if key not in config:
        return []
    given = config[key]
    entries = given if isinstance(given, list | tuple) else [given]
    if any(isinstance(entry, bool) or not isinstance(entry, str | int) for entry in entries):
        raise ConfigError(f"{key}: name {form}.")
    names = {name.strip() for entry in entries for name in str(entry).split(",")}
    if not names or "" in names:
        raise ConfigError(f"{key}: a name is empty; name {form}.")
    return sorted(names)


def read_members(cases: Path) -> dict[str, str]:
    """Return the shard of each case of a cohort, by ``cohort/cases.tsv``.

    A row that was cut off has no whole name, and is left out as those are that would follow it.
    Each job of a cluster reads it, of however many cases: no more of a row is kept.

    Raises:
        KeyError: a column is missing.
        OSError: the table cannot be read.
    """
    with open(cases, encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t")
        names = next(rows, [])
        if missing := {"case_id", "shard"} - set(names):
            raise KeyError(*missing)
        case, shard = names.index("case_id"), names.index("shard")
        return {
            row[case]: row[shard]
            for row in rows
            if len(row) > max(case, shard) and SHARD_NAME.fullmatch(row[shard])
        }


def part(shard: str, case: str) -> str:
    """Return the name of a part of a shard."""
    return f"{shard}-{case}"


def whole_of(name: str) -> str:
    """Return the shard that a part is of; of a shard itself."""
    return name.partition("-")[0]


@dataclass(frozen=True)
class Jobs:
    """The shards and parts of shards that a run processes.

    Attributes:
        cases: of each.
        split: shards that are processed in parts, by this run or an earlier one.
    """

    cases: dict[str, frozenset[str]]
    split: frozenset[str]

    def instances(self, cohort: Path, name: str) -> Path:
        """Return the file of the instances of a shard or part.

        Args:
            cohort: folder of the cohort.
            name: of the shard or part.
        """
        return cohort / (APART if whole_of(name) in self.split else "shards") / f"{name}.parquet"


def jobs_of(results: Path, subset: Subset | None = None) -> Jobs:
    """Return what a run processes.

    What is set apart has a file in ``cohort/apart``, which makes it a part for ever.

    Args:
        results: the protocol's results folder, in which there is a cohort.
        subset: what the run is of; None for the whole cohort.

    Raises:
        ConfigError: the cohort has no such case or shard.
    """
    members = read_members(results / "cohort" / "cases.tsv")
    wanted = set(members) if subset is None else subset.chosen(members)
    apart = {path.stem for path in (results / "cohort" / APART).glob("s*-*.parquet")}
    of_shard: dict[str, set[str]] = {}
    for case, shard in members.items():
        of_shard.setdefault(shard, set()).add(case)
    jobs: dict[str, frozenset[str]] = {}
    split = {whole_of(name) for name in apart}
    for shard in sorted({members[case] for case in wanted}):
        cases = of_shard[shard]
        parts = {case for case in cases if part(shard, case) in apart}
        some = not cases - parts <= wanted
        if some and not any((results / "shards" / shard).glob("*/provenance.json")):
            parts |= wanted & cases
            split.add(shard)
        left = cases - parts
        jobs |= {part(shard, case): frozenset([case]) for case in sorted(parts & wanted)}
        if left & wanted:
            jobs[shard] = frozenset(left)
    return Jobs(jobs, frozenset(split))


def instances_of(shard: Path, cases: Collection[str]) -> pa.Table:
    """Return the instances of some cases of a shard.

    Args:
        shard: ``cohort/shards/<shard>.parquet``.
        cases: case_ids.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    table = read_parquet(shard)
    return table.filter(pc.is_in(table["case_id"], pa.array(sorted(cases), pa.string())))


def is_current(file: Path, shard: Path, cases: Collection[str]) -> bool:
    """Return whether a file of `instances_of` is as it would be written now."""

    try:
        return bool(read_parquet(file).equals(instances_of(shard, cases)))
    except ValueError:
        return False


def subset_of(names: Iterable[str]) -> Subset:
    """Return the subset that has these `Subset.words`."""
    given = sorted(set(names))
    shards = [name for name in given if SHARD_NAME.fullmatch(name)]
    return Subset(tuple(name for name in given if name not in shards), tuple(shards))

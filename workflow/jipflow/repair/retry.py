"""What failed, to be tried again: the outcomes are removed that keep Snakemake from doing so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jipflow.files import read_parquet
from jipflow.outcomes import Status
from jipflow.provenance import NAME as RECORD
from jipflow.provenance import read_provenance
from jipflow.reasons import StageError
from jipflow.repair.counted import FOLLOWS, Row, rows_of
from jipflow.repair.standing import mapping_of, protocols_of, shard_jobs
from jipflow.settings.names import among
from jipflow.words import number_of

if TYPE_CHECKING:
    import pyarrow as pa

COHORT, FETCHES = "cohort", "retrieve"
RETRIEVED = "retrieved"
"""Folder of images from a PACS, in the results of all protocols."""

IMAGE = ("case_id", "source", "series_uid", "sop_uid", "path")
"""Columns of a shard's images."""

READS = {
    "prepare": {"arrived"},
    "segment": {"arrived", "volumes"},
    "annotate": {"arrived", "volumes", "automatic"},
    "encode": {"arrived", "masks"},
    "measure": {"volumes", "masks"},
    "overlay": {"volumes", "masks"},
    "train": {"volumes", "masks"},
}
"""What a stage reads below ``work/<shard>``, which goes when the shard is done."""


@dataclass(frozen=True)
class Choice:
    """Which outcomes are meant: all that failed, but for what is given.

    Attributes:
        stages: of these alone; empty for all.
        reasons: codes, likewise.
        cases: case_ids, likewise.
        excluded: those that the cohort left out, too.
        fetch: images of a PACS are fetched again, of all cases that are named even where nothing
            failed.
    """

    stages: Collection[str] = ()
    reasons: Collection[str] = ()
    cases: Collection[str] = ()
    excluded: bool = False
    fetch: bool = False

    def takes(self, stage: str, row: Row) -> bool:
        """Return whether an outcome is meant."""
        wanted = {Status.FAILED.value, *([Status.EXCLUDED.value] if self.excluded else [])}
        return (
            row.status in wanted
            and row.reason not in FOLLOWS
            and (not self.stages or stage in self.stages)
            and (not self.reasons or row.reason in self.reasons)
            and (not self.cases or row.case_id in self.cases)
        )


@dataclass(frozen=True)
class Again:
    """A job that is to run again.

    Attributes:
        stage: its stage.
        job: the shard; empty for the cohort, which has none.
        folder: of its outcomes.
        items: outcomes that were meant.
        others: cases that are computed again with it, with the same result.
        follows: stages of the shard that run again with it.
        images: files that are fetched again.
    """

    stage: str
    job: str
    folder: Path
    items: tuple[Row, ...]
    others: int
    follows: tuple[str, ...]
    images: tuple[Path, ...] = ()

    def sentence(self) -> str:
        """Say what is tried again."""
        job = f"{self.stage} of {self.job}" if self.job else self.stage
        reasons = Counter(row.reason or row.status for row in self.items)
        listed = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
        cases = number_of(len({row.case_id for row in self.items}), "case")
        text = f"{job}: {number_of(len(self.items), 'item')} of {cases} ({listed})"
        if self.follows:
            text += f"; runs: {', '.join(self.follows)}"
        if self.others:
            text += f"; {number_of(self.others, 'other case')} with the same result"
        if self.images:
            text += f"; {number_of(len(self.images), 'image')} of a PACS fetched again"
        return text


def find_again(protocol: Path, choice: Choice) -> list[Again]:
    """Return the jobs whose outcomes are meant.

    Args:
        protocol: the protocol's results folder.
        choice: which outcomes.

    Raises:
        StageError: a stage, reason or case is named that the results do not have.
    """
    tables: dict[tuple[str, str], tuple[Path, list[Row]]] = {}
    for job in shard_jobs(protocol).cases:
        for path in sorted((protocol / "shards" / job).glob("*/outcomes.parquet")):
            tables[path.parent.name, job] = path.parent, rows_of(path)
    left_out = rows_of(protocol / COHORT / "outcomes.parquet")
    if choice.excluded:
        tables[COHORT, ""] = protocol / COHORT, left_out
    else:
        _check_excluded(choice, left_out)
    _check_names(choice, tables)
    meant = {
        key: tuple(row for row in rows if choice.takes(key[0], row))
        for key, (_, rows) in tables.items()
    }
    found = []
    for (stage, job), items in sorted(meant.items(), key=lambda each: (each[0][1], each[0][0])):
        if items:
            folder, rows = tables[stage, job]
            others = {row.case_id for row in rows} - {row.case_id for row in items}
            follows = _runs(protocol, job, stage) if job else ()
            found.append(Again(stage, job, folder, items, len(others) if job else 0, follows))
    # By the outcomes that are removed later the same command finds again what was cut off.
    return [*_fetches(protocol, choice, found), *found] if choice.fetch else found


def _fetches(protocol: Path, choice: Choice, found: Sequence[Again]) -> Iterator[Again]:
    """Yield the jobs that fetch again the series of all cases that are meant.

    Another shard that has one of these series fetches it again, too: it counts on its files.

    Raises:
        StageError: none of them lies in a PACS, or results were moved since they were planned.
    """
    store = (protocol.parent / RETRIEVED).resolve()
    cases = {row.case_id for again in found for row in again.items} | set(choice.cases)
    tables = _fetched(protocol)
    series = {
        uid
        for table in tables.values()
        for uid in _of(table, "case_id", cases)["series_uid"].to_pylist()
    }
    if cases and not series:
        raise StageError("no image of these cases was fetched from a PACS; leave out --fetch.")
    for job, table in tables.items():
        images = _of(table, "series_uid", series).to_pylist()
        if images:
            folder = protocol / "shards" / job / FETCHES
            rows = rows_of(folder / "outcomes.parquet")
            own = {image["case_id"] for image in images}
            items = tuple(row for row in rows if row.case_id in own)
            others = {row.case_id for row in rows} - own
            files = tuple(sorted({path for image in images if (path := _planned(image, store))}))
            if not files:
                raise StageError(
                    f"the images of {job} were to come to another folder than {store}; have the "
                    "PACS asked again first (snakemake ... --forcerun query)."
                )
            yield Again(
                FETCHES, job, folder, items, len(others), _runs(protocol, job, FETCHES), files
            )


def also_in(protocol: Path, found: Sequence[Again]) -> Iterator[str]:
    """Yield a sentence for each other protocol that has images which are fetched again.

    Args:
        protocol: the protocol's results folder.
        found: jobs that run again.
    """
    series = {path.parent.name for again in found for path in again.images}
    others = [path for path in protocols_of(protocol.parent) if path.name != protocol.name]
    for other in others if series else ():
        try:
            rows = [_of(table, "series_uid", series) for table in _fetched(other).values()]
        except (ValueError, KeyError):
            yield f"protocol {other.name} may have some of these images: a table of it is damaged"
            continue
        cases = sorted({case for table in rows for case in table["case_id"].to_pylist()})
        if cases:
            words = " ".join(f"--case {case}" for case in cases)
            yield f"protocol {other.name} has some of these images, too: {words} --fetch"


def _fetched(protocol: Path) -> dict[str, pa.Table]:
    """Return the images of each job that has fetched some from a PACS."""
    site = mapping_of(protocol / "settings.json").get("site", {})
    archives = {each["name"] for each in site.get("sources", []) if each["kind"] != "folder"}
    jobs = shard_jobs(protocol)
    found = {}
    for job in sorted(jobs.cases):
        path = jobs.instances(protocol / COHORT, job)
        # What is left of a shard of which some cases were tried first has no table before its run.
        if path.is_file() and (protocol / "shards" / job / FETCHES).is_dir():
            found[job] = _of(read_parquet(path, IMAGE), "source", archives)
    return found


def _of(table: pa.Table, column: str, values: Collection[str]) -> pa.Table:
    """Return the rows of a table that have one of some values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return table.filter(pc.is_in(table[column], pa.array(sorted(values), pa.string())))


def _planned(image: Mapping[str, str], store: Path) -> Path | None:
    """Return the file of an image from a PACS; None where it lies elsewhere than these do."""
    path = Path(image["path"])
    own = store / image["source"] / image["series_uid"] / f"{image['sop_uid']}.dcm"
    return path if path == own and ".." not in path.parts else None


def _check_excluded(choice: Choice, left_out: Sequence[Row]) -> None:
    """Refuse names that are of cases which the cohort left out, where these are not meant."""
    of_them = [row for row in left_out if row.status == Status.EXCLUDED]
    known = {name for row in of_them for name in (row.case_id, row.reason)} | {COHORT}
    for name in (*choice.stages, *choice.reasons, *choice.cases):
        if name in known:
            raise StageError(
                f"{name!r} is of cases that the cohort left out; add --excluded to choose the "
                "cohort again, and --forcerun catalog to the next run where files have changed."
            )


def _check_names(choice: Choice, tables: dict[tuple[str, str], tuple[Path, list[Row]]]) -> None:
    """Refuse names that stand in no outcome, with those that are like them."""
    rows = [row for _, listed in tables.values() for row in listed]
    failed = {row.reason for row in rows if row.reason} - FOLLOWS
    for word, given, known in (
        ("stage", choice.stages, {stage for stage, _ in tables}),
        ("reason", choice.reasons, failed),
        ("case", choice.cases, {row.case_id for row in rows}),
    ):
        for name in given:
            if name not in known:
                raise StageError(f"no outcome has the {word} {name!r}{among(name, sorted(known))}")


def _runs(protocol: Path, job: str, stage: str) -> tuple[str, ...]:
    """Return the stages of a shard that run when the outcomes of one are not there.

    They are those whose records lead back to it, and those that make again what these need.
    """
    shard, work = protocol / "shards" / job, protocol / "work" / job
    made = {path.parent.name: read_provenance(path) for path in shard.glob(f"*/{RECORD}")}
    inputs = {
        name: {Path(text).parent.name for text in record.inputs if text.endswith(RECORD)}
        for name, record in made.items()
        if record is not None
    }
    masks = "annotate" if "annotate" in made else "segment"
    makers = {"arrived": "retrieve", "volumes": "prepare", "automatic": "segment", "masks": masks}
    again = {stage}
    while True:
        more = {name for name, read in inputs.items() if read & again}
        more |= {
            makers[name]
            for each in again
            for name in READS.get(each, set())
            if makers[name] in made and not (work / name).exists()
        }
        if more <= again:
            return tuple(name for name in _in_order(again))
        again |= more


def _in_order(stages: Collection[str]) -> Sequence[str]:
    from jipflow.outcomes import STAGES

    place = {name: number for number, name in enumerate(STAGES)}
    return sorted(stages, key=lambda name: (place.get(name, len(place)), name))


def remove(jobs: Sequence[Again]) -> Iterator[Path]:
    """Remove the outcomes of jobs and what says what they were computed with; yield each file.

    Of these the record goes first: without it Snakemake runs the job again, whatever else is there.
    Images go before it: one that were there would not be fetched.
    """
    for job in jobs:
        for path in job.images:
            if path.is_file():
                path.unlink()
                yield path
        for name in (RECORD, "outcomes.parquet"):
            path = job.folder / name
            if path.is_file():
                path.unlink()
                yield path

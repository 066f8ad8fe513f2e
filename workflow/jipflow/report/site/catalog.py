"""What was found in the folders of the site, and what its PACS was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jipflow.files import read_json
from jipflow.report.site.run import Run, optional_frame

MAX_SKIPPED_ROWS = 200

Redact = Callable[[str], str]


@dataclass(frozen=True)
class Skipped:
    """A file that could not be read, by its row in ``skipped.parquet`` instead of its path."""

    row: int
    suffix: str
    reason: str


@dataclass(frozen=True)
class Query:
    """What a PACS was asked, and how many series it answered with."""

    source: str
    asked: str
    series: int


@dataclass(frozen=True)
class Source:
    """A folder of the site: how many files it has, and how many of them are DICOM."""

    name: str
    files: int
    dicom_files: int


@dataclass(frozen=True)
class Catalog:
    """What the section shows.

    Attributes:
        summary: content of ``summary.json``; None where it is not there.
        sources: the folders of the site.
        unreadable: files that were not read; those that are shown.
        queries: to each PACS.
    """

    summary: dict[str, Any] | None
    sources: list[Source]
    unreadable: list[Skipped]
    queries: list[Query]

    @property
    def readable(self) -> int:
        """How many DICOM files could be read."""
        return self.summary["dicom_files"] - self.summary["unreadable"] if self.summary else 0

    @property
    def without_dicom(self) -> list[Source]:
        """The folders, where none of them holds a DICOM file and no PACS was asked."""
        if self.queries or any(source.dicom_files for source in self.sources):
            return []
        return self.sources


def section(run: Run) -> Catalog:
    """Read the catalog's counts, the files that were not read, and the queries."""
    folder, queries = run.results.parent / "catalog", run.results / "pacs" / "queries.json"
    there = (folder / "summary.json").is_file()
    summary = read_json(folder / "summary.json") if there else None
    by_source = summary["sources"] if summary else {}
    return Catalog(
        summary=summary,
        sources=[Source(name, **found) for name, found in by_source.items()],
        unreadable=list(_unreadable(folder, run.redact))[:MAX_SKIPPED_ROWS] if there else [],
        queries=list(_queries(queries, run.redact)),
    )


def _unreadable(folder: Path, redact: Redact) -> Iterator[Skipped]:
    skipped = optional_frame(folder / "skipped.parquet")
    for row, entry in enumerate([] if skipped is None else skipped.to_dict("records")):
        if entry["kind"] == "unreadable":
            suffix = Path(entry["path"]).suffix[:8] or "none"
            yield Skipped(row, suffix, redact(entry["reason"]))


def _queries(path: Path, redact: Redact) -> Iterator[Query]:
    sources: Mapping[str, Any] = read_json(path)["sources"] if path.is_file() else {}
    for source, asked in sources.items():
        for query in asked["queries"]:
            keys = ", ".join(f"{name} = {value}" for name, value in sorted(query["keys"].items()))
            yield Query(source, redact(keys) or "everything", query["series"])
        if "annotations" in asked:
            kinds = " or ".join(asked["annotations"]["keys"]["Modality"])
            text = f"{kinds} of the patients of the cohort"
            yield Query(source, text, asked["annotations"]["series"])

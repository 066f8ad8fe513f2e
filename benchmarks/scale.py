"""What a run of many cases costs before and beside its work: the plan, a rerun, and growth.

Catalog, cohort and results are fabricated: the files that a run leaves, with records that hold and
without an image. So what Snakemake and the rules of jipflow look at is what they look at in a run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from jipflow.catalog.assignment import assigned, usual_size
from jipflow.catalog.cohort import SHARD_SCHEMA
from jipflow.files import write_json
from jipflow.outcomes import Outcome, write_outcomes
from jipflow.provenance import NAME, Making
from jipflow.settings.run import Settings, load_settings, settings_text
from report import ROOT, Cell, measure, write_result

SIZES = (1_000, 10_000, 100_000)

MADE_OF = {
    "prepare": (),
    "segment": ("prepare",),
    "encode": ("prepare", "segment"),
    "measure": ("prepare", "segment"),
    "document": ("segment", "encode", "measure"),
    "overlay": ("segment",),
}
"""By stage: the stages of the shard whose records its own names."""

TABLES = {
    "segment": ("quality",),
    "measure": ("features", "failures", "perturbed"),
}
"""By stage: its tables beside the outcomes."""

OBJECTS = {
    "encode": "seg/{}/gtv.dcm",
    "document": "sr/{}/gtv.dcm",
    "overlay": "overlays/{}/gtv.png",
}
"""By stage: the file that its outcome lists for a case."""

CATALOG = ("series", "instances", "skipped", "lost")

JOINED = ("features", "failures", "stability", "quality")


class Fabricated:
    """A site whose results are made up.

    Args:
        folder: for all its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "dicom").mkdir(parents=True)
        self.results = folder / "results"
        self.out = self.results / "scale"
        protocol = folder / "scale.yaml"
        protocol.write_text(yaml.safe_dump(_protocol()))
        secrets = folder / "secrets"
        content = {
            "site": {"id": "scale", "name": "Scale"},
            "sources": [{"name": "archive", "kind": "folder", "path": str(folder / "dicom")}],
            "identity": {
                "secret_file": str(secrets / "identity.key"),
                "signing_key_file": str(secrets / "site.key"),
                "ledger_folder": str(secrets / "ledger"),
                "audit_file": str(secrets / "audit.jsonl"),
            },
        }
        self.config = folder / "site.yaml"
        self.config.write_text(yaml.safe_dump(content))
        self.settings: Settings = load_settings(
            content | {"protocol": str(protocol), "results": str(self.results)}
        )

    def snakemake(self, *words: str) -> list[str]:
        """Return the command of a run."""
        return [
            *(sys.executable, "-m", "snakemake", *words, "--cores", "2"),
            *("--snakefile", str(ROOT / "Snakefile"), "--directory", str(self.folder)),
            *("--workflow-profile", str(ROOT / "profiles" / "default")),
            *("--configfile", str(self.config), "--config"),
            *(f"protocol={self.folder / 'scale.yaml'}", f"results={self.results}"),
        ]

    def shards(self, cases: int) -> dict[str, list[str]]:
        """Return the cases of each shard of a cohort of so many."""
        names = [f"{number:016d}".translate(DIGITS) for number in range(cases)]
        shards: dict[str, list[str]] = {}
        # Beside a cohort it would say that pseudonyms were made, and so that there is a secret.
        found = assigned(self.folder / "cohort" / "assignment.tsv", names, usual_size(cases))
        for case, shard in found.items():
            shards.setdefault(shard, []).append(case)
        return shards

    def choose(self, cases: int) -> None:
        """Make a catalog, and a cohort of so many cases."""
        shards = self.shards(cases)
        catalog, cohort = self.results / "catalog", self.out / "cohort"
        for name in CATALOG:
            _table(catalog / f"{name}.parquet", cases)
        write_json(catalog / "summary.json", {})
        self.record("catalog", catalog, [], [], "")
        lines = ["case_id\tshard\trole"]
        for shard, members in shards.items():
            lines += [f"{case}\t{shard}\tPT" for case in members]
            if not (cohort / "shards" / f"{shard}.parquet").exists():
                rows = [
                    {"case_id": case, "shard": shard, "role": "PT", "bytes": 1, "modified_ns": 1}
                    for case in members
                ]
                (cohort / "shards").mkdir(parents=True, exist_ok=True)
                table = pa.Table.from_pylist(rows, schema=SHARD_SCHEMA)
                pq.write_table(table, cohort / "shards" / f"{shard}.parquet")
        (cohort / "cases.tsv").write_text("\n".join(lines) + "\n")
        write_json(cohort / "flow.json", {})
        chosen = [Outcome(case, "cohort") for members in shards.values() for case in members]
        write_outcomes(cohort / "outcomes.parquet", chosen)
        self.record("cohort", cohort, [catalog / NAME], [cohort / "cases.tsv"], "")

    def process(self, cases: int) -> None:
        """Make what all shards of a cohort leave, and what is joined of them."""
        records = [self.out / "cohort" / NAME]
        tables = []
        for shard, members in self.shards(cases).items():
            for stage in MADE_OF:
                place = self.out / "shards" / shard / stage
                records.append(place / NAME)
                tables.append(place / "outcomes.parquet")
                if not (place / NAME).exists():
                    self.stage(shard, stage, members)
        joined = self.out / "features"
        write_outcomes(self.out / "outcomes.parquet", [])
        for name in JOINED:
            _table(joined / f"{name}.parquet", 1)
        write_json(self.out / "verdict.json", {})
        self.record("collect", joined, records, [], "")
        (self.out / "report").mkdir(exist_ok=True)
        (self.out / "report" / "index.html").write_text("report")
        self.record("report", self.out / "report", [joined / NAME], [], "")
        (self.out / "crate").mkdir(exist_ok=True)
        (self.out / "crate" / "run.zip").write_text("crate")
        made_of = [joined / NAME, self.out / "report" / NAME]
        self.record("crate", self.out / "crate", made_of, [self.out / "crate" / "run.zip"], "")
        making = Making("accept", self.settings.parts("accept"), [self.out / "verdict.json"])
        making.finish(self.out / "accepted", [])
        (self.out / "settings.json").write_text(settings_text(self.settings))

    def stage(self, shard: str, stage: str, members: Sequence[str]) -> None:
        """Make what a stage of a shard leaves."""
        place = self.out / "shards" / shard / stage
        outcomes: list[Outcome] = []
        objects: list[Path] = []
        for case in members:
            outcome = Outcome(case, stage, "gtv", seconds=1.0)
            if stage in OBJECTS:
                outcome.outputs = [OBJECTS[stage].format(case)]
                path = self.out / outcome.outputs[0]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                objects.append(path)
                outcome.sha256 = ["0" * 64]
            outcomes.append(outcome)
        write_outcomes(place / "outcomes.parquet", outcomes)
        for name in TABLES.get(stage, ()):
            _table(place / f"{name}.parquet", len(members))
        before = [place.parent / name / NAME for name in MADE_OF[stage]]
        cases = self.out / "cohort" / "shards" / f"{shard}.parquet"
        tables = sorted(place.glob("*.parquet"))
        self.record(stage, place, [cases, *before], tables, "", objects)

    def record(
        self,
        stage: str,
        place: Path,
        inputs: list[Path],
        outputs: list[Path],
        state: str,
        others: Sequence[Path] = (),
    ) -> None:
        """Write the record of a job."""
        making = Making(stage, self.settings.parts(stage), inputs, state)
        making.finish(place / NAME, outputs, others)


PT = "Modality = 'PT'"

DIGITS = str.maketrans("0123456789", "abcdefghij")


def _protocol() -> dict[str, object]:
    return {
        "protocol": {"id": "scale", "version": "1.0.0", "title": "Scale"},
        "cohort": {"where": PT, "case": {"by": "study", "roles": {"PT": {"where": PT}}}},
        "segmentations": [
            {
                "id": "gtv",
                "engine": "imported",
                "from": "RTSTRUCT",
                "role": "PT",
                "segments": [{"name": "gtv", "match": "GTV.*", "term": "gross-tumour-volume"}],
            }
        ],
        "radiomics": [{"segmentation": "gtv", "role": "PT", "settings": "ibsi_pet"}],
    }


def _table(path: Path, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"row": list(range(rows))}), path)


def sizes_of(words: Sequence[str] | None = None) -> list[int]:
    """Return the numbers of cases that were typed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    return sorted(parser.parse_args(words).sizes)


def rows(cases: int, folder: Path) -> Iterator[list[Cell]]:
    """Yield what a cohort of so many cases costs.

    Args:
        cases: that the cohort has at first.
        folder: for the files.
    """
    site = Fabricated(folder)
    site.choose(cases)
    yield row(site, cases, "plan, nothing computed", "--dry-run", "--quiet")
    site.process(cases)
    yield row(site, cases, "rerun, nothing to do", "--dry-run", "--quiet")
    site.choose(cases + cases // 10)
    yield row(site, cases, "plan of 10 % more", "--dry-run", "--quiet")
    status = [sys.executable, "-m", "jipflow", "status", "--results", str(site.results)]
    yield [cases, len(site.shards(cases)), "jipflow status", *costs(status)]


def row(site: Fabricated, cases: int, what: str, *words: str) -> list[Cell]:
    """Return the row of a run of Snakemake."""
    return [cases, len(site.shards(cases)), what, *costs(site.snakemake(*words))]


def costs(command: Sequence[str]) -> list[Cell]:
    """Return the processor seconds and the memory of a command."""
    cost = measure(command)
    return [cost.processor_seconds, cost.peak_mb]


def main() -> None:
    os.umask(0o077)
    found: list[list[Cell]] = []
    for cases in sizes_of():
        with tempfile.TemporaryDirectory() as name:
            found += rows(cases, Path(name) / "site")
    write_result(
        "scale",
        "A run of many cases, before its work",
        ["cases", "shards", "what", "CPU s", "peak MiB"],
        found,
        packages=["snakemake", "pyarrow"],
        notes=[
            "A dry run (`--dry-run --quiet`) of all that a site makes, on one core: processor time "
            "and memory with start (some 3.5 s and 240 MiB) and settings.",
            "Catalog, cohort and results are fabricated, with records that hold and the files that "
            "outcomes list, in shards of the usual size with six stages; no image is read. As "
            "where a clone takes results up, Snakemake remembers none of them.",
        ],
    )


if __name__ == "__main__":
    main()

"""The results of a protocol in shards, made by hand, for the tests of what looks after runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jipflow.files import sha256_file, write_json
from jipflow.outcomes import Outcome, Status, write_outcomes

STAGES = ("prepare", "segment", "encode", "measure", "document", "overlay")

BEFORE = {
    "prepare": (),
    "segment": ("prepare",),
    "encode": ("segment",),
    "measure": ("segment",),
    "document": ("encode", "measure"),
    "overlay": ("segment",),
}

SETTINGS = {
    "site": {"sources": [{"kind": "folder", "path": "/data/dicom"}], "publish": None},
    "protocol": {"segmentations": [{"id": "gtv", "engine": "imported"}]},
}


def write_cohort(
    folder: Path, shards: Mapping[str, Sequence[str]], excluded: Sequence[str] = ()
) -> None:
    """Write settings and cohort."""
    write_json(folder / "settings.json", SETTINGS)
    lines = ["case_id\tshard\trole"]
    lines += [f"{case}\t{shard}\tCT" for shard, cases in shards.items() for case in cases]
    (folder / "cohort").mkdir(exist_ok=True)
    (folder / "cohort" / "cases.tsv").write_text("\n".join(lines) + "\n")
    chosen = [Outcome(case, "cohort") for cases in shards.values() for case in cases]
    left = [Outcome(case, "cohort", "", Status.EXCLUDED, "missing_role") for case in excluded]
    write_outcomes(folder / "cohort" / "outcomes.parquet", [*chosen, *left])
    write_record(folder / "cohort" / "provenance.json", "cohort", [], ["cases.tsv"])


def write_record(
    path: Path, stage: str, inputs: Sequence[str], outputs: Sequence[str] = ()
) -> None:
    content: dict[str, Any] = {"stage": stage, "version": "1", "settings": {}}
    content |= {"libraries": {}, "state": "", "inputs": dict.fromkeys(inputs, "0" * 64)}
    content["outputs"] = {name: sha256_file(path.parent / name) for name in outputs}
    content["sizes"] = {name: (path.parent / name).stat().st_size for name in outputs}
    write_json(path, content)


def write_stage(folder: Path, shard: str, stage: str, outcomes: Sequence[Outcome]) -> None:
    """Let a stage of a shard have ended."""
    place = folder / "shards" / shard / stage
    write_outcomes(place / "outcomes.parquet", outcomes)
    inputs = [f"../{name}/provenance.json" for name in BEFORE.get(stage, ())]
    write_record(place / "provenance.json", stage, inputs)
    log = folder / "logs" / stage / f"{shard}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("done\n")


def write_shard(
    folder: Path, shard: str, cases: Sequence[str], failed: Mapping[str, tuple[str, str]]
) -> None:
    """Let all stages of a shard have ended; `failed` has stage and reason of cases that failed."""
    for number, stage in enumerate(STAGES):
        rows = []
        for case in cases:
            where, reason = failed.get(case, ("", ""))
            if where == stage:
                rows.append(Outcome(case, stage, "gtv", Status.FAILED, reason))
            elif where and number > STAGES.index(where):
                rows.append(Outcome(case, stage, "gtv", Status.FAILED, "depends_on_failed"))
            else:
                rows.append(Outcome(case, stage, "gtv"))
        write_stage(folder, shard, stage, rows)

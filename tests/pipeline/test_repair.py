"""A real run as `jipflow status`, `retry` and `clean` see it, and what Snakemake does then."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from harness import JOINED, ONE_CORE, as_it_was, jipflow, planned, settle
from jipflow.files import sha256_file
from jipflow.outcomes import STAGES, Status, read_outcomes, write_outcomes
from jipflow.provenance import beside


@pytest.fixture(scope="module")
def site(contours_run, tmp_path_factory):
    """A copy of the finished run of two shards with a case each."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(contours_run.results, folder / "results")
    return replace(contours_run, results=folder / "results")


def standing(site):
    printed = jipflow("status", "--results", str(site.results), "--json").stdout
    return json.loads(printed)["protocols"]["contours"]


def test_what_failed_runs_again_and_gives_what_a_run_without_a_failure_gives(site, contours_run):
    before = standing(site)
    assert (before["cases"], before["ok"], before["failed"], before["open"]) == (2, 2, 0, 0)
    assert (before["shards_done"], before["release"]["state"]) == (2, "candidate")
    # As where the cause was in nothing that jipflow watches.
    path, other = sorted(site.out.glob("shards/*/segment/outcomes.parquet"))
    (outcome,) = read_outcomes(path)
    failed = replace(outcome, status=Status.FAILED, reason="no_contours", message="none")
    with as_it_was(path):
        write_outcomes(path, [failed])
    found = {"sizes": {path.name: path.stat().st_size}, "outputs": {path.name: sha256_file(path)}}
    settle(site, beside(path), found)
    untouched = {p: p.stat().st_mtime_ns for p in other.parents[1].rglob("*")}
    assert planned(site) == {}
    assert (standing(site)["failed"], standing(site)["ok"]) == (1, 1)

    shown = jipflow("retry", "--results", str(site.results), "--reason", "no_contours").stdout
    first, rest = shown.splitlines()
    shard = path.parents[1].name
    assert first.startswith(f"segment of {shard}: 1 item of 1 case (no_contours 1); runs: ")
    runs = first.partition("runs: ")[2].split(", ")
    assert rest.startswith("nothing was removed")
    assert planned(site) == {}

    jipflow("retry", "--results", str(site.results), "--apply")
    assert (standing(site)["failed"], standing(site)["open"]) == (0, 1)
    assert planned(site) == {**dict.fromkeys(runs, 1), **JOINED}
    # Its log has the ends of jobs all the same.
    assert "Finished jobid" not in site.run(*ONE_CORE, "--quiet").stdout
    assert standing(site)["ok"] == 2
    assert {p: p.stat().st_mtime_ns for p in untouched} == untouched
    timings = ["seconds", "max_rss_mb"]
    pd.testing.assert_frame_equal(
        site.table("outcomes.parquet").drop(columns=timings),
        contours_run.table("outcomes.parquet").drop(columns=timings),
    )
    names = [
        str(p.relative_to(contours_run.out))
        for folder in ("seg", "sr", "overlays", "features")
        for p in (contours_run.out / folder).rglob("*.*")
        if p.name not in ("provenance.json", "cost.tsv")
    ]
    assert len(names) > 8
    for name in names:
        assert sha256_file(site.out / name) == sha256_file(contours_run.out / name), name


def test_a_run_logs_its_jobs_and_tells_its_counts_to_the_command_of_the_site(site):
    lines = [json.loads(line) for line in (site.out / "logs" / "run.jsonl").open()]
    first, last = sorted({line["run"] for line in lines}, key=[e["run"] for e in lines].index)
    made = [line for line in lines if line["run"] == first]
    assert made[0]["event"] == "run_started"
    assert made[-1].items() >= {"event": "run_ended", "jobs_failed": 0}.items()
    ended = [(line["rule"], line.get("shard")) for line in made if line["event"] == "job_ended"]
    assert {("segment", "s00001"), ("segment", "s00002"), ("collect", None)} <= set(ended)
    assert len(ended) == made[-1]["jobs_ended"]
    again = [line for line in lines if line["run"] == last and line["event"] == "job_ended"]
    assert {line.get("shard") for line in again if line["rule"] in STAGES} == {"s00001"}
    text = (site.out / "logs" / "run.jsonl").read_text()
    cases = pd.read_csv(site.out / "cohort" / "cases.tsv", sep="\t")["case_id"]
    assert not any(name in text for name in (*cases, str(site.results)))
    given = json.loads((site.folder / "given.json").read_text())
    assert given.items() >= {"state": "ended", "site": "site", "ok": 2, "failed": 0}.items()
    assert not any(name in json.dumps(given) for name in (*cases, str(site.results)))


def test_after_a_cleaning_nothing_is_computed_again(site):
    for name in ("work/s00001/volumes/a.nrrd", "shards/s00007/prepare/outcomes.parquet"):
        (site.out / name).parent.mkdir(parents=True, exist_ok=True)
        (site.out / name).touch()
    before = {p: sha256_file(p) for p in site.results.rglob("*") if p.is_file()}
    printed = jipflow("clean", "--results", str(site.results), "--apply").stdout
    assert "shards: shards of cases" in printed
    gone = {path for path in before if not path.exists()}
    assert {str(path.relative_to(site.out).parent.parent) for path in gone} == {
        "work/s00001",
        "shards/s00007",
    }
    kept = {path for path in before.keys() - gone if path.name not in (".lock", ".jobs")}
    assert {path: sha256_file(path) for path in kept} == {path: before[path] for path in kept}
    assert planned(site) == {}

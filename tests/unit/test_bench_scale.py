"""The fabricated results of benchmarks/scale.py are what a run leaves, and what growth computes."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake.persistence import RECORD_FORMAT_VERSION

import snakemake_copies
from jipflow.files import read_json

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import report
from scale import MADE_OF, Fabricated


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Fabricated(tmp_path_factory.mktemp("scale") / "site")
    made.choose(100)
    made.process(100)
    for path in made.folder.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    return made


def planned(site, *words):
    typed = site.snakemake(*(words or ["--dry-run"]))[len([sys.executable, "-m", "snakemake"]) :]
    command = [str(snakemake_copies.program()), *typed]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    return printed.stdout + printed.stderr


def jobs(output):
    """How many jobs a dry run would do by rule, of those that shards have."""
    found = dict(re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE))
    return {rule: int(found[rule]) for rule in MADE_OF if rule in found}


def test_where_nothing_has_changed_nothing_is_to_be_done(site):
    output = planned(site)
    assert "Nothing to be done" in output
    assert "2 of 2 shards are finished: no job of them is planned." in output


def test_a_rule_that_is_named_runs_for_finished_shards(site):
    output = planned(site, "--dry-run", "--forcerun", "overlay")
    assert "are finished" not in output
    assert jobs(output) == dict.fromkeys(MADE_OF, 2)


def test_what_lists_the_files_of_jobs_lists_those_of_finished_shards(site):
    assert "s00002/measure/features.parquet" in planned(site, "--summary")


def test_a_shard_that_another_command_has_made_is_made_again(site):
    """Snakemake remembers it, and jipflow's version is the same."""
    made = {"rule": "overlay", "code": "another", "record_format_version": RECORD_FORMAT_VERSION}
    folder = site.folder / ".snakemake" / "metadata"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("outcomes.parquet", "provenance.json"):
        path = site.out / "shards" / "s00001" / "overlay" / name
        key = base64.urlsafe_b64encode(str(path).encode()).decode()
        (folder / key).write_text(json.dumps(made))
    output = planned(site)
    shutil.rmtree(folder)
    assert "1 of 2 shards are finished: no job of them is planned." in output
    assert jobs(output) == dict.fromkeys(MADE_OF, 1)


def test_a_table_that_is_gone_is_made_again(site):
    table = site.out / "shards" / "s00002" / "measure" / "failures.parquet"
    content, written = table.read_bytes(), table.stat()
    table.unlink()
    output = planned(site)
    table.write_bytes(content)
    os.utime(table, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert "1 of 2 shards are finished: no job of them is planned." in output
    assert "measure runs again: its file failures.parquet is gone." in output
    assert jobs(output) == dict.fromkeys(MADE_OF, 1)


def test_a_cohort_that_grows_has_its_new_shards_computed_alone(site):
    site.choose(130)
    for path in site.results.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    output = planned(site)
    assert set(re.findall(r"wildcards: shard=(\w+)", output)) == {"s00003"}
    assert re.search(r"^collect +1$", output, re.MULTILINE)


def test_the_page_about_many_cases_has_what_was_measured():
    rows = read_json(report.RESULTS / "scale.json")["rows"]
    seconds = {(cases, what): cpu for cases, _, what, cpu, _ in rows}
    memory = {(cases, what): peak for cases, _, what, _, peak in rows}
    shards = {cases: number for cases, number, *_ in rows}[100_000]
    jobs = 6 * shards
    start, rerun, plan = 1_000, "rerun, nothing to do", "plan, nothing computed"
    page = (report.DOCS / "scale.md").read_text(encoding="utf-8")
    job = (seconds[100_000, plan] - seconds[start, rerun]) / jobs * 1000
    kib = (memory[100_000, plan] - memory[start, rerun]) * 1024 / jobs
    shard = (seconds[100_000, rerun] - seconds[start, rerun]) / shards * 1000
    assert f"settings | {seconds[start, rerun]:.1f} s, " in page
    assert f"| a job is planned | {job:.1f} ms, {kib:.0f} KiB | {jobs * job / 1000:.0f} s, " in page
    assert f"a cohort of 100,000 cases: {jobs:,} jobs |" in page
    assert f"is planned in {seconds[100_000, plan]:.0f} s and {memory[100_000, plan]:.0f} M" in page
    assert f"without its jobs | {shard:.1f} ms | {shards * shard / 1000:.1f} s |" in page
    assert f"finds in {-(-seconds[100_000, rerun] // 1):.0f} s that nothing" in page
    assert f"planned in {seconds[100_000, 'plan of 10 % more']:.0f} s." in page


def test_the_pages_of_benchmarks_are_those_of_their_results(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "DOCS", tmp_path)
    report.write_pages()
    for page in report.PAGES:
        written = (tmp_path / f"{page}.md").read_bytes()
        assert written == (report.ROOT / "docs" / f"{page}.md").read_bytes()

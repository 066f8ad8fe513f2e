"""Results that other settings made are made again, whatever Snakemake remembers of them.

Most is asked of dry runs of copies of one finished run: what would run is decided before a job.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

import snakemake_copies
from harness import (
    ANEW,
    ONE_CORE,
    ROOT,
    Site,
    approve_and_send,
    contours_only,
    environment,
    open_round,
    planned,
    planned_jobs,
    snakemake,
)

WHOLE = dict.fromkeys(("prepare", "segment", "encode", "measure", "document", "overlay"), 2)
"""Jobs of two shards."""


@pytest.fixture
def site(contours_run: Site, tmp_path: Path) -> Site:
    """A copy of the finished run, which Snakemake knows nothing of."""
    shutil.copytree(contours_run.results, tmp_path / "results")
    protocol = tmp_path / "contours.yaml"
    shutil.copyfile(contours_run.protocol_file, protocol)
    return replace(contours_run, results=tmp_path / "results", protocol_file=protocol)


def change(site: Site, **keys) -> None:
    """Change keys of the protocol."""
    protocol = yaml.safe_load(site.protocol_file.read_text())
    site.protocol_file.write_text(yaml.safe_dump(protocol | keys))


def other_radiomics() -> list[dict[str, str]]:
    (entry,) = contours_only()["radiomics"]
    return [{**entry, "settings": "summary"}]


def release_of(site: Site) -> dict:
    return json.loads((site.out / "release" / "r01" / "aggregates.json").read_text())


def jipflow(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jipflow", *map(str, words)]
    given = os.environ | snakemake_copies.commands()
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)


def test_a_copy_is_up_to_date_from_any_folder_under_any_name(site, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(site.results)
    assert planned(site) == {}
    for name in (link, f"{tmp_path}/./results", os.path.relpath(site.results, ROOT)):
        assert planned(replace(site, results=name)) == {}
    folder = tmp_path / "another clone"
    folder.mkdir()
    assert "Nothing to be done" in from_folder(folder, site)
    change(site, radiomics=other_radiomics())
    for name in (site.results, ".", "./"):
        assert "measure runs again" in from_folder(site.results, replace(site, results=name))


def from_folder(folder: Path, site: Site) -> str:
    """What a dry run prints that is started in another folder than the clone."""
    result = subprocess.run(
        [
            *(str(snakemake_copies.program()), "--dry-run", "--cores", "1"),
            *("--snakefile", str(ROOT / "Snakefile"), *site.arguments),
        ],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout + result.stderr


def test_what_depends_on_a_change_runs_again_and_nothing_else(site):
    change(site, radiomics=other_radiomics())
    jobs, output = planned_jobs(site)
    assert jobs == {**WHOLE, **ANEW, "settings": 1}
    assert "measure runs again: it was computed with other settings (radiomics)." in output
    assert "segment runs again" not in output
    change(site, radiomics=contours_only()["radiomics"], tolerance={"max_failed_fraction": 0.25})
    assert planned(site) == {**ANEW, "settings": 1}
    change(site, tolerance=contours_only()["tolerance"])
    assert planned(site) == {}


def test_a_file_as_the_target_is_no_way_round_it(site):
    change(site, radiomics=other_radiomics())
    target = str(site.out / "features" / "features.parquet")
    assert planned(site, target) == {**WHOLE, "collect": 1}
    target = str(site.out / "shards" / "s00001" / "measure" / "features.parquet")
    assert planned(site, target).keys() == {"prepare", "segment", "measure"}


def test_neither_touching_nor_other_triggers_hide_a_change(site):
    change(site, radiomics=other_radiomics())
    site.run("--touch", *ONE_CORE)
    assert planned(site, "--rerun-triggers", "mtime")["measure"] == 2


def test_a_record_that_is_gone_has_its_job_run_again(site):
    (site.out / "shards" / "s00001" / "overlay" / "provenance.json").unlink()
    assert planned(site)["overlay"] == 1


def test_what_a_power_cut_left_is_made_again(site):
    for name in ("cohort/cases.tsv", "shards/s00001/prepare/outcomes.parquet", "settings.json"):
        (site.out / name).write_bytes(b"")
    jobs, output = planned_jobs(site)
    assert jobs.keys() >= {"cohort", "settings"}
    assert "cohort runs again: its file cases.tsv was cut off or changed." in output
    assert "settings runs again" in output
    assert "Traceback" not in output


def test_results_that_cannot_be_looked_at_are_named_in_a_line(site):
    """A folder in a file's place is an error of the system's for root, too."""
    record = site.out / "shards" / "s00001" / "measure" / "provenance.json"
    record.unlink()
    record.mkdir()
    result = site.run("--dry-run", check=False)
    assert result.returncode == 1
    assert f"{record}: Is a directory; see whether" in result.stdout
    assert "Traceback" not in result.stdout
    assert "smk" not in result.stdout


def test_a_release_of_what_is_out_of_date_is_refused(site):
    before = release_of(site)
    change(site, radiomics=other_radiomics())
    result = site.run(
        "--allowed-rules", "candidate", "--forcerun", "candidate", *ONE_CORE, check=False
    )
    assert result.returncode != 0
    assert (
        "measure is out of date: it was computed with other settings (radiomics); run"
        in (site.out / "logs" / "candidate" / "r01.log").read_text()
    )
    assert not (site.out / "release" / "r01" / "aggregates.json").exists()
    assert before["analyses"]


def test_commands_that_are_called_by_hand_refuse_what_is_out_of_date(site):
    change(site, radiomics=other_radiomics())
    site.run("settings")
    settings = ("--settings", site.out / "settings.json")
    record = ("--record", site.results / "made.json")
    features, release = site.out / "features" / "features.parquet", site.out / "release"
    written = [("--outcomes", "outcomes.parquet"), ("--verdict", "verdict.json")]
    written += [("--cases", "cohort/cases.tsv"), ("--failures", "features/failures.parquet")]
    joined = [word for flag, name in written for word in (flag, site.out / name)]
    made = release / "r01.provenance.json"
    state = ("--state", site.out / "rounds" / "r01" / "state.json")
    standing = ("--standing", site.out / "rounds" / "standing.json")
    out = ("--out", site.results / "out")
    bundles = ("--bundles", site.out / "bundles")
    behind = ("--behind", site.out / "behind", "--results", site.out)
    for command in (
        ("collect", "--results", site.out),
        ("release", "build", "--features", features, *joined, *state, *out, *bundles, *behind),
        ("release", "bundle", *standing, "--made", made, "--results", site.out),
    ):
        result = jipflow(*command, *settings, *record)
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert "is out of date: it was computed with other settings" in result.stderr


def test_a_table_that_was_changed_at_its_length_is_refused(site):
    """One of another length is made again."""
    path = site.out / "shards" / "s00001" / "measure" / "features.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = site.run("--forcerun", "collect", "--keep-incomplete", *ONE_CORE, check=False)
    assert result.returncode != 0
    log = (site.out / "logs" / "collect.log").read_text()
    assert f"{path} is not what measure wrote there; remove" in log


def test_a_secret_that_is_lost_or_another_stops_the_run(site, tmp_path):
    content = yaml.safe_load(site.configfile.read_text())
    path = tmp_path / "identity.key"
    content["identity"]["secret_file"] = str(path)
    (tmp_path / f"{site.name}.yaml").write_text(yaml.safe_dump(content))
    elsewhere = replace(site, folder=tmp_path)
    for _ in range(2):
        result = elsewhere.run("--dry-run", check=False)
        assert result.returncode != 0
        assert "name new results" in result.stdout
        assert "Traceback" not in result.stdout
        path.write_text("ab" * 32)
        path.chmod(0o600)


def test_a_change_half_way_and_back_gives_the_numbers_of_the_first_run(site):
    """The run of the change ended early, and the results were copied without the times of files."""
    first = site.table("features/features.parquet")
    change(site, radiomics=other_radiomics())
    target = site.out / "shards" / "s00001" / "measure" / "features.parquet"
    site.run(str(target), *ONE_CORE)
    assert len(pd.read_parquet(target).columns) != len(first.columns)
    for number, path in enumerate(sorted(site.results.rglob("*"), reverse=True)):
        os.utime(path, (1.7e9 + number, 1.7e9 + number))
    change(site, radiomics=contours_only()["radiomics"])
    site.run(*ONE_CORE)
    pd.testing.assert_frame_equal(site.table("features/features.parquet"), first, check_exact=True)
    assert planned(site) == {}
    check_hub(site)


def check_hub(site: Site) -> None:
    """The hub, too, computes again what is not of its bundles and settings, whoever ran before."""
    folder = site.results.parent
    inbox = folder / "inbox-contours"
    path = open_round(folder, "contours", [site])
    approve_and_send(site, inbox, "--empty")
    assert planned(site, "bundle") == {}
    content = yaml.safe_load(path.read_text())
    roster = content["roster"]
    snakemake("hub", "--configfile", str(path), *ONE_CORE)
    (folder / "copy").mkdir()
    shutil.copytree(folder / "hub", folder / "copy" / "hub")

    def dry_run(**keys: object) -> str:
        changed = content | {"results": str(folder / "copy" / "hub")} | keys
        path.write_text(yaml.safe_dump(changed))
        return snakemake("hub", "--dry-run", "--configfile", str(path), *ONE_CORE).stdout

    # The copy's own settings name another folder.
    assert not re.findall(r"^hub_\w+ runs again", dry_run(), re.M)
    third = [{**roster[0], "site": "third"}]
    assert "hub_accept runs again: it was computed with other settings (roster)." in dry_run(
        roster=third
    )
    (bundle,) = inbox.iterdir()
    bundle.rename(folder / bundle.name)
    assert "hub_accept runs again: what people sent or decided has changed since." in dry_run()
    (folder / bundle.name).rename(bundle)
    change(site, radiomics=other_radiomics())
    output = dry_run()
    for job in ("hub_accept", "hub_merge", "hub_report"):
        assert f"{job} runs again: it was computed with other settings (protocol)." in output
    result = snakemake(
        *("hub", "--allowed-rules", "hub_merge", "--forcerun", "hub_merge"),
        *("--configfile", str(path), *ONE_CORE),
        check=False,
    )
    assert result.returncode != 0
    log = folder / "copy" / "hub" / "contours" / "logs" / "hub_merge.log"
    assert "hub_accept is out of date" in log.read_text()


def test_a_job_of_a_cluster_that_starts_when_its_run_is_over_takes_nothing_away(site, tmp_path):
    made = site.out / "shards" / "s00001" / "document" / "outcomes.parquet"
    before = made.stat()
    words = ("--target-jobs", "document:shard=s00001", "--allowed-rules", "document", "--mode")
    words += ("remote", "--force", "--ignore-incomplete", "--nolock", "--no-hooks")
    (site.results / ".jobs").write_text(json.dumps({"run": str(tmp_path / "second")}))
    late = subprocess.run(
        [sys.executable, "-m", "snakemake", *words, *ONE_CORE, *site.arguments],
        cwd=ROOT,
        env=environment() | {"JIPFLOW_RUN": str(tmp_path / "first")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert late.returncode
    assert "this job has changed nothing" in late.stdout
    now = made.stat()
    assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

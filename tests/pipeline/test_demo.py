"""`make demo`, with fewer patients: three sites, a hub, and a bundle that was tampered with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from zipfile import ZipFile

import pandas as pd
import pytest

import snakemake_copies
from harness import ONE_CORE, ROOT, environment, snakemake

SITES = ("north", "south", "west")


def run_demo(folder, by_itself=""):
    """Run the demonstration; all its runs but those of the site that is named are copies."""
    given = environment()
    paths = (str(ROOT / "tests" / "copied_snakemake"), given.get("PYTHONPATH"))
    given |= {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "COPIED": str(snakemake_copies.program()),
        "BY_ITSELF": by_itself,
    }
    return subprocess.run(
        [
            *(sys.executable, "-m", "jipflow.cli", "demo", "--out", str(folder)),
            *("--patients", "5", *ONE_CORE),
        ],
        cwd=ROOT,
        env=given,
        capture_output=True,
        text=True,
        check=False,
        umask=0o022,
    )


@pytest.fixture(scope="module")
def demo(tiny_run, demo_folder):
    """The whole demonstration; it takes site north up as an earlier run left it."""
    result = run_demo(demo_folder, by_itself="south")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return demo_folder, result.stdout


def last_round(folder):
    """The folder of the last round at the hub."""
    return max((folder / "hub" / "results" / "demo" / "rounds").iterdir())


def test_it_ends_with_the_summary_and_a_report_that_is_there(demo):
    folder, output = demo
    report = last_round(folder) / "report.html"
    assert output.rstrip().endswith(str(report))
    assert report.is_file()
    for site in SITES:
        assert f"{site}: 10 cases, 5 ok, 5 with a failed item" in output


def test_each_site_says_what_became_of_its_release(demo):
    folder, _ = demo
    for site in SITES:
        results = folder / "results" / site / "demo"
        (bundle,) = (results / "bundles").glob("*.zip")
        page = (results / "release" / "r01" / "index.html").read_text()
        assert "The release is packed" in page
        assert bundle.name in page
        assert f"Data steward of {site} approved them at" in page
        assert str(folder) not in page


def test_each_release_has_a_crate_of_what_left_and_nothing_else(demo):
    folder, _ = demo
    for site in SITES:
        results = folder / "results" / site / "demo"
        (bundle,) = (results / "bundles").glob("*.zip")
        with ZipFile(bundle) as sent, ZipFile(results / "crate" / bundle.name) as crate:
            assert crate.namelist() == ["ro-crate-metadata.json", *sent.namelist()]
            assert all(crate.read(name) == sent.read(name) for name in sent.namelist())
        with ZipFile(results / "crate" / "run.zip") as crate:
            described = crate.read("ro-crate-metadata.json").decode()
        assert "#job/demo/shards/s00001/measure" in described
        assert str(folder) not in described


def test_what_a_site_writes_is_its_account_s_alone_whatever_the_shell_s_umask(demo):
    folder, _ = demo
    paths = [path for site in SITES for path in (folder / "results" / site).rglob("*")]
    opened = {path for path in paths if not path.is_symlink() and path.stat().st_mode & 0o077}
    assert {path for path in opened if path.suffix != ".age"} == set()


def test_merged_is_pooled(demo):
    folder, _ = demo
    result = json.loads((last_round(folder) / "result.json").read_text())
    tables = {
        site: pd.read_parquet(folder / "results" / site / "demo" / "features" / "features.parquet")
        for site in SITES
    }
    checked = 0
    for analysis in result["analyses"]:
        for cell in analysis["cells"]:
            pooled = pd.concat([tables[site] for site in cell["sites"]])
            values = pooled[
                (pooled["segment"] == cell["segment"]) & (pooled["role"] == cell["role"])
            ]
            values = values[cell["feature"]].dropna()
            if analysis["kind"] == "summary":
                assert cell["n"] == len(values)
                assert cell["mean"] == pytest.approx(values.mean(), rel=1e-9)
                assert cell["variance"] == pytest.approx(values.var(), rel=1e-9)
                checked += 1
    assert checked > 40


def test_the_second_time_is_quick_and_changes_nothing(demo):
    folder, _ = demo
    report = last_round(folder) / "report.html"
    stamps = {p: p.stat().st_mtime_ns for p in (folder / "results").rglob("*.parquet")}
    before = report.read_bytes()
    trails = {p: p.read_bytes() for p in sorted((folder / "sites").glob("*/secrets/audit.jsonl"))}
    assert len(trails) == 3
    assert run_demo(folder).returncode == 0
    assert {p: p.read_bytes() for p in trails} == trails
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert report.read_bytes() == before


def test_the_hub_refuses_a_bundle_that_was_changed_and_keeps_the_one_it_accepted(demo):
    folder, _ = demo
    inbox = folder / "exchange" / "hub"
    (bundle,) = inbox.glob("demo-south-*.age")
    whole = bundle.read_bytes()
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 1
    bundle.write_bytes(bytes(changed))
    try:
        snakemake("hub", "--configfile", str(folder / "hub" / "hub.yaml"))
        results = last_round(folder)
        (refused,) = json.loads((results / "rejected.json").read_text())
        assert refused["file"] == bundle.name
        assert refused["reason"]
        result = json.loads((results / "result.json").read_text())
        assert [site["id"] for site in result["sites"]] == ["north", "south", "west"]
        assert refused["reason"] in (results / "report.html").read_text()
    finally:
        bundle.write_bytes(whole)

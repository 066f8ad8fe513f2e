"""A mistake stops the run before any job, with one message and the fix, and no traceback."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import yaml

from harness import ONE_CORE, make_site
from jipflow.settings.resources import PROTOCOLS, ConfigError
from jipflow.settings.run import load_settings


def change_key(site, protocol):
    site["sorces"] = []


def change_folder(site, protocol):
    site["sources"][0]["path"] = "/no/such"


def change_engine(site, protocol):
    protocol["segmentations"][0]["engine"] = "magic"


def change_filter(site, protocol):
    protocol["cohort"]["where"] = "Modality == == 'CT'"


def with_mistake(folder, change):
    """A site and its protocol, both of which a function has changed."""
    (folder / "dicom").mkdir()
    protocol = yaml.safe_load((PROTOCOLS / "sarcoma-ct.yaml").read_text())
    path = folder / "protocol.yaml"
    site = make_site(folder, "here", str(path), [folder / "dicom"])
    content = yaml.safe_load(site.configfile.read_text())
    change(content, protocol)
    site.configfile.write_text(yaml.safe_dump(content))
    path.write_text(yaml.safe_dump(protocol))
    return site


MISTAKES = {
    change_key: ["unknown key 'sorces'", "'sources'"],
    change_folder: ["/no/such", "fix its path"],
    change_engine: ["segmentations[0].engine", "imported, nnunet"],
    change_filter: ["cohort.where[0]", "not valid SQL"],
}


@pytest.mark.parametrize("change", MISTAKES)
def test_the_mistake_is_named(tmp_path, change):
    site = with_mistake(tmp_path, change)
    content = yaml.safe_load(site.configfile.read_text())
    with pytest.raises(ConfigError) as error:
        load_settings(content | {"protocol": site.protocol})
    for part in MISTAKES[change]:
        assert part in str(error.value)


def test_the_run_stops_before_any_job_with_the_message_alone(tmp_path):
    result = with_mistake(tmp_path, change_filter).run(check=False)
    assert result.returncode != 0
    for part in MISTAKES[change_filter]:
        assert part in result.stdout
    assert "Traceback" not in result.stdout
    assert "rule catalog" not in result.stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (("features",), ["'features' is no target and no rule", "There are: catalog"]),
        (("--until", "measure"), ["--until measure: nothing would run", "--until cohort first"]),
        (("--configfile", "{twice}"), ["twice.yaml: line", "'site' is there twice"]),
    ],
)
def test_what_snakemake_would_end_at_is_named(tmp_path, typed, parts):
    site = with_mistake(tmp_path, lambda site, protocol: None)
    twice = tmp_path / "twice.yaml"
    twice.write_text(f"{site.configfile.read_text()}site: {{id: b, name: B}}\n")
    result = site.run("-n", *(word.format(twice=twice) for word in typed), check=False)
    assert result.returncode != 0
    for part in parts:
        assert part in result.stdout
    assert "MissingRule" not in result.stdout
    assert "Traceback" not in result.stdout
    assert not (tmp_path / "results").exists()


def test_a_new_site_whose_jobs_run_elsewhere_needs_no_number_of_cores(tmp_path):
    site = with_mistake(tmp_path, lambda site, protocol: None)
    done = site.run("--unlock", profile="slurm", check=False)
    assert done.returncode == 0, done.stdout


def test_a_run_ends_with_what_it_made(tiny_run):
    printed = (tiny_run.folder / "printed.txt").read_text()
    ending = printed[printed.index("jipflow: north, demo 1.0.0") :]
    assert "10: 5 ok, 5 failed, 0 waiting for a person" in ending
    assert str(tiny_run.out / "report" / "index.html") in ending
    assert "cells may leave the site" in ending
    assert len(ending.splitlines()) < 15


def test_too_many_failures_stop_the_release_but_not_the_report(tiny_run, tmp_path):
    protocol = yaml.safe_load((PROTOCOLS / "demo.yaml").read_text())
    protocol["tolerance"]["max_failed_fraction"] = 0.4
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(protocol))
    # The shards as they were processed, and nothing of what is made of all of them.
    results = tmp_path / "results"
    made = shutil.ignore_patterns("accepted", "bundles", "features", "release", "report", "work")
    shutil.copytree(tiny_run.results, results, ignore=made)
    out = results / "demo"
    for name in ("outcomes.parquet", "verdict.json"):
        (out / name).unlink()
    site = replace(tiny_run, protocol=str(path), results=results)
    result = site.run(*ONE_CORE, check=False)
    assert result.returncode != 0
    last = result.stdout[result.stdout.index("jipflow: the run ended with an error.") :]
    assert "accept: " in last
    assert "5 of 10 cases failed" in last
    assert f"report: {out / 'report' / 'index.html'}" in last
    # No other try could change the verdict.
    assert "Trying to restart" not in result.stdout
    assert "Traceback" not in last
    assert not (out / "accepted").exists()
    assert (out / "report" / "index.html").is_file()
    assert not (out / "release").exists()

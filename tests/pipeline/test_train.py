"""`snakemake train` from a site's archive to a registered model, in a clone of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK
import yaml

from harness import ROOT, command, environment, make_site
from jipflow.files import read_json, sha256_file
from jipflow.images.volume import read_volume
from jipflow.phantom.cohort import write_site
from jipflow.training.folders import raw

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from crate_graphs import graph, ids

pytestmark = pytest.mark.long

PARTS = ("Snakefile", "rules", "config", "profiles", "workflow", "envs")


def clone(folder):
    """Copy what a run needs, as a model is registered in the clone that trains it."""
    for part in PARTS:
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, folder / part)
    return folder


def run(folder, *arguments):
    result = subprocess.run(
        command(*arguments),
        cwd=folder,
        env={**environment(), "PYTHONPATH": str(folder / "workflow")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:]
    return result.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    repository = folder / "clone"
    repository.mkdir()
    clone(repository)
    write_site(folder / "phantom", "train", 4, 5, defects=False, pet=False, organs=True)
    # One patient has images, but nobody drew on them.
    (contours,) = (folder / "phantom" / "dicom").rglob("Organs_contours*")
    shutil.rmtree(contours)
    protocol = yaml.safe_load((ROOT / "config" / "protocols" / "phantom-train.yaml").read_text())
    protocol["training"] |= {
        "folds": 2,
        "held_out": 0,
        "spacing": [12, 10, 10],
        "patch": [16, 32, 32],
        "features": [4, 8],
        "epochs": 2,
        "iterations": 2,
    }
    (folder / "protocol.yaml").write_text(yaml.safe_dump(protocol))
    site = make_site(
        folder,
        "train",
        "phantom-train",
        [folder / "phantom" / "dicom"],
        processing={"device": "cpu", "shard_size": 2},
    )
    arguments = [
        *["train", "--configfile", str(site.configfile), "--config"],
        *[f"protocol={folder / 'protocol.yaml'}", f"results={site.results}"],
    ]
    run(repository, *arguments)
    return repository, site, arguments


def test_the_cohort_becomes_a_registered_model(trained):
    repository, site, _ = trained
    models = yaml.safe_load((repository / "models" / "models.yaml").read_text())["models"]
    entry = models["phantom-organs"]
    folder = repository / "models" / entry["path"]
    assert folder == repository / "models" / "phantom-organs"
    assert {path: sha256_file(folder / path) for path in entry["files"]} == entry["files"]
    assert {f"fold_{n}/checkpoint_final.pth" for n in (0, 1)} < set(entry["files"])
    summary = read_json(site.out / "train" / "summary.json")
    assert summary["cases"] == {"trained": 3, "held_out": 0, "not_used": 1}
    table = pd.read_parquet(site.out / "train" / "evaluation.parquet")
    assert table["case_id"].nunique() == 3
    assert len(table) == 3 * 4
    (unused,) = summary["not_used"]
    page = (site.out / "train" / "index.html").read_text()
    assert all(case in page for case in [*table["case_id"], unused["case_id"]])


def test_the_label_maps_are_the_truth_of_the_phantom(trained):
    _, site, _ = trained
    truth = [
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
        for path in (site.folder / "phantom" / "truth").glob("*_CT.nii.gz")
    ]
    work = site.out / "work" / "train"
    files = read_json(work / "split.json")["files"]
    assert len(files) == 3
    for entry in files.values():
        labels = read_volume(raw(work) / entry["label"]).array
        assert sum(np.array_equal(labels, known) for known in truth) == 1


def test_the_training_has_a_crate_that_names_the_model_and_no_case(trained):
    repository, site, _ = trained
    found = graph((site.out / "crate" / "train.zip").read_bytes())
    models = yaml.safe_load((repository / "models" / "models.yaml").read_text())["models"]
    place = "arcp://name,train/.model/phantom-organs/"
    made = ids(found["#job/phantom-train/train/register"]["result"])
    assert {name.removeprefix(place): found[name]["sha256"] for name in made} == (
        models["phantom-organs"]["files"]
    )
    jobs = {name for name in found if name.startswith("#job/phantom-train/train/")}
    parts = ("plan", "fit_0", "fit_1", "evaluate_0", "evaluate_1", "report", "register")
    assert jobs == {f"#job/phantom-train/train/{name}" for name in parts}
    assert all(found[name]["resourceUsage"] for name in jobs)
    summary = found[f"arcp://name,train/{site.out.name}/train/summary.json"]
    assert summary["sha256"] == sha256_file(site.out / "train" / "summary.json")
    words = json.dumps(found)
    cases = pd.read_parquet(site.out / "train" / "evaluation.parquet")["case_id"]
    assert not any(word in words for word in (*cases, str(site.folder), str(repository)))


def test_the_same_command_again_does_nothing(trained):
    repository, _, arguments = trained
    before = (repository / "models" / "models.yaml").stat().st_mtime_ns
    assert "Nothing to be done" in run(repository, *arguments)
    assert (repository / "models" / "models.yaml").stat().st_mtime_ns == before


def test_more_epochs_train_again_and_plan_nothing_anew(trained):
    repository, site, arguments = trained
    protocol = yaml.safe_load((site.folder / "protocol.yaml").read_text())
    protocol["training"]["epochs"] = 3
    (site.folder / "changed.yaml").write_text(yaml.safe_dump(protocol))
    changed = [a.replace("protocol.yaml", "changed.yaml") for a in arguments]
    text = run(repository, "-n", *changed)
    assert "train_fit" in text
    assert "train_plan" not in text

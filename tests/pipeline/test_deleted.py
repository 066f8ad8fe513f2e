"""What a stage wrote beside its outcomes is made again when it is gone, and nothing else is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import yaml

from harness import (
    JOINED,
    ONE_CORE,
    approve_and_send,
    contours_only,
    jipflow,
    open_round,
    planned,
    planned_jobs,
)
from jipflow.files import sha256_file
from jipflow.outcomes import Status, read_outcomes, write_outcomes


@pytest.fixture(scope="module")
def site(contours_run, tmp_path_factory):
    """A copy of the finished run."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(contours_run.results, folder / "results")
    shutil.copyfile(contours_run.protocol_file, folder / "contours.yaml")
    return replace(contours_run, results=folder / "results", protocol_file=folder / "contours.yaml")


def test_the_shards_of_what_is_gone_run_again_and_restore_its_bytes(site):
    outcomes = site.table("outcomes.parquet")
    hashes = {
        path: digest
        for row in outcomes.itertuples()
        for path, digest in zip(row.outputs, row.sha256, strict=True)
    }
    first, second = sorted({path.split("/")[1] for path in hashes})
    assert len(hashes) == 6

    report = site.out / "sr" / first / "gtv.dcm"
    content = report.read_bytes()
    report.unlink()
    assert planned(site) == {"document": 1, **JOINED}

    gone = [f"seg/{second}/gtv.dcm", f"overlays/{second}/gtv.png"]
    for name in gone:
        (site.out / name).unlink()
    whole = dict.fromkeys(("prepare", "segment", "encode", "measure", "overlay"), 1)
    jobs, output = planned_jobs(site)
    assert jobs == {**whole, "document": 2, **JOINED}
    for name in [f"sr/{first}/gtv.dcm", *gone]:
        assert f"runs again: of its files are gone: {name}." in output

    site.run(*ONE_CORE)
    assert {path: sha256_file(site.out / path) for path in hashes} == hashes
    assert planned(site) == {}

    report.unlink()
    assert planned(site) == {"document": 1, **JOINED}
    report.write_bytes(content)
    assert planned(site) == {}


def test_an_unexpected_error_is_tried_again_once_a_run(site):
    features = site.table("features/features.parquet")
    (path, _) = sorted(site.out.glob("shards/*/measure/outcomes.parquet"))
    (outcome,) = read_outcomes(path)
    bug = replace(outcome, status=Status.FAILED, reason="unexpected_error", message="a bug")
    write_outcomes(path, [bug])
    again = ("prepare", "segment", "encode", "measure", "document", "overlay")
    assert planned(site) == {**dict.fromkeys(again, 1), **JOINED}
    output = site.run(*ONE_CORE).stdout
    assert output.count("runs again: it met an error that it did not know, or was cut off.") == 1
    assert read_outcomes(path)[0].status is Status.OK
    pd.testing.assert_frame_equal(site.table("features/features.parquet"), features)
    assert planned(site) == {}


def test_a_change_of_the_training_alone_comes_to_a_bundle_of_the_new_protocol(site):
    release = site.out / "release" / "r01"
    key = site.folder / f"{site.name}-secrets" / "approver.key"
    if not key.is_file():
        jipflow("keys", "new", str(key))
    # Two patients are too few for any cell.
    signer = ("--name", "Dr deleted", "--key", str(key), "--empty")
    jipflow("release", "approve", str(release), *signer)
    before = json.loads((release / "aggregates.json").read_text())["protocol"]["sha256"]
    protocol = contours_only()
    protocol["training"] = {
        "model": "never-trained",
        "segmentation": "gtv",
        "licence": "Apache-2.0",
        "intended_use": "tests",
        "training_data": "none",
    }
    site.protocol_file.write_text(yaml.safe_dump(protocol))
    assert planned(site) == {"settings": 1, "report": 1, "crate": 1, "receive": 1}
    site.run(*ONE_CORE)
    # The shards are finished, and have trained nothing.
    training = planned(site, "train")
    assert training["train_data"] == training["prepare"] > 0
    after = json.loads((release / "aggregates.json").read_text())["protocol"]["sha256"]
    assert after != before
    open_round(site.folder, site.protocol, [site])
    site.run("release", *ONE_CORE)
    assert "approve again" in site.run("bundle", check=False).stdout
    inbox = site.folder / f"inbox-{site.protocol}"
    approve_and_send(site, inbox, "--empty")
    assert len(list(inbox.iterdir())) == 1

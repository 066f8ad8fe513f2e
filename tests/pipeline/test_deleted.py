"""What a stage wrote beside its outcomes is made again when it is gone, and nothing else is."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import yaml

from harness import ONE_CORE, approve_and_send, contours_only, jipflow, make_site
from jipflow.files import sha256_file

JOINED = {"collect": 1, "report": 1, "accept": 1, "release": 1}
"""Jobs that follow from any job of a shard."""


@pytest.fixture(scope="module")
def site(two_patients, tmp_path_factory):
    """A finished run of two shards with a case each."""
    folder = tmp_path_factory.mktemp("site")
    path = folder / "contours.yaml"
    path.write_text(yaml.safe_dump(contours_only()))
    site = make_site(folder, "deleted", "contours", [two_patients], processing={"shard_size": 1})
    site = replace(site, protocol_file=path)
    site.run(*ONE_CORE)
    return site


def dry_run(site, *arguments):
    """The jobs of a dry run by rule, without those that have no command, and all it prints."""
    output = site.run("--dry-run", *arguments, profile="local").stdout
    if "Nothing to be done" in output:
        return {}, output
    stats = output.split("Job stats:")[1].split("\n\n")[0]
    rows = re.findall(r"^(\w+) +(\d+)$", stats, re.M)
    ignored = {"all", "default", "total"}
    return {name: int(count) for name, count in rows if name not in ignored}, output


def planned(site, *arguments):
    return dry_run(site, *arguments)[0]


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
    jobs, output = dry_run(site)
    assert jobs == {**whole, "document": 2, **JOINED}
    for name in [f"sr/{first}/gtv.dcm", *gone]:
        assert f"now: 'files gone 1 times: {name}'" in output

    site.run(*ONE_CORE)
    assert {path: sha256_file(site.out / path) for path in hashes} == hashes
    assert planned(site) == {}

    report.unlink()
    assert planned(site) == {"document": 1, **JOINED}
    report.write_bytes(content)
    assert planned(site) == {}


def test_a_change_of_the_training_alone_comes_to_a_bundle_of_the_new_protocol(site):
    release = site.out / "release" / "r01"
    key = site.folder / f"{site.name}-secrets" / "approver.key"
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
    assert planned(site) == {"settings": 1, "report": 1, "accept": 1, "release": 1}
    site.run(*ONE_CORE)
    after = json.loads((release / "aggregates.json").read_text())["protocol"]["sha256"]
    assert after != before
    assert "approve again" in site.run("bundle", check=False).stdout
    approve_and_send(site, site.folder / "inbox", "--empty")
    assert len(list((site.folder / "inbox").iterdir())) == 1

"""A shard has no job in the plan where all that its stages wrote stands, and in no other case."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jipflow.files import read_json, write_json
from jipflow.finished import is_finished
from jipflow.outcomes import Outcome, Status, write_outcomes
from jipflow.provenance import NAME, Making

STAGES = ("segment", "encode")


def parts(stage):
    return {"segmentations": "a"}


@pytest.fixture
def shard(tmp_path):
    """A shard whose two stages are done; its first stage's masks are there still."""
    cases = tmp_path / "cohort" / "shards" / "s00001.parquet"
    cases.parent.mkdir(parents=True)
    cases.write_text("cases")
    shard = tmp_path / "shards" / "s00001"
    masks = tmp_path / "work" / "s00001" / "masks"
    masks.mkdir(parents=True)
    (masks / "mask").write_text("mask")
    made(shard, "segment", [cases], "quality", passing=[masks])
    seg = tmp_path / "seg" / "a" / "gtv.dcm"
    seg.parent.mkdir(parents=True)
    seg.write_text("seg")
    made(shard, "encode", [cases, shard / "segment" / NAME], others=[seg])
    for stage, second in (("segment", 10), ("encode", 20)):
        for file in (shard / stage).iterdir():
            os.utime(file, (1.7e9 + second, 1.7e9 + second))
    os.utime(cases, (1.7e9, 1.7e9))
    return shard


def made(shard, stage, inputs, *names, reason="", **others):
    """Do what a job does; it may meet an error."""
    making = Making(stage, parts(stage), inputs)
    outcomes = shard / stage / "outcomes.parquet"
    status = Status.FAILED if reason else Status.OK
    write_outcomes(outcomes, [Outcome("a", stage, "gtv", status, reason)])
    tables = [outcomes, *(shard / stage / f"{name}.parquet" for name in names)]
    for table in tables[1:]:
        table.write_text(table.name)
    making.finish(shard / stage / NAME, tables, **others)


def cases_of(shard):
    return shard.parents[1] / "cohort" / "shards" / f"{shard.name}.parquet"


def finished(shard, stages=STAGES, parts=parts, files=()):
    return is_finished(shard, stages, cases_of(shard), parts, files)


def test_a_shard_whose_files_stand_is_finished(shard, tmp_path):
    assert finished(shard)
    (tmp_path / "link").symlink_to(tmp_path)
    assert finished(tmp_path / "link" / "shards" / "s00001")


def test_what_goes_when_a_shard_is_done_may_be_gone(shard, tmp_path):
    (tmp_path / "work" / "s00001" / "masks" / "mask").unlink()
    (tmp_path / "work" / "s00001" / "masks").rmdir()
    assert finished(shard)


@pytest.mark.parametrize(
    "name",
    [
        "cohort/shards/s00001.parquet",
        "shards/s00001/segment/quality.parquet",
        "shards/s00001/encode/outcomes.parquet",
        "shards/s00001/segment/provenance.json",
        "seg/a/gtv.dcm",
        "work/s00001/masks/mask",
    ],
)
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("longer than it")])
def test_one_of_which_a_file_is_gone_or_another_is_not(shard, tmp_path, name, change):
    found = (tmp_path / name).stat()
    change(tmp_path / name)
    if (tmp_path / name).exists():
        os.utime(tmp_path / name, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert not finished(shard)


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("cohort/shards/s00001.parquet", 10),
        ("shards/s00001/segment/quality.parquet", 20),
        ("shards/s00001/segment/provenance.json", 20),
    ],
)
def test_one_whose_tables_are_older_than_what_they_were_made_of_is_not(
    shard, tmp_path, name, second
):
    os.utime(tmp_path / name, (1.7e9 + second,) * 2)
    assert finished(shard)
    os.utime(tmp_path / name, (1.7e9 + second + 1,) * 2)
    assert not finished(shard)


def test_one_of_other_settings_is_not(shard):
    assert not finished(shard, parts=lambda stage: {"segmentations": "b"})


@pytest.mark.parametrize(
    ("key", "value"),
    [("version", "0.0.0"), ("libraries", {"pydicom": "0"}), ("state", "sent"), ("stage", "other")],
)
def test_one_of_which_a_record_does_not_hold_is_not(shard, key, value):
    record = shard / "encode" / NAME
    write_json(record, read_json(record) | {key: value})
    assert not finished(shard)


def test_an_error_that_its_stage_did_not_know_is_tried_again(shard):
    before = shard / "segment" / NAME
    made(shard, "encode", [cases_of(shard), before], reason="unexpected_error")
    assert not finished(shard)
    made(shard, "encode", [cases_of(shard), before], reason="empty_segment")
    assert finished(shard)


def test_one_of_a_flow_with_other_stages_is_not(shard):
    assert not finished(shard, stages=("encode",))
    assert not finished(shard, stages=(*STAGES, "measure"))


def test_one_without_its_other_files_is_not(shard, tmp_path):
    receipts = tmp_path / "published.jsonl"
    assert not finished(shard, files=[receipts])
    receipts.touch()
    assert finished(shard, files=[receipts])

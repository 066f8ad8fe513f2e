"""Files that became other images since the catalog was made are measured under no pseudonym."""

from __future__ import annotations

import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jipflow.catalog import scan
from jipflow.catalog.cohort import SHARD_SCHEMA
from jipflow.catalog.unchanged import check_unchanged
from jipflow.reasons import StageError
from jipflow.settings.site import Folder
from series_factory import ct_datasets, write


@pytest.fixture
def archive(tmp_path):
    """Two patients' series, with files of the same names, sizes and times."""
    for number, name in enumerate(("ada", "bob"), 1):
        datasets = ct_datasets((3, 4, 4))
        for slice_number, dataset in enumerate(datasets):
            dataset.SeriesInstanceUID = f"1.2.{number}"
            dataset.SOPInstanceUID = f"1.2.{number}.{slice_number}"
        for path in write(datasets, tmp_path / "archive" / name):
            os.utime(path, ns=(10**18, 10**18))
    return tmp_path / "archive"


def cataloged(archive, out):
    """Make the catalog, and return its counts and a shard of all that it lists."""
    source = Folder(name="archive", kind="folder", path=str(archive))
    counts = scan.run(sources=[source], out_dir=out, threads=1)
    rows = [
        dict.fromkeys(SHARD_SCHEMA.names, "")
        | {
            "sop_uid": row["SOPInstanceUID"],
            "series_uid": row["SeriesInstanceUID"],
            "path": row["path"],
            "bytes": row["bytes"],
            "modified_ns": row["modified_ns"],
        }
        for row in pq.read_table(out / "instances.parquet").to_pylist()
    ]
    shard = out / "s00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows, SHARD_SCHEMA), shard)
    return counts, shard


def test_a_file_of_another_patient_under_the_same_name_stops_the_shard_and_heals(archive, tmp_path):
    counts, shard = cataloged(archive, tmp_path / "out")
    check_unchanged(shard, threads=2)
    for path in sorted((archive / "bob").iterdir())[:2]:
        shutil.copy2(path, archive / "ada" / path.name)
    first = min((archive / "ada").iterdir())
    with pytest.raises(StageError) as caught:
        check_unchanged(shard, threads=1)
    assert str(caught.value) == (
        "2 of 6 files of s00001 hold other images than when the catalog was made, first: "
        f"{first}; run the same command again with --forcerun catalog."
    )
    counts, shard = cataloged(archive, tmp_path / "out")
    assert counts["read"] == 2
    check_unchanged(shard, threads=1)


def test_a_new_copy_of_the_same_image_is_none_other(archive, tmp_path):
    _, shard = cataloged(archive, tmp_path / "out")
    path = min((archive / "ada").iterdir())
    path.write_bytes(path.read_bytes())
    check_unchanged(shard, threads=1)


def test_what_is_gone_or_damaged_is_left_to_the_stages(archive, tmp_path):
    _, shard = cataloged(archive, tmp_path / "out")
    gone, damaged = sorted((archive / "ada").iterdir())[:2]
    gone.unlink()
    damaged.write_bytes(b"no image")
    check_unchanged(shard, threads=1)

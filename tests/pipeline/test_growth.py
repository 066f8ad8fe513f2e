"""New patients are processed; those that were there are not computed again."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from harness import ONE_CORE, make_site


@pytest.mark.long
def test_a_growing_cohort_recomputes_nothing(shared_data, tmp_path):
    archive = tmp_path / "archive"
    for number in ("002", "008", "024"):
        shutil.copytree(
            shared_data / "sarcoma" / f"STS_{number}" / "PET", archive / f"STS_{number}"
        )
    site = make_site(tmp_path, "grow", "sarcoma-pet", [archive], processing={"shard_size": 2})
    site.run(*ONE_CORE)
    before = site.table("features/features.parquet")
    stamps = {path: path.stat().st_mtime_ns for path in (site.out / "shards").rglob("*.parquet")}
    shutil.copytree(shared_data / "sarcoma" / "STS_038" / "PET", archive / "STS_038")
    assert "Nothing to be done" in site.run("--dry-run").stdout
    site.run("--forcerun", "catalog", *ONE_CORE)
    after = site.table("features/features.parquet")
    assert len(after) == len(before) + 1
    kept = after[after["case_id"].isin(before["case_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(before, kept, check_exact=True)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert sorted(p.name for p in (site.out / "shards").iterdir()) == ["s00001", "s00002", "s00003"]

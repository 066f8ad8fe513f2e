"""The tiny cohort on a real one-node SLURM gives the tables of a local run."""

from __future__ import annotations

import pandas as pd
import pytest

import slurm_cluster
from harness import Site
from needs import unavailable

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def on_slurm(tiny_run, tmp_path_factory):
    reason = slurm_cluster.missing()
    if reason:
        unavailable(reason)
    site = Site(tiny_run.folder, tiny_run.name, tiny_run.protocol, tmp_path_factory.mktemp("slurm"))
    with slurm_cluster.slurm_cluster(tmp_path_factory.mktemp("cluster")):
        # The profile asks a busy cluster seldom; this one has nothing else to do.
        often = ("--slurm-init-seconds-before-status-checks", "2")
        often += ("--seconds-between-status-checks", "2")
        result = site.run(*often, profile="slurm")
    return site, result.stdout


def test_jobs_went_through_slurm(on_slurm):
    _, output = on_slurm
    assert output.count("has been submitted with SLURM jobid") >= 15


def test_tables_are_those_of_a_local_run(tiny_run, on_slurm):
    site, _ = on_slurm
    pd.testing.assert_frame_equal(
        tiny_run.table("features/features.parquet"),
        site.table("features/features.parquet"),
        check_exact=True,
    )
    timings = ["seconds", "max_rss_mb"]
    pd.testing.assert_frame_equal(
        tiny_run.table("outcomes.parquet").drop(columns=timings),
        site.table("outcomes.parquet").drop(columns=timings),
        check_exact=True,
    )

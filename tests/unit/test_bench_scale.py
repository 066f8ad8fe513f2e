"""The fabricated results of benchmarks/scale.py are what a run leaves, and what growth computes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from scale import Fabricated


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Fabricated(tmp_path_factory.mktemp("scale") / "site")
    made.choose(100)
    made.process(100)
    for path in made.folder.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    return made


def planned(site):
    command = site.snakemake("--dry-run")
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    return printed.stdout + printed.stderr


def test_where_nothing_has_changed_nothing_is_to_be_done(site):
    assert "Nothing to be done" in planned(site)


def test_a_cohort_that_grows_has_its_new_shards_computed_alone(site):
    site.choose(130)
    for path in site.results.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    output = planned(site)
    assert set(re.findall(r"wildcards: shard=(\w+)", output)) == {"s00003"}
    assert re.search(r"^collect +1$", output, re.MULTILINE)

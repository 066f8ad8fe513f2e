"""The page on SLURM has what was seen where a cluster was broken."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import slurm_faults

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "slurm.md").read_text(encoding="utf-8")
ROWS = json.loads(slurm_faults.RESULTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ROWS)
def test_the_table_is_what_was_seen(name: str) -> None:
    row = ROWS[name]
    assert slurm_faults.line(row) in PAGE.splitlines()
    assert row["same tables"]
    assert row["what"] == slurm_faults.FAULTS[name].what


@pytest.mark.parametrize("name", slurm_faults.FAULTS)
def test_what_the_rules_of_a_fault_ask_for_is_in_its_profile(name, tmp_path):
    fault = slurm_faults.FAULTS[name]
    profile = slurm_faults.own_profile(tmp_path, fault)
    assert (profile is None) == (not fault.needs and not fault.groups)
    if profile is not None:
        content = yaml.safe_load((profile / "config.yaml").read_text())
        assert content.get("set-resources", {}).items() >= fault.needs.items()

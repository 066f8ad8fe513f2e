"""What a job took counts its processes, and is there only where the job ended well."""

from __future__ import annotations

import subprocess
import sys
import time

import pandas as pd
import pytest

from jipflow.costs import cost_file, measured

HOLD = "import time; held = bytearray(300 << 20); time.sleep(1.5)"


def test_memory_of_what_a_job_starts_counts(tmp_path):
    record = tmp_path / "fit_0.provenance.json"
    with measured(record):
        subprocess.run([sys.executable, "-c", HOLD], check=True)
    cost = pd.read_csv(tmp_path / "fit_0.cost.tsv", sep="\t").iloc[0]
    assert cost["peak_mb"] > 300
    assert cost["seconds"] > 1.5


def test_time_that_is_slept_is_no_computing_time(tmp_path):
    record = tmp_path / "provenance.json"
    with measured(record):
        began = time.process_time()
        while time.process_time() - began < 0.5:
            pass
        time.sleep(0.5)
    cost = pd.read_csv(cost_file(record), sep="\t").iloc[0]
    assert cost["cpu_seconds"] > 0.5
    assert cost["seconds"] > 1.0


def test_a_job_that_fails_leaves_none(tmp_path):
    with pytest.raises(ValueError, match="no"), measured(tmp_path / "provenance.json"):
        raise ValueError("no")
    assert not list(tmp_path.iterdir())

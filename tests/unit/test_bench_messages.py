"""The benchmark of messages, with few cells: it makes what a hub of now accepts."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import messages


def test_the_hub_accepts_and_merges_what_simulated_sites_send():
    found = messages.run_sites(3, 5)
    assert found["cells"] == 5
    assert 0 < found["bytes"] < found["sealed"]

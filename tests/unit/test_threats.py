"""docs/threats.md, docs/release.md and docs/steward-guide.md: the tests that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["threats.md", "release.md", "steward-guide.md"])
def test_every_test_that_a_table_names_exists(page):
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text()))
    files = (ROOT / "tests").rglob("test_*.py")
    there = {name for f in files for name in re.findall(r"^def (test_\w+)", f.read_text(), re.M)}
    assert named
    assert named <= there

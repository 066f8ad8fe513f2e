"""In CI nothing is left out for want of what CI installs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from needs import unavailable

TESTS = Path(__file__).resolve().parents[1]
# The real data, which cannot be installed; a daemon of docker, tests as an ordinary user, and what
# a machine says that has no GPU.
ALLOWED = {"needs.py", "conftest.py", "unit/test_container.py", "unit/test_device.py"}


def test_what_is_missing_skips_here_and_fails_in_ci(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no PACS; CI must run this test"):
        unavailable("no PACS")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no PACS"):
        unavailable("no PACS")


def test_no_other_test_skips_by_itself():
    skips = re.compile(r"pytest\.skip\b(?!\.Exception)|mark\.skip|importorskip\(")
    skipping = {
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("*.py")
        if skips.search(path.read_text())
    }
    assert skipping == ALLOWED

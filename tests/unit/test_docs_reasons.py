"""The site guide says of every reason code what to do."""

from __future__ import annotations

import re
from pathlib import Path

from jipflow.reasons import Reason

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "site-guide.md"


def test_every_reason_has_its_fix_once() -> None:
    section = GUIDE.read_text(encoding="utf-8").split("\n## When cases fail\n")[1]
    rows = re.findall(r"^\| (`.+?) \| (\S.+) \|$", section.split("\n## ")[0], re.M)
    codes = [code for named, _ in rows for code in re.findall(r"`(\w+)`", named)]
    assert sorted(codes) == sorted(reason.value for reason in Reason)

"""What an export keeps of real series descriptions is what the pages say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import descriptions
from jipflow.files import read_json
from jipflow.settings.resources import ROOT

RESULT = ROOT / "benchmarks" / "results" / "descriptions.json"


def test_of_the_most_frequent_descriptions_as_much_is_kept_as_was_measured() -> None:
    measured = read_json(RESULT)["rows"][-1]
    counts, _ = descriptions.kept(descriptions.sample())
    assert descriptions.row(measured[0], counts["all"]) == measured


def test_the_guide_states_what_was_measured_of_all() -> None:
    result = read_json(RESULT)
    (row,) = [row for row in result["rows"] if row[0] == "all"]
    words, whole = (f"{float(cell):.0f} %" for cell in row[2:])
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (claim,) = re.findall(r"[^.]*most frequent series descriptions[^)]*\)[^.]*\.", text)
    assert f"keeps {words}, and {whole} of the descriptions whole" in claim
    assert f"idc-index-data {result['versions']['idc-index-data']}" in claim
    assert f"{descriptions.MOST_FREQUENT:,}" in claim

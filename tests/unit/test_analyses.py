"""An analysis is one file: each kind keeps the contract, and a third one needs nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import rows_analysis
from federation_world import HERE, protocol
from jipflow.analyses.cells import (
    CellKey,
    Place,
    expand,
    measured_places,
)
from jipflow.analyses.contract import (
    ReleasedAnalysis,
    ReleasedCell,
    kinds,
    rules_of_kinds,
)
from jipflow.settings.run import settings_of

PLACES = [
    Place("CT", "organs", "liver"),
    Place("CT", "organs", "spleen"),
    Place("PT", "gtv", "gtv"),
]


def test_a_protocol_measures_each_segment_in_its_role():
    here = settings_of(HERE, protocol())
    assert measured_places(here.protocol) == PLACES[:2]


def test_variables_expand_over_the_segments_of_their_role():
    features = ["original_shape_MeshVolume", "original_firstorder_Mean"]
    assert expand(["CT.original_shape_*"], None, features, PLACES) == [
        CellKey("CT", "organs", "liver", "original_shape_MeshVolume"),
        CellKey("CT", "organs", "spleen", "original_shape_MeshVolume"),
    ]
    assert expand(["CT.original_shape_*"], ["spleen"], features, PLACES) == [
        CellKey("CT", "organs", "spleen", "original_shape_MeshVolume")
    ]


def test_an_analysis_asks_for_the_cells_of_its_variables():
    summary = kinds()["summary"]
    settings = _settings("summary", id="x", variables=["PT.original_firstorder_*"])
    asks_for, mean = summary(settings).asks_for, "original_firstorder_Mean"
    assert asks_for(CellKey("PT", "gtv", "gtv", mean), PLACES)
    assert not asks_for(CellKey("CT", "organs", "liver", mean), PLACES)
    assert not asks_for(CellKey("PT", "gtv", "gtv", "original_glcm_Idn"), PLACES)
    assert not asks_for(CellKey("PT", "gtv", "other", mean), PLACES)


def _settings(kind, **content):
    return sys.modules[kinds()[kind].__module__].Settings(kind=kind, **content)


def test_the_kinds_are_the_modules_of_the_folder():
    assert list(kinds()) == ["histogram", "summary"]


@pytest.mark.parametrize("kind", kinds())
def test_each_kind_keeps_the_contract(kind):
    analysis = kinds()[kind]
    module = sys.modules[analysis.__module__]
    assert module.__doc__
    for model in (module.Settings, analysis.released):
        assert get_args(model.model_fields["kind"].annotation) == (kind,)
    assert issubclass(analysis.cell, ReleasedCell)
    assert analysis.released.model_fields["cells"].annotation == list[analysis.cell]
    repeated = analysis.released.model_fields.keys() - ReleasedAnalysis.model_fields.keys()
    assert repeated <= module.Settings.model_fields.keys()
    for rule in analysis.rules:
        assert rule.meaning
        assert bool(rule.parts) == bool(rule.of)
        if rule.parts:
            assert f"withheld_{rule.parts}" in analysis.recorded.model_fields


def test_rules_of_one_code_are_one_rule(monkeypatch):
    other = rows_analysis.Rule("number_range", "Something else.")
    monkeypatch.setattr(kinds()["histogram"], "rules", (other,))
    with pytest.raises(ValueError, match="'number_range'"):
        rules_of_kinds()


ROUND = Path(__file__).with_name("rows_round.py")


@pytest.fixture(scope="module")
def round_of_rows(tmp_path_factory):
    """Run two sites and the hub in a process whose package has a third file in analyses/."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "analyses").mkdir()
    shutil.copyfile(rows_analysis.__file__, folder / "analyses" / "rows.py")
    ended = subprocess.run(
        [sys.executable, str(ROUND), str(folder)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return folder


def test_a_third_analysis_is_one_more_file(round_of_rows):
    sent = json.loads((round_of_rows / "north" / "release" / "aggregates.json").read_text())
    rows = next(a for a in sent["analyses"] if a["kind"] == "rows")
    assert rows["unit"] == "values"
    liver = next(c for c in rows["cells"] if c["segment"] == "liver")
    assert (liver["n"], liver["rows"]) == (12, 12)
    record = json.loads((round_of_rows / "south" / "release" / "disclosure.json").read_text())
    assert record["rules"]["odd_rows"] == "An odd number of values is withheld."
    found = {c["segment"]: c["rules"]["odd_rows"] for c in record["cells"] if c["kind"] == "rows"}
    assert found == {"liver": "withheld", "spleen": "passed"}
    assert record["summary"]["withheld"]["odd_rows"] == 1
    result = json.loads((round_of_rows / "result.json").read_text())
    merged = next(a for a in result["analyses"] if a["kind"] == "rows")
    assert merged["unit"] == "values"
    cells = {c["segment"]: (c["sites"], c["rows"]) for c in merged["cells"]}
    assert cells == {"liver": (["north"], 12), "spleen": (["north", "south"], 12 + 20)}


def test_pages_draw_a_third_analysis(round_of_rows):
    page = (round_of_rows / "south" / "release" / "disclosure.html").read_text()
    assert "Rows <code>how-many</code></h3>" in page
    assert "Rows that leave, in values." in page
    assert '<td>spleen · organs on CT</td><td><code>volume_ml</code></td><td class="num">20' in page
    assert "<code>odd_rows</code>" in page
    page = (round_of_rows / "hub.html").read_text()
    assert '<section id="analysis-how-many">' in page
    assert "Rows of 2 sites, in values." in page
    assert '<td class="num">32</td>' in page
    assert "An odd number of values is withheld." in page


def test_the_hub_refuses_what_a_third_analysis_does_not_allow(round_of_rows):
    assert json.loads((round_of_rows / "refused.json").read_text()) == {
        "rows": "impossible_cell",
        "maximum": "aggregates_invalid",
        "unit": "outside_protocol",
        "kind": "aggregates_invalid",
    }

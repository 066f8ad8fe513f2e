"""An analysis is one file: each kind keeps the contract, and a third one needs nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import distances_analysis
import rows_analysis
from federation_world import HERE, features, protocol
from jipflow.analyses.cells import (
    CellKey,
    Place,
    expand,
    measured_places,
)
from jipflow.analyses.contract import Analysis, ImpossibleCell, kinds, rules_of_kinds
from jipflow.analyses.forms import ReleasedAnalysis, ReleasedCell, StatedCell
from jipflow.settings.run import settings_of

PLACES = [
    Place("CT", "organs", "liver"),
    Place("CT", "organs", "spleen"),
    Place("PT", "gtv", "gtv"),
]


def test_a_protocol_measures_each_segment_in_its_role():
    here = settings_of(HERE, protocol())
    assert list(measured_places(here.protocol)) == list(PLACES[:2])


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
    assert list(kinds()) == [
        "anova",
        "brown_forsythe",
        "combat",
        "covariance",
        "cox",
        "crosstab",
        "histogram",
        "kaplan_meier",
        "levene",
        "linear",
        "logistic",
        "missing",
        "noisy_mean",
        "poisson",
        "quantiles",
        "summary",
    ]


EXAMPLES = [rows_analysis.Rows, distances_analysis.DistancesFromMean]


@pytest.mark.parametrize("analysis", [*kinds().values(), *EXAMPLES])
def test_each_kind_keeps_the_contract(analysis):
    module = sys.modules[analysis.__module__]
    (kind,) = get_args(module.Settings.model_fields["kind"].annotation)
    assert kinds().get(kind, analysis) is analysis
    assert module.__doc__
    assert analysis.merging.endswith(".")
    for model in (module.Settings, analysis.released):
        assert get_args(model.model_fields["kind"].annotation) == (kind,)
    for cell in get_args(analysis.cell) or [analysis.cell]:
        assert issubclass(cell, ReleasedCell)
    assert analysis.released.model_fields["cells"].annotation == list[analysis.cell]
    repeated = analysis.released.model_fields.keys() - ReleasedAnalysis.model_fields.keys()
    assert repeated <= module.Settings.model_fields.keys()
    for rule in analysis.rules:
        assert rule.meaning
        assert bool(rule.parts) == bool(rule.of)
        if rule.parts:
            assert f"withheld_{rule.parts}" in analysis.recorded.model_fields
    assert (analysis.rounds is Analysis.rounds) == (analysis.stated is None)
    if analysis.stated:
        assert get_args(analysis.stated.model_fields["kind"].annotation) == (kind,)
        (stated,) = get_args(analysis.stated.model_fields["cells"].annotation)
        assert issubclass(stated, StatedCell)
        for step in (Analysis.check_stated, Analysis.advance):
            assert getattr(analysis, step.__name__) is not step


@pytest.mark.parametrize("kind", ["anova", "brown_forsythe", "histogram", "summary"])
def test_a_kind_of_one_round_has_no_later_cells(kind):
    analysis = kinds()[kind](_settings(kind, **ENTRIES[kind]))
    key = CellKey("CT", "organs", "liver", "volume_ml")
    assert analysis.rounds == 1
    with pytest.raises(ImpossibleCell, match=f"the kind '{kind}' has one round"):
        analysis.check_stated(StatedCell(**key._asdict()), 2)
    assert analysis.advance(1, {}) is None
    assert analysis.conclude([]) == {}


ENTRIES = {
    "anova": {"id": "x", "variables": ["CT.volume_ml"]},
    "brown_forsythe": {"id": "x", "variables": ["CT.volume_ml"]},
    "histogram": {"id": "x", "variables": ["CT.volume_ml"], "edges": [0, 1, 2]},
    "summary": {"id": "x", "variables": ["CT.volume_ml"]},
}


def test_rules_of_one_code_are_one_rule(monkeypatch):
    other = rows_analysis.Rule("number_range", "Something else.")
    monkeypatch.setattr(kinds()["histogram"], "rules", (other,))
    with pytest.raises(ValueError, match="'number_range'"):
        rules_of_kinds()


ROUND = Path(__file__).with_name("rows_round.py")


@pytest.fixture(scope="module")
def round_of_rows(tmp_path_factory):
    """Run two sites and the hub in a process whose package has a third file in analyses/."""
    return _run(tmp_path_factory.mktemp("rows"), rows_analysis, ROUND)


def _run(folder, module, script):
    """Run a script in a process whose package has one more file in analyses/."""
    name = Path(module.__file__).name.removesuffix("_analysis.py")
    (folder / "analyses").mkdir()
    shutil.copyfile(module.__file__, folder / "analyses" / f"{name}.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False
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


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory):
    """Return what three sites and the hub wrote in two rounds of an analysis, by name."""
    script = Path(__file__).with_name("distances_rounds.py")
    folder = _run(tmp_path_factory.mktemp("distances"), distances_analysis, script)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def _of(result):
    return {analysis["id"]: analysis for analysis in result["analyses"]}


def test_a_second_round_gives_what_all_rows_in_one_place_give(two_rounds):
    pooled = np.concatenate(
        [features("x", 12 + i, i).query("segment == 'liver'")["volume_ml"] for i in range(3)]
    )
    (mean, _) = two_rounds["state"]["analyses"][0]["cells"]
    assert mean["segment"] == "liver"
    assert mean["mean"] == pytest.approx(pooled.mean(), rel=1e-9)
    (cell, _) = _of(two_rounds["second"])["apart"]["cells"]
    assert cell["sites"] == ["site0", "site1", "site2"]
    assert cell["distance"] == pytest.approx(np.abs(pooled - pooled.mean()).sum(), rel=1e-9)


def test_a_later_round_asks_only_for_what_was_stated(two_rounds):
    assert list(_of(two_rounds["first"])) == ["apart", "describe", "volumes"]
    assert two_rounds["state"]["round"] == 2
    assert list(_of(two_rounds["state"])) == ["apart"]
    for name in ("second", "sent"):
        assert two_rounds[name]["round"] == 2
        assert list(_of(two_rounds[name])) == ["apart"]
    assert {cell["analysis"] for cell in two_rounds["record"]["cells"]} == {"apart"}
    assert two_rounds["unasked"] == ["impossible_cell", "outside_protocol"]


def test_the_last_round_needs_no_state(two_rounds):
    assert two_rounds["last"] is None
    assert _of(two_rounds["second"])["apart"]["merged"] == 2
    assert "ended" not in _of(two_rounds["second"])["apart"]


def test_cells_of_two_sites_do_not_go_on(two_rounds):
    assert two_rounds["of_two"] is None
    merged = _of(two_rounds["merged_of_two"])
    assert merged["apart"]["ended"] == {"few_sites": 2}
    assert "ended" not in merged["describe"]


def test_a_site_refuses_what_no_honest_hub_says(two_rounds):
    found = two_rounds["refused"]
    prefix = "What the hub says before round 2 is not what an honest hub says: "
    assert all(text.startswith(prefix) for text in found.values())
    place = "analysis apart: CT organs liver"
    assert found["round"].startswith(f"{prefix}it is of round 3.")
    assert found["protocol"].startswith(f"{prefix}it is of another text of the protocol.")
    assert "analysis volumes: the protocol has none of several rounds." in found["analysis"]
    assert f"{place} voxels: the protocol does not ask for it." in found["cell"]
    assert f"{place} volume_ml: a mean of -1.0." in found["mean"]
    first, second = two_rounds["early"]
    assert "before the first round there is nothing to say of a cell" in first
    assert second.startswith("Round 2 needs what the hub says before it, and there is none;")


def test_a_state_is_of_its_model(two_rounds):
    infinite, extra, twice = two_rounds["malformed"]
    assert infinite.startswith("state.json: analyses.0.distances.cells.0.mean: ")
    assert extra == "state.json: analyses.0.distances.cells.0.n: Extra inputs are not permitted"
    assert twice.endswith("an analysis or a cell is there twice")

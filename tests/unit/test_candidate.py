"""A candidate holds what was measured, as far as the gate lets it out."""

from __future__ import annotations

import json

import pytest

from federation_world import ENERGY, MEAN, features, protocol, site
from jipflow.outcomes import Outcome, write_outcomes
from jipflow.release import candidate
from jipflow.release.contents import ReleaseError
from jipflow.release.gate import DisclosureError, all_rules
from jipflow.settings.resources import ConfigError


def test_release_of_a_site(tmp_path):
    north = site(tmp_path, "north", patients=12)
    north.write()
    aggregates, record = north.build()
    first = {
        name: (north.release / name).read_bytes() for name in ("aggregates.json", "disclosure.json")
    }
    assert [a["id"] for a in aggregates["analyses"]] == ["describe", "volumes"]
    liver = north.table[north.table["segment"] == "liver"][MEAN]
    sent = next(
        c
        for c in aggregates["analyses"][0]["cells"]
        if (c["segment"], c["feature"]) == ("liver", MEAN)
    )
    assert (sent["n"], sent["rows"]) == (12, 12)
    assert sent["mean"] == pytest.approx(liver.mean(), rel=1e-12)
    assert sent["m2"] / 11 == pytest.approx(liver.var(), rel=1e-12)
    assert aggregates["analyses"][1]["cells"][0]["counts"] == [0, 6, 6, 0]
    assert record["summary"] == {
        "cells": 5,
        "released": 5,
        "withheld": dict.fromkeys((rule.code for rule in all_rules()), 0),
    }
    north.table = north.table.sample(frac=1, random_state=3)
    north.write()
    north.build()
    assert first == {name: (north.release / name).read_bytes() for name in first}


def test_the_record_holds_no_small_count(tmp_path):
    north = site(tmp_path, "north", patients=12)
    north.table.loc[north.table.index[:-6:2], ENERGY] = float("nan")
    north.table.loc[north.table["segment"] == "spleen", MEAN] = 7.0
    north.write()
    aggregates, record = north.build()
    by_cell = {(c["segment"], c["feature"]): c for c in record["cells"] if c["kind"] == "summary"}
    assert by_cell["liver", ENERGY]["rules"]["min_patients"] == "withheld"
    assert by_cell["spleen", MEAN]["rules"]["zero_variance"] == "withheld"
    sent = {(c["segment"], c["feature"]) for c in aggregates["analyses"][0]["cells"]}
    assert sent == {("liver", MEAN), ("spleen", ENERGY)}
    assert record["summary"]["withheld"]["min_patients"] == 1
    for entry in record["cells"]:
        numbers = [v for v in entry.values() if isinstance(v, int) and not isinstance(v, bool)]
        assert numbers == []


def test_a_segment_that_nobody_has_is_withheld_like_a_rare_one(tmp_path):
    north = site(tmp_path, "north")
    north.table = north.table[north.table["segment"] == "liver"]
    north.write()
    _, record = north.build()
    spleen = [c for c in record["cells"] if c["segment"] == "spleen"]
    assert len(spleen) == 2
    assert all(c["rules"]["min_patients"] == "withheld" for c in spleen)


def test_the_stricter_minimum_applies(tmp_path):
    north = site(tmp_path, "north", patients=12, minimum=13)
    north.write()
    aggregates, record = north.build()
    assert record["min_patients"] == 13
    assert all(a["cells"] == [] for a in aggregates["analyses"])


def test_a_case_whose_measurement_failed_does_not_count(tmp_path):
    north = site(tmp_path, "north", patients=12)
    north.write(failed={"casenorth0003"})
    aggregates, _ = north.build()
    assert {c["n"] for a in aggregates["analyses"] for c in a["cells"]} == {11}


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_value_that_is_not_finite_does_not_count(tmp_path, value):
    north = site(tmp_path, "north", patients=12)
    liver = north.table.index[north.table["segment"] == "liver"]
    north.table.loc[liver[:5], [MEAN, ENERGY]] = value
    north.write()
    aggregates, _ = north.build()
    found = {(c["segment"], c["n"]) for c in aggregates["analyses"][0]["cells"]}
    assert found == {("liver", 7), ("spleen", 12)}


def test_an_unacceptable_run_releases_nothing(tmp_path):
    north = site(tmp_path, "north")
    north.write()
    verdict = {"cases": 10, "failed": 6, "max_failed_fraction": 0.1, "acceptable": False}
    (north.root / "verdict.json").write_text(json.dumps(verdict))
    with pytest.raises(ReleaseError, match="6 of 10 cases failed"):
        north.build()
    assert not north.release.exists()


def test_tables_that_contradict_each_other_release_nothing(tmp_path):
    north = site(tmp_path, "north")
    north.write()
    cases = (north.root / "cases.tsv").read_text().splitlines(keepends=True)
    (north.root / "cases.tsv").write_text("".join(cases[:-1]))
    with pytest.raises(ReleaseError, match="not in the cohort"):
        north.build()
    (north.root / "cases.tsv").write_text("".join(cases).replace("pseudonorth0004", "other"))
    with pytest.raises(ReleaseError, match="another patient"):
        north.build()
    (north.root / "cases.tsv").write_text("".join(cases) + "casenorth0004\tother\tCT\n")
    with pytest.raises(ReleaseError, match="two patients"):
        north.build()
    north.table = features("north", 6, 0)
    north.table.loc[1, "segment"] = "liver"
    north.write()
    with pytest.raises(ReleaseError, match="measured twice"):
        north.build()


def test_a_variable_that_matches_nothing_is_named(tmp_path):
    wrong = [{"id": "describe", "kind": "summary", "variables": ["CT.original_glcm_*"]}]
    north = site(tmp_path, "north", content=protocol(analyses=wrong))
    north.write()
    with pytest.raises(ReleaseError, match=r"CT\.original_glcm_\*"):
        north.build()


def test_a_pseudonym_in_the_protocol_stops_the_release(tmp_path):
    north = site(tmp_path, "north")
    north.table["case_id"] = north.table["case_id"].replace("casenorth0000", "liver")
    north.write()
    with pytest.raises(DisclosureError, match="Nothing is released"):
        north.build()
    assert not north.release.exists()


def test_every_segment_has_its_own_patients(tmp_path):
    """As many livers as spleens were measured, but in three patients each only one of them."""
    north = site(tmp_path, "north", patients=20)
    lost = {("liver", f"casenorth{i:04}") for i in range(3)}
    lost |= {("spleen", f"casenorth{i:04}") for i in range(3, 6)}
    pairs = zip(north.table["segment"], north.table["case_id"], strict=True)
    north.table = north.table[[pair not in lost for pair in pairs]]
    north.write()
    aggregates, record = north.build()
    assert {(c["segment"], c["n"]) for c in aggregates["analyses"][0]["cells"]} == {("liver", 17)}
    found = {(c["segment"], c["rules"]["difference"]) for c in record["cells"]}
    assert found == {("liver", "passed"), ("spleen", "withheld")}


def test_only_a_measurement_that_went_well_counts(tmp_path):
    north = site(tmp_path, "north", patients=12)
    north.write()
    cases = sorted(north.table["case_id"].unique())
    write_outcomes(
        north.root / "outcomes.parquet",
        [Outcome(case, "encode", "organs") for case in cases]
        + [Outcome(case, "measure", "organs") for case in cases[2:]]
        + [Outcome(case, "measure", "organs", "failed", "x") for case in cases[:2]],
    )
    aggregates, _ = north.build()
    assert {c["n"] for a in aggregates["analyses"] for c in a["cells"]} == {10}


def test_a_verdict_that_does_not_say_acceptable_releases_nothing(tmp_path):
    north = site(tmp_path, "north")
    north.write()
    (north.root / "verdict.json").write_text(json.dumps({"cases": 10, "failed": 0}))
    with pytest.raises(ReleaseError, match="not acceptable"):
        north.build()


def test_a_patients_pseudonym_in_the_protocol_stops_the_release(tmp_path):
    north = site(tmp_path, "north")
    north.table["patient"] = north.table["patient"].replace("pseudonorth0000", "spleen")
    north.write()
    with pytest.raises(DisclosureError, match="Nothing is released"):
        north.build()


def test_withheld_bins_are_named_as_the_bins_that_are_null(tmp_path):
    north = site(tmp_path, "north", 30)
    rows = north.table.index[north.table["segment"] == "liver"]
    north.table.loc[rows, "volume_ml"] = [-50.0] * 3 + [150.0] * 7 + [250.0] * 20
    north.write()
    aggregates, record = north.build()
    (sent,) = aggregates["analyses"][1]["cells"]
    assert (sent["under"], sent["counts"], sent["over"]) == (None, [None, None, 20, None], None)
    (recorded,) = [c for c in record["cells"] if c["kind"] == "histogram"]
    assert recorded["withheld_bins"] == ["under", 0, 1, 3, "over"]
    assert recorded["rules"]["small_bins"] == "some bins withheld"


def test_files_that_do_not_fit_their_format_are_not_written(tmp_path):
    north = site(tmp_path, "north")
    north.write()
    north.settings = north.settings.model_copy(update={"version": "no version"})
    with pytest.raises(ConfigError, match="version"):
        north.build()
    assert not north.release.exists()


@pytest.mark.parametrize(
    ("part", "change", "name"),
    [
        ("_released", lambda found: [a | {"note": 1} for a in found], "aggregates.json"),
        ("_record", lambda found: found | {"note": 1}, "disclosure.json"),
    ],
)
def test_each_file_is_held_against_its_own_format(tmp_path, monkeypatch, part, change, name):
    north = site(tmp_path, "north")
    north.write()
    made = getattr(candidate, part)
    monkeypatch.setattr(candidate, part, lambda *given: change(made(*given)))
    with pytest.raises(ConfigError, match=name):
        north.build()
    assert not north.release.exists()

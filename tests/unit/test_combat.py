"""ComBat over sites and a hub in two rounds: equal to the pooled one, and what stays at a site."""

from __future__ import annotations

import os
import re

import numpy as np
import pandas as pd
import pytest

from combat_reference import combat
from combat_world import (
    COVARIATES,
    FEATURES,
    LIVER,
    PLACES,
    entry,
    found,
    later,
    only_liver,
    opened,
    pooled,
    settled,
    two_rounds,
    world,
)
from federation_world import protocol
from jipflow.analyses.combat import Combat
from jipflow.cli import joined
from jipflow.files import read_json, sha256_file, write_json
from jipflow.hub.merge import advance, carried, merge
from jipflow.hub.rounds import Outlook
from jipflow.plots import number
from jipflow.provenance import beside
from jipflow.report.hub import write_hub_report
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import write_settings
from models_world import CLINICAL, accepted, stated


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return sites whose features are harmonised without covariates."""
    return settled(tmp_path_factory.mktemp("alone"), ())


@pytest.fixture(scope="module")
def adjusted(tmp_path_factory):
    """Return sites whose features are harmonised beside age and sex."""
    return settled(tmp_path_factory.mktemp("adjusted"), COVARIATES)


@pytest.mark.parametrize(
    ("covariates", "more"),
    [
        ([], {}),
        ([], {"mean": 1e8}),
        (COVARIATES, {}),
        (COVARIATES, {"mean": 1e8}),
        (COVARIATES, {"missing": True}),
    ],
)
def test_two_rounds_equal_the_pooled_table(tmp_path, covariates, more):
    analysis = entry(covariates=covariates) if covariates else entry()
    places = PLACES[:1] if more.get("missing") else PLACES
    made, settings = world(tmp_path, analysis | {"segments": list(places)}, **more)
    _, state, second, _ = two_rounds(made, settings)
    assert advance(accepted=second, settings=settings, round_=2, state=state) is None
    result = merge(accepted=second, settings=settings, round_=2, state=state)
    (found,) = result["analyses"]
    assert len(found["cells"]) == len(FEATURES) * len(places)
    for segment in places:
        table, sites, c = pooled(made, segment, covariates)
        expected = combat(table, sites, c)
        for cell in [cell for cell in found["cells"] if cell["segment"] == segment]:
            g = FEATURES.index(cell["feature"])
            assert cell["reason"] is None
            for i, part in enumerate(cell["by_site"]):
                rows = (sites == part["site"]) & np.isfinite(expected.table[:, g])
                assert part["n"] == rows.sum()
                assert part["shift"] == pytest.approx(expected.gamma[i, g], rel=1e-9)
                assert part["spread"] == pytest.approx(expected.delta[i, g], rel=1e-9)
                after = expected.relative[rows, g]
                assert part["after"]["sd"] == pytest.approx(after.std(ddof=1), rel=1e-9)
                mean = expected.origins[g] + after.mean()
                assert part["after"]["mean"] == pytest.approx(mean, rel=1e-9)
                kept = pd.read_parquet(made[i].root / "harmonised" / "combat.parquet")
                own = kept[kept["segment"] == segment].sort_values("case_id")[cell["feature"]]
                assert own.dropna().to_numpy() == pytest.approx(expected.table[rows, g], rel=1e-9)


def test_what_is_kept_lies_at_the_site_alone(tmp_path):
    made, settings = only_liver(tmp_path)
    state, pasts = opened(made, settings)
    one = made[0]
    assert not (one.root / "harmonised").exists()
    aggregates, _ = later(one, pasts, round_=2, state=state)
    kept = pd.read_parquet(one.root / "harmonised" / "combat.parquet")
    assert list(kept.columns) == [
        *("case_id", "patient", "role", "segmentation", "segment"),
        *sorted(FEATURES),
    ]
    assert set(kept.dtypes.iloc[5:].astype(str)) == {"float64"}
    assert set(kept["case_id"]) == set(one.table["case_id"])
    for cell in aggregates["analyses"][0]["cells"]:
        assert cell["mean"] == pytest.approx(kept[cell["feature"]].mean(), rel=1e-12)
    later(one, pasts, round_=1)
    assert not (one.root / "harmonised").exists()


def test_a_run_writes_the_table_below_the_results_and_records_it(tmp_path, monkeypatch):
    """What `rule candidate` calls, after the first round has left by the site's own ledger."""
    made, settings = only_liver(tmp_path)
    state = stated(settings, accepted(made, settings))
    one = made[0]
    one.send(tmp_path / "inbox")
    results = one.root / "results" / "demo"
    write_settings(tmp_path / "settings.json", one.settings)
    write_json(tmp_path / "state.json", state.plain())
    monkeypatch.setattr(joined, "check_made", lambda *_: None)
    release, record = results / "release" / "r02", tmp_path / "made.json"
    given = {name: one.root / f"{name}.parquet" for name in ("features", "outcomes", "failures")}
    for table in (given["features"], one.root / "cases.tsv"):
        write_json(beside(table), {})
    joined.release_build(
        **given,
        settings=tmp_path / "settings.json",
        cases=one.root / "cases.tsv",
        verdict=one.root / "verdict.json",
        state=tmp_path / "state.json",
        out=release,
        bundles=one.bundles,
        behind=results / "behind" / "r02",
        results=results,
        record=record,
        clinical=[one.root / "clinical.parquet"],
    )
    (kept,) = results.rglob("combat.parquet")
    assert kept == results / "harmonised" / "r02" / "combat.parquet"
    recorded = read_json(record)["outputs"]
    assert recorded[os.path.relpath(kept, record.parent)] == sha256_file(kept)
    assert len(read_json(release / "aggregates.json")["analyses"][0]["cells"]) == len(FEATURES)
    assert "harmonised" in (release / "disclosure.html").read_text()


def test_sites_of_forty_patients_are_enough_for_ten_features_beside_covariates(tmp_path):
    made, settings = world(tmp_path, entry(covariates=COVARIATES), sizes=(40, 41, 42))
    (release,) = accepted(made[:1], settings)
    assert release.disclosure.summary.released == len(FEATURES) * len(PLACES)


def test_a_feature_that_a_site_has_withheld_is_not_in_its_priors(tmp_path):
    """The hub states it for the other sites; here the pooled table has it without this one."""
    made, settings = only_liver(tmp_path, sizes=(64, 75, 97, 58))
    one = made[0]
    one.table.loc[0, FEATURES[1]] = 1e6
    one.write()
    _, state, second, _ = two_rounds(made, settings)
    result = merge(accepted=second, settings=settings, round_=2, state=state)
    table, sites, _ = pooled(made, "liver", ())
    table[sites == one.name, 1] = np.nan
    expected = combat(table, sites)
    cells = {cell["feature"]: cell for cell in result["analyses"][0]["cells"]}
    assert cells[FEATURES[1]]["sites"] == ["site1", "site2", "site3"]
    for g, feature in enumerate(FEATURES):
        for part in cells[feature]["by_site"]:
            i = int(part["site"][-1])
            assert part["shift"] == pytest.approx(expected.gamma[i, g], rel=1e-9)
            assert part["spread"] == pytest.approx(expected.delta[i, g], rel=1e-9)
    kept = pd.read_parquet(one.root / "harmonised" / "combat.parquet")
    assert FEATURES[1] not in kept.columns


def test_one_feature_has_no_priors(tmp_path):
    made, settings = world(tmp_path, entry(variables=[f"CT.{FEATURES[0]}"], **LIVER))
    state, pasts = opened(made, settings)
    left, lost = found(later(made[0], pasts, round_=2, state=state))
    assert (left, lost) == ([], {FEATURES[0]: ["no_priors"]})
    first, state, second, _ = two_rounds(made, settings)
    before = merge(accepted=first, settings=settings)
    result = merge(accepted=second, settings=settings, round_=2, state=state)
    assert result["analyses"][0]["cells"] == []
    (cell,) = carried(result, [before], settings)["analyses"][0]["cells"]
    assert (cell["step"], cell["after"]) == ("sums", None)


def test_features_that_are_one_another_have_no_priors(tmp_path):
    """Twice the same feature has one variance: nothing says how far variances lie apart."""
    made, settings = world(
        tmp_path, entry(variables=[f"CT.{name}" for name in FEATURES[1:3]], **LIVER)
    )
    for one in made:
        one.table[FEATURES[2]] = 2 * one.table[FEATURES[1]]
        one.write()
    state, pasts = opened(made, settings)
    _, lost = found(later(made[0], pasts, round_=2, state=state))
    assert lost == {name: ["no_priors"] for name in FEATURES[1:3]}


def test_of_two_sites_nothing_is_stated(alone):
    first = alone.first[:2]
    assert advance(accepted=first, settings=alone.settings) is None
    (cell, *_) = merge(accepted=first, settings=alone.settings)["analyses"][0]["cells"]
    assert cell["reason"] == "few_sites"
    assert cell["effect"] == {"before": None, "after": None}


def test_a_site_that_left_ends_it(tmp_path):
    made, settings = only_liver(tmp_path, sizes=(64, 75, 97, 58))
    _, state, second, _ = two_rounds(made, settings)
    result = merge(accepted=second[:3], settings=settings, round_=2, state=state)
    for cell in result["analyses"][0]["cells"]:
        assert cell["reason"] == "site_left"
        assert cell["effect"] == {"before": None, "after": None}


def test_the_order_of_messages_does_not_matter(adjusted):
    assert stated(adjusted.settings, adjusted.first[::-1]) == adjusted.state
    one, other = (
        merge(accepted=each, settings=adjusted.settings, round_=2, state=adjusted.state)
        for each in (adjusted.second, adjusted.second[::-1])
    )
    assert one == other


def test_other_analyses_stand_beside_it(tmp_path):
    """A mean, a regression and ComBat of the same features, of which cases lack a covariate."""
    more = [
        {"id": "describe", "kind": "summary", "variables": [f"CT.{FEATURES[0]}"], **LIVER},
        {"id": "spread", "kind": "levene", "variables": [f"CT.{FEATURES[0]}"], **LIVER},
    ]
    made, settings = only_liver(tmp_path, *more, covariates=COVARIATES, missing=True)
    _, state, second, _ = two_rounds(made, settings)
    assert [each.id for each in state.analyses] == ["combat"]
    result = merge(accepted=second, settings=settings, round_=2, state=state)
    assert len(result["analyses"][0]["cells"]) == len(FEATURES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"by": {"of": "manufacturer", "groups": {"a": "A", "b": "B"}}}, "in `covariates`"),
        ({"variables": ["clinical.age"]}, "no features to harmonise"),
        ({"covariates": [{"variable": "clinical.height"}]}, "no clinical variable"),
    ],
)
def test_what_cannot_be_harmonised_is_refused_in_the_protocol(changes, words):
    with pytest.raises(ConfigError, match=words):
        protocol(analyses=[entry(**changes)], clinical=CLINICAL)


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_pages_show_the_sites_before_and_after(adjusted, tmp_path):
    settings = adjusted.settings
    for round_, releases, of in (
        (1, adjusted.first, None),
        (2, adjusted.second, adjusted.state),
    ):
        result = merge(accepted=releases, settings=settings, round_=round_, state=of)
        write_hub_report(
            result=result,
            accepted=releases,
            rejected=[],
            outlook=Outlook(round_, [one.name for one in adjusted.made], [], further=round_ == 1),
            settings=settings,
            path=tmp_path / f"r{round_}.html",
        )
        page = (tmp_path / f"r{round_}.html").read_text(encoding="utf-8")
        assert ("second round is still to come" in text_of(page)) == (round_ == 1)
        assert "covariates (variable clinical.age; center 60; scale 10), (variable" in text_of(page)
        assert page.count('class="site earlier"') == (3 * len(FEATURES) if round_ == 2 else 0)
        assert page.count('class="pooled earlier"') == (len(FEATURES) if round_ == 2 else 0)
        for cell in result["analyses"][0]["cells"]:
            assert f"{100 * cell['effect']['before']['share']:.1f} %" in page
            assert (cell["effect"]["after"] is None) == (round_ == 1)
        sent = releases[0].aggregates.analyses[0]
        drawing = Combat.draw_release(sent)
        assert [group.title.partition(" · ")[0] for group in drawing.groups] == ["liver"] * round_
        shown = " ".join(
            str(cell.text) for group in drawing.groups for row in group.table.rows for cell in row
        )
        for cell in sent.cells:
            numbers = [*cell.means, *(each for row in cell.products for each in row)]
            numbers += [cell.mean, cell.shift, cell.spread, cell.m2] if round_ == 2 else []
            assert all(number(each, 7) in shown for each in numbers)


def test_a_page_names_why_nothing_could_be_estimated(alone):
    analysis = merge(accepted=alone.first[:2], settings=alone.settings)["analyses"][0]
    drawing = Combat.draw_result(analysis, [one.name for one in alone.made])
    shown = [str(cell.text) for cell in drawing.groups[0].table.rows[0]]
    assert "2 of 3" in shown
    assert any("fewer than three sites" in text for text in shown)

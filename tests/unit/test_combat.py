"""ComBat over sites and a hub in two rounds: equal to the pooled one, and nothing more leaves."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from combat_reference import combat
from combat_world import COVARIATES, FEATURES, PLACES, entry, later, pooled, two_rounds, world
from federation_world import protocol
from jipflow.analyses.cells import CellKey
from jipflow.analyses.combat import Combat, Settings, Shared
from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell, Limits
from jipflow.analyses.harmonise import scatter_after
from jipflow.analyses.shrinkage import Batch, posterior
from jipflow.exchange.message import checked
from jipflow.hub.merge import advance, merge
from jipflow.hub.rounds import Outlook
from jipflow.plots import number
from jipflow.release.contents import ReleaseError, formats
from jipflow.report.hub import write_hub_report
from jipflow.settings.resources import ConfigError
from models_world import CLINICAL, accepted, past_of, stated


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


LIVER = {"segments": ["liver"]}


def only_liver(tmp_path, *more, covariates=(), **of_world):
    analysis = entry(**LIVER, **({"covariates": list(covariates)} if covariates else {}))
    return world(tmp_path, analysis, *more, **of_world)


def opened(made, settings):
    """Return what the hub states before the second round, and what has left the first site."""
    return stated(settings, accepted(made, settings)), [past_of(made[0])]


@dataclass
class Settled:
    """Sites that have answered in both rounds, and are changed by no test."""

    made: list
    settings: object
    first: list
    state: object
    second: list
    pasts: list

    def later(self, state=None, pasts=None):
        """Build the second round of the first site again."""
        pasts = self.pasts if pasts is None else pasts
        return later(self.made[0], pasts, round_=2, state=state or self.state)


def settled(folder, covariates):
    made, settings = only_liver(folder, covariates=covariates)
    first, state, second, pasts = two_rounds(made, settings)
    return Settled(made, settings, first, state, second, pasts[made[0].name])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return sites whose features are harmonised without covariates."""
    return settled(tmp_path_factory.mktemp("alone"), ())


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """Return sites whose features are harmonised beside age and sex."""
    return settled(tmp_path_factory.mktemp("beside"), COVARIATES)


@pytest.fixture(params=["alone", "beside"])
def either(request):
    return request.getfixturevalue(request.param)


def found(files):
    """Return the features that leave, and the rules that withhold others."""
    aggregates, record = files
    lost = {
        cell["feature"]: [rule for rule, is_ in cell["rules"].items() if is_ == "withheld"]
        for cell in record["cells"]
        if not cell["released"]
    }
    return [c["feature"] for a in aggregates["analyses"] for c in a["cells"]], lost


def restated(state, **changes):
    """Let the hub state something else of every feature."""
    content = state.plain()
    for cell in content["analyses"][0]["cells"]:
        cell.update(
            {name: change(cell) if callable(change) else change for name, change in changes.items()}
        )
    return checked(formats().state, content, "state.json")


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


def test_nothing_is_harmonised_whose_sums_have_not_left(either):
    left, lost = found(either.later(pasts=[]))
    assert left == []
    assert lost == {name: ["sums_first"] for name in FEATURES}
    assert not (either.made[0].root / "harmonised").exists()


def test_values_that_have_changed_since_are_not_harmonised(tmp_path):
    """The priors would be of other values than left, and the moments would tell of the change."""
    made, settings = only_liver(tmp_path)
    state, pasts = opened(made, settings)
    made[0].table.loc[:9, FEATURES[0]] += 1.0
    made[0].write()
    left, lost = found(later(made[0], pasts, round_=2, state=state))
    assert left == sorted(FEATURES[1:])
    assert lost == {FEATURES[0]: ["sums_first"]}


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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"variance": lambda cell: 3 * cell["variance"]},
        {"mean": lambda cell: cell["mean"] / 2, "mean_rest": 0.0},
        {"slopes": lambda cell: [50.0 for _ in cell["slopes"]], "variance": 1e9},
    ],
)
def test_whatever_the_hub_states_the_second_round_follows_from_the_first(either, changes):
    """The hub knows all that leaves from the sums that it has: shift, variance and moments."""
    first = either.first[0].aggregates.analyses[0].cells
    state = restated(either.state, **changes)
    aggregates, _ = either.later(state)
    sent = aggregates["analyses"][0]["cells"]
    assert len(sent) == len(FEATURES)
    shared = {cell.feature: cell.common for cell in state.analyses[0].cells}
    shifts, spreads = [], []
    for cell in first:
        of = shared[cell.feature]
        weights = np.array([1.0, *(-of.slopes)])
        away = cell.scatter.means - [of.mean, *of.centers] + cell.scatter.rests
        shifts.append(float(away @ weights - of.rest) / of.sd)
        spreads.append(
            float(weights @ cell.scatter.products @ weights) / (cell.n - 1) / of.variance
        )
    rows = np.array([float(cell.n) for cell in first])
    gamma, delta = posterior(Batch(rows, np.array(shifts), np.array(spreads)))
    for cell, before, shift, spread in zip(sent, first, gamma, delta, strict=True):
        assert cell["shift"] == pytest.approx(shift, rel=1e-6)
        assert cell["spread"] == pytest.approx(spread, rel=1e-6)
        after = scatter_after(before.scatter, shared[cell["feature"]], shift, spread)
        assert cell["m2"] == pytest.approx(after.products[0, 0], rel=1e-6)
        assert cell["mean"] == pytest.approx(after.means[0] + after.rests[0], rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"variance": 1e-9},
        {"variance": 5e-324},
        {"slopes": [1e100, -1e100]},
        {"rows": 64},
        {"rows": 20},
    ],
)
def test_what_cannot_be_of_this_site_and_others_is_withheld(beside, changes):
    left, lost = found(beside.later(restated(beside.state, **changes)))
    assert left == []
    assert lost == {name: ["stated_differs"] for name in FEATURES}


def test_an_honest_hub_states_what_each_site_can_believe(tmp_path):
    """Also where a single site has nearly all of the variance."""
    made, settings = only_liver(tmp_path)
    for one in made[1:]:
        for feature in FEATURES:
            middle = one.table[feature].mean()
            one.table[feature] = middle + 1e-4 * (one.table[feature] - middle)
        one.write()
    state, pasts = opened(made, settings)
    assert len(found(later(made[0], pasts, round_=2, state=state))[0]) == len(FEATURES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": -0.5}, "which no values of the feature have"),
        ({"mean": 0.5, "mean_rest": 0.25}, "whose rest is none"),
        ({"rows": 14}, "fewer than of 3 sites"),
        ({"slopes": [0.1]}, "other covariates"),
        ({"centers": []}, "other covariates"),
        ({"centers": [60.0, 1.5]}, "of a covariate that cannot have it"),
    ],
)
def test_a_site_refuses_what_no_values_of_the_variables_have(beside, changes, words):
    content = beside.state.plain()
    (cell,) = [c for c in content["analyses"][0]["cells"] if c["feature"] == FEATURES[1]]
    cell.update(changes)
    state = checked(formats().state, content, "state.json")
    with pytest.raises(ReleaseError, match=words):
        beside.later(state)


@pytest.mark.parametrize("changes", [{"variance": 0.0}, {"variance": -1.0}, {"mean": 1e101}])
def test_a_state_beyond_its_format_is_none(alone, changes):
    with pytest.raises(ConfigError):
        restated(alone.state, **changes)


def test_one_feature_has_no_priors(tmp_path):
    made, settings = world(tmp_path, entry(variables=[f"CT.{FEATURES[0]}"], **LIVER))
    state, pasts = opened(made, settings)
    left, lost = found(later(made[0], pasts, round_=2, state=state))
    assert (left, lost) == ([], {FEATURES[0]: ["no_priors"]})
    _, state, second, _ = two_rounds(made, settings)
    result = merge(accepted=second, settings=settings, round_=2, state=state)
    assert result["analyses"][0]["cells"] == []


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


def test_covariates_that_follow_from_each_other(beside):
    """Of sites that lie, for the gate of an honest one withholds them."""
    first = copy.deepcopy(beside.first)
    for each in first:
        cells = []
        for cell in each.aggregates.analyses[0].cells:
            plain = cell.plain()
            products = plain["products"]
            products[2] = [products[1][0], products[1][1], products[1][1]]
            cells.append(type(cell).model_validate(plain))
        each.aggregates.analyses[0] = each.aggregates.analyses[0].model_copy(
            update={"cells": cells}
        )
    assert advance(accepted=first, settings=beside.settings) is None
    result = merge(accepted=first, settings=beside.settings)
    assert {cell["reason"] for cell in result["analyses"][0]["cells"]} == {"collinear"}


def test_the_order_of_messages_does_not_matter(beside):
    assert stated(beside.settings, beside.first[::-1]) == beside.state
    one, other = (
        merge(accepted=each, settings=beside.settings, round_=2, state=beside.state)
        for each in (beside.second, beside.second[::-1])
    )
    assert one == other


KEY = CellKey("CT", "organs", "liver", FEATURES[1])
EDITS = {
    "n": (lambda cell: cell.update(n=cell["n"] - 1), ImpossibleCell),
    "mean": (lambda cell: cell.update(mean=cell["mean"] + 1e-4), ImpossibleCell),
    "rest": (lambda cell: cell.update(mean_rest=0.01), ImpossibleCell),
    "m2": (lambda cell: cell.update(m2=cell["m2"] * 1.01), ImpossibleCell),
    "nothing left": (lambda cell: cell.update(m2=0.0), ImpossibleCell),
    "shift": (lambda cell: cell.update(shift=cell["shift"] + 0.01), ImpossibleCell),
    "spread": (lambda cell: cell.update(spread=cell["spread"] * 1.01), ImpossibleCell),
    "tiny spread": (lambda cell: cell.update(spread=1e-320), ImpossibleCell),
    "bounds": (lambda cell: cell["means"].__setitem__(0, 1.5), ImpossibleCell),
    "columns": (lambda cell: cell["means"].pop(), ImpossibleCell),
    "product": (lambda cell: cell["products"][1].__setitem__(0, 1e9), ImpossibleCell),
    "sex": (lambda cell: cell["means"].__setitem__(2, 0.5001), ImpossibleCell),
    "equal": (lambda cell: cell["products"][1].__setitem__(1, 0.0), CellBelowMinimum),
}


@pytest.fixture
def honest(beside):
    """Return the state, and the cell of a feature at the first site in both rounds."""
    releases = (beside.first[0].aggregates, beside.second[0].aggregates)
    return [
        next(cell for cell in found.analyses[0].cells if cell.key == KEY)
        for found in (beside.state, *releases)
    ]


def combat_of(**more):
    return Combat(Settings.model_validate(entry(covariates=COVARIATES, **more)))


@pytest.mark.parametrize("edit", EDITS)
def test_the_hub_refuses_moments_that_do_not_follow_from_the_sums(honest, edit):
    shared, _, cell = honest
    limits = Limits(5, 1, 0.0, 1.0, shared)
    combat_of().verify(cell, limits)
    changed = copy.deepcopy(cell.plain())
    change, fault = EDITS[edit]
    change(changed)
    with pytest.raises(fault):
        combat_of().verify(type(cell).model_validate(changed), limits)


def test_the_hub_refuses_the_step_of_another_round(honest):
    shared, first, second = honest
    combat_of().verify(first, Limits(5, 1, 0.0, 1.0))
    for cell, limits in ((first, Limits(5, 1, stated=shared)), (second, Limits(5, 1))):
        with pytest.raises(ImpossibleCell):
            combat_of().verify(cell, limits)


def test_a_site_that_lies_gets_a_reason_and_stops_no_hub(honest):
    """Numbers at the ends of the format, which are of no site's values."""
    shared, _, cell = honest
    content = cell.plain() | {"spread": 1e-320, "shift": 1e100}
    lied = type(cell).model_validate(content)
    sites = {f"s{i}": lied for i in range(3)}
    given = Shared.model_validate(shared.plain() | {"rows": 3 * cell.n})
    result = combat_of().merge(sites, given)
    assert result["reason"] == "out_of_range"


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


def test_the_pages_show_the_sites_before_and_after(beside, tmp_path):
    settings = beside.settings
    for round_, releases, of in ((1, beside.first, None), (2, beside.second, beside.state)):
        result = merge(accepted=releases, settings=settings, round_=round_, state=of)
        write_hub_report(
            result=result,
            accepted=releases,
            rejected=[],
            outlook=Outlook(round_, [one.name for one in beside.made], [], further=round_ == 1),
            settings=settings,
            path=tmp_path / f"r{round_}.html",
        )
        page = (tmp_path / f"r{round_}.html").read_text(encoding="utf-8")
        assert ("come next" in text_of(page)) == (round_ == 1)
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

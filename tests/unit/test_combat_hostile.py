"""ComBat where the hub states what it likes, or sites lie: nothing follows, and nothing stops."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from combat_world import (
    COVARIATES,
    FEATURES,
    entry,
    found,
    later,
    only_liver,
    opened,
    settled,
)
from jipflow.analyses.cells import CellKey
from jipflow.analyses.combat import Combat, Settings, Shared
from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell
from jipflow.analyses.facts import Limits
from jipflow.analyses.harmonise import scatter_after
from jipflow.analyses.shrinkage import Batch, posterior
from jipflow.exchange.message import checked
from jipflow.hub.merge import advance, merge
from jipflow.release.contents import ReleaseError, formats
from jipflow.settings.resources import ConfigError


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return sites whose features are harmonised without covariates."""
    return settled(tmp_path_factory.mktemp("alone"), ())


@pytest.fixture(scope="module")
def adjusted(tmp_path_factory):
    """Return sites whose features are harmonised beside age and sex."""
    return settled(tmp_path_factory.mktemp("adjusted"), COVARIATES)


@pytest.fixture(params=["alone", "adjusted"])
def either(request):
    return request.getfixturevalue(request.param)


def restated(state, **changes):
    """Let the hub state something else of every feature."""
    content = state.plain()
    for cell in content["analyses"][0]["cells"]:
        cell.update(
            {name: change(cell) if callable(change) else change for name, change in changes.items()}
        )
    return checked(formats().state, content, "state.json")


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
def test_what_cannot_be_of_this_site_and_others_is_withheld(adjusted, changes):
    left, lost = found(adjusted.later(restated(adjusted.state, **changes)))
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
def test_a_site_refuses_what_no_values_of_the_variables_have(adjusted, changes, words):
    content = adjusted.state.plain()
    (cell,) = [c for c in content["analyses"][0]["cells"] if c["feature"] == FEATURES[1]]
    cell.update(changes)
    state = checked(formats().state, content, "state.json")
    with pytest.raises(ReleaseError, match=words):
        adjusted.later(state)


@pytest.mark.parametrize("changes", [{"variance": 0.0}, {"variance": -1.0}, {"mean": 1e101}])
def test_a_state_beyond_its_format_is_none(alone, changes):
    with pytest.raises(ConfigError):
        restated(alone.state, **changes)


def test_covariates_that_follow_from_each_other(adjusted):
    """Of sites that lie, for the gate of an honest one withholds them."""
    first = copy.deepcopy(adjusted.first)
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
    assert advance(accepted=first, settings=adjusted.settings) is None
    result = merge(accepted=first, settings=adjusted.settings)
    assert {cell["reason"] for cell in result["analyses"][0]["cells"]} == {"collinear"}


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
def honest(adjusted):
    """Return the state, and the cell of a feature at the first site in both rounds."""
    releases = (adjusted.first[0].aggregates, adjusted.second[0].aggregates)
    return [
        next(cell for cell in found.analyses[0].cells if cell.key == KEY)
        for found in (adjusted.state, *releases)
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


LIES = {
    "slopes": lambda cell: cell.update(products=[[1e199], [1e85, 1e-20], [0.0, 0.0, 10.0]]),
    "a variance that rounds to nothing": lambda cell: cell.update(
        products=[[5e-324], [0.0, 2.0], [0.0, 0.0, 10.0]]
    ),
    "more patients than there are": lambda cell: cell.update(n=10**9),
    "means": lambda cell: cell.update(means=[1e100, -1e100, 0.5]),
}


@pytest.mark.parametrize("lie", LIES)
def test_numbers_at_the_ends_of_the_format_state_nothing(honest, lie):
    """Each is within the format; together they have no common parameters, or none that fit it."""
    _, cell, _ = honest
    content = copy.deepcopy(cell.plain())
    LIES[lie](content)
    sites = {"a": type(cell).model_validate(content), "b": cell, "c": cell}
    if lie in ("slopes", "a variance that rounds to nothing"):
        sites = dict.fromkeys("abc", sites["a"])
    found = combat_of().merge(sites)
    stated_ = combat_of().advance(1, sites)
    assert stated_ is None
    assert found["reason"] == ("collinear" if lie == "means" else "out_of_range")

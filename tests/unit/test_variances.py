"""Tests of equal variances: what they send, that they equal the pooled ones, and who tells what."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from federation_world import MEAN, protocol
from jipflow.analyses import brown_forsythe, levene
from jipflow.analyses.cells import CellKey
from jipflow.analyses.contract import CellBelowMinimum, ImpossibleCell, kinds
from jipflow.analyses.deviations import SendsDistances, equal_variances, from_centre
from jipflow.analyses.facts import Limits
from jipflow.analyses.moments import Moments
from jipflow.analyses.one_way import NOT_FINITE, ONE_GROUP
from jipflow.exchange.message import checked
from jipflow.hub.merge import advance, merge
from jipflow.hub.rounds import Outlook
from jipflow.release.behind import read_behind
from jipflow.release.candidate import build
from jipflow.release.contents import ReleaseError, formats
from jipflow.report.hub import write_hub_report
from jipflow.settings.protocol import Disclosure
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import settings_of
from models_world import accepted, stated, values
from three_sites import MAKERS, MANY, leaves, livers, three, words

CENTRES = {"levene": "mean", "brown_forsythe": "median"}
KEY = CellKey("CT", "organs", "liver", MEAN)
FIVE = Disclosure(min_patients=5)


def entry(kind, id="spread", **more):
    variables = {"variables": [f"CT.{MEAN}"], "segments": ["liver"]}
    return {"id": id, "kind": kind, **variables, **more}


@pytest.mark.parametrize("sizes", [(24, 30, 37), (22, 25, 28, 31, 35, 40, 23, 60, 27, 45)])
@pytest.mark.parametrize("kind", CENTRES)
def test_the_test_over_sites_equals_the_pooled_one(tmp_path, kind, sizes):
    made, settings = three(tmp_path, entry(kind), sizes=sizes)
    result = merge(accepted=accepted(made, settings), settings=settings)
    (cell,) = result["analyses"][0]["cells"]
    expected = stats.levene(*(livers(one) for one in made), center=CENTRES[kind])
    assert cell["test"]["statistic"] == pytest.approx(expected.statistic, rel=1e-9)
    assert cell["test"]["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert cell["test"]["df"] == [len(sizes) - 1, sum(sizes) - len(sizes)]
    assert result == merge(accepted=accepted(made[::-1], settings), settings=settings)


@pytest.mark.parametrize("kind", CENTRES)
def test_a_mean_of_1e8_standard_deviations_costs_nothing(kind):
    """The values have few digits, so that adding 10⁸ to them is exact."""
    rng = np.random.default_rng(2)
    small = [np.round(rng.normal(0, 1 + i / 5, 20 + 7 * i) * 2**20) / 2**20 for i in range(4)]
    expected = stats.levene(*small, center=CENTRES[kind])
    analysis = kinds()[kind](entry_of(kind))
    groups = {str(i): analysis.compute(values(each + 1e8)).moments for i, each in enumerate(small)}
    found = equal_variances(groups)
    assert found["statistic"] == pytest.approx(expected.statistic, rel=1e-9)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-9)


def entry_of(kind, **more):
    module = {"levene": levene, "brown_forsythe": brown_forsythe}[kind]
    return module.Settings.model_validate(entry(kind, **more))


@pytest.mark.parametrize("sizes", [MANY, (55, 50, 43, 41, 60)])
def test_groups_in_all_sites_are_tested_in_two_rounds(tmp_path, sizes):
    made, settings = three(tmp_path, entry("levene", by=MAKERS), sizes=sizes)
    first = accepted(made, settings)
    result = merge(accepted=first, settings=settings)
    assert result["analyses"][0]["tests"] == []
    state = stated(settings, first)
    pooled = [np.concatenate([livers(one, m) for one in made]) for m in ("GE 1", "SIEMENS")]
    means = {cell.key.group: cell.mean for cell in state.analyses[0].cells}
    assert means == pytest.approx({"ge": pooled[0].mean(), "siemens": pooled[1].mean()}, rel=1e-12)
    second = accepted(made, settings, 2, state)
    result = merge(accepted=second, settings=settings, round_=2, state=state)
    (test,) = result["analyses"][0]["tests"]
    expected = stats.levene(*pooled, center="mean")
    assert test["statistic"] == pytest.approx(expected.statistic, rel=1e-9)
    assert test["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert test["groups"] == ["ge", "siemens"]
    assert advance(accepted=second, settings=settings, round_=2, state=state) is None


def test_means_of_two_sites_go_no_further(tmp_path):
    made, settings = three(tmp_path, entry("levene", by=MAKERS), sizes=MANY)
    first = accepted(made[:2], settings)
    assert advance(accepted=first, settings=settings) is None


def test_sites_that_make_up_patients_stop_no_hub(tmp_path):
    """Each number is within the format, and their sum is not."""
    made, settings = three(tmp_path, entry("levene", by=MAKERS), sizes=MANY)
    first = accepted(made, settings)
    for one in first:
        for cell in one.aggregates.analyses[0].cells:
            object.__setattr__(cell, "n", 10**9)
            object.__setattr__(cell, "rows", 10**9)
    assert advance(accepted=first, settings=settings) is None
    (analysis,) = merge(accepted=first, settings=settings)["analyses"]
    assert analysis["ended"] == {"out_of_range": 2}


def test_there_is_no_test_where_a_site_withheld_its_distances(tmp_path):
    made, settings = three(tmp_path, entry("levene", by=MAKERS), sizes=MANY)
    state = stated(settings, accepted(made, settings))
    second = accepted(made[:2], settings, 2, state)
    result = merge(accepted=second, settings=settings, round_=2, state=state)
    (test,) = result["analyses"][0]["tests"]
    assert (test["statistic"], test["df"], test["p"]) == (None, None, None)
    assert test["reason"] == levene.SITE_LEFT


def test_one_group_is_no_test():
    found = equal_variances({"a": from_centre(values(range(20)), 9.5).moments})
    assert found["statistic"] is None
    assert found["reason"] == ONE_GROUP


def test_sites_whose_scatter_is_none_end_no_merge():
    """A hub refuses 0, and of a mean of 0 no other scatter."""
    groups = {name: Moments(20, mean, 0.0, 5e-324) for name, mean in (("a", 0.0), ("b", 1.0))}
    found = equal_variances(groups)
    assert (found["statistic"], found["reason"]) == (None, NOT_FINITE)


@pytest.mark.parametrize("kind", CENTRES)
@pytest.mark.parametrize("above", [1, 4])
def test_the_few_above_a_centre_are_not_half_of_the_distances(kind, above):
    """With one above the mean, the mean and half of the distances are that patient's value."""
    rng = np.random.default_rng(1)
    numbers = np.sort(np.concatenate([rng.normal(50, 3, 30), rng.normal(90, 8, above)]))
    centre = (numbers[-above] + numbers[-above - 1]) / 2
    found = from_centre(values(numbers), centre)
    sums = found.moments.rows * found.moments.mean
    follows = (sums + (numbers - centre).sum()) / 2 + above * centre
    assert follows == pytest.approx(numbers[-above:].sum())
    assert SendsDistances().check(found, 24, FIVE).rule.code == "few_beside"


def test_sides_of_enough_patients_of_whom_one_has_most():
    numbers = np.array([*np.linspace(40, 49, 20), *[50.1, 50.2, 50.15, 50.12, 50.17], 62.0])
    found = from_centre(values(numbers), 50.0)
    assert SendsDistances().check(found, 24, FIVE).rule.code == "few_beside"


def test_sides_count_patients_and_not_cases():
    numbers = np.concatenate([np.linspace(40, 49, 20), np.linspace(51, 58, 8)])
    people = [f"p{i}" for i in range(20)] + ["q0", "q1"] * 4
    found = from_centre(values(numbers, people), 50.0)
    assert SendsDistances().check(found, 24, FIVE).rule.code == "few_beside"
    found = from_centre(values(numbers), 50.0)
    assert hasattr(SendsDistances().check(found, 24, FIVE), "numbers")


RULES = {
    "zero_variance": [60.0] * 20 + [70.0, 75.0, 50.0],
    "dominance": [*np.linspace(1, 2, 20), 900.0],
    "few_levels": [0.0] * 10 + [1.0] * 12 + [2.0] * 2,
}


@pytest.mark.parametrize("kind", CENTRES)
@pytest.mark.parametrize("rule", RULES)
def test_the_rules_of_a_mean_hold(kind, rule):
    analysis = kinds()[kind](entry_of(kind))
    numbers = np.array(RULES[rule])
    assert analysis.check(analysis.compute(values(numbers)), numbers.size, FIVE).rule.code == rule


@pytest.mark.parametrize("kind", CENTRES)
def test_distances_that_are_all_equal_are_withheld(kind):
    """Half of the patients have 10, half of them 20: all lie 5 from the centre."""
    analysis = kinds()[kind](entry_of(kind))
    numbers = np.array([10.0, 20.0] * 12)
    assert analysis.check(analysis.compute(values(numbers)), 24, FIVE).rule.code == "zero_variance"


@pytest.mark.parametrize("other", ["summary", "levene"])
def test_a_median_does_not_follow_beside_a_mean(tmp_path, other):
    """Distances from the median, squared, exceed those from the mean by n (mean - median)²."""
    more = {"by": MAKERS} if other == "levene" else {}
    both = [entry("brown_forsythe", "a"), entry(other, "b", **more)]
    made, _ = three(tmp_path, *both[: 1 + (other == "summary")])
    numbers = livers(made[1])
    found = from_centre(values(numbers), float(np.median(numbers))).moments
    squares = found.m2 + found.rows * found.mean**2
    apart = np.sqrt((squares - numbers.var() * numbers.size) / numbers.size)
    assert min(abs(numbers.mean() + s * apart - np.median(numbers)) for s in (1, -1)) < 1e-6
    made, _ = three(tmp_path / "both", *both)
    assert leaves(made[1]) == (["a"], {"b": ["difference"]})


@pytest.mark.parametrize("order", [("summary", "brown_forsythe"), ("brown_forsythe", "summary")])
def test_nor_does_it_by_two_releases(tmp_path, inbox, order):
    made, _ = three(tmp_path, entry(order[0]))
    made[0].send(inbox)
    content = protocol(analyses=[entry(order[1], "later")])
    content["protocol"]["id"] = "later"
    made[0].settings = settings_of(made[0].settings.site.plain(), content)
    assert leaves(made[0]) == ([], {"later": ["earlier"]})


def test_levene_leaves_beside_a_mean(tmp_path):
    made, _ = three(tmp_path, entry("levene", "a"), entry("summary", "b"))
    assert leaves(made[0]) == (["a", "b"], {})


def test_of_several_centres_only_one_leaves(tmp_path):
    """What lies between two centres would follow: mean and median, all and a group."""
    made, _ = three(tmp_path, entry("brown_forsythe", "b"), entry("levene", "a"))
    assert leaves(made[0]) == (["a"], {"b": ["difference"]})


def with_centre(state, group, centre):
    """Let the hub state another mean of a group."""
    content = state.plain()
    for cell in content["analyses"][0]["cells"]:
        if cell["group"] == group:
            cell.update(mean=centre, mean_rest=0.0)
    return checked(formats().state, content, "state.json")


def test_a_hostile_hub_chooses_a_mean_below_the_greatest_value(tmp_path):
    """One patient above the mean that the hub states: the distances would give the value."""
    made, settings = three(tmp_path, entry("levene", by=MAKERS), sizes=MANY)
    state = stated(settings, accepted(made, settings))
    top = np.sort(livers(made[0], "SIEMENS"))
    for centre in (top[-2:].mean(), top[:2].mean(), top[-5:-3].mean(), 1e6, 0.0):
        aggregates, record = made[0].build(round_=2, state=with_centre(state, "siemens", centre))
        assert [c["group"] for c in aggregates["analyses"][0]["cells"]] == ["ge"]
        lost = next(c["rules"] for c in record["cells"] if not c["released"])
        assert lost["few_beside"] == "withheld"


def after(made, state):
    """Return the record of the second round at a site that has released what it built last."""
    past = read_behind(made.behind).past()
    kept = SimpleNamespace(past=past, sha256="0" * 64, entry=SimpleNamespace(release=None))
    build(
        settings=made.settings,
        **{name: made.root / f"{name}.parquet" for name in ("features", "outcomes", "failures")},
        cases=made.root / "cases.tsv",
        verdict=made.root / "verdict.json",
        ledger=SimpleNamespace(entries=lambda: [kept], draws=SimpleNamespace(drawn=lambda *_: {})),
        behind_dir=made.behind,
        out_dir=made.release,
        round_=2,
        state=state,
    )
    return json.loads((made.release / "disclosure.json").read_text())


def test_the_second_round_leaves_after_the_first(tmp_path):
    """What left before is of the very same values, and its equations count both rounds."""
    made, settings = three(tmp_path, entry("levene", by=MAKERS), sizes=MANY)
    state = stated(settings, accepted(made, settings))
    for one in made:
        record = after(one, state)
        assert record["summary"]["released"] == 2


@pytest.mark.parametrize("moved", [0.0, 0.3, 30.0])
def test_a_hostile_hub_moves_the_mean_from_one_protocol_to_the_next(tmp_path, moved):
    """Distances from two means: their difference is of those who lie between."""
    made, settings = three(tmp_path, entry("levene", by=MAKERS), sizes=MANY)
    state = stated(settings, accepted(made, settings))
    (mean,) = [c.mean for c in state.analyses[0].cells if c.key.group == "siemens"]
    one = made[2]
    one.build(round_=2, state=state)
    record = after(one, with_centre(state, "siemens", mean + moved) if moved else state)
    found = {cell["group"]: cell["rules"]["earlier"] for cell in record["cells"]}
    expected = {0.0: "passed", 0.3: "withheld", 30.0: "not applied"}
    assert found == {"ge": "passed", "siemens": expected[moved]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": -2e9}, "which no values of the feature have"),
        ({"mean": 60.0, "mean_rest": 5.0}, "whose rest is none"),
        ({"rows": 9}, "fewer than of 3 sites"),
    ],
)
def test_a_site_refuses_a_mean_that_no_honest_hub_states(change, words):
    content = {**KEY._replace(feature="volume_ml", group="ge")._asdict()}
    cell = levene.Centre(**content | {"mean": 60.0, "mean_rest": 0.0, "rows": 60} | change)
    with pytest.raises(ImpossibleCell, match=words):
        kinds()["levene"](entry_of("levene", by=MAKERS)).check_stated(cell, 2)


def test_a_site_refuses_a_mean_where_its_own_is_asked_for(tmp_path):
    made, settings = three(tmp_path, entry("levene", by=MAKERS), sizes=MANY)
    state = stated(settings, accepted(made, settings))
    other, settings = three(tmp_path / "other", entry("levene"))
    content = state.plain()
    content["protocol"]["sha256"] = other[0].settings.protocol_sha256
    for cell in content["analyses"][0]["cells"]:
        cell["group"] = ""
    content["analyses"][0]["cells"] = content["analyses"][0]["cells"][:1]
    with pytest.raises(ReleaseError, match="1 rounds at most"):
        other[0].build(round_=2, state=checked(formats().state, content, "state.json"))


def moments_of(kind, **changes):
    module = kinds()[kind]
    content = {**KEY._replace(feature="original_shape_Sphericity")._asdict(), "n": 30, "rows": 30}
    content |= {"of": "distances", "mean": 0.1, "mean_rest": 0.0, "m2": 0.1}
    return module.cell.model_validate(content | changes)


@pytest.mark.parametrize("kind", CENTRES)
@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"mean": -0.1}, ImpossibleCell),
        ({"mean": 1.5}, ImpossibleCell),
        ({"m2": 30.0}, ImpossibleCell),
        ({"rows": 29}, ImpossibleCell),
        ({"rows": 31}, ImpossibleCell),
        ({"mean_rest": 0.01}, ImpossibleCell),
        ({"m2": 0.0}, CellBelowMinimum),
    ],
)
def test_the_hub_refuses_moments_that_no_distances_have(kind, changes, fault):
    """Of sphericities, which lie between 0 and 1."""
    analysis = kinds()[kind](entry_of(kind))
    limits = Limits(5, 1, 0.0, 1.0)
    cell = moments_of(kind, **changes)
    if fault is None:
        analysis.verify(cell, limits)
    else:
        with pytest.raises(fault):
            analysis.verify(cell, limits)


def test_the_hub_refuses_moments_of_another_round():
    by = kinds()["levene"](entry_of("levene", by=MAKERS))
    own = kinds()["levene"](entry_of("levene"))
    centre = levene.Centre(**KEY._asdict(), mean=0.9, mean_rest=0.0, rows=99)
    first, later = Limits(5, 1, 0.0, 1.0), Limits(5, 1, 0.0, 1.0, centre)
    by.verify(moments_of("levene", of="values"), first)
    by.verify(moments_of("levene"), later)
    for analysis, cell, limits in (
        (by, moments_of("levene"), first),
        (by, moments_of("levene", of="values"), later),
        (own, moments_of("levene", of="values"), first),
        (by, moments_of("levene", mean=0.95, m2=0.001), later),
    ):
        with pytest.raises(ImpossibleCell):
            analysis.verify(cell, limits)


def test_medians_of_groups_are_refused():
    with pytest.raises(ConfigError, match="use the kind levene"):
        protocol(analyses=[entry("brown_forsythe", by=MAKERS)])


@pytest.mark.parametrize("kind", CENTRES)
def test_the_pages_show_the_test(tmp_path, kind):
    made, settings = three(tmp_path, entry(kind))
    messages = accepted(made, settings)
    result = merge(accepted=messages, settings=settings)
    write_hub_report(
        result=result,
        accepted=messages,
        rejected=[],
        outlook=Outlook(1, [one.name for one in made], [], further=False),
        settings=settings,
        path=tmp_path / "h.html",
    )
    page = words((tmp_path / "h.html").read_text(encoding="utf-8"))
    test = result["analyses"][0]["cells"][0]["test"]
    assert "liver · organs on CT" in page
    assert f"2, {test['rows'] - 3}" in page
    assert f"{test['statistic']:.3f}"[:4] in page
    drawing = kinds()[kind].draw_release(messages[0].aggregates.analyses[0])
    (row,) = drawing.groups[0].table.rows
    assert [cell.text for cell in row][1:4] == ["distances", "24", "24"]
    assert CENTRES[kind] in drawing.lead


def test_the_pages_show_the_test_of_groups_in_both_rounds(tmp_path):
    made, settings = three(tmp_path, entry("levene", by=MAKERS), sizes=MANY)
    first = accepted(made, settings)
    result = merge(accepted=first, settings=settings)
    drawing = levene.Levene.draw_result(result["analyses"][0], ["site0", "site1", "site2"])
    assert "their distances come next" in drawing.lead
    state = stated(settings, first)
    second = accepted(made, settings, 2, state)
    result = merge(accepted=second, settings=settings, round_=2, state=state)
    drawing = levene.Levene.draw_result(result["analyses"][0], ["site0", "site1", "site2"])
    ((row,),) = [group.table.rows for group in drawing.groups]
    assert row[0].text == "liver · organs on CT"
    assert re.fullmatch(r"ge .* \(\d+\); siemens .* \(\d+\)", row[-1].text)
    without = merge(accepted=second[:2], settings=settings, round_=2, state=state)
    drawing = levene.Levene.draw_result(without["analyses"][0], ["site0", "site1"])
    assert levene.SITE_LEFT in drawing.groups[0].table.rows[0][3].text

"""Quantiles from three sites' tables to the hub's result, round by round, through their files."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest

from federation_world import hub_settings, protocol, site
from jipflow.exchange.message import checked
from jipflow.exchange.refusals import Refused
from jipflow.hub.check import Asked, check_contents
from jipflow.hub.decisions import Accepted
from jipflow.hub.merge import advance, merge
from jipflow.release.contents import ReleaseError, formats

SPREAD = {
    "id": "spread",
    "kind": "quantiles",
    "variables": ["CT.volume_ml"],
    "segments": ["liver"],
    "quantiles": [0.25, 0.5],
    "low": 100,
    "high": 400,
    "bins": 6,
    "rounds": 3,
}
CONTENT = {"analyses": [*protocol()["analyses"][:1], SPREAD]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three sites and the hub's settings."""
    root, content = tmp_path_factory.mktemp("quantiles"), protocol(**CONTENT)
    sites = [site(root, f"site{i}", 90 + 10 * i, content=content) for i in range(3)]
    rng = np.random.default_rng(0)
    for one in sites:
        one.table["volume_ml"] = np.clip(rng.normal(220, 40, len(one.table)), 101, 399)
        one.write()
    return sites, hub_settings(sites, root / "inbox", content)


def answer(one, settings, round_=1, state=None):
    """Return a site's release of a round, which the hub has checked."""
    aggregates, disclosure = one.build(round_=round_, state=state)
    known = formats()
    sent = known.aggregates.model_validate(aggregates)
    record = known.disclosure.model_validate(disclosure)
    check_contents(sent, record, Asked.by(settings.protocol, round_, state))
    return Accepted("a.zip", "0" * 64, one.name, 1, "", [], "", "1.0.0", sent, record)


@pytest.fixture(scope="module")
def rounds(world):
    """All rounds: the state before each, the messages and the result."""
    sites, settings = world
    found, state = [], None
    for round_ in (1, 2, 3):
        accepted = [answer(one, settings, round_, state) for one in sites]
        of_round = {"accepted": accepted, "settings": settings, "round_": round_, "state": state}
        found.append((state, accepted, merge(**of_round)))
        content = advance(**of_round)
        if content is None:
            return found
        state = checked(formats().state, json.loads(json.dumps(content)), "state.json")
    raise AssertionError


def test_rounds_close_in_on_the_quantiles_of_all_rows(world, rounds):
    sites, _ = world
    livers = [one.table.query("segment == 'liver'")["volume_ml"] for one in sites]
    pooled = np.concatenate(livers)
    widths = {0.25: [], 0.5: []}
    for _, _, result in rounds:
        (analysis,) = (a for a in result["analyses"] if a["id"] == "spread")
        (cell,) = analysis["cells"]
        for found in cell["quantiles"]:
            truth = np.quantile(pooled, found["quantile"], method="inverted_cdf")
            lower = -np.inf if found["lower"] is None else found["lower"]
            assert lower <= truth < found["upper"]
            widths[found["quantile"]].append(found["upper"] - lower)
    assert len(rounds) == 3
    for first, second, third in widths.values():
        assert third <= second < first
    assert [a["id"] for a in rounds[1][2]["analyses"]] == ["spread"]


def test_what_a_site_counted_stays_in_each_later_round(rounds):
    for i in range(3):
        cells = [
            cell
            for _, accepted, _ in rounds
            for sent in accepted[i].aggregates.analyses
            if sent.id == "spread"
            for cell in sent.cells
        ]
        for before, after in itertools.pairwise(cells):
            assert set(before.cuts) <= set(after.cuts)
            assert min(after.counts) >= 5


def test_a_site_answers_no_hub_that_asks_for_edges_of_its_own(world, rounds):
    sites, _ = world
    state = rounds[1][0]
    place = "analysis spread: CT organs liver volume_ml: round 2 splits a bin"
    for level, number in ((2, 3), (3, 100), (1, 9)):
        content = copy.deepcopy(state.plain())
        content["analyses"][0]["cells"][0]["splits"] = [[{"level": level, "bin": number}]]
        with pytest.raises(ReleaseError, match=place):
            sites[0].build(round_=2, state=checked(formats().state, content, "state.json"))


def test_the_hub_refuses_edges_that_it_did_not_ask_for(world, rounds):
    _, settings = world
    state, accepted, _ = rounds[2]
    asked = Asked.by(settings.protocol, 3, state)
    check_contents(accepted[0].aggregates, accepted[0].disclosure, asked)
    early = rounds[1][0].model_copy(update={"round": 3})
    fewer = Asked.by(settings.protocol, 3, early)
    refused = []
    for message in accepted:
        try:
            check_contents(message.aggregates, message.disclosure, fewer)
        except Refused as error:
            refused.append(str(error.refusal))
    assert refused
    assert set(refused) == {"impossible_cell"}

"""Cox models from three sites through their gates and ledgers to the hub's result and pages."""

from __future__ import annotations

import json

import numpy as np
import pytest
from statsmodels.duration.hazard_regression import PHReg

from cox_world import AGE, CLINICAL_VARIABLES, SEX, complete, entry, followed
from federation_world import MEAN, protocol
from jipflow.analyses.contract import kinds
from jipflow.exchange.refusals import Refusal, Refused
from jipflow.hub.check import Asked, check_contents
from jipflow.hub.merge import carried, merge
from jipflow.hub.rounds import Outlook
from jipflow.hub.tables import write_tables
from jipflow.release.contents import ReleaseError
from jipflow.report.hub import write_hub_report
from jipflow.settings.resources import ConfigError
from models_world import accepted, build_after, lost, past_of, stated

ENTRIES = [
    entry(covariates=[AGE, SEX]),
    entry("alone", scale=10),
    {"id": "describe", "kind": "summary", "variables": [f"CT.{MEAN}"], "segments": ["liver"]},
]


class Rounds:
    """All rounds of three sites and their hub.

    Attributes:
        made: the sites.
        settings: of the hub.
        releases: what the hub accepted, by round.
        states: what it stated before each round.
        results: its result by round.
    """

    def __init__(self, root, *entries):
        self.made, self.settings = followed(root, *entries)
        self.pasts = {one.name: [] for one in self.made}
        self.releases, self.states, self.results = [], [None], []
        while True:
            round_ = len(self.states)
            state = self.states[-1]
            self.releases.append(accepted(self.made, self.settings, round_, state, self._build))
            for one in self.made:
                self.pasts[one.name].append(past_of(one))
            of_round = {"settings": self.settings, "round_": round_, "state": state}
            result = merge(accepted=self.releases[-1], **of_round)
            self.results.append(carried(result, self.results[-1:], self.settings))
            following = stated(self.settings, self.releases[-1], round_, state)
            if following is None:
                return
            self.states.append(following)

    def _build(self, one, **of_round):
        return build_after(one, self.pasts[one.name], **of_round)

    def cell(self, id):
        """Return the model of an analysis in the last result."""
        found = next(each for each in self.results[-1]["analyses"] if each["id"] == id)
        return found["cells"][0]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return Rounds(tmp_path_factory.mktemp("cox"), *ENTRIES)


def one_place(rows, columns):
    """Return coefficients and standard errors of all rows, iterated to the last digits."""
    x = rows[columns] - rows[columns].mean()
    peer = PHReg(rows["days"], x, rows["dead"], strata=rows["site"], ties="efron")
    beta = peer.fit(disp=0).params
    for _ in range(5):
        beta = beta - np.linalg.solve(peer.hessian(beta), peer.score(beta))
    return beta, np.sqrt(np.diag(np.linalg.inv(-peer.hessian(beta))))


def test_models_through_gates_and_ledgers_equal_one_place(world):
    assert 4 <= len(world.releases) <= 6
    rows = complete(world.made, "age", "sex")
    beta, se = one_place(rows, [MEAN, "age", "sex"])
    cell = world.cell("survival")
    assert (cell["n"], cell["events"], cell["reason"]) == (316, rows["dead"].sum(), None)
    np.testing.assert_allclose([t["estimate"] for t in cell["terms"]], beta, rtol=1e-9)
    np.testing.assert_allclose([t["se"] for t in cell["terms"]], se, rtol=1e-9)
    assert [t["term"] for t in cell["terms"]] == [MEAN, "age", "sex=F"]


def test_a_model_that_is_done_stays_while_others_go_on(world):
    numbers = [len(state.analyses) if state else 0 for state in world.states]
    assert numbers[1] == 2
    by_id = {each["id"]: each["round"] for each in world.results[-1]["analyses"]}
    assert by_id["describe"] == 1
    assert world.cell("alone")["reason"] is None


def test_a_summary_of_more_patients_is_no_contradiction(world):
    assert world.cell("describe")["n"] == 340


def test_every_round_says_whether_another_follows(world):
    for result in world.results[:-1]:
        reasons = [each["cells"][0]["reason"] for each in result["analyses"] if "time" in each]
        terms = [each["cells"][0]["terms"] for each in result["analyses"] if "time" in each]
        assert reasons == [None, None]
        assert [] in terms


def test_pages_show_what_leaves_and_what_follows(world, tmp_path):
    sent = next(a for a in world.releases[1][0].aggregates.analyses if a.id == "survival")
    drawn = kinds()["cox"].draw_release(sent)
    table = drawn.groups[0].table
    assert [str(row[3].text) for row in table.rows] == [MEAN, "age", "sex=F"]
    assert {len(row) for row in table.rows} == {len(table.head)}
    page = report(world, 0, tmp_path / "first.html")
    assert "goes on in another round" in page
    page = report(world, -1, tmp_path / "last.html")
    assert "Hazard ratio" in page
    assert "Variables are in units of 10." in page
    assert "age in units of 10 from 60; sex against M." in page
    write_tables(world.results[-1], tmp_path / "tables")
    lines = (tmp_path / "tables" / "survival.estimates.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("p,ratio,ratio_low,ratio_high")


def report(world, number, path):
    write_hub_report(
        result=world.results[number],
        accepted=world.releases[number],
        rejected=[],
        settings=world.settings,
        outlook=Outlook(1, [], [], further=False),
        path=path,
    )
    return path.read_text()


def changed(world, **changes):
    """Return a state of round 2 in which a hub says something else of the model."""
    state = world.states[1].plain()
    for each in state["analyses"]:
        if each["id"] == "survival":
            each["cells"][0] |= changes
    return type(world.states[1]).model_validate(state)


def test_a_hub_that_chooses_extreme_coefficients_gets_nothing(world):
    one = world.made[0]
    state = changed(world, beta=[1.5, 0.0, 0.0])
    _, record = build_after(one, world.pasts[one.name][:1], round_=2, state=state)
    assert lost(record)["survival"] == ["rests_on_few"]


@pytest.mark.parametrize("changes", [{"beta": [0.1]}, {"steps": [0.1, 0.1]}, {"events": 5}])
def test_a_hub_that_states_no_coefficients_of_the_model_gets_nothing(world, changes):
    with pytest.raises(ReleaseError, match="not what an honest hub says"):
        world.made[0].build(round_=2, state=changed(world, **changes))


def test_a_site_that_answers_for_other_coefficients_is_refused(world):
    release = world.releases[1][0]
    sent = json.loads(json.dumps(release.aggregates.plain()))
    for each in sent["analyses"]:
        if each["id"] == "survival":
            each["cells"][0]["beta"][0] += 0.01
    aggregates = type(release.aggregates).model_validate(sent)
    asked = Asked.by(world.settings.protocol, 2, world.states[1])
    with pytest.raises(Refused) as found:
        check_contents(aggregates, release.disclosure, asked)
    assert found.value.refusal == Refusal.IMPOSSIBLE_CELL


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": "clinical.age_at_death"}, "no clinical variable"),
        ({"time": "clinical.relapse"}, "no time"),
        ({"time": "clinical.score"}, "before the beginning"),
        ({"event": "clinical.score"}, "no variable of the type event"),
        ({"event": "clinical.days"}, "stands twice"),
        ({"time": f"CT.{MEAN}"}, "time"),
        ({"covariates": [{"variable": "clinical.days"}]}, "stands twice"),
        ({"variables": ["clinical.dead"]}, "among `variables`"),
        ({"covariates": [{"variable": "clinical.sex"}]}, "values: [F, M]"),
        ({"rounds": 1}, "rounds"),
        ({"scale": 0}, "scale"),
    ],
)
def test_a_protocol_says_what_is_wrong_with_a_model(changes, message):
    with pytest.raises(ConfigError) as found:
        protocol(analyses=[entry(**changes)], clinical=CLINICAL_VARIABLES)
    assert message in str(found.value)


def test_groups_have_models_of_their_own(tmp_path):
    groups = {"of": "clinical.sex", "groups": {"women": "F", "men": "M"}}
    world = Rounds(tmp_path, entry(by=groups))
    (analysis,) = world.results[-1]["analyses"]
    rows = complete(world.made, "sex")
    for cell, sex in zip(analysis["cells"], (0, 1), strict=True):
        beta, _ = one_place(rows[rows["sex"] == sex], [MEAN])
        assert cell["group"] == ("men" if sex == 0 else "women")
        assert cell["terms"][0]["estimate"] == pytest.approx(beta[0], rel=1e-9)

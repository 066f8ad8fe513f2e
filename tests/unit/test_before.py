"""Sites that are not true to what they sent in the round before: a reason, and no number."""

from __future__ import annotations

import copy
import hashlib

import pytest

import thread_world
from combat_world import COVARIATES, settled
from cox_world import cox, federation, patients
from federation_world import edited, sealed, unpack
from jipflow.analyses.combat_cells import After, Shared, first_moments
from jipflow.analyses.harmonise import scatter_after
from jipflow.analyses.levene import SITE_LEFT
from jipflow.hub.before import answers, going_on
from jipflow.hub.memory import MemoryFault
from jipflow.hub.merge import merge
from models_world import accepted, stated
from test_variances import MAKERS, MANY, entry, three
from thread_world import NAMES, Federation


def forged(cell, shared):
    """Change the sums of a cell of the second round of ComBat so that all else follows."""
    cell["products"][0][0] *= 1.1
    content = After.model_validate(cell)
    after = scatter_after(content.scatter, shared.common, content.shift, content.spread)
    found = first_moments(after)
    cell.update(mean=found.mean, mean_rest=found.mean_rest, m2=found.m2)


def test_a_site_that_sends_other_sums_than_before_through_the_inbox(tmp_path, monkeypatch):
    """The site's machine lies about its own numbers, which a person approves."""
    features = {"variables": ["CT.original_*"], "segments": ["liver"]}
    monkeypatch.setattr(thread_world, "MEDIAN", {"id": "combat", "kind": "combat", **features})
    federation_ = Federation(tmp_path)
    federation_.send(*NAMES)
    federation_.accept()
    assert federation_.close()
    names = dict(zip(NAMES, federation_.send(*NAMES, sent=[1]), strict=True))
    state = federation_.thread.state(2)["analyses"][0]["cells"]
    given = {cell["feature"]: Shared.model_validate(cell) for cell in state}
    north, path = federation_.sites["north"], federation_.inbox / names["north"]
    north.members = unpack(path.read_bytes())

    def lie(aggregates):
        cell = aggregates["analyses"][0]["cells"][0]
        forged(cell, given[cell["feature"]])

    sealed(path, edited(north, aggregates=lie))
    assert federation_.accept()[0] == sorted(NAMES)
    left_out = {each.site: len(each.left_out) for each in federation_.accepted}
    assert left_out == {"north": 1, "south": 0, "west": 0}
    _, stated_ = federation_.receive("north", [1])
    result = merge(
        accepted=federation_.accepted, settings=federation_.settings, round_=2, state=stated_
    )
    first, *others = next(a["cells"] for a in result["analyses"] if a["id"] == "combat")
    assert (first["reason"], first["sites"]) == ("few_sites", ["south", "west"])
    assert {cell["reason"] for cell in others} == {None}


@pytest.fixture(scope="module")
def adjusted(tmp_path_factory):
    return settled(tmp_path_factory.mktemp("adjusted"), COVARIATES)


def test_honest_sites_go_on(adjusted):
    protocol = adjusted.settings.protocol
    for before, now in zip(adjusted.first, adjusted.second, strict=True):
        assert going_on(now.aggregates, before.aggregates, protocol) == (now.aggregates, [])
        _, left_out = going_on(now.aggregates, None, protocol)
        assert len(left_out) == len(now.aggregates.analyses[0].cells)


CHANGES = {
    "n": lambda cell: cell.update(n=cell["n"] + 5),
    "mean": lambda cell: cell["means"].__setitem__(1, cell["means"][1] + 1e-6),
    "product": lambda cell: cell["products"][1].__setitem__(0, cell["products"][1][0] * 1.001),
    "square": lambda cell: cell["products"][2].__setitem__(2, cell["products"][2][2] * 1.001),
}


@pytest.mark.parametrize("change", CHANGES)
def test_sums_of_the_second_round_are_those_of_the_first(adjusted, change):
    now, before = adjusted.second[0].aggregates, adjusted.first[0].aggregates
    content = copy.deepcopy(now.plain())
    CHANGES[change](content["analyses"][0]["cells"][2])
    changed, left_out = going_on(
        type(now).model_validate(content), before, adjusted.settings.protocol
    )
    assert left_out == [f"combat: {now.analyses[0].cells[2].key.words}"]
    assert len(changed.analyses[0].cells) == len(now.analyses[0].cells) - 1


def test_groups_of_which_one_site_has_more_and_another_one_fewer_have_no_test(tmp_path):
    made, settings = three(tmp_path, entry("levene", by=MAKERS), sizes=MANY)
    first = accepted(made, settings)
    state = stated(settings, first)
    second = accepted(made, settings, 2, state)
    for one, other in ((0, 5), (1, -5)):
        cell = second[one].aggregates.analyses[0].cells[0]
        object.__setattr__(cell, "n", cell.n + other)
        object.__setattr__(cell, "rows", cell.rows + other)

    def test_of(releases):
        result = merge(accepted=releases, settings=settings, round_=2, state=state)
        return result["analyses"][0]["tests"][0]

    # By the sum over the sites nothing has changed.
    assert test_of(second)["statistic"] is not None
    for before, now in zip(first, second, strict=True):
        now.aggregates, _ = going_on(now.aggregates, before.aggregates, settings.protocol)
    assert (test_of(second)["statistic"], test_of(second)["reason"]) == (None, SITE_LEFT)


def test_a_cox_model_goes_on_with_as_many_patients_and_events():
    analysis = cox()
    found = federation(analysis, [patients(i, 60) for i in range(3)])
    cell = found.by_site["site0"]
    assert analysis.continues(cell, cell)
    for changes in ({"n": cell.n + 5}, {"events": cell.events - 5}):
        assert not analysis.continues(cell.model_copy(update=changes), cell)
    assert not analysis.continues(cell, None)


def test_a_copy_that_this_version_cannot_read_is_named(tmp_path):
    raw = b"no bundle"
    path = tmp_path / f"north-a1-{hashlib.sha256(raw).hexdigest()}.zip"
    path.write_bytes(raw)
    with pytest.raises(MemoryFault, match="not_a_zip"):
        answers(tmp_path)

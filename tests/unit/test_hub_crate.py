"""The crate of a later round at the hub, whose numbers go on from those of the round before."""

from __future__ import annotations

import pytest

from crate_graphs import graph, ids
from jipflow.crates.hub import hub_crate
from jipflow.hub.decisions import write_accepted, write_rejected
from jipflow.provenance import Making
from jipflow.reasons import StageError
from thread_world import Federation

PLACE = "arcp://name,hub/"


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A hub in round 2, which north and south have answered, and the record of its acceptance."""
    world = Federation(tmp_path_factory.mktemp("hub"))
    world.send("north", "south", "west")
    world.accept()
    assert world.close()
    world.send("north", "south", sent=(1,))
    assert world.accept()[0] == ["north", "south"]
    folder = world.folder / "hub" / "demo" / "rounds" / "r02"
    tables = [folder / "accepted.json", folder / "rejected.json"]
    write_accepted(tables[0], world.accepted)
    write_rejected(tables[1], [])
    record = folder / "hub_accept.provenance.json"
    Making("hub_accept", {}, []).finish(record, tables)
    Making("hub_open", {}, []).finish(folder / "hub_open.provenance.json", [])
    return world, [record, folder / "hub_open.provenance.json"]


def test_a_later_round_names_the_messages_of_the_one_before_that_it_goes_on_from(second):
    world, records = second
    found = graph(hub_crate(world.settings, records, world.accepted, 2))
    read = ids(found["#job/demo/rounds/r02/hub_accept"]["object"])
    files = {round_: sorted(world.thread.received(round_).iterdir()) for round_ in (1, 2)}
    assert [len(each) for each in files.values()] == [3, 2]
    for path in (*files[1], *files[2], *world.thread.files):
        name = f"{PLACE}{path.relative_to(world.folder / 'hub')}"
        assert name in read
        assert found[name]["sha256"] in path.name
    assert len(read) == 5 + len(world.thread.files)
    assert ids(found["./"]["contributor"]) == {"#site/north", "#site/south", "#site/west"}
    assert "messages of 2 were accepted (north, south); missing: west." in str(found["./"])
    assert found["./"]["name"] == "demo 1.0.0, round 2, at hub"
    # The last job of round 1 has opened this one.
    assert "result" not in found["#job/demo/rounds/r02/hub_open"]


def test_the_same_round_is_the_same_crate_in_whatever_order_messages_came(second):
    world, records = second
    first = hub_crate(world.settings, records, world.accepted, 2)
    assert hub_crate(world.settings, records[::-1], world.accepted[::-1], 2) == first


def test_what_a_site_sent_is_in_the_crate_of_no_round(second):
    world, records = second
    data = hub_crate(world.settings, records, world.accepted, 2)
    assert PLACE.encode() in data
    assert b"Ada Roe" not in data
    assert world.hub["roster"][0]["key"].encode() not in data
    assert str(world.folder).encode() not in data


def test_a_crate_before_the_first_round_is_refused(second):
    world, records = second
    hub = world.settings.hub.model_copy(update={"results": str(world.folder / "other")})
    settings = world.settings.model_copy(update={"hub": hub})
    with pytest.raises(StageError, match="No round was opened yet"):
        hub_crate(settings, records, [], 1)

"""What persons approve holds for the very files and the page that they have read."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from federation_world import NOW, protocol, restated, site
from jipflow.exchange import keys, message
from jipflow.exchange.message import PAGE
from jipflow.release import approval
from jipflow.release.approval import Statement, read_approvals
from jipflow.release.behind import read_behind
from jipflow.release.contents import BUILT, TERMS, ReleaseError, record_built
from jipflow.release.terms import settings_sha256
from jipflow.settings.resources import ConfigError


@pytest.fixture
def north(tmp_path):
    world = site(tmp_path, "north")
    world.write()
    world.build()
    return world


@pytest.fixture
def second(tmp_path):
    """Another person: the name and the key."""
    keys.new_key(tmp_path / "second.key")
    return {"name": "Bea Coe", "key_file": tmp_path / "second.key"}


def approve(world, **options):
    given = {"name": "Ada Roe", "key_file": world.approver_key, "now": NOW} | options
    return approval.approve(release_dir=world.release, **given)


def held(world, needed=1, now=NOW):
    return read_approvals(world.release, needed, now)


def names(signed):
    return [each.statement.person.name for each in signed]


def rewritten(world, edit):
    """Write what a person's hand makes of an approval."""
    path = world.release / "approval.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_statement_names_all_that_it_is_about(north):
    (signed,) = approve(north)
    statement = signed.statement
    assert signed.verified
    assert (statement.site, statement.hub, statement.round) == ("north", "hub", 1)
    assert statement.protocol.sha256 == north.settings.protocol_sha256
    assert statement.version == north.settings.version
    assert statement.issued == "2026-11-03T12:00:00Z"
    assert statement.until is None
    assert {name: (a.sha256, a.rounds) for name, a in statement.analyses.items()} == {
        entry.id: (settings_sha256(entry), 1) for entry in north.settings.protocol.analyses
    }
    for name, entry in statement.read().items():
        assert entry == message.describe((north.release / name).read_bytes())
    assert set(statement.read()) == {*message.CONTENT, PAGE}
    assert "attempt" not in json.dumps(signed.plain())
    assert held(north) == [signed]


def test_later_rounds_are_approved_until_a_day(north):
    with pytest.raises(ConfigError, match=r"up to round 4 needs its last day; add --until"):
        approve(north, rounds=4)
    with pytest.raises(ConfigError, match="give that or a later one"):
        approve(north, rounds=0)
    for day in ("tomorrow", "2027-02-30", "2027-2-3", "20270203"):
        with pytest.raises(ConfigError, match="until"):
            approve(north, rounds=4, until=day)
    with pytest.raises(ConfigError, match="is over"):
        approve(north, rounds=4, until="2026-11-02")
    assert not (north.release / "approval.json").exists()
    (signed,) = approve(north, rounds=4, until="2026-11-03")
    assert (signed.statement.last_round, signed.statement.until) == (4, "2026-11-03")
    assert {a.rounds for a in signed.statement.analyses.values()} == {4}


def test_a_statement_that_reaches_later_rounds_without_a_day_is_none(north):
    content = approve(north, rounds=2, until="2026-12-31")[0].statement.plain()
    del content["until"]
    with pytest.raises(ConfigError, match="later rounds are approved until a day only"):
        message.checked(Statement, content, "x")
    content["round"] = 3
    with pytest.raises(ConfigError, match="the rounds end before the one that was read"):
        message.checked(Statement, content, "x")


def test_the_last_day_is_the_whole_day_in_utc(north):
    approve(north, until="2026-11-03")
    assert names(held(north, now=datetime.fromisoformat("2026-11-03T23:59:59Z"))) == ["Ada Roe"]
    assert names(held(north, now=datetime.fromisoformat("2026-11-04T00:30:00+01:00")))
    for later in ("2026-11-04T00:00:00Z", "2026-11-03T23:00:00-03:00"):
        with pytest.raises(ReleaseError, match="ended on 2026-11-03; approve again"):
            held(north, now=datetime.fromisoformat(later))


def test_approving_twice_is_approving_once(north):
    first = approve(north)
    raw = (north.release / "approval.json").read_bytes()
    assert approve(north, now=NOW + timedelta(days=1)) == first
    assert (north.release / "approval.json").read_bytes() == raw


def test_a_second_person_states_the_same(north, second):
    approve(north, rounds=2, until="2027-01-31")
    with pytest.raises(ReleaseError) as caught:
        held(north, needed=2)
    text = str(caught.value)
    assert "Ada Roe has approved" in text
    assert "a second person is missing, by disclosure.approvers: 2 of site.yaml" in text
    assert text.endswith("--name NAME --key FILE --rounds 2 --until 2027-01-31")
    both = approve(north, rounds=2, until="2027-01-31", now=NOW + timedelta(days=1), **second)
    assert names(both) == ["Ada Roe", "Bea Coe"]
    assert held(north, needed=2, now=NOW + timedelta(days=2)) == both
    assert held(north, needed=1) == both
    raw = (north.release / "approval.json").read_bytes()
    for again in ({}, second):
        assert approve(north, rounds=2, until="2027-01-31", **again) == both
    assert (north.release / "approval.json").read_bytes() == raw


@pytest.mark.parametrize(
    ("terms", "differing"),
    [
        ({"rounds": 3, "until": "2027-01-31"}, "last round 2 and 3"),
        ({"rounds": 2, "until": "2027-01-30"}, "last day 2027-01-31 and 2027-01-30"),
        ({}, "last day 2027-01-31 and none"),
    ],
)
@pytest.mark.parametrize("other", [True, False])
def test_other_terms_are_refused_with_what_differs(north, second, terms, differing, other):
    first = approve(north, rounds=2, until="2027-01-31")
    with pytest.raises(ReleaseError, match=r"approved .* with other terms") as caught:
        approve(north, **terms, **(second if other else {}))
    assert differing in str(caught.value)
    assert "State the same (--rounds 2 --until 2027-01-31)" in str(caught.value)
    assert held(north) == first
    (north.release / "approval.json").unlink()
    assert len(approve(north, **terms)) == 1


def test_a_third_person_is_refused(north, second, tmp_path):
    approve(north)
    both = approve(north, **second)
    keys.new_key(tmp_path / "third.key")
    with pytest.raises(ReleaseError, match=r"Ada Roe and Bea Coe have approved .* no third person"):
        approve(north, name="Cid Poe", key_file=tmp_path / "third.key")
    assert held(north, 2) == both


def test_one_person_is_not_two(north, second):
    """Neither by a second name nor by a second key."""
    first = approve(north)
    with pytest.raises(ReleaseError, match="the key under another name"):
        approve(north, name="Bea Coe")
    with pytest.raises(ReleaseError, match="the name with another key"):
        approve(north, key_file=second["key_file"])
    assert held(north) == first


def test_two_statements_of_one_person_are_none_of_two(north):
    (signed,) = approve(north)
    rewritten(north, lambda content: content.append(signed.plain()))
    with pytest.raises(ReleaseError, match="two statements have one name"):
        held(north, 2)
    path = north.release / "approval.json"
    (content,) = json.loads(path.read_text())[:1]
    content["statement"]["person"]["name"] = "Bea Coe"
    members = restated({"approvals.json": json.dumps([content])}, north)
    path.write_text(json.dumps([signed.plain(), *json.loads(members["approvals.json"])]))
    with pytest.raises(ReleaseError, match="two statements have one key"):
        held(north, 2)


def test_two_persons_who_state_other_terms_are_none_of_two(north, second, tmp_path):
    """Where both signed at once, each without the other's."""
    approve(north, rounds=2, until="2027-01-31")
    path = north.release / "approval.json"
    first = json.loads(path.read_text())
    path.unlink()
    approve(north, **second)
    path.write_text(json.dumps(first + json.loads(path.read_text())))
    with pytest.raises(ReleaseError, match=r"state other terms: .*last round 2 and 1"):
        held(north, 2)


@pytest.mark.parametrize("content", ["[]", "{}", "[1]", "null", '"x"'])
def test_what_is_no_list_of_statements_is_refused(north, content):
    approve(north)
    path = north.release / "approval.json"
    path.write_text(content)
    with pytest.raises(ReleaseError, match=r"has another form .* approve again: remove it, read "):
        held(north)
    assert names(approve(north)) == ["Ada Roe"]


def test_three_statements_are_refused(north, second):
    approve(north)
    approve(north, **second)
    rewritten(north, lambda content: content.append(content[0]))
    with pytest.raises(ReleaseError, match="no list of the statements of one or two persons"):
        held(north)


def test_nobody_has_approved(north):
    with pytest.raises(ReleaseError, match=r"Nobody has approved this release\. Read .*--key FILE"):
        held(north)


@pytest.mark.parametrize("name", [PAGE, *message.CONTENT])
def test_what_was_changed_after_approval_is_not_approved(north, name):
    approve(north)
    path = north.release / name
    path.write_text(path.read_text() + " ")
    with pytest.raises(ReleaseError, match="was changed after"):
        held(north)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content[0]["statement"].update(until="2029-01-01"),
        lambda content: content[0]["statement"]["person"].update(name="Eve Roe"),
        lambda content: content[0]["statement"].update(issued="2026-11-03T12:00:01Z"),
        lambda content: content[0].update(signature="0" * 128),
    ],
)
def test_a_changed_statement_is_refused(north, edit):
    approve(north, until="2027-01-31")
    rewritten(north, edit)
    with pytest.raises(ReleaseError, match="changed after it was signed; approve again"):
        held(north)
    # It stands in nobody's way.
    assert names(approve(north)) == ["Ada Roe"]
    assert names(held(north)) == ["Ada Roe"]


def test_an_approval_that_is_no_json_is_refused(north):
    approve(north)
    (north.release / "approval.json").write_text("{")
    with pytest.raises(ReleaseError, match="is not JSON any more; approve again"):
        held(north)


def test_statements_about_other_files_are_replaced(north, second):
    approve(north)
    approve(north, **second)
    north.table = north.table[north.table["case_id"] != "casenorth0011"]
    north.write()
    north.build()
    with pytest.raises(ReleaseError, match="changed after Ada Roe approved"):
        held(north)
    assert names(approve(north, rounds=2, until="2027-01-31", **second)) == ["Bea Coe"]


def test_statements_that_are_over_are_replaced(north):
    approve(north, rounds=2, until="2026-11-04")
    later = NOW + timedelta(days=2)
    (signed,) = approve(north, rounds=3, until="2026-12-31", now=later)
    assert (signed.statement.last_round, signed.statement.issued) == (3, "2026-11-05T12:00:00Z")
    assert held(north, now=later) == [signed]


def test_aggregates_changed_after_the_gate_cannot_be_approved(north):
    path = north.release / "aggregates.json"
    path.write_text(path.read_text().replace('"min_patients": 5', '"min_patients": 6'))
    with pytest.raises(ReleaseError, match="changed after the disclosure gate"):
        approve(north)


def test_numbers_that_were_changed_after_the_page_was_read_cannot_be_approved(north):
    """Another number, and the record made to fit: the page that was read is of the one before."""
    path = north.release / "aggregates.json"
    path.write_text(path.read_text().replace('"rows": 12', '"rows": 13'))
    record = json.loads((north.release / "disclosure.json").read_text())
    record["aggregates_sha256"] = message.describe(path.read_bytes()).sha256
    (north.release / "disclosure.json").write_text(json.dumps(record))
    with pytest.raises(
        ReleaseError, match=r"aggregates\.json was changed after it was built; build"
    ):
        approve(north)
    # Who notes new hashes as well has still the page of other files.
    record_built(north.release, read_behind(north.behind), [])
    with pytest.raises(ReleaseError, match=r"does not show aggregates\.json as it is now"):
        approve(north)
    assert not (north.release / "approval.json").exists()


def test_a_record_that_was_changed_after_the_page_was_read_cannot_be_approved(north):
    path = north.release / "disclosure.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(ReleaseError, match=r"disclosure\.json was changed after it was built"):
        approve(north)
    record_built(north.release, read_behind(north.behind), [])
    with pytest.raises(ReleaseError, match=r"does not show disclosure\.json as it is now"):
        approve(north)


@pytest.mark.parametrize("name", [PAGE, TERMS])
def test_another_page_or_terms_than_were_built_cannot_be_approved(north, name):
    path = north.release / name
    path.write_text(path.read_text() + " ")
    with pytest.raises(ReleaseError, match=f"{name} was changed after it was built"):
        approve(north)


@pytest.mark.parametrize("name", [PAGE, BUILT, TERMS])
def test_a_release_without_its_page_cannot_be_approved(north, name):
    text = (north.release / name).read_text()
    (north.release / name).unlink()
    with pytest.raises(ReleaseError, match=f"{name} is missing; build the release again"):
        approve(north)
    (north.release / name).write_text(text[1:])
    with pytest.raises(ReleaseError, match="build the release again"):
        approve(north)
    (north.release / name).write_text(text)
    (signed,) = approve(north)
    assert signed.statement.page == message.describe((north.release / PAGE).read_bytes())


def test_a_release_of_nothing_is_approved_only_if_that_is_meant(tmp_path):
    world = site(tmp_path, "north", patients=4)
    world.write()
    _, record = world.build()
    assert record["summary"]["released"] == 0 < record["summary"]["cells"]
    with pytest.raises(ReleaseError, match=r"No cell would leave.*--empty"):
        approve(world)
    assert not (world.release / "approval.json").exists()
    approve(world, empty=True)
    assert names(held(world)) == ["Ada Roe"]


def test_approval_needs_a_name_a_key_and_a_release(north, tmp_path):
    with pytest.raises(keys.KeyFault, match="jipflow keys new"):
        approve(north, key_file=tmp_path / "none.key")
    with pytest.raises(ConfigError, match=r"person\.name"):
        approve(north, name="")
    north.root = tmp_path / "elsewhere"
    with pytest.raises(ReleaseError, match="build the release first"):
        approve(north)


def test_other_settings_of_an_analysis_are_another_analysis(north, tmp_path):
    (before,) = approve(north)
    content = protocol()
    content["analyses"][1]["edges"] = [0, 150, 400]
    other = site(tmp_path / "other", "north", content=content)
    other.write()
    other.build()
    (after,) = approve(other)
    changed = {
        name
        for name, analysis in after.statement.analyses.items()
        if analysis != before.statement.analyses[name]
    }
    assert changed == {"volumes"}

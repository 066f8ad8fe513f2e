"""A later round leaves without a person only where all that a person relied on is as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from federation_world import NOW, show, site
from jipflow.analyses.cells import CellKey
from jipflow.exchange import keys, message
from jipflow.release import approval
from jipflow.release.approval import Signed
from jipflow.release.behind import read_behind
from jipflow.release.contents import ReleaseError, read_release
from jipflow.release.cover import Later, approvals_for, cells_of, covers
from jipflow.release.revocation import revoked_in
from jipflow.release.terms import Terms

LAST_DAY = "2027-01-31"


def approve(world, **options):
    given = {"name": "Ada Roe", "key_file": world.approver_key, "now": NOW} | options
    return approval.approve(release_dir=world.release, **given)


def past(world):
    return read_behind(world.behind).past()


def as_round(world, round_):
    """Let a candidate be one of a later round, as a build of that round makes it."""
    aggregates, record = (json.loads((world.release / n).read_text()) for n in message.CONTENT)
    aggregates["round"] = record["round"] = round_
    text = json.dumps(aggregates)
    record["aggregates_sha256"] = message.describe(text.encode()).sha256
    (world.release / "aggregates.json").write_text(text)
    (world.release / "disclosure.json").write_text(json.dumps(record))
    show(world.release, world.behind, [kept.sha256 for kept in world.ledger.entries()])


@pytest.fixture
def north(tmp_path):
    world = site(tmp_path, "north")
    world.write()
    world.build()
    return world


@pytest.fixture
def second(north):
    """What is covered: an approval of three rounds, and a second round of the same cells."""
    signed = approve(north, rounds=3, until=LAST_DAY)
    cells = cells_of(past(north))
    header = read_release(north.release).disclosure.model_copy(update={"round": 2})
    return signed, Later(header, Terms.of(north.settings), cells, dict(cells))


def changed(later, **header):
    return replace(later, header=later.header.model_copy(update=header))


def test_the_same_cells_of_the_same_patients_are_covered(second):
    signed, later = second
    assert covers(signed, later, NOW) == []
    assert covers(signed, changed(later, round=3), NOW + timedelta(days=80)) == []
    fewer = dict(list(later.cells.items())[:1])
    assert covers(signed, replace(later, cells=fewer), NOW) == []


def test_nothing_covers_without_a_statement_that_holds(second):
    signed, later = second
    assert covers([], later, NOW) == ["Nobody has approved an earlier round."]
    content = signed[0].plain()
    content["statement"]["until"] = "2037-01-31"
    (why,) = covers([Signed.model_validate(content)], later, NOW)
    assert "is not signed by the person it names" in why
    (why,) = covers([*signed, *signed], later, NOW)
    assert "two statements have one name" in why


def test_more_rounds_than_approved(second):
    signed, later = second
    assert covers(signed, changed(later, round=4), NOW) == [
        f"The analysis {name} was approved up to round 3, this is round 4."
        for name in ("describe", "volumes")
    ]


def test_an_approval_that_is_over(second):
    signed, later = second
    assert covers(signed, later, NOW + timedelta(days=90)) == [f"The approval ended on {LAST_DAY}."]


def test_another_text_of_the_protocol(second):
    signed, later = second
    other = later.header.protocol.model_copy(update={"sha256": "0" * 64, "version": "1.1.0"})
    assert covers(signed, changed(later, protocol=other), NOW) == [
        "Approved was another text of the protocol: demo 1.0.0, now it is demo 1.1.0."
    ]


@pytest.mark.parametrize(
    ("field", "name"),
    [("site", "site"), ("recipient", "hub"), ("version", "version of jipflow")],
)
def test_another_place_or_version(second, field, name):
    signed, later = second
    value = "9.9.9" if field == "version" else "elsewhere"
    (why,) = covers(signed, changed(later, **{field: value}), NOW)
    assert why.startswith(f"Approved was another {name}: ")
    assert why.endswith(f"now it is {value}.")


def test_an_approval_of_this_round_covers_no_other_numbers_of_it(second):
    signed, later = second
    (why,) = covers(signed, changed(later, round=1), NOW)
    assert why == "Approved was round 1, which is not before round 1."


def test_an_analysis_of_other_settings(second):
    signed, later = second
    terms = later.terms.model_copy(
        update={"analyses": {**later.terms.analyses, "describe": "0" * 64}}
    )
    changed_settings = replace(later, terms=terms)
    assert covers(signed, changed_settings, NOW) == [
        "The settings of the analysis describe are not those that were approved."
    ]
    # An analysis of which no cell leaves asks for nothing.
    only = {cell: patients for cell, patients in later.cells.items() if cell[0] == "volumes"}
    assert covers(signed, replace(changed_settings, cells=only), NOW) == []


def test_an_analysis_that_was_not_approved(second):
    signed, later = second
    cell = ("survival", CellKey("CT", "organs", "liver", "volume_ml"))
    more = {**later.cells, cell: "f" * 64}
    assert covers(signed, replace(later, cells=more, before=more), NOW) == [
        "The analysis survival was not approved."
    ]


def test_a_cell_that_did_not_leave_before(second):
    signed, later = second
    gone = ("volumes", CellKey("CT", "organs", "liver", "volume_ml"))
    before = {cell: patients for cell, patients in later.before.items() if cell != gone}
    assert covers(signed, replace(later, before=before), NOW) == [
        "1 cell did not leave in round 1, such as volumes: CT organs liver volume_ml."
    ]
    number = len(later.cells)
    (why,) = covers(signed, replace(later, before={}), NOW)
    assert why.startswith(f"{number} cells did not leave in round 1, such as describe: CT organs ")


def test_a_cell_of_other_patients(north, second):
    signed, later = second
    north.table = north.table[north.table["case_id"] != "casenorth0011"]
    north.write()
    north.build()
    fewer = cells_of(past(north))
    assert fewer.keys() == later.cells.keys()
    (why,) = covers(signed, replace(later, cells=fewer), NOW)
    assert why.startswith(f"{len(fewer)} cells are of other patients than in round 1, such as ")
    one = next(iter(sorted(later.cells)))
    (why,) = covers(signed, replace(later, cells={**later.cells, one: fewer[one]}), NOW)
    assert why.startswith("1 cell is of other patients than in round 1, such as ")


def test_a_round_of_which_nothing_leaves(second):
    signed, later = second
    assert covers(signed, replace(later, cells={}), NOW) == [
        "No cell would leave; a person states so with --empty."
    ]


def test_fewer_persons_than_the_site_wants_now(second):
    signed, later = second
    terms = later.terms.model_copy(update={"approvers": 2})
    (why,) = covers(signed, replace(later, terms=terms), NOW)
    assert why.startswith("Ada Roe alone approved the earlier round, and the site wants two")


def test_every_reason_is_given(second):
    signed, later = second
    all_at_once = replace(changed(later, round=4, site="south"), before={})
    assert len(covers(signed, all_at_once, NOW + timedelta(days=90))) == 5


def held(world, now=NOW):
    return approvals_for(
        release_dir=world.release,
        terms=Terms.of(world.settings),
        candidate=past(world),
        entries=world.ledger.entries(),
        revoked=revoked_in(Path(world.settings.site.identity.audit_file)),
        now=now,
    )


def test_a_candidate_of_a_later_round_stands_by_the_approval_of_the_one_before(north, tmp_path):
    signed = approve(north, rounds=2, until=LAST_DAY)
    assert held(north) == signed
    north.pack(tmp_path / "out")
    (north.release / "approval.json").unlink()
    as_round(north, 2)
    assert held(north) == signed
    with pytest.raises(ReleaseError) as caught:
        held(north, NOW + timedelta(days=90))
    text = str(caught.value)
    assert (
        "Round 2 is not covered by the approval by Ada Roe of an earlier round: The appro" in text
    )
    assert f"ended on {LAST_DAY}. Read {north.release}" in text
    assert "jipflow release approve" in text
    as_round(north, 3)
    with pytest.raises(ReleaseError, match="Nothing left in round 2"):
        held(north)


def test_what_an_approval_of_one_round_does_not_cover_is_approved_anew(north, tmp_path):
    approve(north)
    north.pack(tmp_path / "out")
    (north.release / "approval.json").unlink()
    as_round(north, 2)
    with pytest.raises(ReleaseError, match="describe was approved up to round 1, this is round 2"):
        held(north)
    later = NOW + timedelta(days=1)
    own = approve(north, rounds=4, until=LAST_DAY, now=later)
    assert held(north, later) == own
    assert own[0].statement.round == 2


def test_a_round_is_covered_by_who_approved_the_release_that_left_last(north, tmp_path):
    """Another attempt of round 1, approved for that round alone, takes the reach of the first."""
    approve(north, rounds=2, until=LAST_DAY)
    north.pack(tmp_path / "out")
    (north.release / "approval.json").unlink()
    keys.new_key(tmp_path / "second.key")
    approve(north, name="Bea Coe", key_file=tmp_path / "second.key")
    north.pack(tmp_path / "out")
    (north.release / "approval.json").unlink()
    as_round(north, 2)
    with pytest.raises(ReleaseError, match="by Bea Coe of an earlier round: The analysis describe"):
        held(north)


def test_another_hub_or_protocol_has_rounds_of_its_own(north, tmp_path):
    approve(north, rounds=2, until=LAST_DAY)
    north.pack(tmp_path / "out")
    (north.release / "approval.json").unlink()
    addressee = north.settings.site.hub.model_copy(update={"id": "elsewhere"})
    here = north.settings.site.model_copy(update={"hub": addressee})
    north.settings = north.settings.model_copy(update={"site": here})
    north.build()
    as_round(north, 2)
    with pytest.raises(ReleaseError, match="Nothing left in round 1"):
        held(north)


def test_an_approval_that_is_there_and_does_not_hold_is_named(north, tmp_path):
    """Not the earlier one: a person has begun to approve this round."""
    approve(north)
    north.pack(tmp_path / "out")
    as_round(north, 2)
    with pytest.raises(ReleaseError, match=r"aggregates\.json was changed after Ada Roe approved"):
        held(north)


def test_the_first_round_is_covered_by_nobody(north):
    with pytest.raises(ReleaseError, match="Nobody has approved this release"):
        held(north)


def test_who_has_read_a_later_round_may_approve_less(north, tmp_path):
    approve(north, rounds=3, until=LAST_DAY)
    north.pack(tmp_path / "out")
    (north.release / "approval.json").unlink()
    as_round(north, 2)
    own = approve(north)
    assert held(north) == own

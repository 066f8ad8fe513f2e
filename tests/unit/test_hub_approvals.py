"""A hub takes what persons of the site's roster have approved, and nothing that exceeds it."""

from __future__ import annotations

import json

import pytest

from federation_world import (
    NOW,
    accept,
    hub_settings,
    public,
    reseal,
    restated,
    sealed,
    sent,
    site,
    zipped,
)
from jipflow.exchange import keys, message
from jipflow.exchange.message import FileEntry, ProtocolVersion, canonical
from jipflow.exchange.refusals import Refused
from jipflow.hub.approvals import check_approvals
from jipflow.release.approval import Signed, Statement, signed_list
from jipflow.settings.hub import Member
from jipflow.settings.resources import ConfigError

PROTOCOL = ProtocolVersion(id="demo", version="1.0.0", sha256="a" * 64, parts={})
FILES = {
    name: FileEntry(size=9, sha256=digit * 64)
    for name, digit in zip(message.CONTENT, "12", strict=True)
}
OTHER = FILES | {"aggregates.json": FileEntry(size=9, sha256="3" * 64)}
SETTINGS = {"describe": "d" * 64, "volumes": "e" * 64}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """The private key of each person, by name."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ada", "bea", "eve"):
        keys.new_key(folder / name)
    names = {"Ada Roe": "ada", "Bea Coe": "bea", "Eve Poe": "eve"}
    return {name: keys.load_key(folder / file) for name, file in names.items()}


@pytest.fixture
def stated(people):
    """Return what a person states and signs."""

    def state(name="Ada Roe", rounds=1, key=None, sign=None, **changes):
        key = key or people[name]
        content = {
            "protocol": {"id": "demo", "version": "1.0.0", "sha256": "a" * 64},
            "site": "north",
            "hub": "hub",
            "version": "0.2.0",
            "round": 1,
            "analyses": {
                id_: {"sha256": sha256, "rounds": rounds} for id_, sha256 in SETTINGS.items()
            },
            "files": {name: entry.plain() for name, entry in FILES.items()},
            "page": {"size": 5, "sha256": "f" * 64},
            "person": {"name": name, "key": keys.public_text(key)},
            "issued": "2026-11-03T12:00:00Z",
            **({"until": "2027-01-31"} if rounds > 1 else {}),
        }
        statement = Statement.model_validate(content | changes)
        signature = keys.sign(sign or key, canonical(statement.plain()))
        return Signed(statement=statement, signature=signature)

    return state


@pytest.fixture
def check(people):
    """Return how a hub checks the statements of a message of the site north."""
    member = Member.model_validate(
        {
            "site": "north",
            "key": "ed25519:" + "9" * 64,
            "approvers": [
                {"name": name, "key": keys.public_text(people[name])}
                for name in ("Ada Roe", "Bea Coe")
            ],
        }
    )

    def refusal(*approvals, **changes):
        given = {
            "protocol": PROTOCOL,
            "site": "north",
            "recipient": "hub",
            "round_": 1,
            "issued": "2026-11-03T12:00:00Z",
            "files": FILES,
            "analyses": SETTINGS,
            "member": member,
        }
        try:
            check_approvals(approvals, **(given | changes))
        except Refused as refused:
            return str(refused.refusal), refused.detail
        return None

    return refusal


def test_the_very_files_of_the_message(stated, check):
    assert check(stated()) is None
    assert check(stated(), stated("Bea Coe")) is None
    assert check(stated(rounds=4)) is None
    assert check(stated(), analyses={}) is None


def test_nobody(check):
    assert check()[0] == "approval_missing"


def test_who_is_not_on_the_roster(stated, check, people):
    assert check(stated("Eve Poe")) == ("unknown_approver", "Eve Poe")
    assert check(stated(), stated("Eve Poe"))[0] == "unknown_approver"
    # Neither a known name with another key, nor a known key under another name.
    assert check(stated(key=people["Eve Poe"]))[0] == "unknown_approver"
    assert check(stated("Ada Row", key=people["Ada Roe"]))[0] == "unknown_approver"


def test_who_did_not_sign(stated, check, people):
    assert check(stated(sign=people["Eve Poe"])) == ("approval_signature", "Ada Roe")
    assert check(stated(), stated("Bea Coe", sign=people["Ada Roe"]))[0] == "approval_signature"
    signed = stated()
    forged = signed.statement.model_copy(update={"hub": "elsewhere"})
    assert check(signed.model_copy(update={"statement": forged}))[0] == "approval_signature"


def test_one_person_twice(stated, check):
    code, detail = check(stated(), stated(issued="2026-11-03T12:00:01Z"))
    assert (code, detail) == ("approval_mismatch", "two statements have one name")


def test_two_persons_with_other_terms(stated, check):
    code, detail = check(stated(rounds=3), stated("Bea Coe", rounds=4))
    assert code == "approval_mismatch"
    assert "last round 3 and 4" in detail


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"protocol": {"id": "demo", "version": "1.0.0", "sha256": "b" * 64}}, "protocol"),
        ({"protocol": {"id": "other", "version": "1.0.0", "sha256": "a" * 64}}, "protocol"),
        ({"site": "south"}, "site"),
        ({"hub": "elsewhere"}, "hub"),
    ],
)
def test_what_was_approved_for_others(stated, check, changes, what):
    expected = ("approval_mismatch", f"approved for another {what}")
    assert check(stated(**changes)) == expected
    assert check(stated(rounds=2, **changes), round_=2, files=OTHER) == expected


def test_other_files_of_the_same_round(stated, check):
    expected = ("approval_mismatch", "approved was another aggregates.json")
    assert check(stated(), files=OTHER) == expected
    assert check(stated(rounds=4), files=OTHER) == expected
    assert check(stated(), files={})[0] == "approval_mismatch"


def test_an_approval_of_an_earlier_round_reaches_as_far_as_it_says(stated, check):
    for round_ in (2, 3):
        assert check(stated(rounds=3), round_=round_, files=OTHER) is None
    detail = "up to round 3, the message is of 4"
    assert check(stated(rounds=3), round_=4, files=OTHER) == ("approval_exceeded", detail)
    assert check(stated(), round_=2, files=OTHER)[0] == "approval_exceeded"
    # The very files of an earlier round are no approval of the same numbers later.
    assert check(stated(), round_=2)[0] == "approval_exceeded"


def test_an_approval_of_a_later_round_is_none_of_this(stated, check):
    later = stated(round=2, rounds=2)
    assert check(later) == ("approval_mismatch", "of round 2, the message is of 1")


def test_each_analysis_reaches_as_far_as_it_says(stated, check):
    analyses = {
        "describe": {"sha256": "d" * 64, "rounds": 1},
        "volumes": {"sha256": "e" * 64, "rounds": 4},
    }
    signed = stated(rounds=4, analyses=analyses)
    assert check(signed, round_=3, files=OTHER, analyses={"volumes": "e" * 64}) is None
    detail = "analysis describe up to round 1, the message is of 3"
    assert check(signed, round_=3, files=OTHER) == ("approval_exceeded", detail)


@pytest.mark.parametrize("round_", [1, 2])
def test_an_analysis_of_another_text(stated, check, round_):
    changed = {"analyses": SETTINGS | {"volumes": "0" * 64}, "round_": round_}
    detail = "analysis volumes was approved as another text"
    assert check(stated(rounds=2), **changed) == ("approval_mismatch", detail)
    unknown = {"analyses": SETTINGS | {"survival": "0" * 64}, "round_": round_}
    detail = "analysis survival was not approved"
    assert check(stated(rounds=2), **unknown) == ("approval_exceeded", detail)


@pytest.mark.parametrize("round_", [1, 2])
def test_an_approval_that_is_over(stated, check, round_):
    signed = stated(rounds=2)
    given = {"round_": round_, "files": FILES if round_ == 1 else OTHER}
    assert check(signed, issued="2027-01-31T23:59:59Z", **given) is None
    code, detail = check(signed, issued="2027-02-01T00:00:00Z", **given)
    assert (code, detail) == (
        "approval_expired",
        "until 2027-01-31, the message is of 2027-02-01T00:00:00Z",
    )


@pytest.mark.parametrize("content", [[], {}, None, [1], [{}], "x", 3])
def test_what_is_no_list_of_statements(content):
    with pytest.raises(ConfigError):
        signed_list(content, "approvals.json")


def test_three_statements_are_no_list(stated):
    content = [stated().plain()] * 3
    with pytest.raises(ConfigError, match="one or two persons"):
        signed_list(content, "approvals.json")
    assert len(signed_list(content[:2], "approvals.json")) == 2


def test_a_member_that_states_anew_without_its_person(tmp_path):
    """The machine has its key, and the key of a person who is not on the roster."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    north = sent(site(tmp_path, "north"), inbox)
    stranger = tmp_path / "stranger.key"
    person = {"name": "Ada Roe", "key": public(stranger)}
    settings = hub_settings([north], inbox)
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert ([entry.approver for entry in accepted], rejected) == (["Ada Roe"], [])
    assert json.loads(north.members["approvals.json"])[0]["statement"]["issued"] == (
        NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
    )
    members = restated(north.members, north, stranger, person=person)
    manifest = json.loads(members["manifest.json"])
    manifest["files"]["approvals.json"] = message.describe(members["approvals.json"]).plain()
    members = reseal(
        members | {"manifest.json": message.canonical(manifest)}, north, approver=stranger
    )
    again = tmp_path / "again" / "inbox"
    again.mkdir(parents=True)
    sealed(again / "x.age", zipped(members))
    _, (refused,) = accept(inbox=again, settings=settings)
    assert (refused.reason, refused.detail) == ("unknown_approver", "Ada Roe")

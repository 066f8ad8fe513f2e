"""Only what a person approved leaves, and it is the same file every time."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest

from federation_world import NOW, protocol, site, unpack
from jipflow import __version__
from jipflow.exchange import keys, message
from jipflow.exchange.message import PAGE
from jipflow.release import approval
from jipflow.release.behind import read_behind
from jipflow.release.contents import BUILT, ReleaseError, record_built
from jipflow.settings.resources import ConfigError

OLDER = {
    "aggregates.json": "aggregates.json and run the workflow.",
    "disclosure.json": "disclosure.json and run the workflow.",
    "approval.json": "approve again: remove it, read ",
}
"""What to do about each file of a release that an older version wrote."""


@pytest.fixture
def north(tmp_path):
    world = site(tmp_path, "north")
    world.write()
    world.build()
    return world


def approve(world, **options):
    given = {"name": "Ada Roe", "key_file": world.approver_key, "now": NOW} | options
    return approval.approve(release_dir=world.release, **given)


def bundle(world, folder):
    return world.pack(folder)


def test_a_bundle_holds_what_was_approved(north, tmp_path):
    approve(north)
    path = bundle(north, tmp_path / "out")
    assert path.name == "demo-north-r01-a1.zip"
    members = unpack(path.read_bytes())
    assert tuple(members) == message.MEMBERS
    for name in message.CONTENT:
        assert members[name] == (north.release / name).read_bytes()
    manifest = json.loads(members["manifest.json"])
    assert manifest["files"]["aggregates.json"] == {
        "size": len(members["aggregates.json"]),
        "sha256": hashlib.sha256(members["aggregates.json"]).hexdigest(),
    }
    assert (manifest["sender"], manifest["recipient"]) == ("north", "hub")
    assert manifest["issued"] == "2026-11-03T12:00:00Z"
    page = (north.release / PAGE).read_bytes()
    assert manifest["page"] == {"size": len(page), "sha256": hashlib.sha256(page).hexdigest()}
    signatures = json.loads(members["signatures.json"])
    machine = keys.load_key(Path(north.settings.site.identity.signing_key_file))
    signers = {"site": keys.public_text(machine), "approver": manifest["approver"]["key"]}
    for who, public in signers.items():
        assert keys.verifies(public, signatures[who], members["manifest.json"])


def test_no_pseudonym_leaves(north, tmp_path):
    approve(north)
    raw = bundle(north, tmp_path).read_bytes()
    for column in ("case_id", "patient"):
        for pseudonym in north.table[column].unique():
            assert pseudonym.encode() not in raw
    assert b"Hospital" not in raw


def test_the_same_release_is_the_same_file(north, tmp_path):
    approve(north)
    first = bundle(north, tmp_path / "a").read_bytes()
    second = bundle(north, tmp_path / "b").read_bytes()
    assert first == second


def test_the_bytes_of_a_zip_are_pinned():
    """The hub compares bytes: a Python that writes another zip must show here first."""
    raw = message.pack({name: name.encode() for name in message.MEMBERS})
    expected = "d52ef07e035d20c28d3501cdb1bcf75d3ca1ffc8d00a39508aa530f47d41c834"
    assert hashlib.sha256(raw).hexdigest() == expected


def test_nothing_leaves_unapproved(north, tmp_path):
    with pytest.raises(ReleaseError, match="Nobody has approved"):
        bundle(north, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [PAGE, *message.CONTENT])
def test_nothing_leaves_that_was_changed_after_approval(north, tmp_path, name):
    approve(north)
    path = north.release / name
    path.write_text(path.read_text() + " ")
    with pytest.raises(ReleaseError, match="was changed after"):
        bundle(north, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_aggregates_changed_after_the_gate_cannot_be_approved(north):
    path = north.release / "aggregates.json"
    path.write_text(path.read_text().replace('"min_patients": 5', '"min_patients": 6'))
    with pytest.raises(ReleaseError, match="changed after the disclosure gate"):
        approve(north)


def test_a_changed_approval_is_refused(north, tmp_path):
    approve(north)
    path = north.release / "approval.json"
    path.write_text(path.read_text().replace('"attempt": 1', '"attempt": 2'))
    with pytest.raises(ReleaseError, match="changed after it was signed"):
        bundle(north, tmp_path)


def test_an_approval_that_is_no_json_is_refused(north, tmp_path):
    approve(north)
    (north.release / "approval.json").write_text("{")
    with pytest.raises(ReleaseError, match="is not JSON any more; approve again"):
        bundle(north, tmp_path / "out")


def test_files_of_an_older_form_are_named_with_the_fix(north, tmp_path):
    approve(north)
    older = {name: json.loads((north.release / name).read_text()) for name in OLDER}
    del older["aggregates.json"]["version"], older["approval.json"]["signature"]
    del older["disclosure.json"]["rules"], older["disclosure.json"]["verdict"]
    for name, fix in OLDER.items():
        path = north.release / name
        before = path.read_bytes()
        path.write_text(json.dumps(older[name]))
        with pytest.raises(ReleaseError) as caught:
            bundle(north, tmp_path / "out")
        text = str(caught.value)
        assert "\n" not in text
        assert text.startswith(f"{path} has another form than jipflow {__version__} writes (")
        assert "Field required" in text
        assert fix in text
        path.write_bytes(before)
    assert bundle(north, tmp_path / "out").is_file()


def test_another_build_needs_another_approval(north, tmp_path):
    approve(north)
    north.table = north.table[north.table["case_id"] != "casenorth0011"]
    north.write()
    north.build()
    with pytest.raises(ReleaseError, match="changed after Ada Roe approved"):
        bundle(north, tmp_path)
    approve(north, attempt=2)
    assert bundle(north, tmp_path).name == "demo-north-r01-a2.zip"


def test_other_settings_than_the_release_are_refused(north, tmp_path):
    approve(north)
    addressee = north.settings.site.hub.model_copy(update={"id": "elsewhere"})
    site = north.settings.site.model_copy(update={"hub": addressee})
    north.settings = north.settings.model_copy(update={"site": site})
    with pytest.raises(ReleaseError, match="another recipient"):
        bundle(north, tmp_path)


def test_another_site_version_or_protocol_than_the_releases_is_refused(north, tmp_path):
    approve(north)
    right = north.settings
    for what, other in (
        ("sender", site(tmp_path / "other", "south").settings),
        ("version", right.model_copy(update={"version": "9.9.9"})),
        ("protocol", site(tmp_path / "another", "north", content=protocol(minimum=6)).settings),
    ):
        north.settings = other
        with pytest.raises(ReleaseError, match=f"another {what}"):
            bundle(north, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    north.settings = right
    assert bundle(north, tmp_path / "out").is_file()


def test_a_release_larger_than_a_bundle_takes_is_refused(north, tmp_path, monkeypatch):
    approve(north)
    size = (north.release / "aggregates.json").stat().st_size
    monkeypatch.setitem(message.LIMITS, "aggregates.json", size - 1)
    with pytest.raises(ReleaseError, match="fewer features"):
        bundle(north, tmp_path / "out")
    monkeypatch.setitem(message.LIMITS, "aggregates.json", size)
    assert bundle(north, tmp_path / "out").is_file()


def test_approving_twice_is_approving_once(north):
    first = approve(north)
    raw = (north.release / "approval.json").read_bytes()
    assert approve(north, now=NOW + timedelta(days=1)) == first
    assert (north.release / "approval.json").read_bytes() == raw


def test_an_approval_is_replaced_by_a_later_attempt_only(north, tmp_path):
    approve(north)
    other = tmp_path / "other.key"
    keys.new_key(other)
    for changed in ({"name": "Bea Roe"}, {"key_file": other}):
        with pytest.raises(
            ReleaseError, match=r"Ada Roe approved attempt 1 on 2026-11-03.*--attempt 2"
        ):
            approve(north, **changed)
    second = approve(north, attempt=2, now=NOW + timedelta(days=1))
    assert (second.manifest.attempt, second.manifest.issued) == (2, "2026-11-04T12:00:00Z")
    assert approval.read_approval(north.release) == second
    with pytest.raises(ReleaseError, match="--attempt 3"):
        approve(north, attempt=1)
    assert approval.read_approval(north.release) == second
    assert approval.next_attempt(north.release) == 3


def test_another_text_of_the_protocol_has_attempts_of_its_own(north, tmp_path):
    approve(north, attempt=4)
    north.settings = site(tmp_path / "new", "north", content=protocol(minimum=6)).settings
    north.build()
    assert approve(north).manifest.attempt == 1


def test_an_approval_that_nobody_signed_stands_in_nobodys_way(north):
    path = north.release / "approval.json"
    assert approval.next_attempt(north.release) == 1
    for text in ("no JSON", "{}", json.dumps(approve(north, attempt=9).plain()).replace("9", "8")):
        path.write_text(text)
        assert approval.next_attempt(north.release) == 1
        assert approve(north, attempt=1).manifest.attempt == 1


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


def test_another_page_than_the_one_that_was_built_cannot_be_approved(north):
    path = north.release / PAGE
    path.write_text(path.read_text() + "and nothing else")
    with pytest.raises(ReleaseError, match=r"disclosure\.html was changed after it was built"):
        approve(north)


@pytest.mark.parametrize("name", [PAGE, BUILT])
def test_a_release_without_its_page_cannot_be_approved(north, name):
    text = (north.release / name).read_text()
    (north.release / name).unlink()
    with pytest.raises(ReleaseError, match=f"{name} is missing; build the release again"):
        approve(north)
    (north.release / name).write_text(text[1:])
    with pytest.raises(ReleaseError, match="build the release again"):
        approve(north)
    (north.release / name).write_text(text)
    assert approve(north).manifest.page == message.describe((north.release / PAGE).read_bytes())


def test_nothing_leaves_whose_page_is_gone(north, tmp_path):
    approve(north)
    (north.release / PAGE).unlink()
    with pytest.raises(ReleaseError, match=r"disclosure\.html was changed after Ada Roe approved"):
        bundle(north, tmp_path / "out")


def test_a_release_of_nothing_is_approved_only_if_that_is_meant(tmp_path):
    world = site(tmp_path, "north", patients=4)
    world.write()
    _, record = world.build()
    assert record["summary"]["released"] == 0 < record["summary"]["cells"]
    with pytest.raises(ReleaseError, match=r"No cell would leave.*--empty"):
        approve(world)
    assert not (world.release / "approval.json").exists()
    approve(world, empty=True)
    assert bundle(world, tmp_path / "out").is_file()


def test_approval_needs_a_name_a_key_and_a_release(north, tmp_path):
    with pytest.raises(keys.KeyFault, match="jipflow keys new"):
        approve(north, key_file=tmp_path / "none.key")
    with pytest.raises(ConfigError, match=r"approver\.name"):
        approve(north, name="")
    north.root = tmp_path / "elsewhere"
    with pytest.raises(ReleaseError, match="build the release first"):
        approve(north)


def test_a_later_attempt_that_nobody_signed_is_none(north):
    """Who can write there but has no key cannot make the site skip an attempt."""
    path = north.release / "approval.json"
    content = approve(north).plain()
    content["manifest"]["attempt"] = 8
    path.write_text(json.dumps(content))
    assert approval.next_attempt(north.release) == 1
    assert approve(north).manifest.attempt == 1


def test_another_hub_has_attempts_of_its_own(north, tmp_path):
    approve(north, attempt=4)
    other = north.settings.site.hub.model_copy(update={"id": "elsewhere"})
    changed = north.settings.site.model_copy(update={"hub": other})
    north.settings = north.settings.model_copy(update={"site": changed})
    north.build()
    assert approve(north).manifest.attempt == 1

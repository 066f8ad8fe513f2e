"""What was approved is packed, and it is the same file every time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation_world import HUB_KEY, NOW, plain, protocol, site, unpack
from jipflow import __version__
from jipflow.exchange import keys, message
from jipflow.exchange.message import PAGE
from jipflow.exchange.sealing import unseal
from jipflow.release import approval
from jipflow.release.contents import ReleaseError
from jipflow.release.ledger import LedgerFault

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
    signed = approve(north)
    path = bundle(north, tmp_path / "out")
    assert path.name == "demo-north-r01-a1.age"
    members = unpack(plain(path.read_bytes()))
    assert tuple(members) == (*message.FRAME, *message.FILES["release"])
    for name in message.CONTENT:
        assert members[name] == (north.release / name).read_bytes()
    assert json.loads(members["approvals.json"]) == [each.plain() for each in signed]
    manifest = json.loads(members["manifest.json"])
    for name in message.FILES["release"]:
        assert manifest["files"][name] == {
            "size": len(members[name]),
            "sha256": hashlib.sha256(members[name]).hexdigest(),
        }
    assert (manifest["sender"], manifest["recipient"]) == ("north", "hub")
    assert manifest["issued"] == "2026-11-03T12:00:00Z"
    machine = keys.load_key(Path(north.settings.site.identity.signing_key_file))
    signature = json.loads(members["signature.json"])["signature"]
    assert keys.verifies(keys.public_text(machine), signature, members["manifest.json"])


def test_no_pseudonym_leaves(north, tmp_path):
    approve(north)
    raw = plain(bundle(north, tmp_path).read_bytes())
    for column in ("case_id", "patient"):
        for pseudonym in north.table[column].unique():
            assert pseudonym.encode() not in raw
    assert b"Hospital" not in raw


def test_the_same_release_is_the_same_file(north, tmp_path):
    approve(north)
    first = plain(bundle(north, tmp_path / "a").read_bytes())
    second = plain(bundle(north, tmp_path / "b").read_bytes())
    assert first == second


@pytest.mark.parametrize("damage", ["other key", "cut short", "note lost"])
def test_what_the_hub_cannot_open_is_sealed_again(north, tmp_path, damage):
    approve(north)
    path = bundle(north, tmp_path / "out")
    sealed = path.read_bytes()
    raw = plain(sealed)
    assert bundle(north, tmp_path / "out").read_bytes() == sealed
    other = Ed25519PrivateKey.generate()
    if damage == "other key":
        site = north.settings.site
        hub = site.hub.model_copy(update={"key": keys.public_text(other)})
        site = site.model_copy(update={"hub": hub})
        north.settings = north.settings.model_copy(update={"site": site})
    elif damage == "cut short":
        path.write_bytes(sealed[:-1])
    else:
        (note,) = north.bundles.glob("*.sealed.json")
        note.unlink()
    again = bundle(north, tmp_path / "out").read_bytes()
    assert unseal(again, other if damage == "other key" else HUB_KEY) == raw


def test_after_the_last_attempt_a_sentence_says_what_to_do(north, tmp_path):
    approve(north)
    forged = tmp_path / "out" / f"{north.settings.protocol_id}-north-r01-a999.age"
    forged.parent.mkdir()
    forged.write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"Attempt 999 of round 1 is the last .* move that file"):
        bundle(north, tmp_path / "out")
    forged.unlink()
    again = bundle(north, tmp_path / "out").read_bytes()
    forged.write_bytes(b"")
    assert bundle(north, tmp_path / "out").read_bytes() == again


def test_the_bytes_of_a_zip_are_pinned():
    """The hub compares bytes: a Python that writes another zip must show here first."""
    names = (*message.FRAME, *message.FILES["release"])
    raw = message.zipped("release", {name: name.encode() for name in names})
    expected = "68a02fbd9da0fa8af1b30c1fda81e9d06cbc4c56bb31f980724cb16df2414edd"
    assert hashlib.sha256(raw).hexdigest() == expected


def test_nothing_leaves_unapproved(north, tmp_path):
    with pytest.raises(ReleaseError, match="Nobody has approved"):
        bundle(north, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_leaves_that_one_of_two_persons_approved(north, tmp_path):
    approve(north)
    limits = north.settings.site.disclosure.model_copy(update={"approvers": 2})
    here = north.settings.site.model_copy(update={"disclosure": limits})
    north.settings = north.settings.model_copy(update={"site": here})
    with pytest.raises(ReleaseError, match="a second person is missing"):
        bundle(north, tmp_path / "out")
    keys.new_key(tmp_path / "second.key")
    approve(north, name="Bea Coe", key_file=tmp_path / "second.key")
    members = unpack(plain(bundle(north, tmp_path / "out").read_bytes()))
    names = [each["statement"]["person"]["name"] for each in json.loads(members["approvals.json"])]
    assert names == ["Ada Roe", "Bea Coe"]
    assert "approved by Ada Roe and Bea Coe" in north.ledger.entries()[-1].line()


@pytest.mark.parametrize("name", [PAGE, *message.CONTENT])
def test_nothing_leaves_that_was_changed_after_approval(north, tmp_path, name):
    approve(north)
    path = north.release / name
    path.write_text(path.read_text() + " ")
    with pytest.raises(ReleaseError, match="was changed after"):
        bundle(north, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_leaves_whose_page_is_gone(north, tmp_path):
    approve(north)
    (north.release / PAGE).unlink()
    with pytest.raises(ReleaseError, match=r"disclosure\.html was changed after Ada Roe approved"):
        bundle(north, tmp_path / "out")


def test_files_of_an_older_form_are_named_with_the_fix(north, tmp_path):
    approve(north)
    older = {name: json.loads((north.release / name).read_text()) for name in OLDER}
    del older["aggregates.json"]["version"], older["approval.json"][0]["signature"]
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
    bundle(north, tmp_path / "out")
    north.table = north.table[north.table["case_id"] != "casenorth0011"]
    north.write()
    north.build()
    with pytest.raises(ReleaseError, match="changed after Ada Roe approved"):
        bundle(north, tmp_path / "out")
    approve(north, empty=True)
    assert bundle(north, tmp_path / "out").name == "demo-north-r01-a2.age"


def test_other_settings_than_the_release_are_refused(north, tmp_path):
    approve(north)
    addressee = north.settings.site.hub.model_copy(update={"id": "elsewhere"})
    here = north.settings.site.model_copy(update={"hub": addressee})
    north.settings = north.settings.model_copy(update={"site": here})
    with pytest.raises(ReleaseError, match="another hub"):
        bundle(north, tmp_path)


def test_another_site_version_or_protocol_than_the_releases_is_refused(north, tmp_path):
    approve(north)
    right = north.settings
    for what, other in (
        ("site", site(tmp_path / "other", "south").settings),
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


def test_a_statement_in_the_ledger_that_was_changed_stops_all(north, tmp_path):
    approve(north)
    bundle(north, tmp_path / "out")
    (entry,) = sorted(north.ledger.folder.glob("??????.json"))
    entry.write_text(entry.read_text().replace("Ada Roe", "Eve Roe"))
    with pytest.raises(LedgerFault, match="was changed"):
        bundle(north, tmp_path / "out")

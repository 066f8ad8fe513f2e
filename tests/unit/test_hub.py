"""The hub merges what is beyond doubt and says why it refuses the rest."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
import yaml

from federation_world import (
    EDGES,
    ENERGY,
    MEAN,
    hub_settings,
    protocol,
    public,
    reseal,
    resign,
    site,
    unpack,
)
from jipflow.exchange import message as message
from jipflow.hub import hub
from jipflow.hub.hub import Refusal
from jipflow.settings.hub import Hub
from jipflow.settings.resources import ROOT, ConfigError
from jipflow.settings.schema import load


@pytest.fixture
def sites(tmp_path):
    sizes = {"south": 9, "north": 12, "west": 30}
    return [site(tmp_path, name, size, seed) for seed, (name, size) in enumerate(sizes.items())]


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def north(tmp_path, inbox):
    world = site(tmp_path, "north")
    world.path = world.send(inbox)
    world.members = unpack(world.path.read_bytes())
    return world


def pooled(sites, segment, feature):
    table = pd.concat([s.table for s in sites])
    return table[table["segment"] == segment][feature].dropna().to_numpy()


def summary(result, segment, feature):
    cells = next(a for a in result["analyses"] if a["id"] == "describe")["cells"]
    return next(c for c in cells if (c["segment"], c["feature"]) == (segment, feature))


def test_merged_equals_pooled(sites, inbox):
    for s in sites:
        s.send(inbox)
    settings = hub_settings(sites, inbox)
    accepted, rejected = hub.accept(inbox=inbox, settings=settings)
    assert rejected == []
    result = hub.merge(accepted=accepted, settings=settings)
    assert [s["id"] for s in result["sites"]] == ["north", "south", "west"]
    assert [s["patients"] for s in result["sites"]] == [12, 9, 30]
    for segment in ("liver", "spleen"):
        for feature in (MEAN, ENERGY):
            values = pooled(sites, segment, feature)
            cell = summary(result, segment, feature)
            assert (cell["n"], cell["sites"]) == (51, ["north", "south", "west"])
            assert cell["mean"] == pytest.approx(values.mean(), rel=1e-9)
            assert cell["variance"] == pytest.approx(values.var(ddof=1), rel=1e-9)
            assert cell["sd"] == pytest.approx(values.std(ddof=1), rel=1e-9)
    # The south has 4 of its 9 patients in one bin, and no other bin to hide them with.
    (histogram,) = next(a for a in result["analyses"] if a["id"] == "volumes")["cells"]
    both = [s for s in sites if s.name != "south"]
    assert histogram["sites"] == ["north", "west"]
    volumes = pooled(both, "liver", "volume_ml")
    assert histogram["counts"] == np.histogram(volumes, EDGES)[0].tolist()
    assert (histogram["n"], histogram["under"], histogram["over"]) == (42, 0, 0)


def test_the_result_does_not_depend_on_the_order_of_arrival(sites, inbox):
    for s in sites:
        s.send(inbox)
    settings = hub_settings(sites, inbox)
    accepted, _ = hub.accept(inbox=inbox, settings=settings)
    assert hub.merge(accepted=accepted, settings=settings) == hub.merge(
        accepted=accepted[::-1], settings=settings
    )
    for i, path in enumerate(sorted(inbox.glob("*.zip"), reverse=True)):
        path.rename(inbox / f"{i}.zip")
    again, _ = hub.accept(inbox=inbox, settings=settings)
    assert hub.merge(accepted=accepted, settings=settings) == hub.merge(
        accepted=again, settings=settings
    )


def test_a_bin_that_a_site_withheld_is_withheld_in_the_sum(tmp_path, inbox):
    north, south = site(tmp_path, "north", 30), site(tmp_path, "south", 30, 1)
    rows = south.table.index[south.table["segment"] == "liver"]
    south.table.loc[rows, "volume_ml"] = [50.0] * 3 + [150.0] * 7 + [250.0] * 20
    for s in (north, south):
        s.send(inbox)
    settings = hub_settings([north, south], inbox)
    accepted, rejected = hub.accept(inbox=inbox, settings=settings)
    assert rejected == []
    result = hub.merge(accepted=accepted, settings=settings)
    (cell,) = result["analyses"][1]["cells"]
    assert cell["counts"] == [None, None, 15 + 20, 0]
    assert cell["withheld"] == [{"bin": 0, "sites": ["south"]}, {"bin": 1, "sites": ["south"]}]
    assert cell["n"] == 60


def test_an_empty_inbox_gives_an_empty_result(sites, inbox):
    settings = hub_settings(sites, inbox)
    assert hub.accept(inbox=inbox, settings=settings) == ([], [])
    result = hub.merge(accepted=[], settings=settings)
    assert result["sites"] == []
    assert [a["cells"] for a in result["analyses"]] == [[], []]


def refusal(raw, world, inbox, settings=None):
    """Put bytes into the inbox in place of the site's bundle; return the reason of the refusal."""
    world.path.write_bytes(raw)
    accepted, rejected = hub.accept(inbox=inbox, settings=settings or hub_settings([world], inbox))
    assert accepted == []
    (entry,) = rejected
    assert entry["meaning"] == Refusal(entry["reason"]).meaning
    return entry["reason"]


def loose(members, compression=zipfile.ZIP_STORED):
    """Write a zip of any members, as an attacker would."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return buffer.getvalue()


def test_the_untouched_bundle_is_accepted(north, inbox):
    accepted, rejected = hub.accept(inbox=inbox, settings=hub_settings([north], inbox))
    assert rejected == []
    assert [(a["site"], a["attempt"], a["approver"]) for a in accepted] == [("north", 1, "Ada Roe")]


@pytest.mark.parametrize("name", message.MEMBERS)
def test_a_flipped_byte_in_a_member_breaks_its_checksum(north, inbox, name):
    raw = bytearray(north.path.read_bytes())
    raw[raw.index(north.members[name]) + len(north.members[name]) // 2] ^= 1
    assert refusal(bytes(raw), north, inbox) == "corrupt_member"


def test_no_flipped_byte_anywhere_is_accepted(north, inbox):
    raw = north.path.read_bytes()
    settings = hub_settings([north], inbox)
    content = raw.index(north.members["aggregates.json"])
    frame = [i for i in range(len(raw)) if i < content + 200 or i > len(raw) - 400]
    for position in frame:
        changed = bytearray(raw)
        changed[position] ^= 0x10
        with pytest.raises(hub.Refused):
            hub.verify(bytes(changed), settings)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("aggregates.json", "file_changed"),
        ("disclosure.json", "file_changed"),
        ("manifest.json", "site_signature"),
        ("signatures.json", "site_signature"),
    ],
)
def test_a_changed_member_in_a_sound_zip(north, inbox, name, reason):
    data = bytearray(north.members[name])
    digit = max(i for i, b in enumerate(data) if chr(b) in "12345")
    data[digit] += 1
    assert refusal(message.pack(north.members | {name: bytes(data)}), north, inbox) == reason


def test_swapped_aggregates(tmp_path, north, inbox):
    other = site(tmp_path, "south", seed=9)
    other.write()
    other.build()
    swapped = north.members | {"aggregates.json": (other.release / "aggregates.json").read_bytes()}
    assert refusal(message.pack(swapped), north, inbox) == "file_changed"
    assert refusal(message.pack(reseal(swapped, north)), north, inbox) == "header_mismatch"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (("features.parquet", b"x"), "unexpected_member"),
        (("../evil.json", b"x"), "unsafe_path"),
        (("/etc/passwd", b"x"), "unsafe_path"),
        (("..\\evil.json", b"x"), "unsafe_path"),
        (("C:evil.json", b"x"), "unsafe_path"),
        (("sub/aggregates.json", b"x"), "unexpected_member"),
    ],
)
def test_extra_members(north, inbox, extra, reason):
    assert refusal(loose([*north.members.items(), extra]), north, inbox) == reason


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice(north, inbox):
    members = [*north.members.items(), ("aggregates.json", b"{}")]
    assert refusal(loose(members), north, inbox) == "duplicate_member"


@pytest.mark.parametrize("name", message.MEMBERS)
def test_a_missing_member(north, inbox, name):
    members = [(n, d) for n, d in north.members.items() if n != name]
    assert refusal(loose(members), north, inbox) == "missing_member"


def test_a_zip_bomb_is_not_unpacked(north, inbox):
    bomb = north.members | {"disclosure.json": b" " * 50_000_000}
    raw = loose(bomb.items(), zipfile.ZIP_DEFLATED)
    assert len(raw) < 200_000
    assert refusal(raw, north, inbox) == "compressed_member"


def test_an_oversized_member(north, inbox):
    big = north.members | {"manifest.json": b" " * (message.LIMITS["manifest.json"] + 1)}
    assert refusal(message.pack(big), north, inbox) == "oversized_member"


def test_an_oversized_bundle(north, inbox):
    with north.path.open("r+b") as stream:
        stream.truncate(sum(message.LIMITS.values()) + 1_000_000)
    accepted, (entry,) = hub.accept(inbox=inbox, settings=hub_settings([north], inbox))
    assert (accepted, entry["reason"]) == ([], "oversized_bundle")


@pytest.mark.parametrize("change", ["comment", "trailing", "leading", "order"])
def test_a_zip_that_hides_something(north, inbox, change):
    raw = north.path.read_bytes()
    if change == "comment":
        raw = raw[:-2] + b"\x05\x00hello"
    elif change == "trailing":
        raw += b"\0" * 10
    elif change == "leading":
        raw = b"#!/bin/sh\n" + raw
    else:
        raw = loose(reversed(north.members.items()))
    assert refusal(raw, north, inbox) in {"zip_not_canonical", "not_a_zip"}


@pytest.mark.parametrize("raw", [b"", b"PK\x05\x06", b"hello", b"PK\x03\x04" + b"\0" * 100])
def test_what_is_no_zip(north, inbox, raw):
    assert refusal(raw, north, inbox) == "not_a_zip"


def test_a_link_in_the_inbox(north, inbox, tmp_path):
    north.path.rename(tmp_path / "elsewhere.zip")
    north.path.symlink_to(tmp_path / "elsewhere.zip")
    _, (entry,) = hub.accept(inbox=inbox, settings=hub_settings([north], inbox))
    assert entry["reason"] == "not_a_file"


def manifest_as(north, text):
    return message.pack(resign(north.members | {"manifest.json": text}, north))


def test_a_manifest_in_other_bytes(north, inbox):
    pretty = json.dumps(json.loads(north.members["manifest.json"]), indent=1).encode()
    assert refusal(manifest_as(north, pretty), north, inbox) == "manifest_not_canonical"
    doubled = north.members["manifest.json"].replace(b"{", b'{"round":1,', 1)
    assert refusal(manifest_as(north, doubled), north, inbox) == "manifest_not_json"
    assert refusal(manifest_as(north, b"[" * 10_000), north, inbox) == "manifest_not_json"
    assert refusal(manifest_as(north, b"\xff\xfe"), north, inbox) == "manifest_not_json"


def test_a_manifest_with_other_keys(north, inbox):
    content = json.loads(north.members["manifest.json"]) | {"note": "hello"}
    raw = manifest_as(north, message.canonical(content))
    assert refusal(raw, north, inbox) == "manifest_invalid"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recipient": "elsewhere"}, "wrong_recipient"),
        ({"round": 2}, "wrong_round"),
        ({"protocol": {"id": "other", "version": "1.0.0", "sha256": "0" * 64}}, "wrong_protocol"),
        ({"protocol": {"id": "demo", "version": "1.0.0", "sha256": "0" * 64}}, "protocol_changed"),
        ({"sender": "atlantis"}, "unknown_site"),
        ({"version": "9.9.9"}, "header_mismatch"),
    ],
)
def test_a_manifest_that_says_something_else(north, inbox, change, reason):
    raw = message.pack(reseal(north.members, north, **change))
    assert refusal(raw, north, inbox) == reason


def test_a_site_with_another_protocol(tmp_path, north, inbox):
    changed = protocol(minimum=6)
    settings = hub_settings([north], inbox, changed)
    assert refusal(north.path.read_bytes(), north, inbox, settings) == "protocol_changed"


def test_the_wrong_keys(north, inbox, tmp_path):
    raw = north.path.read_bytes()
    stranger = public(tmp_path / "stranger.key")
    settings = hub_settings([north], inbox)
    settings["hub"]["roster"][0]["key"] = stranger
    assert refusal(raw, north, inbox, settings) == "site_signature"
    settings = hub_settings([north], inbox)
    settings["hub"]["roster"][0]["approvers"][0]["key"] = stranger
    assert refusal(raw, north, inbox, settings) == "unknown_approver"
    settings = hub_settings([north], inbox)
    settings["hub"]["roster"][0]["approvers"][0]["name"] = "Someone Else"
    assert refusal(raw, north, inbox, settings) == "unknown_approver"


def test_an_approver_of_another_site(tmp_path, north, inbox):
    south = site(tmp_path, "south")
    north.approver_key = south.approver_key
    north.send(inbox)
    settings = hub_settings([south], inbox)
    settings["hub"]["roster"] += hub_settings([site(tmp_path / "x", "north")], inbox)["hub"][
        "roster"
    ]
    settings["hub"]["roster"][1]["key"] = public(tmp_path / "north" / "keys" / "site.key")
    assert refusal(north.path.read_bytes(), north, inbox, settings) == "unknown_approver"


def test_what_nobody_approved(north, inbox, tmp_path):
    """The site's machine alone cannot release: it would have to sign as the approver."""
    machine = tmp_path / "north" / "keys" / "site.key"
    raw = message.pack(resign(north.members, north, approver=machine))
    assert refusal(raw, north, inbox) == "approver_signature"


@pytest.mark.parametrize("signatures", [b"{}", b"[]", b"x", b'{"approver":1,"site":2}'])
def test_signatures_out_of_form(north, inbox, signatures):
    raw = message.pack(north.members | {"signatures.json": signatures})
    assert refusal(raw, north, inbox) == "signatures_invalid"


def edited(north, edit, member="aggregates.json"):
    content = json.loads(north.members[member])
    edit(content)
    data = json.dumps(content).encode()
    return message.pack(reseal(north.members | {member: data}, north))


def first_cell(content):
    return content["analyses"][0]["cells"][0]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: first_cell(c).update(n=4), "aggregates_invalid"),
        (lambda c: first_cell(c).update(maximum=4.0), "aggregates_invalid"),
        (lambda c: first_cell(c).update(mean=float("nan")), "aggregates_invalid"),
        (lambda c: first_cell(c).update(mean=1e300), "aggregates_invalid"),
        (lambda c: first_cell(c).update(m2=-1), "aggregates_invalid"),
        (lambda c: c.update(patients=["x"]), "aggregates_invalid"),
        (lambda c: c["analyses"][0].update(kind="levene"), "aggregates_invalid"),
        (lambda c: first_cell(c).update(rows=9), "impossible_cell"),
        (lambda c: c["analyses"][1]["cells"][0].update(counts=[1] * 9), "impossible_cell"),
        (lambda c: c["analyses"][1]["cells"][0].update(counts=[0, 6, 6, 0, 0]), "impossible_cell"),
        (lambda c: c["analyses"][1]["cells"][0].update(counts=[0, 13, 0, 0]), "impossible_cell"),
        (lambda c: c["analyses"][1]["cells"][0].update(counts=[0, 6, 5, 0]), "impossible_cell"),
        (lambda c: c["analyses"][1]["cells"][0].update(counts=[0, 8, 4, 0]), "cell_below_minimum"),
        (
            lambda c: c["analyses"][1]["cells"][0].update(counts=[0, 8, None, 0]),
            "cell_below_minimum",
        ),
        (lambda c: first_cell(c).update(segment="doe"), "outside_protocol"),
        (lambda c: first_cell(c).update(feature="jane-doe"), "outside_protocol"),
        (lambda c: c["analyses"][0].update(id="other"), "outside_protocol"),
        (lambda c: c["analyses"][1].update(edges=[0, 1, 2, 3, 4]), "outside_protocol"),
        (lambda c: c["analyses"][0]["cells"].append(first_cell(c)), "outside_protocol"),
        (lambda c: c["analyses"].append(c["analyses"][0] | {"cells": []}), "outside_protocol"),
        (lambda c: c["analyses"][0]["cells"].pop(), "not_released"),
        (lambda c: c.update(min_patients=6), "header_mismatch"),
        (lambda c: c.update(site="south"), "header_mismatch"),
    ],
)
def test_aggregates_sealed_by_a_site_that_cheats_or_errs(north, inbox, edit, reason):
    assert refusal(edited(north, edit), north, inbox) == reason


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: c["cells"][0].update(n=3), "disclosure_invalid"),
        (lambda c: c["cells"][0].update(released=False), "not_released"),
        (
            lambda c: c["cells"].append(c["cells"][0] | {"segment": "doe", "released": False}),
            "outside_protocol",
        ),
    ],
)
def test_a_disclosure_record_that_says_something_else(north, inbox, edit, reason):
    assert refusal(edited(north, edit, "disclosure.json"), north, inbox) == reason


def test_a_record_of_other_aggregates(north, inbox):
    record = json.loads(north.members["disclosure.json"]) | {"aggregates_sha256": "0" * 64}
    members = north.members | {"disclosure.json": json.dumps(record).encode()}
    manifest = json.loads(members["manifest.json"])
    manifest["files"]["disclosure.json"] = message.describe(members["disclosure.json"])
    members["manifest.json"] = message.canonical(manifest)
    assert refusal(message.pack(resign(members, north)), north, inbox) == "header_mismatch"


def test_a_cell_below_the_protocols_minimum(tmp_path, inbox):
    strict = protocol(minimum=10)
    north = site(tmp_path, "north", 12, content=strict)
    north.path = north.send(inbox)
    north.members = unpack(north.path.read_bytes())
    settings = hub_settings([north], inbox, strict)
    raw = edited(north, lambda c: first_cell(c).update(n=9))
    assert refusal(raw, north, inbox, settings) == "cell_below_minimum"


def test_the_latest_attempt_counts(north, inbox):
    north.table = north.table[north.table["case_id"] != "casenorth0000"]
    north.send(inbox, attempt=2)
    accepted, rejected = hub.accept(inbox=inbox, settings=hub_settings([north], inbox))
    assert [(a["file"], a["attempt"]) for a in accepted] == [("demo-north-r01-a2.zip", 2)]
    assert [(r["file"], r["reason"]) for r in rejected] == [("demo-north-r01-a1.zip", "superseded")]


def test_a_replay_does_not_count_twice(north, inbox):
    (inbox / "again.zip").write_bytes(north.path.read_bytes())
    accepted, rejected = hub.accept(inbox=inbox, settings=hub_settings([north], inbox))
    assert [a["site"] for a in accepted] == ["north"]
    assert [r["reason"] for r in rejected] == ["replay"]


def test_two_messages_of_one_attempt_are_both_refused(north, inbox):
    north.path.rename(inbox / "first.zip")
    north.table = north.table[north.table["case_id"] != "casenorth0000"]
    north.send(inbox)
    accepted, rejected = hub.accept(inbox=inbox, settings=hub_settings([north], inbox))
    assert accepted == []
    assert [r["reason"] for r in rejected] == ["attempt_conflict"] * 2


def test_one_bad_bundle_does_not_stop_the_others(sites, inbox):
    for s in sites:
        s.send(inbox)
    (inbox / "bad.zip").write_bytes(b"PK\x03\x04 nonsense")
    (inbox / "notes.txt").write_text("not a bundle")
    accepted, rejected = hub.accept(inbox=inbox, settings=hub_settings(sites, inbox))
    assert [a["site"] for a in accepted] == ["north", "south", "west"]
    assert [r["file"] for r in rejected] == ["bad.zip"]


def test_every_refusal_has_its_own_words():
    assert len({r.meaning for r in Refusal}) == len(Refusal)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"roster": []}, "roster"),
        ({"rooster": []}, "unknown key 'rooster'"),
        ({"hub": {"id": "The Hub", "name": "x"}}, "hub.id"),
        ({"roster": [{"site": "a", "key": "ed25519:xyz", "approvers": []}]}, "roster"),
    ],
)
def test_wrong_hub_settings_are_named(sites, inbox, change, words):
    content = hub_settings(sites, inbox)["hub"] | change
    with pytest.raises(ConfigError, match=words):
        load(Hub, content, "hub.yaml")


def test_hub_settings_hold_the_protocol_as_the_sites_hash_it(sites, inbox, tmp_path):
    path = tmp_path / "demo.yaml"
    path.write_text(yaml.safe_dump(protocol()))
    content = hub_settings(sites, inbox)["hub"] | {"protocol": str(path)}
    settings = hub.load_hub_settings(content)
    assert settings["protocol_sha256"] == sites[0].settings.protocol_sha256
    assert settings["hub"]["results"] == "results/hub"
    with pytest.raises(ConfigError, match="no protocol 'nowhere'"):
        hub.load_hub_settings(content | {"protocol": "nowhere"})


def test_the_roster_keeps_people_and_machines_apart(sites, inbox, tmp_path):
    content = hub_settings(sites, inbox)["hub"]
    hub.check_hub(content)
    with pytest.raises(ConfigError, match="inbox"):
        hub.check_hub(content | {"inbox": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="listed twice"):
        hub.check_hub(content | {"roster": [*content["roster"], content["roster"][0]]})
    content["roster"][0]["approvers"][0]["key"] = content["roster"][0]["key"]
    with pytest.raises(ConfigError, match="same key"):
        hub.check_hub(content)


def test_the_guide_explains_every_refusal():
    guide = (ROOT / "docs" / "hub-guide.md").read_text()
    assert [code for code in Refusal if f"`{code}`" not in guide] == []

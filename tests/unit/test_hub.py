"""The hub merges what is beyond doubt and says why it refuses the rest."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from federation_world import (
    EDGES,
    ENERGY,
    HERE,
    MEAN,
    MEMBERS,
    accept,
    hub_content,
    hub_settings,
    opened,
    plain,
    protocol,
    public,
    put,
    refusal,
    reseal,
    resign,
    sent_again,
    site,
    unpack,
    zipped,
)
from jipflow.analyses.rules import Finding
from jipflow.exchange import message
from jipflow.exchange.refusals import Refusal, Refused
from jipflow.files import write_json
from jipflow.hub.accept import OVERHEAD, READ_ANYHOW, largest_message
from jipflow.hub.check import Asked
from jipflow.hub.decisions import read_accepted, read_rejected, write_accepted, write_rejected
from jipflow.hub.merge import merge
from jipflow.hub.settings import load_hub_settings, read_hub_settings
from jipflow.hub.verify import verify
from jipflow.settings.hub import Hub
from jipflow.settings.resources import ROOT, ConfigError
from jipflow.settings.run import settings_of
from jipflow.settings.schema import load


@pytest.fixture
def north(sent_once, inbox):
    return sent_again(sent_once, inbox)


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
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert rejected == []
    result = merge(accepted=accepted, settings=settings)
    assert [s["id"] for s in result["sites"]] == ["north", "south", "west"]
    assert [s["patients"] for s in result["sites"]] == [12, 11, 30]
    for segment in ("liver", "spleen"):
        for feature in (MEAN, ENERGY):
            values = pooled(sites, segment, feature)
            cell = summary(result, segment, feature)
            assert (cell["n"], cell["sites"]) == (53, ["north", "south", "west"])
            assert cell["mean"] == pytest.approx(values.mean(), rel=1e-9)
            assert cell["variance"] == pytest.approx(values.var(ddof=1), rel=1e-9)
            assert cell["sd"] == pytest.approx(values.std(ddof=1), rel=1e-9)
    (histogram,) = next(a for a in result["analyses"] if a["id"] == "volumes")["cells"]
    assert histogram["sites"] == ["north", "south", "west"]
    volumes = pooled(sites, "liver", "volume_ml")
    assert histogram["counts"] == np.histogram(volumes, EDGES)[0].tolist()
    assert (histogram["n"], histogram["under"], histogram["over"]) == (53, 0, 0)


def test_the_result_does_not_depend_on_the_order_of_arrival(sites, inbox):
    for s in sites:
        s.send(inbox)
    settings = hub_settings(sites, inbox)
    accepted, _ = accept(inbox=inbox, settings=settings)
    assert merge(accepted=accepted, settings=settings) == merge(
        accepted=accepted[::-1], settings=settings
    )
    for i, path in enumerate(sorted(inbox.glob("*.age"), reverse=True)):
        path.rename(inbox / f"{i}.age")
    again, _ = accept(inbox=inbox, settings=settings)
    assert merge(accepted=accepted, settings=settings) == merge(accepted=again, settings=settings)


def test_a_bin_that_a_site_withheld_is_withheld_in_the_sum(tmp_path, inbox):
    north, south = site(tmp_path, "north", 30), site(tmp_path, "south", 30, 1)
    rows = south.table.index[south.table["segment"] == "liver"]
    south.table.loc[rows, "volume_ml"] = [50.0] * 3 + [150.0] * 7 + [250.0] * 20
    for s in (north, south):
        s.send(inbox)
    settings = hub_settings([north, south], inbox)
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert rejected == []
    result = merge(accepted=accepted, settings=settings)
    (cell,) = result["analyses"][1]["cells"]
    assert cell["counts"] == [None, None, 15 + 20, None]
    hidden = ("under", 0, 1, 3, "over")
    assert cell["withheld"] == [{"bin": bin_, "sites": ["south"]} for bin_ in hidden]
    assert cell["n"] == 60


def test_an_empty_inbox_gives_an_empty_result(sites, inbox):
    settings = hub_settings(sites, inbox)
    assert accept(inbox=inbox, settings=settings) == ([], [])
    result = merge(accepted=[], settings=settings)
    assert result["sites"] == []
    assert [a["cells"] for a in result["analyses"]] == [[], []]


def loose(members, compression=zipfile.ZIP_STORED):
    """Write a zip of any members, as an attacker would."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return buffer.getvalue()


def test_the_untouched_bundle_is_accepted(north, inbox):
    accepted, rejected = accept(inbox=inbox, settings=hub_settings([north], inbox))
    assert rejected == []
    assert [(a.site, a.attempt, a.approver) for a in accepted] == [("north", 1, "Ada Roe")]


@pytest.mark.parametrize("name", MEMBERS)
def test_a_flipped_byte_in_a_member_breaks_its_checksum(north, inbox, name):
    raw = bytearray(plain(north.path.read_bytes()))
    raw[raw.index(north.members[name]) + len(north.members[name]) // 2] ^= 1
    assert refusal(bytes(raw), north, inbox) == "corrupt_member"


def test_no_flipped_byte_anywhere_is_accepted(north, inbox):
    raw = plain(north.path.read_bytes())
    settings = hub_settings([north], inbox)
    now = opened(settings)
    content = raw.index(north.members["aggregates.json"])
    frame = [i for i in range(len(raw)) if i < content + 200 or i > len(raw) - 400]
    for position in frame:
        changed = bytearray(raw)
        changed[position] ^= 0x10
        with pytest.raises(Refused):
            verify(bytes(changed), settings, now)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("aggregates.json", "file_changed"),
        ("disclosure.json", "file_changed"),
        ("manifest.json", "sender_signature"),
        ("signature.json", "sender_signature"),
    ],
)
def test_a_changed_member_in_a_sound_zip(north, inbox, name, reason):
    data = bytearray(north.members[name])
    digit = max(i for i, b in enumerate(data) if chr(b) in "12345")
    data[digit] += 1
    assert refusal(zipped(north.members | {name: bytes(data)}), north, inbox) == reason


def test_swapped_aggregates(tmp_path, north, inbox):
    other = site(tmp_path, "south", seed=9)
    other.write()
    other.build()
    swapped = north.members | {"aggregates.json": (other.release / "aggregates.json").read_bytes()}
    assert refusal(zipped(swapped), north, inbox) == "file_changed"
    assert refusal(zipped(reseal(swapped, north)), north, inbox) == "header_mismatch"


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


@pytest.mark.parametrize("name", MEMBERS)
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
    assert refusal(zipped(big), north, inbox) == "oversized_member"


def test_an_oversized_message(north, inbox):
    with north.path.open("r+b") as stream:
        stream.truncate(READ_ANYHOW + 1)
    settings = hub_settings([north], inbox)
    accepted, (entry,) = accept(inbox=inbox, settings=settings)
    assert (accepted, entry.reason) == ([], "oversized_message")
    with north.path.open("r+b") as stream:
        stream.truncate(READ_ANYHOW)
    assert accept(inbox=inbox, settings=settings)[1][0].reason == "other_seal"


def test_a_bundle_may_be_as_large_as_the_protocol_needs():
    """Bins by the hundred thousand are not refused for their size."""
    wide = protocol(analyses=[protocol()["analyses"][1] | {"edges": list(range(100_000))}])
    asked = Asked.by(settings_of(HERE, wide).protocol)
    small = sum(message.LIMITS[name] for name in set(MEMBERS) - set(message.CONTENT))
    assert asked.most_bytes() > 2 * 100_000 * 20 > READ_ANYHOW / 8
    assert largest_message(asked) == 2 * asked.most_bytes() + small + OVERHEAD
    assert largest_message(Asked.by(settings_of(HERE, protocol()).protocol)) == READ_ANYHOW


@pytest.mark.parametrize("change", ["comment", "trailing", "leading", "order"])
def test_a_zip_that_hides_something(north, inbox, change):
    raw = plain(north.path.read_bytes())
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
    north.path.rename(tmp_path / "elsewhere.age")
    north.path.symlink_to(tmp_path / "elsewhere.age")
    _, (entry,) = accept(inbox=inbox, settings=hub_settings([north], inbox))
    assert entry.reason == "not_a_file"


PROTOCOL = {"id": "demo", "version": "1.0.0", "sha256": "0" * 64, "parts": {}}


def manifest_as(north, text):
    return zipped(resign(north.members | {"manifest.json": text}, north))


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
        ({"round": 2}, "early"),
        ({"protocol": PROTOCOL | {"id": "other"}}, "wrong_protocol"),
        ({"protocol": PROTOCOL | {"sha256": "0" * 64}}, "protocol_changed"),
        ({"protocol": PROTOCOL | {"parts": {"A note": "0" * 64}}}, "manifest_invalid"),
        ({"issued": "2026-02-30T12:00:00Z"}, "manifest_invalid"),
        ({"issued": "9999-99-99T99:99:99Z"}, "manifest_invalid"),
        ({"sender": "atlantis"}, "unknown_sender"),
        ({"version": "9.9.9"}, "header_mismatch"),
    ],
)
def test_a_manifest_that_says_something_else(north, inbox, change, reason):
    raw = zipped(reseal(north.members, north, **change))
    assert refusal(raw, north, inbox) == reason


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"disclosure": {"min_patients": 6}}, "disclosure"),
        ({"protocol": protocol()["protocol"] | {"version": "1.0.1"}}, "protocol"),
        (
            {"radiomics": [protocol()["radiomics"][0] | {"settings": "summary"}]},
            "parameters, radiomics",
        ),
    ],
)
def test_a_site_with_another_protocol(north, inbox, change, parts):
    """The detail names what differs, so that nobody need compare files."""
    settings = hub_settings([north], inbox, protocol(**change))
    accepted, (refused,) = accept(inbox=inbox, settings=settings)
    assert (accepted, refused.reason) == ([], "protocol_changed")
    here = settings.protocol.protocol.version
    assert refused.detail == f"version 1.0.0, here it is {here}; what differs: {parts}"


def test_parts_of_a_protocol_carry_nothing(north, inbox):
    """They are the hub's own where the protocol is, whatever all three files of a bundle say."""
    about = json.loads(north.members["manifest.json"])["protocol"]
    for more in ({"notes": "0" * 64}, {"cohort": "0" * 64}):
        changed = about | {"parts": about["parts"] | more}
        members = dict(north.members)
        for name in message.CONTENT:
            content = json.loads(members[name]) | {"protocol": changed}
            members[name] = json.dumps(content).encode()
        raw = zipped(reseal(members, north, protocol=changed))
        assert refusal(raw, north, inbox) == "protocol_changed"


def test_a_refusal_names_both_ends(north, inbox):
    """Who follows two guides with two ids reads which they are."""
    raw = zipped(reseal(north.members, north, recipient="coordination"))
    put(north, raw)
    _, (refused,) = accept(inbox=inbox, settings=hub_settings([north], inbox))
    assert refused.detail == "addressed to coordination, this is hub"


def test_the_wrong_keys(north, inbox, tmp_path):
    raw = plain(north.path.read_bytes())
    stranger = public(tmp_path / "stranger.key")

    def refused(edit):
        content = hub_content([north], inbox)
        edit(content["roster"][0])
        return refusal(raw, north, inbox, hub_settings([north], inbox, hub=content))

    assert refused(lambda member: member.update(key=stranger)) == "sender_signature"
    approver = lambda **changes: lambda member: member["approvers"][0].update(changes)  # noqa: E731
    assert refused(approver(key=stranger)) == "unknown_approver"
    assert refused(approver(name="Someone Else")) == "unknown_approver"


def test_an_approver_of_another_site(tmp_path, north, inbox):
    south = site(tmp_path, "south")
    north.approver_key = south.approver_key
    north.send(inbox)
    content = hub_content([south, site(tmp_path / "x", "north")], inbox)
    content["roster"][1]["key"] = public(north.root / "keys" / "site.key")
    settings = hub_settings([south], inbox, hub=content)
    assert refusal(plain(north.path.read_bytes()), north, inbox, settings) == "unknown_approver"


def test_what_nobody_approved(north, inbox):
    """The site's machine alone cannot release: it would have to sign as the approver."""
    machine = north.root / "keys" / "site.key"
    raw = zipped(reseal(north.members, north, approver=machine))
    assert refusal(raw, north, inbox) == "approval_signature"


@pytest.mark.parametrize("signatures", [b"{}", b"[]", b"x", b'{"site":2}'])
def test_signatures_out_of_form(north, inbox, signatures):
    raw = zipped(north.members | {"signature.json": signatures})
    assert refusal(raw, north, inbox) == "signature_invalid"


def test_what_the_mean_lost_in_rounding_is_merged(tmp_path, inbox):
    """At a mean of 10^8 standard deviations the merged variance is the pooled one to 1e-10."""
    rng = np.random.default_rng(1)
    sites = [site(tmp_path, f"s{i:02}", 7, i) for i in range(12)]
    for i, s in enumerate(sites):
        s.table[MEAN] = 1e8 + i % 3 + rng.normal(0, 1, len(s.table))
        s.send(inbox)
    settings = hub_settings(sites, inbox)
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert rejected == []
    values = pooled(sites, "liver", MEAN)
    cell = summary(merge(accepted=accepted, settings=settings), "liver", MEAN)
    assert cell["variance"] == pytest.approx(values.var(ddof=1), rel=1e-10)
    forgotten = [replace(entry, aggregates=_without_rest(entry.aggregates)) for entry in accepted]
    cell = summary(merge(accepted=forgotten, settings=settings), "liver", MEAN)
    assert cell["variance"] != pytest.approx(values.var(ddof=1), rel=1e-10)


def _without_rest(aggregates):
    content = aggregates.plain()
    for analysis in content["analyses"]:
        for cell in analysis["cells"]:
            if "mean_rest" in cell:
                cell["mean_rest"] = 0.0
    return type(aggregates).model_validate(content)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_an_error_of_the_hubs_own_machine_rejects_no_site(sites, inbox, monkeypatch, error):
    for s in sites:
        s.send(inbox)
    settings = hub_settings(sites, inbox)
    broken, opens = sorted(inbox.glob("*.age"))[0], os.open

    def read(path, *arguments, **options):
        if path == broken:
            raise error
        return opens(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", read)
        with pytest.raises(type(error)):
            accept(inbox=inbox, settings=settings)
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert (len(accepted), rejected) == (3, [])


def test_a_parser_that_fails_on_a_file_rejects_that_file(sites, inbox, monkeypatch):
    for s in sites:
        s.send(inbox)

    def fails(raw, settings, now):
        if b'"sender":"south"' in raw:
            raise IndexError("a hostile file")
        return verify(raw, settings, now)

    monkeypatch.setattr("jipflow.hub.accept.verify", fails)
    accepted, rejected = accept(inbox=inbox, settings=hub_settings(sites, inbox))
    assert [a.site for a in accepted] == ["north", "west"]
    assert [(r.reason, r.detail) for r in rejected] == [("unreadable", "IndexError")]


def test_what_was_accepted_and_rejected_is_read_as_it_was_written(sites, inbox, tmp_path):
    for s in sites:
        s.send(inbox)
    (inbox / "bad.age").write_bytes(b"no zip")
    accepted, rejected = accept(inbox=inbox, settings=hub_settings(sites, inbox))
    write_accepted(tmp_path / "accepted.json", accepted)
    write_rejected(tmp_path / "rejected.json", rejected)
    assert read_accepted(tmp_path / "accepted.json") == accepted
    assert read_rejected(tmp_path / "rejected.json") == rejected
    sent = json.loads((tmp_path / "accepted.json").read_text())[0]
    members = unpack((inbox / sent["file"]).read_bytes())
    assert sent["aggregates"] == json.loads(members["aggregates.json"])
    record = json.loads(members["disclosure.json"])
    partly = [cell for cell in record["cells"] if not set(cell["rules"].values()) <= set(Finding)]
    assert len(partly) < len(record["cells"])
    assert sent["disclosure"] == record | {"cells": partly}


def test_one_bad_bundle_does_not_stop_the_others(sites, inbox):
    for s in sites:
        s.send(inbox)
    (inbox / "bad.age").write_bytes(b"PK\x03\x04 nonsense")
    (inbox / "notes.txt").write_text("not a bundle")
    accepted, rejected = accept(inbox=inbox, settings=hub_settings(sites, inbox))
    assert [a.site for a in accepted] == ["north", "south", "west"]
    assert [r.file for r in rejected] == ["bad.age"]


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
    content = hub_content(sites, inbox) | change
    with pytest.raises(ConfigError, match=words):
        load(Hub, content, "hub.yaml")


def test_hub_settings_hold_the_protocol_as_the_sites_hash_it(sites, inbox, tmp_path):
    path = tmp_path / "demo.yaml"
    path.write_text(yaml.safe_dump(protocol()))
    content = hub_content(sites, inbox) | {"protocol": str(path)}
    settings = load_hub_settings(content)
    assert settings.protocol_sha256 == sites[0].settings.protocol_sha256
    assert settings.hub.results == "results/hub"
    assert settings.results == "results/hub/demo"
    write_json(tmp_path / "settings.json", settings.plain())
    assert read_hub_settings(tmp_path / "settings.json") == settings
    with pytest.raises(ConfigError, match="no protocol 'nowhere'"):
        load_hub_settings(content | {"protocol": "nowhere"})


def test_the_roster_keeps_people_and_machines_apart(sites, inbox, tmp_path):
    content = hub_content(sites, inbox)
    load_hub_settings(content)
    with pytest.raises(ConfigError, match="inbox"):
        load_hub_settings(content | {"inbox": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="listed twice"):
        load_hub_settings(content | {"roster": [*content["roster"], content["roster"][0]]})
    strong = content["roster"][0]["approvers"][0]["key"]
    content["roster"][0]["approvers"][0]["key"] = f"ed25519:01{'0' * 62}"
    with pytest.raises(ConfigError, match="anyone can sign for the key of Ada Roe"):
        load_hub_settings(content)
    content["roster"][0]["approvers"][0]["key"] = strong
    load_hub_settings(content)
    content["roster"][0]["approvers"][0]["key"] = content["roster"][0]["key"]
    with pytest.raises(ConfigError, match="same key"):
        load_hub_settings(content)


def test_the_guide_explains_every_refusal():
    guide = (ROOT / "docs" / "hub-guide.md").read_text()
    assert [code for code in Refusal if f"`{code}`" not in guide] == []

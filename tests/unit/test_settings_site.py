"""Each mistake in a site's file gives one message that names the key and the fix."""

from __future__ import annotations

import pytest
import yaml

from config_files import PACS, demo_protocol, loaded, message, site_of
from jipflow.settings.resources import ROOT, ConfigError
from jipflow.settings.run import load_settings


@pytest.fixture
def site(tmp_path):
    return site_of(tmp_path)


def test_the_example_site_is_valid_but_for_its_folder(tmp_path):
    example = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    text = message({**example, "protocol": "sarcoma-ct", "sources": [
        {**example["sources"][0], "path": str(tmp_path / "nowhere")}]})  # fmt: skip
    assert "nowhere" in text
    assert "fix its path" in text


def test_defaults_that_several_keys_share_are_filled_in(site):
    site["sources"] = [PACS]
    settings = load_settings({**site, "protocol": "sarcoma-ct"})
    (source,) = settings.site.sources
    assert (source.parallel, source.timeout) == (4, 60)
    assert "Modality" in source.match
    assert settings.protocol.segmentations[0].encoding == "binary"


def test_a_site_can_only_tighten_disclosure(site):
    assert load_settings({**site, "disclosure": {"min_patients": 12}}).min_patients == 12
    assert "5" in message({**site, "disclosure": {"min_patients": 3}})


@pytest.mark.parametrize(
    ("key", "default", "tighter", "looser"),
    [("min_patients", 10, 12, 5), ("largest_two", 0.7, 0.6, 0.9), ("p_percent", 20, 30, 10)],
)
def test_of_each_limit_the_stricter_of_site_and_protocol_holds(
    site, tmp_path, key, default, tighter, looser
):
    protocol = demo_protocol() | {"disclosure": {key: default}}
    for given, holds in ((tighter, tighter), (looser, default)):
        settings = loaded({**site, "disclosure": {key: given}}, protocol, tmp_path)
        assert getattr(settings.disclosure, key) == holds


@pytest.mark.parametrize(
    ("protocol", "site_says", "holds"),
    [
        (None, {}, "refuse"),
        (None, {"heads": "deface"}, "refuse"),
        ("refuse", {"heads": "deface"}, "refuse"),
        ("deface", {}, "deface"),
        ("deface", {"heads": "deface"}, "deface"),
        ("deface", {"heads": "refuse"}, "refuse"),
        ("deface", {"unstated_heads": False}, "deface"),
    ],
)
def test_of_heads_the_protocol_decides_and_a_site_can_only_refuse(
    site, tmp_path, protocol, site_says, holds
):
    content = demo_protocol() | ({"export": {"heads": protocol}} if protocol else {})
    settings = loaded({**site, "export": site_says}, content, tmp_path)
    assert settings.heads == holds


def test_no_protocol_and_no_site_lets_heads_leave_as_they_are(site, tmp_path):
    for says in ("keep", "absent"):
        assert "export.heads" in message({**site, "export": {"heads": says}})
        with pytest.raises(ConfigError, match=r"export\.heads"):
            loaded(site, demo_protocol() | {"export": {"heads": says}}, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("largest_two", 0.91), ("largest_two", 0), ("p_percent", 9)]
)
def test_no_limit_is_looser_than_its_floor(site, key, value):
    assert key in message({**site, "disclosure": {key: value}})


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"sauces": []}, ["unknown key 'sauces'", "'sources'"]),
        ({"sources": []}, ["sources"]),
        ({"sources": [{"name": "a", "kind": "ftp", "path": "/"}]}, ["'ftp'", "folder"]),
        ({"sources": [PACS], "publish": {"to": "disk"}}, ["publish.to", "'disk'", "pacs"]),
        ({"publish": {"to": "pacs"}}, ["publish.to", "none"]),
        ({"sources": [{**PACS, "url": "https://me:pw@pacs"}]}, ["sources[0].url"]),
        (
            {"sources": [{**PACS, "deletion": {"by": "orthanc"}}]},
            ["'pacs': deletion: url is missing", "Orthanc's REST interface"],
        ),
        (
            {"sources": [{**PACS, "deletion": {"by": "rejection_note", "user": "me"}}]},
            ["'pacs': deletion: a rejection note", "remove user"],
        ),
        ({"sources": [{**PACS, "deletion": {"by": "hand"}}]}, ["'hand'", "rejection_note"]),
        ({"sources": [{**PACS, "hours": "19-6"}]}, ["sources[0].hours", "19:00-06:00"]),
        ({"sources": [{**PACS, "password": "x"}]}, ["'password'", "'password_env'"]),
        ({"sources": [{"name": "a", "kind": "dimse", "host": "pacs"}]}, ["'port' is missing"]),
        ({"site": {"id": "north"}}, ["'name' is missing", "site"]),
        ({"site": {"id": "North Hospital", "name": "x"}}, ["site.id", "North Hospital"]),
        ({"protocol": "sarcoma-xt"}, ["sarcoma-xt", "Did you mean"]),
        ({"protocol": None}, ["--config protocol="]),
        ({"protocol": "../../etc/passwd"}, ["../../etc/passwd"]),
    ],
)
def test_a_wrong_site_is_explained(site, change, parts):
    text = message({**site, **change})
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("key", "places"),
    [
        ("shard_size", "below 'processing'; or did you mean 'shards'?"),
        ("path", "below 'sources'."),
        ("cert_file", "below 'sources.tls'."),
        ("id", "below 'site' or 'hub'."),
    ],
)
def test_a_key_in_the_wrong_place_is_named_with_its_own(key, places, tmp_path):
    text = message({**site_of(tmp_path), key: "x"})
    assert f"unknown key {key!r} at the top level; it belongs {places}" in text


def test_a_key_of_segments_at_the_top_of_a_protocol_is_named_with_its_own(tmp_path):
    for key, end in {"match": ".", "term": "; or did you mean 'terms'?"}.items():
        text = message(site_of(tmp_path), demo_protocol() | {key: "x"}, tmp_path)
        assert f"unknown key {key!r} at the top level; it belongs below 'segmentations.seg" in text
        assert text.endswith(end)

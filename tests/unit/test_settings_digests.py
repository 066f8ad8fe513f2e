"""Hashes of settings: the same as ever for what is shipped, others where something changes."""

from __future__ import annotations

import pytest
import yaml

from config_files import demo_protocol, loaded, site_of, with_clinical
from jipflow.files import canonical_digest
from jipflow.settings import resources
from jipflow.settings.reading import protocol_ids
from jipflow.settings.resources import RESOURCES
from jipflow.settings.run import load_settings


@pytest.fixture
def site(tmp_path):
    return site_of(tmp_path)


@pytest.fixture
def protocol():
    return demo_protocol()


def test_a_hash_changes_with_its_own_part_only(site, protocol, tmp_path):
    def hashes(content):
        settings = loaded(site, content, tmp_path)
        return [settings.sha256(key) for key in ("cohort", "segmentations", "radiomics")]

    before = hashes(protocol)
    protocol["radiomics"][0]["settings"] = "ibsi_mr"
    after = hashes(protocol)
    assert before[:2] == after[:2]
    assert before[2] != after[2]


def test_the_protocols_hash_covers_what_it_names(site, protocol, tmp_path, monkeypatch):
    def digest():
        return loaded(site, protocol, tmp_path).protocol_sha256

    def pinned_with(key, value):
        registry = {"models": {"phantom-ct": {**model, key: value}}}
        (tmp_path / "models.yaml").write_text(yaml.safe_dump(registry))
        return digest()

    model = yaml.safe_load(resources.MODELS.read_text())["models"]["phantom-ct"]
    before = digest()
    (tmp_path / "shipped.yaml").write_text("models: {}\n")
    monkeypatch.setattr(resources, "MODELS", tmp_path / "shipped.yaml")
    assert pinned_with("licence", "MIT") == before
    seen = {
        before,
        pinned_with("files", model["files"] | {"plans.json": "0" * 64}),
        pinned_with("axes", "RAS"),
        pinned_with("members", ["T__P__2d"]),
        pinned_with("postprocessing", "plans.json"),
        pinned_with("labels", [{**model["labels"][0], "value": 77}, *model["labels"][1:]]),
    }
    assert len(seen) == 6


def test_the_hash_covers_the_content_of_the_protocols_own_files_and_not_their_place(
    site, protocol, tmp_path
):
    shipped = loaded(site, protocol, tmp_path).protocol_sha256
    content = yaml.safe_load((RESOURCES / "radiomics" / "ibsi_ct.yaml").read_text())
    protocol["radiomics"][0]["settings"] = content
    inline = loaded(site, protocol, tmp_path).protocol_sha256
    seen = {shipped, inline}
    for path in ("own.yaml", "deep/other.yaml"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("# a comment\n" + yaml.safe_dump(content))
        protocol["radiomics"][0]["settings"] = path
        assert loaded(site, protocol, tmp_path).protocol_sha256 == inline
    content["setting"]["binWidth"] = 7
    (tmp_path / path).write_text(yaml.safe_dump(content))
    seen.add(loaded(site, protocol, tmp_path).protocol_sha256)
    assert len(seen) == 3

    term = yaml.safe_load((RESOURCES / "terms.yaml").read_text())["spleen"]
    protocol["segmentations"][0]["segments"][0]["term"] = "mine"
    protocol["terms"] = {"mine": term, "never-used": term}
    inline = loaded(site, protocol, tmp_path).protocol_sha256
    (tmp_path / "terms.yaml").write_text(yaml.safe_dump(protocol.pop("terms")))
    settings = loaded(site, protocol, tmp_path)
    assert settings.protocol_sha256 == inline
    assert settings.protocol.terms.keys() == {"mine"}
    (tmp_path / "terms.yaml").write_text(yaml.safe_dump({"mine": {**term, "laterality": "left"}}))
    assert loaded(site, protocol, tmp_path).protocol_sha256 != inline


RECORDED = {
    "adc-variance": (
        "30ee60e68aa9634d4ca9e9a3c846aa0f24f5e9814381e97321f247b887af4c8d",
        "5d3acb54e9604eb41eeb38be52f976b978a568d426283a09586afc223aef9710",
    ),
    "demo": (
        "27f87cde5519e54c2be760c0437bc6671684620d4fa9e0c11f3216d6070d5bc8",
        "59ce4cbe1b35587df7079ea56e419e8594b53d6bd170c94e21b804e08338acdb",
    ),
    "demo-burden": (
        "b2c8e989dae2b91010986fb8e01c987759903b7f29bf15e3029663806068b9bb",
        "db50f175d23e334305a922d8b5840ffc59e93ef63931284da4526b5f304d9be1",
    ),
    "phantom-train": (
        "3a15b136fe88b81da2c5833e6172e40ab4d3b0bef0f0727ba265b6fd02e5f5f2",
        "2e0fbfe6a2ed9fe311f67997cc0c62bbb64bbb5a49909d24e27b620b8c4054d1",
    ),
    "psma-burden": (
        "f98f94a2ba6d3d2baead527a355464264765f497b641a24c9a857cfc2fba8542",
        "6999a7309e40d5df7ca0e2379c53170d0ac005ee7f332356a17e810c0bc59f2c",
    ),
    "sarcoma-ct": (
        "85ea85abf072166dc5f21d4decc2f4503fb548dbe976c90031b593578d3bec07",
        "73f4d3efd2fb16deff60c281abea4dad9aea5945c0fdf0fa846920621f22b24a",
    ),
    "sarcoma-mr": (
        "6abbd57dc73a5b7f8da4fa9de69348a8ce8a72cd6cf63bb2de1a3e00ed335f8c",
        "9a5a376c85f872c51e40ad6866a017be7b1366c2d27b7e780ecdd7b3961a1c0b",
    ),
    "sarcoma-pet": (
        "34e6dfbe18136fe2bc16c2216df47f6d84c454f8e8204301c2d762ec7629177d",
        "df21673bc25365e9a06619e650f71a40c0ce0d91dd1a116172f0d80212d44ff8",
    ),
    "sarcoma-pet-train": (
        "0b18e0889dd7340c6c93f3874a4f4f2da29e4efa24b827ce5bcd2a8d0b371174",
        "7b407fc9bef5463003da9ea47a84e88773849418c89335b9baa5f932dc328808",
    ),
    "sarcoma-survival": (
        "9c4ccffc6095704d015b492c39017c3b44bf174b6b5c2942b9983bf6dec8fb4b",
        "b74bf8d3c9f144f88568d3c9de2459f6c3ef0c9f2e13f7830e5c9129672fb4b5",
    ),
}
"""Hashes that sites have sent: of a protocol, and of the parts that rules depend on."""


@pytest.mark.parametrize("name", protocol_ids())
def test_the_hashes_of_the_shipped_protocols_are_those_that_sites_have_sent(site, name, tmp_path):
    settings = load_settings({**with_clinical(site, tmp_path), "protocol": name})
    parts = ("cohort", "segmentations", "radiomics", "analyses", "site.processing")
    found = canonical_digest([settings.sha256(key) for key in parts])
    assert (settings.protocol_sha256, found) == RECORDED[name]

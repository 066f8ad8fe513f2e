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
        "f3f02c911d08c57e7bc4c0ec35ca4d5b0d299879cf29a91f41ba7d83f9d939dc",
    ),
    "demo": (
        "27f87cde5519e54c2be760c0437bc6671684620d4fa9e0c11f3216d6070d5bc8",
        "34a99064c9562da0ff6886f2d172da5645f2735d3fba713c6b067565786c2031",
    ),
    "demo-burden": (
        "b2c8e989dae2b91010986fb8e01c987759903b7f29bf15e3029663806068b9bb",
        "643f0727c8f9aa4c509b7793aeb7b878913169b5db0633d9fe808949e3a4f001",
    ),
    "phantom-train": (
        "3a15b136fe88b81da2c5833e6172e40ab4d3b0bef0f0727ba265b6fd02e5f5f2",
        "d0432ee8b484956e1a176b0b402e8049351c374489f3fb8cc2b3869be3787980",
    ),
    "psma-burden": (
        "f98f94a2ba6d3d2baead527a355464264765f497b641a24c9a857cfc2fba8542",
        "8d6df4fe2e3f32ad21899ea67b1eb5874acc7569f9829cecf9e2a685ea8b9e49",
    ),
    "sarcoma-ct": (
        "85ea85abf072166dc5f21d4decc2f4503fb548dbe976c90031b593578d3bec07",
        "765f16a15d5742eb762924d4b782996b63b29bfd3d8c6959ebb5de163a1e2e83",
    ),
    "sarcoma-mr": (
        "6abbd57dc73a5b7f8da4fa9de69348a8ce8a72cd6cf63bb2de1a3e00ed335f8c",
        "543a65dbd96f6549d09189978152a636b46a09bf47f0d24b590af743a886679a",
    ),
    "sarcoma-pet": (
        "34e6dfbe18136fe2bc16c2216df47f6d84c454f8e8204301c2d762ec7629177d",
        "116465e2e53a06d6bc51dc5c4d20faec904df831dc0da17a36d4ab25ecf7f7a2",
    ),
    "sarcoma-pet-train": (
        "0b18e0889dd7340c6c93f3874a4f4f2da29e4efa24b827ce5bcd2a8d0b371174",
        "6faad40188381f5054ed1e0e50e70dbf3596178e0dc394d2c708999910447dfe",
    ),
    "sarcoma-survival": (
        "9c4ccffc6095704d015b492c39017c3b44bf174b6b5c2942b9983bf6dec8fb4b",
        "7916a2d5e070ad0c21639f9b9410d1530dff95228afa3f4681051bcc4e4e033b",
    ),
}
"""Hashes that sites have sent: of a protocol, and of the parts that rules depend on."""


@pytest.mark.parametrize("name", protocol_ids())
def test_the_hashes_of_the_shipped_protocols_are_those_that_sites_have_sent(site, name, tmp_path):
    settings = load_settings({**with_clinical(site, tmp_path), "protocol": name})
    parts = ("cohort", "segmentations", "radiomics", "analyses", "site.processing")
    found = canonical_digest([settings.sha256(key) for key in parts])
    assert (settings.protocol_sha256, found) == RECORDED[name]

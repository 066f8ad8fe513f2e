"""Hashes of settings: the same as ever for what is shipped, others where something changes."""

from __future__ import annotations

import pytest
import yaml

from config_files import demo_protocol, loaded, site_of
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
    "demo": (
        "a05c3c0adcd2547f67397fa71421bd8abbc79578b1517219a8ff053f4d87061a",
        "8760e766dc61d2f82e26faee4ab7865001d83629154b4b861f25b3d64f19627e",
    ),
    "demo-burden": (
        "d7f53364a4a740ad7662620d3b9517251e6e1d527ac309d5f835ec414c53e086",
        "db50f175d23e334305a922d8b5840ffc59e93ef63931284da4526b5f304d9be1",
    ),
    "phantom-train": (
        "99b1c9fc300fdf33605c233d126f03b87affae4c5f135f7736fdf649b4065b01",
        "8916e5b83adcf45ffa832a481b46c6406c56de8f68f6fa9633f9b369ec54ca64",
    ),
    "psma-burden": (
        "3c7701bee7604cd5acfd03f5534544b51a13512afee9306082c65d625e9c1ace",
        "381f4e17fee55f06cf8bc21272d92718044c5ff6c54d4a2d632e21aec6954bad",
    ),
    "sarcoma-ct": (
        "4bbd2bda0a54988f765c9339f511f11d3db97b017d7c53540d1ab1cb00efe662",
        "283ae5895f6306a1dc788d76c26a06baf6ecf78b69ea4acc1925667002578e77",
    ),
    "sarcoma-mr": (
        "e78cd8020fb8d98f0aeb72148c2643168acbd8a38c05444e5719654e03d647ab",
        "c7ceec49334e0ff5cec294200f21093649e08ca7cf500b41e798f65b9dd000bb",
    ),
    "sarcoma-pet": (
        "1e1c122b70c5d905c67f60ef07e85ccd2dfc79c668543285c0b0693cb72aa6cf",
        "0144e850ca62142a26bb6a0d7ed6b234053c799522e9c04c722cc957b4726b95",
    ),
    "sarcoma-pet-train": (
        "aba3e578984ec913d81c94c1d7a0d68b2e1aa5b56c5f0233d53dfecb1399c10f",
        "c517ed650a3409b3a5a66b7448208204d6c35824b18d2ea97fa89da39d643f28",
    ),
}
"""Hashes that sites have sent: of a protocol, and of the parts that rules depend on."""


@pytest.mark.parametrize("name", protocol_ids())
def test_the_hashes_of_the_shipped_protocols_are_those_that_sites_have_sent(site, name):
    settings = load_settings({**site, "protocol": name})
    parts = ("cohort", "segmentations", "radiomics", "analyses", "site.processing")
    found = canonical_digest([settings.sha256(key) for key in parts])
    assert (settings.protocol_sha256, found) == RECORDED[name]

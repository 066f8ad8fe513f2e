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
        "de42c567abedf3fe2fc9dc05331a001582f871a204e47f034d119732d2079072",
        "d2526955242ade1c938e2a57c222e436d78790f3d03b0e62de786a66f9dab651",
    ),
    "demo-burden": (
        "b2c8e989dae2b91010986fb8e01c987759903b7f29bf15e3029663806068b9bb",
        "db50f175d23e334305a922d8b5840ffc59e93ef63931284da4526b5f304d9be1",
    ),
    "phantom-train": (
        "5630ca8725883cab3579d3215d0902e3169c8ff0ce64b4b6201c78e3e39c9ee3",
        "8916e5b83adcf45ffa832a481b46c6406c56de8f68f6fa9633f9b369ec54ca64",
    ),
    "psma-burden": (
        "46110de71f8219d0a9e3982f6e7f3c258b716f8c9669d8e9a6dd40f4e790b88e",
        "381f4e17fee55f06cf8bc21272d92718044c5ff6c54d4a2d632e21aec6954bad",
    ),
    "sarcoma-ct": (
        "1cd5a736e9ee57b46bc00a136eb40db9157a03a8552802df7a133541b5d796cc",
        "29b35975bed7eabfa56ee6adbcdb99aaa66c45a944d030c312a1529e11169ab9",
    ),
    "sarcoma-mr": (
        "83244097a17d892aa642a539b4c8a309fed70b5429d8f8be03965befde9df0db",
        "2a3aa68e6db007ffa5d5c45ecd2062a6d4928461fa76cf43d1e42008618ead25",
    ),
    "sarcoma-pet": (
        "cc1f3d49c3ad5efbe06014d78bd98ee83b379aa078d736c6cbf1be71767a32cb",
        "4d9ead6e79a1858602daefc58afe088761bdbd1f9e9d89a258849750f78e08e3",
    ),
    "sarcoma-pet-train": (
        "918567db1c94eb96127dceec2dfb1a7a59a2f00ab4991418f8e4027684de1cf0",
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

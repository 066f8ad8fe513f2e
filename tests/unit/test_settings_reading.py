"""What a protocol names, and a site's own things outside the repository."""

from __future__ import annotations

import shutil

import pytest
import yaml

from config_files import demo_protocol, loaded, message, site_of
from jipflow.patterns import meets
from jipflow.settings.reading import read_registry
from jipflow.settings.resources import MODELS, RESOURCES, ROOT, ConfigError
from jipflow.settings.run import load_settings, read_settings, write_settings

PHANTOM = yaml.safe_load(MODELS.read_text())["models"]["phantom-ct"]
SPLEEN = yaml.safe_load((RESOURCES / "terms.yaml").read_text())["spleen"]


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return site_of(tmp_path)


@pytest.fixture
def protocol():
    return demo_protocol()


def pin(path, **models):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"models": models}))


def test_a_shipped_model_lies_in_the_repository(site, protocol, tmp_path):
    (model,) = loaded(site, protocol, tmp_path).named.models.values()
    assert model.place == ROOT / PHANTOM["path"]
    assert model.registry == str(MODELS)
    assert model.entry.plain().items() >= PHANTOM.items()


def test_regular_expressions_are_checked_when_a_run_begins_and_not_by_each_job(
    site, protocol, tmp_path
):
    segment = {"name": "lesion", "term": "lesion", "match": "GTV.*"}
    contours = {"id": "contours", "engine": "imported", "role": "CT", "segments": [segment]}
    protocol["segmentations"].append(contours)
    settings = loaded(site, protocol, tmp_path)
    write_settings(tmp_path / "settings.json", settings)
    meets.cache_clear()
    assert read_settings(tmp_path / "settings.json") == settings
    assert meets.cache_info().misses == 0
    segment["match"] = "GTV("
    with pytest.raises(ConfigError, match="is not a regular expression"):
        loaded(site, protocol, tmp_path)


def test_a_protocol_and_what_it_needs_is_one_folder(site, protocol, tmp_path):
    folder = tmp_path / "study"
    pin(folder / "models.yaml", mine={**PHANTOM, "path": "weights/mine"})
    (folder / "terms.yaml").write_text(yaml.safe_dump({"my-spleen": SPLEEN}))
    shutil.copy(RESOURCES / "radiomics" / "ibsi_ct.yaml", folder / "ct.yaml")
    protocol["segmentations"][0]["model"] = "mine"
    protocol["segmentations"][0]["segments"][1]["term"] = "my-spleen"
    protocol["radiomics"][0]["settings"] = "ct.yaml"
    settings = loaded(site, protocol, folder)
    write_settings(tmp_path / "settings.json", settings)
    shutil.rmtree(folder)
    # A job has all that it needs in the settings.
    again = read_settings(tmp_path / "settings.json")
    assert again == settings
    assert again.named.models["mine"].place == folder / "weights" / "mine"
    assert again.named.terms["my-spleen"].plain() == SPLEEN
    assert again.radiomics(again.protocol.radiomics[0]).setting.bin_width == 10


def test_a_protocol_and_what_it_needs_is_one_file(site, protocol, tmp_path):
    protocol["terms"] = {"my-spleen": SPLEEN}
    protocol["segmentations"][0]["segments"][1]["term"] = "my-spleen"
    content = yaml.safe_load((RESOURCES / "radiomics" / "ibsi_ct.yaml").read_text())
    protocol["radiomics"][0]["settings"] = content
    settings = loaded(site, protocol, tmp_path)
    assert settings.named.terms["my-spleen"].type == SPLEEN["type"]
    assert settings.radiomics(settings.protocol.radiomics[0]).setting.bin_width == 10
    assert set(settings.named.parameters) == {"ibsi_pet"}


@pytest.mark.parametrize("named", [True, False])
def test_a_site_has_models_of_its_own(site, protocol, tmp_path, named):
    path = tmp_path / ("mine.yaml" if named else "models/models.yaml")
    pin(path, mine={**PHANTOM, "path": "weights"})
    protocol["segmentations"][0]["model"] = "mine"
    config = site | ({"models": {"registry": str(path)}} if named else {})
    (model,) = loaded(config, protocol, tmp_path).named.models.values()
    assert model.place == path.parent / "weights"
    assert read_registry(path)["mine"].place == model.place


def test_a_registry_that_the_site_names_must_be_there(site, protocol, tmp_path):
    config = site | {"models": {"registry": "nowhere.yaml"}}
    assert "nowhere.yaml does not exist" in message(config, protocol, tmp_path)


def test_registries_may_not_disagree(site, protocol, tmp_path):
    pin(tmp_path / "models.yaml", **{"phantom-ct": {**PHANTOM, "licence": "MIT"}})
    loaded(site, protocol, tmp_path)
    pin(tmp_path / "models.yaml", **{"phantom-ct": {**PHANTOM, "axes": "RAS"}})
    text = message(site, protocol, tmp_path)
    assert "has another model 'phantom-ct'; rename one of them" in text
    assert str(MODELS) in text


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"terms": {"spleen": {**SPLEEN, "laterality": "left"}}}, ["'spleen'", "another name"]),
        ({"terms": {"mine": {"type": SPLEEN["type"]}}}, ["'category' is missing at terms.mine"]),
        ({"terms": {"My Spleen": SPLEEN}}, ["key 'My Spleen' of terms"]),
        ({"settings": "ct.yaml"}, ["ct.yaml does not exist"]),
        ({"settings": {"featureClass": {"glcms": []}}}, ["radiomics[0].settings", "'glcm'"]),
        ({"settings": {"featureClass": {"glcm": ["x"]}}}, ["radiomics[0].settings", "'x'"]),
        ({"settings": "pet"}, ["no radiomics settings 'pet'", "ibsi_pet", "YAML file"]),
    ],
)
def test_what_is_wrong_with_the_protocols_own_things_is_named(
    site, protocol, tmp_path, change, parts
):
    if "settings" in change:
        protocol["radiomics"][0] |= change
    else:
        protocol |= change
    text = message(site, protocol, tmp_path)
    for part in parts:
        assert part in text


def test_a_wrong_file_beside_the_protocol_is_named(site, protocol, tmp_path):
    (tmp_path / "terms.yaml").write_text(yaml.safe_dump({"mine": {**SPLEEN, "laterality": "up"}}))
    text = message(site, protocol, tmp_path)
    assert f"{tmp_path / 'terms.yaml'}: terms.mine.laterality is 'up'" in text
    (tmp_path / "terms.yaml").unlink()
    (tmp_path / "ct.yaml").write_text("setting: {binWidth: 0}\nfeatureClass: {glcm: []}\n")
    protocol["radiomics"][0]["settings"] = "ct.yaml"
    text = message(site, protocol, tmp_path)
    assert f"{tmp_path / 'ct.yaml'}: setting.binWidth is 0" in text


def test_a_shipped_protocol_needs_no_file_beside_it(site):
    assert load_settings({**site, "protocol": "demo"}).protocol.terms is None

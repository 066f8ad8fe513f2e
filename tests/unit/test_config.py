"""Each mistake in a configuration gives one message that names the key and the mend."""

from __future__ import annotations

import copy
import shutil
from graphlib import CycleError
from pathlib import Path

import pytest
import yaml

from jipflow.settings.config import (
    MODELS,
    PROTOCOLS,
    ROOT,
    ConfigError,
    in_order,
    input_segmentations,
    load_settings,
    protocol_ids,
    read_settings,
    settings_sha256,
    write_settings,
)

PACS = {"name": "pacs", "kind": "dicomweb", "url": "https://pacs.local/dicom-web"}


@pytest.fixture
def site(tmp_path):
    return {
        "site": {"id": "north", "name": "North"},
        "sources": [{"name": "archive", "kind": "folder", "path": str(tmp_path)}],
        "protocol": "sarcoma-ct",
    }


@pytest.fixture
def protocol():
    return yaml.safe_load((PROTOCOLS / "demo.yaml").read_text())


def message(config, protocol=None, tmp_path=None):
    if protocol is not None:
        path = tmp_path / "protocol.yaml"
        path.write_text(yaml.safe_dump(protocol))
        config = {**config, "protocol": str(path)}
    with pytest.raises(ConfigError) as caught:
        load_settings(config)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("protocol_id", protocol_ids())
def test_every_shipped_protocol_is_valid(site, protocol_id):
    settings = load_settings({**site, "protocol": protocol_id})
    assert settings.protocol_id == protocol_id


def test_the_example_site_is_valid_but_for_its_folder(tmp_path):
    example = yaml.safe_load((ROOT / "config" / "site.yaml").read_text())
    text = message({**example, "protocol": "sarcoma-ct", "sources": [
        {**example["sources"][0], "path": str(tmp_path / "nowhere")}]})  # fmt: skip
    assert "nowhere" in text
    assert "mend its path" in text


def test_defaults_come_from_the_schema(site):
    settings = load_settings(site)
    assert settings.site["processing"] == {
        "shard_size": 50,
        "device": "auto",
        "totalsegmentator_licence_file": None,
    }
    assert settings.protocol["disclosure"]["min_patients"] == 5
    assert settings.protocol["cohort"]["case"]["by"] == "study"
    assert settings.protocol["cohort"]["case"]["roles"]["CT"]["required"] is True


def test_defaults_that_several_keys_share_are_filled_in(site):
    site["sources"] = [PACS]
    settings = load_settings({**site, "protocol": "sarcoma-ct"})
    (source,) = settings.site["sources"]
    assert (source["parallel"], source["timeout"]) == (4, 60)
    assert "Modality" in source["match"]
    assert settings.protocol["segmentations"][0]["encoding"] == "binary"


def test_an_algorithm_in_a_container_is_checked_against_the_registry(
    site, protocol, tmp_path, monkeypatch
):
    spec = {
        "id": "mine",
        "engine": "container",
        "model": "mine",
        "role": "CT",
        "segments": [{"name": "liver", "label": "liver", "term": "liver"}],
    }
    protocol["segmentations"].append(spec)
    assert "no model 'mine'" in message(site, protocol, tmp_path)
    spec["model"] = "phantom-ct"
    text = message(site, protocol, tmp_path)
    assert "'phantom-ct' is" in text
    assert "nnunet" in text
    assert "container" in text
    registry = yaml.safe_load(MODELS.read_text())
    registry["models"]["mine"] = {
        **registry["models"]["phantom-ct"],
        "engine": "container",
        "image": "mine.tar",
        "files": {"mine.tar": "0" * 64},
    }
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(registry))
    monkeypatch.setattr("jipflow.settings.config.MODELS", tmp_path / "models.yaml")
    spec["model"] = "mine"
    spec["segments"][0]["label"] = "heart"
    assert "has no label 'heart'" in message(site, protocol, tmp_path)
    spec["segments"][0]["label"] = "liver"
    spec["inputs"] = ["MR"]
    assert "'MR' is not among the roles" in message(site, protocol, tmp_path)
    spec["inputs"] = []
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(protocol))
    settings = load_settings({**site, "protocol": str(tmp_path / "protocol.yaml")})
    assert settings.site["containers"] == {"runtime": "auto", "minutes": 60, "memory_gb": None}
    assert settings.segmentation("mine")["segments"][0]["required"] is False


def test_folds_and_members_are_those_of_the_registry(site, protocol, tmp_path, monkeypatch):
    registry = yaml.safe_load(MODELS.read_text())
    model = registry["models"]["phantom-ct"]
    several = {**model, "members": ["T__P__2d", "T__P__3d_fullres"]}
    several["files"] = {
        f"{member}/fold_{fold}/checkpoint_final.pth": "0" * 64
        for member, fold in (("T__P__2d", 0), ("T__P__2d", 1), ("T__P__3d_fullres", 0))
    }
    registry["models"] |= {"several": several}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(registry))
    monkeypatch.setattr("jipflow.settings.config.MODELS", tmp_path / "models.yaml")
    spec = next(s for s in protocol["segmentations"] if s["engine"] == "nnunet")
    spec["segments"][0]["expect"] = {"disagreement": 0.2}
    text = message(site, protocol, tmp_path)
    assert "expect.disagreement: nothing is compared" in text
    assert spec["segments"][0]["name"] in text
    spec["model"], spec["folds"] = "several", [1]
    assert "model 'several' has no fold 1" in message(site, protocol, tmp_path)
    spec["folds"] = [0]
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(protocol))
    load_settings({**site, "protocol": str(tmp_path / "protocol.yaml")})
    several["members"] = ["T__P__2d"]
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(registry))
    assert "nothing is compared" in message(site, protocol, tmp_path)
    spec["folds"] = []
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(protocol))
    load_settings({**site, "protocol": str(tmp_path / "protocol.yaml")})


def test_a_site_can_only_tighten_disclosure(site):
    assert load_settings({**site, "disclosure": {"min_patients": 12}}).min_patients == 12
    assert "5" in message({**site, "disclosure": {"min_patients": 3}})


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"sauces": []}, ["unknown key 'sauces'", "'sources'"]),
        ({"sources": []}, ["sources"]),
        ({"sources": [{"name": "a", "kind": "ftp", "path": "/"}]}, ["'ftp'", "folder"]),
        ({"sources": [PACS], "publish": {"to": "disk"}}, ["publish.to", "'disk'", "pacs"]),
        ({"publish": {"to": "pacs"}}, ["publish.to", "none"]),
        ({"sources": [{**PACS, "url": "https://me:pw@pacs"}]}, ["sources[0].url"]),
        ({"sources": [{**PACS, "hours": "19-6"}]}, ["sources[0].hours", "19:00-06:00"]),
        ({"sources": [{**PACS, "password": "x"}]}, ["'password'", "'password_env'"]),
        ({"sources": [{"name": "a", "kind": "dimse", "host": "pacs"}]}, ["'port' is missing"]),
        ({"site": {"id": "north"}}, ["'name' is missing", "site"]),
        ({"site": {"id": "North Hospital", "name": "x"}}, ["site.id", "North Hospital"]),
        ({"protocol": "sarcoma-xt"}, ["sarcoma-xt", "Did you mean"]),
        ({"protocol": None}, ["--config protocol="]),
        ({"protocol": "../../etc/passwd"}, ["no protocol"]),
    ],
)
def test_a_wrong_site_is_explained(site, change, parts):
    text = message({**site, **change})
    for part in parts:
        assert part in text


def put(protocol, path, value):
    *parents, last = path
    for key in parents:
        protocol = protocol[key]
    protocol[last] = value


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        (["cohort", "where"], "Modalitie = 'CT'", ["cohort.where[0]", "Modalitie", "Modality"]),
        (["cohort", "where"], "SELECT FROM WHERE", ["not valid SQL"]),
        (["cohort", "where"], "1); DROP TABLE catalog; --", ["not valid SQL"]),
        (["cohort", "where"], "EXISTS (FROM read_text('/etc/passwd'))", ["not valid SQL"]),
        (["cohort", "case", "roles", "CT", "prefer"], "Thickness", ["roles.CT.prefer"]),
        (["segmentations", 0, "engine"], "magic", ["segmentations[0].engine", "magic", "nnunet"]),
        (["segmentations", 0, "role"], "MR", ["'organs'", "'MR'", "CT, PT"]),
        (["segmentations", 0, "model"], "nowhere", ["'nowhere'", "models.yaml"]),
        (["segmentations", 0, "segments", 1, "label"], "heart", ["'spleen'", "'heart'", "liver"]),
        (["segmentations", 0, "inputs"], ["CT", "PT"], ["takes 1 images (CT) and not 2", "inputs"]),
        (["segmentations", 0, "inputs"], ["MR"], ["inputs: role 'MR'", "CT, PT"]),
        (["segmentations", 0, "folds"], [0, 1], ["'phantom-ct' has no fold 1"]),
        (["segmentations", 0, "folds"], [7], ["segmentations[0].folds[0] is 7", "3, 4, all"]),
        (["segmentations", 0, "tile_step_size"], 0, ["segmentations[0].tile_step_size"]),
        (["segmentations", 1, "segments", 0, "term"], "gtw", ["'gtw'", "terms.yaml"]),
        (["segmentations", 1, "segments", 0, "match"], "(GTV", ["regular expression"]),
        (["segmentations", 1, "model"], "phantom-ct", ["unknown key 'model'"]),
        (["radiomics", 0, "settings"], "mri", ["'mri'", "ibsi_ct, ibsi_mr, ibsi_pet"]),
        (["radiomics", 0, "segmentation"], "organ", ["'organ'", "organs"]),
        (["radiomics", 1, "segmentation"], "organs", ["'organs'", "measured twice"]),
        (["segmentations", 0, "encoding"], "fractional", ["encoding", "binary, labelmap"]),
        (["radiomics", 0, "role"], "PT", ["'PT'", "'CT'"]),
        (["analyses", 1, "edges"], [3, 2, 1], ["edges must rise"]),
        (["analyses", 0, "edges"], [1, 2, 3], ["'describe': edges belong to a histogram"]),
        (["analyses", 0, "variables"], ["MR.original_*"], ["must start with a role"]),
        (["disclosure", "min_patients"], 2, ["min_patients", "5"]),
        (["protocol", "version"], "1.0", ["protocol.version"]),
    ],
)
def test_a_wrong_protocol_is_explained(site, protocol, tmp_path, path, value, parts):
    changed = copy.deepcopy(protocol)
    put(changed, path, value)
    text = message(site, changed, tmp_path)
    for part in parts:
        assert part in text


TRAINING = {
    "model": "mine",
    "segmentation": "organs",
    "licence": "Apache-2.0",
    "intended_use": "Tests.",
    "training_data": "Phantoms.",
}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"segmentation": "organ"}, ["no segmentation 'organ'", "organs"]),
        ({"inputs": ["CT", "MR"]}, ["inputs", "'MR'", "CT, PT"]),
        ({"folds": 1}, ["held_out", "folds at least 2"]),
        ({"preset": "tiny"}, ["training.preset", "'tiny'", "small"]),
        ({"patch": [32, 32]}, ["training.patch"]),
        ({"epoch": 5}, ["unknown key 'epoch'", "'epochs'"]),
    ],
)
def test_a_wrong_training_is_explained(site, protocol, tmp_path, change, parts):
    protocol["training"] = {**TRAINING, **change}
    text = message(site, protocol, tmp_path)
    for part in parts:
        assert part in text


def test_a_preset_gives_what_the_protocol_leaves_open(site, protocol, tmp_path):
    path = tmp_path / "protocol.yaml"
    found = {}
    for preset in ("small", "full"):
        protocol["training"] = {**TRAINING, "preset": preset, "epochs": 7}
        path.write_text(yaml.safe_dump(protocol))
        found[preset] = load_settings({**site, "protocol": str(path)}).protocol["training"]
    assert found["small"]["epochs"] == found["full"]["epochs"] == 7
    assert (found["small"]["iterations"], found["full"]["iterations"]) == (25, 250)
    assert found["small"]["features"] == [16, 32, 64, 128]
    assert not found["full"].keys() & {"features", "patch", "batch", "spacing"}


LESION = {"name": "a", "term": "lesion", "above": 4}
PLACE = {"segmentation": "organs", "segments": ["liver"]}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"above": None}, ["segment 'a'", "add above, below or reference"]),
        ({"below": 3}, ["segment 'a'", "above is greater than below"]),
        ({"above": -900, "of_maximum": 0.4}, ["of_maximum", "add above, greater than 0"]),
        ({"above": None, "below": 90, "of_maximum": 0.4}, ["add above, greater than 0"]),
        (
            {"within": {**PLACE, "segments": ["hart"]}},
            ["segmentation 'organs' has no segment 'hart'", "liver, spleen"],
        ),
        (
            {"exclude": [PLACE, {**PLACE, "segmentation": "organ"}]},
            ["there is no other segmentation 'organ'"],
        ),
        (
            {"reference": {"segmentation": "organs", "segment": "heart"}},
            ["has no segment 'heart'"],
        ),
        ({"reference": {**PLACE, "segment": "liver"}}, ["unknown key 'segments'", "'segment'?"]),
        ({"expect": {"volume_ml": [5, 1]}}, ["expect.volume_ml", "the lower one"]),
        ({"expect": {"volume": [1, 5]}}, ["unknown key 'volume'", "volume_ml"]),
        ({"expect": {}}, ["expect"]),
    ],
)
def test_a_wrong_threshold_is_explained(site, protocol, tmp_path, change, parts):
    segment = {k: v for k, v in {**LESION, **change}.items() if v is not None}
    spec = {"id": "burden", "engine": "threshold", "role": "PT", "segments": [segment]}
    protocol["segmentations"].append(spec)
    text = message(site, protocol, tmp_path)
    for part in parts:
        assert part in text


def test_a_threshold_comes_after_all_that_it_names(site, protocol, tmp_path):
    reference = {"segmentation": "gtv", "segment": "gtv"}
    segment = {**LESION, "exclude": [PLACE], "reference": reference}
    spec = {"id": "a-burden", "engine": "threshold", "role": "PT", "segments": [segment]}
    protocol["segmentations"].insert(0, spec)
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(protocol))
    made = load_settings({**site, "protocol": str(path)}).protocol["segmentations"]
    assert set(input_segmentations(made[0])) == {"organs", "gtv"}
    assert in_order(made)[-1]["id"] == "a-burden"
    made[1]["segments"][0]["exclude"] = [{"segmentation": "a-burden", "segments": ["a"]}]
    with pytest.raises(CycleError):
        in_order(made)


def test_settings_come_back_from_their_file(site, tmp_path):
    settings = load_settings(site)
    write_settings(tmp_path / "settings.json", settings)
    assert read_settings(tmp_path / "settings.json") == settings


def test_a_hash_changes_with_its_own_part_only(site, protocol, tmp_path):
    def hashes(content):
        path = tmp_path / "protocol.yaml"
        path.write_text(yaml.safe_dump(content))
        settings = load_settings({**site, "protocol": str(path)})
        return [settings_sha256(settings, key) for key in ("cohort", "segmentations", "radiomics")]

    before = hashes(protocol)
    protocol["radiomics"][0]["settings"] = "ibsi_mr"
    after = hashes(protocol)
    assert before[:2] == after[:2]
    assert before[2] != after[2]


def test_the_protocols_hash_covers_what_it_names(site, protocol, tmp_path, monkeypatch):
    import jipflow.settings.config as config

    def digest():
        path = tmp_path / "protocol.yaml"
        path.write_text(yaml.safe_dump(protocol))
        return load_settings({**site, "protocol": str(path)}).protocol_sha256

    before = digest()
    resources = tmp_path / "resources"
    shutil.copytree(config.RESOURCES / "radiomics", resources / "radiomics")
    for name in ("terms.yaml", "ibsi_codes.yaml"):
        shutil.copy(config.RESOURCES / name, resources)
    monkeypatch.setattr(config, "RESOURCES", resources)
    assert digest() == before
    file = resources / "radiomics" / "ibsi_pet.yaml"
    text = file.read_text()
    file.write_text(text.replace("binWidth: 0.25", "binWidth: 0.5"))
    assert digest() != before
    file.write_text(text + "# a comment\n")
    assert digest() == before
    models = yaml.safe_load(config.MODELS.read_text())
    model = models["models"]["phantom-ct"]
    monkeypatch.setattr(config, "MODELS", tmp_path / "models.yaml")
    seen = {before}
    for part, key, value in (
        (model["files"], "plans.json", "0" * 64),
        (model, "axes", "RAS"),
        (model, "members", ["T__P__2d"]),
        (model, "postprocessing", "plans.json"),
        (model["labels"][0], "value", 77),
    ):
        part[key] = value
        (tmp_path / "models.yaml").write_text(yaml.safe_dump(models))
        seen.add(digest())
    assert len(seen) == 6
    model["licence"] = "MIT"
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(models))
    assert digest() in seen


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"featureClass": {"glcm": ["Contrasts"]}}, ["featureClass.glcm", "'Contrast'"]),
        ({"featureClass": {"glcms": []}}, ["unknown key 'glcms'", "'glcm'"]),
        ({"featureClass": {}}, ["featureClass"]),
        ({"imageType": {"Wavelet": {"wavelet": "cuif1"}}}, ["no discrete wavelet 'cuif1'"]),
        ({"imageType": {"LoG": {}}}, ["'sigma' is missing"]),
        ({"setting": {"resampledPixelSpacing": [1, 1, 1]}}, ["unknown key"]),
        ({"setting": {"binWidth": 0}}, ["setting.binWidth"]),
        ({"processing": {"resample": {"spacing": [1, 1]}}}, ["processing.resample.spacing"]),
        ({"processing": {"ivh": {"width": 1, "count": 9}}}, ["processing.ivh"]),
    ],
)
def test_wrong_radiomics_settings_are_named(content, said, tmp_path, monkeypatch):
    import jipflow.settings.config as config

    (tmp_path / "radiomics").mkdir()
    shutil.copy(config.RESOURCES / "ibsi_codes.yaml", tmp_path)
    content = {"featureClass": {"glcm": []}} | content
    (tmp_path / "radiomics" / "own.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(config, "RESOURCES", tmp_path)
    with pytest.raises(ConfigError) as caught:
        config.radiomics_settings("own", "test")
    for text in said:
        assert text in str(caught.value)


def test_shipped_radiomics_settings_are_valid():
    import jipflow.settings.config as config

    names = [path.stem for path in (config.RESOURCES / "radiomics").glob("*.yaml")]
    assert {"ibsi_ct", "ibsi_mr", "ibsi_pet"} <= set(names)
    for name in names:
        config.radiomics_settings(name, "test")


def read_by_person(protocol, **keys):
    organs = protocol["segmentations"][0]
    protocol["segmentations"].append(
        {
            "id": "read",
            "engine": "annotated",
            "proposal": "organs",
            "role": organs["role"],
            "segments": [{"name": "liver", "term": "liver"}],
            **keys,
        }
    )
    return protocol


def test_a_segmentation_that_a_person_makes_is_read_with_its_defaults(site, protocol, tmp_path):
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(read_by_person(protocol, when="flagged")))
    settings = load_settings({**site, "protocol": str(path)})
    spec = settings.segmentation("read")
    assert (spec["readers"], spec["combine"], spec["encoding"]) == (1, "majority", "binary")
    assert spec["segments"][0]["required"] is True
    assert settings.protocol["tolerance"]["max_waiting_fraction"] == 0
    assert settings.inbox(Path("results/demo")) == Path("results/demo/inbox")
    settings = load_settings({**site, "protocol": str(path), "annotation": {"inbox": "/in"}})
    assert settings.inbox(Path("results/demo")) == Path("/in/demo")


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"proposal": None, "when": "flagged"}, "needs a proposal"),
        ({"proposal": "nothing"}, "no other segmentation 'nothing'"),
        ({"role": "PT"}, "must be that of its proposal, 'CT'"),
        ({"segments": [{"name": "heart", "term": "liver"}]}, "has no segment of that name"),
        ({"segments": [{"name": "liver", "match": "L.*", "term": "liver"}]}, "match must allow"),
        ({"segments": [{"name": "liver", "match": "(", "term": "liver"}]}, "regular expression"),
        ({"readers": 0}, "readers"),
        ({"may_be_empty": True}, "segment 'liver' must be there"),
    ],
)
def test_what_a_person_cannot_do_is_refused(site, protocol, tmp_path, keys, part):
    protocol = read_by_person(protocol, **keys)
    protocol["segmentations"][-1] = {
        key: value for key, value in protocol["segmentations"][-1].items() if value is not None
    }
    assert part in message(site, protocol, tmp_path)


def test_no_segmentation_may_need_what_a_person_makes(site, protocol, tmp_path):
    read_by_person(protocol)
    read_by_person(protocol, id="again", proposal="read")
    text = message(site, protocol, tmp_path)
    assert "needs 'read', which a person makes" in text
    assert "another engine" in text


def test_the_example_of_the_page_on_readers_is_valid(site, protocol, tmp_path):
    page = (ROOT / "docs" / "annotation.md").read_text()
    example = yaml.safe_load(page.split("```yaml")[1].split("```")[0])
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump({**protocol, "analyses": [], **example}))
    settings = load_settings({**site, "protocol": str(path)})
    assert settings.segmentation("checked")["when"] == "flagged"

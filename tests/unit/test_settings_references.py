"""What the parts of a protocol name is there, or the message says what there is."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

import typed
from config_files import demo_protocol, loaded, message, put, site_of, with_clinical
from jipflow.settings.protocol import in_order
from jipflow.settings.reading import protocol_ids
from jipflow.settings.resources import MODELS, ROOT
from jipflow.settings.run import load_settings


@pytest.fixture
def site(tmp_path):
    return site_of(tmp_path)


@pytest.fixture
def protocol():
    return demo_protocol()


@pytest.mark.parametrize("protocol_id", protocol_ids())
def test_every_shipped_protocol_is_valid(site, protocol_id, tmp_path):
    settings = load_settings({**with_clinical(site, tmp_path), "protocol": protocol_id})
    assert settings.protocol_id == protocol_id


def test_defaults_come_from_the_schema(site):
    settings = load_settings(site)
    assert settings.site.processing.plain() == {
        "shard_size": None,
        "device": "auto",
        "totalsegmentator_licence_file": None,
    }
    assert settings.protocol.disclosure.min_patients == 5
    assert settings.protocol.cohort.case.by == "study"
    assert settings.protocol.roles["CT"].required is True


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
        (
            ["cohort", "case", "roles", "CT", "suv"],
            "LBM",
            ["'organs'", "SUV by LBM", "body weight"],
        ),
        (["cohort", "case", "roles", "PT", "suv"], "FAT", ["roles.PT.suv", "LBMJANMA"]),
        (
            ["cohort", "case", "roles", "CT", "volume"],
            {"b_value": 800},
            ["roles.CT.volume", "only MR has b_value"],
        ),
        (["cohort", "case", "roles", "CT", "volume"], {}, ["CT.volume", "at least 1 of its keys"]),
        (
            ["cohort", "case", "roles", "CT", "volume"],
            {"seconds": 90},
            ["CT.volume: `seconds` needs `within`"],
        ),
        (
            ["cohort", "case", "roles", "CT", "volume"],
            {"time_point": 1, "within": 3},
            ["`within` belongs to one of b_value, echo_time and seconds"],
        ),
        (
            ["cohort", "case", "roles", "CT", "volume"],
            {"echo_time": 4.5, "seconds": 9, "within": 3},
            ["`within` belongs to one of"],
        ),
        (
            ["cohort", "case", "roles", "CT", "volume"],
            {"time_point": 1, "seconds": 3, "within": 2},
            ["`time_point` and `seconds` say the same"],
        ),
        (
            ["cohort", "case", "roles", "CT", "volume"],
            {"echo": 1, "echo_time": 3},
            ["`echo` and `echo_time` say the same"],
        ),
        (
            ["cohort", "case", "roles", "CT", "volume"],
            {"time_point": 1.5},
            ["volume.time_point is 1.5", "at least 1 or one of: first, last"],
        ),
        (
            ["cohort", "case", "roles", "CT", "volume"],
            {"time_point": "second"},
            ["it must be one of: first, last"],
        ),
        (["segmentations", 0, "inputs"], ["MR"], ["inputs: role 'MR'", "CT, PT"]),
        (["segmentations", 0, "role"], "PT", ["takes CT for role 'PT'", "no CT series meets"]),
        (["segmentations", 0, "inputs"], ["PT"], ["takes CT for role 'PT'", "name a role"]),
        (
            ["cohort", "case", "roles", "CT", "where"],
            "Modality IN ('PT', 'MR')",
            ["takes CT for role 'CT'"],
        ),
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
        (
            ["analyses", 0, "edges"],
            [1, 2, 3],
            ["'edges' at analyses[0]", "belongs to kind histogram"],
        ),
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


@pytest.mark.parametrize(
    "where",
    [
        "SliceThickness < 5",
        "Modality = 'CT' AND BodyPartExamined IS NOT NULL",
        "ifnull(BodyPartExamined, '') = 'CHEST'",
        "Modality LIKE 'C%'",
        "lower(Modality) = 'ct' OR SeriesDescription LIKE '%PET%'",
        "CAST(SeriesNumber AS INTEGER) > 2 AND NOT Modality = 'PT'",
    ],
)
def test_a_filter_that_a_ct_may_meet_is_no_reason_to_refuse(site, protocol, tmp_path, where):
    """What is unknown of a series, such as its text, is no answer."""
    changed = copy.deepcopy(protocol)
    put(changed, ["cohort", "where"], "Rows > 1")
    put(changed, ["cohort", "case", "roles", "CT", "where"], where)
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump(changed))
    assert load_settings({**site, "protocol": str(path)}).protocol_id == "demo"


@pytest.mark.parametrize(("task", "modality"), [("total", "CT"), ("total_mr", "MR")])
def test_a_task_of_totalsegmentator_has_a_modality(task, modality):
    """Whatever the entry of its weights says, which are of all tasks."""
    spec = typed.segmentation(
        {"id": "organs", "engine": "totalsegmentator", "model": "weights", "role": "IMAGE",
         "task": task, "segments": [{"name": "liver", "label": "liver", "term": "liver"}]}
    )  # fmt: skip
    assert spec.modalities(None) == {"IMAGE": modality}


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
    monkeypatch.setattr("jipflow.settings.resources.MODELS", tmp_path / "models.yaml")
    spec["model"] = "mine"
    spec["segments"][0]["label"] = "heart"
    assert "has no label 'heart'" in message(site, protocol, tmp_path)
    spec["segments"][0]["label"] = "liver"
    spec["inputs"] = ["MR"]
    assert "'MR' is not a role" in message(site, protocol, tmp_path)
    spec["inputs"] = []
    settings = loaded(site, protocol, tmp_path)
    assert settings.site.containers.plain() == {
        "runtime": "auto",
        "minutes": 60,
        "memory_gb": None,
    }
    assert settings.segmentation("mine").segments[0].required is False


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
    monkeypatch.setattr("jipflow.settings.resources.MODELS", tmp_path / "models.yaml")
    spec = next(s for s in protocol["segmentations"] if s["engine"] == "nnunet")
    spec["segments"][0]["expect"] = {"disagreement": 0.2}
    text = message(site, protocol, tmp_path)
    assert "expect.disagreement: nothing is compared" in text
    assert spec["segments"][0]["name"] in text
    spec["model"], spec["folds"] = "several", [1]
    assert "model 'several' has no fold 1" in message(site, protocol, tmp_path)
    spec["folds"] = [0]
    loaded(site, protocol, tmp_path)
    several["members"] = ["T__P__2d"]
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(registry))
    assert "nothing is compared" in message(site, protocol, tmp_path)
    spec["folds"] = []
    loaded(site, protocol, tmp_path)


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
    made = loaded(site, protocol, tmp_path).protocol.segmentations
    assert set(made[0].input_segmentations()) == {"organs", "gtv"}
    assert in_order(made)[-1].id == "a-burden"
    circle = {"id": "b", "engine": "threshold", "role": "PT"}
    circle["segments"] = [{**LESION, "exclude": [{"segmentation": "a-burden", "segments": ["a"]}]}]
    protocol["segmentations"][0]["segments"][0]["exclude"] = [
        {"segmentation": "b", "segments": ["a"]}
    ]
    protocol["segmentations"].append(circle)
    text = message(site, protocol, tmp_path)
    assert "need each other in a circle" in text


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
    content = read_by_person(protocol, when="flagged")
    settings = loaded(site, content, tmp_path)
    spec = settings.segmentation("read")
    assert (spec.readers, spec.combine, spec.encoding) == (1, "majority", "binary")
    assert spec.segments[0].required is True
    assert settings.protocol.tolerance.max_waiting_fraction == 0
    assert settings.inbox(Path("results/demo")) == Path("results/demo/inbox")
    settings = loaded({**site, "annotation": {"inbox": "/in"}}, content, tmp_path)
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
    settings = loaded(site, {**protocol, "analyses": [], **example}, tmp_path)
    assert settings.segmentation("checked").when == "flagged"

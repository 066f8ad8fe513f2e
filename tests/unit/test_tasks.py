"""The table of TotalSegmentator's tasks is that of the installed package, class by class."""

from __future__ import annotations

import pytest
import yaml
from totalsegmentator.bin.totalseg_download_weights import TASK_TO_ID
from totalsegmentator.map_tasks_config import TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS
from totalsegmentator.map_to_binary import class_map
from totalsegmentator.registry import TASKS as KNOWN
from totalsegmentator.registry import requires_license, task_modality

from jipflow.models.tasks import read_tasks, runnable
from jipflow.settings import resources
from jipflow.settings.reading import read_protocol
from jipflow.settings.resources import PROTOCOLS, RESOURCES, ConfigError, read_yaml

TASKS = read_tasks()
UNPUBLISHED = {"test", "total_highres_test"}


def folder(number, trainer, model="3d_fullres"):
    """Where nnU-Net looks for a model, below the folder of all weights."""
    return f"{TASK_ID_WEIGHTS_CONFIGS[number]['foldername']}/{trainer}__nnUNetPlans__{model}"


def needed(name, mode):
    """Folders of weights that `python_api.totalsegmentator` uses, from its own tables."""
    entry = TASK_CONFIGS[name] | TASK_CONFIGS[name].get("sub_modes", {}).get(mode, {})
    numbers = entry["task_id"] if isinstance(entry["task_id"], list) else [entry["task_id"]]
    found = {folder(n, entry["trainer"], entry.get("model", "3d_fullres")) for n in numbers}
    if name == "vertebrae_pp_refined":
        found.add(folder(305, "nnUNetTrainer_DASegOrd0"))
    crop = entry.get("crop") or []
    if entry.get("crop_model"):
        return found | needed(entry["crop_model"], "default")
    if {"body_trunc", "body_extremities"} & set(crop):
        return found | {folder(300, "nnUNetTrainer")}
    if crop and name.endswith("_mr"):
        return found | {folder(852, "nnUNetTrainer_2000epochs_NoMirroring")}
    if crop:
        number = 297 if entry.get("robust_crop") else 298
        return found | {folder(number, "nnUNetTrainer_4000epochs_NoMirroring")}
    return found


def test_every_published_task_is_there():
    assert set(TASKS) == set(KNOWN) - UNPUBLISHED


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_that_of_the_package(name):
    task = TASKS[name]
    assert {number: label for label, number in task.labels.items()} == class_map[name]
    assert task.modality == task_modality(name)
    assert task.needs_licence == requires_license(name)
    assert set(task.modes) == set(TASK_CONFIGS[name].get("sub_modes", {"default": None}))
    for mode, needs in task.modes.items():
        assert set(needs.weights) == needed(name, mode)
        fetched = {
            TASK_ID_WEIGHTS_CONFIGS[number]["foldername"]
            for download in needs.download
            for number in TASK_TO_ID[download]
        }
        assert {weights.split("/")[0] for weights in needs.weights} <= fetched


def test_every_class_has_a_term_or_a_reason_why_not():
    content = read_yaml(RESOURCES / "totalsegmentator.yaml")
    uncoded = [label for group in content["uncoded"] for label in group["classes"]]
    assert all(group["reason"] for group in content["uncoded"])
    assert len(set(uncoded)) == len(uncoded)
    classes = {
        label for name in KNOWN if name not in UNPUBLISHED for label in class_map[name].values()
    }
    assert set(uncoded) | set(content["terms"]) == classes
    assert not set(uncoded) & set(content["terms"])
    assert (len(content["terms"]), len(classes)) == (277, 425)


def test_a_model_runs_the_tasks_whose_weights_it_has():
    mine = TASKS["cerebral_bleed"].modes["default"].weights
    files = [f"{name}/plans.json" for name in mine]
    assert runnable(files) == [("total", "fastest"), ("cerebral_bleed", "default")]
    assert runnable(files[1:]) == [("total", "fastest")]
    assert runnable([]) == []


@pytest.fixture
def protocol(tmp_path, monkeypatch):
    """A function that reads the demo protocol with another segmentation."""
    registry = read_yaml(resources.MODELS)
    files = [
        f"{weights}/plans.json"
        for task in TASKS.values()
        for mode, needs in task.modes.items()
        if (task.name, mode) != ("total", "default")
        for weights in needs.weights
        if not weights.startswith("Dataset291")
    ]
    common = ("name", "version", "path", "licence", "intended_use", "training_data", "roles")
    entry = {key: registry["models"]["phantom-ct"][key] for key in common}
    entry |= {"engine": "totalsegmentator", "files": dict.fromkeys(files, "0" * 64)}
    registry["models"]["many"] = entry
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(registry))
    monkeypatch.setattr(resources, "MODELS", tmp_path / "models.yaml")

    def read(**changes):
        content = read_yaml(PROTOCOLS / "demo.yaml")
        content["radiomics"], content["analyses"] = [], []
        spec = {"id": "parts", "engine": "totalsegmentator", "role": "CT", "model": "many"}
        spec |= {"task": "total", "mode": "fast", "segments": [{"label": "spleen"}]}
        content["segmentations"] = [spec | changes]
        path = tmp_path / "protocol.yaml"
        path.write_text(yaml.safe_dump(content))
        return read_protocol(path)[0].segmentations[0].plain()

    return read


def test_a_class_brings_its_name_and_term(protocol):
    label = {"label": "vertebrae_L5"}
    assert protocol(segments=[label])["segments"] == [
        {"label": "vertebrae_L5", "name": "vertebrae_l5", "term": "vertebra-l5", "required": False}
    ]
    mine = {"label": "spleen", "name": "my-spleen", "term": "lesion", "required": True}
    assert protocol(segments=[mine])["segments"] == [mine]


def test_all_classes_become_segments(protocol):
    segments = protocol(segments="all")["segments"]
    assert len(segments) == len({s["name"] for s in segments}) == 117
    assert segments[0] == {
        "label": "spleen",
        "name": "spleen",
        "term": "spleen",
        "required": False,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "everything"}, "no task 'everything'; there are: total, total_v3"),
        ({"task": "body", "mode": "fastest"}, "no mode 'fastest'; it has: default, fast"),
        ({"segments": [{"label": "soul"}]}, "no class 'soul'"),
        ({"mode": "default"}, r"model 'many' lacks weights of task 'total' in mode 'default'"),
        ({"model": "nobody"}, "no model 'nobody'"),
        ({"model": "phantom-ct"}, "is of the engine nnunet, not totalsegmentator"),
        ({"segments": "some"}, "segments"),
        ({"segments": []}, "segments"),
        (
            {"task": "head_muscles", "mode": "default", "segments": "all"},
            "class 'masseter_right' has no term.*temporalis_left",
        ),
        ({"engine": "nnunet", "task": None}, "unknown key"),
    ],
)
def test_what_cannot_be_is_refused_with_the_fix(protocol, changes, message):
    with pytest.raises(ConfigError, match=message):
        protocol(**changes)

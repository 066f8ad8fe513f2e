"""The shipped model: pinned, and as good as its evaluation says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from jipflow.agreement import overlap
from jipflow.phantom.anatomy import LABELS
from jipflow.phantom.cohort import make_subject
from jipflow.phantom.vendors import VENDORS
from jipflow.segment.engines.nnunet import inference
from jipflow.segment.engines.nnunet.engine import load_predictor
from jipflow.settings.reading import read_protocol
from jipflow.settings.resources import PROTOCOLS
from jipflow.training.plan import adapted
from phantom_volumes import as_volume

REGISTRY = Path(__file__).parents[2] / "config" / "models.yaml"


@pytest.fixture(scope="module")
def entry():
    return yaml.safe_load(REGISTRY.read_text())["models"]["phantom-ct"]


@pytest.fixture(scope="module")
def model(entry):
    return REGISTRY.parents[1] / entry["path"]


def test_registry_pins_exactly_the_files_of_the_model(entry, model):
    on_disk = {
        path.relative_to(model).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in model.rglob("*")
        if path.is_file()
    }
    assert entry["files"] == on_disk
    assert {label["name"]: label["value"] for label in entry["labels"]} == LABELS
    assert sum(path.stat().st_size for path in model.rglob("*")) < 25e6


def test_evaluation_reaches_the_target_for_all_vendors(model):
    found = json.loads((model / "evaluation.json").read_text())
    scores = [list(patient["dice"].values()) for patient in found["patients"]]
    assert len(scores) == 12
    assert found["mean_dice"] == pytest.approx(np.mean(scores), abs=1e-4)
    assert found["mean_dice"] >= 0.90
    assert found["mean_dice_by_vendor"].keys() == VENDORS.keys()
    assert min(found["mean_dice_by_vendor"].values()) >= 0.88


def test_unseen_phantoms_score_what_the_evaluation_says(model):
    found = json.loads((model / "evaluation.json").read_text())
    predictor = load_predictor(model, ["0"], 2, "cpu", mirroring=False)
    axes = inference.orientation(predictor, "LPS")
    (device,) = inference.device_choices(predictor.device)
    scores = []
    for index, patient in enumerate(found["patients"][:2], 1):
        subject = make_subject(found["site"], index, found["seed"], VENDORS[patient["vendor"]])
        volume = as_volume(subject.hu, subject.ct_grid)
        logits = inference.predict(
            predictor, inference.preprocess(predictor, [volume], axes), device
        )
        predicted = inference.label_map(predictor, logits).array_on(volume.grid)
        reached = {
            name: overlap(predicted == value, subject.labels == value, (1.0, 1.0, 1.0)).dice
            for name, value in LABELS.items()
        }
        assert reached == pytest.approx(patient["dice"], abs=0.01)
        scores += reached.values()
    assert np.mean(scores) >= 0.90


def test_the_protocol_that_trains_one_like_it_has_the_values_that_made_it(model):
    made = json.loads((model / "provenance.json").read_text())["recipe"]
    plans = json.loads((model / "plans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    network = configuration["architecture"]["arch_kwargs"]
    assert network["features_per_stage"] == made["features"]
    protocol, _ = read_protocol(PROTOCOLS / "phantom-train.yaml")
    wanted = protocol.training.plain()
    shared = ("spacing", "patch", "features", "batch", "epochs", "iterations", "learning_rate")
    assert {key: wanted[key] for key in shared} == {key: made[key] for key in shared}
    assert round(wanted["held_out"] * (made["patients"] + made["unseen"])) == made["unseen"]
    # What the protocol makes of nnU-Net's plan is the network that was trained.
    bare = {**configuration, "architecture": {"arch_kwargs": {**network, "strides": []}}}
    again = adapted(bare, protocol.training, plans["transpose_forward"])
    assert again["patch_size"] == configuration["patch_size"]
    assert again["architecture"]["arch_kwargs"] == network

"""The recipe of the demo model, on a network too small to be of use."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
import torch
import yaml
from pydicom.sr.codedict import codes

from jipflow.phantom import dicom
from jipflow.phantom.anatomy import LABELS
from jipflow.phantom.cohort import make_subject
from jipflow.phantom.vendors import VENDORS
from jipflow.segment import training

TINY = training.Recipe(
    patients=3,
    validation=1,
    unseen=1,
    spacing=(12.0, 10.0, 10.0),
    patch=(16, 32, 32),
    features=(4, 4, 8),
    epochs=3,
    iterations=2,
)


class Killed(Exception):
    """Stands for a job that the scheduler ends."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work folder with a finished tiny training and its exported model."""
    work = tmp_path_factory.mktemp("work")
    training.write_data(work, TINY)
    training.plan(work, TINY)
    training.fit(work, TINY, "cpu")
    training.export(work, TINY, work / "model")
    return work


def weights(model):
    path = model / "fold_0" / "checkpoint_final.pth"
    return torch.load(path, weights_only=True)["network_weights"]


def test_conversion_keeps_the_geometry_and_values_of_the_dicom_series(trained, tmp_path):
    root = trained / "raw" / training.DATASET
    for index, vendor in enumerate(VENDORS.values(), 1):
        subject = make_subject(training.TRAINING_SITE, index, TINY.seed, vendor)
        dicom.write_series(
            dicom.ct_series(subject.hu, subject.ct_grid, subject.study), tmp_path / vendor.key
        )
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / vendor.key)))
        original = reader.Execute()
        name = subject.study.patient_id
        image = SimpleITK.ReadImage(str(root / "imagesTr" / f"{name}_0000.nii.gz"))
        labels = SimpleITK.ReadImage(str(root / "labelsTr" / f"{name}.nii.gz"))
        for converted in (image, labels):
            assert converted.GetSize() == original.GetSize()
            assert converted.GetSpacing() == pytest.approx(original.GetSpacing(), abs=1e-4)
            assert converted.GetOrigin() == pytest.approx(original.GetOrigin(), abs=1e-3)
            assert converted.GetDirection() == pytest.approx(original.GetDirection(), abs=1e-6)
        assert np.array_equal(
            SimpleITK.GetArrayFromImage(image), SimpleITK.GetArrayFromImage(original)
        )
        assert np.array_equal(SimpleITK.GetArrayFromImage(labels), subject.labels)


def test_training_and_evaluation_share_no_patient():
    recipe = training.Recipe()
    assert recipe.seed != recipe.unseen_seed
    assert training.TRAINING_SITE != training.UNSEEN_SITE
    vendor = VENDORS["ge"]
    seen = make_subject(training.TRAINING_SITE, 1, recipe.seed, vendor)
    unseen = make_subject(training.UNSEEN_SITE, 1, recipe.unseen_seed, vendor)
    assert seen.uptake != unseen.uptake
    assert seen.study.study_uid != unseen.study.study_uid


def test_plan_holds_the_recipe(trained):
    plans = json.loads((trained / "model" / "plans.json").read_text())
    configuration = plans["configurations"][training.CONFIGURATION]
    assert configuration["patch_size"] == list(TINY.patch)
    assert configuration["spacing"] == list(TINY.spacing)
    assert configuration["architecture"]["arch_kwargs"]["features_per_stage"] == [4, 4, 8]


def test_killed_training_resumes_to_the_same_weights(trained, tmp_path, monkeypatch):
    for name in ("raw", "preprocessed"):
        (tmp_path / name).symlink_to(trained / name)
    start_epoch = training.PhantomTrainer.on_train_epoch_start

    def killed_at_the_third(trainer):
        if trainer.current_epoch == 2:
            raise Killed
        start_epoch(trainer)

    monkeypatch.setattr(training.PhantomTrainer, "on_train_epoch_start", killed_at_the_third)
    with pytest.raises(Killed):
        training.fit(tmp_path, TINY, "cpu")
    monkeypatch.undo()
    training.fit(tmp_path, TINY, "cpu")
    training.export(tmp_path, TINY, tmp_path / "model")

    through, resumed = weights(trained / "model"), weights(tmp_path / "model")
    assert through.keys() == resumed.keys()
    assert all(torch.equal(through[key], resumed[key]) for key in through)
    log = (tmp_path / "model" / "training_log.txt").read_text()
    assert log.count("Epoch 0") == log.count("Epoch 2") == 1


def test_export_is_loadable_without_running_code(trained):
    """Plain tensors and strings only, without the state of the optimiser."""
    path = trained / "model" / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint.keys() == {
        "network_weights",
        "trainer_name",
        "init_args",
        "inference_allowed_mirroring_axes",
    }
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    log = (trained / "model" / "training_log.txt").read_text()
    assert "Epoch 2" in log
    assert str(trained) not in log


def test_evaluation_scores_each_label_of_each_patient(trained):
    result = training.evaluate(TINY, trained / "model", "cpu")
    assert json.loads((trained / "model" / "evaluation.json").read_text()) == result
    assert [p["patient_id"] for p in result["patients"]] == ["UNSEEN-0001"]
    assert result["patients"][0]["dice"].keys() == LABELS.keys()
    assert 0 <= result["mean_dice"] <= 1


def test_register_pins_every_file_and_keeps_other_models(trained, tmp_path):
    registry = tmp_path / "config" / "models.yaml"
    registry.parent.mkdir()
    registry.write_text("models: {other: {engine: nnunet}}\n")
    shutil.copytree(trained / "model", tmp_path / "models" / "model")
    training.register(tmp_path / "models" / "model", registry)
    models = yaml.safe_load(registry.read_text())["models"]
    assert models["other"] == {"engine": "nnunet"}
    entry = models["model"]
    folder = registry.parents[1] / entry["path"]
    on_disk = {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }
    assert entry["files"] == on_disk
    assert "fold_0/checkpoint_final.pth" in on_disk


def test_codes_are_those_of_the_standard():
    def coded(code):
        return (code.value, code.meaning)

    organ = coded(codes.SCT.AnatomicalStructure)
    abnormal = coded(codes.SCT.MorphologicallyAbnormalStructure)
    assert {
        "liver": (organ, coded(codes.SCT.Liver)),
        "spleen": (organ, coded(codes.SCT.Spleen)),
        "kidney": (organ, coded(codes.SCT.Kidney)),
        "lesion": (abnormal, coded(codes.SCT.Neoplasm)),
    } == training.CODES


def test_dice_counts_by_hand_and_refuses_an_absent_label():
    truth = np.array([1, 1, 2, 3, 4, 0])
    predicted = np.array([1, 0, 2, 3, 4, 4])
    found = training.dice(predicted, truth)
    assert found == pytest.approx({"liver": 2 / 3, "spleen": 1, "kidney": 1, "lesion": 2 / 3})
    with pytest.raises(ValueError, match="spleen"):
        training.dice(np.where(predicted == 2, 0, predicted), np.where(truth == 2, 0, truth))


def test_recipe_decides_the_data(tmp_path):
    names = {}
    for folder, recipe in (("a", TINY), ("b", TINY), ("c", replace(TINY, seed=1))):
        training.write_data(tmp_path / folder, replace(recipe, patients=1))
        images = (tmp_path / folder / "raw" / training.DATASET / "imagesTr").iterdir()
        names[folder] = [path.read_bytes() for path in images]
    assert names["a"] == names["b"]
    assert names["a"] != names["c"]

"""A model is trained on a protocol's own cohort, here on a network too small to be of use."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import SimpleITK
import torch
import yaml

import typed
from jipflow.cases import Case, Series
from jipflow.files import read_json
from jipflow.images.masks import Region, pack, read_segmentation, write_segmentation
from jipflow.images.volume import Grid, Volume, read_volume, volume_path, write_volume
from jipflow.models.checkpoints import read_checkpoint
from jipflow.models.registry import CHECKPOINT
from jipflow.outcomes import Status
from jipflow.phantom import dicom
from jipflow.phantom import grid as phantom
from jipflow.phantom.anatomy import LABELS
from jipflow.phantom.cohort import make_subject
from jipflow.phantom.vendors import VENDORS
from jipflow.reasons import CaseFault, Reason, StageError
from jipflow.report.training import write_training_report
from jipflow.settings.resources import MODELS
from jipflow.settings.run import Settings, load_settings
from jipflow.settings.schema import load
from jipflow.settings.training import FullTraining
from jipflow.training import data
from jipflow.training.evaluate import compare, evaluate, summarise
from jipflow.training.export import export
from jipflow.training.fit import LATEST, fit
from jipflow.training.folders import DATASET, model, preprocessed, raw
from jipflow.training.plan import adapted, plan, split
from phantom_volumes import as_volume
from series_factory import write

ORGANS = ("liver", "lesion")
# The second patient has two cases, and the last case no mask.
PATIENTS = {
    "case-1": "p-1",
    "case-2": "p-2",
    "case-3": "p-2",
    "case-4": "p-3",
    "case-5": "p-4",
    "case-6": "p-5",
}
NO_MASK = "case-6"
TEXTS = ("licence", "intended_use", "training_data")
PROTOCOL = {
    "protocol": {"id": "tiny", "version": "1.0.0", "title": "Tiny"},
    "cohort": {
        "where": "Modality = 'CT'",
        "case": {
            "roles": {
                "CT": {"where": "Modality = 'CT'"},
                "PT": {"where": "Modality = 'PT'", "required": False},
            }
        },
    },
    "segmentations": [
        {
            "id": "organs",
            "engine": "imported",
            "role": "CT",
            "segments": [
                {"name": f"my-{organ}", "match": organ, "term": organ} for organ in ORGANS
            ],
        }
    ],
    "training": {
        "model": "tiny",
        "segmentation": "organs",
        "preset": "small",
        "folds": 2,
        "held_out": 0.25,
        "spacing": [12, 10, 10],
        "patch": [16, 32, 32],
        "features": [4, 4, 8],
        "epochs": 3,
        "iterations": 2,
        "licence": "Apache-2.0",
        "intended_use": "Tests.",
        "training_data": "Phantoms.",
    },
}


def settings_of(folder, **training) -> Settings:
    protocol = {**PROTOCOL, "training": {**PROTOCOL["training"], **training}}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(protocol))
    return load_settings(
        {
            "site": {"id": "here", "name": "Here"},
            "sources": [{"name": "archive", "kind": "folder", "path": str(folder)}],
            "processing": {"device": "cpu"},
            "protocol": str(path),
        }
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Prepared volumes and masks of six cases; one lies on a coronal grid."""
    folder = tmp_path_factory.mktemp("cohort")
    cases = []
    for index, (name, patient) in enumerate(PATIENTS.items(), 1):
        subject = make_subject("training", index, 7, list(VENDORS.values())[index % 3])
        hu, labels, grid = subject.hu, subject.labels, subject.ct_grid
        if name == "case-2":
            hu, coronal = dicom.coronal(hu, grid)
            labels, grid = dicom.coronal(labels, grid)[0], coronal
        volume = as_volume(hu, grid)
        write_volume(volume_path(folder / "volumes", name, "CT"), volume)
        regions = [
            Region(f"my-{organ}", organ, labels == LABELS[organ], "MANUAL", "phantom")
            for organ in ORGANS
        ]
        if name != NO_MASK:
            write_segmentation(folder / "masks" / name / "organs", pack(regions, volume.grid))
        cases.append(Case(name, patient, "s00001", {"CT": Series(f"1.{index}", "CT", ())}))
    return folder, cases


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return settings_of(tmp_path_factory.mktemp("settings"))


@pytest.fixture(scope="module")
def planned(cohort, settings, tmp_path_factory):
    """A work folder with a plan, and the outcomes of the cases."""
    folder, cases = cohort
    work = tmp_path_factory.mktemp("work")
    outcomes = data.run(
        cases=cases,
        prepared={(name, "CT") for name in PATIENTS},
        segmented={(name, "organs") for name in PATIENTS if name != NO_MASK},
        settings=settings,
        volumes=folder / "volumes",
        masks=folder / "masks",
        out=raw(work) / "s00001",
        threads=1,
    )
    table = pd.DataFrame(
        [(c.case_id, c.patient, c.shard, "CT", "CT") for c in cases],
        columns=["case_id", "patient", "shard", "role", "modality"],
    )
    table.to_csv(work / "cases.tsv", sep="\t", index=False)
    plan(work=work, cases=work / "cases.tsv", outcomes=outcomes, settings=settings, threads=1)
    return work, outcomes


@pytest.fixture(scope="module")
def trained(planned, settings):
    work, _ = planned
    for fold in ("0", "1"):
        fit(work=work, fold=fold, training=settings.protocol.training, device="cpu", threads=1)
    return work


@pytest.fixture(scope="module")
def evaluated(trained, planned, settings):
    _, outcomes = planned
    tables = [trained / f"{part}.parquet" for part in ("0", "1", "held_out")]
    for table in tables:
        evaluate(
            work=trained, part=table.stem, settings=settings, device="cpu", threads=1, out=table
        )
    out = trained / "report"
    summarise(
        work=trained,
        outcomes=outcomes,
        tables=tables,
        settings=settings,
        summary=out / "summary.json",
        evaluation=out / "evaluation.parquet",
    )
    return out


def weights(work, fold="0"):
    path = model(work) / f"fold_{fold}" / "checkpoint_final.pth"
    return torch.load(path, weights_only=True)["network_weights"]


def test_images_and_labels_keep_their_voxels_and_place(planned, cohort):
    work, _ = planned
    folder, _ = cohort
    for name in ("case-1", "case-2"):
        written = SimpleITK.ReadImage(str(raw(work) / "s00001" / f"{name}_0000.nrrd"))
        assert (
            SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
                written.GetDirection()
            )
            == "LPS"
        )
        image = Volume.from_image(written)
        source = read_volume(volume_path(folder / "volumes", name, "CT"))
        back = image.with_axes_of(source.grid)
        assert back.grid.matches(source.grid, 1e-9)
        assert np.array_equal(back.array, source.array)
        labels = read_volume(raw(work) / "s00001" / f"{name}.nrrd").with_axes_of(source.grid)
        segmentation = read_segmentation(folder / "masks" / name / "organs")
        for value, segment in enumerate(segmentation.segments, 1):
            assert np.array_equal(labels.array == value, segmentation.mask(segment))


def test_a_channel_of_another_grid_is_resampled_onto_that_of_the_labels(cohort, tmp_path):
    folder, cases = cohort
    volume = read_volume(volume_path(folder / "volumes", "case-1", "CT"))
    coarse = Volume(
        volume.array[::2, ::2, ::2],
        Grid(volume.array[::2, ::2, ::2].shape, volume.grid.affine @ np.diag([2.0, 2, 2, 1])),
    )
    far = volume.grid.affine.copy()
    far[:3, 3] += 5000
    for case, found in (
        ("case-1", coarse),
        ("case-3", Volume(volume.array, Grid(volume.grid.shape, far))),
    ):
        for role, image in (
            ("CT", read_volume(volume_path(folder / "volumes", case, "CT"))),
            ("PT", found),
        ):
            write_volume(volume_path(tmp_path / "volumes", case, role), image)
    settings = settings_of(tmp_path, inputs=["PT", "CT"])
    small = phantom.PhantomGrid((2, 4, 4), (5.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    slices = dicom.ct_series(np.zeros(small.shape, np.int16), small)
    paths = {"CT": tuple(write(slices, tmp_path / "ct"))}
    slices[0].FrameOfReferenceUID = "1.2.3"
    paths["PT"] = tuple(write(slices, tmp_path / "pt"))
    series = {role: Series("1.2", role, files) for role, files in paths.items()}
    outcomes = data.run(
        cases=[
            replace(case, roles=series) for case in cases if case.case_id in {"case-1", "case-3"}
        ],
        prepared={(case, role) for case in ("case-1", "case-3") for role in ("CT", "PT")},
        segmented={("case-1", "organs"), ("case-3", "organs")},
        settings=settings,
        volumes=tmp_path / "volumes",
        masks=folder / "masks",
        out=tmp_path / "out",
        threads=1,
    )
    assert [o.reason for o in outcomes] == ["", "images_apart"]
    assert outcomes[0].outputs == ["case-1_0000.nrrd", "case-1_0001.nrrd", "case-1.nrrd"]
    pt, ct, labels = (read_volume(tmp_path / "out" / name) for name in outcomes[0].outputs)
    assert pt.grid.matches(labels.grid, 1e-9)
    assert np.array_equal(ct.array, volume.canonical().array)
    same = pt.array[::2, ::2, ::2] == volume.canonical().array[::2, ::2, ::2]
    assert same.mean() > 0.99
    # Half a voxel at the border lies beyond the coarse image.
    assert "The PT covers" in outcomes[0].message
    assert "roles CT, PT do not name one frame of reference" in outcomes[0].message


def test_a_case_without_mask_is_recorded_and_not_trained_on(planned):
    work, outcomes = planned
    failed = [o for o in outcomes if o.status is not Status.OK]
    assert [(o.case_id, o.reason) for o in failed] == [(NO_MASK, "depends_on_failed")]
    assert NO_MASK not in (work / "split.json").read_text()


def test_segments_that_overlap_are_not_trained_on(cohort):
    folder, _ = cohort
    volume = read_volume(volume_path(folder / "volumes", "case-1", "CT"))
    mask = np.zeros(volume.grid.shape, bool)
    mask[2:4, 2:4, 2:4] = True
    both = pack(
        [Region(f"my-{organ}", organ, mask, "MANUAL", "x") for organ in ORGANS], volume.grid
    )
    with pytest.raises(CaseFault, match="my-lesion") as caught:
        data.label_map(both, typed.segmentation(PROTOCOL["segmentations"][0]), "case-1")
    assert caught.value.reason is Reason.OVERLAPPING_SEGMENTS


def test_no_patient_is_in_two_parts_and_the_split_is_the_same_again():
    patients = {f"case-{n}": f"patient-{n // 3}" for n in range(60)}
    found = split(patients, 5, 0.2, 3)
    parts = [*found.folds, found.held_out]
    of = [{patients[case] for case in part} for part in parts]
    assert sum(map(len, of)) == len(set.union(*of)) == 20
    assert [len(part) for part in of] == [4, 3, 3, 3, 3, 4]
    assert sorted(case for part in parts for case in part) == sorted(patients)
    assert split(dict(reversed(patients.items())), 5, 0.2, 3) == found
    assert split(patients, 5, 0.2, 4) != found


def test_too_few_patients_are_refused_with_the_fix():
    with pytest.raises(StageError, match=r"3 patients .* lower folds"):
        split({"a": "1", "b": "2", "c": "3"}, 5, 0, 0)
    with pytest.raises(StageError, match="held_out"):
        split({"a": "1", "b": "2", "c": "3"}, 2, 0.1, 0)


def test_nnunet_trains_and_validates_on_the_folds_of_the_split(planned):
    work, _ = planned
    chosen = read_json(work / "split.json")
    parts = [*chosen["folds"], chosen["held_out"]]
    assert sorted(case for part in parts for case in part) == [
        "case-1",
        "case-2",
        "case-3",
        "case-4",
        "case-5",
    ]
    assert {"case-2", "case-3"} in [set(part) & {"case-2", "case-3"} for part in parts]
    splits = read_json(preprocessed(work) / "splits_final.json")
    assert [entry["val"] for entry in splits] == chosen["folds"]
    for entry in splits:
        assert not set(entry["train"]) & {*entry["val"], *chosen["held_out"]}
    dataset = read_json(raw(work) / "dataset.json")
    assert sorted(dataset["dataset"]) == sorted(c for fold in chosen["folds"] for c in fold)


def test_the_plan_holds_what_the_protocol_wants(planned):
    work, _ = planned
    plans = read_json(model(work) / "plans.json")
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["patch_size"] == [16, 32, 32]
    assert configuration["spacing"] == [12, 10, 10]
    assert configuration["normalization_schemes"] == ["CTNormalization"]
    network = configuration["architecture"]["arch_kwargs"]
    assert network["features_per_stage"] == [4, 4, 8]
    assert read_json(model(work) / "dataset.json")["labels"] == {
        "background": 0,
        "my-liver": 1,
        "my-lesion": 2,
    }


def full(**keys):
    """A training whose plan is nnU-Net's own but for the keys."""
    basis = {key: PROTOCOL["training"][key] for key in ("model", "segmentation", *TEXTS)}
    return load(FullTraining, basis | keys, "training")


def test_a_patch_is_turned_and_enlarged_for_the_network():
    configuration = {
        "batch_size": 9,
        "batch_dice": False,
        "patch_size": [64, 64, 64],
        "spacing": [5.0, 1.0, 1.0],
        "architecture": {"arch_kwargs": {"features_per_stage": [32, 64, 128, 256, 320]}},
    }
    assert adapted(configuration, full(), [2, 0, 1]) == configuration
    found = adapted(configuration, full(patch=[61, 70, 12], batch=3), [2, 0, 1])
    network = found["architecture"]["arch_kwargs"]
    assert found["batch_size"] == 3
    assert network["strides"] == [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [1, 2, 2]]
    assert network["kernel_sizes"][0] == [1, 3, 3]
    # The patch is (z, y, x), nnU-Net's first axis here x; each is a multiple of its strides.
    assert found["patch_size"] == [12, 64, 80]
    found = adapted(configuration, full(features=[8, 16]), [0, 1, 2])
    small = found["architecture"]["arch_kwargs"]
    assert small["n_stages"] == len(small["strides"]) == len(small["kernel_sizes"]) == 2


def _fit(work, training):
    fit(work=work, fold="0", training=training, device="cpu", threads=1)


@pytest.mark.long
def test_a_training_that_is_killed_resumes_to_the_same_weights(
    trained, planned, settings, tmp_path
):
    work, _ = planned
    for name in ("raw", "preprocessed", "split.json"):
        (tmp_path / name).symlink_to(work / name)
    training = settings.protocol.training
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_fit, args=(tmp_path, training))
    process.start()
    folder = tmp_path / "trained" / DATASET
    deadline = time.monotonic() + 120
    while not list(folder.glob(f"*/fold_0/{LATEST}")):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (model(tmp_path) / "fold_0").exists()
    time.sleep(1)  # nnU-Net names its logs by the second
    _fit(tmp_path, training)

    through, resumed = weights(work), weights(tmp_path)
    assert through.keys() == resumed.keys()
    assert all(torch.equal(through[key], resumed[key]) for key in through)
    path = "fold_0/checkpoint_final.pth"
    assert (model(work) / path).read_bytes() == (model(tmp_path) / path).read_bytes()
    logs = [path.read_text() for path in folder.glob("*/fold_0/training_log_*.txt")]
    assert len(logs) == 2
    assert "".join(logs).count("Epoch 0") == 1
    assert len(read_json(tmp_path / "progress_0.json")["train_loss"]) == 3


def test_another_setting_starts_anew(trained, settings, tmp_path):
    for name in ("raw", "preprocessed", "split.json"):
        (tmp_path / name).symlink_to(trained / name)
    training = settings.protocol.training.model_copy(update={"epochs": 1, "iterations": 1})
    fit(work=tmp_path, fold="0", training=training, device="cpu", threads=1)
    first = weights(tmp_path)
    other = training.model_copy(update={"licence": "other"})
    fit(work=tmp_path, fold="0", training=other, device="cpu", threads=1)
    assert all(torch.equal(first[key], value) for key, value in weights(tmp_path).items())
    other = training.model_copy(update={"seed": 5})
    fit(work=tmp_path, fold="0", training=other, device="cpu", threads=1)
    assert not all(torch.equal(first[key], value) for key, value in weights(tmp_path).items())


class Code:
    """What a checkpoint must not hold: unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", [LATEST, CHECKPOINT])
def test_a_training_goes_on_from_no_checkpoint_that_holds_code(trained, settings, tmp_path, name):
    for part in ("raw", "preprocessed", "split.json"):
        (tmp_path / part).symlink_to(trained / part)
    training = settings.protocol.training.model_copy(update={"epochs": 1, "iterations": 1})
    _fit(tmp_path, training)
    (final,) = (tmp_path / "trained" / DATASET).glob(f"*/fold_0/{CHECKPOINT}")
    content = read_checkpoint(final)
    final.unlink()
    torch.save({**content, "_best_ema": Code(tmp_path / "ran")}, final.with_name(name))
    with pytest.raises(StageError, match=rf"{name} holds \S+ beside tensors"):
        _fit(tmp_path, training)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_is_loaded_without_running_code(trained):
    """Plain tensors and strings only, without the state of the optimiser."""
    checkpoint = torch.load(model(trained) / "fold_1" / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint.keys() == {
        "network_weights",
        "trainer_name",
        "init_args",
        "inference_allowed_mirroring_axes",
    }


def test_each_case_is_evaluated_by_models_that_have_not_seen_it(evaluated, trained):
    table = pd.read_parquet(evaluated / "evaluation.parquet")
    chosen = read_json(trained / "split.json")
    for part, cases in [*enumerate(chosen["folds"]), ("held_out", chosen["held_out"])]:
        assert set(table.loc[table["part"] == str(part), "case_id"]) == set(cases)
    assert len(table) == 2 * (len(PATIENTS) - 1)
    assert set(table["status"]) == {"ok"}
    summary = read_json(evaluated / "summary.json")
    assert summary["cases"] == {
        "trained": sum(map(len, chosen["folds"])),
        "held_out": len(chosen["held_out"]),
        "not_used": 1,
    }
    assert [entry["case_id"] for entry in summary["not_used"]] == [NO_MASK]
    rows = table[(table["part"] != "held_out") & (table["label"] == "my-liver")]
    liver = summary["cross_validation"]["my-liver"]
    assert liver["cases"] == len(rows)
    assert liver["dice"]["mean"] == pytest.approx(rows["dice"].mean(), abs=1e-6)
    assert liver["dice"]["sd"] == pytest.approx(rows["dice"].std(ddof=1), abs=1e-6)


def test_a_case_that_cannot_be_predicted_is_recorded(trained, settings, tmp_path):
    chosen = read_json(trained / "split.json")
    broken, *rest = chosen["folds"][0]
    for name in ("model", "split.json"):
        (tmp_path / name).symlink_to(trained / name)
    (raw(tmp_path) / "s00001").mkdir(parents=True)
    for path in (raw(trained) / "s00001").iterdir():
        copy = raw(tmp_path) / "s00001" / path.name
        if path.name == f"{broken}.nrrd":
            drawn = read_volume(path)
            away = drawn.grid.affine.copy()
            away[:3, 3] += 900
            write_volume(copy, Volume(drawn.array, Grid(drawn.grid.shape, away)))
        else:
            shutil.copy(path, copy)
    evaluate(
        work=tmp_path,
        part="0",
        settings=settings,
        device="cpu",
        threads=1,
        out=tmp_path / "0.parquet",
    )
    table = pd.read_parquet(tmp_path / "0.parquet").set_index("case_id")
    assert list(table.loc[[broken], "status"]) == ["failed", "failed"]
    assert set(table.loc[[broken], "reason"]) == {"grid_mismatch"}
    assert table.loc[[broken], "dice"].isna().all()
    assert (table.loc[rest, "status"] == "ok").all()


def test_what_is_not_defined_has_a_reason():
    grid = Grid((4, 4, 4), np.diag([4.0, 3.0, 2.0, 1.0]))
    truth = np.zeros((4, 4, 4), bool)
    truth[1:3, 1:3, 1:3] = True
    nothing = np.zeros_like(truth)
    missed = compare(nothing, truth, grid)
    assert (missed["dice"], missed["hausdorff_95_mm"]) == (0, None)
    assert missed["reason"] == "empty_segment"
    assert missed["message"] == "No voxel in the prediction."
    assert missed["difference_ml"] == pytest.approx(-8 * 24 / 1000)
    absent = compare(nothing, nothing, grid)
    assert absent["dice"] is None
    assert absent["message"] == "No voxel in the reference and the prediction."
    assert compare(truth, truth, grid)["reason"] == ""


def test_the_registered_model_is_pinned_and_names_no_case(
    evaluated, trained, settings, tmp_path, tmp_path_factory
):
    (tmp_path / "models").symlink_to(tmp_path_factory.mktemp("disk"))
    registry = tmp_path / "models" / "models.yaml"
    other = yaml.safe_load(MODELS.read_text())["models"]["phantom-ct"]
    registry.write_text(yaml.safe_dump({"models": {"other": other}}))
    folder = tmp_path / "models" / "tiny"
    for _ in range(2):
        export(
            work=trained,
            settings=settings,
            summary=evaluated / "summary.json",
            folder=folder,
            registry=registry,
        )
    models = yaml.safe_load(registry.read_text())["models"]
    assert models["other"] == other
    entry = models["tiny"]
    assert entry["path"] == "tiny"
    assert entry["roles"] == ["CT"]
    assert [(label["name"], label["value"]) for label in entry["labels"]] == [
        ("my-liver", 1),
        ("my-lesion", 2),
    ]
    assert entry["labels"][0]["type"]["value"] == "10200004"
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(entry["files"]) == present
    assert {f"fold_{n}/checkpoint_final.pth" for n in (0, 1)} < present
    text = "".join(p.read_text() for p in folder.rglob("*.json"))
    assert not [name for name in {*PATIENTS, *PATIENTS.values()} if f'"{name}"' in text]
    assert json.loads((folder / "provenance.json").read_text())["training_set"]["cases"] >= 3
    with pytest.raises(StageError, match="another name"):
        export(
            work=trained,
            settings=settings,
            summary=evaluated / "summary.json",
            folder=tmp_path / "models" / "elsewhere",
            registry=registry,
        )


def test_the_report_shows_curves_and_every_case(evaluated, trained, settings):
    write_training_report(folder=evaluated, work=trained, settings=settings)
    page = (evaluated / "index.html").read_text()
    assert all(f"<code>{case}</code>" in page for case in PATIENTS)
    assert page.count("<svg") == 2 + len(ORGANS)
    assert "pseudo-Dice" in page

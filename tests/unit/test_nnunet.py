"""The engine `nnunet` beside nnU-Net's own predictor, and what it refuses."""

from __future__ import annotations

import multiprocessing
import multiprocessing.dummy
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing,
    determine_postprocessing,
    remove_all_but_largest_component_from_segmentation,
)
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

import typed
from jipflow.cases import Case, Series
from jipflow.files import read_json, write_json
from jipflow.images.masks import read_segmentation
from jipflow.images.resample import resample
from jipflow.images.volume import Grid, Volume, read_volume, volume_path, write_volume
from jipflow.models.checkpoints import (
    build_network,
    check_architectures,
    read_checkpoint,
    trainer_class,
)
from jipflow.outcomes import Status
from jipflow.phantom.cohort import make_subject
from jipflow.phantom.vendors import VENDORS
from jipflow.reasons import CaseFault, Reason, StageError
from jipflow.segment import stage
from jipflow.segment.engine import Inputs, Machine
from jipflow.segment.engines.nnunet import engine as nnunet
from jipflow.segment.engines.nnunet import inference
from jipflow.segment.engines.nnunet.engine import NnUNet, load_predictor
from jipflow.segment.engines.nnunet.inference import Devices
from jipflow.segment.engines.nnunet.postprocessing import KNOWN
from jipflow.settings.reading import read_registry
from jipflow.settings.resources import ConfigError
from nnunet_models import LABELS, register, write_model
from phantom_volumes import as_volume

CPU = torch.device("cpu")


@dataclass
class World:
    """Prepared volumes of one patient, and a registry to put models in."""

    folder: Path

    def model(self, name="model", **described):
        write_model(self.folder / name, **described)
        self.pin(name)

    def pin(self, name="model", members=(), postprocessing=None):
        folders = {name: self.folder / name}
        register(self.folder / "models.yaml", members, postprocessing, **folders)

    def members(self, *members, labels=LABELS, **others):
        """Write a model of several configurations, some of which it averages."""
        for number, (member, described) in enumerate(others.items()):
            folder = self.folder / "model" / f"T__P__{member}"
            write_model(folder, seed=20 * number, **{"labels": labels} | described)
        self.pin(members=tuple(f"T__P__{member}" for member in members))

    def engine(self, name="model", threads=1, **changed):
        path = next((self.folder / name).rglob("dataset.json"))
        labels = read_json(path)["labels"]
        spec = {
            "id": "organs",
            "engine": "nnunet",
            "model": name,
            "role": "CT",
            "inputs": [],
            "folds": [],
            "mirroring": False,
            "tile_step_size": 0.5,
            "segments": [
                {"name": label, "label": label, "term": "liver", "required": False}
                for label in labels
                if label != "background"
            ],
        }
        known = read_registry(self.folder / "models.yaml")
        machine = Machine(threads, "cpu", self.folder, known)
        return NnUNet(typed.segmentation(spec | changed), machine)

    def run(self, engine, case_ids=("p1",)):
        cases = [Case(name, name, "s1", {"CT": Series("1", "CT", ())}) for name in case_ids]
        items = stage.segment(engine, cases, self.folder / "volumes", self.folder / "masks")
        return [item.outcome for item in items]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """The CT and the PET of a patient, the CT in coronal slices, and the middle of the CT; the CTs
    have a border that nnU-Net cuts off."""
    folder = tmp_path_factory.mktemp("patient") / "volumes"
    subject = make_subject("nnunet", 1, 3, VENDORS["siemens"])
    hu = subject.hu.copy()
    hu[:3], hu[:, :5], hu[:, :, -4:] = 0, 0, 0
    ct = as_volume(hu, subject.ct_grid)
    write_volume(volume_path(folder, "p1", "CT"), ct)
    pt = as_volume(subject.suv.astype(np.float32), subject.pt_grid)
    write_volume(volume_path(folder, "p1", "PT"), pt)
    turned = ct.with_axes_of(Grid(ct.grid.shape, ct.grid.affine @ CORONAL))
    write_volume(volume_path(folder, "p2", "CT"), turned)
    middle = hu[tuple(slice(size // 4, size - size // 4) for size in hu.shape)].copy()
    middle[:2], middle[:, :3], middle[:, :, -2:] = 0, 0, 0
    write_volume(volume_path(folder, "p3", "CT"), as_volume(middle, subject.ct_grid))
    return folder


CORONAL = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
"""Turns an axial grid into one whose slices run from front to back and whose rows run down."""


@pytest.fixture
def world(tmp_path, volumes):
    (tmp_path / "volumes").symlink_to(volumes)
    return World(tmp_path)


def by_nnunet(folder, images, out, mirroring=False, folds=None, first=None, probabilities=False):
    """Let nnU-Net's own predictor read files, predict and write a file; return its label map.

    ``first`` is the folder of files of a cascade's first stage.
    """
    predictor = nnUNetPredictor(use_mirroring=mirroring, device=CPU, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), folds)
    out.mkdir()
    files = []
    for number, image in enumerate(images):
        files.append(str(out / f"in_{number:04d}.nii.gz"))
        sitk.WriteImage(image.image(), files[-1])
    predictor.predict_from_files_sequential(
        [files], [str(out / "in")], probabilities, folder_with_segs_from_prev_stage=first
    )
    return sitk.GetArrayFromImage(sitk.ReadImage(str(out / "in.nii.gz")))


SLOW = ("two folds", "mirrored", "flat")
"""Models that predict the middle of the CT, for each predicts many patches or several times."""

MODELS = {
    "one fold": {},
    "two folds": {"folds": ("0", "1")},
    "mirrored": {"mirrored": (0, 2), "folds": ("all",)},
    "regions": {"labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3}},
    "flat": {"flat": True, "folds": ("0", "1")},
    "two channels": {"channels": ("CT", "PT"), "folds": ("0", "3")},
    "transposed": {"transpose_forward": [1, 2, 0], "transpose_backward": [2, 0, 1]},
    "thick slices": {"spacing": [24.0, 6.5, 6.5], "patch_size": [8, 32, 32]},
    "turned by its reader": {"image_reader_writer": "SimpleITKIOWithReorient"},
}


@pytest.mark.parametrize("name", MODELS)
def test_masks_are_those_of_nnunet_voxel_for_voxel(world, name):
    described = MODELS[name]
    world.model(**described)
    turned = "image_reader_writer" in described
    case, mirroring = "p2" if turned else "p1", "mirrored" in described
    case = "p3" if name in SLOW else case
    roles = list(described.get("channels", ("CT",)))
    engine = world.engine(threads=2, mirroring=mirroring, inputs=roles)
    (outcome,) = world.run(engine, [case])
    assert outcome.status is Status.OK, outcome.message
    ct = read_volume(volume_path(world.folder / "volumes", case, "CT"))
    images = [ct]
    if "PT" in roles:
        pt = read_volume(volume_path(world.folder / "volumes", case, "PT"))
        images.append(resample(pt, ct.grid)[0])
    folds = tuple(described.get("folds", ("0",)))
    theirs = by_nnunet(world.folder / "model", images, world.folder / "out", mirroring, folds)
    labels = read_json(world.folder / "model" / "dataset.json")["labels"]
    found = read_segmentation(world.folder / "masks" / case / "organs")
    assert found.grid.matches(ct.grid, 1e-6)
    ours = {segment.name: found.mask(segment) for segment in found.segments}
    assert len(ours) >= 2
    for label, value in labels.items():
        wanted = np.isin(theirs, value)
        if label != "background" and wanted.any():
            np.testing.assert_array_equal(ours.pop(label), wanted, label)
    assert not ours
    several = len(folds) > 1
    assert all((s.disagreement is not None) == several for s in found.segments)
    assert all(0 < s.disagreement <= 1 for s in found.segments if several)


WHOLE = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3}


@pytest.mark.parametrize("labels", [LABELS, WHOLE], ids=["labels", "regions"])
def test_members_are_averaged_as_nnunet_averages_folders(world, labels):
    flat = {"flat": True, "folds": ("0", "1"), "transpose_forward": [1, 0, 2]}
    flat["transpose_backward"] = [1, 0, 2]
    world.members("2d", "3d_fullres", labels=labels, **{"2d": flat, "3d_fullres": {}})
    (outcome,) = world.run(world.engine(threads=2), ["p3"])
    assert outcome.status is Status.OK, outcome.message
    ct = read_volume(volume_path(world.folder / "volumes", "p3", "CT"))
    alone = []
    for member, folds in (("T__P__2d", ("0", "1")), ("T__P__3d_fullres", ("0",))):
        folder, out = world.folder / "model" / member, world.folder / member
        alone.append(by_nnunet(folder, [ct], out, folds=folds, probabilities=True))
    plans = PlansManager(read_json(world.folder / "model" / "T__P__2d" / "plans.json"))
    dataset = read_json(world.folder / "model" / "T__P__2d" / "dataset.json")
    merge_files(
        [str(world.folder / member / "in.npz") for member in ("T__P__2d", "T__P__3d_fullres")],
        str(world.folder / "merged"),
        ".nii.gz",
        plans.image_reader_writer_class(),
        plans.get_label_manager(dataset),
    )
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(world.folder / "merged.nii.gz")))
    assert all((theirs != each).any() for each in alone)
    found = read_segmentation(world.folder / "masks" / "p3" / "organs")
    assert {segment.name for segment in found.segments} == set(labels) - {"background"}
    for segment in found.segments:
        value = labels[segment.name]
        np.testing.assert_array_equal(found.mask(segment), np.isin(theirs, value), segment.name)
        first, second = (np.isin(each, value) for each in alone)
        dice = 2 * (first & second).sum() / (first.sum() + second.sum())
        assert segment.disagreement == pytest.approx(1 - dice)


@pytest.mark.parametrize("spacing", [[6.0, 6.5, 6.5], [5.0, 3.0, 3.0]], ids=["coarse", "fine"])
def test_a_cascade_takes_the_labels_of_its_first_stage(world, spacing):
    second = {"previous_stage": "3d_lowres", "spacing": spacing, "seed": 5}
    coarse = {"spacing": [12.0, 13.0, 13.0], "folds": ("0", "1")}
    write_model(world.folder / "model" / "T__P__3d_cascade_fullres", **second)
    world.members("3d_cascade_fullres", **{"3d_lowres": coarse})
    (outcome,) = world.run(world.engine(threads=2), ["p3"])
    assert outcome.status is Status.OK, outcome.message
    ct = read_volume(volume_path(world.folder / "volumes", "p3", "CT"))
    model, out = world.folder / "model", world.folder / "first"
    rough = by_nnunet(model / "T__P__3d_lowres", [ct], out, folds=("0", "1"))
    theirs = by_nnunet(
        model / "T__P__3d_cascade_fullres", [ct], world.folder / "out", folds=("0",), first=str(out)
    )
    assert (theirs != rough).any()
    found = read_segmentation(world.folder / "masks" / "p3" / "organs")
    assert len(found.segments) == len(LABELS) - 1
    for segment in found.segments:
        np.testing.assert_array_equal(found.mask(segment), theirs == LABELS[segment.name])


@pytest.mark.parametrize("labels", [LABELS, MODELS["regions"]["labels"]], ids=["labels", "regions"])
def test_the_postprocessing_that_nnunet_found_is_applied(world, labels, monkeypatch):
    world.model(labels=labels)
    model, out = world.folder / "model", world.folder / "predicted"
    ct = read_volume(volume_path(world.folder / "volumes", "p1", "CT"))
    predicted = by_nnunet(model, [ct], out)
    truth = predicted
    for values in ([1, 2, 3], 2, 3):
        truth = remove_all_but_largest_component_from_segmentation(truth, values)
    files = [out / "in.nii.gz", world.folder / "truth" / "in.nii.gz"]
    files[1].parent.mkdir()
    for file, content in zip(files, (predicted, truth), strict=True):
        sitk.WriteImage(Volume(content.astype(np.uint8), ct.grid).image(), str(file))
    (out / "in_0000.nii.gz").unlink()
    described = (str(model / "plans.json"), str(model / "dataset.json"), 1)
    with monkeypatch.context() as patch:
        # Its five pools would each start a process that imports nnU-Net; threads do the same work.
        patch.setattr(multiprocessing, "get_context", lambda _: multiprocessing.dummy)
        steps = determine_postprocessing(str(out), str(files[1].parent), *described)
    assert steps[0], "nothing to be removed"
    theirs = apply_postprocessing(predicted, *steps)
    assert (theirs != predicted).any()
    (model / "postprocessing.json").write_bytes((out / "postprocessing.json").read_bytes())
    world.pin(postprocessing="postprocessing.json")
    (outcome,) = world.run(world.engine())
    assert outcome.status is Status.OK, outcome.message
    found = read_segmentation(world.folder / "masks" / "p1" / "organs")
    for segment in found.segments:
        values = np.isin(theirs, labels[segment.name])
        np.testing.assert_array_equal(found.mask(segment), values, segment.name)


@pytest.mark.parametrize(
    "content",
    [
        {"postprocessing_fns": ["system"], "postprocessing_kwargs": [{"labels_or_regions": 1}]},
        {"postprocessing_fns": [KNOWN], "postprocessing_kwargs": [{"labels_or_regions": "all"}]},
        {"postprocessing_fns": [KNOWN], "postprocessing_kwargs": [{"background_label": 2}]},
        {"postprocessing_fns": [KNOWN], "postprocessing_kwargs": []},
        [],
    ],
)
def test_a_postprocessing_that_is_none_of_nnunets_is_refused(world, content):
    world.model()
    write_json(world.folder / "model" / "best.json", content)
    with pytest.raises(StageError, match=r"best\.json is not a post-processing"):
        world.pin(postprocessing="best.json")


def test_a_postprocessing_that_is_not_there_is_not_registered(world):
    world.model()
    with pytest.raises(StageError, match=r"no file 'best\.json'.*crossval_results"):
        world.pin(postprocessing="best.json")


def test_members_that_do_not_fit_each_other_are_refused(world):
    other = {"labels": {"background": 0, "spleen": 1, "liver": 2, "kidney": 3}}
    with pytest.raises(StageError, match=r"has the value 2, but 1 in T__P__3d/dataset\.json"):
        world.members("2d", "3d", **{"2d": {"flat": True}, "3d": other})
    described = world.folder / "model" / "T__P__3d" / "dataset.json"
    content = {**read_json(described), "labels": LABELS, "regions_class_order": [1, 2, 3]}
    described.unlink()
    write_json(described, content)
    world.pin(members=("T__P__2d", "T__P__3d"))
    with pytest.raises(StageError, match=r"'regions_class_order' of T__P__3d/dataset\.json dif"):
        world.run(world.engine())
    world.members(
        "3d_cascade", "alone", **{"3d_cascade": {"previous_stage": "3d_lowres"}, "alone": {}}
    )
    with pytest.raises(StageError, match="NAME__3d_lowres stands beside it"):
        world.run(world.engine())


def test_without_a_reader_that_turns_the_registry_says_how_the_training_images_lay(world):
    world.model()
    world.run(world.engine())
    upright = read_segmentation(world.folder / "masks" / "p1" / "organs")
    registry = world.folder / "models.yaml"
    registry.write_text(registry.read_text().replace("    path:", "    axes: RAS\n    path:"))
    engine = world.engine()
    world.run(engine)
    turned = read_segmentation(world.folder / "masks" / "p1" / "organs")
    volume = read_volume(volume_path(world.folder / "volumes", "p1", "CT"))
    flipped = Volume(volume.array[:, ::-1, ::-1], volume.grid)
    theirs = by_nnunet(world.folder / "model", [flipped], world.folder / "out")[:, ::-1, ::-1]
    liver = {s.name: s for s in turned.segments}["liver"]
    np.testing.assert_array_equal(turned.mask(liver), theirs == 1)
    assert not np.array_equal(upright.layers[0], turned.layers[0])


def test_a_subset_of_the_folds_is_a_model_of_its_own(world):
    world.model(folds=("0", "1", "2"))
    world.run(world.engine(folds=[2]))
    found = read_segmentation(world.folder / "masks" / "p1" / "organs")
    volume = read_volume(volume_path(world.folder / "volumes", "p1", "CT"))
    theirs = by_nnunet(world.folder / "model", [volume], world.folder / "out", folds=("2",))
    for segment in found.segments:
        assert segment.disagreement is None
        np.testing.assert_array_equal(found.mask(segment), theirs == LABELS[segment.name])


def test_a_channel_that_does_not_cover_the_image_is_noted_and_one_apart_fails(world):
    world.model(channels=("CT", "PT"))
    engine = world.engine(inputs=["CT", "PT"])
    (outcome,) = world.run(engine)
    assert outcome.status is Status.OK
    folder = world.folder / "more" / "p1"
    for role in ("CT", "PT"):
        write_volume(folder / f"{role}.nrrd", read_volume(world.folder / f"volumes/p1/{role}.nrrd"))
    pt = read_volume(folder / "PT.nrrd")
    moved = pt.grid.affine.copy()
    moved[2, 3] += 100
    write_volume(folder / "PT.nrrd", Volume(pt.array, Grid(pt.grid.shape, moved)))
    inputs = Inputs(
        Case("p1", "p1", "s1", {}), engine.spec, world.folder / "more", world.folder / "masks"
    )
    engine.read(inputs)
    (note,) = inputs.notes
    assert "The PT covers " in note
    assert f"lowest value, {pt.array.min():g}." in note
    moved[2, 3] += 10000
    write_volume(folder / "PT.nrrd", Volume(pt.array, Grid(pt.grid.shape, moved)))
    with pytest.raises(CaseFault, match="frame of reference") as fault:
        engine.read(inputs)
    assert fault.value.reason is Reason.IMAGES_APART


def test_labels_are_as_wide_as_their_number(world):
    rng = np.random.default_rng(1)
    manager = LabelManager({"background": 0, **{f"l{n}": n for n in range(1, 400)}}, None)
    heads = rng.normal(size=(400, 2, 3, 4)).astype(np.float16)
    found = inference.labels_of(manager, heads)
    np.testing.assert_array_equal(found, heads.argmax(0))
    assert found.max() > 255


def test_work_in_turn_keeps_the_order_and_takes_no_more_than_it_may():
    begun, taken = [], []
    both = threading.Barrier(2, timeout=60)

    def work(number):
        begun.append(number)
        both.wait()
        return number * number

    for result in inference.in_turn(work, iter(range(6)), 2):
        assert len(begun) <= len(taken) + 3
        taken.append(result)
    assert taken == [0, 1, 4, 9, 16, 25]


def test_disagreement_is_one_minus_the_mean_dice_of_the_pairs_that_have_the_label():
    a = np.array([1, 1, 1, 0, 2, 0, 0], np.uint8)
    b = np.array([1, 1, 0, 0, 3, 0, 0], np.uint8)
    c = np.array([0, 0, 0, 0, 0, 3, 0], np.uint8)
    found = inference.disagreement([a, b], {"one": 1, "both": [2, 3], "none": 7})
    assert found == {"one": pytest.approx(1 - 4 / 5), "both": 0}
    found = inference.disagreement([a, b, c], {"one": 1, "two": [2], "three": 3})
    assert found["one"] == pytest.approx(1 - (4 / 5 + 0 + 0) / 3)
    assert found["two"] == 1
    assert found["three"] == 1


class Touch:
    """Pickled, it makes whoever unpickles it write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pinned_checkpoint_that_would_run_code_is_refused_and_does_not_run(world):
    world.model()
    path = world.folder / "model" / "fold_0" / "checkpoint_final.pth"
    trap = world.folder / "touched"
    torch.save(read_checkpoint(path) | {"extra": Touch(trap)}, path)
    world.pin()
    with pytest.raises(StageError, match=r"checkpoint_final\.pth holds .* beside tensors"):
        world.run(world.engine())
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network_class_name", "torch.hub.load"),
        ("network_class_name", "dynamic_network_architectures.architectures.unet.np.load"),
        ("network_class_name", "torch.nn.Linear"),
        ("conv_op", "os.system"),
        ("conv_op", "torch.nn.modules.conv.torch.hub.load"),
        ("nonlin", 7),
    ],
)
def test_plans_whose_network_is_other_code_are_refused(world, key, value):
    """Before they are pinned, where their text says it, and else before the network is built."""
    world.model()
    path = world.folder / "model" / "plans.json"
    plans = read_json(path)
    (configuration,) = plans["configurations"].values()
    architecture = configuration["architecture"]
    (architecture if key in architecture else architecture["arch_kwargs"])[key] = value
    write_json(path, plans)
    with pytest.raises(StageError, match=r"plans\.json builds its network of .* nothing else"):
        check_architectures(plans)

    def pinned_and_run():
        world.pin()
        world.run(world.engine())

    with pytest.raises(StageError, match=r"plans\.json (builds its network of|is not as nnU-Net)"):
        pinned_and_run()


@pytest.mark.parametrize("kept", [0, 2000, -1])
def test_a_pinned_checkpoint_that_is_cut_off_says_so(world, kept):
    world.model()
    path = world.folder / "model" / "fold_0" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:kept])
    world.pin()
    with pytest.raises(StageError, match=r"cut off or is no checkpoint .* copy it again"):
        world.run(world.engine())


def test_numbers_of_numpy_1_in_a_checkpoint_are_read(world):
    world.model()
    path = world.folder / "model" / "fold_0" / "checkpoint_final.pth"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    (pickled,) = (name for name, content in members.items() if new in content)
    members[pickled] = members[pickled].replace(new, old)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert read_checkpoint(path)["_best_ema"] == 0.5


@pytest.fixture
def divided(world):
    """A model of two folds, of which one finds a lesion everywhere and the mean of both none."""
    world.model(folds=("0", "1"), labels={"background": 0, "lesion": 1, "other": 2})
    for fold, bias in (("0", [0.0, 1000.0, 0.0]), ("1", [3000.0, 0.0, 0.0])):
        path = world.folder / "model" / f"fold_{fold}" / "checkpoint_final.pth"
        content = read_checkpoint(path)
        for name, weights in content["network_weights"].items():
            if "seg_layers" in name:
                weights[:] = torch.tensor(bias) if name.endswith("bias") else 0
        torch.save(content, path)
    world.pin()
    return world


def lesion(**keys):
    wanted = {"label": "lesion", "term": "lesion", "required": False, "name": "lesion"}
    return [wanted | keys, {**wanted, "name": "other", "label": "other"}]


def test_a_lesion_that_one_fold_sees_and_the_mean_does_not_is_flagged(divided):
    segments = lesion(expect={"disagreement": 0.1})
    (outcome,) = divided.run(divided.engine(may_be_empty=True, segments=segments))
    assert (outcome.status, outcome.flags) == (Status.OK, ["lesion:folds_disagree"])
    found = read_segmentation(divided.folder / "masks" / "p1" / "organs")
    assert [s.disagreement for s in found.segments] == [1.0, None]


@pytest.mark.parametrize("required", [True, False])
def test_a_failure_says_that_one_fold_sees_what_the_mean_does_not(divided, required):
    (outcome,) = divided.run(divided.engine(segments=lesion(required=required)))
    assert outcome.status is Status.FAILED
    assert "Some members of the model find lesion, their mean does not." in outcome.message


def test_a_trainer_of_nnunet_is_found_without_importing_the_others(world):
    world.model(trainer="nnUNetTrainer_250epochs")
    (outcome,) = world.run(world.engine())
    assert outcome.status is Status.OK, outcome.message
    assert trainer_class("nnUNetTrainerBN").__name__ == "nnUNetTrainerBN"


def test_the_network_of_the_default_trainer_is_the_one_that_its_class_builds(world):
    world.model(channels=("CT", "PT"))
    folder = world.folder / "model"
    plans = PlansManager(read_json(folder / "plans.json"))
    (name,) = plans.available_configurations
    described = (plans, plans.get_configuration(name), 2, 4)
    ours = build_network("nnUNetTrainer", *described)
    theirs = trainer_class("nnUNetTrainer").build_network_architecture(
        *described, enable_deep_supervision=False
    )
    assert str(ours) == str(theirs)
    saved = read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")["network_weights"]
    ours.load_state_dict(saved)


@pytest.mark.parametrize("name", ["nnUNetTrainerOfMine", "os", "AbstractPrimus", ".*"])
def test_an_unknown_trainer_is_refused_with_the_fix(world, name):
    world.model(trainer=name)
    with pytest.raises(StageError, match=r"pin the new file|install what it needs"):
        world.run(world.engine())


def test_what_does_not_fit_the_protocol_or_itself_is_refused(world):
    world.model()
    with pytest.raises(StageError, match="pinned for fold 4; there are folds: 0"):
        world.run(world.engine(folds=[0, 4]))
    with pytest.raises(StageError, match=r"takes 1 images \(CT\)"):
        world.run(world.engine(inputs=["CT", "PT"]))
    segment = {"name": "x", "label": "background", "term": "liver", "required": False}
    with pytest.raises(StageError, match="no label 'background'; it has: liver"):
        world.run(world.engine(segments=[segment]))
    registry = world.folder / "models.yaml"
    registry.write_text(registry.read_text().replace("    path:", "    axes: SPL\n    path:"))
    with pytest.raises(ConfigError, match=r"models\.model\.axes: 'SPL'"):
        world.run(world.engine())
    registry.unlink()
    world.model("cascade", previous_stage="3d_lowres")
    with pytest.raises(StageError, match="register the folder that holds both"):
        world.run(world.engine("cascade"))
    world.model("other", channels=("CT", "PT"))
    (world.folder / "other/plans.json").write_bytes(
        (world.folder / "model/plans.json").read_bytes()
    )
    (world.folder / "other/dataset.json").write_bytes(
        (world.folder / "model/dataset.json").read_bytes()
    )
    world.pin("other")
    with pytest.raises(StageError, match="the folder mixes models"):
        world.run(world.engine("other"))


def test_a_gpu_is_left_step_by_step():
    tried = inference.device_choices(torch.device("cuda"))
    assert [(p.network.type, p.image.type) for p in tried] == [
        ("cuda", "cuda"),
        ("cuda", "cpu"),
        ("cpu", "cpu"),
    ]
    assert inference.device_choices(CPU) == [Devices(CPU, CPU)]


@pytest.mark.parametrize("fitting", [0, 1, 2])
def test_where_memory_runs_out_the_next_place_is_tried_and_noted(fitting, monkeypatch):
    monkeypatch.setattr(inference, "empty_cache", lambda device: None)
    tried = inference.device_choices(torch.device("cuda"))

    def work(place):
        if tried.index(place) < fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return place

    notes = []
    assert inference.where_it_fits(work, tried, "p1", notes) == tried[fitting]
    assert len(notes) == (fitting > 0)
    if notes:
        assert f"the image on {tried[fitting].image.type}" in notes[0]


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def work(place):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        inference.where_it_fits(work, [Devices(CPU, CPU)] * 2, "p1", [])


@pytest.fixture
def once_without_memory(monkeypatch):
    """A network that runs out of memory the first time that it is called."""
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    def load(*arguments, **options):
        predictor = load_predictor(*arguments, **options)
        predictor.network.register_forward_pre_hook(fail)
        return predictor

    monkeypatch.setattr(nnunet, "load_predictor", load)


def test_a_case_that_fits_nowhere_ends_the_job_and_leaves_nothing(world, once_without_memory):
    world.model()
    threads = threading.active_count()
    with pytest.raises(MemoryError, match="case p1: the image is too large to be predicted here"):
        world.run(world.engine(), ["p1", "p2"])
    assert threading.active_count() == threads
    assert not (world.folder / "masks" / "p1").exists()
    first, second = world.run(world.engine(), ["p1", "p2"])
    assert (first.status, second.status) == (Status.OK, Status.OK)


def test_memory_that_is_short_for_a_moment_is_no_case_s_fault(world, monkeypatch):
    world.model()
    monkeypatch.setattr(inference, "preprocess", lambda *_: np.zeros(2**50))
    with pytest.raises(MemoryError, match="case p1: the image is too large at the model's spacing"):
        world.run(world.engine(), ["p1"])
    monkeypatch.undo()
    assert world.run(world.engine(), ["p1"])[0].status is Status.OK


def test_a_case_that_no_machine_could_hold_fails_alone(world):
    world.model()
    volumes = world.folder / "volumes"
    tiny = read_volume(volume_path(volumes, "p1", "CT"))
    # Wrong by a unit: the spacing of the model gives more than any machine can address.
    affine = tiny.grid.affine @ np.diag([1e9, 1, 1, 1])
    write_volume(
        volume_path(volumes, "p0", "CT"), Volume(tiny.array, Grid(tiny.grid.shape, affine))
    )
    first, second = world.run(world.engine(), ["p0", "p1"])
    assert (first.status, first.reason) == (Status.FAILED, Reason.TOO_LARGE)
    assert "more than any machine holds" in first.message
    assert second.status is Status.OK


def test_a_case_that_is_tried_again_is_noted_and_has_the_same_masks(
    world, once_without_memory, monkeypatch
):
    world.model()
    monkeypatch.setattr(inference, "device_choices", lambda device: [Devices(CPU, CPU)] * 2)
    (first,) = world.run(world.engine())
    assert first.status is Status.OK
    assert first.message.startswith("Out of memory of the cpu; predicted the network on cpu")
    masks = read_segmentation(world.folder / "masks" / "p1" / "organs").layers
    monkeypatch.undo()
    (again,) = world.run(world.engine())
    assert "memory" not in again.message
    np.testing.assert_array_equal(
        read_segmentation(world.folder / "masks" / "p1" / "organs").layers, masks
    )


def test_an_output_that_is_not_finite_fails_the_case(world):
    world.model()
    path = world.folder / "model" / "fold_0" / "checkpoint_final.pth"
    content = read_checkpoint(path)
    next(iter(content["network_weights"].values())).fill_(np.nan)
    torch.save(content, path)
    world.pin()
    (outcome,) = world.run(world.engine())
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.INVALID_OUTPUT)

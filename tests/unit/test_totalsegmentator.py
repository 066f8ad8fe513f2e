"""TotalSegmentator runs from pinned weights alone: no network, no home, no second load."""

from __future__ import annotations

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from totalsegmentator.map_to_binary import class_map_5_parts, map_taskid_to_partname_ct

import typed
from engine_benches import ABOUT_TOTAL, SITE
from jipflow.cases import Case, Series
from jipflow.images.masks import read_segmentation
from jipflow.images.series import read_series_volume
from jipflow.images.volume import Grid, Volume, volume_path, write_volume
from jipflow.models.registry import register
from jipflow.models.tasks import read_tasks
from jipflow.outcomes import Status
from jipflow.reasons import StageError
from jipflow.segment.engine import Inputs, Machine
from jipflow.segment.engines.totalsegmentator import engine as totalsegmentator
from jipflow.segment.stage import segment
from jipflow.settings.reading import read_registry
from loaded_processes import loaded_once
from threshold_model import write_threshold_model

TASKS = read_tasks()
COARSE, FINE = (6.0, 5.0, 5.0), (3.0, 3.0, 3.0)


def spec_of(task, mode="default", labels=None):
    labels = TASKS[task].labels if labels is None else labels
    return {
        "id": "found",
        "engine": "totalsegmentator",
        "model": "weights",
        "task": task,
        "mode": mode,
        "role": "CT",
        "segments": [
            {"name": label.lower(), "label": label, "term": "lesion", "required": False}
            for label in labels
        ],
    }


def grid(shape, spacing, rotation=None):
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing[::-1])[:, ::-1]
    if rotation is not None:
        affine[:3, :3] = rotation @ affine[:3, :3]
    affine[:3, 3] = (-80, -70, 300)
    return Grid(shape, affine)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Thresholds in the place of the weights of several tasks, and their registry."""
    root = tmp_path_factory.mktemp("weights")
    folder = root / "models" / "weights"
    for name in TASKS["total"].modes["default"].weights:
        number = int(name[len("Dataset") :][:3])
        part = class_map_5_parts[map_taskid_to_partname_ct[number]]
        classes = {label: value for value, label in part.items()}
        # Each part finds its last class, from another intensity up.
        put(folder, name, classes, {list(classes)[-1]: (number - 290) * 100.0}, 1.5)
    (rough,) = TASKS["total"].modes["fastest"].weights
    put(folder, rough, TASKS["total"].labels, {"brain": 100.0}, 6.0)
    put(
        folder,
        TASKS["cerebral_bleed"].modes["default"].weights[0],
        {"bleed": 1},
        {"bleed": 300.0},
        3.0,
    )
    put(folder, TASKS["face"].modes["default"].weights[0], {"face": 1}, {"face": 100.0}, 1.5)
    registry = root / "models.yaml"
    register("weights", ABOUT_TOTAL, folder, registry)
    return registry


def put(folder, name, classes, thresholds, spacing):
    trainer = name.split("/")[1].split("__")[0]
    write_threshold_model(folder / name, classes, thresholds, (spacing,) * 3, trainer)


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """An empty home, and processes that have the libraries."""
    home = tmp_path_factory.mktemp("home")
    with loaded_once(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        yield home


@pytest.fixture
def engine(patched, weights, tmp_path):
    """A function that makes an engine; all are closed in the end."""
    made = []

    def make(spec, device="cpu", registry=weights, **processing):
        scratch = tmp_path / f"scratch-{len(made)}"
        scratch.mkdir()
        site = typed.site(processing=SITE["processing"] | processing)
        machine = Machine(2, device, scratch, read_registry(registry), site.processing)
        made.append(totalsegmentator.TotalSegmentator(typed.segmentation(spec), machine))
        return made[-1]

    yield make
    for one in made:
        if hasattr(one, "worker"):
            one.close()


def predict(engine, volume, folder):
    write_volume(volume_path(folder, "one", "CT"), volume)
    inputs = Inputs(
        Case("one", "one", "s00001", {"CT": Series("1.2", "CT", ())}), engine.spec, folder, folder
    )
    return engine.predict(inputs, engine.read(inputs)), inputs


def steps():
    """Five slabs of rising intensity."""
    hu = np.full((37, 22, 24), -100, np.int16)
    for n in range(1, 6):
        hu[6 * n - 3 : 6 * n + 3, 5:-5, 5:-5] = 100 * n + 50
    return hu


def ask(address):
    import requests

    return requests.get(address, timeout=5).status_code


def imported():
    return sorted(
        m for m in ("torchvision", "timm", "nnunetv2", "totalsegmentator") if m in sys.modules
    )


def trainers():
    """The class of each trainer of the table, as TotalSegmentator finds it."""
    from totalsegmentator.nnunet import recursive_find_trainer_class_by_name_custom as find

    names = {
        weights.split("/")[1].split("__")[0]
        for task in TASKS.values()
        for mode in task.modes.values()
        for weights in mode.weights
    }
    return {name: find(name).__name__ for name in names}


def test_five_models_of_a_task_are_loaded_once_and_give_their_own_classes(
    engine, tmp_path, patched, weights
):
    total = engine(spec_of("total"))
    total.open()
    hu = steps()
    found, inputs = predict(total, Volume(hu, grid(hu.shape, FINE)), tmp_path / "volumes")
    parts = [class_map_5_parts[map_taskid_to_partname_ct[number]] for number in range(291, 296)]
    number = [list(part.values())[-1] for part in parts]
    # Where several parts find something the last one counts. Two voxels from the edges of a slab
    # resampling changes nothing.
    for n, label in enumerate(number, start=1):
        middle = found[6 * n - 1 : 6 * n + 1, 8:-8, 8:-8]
        np.testing.assert_array_equal(middle, TASKS["total"].labels[label])
    assert not found[:1].any()
    assert [region.name for region in total.regions(inputs, found)] == [
        label.lower() for label in TASKS["total"].labels if label in number
    ]

    for checkpoint in weights.parent.rglob("checkpoint_final.pth"):
        checkpoint.rename(checkpoint.with_suffix(".away"))
    try:
        again, _ = predict(total, Volume(hu, grid(hu.shape, FINE)), tmp_path / "volumes")
    finally:
        for away in weights.parent.rglob("checkpoint_final.away"):
            away.rename(away.with_suffix(".pth"))
    np.testing.assert_array_equal(found, again)

    # A rotated series has the same voxels, so it has the same labels.
    angle = np.deg2rad(25)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    oblique, _ = predict(total, Volume(hu, grid(hu.shape, FINE, turn)), tmp_path / "volumes")
    np.testing.assert_array_equal(found, oblique)

    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        for host in ("127.0.0.1", "localhost"):
            address = f"http://{host}:{server.server_address[1]}/"
            with pytest.raises(OSError, match="no network"):
                total.worker.submit(ask, address).result()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert asked == []
    assert list(patched.iterdir()) == []
    assert list(Path(os.environ["TMPDIR"]).iterdir()) == []
    found_trainers = total.worker.submit(trainers).result()
    assert len(found_trainers) >= 10
    assert all(name == found for name, found in found_trainers.items())
    assert total.worker.submit(imported).result() == ["nnunetv2", "totalsegmentator"]


def test_a_task_that_crops_finds_nothing_where_there_is_nothing_to_crop_to(engine, tmp_path):
    bleed = engine(spec_of("cerebral_bleed"))
    hu = np.full((16, 20, 20), -100, np.int16)
    with_brain = hu.copy()
    with_brain[3:13, 3:17, 3:17] = 150
    with_brain[6:10, 8:12, 8:12] = 400
    volumes = tmp_path / "volumes"
    cases = []
    for name, voxels in (("empty", hu), ("brain", with_brain)):
        write_volume(volume_path(volumes, name, "CT"), Volume(voxels, grid(hu.shape, COARSE)))
        cases.append(Case(name, name, "s00001", {"CT": Series("1.2", "CT", ())}))
    items = segment(bleed, cases, volumes, tmp_path / "masks")
    empty, brain = (item.outcome for item in items)
    assert (empty.status, empty.reason) == (Status.FAILED, "empty_segmentation")
    assert brain.status is Status.OK, brain.message
    (mask,) = [read_segmentation(tmp_path / "masks" / "brain" / "found")]
    (one,) = mask.segments
    assert (one.producer, one.version.split()[0]) == ("TotalSegmentator cerebral_bleed", "2.18.0")
    np.testing.assert_array_equal(mask.mask(one), with_brain == 400)


def test_a_task_with_a_licence_asks_for_its_number_and_takes_it(engine, tmp_path):
    with pytest.raises(StageError, match="needs a licence number"):
        engine(spec_of("face"), totalsegmentator_licence_file=None).open()
    with pytest.raises(StageError, match=r"nowhere cannot be read"):
        engine(spec_of("face"), totalsegmentator_licence_file=str(tmp_path / "nowhere")).open()
    number = tmp_path / "number"
    number.write_text("aca_ABCDEFGHIJKLMN\n")
    face = engine(spec_of("face"), totalsegmentator_licence_file=str(number))
    face.open()
    hu = steps()
    found, _ = predict(face, Volume(hu, grid(hu.shape, FINE)), tmp_path / "volumes")
    assert found.any()
    (face.machine.scratch / "home" / "config.json").write_text('{"license_number": "short"}')
    with pytest.raises(StageError, match="refuses task 'face'"):
        predict(face, Volume(hu, grid(hu.shape, FINE)), tmp_path / "volumes")


class Touch:
    """What unpickles to a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_pinned_weights_that_would_run_code_are_refused_and_do_not_run(engine, tmp_path):
    (name,) = TASKS["total"].modes["fastest"].weights
    folder = tmp_path / "models" / "hostile"
    put(folder, name, TASKS["total"].labels, {"brain": 100.0}, 6.0)
    registry = tmp_path / "models.yaml"
    checkpoint = next(folder.rglob("checkpoint_final.pth"))
    clean = torch.load(checkpoint, weights_only=True)
    trap = tmp_path / "touched"
    torch.save(clean | {"extra": Touch(trap)}, checkpoint)
    volume = Volume(steps(), grid(steps().shape, FINE))
    spec = spec_of("total", "fastest", labels=["brain"]) | {"model": "hostile"}
    register("hostile", ABOUT_TOTAL, folder, registry)
    opened = engine(spec, registry=registry)
    opened.open()
    with pytest.raises(StageError, match="beside tensors, numbers and text"):
        predict(opened, volume, tmp_path / "volumes")
    assert not trap.exists()

    torch.save(clean, checkpoint)
    plans = next(folder.rglob("plans.json"))
    text = plans.read_text().replace("torch.nn.modules.conv.Conv3d", "torch.hub.load")
    plans.write_text(text)
    register("hostile", ABOUT_TOTAL, folder, registry)
    opened = engine(spec, registry=registry)
    opened.open()
    with pytest.raises(StageError, match=r"of 'torch\.hub\.load', which is not of torch\.nn"):
        predict(opened, volume, tmp_path / "volumes")


def test_what_cannot_run_says_so_before_anything_is_loaded(engine, weights):
    checkpoint = next(weights.parent.rglob("checkpoint_final.pth"))
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-1] + b"x")
    try:
        with pytest.raises(StageError, match="is not the file that"):
            engine(spec_of("total")).open()
    finally:
        checkpoint.write_bytes(content)


def test_few_steps_of_intensity_are_noted(engine, tmp_path):
    hu = np.linspace(0, 1, 4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    few = engine(spec_of("total", labels=["spleen"]))
    write_volume(volume_path(tmp_path, "one", "CT"), Volume(hu, grid(hu.shape, FINE)))
    inputs = Inputs(Case("one", "one", "s00001", {}), few.spec, tmp_path, tmp_path)
    few.read(inputs)
    assert inputs.notes == [
        "The intensities span 1 only; TotalSegmentator rounds to whole numbers when it resamples."
    ]


def test_a_real_ct_is_labelled_on_its_own_grid(engine, tmp_path, shared_data):
    folder = shared_data / "totalsegmentator" / "example_ct_dicom"
    series = Series("1.2", "CT", tuple(sorted(p for p in folder.rglob("*") if p.is_file())))
    volume = read_series_volume(series)
    fastest = engine(spec_of("total", "fastest", labels=["brain"]))
    fastest.open()
    found, _ = predict(fastest, volume, tmp_path / "volumes")
    assert found.shape == volume.array.shape
    brain = found == TASKS["total"].labels["brain"]
    bright = volume.array >= 100
    overlap = 2 * np.count_nonzero(brain & bright) / (brain.sum() + bright.sum())
    assert overlap > 0.6

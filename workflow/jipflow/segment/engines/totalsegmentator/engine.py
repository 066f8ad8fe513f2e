"""Engine `totalsegmentator`: TotalSegmentator's own Python API on pinned weights, without network.

TotalSegmentator sets environment variables, replaces functions of nnU-Net, takes every core and
talks to servers of its makers. It therefore runs in a process of its own, one a shard, whose home,
configuration and temporary files lie in the engine's scratch folder, which sees no other weights
than the verified ones, and in which every use of the network raises an error.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jipflow.files import canonical_digest, read_json
from jipflow.images.masks import Region
from jipflow.images.volume import Volume
from jipflow.models.registry import registered_model, verify
from jipflow.models.tasks import read_tasks
from jipflow.reasons import StageError
from jipflow.segment.engine import Engine, Inputs, regions_of_labels
from jipflow.segment.engines.totalsegmentator.settings import TotalSegmentation
from jipflow.settings.extras import install_command
from jipflow.workers import begin_worker

PACKAGE = "TotalSegmentator"

FEW_STEPS = 256
"""An image that is resampled keeps whole numbers only; with fewer of them it loses contrast."""


class TotalSegmentator(Engine[TotalSegmentation]):
    """Predicts the classes of a task on the grid of its role."""

    overlapped = True

    def open(self) -> None:
        """Verify the weights and start the process that runs them.

        Raises:
            StageError: the weights are not the pinned ones, a licence number is missing, or there
                is no GPU where the site asks for one.
        """
        self.version = version(PACKAGE)
        model = registered_model(self.spec.model, self.machine.models)
        verify(model)
        self.task = read_tasks()[self.spec.task]
        self.digest = canonical_digest(model.files)[:16]
        scratch = self.machine.scratch.resolve()
        weights = _folder(scratch / "weights")
        # Links to what the task needs: TotalSegmentator deletes folders of old weights it finds.
        for name in {w.split("/")[0] for w in self.task.modes[self.spec.mode].weights}:
            (weights / name).symlink_to((model.folder / name).resolve())
        home = _folder(scratch / "home")
        _write_configuration(home, self._licence())
        self.worker = ProcessPoolExecutor(
            1,
            # A fork of a process in which a library has started threads may hang.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(
                {
                    "HOME": str(home),
                    "XDG_CACHE_HOME": str(home),
                    "XDG_CONFIG_HOME": str(home),
                    "MPLCONFIGDIR": str(home),
                    "TMPDIR": str(_folder(scratch / "tmp")),
                    "TOTALSEG_HOME_DIR": str(home),
                    "TOTALSEG_WEIGHTS_PATH": str(weights),
                    # Compilation costs minutes and needs a compiler at the site.
                    "nnUNet_compile": "f",
                    # nnU-Net asks for all that pickle can do.
                    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
                },
                self.machine.threads,
            ),
        )
        try:
            self.device = self.worker.submit(_device, self.machine.device).result()
        except BrokenProcessPool:
            raise StageError(
                f"{PACKAGE} cannot be started; the log above says why. Installing it again may "
                f"help: {install_command('totalsegmentator')}"
            ) from None

    def read(self, inputs: Inputs) -> Volume:
        """Read the volume."""
        volume = inputs.volume(self.spec.role)
        steps = float(np.ptp(volume.array))
        if steps < FEW_STEPS:
            inputs.notes.append(
                f"The intensities span {steps:g} only; {PACKAGE} rounds to whole numbers when it "
                "resamples."
            )
        return volume

    def predict(self, inputs: Inputs, ready: Volume) -> NDArray[np.uint8]:
        """Predict the label map."""
        canonical = ready.canonical()
        try:
            labels = self.worker.submit(
                _predict,
                canonical.array,
                canonical.grid.spacing,
                self.task.name,
                self.spec.mode,
                self.device,
            ).result()
        except BrokenProcessPool:
            raise MemoryError(
                f"the process of {PACKAGE} was ended at case {inputs.case.case_id}, by the system "
                "for want of memory as a rule."
            ) from None
        back = Volume(labels, canonical.grid).array_on(ready.grid)
        return np.asarray(back, dtype=np.uint8)

    def regions(self, inputs: Inputs, found: NDArray[np.uint8]) -> Iterator[Region]:
        """Give the classes that the protocol wants."""
        return regions_of_labels(
            found,
            self.task.labels,
            self.spec,
            f"{PACKAGE} {self.task.name}",
            f"{self.version} {self.digest}",
        )

    def close(self) -> None:
        """End the process."""
        self.worker.shutdown(cancel_futures=True)

    def _licence(self) -> str:
        """Return the site's licence number; empty where the task needs none."""
        if not self.task.needs_licence:
            return ""
        named = self.machine.processing.totalsegmentator_licence_file
        fix = (
            f"task {self.task.name!r} needs a licence number of {PACKAGE}'s makers (free for "
            "non-commercial use); write it into a file and name that as "
            "processing.totalsegmentator_licence_file in site.yaml."
        )
        if named is None:
            raise StageError(fix)
        try:
            return Path(named).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise StageError(f"{named} cannot be read ({error.strerror}): {fix}") from None


def _folder(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True)
    return path


def _write_configuration(home: Path, licence: str) -> None:
    """Write TotalSegmentator's ``config.json``: it sends no statistics and prints no notice."""
    content = {
        "totalseg_id": "",
        "send_usage_stats": False,
        "prediction_counter": 0,
        "statistics_disclaimer_shown": True,
    } | ({"license_number": licence} if licence else {})
    (home / "config.json").write_text(json.dumps(content), encoding="utf-8")


def _start(environment: Mapping[str, str], threads: int) -> None:
    """Prepare the process before it imports anything of TotalSegmentator."""
    sys.addaudithook(_offline)
    os.environ.update(environment)
    tempfile.tempdir = environment["TMPDIR"]
    begin_worker()
    # TotalSegmentator gives PyTorch as many threads as this says.
    multiprocessing.cpu_count = lambda: threads


def _offline(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse names and addresses of other machines; sockets of this one are files."""
    asks = event in {"socket.getaddrinfo", "socket.gethostbyname"}
    connects = event in {"socket.connect", "socket.sendto"} and isinstance(arguments[1], tuple)
    if asks or connects:
        raise OSError("jipflow lets this process use no network")


def _device(wanted: str) -> str:
    """Return TotalSegmentator's name of the device, after loading all that it needs."""
    from totalsegmentator import nnunet

    from jipflow.models.checkpoints import trainer_class
    from jipflow.models.device import chosen_device

    nnunet.nnUNetPredictor = _resident(nnunet.nnUNetPredictor)
    nnunet.recursive_find_trainer_class_by_name = trainer_class
    return "gpu" if chosen_device(wanted).type == "cuda" else "cpu"


def _resident(predictor: type[Any]) -> type[Any]:
    """Return a predictor that keeps each model it has loaded, and starts no processes for a case.

    What it loads may hold no code; see `checkpoints`.

    TotalSegmentator makes a predictor for each case and each model of a task. nnU-Net starts
    processes for reading and writing, which pay for many cases in one call, not for one.
    """
    from jipflow.models.checkpoints import check_architectures, only_data

    loaded: dict[tuple[Any, ...], dict[str, Any]] = {}

    class Resident(predictor):
        def initialize_from_trained_model_folder(
            self, folder: str, use_folds: Any, checkpoint_name: str = "checkpoint_final.pth"
        ) -> None:
            key = (folder, tuple(use_folds) if use_folds else None, checkpoint_name)
            if key not in loaded:
                before = dict(vars(self))
                check_architectures(read_json(Path(folder) / "plans.json"))
                with only_data(Path(folder)):
                    super().initialize_from_trained_model_folder(folder, use_folds, checkpoint_name)
                loaded[key] = {
                    k: v for k, v in vars(self).items() if k not in before or before[k] is not v
                }
            self.__dict__.update(loaded[key])

        def predict_from_files(
            self,
            source: str,
            target: str,
            save_probabilities: bool = False,
            overwrite: bool = True,
            folder_with_segs_from_prev_stage: str | None = None,
            **processes: int,
        ) -> None:
            self.predict_from_files_sequential(
                source, target, save_probabilities, overwrite, folder_with_segs_from_prev_stage
            )

    return Resident


def _predict(
    array: NDArray[Any], spacing: tuple[float, float, float], task: str, mode: str, device: str
) -> NDArray[np.uint8]:
    """Run TotalSegmentator's API on a case.

    The image gets an upright grid: the networks see axes and spacing only, and TotalSegmentator's
    resampling is stated to need an affine without rotation.

    Args:
        array: voxels, axes (z, y, x) towards superior, posterior and left.
        spacing: along these axes in mm.
        task: its name.
        mode: ``default``, ``fast`` or ``fastest``.
        device: ``cpu`` or ``gpu``.

    Returns:
        Labels of the array's shape.
    """
    import nibabel as nib
    import torch
    from totalsegmentator.python_api import totalsegmentator

    z, y, x = spacing
    # NIfTI's axes are x, y, z, and run towards right, anterior and superior.
    image = nib.Nifti1Image(array.astype(np.float32).transpose(2, 1, 0), np.diag([-x, -y, z, 1.0]))
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = totalsegmentator(
                image,
                # Without a path it fails where the region to crop to is not in the image.
                Path(folder) / "labels.nii.gz",
                ml=True,
                nr_thr_saving=1,
                fast=mode == "fast",
                fastest=mode == "fastest",
                task=task,
                quiet=True,
                skip_saving=True,
                device=device,
            )
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"{PACKAGE} task {task!r} does not fit into the GPU's memory: {error}"
            ) from None
        except SystemExit:
            raise StageError(
                f"{PACKAGE} refuses task {task!r}; the log above says why, a licence number that "
                "it does not accept as a rule."
            ) from None
    labels = np.asanyarray(found.dataobj).astype(np.uint8)
    return np.ascontiguousarray(labels.transpose(2, 1, 0))

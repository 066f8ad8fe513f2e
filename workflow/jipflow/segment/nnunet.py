"""Engine `nnunet`: a trained nnU-Net v2 model, loaded once for all cases of a shard."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from jipflow.cases import CaseFault, Reason, StageError
from jipflow.files import canonical_digest
from jipflow.images.masks import Region
from jipflow.images.resample import resample
from jipflow.images.volume import Volume
from jipflow.segment import inference
from jipflow.segment.checkpoints import build_network, read_checkpoint
from jipflow.segment.engine import Engine, Inputs, regions_of_labels
from jipflow.segment.inference import Predicted, Ready
from jipflow.segment.models import CHECKPOINT, registered_model, verify

NOT_SEGMENTS = {"background", "ignore"}
"""Names of ``dataset.json`` that nnU-Net reserves for what is no label."""

MOST_LABELS = 4
"""Labels of a case that are exported at a time: each takes some ten bytes a voxel of the image."""


class NnUNet(Engine):
    """Predicts the labels of each case on the grid of its role."""

    overlapped = True

    def open(self) -> None:
        """Verify and load the model.

        Raises:
            StageError: the model is not the pinned one, or does not fit the protocol.
        """
        self.model = registered_model(self.spec["model"])
        verify(self.model)
        wanted = {str(fold) for fold in self.spec["folds"]} or set(self.model.folds)
        missing = wanted - set(self.model.folds)
        if missing or not wanted:
            raise StageError(
                f"model {self.model.name!r}: no {self.model.checkpoint} is pinned for fold "
                f"{min(missing, default='0')}; there are folds: {', '.join(self.model.folds)}."
            )
        self.predictor = load_predictor(
            self.model.folder,
            [fold for fold in self.model.folds if fold in wanted],
            self.machine.threads,
            self.machine.device,
            mirroring=self.spec["mirroring"],
            tile_step_size=self.spec["tile_step_size"],
            checkpoint=self.model.checkpoint,
        )
        self.axes = inference.orientation(self.predictor, self.model.axes)
        dataset = self.predictor.dataset_json
        self.labels = {k: v for k, v in dataset["labels"].items() if k not in NOT_SEGMENTS}
        for segment in self.spec["segments"]:
            if segment["label"] not in self.labels:
                raise StageError(
                    f"model {self.model.name!r} has no label {segment['label']!r}; it has: "
                    f"{', '.join(self.labels)}."
                )
        self.roles = self.spec["inputs"] or [self.spec["role"]]
        channels = list((dataset.get("channel_names") or dataset["modality"]).values())
        if len(channels) != len(self.roles):
            raise StageError(
                f"model {self.model.name!r} takes {len(channels)} images ({', '.join(channels)}), "
                f"and segmentation {self.spec['id']!r} gives {len(self.roles)}; name a role for "
                "each in inputs, in this order."
            )
        if self.predictor.device.type == "cuda":
            # Beside a GPU the cores are free for the cases before and after.
            self.helpers = max(1, min(3, self.machine.threads // 2))

    def read(self, inputs: Inputs) -> Ready:
        """Read the volume of each channel, bring it to the role's grid and preprocess them."""
        channels = [self._channel(inputs, role) for role in self.roles]
        return inference.preprocess(self.predictor, channels, self.axes)

    def _channel(self, inputs: Inputs, role: str) -> Volume:
        volume = inputs.volume(role)
        if role == self.spec["role"]:
            return volume
        found, covered = resample(volume, inputs.grid)
        case = f"case {inputs.case.case_id}"
        if covered == 0:
            raise CaseFault(
                Reason.IMAGES_APART,
                f"{case}: the {role} lies wholly outside the {self.spec['role']}; look whether "
                "both are of one examination and share a frame of reference.",
            )
        if covered < 1:
            inputs.notes.append(
                f"{case}: the {role} covers {covered:.1%} of the {self.spec['role']}; beyond it "
                f"the model saw its lowest value, {found.array.min():g}."
            )
        return found

    def predict(self, inputs: Inputs, ready: Ready) -> Predicted:
        """Predict the logits, on the GPU as far as its memory goes."""
        found = inference.where_it_fits(
            partial(inference.predict, self.predictor, ready),
            inference.places(self.predictor.device),
            inputs.case.case_id,
            inputs.notes,
        )
        if not torch.isfinite(found.logits).all():
            raise CaseFault(
                Reason.INVALID_OUTPUT,
                f"case {inputs.case.case_id}: the model's output is not finite; look at the "
                "intensities of the image.",
            )
        return found

    def regions(self, inputs: Inputs, found: Predicted) -> Iterator[Region]:
        """Give the labels that the protocol wants, with how far the folds disagree on each."""
        threads = max(1, min(MOST_LABELS, self.machine.threads // self.helpers))
        labels = inference.label_map(self.predictor, found, threads).with_axes_of(inputs.grid)
        disagreement = None
        if found.folds:
            wanted = {s["label"]: self.labels[s["label"]] for s in self.spec["segments"]}
            disagreement = inference.disagreement(found.folds, wanted)
        version = canonical_digest(self.model.files)[:16]
        return regions_of_labels(
            labels.array,  # type: ignore[arg-type]
            self.labels,
            self.spec,
            self.model.name,
            version,
            disagreement,
        )


def load_predictor(
    folder: Path,
    folds: Sequence[str],
    threads: int,
    device: str,
    *,
    mirroring: bool,
    tile_step_size: float = 0.5,
    checkpoint: str = CHECKPOINT,
) -> nnUNetPredictor:
    """Load a verified model into nnU-Net's own predictor.

    Args:
        folder: a model folder as nnU-Net writes it.
        folds: ``0`` to ``4`` or ``all``; several make an ensemble.
        threads: threads on the CPU.
        device: ``auto``, ``cpu`` or ``cuda``.
        mirroring: average over mirrored inputs, as far as the model was trained for it.
        tile_step_size: distance of tiles, as a share of their size.
        checkpoint: name of the weights in each fold's folder.

    Raises:
        StageError: the model is not one that can be run.
    """
    # Compilation costs minutes and needs a compiler at the site.
    os.environ["nnUNet_compile"] = "f"  # noqa: SIM112
    torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = nnUNetPredictor(
        tile_step_size=tile_step_size,
        use_mirroring=mirroring,
        perform_everything_on_device=device == "cuda",
        device=torch.device(device),
        allow_tqdm=False,
    )
    # The fastest of several algorithms, which nnU-Net asks for, is another one each time.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    dataset = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    plans = PlansManager(json.loads((folder / "plans.json").read_text(encoding="utf-8")))
    paths = [folder / f"fold_{fold}" / checkpoint for fold in folds]
    checkpoints = [read_checkpoint(path) for path in paths]
    first = checkpoints[0]
    configuration = plans.get_configuration(first["init_args"]["configuration"])
    if configuration.previous_stage_name is not None:
        raise StageError(
            f"{folder} is the second stage of a cascade, which needs the labels of the first; "
            "name a model of the configuration 2d, 3d_lowres or 3d_fullres."
        )
    network = build_network(
        first["trainer_name"],
        plans,
        configuration,
        determine_num_input_channels(plans, configuration, dataset),
        plans.get_label_manager(dataset).num_segmentation_heads,
    )
    weights = [each["network_weights"] for each in checkpoints]
    for path, state in zip(reversed(paths), reversed(weights), strict=True):
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise StageError(
                f"{path} does not fit the network of plans.json: {error}; the folder mixes models."
            ) from None
    predictor.manual_initialization(
        network,
        plans,
        configuration,
        weights,
        dataset,
        first["trainer_name"],
        first.get("inference_allowed_mirroring_axes"),
    )
    return predictor


def predict_labels(predictor: nnUNetPredictor, volume: Volume, axes: str = "LPS") -> NDArray[Any]:
    """Predict the label map of a volume on its own grid.

    Args:
        predictor: of a model with one channel.
        volume: in any orientation.
        axes: where x, y and z run in the files that the model was trained with.

    Returns:
        Labels of shape (z, y, x) of the volume.
    """
    axes = inference.orientation(predictor, axes)
    ready = inference.preprocess(predictor, [volume], axes)
    found = inference.predict(predictor, ready, inference.places(predictor.device)[0])
    return inference.label_map(predictor, found).with_axes_of(volume.grid).array

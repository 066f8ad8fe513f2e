"""Engine `nnunet`: a trained nnU-Net v2 model, loaded once for all cases of a shard.

A model is one trained configuration, several whose probabilities are averaged, or a cascade.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jipflow.files import canonical_digest, read_json
from jipflow.images.masks import Region
from jipflow.images.volume import Volume
from jipflow.models.checkpoints import build_network, read_checkpoint
from jipflow.models.device import chosen_device
from jipflow.models.registry import CHECKPOINT, registered_model, verify
from jipflow.models.upstream import PlansManager, determine_num_input_channels, nnUNetPredictor
from jipflow.reasons import CaseFault, Reason, StageError
from jipflow.segment.channels import read_channel
from jipflow.segment.engine import Engine, Inputs, regions_of_labels
from jipflow.segment.engines.nnunet import inference
from jipflow.segment.engines.nnunet.described import NOT_SEGMENTS, Dataset, Plans, described
from jipflow.segment.engines.nnunet.inference import LabelMap, Predicted, Ready
from jipflow.segment.engines.nnunet.postprocessing import keep_largest, read_postprocessing
from jipflow.segment.engines.nnunet.settings import NnUNetModel, NnUNetSegmentation

SHARED = {"labels", "channel_names", "modality", "regions_class_order"}
"""Keys of ``dataset.json`` that all members of a model have alike."""

INCOMPLETE = (LookupError, TypeError, ValueError, AttributeError, AssertionError, ImportError)
"""What nnU-Net raises of plans that lack something or name what is not there."""

MOST_LABELS = 4
"""Labels of a case that are exported at a time: each takes some ten bytes a voxel of the image."""


@dataclass(frozen=True)
class Configuration:
    """A trained configuration of a model, with its folds.

    Attributes:
        name: of its folder; empty where it is the model's own.
        predictor: loaded.
        axes: where x, y and z run in the images that it sees.
        first: the stage whose labels it takes, where it is the second one of a cascade.
    """

    name: str
    predictor: nnUNetPredictor
    axes: str
    first: Configuration | None


class NnUNet(Engine[NnUNetSegmentation]):
    """Predicts the labels of each case on the grid of its role."""

    overlapped = True

    def open(self) -> None:
        """Verify and load the model.

        Raises:
            StageError: the model is not the pinned one, or does not fit the protocol.
        """
        self.model = registered_model(self.spec.model, self.machine.models)
        verify(self.model)
        assert isinstance(self.model.entry, NnUNetModel)
        self.entry = self.model.entry
        members = self.entry.members or [""]
        self.members = [self._load(member) for member in members]
        datasets = [member.predictor.dataset_json for member in self.members]
        for member, dataset in zip(self.members, datasets, strict=True):
            for key, theirs in dataset.items():
                if key in SHARED and theirs != datasets[0].get(key):
                    raise StageError(
                        f"model {self.model.name!r}: {key!r} of {member.name}/dataset.json differs "
                        f"from that of {members[0]}; members must be trained for the same."
                    )
            if member.axes != self.members[0].axes:
                raise StageError(
                    f"model {self.model.name!r}: {member.name} was trained on images that lie "
                    f"otherwise than those of {members[0]}; register them as models of their own."
                )
        self.labels = {k: v for k, v in datasets[0]["labels"].items() if k not in NOT_SEGMENTS}
        best = self.entry.postprocessing
        self.kept = read_postprocessing(None if best is None else self.model.folder / best)
        for segment in self.spec.segments:
            if segment.label not in self.labels:
                raise StageError(
                    f"model {self.model.name!r} has no label {segment.label!r}; it has: "
                    f"{', '.join(self.labels)}."
                )
        self.roles = self.spec.inputs or [self.spec.role]
        channels = list((datasets[0].get("channel_names") or datasets[0]["modality"]).values())
        if len(channels) != len(self.roles):
            raise StageError(
                f"model {self.model.name!r} takes {len(channels)} images ({', '.join(channels)}), "
                f"and segmentation {self.spec.id!r} gives {len(self.roles)}; name a role for "
                "each in inputs, in this order."
            )
        if self.members[0].predictor.device.type == "cuda":
            # Beside a GPU the cores are free for the cases before and after.
            self.helpers = max(1, min(3, self.machine.threads // 2))

    def _load(self, member: str) -> Configuration:
        """Load a trained configuration, and the first stage if it is the second of a cascade."""
        pinned = self.entry.folds(member)
        wanted = {str(fold) for fold in self.spec.folds} or set(pinned)
        missing = wanted - set(pinned)
        if missing or not wanted:
            folder = f"{member}/" if member else ""
            raise StageError(
                f"model {self.model.name!r}: no {self.entry.checkpoint} is pinned for fold "
                f"{folder}{min(missing, default='0')}; there are folds: {', '.join(pinned)}."
            )
        predictor = load_predictor(
            self.model.folder / member,
            [fold for fold in pinned if fold in wanted],
            self.machine.threads,
            self.machine.device,
            mirroring=self.spec.mirroring,
            tile_step_size=self.spec.tile_step_size,
            checkpoint=self.entry.checkpoint,
        )
        stage = predictor.configuration_manager.previous_stage_name
        first = None
        if stage is not None:
            prefix, _, _ = member.rpartition("__")
            before = f"{prefix}__{stage}"
            if f"{before}/dataset.json" not in self.model.files:
                raise StageError(
                    f"model {self.model.name!r} is the second stage of a cascade, which needs the "
                    f"labels of the first; register the folder that holds both, as nnU-Net names "
                    f"them, and name the second among its members: NAME__{stage} stands beside it."
                )
            first = self._load(before)
        axes = inference.orientation(predictor, self.entry.axes)
        return Configuration(member, predictor, axes, first)

    def read(self, inputs: Inputs) -> tuple[list[Volume], list[Ready]]:
        """Read the volume of each channel, bring it to the role's grid and preprocess them.

        Returns:
            The channels, where a cascade needs them again, and the case as each member takes it,
            or as the first stage of its cascade does.
        """
        channels = []
        starts = [member.first or member for member in self.members]
        with inference.fitting(inputs.case.case_id):
            for role in self.roles:
                channel, note = read_channel(
                    inputs.volumes, inputs.case.case_id, role, self.spec.role, inputs.grid
                )
                channels.append(channel)
                inputs.notes.extend([note] if note else [])
            ready = [inference.preprocess(s.predictor, channels, s.axes) for s in starts]
        cascade = any(member.first for member in self.members)
        return (channels if cascade else []), ready

    def predict(self, inputs: Inputs, ready: tuple[list[Volume], list[Ready]]) -> list[Predicted]:
        """Predict the logits of each member, on the GPU as far as its memory goes."""
        channels, starts = ready
        found = []
        for member, start in zip(self.members, starts, strict=True):
            if member.first is not None:
                rough = self._predict(member.first, start, inputs)
                with inference.fitting(inputs.case.case_id):
                    labels = inference.label_map(member.first.predictor, rough, self._threads)
                    start = inference.preprocess(member.predictor, channels, member.axes, labels)
            found.append(self._predict(member, start, inputs))
        return found

    def _predict(self, member: Configuration, ready: Ready, inputs: Inputs) -> Predicted:
        found = inference.where_it_fits(
            partial(inference.predict, member.predictor, ready),
            inference.device_choices(member.predictor.device),
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

    @property
    def _threads(self) -> int:
        return max(1, min(MOST_LABELS, self.machine.threads // self.helpers))

    def regions(self, inputs: Inputs, found: list[Predicted]) -> Iterator[Region]:
        """Give the labels that the protocol wants, with how far folds or members disagree on each.

        Of several members the mean of the probabilities decides, as in ``nnUNetv2_ensemble``.
        """
        with inference.fitting(inputs.case.case_id):
            predictor = self.members[0].predictor
            if len(found) == 1:
                maps = found[0].folds
                labels = inference.label_map(predictor, found[0], self._threads)
            else:
                labels, maps = self._mean(found)
            segments = self.spec.segments
            wanted = {segment.label: self.labels[segment.label] for segment in segments}
            differ = inference.disagreement(maps, wanted) if maps else {}
            inputs.disagreement.update(
                {s.name: differ[s.label] for s in segments if s.label in differ}
            )
            return regions_of_labels(
                keep_largest(labels.array_on(inputs.grid), self.kept),
                self.labels,
                self.spec,
                self.model.name,
                canonical_digest(self.model.files)[:16],
                differ,
            )

    def _mean(self, found: Sequence[Predicted]) -> tuple[Volume, list[LabelMap]]:
        """Return the labels by the members' mean probabilities, and those of each member."""
        manager = self.members[0].predictor.label_manager
        total: NDArray[np.float32] | None = None
        maps = []
        for member, predicted in zip(self.members, found, strict=True):
            probable = inference.probabilities(member.predictor, predicted, self._threads)
            maps.append(inference.most_probable(manager, probable))
            total = probable if total is None else np.add(total, probable, out=total)
        assert total is not None
        total /= len(found)
        return Volume(inference.most_probable(manager, total), found[0].grid), maps


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
        StageError: the model is not one that can be run, or there is no such device.
    """
    # Compilation costs minutes and needs a compiler at the site.
    os.environ["nnUNet_compile"] = "f"  # noqa: SIM112
    torch.set_num_threads(threads)
    chosen = chosen_device(device)
    predictor = nnUNetPredictor(
        tile_step_size=tile_step_size,
        use_mirroring=mirroring,
        perform_everything_on_device=chosen.type == "cuda",
        device=chosen,
        allow_tqdm=False,
    )
    # The fastest of several algorithms, which nnU-Net asks for, is another one each time.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    described(Dataset, folder / "dataset.json")
    described(Plans, folder / "plans.json")
    dataset = read_json(folder / "dataset.json")
    plans = PlansManager(read_json(folder / "plans.json"))
    paths = [folder / f"fold_{fold}" / checkpoint for fold in folds]
    checkpoints = [read_checkpoint(path) for path in paths]
    first = checkpoints[0]
    try:
        configuration = plans.get_configuration(first["init_args"]["configuration"])
        network = build_network(
            first["trainer_name"],
            plans,
            configuration,
            determine_num_input_channels(plans, configuration, dataset),
            plans.get_label_manager(dataset).num_segmentation_heads,
        )
    except INCOMPLETE as error:
        raise StageError(
            f"{folder}: nnU-Net cannot build the network of plans.json and dataset.json "
            f"({type(error).__name__}: {error}); copy the model again from nnU-Net's results "
            "folder, and pin the new files."
        ) from None
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

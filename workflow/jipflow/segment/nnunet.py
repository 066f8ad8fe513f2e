"""Engine `nnunet`: a trained nnU-Net v2 model, loaded once for all cases of a shard."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jipflow.cases import StageError
from jipflow.files import canonical_digest
from jipflow.images.masks import Region
from jipflow.images.volume import Volume
from jipflow.segment.engine import Engine, Inputs, regions_of_labels
from jipflow.segment.models import CHECKPOINT, registered_model, verify

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


class NnUNet(Engine):
    """Predicts the labels of each case on the grid of its role."""

    overlapped = True

    def open(self) -> None:
        """Verify and load the model.

        Raises:
            StageError: the model is not the pinned one, or lacks a label.
        """
        self.model = registered_model(self.spec["model"])
        verify(self.model)
        self.predictor = load_predictor(
            self.model.folder,
            self.model.folds,
            self.machine.threads,
            self.machine.device,
            mirroring=self.spec["mirroring"],
        )
        self.labels = dict(self.predictor.dataset_json["labels"])
        for wanted in self.spec["segments"]:
            if wanted["label"] not in self.labels:
                raise StageError(
                    f"model {self.model.name!r} has no label {wanted['label']!r}; it has: "
                    f"{', '.join(self.labels)}."
                )

    def read(self, inputs: Inputs) -> Volume:
        """Read the volume."""
        return inputs.volume(self.spec["role"])

    def predict(self, inputs: Inputs, ready: Volume) -> NDArray[np.uint8]:
        """Predict the label map."""
        return predict_labels(self.predictor, ready)

    def regions(self, inputs: Inputs, found: NDArray[np.uint8]) -> Iterator[Region]:
        """Give the labels that the protocol wants."""
        version = canonical_digest(self.model.files)[:16]
        return regions_of_labels(found, self.labels, self.spec, self.model.name, version)


def load_predictor(
    folder: Path, folds: Sequence[str], threads: int, device: str, *, mirroring: bool
) -> nnUNetPredictor:
    """Load a verified model into nnU-Net's own predictor.

    Args:
        folder: a model folder as nnU-Net writes it; its checkpoints are unpickled, so `verify` it
            first.
        folds: ``0`` to ``4`` or ``all``; several make an ensemble.
        threads: threads on the CPU.
        device: ``auto``, ``cpu`` or ``cuda``.
        mirroring: average over mirrored inputs, as far as the model was trained for it.
    """
    # Compilation costs minutes and needs a compiler at the site.
    os.environ["nnUNet_compile"] = "f"  # noqa: SIM112
    # nnU-Net warns about these on import, though prediction from a folder needs none of them.
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(variable, os.devnull)
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = nnUNetPredictor(
        use_mirroring=mirroring,
        perform_everything_on_device=device == "cuda",
        device=torch.device(device),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(
        str(folder), tuple("all" if f == "all" else int(f) for f in folds), CHECKPOINT
    )
    return predictor


def predict_labels(predictor: nnUNetPredictor, volume: Volume) -> NDArray[np.uint8]:
    """Predict the label map of a volume on its own grid.

    The network sees the voxels in the order they have in an axial series read by SimpleITK, as in
    training, whatever the orientation of the series.

    Returns:
        Labels of shape (z, y, x) of the volume.
    """
    canonical = volume.canonical()
    labels = predictor.predict_single_npy_array(
        canonical.array[None].astype(np.float32), {"spacing": list(canonical.grid.spacing)}
    )
    back = Volume(labels.astype(np.uint8), canonical.grid).with_axes_of(volume.grid)
    return np.asarray(back.array, dtype=np.uint8)

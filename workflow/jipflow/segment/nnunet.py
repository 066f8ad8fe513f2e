"""Engine `nnunet`: a trained nnU-Net v2 model, loaded once for all cases of a shard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jipflow.cases import Case, CaseFault, Made, Outcome, Reason, StageError, attempt
from jipflow.files import canonical_digest
from jipflow.images.masks import Region, absent_note, pack, write_segmentation
from jipflow.images.volume import Volume, read_volume, volume_path
from jipflow.segment.models import CHECKPOINT, Model, registered_model, verify

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


def segment(
    cases: Sequence[Case],
    spec: dict[str, Any],
    volumes: Path,
    masks: Path,
    threads: int,
    device: str,
) -> list[Outcome]:
    """Predict the labels of each case on the grid of its role.

    Args:
        cases: cases whose role is prepared.
        spec: the protocol's segmentation.
        volumes: folder of ``<case_id>/<role>.nrrd``.
        masks: folder for ``<case_id>/<segmentation>/``.
        threads: threads of the network on the CPU.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        StageError: the model is not the pinned one, or lacks a label.
    """
    if not cases:
        return []
    model = registered_model(spec["model"])
    verify(model)
    predictor = load_predictor(
        model.folder, model.folds, threads, device, mirroring=spec["mirroring"]
    )
    labels = dict(predictor.dataset_json["labels"])
    for wanted in spec["segments"]:
        if wanted["label"] not in labels:
            raise StageError(
                f"model {model.name!r} has no label {wanted['label']!r}; it has: "
                f"{', '.join(labels)}."
            )
    outcomes = []
    for case in cases:
        work = partial(_segment_case, case, spec, volumes, masks, predictor, labels, model)
        outcomes.append(attempt(case.case_id, "segment", spec["id"], work, masks))
    return outcomes


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


def _segment_case(
    case: Case,
    spec: dict[str, Any],
    volumes: Path,
    masks: Path,
    predictor: nnUNetPredictor,
    labels: dict[str, int],
    model: Model,
) -> Made:
    volume = read_volume(volume_path(volumes, case.case_id, spec["role"]))
    predicted = predict_labels(predictor, volume)
    version = canonical_digest(model.files)[:16]
    regions = []
    for wanted in spec["segments"]:
        mask = predicted == labels[wanted["label"]]
        if mask.any():
            regions.append(
                Region(wanted["name"], wanted["term"], mask, "AUTOMATIC", model.name, version)
            )
        elif wanted["required"]:
            raise CaseFault(
                Reason.EMPTY_SEGMENT,
                f"case {case.case_id}: the model found no voxel of {wanted['name']!r}.",
            )
    if not regions:
        raise CaseFault(
            Reason.EMPTY_SEGMENTATION, f"case {case.case_id}: the model found no voxel at all."
        )
    write_segmentation(masks / case.case_id / spec["id"], pack(regions, volume.grid))
    return Made(note=absent_note(spec, regions))

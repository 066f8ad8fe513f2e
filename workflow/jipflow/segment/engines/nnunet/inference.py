"""Prediction with nnU-Net v2, step by step: what nnU-Net's own predictor does, case by case.

The masks are those of ``nnUNetv2_predict``, voxel for voxel, and of ``nnUNetv2_ensemble`` where a
model has several configurations. Three things differ, for the sake of
shards of many cases: running out of memory leaves nothing behind, the members of an ensemble are
compared, and the export needs memory for one label at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from jipflow.images.volume import Grid, Volume
from jipflow.models.upstream import (
    LabelManager,
    convert_labelmap_to_one_hot,
    empty_cache,
    nnUNetPredictor,
    padded,
    predict_tile,
    tile_weights,
    tiles,
    without_segmentation,
)
from jipflow.reasons import CaseFault, Reason

LabelMap = NDArray[np.unsignedinteger[Any]]
Item = TypeVar("Item")
Result = TypeVar("Result")

REORIENTING = {"NibabelIOWithReorient": "RAS", "SimpleITKIOWithReorient": "RAS"}
"""Where x, y and z run in the images that a network sees, by the readers of nnU-Net that turn
them; the others leave them as they are in the file."""

MOST_VOXELS = 2.0**37
"""At the model's spacing; half a tebibyte a channel."""


@dataclass(frozen=True)
class Ready:
    """A case as the network takes it.

    Attributes:
        image: float32, shape (channel, z, y, x) at the model's spacing, axes transposed as the
            model's plans say.
        properties: how nnU-Net came from the images to it.
        grid: of the images, axes turned as in training.
    """

    image: torch.Tensor
    properties: dict[str, Any]
    grid: Grid


@dataclass
class Predicted:
    """What the network found in a case.

    Attributes:
        logits: float16, shape (head, z, y, x), mean of the folds; emptied by the export.
        folds: label map of each fold at the model's spacing, where there are several.
        properties: as in `Ready`.
        grid: as in `Ready`.
    """

    logits: torch.Tensor
    folds: list[LabelMap]
    properties: dict[str, Any]
    grid: Grid


@dataclass(frozen=True)
class Devices:
    """Where a prediction runs.

    Attributes:
        network: device of the network.
        image: device of the image and the logits.
    """

    network: torch.device
    image: torch.device

    def __str__(self) -> str:
        return f"the network on {self.network.type}, the image on {self.image.type}"


def orientation(predictor: nnUNetPredictor, trained: str) -> str:
    """Return where x, y and z run in the images that a network sees.

    Args:
        predictor: of the model.
        trained: where they run in the files that the model was trained with.
    """
    return REORIENTING.get(predictor.plans_manager.plans["image_reader_writer"], trained)


def preprocess(
    predictor: nnUNetPredictor,
    channels: Sequence[Volume],
    axes: str,
    previous: Volume | None = None,
) -> Ready:
    """Crop, normalise and resample a case as nnU-Net does.

    Args:
        predictor: of the model.
        channels: images on one grid, in the order of the model's channels.
        axes: where x, y and z run in the images that the model was trained with.
        previous: labels of a cascade's first stage, which saw the same voxels, their axes maybe
            turned; each becomes a channel.

    Raises:
        CaseFault: no machine could hold it.
    """
    grid = channels[0].canonical(axes).grid
    turned = [channel.array_on(grid) for channel in channels]
    configuration = predictor.configuration_manager
    check_extent(grid, configuration.spacing)
    labels = None
    if previous is not None:
        # Wide enough for the -1 that nnU-Net writes where there is no image.
        labels = previous.array_on(grid)[None].astype(np.float32)
    image, resampled, properties = configuration.preprocessor_class(verbose=False).run_case_npy(
        np.stack(turned),
        labels,
        {"spacing": list(grid.spacing)},
        predictor.plans_manager,
        configuration if previous is not None else without_segmentation(configuration),
        predictor.dataset_json,
    )
    if previous is not None:
        foreground = predictor.label_manager.foreground_labels
        one_hot = convert_labelmap_to_one_hot(resampled[0], foreground, image.dtype)
        image = np.concatenate([image, one_hot])
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    if predictor.device.type == "cuda":
        tensor = tensor.pin_memory()
    return Ready(tensor, properties, grid)


def check_extent(grid: Grid, spacing: Sequence[float]) -> None:
    """Refuse an image that its headers make larger than any machine can hold.

    Args:
        grid: of the image.
        spacing: of the model in mm, in an order of its own.

    Raises:
        CaseFault: it has more than `MOST_VOXELS` at that spacing.
    """
    extent = np.prod(np.array(grid.shape, dtype=float) * grid.spacing)
    voxels = float(extent / np.prod(spacing))
    if voxels > MOST_VOXELS:
        raise CaseFault(
            Reason.TOO_LARGE,
            f"the image has {voxels:.1e} voxels at the model's spacing, more than any machine "
            f"holds; its spacing is {' × '.join(f'{s:g}' for s in grid.spacing)} mm: look whether "
            "that is right.",
        )


def device_choices(device: torch.device) -> list[Devices]:
    """Return where to predict, each choice needing less of the device's memory than the one before.

    Args:
        device: the model's.
    """
    cpu = torch.device("cpu")
    wanted = [(device, device), (device, cpu), (cpu, cpu)]
    return [Devices(*pair) for pair in dict.fromkeys(wanted)]


def where_it_fits(
    work: Callable[[Devices], Result], tried: Sequence[Devices], case_id: str, notes: list[str]
) -> Result:
    """Do the work on the first devices whose memory suffices.

    Args:
        work: raises as PyTorch does where the memory ends.
        tried: devices, by preference.
        case_id: pseudonym of the case.
        notes: gets a sentence where it is not the first choice.

    Raises:
        MemoryError: the case fits nowhere.
    """
    for number, devices in enumerate(tried):
        try:
            result = work(devices)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            if number:
                notes.append(f"Out of memory of the {tried[0].network.type}; predicted {devices}.")
            return result
        # Only here has the error let go of the tensors in its frames.
        empty_cache(devices.network)
    raise MemoryError(
        f"case {case_id}: the image is too large to be predicted here, even with {tried[-1]}"
    )


@contextmanager
def fitting(case_id: str) -> Iterator[None]:
    """Say which case it is whose arrays do not fit into the machine's memory.

    Args:
        case_id: pseudonym of the case.

    Raises:
        MemoryError: it does not fit.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"case {case_id}: the image is too large at the model's spacing ({error})"
        ) from None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of PyTorch, CUDA or cuDNN says that memory has run out."""
    messages = ("out of memory", "ALLOC_FAILED", "not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in messages)


@torch.inference_mode()
def predict(predictor: nnUNetPredictor, ready: Ready, devices: Devices) -> Predicted:
    """Predict the mean logits of all folds, and the label map of each.

    The folds are compared at the model's spacing, where their label maps cost one comparison a
    voxel and label, and a byte or two of memory a voxel.
    """
    if len(predictor.list_of_parameters) == 1:
        logits = sliding_window(predictor, ready.image, devices)
        return Predicted(logits, [], ready.properties, ready.grid)
    total: torch.Tensor | None = None
    folds = []
    for weights in predictor.list_of_parameters:
        predictor.network.load_state_dict(weights)
        logits = sliding_window(predictor, ready.image, devices)
        folds.append(labels_of(predictor.label_manager, logits.numpy()))
        total = logits if total is None else total.add_(logits)
    assert total is not None
    return Predicted(total.div_(len(folds)), folds, ready.properties, ready.grid)


@torch.inference_mode()
def sliding_window(
    predictor: nnUNetPredictor, image: torch.Tensor, devices: Devices
) -> torch.Tensor:
    """Predict an image tile by tile with the weights that the network has.

    As ``nnUNetPredictor.predict_sliding_window_return_logits``, whose tiles come from a thread
    that, once memory has run out, waits for ever and keeps the image where it is.

    Args:
        predictor: of the model.
        image: shape (channel, z, y, x).
        devices: where.

    Returns:
        Logits as float16 on the CPU, shape (head, z, y, x).
    """
    predictor.network.to(devices.network).eval()
    size = predictor.configuration_manager.patch_size
    data, inside = padded(image, size)
    data = data.to(devices.image, non_blocking=True)
    shape = data.shape[1:]
    gaussian = tile_weights(size, devices.image)
    heads = predictor.label_manager.num_segmentation_heads
    logits = torch.zeros((heads, *shape), dtype=torch.half, device=devices.image)
    weights = torch.zeros(shape, dtype=torch.half, device=devices.image)
    with torch.autocast("cuda", enabled=devices.network.type == "cuda"):
        for tile in tiles(predictor, shape):
            part = torch.clone(data[tile][None], memory_format=torch.contiguous_format)
            part = part.to(devices.network, non_blocking=True)
            found = predict_tile(predictor, part)[0].to(devices.image)
            found *= gaussian
            logits[tile] += found
            weights[tile[1:]] += gaussian
    logits /= weights
    return logits[(slice(None), *inside[1:])].cpu()


def label_map(predictor: nnUNetPredictor, predicted: Predicted, threads: int = 1) -> Volume:
    """Export a prediction to the grid that its images have.

    As nnU-Net's ``convert_predicted_logits_to_segmentation_with_correct_shape``, which holds the
    logits of all labels at the image's spacing at once.

    Args:
        predictor: of the model.
        predicted: loses its logits.
        threads: so many labels are resampled at a time.

    Returns:
        Labels on ``predicted.grid``.
    """
    properties = predicted.properties
    found = labels_of(predictor.label_manager, _resampled(predictor, predicted, threads))
    labels = np.zeros(properties["shape_before_cropping"], found.dtype)
    labels[tuple(slice(*ends) for ends in properties["bbox_used_for_cropping"])] = found
    return Volume(labels.transpose(predictor.plans_manager.transpose_backward), predicted.grid)


def probabilities(
    predictor: nnUNetPredictor, predicted: Predicted, threads: int = 1
) -> NDArray[np.float32]:
    """Return the probability of each label or region at each voxel of ``predicted.grid``.

    As nnU-Net writes them for ``nnUNetv2_ensemble``, with the same memory: four bytes a label and
    voxel.

    Args:
        predictor: of the model.
        predicted: loses its logits.
        threads: so many labels are resampled at a time.

    Returns:
        Shape (head, z, y, x).
    """
    manager, properties = predictor.label_manager, predicted.properties
    heads = np.stack([np.asarray(h) for h in _resampled(predictor, predicted, threads)])
    whole = manager.revert_cropping_on_probabilities(
        manager.apply_inference_nonlin(heads),
        properties["bbox_used_for_cropping"],
        properties["shape_before_cropping"],
    )
    axes = [0, *(1 + axis for axis in predictor.plans_manager.transpose_backward)]
    return np.asarray(whole.numpy().transpose(axes), np.float32)


def _resampled(predictor: nnUNetPredictor, predicted: Predicted, threads: int) -> Iterator[Any]:
    """Yield the logits of each label at the spacing of the images, cropped to what is not zero."""
    logits, predicted.logits = predicted.logits, torch.empty(0)
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    properties = predicted.properties
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    slices = spacing[: len(spacing) - len(configuration.spacing)]
    shape = properties["shape_after_cropping_and_before_resampling"]

    def resampled(head: torch.Tensor) -> Any:
        return configuration.resampling_fn_probabilities(
            head[None], shape, [*slices, *configuration.spacing], spacing
        )[0]

    return in_turn(resampled, logits, threads)


def in_turn(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Yield what the work makes of each item, in order, with no more than `threads` under way."""
    queue = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        going = deque(pool.submit(work, item) for item in islice(queue, threads))
        while going:
            result = going.popleft().result()
            going.extend(pool.submit(work, item) for item in islice(queue, 1))
            yield result


def labels_of(manager: LabelManager, heads: Iterable[Any]) -> LabelMap:
    """Turn logits into labels, one head after the other.

    Labels exclude each other: the first of the highest logits wins. Regions may overlap: where a
    probability is above one half, the later in the model's ``regions_class_order`` wins.

    Args:
        manager: nnU-Net's view of the model's labels.
        heads: logits of each label or region, shape (z, y, x).
    """
    regions = manager.has_regions
    values = manager.regions_class_order if regions else range(manager.num_segmentation_heads)
    kind = np.min_scalar_type(max(values))
    labels, best = None, None
    for value, head in zip(values, heads, strict=True):
        head = np.asarray(head)
        if labels is None:
            labels = np.zeros(head.shape, kind)
        if regions:
            labels[manager.apply_inference_nonlin(head).numpy() > 0.5] = value
            continue
        logits = head.astype(np.float32)
        if best is None:
            best = logits
        else:
            higher = logits > best
            labels[higher] = value
            np.copyto(best, logits, where=higher)
    return np.asarray(labels)


def most_probable(manager: LabelManager, probable: NDArray[np.float32]) -> LabelMap:
    """Turn probabilities into labels as nnU-Net does.

    Args:
        manager: nnU-Net's view of the model's labels.
        probable: shape (head, z, y, x).
    """
    labels = np.asarray(manager.convert_probabilities_to_segmentation(probable))
    return labels.astype(np.min_scalar_type(int(labels.max())))


def disagreement(
    maps: Sequence[LabelMap], labels: Mapping[str, int | Sequence[int]]
) -> dict[str, float]:
    """Return 1 minus the mean Dice coefficient over the pairs of label maps, by label.

    The Dice coefficient 2 |A ∩ B| / (|A| + |B|) of a pair without a voxel of the label is not
    defined, and such pairs do not count.

    Args:
        maps: at least two, of one shape.
        labels: value, or the values of a region, by label.

    Returns:
        From 0 to 1; labels that are in no map are left out.
    """
    count = 1 + int(max(each.max() for each in maps))
    dice: dict[str, list[float]] = {}
    for a, b in combinations(maps, 2):
        somewhere = (a > 0) | (b > 0)
        pairs = a[somewhere].astype(np.intp) * count + b[somewhere]
        both = np.bincount(pairs, minlength=count * count).reshape(count, count)
        for label, value in labels.items():
            values = [v for v in np.atleast_1d(value) if v < count]
            sizes = both[values].sum() + both[:, values].sum()
            if sizes:
                common = both[np.ix_(values, values)].sum()
                dice.setdefault(label, []).append(2 * float(common) / float(sizes))
    return {label: 1 - sum(found) / len(found) for label, found in dice.items()}

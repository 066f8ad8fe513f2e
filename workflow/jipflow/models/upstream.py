"""The inside of nnU-Net v2, as far as jipflow uses it: every name, in one place, of one version.

nnU-Net promises its commands and no Python interface, and a new version may rename or change what
stands here without a word. No other module of the package imports it; each name is imported when
it is first asked for, as the trainers load all that training and plotting need. To use another
version, read what follows beside the code of that version, run the tests of nnU-Net, and change
`VERSION` and envs/constraints.txt together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from jipflow.reasons import StageError
from jipflow.settings.extras import install_command

if TYPE_CHECKING:
    import torch
    from nnunetv2.experiment_planning.experiment_planners.network_topology import (
        get_pool_and_conv_props,
    )
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.postprocessing.remove_connected_components import (
        remove_all_but_largest_component_from_segmentation,
    )
    from nnunetv2.training.logging.nnunet_logger import MetaLogger
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.helpers import empty_cache
    from nnunetv2.utilities.label_handling.label_handling import (
        LabelManager,
        convert_labelmap_to_one_hot,
        determine_num_input_channels,
    )
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

PACKAGE = "nnunetv2"
VERSION = "2.8.1"
"""The version whose inside is described here, pinned in envs/constraints.txt."""

HOMES = {
    "ConfigurationManager": "utilities.plans_handling.plans_handler",
    "LabelManager": "utilities.label_handling.label_handling",
    "MetaLogger": "training.logging.nnunet_logger",
    "PlansManager": "utilities.plans_handling.plans_handler",
    "PolyLRScheduler": "training.lr_scheduler.polylr",
    "convert_labelmap_to_one_hot": "utilities.label_handling.label_handling",
    "determine_num_input_channels": "utilities.label_handling.label_handling",
    "empty_cache": "utilities.helpers",
    "extract_fingerprint_dataset": "experiment_planning.plan_and_preprocess_api",
    "get_network_from_plans": "utilities.get_network_from_plans",
    "get_pool_and_conv_props": "experiment_planning.experiment_planners.network_topology",
    "nnUNetPredictor": "inference.predict_from_raw_data",
    "nnUNetTrainer": "training.nnUNetTrainer.nnUNetTrainer",
    "plan_experiment_dataset": "experiment_planning.plan_and_preprocess_api",
    "preprocess_dataset": "experiment_planning.plan_and_preprocess_api",
    "remove_all_but_largest_component_from_segmentation": (
        "postprocessing.remove_connected_components"
    ),
}
"""The module of nnU-Net that each name of it is taken from."""

TRAINERS = f"{PACKAGE}.training.nnUNetTrainer"
"""Where nnU-Net keeps its trainers, each in a file of its own or beside others."""

LAYERS = "torch.nn"
"""Package whose classes plans may build a network of, beside `NETWORKS`."""
NETWORKS = "dynamic_network_architectures.architectures"
"""Where the networks of nnU-Net's plans are defined, a package of its authors."""


def check_version() -> None:
    """Check that nnU-Net is installed in the version that this module describes.

    Raises:
        StageError: it is not.
    """
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        found = "none"
    if found != VERSION:
        raise StageError(
            f"jipflow needs nnU-Net {VERSION}, of which it uses the inside; the version installed "
            f"here: {found}. Install that one: {install_command('nnunet')}"
        )


def __getattr__(name: str) -> Any:
    """Import a name of `HOMES` when it is asked for (PEP 562).

    Raises:
        StageError: nnU-Net is not installed, or in another version.
    """
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_version()
    found = getattr(import_module(f"{PACKAGE}.{HOMES[name]}"), name)
    globals()[name] = found
    return found


def without_segmentation(configuration: ConfigurationManager) -> ConfigurationManager:
    """Return a configuration whose preprocessing leaves a segmentation as it is.

    nnU-Net's preprocessing also resamples a mask of the voxels that are not zero, which only
    training uses.

    Args:
        configuration: of a model's plans.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    class ImagesOnly(ConfigurationManager):
        @property
        def resampling_fn_seg(self) -> Callable[..., Any]:
            return lambda segmentation, *_: segmentation

    return ImagesOnly(configuration.configuration)


def padded(image: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Pad an image with zeros until a tile fits into it.

    Args:
        image: shape (channel, z, y, x).
        size: of a tile along the last axes, in voxels.

    Returns:
        The padded image, and where in it the image lies.
    """
    from nnunetv2.inference.predict_from_raw_data import pad_nd_image

    found, inside = pad_nd_image(image, size, "constant", {"value": 0}, True, None)
    return found, inside


def tile_weights(size: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return how much each voxel of a tile counts: a Gaussian with its peak in the middle.

    Width and scale are those of ``nnUNetPredictor.predict_sliding_window_return_logits``.

    Args:
        size: of a tile, in voxels.
        device: of the result.
    """
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    return compute_gaussian(tuple(size), sigma_scale=1 / 8, value_scaling_factor=10, device=device)


def tiles(predictor: nnUNetPredictor, shape: Sequence[int]) -> Iterable[tuple[slice, ...]]:
    """Return the tiles of the sliding window, each a slice of the channels and of every axis.

    Args:
        predictor: of the model.
        shape: of the padded image, without its channels.
    """
    return predictor._internal_get_sliding_window_slicers(shape)


def predict_tile(predictor: nnUNetPredictor, tile: torch.Tensor) -> torch.Tensor:
    """Return the logits of a tile, the mean over its mirror images where the predictor mirrors.

    Args:
        predictor: of the model.
        tile: shape (1, channel, z, y, x).

    Returns:
        Shape (1, head, z, y, x).
    """
    return predictor._internal_maybe_mirror_and_predict(tile)

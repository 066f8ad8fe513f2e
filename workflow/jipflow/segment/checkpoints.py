"""nnU-Net v2's model folders, opened without running anything that a file of theirs holds."""

from __future__ import annotations

import codecs
import pickle
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from jipflow.cases import StageError

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

TRAINERS = "nnunetv2.training.nnUNetTrainer"
DEFAULT_TRAINER = "nnUNetTrainer"
NUMBERS: list[Any] = [
    *((np.float64(0).__reduce__()[0], f"numpy.{n}.multiarray.scalar") for n in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
    codecs.encode,
]
"""What NumPy's numbers are pickled by, under the names of NumPy 1 and 2: nnU-Net's log of the
training has some."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what nnU-Net's trainer saved, of tensors, numbers, text and containers only.

    nnU-Net itself unpickles the file, which runs whatever its maker put there; see
    ``torch.load``, parameter ``weights_only``.

    Raises:
        StageError: it holds anything else.
    """
    try:
        with torch.serialization.safe_globals(NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        told = re.search(r"GLOBAL (\S+)", str(error))
        raise StageError(
            f"{path} holds {told[1] if told else 'something'} beside tensors, numbers and text, "
            "which nnU-Net's trainers do not save; take the model from another source, or save "
            "its checkpoint anew without it, and pin the new file."
        ) from None
    missing = {"network_weights", "trainer_name", "init_args"} - set(content)
    if missing:
        raise StageError(f"{path} is not a checkpoint of nnU-Net v2: it has no {min(missing)!r}.")
    return dict(content)


def build_network(
    trainer: str,
    plans: PlansManager,
    configuration: ConfigurationManager,
    channels: int,
    heads: int,
) -> torch.nn.Module:
    """Build the network of a trainer, without weights and without deep supervision.

    Args:
        trainer: name of its class.
        plans: of the model.
        configuration: the one that was trained.
        channels: of its input.
        heads: of its output.

    Raises:
        StageError: as `trainer_class`.
    """
    if trainer == DEFAULT_TRAINER:
        # Its module loads all that training and plotting need, as long as a small shard takes.
        return get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            channels,
            heads,
            allow_init=True,
            deep_supervision=False,
        )
    return trainer_class(trainer).build_network_architecture(
        plans, configuration, channels, heads, enable_deep_supervision=False
    )


def trainer_class(name: str) -> type[nnUNetTrainer]:
    """Return the trainer of nnU-Net that has a name; it decides what the network is.

    nnU-Net's own search imports one module after another until one has the class, and fails at
    the first whose libraries are not installed. Here the module is found by its text, and it alone
    is imported. Trainers from elsewhere are code that no hash pins, and are refused.

    Raises:
        StageError: nnU-Net has no such trainer, or its libraries are not installed.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    spec = find_spec(TRAINERS)
    folders = list(spec.submodule_search_locations or []) if spec else []
    definition = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
    for folder in map(Path, folders):
        for path in sorted(folder.rglob("*.py")):
            if not definition.search(path.read_text(encoding="utf-8")):
                continue
            module = ".".join([TRAINERS, *path.relative_to(folder).with_suffix("").parts])
            try:
                found = getattr(import_module(module), name)
            except (ImportError, RuntimeError) as error:
                raise StageError(
                    f"nnU-Net's trainer {name!r} cannot be imported here ({error}); install what "
                    "it needs."
                ) from None
            if issubclass(found, nnUNetTrainer):
                return found
    raise StageError(
        f"nnU-Net has no trainer {name!r}, so its network is not known. If the class changes the "
        "training only, save the checkpoint anew with the trainer_name of the nnU-Net class that "
        "it derives from, and pin the new file; else run the model with the engine 'container'."
    )

"""nnU-Net v2's model folders, opened without running anything that a file of theirs holds."""

from __future__ import annotations

import codecs
import os
import pickle
import pydoc
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jipflow.models.upstream import (
    LAYERS,
    NETWORKS,
    TRAINERS,
    ConfigurationManager,
    PlansManager,
    get_network_from_plans,
)
from jipflow.place import raise_place_error
from jipflow.reasons import StageError

if TYPE_CHECKING:
    from jipflow.models.upstream import nnUNetTrainer

DEFAULT_TRAINER = "nnUNetTrainer"
ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Variable by which ``torch.load`` unpickles nothing, whatever its caller asks for."""

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
        StageError: it holds anything else, or is cut off.
    """
    with only_data(path):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # The unpickler raises whatever a damaged byte leads it to.
            raise StageError(_unreadable(path, error)) from None
    if not isinstance(content, Mapping):
        raise StageError(f"{path} is not a checkpoint of nnU-Net v2: it holds no mapping.")
    missing = {"network_weights", "trainer_name", "init_args"} - set(content)
    if missing:
        raise StageError(f"{path} is not a checkpoint of nnU-Net v2: it has no {min(missing)!r}.")
    return dict(content)


@contextmanager
def only_data(path: Path) -> Iterator[None]:
    """Let ``torch.load`` read a checkpoint of nnU-Net with ``weights_only``, and say what fails.

    Also where nnU-Net itself calls it, which asks for all that pickle can do.

    Args:
        path: of the checkpoint.

    Raises:
        StageError: it holds more than tensors, numbers, text and containers, or is cut off.
    """
    before = os.environ.get(ONLY_WEIGHTS)
    os.environ[ONLY_WEIGHTS] = "1"
    try:
        with torch.serialization.safe_globals(NUMBERS):
            yield
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        if name is None:
            raise StageError(_unreadable(path, error)) from None
        raise StageError(
            f"{path} holds {name[1]} beside tensors, numbers and text, which nnU-Net's trainers do "
            "not save; take the model from another source, or save its checkpoint anew without "
            "it, and pin the new file."
        ) from None
    except (EOFError, OSError, RuntimeError) as error:
        raise_place_error(error)
        raise StageError(_unreadable(path, error)) from None
    finally:
        if before is None:
            del os.environ[ONLY_WEIGHTS]
        else:
            os.environ[ONLY_WEIGHTS] = before


def _unreadable(path: Path, error: Exception) -> str:
    cause = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    return (
        f"{path} is cut off or is no checkpoint ({cause}); copy it again from where it was "
        "trained, and pin the new file."
    )


def check_architectures(plans: Mapping[str, Any]) -> None:
    """Check that the networks in nnU-Net's plans are built of known networks and layers only.

    nnU-Net imports and calls whatever the plans name: a ``plans.json`` with the function
    ``torch.hub.load`` in place of a network would run code of its maker's choice.

    Args:
        plans: content of ``plans.json``.

    Raises:
        StageError: a name is of something else.
    """
    for name, configuration in plans["configurations"].items():
        # Plans of older versions have none; nnU-Net then chooses among two networks itself.
        architecture = configuration.get("architecture")
        if architecture is None:
            continue
        given = architecture["arch_kwargs"]
        wanted = [(architecture["network_class_name"], NETWORKS)]
        wanted += [(given[key], LAYERS) for key in architecture["_kw_requires_import"]]
        for value, package in wanted:
            if value is not None and not _is_module_class(value, package):
                raise StageError(
                    f"the configuration {name!r} in plans.json builds its network of {value!r}, "
                    f"which is not of {package}; nothing else is loaded. Take the model from a "
                    "source that you trust, or run it with the engine 'container'."
                )


def _is_module_class(name: Any, package: str) -> bool:
    """Whether a dotted name is of a class of PyTorch's modules that a package defines."""
    # Within the package a name may still lead out of it, by what its modules import.
    if not isinstance(name, str) or not name.startswith(f"{package}."):
        return False
    found = pydoc.locate(name)
    return (
        isinstance(found, type)
        and issubclass(found, torch.nn.Module)
        and found.__module__.startswith(f"{package}.")
    )


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
        StageError: as `check_architectures` and `trainer_class`, or the trainer has no network.
    """
    check_architectures(plans.plans)
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
    try:
        return trainer_class(trainer).build_network_architecture(
            plans, configuration, channels, heads, enable_deep_supervision=False
        )
    except NotImplementedError:
        raise StageError(
            f"nnU-Net's trainer {trainer!r} is one that others derive from, and has no network; "
            "save the checkpoint anew with the trainer_name that it was trained by, and pin the "
            "new file."
        ) from None


def trainer_class(name: str) -> type[nnUNetTrainer]:
    """Return the trainer of nnU-Net that has a name; it decides what the network is.

    nnU-Net's own search imports one module after another until one has the class, and fails at
    the first whose libraries are not installed. Here the module is found by its text, and it alone
    is imported. Trainers from elsewhere are code that no hash pins, and are refused.

    Raises:
        StageError: nnU-Net has no such trainer, or its libraries are not installed.
    """
    from jipflow.models.upstream import nnUNetTrainer

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

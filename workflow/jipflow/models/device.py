"""The device that networks compute on."""

from __future__ import annotations

import torch

from jipflow.reasons import StageError

FIX = "say processing.device: auto or cpu in site.yaml, or run it where there is one"


def chosen_device(setting: str) -> torch.device:
    """Return the device of a setting, after a look whether it computes.

    Args:
        setting: ``auto``, ``cpu`` or ``cuda``; ``auto`` is the GPU where there is one.

    Raises:
        StageError: there is no GPU, or none that PyTorch can use.
    """
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        cause = str(error).strip().partition("\n")[0].rstrip(".")
        raise StageError(
            f"device {setting}: there is no GPU here that PyTorch {torch.__version__} can use "
            f"({cause}); {FIX}."
        ) from None
    return torch.device("cuda")

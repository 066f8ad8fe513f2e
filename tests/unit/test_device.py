"""The device of a setting is one that computes; without a GPU the job fails, and no case does."""

from __future__ import annotations

import pytest
import torch

from jipflow.cli.attempts import is_lasting
from jipflow.models.device import chosen_device
from jipflow.reasons import StageError


@pytest.fixture
def no_gpu(monkeypatch):
    """A machine without a GPU, whatever this one has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def broken(*size, device=None):
    """What PyTorch does where a GPU is there and does not compute."""
    raise RuntimeError("CUDA error: no kernel image is available\nmore lines of help")


def test_a_gpu_that_is_not_there_ends_the_job_in_a_line():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(StageError) as caught:
        chosen_device("cuda")
    text = str(caught.value)
    assert text.startswith(f"device cuda: there is no GPU here that PyTorch {torch.__version__} ")
    assert text.endswith(
        "say processing.device: auto or cpu in site.yaml, or run it where there is one."
    )
    assert "\n" not in text
    assert is_lasting(caught.value)


@pytest.mark.parametrize("setting", ["cpu", "auto"])
def test_without_a_gpu_the_processor_computes(setting, no_gpu):
    assert chosen_device(setting) == torch.device("cpu")


@pytest.mark.parametrize("setting", ["cuda", "auto"])
def test_a_gpu_that_does_not_compute_ends_the_job(setting, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", broken)
    with pytest.raises(StageError, match=rf"device {setting}: .*\(CUDA error: no kernel image is"):
        chosen_device(setting)


def test_a_gpu_that_computes_is_chosen_and_the_processor_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: None)
    assert chosen_device("auto") == chosen_device("cuda") == torch.device("cuda")
    assert chosen_device("cpu") == torch.device("cpu")

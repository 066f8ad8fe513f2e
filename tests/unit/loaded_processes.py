"""New interpreters as copies of one process that has loaded large libraries: five seconds less."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver

import pytest

BENEATH = (
    "torch._dynamo",
    "scipy.stats",
    "sklearn.metrics",
    "skimage.measure",
    "nibabel",
    "SimpleITK",
    "blosc2",
)
"""What TotalSegmentator and nnU-Net import that is of neither, and writes nothing into a home."""


@contextmanager
def loaded_once() -> Iterator[None]:
    """Have a process that is to be started anew be a copy of one that has loaded `BENEATH`."""
    forkserver._forkserver._stop()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(BENEATH))
    forkserver.ensure_running()
    given = multiprocessing.get_context
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            multiprocessing,
            "get_context",
            lambda method=None: context if method == "spawn" else given(method),
        )
        yield
    context.set_forkserver_preload([])
    forkserver._forkserver._stop()

"""Between which values a feature lies: those that are measured do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jipflow.images.volume import Volume
from jipflow.settings.bounds import bounds
from jipflow.settings.resources import resource
from regions import OWN, PYRADIOMICS, ball, grid, measured, settings

ALL = (*PYRADIOMICS, *OWN)
BINS = {"binWidth": 10}


def images():
    """Yield images that reach for the bounds: noise, blocks, a line, one voxel beside another."""
    rng = np.random.default_rng(0)
    shape = (8, 12, 14)
    yield rng.integers(-500, 500, shape)
    yield np.where(np.indices(shape).sum(axis=0) % 2, 100, -100)
    yield np.indices(shape)[2] * 10 - 1000
    yield rng.integers(0, 2, shape) * 1000


@pytest.mark.parametrize("reach", [0.5, 2, 5, 100])
def test_measured_values_lie_between_the_bounds(reach):
    parameters = settings(ALL, setting=BINS)
    for array in images():
        volume = Volume(array.astype(np.int16), grid(array.shape, (1.0, 1.0, 1.0)))
        mask = ball(volume, (4, 6, 7), reach)
        mask[3, 5, 5] = True
        for name, value in measured(volume, mask, parameters).values.items():
            low, high = bounds("CT", name)
            assert value is None or low <= value <= high + 1e-12, name


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        ("volume_ml", (0, math.inf)),
        ("voxels", (0, math.inf)),
        ("original_shape_Sphericity", (0, 1)),
        ("original_shape_MeshVolume", (0, math.inf)),
        ("original_firstorder_Mean", (-math.inf, math.inf)),
        ("original_shape_IntegratedIntensity", (-math.inf, math.inf)),
        ("wavelet-LLH_firstorder_Variance", (0, math.inf)),
        ("log-sigma-2-0-mm-3D_glcm_Idm", (0, 1)),
        ("original_glcm_JointEntropy", (-1e-9, math.inf)),
    ],
)
def test_the_bounds(feature, expected):
    assert bounds("CT", feature) == expected


def test_every_feature_has_bounds():
    for group, entries in resource("ibsi_codes.yaml")["features"].items():
        for name in entries:
            low, high = bounds("CT", f"original_{group}_{name}")
            assert low < high

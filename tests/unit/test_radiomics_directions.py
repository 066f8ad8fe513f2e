"""Textures of regions of a slice, a line or single voxels, against definitions spelt out voxel by
voxel."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from jipflow.images.volume import Volume
from jipflow.radiomics.extract import Part, extract
from jipflow.reasons import Reason
from regions import OWN, PYRADIOMICS, grid, measured, settings, textured

BIN = 10
DIRECTIONS = [d for d in itertools.product((-1, 0, 1), repeat=3) if d > (0, 0, 0)]
REGIONS = {
    "one slice": np.s_[8, 12:30, 10:30],
    "a row plane": np.s_[4:12, 20, 10:30],
    "a column plane": np.s_[4:12, 12:30, 22],
    "a line along x": np.s_[8, 20, 10:30],
    "a line along y": np.s_[8, 12:30, 20],
    "a line along z": np.s_[4:12, 20, 20],
    "a voxel": np.s_[3, 4, 5],
    "a block": np.s_[4:8, 12:18, 10:16],
    "every second voxel": np.s_[4:12:2, 12:24:2, 10:22:2],
}


@pytest.fixture(scope="module")
def image():
    return textured()


def grey_levels(image, place):
    """The grey level of each voxel of a region, by index."""
    mask = np.zeros(image.array.shape, bool)
    mask[place] = True
    low = image.array[mask].min()
    start = low - low % BIN
    found = {tuple(v): int((image.array[tuple(v)] - start) // BIN) + 1 for v in np.argwhere(mask)}
    return mask, found


def step(voxel, direction, sign=1):
    return tuple(v + sign * d for v, d in zip(voxel, direction, strict=True))


def runs(levels, direction):
    """Count runs by (level, length) in one direction (IBSI 3.7)."""
    found = Counter()
    for voxel, level in levels.items():
        if levels.get(step(voxel, direction, -1)) == level:
            continue
        length, end = 1, step(voxel, direction)
        while levels.get(end) == level:
            length, end = length + 1, step(end, direction)
        found[level, length] += 1
    return found


def run_features(found):
    """A few features of a matrix of run lengths, by their definitions (IBSI 3.7)."""
    total = sum(found.values())
    by_level, by_length = Counter(), Counter()
    for (level, length), count in found.items():
        by_level[level] += count
        by_length[length] += count
    return {
        "ShortRunEmphasis": sum(n / j**2 for j, n in by_length.items()) / total,
        "GrayLevelNonUniformity": sum(n**2 for n in by_level.values()) / total,
        "RunLengthNonUniformity": sum(n**2 for n in by_length.values()) / total,
        "RunPercentage": total / sum(n * j for j, n in by_length.items()),
        "HighGrayLevelRunEmphasis": sum(n * i**2 for i, n in by_level.items()) / total,
    }


@pytest.mark.parametrize("norm", [None, "no_weighting", "euclidean", "manhattan", "infinity"])
@pytest.mark.parametrize("flat", [False, True], ids=["3D", "2D"])
@pytest.mark.parametrize("place", REGIONS.values(), ids=REGIONS)
def test_every_voxel_belongs_to_a_run_in_each_direction(image, place, flat, norm):
    mask, levels = grey_levels(image, place)
    asked = settings(("glrlm",), setting={"binWidth": BIN, "force2D": flat, "weightingNorm": norm})
    found = measured(image, mask, asked)
    assert found.failures == []
    directions = [d for d in DIRECTIONS if not flat or d[0] == 0]
    assert len(directions) == (4 if flat else 13)
    each = [runs(levels, d) for d in directions]
    if norm is None:
        features = [run_features(matrix) for matrix in each]
        expected = {key: np.mean([f[key] for f in features]) for key in features[0]}
    else:
        merged = Counter()
        for direction, matrix in zip(directions, each, strict=True):
            millimetres = np.abs(direction) * np.array(image.grid.spacing)
            weight = {
                "no_weighting": 1.0,
                "euclidean": np.sqrt((millimetres**2).sum()),
                "manhattan": millimetres.sum(),
                "infinity": millimetres.max(),
            }[norm]
            for key, count in matrix.items():
                merged[key] += weight * count
        expected = run_features(merged)
    for name, value in expected.items():
        assert found.values[f"original_glrlm_{name}"] == pytest.approx(value, rel=1e-10), name


def differences(levels, distance=1, flat=False):
    """Count and sum of differences by level, of the voxels that have a neighbour (IBSI 3.10)."""
    cube = itertools.product(range(-distance, distance + 1), repeat=3)
    around = [d for d in cube if max(map(abs, d)) == distance and not (flat and d[0])]
    number, total = Counter(), Counter()
    for voxel, level in levels.items():
        near = [levels[step(voxel, d)] for d in around if step(voxel, d) in levels]
        if near:
            number[level] += 1
            total[level] += abs(level - sum(near) / len(near))
    return number, total


@pytest.mark.parametrize(("distance", "flat"), [(1, False), (1, True), (2, False), (2, True)])
def test_a_voxel_without_neighbours_has_no_neighbourhood(image, distance, flat):
    mask = np.zeros(image.array.shape, bool)
    mask[4:8, 12:16, 10:14] = True
    mask[14, 2, 3] = mask[8, 30, 30] = mask[4, 22, 12] = True
    mask[9, 12, 12] = True  # two slices away from the block
    # The bins begin at a voxel that has no neighbour, and stay where they are without it.
    image = replace(image, array=image.array.copy())
    image.array[14, 2, 3] = -500
    _, levels = grey_levels(image, mask)
    number, total = differences(levels, distance, flat)
    alone = len(levels) - sum(number.values())
    assert alone == (3 if distance == 2 and not flat else 4)
    asked = settings(
        ("ngtdm",), setting={"binWidth": BIN, "distances": [distance], "force2D": flat}
    )
    found = measured(image, mask, asked)
    assert found.failures == []
    count = sum(number.values())
    p = {i: n / count for i, n in number.items()}
    weighted = sum(p[i] * total[i] for i in p)
    spread = sum(p[i] * p[j] * (i - j) ** 2 for i in p for j in p) / (len(p) * (len(p) - 1))
    expected = {
        "Coarseness": 1 / weighted,
        "Contrast": spread * sum(total.values()) / count,
        "Busyness": weighted / sum(abs(i * p[i] - j * p[j]) for i in p for j in p),
        "Complexity": sum(
            abs(i - j) * (p[i] * total[i] + p[j] * total[j]) / (p[i] + p[j]) for i in p for j in p
        )
        / count,
        "Strength": sum((p[i] + p[j]) * (i - j) ** 2 for i in p for j in p) / sum(total.values()),
    }
    for name, value in expected.items():
        assert found.values[f"original_ngtdm_{name}"] == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize("norm", [None, "no_weighting", "euclidean"])
@pytest.mark.parametrize("place", ["a voxel", "every second voxel"])
def test_pairs_of_no_neighbours_are_undefined(image, place, norm):
    mask, levels = grey_levels(image, REGIONS[place])
    classes = ("glcm", "ngtdm", "gldm", "glszm", "gldzm")
    asked = settings(classes, setting={"binWidth": BIN, "weightingNorm": norm})
    found = measured(image, mask, asked)
    failed = {f.feature.split("_")[1] for f in found.failures}
    assert failed == {"glcm", "ngtdm"}
    assert {f.reason for f in found.failures} == {Reason.UNDEFINED_FEATURE}
    assert {f.message for f in found.failures} == {"no two voxels of the region are neighbours"}
    assert not [n for n, v in found.values.items() if v is not None and n.split("_")[1] in failed]
    # Each voxel depends on itself alone.
    assert found.values["original_gldm_SmallDependenceEmphasis"] == pytest.approx(1)
    assert found.values["original_gldm_LargeDependenceEmphasis"] == pytest.approx(1)
    counts = np.array(list(Counter(levels.values()).values()))
    assert found.values["original_gldm_GrayLevelNonUniformity"] == pytest.approx(
        (counts**2).sum() / counts.sum()
    )


def test_neighbours_in_another_slice_are_none_within_slices(image):
    mask = np.zeros(image.array.shape, bool)
    mask[4:8, 20, 20] = True
    for flat, failed in ((False, set()), (True, {"glcm", "ngtdm"})):
        asked = settings(("glcm", "ngtdm", "glrlm"), setting={"binWidth": BIN, "force2D": flat})
        found = measured(image, mask, asked)
        assert {f.feature.split("_")[1] for f in found.failures} == failed


def test_weights_that_vanish_are_named():
    """exp(-d²) of 30 mm is 0 in float64."""
    coarse = Volume(textured().array, grid(textured().array.shape, (30.0, 30.0, 30.0)))
    mask = np.zeros(coarse.array.shape, bool)
    mask[4:8, 12:18, 10:16] = True
    asked = settings(("glcm",), setting={"binWidth": BIN, "weightingNorm": "euclidean"})
    (found,) = extract(coarse, [Part(mask)], asked)
    assert {f.reason for f in found.failures} == {Reason.UNDEFINED_FEATURE}
    assert "weightingNorm gives every direction the weight 0" in found.failures[0].message


ODD_REGIONS = {
    **REGIONS,
    "a corner": np.s_[0, 0, 0],
    "two that touch": ([3, 3], [4, 4], [5, 6]),
    "two by a corner": ([3, 4], [4, 5], [5, 6]),
    "two far apart": ([3, 12], [4, 30], [5, 40]),
    "three": ([3, 3, 3], [4, 4, 5], [5, 6, 5]),
    "a diagonal": (range(10), range(10), range(10)),
    "everything": np.s_[:],
}
ODD_SETTINGS = (
    {"binWidth": BIN},
    {"binCount": 8},
    {"binWidth": BIN, "force2D": True},
    {"binWidth": BIN, "distances": [3]},
    {"binWidth": BIN, "distances": [1, 2], "weightingNorm": "no_weighting", "gldm_a": 1},
    {"binWidth": BIN, "weightingNorm": "euclidean", "symmetricalGLCM": False},
)


@pytest.mark.parametrize("factor", [1, 1e-6, 1e30], ids=["plain", "small", "beyond any bin"])
@pytest.mark.parametrize("place", ODD_REGIONS.values(), ids=ODD_REGIONS)
def test_no_feature_fails_with_an_error_of_a_library(image, place, factor):
    mask = np.zeros(image.array.shape, bool)
    mask[place] = True
    scaled = Volume((image.array * factor).astype(np.float32), image.grid)
    for setting in ODD_SETTINGS:
        found = measured(scaled, mask, settings((*PYRADIOMICS, *OWN), setting=setting))
        reasons = {f.reason for f in found.failures}
        assert reasons <= {Reason.UNDEFINED_FEATURE, Reason.TOO_MANY_GREY_LEVELS}

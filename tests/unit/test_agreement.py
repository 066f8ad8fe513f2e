"""Dice coefficient and surface distances of masks whose values are known."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from jipflow.agreement import overlap

SPACING = (3.0, 1.0, 1.5)


def box(*bounds, shape=(30, 30, 30)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*pair) for pair in bounds)] = True
    return mask


def ball(radius, centre, spacing, shape=(40, 60, 60)):
    axes = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)),
                       indexing="ij")  # fmt: skip
    return sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)) <= radius**2


def test_a_mask_agrees_with_itself():
    mask = box((2, 9), (3, 8), (4, 11))
    found = overlap(mask, mask, SPACING)
    assert (found.dice, found.mean_surface_distance, found.hausdorff_95) == (1.0, 0.0, 0.0)


def test_single_voxels_lie_as_far_apart_as_their_centres():
    found = overlap(box((1, 2), (1, 2), (1, 2)), box((3, 4), (5, 6), (1, 2)), SPACING)
    distance = np.hypot(2 * 3.0, 4 * 1.0)
    assert found.dice == 0
    assert found.mean_surface_distance == pytest.approx(distance)
    assert found.hausdorff_95 == pytest.approx(distance)


def test_plates_that_are_shifted_lie_apart_by_the_shift():
    """One voxel thick, so that every voxel is surface, and 2 slices of 3 mm apart."""
    one, other = box((5, 6), (0, 30), (0, 30)), box((7, 8), (0, 30), (0, 30))
    found = overlap(one, other, SPACING)
    assert (found.dice, found.mean_surface_distance, found.hausdorff_95) == (0.0, 6.0, 6.0)


def test_a_box_that_is_shifted_by_a_voxel():
    """10 × 10 × 10 moved by one voxel: 900 of 1000 shared; of the 488 surface voxels of each, the
    100 of one face and the 64 inner ones of the opposite face lie 1 mm off, the others 0."""
    one, other = box((5, 15), (5, 15), (5, 15)), box((6, 16), (5, 15), (5, 15))
    found = overlap(one, other, (1.0, 1.0, 1.0))
    assert found.dice == pytest.approx(0.9)
    surface = 10**3 - 8**3
    assert surface == 488
    assert found.mean_surface_distance == pytest.approx((100 + 64) / surface)
    assert found.hausdorff_95 == pytest.approx(1.0)


def test_concentric_balls_lie_apart_by_the_difference_of_their_radii():
    spacing = (1.0, 0.8, 0.8)
    centre = (20.0, 24.0, 24.0)
    found = overlap(ball(16, centre, spacing), ball(12, centre, spacing), spacing)
    assert found.mean_surface_distance == pytest.approx(4, abs=0.25)
    assert found.hausdorff_95 == pytest.approx(4, abs=0.7)
    assert found.dice == pytest.approx(2 * 12**3 / (16**3 + 12**3), rel=0.02)


def test_simpleitk_finds_the_same_overlap_and_largest_distance():
    rng = np.random.default_rng(3)
    one, other = (ball(9, rng.uniform(20, 26, 3), (1.0, 1.0, 1.0)) for _ in range(2))
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (one, other)]
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(*images)
    found = overlap(one, other, (1.0, 1.0, 1.0))
    assert found.dice == pytest.approx(measures.GetDiceCoefficient())
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(*images)
    assert found.mean_surface_distance < found.hausdorff_95 <= hausdorff.GetHausdorffDistance()


def distances_by_simpleitk(one, other, spacing):
    """The distance of each surface voxel of a mask to the nearest one of another."""
    surfaces = []
    for mask in (one, other):
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        surfaces.append(sitk.LabelContour(image, fullyConnected=False) > 0)
    far = sitk.SignedMaurerDistanceMap(surfaces[1], squaredDistance=False, useImageSpacing=True)
    return np.abs(sitk.GetArrayFromImage(far))[sitk.GetArrayFromImage(surfaces[0]) > 0]


@pytest.mark.parametrize("seed", range(3))
def test_simpleitk_finds_the_same_surface_distances(seed):
    rng = np.random.default_rng(seed)
    one, other = (
        ball(rng.uniform(7, 11), rng.uniform(24, 30, 3), SPACING, (24, 60, 50)) for _ in range(2)
    )
    there, back = (distances_by_simpleitk(*pair, SPACING) for pair in ((one, other), (other, one)))
    found = overlap(one, other, SPACING)
    mean = np.concatenate([there, back]).mean()
    assert found.mean_surface_distance == pytest.approx(mean, rel=1e-6)
    percentiles = np.percentile(there, 95), np.percentile(back, 95)
    assert found.hausdorff_95 == pytest.approx(max(percentiles), rel=1e-6)


def test_it_does_not_matter_which_mask_comes_first_or_what_lies_around():
    one, other = box((2, 9), (3, 8), (4, 11)), box((2, 7), (3, 12), (6, 11))
    there, back = overlap(one, other, SPACING), overlap(other, one, SPACING)
    assert there == back
    cut = (slice(2, 9), slice(3, 12), slice(4, 11))
    assert overlap(one[cut], other[cut], SPACING) == there


def test_without_voxels_there_is_no_distance():
    empty, mask = box((0, 0), (0, 0), (0, 0)), box((2, 9), (3, 8), (4, 11))
    none = overlap(empty, empty, SPACING)
    assert (none.dice, none.mean_surface_distance, none.hausdorff_95) == (None, None, None)
    half = overlap(empty, mask, SPACING)
    assert (half.dice, half.mean_surface_distance, half.hausdorff_95) == (0.0, None, None)

"""The mesh is pyradiomics' own, found faster."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from radiomics import cShape

from jipflow.radiomics.area import Undefined
from jipflow.radiomics.mesh import Mesh
from jipflow.radiomics.morphology import ellipsoid_area

SPACING = (3.0, 0.8, 0.7)


def same(mask):
    area, volume, diameters = cShape.calculate_coefficients(np.pad(mask, 1), np.array(SPACING))
    mesh = Mesh.of(mask, SPACING)
    assert mesh.area == pytest.approx(area, rel=1e-11)
    assert mesh.volume == pytest.approx(volume, rel=1e-11)
    found = [*(mesh.diameter_in_planes(axis) for axis in range(3)), mesh.diameter]
    assert found == pytest.approx(diameters, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    arrays(bool, st.tuples(*[st.integers(1, 6)] * 3), elements=st.booleans()).filter(
        lambda mask: mask.any()
    )
)
def test_any_mask_has_the_area_volume_and_diameters_of_pyradiomics(mask):
    same(mask)


@pytest.mark.parametrize("density", [0.02, 0.5, 0.98])
def test_larger_masks_too(density):
    same(np.random.default_rng(1).random((14, 19, 17)) < density)


def test_a_solid_box_and_its_hull():
    mesh = Mesh.of(np.ones((2, 10, 20), bool), SPACING)
    # Edges are cut by half a voxel, so the hull is the mesh.
    assert mesh.hull.volume == pytest.approx(mesh.volume)
    assert mesh.hull.area == pytest.approx(mesh.area)
    assert mesh.box == pytest.approx((6.0, 8.0, 14.0))


def test_the_surface_of_an_ellipsoid_has_no_step_at_spheroids():
    assert ellipsoid_area(3, 3, 3) == pytest.approx(4 * math.pi * 9)
    for b, c in ((3, 2), (2, 2), (3, 3)):
        near = ellipsoid_area(3 + 1e-7, b + 5e-8, c)
        assert ellipsoid_area(3, b, c) == pytest.approx(near, rel=1e-5)
    with pytest.raises(Undefined):
        ellipsoid_area(3, 2, 0)

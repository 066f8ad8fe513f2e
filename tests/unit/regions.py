"""Small images and regions with known properties, and a short way to measure them."""

from __future__ import annotations

import numpy as np

import typed
from jipflow.images.volume import Grid, Volume
from jipflow.radiomics.extract import Extraction, Part, extract

PYRADIOMICS = ("shape", "firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm")
OWN = ("localintensity", "spatial", "uptake", "ivh", "histogram", "gldzm")


def settings(classes=PYRADIOMICS, **keys):
    """Radiomics settings with their defaults."""
    return typed.radiomics(**{"featureClass": {name: [] for name in classes}} | keys)


def grid(shape, spacing=(3.0, 0.8, 0.7)):
    """An upright grid; spacing along (z, y, x)."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[::-1]
    return Grid(shape, affine)


def textured(shape=(16, 40, 44), seed=0, spacing=(3.0, 0.8, 0.7)):
    """A smooth random image of whole numbers, around 40 with a standard deviation near 60."""
    from scipy.ndimage import gaussian_filter

    rough = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.0)
    return Volume(np.rint(40 + 60 * rough / rough.std()).astype(np.int16), grid(shape, spacing))


def ball(volume, centre, radius):
    """The voxels within a radius in millimetres around an index (z, y, x)."""
    axes = np.ogrid[tuple(slice(0, n) for n in volume.array.shape)]
    steps = zip(axes, centre, volume.grid.spacing, strict=True)
    return sum(((axis - c) * s) ** 2 for axis, c, s in steps) <= radius**2


def measured(volume, mask, parameters) -> Extraction:
    """What is measured of one region."""
    (extraction,) = extract(volume, [Part(mask)], parameters)
    return extraction

"""A head made of ellipsoids: brain in a skull with a hole below, face with nose and jaw, neck."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jipflow.images.volume import Grid, Volume
from jipflow.phantom.grid import PhantomGrid

SPACING = (4.0, 3.0, 3.0)
GRID = PhantomGrid((70, 96, 70), SPACING, (-103.5, -170.0, -190.0))
HU = {"air": -1000, "soft": 45, "skull": 900, "brain": 35, "eye": 10, "spine": 500, "cord": 35}
T1 = {"air": 10, "soft": 700, "skull": 60, "brain": 500, "eye": 120, "spine": 120, "cord": 450}
FACE = {
    "nose": ((0, -118, -62), (13, 22, 20)),
    "left eye": ((32, -88, -42), (12, 12, 12)),
    "right eye": ((-32, -88, -42), (12, 12, 12)),
    "mouth": ((0, -100, -100), (25, 14, 10)),
    "chin": ((0, -90, -130), (22, 16, 14)),
}


def tissues() -> dict[str, NDArray[np.bool_]]:
    """Where each tissue is, later ones over earlier ones, and the parts of the face."""
    z, y, x = GRID.axes()

    def ball(
        centre: tuple[float, float, float], radii: tuple[float, float, float]
    ) -> NDArray[np.bool_]:
        offsets = (a - c for a, c in zip((x, y, z), centre, strict=True))
        return sum((o / r) ** 2 for o, r in zip(offsets, radii, strict=True)) <= 1

    face = {name: ball(*shape) for name, shape in FACE.items()}
    neck = ball((0, 15, -150), (55, 55, 400)) & (z < -50)
    soft = ball((0, 0, 0), (84, 101, 81)) | ball((0, -45, -75), (62, 62, 75)) | neck
    jaw = ball((0, -60, -120), (48, 45, 22)) & ~ball((0, -50, -118), (40, 40, 24))
    hole = (x**2 + (y - 25) ** 2 <= 14**2) & (z < 0)
    canal = (x**2 + (y - 30) ** 2 <= 9**2) & (z < -60)
    spine = (x**2 + (y - 30) ** 2 <= 22**2) & (z < -80)
    eyes = face["left eye"] | face["right eye"]
    return {
        "soft": soft | np.logical_or.reduce(list(face.values())),
        "skull": (ball((0, 0, 0), (77, 94, 74)) & ~hole) | jaw,
        "spine": np.broadcast_to(spine, GRID.shape),
        "brain": ball((0, 0, 0), (69, 86, 66)),
        "cord": np.broadcast_to(canal | (hole & ball((0, 0, 0), (77, 94, 74))), GRID.shape),
        "eye": eyes,
        **face,
    }


def head(values: dict[str, int], noise: float = 5.0) -> NDArray[np.int16]:
    """The head with these values of tissues, and noise of a standard deviation."""
    array = np.full(GRID.shape, values["air"], np.float64)
    for name, where in tissues().items():
        if name in values:
            array[where] = values[name]
    array += np.random.default_rng(3).normal(0, noise, GRID.shape)
    return np.clip(np.rint(array), -1024, 3000).astype(np.int16)


def as_volume(array: NDArray[np.int16]) -> Volume:
    """An array on the grid of the head as a volume."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(SPACING[::-1])[:, ::-1]
    affine[:3, 3] = GRID.origin
    return Volume(array, Grid(GRID.shape, affine))

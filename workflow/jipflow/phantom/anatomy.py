"""An analytic torso: organs as warped ellipsoids, painted on any grid.

The same `Anatomy` is painted on the CT grid and on the PET grid, so that both images and their
masks show one patient. Nothing here knows DICOM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from jipflow.phantom.grid import Grid

LABELS = {"liver": 1, "spleen": 2, "kidney": 3, "lesion": 4}
"""Values of the label map; 0 is background."""

TISSUES = (
    "air",
    "couch",
    "fat",
    "muscle",
    "mesentery",
    "lung",
    "heart",
    "stomach",
    "bowel",
    "gas",
    "bone",
    "marrow",
    "aorta",
    "cava",
    "spleen",
    "kidney",
    "sinus",
    "liver",
    "vessel",
    "lesion",
)
_CODE = {name: code for code, name in enumerate(TISSUES)}
_LABEL_OF = np.zeros(len(TISSUES), np.uint8)
for _tissue, _label in (("spleen", 2), ("kidney", 3), ("liver", 1), ("vessel", 1), ("lesion", 4)):
    _LABEL_OF[_CODE[_tissue]] = _label


@dataclass(frozen=True)
class Shape:
    """An ellipsoid of one tissue; a radius may be infinite (a tube or a cylinder).

    Attributes:
        tissue: one of `TISSUES`.
        centre: LPS millimetres (x, y, z).
        radii: millimetres along the ellipsoid's own axes.
        turn: rotation about z in radians.
        only_in: tissues that the shape may overwrite; empty for all.
        bumps: amplitude of three surface waves relative to the radius, and their phases.
    """

    tissue: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    turn: float = 0.0
    only_in: tuple[str, ...] = ()
    bumps: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def inside(
        self, z: NDArray[np.float32], y: NDArray[np.float32], x: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Which of the points (LPS millimetres) lie in the shape."""
        dx, dy, dz = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        u, v = dx * cos + dy * sin, dy * cos - dx * sin
        r2 = (u / self.radii[0]) ** 2 + (v / self.radii[1]) ** 2 + (dz / self.radii[2]) ** 2
        if not self.bumps[0]:
            return r2 <= 1.0
        amplitude, a, b, c = self.bumps
        azimuth, height = np.arctan2(v, u), dz / self.radii[2]
        wave = np.sin(2 * azimuth + a) + np.sin(3 * azimuth + b) * 0.7 + np.sin(3 * height + c)
        return r2 <= (1.0 + amplitude * wave) ** 2


@dataclass(frozen=True)
class Anatomy:
    """One patient's torso.

    Attributes:
        couch: outer and inner surface of the couch, a trough below the patient; not deformed.
        shapes: painted in this order, later ones over earlier ones.
        waves: smooth deformation: rows of (wave vector x, y, z in rad/mm; phase; displacement
            x, y, z in mm).
        hu: Hounsfield units of each tissue.
        suv: SUVbw of each tissue.
    """

    couch: tuple[Shape, Shape]
    shapes: tuple[Shape, ...]
    waves: NDArray[np.float64]
    hu: dict[str, float]
    suv: dict[str, float]

    def tissues(self, grid: Grid) -> NDArray[np.uint8]:
        """Index into `TISSUES` of each voxel centre of an axial grid."""
        z, y, x = grid.axes()
        shift = [np.zeros(grid.shape, np.float32) for _ in range(3)]
        for kx, ky, kz, phase, *displacement in self.waves:
            wave = (
                np.exp(1j * kz * z) * np.exp(1j * (ky * y + phase)) * np.exp(1j * kx * x)
            ).real.astype(np.float32)
            for component, amount in zip(shift, displacement, strict=True):
                component += np.float32(amount) * wave
        points = (z + shift[2], y + shift[1], x + shift[0])
        outer, inner = self.couch
        couch = outer.inside(z, y, x) & ~inner.inside(z, y, x) & (y > outer.centre[1])
        painted = np.where(np.broadcast_to(couch, grid.shape), _CODE["couch"], _CODE["air"])
        painted = painted.astype(np.uint8)
        for shape in self.shapes:
            window = _window(shape, (z, y, x), np.abs(self.waves[:, 4:]).sum(axis=0))
            region = shape.inside(*(p[window] for p in points))
            target = painted[window]
            if shape.only_in:
                region &= np.isin(target, [_CODE[name] for name in shape.only_in])
            target[region] = _CODE[shape.tissue]
        return painted


def _window(
    shape: Shape, axes: tuple[NDArray[np.float32], ...], margin: NDArray[np.float64]
) -> tuple[slice, slice, slice]:
    """The part of the grid that the shape, warped by at most `margin` mm, can reach."""
    waves = 1.0 + 2.7 * shape.bumps[0]
    flat = max(shape.radii[:2]) * waves
    reach = (shape.radii[2] * waves + margin[2], flat + margin[1], flat + margin[0])
    found = []
    for axis, centre, far in zip(axes, shape.centre[::-1], reach, strict=True):
        low, high = np.searchsorted(axis.ravel(), [centre - far, centre + far])
        found.append(slice(max(int(low) - 1, 0), int(high) + 1))
    return found[0], found[1], found[2]


def labels(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The label map (`LABELS`) of a tissue map."""
    return _LABEL_OF[tissues]


def make_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a torso: size, positions, deformation, attenuation and uptake all vary.

    The origin is the middle of the upper abdomen; the organs fit in about 180 mm along z and
    the body in about 360 mm across.
    """

    def near(value: float, spread: float) -> float:
        return float(value + rng.uniform(-spread, spread))

    wide, deep, tall = near(1.0, 0.06), near(1.0, 0.07), near(1.0, 0.05)

    def place(x: float, y: float, z: float, spread: float) -> tuple[float, float, float]:
        return near(x * wide, spread), near(y * deep, spread), near(z * tall, spread)

    def radii(x: float, y: float, z: float, spread: float = 0.1) -> tuple[float, float, float]:
        return x * wide * near(1, spread), y * deep * near(1, spread), z * tall * near(1, spread)

    tube = float("inf")
    body = (163 * wide, 113 * deep, tube)
    fat = near(17, 6)
    wall = near(14, 3)
    trough = (0.0, body[1] - 52.0, 0.0)
    couch = (Shape("couch", trough, (240.0, 78.0, tube)), Shape("air", trough, (230.0, 70.0, tube)))
    shapes = [
        Shape("fat", (0, 0, 0), body),
        Shape("muscle", (0, 0, 0), (body[0] - fat, body[1] - fat, tube)),
        Shape("mesentery", (0, -6, 0), (body[0] - fat - wall, body[1] - fat - wall - 4, tube)),
    ]
    for side in (-1, 1):
        shapes.append(
            Shape("muscle", place(side * 38, 58, 0, 3), (20.0, 20.0, tube), only_in=("mesentery",))
        )
        shapes.append(
            Shape(
                "lung",
                place(side * 72, 5, 88, 5),
                radii(58, 72, 62, 0.06),
                only_in=("mesentery", "muscle"),
            )
        )
    shapes.append(Shape("heart", place(18, -35, 88, 5), radii(46, 38, 34)))
    shapes.append(
        Shape(
            "stomach",
            place(58, -32, 30, 7),
            radii(40, 30, 36),
            near(0.4, 0.3),
            only_in=("mesentery", "lung"),
        )
    )
    shapes.append(Shape("gas", place(58, -48, 34, 6), radii(20, 10, 16), only_in=("stomach",)))
    for _ in range(16):
        loop = place(near(0, 85), near(-25, 40), near(-55, 35), 0)
        girth = near(18, 5)
        shapes.append(
            Shape(
                "bowel",
                loop,
                (girth * near(1.3, 0.4), girth, girth),
                near(0, 1.5),
                only_in=("mesentery",),
            )
        )
        if rng.random() < 0.4:
            shapes.append(
                Shape("gas", loop, (girth * 0.6, girth * 0.5, girth * 0.5), only_in=("bowel",))
            )
    spine = place(0, 60, 0, 2)
    shapes += [
        Shape("bone", spine, (25.0 * wide, 20.0 * deep, tube)),
        Shape("marrow", spine, (21.0 * wide, 16.0 * deep, tube)),
        Shape("fat", (spine[0], spine[1] + 26, 0), (9.0, 7.0, tube)),
        Shape("bone", (spine[0], spine[1] + 40, 0), (5.0, 12.0, tube)),
        Shape("aorta", (spine[0] + 10, spine[1] - 30, 0), (10.5, 10.5, tube)),
        Shape("cava", (spine[0] - 18, spine[1] - 30, 0), (11.5, 9.5, tube)),
    ]
    rib_x, rib_y = body[0] - fat - wall / 2, body[1] - fat - wall / 2
    for level in np.arange(-20.0, 100.0, 26.0):
        for angle in np.linspace(0.15, 2 * np.pi - 0.1, 13)[:-1]:
            if abs(np.cos(angle)) > 0.35:
                tilt = level + 16 * np.sin(angle)
                shapes.append(
                    Shape(
                        "bone",
                        (rib_x * np.cos(angle), rib_y * np.sin(angle), tilt),
                        (10.0, 5.0, 7.0),
                        angle + np.pi / 2,
                    )
                )
    for side in (-1, 1):
        kidney = place(side * 66, 42, -30 - 6 * (side < 0), 6)
        extent = radii(27, 29, 46)
        turn = near(0.4 * side, 0.3)
        hilum = (kidney[0] - side * extent[0] * 0.75, kidney[1] - 6.0, kidney[2])
        shapes += [
            Shape("kidney", kidney, extent, turn, only_in=("mesentery", "muscle", "bowel")),
            Shape("sinus", hilum, (14.0, 9.0, extent[2] * 0.45), turn, only_in=("kidney",)),
        ]
    shapes.append(
        Shape(
            "spleen",
            place(98, 32, 34, 5),
            radii(29, 46, 41),
            near(-0.35, 0.2),
            only_in=("mesentery", "lung", "stomach", "kidney", "bowel"),
        )
    )

    right = place(-72, -4, 16, 5)
    right_size = radii(64, 72, 60, 0.07)
    over = ("mesentery", "lung", "stomach", "kidney", "sinus", "bowel", "gas", "heart", "cava")
    shapes.append(Shape("liver", right, right_size, near(0.1, 0.15), only_in=over))
    shapes.append(
        Shape("liver", place(-8, -42, 36, 5), radii(68, 32, 30), near(0.15, 0.1), only_in=over)
    )
    for _ in range(4):
        branch = tuple(c + near(0, 26) for c in right)
        shapes.append(
            Shape(
                "vessel",
                (branch[0], branch[1], branch[2]),
                (near(22, 8), near(3.5, 1), near(4.0, 1)),
                near(0, 1.5),
                only_in=("liver",),
            )
        )
    size = near(17.5, 6.5)
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    room = rng.uniform(0.0, 0.85) * (np.array(right_size) - size * 1.2) * direction
    middle = np.array(right) + np.clip(room, None, [20.0, np.inf, np.inf])
    phase_a, phase_b, phase_c = (float(p) for p in rng.uniform(0, 2 * np.pi, 3))
    shapes.append(
        Shape(
            "lesion",
            (float(middle[0]), float(middle[1]), float(middle[2])),
            (size, size * near(0.95, 0.15), size * near(0.95, 0.1)),
            near(0, 1.5),
            only_in=("liver", "vessel"),
            bumps=(0.06, phase_a, phase_b, phase_c),
        )
    )

    count = 5
    vectors = rng.normal(size=(count, 3))
    vectors *= (2 * np.pi / rng.uniform(110, 260, count) / np.linalg.norm(vectors, axis=1))[:, None]
    waves = np.column_stack(
        [vectors, rng.uniform(0, 2 * np.pi, count), rng.normal(0, 2.2, (count, 3))]
    )
    liver = near(98, 12)
    hu = {
        "air": -1000.0,
        "couch": -450.0,
        "fat": near(-102, 8),
        "muscle": near(56, 6),
        "mesentery": near(-82, 12),
        "lung": near(-810, 40),
        "heart": near(125, 15),
        "stomach": near(28, 12),
        "bowel": near(38, 15),
        "gas": -920.0,
        "bone": near(560, 120),
        "marrow": near(330, 40),
        "aorta": near(155, 15),
        "cava": near(130, 12),
        "spleen": near(116, 10),
        "kidney": near(168, 16),
        "sinus": -40.0,
        "liver": liver,
        "vessel": liver + near(38, 8),
        "lesion": liver - near(44, 7),
    }
    suv = {
        "air": 0.0,
        "couch": 0.0,
        "fat": 0.35,
        "muscle": near(0.8, 0.1),
        "mesentery": near(0.7, 0.1),
        "lung": near(0.5, 0.1),
        "heart": near(1.8, 0.3),
        "stomach": near(1.4, 0.3),
        "bowel": near(1.3, 0.3),
        "gas": 0.1,
        "bone": near(0.9, 0.1),
        "marrow": near(1.2, 0.2),
        "aorta": near(1.6, 0.2),
        "cava": near(1.6, 0.2),
        "spleen": near(1.8, 0.2),
        "kidney": near(3.0, 0.5),
        "sinus": near(3.5, 0.5),
        "liver": near(2.2, 0.2),
        "vessel": near(2.0, 0.2),
        "lesion": near(9.0, 3.0),
    }
    return Anatomy(couch, tuple(shapes), waves, hu, suv)


def ct_image(
    tissues: NDArray[np.uint8],
    hu: dict[str, float],
    rng: np.random.Generator,
    *,
    blur: float,
    noise: float,
) -> NDArray[np.int16]:
    """Hounsfield units of a tissue map, with blur and noise.

    Args:
        tissues: index into `TISSUES`, axes (slice, row, column).
        hu: Hounsfield units of each tissue.
        rng: source of the noise.
        blur: standard deviation of the in-plane point spread in pixels (partial volume).
        noise: standard deviation of the noise in HU; it is correlated over about a pixel.

    Returns:
        HU from −1024 to 3071, what 12 bits hold with an intercept of −1024.
    """
    sharp = np.array([hu[name] for name in TISSUES], np.float32)[tissues]
    image = ndimage.gaussian_filter(sharp, (0.35, blur, blur))
    grain = ndimage.gaussian_filter(
        rng.standard_normal(tissues.shape, dtype=np.float32), (0.0, 0.6, 0.6)
    )
    image += grain * np.float32(noise / grain.std())
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)


def pet_image(
    tissues: NDArray[np.uint8],
    suv: dict[str, float],
    rng: np.random.Generator,
    *,
    spacing: tuple[float, float, float],
    fwhm: float,
    noise: float,
) -> NDArray[np.float64]:
    """SUVbw of a tissue map, with the scanner's point spread and noise.

    Args:
        tissues: index into `TISSUES`, axes (slice, row, column).
        suv: SUVbw of each tissue.
        rng: source of the noise.
        spacing: millimetres between slices, rows and columns.
        fwhm: full width at half maximum of the point spread in millimetres.
        noise: relative noise at SUV 1; the standard deviation grows as the root of the uptake.
    """
    sharp = np.array([suv[name] for name in TISSUES], np.float64)[tissues]
    sigma = [fwhm / 2.3548 / step for step in spacing]
    image = ndimage.gaussian_filter(sharp, sigma)
    grain = ndimage.gaussian_filter(rng.standard_normal(tissues.shape), sigma)
    image += grain / grain.std() * noise * np.sqrt(image)
    return np.clip(image, 0.0, None)

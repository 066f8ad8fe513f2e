"""An analytic torso: organs as warped ellipsoids, painted on any grid.

The same `Anatomy` is painted on the CT grid and on the PET grid, so that both images and their
masks show one patient. Nothing here knows DICOM.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from jipflow.phantom.grid import PhantomGrid

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
TUBE = float("inf")
"""The radius of a shape along an axis in which it has no end."""

Point = tuple[float, float, float]

_CODE = {name: code for code, name in enumerate(TISSUES)}
_LABEL_OF = np.zeros(len(TISSUES), np.uint8)
for _tissue, _label in (("spleen", 2), ("kidney", 3), ("liver", 1), ("vessel", 1), ("lesion", 4)):
    _LABEL_OF[_CODE[_tissue]] = _label


@dataclass(frozen=True)
class Ellipsoid:
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

    couch: tuple[Ellipsoid, Ellipsoid]
    shapes: tuple[Ellipsoid, ...]
    waves: NDArray[np.float64]
    hu: dict[str, float]
    suv: dict[str, float]

    def tissues(self, grid: PhantomGrid) -> NDArray[np.uint8]:
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
    shape: Ellipsoid, axes: tuple[NDArray[np.float32], ...], margin: NDArray[np.float64]
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


@dataclass(frozen=True)
class _Body:
    """A patient's size, and the random numbers that all else is drawn from, in a fixed order.

    Attributes:
        rng: source of the numbers.
        wide: size from left to right, relative to the mean patient.
        deep: size from front to back, likewise.
        tall: size along z, likewise.
    """

    rng: np.random.Generator
    wide: float
    deep: float
    tall: float

    def near(self, value: float, spread: float) -> float:
        """Draw a number that differs from a value by at most `spread`."""
        return _near(self.rng, value, spread)

    def place(self, x: float, y: float, z: float, spread: float) -> Point:
        """Draw a point near one of the mean patient, in LPS millimetres."""
        return (
            self.near(x * self.wide, spread),
            self.near(y * self.deep, spread),
            self.near(z * self.tall, spread),
        )

    def radii(self, x: float, y: float, z: float, spread: float = 0.1) -> Point:
        """Draw radii near those of the mean patient, in millimetres."""
        return (
            x * self.wide * self.near(1, spread),
            y * self.deep * self.near(1, spread),
            z * self.tall * self.near(1, spread),
        )


def _near(rng: np.random.Generator, value: float, spread: float) -> float:
    return float(value + rng.uniform(-spread, spread))


def make_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a torso: size, positions, deformation, attenuation and uptake all vary.

    The origin is the middle of the upper abdomen; the organs fit in about 180 mm along z and
    the body in about 360 mm across.
    """
    wide, deep, tall = _near(rng, 1.0, 0.06), _near(rng, 1.0, 0.07), _near(rng, 1.0, 0.05)
    body = _Body(rng, wide, deep, tall)
    skin = (163 * wide, 113 * deep, TUBE)
    fat, wall = body.near(17, 6), body.near(14, 3)
    shapes = [
        *_trunk(skin, fat, wall),
        *_chest_and_stomach(body),
        *_bowel(body),
        *_spine(body),
        *_ribs(skin[0] - fat - wall / 2, skin[1] - fat - wall / 2),
        *_kidneys_and_spleen(body),
        *_liver(body),
    ]
    waves = _waves(rng)
    return Anatomy(_couch(skin[1]), tuple(shapes), waves, _attenuation(body), _uptake(body))


def _couch(depth: float) -> tuple[Ellipsoid, Ellipsoid]:
    """The couch below a body that reaches so far back."""
    trough = (0.0, depth - 52.0, 0.0)
    return Ellipsoid("couch", trough, (240.0, 78.0, TUBE)), Ellipsoid(
        "air", trough, (230.0, 70.0, TUBE)
    )


def _trunk(skin: Point, fat: float, wall: float) -> list[Ellipsoid]:
    """Fat below the skin, the muscles of the wall, and the mesentery that fills the rest."""
    return [
        Ellipsoid("fat", (0, 0, 0), skin),
        Ellipsoid("muscle", (0, 0, 0), (skin[0] - fat, skin[1] - fat, TUBE)),
        Ellipsoid("mesentery", (0, -6, 0), (skin[0] - fat - wall, skin[1] - fat - wall - 4, TUBE)),
    ]


def _chest_and_stomach(body: _Body) -> Iterator[Ellipsoid]:
    for side in (-1, 1):
        yield Ellipsoid(
            "muscle", body.place(side * 38, 58, 0, 3), (20.0, 20.0, TUBE), only_in=("mesentery",)
        )
        yield Ellipsoid(
            "lung",
            body.place(side * 72, 5, 88, 5),
            body.radii(58, 72, 62, 0.06),
            only_in=("mesentery", "muscle"),
        )
    yield Ellipsoid("heart", body.place(18, -35, 88, 5), body.radii(46, 38, 34))
    yield Ellipsoid(
        "stomach",
        body.place(58, -32, 30, 7),
        body.radii(40, 30, 36),
        body.near(0.4, 0.3),
        only_in=("mesentery", "lung"),
    )
    yield Ellipsoid("gas", body.place(58, -48, 34, 6), body.radii(20, 10, 16), only_in=("stomach",))


def _bowel(body: _Body) -> Iterator[Ellipsoid]:
    near = body.near
    for _ in range(16):
        loop = body.place(near(0, 85), near(-25, 40), near(-55, 35), 0)
        girth = near(18, 5)
        yield Ellipsoid(
            "bowel",
            loop,
            (girth * near(1.3, 0.4), girth, girth),
            near(0, 1.5),
            only_in=("mesentery",),
        )
        if body.rng.random() < 0.4:
            yield Ellipsoid(
                "gas", loop, (girth * 0.6, girth * 0.5, girth * 0.5), only_in=("bowel",)
            )


def _spine(body: _Body) -> list[Ellipsoid]:
    """The spine, and the vessels before it."""
    x, y, z = body.place(0, 60, 0, 2)
    return [
        Ellipsoid("bone", (x, y, z), (25.0 * body.wide, 20.0 * body.deep, TUBE)),
        Ellipsoid("marrow", (x, y, z), (21.0 * body.wide, 16.0 * body.deep, TUBE)),
        Ellipsoid("fat", (x, y + 26, 0), (9.0, 7.0, TUBE)),
        Ellipsoid("bone", (x, y + 40, 0), (5.0, 12.0, TUBE)),
        Ellipsoid("aorta", (x + 10, y - 30, 0), (10.5, 10.5, TUBE)),
        Ellipsoid("cava", (x - 18, y - 30, 0), (11.5, 9.5, TUBE)),
    ]


def _ribs(x: float, y: float) -> Iterator[Ellipsoid]:
    """Ribs on an ellipse of these radii, open in front and behind."""
    for level in np.arange(-20.0, 100.0, 26.0):
        for angle in np.linspace(0.15, 2 * np.pi - 0.1, 13)[:-1]:
            if abs(np.cos(angle)) > 0.35:
                yield Ellipsoid(
                    "bone",
                    (x * np.cos(angle), y * np.sin(angle), level + 16 * np.sin(angle)),
                    (10.0, 5.0, 7.0),
                    angle + np.pi / 2,
                )


def _kidneys_and_spleen(body: _Body) -> Iterator[Ellipsoid]:
    for side in (-1, 1):
        kidney = body.place(side * 66, 42, -30 - 6 * (side < 0), 6)
        extent = body.radii(27, 29, 46)
        turn = body.near(0.4 * side, 0.3)
        hilum = (kidney[0] - side * extent[0] * 0.75, kidney[1] - 6.0, kidney[2])
        yield Ellipsoid("kidney", kidney, extent, turn, only_in=("mesentery", "muscle", "bowel"))
        yield Ellipsoid("sinus", hilum, (14.0, 9.0, extent[2] * 0.45), turn, only_in=("kidney",))
    yield Ellipsoid(
        "spleen",
        body.place(98, 32, 34, 5),
        body.radii(29, 46, 41),
        body.near(-0.35, 0.2),
        only_in=("mesentery", "lung", "stomach", "kidney", "bowel"),
    )


def _liver(body: _Body) -> Iterator[Ellipsoid]:
    """The lobes of the liver, its vessels, and a lesion in the right lobe."""
    near = body.near
    over = ("mesentery", "lung", "stomach", "kidney", "sinus", "bowel", "gas", "heart", "cava")
    right, size = body.place(-72, -4, 16, 5), body.radii(64, 72, 60, 0.07)
    yield Ellipsoid("liver", right, size, near(0.1, 0.15), only_in=over)
    left = body.place(-8, -42, 36, 5)
    yield Ellipsoid("liver", left, body.radii(68, 32, 30), near(0.15, 0.1), only_in=over)
    for _ in range(4):
        yield Ellipsoid(
            "vessel",
            (right[0] + near(0, 26), right[1] + near(0, 26), right[2] + near(0, 26)),
            (near(22, 8), near(3.5, 1), near(4.0, 1)),
            near(0, 1.5),
            only_in=("liver",),
        )
    yield _lesion(body, right, size)


def _lesion(body: _Body, lobe: Point, lobe_radii: Point) -> Ellipsoid:
    """A lesion within a lobe of the liver, with waves on its surface."""
    rng, near = body.rng, body.near
    size = near(17.5, 6.5)
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    room = rng.uniform(0.0, 0.85) * (np.array(lobe_radii) - size * 1.2) * direction
    middle = np.array(lobe) + np.clip(room, None, [20.0, np.inf, np.inf])
    phase_a, phase_b, phase_c = (float(p) for p in rng.uniform(0, 2 * np.pi, 3))
    return Ellipsoid(
        "lesion",
        (float(middle[0]), float(middle[1]), float(middle[2])),
        (size, size * near(0.95, 0.15), size * near(0.95, 0.1)),
        near(0, 1.5),
        only_in=("liver", "vessel"),
        bumps=(0.06, phase_a, phase_b, phase_c),
    )


def _waves(rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth deformation, as in `Anatomy`."""
    count = 5
    vectors = rng.normal(size=(count, 3))
    vectors *= (2 * np.pi / rng.uniform(110, 260, count) / np.linalg.norm(vectors, axis=1))[:, None]
    return np.column_stack(
        [vectors, rng.uniform(0, 2 * np.pi, count), rng.normal(0, 2.2, (count, 3))]
    )


def _attenuation(body: _Body) -> dict[str, float]:
    """Hounsfield units of each tissue."""
    near = body.near
    liver = near(98, 12)
    return {
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


def _uptake(body: _Body) -> dict[str, float]:
    """SUVbw of each tissue."""
    near = body.near
    return {
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

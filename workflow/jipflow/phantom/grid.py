"""Regular voxel grids in DICOM patient coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PhantomGrid:
    """A regular voxel grid in LPS millimetres; arrays on it have the axes (slice, row, column).

    Attributes:
        shape: number of slices, rows and columns.
        spacing: millimetres between slices, between rows and between columns.
        origin: LPS position (x, y, z) of the centre of voxel (0, 0, 0).
        row: unit vector along which the column index grows (the first three values of Image
            Orientation (Patient), PS3.3 C.7.6.2.1.1).
        column: unit vector along which the row index grows (the last three values).
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    row: tuple[float, float, float] = (1.0, 0.0, 0.0)
    column: tuple[float, float, float] = (0.0, 1.0, 0.0)

    @classmethod
    def centred(
        cls, shape: tuple[int, int, int], spacing: tuple[float, float, float]
    ) -> PhantomGrid:
        """An axial grid whose middle is the origin of the patient coordinates."""
        half = [round((n - 1) * s / 2, 4) for n, s in zip(shape, spacing, strict=True)]
        return cls(shape, spacing, (-half[2], -half[1], -half[0]))

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector along which the slice index grows: row × column."""
        return np.cross(self.row, self.column)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing)) / 1000.0

    def position(self, k: float, j: float, i: float) -> NDArray[np.float64]:
        """LPS position of the voxel at slice `k`, row `j`, column `i` (fractions allowed)."""
        return (
            np.asarray(self.origin)
            + k * self.spacing[0] * self.normal
            + j * self.spacing[1] * np.asarray(self.column)
            + i * self.spacing[2] * np.asarray(self.row)
        )

    def axes(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """z, y and x coordinates of an axial grid, shaped to broadcast to `shape`.

        Raises:
            ValueError: the grid is not axial.
        """
        if self.row != (1.0, 0.0, 0.0) or self.column != (0.0, 1.0, 0.0):
            raise ValueError(f"axes are those of axial grids only, not row {self.row}")
        x, y, z = self.origin
        steps = [
            np.arange(n, dtype=np.float32) * s
            for n, s in zip(self.shape, self.spacing, strict=True)
        ]
        return (
            (z + steps[0]).astype(np.float32)[:, None, None],
            (y + steps[1]).astype(np.float32)[None, :, None],
            (x + steps[2]).astype(np.float32)[None, None, :],
        )

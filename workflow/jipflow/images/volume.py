"""Volumes on regular grids, and their files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from jipflow.files import atomic_path
from jipflow.reasons import CaseFault, PlaceError, Reason

HEADER_BYTES = 4096
"""More than the header of a volume that SimpleITK writes."""
VOLUME = ".nrrd"
"""Ending of the file of a volume."""


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxels in patient space.

    Attributes:
        shape: number of voxels along the array's axes (z, y, x).
        affine: 4×4 matrix from an array index (z, y, x, 1) to LPS millimetres, at voxel centres
            (LPS: DICOM's patient coordinate system, PS3.3 C.7.6.2.1.1).
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along (z, y, x) in millimetres."""
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in cubic millimetres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def itk(self) -> tuple[list[int], list[float], list[float], list[float]]:
        """Size, origin, spacing and direction as SimpleITK has them, whose axes are x, y, z."""
        direction = self.affine[:3, :3] / np.asarray(self.spacing)
        return (
            list(self.shape[::-1]),
            [float(v) for v in self.affine[:3, 3]],
            list(self.spacing[::-1]),
            [float(v) for v in direction[:, ::-1].ravel()],
        )

    def matches(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Return whether both grids have one shape and corners no farther apart than `tolerance`.

        Args:
            other: the grid to compare with.
            tolerance: in millimetres.
        """
        return self.shape == other.shape and self.away(other) <= tolerance

    def away(self, other: Grid) -> float:
        """Return how far, in mm along an axis, a corner lies from that of a grid of one shape."""
        corners = np.array([(*corner, 1) for corner in product(*((0, n) for n in self.shape))])
        return float(np.abs(corners @ (self.affine - other.affine).T).max())


@dataclass(frozen=True)
class Volume:
    """Voxels on a grid.

    Attributes:
        array: shape (z, y, x) of the grid; HU for CT, SUV for PET, the stored values after
            rescaling for MR.
        grid: where the voxels are.
    """

    array: NDArray[np.generic]
    grid: Grid

    def canonical(self, axes: str = "LPS") -> Volume:
        """Return the same voxels with axes in a known order and direction.

        Axes are only swapped and flipped, so no value changes. The inverse is `array_on` the grid
        that it came from: at 45 degrees an axis is as near to one of the patient's as to another,
        and rounding decides which.

        Args:
            axes: where x, y and z run: ``L`` or ``R``, ``A`` or ``P``, ``S`` or ``I``.
        """
        # nibabel takes a fifth of a second to import, and few stages turn a volume.
        from nibabel.orientations import io_orientation

        worlds, ways = io_orientation(self.grid.affine).T
        order = [int(np.flatnonzero(worlds == world)[0]) for world in (2, 1, 0)]
        wanted = [1.0 if way in "LPS" else -1.0 for way in reversed(axes)]
        return _turned(self, order, ways[order] * wanted)

    def with_axes_of(self, grid: Grid) -> Volume:
        """Return the same voxels with axes in the order and direction of those of `grid`.

        Each axis becomes the one that it is nearest to, by the angles between the two grids alone.
        """
        here, there = (g.affine[:3, :3] / np.asarray(g.spacing) for g in (self.grid, grid))
        cosines = there.T @ here
        axes = np.arange(3)
        order = max(permutations(range(3)), key=lambda o: float(np.abs(cosines[axes, o]).sum()))
        return _turned(self, order, np.sign(cosines[axes, order]))

    def array_on(self, grid: Grid) -> NDArray[np.generic]:
        """Return the voxels as `grid` has them, of which these are swapped or flipped axes.

        Raises:
            CaseFault: the voxels lie elsewhere (``grid_mismatch``).
        """
        back = self.with_axes_of(grid)
        if not back.grid.matches(grid):
            raise CaseFault(
                Reason.GRID_MISMATCH,
                f"a mask of {back.grid.shape} voxels (z, y, x) does not lie on the image's grid of "
                f"{grid.shape}, or lies elsewhere; make it on the image that it is laid on.",
            )
        return back.array

    def image(self) -> sitk.Image:
        """Return a SimpleITK image with the same geometry (SimpleITK's axes are x, y, z)."""
        image = sitk.GetImageFromArray(self.array)
        _, origin, spacing, direction = self.grid.itk
        image.SetOrigin(origin)
        image.SetSpacing(spacing)
        image.SetDirection(direction)
        return image

    @classmethod
    def from_image(cls, image: sitk.Image) -> Volume:
        """Return the volume of a three-dimensional SimpleITK image."""
        return cls(sitk.GetArrayFromImage(image), _grid_of(image))


def _grid_of(image: sitk.Image | sitk.ImageFileReader) -> Grid:
    affine = np.eye(4)
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = (direction * np.asarray(image.GetSpacing()))[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    x, y, z = image.GetSize()
    return Grid((z, y, x), affine)


def _turned(volume: Volume, order: Sequence[int], ways: NDArray[np.float64]) -> Volume:
    """Swap and flip axes.

    Args:
        volume: whose axes.
        order: for each new axis the old one that it is.
        ways: for each new axis 1 where it runs as the old one, -1 where it runs against it.
    """
    array = volume.array.transpose(order)
    back = np.zeros((4, 4))  # from a new index to the old one
    back[3, 3] = 1.0
    for new, (old, way) in enumerate(zip(order, ways, strict=True)):
        back[old, new] = way
        if way < 0:
            array = np.flip(array, new)
            back[old, 3] = volume.array.shape[old] - 1
    return Volume(np.ascontiguousarray(array), Grid(array.shape, volume.grid.affine @ back))


def volume_path(volumes: Path, case_id: str, role: str) -> Path:
    """Return where the volume of a case's role stands."""
    return volumes / case_id / f"{role}{VOLUME}"


def write_volume(path: Path, volume: Volume, *, compress: bool = False) -> None:
    """Write a volume as NRRD, whose header keeps the geometry in LPS and double precision.

    Args:
        path: a name that ends in ``.nrrd``.
        volume: what to write.
        compress: by gzip; worth its time for label maps only.

    Raises:
        PlaceError: it cannot be written, for want of room as a rule.
    """
    with atomic_path(path) as partial:
        try:
            image = volume.image()
            sitk.WriteImage(image, str(partial), useCompression=compress)
            size = image.GetNumberOfPixels() * image.GetSizeOfPixelComponent()
            whole = _is_whole(partial, size, compress=compress)
        except RuntimeError as error:
            raise_without_memory(error, path)
            raise _unwritten(path, last_line(error)) from None
        if not whole:
            raise _unwritten(path, "it breaks off")


def _is_whole(path: Path, size: int, *, compress: bool) -> bool:
    """Whether a volume was written to its end: SimpleITK says nothing where a disk was full.

    Args:
        path: of the file.
        size: bytes of the voxels.
        compress: whether they were compressed; then the file is read again.

    Raises:
        RuntimeError: it cannot be read.
    """
    if compress:
        return bool(sitk.ReadImage(str(path)).GetNumberOfPixels())
    with open(path, "rb") as stream:
        # A blank line ends the header (the NRRD file format, "Basic structure").
        header, blank, _ = stream.read(HEADER_BYTES).partition(b"\n\n")
    return bool(blank) and path.stat().st_size == len(header) + len(blank) + size


def _unwritten(path: Path, why: str) -> PlaceError:
    free = shutil.disk_usage(path.parent).free / 1e6
    return PlaceError(
        f"{path} cannot be written ({why}; {free:.1f} MB are free there); make room, and run the "
        "same command again."
    )


def read_volume(path: Path) -> Volume:
    """Read a volume written by `write_volume`.

    Raises:
        PlaceError: it is damaged.
        OSError: it is not there, or the disk does not give it.
    """
    with _reading(path):
        return Volume.from_image(sitk.ReadImage(str(path)))


def read_grid(path: Path) -> Grid:
    """Read where the voxels of a volume are, without its voxels.

    Raises:
        PlaceError: it is damaged.
        OSError: it is not there, or the disk does not give it.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with _reading(path):
        reader.ReadImageInformation()
        return _grid_of(reader)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say of an error of SimpleITK's what a person can do."""
    try:
        yield
    except RuntimeError as error:
        raise_without_memory(error, path)
        # SimpleITK says the same of a file that is cut off and of one that the disk does not give.
        with open(path, "rb") as stream:
            while stream.read(2**24):
                pass
        raise damaged(path, last_line(error)) from None
    except ValueError as error:
        # An image, and no volume.
        raise damaged(path, str(error)) from None


def damaged(path: Path, why: str) -> PlaceError:
    """Return the error of a file that an earlier stage wrote and that is no longer what it was.

    Args:
        path: of the file, in the work folder of a shard.
        why: it cannot be read.
    """
    return PlaceError(
        f"{path} is damaged ({why}); look whether the disk was full or is failing. It is made anew "
        "when the shard's folder below shards/ in the results is removed and snakemake runs again."
    )


def raise_without_memory(error: RuntimeError, path: Path) -> None:
    """Raise what SimpleITK calls an error of its own as what it is.

    Raises:
        MemoryError: the error says that memory has run out.
    """
    if any(text in str(error) for text in ("allocate memory", "bad allocation", "bad_alloc")):
        raise MemoryError(f"{path} does not fit into memory") from None


def last_line(error: RuntimeError) -> str:
    """Return of an error of SimpleITK's, which begins with its source lines, what it says."""
    lines = str(error).rpartition("sitk::ERROR: ")[2].strip().splitlines()
    return lines[-1].rstrip(".")

"""Small DICOM series on disk, made by the phantom's factory, that tests then damage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from jipflow.cases import Series
from jipflow.phantom import dicom
from jipflow.phantom.grid import Grid


def ct_datasets(shape: tuple[int, int, int] = (6, 8, 10), seed: int = 0) -> list[Dataset]:
    """A CT series whose voxel values are distinct HU."""
    hu = np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape) - 200
    return dicom.ct_series(hu.astype(np.int16), Grid(shape, (4.0, 3.5, 3.0), (-15.0, -12.0, 30.0)))


def pt_datasets(units: str = "BQML", value: float = 2.5) -> list[Dataset]:
    """A PET series whose SUVbw is `value` in every voxel but one."""
    suv = np.full((5, 6, 7), value)
    suv[0, 0, 0] = 2 * value
    return dicom.pt_series(suv, Grid((5, 6, 7), (4.0, 5.0, 5.0), (0.0, 0.0, 0.0)), units=units)


def write(
    datasets: Iterable[Dataset], folder: Path, change: Callable[[list[Dataset]], object] = len
) -> list[Path]:
    """Apply a change to the data sets and write each to a file; returns the sorted paths."""
    listed = list(datasets)
    change(listed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(listed):
        path = folder / f"{number:04d}.dcm"
        path.write_bytes(dicom.to_bytes(dataset))
        paths.append(path)
    return sorted(paths)


def series_of(paths: Iterable[Path]) -> Series:
    """The series of these files, as the catalog gives it to a stage."""
    listed = tuple(sorted(paths))
    header = pydicom.dcmread(listed[0], stop_before_pixels=True, force=True)
    uid, modality = header.get("SeriesInstanceUID"), header.get("Modality")
    return Series(str(uid or dicom.uid("stand-in")), str(modality or ""), listed)

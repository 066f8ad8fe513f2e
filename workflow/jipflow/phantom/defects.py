"""Faults as archives show them, planted into sound series and files.

Each function takes what is sound and returns what is not; none changes its argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from jipflow.phantom import dicom
from jipflow.phantom.grid import PhantomGrid

NOT_DICOM = b"Reader's note: compare with the earlier examination.\r\nThis is no DICOM file.\r\n"
"""A text file such as people leave in an archive's folders."""


def missing_slice(series: Sequence[Dataset]) -> list[Dataset]:
    """The series without one of its middle slices."""
    gap = len(series) // 2
    return [*series[:gap], *series[gap + 1 :]]


def mixed_orientation(
    series: Sequence[Dataset], hu: NDArray[np.integer], grid: PhantomGrid, study: dicom.Study
) -> list[Dataset]:
    """The axial series with as many coronal reformats under the same Series Instance UID."""
    turned, plane = dicom.coronal(hu, grid)
    count = len(series)
    first = (turned.shape[0] - count) // 2
    x, y, z = (round(float(value), 4) for value in plane.position(first, 0, 0))
    part = replace(plane, shape=(count, *plane.shape[1:]), origin=(x, y, z))
    coronal = dicom.ct_series(
        turned[first : first + count],
        part,
        study,
        number=int(series[0].SeriesNumber),
        series_uid=series[0].SeriesInstanceUID,
        description=series[0].SeriesDescription,
        image_type=("DERIVED", "SECONDARY", "REFORMATTED"),
        first_instance=len(series) + 1,
    )
    return [*series, *coronal]


def shifted_slice(series: Sequence[Dataset]) -> list[Dataset]:
    """A series whose middle slice lies 5 mm beside the line of the others."""
    moved = deepcopy(series[len(series) // 2])
    x, y, z = moved.ImagePositionPatient
    moved.ImagePositionPatient = [x, float(y) + 5.0, z]
    return [moved if ds.SOPInstanceUID == moved.SOPInstanceUID else ds for ds in series]


def localizer_mixed(
    series: Sequence[Dataset], hu: NDArray[np.integer], grid: PhantomGrid, study: dicom.Study
) -> list[Dataset]:
    """The axial series with its scout image under the same Series Instance UID."""
    scout = dicom.localizer(
        hu,
        grid,
        study,
        number=int(series[0].SeriesNumber),
        series_uid=series[0].SeriesInstanceUID,
        instance=len(series) + 1,
    )
    return [scout, *series]


def truncated_pixels(ds: Dataset) -> bytes:
    """A file whose header is whole and whose pixel data break off after a third."""
    data = dicom.to_bytes(ds)
    return data[: len(data) - len(ds.PixelData) * 2 // 3]


def truncated_header(ds: Dataset) -> bytes:
    """A file that breaks off inside its header, before the Study Instance UID."""
    data = dicom.to_bytes(ds)
    return data[: data.index(str(ds.StudyInstanceUID).encode()) - 20]

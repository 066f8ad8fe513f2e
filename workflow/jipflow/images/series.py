"""From the files of one DICOM series to a volume, or to the reason why not."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    CTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from jipflow.cases import CaseFault, Reason, Series
from jipflow.images.suv import suv_factors
from jipflow.images.volume import Grid, Volume
from jipflow.uids import study_stand_in

SUPPORTED = {CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage}

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference between direction cosines of one orientation: 0.05 mm over 512 mm."""
POSITION_TOLERANCE = 0.01
"""Largest distance in mm at which two slices count as at one position."""
SHEAR_TOLERANCE = 1e-3
"""Largest sideways shift a millimetre of travel, as highdicom's perpendicular tolerance."""
SPACING_TOLERANCE = 0.01
"""Largest relative deviation of a slice distance, as highdicom's default ``rtol``."""


def read_series(
    series: Series, *, pixels: bool = True, notes: list[str] | None = None
) -> list[Dataset]:
    """Read the instances of a series and sort them by slice position.

    A blank SeriesInstanceUID is replaced by that of `series`, a blank SOPInstanceUID by that of
    the file meta information, and a blank StudyInstanceUID by its stand-in (`jipflow.uids`).

    Args:
        series: the series and its files.
        pixels: False reads headers only.
        notes: gets a sentence for each mended defect.

    Returns:
        The data sets, from the first to the last slice along the normal of the image plane (the
        cross product of row and column direction, PS3.3 C.7.6.2.1.1).

    Raises:
        CaseFault: a file cannot be read, or the series is no volume.
    """
    datasets = [_read(path, pixels) for path in series.paths]
    for path, dataset in zip(series.paths, datasets, strict=True):
        _check_object(path, dataset, pixels)
    mended = {name for dataset in datasets for name in _mend_uids(dataset, series.series_uid)}
    if mended and notes is not None:
        notes.append(
            f"UIDs missing in the files were replaced by stand-ins: {', '.join(sorted(mended))}."
        )
    return _sorted_slices(datasets)


def read_series_volume(series: Series, *, notes: list[str] | None = None) -> Volume:
    """Read a series as a volume: HU for CT, SUVbw in g/mL for PET, rescaled values for MR.

    Args:
        series: the series and its files.
        notes: gets a sentence for each mended defect.

    Returns:
        The volume; its first axis runs along the normal of the image plane.

    Raises:
        CaseFault: the series is no regular volume, or its units are not understood.
    """
    datasets = read_series(series, notes=notes)
    modality = datasets[0].SOPClassUID
    if modality != MRImageStorage:
        for dataset in datasets:
            if "RescaleSlope" not in dataset or "RescaleIntercept" not in dataset:
                raise CaseFault(
                    Reason.MISSING_RESCALE,
                    f"{series.paths[0].parent}: an instance has no Rescale Slope or Intercept, so "
                    "its values have no unit; export the series again from the scanner or PACS.",
                )
    try:
        source = highdicom.get_volume_from_series(
            datasets,
            dtype=np.float64,
            apply_real_world_transform=False,
            rtol=SPACING_TOLERANCE,
            perpendicular_tol=SHEAR_TOLERANCE,
            orientation_tol=ORIENTATION_TOLERANCE,
        )
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError, OSError) as error:
        raise CaseFault(
            Reason.GEOMETRY_REFUSED,
            f"{series.paths[0].parent}: the series makes no volume: {error}",
        ) from error
    # highdicom may run against the normal; the slices of `datasets` run along it.
    x, y, z = (source.affine[:3, axis] for axis in (2, 1, 0))
    if np.dot(np.cross(x, y), z) < 0:
        source = source.flip_spatial(0)
    array = source.array
    if modality == PositronEmissionTomographyImageStorage:
        array = array * suv_factors(datasets)[:, None, None]
    return Volume(_compact(array), Grid(array.shape, source.affine.copy()))


def _compact(array: NDArray[np.float64]) -> NDArray[np.generic]:
    """Store whole numbers that fit as int16, all else as float32."""
    whole = np.rint(array)
    if np.array_equal(whole, array) and np.abs(whole).max(initial=0) <= np.iinfo(np.int16).max:
        return whole.astype(np.int16)
    return array.astype(np.float32)


def _read(path: Path, pixels: bool) -> Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=not pixels, force=False)
    except (InvalidDicomError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise CaseFault(
            Reason.UNREADABLE,
            f"{path}: cannot be read as DICOM ({error}); copy it again from the archive.",
        ) from error


def _mend_uids(dataset: Dataset, series_uid: str) -> list[str]:
    """Give a data set the UIDs that it lacks; returns their names."""
    stand_ins = {
        "SOPInstanceUID": lambda: dataset.file_meta.get("MediaStorageSOPInstanceUID", ""),
        "SeriesInstanceUID": lambda: series_uid,
        "StudyInstanceUID": lambda: study_stand_in(
            *(str(dataset.get(name) or "") for name in ("PatientID", "StudyDate", "StudyTime"))
        ),
    }
    mended = [name for name in stand_ins if not dataset.get(name)]
    for name in mended:
        setattr(dataset, name, stand_ins[name]())
    return mended


def _check_object(path: Path, dataset: Dataset, pixels: bool) -> None:
    if dataset.get("SOPClassUID") not in SUPPORTED or int(dataset.get("NumberOfFrames") or 1) > 1:
        raise CaseFault(
            Reason.UNSUPPORTED_OBJECT,
            f"{path}: a {pydicom.uid.UID(str(dataset.get('SOPClassUID', ''))).name} object is not "
            "a single-frame CT, MR or PET image; narrow the role's filter.",
        )
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
    absent = [name for name in (*needed, "FrameOfReferenceUID") if not dataset.get(name)]
    if absent:
        raise CaseFault(
            Reason.MISSING_GEOMETRY, f"{path}: {', '.join(absent)} is missing or empty."
        )
    if not pixels:
        return
    if "PixelData" not in dataset:
        raise CaseFault(Reason.NO_PIXEL_DATA, f"{path}: has no pixel data.")
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        bits = int(dataset.BitsAllocated) * int(dataset.SamplesPerPixel)
        expected = int(dataset.Rows) * int(dataset.Columns) * bits // 8
        if len(dataset.PixelData) < expected:
            raise CaseFault(
                Reason.TRUNCATED_PIXELS,
                f"{path}: has {len(dataset.PixelData)} bytes of pixels where {expected} are due; "
                "copy it again from the archive.",
            )


def _sorted_slices(datasets: list[Dataset]) -> list[Dataset]:
    """Sort slices along their normal and refuse what is no regular stack."""
    first = datasets[0]
    series = f"series {first.SeriesInstanceUID}"
    if len(datasets) < 2:
        raise CaseFault(Reason.TOO_FEW_SLICES, f"{series}: has one slice.")
    frames = {dataset.FrameOfReferenceUID for dataset in datasets}
    if len(frames) > 1:
        raise CaseFault(
            Reason.MIXED_FRAME_OF_REFERENCE, f"{series}: has {len(frames)} frames of reference."
        )
    cosines = np.array([d.ImageOrientationPatient for d in datasets], dtype=float)
    if np.abs(cosines - np.median(cosines, axis=0)).max() > ORIENTATION_TOLERANCE:
        count = len(np.unique(cosines.round(3), axis=0))
        raise CaseFault(
            Reason.MIXED_ORIENTATION,
            f"{series}: its slices lie in {count} orientations; a localizer may be mixed in.",
        )
    matrices = {(d.Rows, d.Columns, *map(float, d.PixelSpacing)) for d in datasets}
    if len(matrices) > 1:
        raise CaseFault(
            Reason.MIXED_MATRIX,
            f"{series}: has slices of {len(matrices)} sizes or pixel spacings.",
        )
    normal = np.cross(cosines[0, :3], cosines[0, 3:])
    positions = np.array([d.ImagePositionPatient for d in datasets], dtype=float)
    order = np.argsort(positions @ normal, kind="stable")
    _check_stack(positions[order], normal, series)
    return [datasets[i] for i in order]


def _check_stack(positions: NDArray[np.float64], normal: NDArray[np.float64], series: str) -> None:
    """Refuse positions (n, 3) in mm, sorted along the normal, that are not evenly spaced on it."""
    depth = positions @ normal
    gaps = np.diff(depth)
    duplicates = int((gaps < POSITION_TOLERANCE).sum())
    if duplicates:
        raise CaseFault(
            Reason.DUPLICATE_SLICES,
            f"{series}: {duplicates} of {len(depth)} slices lie where another one lies; several "
            "phases or reconstructions may share the series.",
        )
    sideways = positions - positions[0] - np.outer(depth - depth[0], normal)
    shift = float(np.linalg.norm(sideways, axis=1).max())
    if shift > SHEAR_TOLERANCE * (depth[-1] - depth[0]):
        raise CaseFault(
            Reason.GANTRY_TILT,
            f"{series}: slices shift sideways by up to {shift:.2f} mm; correct the gantry tilt "
            "before import or exclude the series.",
        )
    spacing = float(np.median(gaps))
    steps = gaps / spacing
    if np.abs(steps - 1).max() <= SPACING_TOLERANCE:
        return
    missing = int(np.rint(steps).sum()) - len(gaps)
    if np.abs(steps - np.rint(steps)).max() <= SPACING_TOLERANCE * np.rint(steps).max():
        where = depth[int(np.argmax(steps))]
        raise CaseFault(
            Reason.MISSING_SLICES,
            f"{series}: {missing} of {len(depth) + missing} slices are missing, the first after "
            f"{where:.2f} mm; retrieve the series again.",
        )
    raise CaseFault(
        Reason.IRREGULAR_SPACING,
        f"{series}: slice distances run from {gaps.min():.3f} to {gaps.max():.3f} mm.",
    )
